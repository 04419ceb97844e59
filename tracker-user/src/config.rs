//! The configuration file: the flags of `tracker run`, by their long names.

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, parser::ValueSource};
use toml::{Table, Value};

use crate::cli::Cli;

/// Read where no other is named and this one is there.
pub const PATH: &str = "/etc/tracker/tracker.toml";

/// A command line, and the file that completed it.
#[derive(Debug)]
pub struct Completed {
    /// All of it.
    pub arguments: Vec<OsString>,
    /// Where there is one.
    pub file: Option<PathBuf>,
}

/// Adds what the configuration file says to a command line of `tracker run`. What the command line says itself wins, and
/// others are left as they are.
///
/// # Errors
///
/// Where the file cannot be read, or says what no flag can say.
pub fn complete(arguments: Vec<OsString>) -> Result<Completed> {
    let nothing = |arguments| Ok(Completed { arguments, file: None });
    let given = Cli::command().ignore_errors(true).try_get_matches_from(&arguments);
    // What is wrong with it is said when it is taken in earnest.
    let Ok(given) = given else { return nothing(arguments) };
    let Some(("run", given)) = given.subcommand() else { return nothing(arguments) };
    let named = given.get_one::<PathBuf>("config");
    let path = named.map_or(Path::new(PATH), PathBuf::as_path);
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
            return nothing(arguments);
        }
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let further = flags(&text, given).with_context(|| path.display().to_string())?;
    let arguments = arguments.into_iter().chain(further.into_iter().map(OsString::from)).collect();
    Ok(Completed { arguments, file: Some(path.to_owned()) })
}

/// The flags that a file means, without those that were given.
fn flags(text: &str, given: &ArgMatches) -> Result<Vec<String>> {
    let table: Table = text.parse()?;
    let command = Cli::command();
    let run = command.find_subcommand("run").context("there is a verb `run`")?;
    let known: Vec<&Arg> = run
        .get_arguments()
        .filter(|argument| argument.get_long().is_some_and(|name| name != "config"))
        .collect();
    let mut flags = Vec::new();
    for (key, value) in &table {
        let Some(argument) = known.iter().find(|argument| argument.get_long() == Some(key)) else {
            bail!("`{key}` is no setting{}", suggestion(key, &known));
        };
        let said = flags_of(key, value, argument.get_action())?;
        let id = argument.get_id().as_str();
        if given.value_source(id) != Some(ValueSource::CommandLine) {
            flags.extend(said);
        }
    }
    Ok(flags)
}

fn flags_of(key: &str, value: &Value, action: &ArgAction) -> Result<Vec<String>> {
    let flag = |value: &Value| match value {
        Value::String(text) => Ok(format!("--{key}={text}")),
        Value::Integer(number) => Ok(format!("--{key}={number}")),
        Value::Float(number) => Ok(format!("--{key}={number}")),
        _ => bail!("`{key}` takes a text or a number"),
    };
    match (action, value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![format!("--{key}")]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => bail!("`{key}` is true or false"),
        (ArgAction::Append, Value::Array(values)) => values.iter().map(flag).collect(),
        (_, Value::Array(_)) => bail!("`{key}` takes one value, not a list"),
        (_, value) => Ok(vec![flag(value)?]),
    }
}

fn suggestion(key: &str, known: &[&Arg]) -> String {
    let like = |name: &str| strsim::jaro_winkler(name, &key.replace('_', "-"));
    let nearest = known
        .iter()
        .filter_map(|argument| argument.get_long())
        .max_by(|a, b| like(a).total_cmp(&like(b)))
        .filter(|name| like(name) > 0.75);
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => "; they are the long flags of `tracker run`, see `tracker run --help`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags_with(text: &str, arguments: &[&str]) -> Result<Vec<String>> {
        let line = [&["tracker", "run"], arguments].concat();
        let matches = Cli::command().ignore_errors(true).get_matches_from(line);
        flags(text, matches.subcommand_matches("run").expect("it is run"))
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", flags_with(text, &[]).expect_err("it is wrong"))
    }

    #[test]
    fn a_setting_is_a_flag() -> Result<()> {
        let text = "interface = [\"eth0\", \"eth1\"]\nprotect = \"80,443\"\nsyn-cookies = \"always\"\n\
                    timeout-closed = 5\nsweep-interval = 0.5\nevery = true\nkernel-log = false\n";
        let mut flags = flags_with(text, &[])?;
        flags.sort();
        assert_eq!(
            flags,
            [
                "--every",
                "--interface=eth0",
                "--interface=eth1",
                "--protect=80,443",
                "--sweep-interval=0.5",
                "--syn-cookies=always",
                "--timeout-closed=5"
            ]
        );
        Ok(())
    }

    #[test]
    fn what_the_command_line_says_wins() -> Result<()> {
        let text = "interface = [\"eth0\"]\nprotect = [\"80\"]\nsyn-cookies = \"always\"";
        let flags = flags_with(text, &["--interface", "eth7", "--syn-cookies", "off"])?;
        assert_eq!(flags, ["--protect=80"]);
        Ok(())
    }

    #[test]
    fn what_no_flag_can_say_is_refused() {
        assert!(refusal("syn_cookie = \"auto\"").contains("did you mean `syn-cookies`?"));
        assert!(refusal("colour = 1").contains("`colour` is no setting"));
        assert!(refusal("config = \"other\"").contains("`config` is no setting"));
        assert!(refusal("every = 1").contains("true or false"));
        assert!(refusal("zone = [1, 2]").contains("one value"));
        assert!(refusal("zone = true").contains("a text or a number"));
        assert!(refusal("zone = ").contains("TOML"));
    }
}
