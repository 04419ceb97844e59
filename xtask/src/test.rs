//! `cargo xtask test`: runs every test.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::{host, plan::Purpose, setup::setup};

/// Becomes `cargo test` of the whole workspace, with these arguments.
///
/// # Errors
///
/// Where that cannot be started; without root, for instance.
pub(crate) fn test(args: &[OsString]) -> Result<()> {
    if !host::is_root() {
        bail!(
            "the tests need root: they make network namespaces and load the kernel programs. Type:\n\n    \
             sudo -E env \"PATH=$PATH\" cargo xtask test"
        );
    }
    setup(Purpose::Run)?;
    host::become_command(
        host::cargo()
            .args(["test", "--release", "--workspace"])
            .args(["--exclude", "tracker-ebpf", "--exclude", "tracker-bench-ebpf"])
            .args(args),
    )
}
