//! Removal of flows by compare-and-delete: the agent judges a copy, the kernel removes the original only if it is
//! still the same.

use crate::{
    counters::{Hook, Tally},
    flow::{Facts, Flow, HalfOpen, Life, fact, flow_flag},
    forget::opaque,
    key::{End, FlowKey},
    state::{State, is_open, is_reset, state},
    track::Environment,
    violation::Rule,
};

/// Removals in one batch: entries of the `REMOVALS` map.
pub const BATCH: u32 = 4096;

/// Which table a flow is in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u32)]
pub enum Tier {
    /// Bounded by eviction: handshakes, and what was seen one way only.
    HalfOpen = 0,
    /// Never evicted: both ends have shown themselves.
    Confirmed = 1,
}

impl Tier {
    /// Its name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::Confirmed => "confirmed",
        }
    }
}

/// What became of a [`Removal`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Outcome {
    /// Not looked at.
    Pending = 0,
    /// Removed; the removal now holds the record as it was last.
    Removed = 1,
    /// Kept: it was seen again, or another connection has the key.
    Changed = 2,
    /// There is no such flow.
    Missing = 3,
}

/// A flow to be removed, and then what became of it: an entry of the `REMOVALS` map.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Removal {
    /// The flow.
    pub key: FlowKey,
    /// [`crate::flow::Life`] by which it was judged.
    pub life: u64,
    /// [`Tier`].
    pub tier: u32,
    /// [`Outcome`].
    pub outcome: u32,
    /// [`State`] whose timeout is over.
    pub state: u32,
    /// 1 where it goes whatever was seen of the same connection since it was judged; else 0.
    pub unconditional: u32,
    /// The record when it was removed.
    pub flow: Flow,
}

/// The tables and what removing from them needs.
pub trait Tables {
    /// The confirmed flow.
    fn confirmed(&self, key: &FlowKey) -> Option<&Flow>;
    /// The half-open flow.
    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen>;
    /// Deletes the confirmed flow.
    fn delete_confirmed(&self, key: &FlowKey);
    /// Deletes the half-open flow.
    fn delete_half_open(&self, key: &FlowKey);
}

/// Removes what `removal` asks for if it is still as judged, and writes down what became of it.
#[inline(always)]
pub fn remove<T: Tables>(tables: &T, removal: &mut Removal) -> Outcome {
    let flow = if removal.tier == Tier::Confirmed as u32 {
        tables.confirmed(&removal.key)
    } else {
        tables.half_open(&removal.key).map(|half_open| &half_open.flow)
    };
    let outcome = match flow {
        None => Outcome::Missing,
        // From here to the deletion the record is a tombstone: packets pass it by, and no connection that is confirmed
        // meanwhile may take its place (see `track::confirm`).
        Some(flow) if entomb(flow, removal) => {
            removal.flow.clone_from(flow);
            if removal.tier == Tier::Confirmed as u32 {
                tables.delete_confirmed(&removal.key);
            } else {
                tables.delete_half_open(&removal.key);
            }
            Outcome::Removed
        }
        Some(_) => Outcome::Changed,
    };
    removal.outcome = outcome as u32;
    outcome
}

/// [`remove`], and counts what became of it.
#[inline(always)]
pub fn remove_and_count<S: Environment>(s: &S, removal: &mut Removal) -> Outcome {
    if removal.tier == Tier::HalfOpen as u32 {
        s.promote(&removal.key);
    }
    let outcome = remove(s, removal);
    if outcome as u32 != Outcome::Removed as u32 {
        s.tally(Tally::RemovalsRefused);
        return outcome;
    }
    if removal.tier == Tier::HalfOpen as u32 {
        s.tally(Tally::HalfOpenExpired);
    }
    if removal.unconditional != 0 {
        s.tally(Tally::FlowsDeleted);
        return outcome;
    }
    s.tally(Tally::FlowsExpired);
    s.tally_code(Tally::EXPIRED + (removal.state & 15));
    if let Some(hook) = unfinished(&removal.flow) {
        s.count_breach(Rule::HalfOpenTimeout, hook);
    }
    if let Some(hook) = asymmetric(&removal.flow) {
        s.count_breach(Rule::Asymmetric, hook);
    }
    outcome
}

/// Declares the flow dead if it is still as judged, or the same connection where that is enough.
#[inline(always)]
fn entomb(flow: &Flow, removal: &Removal) -> bool {
    let judged = Life::from_word(removal.life);
    if removal.unconditional == 0 {
        return flow.entomb(judged);
    }
    // Packets may renew it meanwhile, once a tick at most.
    for _ in 0..4 {
        let now = flow.life();
        if now.generation != judged.generation {
            return false;
        }
        if flow.entomb(now) {
            return true;
        }
    }
    false
}

