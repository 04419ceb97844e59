//! One sweep over the tables: it inspects all flows, and removes those that have expired.

mod live_sockets;
mod walker;

use std::{
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use tracker_common::{
    config::InterfaceConfig,
    counters::Hook,
    event::Reason,
    flow::Flow,
    key::FlowKey,
    state::State,
    sweep::{BATCH, Outcome, Removal, Tier, Timeouts, states, unfinished},
    time::Tick,
    track::reason,
    violation::Rule,
    walk::{Found, Span, Walk},
};
use zerocopy::IntoBytes;

use crate::{
    agent::{
        metrics::census::Census,
        sweeper::{live_sockets::LiveSockets, walker::Walker},
    },
    kernel::{
        batch::{read_array, write_array},
        load::{Sizes, load, program},
        object, refusal,
        tables::{Tables, take_map},
    },
    model::{
        clock::monotonic_ns,
        error::{Context, Result},
        event::Event,
        flood_detection::FloodDetector,
        record::View,
    },
};

/// The program that removes flows.
const SWEEP: &str = "tracker_sweep";

/// Time between two sweeps, where nothing else is asked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Sweeps over the tables of one agent.
pub struct Sweeper {
    ebpf: Ebpf,
    tables: Tables,
    walker: Walker,
    timeouts: Timeouts,
    live_sockets: LiveSockets,
    counts: bool,
    /// When the last sweep began.
    before_ns: u64,
    /// [`Walk::turn`] of the next walk.
    turn: u32,
}

/// A flow that was removed.
#[derive(Debug)]
pub struct RemovedFlow {
    /// It, as it was last.
    pub removal: Removal,
    /// Why its end had come.
    pub reason: Reason,
    /// The state whose timeout was over, or would have been next.
    pub decided_by: State,
}

impl RemovedFlow {
    /// A removal that was done because somebody asked for it.
    #[must_use]
    fn deleted(removal: Removal, timeouts: &Timeouts) -> Self {
        Self { reason: Reason::Deleted, ..Self::new(removal, timeouts) }
    }

    /// A removal that was done, because a timeout of these was over.
    #[must_use]
    pub fn new(removal: Removal, timeouts: &Timeouts) -> Self {
        let (_, decided_by) = timeouts.decide(states(&removal.flow));
        Self { reason: reason(&removal.flow), decided_by, removal }
    }

    /// The same as a handshake that was not completed in its time, where it is one (H12).
    #[must_use]
    pub fn half_open_timeout(&self, view: &View) -> Option<Event> {
        let Removal { key, flow, .. } = &self.removal;
        unfinished(flow)?;
        Some(Event::found(Rule::HalfOpenTimeout, key, flow, self.tier(), None, view))
    }

    /// Returns the event that subscribers get.
    #[must_use]
    pub fn event(&self, view: &View) -> Event {
        let Self { removal: Removal { key, flow, .. }, reason, decided_by } = self;
        Event::removed(key, flow, self.tier(), *reason, *decided_by, view)
    }

    fn tier(&self) -> Tier {
        let is_confirmed = self.removal.tier == Tier::Confirmed as u32;
        if is_confirmed { Tier::Confirmed } else { Tier::HalfOpen }
    }
}

/// What a sweep did.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Flows that were looked at.
    pub read: usize,
    /// Flows that were removed.
    pub removed: usize,
    /// Flows that changed between being judged and being removed, and so were kept.
    pub changed: usize,
    /// Flows that were kept because their sockets are still there.
    pub alive: usize,
    /// How long it took.
    pub took: Duration,
    /// How long of that it looked at flows, before it removed and reported any.
    pub looked: Duration,
    /// When it began, in nanoseconds since boot.
    pub began_ns: u64,
    /// Whether the table of confirmed flows will soon be full, so that what is over must go.
    pub is_table_filling: bool,
    /// What was counted on the way, where that is asked for.
    pub census: Option<Census>,
}

