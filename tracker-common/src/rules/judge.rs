//! What one segment means for one flow: which facts it adds, and which rule it breaks.
//!
//! A segment that its receiver would drop (RFC 9293 section 3.10.7) adds no facts, so a forged one changes no state.

use crate::{
    flow::{Facts, fact},
    history::Letter,
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
    state::{State, is_open, is_reset, state},
    violation::{Breach, Rule},
};

/// How far behind the receiver's next number an RST may lie and still be taken for a late one, not a blind one.
const STALE: u32 = 1 << 20;

/// A window that nothing is known about: the largest that is not scaled.
const UNSCALED_WINDOW: u32 = 0xffff;

/// What [`judge`] found.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// The sender's facts, this segment included.
    pub facts: Facts,
    /// What it broke.
    pub breach: Option<Breach>,
    /// The flow's timer starts again.
    pub renew: bool,
    /// What to write into the history, before the `f` of a first FIN.
    pub letter: Option<Letter>,
    /// The SYN carried another ISN than the one known: to be remembered.
    pub another_isn: bool,
    /// The acknowledgment chose another of the peer's ISNs: its own minus one.
    pub chooses_isn: bool,
}

impl Verdict {
    /// A segment that changes nothing.
    #[inline(always)]
    const fn nothing(me: &Facts) -> Self {
        Self {
            facts: *me,
            breach: None,
            renew: false,
            letter: None,
            another_isn: false,
            chooses_isn: false,
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
    /// The flow was picked up after its handshake.
    pub midstream: bool,
    /// A SYN of an old connection was seen in TIME_WAIT.
    pub old_syn: bool,
    /// The segment leaves this host, and its sender is here: it knows all that has arrived.
    pub leaves: bool,
    /// What the handshake remembers besides the facts.
    pub offers: Offers,
}

/// What a half-open flow remembers of ISNs ([`crate::flow::HalfOpen`]), as one segment meets it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offers {
    /// The acknowledgment minus one is another ISN that the receiver has offered ([`crate::flow::OtherIsns`]).
    pub acks_other: bool,
    /// The acknowledgment minus one is the ISN of the connection before this one.
    pub acks_previous: bool,
    /// The flow began with the very SYN of the connection before this one: a late copy of it.
    pub repeats: bool,
    /// How many further ISNs the sender has offered.
    pub others: u32,
}

impl Situation {
    /// The situation between an end that has sent `me` and one that has sent `peer`.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        me: &Facts,
        peer: &Facts,
        midstream: bool,
        old_syn: bool,
        leaves: bool,
        offers: Offers,
    ) -> Self {
        Self {
            mine: state(me, peer, midstream),
            theirs: state(peer, me, midstream),
            open: is_open(me, peer, midstream),
            midstream,
            old_syn,
            leaves,
            offers,
        }
    }

