//! `cargo xtask`: what a contributor types.

mod bench;
mod cross;
mod debian;
mod dependencies;
mod docs;
mod environment;
mod fuzz;
mod host;
mod lint;
mod package;
mod plan;
mod probe;
mod purpose;
mod run;
mod setup;
mod soak;
mod structure;
mod test;
mod vm;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{cross::Target, package::Form, plan::Purpose};

/// What a contributor types.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what building and testing need and this machine lacks, or say how; the other verbs begin with it
    Setup,
    /// Build everything, then run the demonstration, or with ARGS `tracker run ARGS`
    BuildAndRun {
        /// What `tracker run` is given
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run every test; needs root, for network namespaces and the kernel programs
    Test {
        /// What `cargo test` is given
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Measure tracker beside what people use instead, and write docs/performance.md; needs root
    Bench {
        /// Which benchmark, and its options; all of them without any
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Fuzz whatever reads what others wrote: run each target over its corpus, then with new inputs, and fail on a crash
    Fuzz(fuzz::Options),
    /// Check formatting and structure, and let clippy check everything, the kernel programs too
    Lint,
    /// Show how layers import each other, and which files are long and why; fail where an import points upward
    Structure,
    /// Build a package for Debian (or, as asked, another one) in target/package, which needs no toolchain where it is installed
    Package {
        /// Check it with lintian, promtool, systemd and Kubernetes' schemas, and install, use and remove it on a machine of its
        /// own; needs root
        #[arg(long, conflicts_with_all = ["target", "is_static"])]
        check: bool,
        /// Build for this processor, as in `aarch64-unknown-linux-gnu`, instead of this machine's
        #[arg(long, value_name = "TRIPLE")]
        target: Option<Target>,
        /// Build a package for systems with RPM
        #[arg(long)]
        rpm: bool,
        /// Build an archive (tar.gz) with a static program, which runs on any Linux, instead of a package
        #[arg(long = "static", conflicts_with = "rpm")]
        is_static: bool,
        /// Build an image of containers with the static program, by podman
        #[arg(long, conflicts_with_all = ["rpm", "is_static"])]
        image: bool,
    },
    /// Have all troubles at once for MINUTES, and compare what was counted with the truth; needs root
    Soak(soak::Options),
    /// Boot packaged kernels in virtual machines, and run the tests inside
    Vm(vm::Options),
    /// Write docs/violations.md from the rules in tracker-common, docs/schema from the printed types, and as root the picture
    /// docs/top.svg from `tracker top` in a network namespace
    Docs,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup => setup::setup(Purpose::Everything),
        Verb::BuildAndRun { args } => run::build_and_run(&args),
        Verb::Test { args } => test::test(&args),
        Verb::Bench { args } => bench::bench(&args),
        Verb::Fuzz(options) => fuzz::fuzz(&options),
        Verb::Lint => lint::lint(),
        Verb::Structure => structure::structure(),
        Verb::Package { check, target, rpm, is_static, image } => {
            let form = match (rpm, is_static, image) {
                (true, _, _) => Form::Rpm,
                (_, true, _) => Form::Archive,
                (_, _, true) => Form::Image,
                (false, false, false) => Form::Deb,
            };
            package::package(package::Options { target, form, checks: check })
        }
        Verb::Soak(options) => soak::soak(&options),
        Verb::Vm(options) => vm::vm(&options),
        Verb::Docs => docs::docs(),
    };
    if let Err(error) = result {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
