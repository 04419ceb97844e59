//! Exporters of a running agent: each has a thread without capabilities and a bounded queue. The agent's loop leaves records
//! there and goes on.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    agent::privileges,
    export::{
        file,
        options::Options,
        queue::{Counters, Queue},
        record::{ExportRecord, Origin},
        selection::Selection,
    },
    kernel::{
        instance::Instance,
        trusted_paths::{self, Sharing},
    },
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
    file: Arc<Counters>,
}

#[derive(Debug)]
struct Current {
    options: Options,
    selection: Selection,
    origin: Origin,
    file: Option<Exporter>,
}

/// A thread that sends records.
#[derive(Debug)]
struct Exporter {
    queue: Arc<Queue>,
    /// Nothing comes from it; it breaks when the thread ends.
    thread: mpsc::Receiver<()>,
}

/// What an exporter has counted, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Its name: `file`.
    pub exporter: &'static str,
    /// Records that wait in its queue.
    pub waiting: u64,
    /// Records that its receiver has.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Records that were lost.
    pub lost: u64,
    /// Attempts that failed.
    pub failures: u64,
}

/// Checks that records can be sent as the options have it, on this host.
///
/// # Errors
///
/// What is wrong, and what to do about it.
pub fn check(options: &Options) -> Result<()> {
    let Some(path) = &options.file else { return Ok(()) };
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    trusted_paths::check(directory.unwrap_or(Path::new(".")), Sharing::Sticky)
        .with_context(|| format!("--export-file {}", path.display()))?;
    file::check(path)
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
            file: None,
        };
        let exports = Self(Arc::new(Shared { current: Mutex::new(current), file: Arc::default() }));
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
        let (before, after) = (current.options.file_settings(), options.file_settings());
        current.options = options.clone();
        if before == after {
            return Ok(());
        }
        let predecessor = current.file.take();
        if let Some(predecessor) = &predecessor {
            predecessor.queue.close();
        }
        if let Some(settings) = after {
            let queue = Arc::new(Queue::new(Arc::clone(&self.0.file)));
            let (own, origin) = (Arc::clone(&queue), current.origin.clone());
            let options = options.clone();
            let thread = start("export-file", move || {
                if let Some(predecessor) = predecessor {
                    // It has said what there was to say.
                    let _ = predecessor.thread.recv();
                }
                if wait_for_good_settings(&options, &own) {
                    file::run(settings, &own, &origin);
                }
            })?;
            current.file = Some(Exporter { queue, thread });
        }
        Ok(())
    }

    /// Whether anything is exported.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.current().file.is_some()
    }

    /// Sends the record of an event, if it is selected. Never waits for an exporter.
    pub fn offer(&self, event: &Event) {
        let current = self.current();
        let Some(exporter) = &current.file else { return };
        if current.selection.has_event(event)
            && let Some(record) = current.origin.record(event)
        {
            exporter.queue.push(Arc::new(record));
        }
    }

    /// Whether connections that go on have records, and time between two of them.
    #[must_use]
    pub fn updates(&self) -> Option<Updates> {
        let current = self.current();
        let exporter = current.file.as_ref().filter(|_| current.selection.has_updates())?;
        Some(Updates {
            queue: Arc::clone(&exporter.queue),
            selection: current.selection.clone(),
            origin: current.origin.clone(),
            interval: current.options.update_interval(),
        })
    }

    /// What each exporter that is on has counted, and those that were.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        let waiting = self.current().file.as_ref().map(|exporter| exporter.queue.len() as u64);
        let counters = &self.0.file;
        let [sent, sent_bytes, lost, failures] =
            [&counters.sent, &counters.sent_bytes, &counters.lost, &counters.failures]
                .map(|counter| counter.load(Ordering::Relaxed));
        if waiting.is_none() && sent + lost + failures == 0 {
            return Vec::new();
        }
        let waiting = waiting.unwrap_or(0);
        vec![Counts { exporter: "file", waiting, sent, sent_bytes, lost, failures }]
    }

    /// Records that no receiver will have, of all exporters.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.file.lost.load(Ordering::Relaxed)
    }

    /// Ends the exporters: what waits is sent, but no longer than that.
    pub fn finish(&self, longest: Duration) {
        let exporter = self.current().file.take();
        let Some(Exporter { queue, thread }) = exporter else { return };
        queue.close();
        if thread.recv_timeout(longest) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("--export-file: {} records were not written in time", queue.len());
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What records of connections that go on need.
#[derive(Debug)]
pub struct Updates {
    queue: Arc<Queue>,
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
        let record: ExportRecord = self.origin.update(flow, duration_ns, clock);
        self.queue.push_until(Arc::new(record), until);
    }
}

/// Checks what may have changed since an agent started, where nobody waits for it: a file may be on a disk that hangs. Returns
/// false where no more records come.
fn wait_for_good_settings(options: &Options, queue: &Queue) -> bool {
    let mut is_told = false;
    while let Err(error) = check(options) {
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
    thread::Builder::new()
        .name(name.to_owned())
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
