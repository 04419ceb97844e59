//! Records between a queue and a receiver over a network: through a spool, at least once.
//!
//! One thread moves records from the queue to the spool, another one sends them, so a receiver that hangs never fills the queue.
//! What differs between receivers is a [`Receiver`]. [`division`] finds the records that a receiver refuses.

mod division;

use std::{
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};

use self::division::{Division, Step};
use crate::{
    export::{
        queue::Queue,
        record::{ExportRecord, Origin},
        spool::{Batch, Spool},
    },
    model::{
        clock::Clock,
        error::{Context, Error, Result},
    },
};

/// What differs between receivers of records.
pub trait Receiver: Send + Sync {
    /// The option that names it, by which log lines begin: `--export-clickhouse`.
    fn name(&self) -> &'static str;

    /// Reads what it needs of this host: secrets, certificates of authorities.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to do about it.
    fn check(&self) -> Result<()>;

    /// Whether it has a form for a record. What has none is left out, and not lost.
    fn has_form(&self, _: &ExportRecord) -> bool {
        true
    }

    /// A record as the spool holds it; `None` where this receiver has no form for it, which counts as lost.
    fn encode(&self, record: &ExportRecord) -> Option<Vec<u8>>;

    /// Records of a spool, one by one. Together they are all the bytes: what cannot be divided stays one piece.
    fn split<'a>(&self, records: &'a [u8]) -> Vec<&'a [u8]>;

    /// Sends records, and returns when the receiver has them.
    ///
    /// # Errors
    ///
    /// Where it does not: [`Refusal`] tells whether that is because of the records.
    fn send(&self, records: &[u8], stop: &Stop) -> Result<Receipt, Refusal>;
}

/// What a receiver says that has records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Receipt {
    /// Records that it has dropped, and does not want again.
    pub rejected: u64,
    /// Why it has, in its words.
    pub said: String,
}

/// Why a receiver does not have records.
#[derive(Debug)]
pub enum Refusal {
    /// They have nothing to do with it: the same records are sent again.
    Later {
        /// What is wrong.
        error: Error,
        /// How long the receiver wants to be left alone.
        after: Option<Duration>,
    },
    /// It refuses a record among them, which ever one that is.
    Content(Error),
}

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Later { error: error.into(), after: None }
    }
}

/// The spool of one exporter of one agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpoolSettings {
    /// Its directory.
    pub directory: PathBuf,
    /// Bytes of it at most.
    pub most_bytes: u64,
}

/// Ends what is waited for.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>, tokio::runtime::Runtime);

impl Stop {
    /// Not yet.
    ///
    /// # Errors
    ///
    /// Where there are no descriptors for it.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("preparing connections")?;
        Ok(Self(watch::channel(false).0, runtime))
    }

    /// From now on nothing is waited for.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for so long, or until it is set.
    pub fn wait(&self, longest: Duration) {
        self.1.block_on(async {
            let mut stopped = self.0.subscribe();
            let _ = timeout(longest, stopped.wait_for(|is_set| *is_set)).await;
        });
    }

    /// Does something, unless it is set meanwhile.
    ///
    /// # Errors
    ///
    /// Where that fails, or it was set.
    pub fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.1.block_on(async {
            let mut stopped = self.0.subscribe();
            tokio::select! {
                result = work => result,
                _ = stopped.wait_for(|is_set| *is_set) => Err(Error::text("the agent ends")),
            }
        })
    }
}

/// What both threads share.
struct Shared<'a> {
    receiver: &'a dyn Receiver,
    queue: &'a Queue,
    spool: Mutex<Spool>,
    /// Notified when there is something to send.
    changed: Condvar,
    stop: Stop,
}

impl Shared<'_> {
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets metrics know of the spool.
    fn note(&self, spool: &mut Spool) {
        let counters = self.queue.counters();
        counters.lost(spool.take_lost());
        counters.spooled.store(spool.waiting(), Ordering::Relaxed);
        counters.spool_bytes.store(spool.bytes(), Ordering::Relaxed);
    }
}

