//! An event as users see it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracker_common::{
    counters::Hook,
    event::{Event as Raw, Kind, Reason},
    flow::Flow,
    key::{End, FlowKey},
    protect::{Listener, ListenerState},
    segment::Flags,
    state::State,
    sweep::Tier,
    violation::Rule,
};

use crate::model::{
    clock::Clock,
    listener::{threshold, way_name},
    record::{Record, View, address},
};

/// One line of `tracker events`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Event {
    /// Version of this form: 1.
    pub v: u32,
    /// `NEW`, `ESTABLISHED`, `CLOSING`, `DESTROY`, `VIOLATION`, `SEGMENT`, `COOKIE` or `LOST`.
    pub event: String,
    /// When.
    pub time: Timestamp,
    /// The same in nanoseconds since boot.
    pub time_ns: u64,
    /// The number of the packet in the capture that is being replayed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub packet: Option<u64>,
    /// The capture with this packet, where several are replayed together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// The interface that saw the segment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub interface: Option<String>,
    /// The segment that made it happen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub segment: Option<SegmentView>,
    /// Both ends' states around a segment that is traced.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub states: Option<StatesView>,
    /// The rule that was broken, and how.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub violation: Option<ViolationView>,
    /// How the flow ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<EndView>,
    /// SYN cookies that begin or end.
    #[serde(flatten)]
    pub cookie: Option<CookieView>,
    /// How many reports were lost since the last line that said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<u64>,
    /// Where they were lost: `ring`, `listener` or `output`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stage: Option<String>,
    /// The flow after the segment; absent where a violation belongs to none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flow: Option<Record>,
}

/// A segment.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct SegmentView {
    /// `in` or `out`.
    pub hook: String,
    /// `orig` or `reply`: which end of the flow sent it.
    pub direction: String,
    /// Sender's address.
    pub src: IpAddr,
    /// Receiver's address.
    pub dst: IpAddr,
    /// Sender's port.
    pub sport: u16,
    /// Receiver's port.
    pub dport: u16,
    /// Names of its flags, separated by commas.
    pub flags: String,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Octets of data.
    pub payload: u32,
    /// Window, not scaled.
    pub window: u16,
}

/// Numbers that a rule allows.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Range {
    /// The lowest.
    pub low: u32,
    /// The highest; below `low` where the range wraps past 2^32.
    pub high: u32,
}

/// Both ends' states.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct States {
    /// Of the end that opened the flow.
    pub orig: String,
    /// Of the other end.
    pub reply: String,
}

/// Both ends' states before and after a segment.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct StatesView {
    /// Before it.
    pub before: States,
    /// And after it.
    pub after: States,
}

/// A breach of a rule.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct ViolationView {
    /// The rule.
    pub name: String,
    /// What would have been right; absent for rules that are not about a number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<Range>,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actual: Option<u32>,
    /// States before the segment.
    pub before: States,
    /// And after it.
    pub after: States,
    /// What was done with the packet: `passed`.
    pub action: String,
}

/// How a flow ended.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct EndView {
    /// `fin`, `rst`, `timeout`, `reopened` or `deleted`.
    pub reason: String,
    /// The state whose timeout was over; absent where nothing was waited for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeout_state: Option<String>,
    /// From the first packet to the last one that renewed the flow, to 17 ms; exact in a replay.
    pub duration_ns: u64,
}

/// A listener for which SYN cookies begin or end.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct CookieView {
    /// Its address and port.
    pub listener: SocketAddr,
    /// `on` or `off`.
    pub mode: String,
    /// Why they begin.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<CookieReason>,
    /// Half-open connections that it had when the host was last asked.
    pub half_open: u32,
    /// Half-open connections from which on cookies are sent, other than always.
    pub threshold: u32,
    /// `handover` or `kernel`: whose cookies they are.
    pub way: String,
}

/// Why SYN cookies begin.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CookieReason {
    /// There are too many half-open connections.
    HalfOpen,
    /// Too many cookies were not returned.
    Unreturned,
    /// They are always sent.
    Always,
}

