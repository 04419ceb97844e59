//! `cargo xtask docs`: writes the pages that are made from the source.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{host, plan::Purpose, setup::setup};

/// Builds `tracker`, and writes `docs/violations.md`, `docs/schema` and, as root, `docs/top.svg`.
///
/// # Errors
///
/// Where it does not build, or a page cannot be written.
pub(crate) fn docs() -> Result<()> {
    setup(Purpose::Run)?;
    host::run(
        host::cargo()
            .args(["build", "--release", "--package", "tracker-user"])
            .args(["--package", "tracker-tests"]),
        "cargo build",
    )?;
    let release = host::target_dir()?.join("release");
    let tracker = release.join("tracker");
    let schemas = host::workspace().join("docs/schema");
    host::run(
        Command::new(&tracker).args(["generate", "schemas"]).arg(schemas),
        "tracker generate schemas",
    )?;
    let output =
        Command::new(&tracker).arg("guide").output().context("starting `tracker guide`")?;
    if !output.status.success() {
        bail!("`tracker guide` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let page = host::workspace().join("docs/violations.md");
    fs::write(&page, output.stdout).with_context(|| format!("writing {}", page.display()))?;
    if !host::is_root() {
        println!("docs/top.svg is unchanged: it needs root, for network namespaces");
        return Ok(());
    }
    let mut picture = Command::new(release.join("picture"));
    picture.arg(host::workspace().join("docs/top.svg")).env("TRACKER_BIN", tracker);
    host::run(&mut picture, "picture")
}
