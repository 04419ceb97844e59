//! A running `tracker run`, and the other commands beside it.

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead, BufReader, Read},
    os::unix::{net::UnixDatagram, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{
    links::{FdLink, PinnedLink},
    loaded_links,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tracker_common::{
    LAYOUT_VERSION,
    violation::{Rule, Severity},
};

use crate::{namespace::Namespace, way_in::with_way_in};

/// How long anything that must happen is waited for. No test depends on how fast it does.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The command under test: `$TRACKER_BIN`, or `tracker` in the directory that this build went to.
///
/// # Errors
///
/// Where it is not there.
pub fn tracker() -> Result<PathBuf> {
    if let Some(path) = env::var_os("TRACKER_BIN") {
        return Ok(path.into());
    }
    let here = env::current_exe()?;
    let found = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("tracker"))
        .find(|path| path.is_file());
    found.context("there is no `tracker` beside this program: build it with `cargo build --package tracker-user`")
}

static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// An agent in a namespace, under a name of its own. Dropping it stops it, and removes what it has left if it was killed.
#[derive(Debug)]
pub struct Agent {
    name: String,
    child: Child,
    log: Mutex<Receiver<String>>,
    output: Option<JoinHandle<String>>,
    /// Whether somebody has asked it to end, and looks after what it leaves.
    is_stopped: bool,
}

/// What a killed agent has left. Dropping it removes that.
#[derive(Debug)]
pub struct Killed {
    name: String,
    /// What it wrote on stdout.
    pub output: String,
    is_taken_over: bool,
}

impl Killed {
    /// Starts the next agent of that name.
    ///
    /// # Errors
    ///
    /// As [`Agent::start`]; what was left is removed then.
    pub fn restart(mut self, namespace: &Namespace, arguments: &[&str]) -> Result<Agent> {
        let agent = Agent::start_as(self.name.clone(), namespace, arguments)?;
        self.is_taken_over = true;
        Ok(agent)
    }

    /// Its name, for `--instance`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `tracker ARGUMENTS` prints, which must not need an agent.
    ///
    /// # Errors
    ///
    /// As [`Agent::ask`].
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        ask(&self.name, arguments)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if !self.is_taken_over {
            detach(&self.name);
        }
    }
}

/// The directory of an agent's pins, of this version's layout.
#[must_use]
pub fn pins(name: &str) -> PathBuf {
    format!("/sys/fs/bpf/tracker/v{LAYOUT_VERSION}/{name}").into()
}

/// Removes what an agent has left, as far as that is possible.
fn detach(name: &str) {
    if let Err(error) = ask(name, &["detach"]) {
        eprintln!("{error:#}");
    }
}

