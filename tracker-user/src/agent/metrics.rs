//! Metrics for Prometheus: an HTTP endpoint that is off unless asked for.
//!
//! A scrape reads the kernel's counters on a thread of its own and takes what needs a walk over all flows from the last
//! sweep, which walks anyway. The event loop never waits for it, and it never waits for a client.

pub mod access;
pub mod address;
pub mod census;
pub mod handshakes;
pub mod ledger;
pub mod listener;
pub mod options;
pub mod places;
pub mod programs;
pub mod server;
pub mod snapshot;
pub mod socket;
pub mod tls;
pub mod token;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use prometheus_client::metrics::histogram::Histogram;
use tracker_common::{counters::Fate, event::Reason, protect::Outcome};

use crate::{
    agent::{
        exports::Exports,
        interfaces::presence::Missing,
        metrics::{
            access::Access, census::Census, ledger::Ledger, options::Options, programs::Programs,
        },
        sweeper::Sweep,
        writer::Writers,
    },
    kernel::attach::{Attached, Interface},
    model::error::Result,
};

/// Bounds of the handshakes' histogram in seconds: from a neighbour's round trip to that of a lost SYN sent again thrice.
const HANDSHAKE_BOUNDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// Bounds of the sweeps' histogram in seconds: from an empty table to one of millions of flows.
const SWEEP_BOUNDS: [f64; 9] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 2.5];

/// What the agent notes for the next scrape.
pub struct Telemetry {
    /// Where its maps are pinned.
    pins: PathBuf,
    since_ns: u64,
    /// Longest time between two sweeps that is taken for health.
    patience: Mutex<Duration>,
    attached: Mutex<(Vec<Interface>, Programs)>,
    /// Programs that should be attached, and are not.
    missing: Mutex<BTreeSet<Missing>>,
    unparsed: Mutex<Ledger<{ Fate::SLOTS }>>,
    cookies: Mutex<Ledger<{ Outcome::SLOTS }>>,
    last: Mutex<Option<LastSweep>>,
    totals: Mutex<Totals>,
    handshakes: Histogram,
    sweeps: Histogram,
    lost: Lost,
}

/// What counts reports that are lost within the agent.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Those that listeners on the socket were too slow for.
    pub by_listeners: Arc<AtomicU64>,
    /// Those that stdout and stderr have not taken.
    pub by_output: Writers,
    /// Records that exporters have lost, and what else they count.
    pub by_exports: Exports,
}

/// The last sweep.
#[derive(Clone, Debug)]
struct LastSweep {
    ended: Instant,
    census: Census,
}

/// Sums over all sweeps of this process.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    read: u64,
    removed: u64,
    changed: u64,
    alive: u64,
    /// Removed flows by [`Reason`].
    closed: [u64; 3],
    /// The most evicted flows that were ever found: what is subtracted comes and goes while it is read.
    evicted: u64,
    /// The most flows begun with a SYN that were ever found: the same holds there.
    by_syn: u64,
}

/// Checks that metrics can be served on this host as the options have it, and reads the files that they name.
///
/// # Errors
///
/// What is wrong, and what to do about it. Whether the address is taken is not looked at.
pub fn prepare(options: &Options) -> Result<Access> {
    if let Some(at) = &options.at {
        listener::check(at)?;
    }
    Access::read(options)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Telemetry {
    /// Nothing noted yet.
    #[must_use]
    pub fn new(pins: PathBuf, sweep_interval: f64, since_ns: u64, lost: Lost) -> Self {
        let telemetry = Self {
            pins,
            since_ns,
            patience: Mutex::default(),
            attached: Mutex::default(),
            missing: Mutex::default(),
            unparsed: Mutex::default(),
            cookies: Mutex::default(),
            last: Mutex::default(),
            totals: Mutex::default(),
            handshakes: Histogram::new(HANDSHAKE_BOUNDS),
            sweeps: Histogram::new(SWEEP_BOUNDS),
            lost,
        };
        telemetry.swept_every(sweep_interval);
        telemetry
    }

    /// When counting began, in nanoseconds since boot.
    #[must_use]
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// Says how many seconds are between two sweeps.
    pub fn swept_every(&self, seconds: f64) {
        *lock(&self.patience) = Duration::from_secs_f64(seconds) * 3 + Duration::from_secs(30);
    }

    /// Notes every interface that has counters, and what is attached: at the start, and whenever that changes.
    ///
    /// # Errors
    ///
    /// Where a program's descriptor cannot be duplicated.
    pub fn attached<'a>(
        &self,
        interfaces: Vec<Interface>,
        attached: impl IntoIterator<Item = &'a Attached>,
    ) -> Result<()> {
        let programs = Programs::of(attached)?;
        *lock(&self.attached) = (interfaces, programs);
        Ok(())
    }

    /// Notes which programs are missing, of those that should be attached.
    pub fn missing(&self, missing: BTreeSet<Missing>) {
        *lock(&self.missing) = missing;
    }

    /// Notes what a sweep has found.
    pub fn swept(&self, sweep: &Sweep, reasons: &[u64; 3]) {
        let mut totals = lock(&self.totals);
        totals.read += sweep.read as u64;
        totals.removed += sweep.removed as u64;
        totals.changed += sweep.changed as u64;
        totals.alive += sweep.alive as u64;
        for (total, count) in totals.closed.iter_mut().zip(reasons) {
            *total += count;
        }
        drop(totals);
        self.sweeps.observe(sweep.took.as_secs_f64());
        let mut census = sweep.census.clone().unwrap_or_default();
        for us in std::mem::take(&mut census.handshakes_us) {
            self.handshakes.observe(f64::from(us) / 1e6);
        }
        *lock(&self.last) = Some(LastSweep { ended: Instant::now(), census });
    }

    /// Whether it is attached, and sweeps are done in time; where not, why.
    ///
    /// # Errors
    ///
    /// What it is not ready for.
    pub fn readiness(&self) -> Result<(), String> {
        if !lock(&self.attached).0.iter().any(|interface| interface.attached) {
            return Err("attached to no interface".to_owned());
        }
        if let Some(Missing { interface, hook }) = lock(&self.missing).first() {
            return Err(format!("the program at {interface} ({hook}) is gone"));
        }
        match &*lock(&self.last) {
            None => Err("no sweep was done yet".to_owned()),
            Some(last) if last.ended.elapsed() > *lock(&self.patience) => {
                Err(format!("the last sweep ended {} s ago", last.ended.elapsed().as_secs()))
            }
            Some(_) => Ok(()),
        }
    }
}

/// The reasons for which sweeps remove flows, in the order in which they are counted.
pub const REASONS: [Reason; 3] = [Reason::Timeout, Reason::Fin, Reason::Rst];
