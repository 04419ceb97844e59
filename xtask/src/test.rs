//! `cargo xtask test`: runs every test, on this kernel and on others.

use std::ffi::OsString;

use anyhow::Result;

use crate::{fuzz, host, plan::Purpose, setup::setup, soak::Running, vm};

/// Runs `cargo test` of the whole workspace, fuzzes for a minute beside a soak, then runs the tests in virtual machines. With arguments it becomes `cargo test` with these.
///
/// # Errors
///
/// Where a test fails, or cannot be started; without root, for instance.
pub(crate) fn test(args: &[OsString]) -> Result<()> {
    host::needs_root("cargo xtask test")?;
    let is_whole = args.is_empty();
    setup(if is_whole { Purpose::Test } else { Purpose::Run })?;
    let mut command = host::cargo();
    command.args(["test", "--release"]).args(host::PACKAGES).args(host::WITHOUT_FUZZING).args(args);
    if !is_whole {
        return host::become_command(&mut command);
    }
    host::run(&mut command, "cargo test")?;
    by_the_other_way()?;
    let soak = Running::start()?;
    let fuzzed = fuzz::fuzz(&fuzz::Options::for_tests());
    // Also where fuzzing failed: it must not go on alone.
    let soaked = soak.finish();
    fuzzed.and(soaked)?;
    vm::vm(&vm::Options::for_tests())
}

/// The programs of tests that prove the main job.
const MAIN_JOB: [&str; 9] =
    ["opening", "closing", "flags", "sequence", "parsing", "races", "reaper", "cookies", "bulk"];

/// Runs them again, with agents that see arriving packets in the host's stack: `tests/src/way_in.rs`.
fn by_the_other_way() -> Result<()> {
    println!("The main job again, by tcx:");
    let mut command = host::cargo();
    command.args(["test", "--release", "--package", "tracker-tests"]);
    command.args(MAIN_JOB.iter().flat_map(|program| ["--test", program]));
    command.env("TRACKER_TEST_INGRESS", "tcx");
    host::run(&mut command, "cargo test, by tcx")
}
