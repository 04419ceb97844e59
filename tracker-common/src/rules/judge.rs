//! What one segment means for one flow: which facts it adds, and which rule it breaks.
//!
//! A segment that its receiver would drop (RFC 9293 section 3.10.7) adds no facts, so a forged one changes no state.

use crate::{
    flow::{Facts, Opening, UNSCALED_WINDOW, fact},
    forget::Forget,
    history::Letter,
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
    state::{State, has_fin, is_open, is_reset, state},
    violation::{Breach, Rule},
};

/// How far behind the receiver's next number an RST may lie and still be taken for a late one, not a blind one.
const STALE: u32 = 1 << 20;

/// What [`judge`] found.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// The sender's facts, this segment included.
    pub facts: Facts,
    /// Where `agrees`, its peer's facts with what was refused of the peer before and this segment confirms.
    pub peer: Facts,
    /// Whether `peer` holds.
    pub agrees: bool,
    /// The peer's facts beyond its SYN were sent blindly, and are none ([`as_after_syn`]).
    pub takes_back: bool,
    /// What it broke.
    pub breach: Option<Breach>,
    /// The flow's timer starts again.
    pub renew: bool,
    /// What to write into the history, before the `f` of a first FIN.
    pub letter: Option<Letter>,
    /// The SYN or SYN,ACK is another than the one known: to be remembered.
    pub another_isn: bool,
}

/// What is to be made of a segment with neither SYN nor RST: the first part of judging it, from which [`advance`], [`agree`] and
/// [`keep`] make the [`Verdict`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Ruling {
    /// What it broke.
    pub breach: Option<Breach>,
    /// Where it is to be kept as refused, its acknowledgment for that purpose.
    pub ack: Seq,
    /// Bits of [`take`]; 0 where it adds nothing.
    pub take: u8,
}

/// Bits of [`Ruling::take`].
pub mod take {
    /// The segment is acceptable.
    pub const ANY: u8 = 1;
    /// It completes the handshake.
    pub const COMPLETES: u8 = 2;
    /// Its acknowledgment is the first that is worth something.
    pub const FIRST_ACK: u8 = 4;
    /// Nothing was seen of what it acknowledges.
    pub const EARLY: u8 = 8;
    /// It is one of an open connection.
    pub const OPEN: u8 = 16;
    /// It is refused, and to be remembered until the peer says the same.
    pub const REFUSED: u8 = 32;
    /// It acknowledges a FIN of the peer's that was missed.
    pub const MISSED_FIN: u8 = 64;
    /// Only its letter, or the acknowledgment of an end that was reset, is worth something.
    pub const LITTLE: u8 = 128;
}

impl Ruling {
    #[inline(always)]
    const fn take(take: u8) -> Self {
        Self { breach: None, ack: Seq(0), take }
    }

    #[inline(always)]
    const fn refuse(ack: Seq) -> Self {
        Self { breach: None, ack, take: take::REFUSED }
    }

    #[inline(always)]
    const fn breach(rule: Rule, low: Seq, high: Seq, actual: Seq) -> Self {
        let breach = Breach { rule, low: low.0, high: high.0, actual: actual.0 };
        Self { breach: Some(breach), ack: Seq(0), take: 0 }
    }

    #[inline(always)]
    const fn and_breach(self, rule: Rule, low: Seq, high: Seq, actual: Seq) -> Self {
        Self { breach: Self::breach(rule, low, high, actual).breach, ..self }
    }
}

impl Verdict {
    /// A segment that changes nothing.
    #[inline(always)]
    pub(crate) const fn nothing(me: &Facts) -> Self {
        Self {
            facts: *me,
            peer: *me,
            agrees: false,
            takes_back: false,
            breach: None,
            renew: false,
            letter: None,
            another_isn: false,
        }
    }

    #[inline(always)]
    const fn breach(me: &Facts, rule: Rule, low: Seq, high: Seq, actual: Seq) -> Self {
        let mut verdict = Self::nothing(me);
        verdict.breach = Some(Breach { rule, low: low.0, high: high.0, actual: actual.0 });
        verdict
    }
}