/// Looking at flows may take one part in so many of one CPU's time. Removing is not limited: it may wait for subscribers.
const SHARE: u32 = 10;

/// The same where a table will soon be full.
const SHARE_IN_NEED: u32 = 2;

/// However long a sweep took, the next one does not wait longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

impl Sweep {
    /// How long to wait until the next sweep, where they are to begin `interval` apart.
    #[must_use]
    pub fn pause(&self, interval: Duration) -> Duration {
        let share = if self.is_table_filling { SHARE_IN_NEED } else { SHARE };
        let rest = (self.looked * (share - 1)).min(LONGEST_PAUSE);
        interval.saturating_sub(self.took).max(rest)
    }
}

impl Sweeper {
    /// A sweeper for the maps that are pinned in `pins`. Those that are not are made there; `making` is dropped once that is done.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new<T>(pins: &Path, sizes: &Sizes, timeouts: Timeouts, making: T) -> Result<Self> {
        let mut ebpf = load(object::PLAIN, pins, sizes, InterfaceConfig::default())?;
        drop(making);
        load_sweep(&mut ebpf)?;
        let tables = Tables::from_pins(pins)?;
        let walker = Walker::new(&mut ebpf, tables.confirmed())?;
        Ok(Self {
            ebpf,
            tables,
            walker,
            timeouts,
            live_sockets: LiveSockets::default(),
            counts: false,
            before_ns: 0,
            turn: 0,
        })
    }

    /// Sweeps go by these from now on.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Sweeps take a [`Census`] from now on, the first one of the handshakes after `since_ns`.
    pub fn take_census(&mut self, since_ns: u64) {
        self.counts = true;
        self.before_ns = since_ns;
    }

    /// Counts a breach that flows show together.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn count_breach(&mut self, rule: Rule, hook: Hook) -> Result<()> {
        self.tables.count_breach(rule, hook)
    }

    /// Looks at every flow and removes those whose time is over, calling `visit` with each; `flood_detector` sees the
    /// half-open ones.
    /// Silent connections of this host stay for as long as their sockets do.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn sweep(
        &mut self,
        flood_detector: &mut FloodDetector,
        mut visit: impl FnMut(RemovedFlow),
    ) -> Result<Sweep> {
        let start = Instant::now();
        let mut sweep = Sweep { census: self.counts.then(Census::default), ..Sweep::default() };
        let mut due = self.judge(&mut sweep, flood_detector)?;
        sweep.looked = start.elapsed();
        self.before_ns = sweep.began_ns;
        if let Some(census) = &mut sweep.census {
            census.evicted = self.tables.half_open_evicted(census.half_open)?;
        }
        sweep.alive = self.live_sockets.keep(&mut due);
        for batch in due.chunks_mut(BATCH as usize) {
            self.remove(batch)?;
            for removal in batch {
                if removal.outcome != Outcome::Removed as u32 {
                    sweep.changed += usize::from(removal.outcome == Outcome::Changed as u32);
                    continue;
                }
                sweep.removed += 1;
                visit(RemovedFlow::new(std::mem::take(removal), &self.timeouts));
            }
        }
        sweep.took = start.elapsed();
        Ok(sweep)
    }

    /// Removes every flow that `is_meant` selects, in use or not, calling `visit` with each; returns how many there were.
    ///
    /// # Errors
    ///
    /// What the kernel says; some may be removed then.
    pub fn delete(
        &self,
        is_meant: impl Fn(&FlowKey, &Flow, Tier) -> bool,
        mut visit: impl FnMut(RemovedFlow),
    ) -> Result<u64> {
        // One that comes to the other table during the walk can be missed.
        const WALKS: usize = 3;
        let mut deleted = 0;
        for _ in 0..WALKS {
            let mut batch = Vec::with_capacity(BATCH as usize);
            let mut missed = 0;
            let mut failure = None;
            let mut remove = |batch: &mut Vec<Removal>| {
                if let Err(error) = self.remove(batch) {
                    failure = Some(error);
                }
                for removal in batch.drain(..) {
                    if removal.outcome == Outcome::Removed as u32 {
                        deleted += 1;
                        visit(RemovedFlow::deleted(removal, &self.timeouts));
                    } else {
                        missed += 1;
                    }
                }
            };
            self.tables.each_flow(|key, flow, tier| {
                if !flow.is_dead() && is_meant(key, flow, tier) {
                    let removal = removal(key, flow, tier, &self.timeouts);
                    batch.push(Removal { unconditional: 1, ..removal });
                    if batch.len() == BATCH as usize {
                        remove(&mut batch);
                    }
                }
            })?;
            if !batch.is_empty() {
                remove(&mut batch);
            }
            if let Some(error) = failure {
                return Err(error);
            }
            if missed == 0 {
                break;
            }
        }
        Ok(deleted)
    }

    /// Looks at every flow, and returns those whose time is over; `flood_detector` sees the half-open ones.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn judge(
        &mut self,
        sweep: &mut Sweep,
        flood_detector: &mut FloodDetector,
    ) -> Result<Vec<Removal>> {
        let now = monotonic_ns();
        sweep.began_ns = now;
        let span = Span { after_ns: self.before_ns, until_ns: now };
        let mut walk = Walk::new(span, self.timeouts, sweep.census.is_some(), self.turn);
        self.turn = self.turn.wrapping_add(1);
        let mut due = Vec::new();
        let mut handshakes_us = Vec::new();
        self.walker.run(&mut walk, |found| {
            if found.handshake_us != 0 {
                handshakes_us.push(found.handshake_us);
            }
            if found.due != Found::NOT_DUE {
                due.push(Removal {
                    key: found.key,
                    life: found.life,
                    tier: Tier::Confirmed as u32,
                    state: found.due,
                    ..Removal::default()
                });
            }
        })?;
        sweep.read += usize::try_from(walk.read).unwrap_or(usize::MAX);
        sweep.is_table_filling =
            walk.read > u64::from(self.tables.capacity(Tier::Confirmed)?) / 4 * 3;
        if let Some(census) = &mut sweep.census {
            census.walked(&walk, handshakes_us);
        }
        self.tables.each_half_open(|key, flow| {
            sweep.read += 1;
            flood_detector.count(key, flow);
            let look = walk.look(flow, states);
            if let Some(census) = &mut sweep.census {
                census.see(key, flow, &look);
            }
            if look.is_due {
                due.push(removal(key, flow, Tier::HalfOpen, &self.timeouts));
            }
        })?;
        if flood_detector.is_crowded() {
            self.tables.each_half_open(|key, flow| flood_detector.see(key, flow))?;
        }
        Ok(due)
    }

    /// Asks the kernel to remove a batch; each entry then says what became of it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove(&self, batch: &mut [Removal]) -> Result<()> {
        remove(&self.ebpf, &self.tables, batch)
    }
}

