//! Connections that have ended, until all events were shown: then they are shown in the order of their first packets. A
//! capture may have more of them than fit into memory, so most of them wait on disk.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{BufWriter, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

use anyhow::{Context, Result};
use tracker_common::{event::Reason, flow::Flow, key::FlowKey, state::State};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    breaches::Counts,
    connections::{Ended, Gone, Id, Span},
};
use crate::cli::scratch;

/// How many are kept in memory, about 300 bytes each.
const MOST: usize = 1 << 16;

/// Bytes of a run that are read from disk at once.
const STEP: usize = 1 << 15;

/// A connection that has ended.
pub(super) struct Archived {
    pub(super) ended: Ended,
    pub(super) broken: Counts,
}

/// Connections that have ended.
pub(super) struct Archive {
    recent: Vec<Archived>,
    most: usize,
    /// All others, in runs that are sorted each.
    disk: Option<(File, Vec<Range<u64>>)>,
}

impl Default for Archive {
    fn default() -> Self {
        Self { recent: Vec::new(), most: MOST, disk: None }
    }
}

impl Archive {
    /// Adds a connection.
    ///
    /// # Errors
    ///
    /// Where it would have to be written to disk, and cannot be.
    pub(super) fn add(&mut self, archived: Archived) -> Result<()> {
        self.recent.push(archived);
        if self.recent.len() < self.most {
            return Ok(());
        }
        let directory = scratch::directory();
        self.write_out(&directory).with_context(|| {
            format!(
                "keeping connections that have ended in {} (TMPDIR names another directory)",
                directory.display()
            )
        })
    }

    /// Writes what is in memory to the end of the file.
    fn write_out(&mut self, directory: &Path) -> Result<()> {
        self.recent.sort_unstable_by_key(|archived| archived.ended.id);
        if self.disk.is_none() {
            let file = scratch::file(directory)?;
            self.disk = Some((file, Vec::new()));
        }
        let Some((file, runs)) = &mut self.disk else { return Ok(()) };
        let start = runs.last().map_or(0, |run| run.end);
        let mut out = BufWriter::with_capacity(STEP, &*file);
        let mut end = start;
        for archived in self.recent.drain(..) {
            end += write(&mut out, archived)?;
        }
        out.flush()?;
        runs.push(start..end);
        Ok(())
    }

    /// All of them, in the order of their first packets.
    pub(super) fn into_sorted(mut self) -> Sorted {
        self.recent.sort_unstable_by_key(|archived| archived.ended.id);
        let (file, runs) = self.disk.map_or((None, Vec::new()), |(file, runs)| (Some(file), runs));
        let mut sorted = Sorted {
            recent: self.recent.into_iter(),
            runs: runs.into_iter().map(|left| Run { left, buffer: Vec::new(), at: 0 }).collect(),
            file,
            queue: BinaryHeap::new(),
            next_recent: None,
            error: None,
        };
        sorted.next_recent = sorted.recent.next();
        for index in 0..sorted.runs.len() {
            sorted.read_on(index);
        }
        sorted
    }
}

/// Connections in the order of their first packets.
pub(super) struct Sorted {
    recent: std::vec::IntoIter<Archived>,
    next_recent: Option<Archived>,
    file: Option<File>,
    runs: Vec<Run>,
    /// What comes next in each run.
    queue: BinaryHeap<Reverse<(Id, usize)>>,
    error: Option<anyhow::Error>,
}

/// A part of the file that is sorted.
struct Run {
    /// What has not been read.
    left: Range<u64>,
    buffer: Vec<u8>,
    /// Where the next record begins in the buffer.
    at: usize,
}

impl Run {
    /// The next `len` bytes; fewer at the run's end.
    fn peek(&mut self, file: &File, len: usize) -> Result<&[u8]> {
        let there = self.buffer.len() - self.at;
        if there < len && !self.left.is_empty() {
            self.buffer.drain(..self.at);
            self.at = 0;
            let missing = u64::try_from(len.max(STEP) - there)?;
            let missing = missing.min(self.left.end - self.left.start);
            self.buffer.resize(there + usize::try_from(missing)?, 0);
            file.read_exact_at(&mut self.buffer[there..], self.left.start)?;
            self.left.start += missing;
        }
        let end = self.buffer.len().min(self.at + len);
        Ok(&self.buffer[self.at..end])
    }

    fn take(&mut self, file: &File, len: usize) -> Result<&[u8]> {
        self.peek(file, len)?;
        let at = self.at;
        self.at += len;
        self.buffer.get(at..at + len).context("a record that was cut off")
    }

    fn next_id(&mut self, file: &File) -> Result<Option<Id>> {
        let bytes = self.peek(file, size_of::<Id>())?;
        Ok(bytes.try_into().ok().map(Id::from_ne_bytes))
    }

