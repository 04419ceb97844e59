//! How fast handshakes begin, which tells a flood from a cache that is full of old ones.

use crate::cell::U32;

/// Nanoseconds of a period, as a power of two: 1.07 s, so that nothing is divided.
const PERIOD_SHIFT: u32 = 30;

/// How many handshakes begin at one interface, on one CPU. Nobody else writes to it.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NewRate {
    period: U32,
    now: U32,
    before: U32,
}

impl NewRate {
    /// Counts one that begins at `now_ns`. Whether more than `limit` have begun in this period, or in the one before; never where
    /// `limit` is 0.
    #[inline(always)]
    pub fn exceeds(&self, limit: u32, now_ns: u64) -> bool {
        #[allow(clippy::cast_possible_truncation)] // wraps
        let period = (now_ns >> PERIOD_SHIFT) as u32;
        let passed = period.wrapping_sub(self.period.get());
        if passed != 0 {
            self.before.set(if passed == 1 { self.now.get() } else { 0 });
            self.now.set(0);
            self.period.set(period);
        }
        let now = self.now.get().saturating_add(1);
        self.now.set(now);
        limit != 0 && (now > limit || self.before.get() > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD_NS: u64 = 1 << PERIOD_SHIFT;

    #[test]
    fn a_flood_lasts_until_a_whole_period_is_without() {
        let rate = NewRate::default();
        let all = |times: usize, now_ns| (0..times).filter(|_| rate.exceeds(10, now_ns)).count();
        assert_eq!(all(10, 5 * PERIOD_NS), 0);
        assert_eq!(all(3, 6 * PERIOD_NS - 1), 3, "those beyond ten");
        assert_eq!(all(7, 6 * PERIOD_NS), 7, "there was a flood before");
        assert_eq!(all(10, 7 * PERIOD_NS), 0, "and it is over");
        assert_eq!(all(20, 8 * PERIOD_NS), 10);
        assert_eq!(all(10, 10 * PERIOD_NS), 0, "nothing came for a period");
        assert!((0..100).all(|_| !rate.exceeds(0, 10 * PERIOD_NS)), "no limit");
    }
}
