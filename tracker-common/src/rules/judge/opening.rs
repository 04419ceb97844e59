//! Segments with neither SYN nor RST before the handshake is complete.

use super::{
    Ruling,
    gap::{Gap, last_ack},
    situation::Situation,
    syn::acknowledges_syn,
    take,
};
use crate::{
    flow::{Facts, UNSCALED_WINDOW, fact},
    forget::VerifierBarrier,
    segment::{Flags, Segment},
    violation::Rule,
};

/// A segment with neither SYN nor RST before the handshake is complete.
#[inline(always)]
pub(super) fn opening<F: VerifierBarrier>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
    gap: Gap,
) -> Ruling {
    let offers = situation.offers;
    if offers.repeats
        && !me.has(fact::SYN_ACK)
        && !continues_handshake(me, peer, offers.acks_other, segment)
    {
        // As late as the SYN, of the same connection. Its receiver refuses it.
        return Ruling::refuse(segment.ack);
    }
    if !peer.has(fact::SYN) {
        return before_any_syn(me, peer, segment, gap);
    }
    let (ack_low, ack_high) = (peer.isn.add(1), peer.end);
    let in_space = segment.ack.within(ack_low, ack_high);
    if me.has(fact::SYN_ACK) && !peer.has(fact::SYN_ACK) {
        // The responder goes on before its SYN is acknowledged, as Fast Open lets it.
        let goes_on = segment.seq.within(me.isn, me.isn.add(1 << 30));
        if goes_on && (segment.ack.within(me.ack, ack_high) || gap.confirms) {
            return Ruling::take(take::ANY);
        }
        // Either we missed what it acknowledges, which the originator will show, or it is forged, and answered with an RST.
        return Ruling::refuse(segment.ack);
    }
    if !me.has(fact::SYN) && !peer.has(fact::SYN_ACK) {
        if gap.goes_on && (gap.confirms || in_space) {
            // We missed the SYN,ACK: each end goes on from where the other says that it is.
            return Ruling::take(take::ANY);
        }
        // The responder acknowledges instead of answering with its SYN. If it acknowledges the SYN, its own may follow (a
        // split handshake, H18), or we missed it; if not, it takes the SYN for a part of an older connection.
        let ruling = Ruling::refuse(segment.ack);
        if acknowledges_syn(peer, segment.ack) || gap.is_known() {
            return ruling;
        }
        return ruling.and_breach(Rule::AckWrongDir, ack_low, ack_low, segment.ack);
    }
    // The segment that completes the handshake: it acknowledges the peer's SYN, and lies in the window that the peer
    // offered with it. It may be later than the next expected one, where earlier ones were lost (H4, H7).
    let seq_low = if peer.has(fact::ACK) { peer.ack } else { me.isn.add(1) };
    let seq_high = if peer.has(fact::EDGE) { peer.edge } else { seq_low.add(UNSCALED_WINDOW) };
    let (seq_low, seq_high) = f.forget((seq_low, seq_high));
    let good_ack = f.forget(in_space || gap.confirms);
    // A FIN has a number of its own, which is a new one.
    let least = if segment.has(Flags::FIN) { seq_low.add(1) } else { seq_low };
    let is_late = segment.seq.after(seq_high);
    let good_seq = f.forget(!segment.end().before(least) && !is_late || gap.goes_on);
    if good_seq && good_ack {
        return Ruling::take(take::ANY | take::COMPLETES);
    }
    let (rule, low, high, actual) = if good_ack {
        (Rule::HandshakeAckBadSeq, seq_low, seq_high, segment.seq)
    } else if good_seq {
        (Rule::HandshakeAckBadAck, ack_low, ack_high, segment.ack)
    } else {
        (Rule::HandshakeBadSeqAck, ack_low, ack_high, segment.ack)
    };
    // One gap is reported once; what is merely wrong, each time.
    let again = (segment.ack.after(ack_high) && me.refused_ack.after(ack_high))
        || (is_late && me.refused_end.after(seq_high));
    let is_known = f.forget(gap.goes_on || gap.confirms || gap.again && again);
    let (rule, low, high, actual) = f.forget((rule, low, high, actual));
    // The number that it acknowledges is where an RST that answers it will be (RFC 9293 section 3.10.7.4).
    let ruling = Ruling::refuse(if good_ack { last_ack(me, segment) } else { segment.ack });
    if is_known { ruling } else { ruling.and_breach(rule, low, high, actual) }
}

/// A segment with neither SYN nor RST while nothing is known of the peer's SYN.
#[inline(always)]
fn before_any_syn(me: &Facts, peer: &Facts, segment: &Segment, gap: Gap) -> Ruling {
    let substance = segment.payload > 0 || segment.has(Flags::FIN);
    if !me.has(fact::SYN) {
        return Ruling::default();
    }
    if peer.seen() {
        // We missed the SYN,ACK, if each end goes on from where the other says that it is.
        let behind = peer.refused_end.sub(UNSCALED_WINDOW);
        if gap.goes_on && segment.ack.within(behind, peer.refused_end) {
            return Ruling::take(take::ANY | take::FIRST_ACK);
        }
        // The peer is in sight and has not sent its SYN, so this end cannot have answered it.
        let ruling = Ruling::refuse(segment.ack);
        let same_gap = gap.again || (peer.has(fact::REFUSED) && segment.seq == peer.refused_ack);
        if !substance || same_gap {
            return ruling;
        }
        return ruling.and_breach(Rule::DataBeforeEstablished, me.isn, me.isn, segment.seq);
    }
    // Either we see one direction only and the handshake went well (S9), or this segment came too early. A SYN,ACK
    // that shows up later decides it; until then nothing is a violation. Where it does not continue the SYN at all, a
    // listener answers it with an RST at the number that it acknowledges (RFC 9293 section 3.10.7.2).
    if !segment.seq.within(me.isn, me.isn.add(1 << 30)) {
        return Ruling::refuse(segment.ack);
    }
    let early = if substance && !me.has(fact::MOVED_ON) { take::EARLY } else { 0 };
    Ruling::take(take::ANY | take::FIRST_ACK | early)
}

/// Whether `segment` completes the handshake of a flow in which `me` and `peer` have been sent, or answers or refuses
/// its SYN: whether it belongs to that flow rather than to an older one on the same key.
#[inline(always)]
#[must_use]
pub fn continues_handshake(
    me: &Facts,
    peer: &Facts,
    acks_other_isn: bool,
    segment: &Segment,
) -> bool {
    if !segment.has(Flags::ACK) {
        return segment.has(Flags::RST) && me.has(fact::SYN) && acknowledges_syn(me, segment.seq);
    }
    peer.has(fact::SYN) && (segment.ack.within(peer.isn.add(1), peer.end) || acks_other_isn)
}
