//! `cargo xtask structure`: imports between layers point down, only the command line names anyhow, and files are short or say
//! why not.

mod errors;
mod imports;
mod layers;
mod length;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::host;

/// A source file: its path from the workspace's root, with `/`, and its text.
#[derive(Clone, Debug)]
struct Source {
    path: String,
    text: String,
}

/// The crate whose folders are layers.
const LAYERED: &str = "tracker-user/src";

/// The files that may be long, and why.
const LONG_FILES: &str = "xtask/long-files.toml";

/// Prints how layers import each other and which files are long, and why.
///
/// # Errors
///
/// Where an import points upward, anyhow is named below the command line, or a file is long and not listed, or listed and not
/// long; says all of them.
pub(crate) fn structure() -> Result<()> {
    let sources = sources(host::workspace())?;
    let mut problems = Vec::new();

    let layered: Vec<_> = sources
        .iter()
        .filter_map(|source| source.path.strip_prefix(LAYERED).map(|_| source))
        .collect();
    let report = layers::check(&layered, LAYERED)?;
    println!("{}", report.graph);
    problems.extend(report.problems);
    problems.extend(errors::check(&layered, LAYERED)?);

    let list = host::workspace().join(LONG_FILES);
    let list = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    let report = length::check(&sources, &list)?;
    for long in &report.long {
        println!("{long}");
    }
    problems.extend(report.problems);

    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// Every Rust file of the workspace, in the order of paths; not what cargo builds, or is hidden.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("reading {}", directory.display()))?
            .collect::<Result<Vec<_>, _>>()?;
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    directories.push(path);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.iter().map(|path| read(root, path)).collect()
}

fn read(root: &Path, path: &PathBuf) -> Result<Source> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let path = path.strip_prefix(root).context("a path below the workspace's root")?;
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    Ok(Source { path: parts.join("/"), text })
}
