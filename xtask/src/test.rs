//! `cargo xtask test`: runs every test, on this kernel and on others.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::{host, plan::Purpose, setup::setup, vm};

/// Runs `cargo test` of the whole workspace, then the tests in virtual machines. With arguments it becomes `cargo test` with
/// these.
///
/// # Errors
///
/// Where a test fails, or cannot be started; without root, for instance.
pub(crate) fn test(args: &[OsString]) -> Result<()> {
    if !host::is_root() {
        bail!(
            "the tests need root: they make network namespaces and load the kernel programs. Type:\n\n    \
             sudo -E env \"PATH=$PATH\" cargo xtask test"
        );
    }
    let is_whole = args.is_empty();
    setup(if is_whole { Purpose::Test } else { Purpose::Run })?;
    let mut command = host::cargo();
    command
        .args(["test", "--release", "--workspace"])
        .args(["--exclude", "tracker-ebpf", "--exclude", "tracker-bench-ebpf"])
        .args(args);
    if !is_whole {
        return host::become_command(&mut command);
    }
    host::run(&mut command, "cargo test")?;
    vm::vm(&vm::Options::for_tests())
}
