//! A flow whose handshake is not complete: begun, continued, confirmed.

use super::{
    environment::{Environment, Inserted},
    observe::{is, observe},
    place::Place,
};
use crate::{
    counters::{Fate, Hook, Tally},
    event::Kind,
    flow::{Flow, HalfOpen, fact, flow_flag},
    history::{Letter, Letters},
    owner::Owner,
    packet::Packet,
    segment::{Flags, Segment},
    state::State,
    violation::{Marks, Rule},
};

/// The third part of tracking, between [`super::prepare`] and [`super::settle`]: a packet that belongs to no confirmed flow. `None` where
/// another CPU created its flow, or moved it, at the same moment: the second part and this one then find it.
#[inline(always)]
pub fn track_half_open<S: Environment>(
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
        Place::Moved => return None,
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
            Inserted::Done => {
                s.tally(Tally::HalfOpenInserted);
                s.give_way(&packet.key);
            }
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

/// What is worth counting about how a flow began.
#[inline(always)]
fn beginning(flow: &Flow, packet: &Packet) -> Marks {
    let midstream = flow.has(flow_flag::MIDSTREAM);
    let fin = packet.segment.has(Flags::FIN);
    Marks::NONE.with_if(Rule::Midstream, midstream).with_if(Rule::FinNoSession, midstream && fin)
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

/// Fills a new record for the flow that begins with `packet`, after `old` on the same key where there was one.
#[inline(always)]
pub(super) fn begin(
    scratch: &HalfOpen,
    packet: &Packet,
    here: Owner,
    now_ns: u64,
    old: Option<&Flow>,
) {
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

/// Another CPU has confirmed this flow, and takes it out of the half-open table: what was written here since it took
/// its copy goes there, too.
#[inline(always)]
pub(super) fn join_confirmed<S: Environment>(s: &S, flow: &Flow, packet: &Packet) {
    if let Some(confirmed) = s.confirmed(&packet.key) {
        confirmed.join(flow);
    }
}

/// Moves a flow to the confirmed table, where it takes the place of a tombstone if `replace`. Where the table is full, it
/// stays where it is and tries again with its next packet.
#[inline(always)]
pub(super) fn confirm<S: Environment>(s: &S, half_open: &HalfOpen, packet: &Packet, replace: bool) {
    let flow = &half_open.flow;
    match s.insert_confirmed(&packet.key, flow, replace) {
        Inserted::Done => {
            s.delete_half_open(&packet.key);
            s.tally(Tally::FlowsConfirmed);
        }
        Inserted::Exists => join_confirmed(s, flow, packet),
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
