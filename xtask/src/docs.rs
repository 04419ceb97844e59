//! `cargo xtask docs`: writes the pages that are made from the source.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{host, plan::Purpose, setup::setup};

/// Builds `tracker` and lets it write `docs/violations.md` and `docs/schema`.
///
/// # Errors
///
/// Where it does not build, or the page cannot be written.
pub(crate) fn docs() -> Result<()> {
    setup(Purpose::Run)?;
    host::run(
        host::cargo().args(["build", "--release", "--package", "tracker-user"]),
        "cargo build",
    )?;
    let tracker = host::target_dir()?.join("release/tracker");
    let schemas = host::workspace().join("docs/schema");
    host::run(
        Command::new(&tracker).args(["generate", "schemas"]).arg(schemas),
        "tracker generate schemas",
    )?;
    let output = Command::new(tracker).arg("guide").output().context("starting `tracker guide`")?;
    if !output.status.success() {
        bail!("`tracker guide` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let page = host::workspace().join("docs/violations.md");
    fs::write(&page, output.stdout).with_context(|| format!("writing {}", page.display()))
}
