//! The keys of cookies, and the clock that they are dated by.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A key, and from when on it is used.
#[derive(Clone, Copy, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct DatedKey {
    /// SipHash's key. Secret.
    pub key: [u64; 2],
    /// Cookies of this [`period`](crate::cookie::period) and later ones are made with it.
    pub since: u32,
    /// 1 where there is a key.
    pub present: u32,
}

impl fmt::Debug for DatedKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatedKey")
            .field("since", &self.since)
            .field("present", &self.present)
            .finish_non_exhaustive()
    }
}

/// The two newest keys: the one entry of the `KEYS` map.
///
/// The agent overwrites the older one, with a key for a period that has not begun yet. So no program reads what is being
/// written, and every cookie is checked with the key it was made with. Only a file of shared keys that has other keys than before
/// for the present replaces keys in use: cookies made with those, or at that moment, are refused then.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Keys {
    /// In no order.
    pub keys: [DatedKey; 2],
    /// What is added to nanoseconds since boot to date cookies, and wraps: 0, or, where hosts share keys, what makes nanoseconds
    /// since 1970 of them.
    pub clock_ns: u64,
    /// By how many nanoseconds the clock of another host that makes cookies with these keys may be ahead.
    pub skew_ns: u64,
}

impl Keys {
    /// The date of `now_ns`, nanoseconds since boot, by the clock of everybody who has these keys.
    #[inline(always)]
    #[must_use]
    pub const fn dated(&self, now_ns: u64) -> u64 {
        now_ns.wrapping_add(self.clock_ns)
    }

    /// The key of `period`'s cookies; `None` where it is older than both, or there is none.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, period: u32) -> Option<&[u64; 2]> {
        let [a, b] = &self.keys;
        let a_begun = a.present != 0 && period.wrapping_sub(a.since).cast_signed() >= 0;
        let b_begun = b.present != 0 && period.wrapping_sub(b.since).cast_signed() >= 0;
        if a_begun && (!b_begun || a.since.wrapping_sub(b.since).cast_signed() >= 0) {
            Some(&a.key)
        } else if b_begun {
            Some(&b.key)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown() {
        let key = DatedKey { key: [1, 2], since: 0, present: 1 };
        let keys = Keys { keys: [key; 2], ..Keys::default() };
        assert!(!format!("{keys:?}").contains("key: "));
    }
}
