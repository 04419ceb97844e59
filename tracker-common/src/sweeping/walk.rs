//! What a sweep looks for. The kernel walks over its own table and looks at each flow where it lies, so that only those that
//! a sweep has to do with are copied.

use crate::{
    flow::{Flow, Life, fact, flow_flag},
    key::{End, FlowKey},
    state::State,
    sweep::Timeouts,
};

/// Flows that are looked at before the walk comes back to the agent: a kernel that does not preempt itself runs nothing
/// else on that CPU meanwhile.
pub const STRIDE: u32 = 4096;

/// A time span, in nanoseconds since boot: what happened after its start and not after its end.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Span {
    /// When the sweep before began.
    pub after_ns: u64,
    /// When this sweep began: what it takes for now.
    pub until_ns: u64,
}

/// What a walk goes by, and what it has counted: the one entry of the `WALK` map.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Walk {
    /// Since the sweep before.
    pub span: Span,
    /// By these a flow's time is over.
    pub timeouts: Timeouts,
    /// 1 where the walk counts flows by state and reports handshakes; else 0.
    pub takes_census: u32,
    /// [`Timeouts::shortest_ns`]: a flow that was seen since then needs no further look.
    pub shortest_ns: u64,
    /// Flows that were looked at, tombstones among them.
    pub read: u64,
    /// Those that are connections, by family (IPv4 first) and by the [`State`] that decides on the timeout.
    pub flows: [[u64; 16]; 2],
    /// Flows that may still be looked at before the walk comes back.
    pub steps: u32,
    /// How many walks there were before: which of the flows that seem ESTABLISHED are looked at more closely.
    pub turn: u32,
}

/// What a sweep has to do with a flow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Look {
    /// [`crate::flow::Life`] by which it was judged.
    pub life: u64,
    /// The state that decides on its timeout; `None` where that was not asked for, or it is a tombstone.
    pub state: Option<State>,
    /// Whether that timeout is over.
    pub is_due: bool,
    /// Microseconds of its handshake, if that was completed in the walk's span; else 0.
    pub handshake_us: u32,
}

/// A flow that a sweep has to do with, as the walk writes it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Found {
    /// The flow.
    pub key: FlowKey,
    /// [`Look::life`].
    pub life: u64,
    /// [`Look::state`] where the timeout of that is over; else [`Found::NOT_DUE`].
    pub due: u32,
    /// [`Look::handshake_us`].
    pub handshake_us: u32,
}

impl Found {
    /// In place of a state.
    pub const NOT_DUE: u32 = u32::MAX;
}

impl Walk {
    /// A power of two.
    const TURNS: u32 = 8;

    /// A walk that has not begun.
    #[must_use]
    pub fn new(span: Span, timeouts: Timeouts, takes_census: bool, turn: u32) -> Self {
        Self {
            span,
            timeouts,
            takes_census: u32::from(takes_census),
            shortest_ns: timeouts.shortest_ns(),
            steps: STRIDE,
            turn,
            ..Self::default()
        }
    }

    /// Looks at a flow; `states` is [`crate::sweep::states`].
    #[inline(always)]
    #[must_use]
    pub fn look(&self, flow: &Flow, states: impl FnOnce(&Flow) -> [State; 2]) -> Look {
        // First, so that what changes while the rest is read keeps the flow from being removed.
        let life = flow.life();
        let idle_ns = life.last_seen.elapsed_ns(self.span.until_ns);
        let none = Look { life: life.to_word(), ..Look::default() };
        let takes_census = self.takes_census != 0;
        let may_be_due =
            idle_ns >= self.shortest_ns && !self.seems_established(flow, life, idle_ns);
        if life.is_dead() || !(may_be_due || takes_census) {
            return none;
        }
        let (seconds, state) = self.timeouts.decide(states(flow));
        Look {
            state: Some(state),
            is_due: idle_ns >= u64::from(seconds) * 1_000_000_000,
            handshake_us: if takes_census { self.handshake_us(flow) } else { 0 },
            ..none
        }
    }

    /// Whether a flow needs no closer look this time. Memory is slow, so this goes by the part of the record that was read
    /// already. That part can be wrong: a breach can change a state without an event. So each such flow gets a closer look in
    /// one of [`Walk::TURNS`] walks.
    #[inline(always)]
    fn seems_established(&self, flow: &Flow, life: Life, idle_ns: u64) -> bool {
        let seconds = self.timeouts.seconds[State::Established as usize];
        flow.has(flow_flag::ESTABLISHED)
            && !flow.has(flow_flag::CLOSING)
            && idle_ns < u64::from(seconds) * 1_000_000_000
            && (life.generation ^ self.turn) & (Self::TURNS - 1) != 0
    }

    /// Each handshake belongs to one walk, however often its flow is read: a flow stays until a sweep removes it. One that is
    /// taken over or evicted before any sweep is missed.
    #[inline(always)]
    fn handshake_us(&self, flow: &Flow) -> u32 {
        let us = flow.handshake_us.get();
        let completed_ns = flow.created_ns() + u64::from(us) * 1000;
        let is_in_span = completed_ns > self.span.after_ns && completed_ns <= self.span.until_ns;
        // Both are read, and the opener's is taken: the verifier lets no number choose what of an iterator's flow is read.
        let (low, high) = (flow.half(End::LOW).facts(), flow.half(End::HIGH).facts());
        let opener_flags = if flow.originator().is_high() { high.flags } else { low.flags };
        if is_in_span && opener_flags & fact::SYN != 0 { us } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sweep::states, time::Tick};

    #[test]
    fn a_flow_is_due_when_its_states_timeout_is_over_and_no_tick_before() {
        let timeouts = Timeouts::default();
        let flow = Flow::default();
        let seen_ns = 5 * Tick::ns(1);
        flow.start(seen_ns, End::LOW, 0);
        let timeout = u64::from(timeouts.decide(states(&flow)).0) * 1_000_000_000;
        let look = |now, census| {
            let walk = Walk::new(Span { after_ns: 0, until_ns: now }, timeouts, census, 0);
            walk.look(&flow, states)
        };
        let over_ns = seen_ns + timeout.next_multiple_of(Tick::ns(1));
        for census in [false, true] {
            assert!(look(over_ns, census).is_due && !look(over_ns - 1, census).is_due);
        }
        // Nothing is read of one that was seen just now, but for a census.
        assert_eq!(look(seen_ns, false).state, None);
        assert!(look(seen_ns, true).state.is_some());
        assert!(flow.entomb(flow.life()));
        assert_eq!(look(over_ns, true).state, None);
    }

    #[test]
    fn a_flow_that_only_seems_established_is_found_out_after_a_few_walks() {
        let timeouts = Timeouts::default();
        let flow = Flow::default();
        flow.start(0, End::LOW, 0);
        flow.mark(flow_flag::ESTABLISHED);
        let closing = timeouts.decide(states(&flow));
        assert_ne!(closing.1, State::Established);
        let over_ns = u64::from(closing.0 + 1) * 1_000_000_000;
        let looks = |until_ns| {
            (0..Walk::TURNS)
                .filter(|turn| {
                    let span = Span { after_ns: 0, until_ns };
                    Walk::new(span, timeouts, false, *turn).look(&flow, states).is_due
                })
                .count()
        };
        assert_eq!(looks(over_ns), 1);
        let established = timeouts.seconds[State::Established as usize];
        assert_eq!(looks(u64::from(established + 1) * 1_000_000_000), Walk::TURNS as usize);
        flow.mark(flow_flag::CLOSING);
        assert_eq!(looks(over_ns), Walk::TURNS as usize);
    }
}