/// What `tracker --instance NAME ARGUMENTS` prints.
fn ask(name: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(tracker()?).args(["--instance", name]).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "tracker {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

impl Agent {
    /// Starts `tracker run` with `arguments` inside `namespace`, and waits until it is attached.
    ///
    /// # Errors
    ///
    /// Where it ends instead; the message holds what it said.
    pub fn start(namespace: &Namespace, arguments: &[&str]) -> Result<Self> {
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        Self::start_as(format!("test-{}-{number}", std::process::id()), namespace, arguments)
    }

    /// The same with these variables of its environment.
    ///
    /// # Errors
    ///
    /// As [`Agent::start`].
    pub fn start_in(
        namespace: &Namespace,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<Self> {
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        Self::start_with(name, namespace, environment, arguments)
    }

    fn start_as(name: String, namespace: &Namespace, arguments: &[&str]) -> Result<Self> {
        Self::start_with(name, namespace, &[], arguments)
    }

    fn start_with(
        name: String,
        namespace: &Namespace,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<Self> {
        let mut child = namespace
            .command(tracker()?.to_str().context("a path of UTF-8")?)
            .args(["--instance", &name, "--verbose", "run"])
            .args(with_way_in(arguments))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // It must not wait for anybody to read it.
        let mut stdout = child.stdout.take().context("stdout is a pipe")?;
        let output = thread::spawn(move || {
            let mut output = String::new();
            let _ = stdout.read_to_string(&mut output);
            output
        });
        let log = lines(child.stderr.take().context("stderr is a pipe")?);
        let (log, output) = (Mutex::new(log), Some(output));
        let agent = Self { name, child, log, output, is_stopped: false };
        agent.wait_for_log("attached")?;
        Ok(agent)
    }

    /// Waits until the agent logs a line that holds `text`, and returns it.
    ///
    /// # Errors
    ///
    /// Where it ends first, or nothing comes.
    pub fn wait_for_log(&self, text: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = Vec::new();
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match log.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the agent ended: {}", said.join("\n"))
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        bail!("the agent never said `{text}`, but: {}", said.join("\n"))
    }

    /// Its name, for `--instance`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A command about this agent.
    ///
    /// # Errors
    ///
    /// Where there is no `tracker`.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(tracker()?);
        command.args(["--instance", &self.name]).args(arguments);
        Ok(command)
    }

    /// What `tracker ARGUMENTS` prints.
    ///
    /// # Errors
    ///
    /// Where it fails; the message holds what it said.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        ask(&self.name, arguments)
    }

    /// The records of `tracker flows -o jsonl FILTER`.
    ///
    /// # Errors
    ///
    /// As [`Agent::ask`].
    pub fn flows(&self, filter: &[&str]) -> Result<Vec<Value>> {
        let text = self.ask(&[&["flows", "-o", "jsonl"], filter].concat())?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// `tracker stats -o json`.
    ///
    /// # Errors
    ///
    /// As [`Agent::ask`].
    pub fn stats(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(&["stats", "-o", "json"])?)?)
    }

    /// Packets of all interfaces with this fate, or with any, seen by one hook or both.
    ///
    /// # Errors
    ///
    /// As [`Agent::ask`].
    pub fn packets(&self, hook: Option<&str>, fate: Option<&str>) -> Result<u64> {
        let stats = self.stats()?;
        let mut sum = 0;
        for interface in stats["interfaces"].as_array().context("interfaces")? {
            for (at, fates) in interface["packets"].as_object().context("packets")? {
                for (name, count) in fates.as_object().context("fates")? {
                    if hook.is_none_or(|hook| hook == at) && fate.is_none_or(|fate| fate == name) {
                        sum += count.as_u64().context("a count")?;
                    }
                }
            }
        }
        Ok(sum)
    }

    /// Breaches of all rules that are reported, by name, those that never were left out.
    ///
    /// # Errors
    ///
    /// As [`Agent::ask`].
    pub fn violations(&self) -> Result<Vec<(String, u64)>> {
        let stats = self.stats()?;
        let mut found = Vec::new();
        for (name, by_hook) in stats["violations"].as_object().context("violations")? {
            let count =
                by_hook["in"].as_u64().context("in")? + by_hook["out"].as_u64().context("out")?;
            let rule = Rule::ALL.iter().find(|rule| rule.name() == name).context("a known rule")?;
            if count > 0 && rule.severity() == Severity::Violation {
                found.push((name.clone(), count));
            }
        }
        Ok(found)
    }

    /// One of the counters of `tracker stats`.
    ///
    /// # Errors
    ///
    /// As [`Agent::ask`].
    pub fn counter(&self, name: &str) -> Result<u64> {
        self.stats()?["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
    }

    /// Follows `tracker events -o jsonl`.
    ///
    /// # Errors
    ///
    /// Where it does not start to listen.
    pub fn events(&self) -> Result<Events> {
        self.events_of("all")
    }

    /// Follows `tracker events -o jsonl --events KINDS`.
    ///
    /// # Errors
    ///
    /// As [`Agent::events`].
    pub fn events_of(&self, kinds: &str) -> Result<Events> {
        let (child, lines) = self.listen(&["events", "-o", "jsonl", "--events", kinds])?;
        Ok(Events { child, lines: Mutex::new(lines), seen: Mutex::default() })
    }

    /// Follows `tracker trace ARGUMENTS`.
    ///
    /// # Errors
    ///
    /// Where it does not start to listen.
    pub fn trace(&self, arguments: &[&str]) -> Result<Trace> {
        let (child, lines) = self.listen(&[&["trace"], arguments].concat())?;
        Ok(Trace { child, lines })
    }

    /// Starts a command that listens to the agent, and waits until it does.
    fn listen(&self, arguments: &[&str]) -> Result<(Child, Receiver<String>)> {
        let mut child = self
            .command(arguments)?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stderr = BufReader::new(child.stderr.take().context("stderr is a pipe")?);
        let mut first = String::new();
        stderr.read_line(&mut first)?;
        if first.trim() != "listening" {
            stderr.read_to_string(&mut first)?;
            bail!("tracker {}: {first}", arguments.join(" "));
        }
        let lines = lines(child.stdout.take().context("stdout is a pipe")?);
        Ok((child, lines))
    }

    /// Asks it to end with a signal, and waits until it has.
    ///
    /// # Errors
    ///
    /// Where it cannot be waited for.
    pub fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        self.is_stopped = true;
        send(&self.child, signal);
        Ok(self.child.wait()?)
    }

    /// Kills it, and leaves what it has in the kernel there.
    ///
    /// # Errors
    ///
    /// Where it ended otherwise.
    pub fn kill(mut self) -> Result<Killed> {
        self.is_stopped = true;
        let name = self.name.clone();
        let mut killed = Killed { name, output: String::new(), is_taken_over: false };
        send(&self.child, Signal::SIGKILL);
        let status = self.child.wait()?;
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "the agent ended: {status}");
        killed.output = self.output()?;
        Ok(killed)
    }

    /// Asks it to end as one that was started with `--keep-attached`, which leaves what it has in the kernel there.
    ///
    /// # Errors
    ///
    /// Where it fails.
    pub fn leave(mut self) -> Result<Killed> {
        self.is_stopped = true;
        let name = self.name.clone();
        let mut left = Killed { name, output: String::new(), is_taken_over: false };
        send(&self.child, Signal::SIGTERM);
        let status = self.child.wait()?;
        ensure!(status.success(), "the agent ended: {status}\n{}", self.log_so_far());
        left.output = self.output()?;
        Ok(left)
    }

    /// Asks it to end: what it wrote on stdout.
    ///
    /// # Errors
    ///
    /// Where it fails.
    pub fn finish(mut self) -> Result<String> {
        send(&self.child, Signal::SIGTERM);
        let status = self.child.wait()?;
        ensure!(status.success(), "the agent ended: {status}\n{}", self.log_so_far());
        self.output()
    }

    /// What an agent that has ended logged since [`Agent::wait_for_log`] was last called.
    fn log_so_far(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().collect::<Vec<_>>().join("\n")
    }

    fn output(&mut self) -> Result<String> {
        let output = self.output.take().context("taken once")?;
        output.join().map_err(|_| anyhow::anyhow!("the thread that reads its output panicked"))
    }
}

