//! Handshakes that go as nearly all do: a usual SYN, its usual SYN,ACK, and the third segment, in the SYN cache
//! ([`crate::syn_cache`]).
//!
//! Nothing is decided here that the rest of tracking would decide otherwise: only segments are taken of which that would write
//! exactly what [`restore`] and [`complete`] write, and report nothing that anybody listens to. Whatever else comes on the key makes
//! the record that it needs first. A property test holds one against the other, as for [`crate::predict`].

use super::environment::{Environment, Inserted};
use crate::{
    counters::{Hook, Tally},
    event::Kind,
    flow::{Facts, Flow, HalfOpen, Opening, fact, flow_flag},
    history::{Letter, Letters},
    key::{End, FlowKey},
    notes,
    owner::Owner,
    packet::Packet,
    segment::{Flags, Segment, SynOptions},
    syn_cache::{
        CachePlace, CacheSet, CachedHandshake, Found, Locked, TakeOutcome, Taken, UsualOpening,
    },
    violation::Marks,
};

/// Flags that a usual segment of a handshake may have beside its own (RFC 3168, RFC 9768).
const BESIDE: Flags = Flags::ECE.with(Flags::CWR).with(Flags::AE);

/// What came of a packet that belongs to no confirmed flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum InCache {
    /// It is for the rest of tracking, which finds a record of what was cached.
    Not = 0,
    /// It was tracked.
    Tracked = 1,
    /// It is counted at another hook.
    Elsewhere = 2,
    /// Another CPU has begun the same handshake, or taken the same place, at this moment: to be tried again.
    Again = 3,
    /// Another CPU writes to the handshake and does not end: there is no place for the packet.
    Stuck = 4,
}

/// Tracks a packet of which the confirmed table has no flow, where its handshake is a usual one.
#[inline(always)]
#[must_use]
pub fn track_handshake<S: Environment>(s: &S, packet: &Packet, hook: Hook, now_ns: u64) -> InCache {
    let Some((place, set)) = s.syn_cache(&packet.key) else { return InCache::Not };
    let here = Owner::new(s.slot(), hook);
    let is_legal = s.forget(notes::illegal(packet) == Marks::NONE);
    let locked = match s.lock(set, place.tag) {
        Found::Locked(locked) => locked,
        Found::Busy => return InCache::Stuck,
        Found::Absent => {
            let begins = is_legal && flags(&packet.segment) == Flags::SYN.0;
            return if begins { begin(s, place, set, packet, here, now_ns) } else { InCache::Not };
        }
    };
    let Some(handshake) = of_key(s, place, set, &locked, &packet.key) else {
        set.unlock(locked);
        return InCache::Not;
    };
    let is_originator = handshake.originator().is_high() == packet.from.is_high();
    let [of_syn, of_answer] = handshake.owners();
    let owner = if is_originator { of_syn } else { of_answer };
    if is_legal && owner.is_some() && !owner.is(here) {
        set.unlock(locked);
        return InCache::Elsewhere;
    }
    if is_legal && !is_originator && answers(handshake, &packet.segment) {
        if let Some(answer) = UsualOpening::of(&packet.segment, here, now_ns)
            && !s.listens(Kind::Segment.bit())
        {
            handshake.answer(&answer);
            set.publish(locked, now_ns);
            return InCache::Tracked;
        }
    } else if is_legal
        && is_originator
        && completes(handshake, &packet.segment)
        && !s.listens(Kind::Segment.bit() | Kind::Established.bit())
        && let Some(scratch) = s.scratch()
    {
        s.restore(handshake);
        complete(&scratch.flow, packet, hook, now_ns);
        match s.insert_confirmed(&packet.key, &scratch.flow, false) {
            Inserted::Done => {
                set.free(locked);
                s.tally(Tally::FlowsConfirmed);
                return InCache::Tracked;
            }
            // Another CPU has, of what was a record of its own.
            Inserted::Exists => {
                set.free(locked);
                return InCache::Not;
            }
            Inserted::Full => {}
        }
    }
    give_record(s, set, locked, handshake, &packet.key);
    InCache::Not
}

