//! The wire, which carries the clients' frames and the flood between them.

use std::{
    fmt,
    io::ErrorKind,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions};
use nix::{
    net::if_::if_nametoindex,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::{getpid, gettid},
};

use crate::{
    cable::Cable,
    cpu::{Cores, Task},
    programs::{Programs, SYN_LENGTH},
};

/// Frames that the kernel hands to the program in a row. Those that are due leave together.
const BATCH: u32 = 64;

/// Frames of one system call, most of which are not due at the lower rates. There is a pause of milliseconds after each
/// call, while the kernel clears up, so it should take seconds.
const FRAMES: u32 = 1 << 25;

/// How often a system call is interrupted until the generator has seen that it is to stop.
const INTERRUPTIONS: Duration = Duration::from_millis(1);

/// A flood ends by then, whatever happens, or with the system call that goes on then.
const LONGEST: Duration = Duration::from_secs(60);

/// SYNs a second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rate {
    /// No flood.
    None,
    /// So many, spread evenly.
    PerSecond(u32),
    /// As many as the generator can.
    FlatOut,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::PerSecond(rate) => f.pad(&crate::table::grouped(u64::from(*rate))),
            Self::FlatOut => f.pad("flat out"),
        }
    }
}

/// Calls `work` while the wire carries what the clients send, and SYNs from everywhere.
///
/// # Errors
///
/// What `work` says, or that the flood cannot be sent.
pub(crate) fn flood_during<T>(
    cable: &Cable,
    programs: &mut Programs,
    cores: Cores,
    rate: Rate,
    work: impl FnOnce(&Programs) -> Result<T>,
) -> Result<T> {
    let gap = match rate {
        Rate::None | Rate::PerSecond(0) => u64::MAX,
        Rate::PerSecond(rate) => 1_000_000_000 / u64::from(rate),
        Rate::FlatOut => 0,
    };
    programs.set_gap(gap)?;
    let programs = &*programs;
    let sender = Sender::new()?;
    thread::scope(|scope| {
        let flood = scope
            .spawn(|| cable.wire.namespace.enter(|| sender.send(cable, programs, cores.generator)));
        // Also where the work panics: the scope waits for the flood.
        let stop = Stop { sender: &sender, flood: Some(flood) };
        let result = work(programs);
        stop.now()?;
        result
    })
}

/// What the thread that sends shares with the one that stops it.
#[derive(Debug)]
struct Sender {
    stop: AtomicBool,
    /// The thread's number, or 0 where it is not sending.
    thread: AtomicI32,
}

impl Sender {
    fn new() -> Result<Self> {
        extern "C" fn nothing(_: libc::c_int) {}
        let action =
            SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.context("handling SIGUSR1")?;
        Ok(Self { stop: AtomicBool::new(false), thread: AtomicI32::new(0) })
    }

    /// Interrupts the system call that sends. It may not have begun.
    fn interrupt(&self) {
        let thread = self.thread.load(Ordering::Relaxed);
        if thread != 0 {
            let process = getpid().as_raw();
            // SAFETY: takes numbers only, and SIGUSR1 has a handler; a thread that has ended is not found.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
        }
    }

    fn send(&self, cable: &Cable, programs: &Programs, core: usize) -> Result<()> {
        Task::this_thread().pin(core)?;
        let interface = if_nametoindex(cable.wire.to_server.as_str())?;
        let frame = [0; SYN_LENGTH];
        // `struct xdp_md`: the frame's beginning and end, its metadata's beginning, and where it seems to have arrived,
        // which is where XDP_TX sends it.
        let context: Vec<u8> = [0, u32::try_from(SYN_LENGTH)?, 0, interface, 0, 0]
            .iter()
            .flat_map(|number: &u32| number.to_ne_bytes())
            .collect();
        let program = programs.flood()?;
        self.thread.store(gettid().as_raw(), Ordering::Relaxed);
        let until = Instant::now() + LONGEST;
        let mut result = Ok(());
        while result.is_ok() && !self.stop.load(Ordering::Relaxed) && Instant::now() < until {
            result = program
                .test_run(TestRunOptions {
                    data_in: Some(&frame),
                    ctx_in: Some(&context),
                    repeat: FRAMES,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::new()
                })
                .map(drop)
                .or_else(|error| if is_interruption(&error) { Ok(()) } else { Err(error) });
        }
        self.thread.store(0, Ordering::Relaxed);
        result.context(
            "sending the flood needs BPF_F_TEST_XDP_LIVE_FRAMES, which Linux has since 5.18",
        )
    }
}

fn is_interruption(error: &ProgramError) -> bool {
    matches!(
        error,
        ProgramError::SyscallError(error) if error.io_error.kind() == ErrorKind::Interrupted
    )
}

/// Stops the flood, at the latest when it is dropped.
struct Stop<'scope> {
    sender: &'scope Sender,
    flood: Option<ScopedJoinHandle<'scope, Result<()>>>,
}

impl Stop<'_> {
    fn now(mut self) -> Result<()> {
        self.stop()
            .map_or(Ok(()), |flood| flood.join().map_err(|_| anyhow!("the generator panicked"))?)
    }

    fn stop(&mut self) -> Option<ScopedJoinHandle<'_, Result<()>>> {
        let flood = self.flood.take()?;
        self.sender.stop.store(true, Ordering::Relaxed);
        while !flood.is_finished() {
            self.sender.interrupt();
            thread::sleep(INTERRUPTIONS);
        }
        Some(flood)
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
