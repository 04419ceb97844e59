//! What the running kernel has, by its symbols: tests on kernels that lack something take the way that is left.

use std::fs;

use anyhow::{Context, Result};

/// Whether classifiers can be attached by tcx (Linux 6.6).
///
/// # Errors
///
/// Where /proc/kallsyms cannot be read.
pub fn has_tcx() -> Result<bool> {
    has_symbol("tcx_prog_attach")
}

/// Whether connections can be handed to a listener: `bpf_sk_assign_tcp_reqsk` (Linux 6.9).
///
/// # Errors
///
/// Where /proc/kallsyms cannot be read.
pub fn has_handover() -> Result<bool> {
    has_symbol("bpf_sk_assign_tcp_reqsk")
}

/// The ways to attach to leaving packets that there are, as `--egress` has them.
///
/// # Errors
///
/// Where /proc/kallsyms cannot be read.
pub fn egress_ways() -> Result<&'static [&'static str]> {
    Ok(if has_tcx()? { &["tcx", "clsact"] } else { &["clsact"] })
}

fn has_symbol(name: &str) -> Result<bool> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("reading /proc/kallsyms")?;
    Ok(symbols.lines().any(|line| line.split_whitespace().nth(2) == Some(name)))
}