/// What is known of a flow when a segment comes, beside the facts.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// State of the segment's sender.
    pub mine: State,
    /// State of its receiver.
    pub theirs: State,
    /// The handshake is complete.
    pub open: bool,
    /// The FIN of each end was seen.
    pub seen_fins: bool,
    /// The flow was picked up after its handshake.
    pub midstream: bool,
    /// A SYN of an old connection was seen in TIME_WAIT.
    pub old_syn: bool,
    /// The segment leaves this host, and its sender is here: it knows all that has arrived.
    pub leaves: bool,
    /// Other ISNs were used on its key shortly before.
    pub other_isns: bool,
    /// A newer SYN on its key waits among the half-open flows.
    pub has_successor: bool,
    /// What else is known beside the facts.
    pub offers: Offers,
}

/// What a half-open flow remembers of SYNs ([`crate::flow::HalfOpen`]), as one segment meets it, and what time has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offers {
    /// How many further SYNs the sender has sent.
    pub others: u32,
    /// The acknowledgment is one of another SYN of the receiver's ([`crate::flow::OtherOpenings`]).
    pub acks_other: bool,
    /// The acknowledgment minus one is the ISN of the connection before this one.
    pub acks_previous: bool,
    /// The flow began with the very SYN of the connection before this one: a late copy of it.
    pub repeats: bool,
    /// The segment is a SYN, or SYN,ACK, that is remembered.
    pub is_known: bool,
    /// The sender has sent a SYN with another ISN since the one that its half holds.
    pub has_newer: bool,
    /// It began so recently that segments of a connection before it may still be under way.
    pub is_young: bool,
    /// Nothing came for 24 days, so timestamps say nothing about age (RFC 7323 section 5.5).
    pub is_idle: bool,
}

/// What a flow notes of other connections on its key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past {
    /// A SYN of an old connection was seen in TIME_WAIT.
    pub old_syn: bool,
    /// Other ISNs were used shortly before.
    pub other_isns: bool,
    /// A newer SYN waits among the half-open flows.
    pub has_successor: bool,
}

impl Situation {
    /// The situation between an end that has sent `me` and one that has sent `peer`.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        me: &Facts,
        peer: &Facts,
        midstream: bool,
        marks: Past,
        leaves: bool,
        offers: Offers,
    ) -> Self {
        Self {
            mine: state(me, peer, midstream),
            theirs: state(peer, me, midstream),
            open: is_open(me, peer, midstream),
            seen_fins: me.has(fact::FIN) && peer.has(fact::FIN),
            midstream,
            old_syn: marks.old_syn,
            leaves,
            other_isns: marks.other_isns,
            has_successor: marks.has_successor,
            offers,
        }
    }

    /// Whether either end is in TIME_WAIT, as far as we know: a FIN may have been missed.
    #[inline(always)]
    #[must_use]
    pub const fn seems_in_time_wait(&self) -> bool {
        self.mine as u8 == State::TimeWait as u8 || self.theirs as u8 == State::TimeWait as u8
    }

    /// Whether either end is in TIME_WAIT, by FINs that were seen.
    #[inline(always)]
    #[must_use]
    pub const fn in_time_wait(&self) -> bool {
        self.seen_fins && self.seems_in_time_wait()
    }

    /// Whether both ends are CLOSED.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.mine as u8 == State::Closed as u8 && self.theirs as u8 == State::Closed as u8
    }
}

/// Judges `segment`, sent by the end that has sent `me` to the end that has sent `peer`. Whether a SYN on an open flow
/// opens a new connection is for [`crate::track`] to say.
#[inline(always)]
#[must_use]
pub fn judge(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    const NOTHING: &Remembers = &Remembers;
    if segment.has(Flags::RST) {
        return reset(NOTHING, me, peer, situation, segment);
    }
    if segment.has(Flags::SYN) {
        return if segment.has(Flags::ACK) {
            syn_ack(NOTHING, me, peer, situation, segment)
        } else {
            syn(me, peer, situation, segment)
        };
    }
    let ruling = others(NOTHING, me, peer, situation, segment);
    let mut verdict = Verdict::nothing(me);
    if ruling.take & take::ANY != 0 {
        advance(NOTHING, me, peer, situation, segment, ruling.take, &mut verdict);
        agree(NOTHING, peer, situation, segment, &mut verdict);
    } else {
        keep(me, peer, segment, &ruling, &mut verdict);
    }
    verdict
}

