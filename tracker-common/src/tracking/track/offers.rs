//! SYNs and SYN,ACKs that a half-open flow remembers, and which of them the handshake answers.

use crate::{
    flow::{Half, HalfOpen, Opening, OtherOpenings, fact, flow_flag},
    judge::{IsnCandidates, Verdict, acknowledges_syn},
    packet::Packet,
    segment::{Flags, SynOptions},
    seq::Seq,
    state::is_open,
};

/// What the record remembers of SYNs, as the packet meets it.
#[inline(always)]
#[must_use]
pub fn offers(half_open: &HalfOpen, packet: &Packet) -> IsnCandidates {
    let segment = &packet.segment;
    let mine = half_open.others(packet.from);
    let facts = half_open.flow.half(packet.from).facts();
    let others = mine.count();
    let offers = IsnCandidates {
        others,
        repeats: half_open.repeats_previous(),
        is_known: segment.has(Flags::SYN) && mine.has(&Opening::of(segment)),
        has_newer: others != 0 && !mine.ends_with(facts.isn),
        ..IsnCandidates::default()
    };
    if !segment.has(Flags::ACK) {
        return offers;
    }
    IsnCandidates {
        acks_other: half_open.others(packet.from.other()).acknowledged(segment.ack).is_some(),
        acks_previous: packet.from.is_high() != half_open.flow.originator().is_high()
            && half_open.is_previous(segment.ack.sub(1)),
        ..offers
    }
}

/// Makes the SYN that a SYN,ACK answers, or the SYN and the SYN,ACK that the third segment completes, the ones that count
/// (H8, H16): before the segment is judged, because all else follows from them.
#[inline(always)]
pub fn choose(half_open: &HalfOpen, packet: &Packet) {
    let (segment, flow) = (&packet.segment, &half_open.flow);
    let (mine, theirs) = (flow.half(packet.from), flow.half(packet.from.other()));
    let (me, peer) = (mine.facts(), theirs.facts());
    if !segment.has(Flags::ACK) || segment.has(Flags::RST) {
        return;
    }
    if segment.has(Flags::SYN) {
        if peer.has(fact::SYN) && !me.has(fact::SYN_ACK) && !acknowledges_syn(&peer, segment.ack) {
            let other = half_open.others(packet.from.other());
            choose_syn(theirs, other, segment.ack, &segment.options, false);
        }
        return;
    }
    if is_open(&me, &peer, flow.has(flow_flag::MIDSTREAM)) {
        return;
    }
    // Exactly as it should be.
    let is_exact = segment.seq == peer.ack && segment.ack.within(peer.isn.add(1), peer.end);
    if peer.has(fact::SYN_ACK) && is_exact {
        return;
    }
    let answered = half_open.others(packet.from.other()).answered(segment.seq, segment.ack);
    let Some(answer) = answered else { return };
    theirs.choose(&answer);
    flow.set_originator(packet.from);
    if !me.has(fact::SYN) || !acknowledges_syn(&me, answer.ack) {
        choose_syn(mine, half_open.others(packet.from), answer.ack, &answer.options, true);
    }
}

/// Makes the SYN that `ack` acknowledges the one of `half`, if there is any among `others`. If not, it may have been
/// forgotten, or where its sender `confirms` it, not seen: the answer says what it must have offered.
#[inline(always)]
fn choose_syn(half: &Half, others: &OtherOpenings, ack: Seq, answer: &SynOptions, confirms: bool) {
    if let Some(syn) = others.acknowledged(ack) {
        half.choose(&syn);
    } else if confirms || others.has_forgotten() {
        let options = SynOptions { mss: 0, timestamp: Seq(0), window_scale: 14, ..*answer };
        half.choose(&Opening { isn: ack.sub(1), window: 0xffff, options, ..Opening::default() });
    }
}

/// Writes what a verdict says about ISNs.
#[inline(always)]
pub fn write_offers(half_open: &HalfOpen, packet: &Packet, verdict: &Verdict) {
    let (segment, from) = (&packet.segment, packet.from);
    if verdict.another_isn {
        half_open.others(from).remember(&Opening::of(segment));
        half_open.flow.mark(flow_flag::OTHER_ISNS);
    }
}
