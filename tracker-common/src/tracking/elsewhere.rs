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
/// Only a confirmed flow's half changes hands: before, a segment that its owner refused looks like one that it has not seen.
#[inline(always)]
#[must_use]
pub fn is_counted_elsewhere(flow: &Flow, is_confirmed: bool, packet: &Packet, here: Owner) -> bool {
    let owner = flow.owner(packet.from);
    if owner.is(here) || flow.is_dead() {
        return false;
    }
    // What is illegal says nothing: not of its end, and not of who sees that.
    let is_legal = notes::illegal(packet) == Marks::NONE;
    if owner.is_some() && !(is_confirmed && is_legal && says_more(flow, packet)) {
        return true;
    }
    if is_legal {
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

/// Whether a legal packet says more than its end has said, and its receiver would take it: its owner has not seen it, or it would be
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

#[cfg(test)]
mod tests {
    use crate::{
        config::InterfaceConfig,
        counters::{Fate, Hook},
        key::FlowKey,
        packet::Packet,
        segment::{Flags, Segment},
        seq::Seq,
        simulator::Host,
    };

    #[test]
    fn an_illegal_segment_is_counted_where_its_end_is_seen_and_nowhere_else() {
        let (client, server) = ((&[1; 16], [0, 9]), (&[2; 16], [0, 80]));
        let packet = |by_client: bool, flags: u16, seq: u32, ack: u32| {
            let (source, destination) = if by_client { (client, server) } else { (server, client) };
            let (key, from) = FlowKey::new(source, destination, 0);
            let (flags, window) = (Flags(flags), 1000);
            let segment =
                Segment { seq: Seq(seq), ack: Seq(ack), flags, window, ..Segment::default() };
            Packet { key, from, segment }
        };
        let open = [packet(true, 2, 0, 0), packet(false, 0x12, 0, 1), packet(true, 0x10, 1, 1)];
        // FIN without ACK, none, FIN and RST; and whatever stands where an acknowledgment would.
        for flags in [0x01, 0x00, 0x05] {
            for no_ack in [0, 1, 5, 1 << 31, u32::MAX] {
                let mut host = Host::default();
                for (ms, packet) in (1..).zip(&open) {
                    host.packet(packet, Hook::Ingress, ms * 1_000_000);
                }
                let illegal = packet(false, flags, 1, no_ack);
                assert_eq!(host.packet(&illegal, Hook::Ingress, 5_000_000), Fate::Illegal);
                host.set_interface(InterfaceConfig { slot: 1, ..InterfaceConfig::default() });
                let again = host.packet(&illegal, Hook::Ingress, 6_000_000);
                assert_eq!(again, Fate::CountedOnArrival, "{flags:#x} {no_ack}");
            }
        }
    }
}
