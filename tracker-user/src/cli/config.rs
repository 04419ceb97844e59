//! `tracker config`: what is wrong with a configuration file, and what an agent's settings are.

pub mod file;
pub mod settings;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Subcommand, error::ErrorKind};
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

use crate::{
    agent::run,
    cli::{config::file::PATH, refusal},
    model::failure::Failure,
};

/// What to do with settings.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List every mistake in a configuration file, and what `tracker run` would refuse on this host; starts nothing
    Check {
        /// File to check
        #[arg(default_value = PATH)]
        file: PathBuf,
    },
    /// Show every setting that `tracker run` would use, as a configuration file, with its source
    Show {
        /// Flags of `tracker run`, including `--config FILE`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS OF RUN")]
        flags: Vec<OsString>,
    },
}

/// Does it.
///
/// # Errors
///
/// Where the file is wrong or cannot be read, or stdout cannot be written.
pub async fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Check { file } => check(file).await,
        Verb::Show { flags } => show(flags),
    }
}

async fn check(path: &Path) -> Result<()> {
    let text = file::text(path).with_context(|| format!("reading {}", path.display()))?;
    let problems = file::problems(&text);
    if !problems.is_empty() {
        let said = format!("{}: {}", path.display(), problems.join("\n"));
        return Err(Failure::BadInput(said).into());
    }
    let names_interfaces = file::names_interfaces(&text);
    if names_interfaces {
        let line = ["tracker", "run", "--config"].map(OsString::from).into_iter();
        let current = settings::read(line.chain([path.into()]).collect())?;
        // What the agent would log meanwhile is no answer.
        let quietly =
            run::check_settings(&current.options).with_subscriber(NoSubscriber::default());
        let refused = quietly.await.err();
        if let Some(error) = refused {
            let said = format!("{}: `tracker run` would refuse it here: {error:#}", path.display());
            return Err(Failure::BadInput(said).into());
        }
    }
    writeln!(io::stdout(), "{}: nothing is wrong with it", path.display())?;
    if !names_interfaces {
        let _ = writeln!(
            io::stderr(),
            "{}: it names no interface, so `tracker run` needs --interface beside it",
            path.display()
        );
    }
    Ok(())
}

fn show(flags: &[OsString]) -> Result<()> {
    let line = ["tracker", "run"].into_iter().map(OsString::from).chain(flags.iter().cloned());
    match settings::read(line.collect()) {
        Ok(current) => Ok(write!(io::stdout(), "{current}")?),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) if error.kind() == ErrorKind::MissingRequiredArgument => Err(refusal(
                "config",
                error.kind(),
                "no interface is named: give `--interface NAME`, or a file that names one by `--config FILE`",
            )),
            Ok(error) => Err(error.into()),
            Err(error) => Err(error),
        },
    }
}
