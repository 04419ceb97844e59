//! From a packet to its flow: look it up, create it, judge the segment, confirm, report.
//!
//! Flows live in two tables. *Half-open* ones are evicted oldest first when there are too many, so a flood of SYNs can
//! push out nothing but other unfinished handshakes. A flow whose two ends have both shown themselves is *confirmed* and
//! moves to a table that evicts nothing. Where that is full, flows stay in the first and go on being tracked.
//!
//! Races. A record is written by two CPUs at most, one a direction ([`crate::flow`]). Moving a flow between the tables
//! copies it; a segment of the other direction that is being written at that very moment can be missed by the copy. On
//! a host this cannot happen, because the segment that completes a handshake is an answer to all that the other end
//! has sent; on a mirror port the next segment brings the same facts again. An evicted record of the half-open table
//! may be reused while a program still holds it; a record that was just looked up carries the table's reference mark
//! and is not what the kernel evicts first. A packet's records are looked up once, before its first step, and held for
//! about a microsecond, until its last one: only in this time can one be removed (by the agent, or by the other direction's
//! CPU that moves it) and its memory be another flow's before something was written into it. Who makes a tombstone looks
//! again ([`settle`]).

use crate::{
    counters::{Fate, Hook, Tally},
    elsewhere::is_counted_elsewhere,
    event::{Kind, Reason},
    flow::{Facts, Flow, Half, HalfOpen, Opening, OtherOpenings, Repeat, fact, flow_flag},
    forget::Forget,
    history::{Letter, Letters},
    judge::{
        Offers, Past, Reopening, Ruling, Situation, Verdict, acknowledges_syn, advance, agree,
        as_after_syn, keep, others, outlived, reopening, reset, syn, syn_ack, take,
    },
    key::{End, FlowKey},
    notes,
    owner::Owner,
    packet::Packet,
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
    state::{State, is_open},
    sweep::{Tables, states},
    violation::{Breach, Marks, Rule},
};

/// What tracking needs from its surroundings: the kernel's maps, or a simulation of them.
pub trait Surroundings: Tables + Forget + Parts {
    /// The slot of the interface that saw the packet.
    fn slot(&self) -> u32;
    /// A record of this CPU's to build a new flow in.
    fn scratch(&self) -> Option<&HalfOpen>;
    /// Copies `flow` into the half-open table, over an existing one only if `replace`.
    fn insert_half_open(&self, key: &FlowKey, flow: &HalfOpen, replace: bool) -> Inserted;
    /// Copies `flow` into the confirmed table, over an existing one only if `replace`.
    fn insert_confirmed(&self, key: &FlowKey, flow: &Flow, replace: bool) -> Inserted;
    /// Counts what has this code of [`Tally`].
    fn tally_code(&self, code: u32);
    /// Counts.
    #[inline(always)]
    fn tally(&self, tally: Tally) {
        self.tally_code(tally as u32);
    }
    /// Counts a breach of `rule`.
    fn count_breach(&self, rule: Rule, hook: Hook);
    /// Counts a breach of each of `marks`.
    fn count_marks(&self, marks: Marks, hook: Hook);
    /// Sends a report of each of its kinds that anyone listens to.
    fn report(&self, report: &Report<'_>);
}

/// The parts of tracking a segment, one after the other. In the kernel each is a function that the verifier checks by
/// itself, so that the ways through one are not multiplied by the ways through the next.
pub trait Parts {
    /// Both ends' states.
    #[inline(always)]
    fn states(&self, flow: &Flow) -> [State; 2] {
        states(flow)
    }

    /// [`choose`].
    #[inline(always)]
    fn choose(&self, half_open: &HalfOpen, packet: &Packet) {
        choose(half_open, packet);
    }

    /// [`offers`].
    #[inline(always)]
    fn offers(&self, half_open: &HalfOpen, packet: &Packet) -> Offers {
        offers(half_open, packet)
    }

    /// [`belongs`].
    #[inline(always)]
    fn belongs(&self, newer: &HalfOpen, flow: &Flow, packet: &Packet) -> bool {
        belongs(newer, flow, packet)
    }

    /// [`situation`].
    #[inline(always)]
    fn situation(&self, flow: &Flow, packet: &Packet, hook: Hook, offers: Offers) -> Situation {
        situation(flow, packet, hook, offers)
    }

    /// What [`Parts::judge`] hands on to [`Parts::write`].
    type Verdict: Outcome;

    /// [`judge_on`].
    fn judge(&self, flow: &Flow, packet: &Packet, situation: &Situation) -> Self::Verdict;

    /// What there is to count.
    #[inline(always)]
    fn notes(&self, flow: &Flow, packet: &Packet, situation: &Situation) -> Marks {
        notes_on(flow, packet, situation)
    }

