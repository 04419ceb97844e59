//! The configuration file: the flags of `tracker run`, by their long names.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, error::ErrorKind, parser::ValueSource};
use toml::{Table, Value};

use crate::{
    agent::settings,
    cli::Cli,
    model::{failure::Failure, nearest},
};

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
    let text = match text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
            return nothing(arguments);
        }
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let further = flags(&text, given).with_context(|| path.display().to_string())?;
    let arguments = arguments.into_iter().chain(further.into_iter().map(OsString::from)).collect();
    Ok(Completed { arguments, file: Some(path.to_owned()) })
}

/// The text of a file.
///
/// # Errors
///
/// Where it cannot be read, or is longer than [`LONGEST`]: a running agent reads it again, and must not stall or run out of memory.
pub fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("a configuration file has {LONGEST} bytes at most"),
        ));
    }
    Ok(text)
}

/// Most bytes of a file. All settings with every listener and interface written out take a tenth of this.
const LONGEST: u64 = 1 << 20;

/// The flags that a file means, without those that were given.
fn flags(text: &str, given: &ArgMatches) -> Result<Vec<String>> {
    let (settings, problems) = read(text)?;
    if !problems.is_empty() {
        return Err(Failure::BadInput(problems.join("\n")).into());
    }
    let is_given =
        |setting: &Said| given.value_source(&setting.id) == Some(ValueSource::CommandLine);
    Ok(settings
        .into_iter()
        .filter(|setting| !is_given(setting))
        .flat_map(|setting| setting.flags)
        .collect())
}

/// Everything that is wrong with a file; nothing where an agent could have it.
#[must_use]
pub fn problems(text: &str) -> Vec<String> {
    let (settings, mut problems) = match read(text) {
        Ok(found) => found,
        Err(error) => return vec![format!("{error:#}")],
    };
    for Said { id, flags } in &settings {
        // By itself, so that of several wrong values each is said. What it needs beside it is looked at afterwards.
        if let Some(error) = refusal(flags, id == "interfaces")
            && error.kind() != ErrorKind::MissingRequiredArgument
        {
            problems.push(message(&error));
        }
    }
    if problems.is_empty() {
        let all: Vec<_> = settings.iter().flat_map(|setting| setting.flags.clone()).collect();
        problems.extend(refusal(&all, names_interfaces(text)).map(|error| message(&error)));
    }
    problems
}

/// Whether a file says which interfaces to attach to.
#[must_use]
pub fn names_interfaces(text: &str) -> bool {
    text.parse::<Table>().is_ok_and(|table| table.contains_key("interface"))
}

/// What `tracker run` says of these flags, with an interface where they name none.
fn refusal(flags: &[String], has_interface: bool) -> Option<clap::Error> {
    let interface = (!has_interface).then(|| "--interface=lo".to_owned());
    let line = ["tracker", "run"].map(str::to_owned).into_iter();
    Cli::command().try_get_matches_from(line.chain(interface).chain(flags.iter().cloned())).err()
}

/// What is wrong, without usage and hints about the command line.
fn message(error: &clap::Error) -> String {
    let said = error.to_string();
    let first = said.split("\n\n").next().unwrap_or(&said);
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}

/// A setting of a file.
struct Said {
    /// The argument that it is.
    id: String,
    /// The flags that it means.
    flags: Vec<String>,
}

/// The settings of a file, and what is wrong with others.
fn read(text: &str) -> Result<(Vec<Said>, Vec<String>)> {
    let table: Table = text.parse()?;
    let command = Cli::command();
    let run = command.find_subcommand("run").context("there is a verb `run`")?;
    let known: Vec<(String, &Arg)> = settings::flags(run).collect();
    let (mut settings, mut problems) = (Vec::new(), Vec::new());
    for (key, value) in &table {
        let Some((_, argument)) = known.iter().find(|(name, _)| name == key) else {
            problems.push(format!("`{key}` is no setting{}", suggestion(key, &known)));
            continue;
        };
        match flags_of(key, value, argument.get_action()) {
            Ok(flags) => settings.push(Said { id: argument.get_id().to_string(), flags }),
            Err(error) => problems.push(error.to_string()),
        }
    }
    Ok((settings, problems))
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

fn suggestion(key: &str, known: &[(String, &Arg)]) -> String {
    let otherwise =
        || "they are the long flags of `tracker run`, see `tracker run --help`".to_owned();
    nearest::hint(key, known.iter().map(|(name, _)| name.as_str()), otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags_with(text: &str, arguments: &[&str]) -> Result<Vec<String>> {
        let line = [&["tracker", "run"], arguments].concat();
        let matches = Cli::command().ignore_errors(true).get_matches_from(line);
        flags(text, matches.subcommand_matches("run").expect("it is run"))
    }

    fn refusal_of(text: &str) -> String {
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
        assert!(refusal_of("syn_cookie = \"auto\"").contains("did you mean `syn-cookies`?"));
        assert!(refusal_of("colour = 1").contains("`colour` is no setting"));
        assert!(refusal_of("config = \"other\"").contains("`config` is no setting"));
        assert!(refusal_of("every = 1").contains("true or false"));
        assert!(refusal_of("zone = [1, 2]").contains("one value"));
        assert!(refusal_of("zone = true").contains("a text or a number"));
        assert!(refusal_of("zone = ").contains("TOML"));
    }

    #[test]
    fn everything_that_is_wrong_is_said() {
        let found = problems("zone = 70000\nsyn_cookie = \"auto\"\nxdp = \"fast\"\nevery = 2\n");
        assert_eq!(found.len(), 4, "{found:?}");
        for part in ["`syn_cookie` is no setting", "`every` is true or false", "70000", "'fast'"] {
            assert!(found.iter().any(|said| said.contains(part)), "{part}: {found:?}");
        }
        assert!(found.iter().all(|said| !said.contains("Usage")), "{found:?}");
        // What is right by itself, and not together.
        let found = problems("syn-cookies = \"always\"");
        assert!(found.len() == 1 && found[0].contains("--protect"), "{found:?}");
        let nothing: [&str; 0] = [];
        assert_eq!(problems("interface = [\"eth0\"]\nprotect = [\"80\"]\nzone = 3"), nothing);
        assert_eq!(problems(""), nothing);
    }
}
