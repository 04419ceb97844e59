//! Records between the agent and an exporter: the agent never waits, and what finds no room is counted.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::export::record::ExportRecord;

/// Records that wait for an exporter at most: some 25 MiB.
pub const CAPACITY: usize = 16_384;

/// What an exporter counts, since the agent's start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records that its receiver has.
    pub sent: AtomicU64,
    /// Their bytes, as they were sent.
    pub sent_bytes: AtomicU64,
    /// Records that found the queue full, or were in it when the agent ended.
    pub lost: AtomicU64,
    /// Those of them that the receiver refused for their content.
    pub rejected: AtomicU64,
    /// Those of them that the receiver knows of.
    announced: AtomicU64,
    /// Attempts that failed. What they were about is tried again.
    pub failures: AtomicU64,
    /// Records that wait on disk, now.
    pub spooled: AtomicU64,
    /// Bytes of the spool, now.
    pub spool_bytes: AtomicU64,
}

impl Counters {
    /// Counts records that the receiver has.
    pub fn sent(&self, records: usize, bytes: u64) {
        self.sent.fetch_add(records as u64, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts records that the receiver will never have.
    pub fn lost(&self, records: u64) {
        self.lost.fetch_add(records, Ordering::Relaxed);
    }

    /// Lost records that the receiver does not know of.
    #[must_use]
    pub fn unannounced(&self) -> u64 {
        let announced = self.announced.load(Ordering::Relaxed);
        self.lost.load(Ordering::Relaxed).saturating_sub(announced)
    }

    /// The receiver knows of so many more lost records.
    pub fn announced(&self, records: u64) {
        self.announced.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts an attempt that failed.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

/// The records that wait for one exporter.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    capacity: usize,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<Arc<ExportRecord>>,
    is_closed: bool,
}

impl Queue {
    /// Room for [`CAPACITY`] records.
    #[must_use]
    pub fn new(counters: Arc<Counters>) -> Self {
        Self::with_capacity(CAPACITY, counters)
    }

    fn with_capacity(capacity: usize, counters: Arc<Counters>) -> Self {
        Self { waiting: Mutex::default(), changed: Condvar::new(), capacity, counters }
    }

    /// What its exporter counts.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Leaves a record for the exporter, or counts it as lost where there is no room. Never waits for the exporter.
    pub fn push(&self, record: Arc<ExportRecord>) {
        let mut waiting = self.lock();
        if waiting.is_closed || waiting.records.len() >= self.capacity {
            drop(waiting);
            self.counters.lost(1);
            return;
        }
        waiting.records.push_back(record);
        drop(waiting);
        self.changed.notify_all();
    }

    /// The same for whoever has time: waits for room, but no longer than until then.
    pub fn push_until(&self, record: Arc<ExportRecord>, until: Instant) {
        let mut waiting = self.lock();
        while !waiting.is_closed && waiting.records.len() >= self.capacity {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting =
                self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(waiting);
        self.push(record);
    }

    /// Waits for records, and takes up to `most` of them. `None` where no more will come.
    pub fn take(&self, most: usize) -> Option<Vec<Arc<ExportRecord>>> {
        let mut waiting = self.lock();
        while waiting.records.is_empty() {
            if waiting.is_closed {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let count = most.min(waiting.records.len());
        let taken = waiting.records.drain(..count).collect();
        drop(waiting);
        self.changed.notify_all();
        Some(taken)
    }

    /// Waits for so long, or until no more will come; returns whether more may.
    pub fn pause(&self, longest: Duration) -> bool {
        let until = Instant::now() + longest;
        let mut waiting = self.lock();
        while !waiting.is_closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting =
                self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        !waiting.is_closed
    }

    /// How many records wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// No more will come. What waits can still be taken.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::export::record::tests::{ended, origin};

    fn record(zone: u16) -> Arc<ExportRecord> {
        Arc::new(origin().record(&ended(zone)).expect("an end is sent"))
    }

    fn zones(records: &[Arc<ExportRecord>]) -> Vec<u16> {
        records.iter().filter_map(|record| record.flow.as_ref()).map(|flow| flow.zone).collect()
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let queue = Queue::with_capacity(2, Arc::default());
        for zone in 0..5 {
            queue.push(record(zone));
        }
        assert_eq!(queue.counters().lost.load(Ordering::Relaxed), 3);
        queue.push_until(record(5), Instant::now());
        assert_eq!(queue.counters().lost.load(Ordering::Relaxed), 4);
        assert_eq!(zones(&queue.take(10).expect("two")), [0, 1]);
        queue.push(record(6));
        queue.close();
        queue.push(record(7));
        assert_eq!(zones(&queue.take(10).expect("one")), [6]);
        assert!(queue.take(10).is_none());
        assert_eq!(queue.counters().lost.load(Ordering::Relaxed), 5);
        assert!(!queue.pause(Duration::from_secs(600)));
    }

    #[test]
    fn who_has_time_waits_for_room() {
        let queue = Arc::new(Queue::with_capacity(1, Arc::default()));
        let pushing = Arc::clone(&queue);
        let until = Instant::now() + Duration::from_secs(600);
        let all = thread::spawn(move || {
            (0..100).for_each(|zone| pushing.push_until(record(zone), until));
            pushing.close();
        });
        let mut taken = Vec::new();
        while let Some(records) = queue.take(3) {
            taken.extend(zones(&records));
        }
        all.join().expect("it ends");
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        assert_eq!(queue.counters().lost.load(Ordering::Relaxed), 0);
    }
}
