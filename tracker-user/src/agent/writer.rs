//! What `tracker run` writes to stdout and stderr: each has a thread of its own and a bounded queue, so that a reader that stalls, a
//! stopped terminal or a full disk never holds the agent up.
//!
//! A line that does not fit is dropped and counted. So is one that cannot be written; what follows is tried again every second.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::watch;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    agent::privileges,
    model::error::{Context, Result},
};

/// What is done where an output cannot be written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum OnError {
    /// Go on tracking, and count lost lines
    #[default]
    Continue,
    /// End, with exit code 1
    Exit,
}

/// What a line is, which decides where it is counted when it is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// An event.
    Report,
    /// Anything else.
    Log,
}

/// Both streams of this process.
#[derive(Clone, Debug)]
pub struct Writers {
    /// stdout.
    pub out: Writer,
    /// stderr.
    pub err: Writer,
    failure: watch::Receiver<Option<String>>,
}

/// One stream. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    queue: Mutex<Queue>,
    /// Notified when a line came, and when one was written or lost.
    changed: Condvar,
    reports_lost: AtomicU64,
    log_lines_lost: AtomicU64,
    failure: Arc<watch::Sender<Option<String>>>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Whether the thread has lines that are neither written nor lost yet.
    is_writing: bool,
    /// Why it could not be written, the last time.
    error: Option<String>,
    /// Until then nothing is tried.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Line {
    content: Content,
    bytes: Vec<u8>,
}

