//! Connections of captures, and what tracking makes of their packets.

use std::collections::HashMap;

use anyhow::{Context, Result};
use tracker_common::{
    config::{InterfaceConfig, LiveConfig},
    conn_state::conn_state,
    counters::Hook,
    event::Kind,
    flow::{Flow, flow_flag},
    key::{End, FlowKey},
    packet::{LinkLayer, Packet, Parsed, Unparsed, parse},
    segment::Flags,
    simulator::{Captured, Host},
    state::State,
    sweep::{Outcome as Removed, Tier, Timeouts, states},
    violation::Rule,
};
use tracker_tests::captures::corpus;
use tracker_user::{
    agent::sweeper::{deadline_ns, removal},
    cli::capture::Capture,
    model::record::address,
};

/// When the first packet comes, on the kernel programs' clock.
const START_NS: u64 = 1_000_000_000;

/// The least between two packets, as in a replay.
const STEP_NS: u64 = 16;

/// A packet of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) wire_len: u32,
    pub(crate) timestamp_ns: i64,
    pub(crate) packet: Packet,
    /// Bytes before the IP header.
    pub(crate) ip_at: usize,
}

impl Frame {
    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.packet.segment.has(flags)
    }
}

/// All packets of one pair of ends in a capture.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The capture's path.
    pub(crate) capture: String,
    pub(crate) frames: Vec<Frame>,
}

impl Connection {
    pub(crate) fn key(&self) -> FlowKey {
        self.frames[0].packet.key
    }

    /// Its ends, as in `192.0.2.1:40000 > 192.0.2.2:80`, the sender of the first packet first.
    pub(crate) fn name(&self) -> String {
        let (key, from) = (self.key(), self.frames[0].packet.from);
        let end = |end: End| format!("{}:{}", address(key.addresses[end.index()]), key.port(end));
        format!("{} > {}", end(from), end(from.other()))
    }
}

/// How one connection went.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ending {
    /// The opener's state, and the other end's.
    pub(crate) states: [State; 2],
    pub(crate) conn_state: &'static str,
    pub(crate) midstream: bool,
}

impl Ending {
    fn of(flow: &Flow) -> Self {
        let [low, high] = states(flow);
        let states = if flow.originator().is_high() { [high, low] } else { [low, high] };
        let midstream = flow.has(flow_flag::MIDSTREAM);
        Self { states, conn_state: conn_state(flow), midstream }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [opener, other] = self.states.map(State::name);
        write!(f, "{opener}/{other} {}", self.conn_state)
    }
}

/// What came of some packets of one pair of ends.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Outcome {
    /// Each connection, in the order in which they ended; then those that live.
    pub(crate) ends: Vec<Ending>,
    /// Rules of severity `violation` that were reported.
    pub(crate) reports: Vec<Rule>,
}

impl Outcome {
    /// How all of them ended.
    pub(crate) fn end(&self) -> String {
        self.joined(ToString::to_string)
    }

    /// Both ends' states of each.
    pub(crate) fn states(&self) -> String {
        self.joined(|end| end.states.map(State::name).join("/"))
    }

    /// Zeek's word for each.
    pub(crate) fn words(&self) -> String {
        self.joined(|end| end.conn_state.to_owned())
    }

    fn joined(&self, text: impl FnMut(&Ending) -> String) -> String {
        let ends: Vec<_> = self.ends.iter().map(text).collect();
        ends.join(" + ")
    }
}

