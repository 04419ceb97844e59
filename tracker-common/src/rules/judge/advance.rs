//! The facts that a segment adds once it is accepted.

use super::{Verdict, gap::acknowledges_refused, situation::Situation, take};
use crate::{
    flow::{Facts, fact},
    forget::VerifierBarrier,
    history::Letter,
    segment::{Flags, Segment},
    seq::Seq,
    state::has_fin,
};

/// Whether a timestamp is known of an end. 0 is none (the kernel's tcp_paws_check()).
#[inline(always)]
pub(super) const fn has_timestamp(me: &Facts) -> bool {
    me.has(fact::TS) && me.ts.0 != 0
}

/// Adds to the peer's facts what it said in a segment that was refused, and what this segment says, too.
///
/// - It has sent what this end acknowledges; its FIN only if that is acknowledged exactly.
/// - It has acknowledged what this end has sent, if where it was then is known to be right.
#[inline(always)]
pub fn agree<F: VerifierBarrier>(
    f: &F,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
    verdict: &mut Verdict,
) {
    if !peer.has(fact::REFUSED) {
        return;
    }
    let mut peer = *peer;
    if !peer.has_end() {
        // All of it was missed.
        peer.isn = segment.ack;
        peer.end = segment.ack;
        if peer.refused_fin() {
            if segment.ack == peer.refused_end {
                peer.end = peer.fin;
            }
        } else if segment.ack == peer.refused_end && peer.fin == peer.refused_end {
            peer.fin = peer.fin.sub(1);
        } else {
            peer.forget_gap();
        }
        peer.flags |= fact::MOVED_ON;
    }
    let peer = f.forget(peer);
    let mine = verdict.facts;
    let mut theirs = peer;
    let Facts { refused_end: end, refused_ack: ack, .. } = peer;
    if acknowledges_refused(&peer, segment) && segment.ack.after(peer.end) {
        theirs.end = segment.ack;
        theirs.flags |= fact::MOVED_ON;
        if segment.ack == end {
            if peer.refused_fin() {
                let second = mine.has(fact::FIN) && ack == mine.fin.add(1);
                theirs.flags |= fact::FIN;
                if second {
                    theirs.flags |= fact::CLOSED_SECOND;
                } else if ack.after(mine.end) || (mine.ends_with_gap() && ack == mine.end) {
                    theirs.flags |= fact::FIN_AHEAD;
                }
            } else if peer.fin == end {
                theirs.fin = end.sub(1);
            }
        }
    }
    theirs = f.forget(theirs);
    let was_right = !end.after(theirs.end) || (mine.has(fact::EDGE) && !end.after(mine.edge));
    let was_right = f.forget(was_right);
    let is_new = f.forget(!peer.has(fact::ACK) || ack.after(peer.ack));
    // Who has not closed goes on, and will say again that it has the peer's FIN.
    let of_fin = has_fin(&mine, &theirs) && ack == mine.fin.add(1) && !theirs.has(fact::FIN);
    let of_fin = f.forget(of_fin);
    let from = if mine.has(fact::SYN) { mine.isn.add(1) } else { mine.isn };
    if was_right && is_new && !ack.after(mine.end) && !of_fin && !ack.before(from) {
        theirs.ack = ack;
        theirs.flags |= fact::ACK;
        if mine.has(fact::SYN) {
            theirs.flags |= fact::ACKED_SYN;
        }
        let edge = ack.add(peer.window << peer.scale(&mine));
        if peer.has(fact::EDGE) {
            theirs.edge = peer.edge.latest(edge);
        } else if !situation.midstream {
            theirs.edge = edge;
            theirs.flags |= fact::EDGE;
        }
        theirs = f.forget(theirs);
    }
    if !end.after(theirs.end) && theirs.has(fact::ACK) && !ack.after(theirs.ack) {
        theirs.flags &= !fact::REFUSED;
        theirs.refused_end = Seq(0);
        theirs.refused_ack = Seq(0);
    }
    verdict.peer = theirs;
    verdict.agrees = true;
}

