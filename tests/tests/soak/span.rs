//! How long the troubles go on.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tracker_tests::agent::eventually;

/// Until when there are troubles. The first that fails ends all.
pub(crate) struct Span {
    begin: Instant,
    length: Duration,
    has_failed: AtomicBool,
}

impl Span {
    pub(crate) fn new(length: Duration) -> Self {
        Self { begin: Instant::now(), length, has_failed: AtomicBool::new(false) }
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.has_failed.load(Ordering::Relaxed) && self.begin.elapsed() < self.length
    }

    /// Whether half of it is over.
    pub(crate) fn is_half_over(&self) -> bool {
        self.begin.elapsed() > self.length / 2
    }

    /// Does some of the work; if that fails, there is no more.
    pub(crate) fn part<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = work();
        if result.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Waits for what another part brings about, unless one has failed.
    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        eventually(what, || {
            ensure!(!self.has_failed.load(Ordering::Relaxed), "another part has failed");
            let is_done = done()?;
            if !is_done {
                // Each question is a process. What it waits for needs the core, too.
                thread::sleep(Duration::from_millis(20));
            }
            Ok(is_done)
        })
    }
}
