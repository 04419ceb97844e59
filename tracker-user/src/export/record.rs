//! The record that is sent elsewhere: one form for every exporter, with an identity that survives restarts of the agent.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::{
    export::community_id::{bytes, community_id, ordered},
    model::{
        clock::Clock,
        event::{
            Event, Stage,
            parts::{CookieView, EndView, SegmentView, ViolationView},
        },
        record::{Ends, Record},
    },
};

/// The version of this form.
pub const VERSION: u32 = 1;

/// What a record is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// A connection that ended.
    End,
    /// A connection that goes on.
    Update,
    /// A breach of a rule.
    Violation,
    /// SYN cookies that begin or end at a listener.
    Cookie,
    /// Reports or records that were lost.
    Lost,
}

/// A record of a connection, as exporters send it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct ExportRecord {
    /// Version of this form: 1.
    pub v: u32,
    /// What it is about.
    pub about: About,
    /// When it was made.
    pub time: Timestamp,
    /// The same in nanoseconds since boot.
    pub time_ns: u64,
    /// The host of the agent.
    pub host: String,
    /// The agent's name (`--instance`).
    pub agent: String,
    /// The host's boot (/proc/sys/kernel/random/boot_id), which `_ns` counts from.
    pub boot_id: String,
    /// The connection as this agent has it: 128 bits in hexadecimal digits, the same in all its records, also of an agent
    /// that took over. Absent where it is about none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// Community ID, version 1, seed 0: the same on every host that sees the connection untranslated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub community_id: Option<String>,
    /// From the first packet to the last one that renewed the flow, to 17 ms.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_ns: Option<u64>,
    /// How the connection ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<EndView>,
    /// The rule that was broken, and how.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub violation: Option<ViolationView>,
    /// The segment that broke it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub segment: Option<SegmentView>,
    /// SYN cookies that begin or end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cookie: Option<CookieView>,
    /// How many reports or records were lost since the last record that said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<u64>,
    /// Where they were lost: `ring` in the kernel's ring buffer, `export` between the agent and this receiver.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stage: Option<String>,
    /// The connection, with the fields of `tracker flows -o jsonl`.
    #[serde(flatten)]
    pub flow: Option<Record>,
}

/// Who makes records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Origin {
    /// [`ExportRecord::host`].
    pub host: String,
    /// [`ExportRecord::agent`].
    pub agent: String,
    /// [`ExportRecord::boot_id`].
    pub boot_id: String,
}

impl Origin {
    /// The record of an event. `None` for what is not sent: the first packet of a connection, and other steps of its life.
    #[must_use]
    pub fn record(&self, event: &Event) -> Option<ExportRecord> {
        let about = match event.event.as_str() {
            "DESTROY" => About::End,
            "VIOLATION" => About::Violation,
            "COOKIE" => About::Cookie,
            "LOST" => About::Lost,
            _ => return None,
        };
        let ends = event.flow.as_ref().map(Record::ends).or_else(|| {
            let SegmentView { src, dst, sport, dport, .. } = *event.segment.as_ref()?;
            Some(Ends { src, dst, sport, dport })
        });
        Some(ExportRecord {
            id: event.flow.as_ref().map(|flow| self.id(flow)),
            community_id: ends.as_ref().map(community_id),
            duration_ns: event.end.as_ref().map(|end| end.duration_ns),
            end: event.end.clone(),
            violation: event.violation.clone(),
            // That of a violation explains it; that of another event is only what came last.
            segment: event.segment.clone().filter(|_| about == About::Violation),
            cookie: event.cookie.clone(),
            lost: event.lost,
            stage: event.stage.clone(),
            flow: event.flow.clone(),
            ..self.bare(about, event.time, event.time_ns)
        })
    }

    /// The record of a connection that goes on, `duration_ns` after its first packet.
    #[must_use]
    pub fn update(&self, flow: Record, duration_ns: u64, clock: &Clock) -> ExportRecord {
        let time_ns = clock.monotonic_ns();
        ExportRecord {
            id: Some(self.id(&flow)),
            community_id: Some(community_id(&flow.ends())),
            duration_ns: Some(duration_ns),
            flow: Some(flow),
            ..self.bare(About::Update, clock.date(time_ns), time_ns)
        }
    }

    /// The record that says how many records this receiver was not sent.
    #[must_use]
    pub fn lost(&self, count: u64, clock: &Clock) -> ExportRecord {
        let time_ns = clock.monotonic_ns();
        ExportRecord {
            lost: Some(count),
            stage: Some(Stage::Export.name().to_owned()),
            ..self.bare(About::Lost, clock.date(time_ns), time_ns)
        }
    }

