//! Clients of the agent's socket that are many, slow, silent, wrong or stopped: each costs a bounded amount, and the agent goes on.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::SocketAddr,
    os::unix::net::{UnixListener, UnixStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{SigHandler, Signal, kill, signal},
    unistd::Pid,
};
use serde_json::{Value, json};
use tracker_tests::{
    agent::{Agent, PATIENCE, eventually, tracker},
    fault::memory,
    lab::{Bench, Connection, INTERFACE, Pair},
    segment::{
        Segment,
        flag::{FIN, SYN},
    },
    wire::Wire,
};

const EVENTS: &str = "{\"v\":1,\"events\":[\"NEW\",\"VIOLATION\"]}\n";

fn connect(agent: &Agent) -> Result<UnixStream> {
    let stream = UnixStream::connect(format!("/run/tracker/{}.sock", agent.name()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The first line that the agent answers; `Null` where it has hung up.
fn answer(stream: &UnixStream) -> Result<Value> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&line)?) }
}

fn ask(agent: &Agent, request: &str) -> Result<(UnixStream, Value)> {
    let mut stream = connect(agent)?;
    // It may hang up before it has read all of it.
    let _ = stream.write_all(request.as_bytes());
    let said = answer(&stream)?;
    Ok((stream, said))
}

fn listens(agent: &Agent) -> Result<UnixStream> {
    let (stream, said) = ask(agent, EVENTS)?;
    ensure!(said["event"] == "LISTENING", "{said}");
    Ok(stream)
}

/// Connects as another user, who is of the group that may.
fn as_user<T: Send>(user: u32, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // SAFETY: takes numbers only. Not the library's function, which changes all threads.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
            ensure!(result == 0, "changing the user: {}", std::io::Error::last_os_error());
            work()
        });
        worker.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    })
}

#[test]
fn whatever_is_asked_is_answered() -> Result<()> {
    let bench = Bench::new()?;
    // It never asks, and learns that it should have in the end.
    let silent = connect(&bench.agent)?;
    for (request, part) in [
        ("nonsense\n", "one line of JSON"),
        ("\"x\"\n", "without a version"),
        ("{}\n", "without a version"),
        ("{\"v\":2,\"events\":[]}\n", "version 1, and not of version 2"),
        ("{\"v\":1,\"everything\":true}\n", "there are `events`, `lend` and `delete`"),
        ("{\"v\":1,\"lend\":false}\n", "there are `events`, `lend` and `delete`"),
        ("{\"v\":1,\"events\":7}\n", "known form"),
        ("{\"v\":1,\"delete\":\"no such words\"}\n", "no"),
    ] {
        let (_, said) = ask(&bench.agent, request)?;
        let error = said["error"].as_str().with_context(|| format!("{request}: {said}"))?;
        ensure!(said["v"] == 1 && error.contains(part), "{request}: {said}");
    }
    let (_, said) = ask(&bench.agent, "{\"v\":1,\"events\":[\"NEW\"]}")
        .and_then(|_| ask(&bench.agent, EVENTS))?;
    ensure!(said["event"] == "LISTENING", "{said}");
    let said = answer(&silent)?;
    ensure!(said["error"].as_str().is_some_and(|error| error.contains("within 10 s")), "{said}");
    Ok(())
}

#[test]
fn a_line_without_an_end_takes_no_memory() -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let bench = Bench::new()?;
    let before = memory(bench.agent.pid(), "VmHWM")?;
    let mut stream = connect(&bench.agent)?;
    let chunk = vec![b'{'; CHUNK];
    let sent = (0..400).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    ensure!(sent < 400, "it takes all of it");
    let said = answer(&stream)?;
    ensure!(said["error"].as_str().is_some_and(|error| error.contains("65536 bytes")), "{said}");
    // Nor does one that listens, and goes on to speak.
    let mut listener = listens(&bench.agent)?;
    let sent = (0..400).take_while(|_| listener.write_all(&chunk).is_ok()).count();
    ensure!(sent < 400, "it takes all of it");
    let after = memory(bench.agent.pid(), "VmHWM")?;
    ensure!(after < before + 32 * 1024, "{before} KiB, then {after} KiB");
    Connection::inbound(&bench).handshake()?;
    ensure!(bench.states()? == "ESTABLISHED/ESTABLISHED");
    Ok(())
}

