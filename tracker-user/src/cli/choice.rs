//! Which flows a command is about, as its arguments say.

use std::io::{self, Write};

use anyhow::Result;
use clap::error::ErrorKind;
use tracker_common::violation::Rule;

use crate::{
    cli,
    client::agent::Agent,
    kernel::instance::Instance,
    model::{
        filter::{self, Filter},
        nearest::hint,
    },
};

/// A filter by options, by words, or by both.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Choice {
    /// The same filters in the words of `ss` and `tcpdump`: `state established and ( dport 80,443 or host 10.0.0.1 )`
    #[arg(value_name = "WORD")]
    words: Vec<String>,
    /// The options.
    #[command(flatten)]
    options: filter::FilterOptions,
}

/// What users of `ss` are used to type.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct TcpOnly {
    /// TCP only, which is always so
    #[arg(short, long, help_heading = "Filters")]
    tcp: bool,
}

impl Choice {
    /// What both ask for together.
    ///
    /// # Errors
    ///
    /// That of a wrong command line, where the words are none, or contradict an option.
    pub fn filter(&self, verb: &str) -> Result<Filter> {
        self.filter_with(&[], verb)
    }

    /// The same where it can be asked for broken rules, too.
    ///
    /// # Errors
    ///
    /// As [`Choice::filter`].
    pub fn filter_with(&self, broken: &[Rule], verb: &str) -> Result<Filter> {
        filter(&self.options, broken, &self.words, verb)
    }
}

/// What options, rules and words ask for together.
///
/// # Errors
///
/// That of a wrong command line.
pub fn filter(
    options: &filter::FilterOptions,
    broken: &[Rule],
    words: &[String],
    verb: &str,
) -> Result<Filter> {
    Filter::new(options, broken, &words.join(" "))
        .map_err(|error| cli::refusal(verb, ErrorKind::ValueValidation, &error))
}

/// Refuses interfaces that an agent never had, because no flow can be of one.
///
/// # Errors
///
/// That of a wrong command line; where no agent runs.
pub fn check_interfaces(filter: &Filter, instance: &Instance, verb: &str) -> Result<()> {
    match unknown_interface(filter, instance)? {
        Some(said) => Err(cli::refusal(verb, ErrorKind::ValueValidation, &said)),
        None => Ok(()),
    }
}

/// Warns of interfaces that an agent does not have, which may appear later.
///
/// # Errors
///
/// Where no agent runs.
pub fn warn_of_interfaces(filter: &Filter, instance: &Instance) -> Result<()> {
    if let Some(said) = unknown_interface(filter, instance)? {
        let _ = writeln!(io::stderr(), "tracker: {said}");
    }
    Ok(())
}

fn unknown_interface(filter: &Filter, instance: &Instance) -> Result<Option<String>> {
    let asked = filter.interfaces();
    if asked.is_empty() {
        return Ok(None);
    }
    let agent = Agent::find(instance)?;
    let known: Vec<_> = agent.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let unknown = asked.iter().find(|name| !known.contains(&name.as_str()));
    Ok(unknown.map(|name| {
        let all = || format!("it has {}", known.join(", "));
        format!("the agent has no interface `{name}`{}", hint(name, known.iter().copied(), all))
    }))
}