    /// [`write`].
    fn write(
        &self,
        flow: &Flow,
        packet: &Packet,
        hook: Hook,
        verdict: &Self::Verdict,
        marks: Marks,
    ) -> Option<Breach>;

    /// [`write_offers`].
    fn write_offers(&self, half_open: &HalfOpen, packet: &Packet, verdict: &Self::Verdict);

    /// [`conclude`].
    #[inline(always)]
    fn conclude(&self, flow: &Flow, seen: &Seen) -> Step
    where
        Self: Forget + Sized,
    {
        conclude(self, flow, seen)
    }

    /// [`publish`].
    #[inline(always)]
    fn publish(
        &self,
        flow: &Flow,
        packet: &Packet,
        hook: Hook,
        now_ns: u64,
        seen: &Seen,
        step: Step,
    ) where
        Self: Surroundings + Sized,
    {
        publish(self, flow, packet, hook, now_ns, seen, step);
    }
}

/// What of a verdict is needed beside writing it.
pub trait Outcome {
    /// Whether the segment broke a rule.
    fn is_breach(&self) -> bool;
    /// Whether the flow's timer starts again.
    fn renews(&self) -> bool;
}

impl Outcome for Verdict {
    fn is_breach(&self) -> bool {
        self.breach.is_some()
    }

    fn renews(&self) -> bool {
        self.renew
    }
}

/// What came of an insertion into a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inserted {
    /// The flow is in the table.
    Done,
    /// Another CPU was faster with the same key.
    Exists,
    /// The table is full.
    Full,
}

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Nanoseconds since boot.
    pub now_ns: u64,
    /// What happened, as bits of [`Kind`].
    pub kinds: u32,
    /// The packet that made it happen.
    pub packet: &'a Packet,
    /// Where it was seen.
    pub hook: Hook,
    /// Of a violation: the rule and its numbers.
    pub breach: Breach,
    /// Rules without numbers that were broken, each a violation of its own where it is to be reported.
    pub marks: Marks,
    /// States of the low and the high end before the segment.
    pub before: [State; 2],
    /// And after it.
    pub after: [State; 2],
    /// The flow, where there is one.
    pub flow: Option<&'a Flow>,
}

const NO_BREACH: Breach = Breach { rule: Rule::NullFlags, low: 0, high: 0, actual: 0 };

/// Tracks one packet: [`track_illegal`], [`track_confirmed`], then [`prepare`], [`track_half_open`] and [`settle`], the last
/// three twice if need be. Each is the caller's to call, which gives it a stack frame of its own and delivers what it
/// reports. `None` is [`Fate::NotInserted`].
#[inline(always)]
pub fn in_order<T>(
    illegal: impl FnOnce() -> Option<T>,
    confirmed: impl FnOnce() -> Option<T>,
    half_open: impl Fn() -> Option<T>,
) -> Option<T> {
    illegal().or_else(confirmed).or_else(&half_open).or_else(&half_open)
}

