//! Why a command fails, as far as callers and scripts tell one reason from another.

use std::fmt;

/// A failure that callers, scripts or the exit code distinguish; all others are read by people only. Each holds its message,
/// which says what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// No agent of this name is running.
    NoAgent(String),
    /// This user or process may not do it.
    NotPermitted(String),
    /// Somebody else has what is needed: the agent's name, an interface's XDP hook.
    InUse(String),
    /// What was given cannot be used: a file, a combination of options.
    BadInput(String),
}

impl Failure {
    /// Its name in JSON.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoAgent(_) => "no_agent",
            Self::NotPermitted(_) => "not_permitted",
            Self::InUse(_) => "in_use",
            Self::BadInput(_) => "bad_input",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NoAgent(said)
        | Self::NotPermitted(said)
        | Self::InUse(said)
        | Self::BadInput(said)) = self;
        f.write_str(said)
    }
}

impl std::error::Error for Failure {}
