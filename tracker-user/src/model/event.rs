//! An event as users see it: the form of its JSON, and how one is made from a report of the kernel or a finding of the agent.

pub mod parts;
mod text;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracker_common::{
    counters::Hook,
    dropping::DropMode,
    event::{Event as Raw, Kind, Reason},
    flow::Flow,
    key::{End, FlowKey},
    segment::Flags,
    state::State,
    sweep::Tier,
    violation::Rule,
};

use crate::model::{
    clock::Clock,
    event::parts::{
        CookieView, EndView, Range, SegmentView, ShedView, States, StatesView, ViolationView,
    },
    record::{Record, View, address},
    unknown_code::UnknownCode,
};

/// One line of `tracker events`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Event {
    /// Version of this form: 1.
    pub v: u32,
    /// `NEW`, `ESTABLISHED`, `CLOSING`, `CLOSE`, `DESTROY`, `VIOLATION`, `SEGMENT`, `COOKIE`, `SHED` or `LOST`.
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
    /// Handshakes that come as in a flood, or do not any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shed: Option<ShedView>,
    /// How many reports were lost since the last line that said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<u64>,
    /// Where they were lost: `ring`, `listener`, `output` or `export`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stage: Option<String>,
    /// The flow after the segment; absent where a violation belongs to none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flow: Option<Record>,
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
    /// An exporter was too slow, or its receiver did not take records.
    Export,
}

impl Stage {
    /// Its name in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Listener => "listener",
            Self::Output => "output",
            Self::Export => "export",
        }
    }
}

impl Event {
    /// What the kernel reported of a flow or a segment; [`Kind::Cookie`] is of neither.
    ///
    /// # Errors
    ///
    /// Codes that this version does not know.
    pub fn from_kernel(raw: &Raw, view: &View) -> Result<Self, UnknownCode> {
        let kind = Kind::from_code(raw.kind)
            .filter(|kind| *kind != Kind::Cookie)
            .ok_or(UnknownCode { what: "kind of report", code: raw.kind })?;
        let from = End::from_high(raw.from != 0);
        let hook = Hook::from_code(raw.hook).ok_or(UnknownCode { what: "hook", code: raw.hook })?;
        let flow = (raw.has_flow != 0).then_some(&raw.flow);
        let originator = flow.map_or(from, Flow::originator);
        let record = flow.map(|flow| Record::new(&raw.key, flow, None, view));
        let states = |codes: [u8; 2]| -> Result<States, UnknownCode> {
            let name = |end: End| {
                let code = codes[end.index()];
                State::from_code(code).map(State::name).ok_or(UnknownCode { what: "state", code })
            };
            Ok(States {
                orig: name(originator)?.to_owned(),
                reply: name(originator.other())?.to_owned(),
            })
        };
        let around = StatesView { before: states(raw.before)?, after: states(raw.after)? };
        let violation = if kind == Kind::Violation {
            let rule =
                Rule::from_code(raw.rule).ok_or(UnknownCode { what: "rule", code: raw.rule })?;
            let numbered = (raw.low, raw.high, raw.actual) != (0, 0, 0);
            Some(ViolationView {
                name: rule.name().to_owned(),
                expected: numbered.then_some(Range { low: raw.low, high: raw.high }),
                actual: numbered.then_some(raw.actual),
                before: around.before.clone(),
                after: around.after.clone(),
                action: action(rule, raw.dropped).to_owned(),
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
            shed: None,
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
                action: action(rule, DropMode::Off as u32).to_owned(),
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

    /// Watching sheds, or does not any more.
    #[must_use]
    pub fn shed(shed: ShedView, clock: &Clock) -> Self {
        Self { shed: Some(shed), ..Self::bare("SHED", clock) }
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
            shed: None,
            lost: None,
            stage: None,
            flow: None,
        }
    }
}

/// What became of a packet that breached the rule: `dropped` is the code of a [`DropMode`].
fn action(rule: Rule, dropped: u32) -> &'static str {
    // SYN cookies drop what breaches some rules, whatever is asked for.
    if rule.drops() || dropped == DropMode::Drop as u32 {
        "dropped"
    } else if dropped == DropMode::Count as u32 {
        "would_drop"
    } else {
        "passed"
    }
}

#[cfg(test)]
mod tests {
    use tracker_common::protect::{Listener, ListenerState};

    use super::*;
    use crate::model::event::parts::CookieReason;

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
