//! Which flows a command is about, as its arguments say.

use anyhow::Result;
use clap::error::ErrorKind;
use tracker_common::violation::Rule;

use crate::{
    cli,
    filter::{Filter, words},
};

/// A filter by options, by words, or by both.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Choice {
    /// The same filters in the words of `ss`: `state established dport 443 src 10.0.0.0/8`
    #[arg(value_name = "WORD")]
    words: Vec<String>,
    /// The options.
    #[command(flatten)]
    options: Filter,
}

impl Choice {
    /// What both ask for together.
    ///
    /// # Errors
    ///
    /// That of a wrong command line, where the words are none, or an option says the same.
    pub fn filter(&self, verb: &str) -> Result<Filter> {
        let both = words(&self.words.join(" ")).and_then(|filter| filter.and(&self.options));
        both.map_err(|error| cli::refusal(verb, ErrorKind::ValueValidation, &error))
    }

    /// The same where it can be asked for broken rules, too.
    ///
    /// # Errors
    ///
    /// As [`Choice::filter`].
    pub fn filter_with(&self, broken: &[Rule], verb: &str) -> Result<Filter> {
        let broken = Filter { violation: broken.to_vec(), ..Filter::default() };
        let both = self.filter(verb)?.and(&broken);
        both.map_err(|error| cli::refusal(verb, ErrorKind::ValueValidation, &error))
    }
}