/// The first part of tracking: packets that are illegal by themselves. `None` for all others.
#[inline(always)]
pub fn track_illegal<S: Surroundings>(
    s: &S,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> Option<Fate> {
    let broken = s.forget(notes::illegal(packet));
    if broken == Marks::NONE {
        return None;
    }
    report_illegal(s, packet, hook, now_ns, broken, 0);
    Some(Fate::Illegal)
}

/// The second part of tracking: packets of confirmed flows, of which `flow` has the packet's key. `None` for all others,
/// which [`track_half_open`] takes.
#[inline(always)]
pub fn track_confirmed<S: Surroundings>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> Option<Fate> {
    if flow.is_dead() || belongs_to_successor(s, flow, packet, hook, now_ns) {
        return None;
    }
    let seen = observe(s, flow, None, packet, hook, now_ns);
    if !seen.alive {
        return None;
    }
    announce(s, flow, packet, hook, now_ns, &seen);
    Some(Fate::Tracked)
}

/// A packet whose TCP header's length cannot be right: all else of the header was read.
#[inline(always)]
pub fn bad_header_len<S: Surroundings>(s: &S, packet: &Packet, hook: Hook, now_ns: u64, len: u32) {
    report_illegal(s, packet, hook, now_ns, Marks::NONE.with(Rule::BadHeaderLen), len);
}

/// Counts and reports breaches that the header alone shows, with the states of the flow that they failed to touch.
#[inline(always)]
fn report_illegal<S: Surroundings>(
    s: &S,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
    broken: Marks,
    actual: u32,
) {
    let flow = match s.confirmed(&packet.key) {
        Some(flow) if !flow.is_dead() => Some(flow),
        _ => {
            s.half_open(&packet.key).map(|half_open| &half_open.flow).filter(|flow| !flow.is_dead())
        }
    };
    if let Some(flow) = flow {
        flow.violations.add(broken.count());
        note_mixed_flags(flow, packet);
    }
    let now = match flow {
        Some(flow) => s.states(flow),
        None => [State::Closed; 2],
    };
    s.count_marks(broken, hook);
    s.report(&Report {
        now_ns,
        kinds: 0,
        packet,
        hook,
        breach: Breach { actual, ..NO_BREACH },
        marks: broken,
        before: now,
        after: now,
        flow,
    });
}

/// `q` and `i`, the first time that an end sends such a segment.
#[inline(always)]
fn note_mixed_flags(flow: &Flow, packet: &Packet) {
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

/// Whether the packet is not for this confirmed flow but for a newer connection on its key, which is among the
/// half-open ones until its handshake is complete (T9, S5). A SYN on a flow that goes on is reported here.
#[inline(always)]
fn belongs_to_successor<S: Surroundings>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> bool {
    let segment = &packet.segment;
    if segment.has(Flags::SYN) && !segment.has(Flags::ACK) {
        return syn_on_confirmed(s, flow, packet, hook, now_ns);
    }
    if segment.has(Flags::SYN) && flow.has(old_syn_of(packet.from.other())) {
        // The old SYN was accepted after all: its receiver is no longer in TIME_WAIT.
        flow.mark(flow_flag::SUCCESSOR);
        return true;
    }
    if !flow.has(flow_flag::SUCCESSOR) {
        return false;
    }
    let Some(newer) = s.half_open(&packet.key) else {
        flow.unmark(flow_flag::SUCCESSOR);
        return false;
    };
    s.belongs(newer, flow, packet)
}

/// Says whose the SYN of an old connection was.
#[inline(always)]
const fn old_syn_of(end: End) -> u32 {
    if end.is_high() { flow_flag::OLD_SYN_OF << 1 } else { flow_flag::OLD_SYN_OF }
}

/// Whether a packet without a bare SYN belongs to the newer connection among the half-open ones rather than to `flow`, which is
/// confirmed: it goes on with its handshake.
#[inline(always)]
#[must_use]
pub fn belongs(newer: &HalfOpen, flow: &Flow, packet: &Packet) -> bool {
    let segment = &packet.segment;
    let (me, peer) =
        (newer.flow.half(packet.from).facts(), newer.flow.half(packet.from.other()).facts());
    let offers = offers(newer, packet);
    if segment.has(Flags::SYN) {
        // An answer to the SYN of before is the newer connection's to refuse, but for a copy of the one that opened `flow`, if
        // its sender goes on with that.
        let old = flow.half(packet.from).facts();
        let goes_on = old.flags & (fact::SYN | fact::FIN | fact::RST) == fact::SYN;
        let is_copy = goes_on && segment.seq == old.isn;
        return (offers.acks_previous && !is_copy)
            || (peer.has(fact::SYN) && acknowledges_syn(&peer, segment.ack))
            || offers.acks_other;
    }
    // Whoever sends a SYN in the name of one end cannot have it answered: all but a refusal takes a SYN,ACK that was seen.
    if peer.has(fact::SYN_ACK) {
        let last = if peer.has(fact::EDGE) { peer.edge } else { peer.ack };
        let goes_on = segment.seq.within(peer.ack, last)
            && (!segment.has(Flags::ACK) || segment.ack.within(peer.isn.add(1), peer.end));
        return goes_on
            || newer.others(packet.from.other()).answered(segment.seq, segment.ack).is_some();
    }
    if !segment.has(Flags::ACK) {
        return false;
    }
    let acks_syn = segment.ack.within(peer.isn.add(1), peer.end) || offers.acks_other;
    let old_receiver = flow.half(packet.from.other()).facts();
    if segment.has(Flags::RST) {
        // A refusal has nothing to do with where the old connection is.
        let fits_old = old_receiver.has(fact::ACK) && segment.seq == old_receiver.ack;
        return peer.has(fact::SYN) && acks_syn && !fits_old;
    }
    if !me.has(fact::SYN) && peer.has(fact::SYN) {
        // It may have overtaken its SYN,ACK. Of the old connection it is where that has sent what it acknowledges.
        let is_old =
            old_receiver.has_end() && segment.ack.within(old_receiver.isn, old_receiver.end);
        return acks_syn && !is_old;
    }
    me.has(fact::SYN_ACK)
        && segment.seq.within(me.isn.add(1), me.end.add(0xffff))
        && segment.ack.within(me.ack, peer.end)
}

/// Whether a SYN on a confirmed flow goes to the half-open table: not if it is a duplicate, and not if TIME_WAIT keeps it
/// out.
#[inline(always)]
fn syn_on_confirmed<S: Surroundings>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> bool {
    match reopening_of(s, flow, packet) {
        Reopening::Duplicate => return false,
        Reopening::Legal => note_reuse(s, flow, hook),
        Reopening::Breach(Breach { rule: Rule::SynInTimeWait, .. }) => {
            // Reported when it is judged.
            flow.mark(flow_flag::OLD_SYN | old_syn_of(packet.from));
            return false;
        }
        Reopening::Breach(breach) => {
            let now = s.states(flow);
            let seen = Seen {
                before: now,
                after: now,
                breach: Some(breach),
                confirmed: false,
                alive: true,
                marks: Marks::NONE,
            };
            announce(s, flow, packet, hook, now_ns, &seen);
        }
    }
    flow.mark(flow_flag::SUCCESSOR);
    true
}

/// Counts that a connection in TIME_WAIT is followed by another, once.
#[inline(always)]
fn note_reuse<S: Surroundings>(s: &S, flow: &Flow, hook: Hook) {
    let [low, high] = s.states(flow);
    let in_time_wait = is(low, State::TimeWait) || is(high, State::TimeWait);
    if in_time_wait && !flow.has(flow_flag::SUCCESSOR) {
        s.count_breach(Rule::TimeWaitReuse, hook);
    }
}

#[inline(always)]
fn reopening_of<S: Surroundings>(s: &S, flow: &Flow, packet: &Packet) -> Reopening {
    let situation = s.situation(flow, packet, Hook::Ingress, Offers::default());
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    s.forget(reopening(&me, &peer, &situation, &packet.segment))
}

/// What the record remembers of SYNs, as the packet meets it.
#[inline(always)]
#[must_use]
pub fn offers(half_open: &HalfOpen, packet: &Packet) -> Offers {
    let segment = &packet.segment;
    let mine = half_open.others(packet.from);
    let ack = Opening::of(segment).ack;
    let facts = half_open.flow.half(packet.from).facts();
    let others = mine.count();
    let offers = Offers {
        others,
        repeats: half_open.repeats_previous(),
        is_known: segment.has(Flags::SYN) && mine.has(segment.seq, ack),
        has_newer: others != 0 && !mine.ends_with(facts.isn),
        ..Offers::default()
    };
    if !segment.has(Flags::ACK) {
        return offers;
    }
    Offers {
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
    theirs.choose(&answer, true);
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
        half.choose(&syn, false);
    } else if confirms || others.has_forgotten() {
        let options = SynOptions { mss: 0, timestamp: Seq(0), window_scale: 14, ..*answer };
        half.choose(
            &Opening { isn: ack.sub(1), window: 0xffff, options, ..Opening::default() },
            false,
        );
    }
}

/// What a segment did to a flow.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    before: [State; 2],
    after: [State; 2],
    breach: Option<Breach>,
    /// The handshake is complete, and both ends have shown it.
    confirmed: bool,
    /// The record was not removed meanwhile.
    alive: bool,
    /// What else there is to count.
    marks: Marks,
}

/// After so long without a segment, timestamps say nothing about age (RFC 7323 section 5.5): 24 days.
const PAWS_LIMIT_NS: u64 = 24 * 24 * 3600 * 1_000_000_000;

/// How long a segment may be under way (RFC 9293 section 3.4.2): two minutes.
const LIFETIME_NS: u64 = 120 * 1_000_000_000;

/// Judges the segment and writes what it adds into the flow. Every step reads the record anew, so that nothing but the
/// record carries what one step knew to the next.
#[inline(always)]
fn observe<S: Surroundings>(
    s: &S,
    flow: &Flow,
    half_open: Option<&HalfOpen>,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> Seen {
    let mut offers = Offers::default();
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
    s.forget(Seen {
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
pub fn situation(flow: &Flow, packet: &Packet, hook: Hook, offers: Offers) -> Situation {
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

/// [`crate::judge::judge`] on what a flow holds.
#[inline(always)]
#[must_use]
pub fn judge_on<F: Forget>(f: &F, flow: &Flow, packet: &Packet, situation: &Situation) -> Verdict {
    if packet.segment.has(Flags::RST) {
        return judge_reset_on(f, flow, packet, situation);
    }
    if packet.segment.has(Flags::SYN) {
        return if packet.segment.has(Flags::ACK) {
            judge_syn_ack_on(f, flow, packet, situation)
        } else {
            judge_syn_on(flow, packet, situation)
        };
    }
    let ruling = judge_others_on(f, flow, packet, situation);
    let mut verdict = Verdict::nothing(&Facts::default());
    if ruling.take & take::ANY != 0 {
        advance_on(f, flow, packet, situation, ruling.take, &mut verdict);
        agree_on(f, flow, packet, situation, &mut verdict);
    } else {
        keep_on(flow, packet, situation, &ruling, &mut verdict);
    }
    verdict
}

/// The part of judging a flow's segment that is for RST.
#[inline(always)]
#[must_use]
pub fn judge_reset_on<F: Forget>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
) -> Verdict {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    reset(f, &me, &peer, situation, &packet.segment)
}

/// The part of judging a flow's segment that is for SYN without ACK.
#[inline(always)]
#[must_use]
pub fn judge_syn_on(flow: &Flow, packet: &Packet, situation: &Situation) -> Verdict {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    syn(&me, &peer, situation, &packet.segment)
}

/// The part of judging a flow's segment that is for SYN,ACK.
#[inline(always)]
#[must_use]
pub fn judge_syn_ack_on<F: Forget>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
) -> Verdict {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    syn_ack(f, &me, &peer, situation, &packet.segment)
}

/// The first part of judging a flow's segment that is for all others. Where it is acceptable, [`advance_on`] and [`agree_on`]
/// follow; else [`keep_on`].
#[inline(always)]
#[must_use]
pub fn judge_others_on<F: Forget>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
) -> Ruling {
    let (me, peer) = facts_on(flow, packet, situation);
    others(f, &me, &peer, situation, &packet.segment)
}

/// The second part.
#[inline(always)]
pub fn advance_on<F: Forget>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
    takes: u8,
    verdict: &mut Verdict,
) {
    let (me, peer) = facts_on(flow, packet, situation);
    *verdict = Verdict::nothing(&me);
    advance(f, &me, &peer, situation, &packet.segment, takes, verdict);
}

/// The third part.
#[inline(always)]
pub fn agree_on<F: Forget>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
    verdict: &mut Verdict,
) {
    let peer = flow.half(packet.from.other()).facts();
    agree(f, &peer, situation, &packet.segment, verdict);
}

/// What follows for a segment that is not acceptable.
#[inline(always)]
pub fn keep_on(
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
    ruling: &Ruling,
    verdict: &mut Verdict,
) {
    let (me, peer) = facts_on(flow, packet, situation);
    *verdict = Verdict::nothing(&me);
    keep(&me, &peer, &packet.segment, ruling, verdict);
}

/// The facts of the sender and of the receiver of a segment with neither SYN nor RST.
#[inline(always)]
fn facts_on(flow: &Flow, packet: &Packet, situation: &Situation) -> (Facts, Facts) {
    let peer = flow.half(packet.from.other()).facts();
    let mut me = flow.half(packet.from).facts();
    me.flags |= outlived(&me, &peer, situation, &packet.segment);
    (me, peer)
}

#[inline(always)]
const fn low_first(from: End, mine: State, theirs: State) -> [State; 2] {
    if from.is_high() { [theirs, mine] } else { [mine, theirs] }
}

/// Equality of codes: deriving it for the enum gives the verifier more branches than one comparison.
#[inline(always)]
const fn is(state: State, other: State) -> bool {
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

/// Writes what a verdict says about ISNs.
#[inline(always)]
pub fn write_offers(half_open: &HalfOpen, packet: &Packet, verdict: &Verdict) {
    let (segment, from) = (&packet.segment, packet.from);
    if verdict.another_isn {
        half_open.others(from).remember(&Opening::of(segment));
        half_open.flow.mark(flow_flag::OTHER_ISNS);
    }
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

/// Whether the handshake is complete, and both ends have shown it.
#[inline(always)]
fn is_confirmed(flow: &Flow) -> bool {
    let (low, high) = (flow.half(End::LOW).facts(), flow.half(End::HIGH).facts());
    low.has(fact::ACK)
        && high.has(fact::ACK)
        && is_open(&low, &high, flow.has(flow_flag::MIDSTREAM))
}

/// Counts and reports what a segment did: a breach, and the flow's steps, each once.
#[inline(always)]
fn announce<S: Surroundings>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
    seen: &Seen,
) {
    let step = s.conclude(flow, seen);
    s.publish(flow, packet, hook, now_ns, seen, step);
}

/// What there is to tell of a segment; the record notes that it will have been told.
#[inline(always)]
#[must_use]
pub fn conclude<S: Forget>(s: &S, flow: &Flow, seen: &Seen) -> Step {
    let marks = seen.marks;
    let due = s.forget(due(flow, seen));
    let set = s.forget(if due == 0 { 0 } else { flow.mark_once(due) });
    let marks = if marks.has(Rule::HalfClose) && set & flow_flag::HALF_CLOSE == 0 {
        marks.without(Rule::HalfClose)
    } else {
        marks
    };
    if let Some(breach) = seen.breach {
        flow.violations.add(u32::from(breach.rule.is_violation()));
        return Step { marks, kinds: Kind::Segment.bit() | Kind::Violation.bit() };
    }
    let mut step = Step { marks, kinds: Kind::Segment.bit() };
    if set & flow_flag::ESTABLISHED != 0 {
        step.kinds |= Kind::Established.bit();
    }
    if set & flow_flag::CLOSING != 0 {
        step.kinds |= Kind::Closing.bit();
        if is(seen.after[0], State::Closed) && is(seen.after[1], State::Closed) {
            step.marks = step.marks.and(refusal(flow));
        }
    }
    step
}

/// Counts and reports what [`conclude`] found.
#[inline(always)]
pub fn publish<S: Surroundings>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
    seen: &Seen,
    step: Step,
) {
    let Step { kinds, marks } = step;
    s.count_marks(marks, hook);
    if let Some(breach) = seen.breach {
        s.count_breach(breach.rule, hook);
    }
    s.report(&Report {
        now_ns,
        kinds,
        packet,
        hook,
        breach: seen.breach.unwrap_or(NO_BREACH),
        marks,
        before: seen.before,
        after: seen.after,
        flow: Some(flow),
    });
}

/// What there is to tell of a segment: [`Kind`]s of reports, and what is to be counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step {
    kinds: u32,
    marks: Marks,
}

