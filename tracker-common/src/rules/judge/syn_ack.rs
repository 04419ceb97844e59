//! A SYN,ACK: the first, another one, one that answers nothing that was seen.

use super::{Ruling, Verdict, situation::Situation, syn::acknowledges_syn, take};
use crate::{
    flow::{Facts, Opening, UNSCALED_WINDOW, fact},
    forget::VerifierBarrier,
    history::Letter,
    segment::Segment,
    seq::Seq,
    state::State,
    violation::{Breach, Rule},
};

/// [`super::judge`] for a SYN,ACK.
#[inline(always)]
#[must_use]
pub fn syn_ack<F: VerifierBarrier>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
) -> Verdict {
    let ruling = rule_syn_ack(me, peer, situation, segment);
    let mut verdict = Verdict { breach: ruling.broken(), ..Verdict::nothing(me) };
    let takes = f.forget(ruling.take);
    if takes & (take::REFUSED | take::LITTLE) != 0 {
        // A refused SYN,ACK may answer a SYN that we missed: the peer's next segments show whether it did.
        let is_answered = takes & take::EARLY != 0;
        verdict.another_isn = takes & take::LITTLE != 0 || (peer.has(fact::SYN) && !is_answered);
        verdict.letter = (takes & take::LITTLE != 0).then_some(Letter::SynAck);
        let is_kept = is_answered || (!peer.has(fact::SYN) && !me.has(fact::SYN_ACK));
        // An end that has sent an RST keeps that instead.
        if is_kept && !me.has(fact::RST) {
            let facts = &mut verdict.facts;
            facts.flags |= fact::REFUSED;
            (facts.refused_ack, facts.refused_end) = (segment.ack, segment.end());
        }
    } else if takes & take::COMPLETES != 0 {
        acknowledge(&mut verdict.facts, segment.ack, segment.window.into());
        if !me.has_early_fin(segment.end()) {
            verdict.facts.forget_refused();
        }
        verdict.facts.flags |= fact::SYN_ACK | fact::ACKED_SYN;
        verdict.renew = true;
        verdict.letter = Some(Letter::SynAck);
    } else if takes != 0 {
        answer(me, peer, segment, &mut verdict);
    }
    verdict
}

