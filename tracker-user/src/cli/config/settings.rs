//! Reading the settings of `tracker run` from its command line and the configuration file.

use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, parser::ValueSource};
use toml::Value;

use crate::{
    agent::settings::{Current, Setting, Source, flags},
    cli::{
        Cli, Command,
        config::file::{Completed, complete},
    },
};

/// Reads the file, and completes a command line with it.
///
/// # Errors
///
/// Where the file cannot be read or is wrong; a [`clap::Error`] where both together are.
pub fn read(arguments: Vec<OsString>) -> Result<Current> {
    let given = Cli::command().ignore_errors(true).try_get_matches_from(&arguments)?;
    let Completed { arguments, file } = complete(arguments)?;
    let matches = Cli::command().try_get_matches_from(arguments)?;
    let settings = match (given.subcommand(), matches.subcommand()) {
        (Some(("run", given)), Some(("run", all))) => settings(given, all),
        _ => bail!("this is no command line of `tracker run`"),
    };
    match Cli::from_arg_matches(&matches)?.command {
        Command::Run(options) => Ok(Current { options: *options, settings, file }),
        _ => bail!("this is no command line of `tracker run`"),
    }
}

fn settings(given: &ArgMatches, all: &ArgMatches) -> Vec<Setting> {
    let command = Cli::command();
    let Some(run) = command.find_subcommand("run") else { return Vec::new() };
    flags(run)
        .map(|(name, argument)| {
            let id = argument.get_id().as_str();
            let source = match (given.value_source(id), all.value_source(id)) {
                (Some(ValueSource::CommandLine), _) => Source::Flag,
                (_, Some(ValueSource::CommandLine)) => Source::File,
                _ => Source::Default,
            };
            let mut values =
                all.get_raw(id).into_iter().flatten().map(|value| scalar(&value.to_string_lossy()));
            let value = match argument.get_action() {
                ArgAction::SetTrue => Some(Value::Boolean(all.get_flag(id))),
                ArgAction::Append => {
                    let values: Vec<_> = values.collect();
                    (!values.is_empty()).then_some(Value::Array(values))
                }
                _ => values.next(),
            };
            Setting { name, value, source }
        })
        .collect()
}

/// A number where it is one, as one would write it oneself.
fn scalar(text: &str) -> Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(number), _) if number.to_string() == text => Value::Integer(number),
        (_, Ok(number)) if number.to_string() == text => Value::Float(number),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Current> {
        let line = [&["tracker", "run"], arguments].concat();
        super::read(line.into_iter().map(OsString::from).collect())
    }

    #[test]
    fn what_is_shown_means_the_same_again() -> Result<()> {
        let path = std::env::temp_dir().join(format!("tracker-settings-{}", std::process::id()));
        std::fs::write(&path, "interface = [\"eth0\"]\nzone = 7\nsweep-interval = 0.5\n")?;
        let file = path.to_string_lossy();
        let first = read(&["--config", &file, "--zone", "8", "--every", "--protect", "80,443"])?;
        let shown = first.to_string();
        let of = |name: &str| shown.lines().find(|line| line.starts_with(&format!("{name} ")));
        assert_eq!(of("zone"), Some("zone = 8 # command line"));
        assert_eq!(of("sweep-interval"), Some(&*format!("sweep-interval = 0.5 # {file}")));
        assert_eq!(of("timeout-closed"), Some("timeout-closed = 10 # default"));
        assert_eq!(of("every"), Some("every = true # command line"));
        assert!(shown.contains("# metrics is not set"), "{shown}");

        std::fs::write(&path, &shown)?;
        let second = read(&["--config", &file])?;
        std::fs::remove_file(&path)?;
        let values = |current: &Current| -> Vec<_> {
            current
                .settings
                .iter()
                .map(|setting| (setting.name.clone(), setting.value.clone()))
                .collect()
        };
        assert_eq!(values(&first), values(&second));
        Ok(())
    }
}
