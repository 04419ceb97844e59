//! Connections of files that `tracker run` has exported, or `tracker flows -o jsonl` printed: each as its last record has it.
//!
//! Only the places of records are kept. A record is read again when it is shown.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tracker_common::violation::Rule;

use crate::{
    cli::scratch,
    export::record::{About, VERSION},
    model::{failure::Failure, record::Record},
};

/// The connections of files.
pub(super) struct Recorded {
    files: Vec<(String, File)>,
    connections: Vec<Connection>,
}

/// Where the last record of a connection is.
struct Connection {
    file: u32,
    length: u32,
    offset: u64,
    time_ns: u64,
    /// A bit for each rule that any of its records reports as broken, by its place among all rules.
    rules: u128,
    has_ended: bool,
}

const _: () = assert!(Rule::ALL.len() <= 128, "a rule has a bit");

/// What of a record decides on its place.
#[derive(Deserialize)]
struct Head {
    v: u32,
    /// Absent in a line of `tracker flows`.
    about: Option<About>,
    id: Option<String>,
    #[serde(default)]
    time_ns: u64,
    violation: Option<Broken>,
    /// That of an event, which is no record.
    event: Option<String>,
}

#[derive(Deserialize)]
struct Broken {
    name: String,
}

impl Recorded {
    /// Reads files; `-` is stdin.
    ///
    /// # Errors
    ///
    /// Where one cannot be read, or has something else than records.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self { files: Vec::new(), connections: Vec::new() };
        let mut by_id = HashMap::new();
        for path in paths {
            let (name, file) = open(path)?;
            all.add(&name, &file, &mut by_id)?;
            all.files.push((name, file));
        }
        Ok(all)
    }

    fn add(&mut self, name: &str, file: &File, by_id: &mut HashMap<u128, usize>) -> Result<()> {
        let number = u32::try_from(self.files.len())?;
        let (mut reader, mut offset, mut line) = (BufReader::new(file), 0, Vec::new());
        for at in 1_u64.. {
            line.clear();
            let read = (&mut reader).take(LONGEST + 1).read_until(b'\n', &mut line);
            let length = read.with_context(|| format!("reading {name}"))?;
            if length == 0 {
                break;
            }
            if length as u64 > LONGEST {
                return Err(no_record(name, at, "it has too many bytes"));
            }
            let start = offset;
            offset += length as u64;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let head: Head = match serde_json::from_slice(&line) {
                Ok(head) => head,
                Err(_) if line.last() != Some(&b'\n') => {
                    let _ = writeln!(
                        io::stderr(),
                        "{name}: the last record is not whole, and left out"
                    );
                    break;
                }
                Err(error) => return Err(no_record(name, at, &error.to_string())),
            };
            if head.v > VERSION {
                let said = format!(
                    "{name}, line {at}: a record of version {}, and this `tracker` reads version {VERSION}: a newer one reads both",
                    head.v
                );
                return Err(Failure::BadInput(said).into());
            }
            if head.event.is_some() {
                let said = "an event; `tracker run --export-file FILE` writes records";
                return Err(no_record(name, at, said));
            }
            if matches!(head.about, Some(About::Cookie | About::Lost)) {
                continue;
            }
            // A breach of a segment that belongs to no connection.
            if head.about == Some(About::Violation) && head.id.is_none() {
                continue;
            }
            let place = Connection {
                file: number,
                length: u32::try_from(length)?,
                offset: start,
                time_ns: head.time_ns,
                rules: head.violation.map_or(0, |broken| bit(&broken.name)),
                has_ended: head.about == Some(About::End),
            };
            let id = match head.id.as_deref().map(|id| u128::from_str_radix(id, 16)) {
                Some(Ok(id)) => Some(id),
                Some(Err(_)) => return Err(no_record(name, at, "its `id` is none")),
                None => None,
            };
            self.place(place, id, by_id);
        }
        Ok(())
    }

    fn place(&mut self, new: Connection, id: Option<u128>, by_id: &mut HashMap<u128, usize>) {
        let next = self.connections.len();
        let at = id.map_or(next, |id| *by_id.entry(id).or_insert(next));
        match self.connections.get_mut(at) {
            None => self.connections.push(new),
            Some(known) => {
                let rules = known.rules | new.rules;
                // Files may come in any order, and a record more than once.
                if (new.has_ended, new.time_ns) >= (known.has_ended, known.time_ns) {
                    *known = new;
                }
                known.rules = rules;
            }
        }
    }

    /// How many connections there are.
    pub(super) fn len(&self) -> u64 {
        self.connections.len() as u64
    }

    /// The connection with a number below [`Recorded::len`].
    ///
    /// # Errors
    ///
    /// Where its record is none of a connection, or cannot be read again.
    pub(super) fn record(&self, number: u64) -> Result<Record> {
        let connection = usize::try_from(number).ok().and_then(|at| self.connections.get(at));
        let connection = connection.context("no such connection")?;
        let (name, file) = self.files.get(connection.file as usize).context("no such file")?;
        let mut line = vec![0; connection.length as usize];
        file.read_exact_at(&mut line, connection.offset)
            .with_context(|| format!("reading {name} again"))?;
        let mut record: Record = serde_json::from_slice(&line).map_err(|error| {
            let at = connection.offset;
            let said = format!("{name}: the record at byte {at} is of no connection: {error}");
            anyhow::Error::from(Failure::BadInput(said))
        })?;
        for rule in Rule::ALL.iter().filter(|rule| connection.rules & bit(rule.name()) != 0) {
            let broken = record.broken_rules.get_or_insert_default();
            broken.entry(rule.name().to_owned()).or_insert(1);
        }
        Ok(record)
    }
}

