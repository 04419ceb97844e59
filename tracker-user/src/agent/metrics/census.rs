//! What a sweep counts on its way over all flows.

use tracker_common::{
    flow::Flow,
    key::FlowKey,
    state::State,
    sweep::unfinished,
    walk::{Look, Walk},
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

impl Census {
    /// Counts what the kernel's walk over the confirmed flows has found.
    pub fn walked(&mut self, walk: &Walk, handshakes_us: Vec<u32>) {
        self.confirmed = walk.read;
        for (sums, counts) in self.flows.iter_mut().zip(&walk.flows) {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        self.handshakes_us.extend(handshakes_us);
    }

    /// Counts a half-open flow.
    pub fn see(&mut self, key: &FlowKey, flow: &Flow, look: &Look) {
        self.half_open += 1;
        let Some(state) = look.state else { return };
        self.flows[usize::from(!key.is_ipv4())][state as usize] += 1;
        self.unfinished += u64::from(unfinished(flow).is_some());
        if look.handshake_us != 0 {
            self.handshakes_us.push(look.handshake_us);
        }
    }
}
