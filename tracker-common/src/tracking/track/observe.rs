//! One segment on one flow: judged, noted, written.

use super::{
    conclude::is_confirmed,
    environment::{Environment, Outcome},
};
use crate::{
    counters::Hook,
    flow::{Facts, Flow, HalfOpen, Repeat, fact, flow_flag},
    history::{Letter, Letters},
    judge::{IsnCandidates, Past, Situation, Verdict, as_after_syn},
    key::End,
    notes,
    packet::Packet,
    segment::Flags,
    state::State,
    violation::{Breach, Marks, Rule},
};

/// `q` and `i`, the first time that an end sends such a segment.
#[inline(always)]
pub(super) fn note_mixed_flags(flow: &Flow, packet: &Packet) {
    let segment = &packet.segment;
    let (bit, letter) = if segment.has(Flags::SYN) {
        (flow_flag::SYN_MIXED, Letter::SynMixed)
    } else if segment.has(Flags::FIN.with(Flags::RST)) {
        (flow_flag::FIN_MIXED, Letter::FinMixed)
    } else {
        return;
    };
    let mixed = segment.flags.only(Flags::FIN.with(Flags::RST)) != Flags(0);
    let bit = if packet.from.is_high() { bit << 1 } else { bit };
    if mixed && !flow.has(bit) {
        flow.mark(bit);
        flow.history.append(Letters::default().and(letter, packet.from));
    }
}

/// What a segment did to a flow.
#[derive(Clone, Copy, Debug)]
pub struct SegmentEffect {
    pub(super) before: [State; 2],
    pub(super) after: [State; 2],
    pub(super) breach: Option<Breach>,
    /// The handshake is complete, and both ends have shown it.
    pub(super) confirmed: bool,
    /// The record was not removed meanwhile.
    pub(super) alive: bool,
    /// What else there is to count.
    pub(super) marks: Marks,
}

/// After so long without a segment, timestamps say nothing about age (RFC 7323 section 5.5): 24 days.
const PAWS_LIMIT_NS: u64 = 24 * 24 * 3600 * 1_000_000_000;

/// How long a segment may be under way (RFC 9293 section 3.4.2): two minutes.
const LIFETIME_NS: u64 = 120 * 1_000_000_000;

