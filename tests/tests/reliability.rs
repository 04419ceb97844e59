//! An agent goes on, and ends when it is asked to, whatever becomes of what it writes.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{net::UnixDatagram, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use nix::{
    pty::openpty,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tracker_tests::{
    agent::{PATIENCE, eventually, receive, run_tracker, tracker},
    lab::{INTERFACE, Pair},
    segment::{
        Segment,
        flag::{FIN, SYN},
    },
    wire::Wire,
};

/// More than a pipe and the agent's queue hold.
const MANY: u32 = 20_000;

static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// An agent that nobody reads, unless a test does.
struct Unread {
    name: String,
    directory: PathBuf,
    child: Child,
}

impl Unread {
    /// Starts one, and waits until it says to its service manager that it is ready.
    fn start(pair: &Pair, arguments: &[&str], out: OwnedFd, err: OwnedFd) -> Result<Self> {
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let name = format!("reliability-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(format!("tracker-{name}"));
        fs::create_dir(&directory)?;
        let notify = directory.join("notify");
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(PATIENCE))?;
        let child = pair
            .host
            .command(tracker()?.to_str().context("a path of UTF-8")?)
            .args(["--instance", &name, "run", "--interface", INTERFACE])
            .args(["--every", "--report-rate", "0"])
            .args(arguments)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()?;
        let agent = Self { name, directory, child };
        let mut said = [0; 64];
        let length = receive(&ready, &mut said).context("it was never ready")?;
        ensure!(said[..length].starts_with(b"READY=1"));
        Ok(agent)
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let (out, said, status) =
            run_tracker(&[&["--instance", &self.name], arguments].concat(), None)?;
        ensure!(status.success(), "{said}");
        Ok(out)
    }

    /// Breaches that were counted, each of [`breach`].
    fn counted(&self) -> Result<u64> {
        let stats: Value = serde_json::from_str(&self.ask(&["stats", "-o", "json"])?)?;
        stats["violations"]["syn_fin"]["in"].as_u64().context("a count")
    }

