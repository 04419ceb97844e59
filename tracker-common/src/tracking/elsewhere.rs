//! Counted once: whether a packet was counted at another hook that it passed before, or will be.
//!
//! An interface's index does not tell, because addresses may be translated between two interfaces. The flow does: each end's
//! half has an [`Owner`]. At any other hook a packet that says nothing new is left alone. What the owner cannot have seen is
//! tracked where it is seen, and the half changes hands.

use crate::{
    flow::{Flow, fact, flow_flag},
    notes,
    owner::Owner,
    packet::Packet,
    segment::Flags,
    state::is_reset,
    violation::Marks,
};

/// Whether a packet of `flow`, seen at `here`, is counted at another hook. If not, its end's half belongs to `here` from now on.
/// Only a confirmed flow's half changes hands: before, what its owner has refused cannot be told from what it has not seen.
#[inline(always)]
#[must_use]
pub fn is_counted_elsewhere(flow: &Flow, is_confirmed: bool, packet: &Packet, here: Owner) -> bool {
    let owner = flow.owner(packet.from);
    if owner.is(here) || flow.is_dead() {
        return false;
    }
    if owner.is_some() && !(is_confirmed && says_more(flow, packet)) {
        return true;
    }
    // What is illegal says nothing of who sees that end.
    if notes::illegal(packet) == Marks::NONE {
        flow.set_owner(packet.from, here);
    }
    false
}

/// Whether a packet that another attached interface has seen was counted there, whatever its addresses are now: it is illegal by
/// itself, or, where it has no flow, begins none.
#[inline(always)]
#[must_use]
pub fn ends_on_arrival(packet: &Packet, has_flow: bool) -> bool {
    notes::illegal(packet) != Marks::NONE || (packet.segment.has(Flags::RST) && !has_flow)
}

/// Whether a packet says more than its end has said, and its receiver would take it: its owner has not seen it, or it would be
/// in the record.
#[inline(always)]
fn says_more(flow: &Flow, packet: &Packet) -> bool {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    let segment = &packet.segment;
    let is_open = me.has(fact::ACK) && peer.has(fact::ACK | fact::EDGE) && !is_reset(&me, &peer);
    // With a successor, it may be that one's.
    if !is_open || segment.has(Flags::SYN) || flow.has(flow_flag::SUCCESSOR) {
        return false;
    }
    if segment.has(Flags::RST) {
        // In TIME_WAIT it means nothing.
        return segment.seq == peer.ack && !me.has(fact::FIN);
    }
    let is_old = segment.has_timestamp && me.has(fact::TS) && segment.timestamp.before(me.ts);
    let is_data = segment.end().after(me.end);
    let is_news = if is_data { !me.has(fact::FIN) } else { segment.ack.after(me.ack) };
    let is_wrong = segment.ack.before(me.ack)
        || segment.seq.after(peer.edge)
        || segment.ack.after(peer.end)
        || is_old;
    is_news && !is_wrong
}
