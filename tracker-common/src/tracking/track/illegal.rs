//! Segments whose header alone is wrong: they belong to no flow.

use super::{
    environment::{Environment, NO_BREACH, Report},
    observe::note_mixed_flags,
    usual_handshake::promote,
};
use crate::{
    counters::{Fate, Hook},
    dropping::NO_RULE,
    notes,
    packet::Packet,
    state::State,
    violation::{Breach, Marks, Rule},
};

/// The first part of tracking: packets that are illegal by themselves. `None` for all others.
#[inline(always)]
pub fn track_illegal<S: Environment>(
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

/// A packet whose TCP header's length cannot be right: all else of the header was read.
#[inline(always)]
pub fn bad_header_len<S: Environment>(s: &S, packet: &Packet, hook: Hook, now_ns: u64, len: u32) {
    // Others are looked for in the SYN cache before they get here.
    if s.confirmed(&packet.key).is_none() {
        promote(s, &packet.key);
    }
    report_illegal(s, packet, hook, now_ns, Marks::NONE.with(Rule::BadHeaderLen), len);
}

/// Counts and reports breaches that the header alone shows, with the states of the flow that they failed to touch.
#[inline(always)]
fn report_illegal<S: Environment>(
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
    if matches!(hook, Hook::Ingress) {
        s.drop_if_chosen(broken, NO_RULE);
    }
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