/// Where the SYN of a flow whose handshake was never completed was seen: its removal is a half-open timeout (H12), whether
/// nobody answered or nobody acknowledged the answer. Without the SYN it is none: who sees the responder's direction only
/// sees no third segment of any handshake.
#[inline(always)]
#[must_use]
pub fn unfinished(flow: &Flow) -> Option<Hook> {
    let originator = flow.half(flow.originator()).facts();
    let responder = flow.half(flow.originator().other()).facts();
    if !originator.has(fact::SYN)
        || is_reset(&originator, &responder)
        || is_reset(&responder, &originator)
        || is_open(&originator, &responder, flow.has(flow_flag::MIDSTREAM))
    {
        return None;
    }
    Some(if originator.has(fact::SEEN_OUT) { Hook::Egress } else { Hook::Ingress })
}

/// Where a flow was seen of which one direction only ever showed itself, in so many packets that the other would have
/// (S9).
#[inline(always)]
#[must_use]
pub fn asymmetric(flow: &Flow) -> Option<Hook> {
    const ENOUGH: u64 = 10;
    let (low, high) = (flow.half(End::LOW), flow.half(End::HIGH));
    let flags = low.facts().flags | high.facts().flags;
    if low.facts().seen() == high.facts().seen() || low.packets.get() + high.packets.get() < ENOUGH
    {
        return None;
    }
    Some(if flags & fact::SEEN_OUT != 0 { Hook::Egress } else { Hook::Ingress })
}

/// Seconds without a renewing segment after which a flow in a state is removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Timeouts {
    /// Indexed by [`State`]; LISTEN is never decisive.
    pub seconds: [u32; State::ALL.len()],
}

impl Default for Timeouts {
    fn default() -> Self {
        let mut timeouts = Self { seconds: [60; State::ALL.len()] };
        timeouts.seconds[State::Closed as usize] = 10;
        // RFC 5382 section 5: not below 2 hours 4 minutes.
        timeouts.seconds[State::Established as usize] = 7440;
        timeouts.seconds[State::CloseWait as usize] = 7440;
        timeouts
    }
}

impl Timeouts {
    /// Nanoseconds that a flow lives on in any state.
    #[must_use]
    pub fn shortest_ns(&self) -> u64 {
        let shortest = self.seconds.iter().min().copied().unwrap_or_default();
        u64::from(shortest) * 1_000_000_000
    }

    /// The seconds for a flow whose ends are in these states, and the state that decides: the shorter of the two,
    /// where an end that waits for nothing (CLOSED, LISTEN) has no say unless both do.
    #[inline(always)]
    #[must_use]
    pub fn decide(&self, states: [State; 2]) -> (u32, State) {
        let idle = |state| matches!(state, State::Closed | State::Listen);
        // The verifier does not know how large the number of a state can be.
        let seconds = |state: State| self.seconds.get(opaque(state as usize)).copied();
        let of = |state: State| (seconds(state).unwrap_or_default(), state);
        let [a, b] = states;
        match (idle(a), idle(b)) {
            (true, false) => of(b),
            (false, true) => of(a),
            _ if of(b).0 < of(a).0 => of(b),
            _ => of(a),
        }
    }
}

/// Whether a flow may be silent in this state for as long as both applications like, so that where one of its ends is this
/// host, its socket says better than the clock whether it is over.
#[must_use]
pub const fn lives_with_its_socket(state: State) -> bool {
    matches!(state, State::Established | State::CloseWait)
}

/// The states of a flow's ends, low end first.
#[inline(always)]
#[must_use]
pub fn states(flow: &Flow) -> [State; 2] {
    let (low, high): (Facts, Facts) = (flow.half(End::LOW).facts(), flow.half(End::HIGH).facts());
    let midstream = flow.has(flow_flag::MIDSTREAM);
    [state(&low, &high, midstream), state(&high, &low, midstream)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_that_decides() {
        let timeouts = Timeouts::default();
        for (pair, expected) in [
            ([State::TimeWait, State::Closed], (60, State::TimeWait)),
            ([State::Closed, State::Closed], (10, State::Closed)),
            ([State::Established, State::FinWait1], (60, State::FinWait1)),
            ([State::SynSent, State::Listen], (60, State::SynSent)),
            ([State::Established, State::Established], (7440, State::Established)),
            ([State::FinWait2, State::CloseWait], (60, State::FinWait2)),
        ] {
            assert_eq!(timeouts.decide(pair), expected);
        }
    }
}