impl CookieReason {
    /// The one that the numbers of half-open connections tell.
    #[must_use]
    pub fn of(half_open: u32, threshold: u32) -> Self {
        if half_open >= threshold { Self::HalfOpen } else { Self::Unreturned }
    }

    /// Its name in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::Unreturned => "unreturned",
            Self::Always => "always",
        }
    }
}

impl CookieView {
    /// That cookies begin, where there is a reason to, and that they end otherwise.
    #[must_use]
    pub fn new(
        listener_at: SocketAddr,
        listener: &Listener,
        state: &ListenerState,
        reason: Option<CookieReason>,
    ) -> Self {
        Self {
            listener: listener_at,
            mode: if reason.is_some() { "on" } else { "off" }.to_owned(),
            reason,
            half_open: state.half_open.get(),
            threshold: threshold(listener, state),
            way: way_name(listener.way).unwrap_or("?").to_owned(),
        }
    }
}

/// Where reports are lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The kernel's ring buffer was full.
    Ring,
    /// A listener on the socket was too slow.
    Listener,
    /// The agent's own output was not read, or could not be written.
    Output,
}

impl Stage {
    /// Its name in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Listener => "listener",
            Self::Output => "output",
        }
    }
}

impl Event {
    /// What the kernel reported of a flow or a segment; [`Kind::Cookie`] is of neither.
    ///
    /// # Errors
    ///
    /// Codes that this version does not know.
    pub fn from_kernel(raw: &Raw, view: &View) -> Result<Self> {
        let kind = Kind::from_code(raw.kind)
            .filter(|kind| *kind != Kind::Cookie)
            .context("unknown kind of report")?;
        let from = End::from_high(raw.from != 0);
        let hook = Hook::from_code(raw.hook).context("unknown hook")?;
        let flow = (raw.has_flow != 0).then_some(&raw.flow);
        let originator = flow.map_or(from, Flow::originator);
        let record = flow.map(|flow| Record::new(&raw.key, flow, None, view));
        let states = |codes: [u8; 2]| -> Result<States> {
            let name = |end: End| {
                State::from_code(codes[end.index()]).map(State::name).context("unknown state")
            };
            Ok(States {
                orig: name(originator)?.to_owned(),
                reply: name(originator.other())?.to_owned(),
            })
        };
        let around = StatesView { before: states(raw.before)?, after: states(raw.after)? };
        let violation = if kind == Kind::Violation {
            let rule = Rule::from_code(raw.rule).context("unknown rule")?;
            let numbered = (raw.low, raw.high, raw.actual) != (0, 0, 0);
            Some(ViolationView {
                name: rule.name().to_owned(),
                expected: numbered.then_some(Range { low: raw.low, high: raw.high }),
                actual: numbered.then_some(raw.actual),
                before: around.before.clone(),
                after: around.after.clone(),
                action: "passed".to_owned(),
            })
        } else {
            None
        };
        let end = (kind == Kind::Destroy).then(|| EndView::new(&raw.flow, Reason::Reopened, None));
        Ok(Self {
            v: 1,
            event: kind.name().to_owned(),
            time: view.clock.date(raw.time_ns),
            time_ns: raw.time_ns,
            packet: None,
            file: None,
            interface: Some(view.interface_name(raw.slot)),
            segment: Some(SegmentView {
                hook: hook.name().to_owned(),
                direction: if from == originator { "orig" } else { "reply" }.to_owned(),
                src: address(raw.key.addresses[from.index()]),
                dst: address(raw.key.addresses[from.other().index()]),
                sport: raw.key.port(from),
                dport: raw.key.port(from.other()),
                flags: Flags(raw.flags).to_string(),
                seq: raw.seq,
                ack: raw.ack,
                payload: raw.payload,
                window: raw.window,
            }),
            states: (kind == Kind::Segment).then_some(around),
            violation,
            end,
            cookie: None,
            lost: None,
            stage: None,
            flow: record,
        })
    }

