//! A connection's history in Zeek's letters: upper case from the originator, lower case from the responder.

use core::fmt;

use crate::{cell::U64, key::End};

/// What happened, in the words of Zeek's `conn.log`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Letter {
    /// `s`: SYN.
    Syn = 1,
    /// `h`: SYN,ACK (handshake).
    SynAck = 2,
    /// `a`: a pure ACK.
    Ack = 3,
    /// `d`: data.
    Data = 4,
    /// `f`: FIN.
    Fin = 5,
    /// `r`: RST.
    Rst = 6,
    /// `g`: a gap: the peer acknowledges what was not seen.
    Gap = 7,
    /// `t`: a retransmission.
    Retransmission = 8,
    /// `w`: a window of zero.
    ZeroWindow = 9,
    /// `q`: SYN with FIN or RST.
    SynMixed = 10,
    /// `i`: FIN with RST.
    FinMixed = 11,
    /// `^`: the flow's first packet was not its originator's.
    Flipped = 12,
}

const LETTERS: [char; 13] = ['?', 's', 'h', 'a', 'd', 'f', 'r', 'g', 't', 'w', 'q', 'i', '^'];
const BITS: u32 = 5;
const SENDER_IS_HIGH: u64 = 16;
/// The bits that letters fill.
const FULL: u64 = (1 << (History::MAX * BITS)) - 1;

/// Letters to append, in the history's own form.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Letters(u64);

impl Letters {
    /// Those so far, and `letter` after them, sent by `from`.
    #[inline(always)]
    #[must_use]
    pub fn and(self, letter: Letter, from: End) -> Self {
        let code = letter as u64 | if from.is_high() { SENDER_IS_HIGH } else { 0 };
        let used = (u64::BITS - self.0.leading_zeros()).div_ceil(BITS);
        Self(self.0 | code << ((used * BITS) & 63))
    }
}

/// Up to twelve letters in one word, five bits each: four name the letter, one the end that sent it, so that a late
/// decision about who opened the connection rewrites nothing.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct History(U64);

impl History {
    /// The most letters that are kept; later ones are dropped.
    pub const MAX: u32 = 64 / BITS;

    /// Starts again.
    #[inline(always)]
    pub fn clear(&self) {
        self.0.set(0);
    }

    /// Appends letters. What two CPUs append at the same moment is both kept.
    #[inline(always)]
    pub fn append(&self, letters: Letters) {
        if letters.0 == 0 {
            return;
        }
        // Two directions, so two writers: the second try succeeds unless the other CPU wrote twice meanwhile.
        for _ in 0..4 {
            let now = self.0.get();
            let used = (u64::BITS - now.leading_zeros()).div_ceil(BITS);
            let next = now | ((letters.0 << ((used * BITS) & 63)) & FULL);
            if used >= Self::MAX || self.0.compare_exchange(now, next) {
                return;
            }
        }
    }

    /// Appends what `other` has beyond the letters that both begin with.
    #[inline(always)]
    pub fn join(&self, other: &Self) {
        let (here, there) = (self.0.get(), other.0.get());
        let in_common = (here ^ there).trailing_zeros() / BITS;
        if in_common < Self::MAX {
            self.append(Letters(there >> ((in_common * BITS) & 63)));
        }
    }

    /// The letters as Zeek prints them for a connection that `originator` opened.
    #[must_use]
    pub fn display(&self, originator: End) -> Display {
        Display { letters: self.0.get(), originator }
    }
}

/// [`History`] with its originator, ready to print.
#[derive(Clone, Copy, Debug)]
pub struct Display {
    letters: u64,
    originator: End,
}

impl fmt::Display for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.letters;
        while rest != 0 {
            #[allow(clippy::cast_possible_truncation)] // four bits
            let letter = LETTERS.get((rest & 15) as usize).copied().unwrap_or('?');
            let from = End::from_high(rest & SENDER_IS_HIGH != 0);
            fmt::Write::write_char(
                f,
                if from == self.originator { letter.to_ascii_uppercase() } else { letter },
            )?;
            rest >>= BITS;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_cased_by_the_originator() {
        let history = History::default();
        for (letter, from) in [
            (Letter::Syn, End::HIGH),
            (Letter::SynAck, End::LOW),
            (Letter::Ack, End::HIGH),
            (Letter::Fin, End::LOW),
        ] {
            history.append(Letters::default().and(letter, from));
        }
        assert_eq!(history.display(End::HIGH).to_string(), "ShAf");
        assert_eq!(history.display(End::LOW).to_string(), "sHaF");
    }

    #[test]
    fn histories_that_parted_are_joined() {
        let letters = |all: &[(Letter, End)]| {
            let history = History::default();
            for (letter, from) in all {
                history.append(Letters::default().and(*letter, *from));
            }
            history
        };
        let (syn, ack, data) =
            ((Letter::Syn, End::LOW), (Letter::Ack, End::HIGH), (Letter::Data, End::LOW));
        for (here, there, joined) in [
            (&[syn, ack][..], &[syn, ack, data][..], "SaD"),
            (&[syn, data], &[syn], "SD"),
            (&[syn, ack, ack], &[syn, ack, data], "SaaD"),
            (&[syn, ack], &[syn, ack], "Sa"),
            (&[], &[data], "D"),
            (&[data; 12], &[data; 12], "DDDDDDDDDDDD"),
        ] {
            let history = letters(here);
            history.join(&letters(there));
            assert_eq!(history.display(End::LOW).to_string(), joined);
        }
    }

    #[test]
    fn a_full_history_stays_as_it_is() {
        let history = History::default();
        for _ in 0..20 {
            history
                .append(Letters::default().and(Letter::Syn, End::LOW).and(Letter::Data, End::LOW));
        }
        assert_eq!(history.display(End::LOW).to_string(), "SD".repeat(6));
    }
}
