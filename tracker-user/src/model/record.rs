//! A flow as users see it: one set of names for text, JSON, filters and events.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracker_common::{
    conn_state::conn_state,
    flow::{Facts, Flow, fact, flow_flag},
    key::{Address, End, FlowKey},
    segment::SynOptions,
    state::State,
    sweep::{Tier, Timeouts, states},
};

use crate::model::{clock::Clock, flow_violations::BrokenRules, owner::Owner};

/// A word of those that this version knows, or whatever another version's agent has sent: a listing makes millions of
/// them, and none takes memory of its own.
pub type Word = Cow<'static, str>;

/// One direction of a flow: what one end has sent.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Direction {
    /// RFC 9293's name of this end's state.
    pub state: Word,
    /// Packets that it sent.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Bytes of its data stream, by its sequence numbers: each counted once, those that were not seen too. Absent where
    /// it sent nothing but RSTs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stream_bytes: Option<u64>,
    /// Initial sequence number, where its SYN was seen.
    pub isn: Option<u32>,
    /// Highest sequence number sent, plus one.
    pub seq: Option<u32>,
    /// Highest acknowledgment sent.
    pub ack: Option<u32>,
    /// Window field of its last segment, not scaled.
    pub window: u16,
    /// MSS option of its SYN.
    pub mss: Option<u16>,
    /// Window scale option of its SYN; `null` where it had none, or a capture has cut it off.
    pub wscale: Option<u8>,
    /// SACK permitted option in its SYN.
    pub sack: bool,
    /// Timestamps option in its SYN.
    pub timestamps: bool,
    /// Who has its socket; absent where this host has none, or nobody has asked (`--processes`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<Owner>,
}

/// Both ends of a connection, the opener's first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, JsonSchema)]
pub struct Ends {
    /// Address of the end that opened it.
    pub src: IpAddr,
    /// The other end's address.
    pub dst: IpAddr,
    /// The opener's port.
    pub sport: u16,
    /// The other end's port.
    pub dport: u16,
}

impl Ends {
    /// As if the other end had opened it.
    #[must_use]
    pub const fn reversed(self) -> Self {
        let Self { src, dst, sport, dport } = self;
        Self { src: dst, dst: src, sport: dport, dport: sport }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = SocketAddr::new(self.src, self.sport);
        write!(f, "{source}>{}", SocketAddr::new(self.dst, self.dport))
    }
}

/// A flow.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Record {
    /// `ipv4` or `ipv6`.
    pub family: Word,
    /// Always `tcp`.
    pub protocol: Word,
    /// Address of the end that opened it; of the end seen first, where it was picked up in its middle.
    pub src: IpAddr,
    /// The other end's address.
    pub dst: IpAddr,
    /// The opener's port.
    pub sport: u16,
    /// The other end's port.
    pub dport: u16,
    /// What the opener sent.
    pub orig: Direction,
    /// What the other end sent.
    pub reply: Direction,
    /// Zeek's history.
    pub history: String,
    /// Zeek's conn_state.
    pub conn_state: Word,
    /// `both`, `in` or `out`: the directions that were seen.
    pub seen: Word,
    /// Picked up after its handshake.
    pub midstream: bool,
    /// Both ends agreed on Multipath TCP (RFC 8684): windows are judged with 16 MiB to spare, because a subflow's counts from what the whole
    /// connection has acknowledged.
    #[serde(default)]
    pub mptcp: bool,
    /// Violations counted on it.
    pub violations: u32,
    /// Rules that it has broken, as far as is remembered, and how often; absent where nobody has looked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub broken_rules: Option<BrokenRules>,
    /// The interface that saw its first packet.
    pub interface: String,
    /// The zone of that interface.
    pub zone: u16,
    /// From the SYN to the end of the handshake, in microseconds; absent where not seen.
    pub rtt_us: Option<u32>,
    /// `confirmed` or `half_open`: the table it is in; absent where it may be changing tables.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tier: Option<Word>,
    /// Its ends on the other side of this host, which translates it; absent where it does not, or nobody has asked (`--nat`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub translated: Option<Ends>,
    /// When its first packet was seen.
    pub created: Timestamp,
    /// The same in nanoseconds since boot; with the key it names one connection.
    pub created_ns: u64,
    /// Whole seconds until it is removed, if nothing renews it.
    pub timeout_s: u32,
}

