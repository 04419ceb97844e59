//! Keys of cookies that several hosts share: a file with a line a key, since when it is used, and the key.
//!
//! ```text
//! # Anything behind a number sign is a comment.
//! 2026-11-29T10:00:00Z 000102030405060708090a0b0c0d0e0f
//! ```

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use jiff::Timestamp;
use tracker_common::cookie::{LIFETIME_NS, fingerprint, period};
use zeroize::Zeroizing;

use super::{SHORTEST_ROTATION, keys::fresh};
use crate::{
    agent::secret_file,
    model::{
        error::{Context, Error, Result},
        failure::Failure,
    },
};

/// Bytes that a file has at most.
const MOST: u64 = 65_536;

/// Bytes of a key.
const KEY: usize = 16;

/// A key, and from when on cookies are made with it. The key is not moved, and wiped when dropped.
pub struct SharedKey {
    /// Since when, by the calendar. Cookies change at the next multiple of 2^35 ns before it.
    pub since: Timestamp,
    key: Box<Zeroizing<[u64; 2]>>,
}

impl fmt::Debug for SharedKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey").field("since", &self.since).finish_non_exhaustive()
    }
}

impl SharedKey {
    /// A new one.
    ///
    /// # Errors
    ///
    /// Where the system has no random numbers.
    pub fn new(since: Timestamp) -> Result<Self> {
        Ok(Self { since, key: fresh()? })
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u64; 2] {
        &self.key
    }

    /// The period whose cookies are the first that are made with it.
    #[must_use]
    pub fn period(&self) -> u32 {
        period(date_ns(self.since))
    }

    /// What hosts may compare: see [`fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        fingerprint(&self.key)
    }
}

/// Nanoseconds since 1970; 0 for what was before.
#[must_use]
pub fn date_ns(date: Timestamp) -> u64 {
    u64::try_from(date.as_nanosecond()).unwrap_or_default()
}

/// The keys of a file, the oldest first.
#[derive(Debug)]
pub struct KeyFile(Vec<SharedKey>);

impl KeyFile {
    /// With one key only.
    #[must_use]
    pub fn with(key: SharedKey) -> Self {
        Self(vec![key])
    }

    /// Reads a file that only its owner may read, who is root or this user.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, others may read it, or a line is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_from(path)
            .with_context(|| format!("the keys in {}", path.display()))
            .map_err(|error| Failure::BadInput(format!("{error:#}")).into())
    }

    fn read_from(path: &Path) -> Result<Self> {
        let renewal = "make new keys (`tracker keys new`), because these may be known";
        let text = secret_file::read(path, MOST, renewal)?;
        Self::parse(str::from_utf8(&text)?)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    ///
    /// The first line that is wrong, without what it says of keys.
    pub fn parse(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            keys.push(parse_line(line).with_context(|| format!("line {number}"))?);
        }
        if keys.is_empty() {
            return Err(Error::text(
                "there is none: `tracker keys new FILE` makes a file with keys",
            ));
        }
        let mut file = Self(keys);
        file.sort()?;
        Ok(file)
    }

    /// Adds a key.
    ///
    /// # Errors
    ///
    /// Where it is used too soon after, or before, another one.
    pub fn add(&mut self, key: SharedKey) -> Result<()> {
        self.0.push(key);
        self.sort()
    }

    fn sort(&mut self) -> Result<()> {
        self.0.sort_by_key(|key| key.since);
        for pair in self.0.windows(2) {
            let apart = pair[1].since.duration_since(pair[0].since).as_secs();
            if apart < i64::from(SHORTEST_ROTATION) {
                return Err(Error::text(format!(
                    "the key since {} is used {apart} s after the one before, and cookies of that live longer: keys are to be \
                     {SHORTEST_ROTATION} s apart at least",
                    pair[1].since
                )));
            }
        }
        Ok(())
    }

    /// Every key, the oldest first.
    #[must_use]
    pub fn keys(&self) -> &[SharedKey] {
        &self.0
    }

    /// Which key cookies are made with now.
    ///
    /// # Errors
    ///
    /// Where there is none yet.
    pub fn current(&self, now: Timestamp) -> Result<usize> {
        self.0.iter().rposition(|key| key.since <= now).ok_or_else(|| {
            Error::text(format!(
                "no key is used yet: the first one is since {}, and it is {now} here",
                self.0.first().map_or(Timestamp::UNIX_EPOCH, |key| key.since)
            ))
        })
    }

    /// The two keys that kernel programs need now: the one that cookies are made with, and the one before it while its cookies
    /// live, or else the next.
    ///
    /// # Errors
    ///
    /// Where there is none yet.
    pub fn needed(&self, now: Timestamp) -> Result<Vec<&SharedKey>> {
        let current = self.current(now)?;
        let since_ns = date_ns(self.0[current].since);
        let is_fresh = date_ns(now).saturating_sub(since_ns) < LIFETIME_NS;
        let other = if is_fresh && current > 0 { current - 1 } else { current + 1 };
        Ok([current, other].into_iter().filter_map(|at| self.0.get(at)).collect())
    }

    /// Takes out the keys whose cookies are over.
    pub fn forget_old(&mut self, now: Timestamp) {
        let Ok(current) = self.current(now) else { return };
        let since_ns = date_ns(self.0[current].since);
        let is_fresh = date_ns(now).saturating_sub(since_ns) < LIFETIME_NS;
        self.0.drain(..current.saturating_sub(usize::from(is_fresh)));
    }

    /// Writes a file that is not there yet.
    ///
    /// # Errors
    ///
    /// Where it is there, or cannot be written.
    pub fn create(&self, path: &Path) -> Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| path.display().to_string())?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        Ok(())
    }

    /// Puts these keys in a file's place, all at once.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn replace(&self, path: &Path) -> Result<()> {
        // Not the link, but what it leads to.
        let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
        let name = path.file_name().context("a file's name")?.to_string_lossy().into_owned();
        let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let result = self
            .create(&new)
            .and_then(|()| fs::rename(&new, &path).with_context(|| path.display().to_string()));
        if result.is_err() {
            // It holds keys.
            let _ = fs::remove_file(&new);
        }
        result
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(64 * (self.0.len() + 2)));
        text.push_str("# Keys of tracker's SYN cookies. Secret: whoever knows them can open connections from any address.\n");
        for key in &self.0 {
            text.push_str(&key.since.to_string());
            text.push(' ');
            for byte in key.key.iter().flat_map(|word| word.to_le_bytes()) {
                for digit in [byte >> 4, byte & 15] {
                    text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
                }
            }
            text.push('\n');
        }
        text
    }
}

