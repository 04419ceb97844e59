//! Cores, and how much of their time a task has had.

use std::{fs, io, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// The nice value of who must not wait for others on its core.
pub(crate) const URGENT: i32 = -20;

/// Who runs where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// The generator, and what receives the answers to it: the rest of the world.
    pub(crate) generator: usize,
    /// The server, what receives for it, and the real clients.
    pub(crate) server: usize,
}

impl Cores {
    /// Two cores that this process may use: not two threads of one, where that can be helped.
    ///
    /// # Errors
    ///
    /// Where there is only one.
    pub(crate) fn choose() -> Result<Self> {
        let allowed =
            sched_getaffinity(Pid::from_raw(0)).context("asking for this process' cores")?;
        let allowed: Vec<usize> =
            (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).collect();
        let [generator, others @ ..] = &*allowed else { bail!("this process may use no core") };
        let path = format!("/sys/devices/system/cpu/cpu{generator}/topology/core_id");
        let own = fs::read_to_string(path).ok();
        let is_apart = |core: &&usize| {
            let path = format!("/sys/devices/system/cpu/cpu{core}/topology/core_id");
            fs::read_to_string(path).ok() != own
        };
        let server = others.iter().find(is_apart).or(others.first()).context(
            "the flood and its target need a core each, and this process may use only one",
        )?;
        Ok(Self { generator: *generator, server: *server })
    }
}

/// A process or a kernel thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task(Pid);

impl Task {
    /// The calling thread. What it starts inherits its core and its nice value.
    pub(crate) fn this_thread() -> Self {
        Self(Pid::from_raw(0))
    }

    /// A process.
    ///
    /// # Errors
    ///
    /// Where the number is none.
    pub(crate) fn process(id: u32) -> Result<Self> {
        Ok(Self(Pid::from_raw(id.try_into()?)))
    }

    /// The kernel thread that receives for an interface whose name is unique.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub(crate) fn receiver_of(interface: &str) -> Result<Self> {
        let name = format!("napi/{interface}-");
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()) else {
                continue;
            };
            // One that has ended in the meantime is none that is looked for.
            let Ok(comm) = fs::read_to_string(entry.path().join("comm")) else { continue };
            if comm.starts_with(&name) {
                return Ok(Self(Pid::from_raw(id)));
            }
        }
        bail!("{interface} has no kernel thread {name}*: threaded NAPI was not turned on")
    }

    /// How long it has been ready to run and had no core by now, where the kernel knows.
    pub(crate) fn waiting_time(self) -> Option<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.0)).ok()?;
        Some(Duration::from_nanos(text.split_whitespace().nth(1)?.parse().ok()?))
    }

    /// Keeps it on a core.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn pin(self, core: usize) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(core)?;
        sched_setaffinity(self.0, &set).with_context(|| format!("keeping a task on core {core}"))
    }

    /// Sets its nice value.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn be_nice(self, nice: i32) -> Result<()> {
        let task = self.0.as_raw().cast_unsigned();
        // SAFETY: takes numbers only.
        let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, task, nice) };
        ensure!(result == 0, "setting a nice value: {}", io::Error::last_os_error());
        Ok(())
    }

    /// How long it has run on any core by now, as the scheduler knows it.
    ///
    /// # Errors
    ///
    /// Where it has ended.
    pub(crate) fn cpu_time(self) -> Result<Duration> {
        let clock = clock_getcpuclockid(self.0).context("asking for a task's clock")?;
        Ok(clock_gettime(clock).context("reading a task's clock")?.into())
    }
}
