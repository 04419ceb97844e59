//! From the kernel's monotonic clock to the calendar.

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    monotonic_ns: u64,
    now: Timestamp,
}

impl Clock {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        let read = || {
            let clock = Self { monotonic_ns: monotonic_ns(), now: Timestamp::now() };
            (monotonic_ns() - clock.monotonic_ns, clock)
        };
        // Who is interrupted between the clocks would date everything wrong by so much.
        let (mut took_ns, mut closest) = read();
        for _ in 0..2 {
            let (other_took_ns, other) = read();
            if other_took_ns < took_ns {
                (took_ns, closest) = (other_took_ns, other);
            }
        }
        closest
    }

    /// Clocks of which one said `monotonic_ns` when it was `now`: a capture's.
    #[must_use]
    pub fn at(monotonic_ns: u64, now: Timestamp) -> Self {
        Self { monotonic_ns, now }
    }

    /// Nanoseconds since boot when the clocks were read.
    #[must_use]
    pub fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns
    }

    /// The date of a moment in nanoseconds since boot.
    #[must_use]
    pub fn date(&self, monotonic_ns: u64) -> Timestamp {
        let ago = i128::from(self.monotonic_ns) - i128::from(monotonic_ns);
        self.now - SignedDuration::from_nanos(i64::try_from(ago).unwrap_or_default())
    }
}

/// Nanoseconds since boot, as the kernel programs read them.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    u64::try_from(now.tv_sec()).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec()).unwrap_or_default()
}
