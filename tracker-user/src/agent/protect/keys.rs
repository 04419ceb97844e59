//! The keys that cookies are made with: from the system's source of randomness, another one now and then, or from a file that
//! several hosts share. Never shown.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tracker_common::cookie::{DatedKey, PERIOD_SHIFT, period};
use zeroize::Zeroizing;

use super::key_file::{KeyFile, date_ns};
use crate::{
    kernel::listeners::{KeyMap, KeyWords},
    model::{
        clock::Clock,
        error::{Error, Result},
    },
};

/// Words of a [`DatedKey`]: two of key, then `since` and `present`.
const ENTRY: usize = size_of::<DatedKey>() / 8;

/// Where the words are that date cookies, behind both keys.
const CLOCK: usize = 2 * ENTRY;
const SKEW: usize = CLOCK + 1;

/// By how many nanoseconds clocks of hosts that share keys may differ.
pub const SKEW_NS: u64 = 2_000_000_000;

/// Where keys come from.
enum Source {
    /// This host makes one after so many nanoseconds.
    Host { rotation_ns: u64 },
    /// A file.
    Shared { path: PathBuf, file: KeyFile },
}

/// Keeps the map of keys.
pub struct Keeper {
    map: KeyMap,
    source: Source,
}

impl Keeper {
    /// Takes the map over, whose keys stay if it has some of this host's own, and has a first one made otherwise.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(map: KeyMap, rotation_ns: u64, now_ns: u64) -> Result<Self> {
        let mut keeper = Self { map, source: Source::Host { rotation_ns } };
        let mut keys = keeper.map.get()?;
        if newest(&keys).is_none() || keys[SKEW] != 0 {
            // Nothing was made with it before, so it may hold from now on.
            **keys = KeyWords::default();
            replace(&mut keys, 0, period(now_ns), &**fresh()?);
            keeper.map.set(&keys)?;
        }
        Ok(keeper)
    }

    /// Takes the map over for the keys of a file.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or what the kernel says.
    pub fn shared(mut map: KeyMap, path: &Path) -> Result<Self> {
        let file = KeyFile::read(path)?;
        take_needed(&mut map, &file)?;
        Ok(Self { map, source: Source::Shared { path: path.to_owned(), file } })
    }

    /// Reads the file again, if keys come from one; true where there is another key. A file that is wrong changes nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn reload(&mut self) -> Result<bool> {
        let Source::Shared { path, file } = &mut self.source else { return Ok(false) };
        let new = KeyFile::read(path)?;
        new.current(Timestamp::now())?;
        *file = new;
        take_needed(&mut self.map, file)
    }

    /// Makes another key if the newest one is old enough, or takes the next one from the file; true where cookies are made with
    /// another one from now on, or the next period. To be called once a second: it sets the clock by which shared cookies are dated.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn rotate(&mut self, now_ns: u64) -> Result<bool> {
        match &self.source {
            Source::Host { rotation_ns } => make_another(&mut self.map, *rotation_ns, now_ns),
            Source::Shared { file, .. } => take_needed(&mut self.map, file),
        }
    }
}

fn make_another(map: &mut KeyMap, rotation_ns: u64, now_ns: u64) -> Result<bool> {
    let mut keys = map.get()?;
    let Some((at, since)) = newest(&keys) else {
        return Err(Error::text("the cookies' keys are gone from their map"));
    };
    if !is_due(since, rotation_ns, now_ns) {
        return Ok(false);
    }
    // From the next period on: no program reads it before it is written.
    replace(&mut keys, 1 - at, period(now_ns).wrapping_add(1), &**fresh()?);
    map.set(&keys)?;
    Ok(true)
}

/// Writes the keys of a file that are needed now, and the clock.
fn take_needed(map: &mut KeyMap, file: &KeyFile) -> Result<bool> {
    let mut keys = map.get()?;
    let clock = Clock::now();
    let now = clock.date(clock.monotonic_ns());
    let needed = file.needed(now)?;
    // The newer one of both: another one than before says that a key is new.
    let before = newest(&keys).map(|(_, since)| since);
    let was_shared = keys[SKEW] != 0;
    for (at, key) in needed.iter().enumerate() {
        // What is there already stays where it is: programs may be reading it.
        if !(0..2).any(|at| holds(&keys, at, key.period(), key.key())) {
            let other = needed.get(1 - at);
            let stays = (0..2).find(|at| {
                other.is_some_and(|other| holds(&keys, *at, other.period(), other.key()))
            });
            replace(&mut keys, stays.map_or(at, |stays| 1 - stays), key.period(), key.key());
        }
    }
    if needed.len() == 1 {
        // No key that the file does not have is one.
        let only = (0..2).find(|at| holds(&keys, *at, needed[0].period(), needed[0].key()));
        if let Some(only) = only {
            keys[(1 - only) * ENTRY..][..ENTRY].fill(0);
        }
    }
    keys[CLOCK] = date_ns(now).wrapping_sub(clock.monotonic_ns());
    keys[SKEW] = SKEW_NS;
    map.set(&keys)?;
    Ok(was_shared && newest(&keys).map(|(_, since)| since) != before)
}

/// Whether one of the two is this key, used since that period.
fn holds(keys: &KeyWords, at: usize, since: u32, key: &[u64; 2]) -> bool {
    let entry = &keys[at * ENTRY..][..ENTRY];
    entry[..2] == *key && entry[2] == word([since, 1])
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
pub(super) fn fresh() -> Result<Box<Zeroizing<[u64; 2]>>> {
    let mut key = Box::new(Zeroizing::new([0_u64; 2]));
    getrandom::fill(zerocopy::IntoBytes::as_mut_bytes(&mut **key))
        .map_err(|error| Error::text(format!("asking the system for random numbers: {error}")))?;
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
