//! `tracker detach`: removes what an agent that was killed has left in the kernel.

use std::io::{self, Write};

use anyhow::Result;

use crate::kernel::{instance::Instance, kernel_side, preflight};

/// Removes everything that an agent of this name has left.
///
/// # Errors
///
/// Where such an agent is running, or something cannot be removed.
pub async fn run(instance: &Instance) -> Result<()> {
    preflight::check_for_detaching()?;
    let claim = instance.claim_to_remove()?;
    let mut said = Vec::new();
    let mut is_nothing = claim.as_ref().is_none_or(|claim| !claim.has_files());
    for pins in instance.pins_of_all_versions()? {
        is_nothing = false;
        said.extend(kernel_side::remove(&pins).await?);
    }
    if let Some(claim) = claim {
        claim.remove_info()?;
    }
    let mut out = io::stdout().lock();
    if is_nothing {
        writeln!(out, "nothing to detach: no agent named `{}` has left anything", instance.name())?;
    }
    for line in said {
        writeln!(out, "detached from {line}")?;
    }
    Ok(())
}
