//! Where a packet's flow is: found, prepared for the packet, and looked up again where it makes a tombstone.

use super::{
    conclude::is_confirmed,
    environment::Environment,
    half_open::{begin, confirm, join_confirmed},
    observe::is,
    successor::{is_replaced_by, note_reuse, report_reopened},
};
use crate::{
    counters::Hook,
    elsewhere::is_counted_elsewhere,
    flow::{Flow, HalfOpen, fact, flow_flag},
    owner::Owner,
    packet::Packet,
    segment::Flags,
    state::State,
    violation::Rule,
};

/// Where a packet that belongs to no confirmed flow goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Place {
    /// To the half-open flow that there is.
    Existing = 0,
    /// To a new one, which was begun in [`Environment::scratch`].
    New = 1,
    /// To a new one that takes the place of the one there is.
    Replacing = 2,
    /// Nowhere: an RST begins no flow.
    NoFlow = 3,
    /// Nowhere: there is no memory.
    NoMemory = 4,
    /// Nowhere: it is counted at another hook.
    Elsewhere = 5,
    /// To the confirmed flow that another CPU has just made of the half-open one.
    Moved = 6,
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
            6 => Self::Moved,
            _ => Self::NoMemory,
        }
    }
}

/// What comes before [`super::track_half_open`]: sees whether the packet belongs to the flow that was `found` among the half-open
/// ones, or begins another. `confirmed` is what the other table has on its key.
#[inline(always)]
pub fn prepare<S: Environment>(
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
    // Looked for before it was in the one table, and after it was no longer in the other. No flow but that begins without SYN.
    let begins = !s.forget(found.is_some()) && !s.forget(confirmed.is_some());
    if begins && !packet.segment.has(Flags::SYN) && s.confirmed(&packet.key).is_some() {
        return Place::Moved;
    }
    let old = match existing {
        Some(existing) if !is_replaced_by(s, &existing.flow, packet) => return Place::Existing,
        existing => existing,
    };
    if packet.segment.has(Flags::RST) {
        s.count_breach(Rule::RstNoSession, hook);
        return Place::NoFlow;
    }
    let Some(scratch) = s.scratch() else { return Place::NoMemory };
    if let Some(HalfOpen { flow, .. }) = old {
        note_reuse(s, flow, hook);
        report_reopened(s, flow, packet, hook, now_ns);
    }
    begin(scratch, packet, here, now_ns, old.map(|old| &old.flow).or(confirmed));
    if let Some(old) = old
        && old.flow.has(flow_flag::OTHER_ISNS)
        && !old.flow.has(flow_flag::ESTABLISHED)
    {
        scratch.take_over(old);
    }
    if old.is_some() { Place::Replacing } else { Place::New }
}

/// What comes after [`super::track_half_open`], with what it was given: what the packet has made of its flow's place, and of the
/// flow before it on the key, if there was one.
#[inline(always)]
pub fn settle<S: Environment>(
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
    if !segment.has(Flags::ACK) && !segment.has(Flags::RST) {
        return;
    }
    let half_open = if matches!(place, Place::Existing) { found } else { s.scratch() };
    let Some(half_open) = half_open else { return };
    let flow = &half_open.flow;
    let [low, high] = s.states(flow);
    let is_over = is(low, State::Closed) && is(high, State::Closed);
    if is_over && segment.has(Flags::RST) && !had_confirmed {
        join_confirmed(s, flow, packet);
    }
    if is_over || flow.is_dead() || !segment.has(Flags::ACK) {
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