/// The bits of [`flow_flag`] that are due, each of which is told once.
#[inline(always)]
fn due(flow: &Flow, seen: &Seen) -> u32 {
    let mut due = 0;
    if seen.marks.has(Rule::HalfClose) {
        due |= flow_flag::HALF_CLOSE;
    }
    let changed = !is(seen.before[0], seen.after[0]) || !is(seen.before[1], seen.after[1]);
    if seen.breach.is_some() || (!changed && (flow.has(flow_flag::ESTABLISHED) || !seen.confirmed))
    {
        return due;
    }
    let closed = is(seen.after[0], State::Closed) && is(seen.after[1], State::Closed);
    if seen.confirmed && !closed {
        due |= flow_flag::ESTABLISHED;
    }
    let has_left = |state| state as u8 > State::Established as u8 || is(state, State::Closed);
    if changed && (has_left(seen.after[0]) || has_left(seen.after[1])) {
        due |= flow_flag::CLOSING;
    }
    due
}

/// How a connection that an RST ended came to nothing, if it did.
#[inline(always)]
fn refusal(flow: &Flow) -> Marks {
    let opener = flow.half(flow.originator()).facts();
    let responder = flow.half(flow.originator().other()).facts();
    // The responder's only word was an RST.
    let refused = opener.has(fact::SYN) && responder.has(fact::RST) && !responder.has_end();
    let stale = opener.has(fact::RST | fact::SYN)
        && responder.has(fact::SYN_ACK)
        && !opener.has(fact::ACKED_SYN);
    Marks::NONE.with_if(Rule::Refused, refused).with_if(Rule::StaleSyn, stale)
}