/// Adds to its sender's facts what an acceptable segment says.
#[inline(always)]
pub fn advance<F: VerifierBarrier>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
    takes: u8,
    verdict: &mut Verdict,
) {
    let mut facts = *me;
    let end = segment.end();
    if !me.has_end() {
        facts.isn = segment.seq;
        facts.forget_gap();
    }
    facts.end = f.forget(if me.has_end() { me.end.latest(end) } else { end });
    let ack = if me.has(fact::ACK) { me.ack.latest(segment.ack) } else { segment.ack };
    facts.ack = f.forget(ack);
    let is_first = !me.has_end() || !me.has(fact::ACK);
    if is_first || facts.end != me.end || facts.ack != me.ack {
        // It goes on, and says by itself what there is to say.
        facts.forget_refused();
    }
    // Nothing was seen before it, though the connection was from its SYN on: all may have been missed.
    let all_missed = !me.has_end() && peer.has(fact::SYN);
    if !me.has(fact::FIN) && !segment.has(Flags::FIN) {
        if segment.payload == 0 && ((me.has_end() && end.after(me.end)) || all_missed) {
            facts.fin = end.sub(1);
        } else if segment.payload > 0 && me.has_end() && end == me.end && me.ends_with_gap() {
            facts.forget_gap();
        }
    }
    facts = f.forget(facts);
    let edge = segment.ack.add(u32::from(segment.window) << me.scale(peer));
    let edge = if me.has(fact::EDGE) {
        me.edge.latest(edge)
    } else if me.has(fact::SYN) && peer.has(fact::SYN) {
        // The window of its SYN was offered, too.
        edge.latest(peer.isn.add(1).add(me.edge.0))
    } else {
        edge
    };
    facts.edge = f.forget(edge);
    facts.flags |= fact::ACK | fact::MOVED_ON;
    if takes & take::OPEN == 0 || !situation.midstream {
        facts.flags |= fact::EDGE;
    } else if peer.has_end() && segment.ack == peer.end {
        facts.flags |= fact::SYNCED;
    }
    if takes & (take::COMPLETES | take::FIRST_ACK) != 0 {
        facts.ack = segment.ack;
    }
    let acks_syn = |ack: Seq| peer.has(fact::SYN) && ack.within(peer.isn.add(1), peer.end);
    if takes & take::COMPLETES != 0
        || acks_syn(segment.ack)
        || (me.has(fact::ACK) && acks_syn(me.ack))
    {
        facts.flags |= fact::ACKED_SYN;
    }
    if takes & take::EARLY != 0 {
        facts.flags |= fact::EARLY_DATA;
    }
    if segment.fragment {
        facts.flags |= fact::FRAGMENTED;
    }
    facts = f.forget(facts);
    let early = follows_early_fin(me, segment);
    if (segment.has(Flags::FIN) || early) && !me.has(fact::FIN) {
        facts.fin = end.sub(1);
        facts.flags = facts.flags & !fact::CLOSED_FIRST | fact::FIN;
        if early {
            // Sent before its receiver knew of a connection: the first one.
        } else if peer.has(fact::FIN) && segment.ack == peer.fin.add(1) {
            facts.flags |= fact::CLOSED_SECOND;
        } else if !peer.has_end()
            || segment.ack.after(peer.end)
            || (peer.ends_with_gap() && segment.ack == peer.end)
        {
            facts.flags |= fact::FIN_AHEAD;
        }
    }
    facts = f.forget(facts);
    let fin_before = me.has(fact::FIN) || (has_fin(me, peer) && !segment.has(Flags::FIN));
    if fin_before && peer.has(fact::FIN) {
        // Its first FIN did not acknowledge the peer's if it had not acknowledged it until now, or if this is a copy that
        // was overtaken by a later one.
        let old_copy = segment.has(Flags::FIN) && segment.ack.before(peer.fin.add(1));
        if old_copy || !me.has(fact::ACK) || me.ack.before(peer.fin.add(1)) {
            facts.flags |= fact::CLOSED_FIRST;
        }
    }
    // RFC 7323 section 4.3, with the last acknowledgment that was seen.
    let is_idle = situation.offers.is_idle;
    if segment.has_timestamp
        && (is_idle || !(has_timestamp(me) && segment.timestamp.before(me.ts)))
        && !(peer.has(fact::ACK) && segment.seq.after(peer.ack))
    {
        facts.ts = segment.timestamp;
        facts.flags |= fact::TS;
    }
    verdict.facts = f.forget(facts);
    // Only a FIN that comes again restarts 2MSL (T6): neither old duplicates nor forged ones keep TIME_WAIT alive.
    verdict.renew = takes & take::OPEN == 0 || segment.has(Flags::FIN) || !situation.in_time_wait();
    note_letter(verdict, segment);
}

/// Whether the segment is the first after its end's SYN or SYN,ACK, which came late, and shows that the end's FIN had come before
/// that: it repeats the FIN, or begins behind it. Its receiver had dropped that FIN (RFC 9293 section 3.10.7.3).
#[inline(always)]
const fn follows_early_fin(me: &Facts, segment: &Segment) -> bool {
    let is_there = segment.payload == 0 || segment.has(Flags::FIN);
    me.has(fact::SYN)
        && is_there
        && segment.end().0 == me.refused_end.0
        && me.has_early_fin(me.isn.add(1))
}

/// `a` or `d`, the first time that this end sends one.
#[inline(always)]
pub(super) fn note_letter(verdict: &mut Verdict, segment: &Segment) {
    let (bit, letter) = if segment.payload > 0 {
        (fact::DATA, Letter::Data)
    } else if segment.has(Flags::FIN) {
        return;
    } else {
        (fact::PURE_ACK, Letter::Ack)
    };
    if !verdict.facts.has(bit) {
        verdict.facts.flags |= bit;
        verdict.letter = Some(letter);
    }
}
