//! `tracker generate`: manual pages and shell completions, from the command line's own definition, and schemas. For packages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

use crate::cli::{Cli, manual, schema};

/// What to write.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Write a manual page for each command (section 1), and one for the settings (section 5)
    Man {
        /// Directory to write to
        directory: PathBuf,
    },
    /// Write completions for bash, zsh and fish
    Completions {
        /// Directory to write to
        directory: PathBuf,
    },
    /// Write JSON Schemas of the commands' output
    Schemas {
        /// Directory to write to
        directory: PathBuf,
    },
}

/// Writes it.
///
/// # Errors
///
/// Where a file cannot be written.
pub fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Man { directory } => manual::write(directory),
        Verb::Completions { directory } => completions(directory),
        Verb::Schemas { directory } => schema::write(directory),
    }
}

fn completions(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "tracker", directory)
            .with_context(|| format!("writing completions to {}", directory.display()))?;
    }
    Ok(())
}