/// When a flow's time is over if nothing renews it, on the clock that says `now_ns`: the first moment at which ticks
/// of [`Tick`] tell.
#[must_use]
pub fn deadline_ns(flow: &Flow, timeouts: &Timeouts, now_ns: u64) -> u64 {
    let tick = Tick::ns(1);
    let (seconds, _) = timeouts.decide(states(flow));
    let last_seen =
        (now_ns - now_ns % tick).saturating_sub(flow.life().last_seen.elapsed_ns(now_ns));
    last_seen + (u64::from(seconds) * 1_000_000_000).next_multiple_of(tick)
}

/// What to ask for so that `flow` is removed, if it is still as it is here.
#[must_use]
pub fn removal(key: &FlowKey, flow: &Flow, tier: Tier, timeouts: &Timeouts) -> Removal {
    let (_, state) = timeouts.decide(states(flow));
    Removal {
        key: *key,
        life: flow.life().to_word(),
        tier: tier as u32,
        state: state as u32,
        ..Removal::default()
    }
}

/// Loads the program that removes flows.
///
/// # Errors
///
/// What the kernel says; [`Failure::Refused`](crate::model::failure::Failure::Refused) where its verifier refuses.
pub(crate) fn load_sweep(ebpf: &mut Ebpf) -> Result<()> {
    let sweep: &mut SchedClassifier = program(ebpf, SWEEP)?;
    Ok(sweep.load().map_err(|error| refusal::of_program(SWEEP, &error))?)
}

