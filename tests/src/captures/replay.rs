//! `tracker replay` of one capture, and what it said.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    num::NonZero,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Error, Result, ensure};
use serde_json::Value;
use tracker_common::violation::Rule;

use crate::{agent::tracker, captures::corpus};

/// Everything that a replay says about a capture.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The whole document.
    pub document: Value,
    /// Its connections, in the order of their first packets.
    pub connections: Vec<Connection>,
    /// Packets at which each rule was reported; of what a sweep has found, the first packet of the connection.
    pub reported: BTreeMap<&'static str, Vec<u64>>,
    /// Flags of the packets that a violation was reported at, as their names.
    pub flags: BTreeMap<u64, String>,
}

/// One connection, and its segments.
#[derive(Clone, Debug)]
pub struct Connection {
    /// As `tracker flows` shows it.
    pub record: Value,
    /// Those that were credited to it.
    pub segments: Vec<Seen>,
}

/// One segment of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Its number in the capture, from 1.
    pub packet: u64,
    /// The capture's clock, nanoseconds.
    pub time_ns: u64,
    /// The originator sent it.
    pub from_originator: bool,
    /// Names of its flags.
    pub flags: Vec<String>,
    /// Window field.
    pub window: u64,
    /// Both ends' states before it, the originator's first.
    pub before: [String; 2],
    /// And after it.
    pub after: [String; 2],
}

impl Seen {
    /// Whether it has this flag.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|name| name == flag)
    }
}

impl Replay {
    /// Packets by fate.
    #[must_use]
    pub fn packets(&self) -> BTreeMap<String, u64> {
        let packets = self.document["packets"].as_object().into_iter().flatten();
        packets.map(|(fate, count)| (fate.clone(), count.as_u64().unwrap_or_default())).collect()
    }

    /// How often a rule was broken.
    #[must_use]
    pub fn count(&self, rule: Rule) -> u64 {
        self.document["violations"][rule.name()].as_u64().unwrap_or_default()
    }

    /// Packets at which `rule` was reported.
    #[must_use]
    pub fn at(&self, rule: Rule) -> &[u64] {
        self.reported.get(rule.name()).map_or(&[], Vec::as_slice)
    }

    /// The connection that packet `number` was credited to, and the segment.
    #[must_use]
    pub fn segment(&self, number: u64) -> Option<(&Connection, &Seen)> {
        self.connections.iter().find_map(|connection| {
            let seen = connection.segments.iter().find(|seen| seen.packet == number)?;
            Some((connection, seen))
        })
    }
}

/// A capture, and whether packets with a wrong checksum are left out.
type Key = (String, bool);
type Slot = Arc<OnceLock<Result<Arc<Replay>, String>>>;
static KNOWN: Mutex<BTreeMap<Key, Slot>> = Mutex::new(BTreeMap::new());

/// Replays a capture of [`corpus::directory`], once for all tests of a process. With `verify`, packets with a wrong
/// checksum are left out.
///
/// # Errors
///
/// Where `tracker replay` fails.
pub fn replayed(path: &str, verify: bool) -> Result<Arc<Replay>> {
    let slot = KNOWN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry((path.to_owned(), verify))
        .or_default()
        .clone();
    let replay = || replay(&corpus::directory().join(path), verify);
    let known = slot.get_or_init(|| replay().map(Arc::new).map_err(|error| format!("{error:#}")));
    known.clone().map_err(Error::msg)
}

/// Replays many, on all processors: most of the time goes into loading the programs. What fails fails again where it is
/// asked for.
pub fn replay_all(wanted: &BTreeSet<(String, bool)>) {
    let wanted: Vec<_> = wanted.iter().collect();
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((path, verify)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _ = replayed(path, *verify);
                }
            });
        }
    });
}

/// Replays a file.
///
/// # Errors
///
/// Where `tracker replay` fails, or says something that makes no sense.
pub fn replay(file: &Path, verify: bool) -> Result<Replay> {
    let mut command = command()?;
    if verify {
        command.arg("--verify-checksums");
    }
    let output = command.arg(file).output()?;
    understand(&output).with_context(|| file.display().to_string())
}

/// Replays a capture that is not in a file.
///
/// # Errors
///
/// As [`replay`].
pub fn replay_bytes(capture: &[u8]) -> Result<Replay> {
    let mut child = command()?
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Nothing is written to the pipes before all of this is read, or so little that it fits.
    child.stdin.take().context("stdin is a pipe")?.write_all(capture)?;
    understand(&child.wait_with_output()?)
}

fn command() -> Result<Command> {
    let mut command = Command::new(tracker()?);
    command.args(["replay", "-o", "json", "-e", "segment,violation", "--every"]);
    command.args(["--report", "violation,minor,information"]);
    Ok(command)
}

fn understand(output: &Output) -> Result<Replay> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tracker replay: {stderr}");
    let document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(document["reports_lost"] == 0, "reports were lost");
    take_apart(document)
}

fn take_apart(document: Value) -> Result<Replay> {
    let mut connections: Vec<Connection> = list(&document["flows"])?
        .iter()
        .map(|record| Connection { record: record.clone(), segments: Vec::new() })
        .collect();
    let mut reported: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
    let mut flags = BTreeMap::new();
    for event in list(&document["events"])? {
        if event["event"] == "VIOLATION" {
            let name = text(&event["violation"]["name"])?;
            let rule = Rule::from_name(&name).with_context(|| name.clone())?;
            let packet = if event.get("segment").is_none() {
                let connection = connection(&mut connections, &event["flow"])?;
                connection.segments.first().context("a connection without segments")?.packet
            } else {
                let packet = number(&event["packet"])?;
                flags.insert(packet, text(&event["segment"]["flags"])?);
                packet
            };
            reported.entry(rule.name()).or_default().push(packet);
        } else {
            let segment = seen(event)?;
            connection(&mut connections, &event["flow"])?.segments.push(segment);
        }
    }
    Ok(Replay { document, connections, reported, flags })
}

/// The connection that `flow` is about.
fn connection<'a>(connections: &'a mut [Connection], flow: &Value) -> Result<&'a mut Connection> {
    let ends = ["src", "sport", "dst", "dport", "created_ns"];
    connections
        .iter_mut()
        .find(|connection| ends.iter().all(|end| connection.record[*end] == flow[*end]))
        .with_context(|| format!("no connection for {flow}"))
}

fn seen(event: &Value) -> Result<Seen> {
    let segment = &event["segment"];
    let states = |when: &str| -> Result<[String; 2]> {
        let states = &event["states"][when];
        Ok([text(&states["orig"])?, text(&states["reply"])?])
    };
    Ok(Seen {
        packet: number(&event["packet"])?,
        time_ns: number(&event["time_ns"])?,
        from_originator: segment["direction"] == "orig",
        flags: text(&segment["flags"])?.split(',').map(ToOwned::to_owned).collect(),
        window: number(&segment["window"])?,
        before: states("before")?,
        after: states("after")?,
    })
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("no list: {value}"))
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("no number: {value}"))
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("no text: {value}"))?.to_owned())
}