/// Sends the records of a queue until no more come. What the receiver does not have then stays in the spool.
pub fn run(receiver: &dyn Receiver, settings: &SpoolSettings, queue: &Queue, origin: &Origin) {
    let name = receiver.name();
    let mut trouble = Trouble::new(name);
    let spool = loop {
        match Spool::open(&settings.directory, settings.most_bytes) {
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
    let stop = match Stop::new() {
        Ok(stop) => stop,
        Err(error) => {
            tracing::error!("{name}: {error:#}; nothing is exported");
            while let Some(records) = queue.take(BATCH) {
                queue.counters().lost(records.len() as u64);
            }
            return;
        }
    };
    let shared =
        Shared { receiver, queue, spool: Mutex::new(spool), changed: Condvar::new(), stop };
    shared.note(&mut shared.spool());
    thread::scope(|scope| {
        let sending = thread::Builder::new()
            .name(format!("{}-send", name.trim_start_matches("--export-")))
            .spawn_scoped(scope, || Sending::new(&shared).run());
        if let Err(error) = sending {
            tracing::error!("{name}: starting a thread: {error}; records stay in the spool");
        }
        fill(&shared, origin);
        shared.stop.set();
        shared.changed.notify_all();
    });
}

/// Moves records to the spool, until no more come.
fn fill(shared: &Shared<'_>, origin: &Origin) {
    let (queue, receiver) = (shared.queue, shared.receiver);
    let counters = queue.counters();
    let mut trouble = Trouble::new(receiver.name());
    while let Some(mut records) = queue.take(BATCH) {
        records.retain(|record| receiver.has_form(record));
        let mut rows: Vec<_> =
            records.iter().filter_map(|record| receiver.encode(record)).collect();
        counters.lost((records.len() - rows.len()) as u64);
        let announced = counters.unannounced();
        if announced > 0 {
            rows.extend(receiver.encode(&origin.lost(announced, &Clock::now())));
        }
        while !rows.is_empty() {
            let mut spool = shared.spool();
            let outcome = spool.append(&rows);
            shared.note(&mut spool);
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

/// The thread that sends.
struct Sending<'a> {
    shared: &'a Shared<'a>,
    /// What was read from the spool, and not acknowledged to it.
    batches: Vec<Batch>,
    division: Division,
    trouble: Trouble,
    /// Lasts while records are given up.
    giving_up: Trouble,
    pause: Duration,
}

impl<'a> Sending<'a> {
    fn new(shared: &'a Shared<'a>) -> Self {
        let name = shared.receiver.name();
        Self {
            shared,
            batches: Vec::new(),
            division: Division::default(),
            trouble: Trouble::new(name),
            giving_up: Trouble::new(name),
            pause: SHORTEST_PAUSE,
        }
    }

    /// Sends what is in the spool, until it is stopped.
    fn run(mut self) {
        while !self.shared.stop.is_set() {
            match self.division.next() {
                Step::Send(part) => self.send(part),
                Step::Nothing => match self.read() {
                    Some(Ok(batch)) => self.add(batch),
                    Some(Err(error)) => self.failed(&error, None),
                    None => break,
                },
                Step::Wait => self.read_further(),
            }
        }
        let mut spool = self.shared.spool();
        spool.failed();
        self.shared.note(&mut spool);
    }

    fn add(&mut self, mut batch: Batch) {
        let count = batch.numbers.end - batch.numbers.start;
        self.division.add(std::mem::take(&mut batch.records), count);
        self.batches.push(batch);
    }

    fn send(&mut self, part: division::Part) {
        let Shared { receiver, queue, stop, .. } = self.shared;
        let counters = queue.counters();
        match receiver.send(&part.records, stop) {
            Ok(Receipt { rejected, said }) => {
                let rejected = rejected.min(part.count);
                let sent = usize::try_from(part.count - rejected).unwrap_or(0);
                counters.sent(sent, part.records.len() as u64);
                if rejected > 0 {
                    self.division.note_refused();
                    self.give_up(rejected, &said);
                }
                self.division.accepted();
                self.trouble.ends("the server takes records again");
                self.pause = SHORTEST_PAUSE;
            }
            // What was being sent is in the spool, and not acknowledged.
            Err(_) if stop.is_set() => return,
            Err(Refusal::Later { error, after }) => {
                if self.division.is_whole() {
                    // Nothing of it has arrived: read it again then, with what is there by then.
                    self.division = Division::default();
                    self.batches.clear();
                    let mut spool = self.shared.spool();
                    spool.failed();
                    self.shared.note(&mut spool);
                } else {
                    self.division.put_back(part);
                }
                self.failed(&error, after);
            }
            Err(Refusal::Content(error)) => {
                let outcome = self.division.refused(part, |records| {
                    receiver.split(records).into_iter().map(<[u8]>::len).collect()
                });
                counters.failed();
                match outcome {
                    division::Outcome::Divided => {}
                    division::Outcome::GivenUp(count) => {
                        self.give_up(count, &format!("{error:#}"));
                    }
                    division::Outcome::Held { pauses } => {
                        self.division.said = format!("{error:#}");
                        if pauses {
                            self.pause_with_all_refused();
                        }
                    }
                }
            }
        }
        if self.division.is_done() {
            self.acknowledge();
        }
    }

    /// Counts records that the receiver will not take, though it takes others.
    fn give_up(&mut self, count: u64, said: &str) {
        let counters = self.shared.queue.counters();
        counters.lost(count);
        counters.rejected.fetch_add(count, Ordering::Relaxed);
        self.giving_up.begins(&format!(
            "{said}: {count} records are given up, because others are taken; tracker_export_records_rejected_total counts them"
        ));
    }

    /// Waits after an attempt that is to be repeated.
    fn failed(&mut self, error: &Error, after: Option<Duration>) {
        self.shared.queue.counters().failed();
        self.trouble
            .begins(&format!("{error:#}; this is tried again, and records wait in the spool"));
        self.wait(after.unwrap_or_default());
    }

    /// The receiver refuses whatever it is sent: this may be a table or a setting, and nothing is given up.
    fn pause_with_all_refused(&mut self) {
        let said = format!(
            "{}; no record is taken, so this is tried again, and records wait in the spool",
            self.division.said
        );
        self.trouble.begins(&said);
        self.wait(Duration::ZERO);
    }

    fn wait(&mut self, least: Duration) {
        self.shared.stop.wait(self.pause.max(least.min(LONGEST_WISH)));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The receiver has everything that was read, but for what was given up.
    fn acknowledge(&mut self) {
        if self.batches.is_empty() {
            return;
        }
        let mut spool = self.shared.spool();
        for batch in self.batches.drain(..) {
            spool.acknowledge(&batch);
        }
        self.shared.note(&mut spool);
        if !self.division.take_has_refused() {
            self.giving_up.ends("every record is taken again");
        }
    }

    /// Waits for something to send, and a moment for more; `None` where it is to stop.
    fn read(&self) -> Option<Result<Batch>> {
        let mut spool = self.shared.spool();
        let mut since = None;
        loop {
            if self.shared.stop.is_set() {
                return None;
            }
            let waiting = spool.waiting();
            let began = *since.get_or_insert_with(Instant::now);
            let is_time = began.elapsed() >= GATHERING || waiting >= BATCH as u64;
            if waiting > 0 && is_time {
                match spool.batch(MOST_BYTES).context("reading the spool") {
                    Ok(Some(batch)) => return Some(Ok(batch)),
                    Ok(None) => self.shared.note(&mut spool),
                    Err(error) => return Some(Err(error)),
                }
            }
            if waiting == 0 {
                since = None;
            }
            let waited = self.shared.changed.wait_timeout(spool, GATHERING);
            spool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Some records are refused, and none was taken since: reads others behind them, which decide whether it is because of these.
    fn read_further(&mut self) {
        self.pause_with_all_refused();
        let has_room = self.division.held() < MOST_HELD;
        let further = match self.batches.last().filter(|_| has_room) {
            Some(last) => self.shared.spool().following(last, MOST_BYTES),
            None => Ok(None),
        };
        match further {
            Ok(Some(batch)) => self.add(batch),
            Ok(None) => self.division.try_one_again(),
            Err(error) => {
                self.division.try_one_again();
                self.trouble.begins(&format!("reading the spool: {error:#}"));
            }
        }
    }
}

/// What does not work is said when that begins, and when it ends.
#[derive(Debug)]
struct Trouble {
    name: &'static str,
    lasts: bool,
}

impl Trouble {
    const fn new(name: &'static str) -> Self {
        Self { name, lasts: false }
    }

    fn begins(&mut self, what: &str) {
        if !self.lasts {
            tracing::error!("{}: {what}", self.name);
        }
        self.lasts = true;
    }

    fn ends(&mut self, what: &str) {
        if self.lasts {
            tracing::info!("{}: {what}", self.name);
        }
        self.lasts = false;
    }
}

/// Records that are written or sent at once, about.
const BATCH: usize = 1024;

/// Bytes that are sent at once, about.
const MOST_BYTES: usize = 4 << 20;

/// Records that are held as refused before no further ones are read.
const MOST_HELD: usize = 1024;

/// How long records wait for others to be sent with.
const GATHERING: Duration = Duration::from_millis(500);

/// Between two attempts, at first.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Between two attempts, after many.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a receiver can ask to be left alone.
const LONGEST_WISH: Duration = Duration::from_secs(600);
