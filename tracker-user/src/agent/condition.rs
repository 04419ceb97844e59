//! Conditions that last: each is said once when it begins, and once when it is over.

use std::time::{Duration, Instant};

use crate::model::error::Error;

/// How long a condition must not have been seen to be over.
pub const QUIET: Duration = Duration::from_secs(10);

/// A condition that is there or not.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    lasting: Option<Lasting>,
}

#[derive(Clone, Debug)]
struct Lasting {
    since: Instant,
    seen: Instant,
    count: u64,
}

/// A condition that is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Over {
    /// From the first time that it was seen to the last.
    pub lasted: Duration,
    /// What was counted meanwhile.
    pub count: u64,
}

impl Condition {
    /// It is seen, so many times since it was seen before. True where it begins.
    pub fn seen(&mut self, count: u64, now: Instant) -> bool {
        match &mut self.lasting {
            Some(lasting) => {
                lasting.seen = now;
                lasting.count += count;
                false
            }
            None => {
                self.lasting = Some(Lasting { since: now, seen: now, count });
                true
            }
        }
    }

    /// Whether it is there.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.lasting.is_some()
    }

    /// What is to be said where it was not seen for [`QUIET`]; once.
    pub fn over(&mut self, now: Instant) -> Option<Over> {
        let lasting = self.lasting.as_ref()?;
        (now.saturating_duration_since(lasting.seen) >= QUIET).then(|| self.end()).flatten()
    }

    /// It is over at once; what is to be said of it, where it was there.
    pub fn end(&mut self) -> Option<Over> {
        let Lasting { since, seen, count } = self.lasting.take()?;
        Some(Over { lasted: seen.saturating_duration_since(since), count })
    }
}

/// Whether an error says that something runs short on this host, which may be over soon: descriptors, memory, buffers.
#[must_use]
pub fn is_shortage(error: &Error) -> bool {
    error.os_code().is_some_and(|number| SHORTAGES.contains(&number))
}

/// Errors of a shortage, by their numbers.
pub const SHORTAGES: [i32; 5] =
    [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EAGAIN];

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        kernel::refusal,
        model::error::{Context, Result},
    };

    #[test]
    fn it_is_said_once_when_it_begins_and_once_when_it_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut condition = Condition::default();
        assert_eq!(condition.over(at(0)), None);
        assert!(condition.seen(5, at(1)) && condition.lasts());
        assert!(!condition.seen(2, at(3)));
        assert_eq!(condition.over(at(12)), None);
        let over = Over { lasted: Duration::from_secs(2), count: 7 };
        assert_eq!(condition.over(at(13)), Some(over));
        assert_eq!(condition.over(at(99)), None);
        assert!(!condition.lasts() && condition.seen(1, at(100)));
    }

    #[test]
    fn shortages_are_found_below_what_was_done() {
        let of = |number| Error::from(io::Error::from_raw_os_error(number)).context("it");
        assert!(is_shortage(&of(libc::EMFILE)) && !is_shortage(&of(libc::EPERM)));
        let other: Result<()> = Err(nix::errno::Errno::ENFILE).context("that");
        assert!(other.is_err_and(|error| is_shortage(&error)));
        let refused = |number| {
            let io_error = io::Error::from_raw_os_error(number);
            refusal::of_program("tracker_egress", &aya::programs::ProgramError::IOError(io_error))
        };
        let shortage = Error::from(refused(libc::ENOMEM)).context("attaching");
        assert!(is_shortage(&shortage) && !is_shortage(&refused(libc::EINVAL).into()));
    }
}
