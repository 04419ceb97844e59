//! An RST, and what comes after it.

use super::{
    Ruling, Verdict, gap::is_short_gap, opening::continues_handshake, situation::Situation,
    syn::acknowledges_syn, synchronized::window_end, take,
};
use crate::{
    flow::{Facts, UNSCALED_WINDOW, fact},
    forget::VerifierBarrier,
    history::Letter,
    segment::{Flags, Segment},
    seq::Seq,
    state::{State, is_reset},
    violation::Rule,
};

/// How far behind the receiver's next number an RST may lie and still be taken for a late one, not a blind one.
const STALE: u32 = 1 << 20;

/// What is to be added to the sender's facts before its segment is judged: [`fact::OUTLIVED_RST`] where the segment shows
/// that an RST was refused. One that was not exact is taken at its word until then. Where the sender is elsewhere, what
/// it sends may have been under way; where it is here, it may have left while the RST was between our hook and the stack.
#[inline(always)]
#[must_use]
pub fn outlived(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> u32 {
    if (me.flags | peer.flags) & fact::RST == 0
        || segment.flags.only(Flags::SYN.with(Flags::RST)) != Flags(0)
    {
        return 0;
    }
    let refuses = if me.has(fact::RST) {
        peer.has(fact::OUTLIVED_RST) && me.has_end() && segment.end().after(me.end)
    } else {
        situation.leaves && shows_refusal(me, peer.refused_end, segment)
    };
    if refuses { fact::OUTLIVED_RST } else { 0 }
}

/// Whether a segment that leaves this host shows that its sender has refused the RST with the number `rst`. Where it
/// acknowledges that very number, its sender takes the RST. Where it acknowledges less, the rest may be on its way up with
/// the RST; an acknowledgment that says nothing new is the answer to the RST (RFC 5961 section 3.2).
#[inline(always)]
fn shows_refusal(me: &Facts, rst: Seq, segment: &Segment) -> bool {
    if me.has(fact::ACK) && segment.ack.before(rst) {
        segment.ack == me.ack && segment.payload == 0 && !segment.has(Flags::FIN)
    } else {
        segment.ack != rst
    }
}

/// A segment with neither SYN nor RST on a connection that was reset. What was under way may still arrive, also beyond the
/// RST's number, which is that of the segment it answers. What an end on this host sends after its own RST was not, nor
/// what either end acknowledges of the time after it. What arrives may be of another connection on its
/// key: the next, or the one before, if that was shortly before.
#[inline(always)]
pub(super) fn after_reset(
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
) -> Ruling {
    let leaves = situation.leaves;
    let end = segment.end();
    if !me.has(fact::RST) && peer.has(fact::FIN) && segment.ack == peer.fin.add(1) {
        // It had the peer's FIN before the RST: if its own was acknowledged, the RST found it in TIME_WAIT.
        return Ruling::take(take::LITTLE);
    }
    let fits = me.has_end() && segment.seq.within(me.isn, me.end.add(UNSCALED_WINDOW));
    let is_young = situation.other_isns && situation.offers.is_young;
    let has_other = situation.has_successor || situation.offers.repeats || is_young && !fits;
    if has_other && !leaves && !(peer.has_end() && segment.ack.within(peer.isn, peer.end)) {
        return Ruling::default();
    }
    let is_old = peer.refused_end != peer.end && peer.refused_end.within(peer.isn, peer.end);
    if !me.has(fact::RST) && peer.has_end() && segment.ack.after(peer.end) && !is_old {
        // Whoever acknowledges what was sent after the RST has not taken the RST. One behind what its sender has sent may be
        // refused: it answers a segment that crossed that.
        return Ruling::breach(Rule::DataAfterRst, Seq(0), Seq(0), Seq(0));
    }
    // Who acknowledges what was sent after its RST has not closed.
    let is_known = me.refused_ack != nothing_seen(me.refused_end);
    let lives = leaves || (is_known && segment.ack.after(me.refused_ack));
    // What is far from where it was is of a connection that a late copy of the SYN has begun.
    if lives && fits && me.has(fact::RST) && end.after(me.end) {
        return Ruling::breach(Rule::DataAfterRst, me.end, me.end, end);
    }
    Ruling::default()
}

/// What follows from the ruling on an RST, where `verdict` changes nothing so far.
#[inline(always)]
pub fn close(me: &Facts, peer: &Facts, segment: &Segment, ruling: &Ruling, verdict: &mut Verdict) {
    verdict.breach = ruling.broken();
    let takes = ruling.take;
    if takes == 0 {
        return;
    }
    let facts = &mut verdict.facts;
    let goes_further =
        me.has(fact::REFUSED) && !me.has(fact::FIN) && me.has_end() && me.refused_end.after(me.end);
    if goes_further && peer.has(fact::EDGE) && !me.refused_end.after(peer.edge) {
        facts.end = me.refused_end;
    }
    facts.forget_refused();
    facts.flags |= fact::RST;
    if takes & take::COMPLETES != 0 {
        facts.flags |= fact::RST_EXACT;
    }
    let known = if peer.has_end() { peer.end } else { nothing_seen(segment.seq) };
    (facts.refused_ack, facts.refused_end) = (known, segment.seq);
    verdict.renew = true;
    verdict.letter = (!me.has(fact::RST)).then_some(Letter::Rst);
}

/// In place of the end of what the peer of an RST's sender had sent, where nothing was seen of it: a number that no peer is at but
/// by chance, whatever the RST's.
#[inline(always)]
const fn nothing_seen(rst: Seq) -> Seq {
    rst.add(0x5555_5555)
}

/// Whether an RST would end TIME_WAIT of an end that let it, because a SYN of an old connection has brought it about (RFC 1337):
/// it lies in the window. Another one answers something else.
#[inline(always)]
#[must_use]
pub const fn assassinates(peer: &Facts, situation: &Situation, segment: &Segment) -> bool {
    situation.in_time_wait() && situation.old_syn && segment.seq.within(peer.ack, window_end(peer))
}

/// What an RST shows before its number is looked for in the window. Only the last four may come together.
pub mod sign {
    /// It is nothing to its receiver.
    pub const NOTHING: u8 = 0;
    /// It would end TIME_WAIT ([`super::assassinates`]).
    pub const ASSASSINATES: u8 = 1;
    /// It is to be looked at further.
    pub const ANY: u8 = 2;
    /// Its number is that of the receiver's last acknowledgment, or is confirmed otherwise.
    pub const EXACT: u8 = 4;
    /// Its number is that of its sender's FIN, which the receiver has closed after.
    pub const AT_FIN: u8 = 8;
    /// It answers a segment of the receiver that was refused, by that one's acknowledgment.
    pub const REFUSES: u8 = 16;
    /// The receiver itself has acknowledged its number, in a segment that was refused.
    pub const AGREES: u8 = 32;
}

/// The first part of judging an RST: bits of [`sign`], by which [`reset`] rules on it.
#[inline(always)]
#[must_use]
pub fn reset_signs<F: VerifierBarrier>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
) -> u8 {
    let Situation { open, old_syn, offers, .. } = *situation;
    let acks_other = offers.acks_other;
    // An RST of the connection before this one, or in answer to a segment of that.
    if offers.repeats && !open && !continues_handshake(me, peer, acks_other, segment) {
        return sign::NOTHING;
    }
    // An RST in TIME_WAIT is what a closed end answers to any duplicate, and a breach only where an old SYN has brought it
    // about.
    if situation.in_time_wait() && old_syn {
        let is_breach = assassinates(peer, situation, segment);
        return if is_breach { sign::ASSASSINATES } else { sign::NOTHING };
    }
    // The kernel's tcp_reset_check(): an end without a socket answers what was sent before its FIN with the FIN's number.
    let at_fin = me.has(fact::FIN)
        && segment.seq == me.fin
        && matches!(situation.theirs, State::CloseWait | State::LastAck | State::Closing);
    // Refused or not, the peer has said that it has got there.
    let peer_is_there = peer.has(fact::REFUSED) && segment.seq == peer.refused_ack;
    // Whoever has no connection answers any segment so, at the number that it acknowledges (RFC 9293 section 3.10.7.1): where little
    // was missed, it may be right.
    let echoes = peer_is_there && !segment.has(Flags::ACK);
    let is_near = me.has_end() && is_short_gap(me.end, segment.seq);
    if f.forget(open && echoes && !is_near) {
        return sign::NOTHING;
    }
    let agrees =
        peer_is_there && (open || (segment.has(Flags::ACK) && segment.ack == peer.refused_end));
    let exact = (peer.has(fact::ACK) && (segment.seq == peer.ack || at_fin)) || agrees;
    let (peer_is_there, agrees, exact) = f.forget((peer_is_there, agrees, exact));
    if me.has(fact::RST_EXACT) || (is_reset(me, peer) && !exact) {
        return sign::NOTHING;
    }
    // Nobody leaves TIME_WAIT by an RST, and one that is not right there is not worth a word.
    let waits = situation.in_time_wait() && situation.mine as u8 == State::TimeWait as u8;
    if waits || (situation.in_time_wait() && !exact) {
        return sign::NOTHING;
    }
    // It refuses a segment that was refused here too. If that one acknowledged the SYN, its sender takes the RST.
    let refuses = !open && peer_is_there && !agrees;
    if refuses && !(me.has(fact::SYN) && segment.seq.within(me.isn.add(1), me.end)) {
        return sign::NOTHING;
    }
    // In SYN_SENT, it refuses a SYN,ACK that does not acknowledge its SYN, and goes on (RFC 9293 section 3.10.7.3).
    let is_opening = me.has(fact::SYN) && me.flags & (fact::SYN_ACK | fact::ACK) == 0;
    if !open
        && is_opening
        && peer.has(fact::SYN_ACK)
        && segment.seq == peer.ack
        && !segment.has(Flags::ACK)
        && !peer.ack.within(me.isn.add(1), me.end)
    {
        return sign::NOTHING;
    }
    let signs = [
        (exact, sign::EXACT),
        (at_fin, sign::AT_FIN),
        (refuses, sign::REFUSES),
        (agrees, sign::AGREES),
    ];
    signs.into_iter().fold(sign::ANY, |all, (holds, sign)| all | if holds { sign } else { 0 })
}

