//! Time as records keep it.
//!
//! All times come from `CLOCK_MONOTONIC` (the kernel's `bpf_ktime_get_ns`), in nanoseconds since boot.

/// A flow's age is judged by ticks of 2^24 ns (16.8 ms): two of a record's 32-bit words hold its generation and when it
/// was last seen, so that both change hands in one compare-and-exchange.
const TICK_SHIFT: u32 = 24;

/// A moment in ticks, modulo 2^32 (2.28 years).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tick(pub u32);

impl Tick {
    /// A tick's nanoseconds are two to this power.
    pub const SHIFT: u32 = TICK_SHIFT;

    /// The tick that `ns` nanoseconds since boot fall into.
    #[inline(always)]
    #[must_use]
    pub const fn at(ns: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // modulo 2^32
        let tick = (ns >> TICK_SHIFT) as u32;
        Self(tick)
    }

    /// The nanoseconds that `ticks` ticks take.
    #[inline(always)]
    #[must_use]
    pub const fn ns(ticks: u32) -> u64 {
        (ticks as u64) << TICK_SHIFT
    }

    /// Nanoseconds from `self` to `later_ns` nanoseconds since boot, to a tick; 0 where `self` is not in the past (a
    /// packet seen since the caller read its clock).
    #[inline(always)]
    #[must_use]
    pub const fn elapsed_ns(self, later_ns: u64) -> u64 {
        let ticks = Self::at(later_ns).0.wrapping_sub(self.0);
        if ticks > u32::MAX / 2 { 0 } else { Self::ns(ticks) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_wraps_and_never_runs_backwards() {
        assert_eq!(Tick(u32::MAX).elapsed_ns(1 << (TICK_SHIFT + 32 - 1) << 1), 1 << TICK_SHIFT);
        assert_eq!(Tick(10).elapsed_ns(9 << TICK_SHIFT), 0);
        assert_eq!(Tick(10).elapsed_ns(70 << TICK_SHIFT), 60 << TICK_SHIFT);
    }
}
