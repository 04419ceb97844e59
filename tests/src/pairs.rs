//! Commands in pairs: what users of another tool type, and what they type here instead.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// The pairs of the first table of a page in `docs`.
///
/// # Errors
///
/// Where there is no such page, or a row of its table has less than two commands.
pub fn pairs(page: &str) -> Result<Vec<(String, String)>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let page = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let table = page.split("|---|---|\n").nth(1).context("a table")?;
    let commands = |row: &str| {
        let mut cells = row.split('`');
        let (theirs, ours) = (cells.nth(1)?.to_owned(), cells.nth(1)?.to_owned());
        Some((theirs, ours))
    };
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| commands(row).with_context(|| row.to_owned())).collect()
}
