//! What a sweep counts on its way over all flows.

use tracker_common::{
    flow::{Flow, fact},
    key::FlowKey,
    state::State,
    sweep::{Tier, Timeouts, states, unfinished},
};

/// Families of addresses, in the order in which flows are counted.
pub const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// The flows that a sweep has seen.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// By [`FAMILIES`], and by the state that decides on the timeout: each flow once.
    pub flows: [[u64; State::ALL.len()]; 2],
    /// Records in the table of confirmed flows, and in that of half-open ones.
    pub confirmed: u64,
    /// See above.
    pub half_open: u64,
    /// Those whose handshake was not completed.
    pub unfinished: u64,
    /// Those that were evicted from the table of half-open ones for newer ones, in all.
    pub evicted: u64,
    /// Handshakes that were completed since the sweep before, in microseconds.
    pub handshakes_us: Vec<u32>,
}

/// A time span, in nanoseconds since boot: what happened after its start and not after its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// When the sweep before began.
    pub after_ns: u64,
    /// When this sweep begins.
    pub until_ns: u64,
}

impl Census {
    /// Counts a flow.
    ///
    /// A handshake belongs to the sweep in whose span it was completed, so each is counted once however often its flow is
    /// read: a flow stays until a sweep removes it. One that is taken over or evicted before any sweep is missed.
    pub fn see(&mut self, key: &FlowKey, flow: &Flow, tier: Tier, timeouts: &Timeouts, span: Span) {
        match tier {
            Tier::Confirmed => self.confirmed += 1,
            Tier::HalfOpen => self.half_open += 1,
        }
        if flow.is_dead() {
            return;
        }
        let (_, state) = timeouts.decide(states(flow));
        self.flows[usize::from(!key.is_ipv4())][state as usize] += 1;
        if tier == Tier::HalfOpen && unfinished(flow).is_some() {
            self.unfinished += 1;
        }
        let us = flow.handshake_us.get();
        let completed_ns = flow.created_ns() + u64::from(us) * 1000;
        let opener = flow.half(flow.originator()).facts();
        if us != 0
            && opener.has(fact::SYN)
            && completed_ns > span.after_ns
            && completed_ns <= span.until_ns
        {
            self.handshakes_us.push(us);
        }
    }
}