/// The ruling on an RST (RFC 9293 sections 3.5.3 and 3.10.7, RFC 5961 section 3) with these [`reset_signs`], from which [`close`]
/// makes the [`Verdict`]; [`take::COMPLETES`] where it is exact.
#[inline(always)]
#[must_use]
pub fn reset<F: VerifierBarrier>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
    signs: u8,
) -> Ruling {
    if signs & sign::ANY == 0 {
        if signs & sign::ASSASSINATES != 0 {
            let last = window_end(peer);
            return Ruling::breach(Rule::TimeWaitAssassination, peer.ack, last, segment.seq);
        }
        return Ruling::default();
    }
    let Situation { open, midstream, other_isns, offers, .. } = *situation;
    let has = |sign| signs & sign != 0;
    let (exact, at_fin) = (has(sign::EXACT), has(sign::AT_FIN));
    let (refuses, agrees) = (has(sign::REFUSES), has(sign::AGREES));
    let accepted = Ruling::take(take::ANY | if exact { take::COMPLETES } else { 0 });
    if !open && !refuses && !agrees && peer.has(fact::SYN) && !peer.has(fact::ACK) {
        // The receiver is in SYN_SENT: the acknowledgment is what proves that its SYN was seen.
        let (low, high) = (peer.isn.add(1), peer.end);
        let proven = segment.ack.within(low, high) || offers.acks_other;
        return if segment.has(Flags::ACK) && proven {
            accepted
        } else {
            let actual = if segment.has(Flags::ACK) { segment.ack } else { Seq(0) };
            // It may answer what was refused, of which the last one alone is remembered.
            let breach = Ruling::breach(Rule::RstBadAckSynSent, low, high, actual);
            if peer.has(fact::REFUSED) { Ruling::default() } else { breach }
        };
    }
    let gave_up = offers.has_newer && me.has(fact::SYN) && acknowledges_syn(me, segment.seq);
    if !open && gave_up && situation.leaves && !peer.has(fact::BARE_SYN) {
        // It refuses the answer to a SYN that it has given up; the later one goes on. A peer that has sent a SYN, too, is no
        // listener: it has one socket, and closes that (RFC 9293 section 3.10.7.4). The later SYN of an end elsewhere may be
        // forged; if it is not, its handshake shows that.
        return Ruling::default();
    }
    // The receiver's next number lies between what it last acknowledged and all that was sent to it; where it was
    // never seen, it may be any that was sent to it.
    let (low, high) = if peer.has(fact::ACK) {
        let sent = if me.has_end() && me.end.after(peer.ack) { me.end } else { peer.ack };
        let refused = me.has(fact::REFUSED) && segment.seq == me.refused_end;
        let is_sent = refused && peer.has(fact::EDGE) && segment.seq.within(sent, peer.edge);
        (peer.ack, if is_sent { segment.seq } else { sent })
    } else if me.has_end() {
        let first = if me.has(fact::SYN) { me.isn.add(1) } else { me.isn };
        (if first.after(me.end) { me.end.sub(1 << 30) } else { first }, me.end)
    } else {
        return Ruling::default();
    };
    // Who has shrunk its window since then, and sends all of its segments from here, drops it.
    let is_shut = open
        && !exact
        && segment.seq.within(low, high)
        && !me.is_multipath(peer)
        && peer.has(fact::SEEN_OUT | fact::ACK)
        && !peer.has(fact::SEEN_IN)
        && segment.seq.after(peer.ack.add(peer.window << peer.scale(me)));
    if f.forget(is_shut) {
        return Ruling::default();
    }
    if segment.seq.within(low, high) || at_fin || refuses || agrees {
        let unasked = !open && !me.has_end() && peer.has(fact::SYN_ACK);
        return Ruling { rule: unasked.then_some(Rule::SynAckUnsolicited), ..accepted };
    }
    if peer.has(fact::EDGE) && segment.seq.within(low, peer.edge) {
        return Ruling::breach(Rule::RstInexact, low, high, segment.seq);
    }
    // An end in SYN_SENT answers whatever does not acknowledge its SYN with an RST at the number that it was given, which
    // is not kept (RFC 9293 section 3.10.7.3): a wrong SYN,ACK (H6), or a challenge ACK of a connection before our time.
    let answers_nonsense = !open && peer.seen() && !peer.has(fact::SYN);
    // An end in CLOSED or LISTEN answers a late copy of the SYN (RFC 9293 section 3.10.7.1).
    let answers_syn = segment.seq.0 == 0
        && segment.has(Flags::ACK)
        && peer.has(fact::SYN)
        && segment.ack == peer.isn.add(1);
    let began =
        if me.has(fact::SYN) && low.since(me.isn) < STALE { me.isn } else { low.sub(STALE) };
    let of_other =
        (other_isns && offers.is_young) || (me.has(fact::REFUSED) && segment.seq == me.refused_end);
    if midstream || of_other || answers_nonsense || answers_syn || segment.seq.within(began, low) {
        // A late one, also of the SYN or the connection before, which its receiver drops; in a flow picked up in its middle,
        // or after a gap, too little is known to tell.
        return Ruling::default();
    }
    Ruling::breach(Rule::RstOutOfWindow, low, high, segment.seq)
}
