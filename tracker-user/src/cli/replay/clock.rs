//! A capture's clock, as the kernel programs and as people read it.

use jiff::Timestamp;

use crate::model::clock::Clock;

/// What the kernel programs' clock says at the first packet: not 0, which is what a record has that was never written.
pub(super) const START_NS: u64 = 1_000_000_000;

/// The least between two packets: what a flow's generation tells apart.
const STEP_NS: u64 = 16;

/// From a capture's timestamps to a clock that only goes forward.
///
/// No two packets are at one moment, so that the moment of its first packet tells a connection from every other one of
/// the capture.
#[derive(Debug, Default)]
pub(super) struct CaptureClock {
    now: Option<Now>,
}

#[derive(Clone, Copy, Debug)]
struct Now {
    first_ns: i64,
    kernel_ns: u64,
}

impl CaptureClock {
    /// Nanoseconds of the kernel programs' clock for a packet captured at `timestamp_ns` since 1970.
    pub(super) fn advance(&mut self, timestamp_ns: i64) -> u64 {
        let first_ns = self.now.map_or(timestamp_ns, |now| now.first_ns);
        let since = i128::from(timestamp_ns) - i128::from(first_ns);
        // Before the first packet: as early as can be. 292 years after it: time stands still.
        let since = u64::try_from(since.clamp(0, i64::MAX.into())).unwrap_or_default();
        let due = START_NS + since;
        let kernel_ns = self.now.map_or(due, |now| due.max(now.kernel_ns + STEP_NS));
        self.now = Some(Now { first_ns, kernel_ns });
        kernel_ns
    }

    /// What it says now.
    pub(super) fn now_ns(&self) -> u64 {
        self.now.map_or(START_NS, |now| now.kernel_ns)
    }

    /// The capture's time, in nanoseconds since 1970, at a moment of the kernel programs' clock.
    pub(super) fn timestamp_ns(&self, kernel_ns: u64) -> i64 {
        let first_ns = self.now.map_or(0, |now| now.first_ns);
        let since = i128::from(kernel_ns) - i128::from(START_NS);
        i64::try_from(i128::from(first_ns) + since).unwrap_or(i64::MAX)
    }

    /// Both at a moment of the kernel programs' clock.
    pub(super) fn at(&self, kernel_ns: u64) -> Clock {
        Clock::at(kernel_ns, date(self.timestamp_ns(kernel_ns)))
    }
}

/// The date of nanoseconds since 1970: every 64-bit number is one, from 1677 to 2262.
pub(super) fn date(timestamp_ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(timestamp_ns.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_goes_forward() {
        let mut clock = CaptureClock::default();
        let kernel: Vec<u64> = [500, 700, 600, 600, 708, 900].map(|ns| clock.advance(ns)).to_vec();
        assert_eq!(kernel, [0, 200, 216, 232, 248, 400].map(|ns| START_NS + ns));
        assert_eq!((clock.timestamp_ns(START_NS + 400), clock.now_ns()), (900, START_NS + 400));
    }

    #[test]
    fn the_ends_of_time() {
        let mut clock = CaptureClock::default();
        assert_eq!(clock.advance(i64::MIN), START_NS);
        let last = START_NS + i64::MAX.cast_unsigned();
        assert_eq!(clock.advance(i64::MAX), last);
        assert_eq!(clock.advance(i64::MAX), last + STEP_NS);
        assert_eq!(clock.timestamp_ns(last), -1);
    }
}
