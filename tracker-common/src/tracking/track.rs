//! From a packet to its flow: look it up, create it, judge the segment, confirm, report.
//!
//! Flows live in two tables. *Half-open* ones are evicted oldest first when there are too many, so a flood of SYNs can
//! push out nothing but other unfinished handshakes. A flow whose two ends have both shown themselves is *confirmed* and
//! moves to a table that evicts nothing. Where that is full, flows stay in the first and go on being tracked.
//!
//! Races. A record is written by one CPU a direction, or by several that only move numbers forward ([`crate::flow`]). Moving a
//! flow between the tables copies it; who has written into the old record meanwhile joins it to the new one
//! ([`Flow::join`]), and who found it in neither table looks again ([`Place::Moved`]). An evicted record of the half-open table
//! may be reused while a program still holds it; a record that was just looked up carries the table's reference mark
//! and is not what the kernel evicts first. A packet's records are looked up once, before its first step, and held for
//! about a microsecond, until its last one: only in this time can one be removed (by the agent, or by the other direction's
//! CPU that moves it) and its memory be another flow's before something was written into it. Who makes a tombstone looks
//! again ([`settle`]).

mod conclude;
mod environment;
mod half_open;
mod illegal;
mod observe;
mod offers;
mod on_flow;
mod place;
mod successor;
mod usual_handshake;

use self::{conclude::announce, observe::observe, successor::belongs_to_successor};
pub use self::{
    conclude::{Step, conclude, publish, reason},
    environment::{Environment, Inserted, Outcome, Report, VerifiedSteps},
    half_open::track_half_open,
    illegal::{bad_header_len, track_illegal},
    observe::{SegmentEffect, notes_on, situation, write},
    offers::{choose, offers, write_offers},
    on_flow::{
        advance_on, agree_on, close_on, judge_on, judge_others_on, judge_reset_on,
        judge_syn_ack_on, judge_syn_on, keep_on, reset_signs_on,
    },
    place::{Place, prepare, settle},
    successor::belongs,
    usual_handshake::{InCache, complete, give_way, promote, restore, track_handshake},
};
use crate::{
    counters::{Fate, Hook},
    flow::Flow,
    packet::Packet,
};

/// Whether the table of confirmed flows has to be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// It was, before the packet's first step.
    First,
    /// It has, because it has changed since.
    Again,
}

/// Tracks one packet: [`track_illegal`], [`track_confirmed`], then [`prepare`], [`track_half_open`] and [`settle`], the last
/// four twice if need be: where another CPU has created the packet's flow, or moved it between the tables, meanwhile. Each is the caller's to call, which gives it a stack frame of its own and delivers what it
/// reports. `None` is [`Fate::NotInserted`].
#[inline(always)]
pub fn in_order<T>(
    illegal: impl FnOnce() -> Option<T>,
    confirmed: impl Fn(Lookup) -> Option<T>,
    half_open: impl Fn() -> Option<T>,
) -> Option<T> {
    illegal()
        .or_else(|| confirmed(Lookup::First))
        .or_else(&half_open)
        .or_else(|| confirmed(Lookup::Again))
        .or_else(&half_open)
}

/// The second part of tracking: packets of confirmed flows, of which `flow` has the packet's key. `None` for all others,
/// which [`track_half_open`] takes.
#[inline(always)]
pub fn track_confirmed<S: Environment>(
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