/// The third part of tracking, between [`prepare`] and [`settle`]: a packet that belongs to no confirmed flow. `None` where another CPU created its flow
/// at the same moment; a second call then finds it.
#[inline(always)]
pub fn track_half_open<S: Surroundings>(
    s: &S,
    found: Option<&HalfOpen>,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
    place: Place,
) -> Option<Fate> {
    let is_new = matches!(place, Place::New | Place::Replacing);
    let half_open = match place {
        Place::NoFlow => return Some(Fate::NoFlow),
        Place::NoMemory => return Some(Fate::NotInserted),
        Place::Elsewhere => return Some(Fate::CountedOnArrival),
        Place::Existing => found?,
        Place::New | Place::Replacing => s.scratch()?,
    };
    let mut seen = observe(s, &half_open.flow, Some(half_open), packet, hook, now_ns);
    if is_new {
        // Before its first packet there was nothing.
        seen.before = [State::Closed; 2];
    }
    if seen.confirmed
        && !(is(seen.before[0], State::Established) && is(seen.before[1], State::Established))
    {
        note_handshake_time(&half_open.flow, now_ns);
    }
    // In the record first, then in the table: what a new record does not say when it is copied is lost.
    let mut step = s.conclude(&half_open.flow, &seen);
    if is_new {
        step.kinds |= Kind::New.bit();
        step.marks = step.marks.and(beginning(&half_open.flow, packet));
        let replaces = matches!(place, Place::Replacing);
        match s.insert_half_open(&packet.key, half_open, replaces) {
            Inserted::Done if replaces => {}
            Inserted::Done => s.tally(Tally::HalfOpenInserted),
            Inserted::Exists => return None,
            Inserted::Full => {
                s.tally(Tally::HalfOpenInsertFailed);
                return Some(Fate::NotInserted);
            }
        }
        let midstream = half_open.flow.has(flow_flag::MIDSTREAM);
        s.tally(if midstream { Tally::FlowsMidstream } else { Tally::FlowsBySyn });
    }
    s.publish(&half_open.flow, packet, hook, now_ns, &seen, step);
    Some(Fate::Tracked)
}

