//! After a segment was written: state changes, reports, and whether the flow moves or ends.

use super::{
    environment::{Environment, NO_BREACH, Report},
    observe::{SegmentEffect, is},
};
use crate::{
    counters::Hook,
    dropping::NO_RULE,
    event::{Kind, Reason},
    flow::{Flow, fact, flow_flag},
    forget::VerifierBarrier,
    key::End,
    packet::Packet,
    state::{State, is_open},
    sweep::states,
    violation::{Marks, Rule},
};

/// Whether the handshake is complete, and both ends have shown it.
#[inline(always)]
pub(super) fn is_confirmed(flow: &Flow) -> bool {
    let (low, high) = (flow.half(End::LOW).facts(), flow.half(End::HIGH).facts());
    low.has(fact::ACK)
        && high.has(fact::ACK)
        && is_open(&low, &high, flow.has(flow_flag::MIDSTREAM))
}

/// Counts and reports what a segment did: a breach, and the flow's steps, each once.
#[inline(always)]
pub(super) fn announce<S: Environment>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
    seen: &SegmentEffect,
) {
    let step = s.conclude(flow, seen);
    s.publish(flow, packet, hook, now_ns, seen, step);
}

/// Returns what to report of a segment, and marks its steps in the record, so that each is reported once.
#[inline(always)]
#[must_use]
pub fn conclude<S: VerifierBarrier>(s: &S, flow: &Flow, seen: &SegmentEffect) -> Step {
    let marks = seen.marks;
    let due = s.forget(due(flow, seen));
    let set = s.forget(if due == 0 { 0 } else { flow.mark_once(due) });
    let marks = if marks.has(Rule::HalfClose) && set & flow_flag::HALF_CLOSE == 0 {
        marks.without(Rule::HalfClose)
    } else {
        marks
    };
    if let Some(breach) = seen.breach {
        flow.violations.add(u32::from(breach.rule.is_violation()));
        return Step { marks, kinds: Kind::Segment.bit() | Kind::Violation.bit() };
    }
    let mut step = Step { marks, kinds: Kind::Segment.bit() };
    if set & flow_flag::ESTABLISHED != 0 {
        step.kinds |= Kind::Established.bit();
    }
    if set & flow_flag::CLOSING != 0 {
        step.kinds |= Kind::Closing.bit();
        if is(seen.after[0], State::Closed) && is(seen.after[1], State::Closed) {
            step.marks = step.marks.and(refusal(flow));
        }
    }
    if set & flow_flag::CLOSED != 0 {
        step.kinds |= Kind::Close.bit();
    }
    step
}

/// Counts and reports what [`conclude`] found.
#[inline(always)]
pub fn publish<S: Environment>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
    seen: &SegmentEffect,
    step: Step,
) {
    let Step { kinds, marks } = step;
    s.count_marks(marks, hook);
    if let Some(breach) = seen.breach {
        s.count_breach(breach.rule, hook);
    }
    if matches!(hook, Hook::Ingress) {
        s.drop_if_chosen(marks, seen.breach.map_or(NO_RULE, |breach| breach.rule as u32));
    }
    s.report(&Report {
        now_ns,
        kinds,
        packet,
        hook,
        breach: seen.breach.unwrap_or(NO_BREACH),
        marks,
        before: seen.before,
        after: seen.after,
        flow: Some(flow),
    });
}

/// What to report of a segment: [`Kind`]s of reports, and marks to count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step {
    pub(super) kinds: u32,
    pub(super) marks: Marks,
}

/// Returns the bits of [`flow_flag`] that the segment makes due, each of which is reported once.
#[inline(always)]
fn due(flow: &Flow, seen: &SegmentEffect) -> u32 {
    let mut due = 0;
    if seen.marks.has(Rule::HalfClose) {
        due |= flow_flag::HALF_CLOSE;
    }
    let changed = !is(seen.before[0], seen.after[0]) || !is(seen.before[1], seen.after[1]);
    if seen.breach.is_some() || (!changed && (flow.has(flow_flag::ESTABLISHED) || !seen.confirmed))
    {
        return due;
    }
    let closed = is(seen.after[0], State::Closed) && is(seen.after[1], State::Closed);
    if seen.confirmed && !closed {
        due |= flow_flag::ESTABLISHED;
    }
    let has_left = |state| state as u8 > State::Established as u8 || is(state, State::Closed);
    if changed && (has_left(seen.after[0]) || has_left(seen.after[1])) {
        due |= flow_flag::CLOSING;
    }
    if changed && is_over(seen.after) {
        due |= flow_flag::CLOSED;
    }
    due
}

/// Whether a connection is over for both ends: closed, in TIME_WAIT, or where one of them is and the other never left LISTEN.
#[inline(always)]
fn is_over(states: [State; 2]) -> bool {
    let is_done = |state| is(state, State::Closed) || is(state, State::TimeWait);
    let [low, high] = states;
    (is_done(low) || is(low, State::Listen))
        && (is_done(high) || is(high, State::Listen))
        && (is_done(low) || is_done(high))
}

/// How a connection that an RST ended came to nothing, if it did.
#[inline(always)]
fn refusal(flow: &Flow) -> Marks {
    let opener = flow.half(flow.originator()).facts();
    let responder = flow.half(flow.originator().other()).facts();
    // The responder's only word was an RST.
    let refused = opener.has(fact::SYN) && responder.has(fact::RST) && !responder.has_end();
    let stale = opener.has(fact::RST | fact::SYN)
        && responder.has(fact::SYN_ACK)
        && !opener.has(fact::ACKED_SYN);
    Marks::NONE.with_if(Rule::Refused, refused).with_if(Rule::StaleSyn, stale)
}

/// Why a flow that is removed now came to its end.
#[must_use]
pub fn reason(flow: &Flow) -> Reason {
    let (low, high) = (flow.half(End::LOW).facts(), flow.half(End::HIGH).facts());
    if (low.flags | high.flags) & fact::RST != 0 {
        Reason::Rst
    } else if states(flow).iter().all(|state| matches!(state, State::Closed | State::TimeWait)) {
        Reason::Fin
    } else {
        Reason::Timeout
    }
}
