//! When a record began, and which connection of its key it is.

use crate::time::Tick;

/// A generation counts 2^4 ns.
pub(super) const GENERATION_SHIFT: u32 = 4;

/// It has so many bits; the one above says that the record is a tombstone.
pub(super) const GENERATION_BITS: u32 = 31;

/// Which connection on a key this is, and when it was last seen, in one word: who wants to remove a flow exchanges
/// the word that it judged by for a tombstone, and fails if anything happened since.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Life {
    /// Differs between connections that follow each other on a key. With [`Life::DEAD`] it is a tombstone.
    pub generation: u32,
    /// When a segment last renewed it.
    pub last_seen: Tick,
}

impl Life {
    /// The bit of `generation` that makes a tombstone.
    pub const DEAD: u32 = 1 << GENERATION_BITS;

    /// Whether it is a tombstone's.
    #[inline(always)]
    #[must_use]
    pub const fn is_dead(self) -> bool {
        self.generation & Self::DEAD != 0
    }

    /// As one word.
    #[inline(always)]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self.generation as u64) << 32 | self.last_seen.0 as u64
    }

    /// From one word.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // the two halves
        let life = Self { generation: (word >> 32) as u32, last_seen: Tick(word as u32) };
        life
    }
}
