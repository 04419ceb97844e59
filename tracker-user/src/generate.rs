//! `tracker generate`: manual pages and shell completions, from the command line's own definition, and schemas. For packages.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

use crate::{cli::Cli, config::file::PATH, schema};

/// What to write.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// A manual page for each verb
    Man {
        /// Where to
        directory: PathBuf,
    },
    /// Completions for bash, zsh and fish
    Completions {
        /// Where to
        directory: PathBuf,
    },
    /// JSON Schemas of the commands' output
    Schemas {
        /// Where to
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
        Verb::Man { directory } => pages(directory),
        Verb::Completions { directory } => completions(directory),
        Verb::Schemas { directory } => schema::write(directory),
    }
}

fn pages(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("writing manual pages to {}", directory.display()))?;
    let mut page = OpenOptions::new().append(true).open(directory.join("tracker.1"))?;
    Ok(page.write_all(further_sections().as_bytes())?)
}

/// What the definition of the command line does not say.
fn further_sections() -> String {
    format!(
        ".SH EXIT STATUS\n\
         .TP\n0\nDone.\n\
         .TP\n1\nFailed; stderr says why, and what to do about it.\n\
         .TP\n2\nWrong usage.\n\
         .SH ENVIRONMENT\n\
         .TP\nTRACKER_LOG\nWhat is logged to stderr, as in \\fBinfo,tracker_user=debug\\fR; takes the place of \\fB\\-\\-verbose\\fR.\n\
         .TP\nNO_COLOR\nNo colours, where it is set and not empty.\n\
         .TP\nNOTIFY_SOCKET, WATCHDOG_USEC\nHow \\fBtracker run\\fR tells a service manager how it is, see \
         \\fBsd_notify\\fR(3).\n\
         .SH FILES\n\
         .TP\n{PATH}\nSettings of \\fBtracker run\\fR, by the long names of its flags.\n\
         .TP\n/sys/fs/bpf/tracker\nWhat is in the kernel: links and maps. It survives an agent that is killed; \\fBtracker \
         detach\\fR removes it.\n\
         .TP\n/run/tracker\nSockets, locks, and what agents say about themselves.\n\
         .SH SEE ALSO\n\
         .BR ss (8),\n.BR conntrack (8),\n.BR tcpdump (8),\n.BR bpftool (8)\n"
    )
}

fn completions(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "tracker", directory)
            .with_context(|| format!("writing completions to {}", directory.display()))?;
    }
    Ok(())
}