/// Gives the handshake of a key a record among the half-open flows, where it is cached: what is to be done with it needs one.
#[inline(always)]
pub fn promote<S: Environment>(s: &S, key: &FlowKey) {
    let Some((place, set)) = s.syn_cache(key) else { return };
    let Found::Locked(locked) = s.lock(set, place.tag) else { return };
    match of_key(s, place, set, &locked, key) {
        Some(handshake) => give_record(s, set, locked, handshake, key),
        None => set.unlock(locked),
    }
}

/// A record was inserted among the half-open flows: a handshake that another CPU has begun in the cache meanwhile, on the same key, is
/// part of it.
#[inline(always)]
pub fn give_way<S: Environment>(s: &S, key: &FlowKey) {
    let Some((place, set)) = s.syn_cache(key) else { return };
    let Found::Locked(locked) = s.lock(set, place.tag) else { return };
    let Some(handshake) = of_key(s, place, set, &locked, key) else {
        set.unlock(locked);
        return;
    };
    if let Some(half_open) = s.half_open(key) {
        let half = half_open.flow.half(handshake.originator());
        half.packets.add(1);
        half.bytes.add(u64::from(handshake.syn().ip_len));
    }
    set.free(locked);
}

/// The handshake at a place, if it is of this key.
#[inline(always)]
fn of_key<'a, S: Environment>(
    s: &'a S,
    place: CachePlace,
    set: &'a CacheSet,
    locked: &Locked,
    key: &FlowKey,
) -> Option<&'a CachedHandshake> {
    let handshake = set.handshake(locked);
    let beside = s.cached_addresses(locked.index(place.set))?;
    handshake.is_of(beside, key).then_some(handshake)
}

#[inline(always)]
fn give_record<S: Environment>(
    s: &S,
    set: &CacheSet,
    locked: Locked,
    handshake: &CachedHandshake,
    key: &FlowKey,
) {
    s.restore(handshake);
    let inserted = s.scratch().map(|scratch| s.insert_half_open(key, scratch, false));
    if matches!(inserted, None | Some(Inserted::Full)) {
        // There is no memory for it.
        set.unlock(locked);
    } else {
        set.free(locked);
    }
}

/// A usual SYN begins a handshake.
#[inline(always)]
fn begin<S: Environment>(
    s: &S,
    place: CachePlace,
    set: &CacheSet,
    packet: &Packet,
    here: Owner,
    now_ns: u64,
) -> InCache {
    let Some(syn) = UsualOpening::of(&packet.segment, here, now_ns) else { return InCache::Not };
    if packet.segment.ack.0 != 0 || s.listens(Kind::Segment.bit() | Kind::New.bit()) {
        return InCache::Not;
    }
    let shed = s.is_flooded(now_ns);
    let Taken { outcome, place: locked } = s.take(set, place.tag, now_ns, shed);
    match outcome {
        TakeOutcome::Place | TakeOutcome::Shed => {}
        TakeOutcome::Full => return InCache::Not,
        TakeOutcome::Twice => return InCache::Again,
    }
    // Another CPU inserts a record and then looks here ([`give_way`]); so one of both sees the other.
    if s.half_open(&packet.key).is_some() {
        set.unlock(locked);
        return InCache::Not;
    }
    let Some(beside) = s.cached_addresses(locked.index(place.set)) else {
        set.unlock(locked);
        return InCache::Not;
    };
    set.handshake(&locked).begin(beside, &packet.key, packet.from, &syn);
    set.publish(locked, now_ns);
    if matches!(outcome, TakeOutcome::Shed) {
        s.tally(Tally::HalfOpenShed);
    }
    s.tally(Tally::HalfOpenInserted);
    s.tally(Tally::FlowsBySyn);
    InCache::Tracked
}

/// A segment's flags without those that a usual one may have beside its own.
#[inline(always)]
const fn flags(segment: &Segment) -> u16 {
    segment.flags.0 & !BESIDE.0
}

/// Whether a segment is the SYN,ACK that answers a cached SYN.
#[inline(always)]
fn answers(handshake: &CachedHandshake, segment: &Segment) -> bool {
    flags(segment) == Flags::SYN.with(Flags::ACK).0
        && !handshake.is_answered()
        && segment.ack == handshake.syn().isn.add(1)
}

