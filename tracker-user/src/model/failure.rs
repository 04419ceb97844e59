//! Why something fails, as far as callers and scripts tell one reason from another.

use std::{
    error::Error as StdError,
    io,
    num::{ParseIntError, TryFromIntError},
};

use nix::errno::Errno;
use thiserror::Error;

use crate::model::{error, refusal::Refusal, unknown_code::UnknownCode};

/// The reason of an error. A string is its message, which says what to do about it.
#[derive(Debug, Error)]
pub enum Failure {
    /// No agent of this name is running.
    #[error("{0}")]
    NoAgent(String),
    /// This user or process may not do it.
    #[error("{0}")]
    NotPermitted(String),
    /// Somebody else has what is needed: the agent's name, an interface's XDP hook.
    #[error("{0}")]
    InUse(String),
    /// What was given cannot be used: a file, a combination of options.
    #[error("{0}")]
    BadInput(String),
    /// The kernel, most often its verifier, refused a program.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A system call failed, by way of the standard library.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A system call failed.
    #[error(transparent)]
    Errno(#[from] Errno),
    /// What a library says.
    #[error(transparent)]
    Foreign(Box<dyn StdError + Send + Sync>),
    /// Any other reason, which only people read.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// What an error of a library says.
    pub fn foreign(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Foreign(error.into())
    }

    /// Its name in JSON, where scripts tell it from others.
    #[must_use]
    pub const fn kind(&self) -> Option<&'static str> {
        match self {
            Self::NoAgent(_) => Some("no_agent"),
            Self::NotPermitted(_) => Some("not_permitted"),
            Self::InUse(_) => Some("in_use"),
            Self::BadInput(_) => Some("bad_input"),
            Self::Refused(_) => Some("refused_by_verifier"),
            Self::Io(_) | Self::Errno(_) | Self::Foreign(_) | Self::Other(_) => None,
        }
    }

    /// The number of the system call's error that it comes from.
    #[must_use]
    pub fn os_code(&self) -> Option<i32> {
        match self {
            Self::Refused(refusal) => refusal.number,
            Self::Io(error) => os_code(error),
            Self::Errno(number) => Some(*number as i32),
            Self::Foreign(error) => os_code(&**error),
            Self::NoAgent(_)
            | Self::NotPermitted(_)
            | Self::InUse(_)
            | Self::BadInput(_)
            | Self::Other(_) => None,
        }
    }
}

/// The number of the first error of a system call among this error and its causes.
#[must_use]
pub fn os_code(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        let number = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
            .or_else(|| error.downcast_ref().map(|number: &Errno| *number as i32))
            .or_else(|| error.downcast_ref().and_then(error::Error::os_code));
        if number.is_some() {
            return number;
        }
        next = error.source();
    }
    None
}

/// Makes failures of errors of other crates, so that `?` and contexts take them.
macro_rules! foreign {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for $crate::model::failure::Failure {
            fn from(error: $error) -> Self {
                Self::foreign(error)
            }
        })+
    };
}

pub(crate) use foreign;

foreign!(ParseIntError, TryFromIntError, UnknownCode, serde_json::Error);
