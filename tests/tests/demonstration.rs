//! The demonstration that `cargo xtask build-and-run` starts: it shows what it promises, and leaves nothing behind.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracker_tests::agent::{eventually, tracker};

/// The demonstration ends by itself before half of this is over.
const BOUND: Duration = Duration::from_secs(60);

/// Tells its processes, and those that they start, from all others.
const MARK: &str = "TRACKER_TEST_DEMONSTRATION";

/// The demonstration, as `xtask` starts it. Dropping it ends it.
struct Demonstration {
    child: Child,
    lines: Receiver<String>,
    mark: String,
}

impl Demonstration {
    fn start() -> Result<Self> {
        let mark = process::id().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
            .env("TRACKER_BIN", tracker()?)
            .env(MARK, &mark)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, mark: format!("{MARK}={mark}") })
    }

    /// Waits for its end: all that it showed, how it ended, and the namespaces that it had while its agent ran.
    fn watch(&mut self) -> Result<(Vec<String>, ExitStatus, BTreeSet<PathBuf>)> {
        let until = Instant::now() + BOUND;
        let (mut shown, mut namespaces) = (Vec::new(), BTreeSet::new());
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if line.trim_start().starts_with("$ tracker --instance ") {
                        namespaces = self.namespaces()?;
                    }
                    shown.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok((shown, self.child.wait()?, namespaces));
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("it goes on after {BOUND:?}:\n{}", shown.join("\n"))
                }
            }
        }
    }

    /// The network namespaces that it holds open, as in `net:[4026532201]`.
    fn namespaces(&self) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        for file in fs::read_dir(format!("/proc/{}/fd", self.child.id()))? {
            // Skips descriptors that it has closed meanwhile.
            if let Ok(target) = fs::read_link(file?.path())
                && target.to_string_lossy().starts_with("net:[")
            {
                found.insert(target);
            }
        }
        Ok(found)
    }

    /// Its processes, and those that they have started.
    fn processes(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // Others come and go meanwhile.
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|one| one == self.mark.as_bytes()) {
                found.push(path);
            }
        }
        Ok(found)
    }
}

impl Drop for Demonstration {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

#[test]
fn everything_is_seen_and_nothing_is_left() -> Result<()> {
    let mut demonstration = Demonstration::start()?;
    let (shown, status, namespaces) = demonstration.watch()?;
    let text = shown.join("\n");
    ensure!(status.code() == Some(0), "it ended with {status}:\n{text}");
    ensure!(text.contains("Everything that was to be seen was seen"), "{text}");
    ensure!(!text.contains("MISSING"), "{text}");
    ensure!(namespaces.len() == 2, "two namespaces were expected: {namespaces:?}\n{text}");

    // A namespace without a name lives in processes only, and a named one is mounted.
    eventually("its processes are gone", || Ok(demonstration.processes()?.is_empty()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for namespace in &namespaces {
        let name = namespace.to_string_lossy();
        ensure!(!mounts.contains(&*name), "{name} is mounted:\n{mounts}");
    }
    Ok(())
}
