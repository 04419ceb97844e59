//! What only many connections together show: floods of unfinished handshakes, and scans. The sweep reads every flow
//! anyway, so these rules cost the kernel programs nothing.

use std::collections::{HashMap, HashSet};

use tracker_common::{
    flow::{Flow, fact},
    key::{Address, FlowKey},
    limit,
    sweep::{Tier, unfinished},
    violation::Rule,
};

use crate::{event::Event, record::View};

/// How much is too much; 0 for no limit.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Floods and scans")]
pub struct Limits {
    /// Half-open connections to one address and port from which on they are a SYN flood; 0 for no limit
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub syn_flood_limit: u32,
    /// Addresses and ports that one source has tried in vain from which on it is a scan; 0 for no limit
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub port_scan_limit: u32,
}

/// A flood or a scan that has begun.
#[derive(Clone, Debug)]
pub struct Finding {
    /// [`Rule::SynFlood`] or [`Rule::PortScan`].
    pub rule: Rule,
    /// The first of its flows.
    pub key: FlowKey,
    /// Its record.
    pub flow: Flow,
    /// How many there are.
    pub count: u32,
    /// How many there may be.
    pub limit: u32,
}

impl Finding {
    /// As listeners are told.
    #[must_use]
    pub fn event(&self, view: &View) -> Event {
        let Self { rule, key, flow, count, limit } = self;
        Event::found(*rule, key, flow, Tier::HalfOpen, Some((*limit, *count)), view)
    }
}

/// Whether somebody has tried to open this connection, and has not got it: all that a survey counts.
#[must_use]
pub fn in_vain(flow: &Flow) -> bool {
    let opener = flow.half(flow.originator()).facts();
    let responder = flow.half(flow.originator().other()).facts();
    let refused = responder.has(fact::RST) && !responder.has_end();
    !flow.is_dead() && opener.has(fact::SYN) && (refused || unfinished(flow).is_some())
}

/// An address, with a port where it is one that is flooded, in a zone.
type Subject = (Address, Option<[u8; 2]>, u16);

/// What one sweep has seen of a subject.
struct Sighting {
    key: FlowKey,
    flow: Flow,
    /// Of a flooded port: its half-open connections.
    half_open: u32,
    /// Of a source: what it has tried in vain.
    tried: HashSet<(Address, [u8; 2])>,
}

/// Looks at the half-open flows of sweep after sweep.
pub struct Survey {
    limits: Limits,
    sightings: HashMap<Subject, Sighting>,
    /// Floods and scans that were reported and are not over.
    under_way: HashSet<Subject>,
}

impl Survey {
    /// A survey with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, sightings: HashMap::new(), under_way: HashSet::new() }
    }

    /// Looks at a half-open flow.
    pub fn see(&mut self, key: &FlowKey, flow: &Flow) {
        if !in_vain(flow) {
            return;
        }
        let (from, to) = (flow.originator(), flow.originator().other());
        let target = (key.addresses[to.index()], key.ports[to.index()]);
        if unfinished(flow).is_some() && self.limits.syn_flood_limit > 0 {
            self.sighting((target.0, Some(target.1), key.zone), key, flow).half_open += 1;
        }
        if self.limits.port_scan_limit > 0 {
            let subject = (key.addresses[from.index()], None, key.zone);
            self.sighting(subject, key, flow).tried.insert(target);
        }
    }

    /// What was seen of `subject`, of which `flow` is one.
    fn sighting(&mut self, subject: Subject, key: &FlowKey, flow: &Flow) -> &mut Sighting {
        let new =
            || Sighting { key: *key, flow: flow.clone(), half_open: 0, tried: HashSet::new() };
        let sighting = self.sightings.entry(subject).or_insert_with(new);
        // The kernel's tables have no order, and a finding should be the same every time.
        if flow.created_ns() < sighting.flow.created_ns() {
            sighting.key = *key;
            sighting.flow.clone_from(flow);
        }
        sighting
    }

    /// Whether looking at flows of which `most` at most are [`in_vain`] can tell anything new.
    #[must_use]
    pub fn matters(&self, most: usize) -> bool {
        let Limits { syn_flood_limit, port_scan_limit } = self.limits;
        let reached = |limit: u32| limit > 0 && most >= limit as usize;
        !self.under_way.is_empty() || reached(syn_flood_limit) || reached(port_scan_limit)
    }

    /// What has begun since the last time, in the order of the first flows; a flood or scan that falls below half its
    /// limit is over, and may begin again.
    pub fn findings(&mut self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut under_way = HashSet::new();
        for (subject, sighting) in self.sightings.drain() {
            let (rule, count, limit) = if subject.1.is_some() {
                (Rule::SynFlood, sighting.half_open, self.limits.syn_flood_limit)
            } else {
                let tried = u32::try_from(sighting.tried.len()).unwrap_or(u32::MAX);
                (Rule::PortScan, tried, self.limits.port_scan_limit)
            };
            let known = self.under_way.contains(&subject);
            if count >= limit && !known {
                let Sighting { key, flow, .. } = sighting;
                found.push(Finding { rule, key, flow, count, limit });
            }
            if count >= limit || (known && count >= limit.div_ceil(2)) {
                under_way.insert(subject);
            }
        }
        self.under_way = under_way;
        found.sort_unstable_by_key(|finding| (finding.flow.created_ns(), finding.rule as u8));
        found
    }
}

/// The agent's own token buckets, for what it reports of single sources.
pub struct Sources {
    full_at: Vec<u64>,
    interval_ns: u64,
    burst_ns: u64,
}

impl Sources {
    /// Buckets that let a report pass every `interval_ns`, and `burst_ns` divided by that at once; all where it is 0.
    #[must_use]
    pub fn new(interval_ns: u64, burst_ns: u64) -> Self {
        Self { full_at: vec![0; limit::BUCKETS as usize], interval_ns, burst_ns }
    }

    /// Whether a report about `source` may pass at `now_ns`.
    pub fn pass(&mut self, source: &Address, now_ns: u64) -> bool {
        if self.interval_ns == 0 {
            return true;
        }
        let full_at = &mut self.full_at[limit::bucket(source) as usize];
        match limit::take_token(*full_at, now_ns, self.interval_ns, self.burst_ns) {
            Some(next) => {
                *full_at = next;
                true
            }
            None => false,
        }
    }
}
