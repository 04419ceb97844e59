//! A connection of a capture, as users see it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{event::parts::EndView, record::Record};

/// A connection of a capture.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct ReplayedFlow {
    /// As of a running agent's.
    #[serde(flatten)]
    pub record: Record,
    /// From its first packet to its last.
    pub duration_ns: u64,
    /// How it ended; absent where it had not at the capture's end. Its reason may also be `evicted`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<EndView>,
}

impl fmt::Display for ReplayedFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.record)?;
        match &self.end {
            Some(end) => write!(f, " end={}", end.reason),
            None => Ok(()),
        }
    }
}
