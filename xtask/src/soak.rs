//! `cargo xtask soak`: all troubles at once, for as long as is asked.

use std::process::{Child, Command};

use anyhow::{Context, Result, bail};

use crate::{host, plan::Purpose, setup::setup};

/// How long it is in `cargo xtask test`, in minutes.
const IN_TESTS: u32 = 3;

/// Options of `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// For so many minutes
    #[arg(default_value_t = IN_TESTS, value_parser = clap::value_parser!(u32).range(1..=1440))]
    minutes: u32,
}

/// Runs tests/tests/soak for so many minutes, and prints what was counted.
///
/// # Errors
///
/// Where something was lost, counted wrongly, or left behind, or without root.
pub(crate) fn soak(options: &Options) -> Result<()> {
    host::needs_root("cargo xtask soak")?;
    setup(Purpose::Run)?;
    host::run(&mut program(options.minutes), "the soak")
}

/// One that goes on while other tests run.
pub(crate) struct Running(Child);

impl Running {
    /// Builds it, and starts it.
    ///
    /// # Errors
    ///
    /// Where it cannot be built or started.
    pub(crate) fn start() -> Result<Self> {
        println!("A soak of {IN_TESTS} minutes, beside the fuzzing:");
        host::run(cargo_test().arg("--no-run"), "building the soak")?;
        Ok(Self(program(IN_TESTS).spawn().context("starting the soak")?))
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// Where it failed.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.0.wait().context("waiting for the soak")?;
        if !status.success() {
            bail!("the soak failed ({status})");
        }
        Ok(())
    }
}

fn cargo_test() -> Command {
    let mut command = host::cargo();
    // With the same packages as all tests, and so with the same features of what they need: nothing is compiled twice.
    command.args(["test", "--release"]).args(host::PACKAGES).args(host::WITHOUT_FUZZING);
    command.args(["--test", "soak"]);
    command
}

fn program(minutes: u32) -> Command {
    let mut command = cargo_test();
    command.args(["--", "--nocapture"]);
    command.env("TRACKER_SOAK_SECONDS", (60 * minutes).to_string());
    command
}