    /// Asks it to end, and waits until it has.
    fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)?;
        Ok(self.child.wait()?)
    }

    fn wait(mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
            let _ = self.ask(&["detach"]);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Packets that each break a rule arrive at the agent's interface.
fn breach(pair: &Pair, count: u32) -> Result<()> {
    let wire = Wire::open(&pair.peer, INTERFACE)?;
    let (client, server) = (([192, 0, 2, 1], 1000).into(), ([192, 0, 2, 2], 80).into());
    let frame = Segment::new(client, server, SYN | FIN, 1, 0).frame();
    (0..count).try_for_each(|_| wire.send(&frame))
}

/// One value of a metric.
fn metric(pair: &Pair, series: &str) -> Result<u64> {
    let at = SocketAddr::from(([127, 0, 0, 1], 9469));
    let mut stream = pair.host.enter(|| Ok(TcpStream::connect(at)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let line = answer.lines().find_map(|line| line.strip_prefix(series));
    line.with_context(|| format!("no {series}: {answer}"))?.trim().parse().context("a number")
}

const LOST: &str = "tracker_reports_lost_total{stage=\"output\"}";

fn null() -> Result<OwnedFd> {
    Ok(File::options().write(true).open("/dev/null")?.into())
}

fn full() -> Result<OwnedFd> {
    Ok(File::options().write(true).open("/dev/full")?.into())
}

#[test]
fn a_reader_that_stalls_stops_nothing_and_is_told_what_it_missed() -> Result<()> {
    for (form, signal) in [("jsonl", Signal::SIGTERM), ("text", Signal::SIGINT)] {
        let pair = Pair::silent()?;
        let (reader, writer) = io::pipe()?;
        let (out, err) = if form == "jsonl" {
            (writer.into(), null()?)
        } else {
            (null()?, OwnedFd::from(writer))
        };
        let agent = Unread::start(&pair, &["--metrics", "-o", form], out, err)?;
        breach(&pair, MANY)?;
        eventually("all are counted", || Ok(agent.counted()? == u64::from(MANY)))?;
        eventually("some are lost, and counted", || Ok(metric(&pair, LOST)? > 0))?;
        // Now it is read: what is missing is said.
        let (mut seen, mut lost) = (0, 0);
        let mut lines = BufReader::new(reader).lines();
        while seen + lost < u64::from(MANY) {
            let line = lines.next().context("the output ended")??;
            if form == "jsonl" {
                let event: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
                seen += u64::from(event["event"] == "VIOLATION");
                if event["event"] == "LOST" {
                    lost += event["lost"].as_u64().context("a count")?;
                }
            } else if line.contains("[VIOLATION]") {
                seen += 1;
            } else if let Some((before, _)) = line.split_once(" reports were lost") {
                let count = before.rsplit(' ').next().context("a count")?;
                lost += count.parse::<u64>().with_context(|| line.clone())?;
            }
        }
        ensure!(lost > 0 && seen + lost == u64::from(MANY), "{seen} seen, {lost} lost");
        // It stalls again, and the agent ends all the same.
        breach(&pair, MANY)?;
        eventually("some are lost again", || Ok(metric(&pair, LOST)? > lost))?;
        ensure!(agent.stop(signal)?.success());
        drop(lines);
    }
    Ok(())
}

#[test]
fn a_terminal_that_is_stopped_stops_nothing() -> Result<()> {
    let pair = Pair::silent()?;
    let pty = openpty(None, None)?;
    let slave = pty.slave;
    let agent = Unread::start(&pair, &["--metrics"], slave.try_clone()?, slave)?;
    // Ctrl-S. Nobody reads, either.
    File::from(pty.master.try_clone()?).write_all(b"\x13")?;
    breach(&pair, MANY)?;
    eventually("all are counted", || Ok(agent.counted()? == u64::from(MANY)))?;
    eventually("some are lost, and counted", || Ok(metric(&pair, LOST)? > 0))?;
    ensure!(agent.stop(Signal::SIGTERM)?.success());
    Ok(())
}

#[test]
fn an_output_that_is_closed_or_full_stops_nothing() -> Result<()> {
    let (reader, closed) = io::pipe()?;
    drop(reader);
    let pair = Pair::silent()?;
    for out in [closed.into(), full()?] {
        let (log, err) = io::pipe()?;
        let agent = Unread::start(&pair, &["--metrics", "-o", "jsonl"], out, err.into())?;
        breach(&pair, 5)?;
        eventually("all are lost, and counted", || Ok(metric(&pair, LOST)? == 5))?;
        let mut lines = BufReader::new(log).lines();
        let said = lines.find_map(|line| line.ok().filter(|line| line.contains("ERROR")));
        let said = said.context("nothing was said")?;
        ensure!(said.contains("stdout cannot be written"), "{said}");
        ensure!(said.contains("--on-output-error"), "{said}");
        breach(&pair, 5)?;
        eventually("tracking goes on", || Ok(agent.counted()? == 10))?;
        ensure!(agent.stop(Signal::SIGTERM)?.success());
    }
    // The log likewise, which is where nothing can be said.
    let agent = Unread::start(&pair, &["--metrics"], full()?, full()?)?;
    breach(&pair, 5)?;
    eventually("all are lost, and counted", || Ok(metric(&pair, LOST)? == 5))?;
    ensure!(agent.stop(Signal::SIGTERM)?.success());
    Ok(())
}

#[test]
fn an_output_that_fails_ends_an_agent_that_is_to_end() -> Result<()> {
    let pair = Pair::silent()?;
    let (reader, closed) = io::pipe()?;
    drop(reader);
    let exit = ["--on-output-error", "exit", "-o", "jsonl"];
    for (out, why) in [(closed.into(), "Broken pipe"), (full()?, "No space left on device")] {
        let (mut log, err) = io::pipe()?;
        let agent = Unread::start(&pair, &exit, out, err.into())?;
        breach(&pair, 1)?;
        let status = agent.wait()?;
        let mut said = String::new();
        log.read_to_string(&mut said)?;
        ensure!(status.code() == Some(1), "{status}: {said}");
        ensure!(said.contains(&format!("writing to stdout: {why}")), "{said}");
        let left = pair.host.run("ip", &["-details", "link", "show", INTERFACE])?;
        ensure!(!left.contains("xdp"), "{left}");
    }
    // Nothing can be said here, and nothing waits for it.
    let agent = Unread::start(&pair, &exit[..2], full()?, full()?)?;
    let status = agent.wait()?;
    ensure!(status.code() == Some(1) && status.signal().is_none(), "{status}");
    // A reader that only stalls is no error.
    let (reader, stalled) = io::pipe()?;
    let agent =
        Unread::start(&pair, &[&exit[..], &["--metrics"]].concat(), stalled.into(), null()?)?;
    breach(&pair, MANY)?;
    eventually("some are lost, and counted", || Ok(metric(&pair, LOST)? > 0))?;
    ensure!(agent.stop(Signal::SIGTERM)?.success());
    drop(reader);
    Ok(())
}
