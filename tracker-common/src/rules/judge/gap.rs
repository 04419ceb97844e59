//! Segments that are refused, and what belongs to the same gap: what was missed, or forged, until the peer says the same.

use super::{Ruling, Verdict, advance::note_letter, take};
use crate::{
    flow::{Facts, fact},
    segment::{Flags, Segment},
    seq::Seq,
    state::is_reset,
};

/// What a segment has to do with those that were refused before.
#[derive(Clone, Copy)]
pub(super) struct Gap {
    /// It begins where the peer, in one that was refused, said it had got to.
    pub(super) goes_on: bool,
    /// It acknowledges data of the peer's that was refused.
    pub(super) confirms: bool,
    /// It says about the same as one of the same end that was refused.
    pub(super) again: bool,
}

impl Gap {
    /// It belongs to a gap that was reported.
    #[inline(always)]
    pub(super) const fn is_known(self) -> bool {
        self.goes_on || self.confirms || self.again
    }
}

/// What a segment that was not accepted leaves behind.
///
/// Where it was refused, that, and what it said: an end that has sent an RST keeps that instead.
#[inline(always)]
pub fn keep(me: &Facts, peer: &Facts, segment: &Segment, ruling: &Ruling, verdict: &mut Verdict) {
    verdict.breach = ruling.broken();
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
pub(super) const fn last_ack(me: &Facts, segment: &Segment) -> Seq {
    if me.has(fact::ACK) { me.ack } else { segment.ack }
}

/// Whether the segment says about the same as one of the same end that was refused before.
#[inline(always)]
pub(super) const fn repeats_refused(me: &Facts, segment: &Segment) -> bool {
    me.has(fact::REFUSED)
        && is_near(segment.end(), me.refused_end)
        && is_near(segment.ack, me.refused_ack)
}

/// Whether `a` and `b` are no further apart than one packet may bring them.
#[inline(always)]
pub(super) const fn is_near(a: Seq, b: Seq) -> bool {
    const NEAR: u32 = 1 << 17;
    a.within(b.sub(NEAR), b.add(NEAR))
}

/// Whether the segment begins where the peer, in one that was refused, said it had got to: both ends agree, so it was we who
/// missed data. A forger speaks for one end only.
#[inline(always)]
pub(super) const fn goes_on_from_refused(me: &Facts, peer: &Facts, segment: &Segment) -> bool {
    let window =
        if !me.has_end() || is_short_gap(me.end, segment.seq) { peer.reach(me) } else { 0 };
    peer.has(fact::REFUSED)
        && (!peer.has(fact::ACK) || peer.refused_ack.after(peer.ack))
        && segment.seq.within(peer.refused_ack, peer.refused_ack.add(window))
}

/// Whether the segment acknowledges data of the peer's that was refused: it was sent, and we missed what came before.
#[inline(always)]
pub(super) const fn acknowledges_refused(peer: &Facts, segment: &Segment) -> bool {
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
pub(super) const fn is_short_gap(from: Seq, to: Seq) -> bool {
    const SHORT: u32 = 1 << 22;
    to.within(from, from.add(SHORT))
}
