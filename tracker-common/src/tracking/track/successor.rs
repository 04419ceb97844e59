//! A SYN on a connection that is open or over, and what of an old key belongs to the connection after it.

use super::{
    conclude::announce,
    environment::{Environment, NO_BREACH, Report},
    observe::{SegmentEffect, is},
    offers::offers,
};
use crate::{
    counters::{Hook, Tally},
    event::Kind,
    flow::{Flow, HalfOpen, fact, flow_flag},
    judge::{IsnCandidates, Reopening, acknowledges_syn, reopening},
    key::End,
    packet::Packet,
    segment::Flags,
    state::{State, is_open},
    violation::{Breach, Marks, Rule},
};

/// Whether the packet is not for this confirmed flow but for a newer connection on its key, which is among the
/// half-open ones until its handshake is complete (T9, S5). A SYN on a flow that goes on is reported here.
#[inline(always)]
pub(super) fn belongs_to_successor<S: Environment>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> bool {
    let segment = &packet.segment;
    if segment.has(Flags::SYN) && !segment.has(Flags::ACK) {
        return syn_on_confirmed(s, flow, packet, hook, now_ns);
    }
    if segment.has(Flags::SYN) && flow.has(old_syn_of(packet.from.other())) {
        // The old SYN was accepted after all: its receiver is no longer in TIME_WAIT.
        flow.mark(flow_flag::SUCCESSOR);
        return true;
    }
    if !flow.has(flow_flag::SUCCESSOR) {
        return false;
    }
    let Some(newer) = s.half_open(&packet.key) else {
        // Where `flow` is over, another CPU may have marked it, and be about to insert the newer one.
        let [low, high] = s.states(flow);
        let is_over = |state| is(state, State::Closed) || is(state, State::TimeWait);
        if !is_over(low) && !is_over(high) {
            flow.unmark(flow_flag::SUCCESSOR);
        }
        return false;
    };
    s.belongs(newer, flow, packet)
}

/// Says whose the SYN of an old connection was.
#[inline(always)]
const fn old_syn_of(end: End) -> u32 {
    if end.is_high() { flow_flag::OLD_SYN_OF << 1 } else { flow_flag::OLD_SYN_OF }
}

/// Whether a packet without a bare SYN belongs to the newer connection among the half-open ones rather than to `flow`, which is
/// confirmed: it goes on with its handshake.
#[inline(always)]
#[must_use]
pub fn belongs(newer: &HalfOpen, flow: &Flow, packet: &Packet) -> bool {
    let segment = &packet.segment;
    let (me, peer) =
        (newer.flow.half(packet.from).facts(), newer.flow.half(packet.from.other()).facts());
    let offers = offers(newer, packet);
    if segment.has(Flags::SYN) {
        // An answer to the SYN of before is the newer connection's to refuse, but for a copy of the one that opened `flow`, if
        // its sender goes on with that.
        let old = flow.half(packet.from).facts();
        let goes_on = old.flags & (fact::SYN | fact::FIN | fact::RST) == fact::SYN;
        let is_copy = goes_on && segment.seq == old.isn;
        return (offers.acks_previous && !is_copy)
            || (peer.has(fact::SYN) && acknowledges_syn(&peer, segment.ack))
            || offers.acks_other;
    }
    // Whoever sends a SYN in the name of one end cannot have it answered: all but a refusal takes a SYN,ACK that was seen.
    if peer.has(fact::SYN_ACK) {
        let last = if peer.has(fact::EDGE) { peer.edge } else { peer.ack };
        let goes_on = segment.seq.within(peer.ack, last)
            && (!segment.has(Flags::ACK) || segment.ack.within(peer.isn.add(1), peer.end));
        let answers = newer.others(packet.from.other()).answered(segment.seq, segment.ack);
        return goes_on || (segment.has(Flags::ACK) && answers.is_some());
    }
    if !segment.has(Flags::ACK) {
        return false;
    }
    let acks_syn = segment.ack.within(peer.isn.add(1), peer.end) || offers.acks_other;
    let old_receiver = flow.half(packet.from.other()).facts();
    if segment.has(Flags::RST) {
        // A refusal has nothing to do with where the old connection is.
        let fits_old = old_receiver.has(fact::ACK) && segment.seq == old_receiver.ack;
        return peer.has(fact::SYN) && acks_syn && !fits_old;
    }
    if !me.has(fact::SYN) && peer.has(fact::SYN) {
        // It may have overtaken its SYN,ACK. It belongs to the old connection where that has sent what it acknowledges.
        let is_old =
            old_receiver.has_end() && segment.ack.within(old_receiver.isn, old_receiver.end);
        return acks_syn && !is_old;
    }
    let last = if peer.has_end() { peer.end } else { me.ack };
    me.has(fact::SYN_ACK)
        && segment.seq.within(me.isn.add(1), me.end.add(0xffff))
        && segment.ack.within(me.ack, last)
}

