//! `cargo xtask lint`: rustfmt, structure, dependencies, and clippy, for the host and for BPF.

use anyhow::Result;
use xtask::bpf::Toolchain;

use crate::{dependencies::dependencies, host, plan::Purpose, setup::setup, structure::structure};

/// Checks formatting, structure and dependencies, and lets clippy check every crate.
///
/// # Errors
///
/// At the first that finds something.
pub(crate) fn lint() -> Result<()> {
    setup(Purpose::Lint)?;
    host::run(host::cargo().args(["fmt", "--all", "--check"]), "cargo fmt --check")?;
    structure()?;
    dependencies()?;
    // In the profile of the tests, which then need not compile the build scripts and the kernel programs again.
    host::run(
        host::cargo()
            .args(["clippy", "--release", "--all-targets"])
            .args(host::PACKAGES)
            .args(["--", "-D", "warnings"]),
        "cargo clippy",
    )?;
    let toolchain = Toolchain::find(host::workspace())?;
    // clippy's results have no business among those that the build script links.
    let target = host::target_dir()?.join("bpf-lint");
    for (package, features) in
        [("tracker-ebpf", ""), ("tracker-ebpf", "kernel-log"), ("tracker-bench-ebpf", "")]
    {
        host::run(
            toolchain
                .cargo("clippy", package, &target)
                .args(["--features", features])
                .args(["--", "-D", "warnings"]),
            "clippy for the kernel programs",
        )?;
    }
    Ok(())
}
