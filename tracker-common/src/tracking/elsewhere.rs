//! Counted once: whether a packet was counted at another hook that it passed before, or will be.
//!
//! An interface's index does not tell, because addresses may be translated between two interfaces. The flow does: each end's
//! half has an [`Owner`]. At any other hook a packet that says nothing new is left alone. What the owner cannot have seen is
//! tracked where it is seen, and the half changes hands.

use crate::{
    flow::{Facts, Flow, HalfOpen, fact, flow_flag},
    notes,
    owner::Owner,
    packet::Packet,
    segment::{Flags, Segment},
    seq::Seq,
    state::is_reset,
    violation::Marks,
};

/// Whether a packet of `flow`, seen at `here`, is counted at another hook. If not, its end's half belongs to `here` from now on.
/// `half_open` is the record that holds `flow`, where it is not confirmed.
#[inline(always)]
#[must_use]
pub fn is_counted_elsewhere(
    flow: &Flow,
    half_open: Option<&HalfOpen>,
    packet: &Packet,
    here: Owner,
) -> bool {
    let owner = flow.owner(packet.from);
    if owner.is(here) || flow.is_dead() {
        return false;
    }
    if !owner.is_some() {
        flow.set_owner(packet.from, here);
        return false;
    }
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    let segment = &packet.segment;
    let is_new = if segment.has(Flags::SYN) {
        is_new_syn(flow, half_open, &me, &peer, packet)
    } else if segment.has(Flags::RST) {
        // Its owner would have taken it.
        !is_reset(&me, &peer) && peer.has(fact::ACK) && segment.seq == peer.ack
    } else {
        goes_on(&me, &peer, segment)
    };
    if is_new {
        flow.set_owner(packet.from, here);
    }
    !is_new
}

/// Whether a packet that another attached interface has seen, and that belongs to no flow by the addresses that it has now, was
/// counted there: it begins no flow.
#[inline(always)]
#[must_use]
pub fn begins_nothing(packet: &Packet) -> bool {
    packet.segment.has(Flags::RST) || notes::illegal(packet) != Marks::NONE
}

/// A SYN that the half's owner has not seen: neither known, nor one that would be refused.
#[inline(always)]
fn is_new_syn(
    flow: &Flow,
    half_open: Option<&HalfOpen>,
    me: &Facts,
    peer: &Facts,
    packet: &Packet,
) -> bool {
    let segment = &packet.segment;
    if me.has(fact::SYN) && segment.seq == me.isn {
        return false;
    }
    if let Some(half_open) = half_open {
        let ack = if segment.has(Flags::ACK) { segment.ack } else { Seq(0) };
        return !half_open.others(packet.from).has(segment.seq, ack);
    }
    let is_over = is_reset(me, peer) || (me.has(fact::FIN) && peer.has(fact::FIN));
    is_over
        && !segment.has(Flags::ACK)
        && !flow.has(flow_flag::SUCCESSOR)
        && segment.seq.after(me.end)
}

/// A segment that says more than its end has said, and that its receiver would take.
#[inline(always)]
fn goes_on(me: &Facts, peer: &Facts, segment: &Segment) -> bool {
    let is_more = !me.has_end()
        || segment.end().after(me.end)
        || !me.has(fact::ACK)
        || segment.ack.after(me.ack);
    is_more
        && !is_reset(me, peer)
        && !(peer.has(fact::EDGE) && segment.seq.after(peer.edge))
        && !(peer.has_end() && segment.ack.after(peer.end))
}
