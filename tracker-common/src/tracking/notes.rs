//! What is worth counting about a segment although nothing in it is wrong, and what its header alone shows.

use crate::{
    flow::{Facts, fact},
    judge::{Situation, assassinates},
    packet::Packet,
    segment::{Flags, Segment, SynOptions},
    violation::{Marks, Rule},
};

/// The rules of F1 to F5 and F8 that the packet breaks by itself; such a packet touches no flow.
#[inline(always)]
#[must_use]
pub fn illegal(packet: &Packet) -> Marks {
    const ACK: Flags = Flags::ACK;
    let flags = packet.segment.flags;
    let mut broken = Marks::NONE;
    if flags.only(Flags::SYN.with(ACK).with(Flags::RST).with(Flags::FIN)) == Flags(0) {
        broken = broken.with(Rule::NullFlags);
    }
    if flags.has(Flags::FIN) {
        if flags.only(Flags::SYN.with(ACK).with(Flags::RST)) == Flags(0) {
            let xmas = flags.has(Flags::PSH.with(Flags::URG));
            broken = broken.with(if xmas { Rule::Xmas } else { Rule::FinWithoutAck });
        }
        if flags.has(Flags::SYN) {
            broken = broken.with(Rule::SynFin);
        }
        if flags.has(Flags::RST) {
            broken = broken.with(Rule::FinRst);
        }
    }
    if flags.has(Flags::SYN.with(Flags::RST)) {
        broken = broken.with(Rule::SynRst);
    }
    let key = &packet.key;
    if key.ports[0] == [0; 2] || key.ports[1] == [0; 2] {
        broken = broken.with(Rule::PortZero);
    }
    let addresses = key.words();
    if key.ports[0] == key.ports[1] && addresses[0] == addresses[1] {
        broken = broken.with(Rule::Land);
    }
    let destination = if packet.from.is_high() { addresses[0] } else { addresses[1] };
    if flags.has(Flags::SYN) && !destination.is_unicast() {
        broken = broken.with(Rule::SynMulticast);
    }
    broken
}

/// What a legal header has that is worth counting (F7, H14).
#[inline(always)]
#[must_use]
pub fn of_header(segment: &Segment) -> Marks {
    const LONE_FLAGS: Flags = Flags::PSH.with(Flags::URG);
    let mut marks = Marks::NONE;
    if segment.has(Flags::SYN) {
        marks = marks
            .with_if(Rule::BadOption, segment.options.has(SynOptions::MALFORMED))
            .with_if(Rule::WscaleRange, segment.options.has(SynOptions::SCALE_CLAMPED))
            .with_if(Rule::SynUrg, segment.has(Flags::URG));
    }
    if !segment.has(Flags::ACK) {
        marks = marks.with_if(Rule::AckFieldWithoutAck, segment.ack.0 != 0);
    }
    if segment.has(Flags::RST) {
        marks = marks.with_if(Rule::RstWithData, segment.payload > 0);
    }
    if segment.flags.only(LONE_FLAGS) != Flags(0) {
        marks = marks
            .with_if(Rule::PshWithoutData, segment.has(Flags::PSH) && segment.payload == 0)
            .with_if(Rule::UrgWithoutPointer, segment.has(Flags::URG) && segment.urgent == 0);
    }
    marks
}

/// What a segment is to its flow, seen before the segment's own facts are added.
#[inline(always)]
#[must_use]
pub fn of_segment(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Marks {
    if segment.has(Flags::RST) {
        let spares = situation.in_time_wait() && !assassinates(peer, situation, segment);
        return Marks::NONE.with_if(Rule::RstInTimeWait, spares);
    }
    if segment.has(Flags::SYN) {
        return of_syn(me, peer, segment);
    }
    let end = segment.end();
    let mut marks = Marks::NONE.with_if(Rule::ZeroWindow, segment.window == 0);
    if segment.payload > 0 {
        let goes_on = peer.has(fact::FIN)
            && segment.ack == peer.fin.add(1)
            && !segment.has(Flags::FIN)
            && (!me.has_end() || end.after(me.end));
        marks = marks
            .with_if(Rule::HalfClose, goes_on)
            .with_if(Rule::Retransmission, me.has_end() && !end.after(me.end))
            .with_if(Rule::SpuriousRetransmission, peer.has(fact::ACK) && !end.after(peer.ack));
    }
    if segment.has(Flags::FIN) {
        let crossing = !me.has(fact::FIN) && peer.has(fact::FIN) && segment.ack != peer.fin.add(1);
        marks = marks.with_if(Rule::SimultaneousClose, crossing);
    }
    if me.has(fact::ACK) {
        marks = marks.with_if(Rule::AckOld, segment.ack.before(me.ack));
    }
    if me.has(fact::EDGE) && situation.open {
        let window = u32::from(segment.window) << me.scale(peer);
        let shrunk = !segment.ack.before(me.ack) && segment.ack.add(window).before(me.edge);
        let unfounded = peer.has_end()
            && segment.ack.after(peer.end)
            && segment.seq.after(me.end)
            && me.edge.since(me.ack) > window;
        marks =
            marks.with_if(Rule::WindowRecision, shrunk).with_if(Rule::BadWindowUpdate, unfounded);
    }
    marks
}

#[inline(always)]
fn of_syn(me: &Facts, peer: &Facts, segment: &Segment) -> Marks {
    let again = me.has(fact::SYN) && segment.seq == me.isn;
    if segment.has(Flags::ACK) {
        return Marks::NONE.with_if(Rule::Retransmission, again && me.has(fact::SYN_ACK));
    }
    // A SYN after its own answer was merely seen late (H17).
    let crossing = !me.has(fact::SYN) && peer.has(fact::SYN) && !peer.has(fact::SYN_ACK);
    let fast_open = segment.payload > 0 && segment.options.has(SynOptions::HAS_FAST_OPEN);
    Marks::NONE
        .with_if(Rule::Retransmission, again && !me.has(fact::SYN_ACK))
        .with_if(Rule::RepeatedSynNoAck, again && me.has(fact::SYN_ACK))
        .with_if(Rule::SimultaneousOpen, crossing)
        .with_if(Rule::FastOpenData, !me.has(fact::SYN) && fast_open)
}
