//! One look at an agent's tables after the other, and what has changed between two.

use std::{cmp::Ordering, collections::BinaryHeap, collections::HashMap};

use anyhow::Result;
use jiff::Timestamp;
use tracker_common::{
    counters::{Hook, Tally},
    flow::Flow,
    key::{End, FlowKey},
    state::State,
    sweep::{Tier, states},
    violation::{Rule, Severity},
};

use super::order::Key;
use crate::{
    cli::stats::{Cookies, ListenerStats},
    client::agent::Agent,
    kernel::{flow_violations::FlowViolations, instance::Instance, tables::Tables},
    model::{clock::monotonic_ns, filter::Filter, record::Record},
};

/// Flows that can be shown; of more than so many, those that come first in the order asked for.
pub(super) const MOST: usize = 1000;

/// What is to be looked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) filter: Filter,
    pub(super) key: Key,
    pub(super) reverse: bool,
    /// A flow that is wanted in any case.
    pub(super) flow: Option<Id>,
}

/// Names one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Id {
    pub(super) key: FlowKey,
    pub(super) created_ns: u64,
}

/// What both ends of a flow send a second.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Rate {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// A flow as it is now.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: Id,
    pub(super) record: Record,
    /// Since the look before; absent at the first.
    pub(super) rate: Option<Rate>,
    /// Since its first packet.
    pub(super) age_s: u64,
}

/// What a look has found.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    /// At most [`MOST`], in the order asked for.
    pub(super) rows: Vec<Row>,
    /// All that the filter lets through.
    pub(super) matched: u64,
    /// The flow that was wanted in any case, and what was found of it.
    pub(super) flow: Option<(Id, Option<Row>)>,
    /// Flows of both tables, and what each table has room for.
    pub(super) confirmed: (u64, u32),
    pub(super) unconfirmed: (u64, u32),
    /// Connections whose handshake goes on.
    pub(super) half_open: u64,
    pub(super) time_wait: u64,
    pub(super) established: u64,
    /// New flows a second.
    pub(super) opened: Option<u64>,
    /// Packets a second that arrived, and that left.
    pub(super) packets: [Option<u64>; 2],
    /// Breaches of the rules that are reported, in all and since the look before.
    pub(super) violations: (u64, Option<u64>),
    pub(super) interfaces: Vec<String>,
    pub(super) listeners: Vec<ListenerStats>,
}

/// What is remembered of a flow until the next look.
struct PreviousCounts {
    created_ns: u64,
    packets: u64,
    bytes: u64,
}

/// Counters that only grow.
#[derive(Clone, Copy, Default)]
struct Totals {
    opened: u64,
    packets: [u64; 2],
    violations: u64,
}

/// Looks at the tables of one agent.
pub(super) struct Sampler {
    instance: Instance,
    flows: HashMap<FlowKey, PreviousCounts>,
    before: Option<(u64, Totals)>,
}

/// A flow that may be among those that come first: the one that compares greatest is the first to be left out.
struct Candidate {
    rank: u64,
    reverse: bool,
    key: FlowKey,
    flow: Flow,
    tier: Tier,
    rate: Option<Rate>,
}

impl Sampler {
    pub(super) fn new(instance: &Instance) -> Self {
        Self { instance: instance.clone(), flows: HashMap::new(), before: None }
    }