/// Whether a SYN on a confirmed flow goes to the half-open table: not if it is a duplicate, and not if TIME_WAIT keeps it
/// out.
#[inline(always)]
fn syn_on_confirmed<S: Environment>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> bool {
    match reopening_of(s, flow, packet) {
        Reopening::Duplicate => return false,
        Reopening::Legal => note_reuse(s, flow, hook),
        // Simultaneous open.
        Reopening::Breach(Breach { rule: Rule::SynInTimeWait, .. })
            if is_awaited(s, flow, packet) => {}
        Reopening::Breach(Breach { rule: Rule::SynInTimeWait, .. }) => {
            // Reported when it is judged.
            flow.mark(flow_flag::OLD_SYN | old_syn_of(packet.from));
            return false;
        }
        Reopening::Breach(breach) => {
            let now = s.states(flow);
            let seen = SegmentEffect {
                before: now,
                after: now,
                breach: Some(breach),
                confirmed: false,
                alive: true,
                marks: Marks::NONE,
            };
            announce(s, flow, packet, hook, now_ns, &seen);
        }
    }
    flow.mark(flow_flag::SUCCESSOR);
    true
}

/// Whether the receiver of a SYN has left `flow`, and waits in SYN_SENT for the answer to its own: it takes any SYN (RFC 9293
/// figure 7).
#[inline(always)]
fn is_awaited<S: Environment>(s: &S, flow: &Flow, packet: &Packet) -> bool {
    if !flow.has(flow_flag::SUCCESSOR) {
        return false;
    }
    s.half_open(&packet.key).is_some_and(|newer| {
        let receiver = newer.flow.half(packet.from.other()).facts();
        !newer.flow.is_dead()
            && receiver.flags & (fact::SYN | fact::SYN_ACK | fact::RST) == fact::SYN
    })
}

/// Counts that a connection in TIME_WAIT is followed by another, once.
#[inline(always)]
pub(super) fn note_reuse<S: Environment>(s: &S, flow: &Flow, hook: Hook) {
    let [low, high] = s.states(flow);
    let in_time_wait = is(low, State::TimeWait) || is(high, State::TimeWait);
    if in_time_wait && !flow.has(flow_flag::SUCCESSOR) {
        s.count_breach(Rule::TimeWaitReuse, hook);
    }
}

#[inline(always)]
fn reopening_of<S: Environment>(s: &S, flow: &Flow, packet: &Packet) -> Reopening {
    let situation = s.situation(flow, packet, Hook::Ingress, IsnCandidates::default());
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    s.forget(reopening(&me, &peer, &situation, &packet.segment))
}

/// The end of a flow whose key a new connection takes.
#[inline(always)]
pub(super) fn report_reopened<S: Environment>(
    s: &S,
    old: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) {
    s.tally(Tally::FlowsReopened);
    let last = s.states(old);
    s.report(&Report {
        now_ns,
        kinds: Kind::Destroy.bit(),
        packet,
        hook,
        breach: NO_BREACH,
        marks: Marks::NONE,
        before: last,
        after: last,
        flow: Some(old),
    });
}

/// Whether a SYN begins a new connection over a flow that is not confirmed: one that is over, or of which one
/// direction only was ever seen and whose handshake seemed complete.
#[inline(always)]
pub(super) fn is_replaced_by<S: Environment>(s: &S, flow: &Flow, packet: &Packet) -> bool {
    let segment = &packet.segment;
    if !segment.has(Flags::SYN) || segment.has(Flags::ACK) {
        return false;
    }
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    match reopening_of(s, flow, packet) {
        Reopening::Duplicate => false,
        Reopening::Legal => true,
        Reopening::Breach(_) => {
            // Where a flow was seen from its SYN on, the other end's SYN begins no new connection.
            let midstream = flow.has(flow_flag::MIDSTREAM);
            let one_sided = !peer.seen() || (midstream && !me.seen());
            one_sided && is_open(&me, &peer, midstream)
        }
    }
}