/// Forgets nothing: there is no verifier.
struct Remembers;

impl Forget for Remembers {}

/// The first part of [`judge`] for what has neither SYN nor RST.
#[inline(always)]
#[must_use]
pub fn others<F: Forget>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
) -> Ruling {
    if is_reset(me, peer) {
        return after_reset(me, peer, situation, segment);
    }
    let gap = Gap {
        goes_on: f.forget(goes_on_from_refused(me, peer, segment)),
        confirms: f.forget(acknowledges_refused(peer, segment)),
        again: f.forget(repeats_refused(me, segment)),
    };
    if situation.open {
        synchronized(f, me, peer, situation, segment, gap)
    } else {
        opening(f, me, peer, situation, segment, gap)
    }
}

/// What a segment has to do with those that were refused before.
#[derive(Clone, Copy)]
struct Gap {
    /// It begins where the peer, in one that was refused, said it had got to.
    goes_on: bool,
    /// It acknowledges data of the peer's that was refused.
    confirms: bool,
    /// It says about the same as one of the same end that was refused.
    again: bool,
}

impl Gap {
    /// It belongs to a gap that was reported.
    #[inline(always)]
    const fn is_known(self) -> bool {
        self.goes_on || self.confirms || self.again
    }
}

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
fn after_reset(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Ruling {
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
    if !me.has(fact::RST) && peer.has_end() && segment.ack.after(peer.end) {
        // Whoever acknowledges what was sent after the RST has not taken the RST.
        return Ruling::breach(Rule::DataAfterRst, Seq(0), Seq(0), Seq(0));
    }
    // Who acknowledges what was sent after its RST has not closed.
    let lives = leaves || (me.refused_ack.0 != 0 && segment.ack.after(me.refused_ack));
    // What is far from where it was is of a connection that a late copy of the SYN has begun.
    if lives && fits && me.has(fact::RST) && end.after(me.end) {
        return Ruling::breach(Rule::DataAfterRst, me.end, me.end, end);
    }
    Ruling::default()
}

/// TCP segments that offer so many ISNs on one pair of ends are a flood, not a host that tries again.
const TOO_MANY_ISNS: u32 = 10;

/// What a SYN means on a connection that is open or over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reopening {
    /// It belongs to this connection, or to an older one: nothing.
    Duplicate,
    /// It may begin a new connection on the same key (RFC 1122 section 4.2.2.13).
    Legal,
    /// Neither: the connection goes on, and its receiver answers with a challenge ACK (RFC 5961 section 4).
    Breach(Breach),
}