    /// Looks.
    pub(super) fn look(&mut self, wanted: &Wanted) -> Result<Sample> {
        // Opened anew each time: the next agent may have tables of its own.
        let tables = Tables::open(&self.instance)?;
        let agent = Agent::find(&self.instance)?;
        let view = agent.view();
        let broken = self.broken(wanted)?;
        let complete = |key: &FlowKey, flow: &Flow, tier| {
            let mut record = Record::new(key, flow, Some(tier), &view);
            if let Some(broken) = &broken {
                broken.complete(key, flow, &mut record);
            }
            record
        };
        let now_ns = monotonic_ns();
        let elapsed_ns = self.before.map(|(before_ns, _)| now_ns.saturating_sub(before_ns).max(1));
        let per_second = |more: u64, elapsed_ns: u64| {
            let rate = u128::from(more) * 1_000_000_000 / u128::from(elapsed_ns);
            u64::try_from(rate).unwrap_or(u64::MAX)
        };

        let filters = !wanted.filter.is_empty();
        let mut flows = HashMap::with_capacity(self.flows.len());
        let mut first = BinaryHeap::with_capacity(MOST + 1);
        let (mut confirmed, mut unconfirmed, mut half_open) = (0, 0, 0);
        let (mut time_wait, mut established) = (0, 0);
        let (mut matched, mut special) = (0, None);
        tables.each_flow(|key, flow, tier| {
            if flow.is_dead() {
                return;
            }
            match tier {
                Tier::Confirmed => confirmed += 1,
                Tier::HalfOpen => unconfirmed += 1,
            }
            let states = states(flow);
            half_open += u64::from(is_half_open(states));
            time_wait += u64::from(states.contains(&State::TimeWait));
            established += u64::from(states == [State::Established; 2]);
            let seen = PreviousCounts::new(flow);
            let rate = elapsed_ns.map(|elapsed_ns| {
                let before = self.flows.get(key).filter(|it| it.created_ns == seen.created_ns);
                let more = |now: u64, before: Option<u64>| {
                    per_second(now.saturating_sub(before.unwrap_or_default()), elapsed_ns)
                };
                Rate {
                    packets: more(seen.packets, before.map(|it| it.packets)),
                    bytes: more(seen.bytes, before.map(|it| it.bytes)),
                }
            });
            let id = Id { key: *key, created_ns: seen.created_ns };
            flows.insert(*key, seen);
            if wanted.flow == Some(id) {
                special = Some(Row::new(id, complete(key, flow, tier), rate, now_ns));
            }
            if filters && !wanted.filter.matches(&complete(key, flow, tier)) {
                return;
            }
            matched += 1;
            let rank = wanted.key.rank(flow, rate);
            let candidate = Candidate {
                rank,
                reverse: wanted.reverse,
                key: *key,
                flow: flow.clone(),
                tier,
                rate,
            };
            if first.len() < MOST {
                first.push(candidate);
            } else if first.peek().is_some_and(|last| candidate < *last) {
                first.pop();
                first.push(candidate);
            }
        })?;
        self.flows = flows;

        let totals = Totals::read(&tables, &agent)?;
        let before = self.before.replace((now_ns, totals)).map(|(_, totals)| totals);
        let growth = |of: fn(&Totals) -> u64| {
            let before = before.as_ref()?;
            Some(of(&totals).saturating_sub(of(before)))
        };
        let rate = |growth: Option<u64>| Some(per_second(growth?, elapsed_ns?));
        let rows = first.into_sorted_vec().into_iter().map(|candidate| {
            let Candidate { key, flow, tier, rate, .. } = candidate;
            let id = Id { key, created_ns: flow.created_ns() };
            Row::new(id, complete(&key, &flow, tier), rate, now_ns)
        });
        Ok(Sample {
            at: Timestamp::now(),
            rows: rows.collect(),
            matched,
            flow: wanted.flow.map(|id| (id, special)),
            confirmed: (confirmed, tables.capacity(Tier::Confirmed)?),
            unconfirmed: (unconfirmed, tables.capacity(Tier::HalfOpen)?),
            half_open,
            time_wait,
            established,
            opened: rate(growth(|totals| totals.opened)),
            packets: [
                rate(growth(|totals| totals.packets[0])),
                rate(growth(|totals| totals.packets[1])),
            ],
            violations: (totals.violations, growth(|totals| totals.violations)),
            interfaces: agent.interfaces.into_iter().map(|interface| interface.name).collect(),
            listeners: Cookies::of(&self.instance)?.map_or_else(Vec::new, |it| it.listeners),
        })
    }

    /// Which rules flows have broken, where it is asked for or one flow is looked at by itself.
    fn broken(&self, wanted: &Wanted) -> Result<Option<FlowViolations>> {
        if wanted.filter.asks_for_rules() {
            return Ok(Some(FlowViolations::of(&self.instance)?));
        }
        // An agent of an older version does not share it: then it is not known.
        Ok(wanted.flow.and_then(|_| FlowViolations::of(&self.instance).ok()))
    }
}

impl Sample {
    /// All flows, of both tables.
    pub(super) fn flows(&self) -> u64 {
        self.confirmed.0 + self.unconfirmed.0
    }
}

/// Whether a handshake goes on: neither refused nor given up.
fn is_half_open(states: [State; 2]) -> bool {
    let waits = |state: &State| matches!(state, State::SynSent | State::SynReceived);
    states.iter().any(waits) && !states.contains(&State::Closed)
}

impl AsRef<Record> for Row {
    fn as_ref(&self) -> &Record {
        &self.record
    }
}

impl Row {
    fn new(id: Id, record: Record, rate: Option<Rate>, now_ns: u64) -> Self {
        let age_s = now_ns.saturating_sub(id.created_ns) / 1_000_000_000;
        Self { id, record, rate, age_s }
    }
}

impl PreviousCounts {
    fn new(flow: &Flow) -> Self {
        let [low, high] = [End::LOW, End::HIGH].map(|end| flow.half(end));
        Self {
            created_ns: flow.created_ns(),
            packets: low.packets.get().saturating_add(high.packets.get()),
            bytes: low.bytes.get().saturating_add(high.bytes.get()),
        }
    }
}

impl Totals {
    fn read(tables: &Tables, agent: &Agent) -> Result<Self> {
        let mut totals = Self {
            opened: tables.tally(Tally::FlowsBySyn)? + tables.tally(Tally::FlowsMidstream)?,
            ..Self::default()
        };
        for hook in Hook::ALL {
            for interface in &agent.interfaces {
                let packets: u64 = tables.packets(interface.slot, hook)?.iter().sum();
                totals.packets[hook as usize] += packets;
            }
            for rule in Rule::ALL.iter().filter(|rule| rule.severity() == Severity::Violation) {
                totals.violations += tables.breaches(*rule, hook)?;
            }
        }
        Ok(totals)
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_rank = self.rank.cmp(&other.rank);
        let by_rank = if self.reverse { by_rank } else { by_rank.reverse() };
        // Those that are equal stay where they are from one look to the next: the older one first.
        by_rank
            .then_with(|| self.flow.created_ns().cmp(&other.flow.created_ns()))
            .then_with(|| self.key.ports.cmp(&other.key.ports))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_connections_are_not_half_open() {
        for (states, expected) in [
            ([State::SynSent, State::Listen], true),
            ([State::SynSent, State::SynReceived], true),
            ([State::Established, State::SynReceived], true),
            ([State::Closed, State::Listen], false),
            ([State::SynSent, State::Closed], false),
            ([State::Closed, State::Closed], false),
            ([State::Established, State::Established], false),
            ([State::TimeWait, State::Closed], false),
        ] {
            assert_eq!(is_half_open(states), expected, "{states:?}");
        }
    }
}
