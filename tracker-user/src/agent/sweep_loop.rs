//! The loop of sweeps: it loads the programs that they need, sweeps at every interval, and deletes flows on request.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracker_common::{
    counters::Hook, event::Kind, flow::Flow, key::FlowKey, sweep::Removal, violation::Rule,
};

use crate::{
    agent::{
        condition::{Condition, is_shortage},
        event_server::{Deletion, EventServer},
        metrics::{REASONS, Telemetry},
        options::{Options, sources, wants_destroy},
        service::Watchdog,
        sweeper::{RemovedFlow, SWEEP_INTERVAL, Sweep, Sweeper},
    },
    client::agent::Agent,
    kernel::{
        flow_violations::FlowViolations,
        kernel_side::kept::{MapIds, ensure_pinned},
    },
    model::{
        error::{Error, Result},
        event::Event,
        filter::Filter,
        flood_detection::FloodDetector,
        record::{Record, View},
    },
};

/// How often loading what sweeps is tried where nothing runs short.
const ATTEMPTS: u32 = 10;

/// What is asked of the sweeps while they go on.
pub(super) struct Orders {
    pub(super) settings: watch::Receiver<Options>,
    /// Notified when sweeps use new settings.
    pub(super) taken_over: mpsc::Sender<()>,
    /// What is swept.
    pub(super) maps: MapIds,
    pub(super) deletions: mpsc::Receiver<Deletion>,
    /// Held while maps may be made among the pins.
    pub(super) making: mpsc::Sender<()>,
}

/// Sweeps the tables at every interval, on a thread of its own: reading a million flows takes a while.
pub(super) async fn run_sweeps(
    orders: Orders,
    pins: &Path,
    agent: &RefCell<Agent>,
    server: &EventServer,
    telemetry: Option<&Telemetry>,
    watchdog: &Watchdog,
    told: mpsc::Sender<(Kind, Event)>,
) -> Result<()> {
    let Orders { mut settings, taken_over, mut deletions, maps, making } = orders;
    let mut options = settings.borrow_and_update().clone();
    // The verifier takes a while, and events wait for nobody.
    let (at, sizes, timeouts) = (pins.to_owned(), options.sizes, options.timeouts.timeouts());
    let mut trouble = Condition::default();
    let mut attempts = 0;
    let mut sweeper = loop {
        let (at, maps, making) = (at.clone(), maps.clone(), making.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let sweeper = Sweeper::new(&at, &sizes, timeouts, making)?;
            ensure_pinned(&maps)?;
            Ok::<_, Error>(sweeper)
        });
        attempts += 1;
        match loading.await? {
            Ok(sweeper) => break sweeper,
            // The pins may be gone, and are made anew.
            Err(error) if is_shortage(&error) || attempts < ATTEMPTS => {
                if trouble.seen(1, std::time::Instant::now()) {
                    tracing::error!(
                        "loading what is needed for sweeping: {error:#}; this is tried again"
                    );
                }
                sleep_until(Instant::now() + SWEEP_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    };
    if let Some(telemetry) = telemetry {
        sweeper.take_census(telemetry.since_ns());
    }
    let mut flood_detector = FloodDetector::new(options.limits);
    let mut sources = sources(&options);
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            Ok(()) = settings.changed() => {
                options = settings.borrow_and_update().clone();
                sweeper.set_timeouts(options.timeouts.timeouts());
                flood_detector.set_limits(options.limits);
                sources = self::sources(&options);
                next = Instant::now();
                // Nobody asks again before this was taken.
                let _ = taken_over.try_send(());
                continue;
            }
            Some(Deletion { filter, done }) = deletions.recv() => {
                let view = agent.borrow().view();
                let at = pins.to_owned();
                let told = (wants_destroy(&options) || server.has_listeners()).then(|| told.clone());
                let mut rules = BrokenRules::of(&options, pins);
                let deleting = tokio::task::spawn_blocking(move || {
                    let result = delete(&sweeper, &at, &filter, &view, |removed| {
                        if let Some(told) = &told {
                            // The receiver goes only when the agent ends.
                            let _ = told.blocking_send((Kind::Destroy, rules.event(&removed, &view)));
                        }
                    });
                    (sweeper, result)
                });
                let result;
                (sweeper, result) = deleting.await?;
                // Whoever asked may be gone.
                let _ = done.send(result);
                continue;
            }
        }
        let began = Instant::now();
        let reported = options.reported.rules();
        let view = agent.borrow().view();
        let (told_by_sweep, wanted) =
            (told.clone(), wants_destroy(&options) || server.has_listeners());
        let mut rules = BrokenRules::of(&options, pins);
        let sweeping = tokio::task::spawn_blocking(move || {
            let mut reasons = [0; REASONS.len()];
            let sweep = sweeper.sweep(&mut flood_detector, |removed| {
                if let Some(place) = REASONS.iter().position(|reason| *reason == removed.reason) {
                    reasons[place] += 1;
                }
                // The receiver goes only when the agent ends.
                if reported.has(Rule::HalfOpenTimeout)
                    && let Some(event) = removed.half_open_timeout(&view)
                {
                    let Removal { key, flow, .. } = &removed.removal;
                    let source = &key.addresses[flow.originator().index()];
                    if sources.pass(source, view.clock.monotonic_ns()) {
                        let _ = told_by_sweep.blocking_send((Kind::Violation, event));
                    }
                }
                if wanted {
                    let event = rules.event(&removed, &view);
                    let _ = told_by_sweep.blocking_send((Kind::Destroy, event));
                }
            });
            (sweeper, flood_detector, sources, reasons, sweep)
        });
        let (reasons, sweep);
        (sweeper, flood_detector, sources, reasons, sweep) = sweeping.await?;
        for finding in flood_detector.findings() {
            if let Err(error) = sweeper.count_breach(finding.rule, Hook::Ingress) {
                tracing::error!("counting a breach: {error:#}");
            }
            if reported.has(finding.rule) {
                let event = finding.event(&agent.borrow().view());
                let _ = told.send((Kind::Violation, event)).await;
            }
        }
        let sweep = match sweep {
            Ok(sweep) => sweep,
            Err(error) => {
                // What runs short may come back. Whoever watches sees that no sweep ends.
                if trouble.seen(1, began.into_std()) {
                    tracing::error!(
                        "sweeping: {error:#}; this is tried again, and nothing expires meanwhile"
                    );
                }
                next = Instant::now() + SWEEP_INTERVAL;
                continue;
            }
        };
        if let Some(over) = trouble.over(Instant::now().into_std()) {
            tracing::info!(failures = over.count, "sweeping works again");
        }
        watchdog.swept();
        if let Some(telemetry) = telemetry {
            telemetry.swept(&sweep, &reasons);
        }
        let pause = sweep.pause(Duration::from_secs_f64(options.sweep_interval));
        next = began + sweep.took + pause;
        let Sweep { read, removed, changed, alive, took, .. } = sweep;
        tracing::debug!(read, removed, changed, alive, took_us = took.as_micros(), "sweep");
    }
}

