//! `cargo xtask vm`: boots packaged kernels in virtual machines, and runs the tests inside.
//!
//! The programs are the ones that `cargo test` runs on the host: built once, carried in the machine's initramfs, and
//! started with the same arguments. What a kernel cannot do is written down in `tests/vm/absences.toml`; nothing is
//! skipped.

mod absence;
mod dependencies;
mod initramfs;
mod kernel;
mod machine;
mod outcome;
mod page;
mod suite;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::{
    absence::Absences, kernel::Kernel, machine::Machine, outcome::Outcome, suite::Selection,
};
use crate::{host, plan::Purpose, setup::setup};

/// What `cargo xtask vm` is given.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Kernels by version, such as 6.12, or `newest`; every kernel that tracker supports without any
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Run these test programs only, such as `closing`
    #[arg(long = "test", value_name = "PROGRAM")]
    programs: Vec<String>,
    /// Run only tests whose names contain this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Run the selection that continuous integration runs
    #[arg(long)]
    short: bool,
    /// Look for newer packages of the kernels first
    #[arg(long)]
    refresh: bool,
    /// Write docs/kernels.md from what this run shows, of every kernel
    #[arg(long)]
    write: bool,
    /// Virtual machines at the same time [default: one for each two processors and 3 GiB]
    #[arg(long, value_name = "NUMBER")]
    jobs: Option<usize>,
}

impl Options {
    /// What `cargo xtask test` adds to the tests on the host.
    pub(crate) fn for_tests() -> Self {
        Self {
            kernels: kernel::TESTED.map(str::to_owned).into(),
            programs: Vec::new(),
            filter: None,
            short: true,
            refresh: false,
            write: false,
            jobs: None,
        }
    }
}

/// Boots each kernel and runs the tests in it; prints a line a kernel.
///
/// # Errors
///
/// Where a test fails that should not, an expected absence is none, or a kernel cannot be had or booted.
pub(crate) fn vm(options: &Options) -> Result<()> {
    setup(Purpose::Vm)?;
    let names = if options.kernels.is_empty() {
        kernel::SUPPORTED.map(str::to_owned).into()
    } else {
        options.kernels.clone()
    };
    if options.write && (options.filter.is_some() || !options.programs.is_empty()) {
        bail!("--write describes a whole run, or --short: leave --test and --filter away");
    }
    let target = host::target_dir()?;
    let directory = target.join("vm");
    let selection = Selection::load(options.short, &options.programs, options.filter.as_deref())?;
    let absences = Absences::load(&host::workspace().join("tests/vm/absences.toml"))?;
    let kernels = kernel::obtain(&names, &directory.join("kernels"), options.refresh)?;
    let programs = suite::build(&selection)?;
    let payload = initramfs::payload(&directory, &programs, &selection)?;

    let jobs = options.jobs.unwrap_or_else(host::machines_at_once).max(1);
    let waiting = Mutex::new(kernels.iter().collect::<VecDeque<_>>());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let finished = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.min(kernels.len()) {
            scope.spawn(|| {
                while let Some(kernel) = next() {
                    let outcome = one(kernel, &payload, &directory, &selection, &absences);
                    finished
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((kernel.name.clone(), outcome));
                }
            });
        }
    });
    let mut outcomes = Vec::new();
    let mut failed = Vec::new();
    for (name, outcome) in finished.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match outcome {
            Ok(outcome) if outcome.is_right() => outcomes.push(outcome),
            Ok(_) => failed.push(name),
            Err(error) => {
                eprintln!("error: Linux {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("tests in virtual machines failed on Linux {}", failed.join(", "));
    }
    if options.write {
        outcomes.sort_by(|one, other| one.kernel.version.cmp(&other.kernel.version));
        page::write(&outcomes, options.short)?;
    }
    Ok(())
}

fn one(
    kernel: &Kernel,
    payload: &Path,
    directory: &Path,
    selection: &Selection,
    absences: &Absences,
) -> Result<Outcome> {
    let begun = Instant::now();
    let machine = Machine {
        kernel,
        initrd: initramfs::for_kernel(payload, kernel, directory)?,
        directory: directory.join("runs").join(&kernel.name),
        minutes: selection.minutes,
    };
    let text = machine.run().with_context(|| format!("running Linux {}", kernel.release))?;
    let outcome = Outcome::read(kernel, &text, selection, absences, begun.elapsed());
    // One write, so that lines of machines that run side by side stay whole.
    println!("{outcome}");
    if !outcome.is_right() {
        println!("    log: {}", machine.log().display());
    }
    Ok(outcome)
}