    /// Whether either end is in TIME_WAIT.
    #[inline(always)]
    #[must_use]
    pub const fn in_time_wait(&self) -> bool {
        self.mine as u8 == State::TimeWait as u8 || self.theirs as u8 == State::TimeWait as u8
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
    if segment.has(Flags::RST) {
        reset(me, peer, situation, segment)
    } else {
        not_reset(me, peer, situation, segment)
    }
}

/// [`judge`] for all but RST.
#[inline(always)]
#[must_use]
pub fn not_reset(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    if is_reset(me, peer) && !segment.has(Flags::SYN) {
        after_reset(me, peer, situation.leaves, segment)
    } else if segment.has(Flags::SYN) {
        if segment.has(Flags::ACK) {
            syn_ack(me, peer, situation, segment)
        } else {
            syn(me, peer, situation, segment)
        }
    } else if situation.open {
        synchronized(me, peer, situation, segment)
    } else {
        opening(me, peer, situation.offers, segment)
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
/// what either end acknowledges of the time after it.
#[inline(always)]
fn after_reset(me: &Facts, peer: &Facts, leaves: bool, segment: &Segment) -> Verdict {
    let end = segment.end();
    if !me.has(fact::RST) && peer.has(fact::FIN) && segment.ack == peer.fin.add(1) {
        // It had the peer's FIN before the RST: if its own was acknowledged, the RST found it in TIME_WAIT.
        let mut verdict = Verdict::nothing(me);
        verdict.facts.ack =
            if me.has(fact::ACK) { me.ack.latest(segment.ack) } else { segment.ack };
        verdict.facts.flags |= fact::ACK;
        return verdict;
    }
    if !me.has(fact::RST) && peer.has_end() && segment.ack.after(peer.end) {
        // Whoever acknowledges what was sent after the RST has not taken the RST.
        return Verdict::breach(me, Rule::DataAfterRst, Seq(0), Seq(0), Seq(0));
    }
    // Who acknowledges what was sent after its RST has not closed.
    let lives = leaves || (me.refused_ack.0 != 0 && segment.ack.after(me.refused_ack));
    if lives && me.has(fact::RST) && me.has_end() && end.after(me.end) {
        return Verdict::breach(me, Rule::DataAfterRst, me.end, me.end, end);
    }
    Verdict::nothing(me)
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
    if situation.is_over() {
        Reopening::Legal
    } else if own {
        Reopening::Duplicate
    } else if situation.in_time_wait() {
        // RFC 1122 section 4.2.2.13, and RFC 6191: the number lies beyond the old connection, or the clock does.
        let newer = segment.has_timestamp && me.has(fact::TS) && segment.timestamp.after(me.ts);
        if segment.seq.after(me.end) || newer {
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

/// SYN without ACK. On an open flow it changes nothing.
#[inline(always)]
fn syn(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    if situation.open {
        let breach = match reopening(me, peer, situation, segment) {
            Reopening::Breach(breach) => Some(breach),
            Reopening::Duplicate | Reopening::Legal => None,
        };
        return Verdict { breach, ..Verdict::nothing(me) };
    }
    if me.has(fact::SYN) {
        if segment.seq == me.isn {
            return Verdict::nothing(me);
        }
        if me.has(fact::SYN_ACK) {
            return Verdict::breach(me, Rule::SynWrongDir, me.isn, me.isn, segment.seq);
        }
        // The same SYN sent anew with another ISN (H8), or one of many forged ones (H16): the answer decides.
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
    if segment.payload > 0 && !segment.options.has(SynOptions::HAS_FAST_OPEN) {
        verdict.breach =
            Some(Breach { rule: Rule::SynWithData, low: 0, high: 0, actual: segment.payload });
    }
    verdict
}

/// The facts of an end's first SYN or SYN,ACK.
#[inline(always)]
fn first_syn(me: &Facts, segment: &Segment) -> Verdict {
    let mut facts = *me;
    facts.isn = segment.seq;
    facts.end = if me.has_end() { me.end.latest(segment.end()) } else { segment.end() };
    facts.flags |= fact::SYN;
    if segment.payload > 0 {
        facts.flags |= fact::SYN_DATA;
    }
    facts.offer(&segment.options);
    Verdict { facts, renew: true, letter: Some(Letter::Syn), ..Verdict::nothing(me) }
}

/// Whether `ack` acknowledges the peer's SYN: its ISN plus one, or its data too where it carried some (RFC 7413).
#[inline(always)]
fn acknowledges_syn(peer: &Facts, ack: Seq, acks_other_isn: bool) -> bool {
    ack == peer.isn.add(1) || (peer.has(fact::SYN_DATA) && ack == peer.end) || acks_other_isn
}

#[inline(always)]
fn syn_ack(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    let acks_other_isn = situation.offers.acks_other;
    // An end that is closed may be in LISTEN again, and answer a late copy of the SYN (RFC 9293 figure 9).
    let is_closed = situation.mine as u8 == State::Closed as u8;
    let answers_late = peer.has(fact::SYN) && acknowledges_syn(peer, segment.ack, false);
    if is_closed && me.has(fact::ACK) && answers_late {
        return Verdict::nothing(me);
    }
    // Until both directions have been seen, what seems open may be a guess that this segment corrects.
    if situation.open && me.has(fact::ACK) {
        if segment.seq == me.isn && me.has(fact::SYN) {
            return Verdict::nothing(me);
        }
        // Its sender may have lost the connection, by an RST that we did not see, and answer a late copy of the SYN: the
        // peer's acknowledgment and the RST for that will show it (RFC 9293 section 3.5.1).
        let anew = me.has(fact::SYN_ACK)
            && peer.has(fact::SYN)
            && acknowledges_syn(peer, segment.ack, false);
        let rule = if anew { Rule::SynAckAnew } else { Rule::SynAckInEstablished };
        return Verdict::breach(me, rule, me.isn, me.isn, segment.seq);
    }
    let answers = acknowledges_syn(peer, segment.ack, acks_other_isn);
    let expected = peer.isn.add(1);
    let rule = if situation.offers.acks_previous {
        Rule::OldIncarnationSynAck
    } else {
        Rule::SynAckBadAck
    };
    let bad_ack = Verdict::breach(me, rule, expected, expected, segment.ack);
    if me.has(fact::SYN_ACK) {
        // Before the peer's SYN was seen, what the first one acknowledged is what is known (H17).
        if segment.ack != me.ack && !(peer.has(fact::SYN) && answers) {
            return bad_ack;
        }
        if segment.seq == me.isn {
            return Verdict::nothing(me);
        }
        // A new ISN is right in answer to another SYN; the end that then acknowledges one of them decides.
        let mut verdict = if segment.ack == me.ack {
            Verdict::breach(me, Rule::SynAckIsnChange, me.isn, me.isn, segment.seq)
        } else {
            Verdict::nothing(me)
        };
        verdict.another_isn = true;
        verdict.letter = Some(Letter::SynAck);
        return verdict;
    }
    if me.has(fact::SYN) {
        if !peer.has(fact::SYN) {
            return Verdict::breach(me, Rule::SynAckWrongDir, me.isn, me.isn, segment.seq);
        }
        // Simultaneous open: the second segment repeats the SYN (RFC 9293 figure 7).
        if !answers || segment.seq != me.isn {
            return bad_ack;
        }
        let mut facts = *me;
        acknowledge(&mut facts, segment.ack, segment.window.into());
        facts.flags |= fact::SYN_ACK | fact::ACKED_SYN;
        return Verdict {
            facts,
            renew: true,
            letter: Some(Letter::SynAck),
            chooses_isn: acks_other_isn && segment.ack != expected,
            ..Verdict::nothing(me)
        };
    }
    if peer.has(fact::SYN) && !answers {
        return bad_ack;
    }
    let mut verdict = first_syn(me, segment);
    verdict.letter = Some(Letter::SynAck);
    verdict.chooses_isn = peer.has(fact::SYN) && acks_other_isn && segment.ack != expected;
    verdict.facts.flags |= fact::SYN_ACK;
    // A SYN's own window is never scaled (H14).
    acknowledge(&mut verdict.facts, segment.ack, segment.window.into());
    let mine = segment.seq.add(1);
    if peer.has(fact::EARLY_DATA) && !peer.ack.within(mine, verdict.facts.end) {
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
    verdict
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
fn opening(me: &Facts, peer: &Facts, offers: Offers, segment: &Segment) -> Verdict {
    let acks_other_isn = offers.acks_other;
    if offers.repeats
        && !me.has(fact::SYN_ACK)
        && !continues_handshake(me, peer, acks_other_isn, segment)
    {
        // As late as the SYN, of the same connection. Its receiver refuses it.
        let mut verdict = Verdict::nothing(me);
        verdict.facts.refused_ack = segment.ack;
        return verdict;
    }
    let substance = segment.payload > 0 || segment.has(Flags::FIN);
    if !peer.has(fact::SYN) {
        if !me.has(fact::SYN) {
            return Verdict::nothing(me);
        }
        if peer.seen() {
            // The peer is in sight and has not sent its SYN, so this end cannot have answered it.
            return if substance {
                Verdict::breach(me, Rule::DataBeforeEstablished, me.isn, me.isn, segment.seq)
            } else {
                Verdict::nothing(me)
            };
        }
        // Either we see one direction only and the handshake went well (S9), or this segment came too early. A SYN,ACK
        // that shows up later decides it; until then nothing is a violation.
        if !segment.seq.within(me.isn, me.isn.add(1 << 30)) {
            return Verdict::nothing(me);
        }
        let mut verdict = advance(me, peer, segment);
        verdict.facts.ack = segment.ack;
        if substance && !me.has(fact::MOVED_ON) {
            verdict.facts.flags |= fact::EARLY_DATA;
        }
        return verdict;
    }
    if me.has(fact::SYN_ACK) && !peer.has(fact::SYN_ACK) {
        // The responder goes on before its SYN is acknowledged, as Fast Open lets it.
        let right =
            segment.ack.within(me.ack, peer.end) && segment.seq.within(me.isn, me.isn.add(1 << 30));
        if right {
            return advance(me, peer, segment);
        }
        let mut verdict = Verdict::nothing(me);
        if segment.ack.after(peer.end) && segment.seq.within(me.isn, me.isn.add(1 << 30)) {
            // Either we missed what it acknowledges, which the originator will show, or it is forged.
            verdict.facts.refused_ack = segment.ack;
            verdict.facts.refused_end = segment.end();
        }
        return verdict;
    }
    if !me.has(fact::SYN) && !peer.has(fact::SYN_ACK) {
        // The responder acknowledges instead of answering with its SYN. If it acknowledges the SYN, its own may follow (a
        // split handshake, H18); if not, it takes the SYN for a part of an older connection.
        let expected = peer.isn.add(1);
        return if acknowledges_syn(peer, segment.ack, acks_other_isn) {
            Verdict::nothing(me)
        } else {
            Verdict::breach(me, Rule::AckWrongDir, expected, expected, segment.ack)
        };
    }
    completing(me, peer, acks_other_isn, segment)
}

/// The segment that completes the handshake: it acknowledges the peer's SYN, and lies in the window that the peer
/// offered with it. It may be later than the next expected one, where earlier ones were lost (H4, H7).
#[inline(always)]
fn completing(me: &Facts, peer: &Facts, acks_other_isn: bool, segment: &Segment) -> Verdict {
    let (ack_low, ack_high) = (peer.isn.add(1), peer.end);
    let seq_low = if peer.has(fact::ACK) { peer.ack } else { me.isn.add(1) };
    let seq_high = if peer.has(fact::EDGE) { peer.edge } else { seq_low.add(UNSCALED_WINDOW) };
    let good_ack = segment.ack.within(ack_low, ack_high) || acks_other_isn;
    // A FIN has a number of its own, which is a new one.
    let least = if segment.has(Flags::FIN) { seq_low.add(1) } else { seq_low };
    let good_seq = !segment.end().before(least) && !segment.seq.after(seq_high);
    // The originator goes on from where the responder, refused, said it was: both agree, so it was we who missed something.
    let both_agree = peer.refused_ack.0 != 0
        && peer.refused_end.0 != 0
        && segment.seq.within(peer.refused_ack, peer.refused_ack.add(UNSCALED_WINDOW))
        && segment.ack.within(ack_low, peer.refused_end);
    match (good_seq || both_agree, good_ack || both_agree) {
        (true, true) => {
            let mut verdict = advance(me, peer, segment);
            verdict.facts.ack = segment.ack;
            verdict.facts.flags |= fact::ACKED_SYN;
            verdict.chooses_isn = acks_other_isn && !segment.ack.within(ack_low, ack_high);
            verdict
        }
        (false, true) => {
            let mut verdict =
                Verdict::breach(me, Rule::HandshakeAckBadSeq, seq_low, seq_high, segment.seq);
            verdict.facts.refused_ack = segment.ack;
            verdict
        }
        (_, false) => {
            let rule = if good_seq { Rule::HandshakeAckBadAck } else { Rule::HandshakeBadSeqAck };
            let mut verdict = Verdict::breach(me, rule, ack_low, ack_high, segment.ack);
            verdict.facts.refused_ack = segment.ack;
            verdict
        }
    }
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
        return segment.has(Flags::RST) && me.has(fact::SYN) && segment.seq == me.isn.add(1);
    }
    peer.has(fact::SYN) && (segment.ack.within(peer.isn.add(1), peer.end) || acks_other_isn)
}

/// A segment with neither SYN nor RST on an open connection (RFC 9293 section 3.10.7.4).
#[inline(always)]
fn synchronized(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    let midstream = situation.midstream;
    let end = segment.end();
    if peer.has(fact::ACK) {
        // The kernel's tcp_sequence(): a segment that ends before what its receiver last acknowledged is an old one (a
        // retransmission, a keepalive, a zero-window probe: S4), and its acknowledgment is not looked at either.
        let old_fin = segment.has(Flags::FIN) && !me.has(fact::FIN) && end == peer.ack;
        if end.before(peer.ack) || old_fin {
            let mut verdict = Verdict::nothing(me);
            note_letter(&mut verdict, segment);
            return verdict;
        }
        if peer.has(fact::EDGE)
            && segment.seq.after(peer.edge)
            && !goes_on_from_refused(peer, segment)
        {
            let rule =
                if segment.has(Flags::FIN) { Rule::FinOutOfWindow } else { Rule::SeqOutOfWindow };
            let mut verdict = Verdict::breach(me, rule, peer.ack, peer.edge, segment.seq);
            verdict.facts.refused_end = end;
            return verdict;
        }
    }
    if peer.has_end()
        && segment.ack.after(peer.end)
        // Nothing follows a FIN. In a flow picked up in its middle, the peer may have sent more than we saw.
        && (peer.has(fact::FIN)
            || (!peer.has(fact::FRAGMENTED)
                && (!midstream || me.has(fact::SYNCED))
                && !acknowledges_refused(peer, segment)))
    {
        let low = if me.has(fact::ACK) { me.ack } else { peer.end };
        let rule = if segment.has(Flags::FIN) {
            Rule::FinBadAck
        } else if (me.flags | peer.flags) & fact::FIN != 0 {
            Rule::CloseBadAck
        } else {
            Rule::AckUnseenData
        };
        let mut verdict = Verdict::breach(me, rule, low, peer.end, segment.ack);
        verdict.facts.refused_ack = segment.ack;
        return verdict;
    }
    if me.has(fact::FIN) && end.after(me.fin.add(1)) {
        return Verdict::breach(me, Rule::DataAfterFin, me.fin, me.fin.add(1), end);
    }
    // Only what was never sent before can be judged by its age: a network may deliver a first copy after the second.
    if segment.has_timestamp
        && me.has(fact::TS)
        // One tick is forgiven, as the kernel's tcp_paws_check() does.
        && segment.timestamp.before(me.ts.sub(1))
        && me.has_end()
        && end.after(me.end)
    {
        let high = me.ts.add(1 << 30);
        let mut verdict = Verdict::breach(me, Rule::PawsReject, me.ts, high, segment.timestamp);
        verdict.facts.refused_end = end;
        return verdict;
    }
    let mut verdict = advance(me, peer, segment);
    if midstream {
        verdict.facts.flags &= !fact::EDGE | me.flags;
        if peer.has_end() && segment.ack == peer.end {
            verdict.facts.flags |= fact::SYNCED;
        }
    }
    // Only a FIN that comes again restarts 2MSL (T6): neither old duplicates nor forged ones keep TIME_WAIT alive.
    verdict.renew = segment.has(Flags::FIN) || !situation.in_time_wait();
    verdict
}

/// Whether the segment begins where the peer, in an acknowledgment that was refused, said it had got to: both ends agree,
/// so it was we who missed data. A forger speaks for one end only.
#[inline(always)]
const fn goes_on_from_refused(peer: &Facts, segment: &Segment) -> bool {
    let window = peer.edge.since(peer.ack);
    peer.refused_ack.0 != 0
        && peer.refused_ack.after(peer.ack)
        && segment.seq.within(peer.refused_ack, peer.refused_ack.add(window))
}

/// Whether the segment acknowledges data of the peer's that was refused: it was we who missed a window update.
#[inline(always)]
const fn acknowledges_refused(peer: &Facts, segment: &Segment) -> bool {
    peer.refused_end.0 != 0
        && peer.refused_end.after(peer.end)
        && segment.ack.within(peer.end, peer.refused_end)
}

/// The facts that an acceptable segment adds.
#[inline(always)]
fn advance(me: &Facts, peer: &Facts, segment: &Segment) -> Verdict {
    let mut facts = *me;
    let end = segment.end();
    if !me.has_end() {
        facts.isn = segment.seq;
    }
    facts.end = if me.has_end() { me.end.latest(end) } else { end };
    let edge = segment.ack.add(u32::from(segment.window) << me.scale(peer));
    facts.ack = if me.has(fact::ACK) { me.ack.latest(segment.ack) } else { segment.ack };
    facts.edge = if me.has(fact::EDGE) { me.edge.latest(edge) } else { edge };
    facts.flags |= fact::ACK | fact::EDGE | fact::MOVED_ON;
    let acks_syn = |ack: Seq| peer.has(fact::SYN) && ack.within(peer.isn.add(1), peer.end);
    if acks_syn(segment.ack) || (me.has(fact::ACK) && acks_syn(me.ack)) {
        facts.flags |= fact::ACKED_SYN;
    }
    if segment.fragment {
        facts.flags |= fact::FRAGMENTED;
    }
    if segment.has(Flags::FIN) && !me.has(fact::FIN) {
        facts.fin = end.sub(1);
        facts.flags |= fact::FIN;
        if peer.has(fact::FIN) && segment.ack == peer.fin.add(1) {
            facts.flags |= fact::CLOSED_SECOND;
        } else if !peer.has_end() || segment.ack.after(peer.end) {
            facts.flags |= fact::FIN_AHEAD;
        }
    }
    if me.has(fact::FIN) && peer.has(fact::FIN) {
        // Its first FIN did not acknowledge the peer's if it had not acknowledged it until now, or if this is a copy that
        // was overtaken by a later one.
        let old_copy = segment.has(Flags::FIN) && segment.ack.before(peer.fin.add(1));
        if old_copy || me.ack.before(peer.fin.add(1)) {
            facts.flags |= fact::CLOSED_FIRST;
        }
    }
    // RFC 7323 section 4.3, with the last acknowledgment that was seen.
    if segment.has_timestamp
        && !(me.has(fact::TS) && segment.timestamp.before(me.ts))
        && !(peer.has(fact::ACK) && segment.seq.after(peer.ack))
    {
        facts.ts = segment.timestamp;
        facts.flags |= fact::TS;
    }
    let mut verdict = Verdict { facts, renew: true, ..Verdict::nothing(me) };
    note_letter(&mut verdict, segment);
    verdict
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
pub fn reset(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    let Situation { open, midstream, old_syn, offers, .. } = *situation;
    let acks_other = offers.acks_other;
    // Of the connection before this one, or in answer to a segment of that.
    if offers.repeats && !open && !continues_handshake(me, peer, acks_other, segment) {
        return Verdict::nothing(me);
    }
    // An RST in TIME_WAIT is what a closed end answers to any duplicate, and a breach only where an old SYN has brought it
    // about.
    if situation.in_time_wait() && old_syn {
        return Verdict::breach(me, Rule::TimeWaitAssassination, peer.ack, peer.ack, segment.seq);
    }
    // The kernel's tcp_reset_check(): an end without a socket answers what was sent before its FIN with the FIN's number.
    let at_fin = me.has(fact::FIN)
        && segment.seq == me.fin
        && matches!(situation.theirs, State::CloseWait | State::LastAck | State::Closing);
    let exact = peer.has(fact::ACK) && (segment.seq == peer.ack || at_fin);
    if me.has(fact::RST_EXACT) || (is_reset(me, peer) && !exact) {
        return Verdict::nothing(me);
    }
    // Nobody leaves TIME_WAIT by an RST, and one that is not right there is not worth a word.
    let waits = situation.mine as u8 == State::TimeWait as u8;
    if waits || (situation.in_time_wait() && !exact) {
        return Verdict::nothing(me);
    }
    // It refuses a segment that was refused here too. If that one acknowledged the SYN, its sender takes the RST.
    let refuses = !open && peer.refused_ack.0 != 0 && segment.seq == peer.refused_ack;
    if refuses && !(me.has(fact::SYN) && segment.seq.within(me.isn.add(1), me.end)) {
        return Verdict::nothing(me);
    }
    let bits = if exact { fact::RST | fact::RST_EXACT } else { fact::RST };
    let facts =
        Facts { flags: me.flags | bits, refused_ack: peer.end, refused_end: segment.seq, ..*me };
    let accepted = Verdict {
        facts,
        renew: true,
        letter: (!me.has(fact::RST)).then_some(Letter::Rst),
        ..Verdict::nothing(me)
    };
    if !open && !refuses && peer.has(fact::SYN) && !peer.has(fact::ACK) {
        // The receiver is in SYN_SENT: the acknowledgment is what proves that its SYN was seen.
        let (low, high) = (peer.isn.add(1), peer.end);
        let proven = segment.ack.within(low, high) || acks_other;
        return if segment.has(Flags::ACK) && proven {
            accepted
        } else {
            let actual = if segment.has(Flags::ACK) { segment.ack } else { Seq(0) };
            Verdict::breach(me, Rule::RstBadAckSynSent, low, high, actual)
        };
    }
    // The receiver's next number lies between what it last acknowledged and all that was sent to it; where it was
    // never seen, all that was sent to it is the best guess.
    let (low, high) = if peer.has(fact::ACK) {
        (peer.ack, if me.has_end() && me.end.after(peer.ack) { me.end } else { peer.ack })
    } else if me.has_end() {
        (if me.has(fact::MOVED_ON) { me.end.sub(UNSCALED_WINDOW) } else { me.isn.add(1) }, me.end)
    } else {
        return Verdict::nothing(me);
    };
    if segment.seq.within(low, high) || at_fin || refuses {
        let unasked = !open && !me.has_end() && peer.has(fact::SYN_ACK);
        let breach = Breach { rule: Rule::SynAckUnsolicited, low: 0, high: 0, actual: 0 };
        return Verdict { breach: unasked.then_some(breach), ..accepted };
    }
    if peer.has(fact::EDGE) && segment.seq.within(low, peer.edge) {
        return Verdict::breach(me, Rule::RstInexact, low, high, segment.seq);
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
    if midstream || answers_nonsense || answers_syn || segment.seq.within(began, low) {
        // A late one, which its receiver drops; in a flow picked up in its middle, too little is known to tell.
        return Verdict::nothing(me);
    }
    Verdict::breach(me, Rule::RstOutOfWindow, low, high, segment.seq)
}