impl Writers {
    /// Starts the threads. They have no capabilities.
    ///
    /// # Errors
    ///
    /// Where a stream cannot be duplicated, or a thread not started.
    pub fn start() -> Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned().context("duplicating stdout")?;
        let err = io::stderr().as_fd().try_clone_to_owned().context("duplicating stderr")?;
        let (sender, failure) = watch::channel(None);
        let sender = Arc::new(sender);
        let out = Writer::start("stdout", out, &sender)?;
        let err = Writer::start("stderr", err, &sender)?;
        Ok(Self { out, err, failure })
    }

    /// Reports that neither stream has taken.
    #[must_use]
    pub fn reports_lost(&self) -> u64 {
        [&self.out, &self.err]
            .map(|writer| writer.0.reports_lost.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    /// Other lines that stderr has not taken.
    #[must_use]
    pub fn log_lines_lost(&self) -> u64 {
        self.err.0.log_lines_lost.load(Ordering::Relaxed)
    }

    /// Waits until a stream cannot be written: which one, and why. Nothing is lost where waiting is given up.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // Both threads have ended, which they do with the process.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until all is written, but no longer than that.
    pub fn finish(&self, longest: Duration) {
        let until = Instant::now() + longest;
        self.out.finish(until);
        self.err.finish(until);
    }
}

impl Writer {
    fn start(
        name: &'static str,
        to: OwnedFd,
        failure: &Arc<watch::Sender<Option<String>>>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            name,
            queue: Mutex::default(),
            changed: Condvar::new(),
            reports_lost: AtomicU64::new(0),
            log_lines_lost: AtomicU64::new(0),
            failure: Arc::clone(failure),
        });
        let own = Arc::clone(&shared);
        let (ready, is_ready) = std::sync::mpsc::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let dropped = privileges::drop_all();
                let is_refused = dropped.is_err();
                let _ = ready.send(dropped);
                if !is_refused {
                    own.write_for_ever(&mut File::from(to));
                }
            })
            .with_context(|| format!("starting a thread for {name}"))?;
        is_ready.recv().context("its thread has ended")??;
        Ok(Self(shared))
    }

    /// Leaves a line to be written. One that does not fit is counted as lost.
    pub fn write(&self, content: Content, bytes: Vec<u8>) {
        let mut queue = self.0.queue();
        let is_paused = queue.retry_at.is_some_and(|at| Instant::now() < at);
        if is_paused || queue.bytes + bytes.len() > CAPACITY {
            self.0.count_lost(content);
            return;
        }
        queue.bytes += bytes.len();
        queue.lines.push_back(Line { content, bytes });
        drop(queue);
        self.0.changed.notify_all();
    }

    /// Whether what is written next is likely to get out: it can be written, and the queue is not half full.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let queue = self.0.queue();
        queue.error.is_none() && queue.bytes < CAPACITY / 2
    }

    /// Why it could not be written, the last time; `None` where it could.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.0.queue().error.clone()
    }

    fn finish(&self, until: Instant) {
        let mut queue = self.0.queue();
        while queue.is_writing || !queue.lines.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue =
                self.0.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_lost(&self, content: Content) {
        let counter = match content {
            Content::Report => &self.reports_lost,
            Content::Log => &self.log_lines_lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn write_for_ever(&self, to: &mut File) {
        let mut is_within_line = false;
        loop {
            let lines = self.take();
            let mut bytes = Vec::with_capacity(2 * CHUNK);
            if is_within_line {
                // What was written of the last one is no line of its own otherwise.
                bytes.push(b'\n');
            }
            let mut ends = Vec::with_capacity(lines.len());
            for line in &lines {
                bytes.extend_from_slice(&line.bytes);
                ends.push((bytes.len(), line.content));
            }
            let (written, result) = write_all(to, &bytes);
            if let Some(last) = written.checked_sub(1) {
                is_within_line = bytes[last] != b'\n';
            }
            for (_, content) in ends.into_iter().filter(|(end, _)| *end > written) {
                self.count_lost(content);
            }
            self.wrote(result);
        }
    }

    /// Waits for lines, and takes some.
    fn take(&self) -> Vec<Line> {
        let mut queue = self.queue();
        while queue.lines.is_empty() {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < CHUNK
            && let Some(line) = queue.lines.pop_front()
        {
            bytes += line.bytes.len();
            taken.push(line);
        }
        queue.bytes -= bytes;
        queue.is_writing = true;
        taken
    }

    fn wrote(&self, result: io::Result<()>) {
        let mut queue = self.queue();
        queue.is_writing = false;
        match result {
            Ok(()) => {
                queue.retry_at = None;
                if queue.error.take().is_some() {
                    self.failure.send_replace(None);
                }
            }
            Err(error) => {
                // They would be old news by the time that it can be written again.
                for line in std::mem::take(&mut queue.lines) {
                    self.count_lost(line.content);
                }
                queue.bytes = 0;
                queue.retry_at = Some(Instant::now() + RETRY);
                queue.error = Some(error.to_string());
                self.failure.send_replace(Some(format!("writing to {}: {error}", self.name)));
            }
        }
        drop(queue);
        self.changed.notify_all();
    }
}

/// How much was written, and why no more.
fn write_all(to: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match to.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares it may have set O_NONBLOCK.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// The log on stderr.
#[derive(Clone, Debug)]
pub struct Log(Writer);

impl Log {
    /// For [`tracing_subscriber`].
    #[must_use]
    pub fn new(writers: &Writers) -> Self {
        Self(writers.err.clone())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry { writer: &self.0, content: Content::Log }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Entry<'a> {
        let is_report = REPORTS.contains(&about.target());
        let content = if is_report { Content::Report } else { Content::Log };
        Entry { writer: &self.0, content }
    }
}

/// An entry of the log, which is written at once.
#[derive(Debug)]
pub struct Entry<'a> {
    writer: &'a Writer,
    content: Content,
}

impl Write for Entry<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(self.content, bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Target of violations in the log.
pub const VIOLATION: &str = "tracker::violation";

/// Target of other events in the log.
pub const EVENT: &str = "tracker::event";

const REPORTS: [&str; 2] = [VIOLATION, EVENT];

/// Bytes that wait for one stream at most.
const CAPACITY: usize = 4 << 20;

/// Bytes that are written at once, about.
const CHUNK: usize = 65_536;

/// Between two attempts at a stream that cannot be written.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn writer(to: impl Into<OwnedFd>) -> Writer {
        let (failure, _) = watch::channel(None);
        Writer::start("test", to.into(), &Arc::new(failure)).expect("a thread")
    }

    fn lost(writer: &Writer) -> u64 {
        writer.0.reports_lost.load(Ordering::Relaxed)
    }

    #[test]
    fn what_nobody_reads_is_lost_by_the_line() {
        const LINE: usize = 1000;
        let (mut reader, to) = io::pipe().expect("a pipe");
        let writer = writer(to);
        let line = || [vec![b'x'; LINE - 1], vec![b'\n']].concat();
        let mut sent = 0_u64;
        while lost(&writer) == 0 {
            writer.write(Content::Report, line());
            sent += 1;
        }
        assert!(!writer.has_room());
        // It does not wait for ever.
        writer.finish(Instant::now());
        let kept = (sent - lost(&writer)) * LINE as u64;
        let mut all = vec![0; usize::try_from(kept).expect("it fits")];
        reader.read_exact(&mut all).expect("what was kept");
        assert!(all.chunks(LINE).all(|found| found == line()));
        writer.finish(Instant::now() + Duration::from_secs(60));
        assert!(writer.has_room());
    }

    #[test]
    fn what_cannot_be_written_is_lost_at_once() {
        let (reader, to) = io::pipe().expect("a pipe");
        drop(reader);
        let writer = writer(to);
        for _ in 0..3 {
            writer.write(Content::Report, b"line\n".to_vec());
        }
        writer.finish(Instant::now() + Duration::from_secs(60));
        assert_eq!(lost(&writer), 3);
        assert!(writer.error().is_some_and(|error| error.contains("roken pipe")));
    }
}
