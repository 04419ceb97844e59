//! docs/kernels.md, from what a run showed.

use std::fs;

use anyhow::{Context, Result};

use super::{absence::Absences, outcome::Outcome};
use crate::host;

/// Writes the page.
///
/// # Errors
///
/// Where it cannot be written.
pub(crate) fn write(outcomes: &[Outcome], _absences: &Absences) -> Result<()> {
    let page = host::workspace().join("docs/kernels.md");
    let mut text = String::new();
    for outcome in outcomes {
        text.push_str(&format!("{outcome}\n"));
    }
    fs::write(&page, text).with_context(|| format!("writing {}", page.display()))
}
