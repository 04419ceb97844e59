//! The exporter `file`: a record a line, in files that are rotated by their size.
//!
//! It writes whole records or nothing: what was cut by a full disk or a killed agent is taken away before it goes on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    export::{
        queue::{Counters, Queue},
        record::{ExportRecord, Origin},
    },
    model::{
        clock::Clock,
        error::{Context, Error, Result},
    },
};

/// Where records are written, and how much of them is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The file that is written. Full ones have a number after its name, the newest one 1.
    pub path: PathBuf,
    /// Bytes of a file at most, unless one record has more.
    pub most_bytes: u64,
    /// Files at most, this one included; 1 or more.
    pub count: u32,
}

/// Checks that records can be written there: the file is one of records, or can be made. Nothing is changed.
///
/// # Errors
///
/// Why they cannot, and what to do about it.
pub fn check(path: &Path) -> Result<()> {
    let named = || format!("--export-file {}", path.display());
    match open(OpenOptions::new().read(true), path) {
        Ok(file) => {
            regular(&file).with_context(named)?;
            is_ours(&file).with_context(named)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = match path.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => return Err(Error::text(format!("{}: this is no file", named()))),
            };
            let is_there = fs::metadata(directory).is_ok_and(|about| about.is_dir());
            if is_there {
                return Ok(());
            }
            Err(Error::text(format!(
                "{}: there is no directory {}; make it, or name another file",
                named(),
                directory.display()
            )))
        }
        Err(error) => Err(explained(error)).with_context(named),
    }
}

/// Writes the records of a queue until no more come. What cannot be written is tried again every second, while records
/// wait in the queue; those that wait when the queue is closed are counted as lost then.
pub fn run(settings: Settings, queue: &Queue, origin: &Origin) {
    let mut writer = Writer { settings, current: None };
    let counters = queue.counters();
    let mut is_failing = false;
    // So that whoever follows it finds it. What is wrong with it is said where it is written.
    let _ = writer.current();
    while let Some(records) = queue.take(BATCH) {
        let mut rest = &records[..];
        while let Err(Failed { written, error }) = writer.step(rest, origin, counters) {
            rest = &rest[written..];
            counters.failed();
            if !is_failing {
                tracing::error!(
                    "--export-file: {error:#}; this is tried again, and records wait as long as there is room"
                );
                is_failing = true;
            }
            if !queue.pause(RETRY) {
                counters.lost((rest.len() + queue.len()) as u64);
                return;
            }
        }
        if is_failing {
            tracing::info!("--export-file: records can be written again");
            is_failing = false;
        }
    }
}

/// How far a step came, and why no further.
struct Failed {
    /// Records that were written.
    written: usize,
    error: Error,
}

struct Writer {
    settings: Settings,
    current: Option<Current>,
}

/// The file that is written.
struct Current {
    file: File,
    /// Bytes of whole records.
    length: u64,
}

impl Writer {
    /// Writes records, after the one that says how many were lost before them, if any were.
    fn step(
        &mut self,
        records: &[Arc<ExportRecord>],
        origin: &Origin,
        counters: &Counters,
    ) -> Result<(), Failed> {
        let lost = counters.unannounced();
        if lost > 0 {
            let record = origin.lost(lost, &Clock::now());
            self.write(&[Arc::new(record)], counters)
                .map_err(|failed| Failed { written: 0, ..failed })?;
            counters.announced(lost);
        }
        self.write(records, counters)
    }

    fn write(&mut self, records: &[Arc<ExportRecord>], counters: &Counters) -> Result<(), Failed> {
        let mut written = 0;
        let failed = |written, error: Error| Failed { written, error };
        while written < records.len() {
            let at = written;
            let length = self.current().map_err(|error| failed(at, error))?.length;
            let most_bytes = self.settings.most_bytes;
            let mut text = Vec::new();
            let mut count = 0;
            let mut is_full = false;
            for record in &records[written..] {
                let line = record.to_line().map_err(|error| failed(at, error.into()))?;
                let end = length + (text.len() + line.len()) as u64;
                if end > most_bytes && length + text.len() as u64 > 0 {
                    is_full = true;
                    break;
                }
                text.extend_from_slice(&line);
                count += 1;
            }
            self.append(&text).map_err(|error| failed(at, error))?;
            counters.sent(count, text.len() as u64);
            written += count;
            if is_full {
                self.rotate().map_err(|error| failed(at + count, error))?;
            }
        }
        Ok(())
    }

    /// The file that is written: opened anew where somebody has moved or removed it.
    fn current(&mut self) -> Result<&mut Current> {
        let path = &self.settings.path;
        let is_there = |current: &Current| {
            let (Ok(ours), Ok(there)) = (current.file.metadata(), fs::symlink_metadata(path))
            else {
                return false;
            };
            (ours.dev(), ours.ino()) == (there.dev(), there.ino())
        };
        if !self.current.as_ref().is_some_and(is_there) {
            self.current = None;
        }
        match &mut self.current {
            Some(current) => Ok(current),
            none => Ok(none.insert(Current::open(path)?)),
        }
    }

