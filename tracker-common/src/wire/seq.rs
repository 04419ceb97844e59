//! Sequence number arithmetic (RFC 9293 section 3.4).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A sequence number in host byte order. Comparisons are modulo 2^32: `a` is before `b` when the shorter way from `a`
/// to `b` is upwards. Two numbers exactly 2^31 apart are each before the other, as in the kernel's `before()`.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(transparent)]
pub struct Seq(pub u32);

impl Seq {
    /// `self < other` in sequence space.
    #[inline(always)]
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() < 0
    }

    /// `self > other` in sequence space.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// The number `n` bytes further on.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// The number `n` bytes before.
    #[inline(always)]
    #[must_use]
    pub const fn sub(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// Bytes from `earlier` up to `self`, modulo 2^32.
    #[inline(always)]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `low <= self <= high` in sequence space.
    #[inline(always)]
    #[must_use]
    pub const fn within(self, low: Self, high: Self) -> bool {
        self.since(low) <= high.since(low)
    }

    /// The later of the two.
    #[inline(always)]
    #[must_use]
    pub const fn latest(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_survives_any_shift(a: u32, distance in 1u32..0x7fff_ffff, shift: u32) {
            let (low, high) = (Seq(a).add(shift), Seq(a).add(shift).add(distance));
            prop_assert!(low.before(high) && high.after(low) && !high.before(low));
            prop_assert_eq!(low.latest(high), high);
            prop_assert!(low.within(low, high) && high.within(low, high));
            prop_assert!(!low.sub(1).within(low, high) && !high.add(1).within(low, high));
        }
    }

    #[test]
    fn wraps_past_zero() {
        assert!(Seq(u32::MAX).before(Seq(0)));
        assert!(Seq(5).after(Seq(u32::MAX - 5)));
        assert_eq!(Seq(2).since(Seq(u32::MAX)), 3);
    }
}
