//! A code in a report or a map that this version does not know.

use thiserror::Error;

/// A code that this version does not know: it comes from kernel programs of another version.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("unknown {what} {code}")]
pub struct UnknownCode {
    /// What it would name: a hook, a state.
    pub what: &'static str,
    /// The code.
    pub code: u8,
}
