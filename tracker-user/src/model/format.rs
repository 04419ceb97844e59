//! Forms of output.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

/// A JSON record that stands by itself, on a line of its own.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Line<T> {
    /// Version of this form: 1.
    v: u32,
    /// The record.
    #[serde(flatten)]
    record: T,
}

impl<T> Line<T> {
    /// The line of a record.
    pub fn new(record: T) -> Self {
        Self { v: 1, record }
    }
}

/// Forms of output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// Plain text
    Text,
    /// One JSON document
    Json,
    /// One JSON record per line
    Jsonl,
}
