//! Records that an agent exports, and where tests let it write them.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{Agent, eventually},
    lab::{Bench, Connection, INTERFACE, Pair},
    segment::{
        Segment,
        flag::{ACK, FIN, RST, SYN},
    },
    wire::Wire,
};

/// A directory of a test's own, perhaps with a file system of its own.
#[derive(Debug)]
pub struct Directory(PathBuf, Option<PathBuf>);

impl Directory {
    /// A new one.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(name: &str) -> Result<Self> {
        let path =
            std::env::temp_dir().join(format!("tracker-export-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path, None))
    }

    /// A path in it.
    ///
    /// # Errors
    ///
    /// Where that is no UTF-8.
    pub fn path(&self, name: &str) -> Result<String> {
        self.0.join(name).into_os_string().into_string().ok().context("a path of UTF-8")
    }

    /// Mounts a file system in memory of so many KiB on a directory in it, until this is dropped.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn mount(&mut self, name: &str, kib: u32) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path)?;
        let options = format!("size={kib}k,mode=755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .status()?;
        ensure!(mounted.success(), "mounting tmpfs on {}", path.display());
        self.1 = Some(path.clone());
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(mounted) = &self.1 {
            let _ = Command::new("umount").arg(mounted).status();
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The records of a file; none where it is not there yet.
///
/// # Errors
///
/// Where a line is none.
pub fn records(path: &str) -> Result<Vec<Value>> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(Vec::new()) };
    // The last line may be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Waits until a file has a record like this, and returns it.
///
/// # Errors
///
/// Where it never has.
pub fn wait_for(path: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = None;
    eventually(&format!("{path} has {what}"), || {
        found = records(path)?.into_iter().find(&is_it);
        Ok(found.is_some())
    })?;
    found.context("a record")
}

/// Whether a record is about this, and its connection has this source port.
pub fn is(about: &'static str, sport: u16) -> impl Fn(&Value) -> bool {
    move |record| record["about"] == about && record["sport"] == sport
}

/// Opens a connection that both ends close.
///
/// # Errors
///
/// What the kernel says.
pub fn closes(tcp: &Connection<'_>) -> Result<()> {
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))
}

/// Lets a connection close, one be reset, and one break a rule; returns the records of these three in the file.
///
/// # Errors
///
/// Where they are not there.
pub fn three_connections(bench: &Bench, file: &str) -> Result<Vec<Value>> {
    closes(&Connection::inbound(bench))?;
    let reset = Connection::inbound(bench).ipv6().from_port(40_001);
    reset.handshake()?;
    reset.s_sends(&reset.s(RST, 5001, 0))?;
    let broken = Connection::inbound(bench).from_port(40_002);
    broken.handshake()?;
    // It acknowledges what was never sent.
    broken.c_sends(&broken.c(ACK, 1001, 9001))?;
    broken.s_sends(&broken.s(RST, 5001, 0))?;
    for port in 40_000..40_003 {
        wait_for(file, "the connection's end", is("end", port))?;
    }
    records(file)
}

/// Lets SYNs from these ports of an address arrive, and deletes their flows, each of which has a record then.
///
/// # Errors
///
/// What the kernel says.
pub fn deleted_flows(
    source: [u8; 4],
    pair: &Pair,
    agent: &Agent,
    ports: std::ops::Range<u16>,
) -> Result<()> {
    let wire = Wire::open(&pair.peer, INTERFACE)?;
    let count = ports.len();
    for port in ports {
        let (client, server) = ((source, port).into(), ([192, 0, 2, 2], 80).into());
        wire.send(&Segment::new(client, server, SYN, 1, 0).frame())?;
    }
    eventually("all flows are there", || Ok(agent.flows(&[])?.len() == count))?;
    agent.ask(&["flush"])?;
    Ok(())
}

/// The metric of an exporter (`tracker_export_NAME`), of an agent with `--metrics` at its usual place in the pair's host.
///
/// # Errors
///
/// Where there is none.
pub fn metric(pair: &Pair, exporter: &str, name: &str) -> Result<u64> {
    let output = pair
        .host
        .command("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "http://127.0.0.1:9469/metrics"])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let series = format!("tracker_export_{name}{{exporter=\"{exporter}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    value.with_context(|| format!("no {series}: {text}"))?.parse().context("a number")
}

/// Options of an agent with which connections end soon after they were closed.
pub const AT_ONCE: [&str; 4] = ["--timeout-time-wait", "1", "--timeout-closed", "1"];
