//! `cargo xtask bench`: builds everything, then measures.

use std::{ffi::OsString, process::Command};

use anyhow::{Result, bail};

use crate::{host, plan::Purpose, setup::setup};

/// Becomes the benchmarks, with these arguments.
///
/// # Errors
///
/// Where they do not build, or cannot be started; without root, for instance.
pub(crate) fn bench(args: &[OsString]) -> Result<()> {
    if !host::is_root() {
        bail!(
            "the benchmarks need root: they make network namespaces and load kernel programs. Type:\n\n    \
             sudo -E env \"PATH=$PATH\" cargo xtask bench"
        );
    }
    setup(Purpose::Bench)?;
    host::run(
        host::cargo()
            .args(["build", "--release", "--package", "tracker-user"])
            .args(["--package", "tracker-bench"]),
        "cargo build",
    )?;
    let release = host::target_dir()?.join("release");
    host::become_command(
        Command::new(release.join("tracker-bench"))
            .args(args)
            .env("TRACKER_BIN", release.join("tracker")),
    )
}