    /// The end of a flow that the agent removed.
    #[must_use]
    pub fn removed(
        key: &FlowKey,
        flow: &Flow,
        tier: Tier,
        reason: Reason,
        decided_by: State,
        view: &View,
    ) -> Self {
        let timeout_state = (reason == Reason::Timeout).then_some(decided_by);
        Self {
            end: Some(EndView::new(flow, reason, timeout_state)),
            ..Self::about(Kind::Destroy, flow, Record::new(key, flow, Some(tier), view), view)
        }
    }

    /// A breach that the agent has found in a flow: `numbers` are the most that is right and what there is.
    #[must_use]
    pub fn found(
        rule: Rule,
        key: &FlowKey,
        flow: &Flow,
        tier: Tier,
        numbers: Option<(u32, u32)>,
        view: &View,
    ) -> Self {
        let record = Record::new(key, flow, Some(tier), view);
        let [orig, reply] = record.states().map(str::to_owned);
        let states = States { orig, reply };
        Self {
            violation: Some(ViolationView {
                name: rule.name().to_owned(),
                expected: numbers.map(|(high, _)| Range { low: 0, high }),
                actual: numbers.map(|(_, actual)| actual),
                before: states.clone(),
                after: states,
                action: "passed".to_owned(),
            }),
            ..Self::about(Kind::Violation, flow, record, view)
        }
    }

    /// SYN cookies began or ended at `at_ns`, nanoseconds since boot.
    #[must_use]
    pub fn cookie(cookie: CookieView, at_ns: u64, clock: &Clock) -> Self {
        Self {
            time: clock.date(at_ns),
            time_ns: at_ns,
            cookie: Some(cookie),
            ..Self::bare(Kind::Cookie.name(), clock)
        }
    }

    /// `count` reports were lost.
    #[must_use]
    pub fn lost(count: u64, stage: Stage, clock: &Clock) -> Self {
        let stage = Some(stage.name().to_owned());
        Self { lost: Some(count), stage, ..Self::bare("LOST", clock) }
    }

    /// What no segment has caused, about a flow.
    fn about(kind: Kind, flow: &Flow, record: Record, view: &View) -> Self {
        Self {
            interface: Some(view.interface_name(flow.slot())),
            flow: Some(record),
            ..Self::bare(kind.name(), &view.clock)
        }
    }

    /// A name and a time.
    fn bare(name: &str, clock: &Clock) -> Self {
        Self {
            v: 1,
            event: name.to_owned(),
            time: clock.date(clock.monotonic_ns()),
            time_ns: clock.monotonic_ns(),
            packet: None,
            file: None,
            interface: None,
            segment: None,
            states: None,
            violation: None,
            end: None,
            cookie: None,
            lost: None,
            stage: None,
            flow: None,
        }
    }
}

impl EndView {
    /// The end that `reason` says, with the duration that the record has.
    #[must_use]
    pub fn new(flow: &Flow, reason: Reason, timeout_state: Option<State>) -> Self {
        let created = tracker_common::time::Tick::at(flow.created_ns());
        let ticks = flow.life().last_seen.0.wrapping_sub(created.0);
        Self {
            reason: reason.name().to_owned(),
            timeout_state: timeout_state.map(|state| state.name().to_owned()),
            duration_ns: tracker_common::time::Tick::ns(ticks),
        }
    }
}

impl Event {
    /// The states around a segment, and the segment.
    fn fmt_around(
        &self,
        f: &mut fmt::Formatter<'_>,
        before: &States,
        after: &States,
    ) -> fmt::Result {
        write!(f, " before={}/{} after={}/{}", before.orig, before.reply, after.orig, after.reply)?;
        let Some(segment) = &self.segment else { return Ok(()) };
        write!(
            f,
            " {}={} direction={} flags={} seq={} ack={} len={} src={} dst={} sport={} dport={}",
            segment.hook,
            self.interface.as_deref().unwrap_or("?"),
            segment.direction,
            segment.flags,
            segment.seq,
            segment.ack,
            segment.payload,
            segment.src,
            segment.dst,
            segment.sport,
            segment.dport
        )
    }
}

