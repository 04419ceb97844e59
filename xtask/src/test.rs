//! `cargo xtask test`: runs every test, on this kernel and on others.

mod programs;

use std::ffi::OsString;

use anyhow::{Context, Result};

use crate::{fuzz, host, plan::Purpose, setup::setup, soak::Running, vm};

/// Runs the tests of the whole workspace, fuzzes for a minute beside a soak, then runs the tests in virtual machines. With arguments it
/// becomes `cargo test` with these.
///
/// # Errors
///
/// Where a test fails, or cannot be started; without root, for instance.
pub(crate) fn test(args: &[OsString]) -> Result<()> {
    host::needs_root("cargo xtask test")?;
    let is_whole = args.is_empty();
    setup(if is_whole { Purpose::Test } else { Purpose::Run })?;
    if !is_whole {
        let mut command = host::cargo();
        command.args(["test", "--release"]).args(host::PACKAGES).args(host::WITHOUT_FUZZING);
        return host::become_command(command.args(args));
    }
    here()?;
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

/// Runs every test on this kernel. What proves the main job runs twice: the second time with agents that see arriving packets in the
/// host's stack (`tests/src/way_in.rs`).
fn here() -> Result<()> {
    let all = [&host::PACKAGES[..], &host::WITHOUT_FUZZING].concat();
    let mut programs = programs::build(&all)?;
    let again = MAIN_JOB.map(|name| {
        let program = programs.iter().find(|program| program.is(name));
        let program = program.with_context(|| format!("there is no program of tests `{name}`"))?;
        Ok(program.with("TRACKER_TEST_INGRESS", "tcx"))
    });
    let again = again.into_iter().collect::<Result<Vec<_>>>()?;
    programs.extend(again);
    programs::run(programs)?;
    programs::examples(&all)
}