#[test]
fn no_user_takes_all_places() -> Result<()> {
    const LEND: &str = "{\"v\":1,\"lend\":true}\n";
    let bench = Bench::new()?;
    let agent = &bench.agent;
    // They ask for maps, take none of them, and stay; another one is refused.
    let (held, said) = as_user(65_534, || {
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut stream = connect(agent)?;
            stream.write_all(LEND.as_bytes())?;
            held.push(stream);
        }
        let mut last = Value::Null;
        eventually("a further one is refused", || {
            last = ask(agent, EVENTS)?.1;
            Ok(last["event"] != "LISTENING")
        })?;
        Ok((held, last))
    })?;
    ensure!(said["error"].as_str().is_some_and(|error| error.contains("one user")), "{said}");
    // Others are not.
    as_user(65_533, || listens(agent).map(drop))?;
    drop(listens(agent)?);
    ensure!(agent.flows(&[])?.is_empty());
    drop(held);
    as_user(65_534, || {
        eventually(
            "what was given up is free",
            || Ok(ask(agent, EVENTS)?.1["event"] == "LISTENING"),
        )
    })
}

#[test]
fn descriptors_that_run_out_end_nothing() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--sweep-interval", "0.05"])?;
    let pid = agent.pid().to_string();
    let limit = |files: usize| -> Result<()> {
        let limits = format!("--nofile={files}:");
        let status = Command::new("prlimit").args(["--pid", &pid, &limits]).status()?;
        ensure!(status.success(), "prlimit, of util-linux");
        Ok(())
    };
    // It has all that it needs to sweep; but each sweep opens something.
    agent.wait_for_log("took_us=")?;
    limit(8)?;
    agent.wait_for_log("sweeping:")?;
    let numbers = fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<usize>().ok());
    let highest = numbers.max().context("it has some open")?;
    limit(highest + 4)?;
    // Some are served, and others turned away: lower numbers may be free, but not so many.
    let clients: Vec<_> = (0..200).map(|_| connect(&agent)).collect::<Result<_>>()?;
    agent.wait_for_log("Clients are turned away")?;
    let mut turned_away = 0;
    for mut client in &clients {
        let _ = client.write_all(EVENTS.as_bytes());
        let said = answer(client).unwrap_or_default();
        turned_away += usize::from(said["event"] != "LISTENING");
    }
    ensure!(turned_away > 0, "there were enough for all");
    limit(1024)?;
    drop(clients);
    agent.wait_for_log("sweeping works again")?;
    drop(listens(&agent)?);
    agent.finish()?;
    Ok(())
}

#[test]
fn listeners_that_do_not_read_take_a_bounded_amount() -> Result<()> {
    let bench = Bench::with(&["--events", "cookie"])?;
    let before = memory(bench.agent.pid(), "VmHWM")?;
    let stopped = (0..20).map(|_| listens(&bench.agent)).collect::<Result<Vec<_>>>()?;
    let wire = Wire::open(&bench.pair.peer, INTERFACE)?;
    let (client, server) = (([192, 0, 2, 1], 1000).into(), ([192, 0, 2, 2], 80).into());
    let frame = Segment::new(client, server, SYN | FIN, 1, 0).frame();
    for number in 100..110 {
        (0..10_000).try_for_each(|_| wire.send(&frame))?;
        // Once this has come, the ring buffer has room for the next ones.
        let last = SocketAddr::from(([192, 0, 2, number], 1));
        wire.send(&Segment::new(last, server, SYN | FIN, 1, 0).frame())?;
        let last = last.ip().to_string();
        bench.events.wait(|event| event["segment"]["src"] == last.as_str())?;
    }
    // All of them together are behind by what one may be.
    let after = memory(bench.agent.pid(), "VmHWM")?;
    ensure!(after < before + 160 * 1024, "{before} KiB, then {after} KiB");
    // One that reads again learns what it missed.
    let mut lines = BufReader::new(&stopped[0]).lines();
    let lost = lines.find_map(|line| {
        let event: Value = serde_json::from_str(&line.ok()?).ok()?;
        (event["event"] == "LOST").then(|| event["stage"].clone())
    });
    ensure!(lost == Some(json!("listener")), "{lost:?}");
    Ok(())
}