/// Whether what an agent has pinned there is a link.
#[must_use]
pub fn is_link(pin: &Path) -> bool {
    let name = pin.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with("xdp-") || name.ends_with("-tcx")
}

/// Removes all that tells of a killed agent, as if it had never been there. Its links end; its clsact filters stay.
///
/// # Errors
///
/// Where it cannot be removed.
pub fn clear_after_kill(name: &str) -> Result<()> {
    let pins = pins(name);
    let mut links = Vec::new();
    for slot in std::fs::read_dir(&pins)?.collect::<Result<Vec<_>, _>>()? {
        if !slot.file_type()?.is_dir() {
            continue;
        }
        for pin in std::fs::read_dir(slot.path())? {
            let pin = pin?.path();
            if is_link(&pin) {
                links.push(FdLink::from(PinnedLink::from_pin(&pin)?).info()?.id());
            }
        }
    }
    std::fs::remove_dir_all(&pins).with_context(|| format!("removing {}", pins.display()))?;
    // A pin gives its link up some time after it was removed.
    eventually("its links are gone", || {
        let mut there = loaded_links().filter_map(Result::ok);
        Ok(!there.any(|link| links.contains(&link.id())))
    })?;
    for kind in ["sock", "json", "lock"] {
        let path = format!("/run/tracker/{name}.{kind}");
        std::fs::remove_file(&path).with_context(|| format!("removing {path}"))?;
    }
    Ok(())
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            send(&self.child, Signal::SIGTERM);
        }
        let status = self.child.wait();
        if !self.is_stopped && !status.is_ok_and(|status| status.success()) {
            detach(&self.name);
        }
        if thread::panicking() {
            eprintln!(
                "the agent's log:\n{}",
                self.log
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .try_iter()
                    .collect::<Vec<_>>()
                    .join("\n")
            );
        }
    }
}

