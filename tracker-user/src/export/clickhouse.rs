//! The exporter `clickhouse`: rows in JSONEachRow over HTTP, out of a spool, at least once.
//!
//! One thread moves records from the queue to the spool, another one sends them, so a receiver that hangs never fills the queue.

mod client;
mod row;

use std::{
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

pub use self::client::{Address, Table};
use self::client::{Client, Stop};
use crate::{
    export::{
        queue::Queue,
        record::Origin,
        spool::{Batch, Spool},
    },
    model::{
        clock::Clock,
        error::{Context, Result},
    },
};

/// Where rows go, and what waits for that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The server.
    pub address: Address,
    /// The table.
    pub table: Table,
    /// The user, where there is one.
    pub user: Option<String>,
    /// The user's password, in a file.
    pub password: Option<PathBuf>,
    /// Certificates of authorities in PEM, which the server's is checked by.
    pub authorities: PathBuf,
    /// The spool's directory.
    pub spool: PathBuf,
    /// Bytes of it at most.
    pub spool_bytes: u64,
}

/// Returns the user's password as it is now; `None` where none is needed.
pub type Password = Box<dyn Fn() -> Result<Option<Zeroizing<Vec<u8>>>> + Send + Sync>;

/// What both threads share.
struct Shared {
    spool: Mutex<Spool>,
    /// Notified when there is something to send.
    changed: Condvar,
}

impl Shared {
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the records of a queue until no more come. What the receiver does not have then stays in the spool.
pub fn run(settings: &Settings, password: &Password, queue: &Queue, origin: &Origin) {
    let mut trouble = Trouble::default();
    let spool = loop {
        match Spool::open(&settings.spool, settings.spool_bytes) {
            Ok(spool) => break spool,
            Err(error) => {
                queue.counters().failed();
                trouble.begins(&format!(
                    "{error:#}; this is tried again, and records wait as long as there is room"
                ));
                if !queue.pause(SHORTEST_PAUSE) {
                    queue.counters().lost(queue.len() as u64);
                    return;
                }
            }
        }
    };
    trouble.ends("the spool can be opened");
    let shared = Shared { spool: Mutex::new(spool), changed: Condvar::new() };
    let stop = match Stop::new() {
        Ok(stop) => stop,
        Err(error) => {
            tracing::error!("{NAME}: {error:#}; nothing is exported");
            while let Some(records) = queue.take(BATCH) {
                queue.counters().lost(records.len() as u64);
            }
            return;
        }
    };
    note(&shared.spool(), queue);
    thread::scope(|scope| {
        let sending = thread::Builder::new()
            .name("clickhouse-send".to_owned())
            .spawn_scoped(scope, || send(settings, password, &shared, queue, &stop));
        if let Err(error) = sending {
            tracing::error!("{NAME}: starting a thread: {error}; records stay in the spool");
        }
        fill(&shared, queue, origin);
        stop.set();
        shared.changed.notify_all();
    });
}

/// Moves records to the spool, until no more come.
fn fill(shared: &Shared, queue: &Queue, origin: &Origin) {
    let counters = queue.counters();
    let mut trouble = Trouble::default();
    while let Some(records) = queue.take(BATCH) {
        let mut rows: Vec<_> = records.iter().filter_map(|record| row::of(record)).collect();
        let announced = counters.unannounced();
        if announced > 0 {
            rows.extend(row::of(&origin.lost(announced, &Clock::now())));
        }
        loop {
            let mut spool = shared.spool();
            let outcome = spool.append(&rows);
            counters.lost(spool.take_lost());
            note(&spool, queue);
            drop(spool);
            let Err(error) = outcome else { break };
            counters.failed();
            trouble.begins(&format!(
                "{error:#}; this is tried again, and records wait as long as there is room"
            ));
            if !queue.pause(SHORTEST_PAUSE) {
                counters.lost((records.len() + queue.len()) as u64);
                return;
            }
        }
        counters.announced(announced);
        trouble.ends("the spool can be written again");
        shared.changed.notify_all();
    }
}

/// Sends what is in the spool, until it is stopped.
fn send(settings: &Settings, password: &Password, shared: &Shared, queue: &Queue, stop: &Stop) {
    let counters = queue.counters();
    let mut trouble = Trouble::default();
    let mut pause = SHORTEST_PAUSE;
    while let Some(batch) = next(shared, stop) {
        let outcome = batch.and_then(|batch| {
            let client = Client::new(settings, password()?.as_ref())?;
            client.insert(&batch.records, stop).map(|()| batch)
        });
        let mut spool = shared.spool();
        match outcome {
            Ok(batch) => {
                spool.acknowledge(&batch);
                let count = batch.numbers.end - batch.numbers.start;
                counters.sent(usize::try_from(count).unwrap_or(0), batch.records.len() as u64);
                trouble.ends("the server takes records again");
                pause = SHORTEST_PAUSE;
            }
            Err(error) => {
                spool.failed();
                if !stop.is_set() {
                    counters.failed();
                    trouble.begins(&format!(
                        "{error:#}; this is tried again, and records wait in the spool"
                    ));
                }
            }
        }
        counters.lost(spool.take_lost());
        note(&spool, queue);
        drop(spool);
        if trouble.lasts {
            stop.wait(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Waits for something to send, and a moment for more; `None` where it is to stop.
fn next(shared: &Shared, stop: &Stop) -> Option<Result<Batch>> {
    let mut spool = shared.spool();
    let mut since = None;
    loop {
        if stop.is_set() {
            return None;
        }
        let waiting = spool.waiting();
        let began = *since.get_or_insert_with(Instant::now);
        let is_time = began.elapsed() >= GATHERING || waiting >= BATCH as u64;
        if waiting > 0 && is_time {
            match spool.batch(MOST_BYTES).context("reading the spool") {
                Ok(Some(batch)) => return Some(Ok(batch)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        if waiting == 0 {
            since = None;
        }
        spool =
            shared.changed.wait_timeout(spool, GATHERING).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Lets metrics know of the spool.
fn note(spool: &Spool, queue: &Queue) {
    queue.counters().spooled.store(spool.waiting(), Ordering::Relaxed);
    queue.counters().spool_bytes.store(spool.bytes(), Ordering::Relaxed);
}

/// What does not work is said when that begins, and when it ends.
#[derive(Debug, Default)]
struct Trouble {
    lasts: bool,
}

impl Trouble {
    fn begins(&mut self, what: &str) {
        if !self.lasts {
            tracing::error!("{NAME}: {what}");
        }
        self.lasts = true;
    }

    fn ends(&mut self, what: &str) {
        if self.lasts {
            tracing::info!("{NAME}: {what}");
        }
        self.lasts = false;
    }
}

/// How log lines begin.
const NAME: &str = "--export-clickhouse";

/// Records that are written or sent at once, about.
const BATCH: usize = 1024;

/// Bytes that are sent at once, about.
const MOST_BYTES: usize = 4 << 20;

/// How long records wait for others to be sent with.
const GATHERING: Duration = Duration::from_millis(500);

/// Between two attempts, at first.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Between two attempts, after many.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Reads what records need of a host: certificates of authorities.
///
/// # Errors
///
/// What is wrong, and what to do about it.
pub fn check(settings: &Settings) -> Result<()> {
    Client::new(settings, None).map(|_| ())
}
