//! The keys that cookies are made with: from the system's source of randomness, another one now and then, and never shown.

use anyhow::{Result, anyhow};
use tracker_common::cookie::{DatedKey, PERIOD_SHIFT, period};
use zeroize::Zeroizing;

use crate::kernel::listeners::{KeyMap, KeyWords};

/// Words of a [`DatedKey`]: two of key, then `since` and `present`.
const ENTRY: usize = size_of::<DatedKey>() / 8;

/// Keeps the map of keys.
pub struct Keeper {
    map: KeyMap,
    rotation_ns: u64,
}

impl Keeper {
    /// Takes the map over, whose keys stay if it has some, and has a first one made otherwise.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(map: KeyMap, rotation_ns: u64, now_ns: u64) -> Result<Self> {
        let mut keeper = Self { map, rotation_ns };
        let mut keys = keeper.map.get()?;
        if newest(&keys).is_none() {
            // Nothing was made with it before, so it may hold from now on.
            replace(&mut keys, 0, period(now_ns), &**fresh()?);
            keeper.map.set(&keys)?;
        }
        Ok(keeper)
    }

    /// Makes another key if the newest one is old enough; true where it did.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn rotate(&mut self, now_ns: u64) -> Result<bool> {
        let mut keys = self.map.get()?;
        let Some((at, since)) = newest(&keys) else {
            anyhow::bail!("the cookies' keys are gone from their map");
        };
        if !is_due(since, self.rotation_ns, now_ns) {
            return Ok(false);
        }
        // From the next period on: no program reads it before it is written.
        replace(&mut keys, 1 - at, period(now_ns).wrapping_add(1), &**fresh()?);
        self.map.set(&keys)?;
        Ok(true)
    }
}

/// Whether a key that is used since that period has been long enough.
fn is_due(since: u32, rotation_ns: u64, now_ns: u64) -> bool {
    let age = period(now_ns).wrapping_sub(since).cast_signed();
    u64::try_from(age).is_ok_and(|periods| periods << PERIOD_SHIFT >= rotation_ns)
}

/// Which of the two keys is the newer one, and since when it is used; `None` where there is none.
fn newest(keys: &KeyWords) -> Option<(usize, u32)> {
    let since = |at: usize| {
        let [since, present] = halves(keys[at * ENTRY + 2]);
        (present != 0).then_some((at, since))
    };
    match (since(0), since(1)) {
        (Some(a), Some(b)) => Some(if b.1.wrapping_sub(a.1).cast_signed() > 0 { b } else { a }),
        (one, other) => one.or(other),
    }
}

fn replace(keys: &mut KeyWords, at: usize, since: u32, key: &[u64; 2]) {
    let entry = &mut keys[at * ENTRY..][..ENTRY];
    // From one place to the other: an array of all three would be a copy on the stack.
    entry[..2].copy_from_slice(key);
    entry[2] = word([since, 1]);
}

/// Two numbers of 32 bits as they lie in memory.
fn word(halves: [u32; 2]) -> u64 {
    zerocopy::transmute!(halves)
}

fn halves(word: u64) -> [u32; 2] {
    zerocopy::transmute!(word)
}

/// A new key, which is not moved.
fn fresh() -> Result<Box<Zeroizing<[u64; 2]>>> {
    let mut key = Box::new(Zeroizing::new([0_u64; 2]));
    getrandom::fill(zerocopy::IntoBytes::as_mut_bytes(&mut **key))
        .map_err(|error| anyhow!("asking the system for random numbers: {error}"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use tracker_common::cookie::Keys;

    use super::*;

    const PERIOD_NS: u64 = 1 << PERIOD_SHIFT;

    fn keys(words: KeyWords) -> Keys {
        zerocopy::transmute!(words)
    }

    #[test]
    fn the_older_key_goes() {
        let mut words = KeyWords::default();
        assert_eq!(newest(&words), None);
        assert_eq!(keys(words).of(7), None);
        replace(&mut words, 0, 7, &[1, 2]);
        assert_eq!(newest(&words), Some((0, 7)));
        assert_eq!(keys(words).of(7), Some(&[1, 2]));
        replace(&mut words, 1, 9, &[3, 4]);
        assert_eq!(newest(&words), Some((1, 9)));
        assert_eq!((keys(words).of(8), keys(words).of(9)), (Some(&[1, 2]), Some(&[3, 4])));
        replace(&mut words, 0, 20, &[5, 6]);
        assert_eq!(newest(&words), Some((0, 20)));
        assert_eq!((keys(words).of(8), keys(words).of(19)), (None, Some(&[3, 4])));
        assert_eq!(keys(words).of(20), Some(&[5, 6]));
        // Numbers of periods wrap.
        replace(&mut words, 0, u32::MAX, &[7, 8]);
        replace(&mut words, 1, 3, &[9, 10]);
        assert_eq!(newest(&words), Some((1, 3)));
    }

    #[test]
    fn a_key_is_used_for_its_time() {
        let rotation = 10 * PERIOD_NS;
        assert!(!is_due(5, rotation, 5 * PERIOD_NS));
        assert!(!is_due(5, rotation, 15 * PERIOD_NS - 1));
        assert!(is_due(5, rotation, 15 * PERIOD_NS));
        // One that is not used yet.
        assert!(!is_due(6, rotation, 6 * PERIOD_NS - 1));
        assert!(!is_due(6, 0, 5 * PERIOD_NS));
    }

    #[test]
    fn no_two_keys_are_the_same() {
        let [a, b] = [fresh(), fresh()].map(|key| key.expect("random numbers"));
        assert!(a[0] != b[0] && a[1] != b[1] && a[0] != a[1]);
    }
}