    /// Appends whole records, or nothing.
    fn append(&mut self, text: &[u8]) -> Result<()> {
        let path = self.settings.path.display().to_string();
        let Some(current) = &mut self.current else {
            return Err(Error::text("the file is not open"));
        };
        if let Err(error) = current.file.write_all(text) {
            // What a full disk has cut. Where that fails, too, opening it anew does it.
            if current.file.set_len(current.length).is_err() {
                self.current = None;
            }
            return Err(error).context(format!("writing to {path}"));
        }
        current.length += text.len() as u64;
        Ok(())
    }

    /// Gives the file and those before it the next number; the oldest goes.
    fn rotate(&mut self) -> Result<()> {
        self.current = None;
        let Settings { path, count, .. } = &self.settings;
        let oldest = count.saturating_sub(1);
        if oldest == 0 {
            return fs::remove_file(path)
                .with_context(|| format!("removing {}, which is full", path.display()));
        }
        for number in (0..oldest).rev() {
            let (from, to) = (numbered(path, number), numbered(path, number + 1));
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != ErrorKind::NotFound || number == 0 => {
                    return Err(error).with_context(|| {
                        format!("renaming {} to {}", from.display(), to.display())
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Current {
    fn open(path: &Path) -> Result<Self> {
        let named = || format!("opening {}", path.display());
        let file = open(OpenOptions::new().read(true).append(true).create(true).mode(0o640), path)
            .map_err(explained)
            .with_context(named)?;
        regular(&file).with_context(named)?;
        is_ours(&file).with_context(named)?;
        let whole = whole_length(&file).with_context(named)?;
        if whole < file.metadata().with_context(named)?.len() {
            tracing::warn!(
                "--export-file: {} ends in a record that was cut, which is removed",
                path.display()
            );
            file.set_len(whole).with_context(named)?;
        }
        Ok(Self { file, length: whole })
    }
}

/// Opens a file that is no link, so that nobody who may write beside it sends records elsewhere. It waits for nobody who
/// would read a pipe.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

fn explained(error: io::Error) -> Error {
    if error.raw_os_error() == Some(libc::ELOOP) {
        return Error::text("this is a symbolic link; name the file that it leads to");
    }
    error.into()
}

fn regular(file: &File) -> Result<()> {
    if file.metadata()?.is_file() { Ok(()) } else { Err(Error::text("this is no file")) }
}

/// Refuses a file that something else has written: it would be appended to, and rotated away.
fn is_ours(file: &File) -> Result<()> {
    let mut begin = [0; BEGIN.len()];
    let mut length = 0;
    while length < begin.len() {
        match file.read_at(&mut begin[length..], length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    if BEGIN.starts_with(&begin[..length]) {
        return Ok(());
    }
    Err(Error::text("its content is no exported records; name another file, or move it away"))
}

/// Bytes up to the end of the last whole line.
fn whole_length(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK];
    while end > 0 {
        let begin = end.saturating_sub(CHUNK as u64);
        // No more than a chunk.
        let length = usize::try_from(end - begin).unwrap_or(CHUNK);
        file.read_exact_at(&mut buffer[..length], begin)?;
        if let Some(at) = buffer[..length].iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// The name of a full file; 0 is the one that is written.
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// How each record begins.
const BEGIN: &[u8] = b"{\"v\":";

/// Records that are written at once.
const BATCH: usize = 512;

/// Bytes that are read at once.
const CHUNK: usize = 65_536;

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::atomic::Ordering, thread};

    use super::*;
    use crate::export::record::tests::{ended, origin};

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tracker-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).expect("a directory");
            Self(path)
        }

        fn settings(&self, most_bytes: u64, count: u32) -> Settings {
            Settings { path: self.0.join("records.jsonl"), most_bytes, count }
        }

        /// The zones of the records in the file with a number, and the file's length.
        fn read(&self, number: u32) -> (Vec<u16>, u64) {
            let path = numbered(&self.0.join("records.jsonl"), number);
            let Ok(text) = fs::read_to_string(path) else { return (Vec::new(), 0) };
            let zones = text
                .lines()
                .filter_map(|line| {
                    let record: ExportRecord = serde_json::from_str(line).expect("a record");
                    record.flow.map(|flow| flow.zone)
                })
                .collect();
            (zones, text.len() as u64)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn records(zones: std::ops::Range<u16>) -> Vec<Arc<ExportRecord>> {
        zones.map(|zone| Arc::new(origin().record(&ended(zone)).expect("an end is sent"))).collect()
    }

    /// Lets an exporter write these records from its start to its end.
    fn write(settings: &Settings, zones: std::ops::Range<u16>) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        let queue = Queue::new(Arc::clone(&counters));
        records(zones).into_iter().for_each(|record| queue.push(record));
        queue.close();
        run(settings.clone(), &queue, &origin());
        counters
    }

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let directory = Directory::new("export-rotation");
        let line = records(1000..1001)[0].to_line().expect("JSON").len() as u64;
        let settings = directory.settings(4 * line, 3);
        let counters = write(&settings, 1000..1014);
        assert_eq!(counters.sent.load(Ordering::Relaxed), 14);
        assert_eq!(counters.sent_bytes.load(Ordering::Relaxed), 14 * line);
        assert_eq!(directory.read(0), (vec![1012, 1013], 2 * line));
        assert_eq!(directory.read(1).0, [1008, 1009, 1010, 1011]);
        assert_eq!(directory.read(2).0, [1004, 1005, 1006, 1007]);
        assert!(!numbered(&settings.path, 3).exists());
        // What comes later continues.
        write(&settings, 1014..1017);
        assert_eq!(directory.read(0).0, [1016]);
        assert_eq!(directory.read(1).0, [1012, 1013, 1014, 1015]);
        // A record that is larger than a file has one of its own; and one file is none beside it.
        write(&Settings { most_bytes: 1, count: 1, ..settings }, 1020..1022);
        assert_eq!(directory.read(0).0, [1021]);
    }

    #[test]
    fn a_record_that_was_cut_is_removed() {
        let directory = Directory::new("export-cut");
        let settings = directory.settings(1 << 20, 2);
        write(&settings, 1..4);
        let whole = fs::read(&settings.path).expect("it is there");
        for cut in [1, 2, 100, whole.len() / 3] {
            fs::write(&settings.path, &whole[..whole.len() - cut]).expect("it can be written");
            write(&settings, 4..6);
            assert_eq!(directory.read(0).0, [1, 2, 4, 5], "{cut}");
        }
        // Nothing is left of one that was alone; and of a begin only.
        for begin in [&whole[..40], &whole[..3], &[]] {
            fs::write(&settings.path, begin).expect("it can be written");
            write(&settings, 4..6);
            assert_eq!(directory.read(0).0, [4, 5]);
        }
    }

    #[test]
    fn what_is_no_file_of_records_is_refused() {
        let directory = Directory::new("export-refused");
        let (path, of_others) = (directory.0.join("a"), directory.0.join("b"));
        assert!(check(&path).is_ok());
        fs::write(&of_others, "root:x:0:0\n").expect("a file");
        symlink(&of_others, directory.0.join("c")).expect("a link");
        for (name, said) in [
            ("b", "no exported records"),
            ("c", "symbolic link"),
            ("", "no file"),
            ("d/e", "no directory"),
        ] {
            let error = format!("{:#}", check(&directory.0.join(name)).expect_err("refused"));
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let directory = Directory::new("export-moved");
        let settings = directory.settings(1 << 20, 2);
        let mut writer = Writer { settings: settings.clone(), current: None };
        let counters = Counters::default();
        let mut write = |zones| {
            assert!(writer.write(&records(zones), &counters).is_ok());
        };
        write(1..2);
        fs::rename(&settings.path, directory.0.join("moved")).expect("it is there");
        write(2..3);
        fs::remove_file(&settings.path).expect("it is there");
        write(3..4);
        assert_eq!(directory.read(0).0, [3]);
    }

    #[test]
    fn what_was_lost_is_said_once_there_is_room() {
        let directory = Directory::new("export-lost");
        let settings = directory.settings(1 << 20, 2);
        let counters = Arc::new(Counters::default());
        counters.lost(5);
        let queue = Queue::new(Arc::clone(&counters));
        records(1..3).into_iter().for_each(|record| queue.push(record));
        queue.close();
        run(settings.clone(), &queue, &origin());
        let text = fs::read_to_string(&settings.path).expect("it is there");
        let all: Vec<ExportRecord> =
            text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
        assert_eq!((all.len(), all[0].lost, all[0].stage.as_deref()), (3, Some(5), Some("export")));
    }

    #[test]
    fn what_cannot_be_written_waits_until_the_end() {
        let directory = Directory::new("export-waits");
        // A directory stands where the file should be.
        let settings = directory.settings(1 << 20, 2);
        fs::create_dir(&settings.path).expect("a directory");
        let counters = Arc::new(Counters::default());
        let queue = Arc::new(Queue::new(Arc::clone(&counters)));
        let writing = {
            let (settings, queue) = (settings.clone(), Arc::clone(&queue));
            thread::spawn(move || run(settings, &queue, &origin()))
        };
        records(1..4).into_iter().for_each(|record| queue.push(record));
        while counters.failures.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        fs::remove_dir(&settings.path).expect("it is empty");
        while counters.sent.load(Ordering::Relaxed) < 3 {
            thread::yield_now();
        }
        assert_eq!(directory.read(0).0, [1, 2, 3]);
        fs::remove_file(&settings.path).expect("it is there");
        fs::create_dir(&settings.path).expect("a directory");
        let failures = counters.failures.load(Ordering::Relaxed);
        records(4..6).into_iter().for_each(|record| queue.push(record));
        while counters.failures.load(Ordering::Relaxed) == failures {
            thread::yield_now();
        }
        queue.close();
        writing.join().expect("it ends");
        assert_eq!(counters.lost.load(Ordering::Relaxed), 2);
    }
}
