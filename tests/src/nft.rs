//! Rules of nftables.

use std::{io::Write, process::Stdio};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;

/// Adds rules, in nft's language.
///
/// # Errors
///
/// Where there is no nft, or it refuses them.
pub fn load(namespace: &Namespace, rules: &str) -> Result<()> {
    let mut loading = namespace
        .command("nft")
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("starting nft")?;
    loading.stdin.take().context("a pipe")?.write_all(rules.as_bytes())?;
    ensure!(loading.wait()?.success(), "nft refuses {rules}");
    Ok(())
}