/// The bit of a rule; none of one that this version does not know.
fn bit(name: &str) -> u128 {
    Rule::ALL.iter().position(|rule| rule.name() == name).map_or(0, |at| 1 << at)
}

fn no_record(name: &str, line: u64, why: &str) -> anyhow::Error {
    let said = format!("{name}, line {line}: this is no record that `tracker run` exports: {why}");
    Failure::BadInput(said).into()
}

/// Opens a file that can be read again; what cannot be is copied to one without a name.
fn open(path: &Path) -> Result<(String, File)> {
    if path.as_os_str() == "-" {
        return Ok(("stdin".to_owned(), copied(&mut io::stdin().lock(), "stdin")?));
    }
    let name = path.display().to_string();
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .with_context(|| format!("opening {name}"))?;
    let about = file.metadata().with_context(|| format!("opening {name}"))?;
    if about.is_dir() {
        bail!(Failure::BadInput(format!("{name} is a directory; name the files in it")));
    }
    if about.is_file() {
        return Ok((name, file));
    }
    let copy = copied(&mut file, &name)?;
    Ok((name, copy))
}

fn copied(from: &mut impl Read, name: &str) -> Result<File> {
    let directory = scratch::directory();
    let mut file = scratch::file(&directory).with_context(|| {
        format!("a copy in {} (TMPDIR names another directory)", directory.display())
    })?;
    io::copy(from, &mut file)
        .with_context(|| format!("copying {name} to {}", directory.display()))?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// Bytes of a line at most.
const LONGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    struct Written(PathBuf);

    impl Written {
        fn new(name: &str, text: &str) -> Result<Self> {
            let path = std::env::temp_dir()
                .join(format!("tracker-recorded-{name}-{}", std::process::id()));
            std::fs::write(&path, text)?;
            Ok(Self(path))
        }
    }

    impl Drop for Written {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn end() -> String {
        let end = |state| {
            format!(
                "{{\"state\":\"{state}\",\"packets\":1,\"bytes\":40,\"isn\":1,\"seq\":1,\"ack\":1,\"window\":1,\"mss\":null,\
                 \"wscale\":null,\"sack\":true,\"timestamps\":true}}"
            )
        };
        format!("\"orig\":{},\"reply\":{}", end("CLOSED"), end("CLOSED"))
    }

    fn line(about: &str, id: &str, time_ns: u64, packets: u32, more: &str) -> String {
        format!(
            "{{\"v\":1,\"about\":\"{about}\",\"time_ns\":{time_ns},\"id\":\"{id}\",{more}\"family\":\"ipv4\",\"protocol\":\"tcp\",\
             \"src\":\"192.0.2.1\",\"dst\":\"192.0.2.2\",\"sport\":1,\"dport\":2,{},\"history\":\"S\",\"conn_state\":\"S0\",\
             \"seen\":\"in\",\"midstream\":false,\"violations\":{packets},\"interface\":\"eth0\",\"zone\":0,\"rtt_us\":null,\
             \"created\":\"2026-11-20T13:55:30Z\",\"created_ns\":5,\"timeout_s\":0}}\n",
            end()
        )
    }

    fn violations(recorded: &Recorded) -> Result<Vec<u32>> {
        (0..recorded.len()).map(|at| Ok(recorded.record(at)?.violations)).collect()
    }

    #[test]
    fn each_connection_as_its_last_record_has_it() -> Result<()> {
        let breach = "\"violation\":{\"name\":\"syn_fin\"},";
        let first = [
            line("end", "a", 50, 3, ""),
            line("update", "a", 60, 2, ""),
            line("violation", "b", 10, 7, breach),
            line("update", "b", 20, 8, ""),
            "\n{\"v\":1,\"about\":\"lost\",\"lost\":3}\n".to_owned(),
            "{\"v\":1,\"about\":\"violation\",\"time_ns\":3,\"violation\":{\"name\":\"xmas\"}}\n"
                .to_owned(),
        ];
        let second = [line("update", "b", 15, 9, ""), line("end", "c", 1, 4, "")];
        let (first, second) =
            (Written::new("first", &first.concat())?, Written::new("second", &second.concat())?);
        for paths in [[&first, &second], [&second, &first]] {
            let recorded = Recorded::read(&paths.map(|written| written.0.clone()))?;
            let mut found = violations(&recorded)?;
            found.sort_unstable();
            assert_eq!(found, [3, 4, 8]);
            let broken = (0..3).filter_map(|at| recorded.record(at).ok()?.broken_text());
            assert_eq!(broken.collect::<Vec<_>>(), ["syn_fin=1"]);
        }
        Ok(())
    }

    #[test]
    fn a_listing_of_flows_has_no_identities() -> Result<()> {
        let flow =
            line("end", "a", 1, 3, "").replace("\"about\":\"end\",\"time_ns\":1,\"id\":\"a\",", "");
        let written = Written::new("flows", &format!("{flow}{flow}"))?;
        assert_eq!(violations(&Recorded::read(std::slice::from_ref(&written.0))?)?, [3, 3]);
        Ok(())
    }

    #[test]
    fn a_record_that_is_not_whole_is_left_out_at_the_end_only() -> Result<()> {
        let whole = line("end", "a", 1, 3, "");
        let written = Written::new("cut", &format!("{whole}{}", &whole[..90]))?;
        assert_eq!(violations(&Recorded::read(std::slice::from_ref(&written.0))?)?, [3]);
        // Without its newline it is whole.
        let written = Written::new("whole", whole.trim_end())?;
        assert_eq!(violations(&Recorded::read(std::slice::from_ref(&written.0))?)?, [3]);
        for (text, said) in [
            (format!("{}\n{whole}", &whole[..90]), "line 1: this is no record"),
            (format!("{whole}{{\"v\":2}}\n"), "line 2: a record of version 2"),
            ("{\"v\":1,\"event\":\"NEW\"}\n".to_owned(), "an event"),
            ("hello\n".to_owned(), "line 1: this is no record"),
            (line("end", "nothing", 1, 1, ""), "`id`"),
            ("x".repeat(2 << 20), "too many bytes"),
        ] {
            let written = Written::new("wrong", &text)?;
            let error =
                Recorded::read(std::slice::from_ref(&written.0)).err().context("it is refused")?;
            let shown = format!("{error:#}");
            assert!(shown.contains(said) && shown.contains("tracker-recorded"), "{said}: {shown}");
        }
        // What a connection needs is looked for when it is shown.
        let written = Written::new("bare", "{\"v\":1,\"about\":\"end\",\"id\":\"a\"}\n")?;
        let recorded = Recorded::read(std::slice::from_ref(&written.0))?;
        let error = recorded.record(0).err().context("it is refused")?;
        assert!(format!("{error:#}").contains("the record at byte 0 is of no connection"));
        Ok(())
    }
}