/// Judges a SYN without ACK on a connection that is open or over.
#[inline(always)]
#[must_use]
pub fn reopening(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Reopening {
    let own = if me.has(fact::SYN) {
        segment.seq == me.isn
    } else {
        // The handshake may have been seen backwards (H17).
        peer.has(fact::SYN_ACK) && segment.seq.before(peer.ack)
    };
    // Seen late, after the RST that ended the connection which it began.
    let late = !me.has(fact::SYN) && own && me.has_end() && segment.seq.add(1) == me.isn;
    if situation.is_over() && !late {
        Reopening::Legal
    } else if own {
        Reopening::Duplicate
    } else if situation.seems_in_time_wait() {
        // RFC 6191 section 2, as the kernel's tcp_timewait_state_process() does it: the clock decides where both have one and
        // it differs, else the number (RFC 1122 section 4.2.2.13).
        let has_clock = segment.has_timestamp && has_timestamp(me) && segment.timestamp != me.ts;
        let is_beyond = segment.seq.after(me.end);
        // Only who is in TIME_WAIT itself looks at the clock: a peer that is not knows nothing of it.
        let is_kept = situation.theirs as u8 == State::TimeWait as u8;
        let newer = if has_clock {
            segment.timestamp.after(me.ts) || (!is_kept && is_beyond)
        } else {
            is_beyond
        };
        if newer {
            Reopening::Legal
        } else {
            let low = me.end.add(1);
            Reopening::Breach(Breach {
                rule: Rule::SynInTimeWait,
                low: low.0,
                high: low.add(1 << 30).0,
                actual: segment.seq.0,
            })
        }
    } else {
        let expected = if me.has(fact::SYN) { me.isn.0 } else { me.end.0 };
        Reopening::Breach(Breach {
            rule: Rule::SynInEstablished,
            low: expected,
            high: expected,
            actual: segment.seq.0,
        })
    }
}

/// [`judge`] for a SYN without ACK. On an open flow it changes nothing.
#[inline(always)]
#[must_use]
pub fn syn(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    if situation.open {
        let breach = match reopening(me, peer, situation, segment) {
            Reopening::Breach(breach) => Some(breach),
            Reopening::Duplicate | Reopening::Legal => None,
        };
        return Verdict { breach, ..Verdict::nothing(me) };
    }
    if me.has(fact::SYN) {
        if segment.seq == me.isn {
            return syn_again(me, segment);
        }
        if me.has(fact::SYN_ACK) {
            // The SYN,ACK before it may have been forged.
            let breach = Verdict::breach(me, Rule::SynWrongDir, me.isn, me.isn, segment.seq);
            return Verdict { another_isn: true, ..breach };
        }
        if situation.offers.is_known {
            return Verdict::nothing(me);
        }
        // The same SYN sent anew with another ISN (H8), or one of many forged ones (H16): the handshake that completes
        // decides.
        let mut verdict = if situation.offers.others + 2 >= TOO_MANY_ISNS {
            Verdict::breach(me, Rule::SynFloodTuple, me.isn, me.isn, segment.seq)
        } else if peer.has(fact::SYN_ACK) {
            Verdict::breach(me, Rule::SynIsnChange, me.isn, me.isn, segment.seq)
        } else {
            Verdict::nothing(me)
        };
        verdict.another_isn = true;
        verdict.letter = Some(Letter::Syn);
        return verdict;
    }
    let mut verdict = first_syn(me, segment);
    if !me.has(fact::EDGE) {
        verdict.facts.edge = Seq(segment.window.into());
    }
    verdict.facts.flags |= fact::BARE_SYN;
    verdict.breach = data_in_syn(segment);
    // It is newer than the SYN,ACKs that were refused before.
    verdict.another_isn = situation.offers.others != 0;
    verdict
}

/// A SYN that comes again. What a copy offers beside, the one that is answered may have offered: where the answer offers it
/// too, it has.
#[inline(always)]
fn syn_again(me: &Facts, segment: &Segment) -> Verdict {
    let mut verdict = Verdict::nothing(me);
    if me.flags & (fact::SYN_ACK | fact::MOVED_ON) != 0 {
        return verdict;
    }
    verdict.facts.offer(&segment.options);
    verdict.facts.end = me.end.latest(segment.end());
    if !me.has(fact::EDGE) && u32::from(segment.window) > me.edge.0 {
        verdict.facts.edge = Seq(segment.window.into());
    }
    if segment.payload > 0 && !me.has(fact::SYN_DATA) {
        verdict.facts.flags |= fact::SYN_DATA;
        verdict.breach = data_in_syn(segment);
    }
    verdict
}

/// Data in a SYN, which it may have with Fast Open only (H5).
#[inline(always)]
fn data_in_syn(segment: &Segment) -> Option<Breach> {
    let forbidden = segment.payload > 0 && !segment.options.has(SynOptions::HAS_FAST_OPEN);
    forbidden.then_some(Breach {
        rule: Rule::SynWithData,
        low: 0,
        high: 0,
        actual: segment.payload,
    })
}

/// The facts of an end's first SYN or SYN,ACK.
#[inline(always)]
fn first_syn(me: &Facts, segment: &Segment) -> Verdict {
    let mut facts = *me;
    Opening::of(segment).add_to(&mut facts);
    Verdict { facts, renew: true, letter: Some(Letter::Syn), ..Verdict::nothing(me) }
}

/// Whether `ack` acknowledges the peer's SYN: its ISN plus one, and of its data, where it carried some, as much as was taken
/// (RFC 7413; RFC 9293 section 3.10.7.3: ISS < SEG.ACK =< SND.NXT).
#[inline(always)]
#[must_use]
pub const fn acknowledges_syn(peer: &Facts, ack: Seq) -> bool {
    let first = peer.isn.add(1);
    ack.0 == first.0 || (peer.has(fact::SYN_DATA) && ack.within(first, peer.end))
}

/// [`judge`] for a SYN,ACK.
#[inline(always)]
#[must_use]
pub fn syn_ack<F: Forget>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
) -> Verdict {
    let ruling = rule_syn_ack(me, peer, situation, segment);
    let mut verdict = Verdict { breach: ruling.breach, ..Verdict::nothing(me) };
    let takes = f.forget(ruling.take);
    if takes & (take::REFUSED | take::LITTLE) != 0 {
        // Of a refused one, we may have missed the SYN that it answers: the peer will show it.
        let is_answered = takes & take::EARLY != 0;
        verdict.another_isn = takes & take::LITTLE != 0 || (peer.has(fact::SYN) && !is_answered);
        verdict.letter = (takes & take::LITTLE != 0).then_some(Letter::SynAck);
        if is_answered || (!peer.has(fact::SYN) && !me.has(fact::SYN_ACK)) {
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
    if is_closed && me.has(fact::ACK) && peer.has(fact::SYN) && answers {
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

/// A segment with neither SYN nor RST before the handshake is complete.
#[inline(always)]
fn opening<F: Forget>(
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

/// Bytes that hosts let be under way at most: Linux sends and receives 6 MiB by default (`tcp_rmem`, `tcp_wmem`).
const LARGEST_WINDOW: u32 = 1 << 24;

/// A segment with neither SYN nor RST on an open connection (RFC 9293 section 3.10.7.4).
#[inline(always)]
fn synchronized<F: Forget>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
    gap: Gap,
) -> Ruling {
    let midstream = situation.midstream;
    let end = segment.end();
    if peer.has(fact::ACK) {
        // The kernel's tcp_sequence(): a segment that ends before what its receiver last acknowledged is an old one (a
        // retransmission, a keepalive, a zero-window probe: S4), and its acknowledgment is not looked at either.
        let is_missed = me.ends_with_gap() && end == me.end;
        let old_fin =
            segment.has(Flags::FIN) && !me.has(fact::FIN) && end == peer.ack && !is_missed;
        if end.before(peer.ack) || old_fin {
            return Ruling::take(take::LITTLE);
        }
    }
    // In a flow picked up in its middle, the peer may have sent more than we saw, and what was acknowledged may be forged.
    let is_measured = !peer.has(fact::FRAGMENTED) && (!midstream || me.has(fact::SYNCED));
    if is_measured && me.has(fact::ACK) && segment.ack.before(me.ack.sub(LARGEST_WINDOW)) {
        // Sent blindly: nothing on its way acknowledges so little (RFC 5961 section 5).
        return Ruling::default();
    }
    // A subflow's window counts from what the whole connection has acknowledged (RFC 8684 section 3.3.1), which is out of
    // sight.
    let slack = if me.is_multipath(peer) { LARGEST_WINDOW } else { 0 };
    let beyond_window =
        peer.has(fact::ACK | fact::EDGE) && segment.seq.after(peer.edge.add(slack)) && !gap.goes_on;
    let beyond_sent = peer.has_end()
        && segment.ack.after(peer.end)
        // Nothing follows a FIN.
        && (peer.has(fact::FIN) || (is_measured && !gap.confirms));
    let (beyond_window, beyond_sent) = f.forget((beyond_window, beyond_sent));
    if beyond_window || beyond_sent {
        return refuse(f, me, peer, segment, beyond_window, beyond_sent, gap);
    }
    if me.has(fact::FIN) && end.after(me.fin.add(1)) {
        return Ruling::breach(Rule::DataAfterFin, me.fin, me.fin.add(1), end);
    }
    // Only what was never sent before can be judged by its age: a network may deliver a first copy after the second.
    if segment.has_timestamp
        && has_timestamp(me)
        && !situation.offers.is_idle
        // One tick is forgiven, as the kernel's tcp_paws_check() does.
        && segment.timestamp.before(me.ts.sub(1))
        && me.has_end()
        && end.after(me.end)
    {
        let high = me.ts.add(1 << 30);
        return Ruling::refuse(last_ack(me, segment)).and_breach(
            Rule::PawsReject,
            me.ts,
            high,
            segment.timestamp,
        );
    }
    Ruling::take(take::ANY | take::OPEN)
}

/// A segment on an open connection that lies beyond the window, or acknowledges what was never sent, as far as we saw.
///
/// Either it is forged, or we missed packets. What it says is kept until the peer says the same: a forger speaks for one end
/// only. What belongs to the same gap is no second breach.
#[inline(always)]
fn refuse<F: Forget>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    segment: &Segment,
    beyond_window: bool,
    beyond_sent: bool,
    gap: Gap,
) -> Ruling {
    let is_fin = segment.has(Flags::FIN);
    let breach = if beyond_window {
        let rule = if is_fin { Rule::FinOutOfWindow } else { Rule::SeqOutOfWindow };
        Breach { rule, low: peer.ack.0, high: peer.edge.0, actual: segment.seq.0 }
    } else {
        let low = if me.has(fact::ACK) { me.ack } else { peer.end };
        let rule = if is_fin {
            Rule::FinBadAck
        } else if (me.flags | peer.flags) & fact::FIN != 0 {
            Rule::CloseBadAck
        } else {
            Rule::AckUnseenData
        };
        Breach { rule, low: low.0, high: peer.end.0, actual: segment.ack.0 }
    };
    let breach = f.forget((!gap.is_known()).then_some(breach));
    if !beyond_window && acknowledges_missed_fin(me, peer, segment) {
        return Ruling { breach, ..Ruling::take(take::MISSED_FIN) };
    }
    let ack = if beyond_sent { segment.ack } else { last_ack(me, segment) };
    Ruling { breach, ..Ruling::refuse(ack) }
}

/// Whether the segment is the one with which an end that has closed acknowledges its peer's FIN, where we missed that: its next
/// number, and one more than was seen of the peer. Should it have been data, the peer will go on.
#[inline(always)]
fn acknowledges_missed_fin(me: &Facts, peer: &Facts, segment: &Segment) -> bool {
    me.has(fact::FIN)
        && !peer.has(fact::FIN)
        && !peer.has(fact::REFUSED)
        && peer.has(fact::ACK)
        && segment.payload == 0
        && !segment.has(Flags::FIN)
        && segment.seq == me.fin.add(1)
        && segment.ack == peer.end.add(1)
        && !(me.has(fact::ACK) && segment.ack.before(me.ack))
}

/// What a segment that was not accepted leaves behind.
///
/// Where it was refused, that, and what it said: an end that has sent an RST keeps that instead.
#[inline(always)]
pub fn keep(me: &Facts, peer: &Facts, segment: &Segment, ruling: &Ruling, verdict: &mut Verdict) {
    verdict.breach = ruling.breach;
    let (ack, takes) = (ruling.ack, ruling.take);
    if takes & take::LITTLE != 0 {
        if is_reset(me, peer) {
            let facts = &mut verdict.facts;
            facts.ack = if me.has(fact::ACK) { me.ack.latest(segment.ack) } else { segment.ack };
            facts.flags |= fact::ACK;
        } else {
            note_letter(verdict, segment);
        }
        return;
    }
    if takes & take::MISSED_FIN != 0 {
        verdict.renew = true;
        verdict.facts.ack = segment.ack;
        verdict.facts.forget_refused();
        verdict.agrees = true;
        verdict.peer = *peer;
        verdict.peer.fin = peer.end;
        verdict.peer.end = segment.ack;
        return;
    }
    if takes & take::REFUSED == 0 || me.has(fact::RST) {
        return;
    }
    let facts = &mut verdict.facts;
    let end = segment.end();
    // The furthest of those that belong together.
    let together =
        me.has(fact::REFUSED) && is_near(end, me.refused_end) && is_near(ack, me.refused_ack);
    facts.refused_ack = if together { me.refused_ack.latest(ack) } else { ack };
    facts.flags |= fact::REFUSED;
    if together && end.before(me.refused_end) {
        return;
    }
    facts.refused_end = end;
    if !me.has(fact::FIN) && (!me.has_end() || end.after(me.end)) {
        if segment.has(Flags::FIN) {
            facts.fin = end.sub(1);
        } else if segment.payload == 0 {
            // Directly before it, something was missed.
            facts.fin = end;
        } else if me.has_end() {
            facts.forget_gap();
        } else {
            facts.fin = end.add(1);
        }
    }
}

/// What to remember of a refused segment that acknowledges nothing that was missed: no more than is known.
#[inline(always)]
const fn last_ack(me: &Facts, segment: &Segment) -> Seq {
    if me.has(fact::ACK) { me.ack } else { segment.ack }
}

/// Whether the segment says about the same as one of the same end that was refused before.
#[inline(always)]
const fn repeats_refused(me: &Facts, segment: &Segment) -> bool {
    me.has(fact::REFUSED)
        && is_near(segment.end(), me.refused_end)
        && is_near(segment.ack, me.refused_ack)
}

/// Whether `a` and `b` are no further apart than one packet may bring them.
#[inline(always)]
const fn is_near(a: Seq, b: Seq) -> bool {
    const NEAR: u32 = 1 << 17;
    a.within(b.sub(NEAR), b.add(NEAR))
}

/// Whether the segment begins where the peer, in one that was refused, said it had got to: both ends agree, so it was we who
/// missed data. A forger speaks for one end only.
#[inline(always)]
const fn goes_on_from_refused(me: &Facts, peer: &Facts, segment: &Segment) -> bool {
    let window =
        if !me.has_end() || is_short_gap(me.end, segment.seq) { peer.reach(me) } else { 0 };
    peer.has(fact::REFUSED)
        && (!peer.has(fact::ACK) || peer.refused_ack.after(peer.ack))
        && segment.seq.within(peer.refused_ack, peer.refused_ack.add(window))
}

/// Whether the segment acknowledges data of the peer's that was refused: it was sent, and we missed what came before.
#[inline(always)]
const fn acknowledges_refused(peer: &Facts, segment: &Segment) -> bool {
    peer.has(fact::REFUSED)
        && peer.has_end()
        && !peer.has(fact::FIN)
        && peer.refused_end.after(peer.end)
        && segment.ack.within(peer.end, peer.refused_end)
        && (segment.ack.0 == peer.refused_end.0 || is_short_gap(peer.end, segment.ack))
}

/// Whether what was missed between the two is little, so that two numbers which agree about it hardly do so by chance. Beyond
/// that, only equal ones agree.
#[inline(always)]
const fn is_short_gap(from: Seq, to: Seq) -> bool {
    const SHORT: u32 = 1 << 22;
    to.within(from, from.add(SHORT))
}

/// Whether a timestamp is known of an end. 0 is none (the kernel's tcp_paws_check()).
#[inline(always)]
const fn has_timestamp(me: &Facts) -> bool {
    me.has(fact::TS) && me.ts.0 != 0
}

/// Adds to the peer's facts what it said in a segment that was refused, and what this segment says, too.
///
/// - It has sent what this end acknowledges; its FIN only if that is acknowledged exactly.
/// - It has acknowledged what this end has sent, if where it was then is known to be right.
#[inline(always)]
pub fn agree<F: Forget>(
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
pub fn advance<F: Forget>(
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
    if facts.end != me.end || facts.ack != me.ack {
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
fn note_letter(verdict: &mut Verdict, segment: &Segment) {
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

/// [`judge`] for RST (RFC 9293 sections 3.5.3 and 3.10.7, RFC 5961 section 3).
#[inline(always)]
#[must_use]
pub fn reset<F: Forget>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
) -> Verdict {
    let ruling = rule_reset(f, me, peer, situation, segment);
    let mut verdict = Verdict { breach: ruling.breach, ..Verdict::nothing(me) };
    let takes = f.forget(ruling.take);
    if takes == 0 {
        return verdict;
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
    (facts.refused_ack, facts.refused_end) = (peer.end, segment.seq);
    verdict.renew = true;
    verdict.letter = (!me.has(fact::RST)).then_some(Letter::Rst);
    verdict
}

/// Whether an RST would end TIME_WAIT of an end that let it, because a SYN of an old connection has brought it about (RFC 1337):
/// it lies in the window. Another one answers something else.
#[inline(always)]
#[must_use]
pub const fn assassinates(peer: &Facts, situation: &Situation, segment: &Segment) -> bool {
    situation.in_time_wait() && situation.old_syn && segment.seq.within(peer.ack, window_end(peer))
}

/// Where the window ends that an end has offered.
#[inline(always)]
const fn window_end(peer: &Facts) -> Seq {
    if peer.has(fact::EDGE) { peer.edge } else { peer.ack }
}

/// The ruling on an RST; [`take::COMPLETES`] where it is exact.
#[inline(always)]
fn rule_reset<F: Forget>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
) -> Ruling {
    let Situation { open, midstream, old_syn, other_isns, offers, .. } = *situation;
    let acks_other = offers.acks_other;
    // Of the connection before this one, or in answer to a segment of that.
    if offers.repeats && !open && !continues_handshake(me, peer, acks_other, segment) {
        return Ruling::default();
    }
    // An RST in TIME_WAIT is what a closed end answers to any duplicate, and a breach only where an old SYN has brought it
    // about.
    if situation.in_time_wait() && old_syn {
        return if assassinates(peer, situation, segment) {
            let last = window_end(peer);
            Ruling::breach(Rule::TimeWaitAssassination, peer.ack, last, segment.seq)
        } else {
            Ruling::default()
        };
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
        return Ruling::default();
    }
    let agrees =
        peer_is_there && (open || (segment.has(Flags::ACK) && segment.ack == peer.refused_end));
    let exact = (peer.has(fact::ACK) && (segment.seq == peer.ack || at_fin)) || agrees;
    let (peer_is_there, agrees, exact) = f.forget((peer_is_there, agrees, exact));
    if me.has(fact::RST_EXACT) || (is_reset(me, peer) && !exact) {
        return Ruling::default();
    }
    // Nobody leaves TIME_WAIT by an RST, and one that is not right there is not worth a word.
    let waits = situation.in_time_wait() && situation.mine as u8 == State::TimeWait as u8;
    if waits || (situation.in_time_wait() && !exact) {
        return Ruling::default();
    }
    // It refuses a segment that was refused here too. If that one acknowledged the SYN, its sender takes the RST.
    let refuses = !open && peer_is_there && !agrees;
    if refuses && !(me.has(fact::SYN) && segment.seq.within(me.isn.add(1), me.end)) {
        return Ruling::default();
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
        return Ruling::default();
    }
    let accepted = Ruling::take(take::ANY | if exact { take::COMPLETES } else { 0 });
    if !open && !refuses && !agrees && peer.has(fact::SYN) && !peer.has(fact::ACK) {
        // The receiver is in SYN_SENT: the acknowledgment is what proves that its SYN was seen.
        let (low, high) = (peer.isn.add(1), peer.end);
        let proven = segment.ack.within(low, high) || acks_other;
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
        // It refuses the answer to a SYN that it has given up; the later one goes on. Who has sent a SYN, too, is no listener:
        // it has one socket, and closes that (RFC 9293 section 3.10.7.4). Of an end elsewhere, somebody else may have sent the
        // later SYN; if not, its handshake shows that.
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
        let breach = Breach { rule: Rule::SynAckUnsolicited, low: 0, high: 0, actual: 0 };
        return Ruling { breach: unasked.then_some(breach), ..accepted };
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
