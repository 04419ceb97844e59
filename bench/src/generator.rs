//! The flood.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions};
use nix::net::if_::if_nametoindex;

use crate::{
    cable::Cable,
    cpu::{Cores, Task},
    programs::{Programs, SYN_LENGTH},
};

/// Frames that the kernel hands to the program in a row. Those that are due leave together.
const BATCH: u32 = 64;

/// Frames of one system call, most of which are not due at the lower rates.
const FRAMES: u32 = 1 << 18;

/// A flood ends by then, whatever happens.
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

/// Calls `work` while the clients' end of a cable sends SYNs from everywhere.
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
        Rate::None | Rate::PerSecond(0) => return work(programs),
        Rate::PerSecond(rate) => 1_000_000_000 / u64::from(rate),
        Rate::FlatOut => 0,
    };
    programs.set_gap(gap)?;
    let programs = &*programs;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            cable.clients.namespace.enter(|| send(cable, programs, cores.generator, &stop))
        });
        let result = {
            let _stop = StopOnDrop(&stop);
            work(programs)
        };
        flood.join().map_err(|_| anyhow!("the generator panicked"))??;
        result
    })
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn send(cable: &Cable, programs: &Programs, core: usize, stop: &AtomicBool) -> Result<()> {
    Task::this_thread().pin(core)?;
    let interface = if_nametoindex(cable.clients.interface.as_str())?;
    let frame = [0; SYN_LENGTH];
    // `struct xdp_md`: the frame's beginning and end, its metadata's beginning, and where it seems to have arrived, which
    // is where XDP_TX sends it.
    let context: Vec<u8> = [0, u32::try_from(SYN_LENGTH)?, 0, interface, 0, 0]
        .iter()
        .flat_map(|number: &u32| number.to_ne_bytes())
        .collect();
    let program = programs.flood()?;
    let until = Instant::now() + LONGEST;
    while !stop.load(Ordering::Relaxed) && Instant::now() < until {
        program
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: FRAMES,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            })
            .context(
                "sending the flood needs BPF_F_TEST_XDP_LIVE_FRAMES, which Linux has since 5.18",
            )?;
    }
    Ok(())
}