/// Something that is taken for an agent, and does what a test says.
struct Fake {
    directory: PathBuf,
    listener: UnixListener,
}

impl Fake {
    fn new(name: &str) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("tracker-{name}-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let listener = UnixListener::bind(directory.join("fake.sock"))?;
        Ok(Self { directory, listener })
    }

    /// Starts a command, and waits until it has asked.
    fn asked_by(&self, verb: &[&str]) -> Result<(Child, UnixStream)> {
        let mut command = Command::new(tracker()?);
        // Whoever runs the tests in the background may have them ignore SIGINT.
        let listens = || {
            // SAFETY: no function of this program's is called by the signal.
            unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }?;
            Ok(())
        };
        // SAFETY: this is one system call.
        unsafe { command.pre_exec(listens) };
        let child = command
            .args(["--run-dir", self.directory.to_str().context("a path of UTF-8")?])
            .args(["--instance", "fake"])
            .args(verb)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stream, _) = self.listener.accept()?;
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request)?;
        ensure!(request.ends_with('\n'), "{request}");
        Ok((child, stream))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

const VERBS: [&[&str]; 4] = [
    &["events", "-o", "jsonl"],
    &["trace", "--all", "-o", "jsonl"],
    &["delete", "dport 80"],
    &["flush"],
];

#[test]
fn clients_end_when_they_are_asked_to_before_the_agent_has_answered() -> Result<()> {
    let fake = Fake::new("unanswered")?;
    for verb in VERBS {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let (mut child, stream) = fake.asked_by(verb)?;
            kill(Pid::from_raw(child.id().cast_signed()), signal)?;
            child.wait()?;
            drop(stream);
        }
    }
    Ok(())
}

#[test]
fn clients_end_when_they_are_asked_to_while_nobody_reads_them() -> Result<()> {
    let fake = Fake::new("unread")?;
    for verb in &VERBS[..2] {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let (mut child, mut stream) = fake.asked_by(verb)?;
            stream.write_all(b"{\"v\":1,\"event\":\"LISTENING\"}\n")?;
            let event = json!({
                "v": 1, "event": "LOST", "time": "2026-01-01T00:00:00Z", "time_ns": 1, "lost": 1,
            });
            let lines = format!("{event}\n").repeat(1000);
            // Once it is held up, it takes no more.
            stream.set_write_timeout(Some(Duration::from_millis(500)))?;
            let error = loop {
                if let Err(error) = stream.write_all(lines.as_bytes()) {
                    break error;
                }
            };
            ensure!(error.kind() == ErrorKind::WouldBlock, "{error}");
            kill(Pid::from_raw(child.id().cast_signed()), signal)?;
            child.wait()?;
        }
    }
    Ok(())
}

#[test]
fn clients_say_what_the_agent_answers() -> Result<()> {
    let fake = Fake::new("refusing")?;
    for verb in VERBS {
        let (mut child, mut stream) = fake.asked_by(verb)?;
        stream.write_all(b"{\"v\":1,\"error\":\"this is why\"}\n")?;
        let status = child.wait()?;
        let mut said = String::new();
        child.stderr.take().context("a pipe")?.read_to_string(&mut said)?;
        ensure!(status.code() == Some(1) && said.contains("this is why"), "{verb:?}: {said}");
        // And where it hangs up.
        let (mut child, stream) = fake.asked_by(verb)?;
        drop(stream);
        let status = child.wait()?;
        let mut said = String::new();
        child.stderr.take().context("a pipe")?.read_to_string(&mut said)?;
        ensure!(status.code() == Some(1) && said.contains("the agent"), "{verb:?}: {said}");
    }
    Ok(())
}