/// Whether a segment is the third one of a cached handshake, and no more than that.
#[inline(always)]
fn completes(handshake: &CachedHandshake, segment: &Segment) -> bool {
    let syn = handshake.syn();
    let is_old = segment.has_timestamp
        && syn.options.has(SynOptions::HAS_TIMESTAMPS)
        && syn.options.timestamp.0 != 0
        && segment.timestamp.before(syn.options.timestamp);
    flags(segment) == Flags::ACK.0
        && handshake.is_answered()
        && segment.seq == syn.isn.add(1)
        && segment.ack == handshake.syn_ack().isn.add(1)
        && segment.payload == 0
        && segment.window != 0
        && segment.further == 0
        && !segment.fragment
        && !is_old
}

/// Makes the record that a cached handshake stands for: what the rest of tracking would have made of its SYN and its SYN,ACK.
#[inline(always)]
pub fn restore(handshake: &CachedHandshake, to: &HalfOpen) {
    let from = handshake.originator();
    let syn = handshake.syn();
    to.start(syn.seen_ns, from, 0);
    write(&to.flow, from, &syn, None);
    let mut letters = Letters::default().and(Letter::Syn, from);
    if handshake.is_answered() {
        let answer = handshake.syn_ack();
        write(&to.flow, from.other(), &answer, Some(syn.isn.add(1)));
        letters = letters.and(Letter::SynAck, from.other());
        let _ = to.flow.renew(answer.seen_ns);
    }
    to.flow.history.append(letters);
}

/// Writes a SYN, or a SYN,ACK that acknowledges `ack`, into the half of its sender, of whom nothing was seen before.
#[inline(always)]
fn write(flow: &Flow, end: End, opening: &UsualOpening, ack: Option<crate::seq::Seq>) {
    let UsualOpening { isn, window, options, ip_len, owner, .. } = *opening;
    let said = Opening {
        isn,
        answers: ack.is_some(),
        ack: ack.unwrap_or_default(),
        data: 0,
        window: u32::from(window),
        options,
    };
    let mut facts = said.facts();
    if ack.is_none() {
        facts.flags |= fact::BARE_SYN;
    }
    facts.flags |= if Owner::of_bits(owner).is_leaving() { fact::SEEN_OUT } else { fact::SEEN_IN };
    let half = flow.half(end);
    half.grow(&Facts::default(), &facts);
    half.packets.set(1);
    half.bytes.set(u64::from(ip_len));
    half.window.set(window);
    half.mss.set(options.mss);
    flow.set_owner(end, Owner::of_bits(owner));
}

/// Writes the third segment into the record of its handshake.
#[inline(always)]
pub fn complete(flow: &Flow, packet: &Packet, hook: Hook, now_ns: u64) {
    let segment = &packet.segment;
    let mine = flow.half(packet.from);
    let (me, peer) = (mine.facts(), flow.half(packet.from.other()).facts());
    let mut facts = me;
    facts.ack = segment.ack;
    let edge = segment.ack.add(u32::from(segment.window) << me.scale(&peer));
    // The window of its SYN was offered, too.
    facts.edge = edge.latest(peer.isn.add(1).add(me.edge.0));
    facts.flags |= fact::ACK | fact::MOVED_ON | fact::EDGE | fact::ACKED_SYN | fact::PURE_ACK;
    facts.flags |= match hook {
        Hook::Ingress => fact::SEEN_IN,
        Hook::Egress => fact::SEEN_OUT,
    };
    if segment.has_timestamp {
        facts.ts = segment.timestamp;
        facts.flags |= fact::TS;
    }
    mine.grow(&me, &facts);
    mine.count(segment);
    flow.history.append(Letters::default().and(Letter::Ack, packet.from));
    let us = now_ns.saturating_sub(flow.created_ns()) / 1000;
    flow.handshake_us.set(u32::try_from(us).unwrap_or(u32::MAX).max(1));
    flow.mark(flow_flag::ESTABLISHED);
    let _ = flow.renew(now_ns);
}