/// The ruling on a SYN,ACK: [`take::ANY`] where it is its end's first, [`take::COMPLETES`] where it repeats its SYN,
/// [`take::LITTLE`] where it is another one, [`take::REFUSED`] where it answers nothing that was seen, with [`take::EARLY`] where
/// an RST is all that can answer it.
#[inline(always)]
fn rule_syn_ack(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Ruling {
    // An end that is closed may be in LISTEN again, and answer a late copy of the SYN (RFC 9293 figure 9).
    let is_closed = situation.mine as u8 == State::Closed as u8;
    let answers = acknowledges_syn(peer, segment.ack);
    let is_late = situation.other_isns && situation.offers.is_young && !situation.leaves;
    if situation.is_over() && is_late {
        // It may be of the connection before.
        return Ruling::default();
    }
    let answers_copy = segment.ack.within(peer.isn.add(1), peer.end);
    if is_closed && me.has(fact::ACK) && peer.has(fact::SYN) && answers_copy {
        // With data too, where another copy had none.
        return Ruling::default();
    }
    // Until both directions have been seen, what seems open may be a guess that this segment corrects.
    if situation.open && me.has(fact::ACK) {
        if segment.seq == me.isn && me.has(fact::SYN) {
            return Ruling::default();
        }
        // Its sender may have lost the connection, by an RST that we did not see, and answer a late copy of the SYN: the
        // peer's acknowledgment and the RST for that will show it (RFC 9293 section 3.5.1).
        let anew = me.has(fact::SYN_ACK) && peer.has(fact::SYN) && answers;
        let rule = if anew { Rule::SynAckAnew } else { Rule::SynAckInEstablished };
        return Ruling::breach(rule, me.isn, me.isn, segment.seq);
    }
    let expected = peer.isn.add(1);
    let rule = if situation.offers.acks_previous {
        Rule::OldIncarnationSynAck
    } else {
        Rule::SynAckBadAck
    };
    let bad_ack =
        Ruling { take: take::REFUSED, ..Ruling::breach(rule, expected, expected, segment.ack) };
    if me.has(fact::SYN_ACK) {
        // Before the peer's SYN was seen, what the first one acknowledged is what is known (H17).
        let answers = peer.has(fact::SYN) && (answers || situation.offers.acks_other);
        if segment.ack != me.ack && !answers {
            return bad_ack;
        }
        if (segment.seq == me.isn && segment.ack == me.ack) || situation.offers.is_known {
            return Ruling::default();
        }
        // A new ISN is right in answer to another SYN; the end that then acknowledges one of them decides.
        let other = Ruling::take(take::LITTLE);
        return if segment.ack == me.ack {
            other.and_breach(Rule::SynAckIsnChange, me.isn, me.isn, segment.seq)
        } else {
            other
        };
    }
    if me.has(fact::SYN) {
        // A simultaneous open (RFC 9293 figure 7) takes a SYN from either end.
        if !peer.has(fact::SYN) || peer.has(fact::SYN_ACK) && !peer.has(fact::BARE_SYN) {
            let breach = Ruling::breach(Rule::SynAckWrongDir, me.isn, me.isn, segment.seq);
            // A listener answers it with an RST at the number that it acknowledges (RFC 9293 section 3.10.7.2).
            return Ruling { take: take::REFUSED | take::EARLY, ..breach };
        }
        if !answers {
            return bad_ack;
        }
        if segment.seq == me.isn {
            return Ruling::take(take::COMPLETES);
        }
        if peer.has(fact::ACK) && acknowledges_syn(me, peer.ack) {
            // Whoever has taken a SYN goes on from that, and refuses this; unless it shows that somebody else has spoken for it.
            return Ruling::take(take::LITTLE | take::REFUSED).and_breach(
                Rule::SynAckIsnChange,
                me.isn,
                me.isn,
                segment.seq,
            );
        }
    } else if peer.has(fact::SYN) && !answers {
        return bad_ack;
    }
    Ruling::take(take::ANY)
}

/// The facts of an end's first SYN,ACK.
#[inline(always)]
fn answer(me: &Facts, peer: &Facts, segment: &Segment, verdict: &mut Verdict) {
    // What it sent before with another number, or somebody in its name, is not what it goes on from. Nobody has acknowledged
    // that: who answers the peer's SYN may have given up its own.
    let changes = me.has(fact::SYN);
    if changes {
        verdict.facts = Facts { flags: me.flags & fact::KEPT, ..Facts::default() };
    }
    Opening::of(segment).add_to(&mut verdict.facts);
    verdict.renew = true;
    verdict.letter = Some(Letter::SynAck);
    verdict.facts.flags |= fact::SYN_ACK;
    // A SYN's own window is never scaled (H14).
    acknowledge(&mut verdict.facts, segment.ack, segment.window.into());
    let mine = segment.seq.add(1);
    // What the peer sent before shows whether it knew this answer, or was sent blindly (H13).
    let is_blind =
        peer.has(fact::MOVED_ON | fact::ACK) && !peer.ack.within(mine, verdict.facts.end);
    if changes {
        // What the peer sent since may be an answer to either.
    } else if is_blind && peer.has(fact::EARLY_DATA) {
        verdict.breach = Some(Breach {
            rule: Rule::DataBeforeEstablished,
            low: mine.0,
            high: mine.0,
            actual: peer.ack.0,
        });
    } else if segment.payload > 0 && (verdict.facts.flags | peer.flags) & fact::FAST_OPEN == 0 {
        verdict.breach =
            Some(Breach { rule: Rule::SynAckWithData, low: 0, high: 0, actual: segment.payload });
    }
    if is_blind && peer.has(fact::SYN) {
        verdict.takes_back = true;
        // What seemed to come from here was measured by that.
        verdict.facts.end = segment.end();
        verdict.facts.flags &= !fact::MOVED_ON;
        verdict.facts.forget_gap();
    }
}

/// An end's facts without what came after its SYN, of which `ack` was acknowledged.
#[inline(always)]
#[must_use]
pub fn as_after_syn(peer: &Facts, ack: Seq) -> Facts {
    const OF_SYN: u32 = fact::SYN
        | fact::SYN_DATA
        | fact::SCALE
        | fact::SACK
        | fact::TIMESTAMPS
        | fact::FAST_OPEN
        | fact::MPTCP
        | fact::KEPT;
    let mut facts = Facts {
        end: ack,
        ack: Seq(0),
        edge: Seq(UNSCALED_WINDOW),
        refused_end: Seq(0),
        refused_ack: Seq(0),
        flags: peer.flags & OF_SYN,
        ..*peer
    };
    facts.forget_gap();
    facts
}

/// The sender's first acknowledgment.
#[inline(always)]
fn acknowledge(facts: &mut Facts, ack: Seq, window: u32) {
    facts.ack = ack;
    facts.edge = ack.add(window);
    facts.flags |= fact::ACK | fact::EDGE;
}