fn parse_line(line: &str) -> Result<SharedKey> {
    const FORM: &str =
        "a line is a date and a key, as in `2026-11-29T10:00:00Z 32-HEXADECIMAL-DIGITS`";
    let mut words = line.split_whitespace();
    let (Some(since), Some(digits), None) = (words.next(), words.next(), words.next()) else {
        return Err(Error::text(FORM));
    };
    let since: Timestamp = since.parse().map_err(|error| {
        if may_be_key(since) {
            Error::text(format!("the first word is no date; {FORM}"))
        } else {
            Error::text(format!("`{since}`: {error}; {FORM}"))
        }
    })?;
    let digits = digits.as_bytes();
    if digits.len() != 2 * KEY || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Error::text(format!(
            "the key has {} characters that are not all hexadecimal digits, or not {}; {FORM}",
            digits.len(),
            2 * KEY
        )));
    }
    let mut key = Box::new(Zeroizing::new([0_u64; 2]));
    for (at, pair) in digits.chunks_exact(2).enumerate() {
        let byte = pair.iter().fold(0, |byte, digit| {
            byte << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or_default())
        });
        key[at / 8] |= byte << (8 * (at % 8));
    }
    if **key == [0; 2] {
        return Err(Error::text("a key of zeros only is no secret"));
    }
    Ok(SharedKey { since, key })
}

/// Whether a word has part of a key: more digits than any part of a date. No message may show it.
fn may_be_key(word: &str) -> bool {
    word.split(|letter: char| !letter.is_ascii_hexdigit()).any(|digits| digits.len() > 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a date")
    }

    fn file(since: &[i64]) -> KeyFile {
        let keys = since.iter().map(|since| SharedKey::new(at(*since)).expect("random numbers"));
        KeyFile(keys.collect())
    }

    #[test]
    fn a_file_is_read_as_it_is_written() {
        let written = file(&[0, 300, 5000]);
        let read = KeyFile::parse(&written.text()).expect("keys");
        for (one, other) in written.0.iter().zip(&read.0) {
            assert_eq!((one.since, &one.key), (other.since, &other.key));
        }
        let read =
            KeyFile::parse(&format!("# a\n\n 2026-11-29T10:00:00Z {ONE} # b\n")).expect("a key");
        // As the vectors of SipHash's reference have it.
        assert_eq!(read.0[0].key(), &[0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        assert!(!format!("{read:?}").contains("0706"));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is() {
        let zeros = "0".repeat(32);
        for (text, said) in [
            (String::new(), "there is none"),
            ("# nothing\n".to_owned(), "there is none"),
            (format!("\n{ONE}"), "line 2"),
            (format!("yesterday {ONE}"), "yesterday"),
            (format!("{ONE} 2026-11-29T10:00:00Z"), "the first word is no date"),
            (format!("2026-{ONE} {ONE}"), "the first word is no date"),
            (format!("2026-11-29T10:00:00Z {ONE}0"), "33 characters"),
            (format!("2026-11-29T10:00:00Z {}g", &ONE[1..]), "not all hexadecimal"),
            (format!("2026-11-29T10:00:00Z {ONE} x"), "a line is a date and a key"),
            (format!("2026-11-29T10:00:00Z {zeros}"), "no secret"),
            (
                format!("2026-11-29T10:00:00Z {ONE}\n2026-11-29T10:04:59Z {ONE}"),
                "used 299 s after the one before",
            ),
        ] {
            let error = KeyFile::parse(&text).expect_err(&text);
            let error = format!("{error:#}");
            assert!(error.contains(said), "{error}");
            assert!(!error.contains(&ONE[1..]), "{error}");
        }
    }

    #[test]
    fn the_keys_that_are_needed() {
        let file = file(&[0, 1000, 2000]);
        let needed = |now| {
            let keys = file.needed(at(now))?;
            Ok::<Vec<_>, Error>(
                keys.iter().map(|key| key.since.as_second() - 1_800_000_000).collect(),
            )
        };
        assert!(needed(-1).is_err());
        assert_eq!(needed(0).expect("keys"), [0, 1000]);
        assert_eq!(needed(999).expect("keys"), [0, 1000]);
        assert_eq!(needed(1000).expect("keys"), [1000, 0]);
        assert_eq!(needed(1103).expect("keys"), [1000, 0]);
        assert_eq!(needed(1104).expect("keys"), [1000, 2000]);
        assert_eq!(needed(2104).expect("keys"), [2000]);
    }

    #[test]
    fn old_keys_are_forgotten_when_their_cookies_are_over() {
        for (now, left) in [(-5, 3), (0, 3), (1000, 3), (1104, 2), (2050, 2), (5000, 1)] {
            let mut file = file(&[0, 1000, 2000]);
            file.forget_old(at(now));
            assert_eq!(file.0.len(), left, "{now}");
        }
    }
}