/// Judges the segment and writes what it adds into the flow. Every step reads the record anew, so that nothing but the
/// record carries what one step knew to the next.
#[inline(always)]
pub(super) fn observe<S: Environment>(
    s: &S,
    flow: &Flow,
    half_open: Option<&HalfOpen>,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> SegmentEffect {
    let mut offers = IsnCandidates::default();
    if let Some(half_open) = half_open {
        s.choose(half_open, packet);
        offers = s.offers(half_open, packet);
    }
    offers.is_young = now_ns.saturating_sub(flow.created_ns()) < LIFETIME_NS;
    offers.is_idle = flow.life().last_seen.elapsed_ns(now_ns) > PAWS_LIMIT_NS;
    let situation = s.situation(flow, packet, hook, offers);
    let verdict = s.judge(flow, packet, &situation);
    let marks = s.notes(flow, packet, &situation);
    let breach = s.write(flow, packet, hook, &verdict, marks);
    if let Some(half_open) = half_open {
        s.write_offers(half_open, packet, &verdict);
    }
    let after = s.states(flow);
    s.forget(SegmentEffect {
        before: low_first(packet.from, situation.mine, situation.theirs),
        after,
        breach,
        confirmed: !verdict.is_breach() && is_confirmed(flow),
        alive: !verdict.renews() || flow.renew(now_ns),
        marks,
    })
}

/// What a flow is like when a segment comes, of which `offers` is what its half-open record has.
#[inline(always)]
#[must_use]
pub fn situation(flow: &Flow, packet: &Packet, hook: Hook, offers: IsnCandidates) -> Situation {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    let midstream = flow.has(flow_flag::MIDSTREAM);
    let past = Past {
        old_syn: flow.has(flow_flag::OLD_SYN),
        other_isns: flow.has(flow_flag::OTHER_ISNS),
        has_successor: flow.has(flow_flag::SUCCESSOR),
    };
    let leaves =
        matches!(hook, Hook::Egress) && !packet.segment.forwarded && !peer.has(fact::SEEN_OUT);
    Situation::new(&me, &peer, midstream, past, leaves, offers)
}

/// What there is to count of a segment, before it is written.
#[inline(always)]
#[must_use]
pub fn notes_on(flow: &Flow, packet: &Packet, situation: &Situation) -> Marks {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    notes::of_header(&packet.segment).and(notes::of_segment(&me, &peer, situation, &packet.segment))
}

#[inline(always)]
const fn low_first(from: End, mine: State, theirs: State) -> [State; 2] {
    if from.is_high() { [theirs, mine] } else { [mine, theirs] }
}

/// Equality of codes: deriving it for the enum gives the verifier more branches than one comparison.
#[inline(always)]
pub(super) const fn is(state: State, other: State) -> bool {
    state as u8 == other as u8
}

/// Writes what a verdict adds into the sender's half, and the history. Returns its breach, or one where the segment is one too
/// many of its kind.
#[inline(always)]
pub fn write(
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    verdict: &Verdict,
    marks: Marks,
) -> Option<Breach> {
    let segment = &packet.segment;
    let from = packet.from;
    let mine = flow.half(from);
    let me = mine.facts();
    let mut facts = verdict.facts;
    facts.flags |= match hook {
        Hook::Ingress => fact::SEEN_IN,
        Hook::Egress => fact::SEEN_OUT,
    };
    mine.grow_on(segment, &me, &facts);
    mine.count(segment);
    let theirs = flow.half(from.other());
    let peer = theirs.facts();
    if verdict.agrees {
        theirs.grow(&peer, &verdict.peer);
    } else if verdict.takes_back {
        theirs.grow(&peer, &as_after_syn(&peer, segment.ack));
    }
    if segment.options.mss != 0 && mine.mss.get() == 0 {
        mine.mss.set(segment.options.mss);
    }
    let mut letters = Letters::default();
    if let Some(letter) = verdict.letter {
        letters = letters.and(letter, from);
    }
    if facts.has(fact::FIN) && !me.has(fact::FIN) {
        letters = letters.and(Letter::Fin, from);
    }
    if verdict.agrees && verdict.peer.has(fact::FIN) && !peer.has(fact::FIN) {
        letters = letters.and(Letter::Fin, from.other());
    }
    let unseen = !segment.has(Flags::SYN)
        && facts.has(fact::ACK | fact::MOVED_ON)
        && peer.has_end()
        && !peer.has(fact::FRAGMENTED)
        && segment.ack.after(peer.end)
        && (!me.has(fact::ACK) || segment.ack.after(me.ack));
    if unseen && !segment.has(Flags::RST) {
        letters = scaled_letter(letters, flow, from.other(), Repeat::Gap, Letter::Gap);
    }
    if marks.has(Rule::ZeroWindow) {
        letters = scaled_letter(letters, flow, from, Repeat::ZeroWindow, Letter::ZeroWindow);
    }
    if marks.has(Rule::Retransmission) && segment.payload > 0 {
        letters =
            scaled_letter(letters, flow, from, Repeat::Retransmission, Letter::Retransmission);
    }
    flow.history.append(letters);
    let storm = storm(flow, packet, &me);
    if verdict.breach.is_some() { verdict.breach } else { storm }
}

/// FINs and RSTs that come too often.
#[inline(always)]
fn storm(flow: &Flow, packet: &Packet, me: &Facts) -> Option<Breach> {
    let (segment, from) = (&packet.segment, packet.from);
    if segment.flags.only(Flags::FIN.with(Flags::RST)) == Flags(0) {
        return None;
    }
    let is_fin = segment.has(Flags::FIN);
    let again = if is_fin { me.has(fact::FIN) } else { me.has(fact::RST) };
    if !again || flow.repeat(from, Repeat::Close) != TOO_MANY_CLOSES {
        return None;
    }
    let rule = if is_fin { Rule::FinStorm } else { Rule::RstStorm };
    Some(Breach { rule, low: 0, high: 0, actual: TOO_MANY_CLOSES })
}

/// After so many FINs or RSTs more than the first from one end, they are a storm.
const TOO_MANY_CLOSES: u32 = 50;

/// A letter that comes at the 1st, 10th and 100th time.
#[inline(always)]
fn scaled_letter(letters: Letters, flow: &Flow, end: End, what: Repeat, letter: Letter) -> Letters {
    if matches!(flow.repeat(end, what), 1 | 10 | 100) { letters.and(letter, end) } else { letters }
}