/// The rules that removed flows had broken, for records: they are read once in a sweep, where any flow needs them.
struct BrokenRules {
    pins: Option<PathBuf>,
    read: Option<FlowViolations>,
}

impl BrokenRules {
    fn of(options: &Options, pins: &Path) -> Self {
        Self { pins: options.export.is_wanted().then(|| pins.to_owned()), read: None }
    }

    /// The event of a removed flow.
    fn event(&mut self, removed: &RemovedFlow, view: &View) -> Event {
        let mut event = removed.event(view);
        let Removal { key, flow, .. } = &removed.removal;
        if let Some(record) = event.flow.as_mut().filter(|record| record.violations > 0)
            && let Some(pins) = &self.pins
        {
            let read = self.read.get_or_insert_with(|| {
                FlowViolations::from_pins(pins).unwrap_or_else(|error| {
                    tracing::warn!("records lack the rules that connections broke: {error:#}");
                    FlowViolations::default()
                })
            });
            read.complete(key, flow, record);
        }
        event
    }
}

/// Removes every flow that `filter` matches, calling `visit` with each; returns how many there were.
fn delete(
    sweeper: &Sweeper,
    pins: &Path,
    filter: &Filter,
    view: &View,
    visit: impl FnMut(RemovedFlow),
) -> Result<u64> {
    let asks = filter.asks_for_rules();
    let violations = asks.then(|| FlowViolations::from_pins(pins)).transpose()?;
    let is_meant = |key: &FlowKey, flow: &Flow, tier| {
        let mut record = Record::new(key, flow, Some(tier), view);
        if let Some(violations) = &violations {
            violations.complete(key, flow, &mut record);
        }
        filter.matches(&record)
    };
    sweeper.delete(is_meant, visit)
}
