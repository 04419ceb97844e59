//! Builds the command for a package: for this processor or another one, and so that it needs glibc or nothing.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{cross::Target, host};

/// What is built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Build {
    /// For which processor.
    pub(super) target: Target,
    /// With glibc inside.
    pub(super) is_static: bool,
}

impl Build {
    /// Builds the command, and returns it: not stripped yet.
    ///
    /// # Errors
    ///
    /// Where something is missing that cannot be installed from here, or it does not compile.
    pub(super) fn run(self) -> Result<PathBuf> {
        let flags: &[&str] = if self.is_static { &["-Ctarget-feature=+crt-static"] } else { &[] };
        let (mut command, built) = self.target.cargo("build", flags)?;
        command.args(["--release", "--locked", "--package", "tracker-user", "--bin", "tracker"]);
        host::run(&mut command, "cargo build")?;
        let program = built.join("release/tracker");
        self.check(&program)?;
        Ok(program)
    }

    /// Whether a program is what was to be built.
    fn check(self, program: &Path) -> Result<()> {
        let mut readelf = Command::new("readelf");
        let output = readelf
            .args(["--wide", "--file-header", "--program-headers"])
            .arg(program)
            .env("LC_ALL", "C")
            .output()
            .context("starting readelf, of binutils")?;
        let headers = String::from_utf8_lossy(&output.stdout);
        let machine = self.target.machine();
        ensure!(headers.contains(machine), "{} is not for {machine}", program.display());
        let needs_linker = headers.lines().any(|line| line.trim_start().starts_with("INTERP"));
        ensure!(needs_linker != self.is_static, "{} is linked in the other way", program.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_is_looked_at() -> Result<()> {
        // This program is for this machine, and needs glibc.
        let program = std::env::current_exe()?;
        let here = Target::here()?;
        Build { target: here, is_static: false }.check(&program)?;
        let other = Target::ALL.into_iter().find(|target| *target != here).context("another")?;
        for wrong in
            [Build { target: other, is_static: false }, Build { target: here, is_static: true }]
        {
            ensure!(wrong.check(&program).is_err(), "{wrong:?}");
        }
        Ok(())
    }
}
