//! Exporters of a running agent: each has a thread without capabilities and a bounded queue. The agent's loop leaves records
//! there and goes on.

mod exporter;

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use self::exporter::{EXPORTERS, Exporter};
use crate::{
    agent::privileges,
    export::{
        options::Options,
        queue::{Counters, Queue},
        record::Origin,
        selection::Selection,
    },
    kernel::instance::Instance,
    model::{
        clock::Clock,
        error::{Context, Error, Result},
        event::Event,
        record::Record,
    },
};

/// The exporters of an agent. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Exports(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: Mutex<Current>,
    /// By exporter.
    counters: [Arc<Counters>; EXPORTERS.len()],
}

#[derive(Debug)]
struct Current {
    options: Options,
    selection: Selection,
    origin: Origin,
    running: Vec<Running>,
}

/// An exporter at work.
#[derive(Debug)]
struct Running {
    exporter: Exporter,
    queue: Arc<Queue>,
    /// Nothing comes from it; it breaks when the thread ends.
    thread: mpsc::Receiver<()>,
}

/// What an exporter has counted, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Its name: `file`, `clickhouse`, `otlp`, `ipfix` or `kafka`.
    pub exporter: &'static str,
    /// Records that wait in its queue.
    pub waiting: u64,
    /// Records that wait on disk.
    pub spooled: u64,
    /// Bytes of them.
    pub spool_bytes: u64,
    /// Records that its receiver has.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Records that were lost.
    pub lost: u64,
    /// Those of them that the receiver refused for their content.
    pub rejected: u64,
    /// Attempts that failed.
    pub failures: u64,
}

/// Checks that records can be sent as the options have it, on this host.
///
/// # Errors
///
/// What is wrong, and what to do about it.
pub fn check(options: &Options) -> Result<()> {
    EXPORTERS.iter().try_for_each(|exporter| exporter.check(options))
}

/// The identity of this agent's records.
///
/// # Errors
///
/// Where the host's name or boot cannot be read.
pub fn origin(options: &Options, instance: &Instance) -> Result<Origin> {
    let read = |path: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        Ok(text.trim().to_owned())
    };
    let host = match &options.host {
        Some(host) => host.clone(),
        None => read("/proc/sys/kernel/hostname")?,
    };
    let boot_id = read("/proc/sys/kernel/random/boot_id")?;
    Ok(Origin { host, agent: instance.name().to_owned(), boot_id })
}

impl Exports {
    /// Starts the exporters that the options have.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be started.
    pub fn start(options: &Options, origin: Origin) -> Result<Self> {
        let current = Current {
            options: Options::default(),
            selection: options.selection(),
            origin,
            running: Vec::new(),
        };
        let counters = EXPORTERS.map(|_| Arc::default());
        let exports = Self(Arc::new(Shared { current: Mutex::new(current), counters }));
        exports.set(options)?;
        Ok(exports)
    }

    /// Continues with other options; the host's name in records stays. An exporter whose settings have changed sends what
    /// waits for it before the next one begins.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be started; then that exporter is off.
    pub fn set(&self, options: &Options) -> Result<()> {
        let mut current = self.current();
        current.selection = options.selection();
        let before = std::mem::replace(&mut current.options, options.clone());
        let mut outcome = Ok(());
        for exporter in EXPORTERS {
            if exporter.is_same(&before, options) {
                continue;
            }
            let at = current.running.iter().position(|running| running.exporter == exporter);
            let predecessor = at.map(|at| current.running.swap_remove(at));
            if let Some(predecessor) = &predecessor {
                predecessor.queue.close();
            }
            if exporter.is_wanted(options) {
                match self.begin(exporter, options, &current.origin, predecessor) {
                    Ok(running) => current.running.push(running),
                    Err(error) => outcome = Err(error),
                }
            }
        }
        outcome
    }

    fn begin(
        &self,
        exporter: Exporter,
        options: &Options,
        origin: &Origin,
        predecessor: Option<Running>,
    ) -> Result<Running> {
        let queue = Arc::new(Queue::new(Arc::clone(&self.0.counters[exporter as usize])));
        let (own, origin, options) = (Arc::clone(&queue), origin.clone(), options.clone());
        let thread = start(exporter.name(), move || {
            if let Some(predecessor) = predecessor {
                // It has said what there was to say.
                let _ = predecessor.thread.recv();
            }
            if wait_for_good_settings(exporter, &options, &own) {
                exporter.run(&options, &own, &origin);
            }
        })?;
        Ok(Running { exporter, queue, thread })
    }