/// The connections of a capture.
pub(crate) fn of_capture(path: &str) -> Result<Vec<Connection>> {
    let mut capture = Capture::open(&corpus::directory().join(path)).context(path.to_owned())?;
    let mut found: Vec<Connection> = Vec::new();
    let mut places: HashMap<FlowKey, usize> = HashMap::new();
    while let Some(captured) = capture.next()? {
        let mut parsed = Parsed::default();
        let frame = Captured { bytes: captured.frame, wire_len: captured.wire_len as usize };
        match parse(&frame, LinkLayer::Ethernet, 0, &mut parsed) {
            Ok(()) | Err(Unparsed::BadTcpHeaderLength) => {}
            Err(_) => continue,
        }
        let frame = Frame {
            bytes: captured.frame.to_vec(),
            wire_len: captured.wire_len,
            timestamp_ns: captured.timestamp_ns,
            packet: parsed.packet,
            ip_at: parsed.ip_at as usize,
        };
        let place = *places.entry(frame.packet.key).or_insert_with(|| {
            found.push(Connection { capture: path.to_owned(), frames: Vec::new() });
            found.len() - 1
        });
        found[place].frames.push(frame);
    }
    Ok(found)
}

/// When each packet comes, on the kernel programs' clock: as a replay has it.
pub(crate) fn times<'a>(
    packets: impl IntoIterator<Item = (&'a Frame, i64)>,
) -> impl Iterator<Item = (&'a Frame, u64)> {
    let mut clock: Option<(i64, u64)> = None;
    packets.into_iter().map(move |(frame, timestamp_ns)| {
        let since = |first: i64| timestamp_ns.saturating_sub(first).max(0).cast_unsigned();
        let (first, now_ns) = clock.map_or((timestamp_ns, START_NS), |(first, last)| {
            (first, (START_NS + since(first)).max(last + STEP_NS))
        });
        clock = Some((first, now_ns));
        (frame, now_ns)
    })
}

/// Tracks packets in this order, each with the time that it comes at, as a replay does.
pub(crate) fn track<'a>(packets: impl IntoIterator<Item = (&'a Frame, i64)>) -> Outcome {
    let mut config = LiveConfig { events: 0, ..Host::report_all() };
    config.events |= Kind::Violation.bit() | Kind::Destroy.bit();
    let mut host = Host::new(usize::MAX, config);
    let mut outcome = Outcome::default();
    let mut key = None;
    for (frame, now_ns) in times(packets) {
        key = Some(frame.packet.key);
        expire(&mut host, &frame.packet.key, now_ns, &mut outcome);
        let captured = Captured { bytes: &frame.bytes, wire_len: frame.wire_len as usize };
        host.frame(&captured, InterfaceConfig::default(), Hook::Ingress, now_ns);
        for event in host.take_events() {
            let rule = Rule::from_code(event.rule).filter(|rule| rule.is_violation());
            if event.kind == Kind::Destroy as u8 {
                outcome.ends.push(Ending::of(&event.flow));
            } else if let Some(rule) = rule {
                outcome.reports.push(rule);
            }
        }
    }
    if let Some(key) = key {
        let living = alive(&host, &key);
        outcome.ends.extend(living.iter().map(|(flow, _)| Ending::of(flow)));
    }
    outcome
}

fn alive(host: &Host, key: &FlowKey) -> Vec<(Flow, Tier)> {
    use tracker_common::sweep::Tables;
    let confirmed = Tables::confirmed(host, key).map(|flow| (flow.clone(), Tier::Confirmed));
    let half_open = Tables::half_open(host, key);
    let half_open = half_open.map(|half_open| (half_open.flow.clone(), Tier::HalfOpen));
    confirmed.into_iter().chain(half_open).filter(|(flow, _)| !flow.is_dead()).collect()
}

/// Removes what is due.
fn expire(host: &mut Host, key: &FlowKey, now_ns: u64, outcome: &mut Outcome) {
    let timeouts = Timeouts::default();
    for (flow, tier) in alive(host, key) {
        if deadline_ns(&flow, &timeouts, now_ns) > now_ns {
            continue;
        }
        let mut removal = removal(key, &flow, tier, &timeouts);
        if host.remove(&mut removal) == Removed::Removed {
            outcome.ends.push(Ending::of(&removal.flow));
            if tracker_common::sweep::unfinished(&removal.flow).is_some() {
                outcome.reports.push(Rule::HalfOpenTimeout);
            }
        }
    }
}