/// Loads what a [`Sweeper`] loads, and binds it to the object's own tables.
///
/// # Errors
///
/// As [`load_sweep`].
pub(crate) fn try_programs(ebpf: &mut Ebpf) -> Result<()> {
    load_sweep(ebpf)?;
    let confirmed = take_map(ebpf, "CONFIRMED")?;
    Walker::new(ebpf, confirmed.fd().as_fd()).map(drop)
}

/// Asks the kernel, through a loaded `tracker_sweep` and the tables that it was loaded with, to remove a batch of
/// [`BATCH`] flows at most; each entry then says what became of it.
///
/// # Errors
///
/// What the kernel says.
pub fn remove(ebpf: &Ebpf, tables: &Tables, batch: &mut [Removal]) -> Result<()> {
    let count = u32::try_from(batch.len()).unwrap_or(u32::MAX).min(BATCH);
    write_array(tables.removals(), batch.as_mut_bytes(), size_of::<Removal>())
        .context("writing the batch of removals")?;
    let sweep: &SchedClassifier =
        ebpf.program(SWEEP).context("the object has no program tracker_sweep")?.try_into()?;
    // A frame of the least length that the kernel takes for one.
    let mut frame = [0; 64];
    frame[..4].copy_from_slice(&count.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
    sweep.test_run(options).context("running tracker_sweep")?;
    read_array(tables.removals(), batch.as_mut_bytes(), size_of::<Removal>())
        .context("reading the batch of removals")
}

#[cfg(test)]
mod tests {
    use tracker_common::key::End;

    use super::*;

    #[test]
    fn a_flow_is_due_at_its_deadline_and_no_tick_before() {
        let tick = Tick::ns(1);
        let timeouts = Timeouts::default();
        // Also where ticks wrap, after 2.28 years.
        for seen_ns in [1_000_000_000, 5 * tick, u64::from(u32::MAX) * tick + 3] {
            let flow = Flow::default();
            flow.start(seen_ns, End::LOW, 0);
            let (seconds, _) = timeouts.decide(states(&flow));
            let timeout = u64::from(seconds) * 1_000_000_000;
            let is_over = |now| flow.life().last_seen.elapsed_ns(now) >= timeout;
            let deadline = deadline_ns(&flow, &timeouts, seen_ns);
            assert!(is_over(deadline) && !is_over(deadline - 1), "{seen_ns}");
            // It stays where it is, whenever one asks.
            for now in [seen_ns + timeout / 2, deadline - 1, deadline, deadline + timeout] {
                assert_eq!(deadline_ns(&flow, &timeouts, now), deadline, "{seen_ns} {now}");
            }
        }
    }

    #[test]
    fn sweeps_take_a_share_of_a_cpu_unless_the_table_fills() {
        let second = Duration::from_secs(1);
        let pause = |took_ms, is_table_filling| {
            let took = Duration::from_millis(took_ms);
            Sweep { took, looked: took, is_table_filling, ..Sweep::default() }
                .pause(second)
                .as_millis()
        };
        assert_eq!(pause(20, false), 980);
        assert_eq!(pause(500, false), 4500);
        assert_eq!(pause(500, true), 500);
        assert_eq!(pause(5000, false), 20_000);
        assert_eq!(pause(5000, true), 5000);
        let took = Duration::from_secs(3);
        let removing = Sweep { took, looked: Duration::from_millis(20), ..Sweep::default() };
        assert_eq!(removing.pause(second), Duration::from_millis(180));
    }
}
