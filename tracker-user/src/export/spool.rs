//! Records on disk until a receiver has them: in segments with checksums, bounded, at least once.
//!
//! A segment is a file of frames. A frame has a header of [`HEADER`] bytes (a mark, its length, the number of its first record,
//! how many records it has, a checksum of all that) and those records. Records are numbered without gaps, and a segment is named by
//! its first one. So whatever is cut or damaged, it is known how many records are missing between two that are whole.

mod frame;

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    ops::Range,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use self::frame::HEADER;
use crate::model::error::{Context, Error, Result};

/// Records between an agent and a receiver, on disk.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    most_bytes: u64,
    segments: VecDeque<Segment>,
    /// The last segment, where it can be appended to.
    writing: Option<File>,
    /// The number of the next record that is appended.
    next: u64,
    /// Every record below this number was acknowledged, or is lost.
    acknowledged: u64,
    /// Where the first record is that was not.
    at: Place,
    /// What is on its way to the receiver.
    sending: Option<Range<u64>>,
    lost: u64,
    /// Keeps others away.
    _lock: Flock<File>,
}

#[derive(Debug)]
struct Segment {
    first: u64,
    path: PathBuf,
    length: u64,
}

/// A place in the segment whose first record has this number.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    segment: u64,
    offset: u64,
}

/// Records that are to be sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Their numbers.
    pub numbers: Range<u64>,
    /// They themselves, one after the other.
    pub records: Vec<u8>,
    /// Records before them that are damaged.
    skipped: u64,
    end: (u64, u64),
}

