//! How often a breach is reported. Counts are exact in any case.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::key::{Address, FlowKey};

/// Pairs of a connection and a rule that each interface's programs remember.
pub const MOST_REPEATED: u32 = 16_384;

/// A rule that a connection broke: a key of the map `REPEATED`, whose value says how often.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Repeated {
    /// The connection's ends.
    pub key: FlowKey,
    /// [`crate::flow::Life::generation`] of its flow.
    pub generation: u32,
    /// The rule's code.
    pub rule: u32,
}

/// Whether the breach that is number `count` of its rule on its flow, from 1, is reported where reports become `factor`
/// times rarer each time: the 1st, the `factor`th, the `factor`²th and so on.
#[inline(always)]
#[must_use]
pub const fn is_due(count: u64, factor: u64) -> bool {
    if factor == 2 {
        return count.is_power_of_two();
    }
    let mut due = 1;
    let mut n = 0;
    while n < 10 {
        if count == due {
            return true;
        }
        due *= factor;
        n += 1;
    }
    false
}

/// Sources share so many buckets.
pub const BUCKETS: u32 = 4096;

/// The bucket of a source.
#[inline(always)]
#[must_use]
pub fn bucket(source: &Address) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    for n in 0..4 {
        let word = u32::from_ne_bytes([
            source[n * 4],
            source[n * 4 + 1],
            source[n * 4 + 2],
            source[n * 4 + 3],
        ]);
        hash = (hash ^ word).wrapping_mul(0x9e37_79b1);
        hash ^= hash >> 15;
    }
    // A product's highest bits depend on all of its factors', and so on an address's last byte.
    hash.wrapping_mul(0x85eb_ca6b) >> (u32::BITS - BUCKETS.ilog2())
}

/// A token bucket as one number, the time by which it is full again (the generic cell rate algorithm): takes a token at
/// `now_ns` and returns what the number becomes, or `None` where there is none to take.
#[inline(always)]
#[must_use]
pub const fn take_token(full_at: u64, now_ns: u64, interval_ns: u64, burst_ns: u64) -> Option<u64> {
    let from = if full_at > now_ns { full_at } else { now_ns };
    let full_at = from + interval_ns;
    if full_at - now_ns > burst_ns { None } else { Some(full_at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_become_rarer() {
        let due = |factor| (1..=1000).filter(|count| is_due(*count, factor)).collect::<Vec<_>>();
        assert_eq!(due(2), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(due(10), [1, 10, 100, 1000]);
    }

    #[test]
    fn neighbours_have_buckets_of_their_own() {
        // Whichever bytes tell them apart; as many as a random choice would leave, or nearly.
        for base in [
            crate::key::mapped([192, 0, 2, 1]),
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ] {
            for byte in (0..16).filter(|byte| base[0] != 0 || *byte >= 12) {
                let mut buckets: Vec<_> = (0..=255)
                    .map(|value| {
                        let mut address = base;
                        address[byte] = value;
                        bucket(&address)
                    })
                    .collect();
                buckets.sort_unstable();
                buckets.dedup();
                assert!(buckets.len() >= 230, "{base:?} {byte}: {}", buckets.len());
                assert!(buckets.iter().all(|bucket| *bucket < BUCKETS));
            }
        }
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let (interval, burst) = (100, 300);
        let mut full_at = 0;
        let mut take = |now| match take_token(full_at, now, interval, burst) {
            Some(next) => {
                full_at = next;
                true
            }
            None => false,
        };
        assert_eq!([take(1000), take(1000), take(1000), take(1000)], [true, true, true, false]);
        assert_eq!([take(1099), take(1100), take(1100)], [false, true, false]);
        assert_eq!([take(9000), take(9000), take(9000), take(9000)], [true, true, true, false]);
    }
}
