//! Forms in which flows are printed.

use clap::ValueEnum;

use crate::model::format::Format;

/// Forms of output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Form {
    /// A table on a terminal that fits it, otherwise as `full`
    Text,
    /// One line per flow with everything, as `conntrack` prints it
    Full,
    /// One JSON document
    Json,
    /// One JSON record per line
    Jsonl,
}

impl Form {
    /// As of commands without `full`.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::Text | Self::Full => Format::Text,
            Self::Json => Format::Json,
            Self::Jsonl => Format::Jsonl,
        }
    }
}
