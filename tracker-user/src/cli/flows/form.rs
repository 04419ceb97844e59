//! Forms in which flows are printed.

use clap::ValueEnum;

use crate::model::format::Format;

/// Forms of output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Form {
    /// A table on a terminal that fits it, otherwise as `full`
    Text,
    /// One line per flow with everything
    Full,
    /// As `conntrack -L` prints it, byte for byte
    Conntrack,
    /// One JSON document
    Json,
    /// One JSON record per line
    Jsonl,
}

impl Form {
    /// As of commands that have no others.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::Text | Self::Full | Self::Conntrack => Format::Text,
            Self::Json => Format::Json,
            Self::Jsonl => Format::Jsonl,
        }
    }
}