    fn read(&mut self, file: &File) -> Result<Archived> {
        let mut fixed = [0; FIXED];
        fixed.copy_from_slice(self.take(file, FIXED)?);
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&fixed[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        let (key, flow) = fixed[HEAD..].split_at(size_of::<FlowKey>());
        let state = State::from_code(fixed[33]).context("an unknown state")?;
        let ended = Ended {
            id: number(0),
            span: Span { first_ns: number(8).cast_signed(), last_ns: number(16).cast_signed() },
            at_ns: number(24),
            gone: match REASONS.get(usize::from(fixed[32])) {
                Some(reason) => Gone::Ended(*reason, state),
                None => Gone::Evicted,
            },
            key: FlowKey::read_from_bytes(key).ok().context("a key")?,
            flow: Flow::read_from_bytes(flow).ok().context("a record")?,
        };
        let mut broken = Vec::new();
        for _ in 0..fixed[34] {
            let one = self.take(file, 9)?;
            let mut count = [0; 8];
            count.copy_from_slice(&one[1..]);
            broken.push((one[0], u64::from_ne_bytes(count)));
        }
        Ok(Archived { ended, broken })
    }
}

/// Bytes of a record before its key: four numbers, the reason, the state, how many rules were broken.
const HEAD: usize = 40;

/// Bytes of a record, but for the rules.
const FIXED: usize = HEAD + size_of::<FlowKey>() + size_of::<Flow>();

const REASONS: [Reason; 5] =
    [Reason::Timeout, Reason::Fin, Reason::Rst, Reason::Reopened, Reason::Deleted];

/// Writes a record, and returns its length.
fn write(out: &mut impl Write, archived: Archived) -> Result<u64> {
    let Archived { ended, mut broken } = archived;
    // There are fewer rules.
    broken.truncate(usize::from(u8::MAX));
    let Ended { id, key, mut flow, span, gone, at_ns } = ended;
    let (reason, state) = match gone {
        Gone::Ended(reason, state) => (reason as u8, state as u8),
        Gone::Evicted => (u8::MAX, 0),
    };
    let mut head = [0; HEAD];
    let numbers = [id, span.first_ns.cast_unsigned(), span.last_ns.cast_unsigned(), at_ns];
    for (place, number) in head.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    head[32..35].copy_from_slice(&[reason, state, u8::try_from(broken.len())?]);
    out.write_all(&head)?;
    out.write_all(key.as_bytes())?;
    out.write_all(flow.as_mut_bytes())?;
    for (rule, count) in &broken {
        out.write_all(&[*rule])?;
        out.write_all(&count.to_ne_bytes())?;
    }
    Ok(u64::try_from(FIXED + broken.len() * 9)?)
}

impl Sorted {
    /// Puts the next record of a run into the queue.
    fn read_on(&mut self, index: usize) {
        let Some(file) = &self.file else { return };
        match self.runs[index].next_id(file) {
            Ok(Some(id)) => self.queue.push(Reverse((id, index))),
            Ok(None) => {}
            Err(error) => self.error = Some(error),
        }
    }

    fn step(&mut self) -> Result<Option<Archived>> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let recent = self.next_recent.as_ref().map(|archived| archived.ended.id);
        let disk = self.queue.peek().map(|Reverse((id, _))| *id);
        if disk.is_none() || recent.is_some_and(|recent| disk.is_some_and(|disk| recent < disk)) {
            let next = self.recent.next();
            return Ok(std::mem::replace(&mut self.next_recent, next));
        }
        let (Some(Reverse((_, index))), Some(file)) = (self.queue.pop(), &self.file) else {
            return Ok(None);
        };
        let archived = self.runs[index].read(file)?;
        self.read_on(index);
        Ok(Some(archived))
    }
}

impl Iterator for Sorted {
    type Item = Result<Archived>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().context("reading connections that have ended back").transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archived(id: Id) -> Archived {
        let signed = i64::try_from(id).expect("small");
        let gone = if id.is_multiple_of(3) {
            Gone::Evicted
        } else {
            Gone::Ended(REASONS[usize::try_from(id % 5).expect("small")], State::TimeWait)
        };
        let flow = Flow::default();
        flow.violations.add(u32::try_from(id).expect("small"));
        let key = FlowKey { zone: 7, ports: [[1, 2], [3, 4]], ..FlowKey::default() };
        let span = Span { first_ns: -signed, last_ns: signed };
        let ended = Ended { id, key, flow, span, gone, at_ns: id * 2 };
        Archived { ended, broken: (0..id % 4).map(|n| (u8::try_from(n).expect("3"), id)).collect() }
    }

    fn sorted(most: usize, count: u64) {
        let mut archive = Archive { most, ..Archive::default() };
        // Every number below `count` once, which is prime to the step.
        for n in 0..count {
            archive.add(archived(n * 7919 % count)).expect("room on disk");
            assert!(archive.recent.len() < most);
        }
        let mut next = 0;
        for one in archive.into_sorted() {
            let Archived { ended, broken } = one.expect("what was written");
            let right = archived(next);
            assert_eq!((ended.id, ended.gone, ended.at_ns), (next, right.ended.gone, next * 2));
            assert_eq!((ended.span, ended.key), (right.ended.span, right.ended.key));
            assert_eq!(ended.flow.violations.get(), right.ended.flow.violations.get());
            assert_eq!(broken, right.broken);
            next += 1;
        }
        assert_eq!(next, count);
    }

    #[test]
    fn they_come_back_in_order_from_memory_and_from_disk() {
        sorted(1000, 0);
        sorted(1000, 999);
        sorted(1000, 1000);
        sorted(1000, 5000);
        sorted(2, 1001);
    }
}
