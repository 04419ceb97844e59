//! Random numbers that are the same wherever and whenever the same seed is given.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

/// SplitMix64: a counter, and a mixing function over it.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence for this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed that an environment variable holds, or a new one.
    ///
    /// # Errors
    ///
    /// Where the variable holds no number.
    pub fn seed(variable: &str) -> Result<u64> {
        match env::var(variable) {
            Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
            Err(env::VarError::NotPresent) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                Ok(Self::new(u64::try_from(now.as_micros())?).next())
            }
            Err(error) => Err(error).context(variable.to_owned()),
        }
    }

    /// A sequence of its own for each combination of these numbers.
    #[must_use]
    pub fn of(numbers: &[u64]) -> Self {
        Self(numbers.iter().fold(0, |state, number| Self(state ^ number).next()))
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // it never ends
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, times: u64) -> bool {
        self.below(100) < times
    }

    /// One of `choices`, of which there is at least one.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        choices[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of Vigna's reference implementation for seed 1234567.
    #[test]
    fn it_is_splitmix64() {
        let mut random = Random::new(1_234_567);
        let first =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(first, [random.next(), random.next(), random.next()]);
    }

    #[test]
    fn other_numbers_are_other_sequences() {
        let first = |numbers: &[u64]| Random::of(numbers).next();
        assert_eq!(first(&[1, 2, 3]), first(&[1, 2, 3]));
        assert_ne!(first(&[1, 2, 3]), first(&[1, 3, 2]));
        assert_ne!(first(&[1, 2, 3]), first(&[1, 2]));
    }
}
