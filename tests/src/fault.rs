//! Faults to put on a process: stopped, out of memory, in a directory of its own that is full or another user's.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::agent::eventually;

/// Sends a signal to a process by its number.
///
/// # Errors
///
/// What the kernel says.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(pid.cast_signed()), signal)?)
}

/// Stops a process, and waits until none of its threads runs.
///
/// # Errors
///
/// What the kernel says.
pub fn pause(pid: u32) -> Result<()> {
    send(pid, Signal::SIGSTOP)?;
    eventually("all of its threads are stopped", || {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            if !status.contains("State:\tT") {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Lets a stopped process go on.
///
/// # Errors
///
/// What the kernel says.
pub fn resume(pid: u32) -> Result<()> {
    send(pid, Signal::SIGCONT)
}

/// A line of /proc/PID/status, in KiB.
///
/// # Errors
///
/// Where there is no such process or line.
pub fn memory(pid: u32, line: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value =
        status.lines().find_map(|found| found.strip_prefix(line)).context("no such line")?;
    let number = value.trim_start_matches(':').trim().trim_end_matches(" kB");
    Ok(number.parse()?)
}

/// A directory of a test's own. What is mounted on a directory in it is unmounted with it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Directory {
    /// A new one, whose name has this in it.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tracker-{name}-{}", std::process::id()));
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { path, mounts: Vec::new() })
    }

    /// Itself.
    #[must_use]
    pub fn itself(&self) -> &Path {
        &self.path
    }

    /// The path of something in it.
    ///
    /// # Errors
    ///
    /// Where that is not UTF-8.
    pub fn path(&self, name: &str) -> Result<String> {
        self.path.join(name).into_os_string().into_string().ok().context("a path of UTF-8")
    }

    /// Makes a directory in it, mounts a filesystem there, and returns its path.
    ///
    /// # Errors
    ///
    /// Where the kernel has no such filesystem, or refuses.
    pub fn mount(&mut self, name: &str, kind: &str, options: Option<&str>) -> Result<String> {
        let path = self.path(name)?;
        fs::create_dir(&path)?;
        mount(Some(kind), path.as_str(), Some(kind), MsFlags::empty(), options)
            .with_context(|| format!("mounting a filesystem of kind {kind} on {path}"))?;
        self.mounts.push(path.clone().into());
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for path in &self.mounts {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A group of processes that may use so much memory.
#[derive(Debug)]
pub struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// A new group, without processes.
    ///
    /// # Errors
    ///
    /// Where this host has no control groups for memory, or they are not to be had.
    pub fn new(name: &str, bytes: u64) -> Result<Self> {
        let base = Path::new("/sys/fs/cgroup");
        let (at, limit) = if base.join("cgroup.controllers").exists() {
            fs::write(base.join("cgroup.subtree_control"), "+memory")
                .context("cgroup.subtree_control")?;
            (base.to_owned(), "memory.max")
        } else {
            (base.join("memory"), "memory.limit_in_bytes")
        };
        ensure!(at.exists(), "this needs control groups for memory (CONFIG_MEMCG) at {at:?}");
        let path = at.join(format!("tracker-{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let group = Self(path);
        fs::write(group.0.join(limit), bytes.to_string()).context("limiting memory")?;
        Ok(group)
    }

    /// The file that takes the numbers of processes which come into it.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// How many of its processes the kernel has killed because there was no memory for them.
    ///
    /// # Errors
    ///
    /// Where the kernel does not say.
    pub fn killed(&self) -> Result<u64> {
        let events = ["memory.events", "memory.oom_control"].map(|name| self.0.join(name));
        let text = events.iter().find_map(|path| fs::read_to_string(path).ok());
        let text = text.context("no memory.events")?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(line.with_context(|| text.clone())?.parse()?)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