    /// The identity of a connection, whichever end is taken for its opener.
    fn id(&self, flow: &Record) -> String {
        let mut hash = Sha1::new();
        for text in [&self.agent, &self.boot_id] {
            hash.update(text);
            hash.update([0]);
        }
        hash.update(flow.created_ns.to_be_bytes());
        hash.update(flow.zone.to_be_bytes());
        for (address, port) in ordered(&flow.ends()) {
            hash.update(bytes(address));
            hash.update(port.to_be_bytes());
        }
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    fn bare(&self, about: About, time: Timestamp, time_ns: u64) -> ExportRecord {
        ExportRecord {
            v: VERSION,
            about,
            time,
            time_ns,
            host: self.host.clone(),
            agent: self.agent.clone(),
            boot_id: self.boot_id.clone(),
            id: None,
            community_id: None,
            duration_ns: None,
            end: None,
            violation: None,
            segment: None,
            cookie: None,
            lost: None,
            stage: None,
            flow: None,
        }
    }
}

impl ExportRecord {
    /// It as a line of JSON, with the newline.
    ///
    /// # Errors
    ///
    /// None that is known of: it has nothing that JSON has not.
    pub fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = Vec::with_capacity(1024);
        serde_json::to_writer(&mut line, self)?;
        line.push(b'\n');
        Ok(line)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tracker_common::{event::Reason, flow::Flow, key::FlowKey, state::State, sweep::Tier};

    use super::*;
    use crate::model::record::View;

    pub(crate) fn origin() -> Origin {
        Origin { host: "web-1".to_owned(), agent: "default".to_owned(), boot_id: "b".to_owned() }
    }

    /// A connection that was removed.
    pub(crate) fn ended(zone: u16) -> Event {
        let key = FlowKey { zone, ..FlowKey::default() };
        let view = View {
            clock: Clock::at(7_000_000_000, Timestamp::UNIX_EPOCH),
            timeouts: tracker_common::sweep::Timeouts::default(),
            names: [(0, "eth0".to_owned())].into(),
        };
        let flow = Flow::default();
        Event::removed(&key, &flow, Tier::Confirmed, Reason::Fin, State::TimeWait, &view)
    }

    #[test]
    fn a_line_is_read_back_and_is_a_flow_s() {
        let record = origin().record(&ended(3)).expect("an end is sent");
        let line = record.to_line().expect("JSON");
        let read: ExportRecord = serde_json::from_slice(&line).expect("a record");
        assert_eq!(read.to_line().expect("JSON"), line);
        assert_eq!((read.about, read.v), (About::End, 1));
        let flow: Record = serde_json::from_slice(&line).expect("the fields of a flow");
        assert_eq!(flow.zone, 3);
        assert_eq!(record.end.map(|end| end.reason).as_deref(), Some("fin"));
    }

    #[test]
    fn an_identity_is_one_connection_s() {
        let flow = |zone| ended(zone).flow.expect("a flow");
        let id = |origin: &Origin, flow: &Record| origin.id(flow);
        let first = id(&origin(), &flow(1));
        assert_eq!(first.len(), 32);
        // The end that is taken for the opener may change; packets and states do.
        let mut other = flow(1);
        (other.src, other.dst, other.sport, other.dport) =
            (other.dst, other.src, other.dport, other.sport);
        other.orig.packets = 9;
        assert_eq!(id(&origin(), &other), first);
        assert_ne!(id(&origin(), &flow(2)), first);
        assert_ne!(id(&origin(), &Record { created_ns: 1, ..flow(1) }), first);
        for origin in [
            Origin { agent: "other".to_owned(), ..origin() },
            Origin { boot_id: "c".to_owned(), ..origin() },
        ] {
            assert_ne!(id(&origin, &flow(1)), first);
        }
    }

    #[test]
    fn what_is_of_no_connection() {
        let clock = Clock::at(5, Timestamp::UNIX_EPOCH);
        let record = origin().record(&Event::lost(3, Stage::Ring, &clock)).expect("it is sent");
        let line = String::from_utf8(record.to_line().expect("JSON")).expect("UTF-8");
        assert_eq!(
            line,
            "{\"v\":1,\"about\":\"lost\",\"time\":\"1970-01-01T00:00:00Z\",\"time_ns\":5,\"host\":\"web-1\",\"agent\":\"default\",\
             \"boot_id\":\"b\",\"lost\":3,\"stage\":\"ring\"}\n"
        );
        let new = Event { event: "NEW".to_owned(), ..ended(0) };
        assert!(origin().record(&new).is_none());
    }
}
