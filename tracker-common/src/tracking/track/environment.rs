//! What tracking needs from its surroundings, and what it hands them.

use super::{
    conclude::{Step, conclude, publish},
    observe::{SegmentEffect, notes_on, situation},
    offers::{choose, offers},
    successor::belongs,
    usual_handshake::{give_way, promote},
};
use crate::{
    counters::{Hook, Tally},
    flow::{Flow, HalfOpen},
    forget::VerifierBarrier,
    judge::{IsnCandidates, Situation, Verdict},
    key::FlowKey,
    packet::Packet,
    state::State,
    sweep::{Tables, states},
    syn_cache::{CachePlace, CacheSet, CachedAddresses, CachedHandshake, Found, Taken},
    violation::{Breach, Marks, Rule},
};

/// What tracking needs from its surroundings: the kernel's maps, or a simulation of them.
pub trait Environment: Tables + VerifierBarrier + VerifiedSteps {
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
    /// An arriving packet has broken the rules of `marks`, and that of `breach` (its code, or [`crate::dropping::NO_RULE`]): it is
    /// dropped, or counted, where that is asked for ([`crate::dropping::chosen`]).
    fn drop_if_chosen(&self, marks: Marks, breach: u32);
    /// Sends a report of each of its kinds that anyone listens to.
    fn report(&self, report: &Report<'_>);
    /// Whether anyone listens to reports of one of these kinds, bits of [`crate::event::Kind`].
    fn listens(&self, kinds: u32) -> bool;
    /// The set of the SYN cache that this key's handshake is in, if it is cached; `None` where the cache is not used.
    fn syn_cache(&self, key: &FlowKey) -> Option<(CachePlace, &CacheSet)>;
    /// Counts a handshake that begins, and says whether they come as in a flood ([`crate::config::LiveConfig::shed_above`]).
    fn is_flooded(&self, now_ns: u64) -> bool;
    /// Where a cached handshake's IPv6 addresses are.
    fn cached_addresses(&self, index: u32) -> Option<&CachedAddresses>;
}

/// The parts of tracking a segment, one after the other. In the kernel each is a function that the verifier checks by
/// itself, so that the ways through one are not multiplied by the ways through the next.
pub trait VerifiedSteps {
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
    fn offers(&self, half_open: &HalfOpen, packet: &Packet) -> IsnCandidates {
        offers(half_open, packet)
    }

    /// [`belongs`].
    #[inline(always)]
    fn belongs(&self, newer: &HalfOpen, flow: &Flow, packet: &Packet) -> bool {
        belongs(newer, flow, packet)
    }

    /// [`situation`].
    #[inline(always)]
    fn situation(
        &self,
        flow: &Flow,
        packet: &Packet,
        hook: Hook,
        offers: IsnCandidates,
    ) -> Situation {
        situation(flow, packet, hook, offers)
    }

    /// What [`VerifiedSteps::judge`] hands on to [`VerifiedSteps::write`].
    type Verdict: Outcome;

    /// [`super::judge_on`].
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

    /// [`super::write_offers`].
    fn write_offers(&self, half_open: &HalfOpen, packet: &Packet, verdict: &Self::Verdict);

    /// [`CacheSet::lock`]. In the kernel it is tried for longer.
    #[inline(always)]
    fn lock(&self, set: &CacheSet, tag: u64) -> Found
    where
        Self: VerifierBarrier + Sized,
    {
        set.lock(self, tag)
    }

    /// [`CacheSet::take`].
    #[inline(always)]
    fn take(&self, set: &CacheSet, tag: u64, now_ns: u64, shed: bool) -> Taken
    where
        Self: VerifierBarrier + Sized,
    {
        set.take(self, tag, now_ns, shed)
    }

    /// [`super::restore`], into [`Environment::scratch`].
    fn restore(&self, handshake: &CachedHandshake);

    /// [`promote`].
    #[inline(always)]
    fn promote(&self, key: &FlowKey)
    where
        Self: Environment + Sized,
    {
        promote(self, key);
    }

    /// [`give_way`].
    #[inline(always)]
    fn give_way(&self, key: &FlowKey)
    where
        Self: Environment + Sized,
    {
        give_way(self, key);
    }

    /// [`conclude`].
    #[inline(always)]
    fn conclude(&self, flow: &Flow, seen: &SegmentEffect) -> Step
    where
        Self: VerifierBarrier + Sized,
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
        seen: &SegmentEffect,
        step: Step,
    ) where
        Self: Environment + Sized,
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
    /// What happened, as bits of [`crate::event::Kind`].
    pub kinds: u32,
    /// The packet that made it happen.
    pub packet: &'a Packet,
    /// Where it was seen.
    pub hook: Hook,
    /// The rule that the packet broke and its numbers; `NO_BREACH` where `kinds` has no violation.
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

pub(super) const NO_BREACH: Breach = Breach { rule: Rule::NullFlags, low: 0, high: 0, actual: 0 };