/// The address of one end.
#[must_use]
pub fn address(address: Address) -> IpAddr {
    IpAddr::from(address).to_canonical()
}

/// What is needed to show records: both clocks, the agent's timeouts and its interfaces.
#[derive(Clone, Debug)]
pub struct View {
    /// Both clocks.
    pub clock: Clock,
    /// The agent's.
    pub timeouts: Timeouts,
    /// Names of the agent's interfaces by slot: they may be those of another network namespace.
    pub names: HashMap<u32, String>,
}

impl View {
    /// An interface's name, or `#slot` where the agent has none there.
    #[must_use]
    pub fn interface_name(&self, slot: u32) -> String {
        self.names.get(&slot).cloned().unwrap_or_else(|| format!("#{slot}"))
    }
}

impl Record {
    /// Packets of both ends.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.orig.packets.saturating_add(self.reply.packets)
    }

    /// Bytes of both ends, IP headers included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.orig.bytes.saturating_add(self.reply.bytes)
    }

    /// What `flow` says.
    #[must_use]
    pub fn new(key: &FlowKey, flow: &Flow, tier: Option<Tier>, view: &View) -> Self {
        let originator = flow.originator();
        let states = states(flow);
        let clock = &view.clock;
        let (seconds, _) = view.timeouts.decide(states);
        let idle = flow.life().last_seen.elapsed_ns(clock.monotonic_ns()) / 1_000_000_000;
        let flags = flow.half(End::LOW).facts().flags | flow.half(End::HIGH).facts().flags;
        let (opener, responder) =
            (flow.half(originator).facts(), flow.half(originator.other()).facts());
        let both = [End::LOW, End::HIGH].iter().all(|end| flow.half(*end).facts().seen());
        Self {
            family: if key.is_ipv4() { "ipv4" } else { "ipv6" }.into(),
            protocol: "tcp".into(),
            src: address(key.addresses[originator.index()]),
            dst: address(key.addresses[originator.other().index()]),
            sport: key.port(originator),
            dport: key.port(originator.other()),
            orig: Direction::new(flow, originator, states),
            reply: Direction::new(flow, originator.other(), states),
            history: flow.history.display(originator).to_string(),
            conn_state: conn_state(flow).into(),
            seen: if both {
                "both"
            } else if flags & fact::SEEN_IN != 0 {
                "in"
            } else {
                "out"
            }
            .into(),
            midstream: flow.has(flow_flag::MIDSTREAM),
            mptcp: responder.has(fact::SYN) && opener.is_multipath(&responder),
            violations: flow.violations.get(),
            broken_rules: None,
            interface: view.interface_name(flow.slot()),
            zone: key.zone,
            rtt_us: Some(flow.handshake_us.get())
                .filter(|us| *us != 0 && flow.half(originator).facts().has(fact::SYN)),
            tier: tier.map(|tier| tier.name().into()),
            translated: None,
            created: clock.date(flow.created_ns()),
            created_ns: flow.created_ns(),
            timeout_s: seconds.saturating_sub(u32::try_from(idle).unwrap_or(u32::MAX)),
        }
    }

    /// Who has the sockets of its ends, the opener's first, where this host has them and somebody has asked.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        [&self.orig, &self.reply].into_iter().filter_map(|end| end.owner.as_ref())
    }

    /// Its ends, as this side has them.
    #[must_use]
    pub const fn ends(&self) -> Ends {
        Ends { src: self.src, dst: self.dst, sport: self.sport, dport: self.dport }
    }

    /// The rules that it has broken, as in `syn_isn_change=1,synack_bad_ack=2`; `None` where nothing is known of any.
    #[must_use]
    pub fn broken_text(&self) -> Option<String> {
        let rules = self.broken_rules.as_ref().filter(|rules| !rules.is_empty())?;
        let rules: Vec<_> = rules.iter().map(|(name, count)| format!("{name}={count}")).collect();
        Some(rules.join(","))
    }

    /// Seconds from its first packet to `now`.
    #[must_use]
    pub fn age_s(&self, now: Timestamp) -> u64 {
        u64::try_from(now.duration_since(self.created).as_secs()).unwrap_or(0)
    }

    /// Both ends' states, the opener's first.
    #[must_use]
    pub fn states(&self) -> [&str; 2] {
        [&self.orig.state, &self.reply.state]
    }
}

