//! The settings of `tracker run`, by the long names of its flags, and where each comes from.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::Arg;
use toml::Value;

use crate::agent::options;

/// How the names of settings begin that mean nothing without `protect`.
const NEEDS_PROTECT: &str = "syn-cookies";

/// Where a setting comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The configuration file.
    File,
    /// Nobody has said anything.
    Default,
}

/// One setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The flag's long name.
    pub name: String,
    /// Its value, as the file has it; `None` where there is none unless it is given.
    pub value: Option<Value>,
    /// Where it comes from.
    pub source: Source,
}

/// What one command line of `tracker run` means, with its configuration file as that is now.
#[derive(Clone, Debug)]
pub struct Current {
    /// The same as options.
    pub options: options::Options,
    /// The same by name, in the order of the flags' help.
    pub settings: Vec<Setting>,
    /// The file, where there is one.
    pub file: Option<PathBuf>,
}

/// The flags of `tracker run` that are settings: all but the one that names the file, and help.
pub fn flags(run: &clap::Command) -> impl Iterator<Item = (String, &Arg)> {
    run.get_arguments().filter_map(|argument| {
        let name = argument.get_long().filter(|name| !["config", "help"].contains(name))?;
        (!argument.is_global_set()).then(|| (name.to_owned(), argument))
    })
}

/// As a configuration file.
impl fmt::Display for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protects = self.settings.iter().any(|it| it.name == "protect" && it.value.is_some());
        for Setting { name, value, source } in &self.settings {
            let Some(value) = value else {
                writeln!(f, "# {name} is not set")?;
                continue;
            };
            match (source, &self.file) {
                (Source::Flag, _) => writeln!(f, "{name} = {value} # command line")?,
                (Source::File, Some(file)) => {
                    writeln!(f, "{name} = {value} # {}", one_line(file))?;
                }
                // By itself it would be refused.
                _ if name.starts_with(NEEDS_PROTECT) && !protects => {
                    writeln!(f, "# {name} = {value} # default, with protect")?;
                }
                _ => writeln!(f, "{name} = {value} # default")?,
            }
        }
        Ok(())
    }
}

/// A path that ends no comment.
fn one_line(path: &Path) -> String {
    path.display().to_string().replace(|c: char| c.is_control(), "?")
}