impl Spool {
    /// Opens a spool, which is made where there is none. What was cut at its end by a crash was never acknowledged, and goes.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be made or read, or another process has it.
    pub fn open(directory: &Path, most_bytes: u64) -> Result<Self> {
        let named = || format!("the spool {}", directory.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(named)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join("lock"))
            .with_context(named)?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::text("another process has it")).with_context(named);
            }
            Err((_, error)) => return Err(error).with_context(named),
        };
        let mut segments = segments(directory).with_context(named)?;
        let noted = read_note(directory);
        let mut next = noted.unwrap_or(0);
        let from = noted.or_else(|| segments.front().map(|segment| segment.first));
        while let Some(last) = segments.back_mut() {
            let (length, end) = frame::whole(&last.open()?, last.first).with_context(named)?;
            if length < last.length {
                tracing::warn!(
                    "{}: {} bytes at the end are not whole, and removed",
                    last.path.display(),
                    last.length - length
                );
                OpenOptions::new()
                    .write(true)
                    .open(&last.path)
                    .and_then(|file| file.set_len(length))
                    .with_context(named)?;
                last.length = length;
            }
            next = next.max(end);
            if length > 0 {
                break;
            }
            fs::remove_file(&last.path).with_context(named)?;
            segments.pop_back();
        }
        let first = segments.front().map_or(next, |segment| segment.first);
        let from = from.unwrap_or(next).min(next);
        let acknowledged = from.max(first);
        let mut spool = Self {
            directory: directory.to_owned(),
            most_bytes,
            segments,
            writing: None,
            next,
            acknowledged,
            at: Place::default(),
            sending: None,
            // Whole segments that are damaged to their end.
            lost: acknowledged - from,
            _lock: lock,
        };
        spool.find_place().with_context(named)?;
        Ok(spool)
    }

    /// Appends records, which outlive the process once this returns, and a crash of the host, too. The oldest ones go where there
    /// would be too many bytes.
    ///
    /// # Errors
    ///
    /// Where they cannot be written. Then none of them is there.
    pub fn append(&mut self, records: &[Vec<u8>]) -> Result<()> {
        let directory = self.directory.display().to_string();
        let named = || format!("writing to the spool {directory}");
        let frame = frame::of(self.next, records)?;
        let is_full = self.segments.back().is_some_and(|last| {
            last.length > 0 && last.length + frame.len() as u64 > self.most_bytes / SEGMENTS
        });
        if is_full {
            self.writing = None;
        }
        let mut file = match self.writing.take() {
            Some(file) => file,
            None => self.begin(is_full).with_context(named)?,
        };
        self.make_room(frame.len() as u64);
        let Some(last) = self.segments.back_mut() else {
            return Err(Error::text("the spool has no segment"));
        };
        let written = file.write_all(&frame).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Where this fails, too, the frame is cut when the spool is opened, or overwritten by none.
            if file.set_len(last.length).is_ok() {
                self.writing = Some(file);
            }
            return Err(error).with_context(named);
        }
        last.length += frame.len() as u64;
        self.writing = Some(file);
        self.next += records.len() as u64;
        Ok(())
    }

    /// The first records that the receiver does not have, up to about so many bytes; `None` where it has all. They stay until
    /// [`Spool::acknowledge`].
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn batch(&mut self, most_bytes: usize) -> Result<Option<Batch>> {
        if let Some(batch) = self.read(self.acknowledged, self.at, most_bytes)? {
            self.sending = Some(batch.numbers.clone());
            return Ok(Some(batch));
        }
        // What is left is damaged to its end.
        if self.acknowledged < self.next {
            self.lost += self.next - self.acknowledged;
            self.acknowledged = self.next;
            self.writing = None;
            self.note();
            self.remove_acknowledged(true);
        }
        Ok(None)
    }

    /// The records behind a batch that is not acknowledged yet, as [`Spool::batch`] returns them: both are on their way then, and
    /// are acknowledged in their order.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn following(&mut self, batch: &Batch, most_bytes: usize) -> Result<Option<Batch>> {
        let at = Place { segment: batch.end.0, offset: batch.end.1 };
        let further = self.read(batch.numbers.end, at, most_bytes)?;
        if let (Some(further), Some(sending)) = (&further, &mut self.sending) {
            sending.end = further.numbers.end;
        }
        Ok(further)
    }

    /// The whole records from this number on, which is at this place.
    fn read(&self, from: u64, at: Place, most_bytes: usize) -> Result<Option<Batch>> {
        let mut batch = Batch {
            numbers: from..from,
            records: Vec::new(),
            skipped: 0,
            end: (at.segment, at.offset),
        };
        for segment in self.segments.iter().filter(|it| it.first >= at.segment) {
            let mut offset = if segment.first == at.segment { at.offset } else { 0 };
            let file = segment.open()?;
            while offset < segment.length {
                let Some((at, header)) = frame::find(&file, offset, segment.length)? else { break };
                if header.first > batch.numbers.end {
                    if !batch.records.is_empty() {
                        return Ok(Some(batch));
                    }
                    batch.skipped = header.first - batch.numbers.end;
                    batch.numbers = header.first..header.first;
                }
                let payload = frame::payload(&file, at, &header)?;
                offset = at + HEADER as u64 + payload.len() as u64;
                batch.records.extend_from_slice(&payload);
                batch.numbers.end = header.first + u64::from(header.count);
                batch.end = (segment.first, offset);
                if batch.records.len() >= most_bytes {
                    return Ok(Some(batch));
                }
            }
        }
        Ok((!batch.records.is_empty()).then_some(batch))
    }

    /// The receiver has a batch: its records are not sent again.
    pub fn acknowledge(&mut self, batch: &Batch) {
        self.sending = None;
        // Meanwhile the oldest may have gone.
        if batch.numbers.end <= self.acknowledged {
            return;
        }
        self.lost += batch.numbers.start.saturating_sub(self.acknowledged).min(batch.skipped);
        self.acknowledged = batch.numbers.end;
        self.at = Place { segment: batch.end.0, offset: batch.end.1 };
        // In this order: what is missing below the note was acknowledged, and is not lost.
        self.note();
        self.remove_acknowledged(false);
    }

    /// The receiver does not have what was on its way, which is sent again as far as it is still there.
    pub fn failed(&mut self) {
        if let Some(sending) = self.sending.take() {
            let gone = self.acknowledged.min(sending.end).saturating_sub(sending.start);
            self.lost += gone;
        }
    }

    /// Records that are lost since this was called last: the oldest went because there was no room, or what was read was
    /// damaged.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Records that the receiver does not have.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.next - self.acknowledged
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Opens the last segment to append to, or a new one.
    fn begin(&mut self, is_full: bool) -> io::Result<File> {
        if let Some(last) = self.segments.back().filter(|_| !is_full) {
            let file = OpenOptions::new().append(true).open(&last.path)?;
            file.set_len(last.length)?;
            return Ok(file);
        }
        let path = self.directory.join(format!("{:020}.{SUFFIX}", self.next));
        let mut options = OpenOptions::new();
        // One of this name holds nothing that is known of.
        let file = options.append(true).create(true).mode(0o600).open(&path)?;
        file.set_len(0)?;
        File::open(&self.directory)?.sync_all()?;
        self.segments.push_back(Segment { first: self.next, path, length: 0 });
        Ok(file)
    }

    /// Removes the oldest segments until there is room; what is on its way is counted when it is known whether it arrived.
    fn make_room(&mut self, bytes: u64) {
        while self.segments.len() > 1 && self.bytes() + bytes > self.most_bytes {
            let Some(oldest) = self.segments.pop_front() else { return };
            let _ = fs::remove_file(&oldest.path);
            let first = self.segments.front().map_or(self.next, |segment| segment.first);
            if first > self.acknowledged {
                let sending = self.sending.clone().unwrap_or(first..first);
                let on_its_way =
                    sending.end.min(first).saturating_sub(sending.start.max(self.acknowledged));
                self.lost += first - self.acknowledged - on_its_way;
                self.acknowledged = first;
                self.at = Place { segment: first, offset: 0 };
                self.note();
            }
        }
    }

    /// Removes segments whose records were all acknowledged; the last one only where it cannot be appended to.
    fn remove_acknowledged(&mut self, and_the_last: bool) {
        while let Some(oldest) = self.segments.front() {
            let end = self.segments.get(1).map(|segment| segment.first);
            let is_over = match end {
                Some(end) => end <= self.acknowledged,
                None => and_the_last,
            };
            if !is_over {
                return;
            }
            let _ = fs::remove_file(&oldest.path);
            self.segments.pop_front();
        }
    }

    /// Notes how far the receiver is. A note that is lost makes it get some records twice.
    fn note(&self) {
        let (new, path) = (self.directory.join("acknowledged.new"), self.directory.join(NOTE));
        let text = format!("{}\n", self.acknowledged);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            tracing::debug!("{}: {error}", path.display());
        }
    }

    /// Finds the frame with the first record that was not acknowledged.
    fn find_place(&mut self) -> Result<()> {
        let at = self.segments.iter().rposition(|segment| segment.first <= self.acknowledged);
        let Some(segment) = at.and_then(|at| self.segments.get(at)) else { return Ok(()) };
        let file = segment.open()?;
        let mut offset = 0;
        while let Some((at, header)) = frame::find(&file, offset, segment.length)? {
            let end = header.first + u64::from(header.count);
            if end > self.acknowledged {
                // A part of a frame was never acknowledged alone.
                self.acknowledged = self.acknowledged.min(header.first);
                break;
            }
            offset = at + HEADER as u64 + u64::from(header.length);
        }
        self.at = Place { segment: segment.first, offset };
        self.remove_acknowledged(false);
        Ok(())
    }
}

impl Segment {
    fn open(&self) -> Result<File> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path)
            .with_context(|| format!("reading {}", self.path.display()))
    }
}

/// The segments of a directory, the oldest first.
fn segments(directory: &Path) -> Result<VecDeque<Segment>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(&format!(".{SUFFIX}")));
        if let Some(first) = number.and_then(|number| number.parse().ok()) {
            let about = fs::symlink_metadata(entry.path())?;
            if about.is_file() {
                found.push(Segment { first, path: entry.path(), length: about.len() });
            }
        }
    }
    found.sort_unstable_by_key(|segment| segment.first);
    Ok(found.into())
}

fn read_note(directory: &Path) -> Option<u64> {
    let mut text = [0; 32];
    let file = File::open(directory.join(NOTE)).ok()?;
    let length = loop {
        match file.read_at(&mut text, 0) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read.ok()?,
        }
    };
    std::str::from_utf8(&text[..length]).ok()?.strip_suffix('\n')?.parse().ok()
}

/// Segments that a full spool has, about.
const SEGMENTS: u64 = 16;

/// How the names of segments end.
const SUFFIX: &str = "segment";

/// The file that has the number of the first record that was not acknowledged.
const NOTE: &str = "acknowledged";

#[cfg(test)]
mod tests;