impl Direction {
    fn new(flow: &Flow, end: End, states: [State; 2]) -> Self {
        let half = flow.half(end);
        let facts = half.facts();
        let mut direction = Self {
            state: states[end.index()].name().into(),
            packets: half.packets.get(),
            bytes: half.bytes.get(),
            stream_bytes: facts.has_end().then(|| stream_bytes(&facts, half.bytes.get())),
            isn: facts.has(fact::SYN).then_some(facts.isn.0),
            seq: facts.has_end().then_some(facts.end.0),
            ack: facts.has(fact::ACK).then_some(facts.ack.0),
            window: half.window.get(),
            mss: Some(half.mss.get()).filter(|mss| *mss != 0),
            wscale: facts.window_scale().and_then(|shift| u8::try_from(shift).ok()),
            sack: facts.has(fact::SACK),
            timestamps: facts.has(fact::TIMESTAMPS),
            owner: None,
        };
        if direction.has_unknown_options(&facts) {
            direction.wscale = None;
        }
        direction
    }

    /// Whether a capture has cut the options of its SYN off ([`SynOptions::UNKNOWN`]).
    fn has_unknown_options(&self, facts: &Facts) -> bool {
        facts.has(fact::FAST_OPEN)
            && self.wscale == Some(SynOptions::UNKNOWN.window_scale)
            && self.mss.is_none()
            && !self.sack
            && !self.timestamps
    }
}

/// Bytes between the first and the last sequence number, SYN and FIN left out. Numbers wrap after 4 GiB: the packets'
/// bytes, `bytes`, tell how often, unless headers and retransmissions are as many themselves.
fn stream_bytes(facts: &Facts, bytes: u64) -> u64 {
    let flags = u32::from(facts.has(fact::SYN)) + u32::from(facts.has(fact::FIN));
    let end = if facts.has(fact::FIN) { facts.fin.add(1) } else { facts.end };
    // Fewer than its flags take where the number of its FIN was wrong.
    let stream = u64::from(end.since(facts.isn).saturating_sub(flags));
    stream + (bytes.saturating_sub(stream) >> 32 << 32)
}

impl fmt::Display for Record {
    /// One line in conntrack's spelling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp 6 {} {}/{}", self.timeout_s, self.orig.state, self.reply.state)?;
        write!(f, " src={} dst={} sport={} dport={}", self.src, self.dst, self.sport, self.dport)?;
        write!(f, " packets={} bytes={}", self.orig.packets, self.orig.bytes)?;
        write!(f, " src={} dst={} sport={} dport={}", self.dst, self.src, self.dport, self.sport)?;
        write!(f, " packets={} bytes={}", self.reply.packets, self.reply.bytes)?;
        write!(f, " history={} seen={}", self.history, self.seen)?;
        if self.midstream {
            f.write_str(" midstream")?;
        }
        if self.mptcp {
            f.write_str(" mptcp")?;
        }
        write!(f, " violations={} interface={}", self.violations, self.interface)?;
        if self.zone != 0 {
            write!(f, " zone={}", self.zone)?;
        }
        if let Some(us) = self.rtt_us {
            write!(f, " rtt_us={us}")?;
        }
        if let Some(ends) = &self.translated {
            write!(f, " translated={ends}")?;
        }
        for owner in self.owners() {
            if let Some(processes) = owner.process_text() {
                write!(f, " process={processes}")?;
            }
            write!(f, " user={}", owner.user_text())?;
            if let Some(cgroup) = &owner.cgroup {
                write!(f, " cgroup={cgroup}")?;
            }
            if let Some(container) = owner.container_text() {
                write!(f, " container={container}")?;
            }
            if let Some(pod) = &owner.pod {
                write!(f, " pod={pod}")?;
            }
        }
        Ok(())
    }
}
