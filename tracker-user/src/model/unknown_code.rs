//! A code in a report or a map that this version does not know.

use std::fmt;

/// A code that this version does not know: it comes from kernel programs of another version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownCode {
    /// What it would name: a hook, a state.
    pub what: &'static str,
    /// The code.
    pub code: u8,
}

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown {} {}", self.what, self.code)
    }
}

impl std::error::Error for UnknownCode {}
