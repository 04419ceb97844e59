//! `cargo xtask setup`: makes this machine able to build and to test.

use std::{cell::Cell, env, process::Command};

use anyhow::{Context, Result, bail};
use xtask::bpf::{BPF_LINKER_VERSION, Compiler, linker};

use crate::{
    debian, environment, host,
    plan::{Machine, Missing, Plan, Purpose, linker_arguments, plan},
    probe::probe,
};

/// Looks for what a purpose needs, and installs what is missing.
///
/// # Errors
///
/// Where something is missing that cannot be installed from here; what to type has been printed then.
pub(crate) fn setup(purpose: Purpose) -> Result<()> {
    if env::consts::OS != "linux" {
        bail!("tracker is built and run on Linux only; this is {}", env::consts::OS);
    }
    let mut told = Vec::new();
    let mut tried = Vec::new();
    let mut environments = Vec::new();
    let updated = Cell::new(false);
    // Which linker and which clippy it takes is known only once there is a compiler.
    loop {
        let (missing, compiler) = probe(purpose);
        for piece in &missing {
            if !told.contains(piece) {
                eprintln!("Missing: {piece}.");
                told.push(piece.clone());
            }
        }
        if missing.is_empty() {
            return say_ready(&compiler.context("a complete toolchain has a compiler")?);
        }
        let may_install = debian::is_here() && host::is_root();
        let mut is_changed = false;
        for piece in &missing {
            if let Missing::Environment(name) = piece
                && host::succeeds(Command::new("python3").args(["-c", "import ensurepip"]))
                && !environments.contains(name)
            {
                environments.push(*name);
                match environment::make(name) {
                    Ok(()) => is_changed = true,
                    // The tests that need it say so.
                    Err(error) => eprintln!("{error:#}; going on without it"),
                }
            }
        }
        if is_changed {
            continue;
        }
        // This is asked about packages that are to be installed, and the lists of a fresh machine are empty.
        let offers = |package: &str| {
            if may_install && !updated.replace(true) {
                debian::update();
            }
            debian::is_here() && debian::offers(package)
        };
        let toolchain = env::var("RUSTUP_TOOLCHAIN").ok();
        let plan = plan(
            &missing,
            purpose,
            &Machine {
                may_install,
                offers: &offers,
                has: &debian::has,
                has_cc: host::on_path("cc") && host::on_path("c++"),
                rustup_toolchain: toolchain.as_deref(),
                workspace: host::workspace(),
            },
        );
        if !plan.by_hand.is_empty() {
            eprintln!("This cannot be installed from here. Type:\n");
            for line in plan.by_hand.iter().chain(&plan.advice) {
                eprintln!("    {line}");
            }
            bail!("set-up is not complete; try again after these commands");
        }
        if plan.packages.is_empty() && !missing.iter().any(|piece| purpose.needs(piece)) {
            eprintln!("This is missing, too. Only some checks or tests need it:\n");
            for line in &plan.advice {
                eprintln!("    {line}");
            }
            return say_ready(&compiler.context("a complete toolchain has a compiler")?);
        }
        if tried.contains(&plan) {
            bail!("what should bring the missing pieces is installed, and they are still missing");
        }
        install(&plan)?;
        tried.push(plan);
    }
}

fn install(plan: &Plan) -> Result<()> {
    if !plan.packages.is_empty() {
        debian::install(&plan.packages)?;
    }
    if let Some(llvm) = plan.linker {
        eprintln!(
            "Building bpf-linker {BPF_LINKER_VERSION} on LLVM {llvm}. It takes about a minute."
        );
        let mut command = host::cargo();
        command
            .args(linker_arguments(llvm, host::workspace()))
            // One that cannot be run is in the way.
            .arg("--force")
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
        host::run(&mut command, "building bpf-linker")?;
    }
    Ok(())
}

fn say_ready(compiler: &Compiler) -> Result<()> {
    let linker =
        linker(host::workspace(), compiler).context("a complete toolchain has a linker")?;
    eprintln!("Ready. BPF toolchain: {compiler}, and {}", linker.display());
    Ok(())
}
