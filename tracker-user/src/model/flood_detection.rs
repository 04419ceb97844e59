//! What only many connections together show: floods of unfinished handshakes, and scans. The sweep reads every flow
//! anyway, so these rules cost the kernel programs nothing.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use tracker_common::{
    flow::{Flow, fact},
    key::{Address, FlowKey},
    limit,
    sweep::{Tier, unfinished},
    violation::Rule,
};

use crate::model::{event::Event, record::View};

/// How much is too much; 0 for no limit.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Floods and scans")]
pub struct FloodLimits {
    /// Half-open connections to one address and port that count as a SYN flood; 0 for no limit
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub syn_flood_limit: u32,
    /// Addresses and ports that one source tries in vain before it counts as a scan; 0 for no limit
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub port_scan_limit: u32,
}

impl FloodLimits {
    fn of(&self, subject: &Subject) -> u32 {
        if subject.1.is_some() { self.syn_flood_limit } else { self.port_scan_limit }
    }
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
    /// Returns the event that subscribers get.
    #[must_use]
    pub fn event(&self, view: &View) -> Event {
        let Self { rule, key, flow, count, limit } = self;
        Event::found(*rule, key, flow, Tier::HalfOpen, Some((*limit, *count)), view)
    }
}

/// An address, with a port where it is one that is flooded, in a zone.
pub type Subject = (Address, Option<[u8; 2]>, u16);

/// Whom a connection speaks against: the port that it may flood where it is half-open, and the source that may be scanning
/// where it was tried in vain.
pub fn subjects(key: &FlowKey, flow: &Flow) -> impl Iterator<Item = Subject> {
    let (from, to) = (flow.originator(), flow.originator().other());
    let (opener, responder) = (flow.half(from).facts(), flow.half(to).facts());
    let refused = opener.has(fact::SYN) && responder.has(fact::RST) && !responder.has_end();
    let half_open = unfinished(flow).is_some();
    let addresses = key.addresses;
    let flooded = (addresses[to.index()], Some(key.ports[to.index()]), key.zone);
    let scanner = (addresses[from.index()], None, key.zone);
    let flooded = (half_open && !flow.is_dead()).then_some(flooded);
    let scanner = ((half_open || refused) && !flow.is_dead()).then_some(scanner);
    flooded.into_iter().chain(scanner)
}

/// What one sweep has seen of a subject.
struct Sighting {
    key: FlowKey,
    flow: Flow,
    /// Half-open connections of a flooded port.
    half_open: u32,
    /// Addresses and ports that a source has tried in vain.
    tried: HashSet<(Address, [u8; 2])>,
}

/// How many flows speak against subjects, of which several share a number: so none has more than that.
struct Crowds {
    counts: Vec<u32>,
    hasher: RandomState,
    /// Whether one is a flood or a scan at most.
    is_crowded: bool,
}

impl Crowds {
    /// Numbers, a power of two.
    const COUNTS: usize = 1 << 16;

    fn new() -> Self {
        Self { counts: vec![0; Self::COUNTS], hasher: RandomState::new(), is_crowded: false }
    }

    fn count(&mut self, subject: &Subject) -> &mut u32 {
        #[allow(clippy::cast_possible_truncation)] // masked
        let place = self.hasher.hash_one(subject) as usize & (Self::COUNTS - 1);
        &mut self.counts[place]
    }
}

/// Looks at the half-open flows of sweep after sweep.
///
/// In a flood from forged addresses there are as many sources as flows, so they are counted first ([`Self::count`]), and only those
/// that may matter are looked at ([`Self::see`]).
pub struct FloodDetector {
    limits: FloodLimits,
    /// `None` where nothing was counted, and everything is to be looked at.
    crowds: Option<Crowds>,
    sightings: HashMap<Subject, Sighting>,
    /// Floods and scans that were reported and are not over.
    under_way: HashSet<Subject>,
}

impl FloodDetector {
    /// A detector with these limits.
    #[must_use]
    pub fn new(limits: FloodLimits) -> Self {
        Self { limits, crowds: None, sightings: HashMap::new(), under_way: HashSet::new() }
    }

    /// Goes by these from now on. What is under way is not reported again.
    pub fn set_limits(&mut self, limits: FloodLimits) {
        self.limits = limits;
    }

    /// Counts a half-open flow, before any is looked at.
    pub fn count(&mut self, key: &FlowKey, flow: &Flow) {
        let crowds = self.crowds.get_or_insert_with(Crowds::new);
        for subject in subjects(key, flow) {
            let count = crowds.count(&subject);
            *count += 1;
            let limit = self.limits.of(&subject);
            crowds.is_crowded |= limit != 0 && *count >= limit;
        }
    }

    /// Whether flows that were counted have to be looked at: a flood or a scan may have begun, or be over.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        !self.under_way.is_empty() || self.crowds.as_ref().is_some_and(|crowds| crowds.is_crowded)
    }

    /// Looks at a half-open flow.
    pub fn see(&mut self, key: &FlowKey, flow: &Flow) {
        let to = flow.originator().other();
        for subject in subjects(key, flow) {
            let limit = self.limits.of(&subject);
            // Below half of its limit it is over, if it was one.
            let is_few = |crowds: &mut Crowds| *crowds.count(&subject) < limit.div_ceil(2);
            if limit == 0 || self.crowds.as_mut().is_some_and(is_few) {
                continue;
            }
            let new =
                || Sighting { key: *key, flow: flow.clone(), half_open: 0, tried: HashSet::new() };
            let sighting = self.sightings.entry(subject).or_insert_with(new);
            // The kernel's tables have no order, and a finding should be the same every time.
            if flow.created_ns() < sighting.flow.created_ns() {
                sighting.key = *key;
                sighting.flow.clone_from(flow);
            }
            if subject.1.is_some() {
                sighting.half_open += 1;
            } else {
                sighting.tried.insert((key.addresses[to.index()], key.ports[to.index()]));
            }
        }
    }

    /// Whether there can be anything new, where so many flows at most speak against each subject.
    #[must_use]
    pub fn matters(&self, most: &HashMap<Subject, u32>) -> bool {
        let may_begin = |(subject, count): (&Subject, &u32)| {
            let limit = self.limits.of(subject);
            limit > 0 && *count >= limit && !self.under_way.contains(subject)
        };
        // A source may go on without trying anything else.
        let may_be_over = |subject: &Subject| {
            let count = most.get(subject).copied().unwrap_or_default();
            subject.1.is_none() || count < self.limits.of(subject).div_ceil(2)
        };
        most.iter().any(may_begin) || self.under_way.iter().any(may_be_over)
    }

    /// What has begun since the last time, in the order of the first flows; a flood or scan that falls below half its
    /// limit is over, and may begin again.
    pub fn findings(&mut self) -> Vec<Finding> {
        let limits = self.limits;
        let mut found = Vec::new();
        let mut under_way = HashSet::new();
        for (subject, sighting) in self.sightings.drain() {
            let limit = limits.of(&subject);
            let (rule, count) = if subject.1.is_some() {
                (Rule::SynFlood, sighting.half_open)
            } else {
                (Rule::PortScan, u32::try_from(sighting.tried.len()).unwrap_or(u32::MAX))
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
        if let Some(crowds) = &mut self.crowds {
            crowds.counts.fill(0);
            crowds.is_crowded = false;
        }
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
