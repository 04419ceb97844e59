//! `cargo xtask build-and-run`: builds everything, then starts the demonstration or an agent.

use std::{ffi::OsString, process::Command};

use anyhow::{Result, bail};

use crate::{host, plan::Purpose, setup::setup};

/// Builds everything, then becomes `tracker run` with these arguments, or the demonstration without any.
///
/// # Errors
///
/// Where it does not build, or cannot be started.
pub(crate) fn build_and_run(args: &[OsString]) -> Result<()> {
    setup(Purpose::Run)?;
    host::run(
        host::cargo().args([
            "build",
            "--release",
            "--package",
            "tracker-user",
            "--package",
            "tracker-tests",
        ]),
        "cargo build",
    )?;
    if !host::is_root() {
        bail!(
            "it is built, but attaching to an interface needs root. Type:\n\n    \
             sudo -E env \"PATH=$PATH\" cargo xtask build-and-run{}",
            if args.is_empty() { "" } else { " -- ..." }
        );
    }
    let release = host::target_dir()?.join("release");
    let tracker = release.join("tracker");
    // Nothing of this program has to outlive the build, so that SIGINT finds only the one that has to clean up.
    if args.is_empty() {
        host::become_command(Command::new(release.join("lab")).env("TRACKER_BIN", tracker))
    } else {
        host::become_command(Command::new(tracker).arg("run").args(args))
    }
}