    /// Whether anything is exported.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.current().running.is_empty()
    }

    /// Sends the record of an event, if it is selected. Never waits for an exporter.
    pub fn offer(&self, event: &Event) {
        let current = self.current();
        if current.running.is_empty() || !current.selection.has_event(event) {
            return;
        }
        if let Some(record) = current.origin.record(event).map(Arc::new) {
            for running in &current.running {
                running.queue.push(Arc::clone(&record));
            }
        }
    }

    /// What connections that go on need, where they have records.
    #[must_use]
    pub fn updates(&self) -> Option<Updates> {
        let current = self.current();
        let has_any = !current.running.is_empty() && current.selection.has_updates();
        has_any.then(|| Updates {
            queues: current.running.iter().map(|running| Arc::clone(&running.queue)).collect(),
            selection: current.selection.clone(),
            origin: current.origin.clone(),
            interval: current.options.update_interval(),
        })
    }

    /// What each exporter that is on has counted, and those that were.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        let current = self.current();
        let of = |exporter: Exporter| {
            let running = current.running.iter().find(|running| running.exporter == exporter);
            let counters = &self.0.counters[exporter as usize];
            let [sent, sent_bytes, lost, rejected, failures, spooled, spool_bytes] = [
                &counters.sent,
                &counters.sent_bytes,
                &counters.lost,
                &counters.rejected,
                &counters.failures,
                &counters.spooled,
                &counters.spool_bytes,
            ]
            .map(|counter| counter.load(Ordering::Relaxed));
            let waiting = running.map_or(0, |running| running.queue.len() as u64);
            let exporter = exporter.name();
            (running.is_some() || sent + lost + failures > 0).then_some(Counts {
                exporter,
                waiting,
                spooled,
                spool_bytes,
                sent,
                sent_bytes,
                lost,
                rejected,
                failures,
            })
        };
        EXPORTERS.into_iter().filter_map(of).collect()
    }

    /// Records that no receiver will have, of all exporters.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.counters.iter().map(|counters| counters.lost.load(Ordering::Relaxed)).sum()
    }

    /// Ends the exporters: what waits in memory is written, but no longer than that.
    pub fn finish(&self, longest: Duration) {
        let until = Instant::now() + longest;
        let running = std::mem::take(&mut self.current().running);
        running.iter().for_each(|running| running.queue.close());
        for Running { exporter, queue, thread } in running {
            let left = until.saturating_duration_since(Instant::now());
            if thread.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
                let (name, waiting) = (exporter.name(), queue.len());
                tracing::warn!(
                    "--export-{name}: not all records were written in time ({waiting} wait)"
                );
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What records of connections that go on need.
#[derive(Debug)]
pub struct Updates {
    queues: Vec<Arc<Queue>>,
    selection: Selection,
    origin: Origin,
    /// Time between two records of a connection.
    pub interval: Duration,
}

impl Updates {
    /// Whether a connection has records while it goes on.
    #[must_use]
    pub fn has(&self, flow: &Record) -> bool {
        self.selection.has_update(flow)
    }

    /// Whether [`Updates::has`] needs the rules that a flow has broken.
    #[must_use]
    pub fn asks_for_rules(&self) -> bool {
        self.selection.asks_for_rules()
    }

    /// Sends one, and waits for room, but no longer than until then.
    pub fn push(&self, flow: Record, duration_ns: u64, clock: &Clock, until: Instant) {
        let record = Arc::new(self.origin.update(flow, duration_ns, clock));
        for queue in &self.queues {
            queue.push_until(Arc::clone(&record), until);
        }
    }
}

/// Checks what may have changed since an agent started, where nobody waits for it: a file may be on a disk that hangs. Returns
/// false where no more records come.
fn wait_for_good_settings(exporter: Exporter, options: &Options, queue: &Queue) -> bool {
    let mut is_told = false;
    while let Err(error) = exporter.check(options) {
        queue.counters().failed();
        if !is_told {
            tracing::error!(
                "{error:#}; this is tried again, and records wait as long as there is room"
            );
            is_told = true;
        }
        if !queue.pause(RETRY) {
            queue.counters().lost(queue.len() as u64);
            return false;
        }
    }
    true
}

/// Starts a thread that has no capabilities. What is returned breaks when it ends.
///
/// # Errors
///
/// Where that fails.
fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<mpsc::Receiver<()>> {
    let (ready, is_ready) = mpsc::channel();
    let (running, thread) = mpsc::channel();
    let name = format!("to-{name}");
    thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let dropped = privileges::drop_all();
            let is_refused = dropped.is_err();
            let _ = ready.send(dropped);
            if !is_refused {
                work();
            }
            drop(running);
        })
        .with_context(|| format!("starting the thread {name}"))?;
    match is_ready.recv() {
        Ok(outcome) => outcome.map(|()| thread),
        Err(_) => Err(Error::text(format!("the thread {name} has ended"))),
    }
}

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);
