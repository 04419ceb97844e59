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
//! and is not what the kernel evicts first.

use crate::{
    counters::{Fate, Hook, Tally},
    event::{Kind, Reason},
    flow::{Flow, HalfOpen, fact, flow_flag},
    forget::Forget,
    history::Letter,
    judge::{Reopening, Situation, Verdict, continues_handshake, judge, reopening},
    key::{Address, End, FlowKey, is_mapped},
    packet::Packet,
    segment::{Flags, Segment, SynOptions},
    state::{State, is_open},
    sweep::{Tables, states},
    violation::{Breach, Marks, Rule, Severity},
};

/// What tracking needs from its surroundings: the kernel's maps, or a simulation of them.
pub trait Surroundings: Tables + Forget {
    /// The interface that saw the packet.
    fn ifindex(&self) -> u32;
    /// A record of this CPU's to build a new flow in.
    fn scratch(&self) -> Option<&HalfOpen>;
    /// Copies `flow` into the half-open table, over an existing one only if `replace`.
    fn insert_half_open(&self, key: &FlowKey, flow: &HalfOpen, replace: bool) -> Inserted;
    /// Copies `flow` into the confirmed table, over an existing one only if `replace`.
    fn insert_confirmed(&self, key: &FlowKey, flow: &Flow, replace: bool) -> Inserted;
    /// Counts.
    fn tally(&self, tally: Tally);
    /// Counts a breach of `rule`.
    fn count_breach(&self, rule: Rule, hook: Hook);
    /// Sends a report, if anyone listens to its kind.
    fn report(&self, report: &Report<'_>);
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
    /// What happened.
    pub kind: Kind,
    /// The packet that made it happen.
    pub packet: &'a Packet,
    /// Where it was seen.
    pub hook: Hook,
    /// Of a violation: the rule and its numbers.
    pub breach: Breach,
    /// States of the low and the high end before the segment.
    pub before: [State; 2],
    /// And after it.
    pub after: [State; 2],
    /// The flow, where there is one.
    pub flow: Option<&'a Flow>,
}

const NO_BREACH: Breach = Breach { rule: Rule::NullFlags, low: 0, high: 0, actual: 0 };

/// Tracks one packet, seen at `hook` at `now_ns`, and says what became of it.
#[inline(always)]
pub fn track<S: Surroundings>(s: &S, packet: &Packet, hook: Hook, now_ns: u64) -> Fate {
    in_order(
        || track_confirmed(s, packet, hook, now_ns),
        || track_half_open(s, packet, hook, now_ns),
    )
}

/// The order of [`track_confirmed`] and [`track_half_open`], for callers that must give each a stack frame of its own.
#[inline(always)]
pub fn in_order(
    confirmed: impl FnOnce() -> Option<Fate>,
    half_open: impl Fn() -> Option<Fate>,
) -> Fate {
    confirmed().or_else(&half_open).or_else(&half_open).unwrap_or(Fate::NotInserted)
}

/// The first half of [`track`]: packets that are illegal by themselves, and those of confirmed flows. `None` for all
/// others, which [`track_half_open`] takes.
#[inline(always)]
pub fn track_confirmed<S: Surroundings>(
    s: &S,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> Option<Fate> {
    let broken = s.forget(header_rules(packet));
    if broken != Marks::NONE {
        report_header(s, packet, hook, now_ns, broken);
        return Some(Fate::Illegal);
    }
    if packet.segment.options.has(SynOptions::MALFORMED) {
        s.count_breach(Rule::BadOption, hook);
    }
    let flow = s.confirmed(&packet.key)?;
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

/// The rules of F1 to F5 and F8 that the packet breaks by itself.
#[inline(always)]
#[must_use]
pub fn header_rules(packet: &Packet) -> Marks {
    const ACK: Flags = Flags::ACK;
    let flags = packet.segment.flags;
    let mut broken = Marks::NONE;
    if flags.only(Flags::SYN.with(ACK).with(Flags::RST).with(Flags::FIN)) == Flags(0) {
        broken = broken.with(Rule::NullFlags);
    }
    if flags.has(Flags::FIN) {
        if flags.only(Flags::SYN.with(ACK).with(Flags::RST)) == Flags(0) {
            let xmas = flags.has(Flags::PSH.with(Flags::URG));
            broken = broken.with(if xmas { Rule::Xmas } else { Rule::FinWithoutAck });
        }
        if flags.has(Flags::SYN) {
            broken = broken.with(Rule::SynFin);
        }
        if flags.has(Flags::RST) {
            broken = broken.with(Rule::FinRst);
        }
    }
    if flags.has(Flags::SYN.with(Flags::RST)) {
        broken = broken.with(Rule::SynRst);
    }
    let key = &packet.key;
    if key.ports[0] == [0; 2] || key.ports[1] == [0; 2] {
        broken = broken.with(Rule::PortZero);
    }
    if key.ports[0] == key.ports[1] && key.addresses[0] == key.addresses[1] {
        broken = broken.with(Rule::Land);
    }
    if flags.has(Flags::SYN) && !is_unicast(&key.addresses[packet.from.other().index()]) {
        broken = broken.with(Rule::SynMulticast);
    }
    broken
}

#[inline(always)]
fn is_unicast(address: &Address) -> bool {
    let [.., a, b, c, d] = *address;
    if is_mapped(address) { a >> 4 != 0xe && [a, b, c, d] != [255; 4] } else { address[0] != 0xff }
}

/// Counts and reports breaches that the header alone shows, with the states of the flow that they failed to touch.
#[inline(always)]
fn report_header<S: Surroundings>(s: &S, packet: &Packet, hook: Hook, now_ns: u64, broken: Marks) {
    let flow = match s.confirmed(&packet.key) {
        Some(flow) if !flow.is_dead() => Some(flow),
        _ => {
            s.half_open(&packet.key).map(|half_open| &half_open.flow).filter(|flow| !flow.is_dead())
        }
    };
    let now = s.forget(flow.map_or([State::Closed; 2], states));
    let mut report = Report {
        now_ns,
        kind: Kind::Violation,
        packet,
        hook,
        breach: NO_BREACH,
        before: now,
        after: now,
        flow,
    };
    for rule in [
        Rule::NullFlags,
        Rule::Xmas,
        Rule::SynFin,
        Rule::SynRst,
        Rule::FinRst,
        Rule::FinWithoutAck,
        Rule::PortZero,
        Rule::Land,
        Rule::SynMulticast,
    ] {
        if broken.has(rule) {
            report.breach.rule = rule;
            s.count_breach(rule, hook);
            if let Some(flow) = flow {
                flow.violations.add(1);
            }
            s.report(&report);
        }
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
    if !flow.has(flow_flag::SUCCESSOR) {
        return false;
    }
    let Some(newer) = s.half_open(&packet.key) else {
        flow.unmark(flow_flag::SUCCESSOR);
        return false;
    };
    let (me, peer) =
        (newer.flow.half(packet.from).facts(), newer.flow.half(packet.from.other()).facts());
    continues_handshake(&me, &peer, acks_other_isn(newer, packet), segment)
}

/// Whether a SYN on a confirmed flow goes to the half-open table: not if it is a duplicate.
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
        Reopening::Legal => {}
        Reopening::Breach(breach) => {
            let now = s.forget(states(flow));
            violation(s, flow, packet, hook, now_ns, breach, (now, now));
        }
    }
    flow.mark(flow_flag::SUCCESSOR);
    true
}

#[inline(always)]
fn reopening_of<S: Surroundings>(s: &S, flow: &Flow, packet: &Packet) -> Reopening {
    let situation = s.forget(situation(flow, None, packet));
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    s.forget(reopening(&me, &peer, &situation, &packet.segment))
}

#[inline(always)]
fn acks_other_isn(half_open: &HalfOpen, packet: &Packet) -> bool {
    packet.segment.has(Flags::ACK)
        && half_open.isns(packet.from.other()).has(packet.segment.ack.sub(1))
}

/// What a segment did to a flow.
#[derive(Clone, Copy)]
struct Seen {
    before: [State; 2],
    after: [State; 2],
    breach: Option<Breach>,
    /// The handshake is complete, and both ends have shown it.
    confirmed: bool,
    /// The record was not removed meanwhile.
    alive: bool,
}

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
    let situation = s.forget(situation(flow, half_open, packet));
    let verdict = s.forget(judge_on(flow, packet, &situation));
    write(flow, half_open, packet, hook, &verdict);
    let after = s.forget(states(flow));
    s.forget(Seen {
        before: low_first(packet.from, situation.mine, situation.theirs),
        after,
        breach: verdict.breach,
        confirmed: verdict.breach.is_none() && is_confirmed(flow),
        alive: !verdict.renew || flow.renew(now_ns),
    })
}

#[inline(always)]
fn situation(flow: &Flow, half_open: Option<&HalfOpen>, packet: &Packet) -> Situation {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    let other_isn = half_open.is_some_and(|half_open| acks_other_isn(half_open, packet));
    Situation::new(&me, &peer, flow.has(flow_flag::MIDSTREAM), other_isn)
}

#[inline(always)]
fn judge_on(flow: &Flow, packet: &Packet, situation: &Situation) -> Verdict {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    judge(&me, &peer, situation, &packet.segment)
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

/// Writes what a verdict adds into the sender's half, and the history.
#[inline(always)]
fn write(
    flow: &Flow,
    half_open: Option<&HalfOpen>,
    packet: &Packet,
    hook: Hook,
    verdict: &Verdict,
) {
    let segment = &packet.segment;
    let mine = flow.half(packet.from);
    let me = mine.facts();
    let mut facts = verdict.facts;
    facts.flags |= match hook {
        Hook::Ingress => fact::SEEN_IN,
        Hook::Egress => fact::SEEN_OUT,
    };
    mine.grow(&me, &facts);
    mine.count(segment);
    if segment.options.mss != 0 && mine.mss.get() == 0 {
        mine.mss.set(segment.options.mss);
    }
    if let Some(half_open) = half_open {
        if verdict.another_isn {
            half_open.isns(packet.from).remember(segment.seq);
        }
        if verdict.chooses_isn {
            flow.half(packet.from.other()).choose_isn(segment.ack.sub(1));
        }
    }
    if let Some(letter) = verdict.letter {
        flow.history.append(letter, packet.from);
    }
    if facts.has(fact::FIN) && !me.has(fact::FIN) {
        flow.history.append(Letter::Fin, packet.from);
    }
}

/// Whether the handshake is complete, and both ends have shown it.
#[inline(always)]
fn is_confirmed(flow: &Flow) -> bool {
    let (low, high) = (flow.half(End::LOW).facts(), flow.half(End::HIGH).facts());
    low.has(fact::ACK)
        && high.has(fact::ACK)
        && is_open(&low, &high, flow.has(flow_flag::MIDSTREAM))
}

/// Reports what a segment did: a breach, and the flow's steps, each once.
#[inline(always)]
fn announce<S: Surroundings>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
    seen: &Seen,
) {
    s.report(&Report {
        now_ns,
        kind: Kind::Segment,
        packet,
        hook,
        breach: NO_BREACH,
        before: seen.before,
        after: seen.after,
        flow: Some(flow),
    });
    if let Some(breach) = seen.breach {
        violation(s, flow, packet, hook, now_ns, breach, (seen.before, seen.after));
        return;
    }
    let mut report = Report {
        now_ns,
        kind: Kind::Established,
        packet,
        hook,
        breach: NO_BREACH,
        before: seen.before,
        after: seen.after,
        flow: Some(flow),
    };
    let changed = !is(seen.before[0], seen.after[0]) || !is(seen.before[1], seen.after[1]);
    if !changed && (flow.has(flow_flag::ESTABLISHED) || !seen.confirmed) {
        return;
    }
    let closed = is(seen.after[0], State::Closed) && is(seen.after[1], State::Closed);
    if seen.confirmed && !closed && flow.mark_once(flow_flag::ESTABLISHED) {
        s.report(&report);
    }
    let has_left = |state| state as u8 > State::Established as u8 || is(state, State::Closed);
    if changed
        && (has_left(seen.after[0]) || has_left(seen.after[1]))
        && flow.mark_once(flow_flag::CLOSING)
    {
        // The responder's only word was an RST.
        let refuser = flow.half(flow.originator().other()).facts();
        if closed && refuser.has(fact::RST) && !refuser.has_end() {
            s.count_breach(Rule::Refused, hook);
        }
        report.kind = Kind::Closing;
        s.report(&report);
    }
}

#[inline(always)]
fn violation<S: Surroundings>(
    s: &S,
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
    breach: Breach,
    (before, after): ([State; 2], [State; 2]),
) {
    s.count_breach(breach.rule, hook);
    if breach.rule.severity() != Severity::Violation {
        return;
    }
    flow.violations.add(1);
    let kind = Kind::Violation;
    s.report(&Report { now_ns, kind, packet, hook, breach, before, after, flow: Some(flow) });
}

/// The second half of [`track`]: a packet that belongs to no confirmed flow. `None` where another CPU created its flow
/// at the same moment; a second call then finds it.
#[inline(always)]
pub fn track_half_open<S: Surroundings>(
    s: &S,
    packet: &Packet,
    hook: Hook,
    now_ns: u64,
) -> Option<Fate> {
    let segment = &packet.segment;
    let existing = s.half_open(&packet.key).filter(|half_open| !half_open.flow.is_dead());
    let replaced = existing.is_some_and(|half_open| is_replaced_by(s, &half_open.flow, packet));
    let (half_open, is_new) = match existing {
        Some(half_open) if !replaced => (half_open, false),
        _ => {
            if segment.has(Flags::RST) {
                return Some(Fate::NoFlow);
            }
            let Some(scratch) = s.scratch() else { return Some(Fate::NotInserted) };
            if let Some(old) = existing {
                report_reopened(s, &old.flow, packet, hook, now_ns);
            }
            begin(s, scratch, packet, now_ns);
            (scratch, true)
        }
    };
    let seen = observe(s, &half_open.flow, Some(half_open), packet, hook, now_ns);
    if seen.confirmed
        && !(is(seen.before[0], State::Established) && is(seen.before[1], State::Established))
    {
        note_handshake_time(&half_open.flow, now_ns);
    }
    if is_new {
        match s.insert_half_open(&packet.key, half_open, existing.is_some()) {
            Inserted::Done if existing.is_some() => {}
            Inserted::Done => s.tally(Tally::HalfOpenInserted),
            Inserted::Exists => return None,
            Inserted::Full => {
                s.tally(Tally::HalfOpenInsertFailed);
                return Some(Fate::NotInserted);
            }
        }
        let midstream = half_open.flow.has(flow_flag::MIDSTREAM);
        s.tally(if midstream { Tally::FlowsMidstream } else { Tally::FlowsBySyn });
        let kind = Kind::New;
        let (before, after) = (seen.before, seen.after);
        s.report(&Report {
            now_ns,
            kind,
            packet,
            hook,
            breach: NO_BREACH,
            before,
            after,
            flow: Some(&half_open.flow),
        });
    }
    announce(s, &half_open.flow, packet, hook, now_ns, &seen);
    let over = is(seen.after[0], State::Closed) && is(seen.after[1], State::Closed);
    if seen.confirmed && !over {
        confirm(s, half_open, packet, hook, now_ns);
    }
    Some(Fate::Tracked)
}

/// The end of a flow whose key a new connection takes.
#[inline(always)]
fn report_reopened<S: Surroundings>(s: &S, old: &Flow, packet: &Packet, hook: Hook, now_ns: u64) {
    s.tally(Tally::FlowsReopened);
    let last = s.forget(states(old));
    s.report(&Report {
        now_ns,
        kind: Kind::Destroy,
        packet,
        hook,
        breach: NO_BREACH,
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
        let us = now_ns.saturating_sub(flow.created_ns.get()) / 1000;
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
            !(me.seen() && peer.seen()) && is_open(&me, &peer, flow.has(flow_flag::MIDSTREAM))
        }
    }
}

/// Fills a new record for the flow that begins with `packet`.
#[inline(always)]
fn begin<S: Surroundings>(s: &S, scratch: &HalfOpen, packet: &Packet, now_ns: u64) {
    let segment: &Segment = &packet.segment;
    let answers = segment.has(Flags::SYN) && segment.has(Flags::ACK);
    // A SYN,ACK may be seen before the SYN that it answers (H17).
    let originator = if answers { packet.from.other() } else { packet.from };
    let flags = if segment.has(Flags::SYN) { 0 } else { flow_flag::MIDSTREAM };
    scratch.start(now_ns, originator, flags, s.ifindex());
}

/// Moves a flow to the confirmed table. A flow that ended on the same key makes room; it is entombed first, so that
/// the agent, which may be about to remove it, and this CPU cannot both have it. Where the agent was faster, or the
/// table is full, the flow stays where it is and tries again with its next packet.
#[inline(always)]
fn confirm<S: Surroundings>(s: &S, half_open: &HalfOpen, packet: &Packet, hook: Hook, now_ns: u64) {
    let flow = &half_open.flow;
    let old = s.confirmed(&packet.key);
    if let Some(old) = old {
        if !old.entomb(old.life()) {
            return;
        }
        report_reopened(s, old, packet, hook, now_ns);
    }
    match s.insert_confirmed(&packet.key, flow, old.is_some()) {
        Inserted::Done => {
            s.delete_half_open(&packet.key);
            s.tally(Tally::FlowsConfirmed);
        }
        // The other direction's CPU confirms it, and takes it out of here.
        Inserted::Exists => {}
        Inserted::Full => {
            // No memory to replace the old one, which is a tombstone now and would hold its key for ever.
            if old.is_some() {
                s.delete_confirmed(&packet.key);
            }
            if flow.mark_once(flow_flag::TABLE_FULL) {
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
