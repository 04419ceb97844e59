//! Receivers of tests that are packages for Python: each set of them has an environment of its own in target/tools.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::host;

/// The packages of an environment, with versions and hashes.
fn requirements(workspace: &Path, name: &str) -> PathBuf {
    workspace.join(format!("tests/receivers/{name}.txt"))
}

/// Where an environment is.
fn directory(workspace: &Path, name: &str) -> PathBuf {
    workspace.join(format!("target/tools/{name}"))
}

/// Whether an environment has its packages, in these versions.
pub(crate) fn is_made(name: &str) -> bool {
    let wanted = fs::read(requirements(host::workspace(), name)).ok();
    wanted.is_some() && wanted == fs::read(directory(host::workspace(), name).join(NOTE)).ok()
}

/// What makes an environment.
pub(crate) fn commands(workspace: &Path, name: &str) -> [Vec<String>; 2] {
    let at = directory(workspace, name).display().to_string();
    let packages = requirements(workspace, name).display().to_string();
    let words = |line: &[&str]| line.iter().map(|word| (*word).to_owned()).collect();
    [
        words(&["python3", "-m", "venv", "--clear", &at]),
        words(&[
            &format!("{at}/bin/python3"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            "--requirement",
            &packages,
        ]),
    ]
}

/// Makes an environment, and installs its packages by pip.
///
/// # Errors
///
/// Where Python's `venv` is missing, or pip cannot install them.
pub(crate) fn make(name: &str) -> Result<()> {
    eprintln!("Installing {name}'s packages for Python in target/tools/{name}.");
    for line in commands(host::workspace(), name) {
        let (program, arguments) = line.split_first().context("a command has a program")?;
        host::run(Command::new(program).args(arguments), &line.join(" "))?;
    }
    let made = directory(host::workspace(), name).join(NOTE);
    fs::copy(requirements(host::workspace(), name), made).context("noting what was installed")?;
    Ok(())
}

/// The file of an environment that says what is in it.
const NOTE: &str = "requirements.txt";
