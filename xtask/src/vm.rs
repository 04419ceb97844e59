//! `cargo xtask vm`: boots packaged kernels in virtual machines, and runs the tests inside.
//!
//! The programs are the ones that `cargo test` runs on the host: built once, carried in the machine's initramfs, and
//! started with the same arguments. For ARM64 they are cross-built, and a few run in emulation. What a kernel cannot do is written down in `tests/vm/absences.toml`; nothing is
//! skipped.

mod absence;
mod archive;
mod dependencies;
mod emulator;
mod initramfs;
mod kernel;
mod machine;
mod outcome;
mod page;
mod suite;
mod tools;

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
    absence::Absences,
    archive::Archive,
    emulator::Emulator,
    kernel::Kernel,
    machine::Machine,
    outcome::Outcome,
    suite::{Extent, Selection},
    tools::Tools,
};
use crate::{cross::Target, host, plan::Purpose, setup::setup};

/// What `cargo xtask vm` is given.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Kernels by version, such as 6.12, or `newest`; every kernel that tracker supports without any, and on arm64 6.12 and
    /// the newest
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// The kernels' processor: amd64, or arm64, which is emulated and runs the tests that suite.toml names for it
    #[arg(long, value_name = "ARCHITECTURE", default_value = "amd64", value_parser = architecture)]
    arch: Target,
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
            arch: Target::X86_64,
            programs: Vec::new(),
            filter: None,
            short: true,
            refresh: false,
            write: false,
            jobs: None,
        }
    }
}

/// The processor that Debian calls so.
fn architecture(name: &str) -> Result<Target, String> {
    Target::ALL.into_iter().find(|target| target.debian() == name).ok_or_else(|| {
        let known = Target::ALL.map(Target::debian);
        format!("one of {}", known.join(", "))
    })
}

/// Boots each kernel and runs the tests in it; prints a line a kernel.
///
/// # Errors
///
/// Where a test fails that should not, an expected absence is none, or a kernel cannot be had or booted.
pub(crate) fn vm(options: &Options) -> Result<()> {
    let target = options.arch;
    let all: &[_] = match target {
        Target::X86_64 => &kernel::SUPPORTED,
        Target::Aarch64 => &kernel::EMULATED,
    };
    setup(Purpose::Vm)?;
    let names = if options.kernels.is_empty() {
        all.iter().map(|&name| name.to_owned()).collect()
    } else {
        options.kernels.clone()
    };
    let is_part = options.filter.is_some() || !options.programs.is_empty();
    if options.write && (is_part || target != Target::X86_64) {
        bail!(
            "--write describes a whole run on amd64, or --short: leave --test, --filter and --arch away"
        );
    }
    let (directory, extent) = match target {
        Target::X86_64 if options.short => ("vm", Extent::Short),
        Target::X86_64 => ("vm", Extent::Whole),
        Target::Aarch64 => ("vm/arm64", Extent::Arm64),
    };
    let directory = host::target_dir()?.join(directory);
    let selection = Selection::load(extent, &options.programs, options.filter.as_deref())?;
    let absences = Absences::load(&host::workspace().join("tests/vm/absences.toml"))?;
    let places = directory.join("kernels");
    let archive = Archive::new(&places, target);
    let emulator = Emulator::obtain(target, &host::target_dir()?.join("vm"), &archive)?;
    let kernels = kernel::obtain(&names, &archive, &places, options.refresh)?;
    let tools = Tools::obtain(&archive, &directory.join("tools"), options.refresh)?;
    let programs = suite::build(&selection, target)?;
    let payload = initramfs::payload(&directory, &programs, &selection, &tools)?;

    let jobs = options.jobs.unwrap_or_else(host::machines_at_once).max(1);
    let waiting = Mutex::new(kernels.iter().collect::<VecDeque<_>>());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let finished = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.min(kernels.len()) {
            scope.spawn(|| {
                while let Some(kernel) = next() {
                    let outcome =
                        one(kernel, &emulator, &payload, &directory, &selection, &absences);
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
    emulator: &Emulator,
    payload: &Path,
    directory: &Path,
    selection: &Selection,
    absences: &Absences,
) -> Result<Outcome> {
    let begun = Instant::now();
    let machine = Machine {
        emulator,
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