/// Where a packet that belongs to no confirmed flow goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Place {
    /// To the half-open flow that there is.
    Existing = 0,
    /// To a new one, which was begun in [`Surroundings::scratch`].
    New = 1,
    /// To a new one that takes the place of the one there is.
    Replacing = 2,
    /// Nowhere: an RST begins no flow.
    NoFlow = 3,
    /// Nowhere: there is no memory.
    NoMemory = 4,
    /// Nowhere: it is counted at another hook.
    Elsewhere = 5,
}

impl Place {
    /// The place with this code.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Existing,
            1 => Self::New,
            2 => Self::Replacing,
            3 => Self::NoFlow,
            5 => Self::Elsewhere,
            _ => Self::NoMemory,
        }
    }
}

/// What comes before [`track_half_open`]: sees whether the packet belongs to the flow that was `found` among the half-open
/// ones, or begins another. `confirmed` is what the other table has on its key.
#[inline(always)]
pub fn prepare<S: Surroundings>(
    s: &S,
    confirmed: Option<&Flow>,
    found: Option<&HalfOpen>,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> Place {
    let existing = found.filter(|half_open| !half_open.flow.is_dead());
    let here = Owner::new(s.slot(), hook);
    if let Some(half_open) = existing
        && is_counted_elsewhere(&half_open.flow, false, packet, here)
    {
        return Place::Elsewhere;
    }
    let old = match existing {
        Some(existing) if !is_replaced_by(s, &existing.flow, packet) => return Place::Existing,
        existing => existing.map(|existing| &existing.flow),
    };
    if packet.segment.has(Flags::RST) {
        s.count_breach(Rule::RstNoSession, hook);
        return Place::NoFlow;
    }
    let Some(scratch) = s.scratch() else { return Place::NoMemory };
    if let Some(old) = old {
        note_reuse(s, old, hook);
        report_reopened(s, old, packet, hook, now_ns);
    }
    begin(scratch, packet, here, now_ns, old.or(confirmed));
    if old.is_some() { Place::Replacing } else { Place::New }
}

/// What comes after [`track_half_open`], with what it was given: what the packet has made of its flow's place, and of the
/// flow before it on the key, if there was one.
#[inline(always)]
pub fn settle<S: Surroundings>(
    s: &S,
    found: Option<&HalfOpen>,
    place: Place,
    had_confirmed: bool,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) {
    let segment = &packet.segment;
    // A SYN alone settles nothing.
    if !segment.has(Flags::ACK) {
        return;
    }
    let half_open = if matches!(place, Place::Existing) { found } else { s.scratch() };
    let Some(half_open) = half_open else { return };
    let flow = &half_open.flow;
    let [low, high] = s.states(flow);
    if flow.is_dead() || (is(low, State::Closed) && is(high, State::Closed)) {
        return;
    }
    let answered = segment.has(Flags::SYN) && flow.half(packet.from).facts().has(fact::SYN_ACK);
    let confirmed = s.forget(is_confirmed(flow));
    if !answered && !confirmed {
        return;
    }
    // Looked up again: whom the next lines bury must not have been removed since the first look, and its memory taken by
    // another flow. Where there was none then, and there is one now, the other direction's CPU has confirmed this flow.
    let old = if had_confirmed { s.confirmed(&packet.key) } else { None };
    if let Some(old) = old {
        let [low, high] = s.states(old);
        let is_over = |state| is(state, State::TimeWait) || is(state, State::Closed);
        // Both ends have come to another connection. Entombed first, so that the agent, which may be about to remove it,
        // and this CPU cannot both have it.
        if !(confirmed || (is_over(low) && is_over(high))) || !old.entomb(old.life()) {
            return;
        }
        report_reopened(s, old, packet, hook, now_ns);
    }
    if confirmed {
        confirm(s, half_open, packet, old.is_some());
    } else if old.is_some() {
        s.delete_confirmed(&packet.key);
    }
}

/// What is worth counting about how a flow began.
#[inline(always)]
fn beginning(flow: &Flow, packet: &Packet) -> Marks {
    let midstream = flow.has(flow_flag::MIDSTREAM);
    let fin = packet.segment.has(Flags::FIN);
    Marks::NONE.with_if(Rule::Midstream, midstream).with_if(Rule::FinNoSession, midstream && fin)
}

/// The end of a flow whose key a new connection takes.
#[inline(always)]
fn report_reopened<S: Surroundings>(s: &S, old: &Flow, packet: &Packet, hook: Hook, now_ns: u64) {
    s.tally(Tally::FlowsReopened);
    let last = s.states(old);
    s.report(&Report {
        now_ns,
        kinds: Kind::Destroy.bit(),
        packet,
        hook,
        breach: NO_BREACH,
        marks: Marks::NONE,
        before: last,
        after: last,
        flow: Some(old),
    });
}

/// From the SYN to the segment that completed the handshake: a round trip over both sides of the interface. Not called
/// for a flow that was taken for open before, when only one direction of it had been seen.
#[inline(always)]
fn note_handshake_time(flow: &Flow, now_ns: u64) {
    if flow.handshake_us.get() == 0 && !flow.has(flow_flag::MIDSTREAM) {
        let us = now_ns.saturating_sub(flow.created_ns()) / 1000;
        flow.handshake_us.set(u32::try_from(us).unwrap_or(u32::MAX).max(1));
    }
}

/// Whether a SYN begins a new connection over a flow that is not confirmed: one that is over, or of which one
/// direction only was ever seen and whose handshake seemed complete.
#[inline(always)]
fn is_replaced_by<S: Surroundings>(s: &S, flow: &Flow, packet: &Packet) -> bool {
    let segment = &packet.segment;
    if !segment.has(Flags::SYN) || segment.has(Flags::ACK) {
        return false;
    }
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    match reopening_of(s, flow, packet) {
        Reopening::Duplicate => false,
        Reopening::Legal => true,
        Reopening::Breach(_) => {
            // Of a connection that was seen from its SYN on, the other end's SYN is none that follows it.
            let midstream = flow.has(flow_flag::MIDSTREAM);
            let one_sided = !peer.seen() || (midstream && !me.seen());
            one_sided && is_open(&me, &peer, midstream)
        }
    }
}

/// Fills a new record for the flow that begins with `packet`, after `old` on the same key where there was one.
#[inline(always)]
fn begin(scratch: &HalfOpen, packet: &Packet, here: Owner, now_ns: u64, old: Option<&Flow>) {
    let segment: &Segment = &packet.segment;
    let answers = segment.has(Flags::SYN) && segment.has(Flags::ACK);
    // A SYN,ACK may be seen before the SYN that it answers (H17).
    let originator = if answers { packet.from.other() } else { packet.from };
    let flags = if segment.has(Flags::SYN) { 0 } else { flow_flag::MIDSTREAM };
    scratch.start(now_ns, originator, flags);
    scratch.flow.set_owner(packet.from, here);
    if answers {
        scratch.flow.history.append(Letters::default().and(Letter::Flipped, packet.from));
    }
    if segment.has(Flags::SYN)
        && let Some(old) = old
    {
        let before = old.half(packet.from).facts();
        scratch.flow.mark(flow_flag::OTHER_ISNS);
        if !answers && before.has(fact::SYN) {
            scratch.remember_previous(before.isn);
        }
    }
}

/// Moves a flow to the confirmed table, where it takes the place of a tombstone if `replace`. Where the table is full, it
/// stays where it is and tries again with its next packet.
#[inline(always)]
fn confirm<S: Surroundings>(s: &S, half_open: &HalfOpen, packet: &Packet, replace: bool) {
    let flow = &half_open.flow;
    match s.insert_confirmed(&packet.key, flow, replace) {
        Inserted::Done => {
            s.delete_half_open(&packet.key);
            s.tally(Tally::FlowsConfirmed);
        }
        // The other direction's CPU confirms it, and takes it out of here.
        Inserted::Exists => {}
        Inserted::Full => {
            // No memory to replace the old one, which is a tombstone now and would hold its key for ever.
            if replace {
                s.delete_confirmed(&packet.key);
            }
            if flow.mark_once(flow_flag::TABLE_FULL) != 0 {
                s.tally(Tally::TableFull);
            }
        }
    }
}

/// Why a flow that is removed now came to its end.
#[must_use]
pub fn reason(flow: &Flow) -> Reason {
    let (low, high) = (flow.half(End::LOW).facts(), flow.half(End::HIGH).facts());
    if (low.flags | high.flags) & fact::RST != 0 {
        Reason::Rst
    } else if states(flow).iter().all(|state| matches!(state, State::Closed | State::TimeWait)) {
        Reason::Fin
    } else {
        Reason::Timeout
    }
}