impl fmt::Display for Event {
    /// One line, as `conntrack -E` writes it where it has a word for it, after the packet's number in a replay, which comes
    /// after its file's name where there are several; the
    /// alternate form leaves the time to the log that it is written into.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
        }
        if let Some(packet) = self.packet {
            write!(f, "#{packet} ")?;
        }
        if !f.alternate() {
            write!(f, "{:.6} ", self.time)?;
        }
        write!(f, "[{}]", self.event)?;
        if let Some(count) = self.lost {
            write!(f, " {count} reports were lost")?;
            if let Some(stage) = &self.stage {
                write!(f, " (stage={stage})")?;
            }
            return write!(f, "; counters are exact: see `tracker stats`");
        }
        if let Some(cookie) = &self.cookie {
            let CookieView { listener, mode, reason, half_open, threshold, way } = cookie;
            write!(f, " {mode} listener={listener}")?;
            if let Some(reason) = reason {
                write!(f, " reason={}", reason.name())?;
            }
            write!(f, " half_open={half_open} threshold={threshold} way={way}")?;
            return match &self.interface {
                Some(interface) => write!(f, " in={interface}"),
                None => Ok(()),
            };
        }
        if let Some(violation) = &self.violation {
            write!(f, " {}", violation.name)?;
            if let (Some(expected), Some(actual)) = (&violation.expected, violation.actual) {
                if expected.low == expected.high {
                    write!(f, " expected={} actual={actual}", expected.low)?;
                } else {
                    write!(f, " expected={}..{} actual={actual}", expected.low, expected.high)?;
                }
            }
            // What no segment shows was found in the flow, which has the states.
            if self.segment.is_some() {
                return self.fmt_around(f, &violation.before, &violation.after);
            }
        }
        if let Some(StatesView { before, after }) = &self.states {
            return self.fmt_around(f, before, after);
        }
        if let Some(end) = &self.end {
            write!(f, " reason={}", end.reason)?;
            if let Some(state) = &end.timeout_state {
                write!(f, " timeout={state}")?;
            }
            let conn_state = self.flow.as_ref().map_or("OTH", |flow| flow.conn_state.as_str());
            #[allow(clippy::cast_precision_loss)] // three digits are shown
            let seconds = end.duration_ns as f64 / 1e9;
            write!(f, " conn_state={conn_state} duration={seconds:.3}")?;
        }
        match &self.flow {
            Some(flow) => write!(f, " {flow}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_in_json_and_text() {
        let place = "192.0.2.1:80".parse().expect("an address");
        let listener = Listener { threshold: 128, ..Listener::default() };
        let state = ListenerState::default();
        let on = CookieView::new(place, &listener, &state, Some(CookieReason::of(130, 128)));
        let clock = Clock::at(5, Timestamp::UNIX_EPOCH);
        let event = Event::cookie(CookieView { half_open: 130, ..on }, 5, &clock);
        let line = serde_json::to_string(&event).expect("JSON");
        assert_eq!(
            line,
            r#"{"v":1,"event":"COOKIE","time":"1970-01-01T00:00:00Z","time_ns":5,"listener":"192.0.2.1:80","mode":"on","reason":"half_open","half_open":130,"threshold":128,"way":"handover"}"#
        );
        assert_eq!(
            format!("{event:#}"),
            "[COOKIE] on listener=192.0.2.1:80 reason=half_open half_open=130 threshold=128 way=handover"
        );
        let read: Event = serde_json::from_str(&line).expect("an event");
        assert_eq!(format!("{read:#}"), format!("{event:#}"));

        let off = Event::cookie(CookieView::new(place, &listener, &state, None), 5, &clock);
        assert_eq!(
            format!("{off:#}"),
            "[COOKIE] off listener=192.0.2.1:80 half_open=0 threshold=128 way=handover"
        );
        // Others have none of it.
        let lost = Event::lost(3, Stage::Output, &clock);
        assert!(format!("{lost:#}").contains("3 reports were lost (stage=output)"));
        let lost = serde_json::to_string(&lost).expect("JSON");
        assert!(!lost.contains("listener"), "{lost}");
        assert!(serde_json::from_str::<Event>(&lost).expect("an event").cookie.is_none());
    }
}