fn send(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A running `tracker events -o jsonl`.
#[derive(Debug)]
pub struct Events {
    child: Child,
    lines: Mutex<Receiver<String>>,
    /// Events that were read and not asked for yet.
    seen: Mutex<Vec<Value>>,
}

impl Events {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first event that `wanted` accepts, and takes it out of the stream; the others stay.
    ///
    /// # Errors
    ///
    /// Where none comes; the message holds those that did.
    pub fn wait(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let (mut seen, at) = self.find(wanted)?;
        Ok(seen.remove(at))
    }

    /// Waits for the first event that `wanted` accepts, and takes it and all before it out of the stream.
    ///
    /// # Errors
    ///
    /// As [`Events::wait`].
    pub fn until(&self, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let (mut seen, at) = self.find(wanted)?;
        Ok(seen.drain(..=at).collect())
    }

    /// The events that were read, and the place of the first that `wanted` accepts.
    fn find(&self, wanted: impl Fn(&Value) -> bool) -> Result<(MutexGuard<'_, Vec<Value>>, usize)> {
        let until = Instant::now() + PATIENCE;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = 0;
        loop {
            if let Some(at) = (next..seen.len()).find(|at| wanted(&seen[*at])) {
                return Ok((seen, at));
            }
            next = seen.len();
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            match lines.recv_timeout(left) {
                Ok(line) => seen.push(serde_json::from_str(&line).with_context(|| line.clone())?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("tracker events ended"),
            }
        }
        let seen: Vec<_> = seen.iter().map(Value::to_string).collect();
        bail!("the event did not come; these did:\n{}", seen.join("\n"))
    }

    /// Takes all events that have come by now.
    ///
    /// # Errors
    ///
    /// Where one cannot be read.
    pub fn take(&self) -> Result<Vec<Value>> {
        let mut seen =
            std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        for line in self.lines.lock().unwrap_or_else(PoisonError::into_inner).try_iter() {
            seen.push(serde_json::from_str(&line).with_context(|| line.clone())?);
        }
        Ok(seen)
    }

    /// Waits for an event of this kind.
    ///
    /// # Errors
    ///
    /// As [`Events::wait`].
    pub fn wait_for(&self, kind: &str) -> Result<Value> {
        self.wait(|event| event["event"] == kind)
    }

    /// Waits for a violation of this rule.
    ///
    /// # Errors
    ///
    /// As [`Events::wait`].
    pub fn violation(&self, name: &str) -> Result<Value> {
        self.wait(|event| event["violation"]["name"] == name)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        send(&self.child, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A running `tracker trace`.
#[derive(Debug)]
pub struct Trace {
    child: Child,
    lines: Receiver<String>,
}

impl Trace {
    /// The next line.
    ///
    /// # Errors
    ///
    /// Where none comes.
    pub fn line(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).context("no line came from tracker trace")
    }

    /// All lines to its end, which comes by itself, and how it ended.
    ///
    /// # Errors
    ///
    /// Where it goes on.
    pub fn to_end(&mut self) -> Result<(Vec<String>, ExitStatus)> {
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok((said, self.child.wait()?)),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("tracker trace goes on after: {}", said.join("\n"))
                }
            }
        }
    }

    /// Asks it to end with a signal: the lines that were not taken yet, and how it ended.
    ///
    /// # Errors
    ///
    /// As [`Trace::to_end`].
    pub fn stop(mut self, signal: Signal) -> Result<(Vec<String>, ExitStatus)> {
        send(&self.child, signal);
        self.to_end()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            send(&self.child, Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// Calls `done` until it says so.
///
/// # Errors
///
/// What `done` says, or `what` where it never does.
pub fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < until, "this never came true: {what}");
        thread::yield_now();
    }
    Ok(())
}

/// What comes next on a socket that has a timeout, whatever signals come meanwhile.
///
/// # Errors
///
/// What the kernel says, or that nothing comes.
pub fn receive(socket: &UnixDatagram, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Runs `tracker` without an agent, as the user with this id where one is given: what it printed, and how it ended.
///
/// # Errors
///
/// Where it cannot be started.
pub fn run_tracker(
    arguments: &[&str],
    namespace: Option<&Namespace>,
) -> Result<(String, String, ExitStatus)> {
    let program: OsString = tracker()?.into();
    let mut command = match namespace {
        Some(namespace) => namespace.command(program.to_str().context("a path of UTF-8")?),
        None => Command::new(program),
    };
    let output = command.args(arguments).stdin(Stdio::null()).output()?;
    Ok((String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?, output.status))
}
