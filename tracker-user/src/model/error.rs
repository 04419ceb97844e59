//! The error of every layer below the command line: why something failed, and what was being done.

use std::{borrow::Cow, error::Error as StdError, fmt};

use crate::model::failure::Failure;

/// What a function below the command line returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A [`Failure`], below whatever was being done when it arose.
///
/// `{}` prints its own message, which says what was being done where something says so, and [`StdError::source`] returns
/// the cause. `{:#}` prints its message and those of all causes in one line, as anyhow does.
#[derive(Debug)]
pub struct Error(Box<Layer>);

#[derive(Debug)]
enum Layer {
    Failure(Failure),
    Doing { what: Cow<'static, str>, cause: Error },
}

impl Error {
    /// An error that only people read.
    pub fn text(message: impl Into<String>) -> Self {
        Failure::Other(message.into()).into()
    }

    /// What an error of a library says.
    pub fn foreign(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Failure::foreign(error).into()
    }

    /// This error, below what was being done.
    #[must_use]
    pub fn context(self, what: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Layer::Doing { what: what.into(), cause: self }))
    }

    /// Why it failed, whatever was being done.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        let mut error = self;
        loop {
            match &*error.0 {
                Layer::Failure(failure) => return failure,
                Layer::Doing { cause, .. } => error = cause,
            }
        }
    }

    /// The number of the system call's error that it comes from.
    #[must_use]
    pub fn os_code(&self) -> Option<i32> {
        self.failure().os_code()
    }
}

impl<E: Into<Failure>> From<E> for Error {
    fn from(failure: E) -> Self {
        Self(Box::new(Layer::Failure(failure.into())))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Layer::Failure(failure) => write!(f, "{failure}")?,
            Layer::Doing { what, .. } => f.write_str(what)?,
        }
        let mut cause = self.source().filter(|_| f.alternate());
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &*self.0 {
            Layer::Failure(failure) => failure.source(),
            Layer::Doing { cause, .. } => Some(cause),
        }
    }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Says so with words that are there already.
    ///
    /// # Errors
    ///
    /// The error that it is called on, below these words; where there is nothing, the words alone.
    fn context(self, what: impl Into<Cow<'static, str>>) -> Result<T>;

    /// Says so with words that are made where something has failed.
    ///
    /// # Errors
    ///
    /// As [`Context::context`].
    fn with_context<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|error| error.into().context(what))
    }

    fn with_context<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.into().context(what()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl Into<Cow<'static, str>>) -> Result<T> {
        self.with_context(|| what)
    }

    fn with_context<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.ok_or_else(|| Error::text(what().into()))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::maps::MapError;
    use nix::errno::Errno;

    use super::*;
    use crate::model::refusal::Refusal;

    fn below(failure: impl Into<Error>) -> Error {
        failure.into().context("opening it").context(format!("attaching to {}", "eth0"))
    }

    fn refusal(number: Option<i32>) -> Refusal {
        let (program, release) = ("tracker_egress".to_owned(), "6.12".to_owned());
        Refusal { program, release, cause: "no".to_owned(), number, log: String::new() }
    }

    #[test]
    fn each_says_its_own_message_and_the_causes_theirs() {
        let error = below(io::Error::from_raw_os_error(libc::ENOENT));
        let messages =
            ["attaching to eth0", "opening it", "No such file or directory (os error 2)"];
        let mut next: Option<&dyn StdError> = Some(&error);
        for message in messages {
            assert_eq!(next.map(ToString::to_string).as_deref(), Some(message));
            next = next.and_then(StdError::source);
        }
        assert!(next.is_none());
        assert_eq!(format!("{error:#}"), messages.join(": "));
        // The causes of a library's error are shown, too.
        let inner = io::Error::other(below(Errno::EPERM));
        let error = Error::foreign(io::Error::other(inner)).context("asking");
        let said = "asking: attaching to eth0: opening it: EPERM: Operation not permitted";
        assert_eq!(format!("{error:#}"), said);
        assert_eq!(format!("{:#}", Error::text("{no format}")), "{no format}");
    }

    #[test]
    fn what_is_missing_is_said_alone() {
        let missing: Option<u8> = None;
        assert_eq!(
            missing.context("no map").map_err(|error| format!("{error:#}")),
            Err("no map".to_owned())
        );
        let there: Result<u8, Errno> = Ok(7);
        assert_eq!(there.with_context(|| -> String { unreachable!() }).ok(), Some(7));
    }

    #[test]
    fn the_reason_is_found_below_contexts() {
        let kind = |failure: Failure| below(failure).failure().kind();
        assert_eq!(kind(Failure::NoAgent(String::new())), Some("no_agent"));
        assert_eq!(kind(Failure::NotPermitted(String::new())), Some("not_permitted"));
        assert_eq!(kind(Failure::InUse(String::new())), Some("in_use"));
        assert_eq!(kind(Failure::BadInput(String::new())), Some("bad_input"));
        assert_eq!(kind(refusal(None).into()), Some("refused_by_verifier"));
        assert_eq!(kind(Errno::EPERM.into()), None);
        assert_eq!(kind(Failure::Other(String::new())), None);
        let refused = below(refusal(None));
        assert!(matches!(refused.failure(), Failure::Refused(found) if *found == refusal(None)));
    }

    #[test]
    fn numbers_of_system_calls_are_found_below_contexts() {
        let number = |failure: Failure| below(failure).os_code();
        assert_eq!(number(Errno::ENFILE.into()), Some(libc::ENFILE));
        assert_eq!(number(io::Error::from_raw_os_error(libc::EPIPE).into()), Some(libc::EPIPE));
        assert_eq!(number(refusal(Some(libc::ENOMEM)).into()), Some(libc::ENOMEM));
        assert_eq!(number(refusal(None).into()), None);
        // Below a library's error, and below one of ours that passed as an `io::Error`.
        let io_error = io::Error::from_raw_os_error(libc::EBUSY);
        let map = MapError::CreateError { name: "EVENTS".to_owned(), io_error };
        assert_eq!(number(map.into()), Some(libc::EBUSY));
        assert_eq!(number(io::Error::other(below(Errno::EAGAIN)).into()), Some(libc::EAGAIN));
        assert_eq!(number(io::Error::from(io::ErrorKind::WriteZero).into()), None);
        assert_eq!(number(Failure::Other(String::new())), None);
    }
}
