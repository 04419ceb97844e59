//! How often the kernel programs ran, and for how long: known where `kernel.bpf_stats_enabled` is set.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::programs::Program;

use crate::{kernel::attach::Attached, model::error::Result};

/// The programs that are attached.
#[derive(Debug, Default)]
pub struct Programs(Vec<Of>);

#[derive(Debug)]
struct Of {
    interface: String,
    program: String,
    /// Held, because asking the kernel for a descriptor by a program's number takes another capability.
    fd: OwnedFd,
}

/// What one program has run, in all.
#[derive(Clone, Debug)]
pub struct Run {
    /// The interface that it is on.
    pub interface: String,
    /// Its name.
    pub program: String,
    /// Seconds.
    pub seconds: f64,
    /// Times.
    pub count: u64,
}

impl Programs {
    /// Those that are on these interfaces.
    ///
    /// # Errors
    ///
    /// Where a descriptor cannot be duplicated.
    pub fn of<'a>(attached: impl IntoIterator<Item = &'a Attached>) -> Result<Self> {
        let mut all = Vec::new();
        for Attached { interface, ebpf } in attached {
            for (name, program) in ebpf.programs() {
                let Some(fd) = descriptor(program) else { continue };
                all.push(Of {
                    interface: interface.name.clone(),
                    program: name.to_owned(),
                    fd: fd.try_clone_to_owned()?,
                });
            }
        }
        Ok(Self(all))
    }

    /// What they have run. What the kernel does not say is left out.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        self.0.iter().filter_map(Of::run).collect()
    }
}

impl Of {
    fn run(&self) -> Option<Run> {
        let about =
            fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd())).ok()?;
        let number = |name: &str| -> Option<u64> {
            let line = about.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        #[allow(clippy::cast_precision_loss)]
        let seconds = number("run_time_ns")? as f64 / 1e9;
        let count = number("run_cnt")?;
        let (interface, program) = (self.interface.clone(), self.program.clone());
        Some(Run { interface, program, seconds, count })
    }
}

/// `None` where it was not loaded.
fn descriptor(program: &Program) -> Option<BorrowedFd<'_>> {
    match program {
        Program::Xdp(program) => Some(program.fd().ok()?.as_fd()),
        Program::SchedClassifier(program) => Some(program.fd().ok()?.as_fd()),
        _ => None,
    }
}
