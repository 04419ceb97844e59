//! A flow whose handshake is not complete: the record, and what further SYNs offered.

use super::{
    Flow,
    facts::{Opening, fact},
};
use crate::{cell::U32, forget::opaque, key::End, segment::SynOptions, seq::Seq};

/// A SYN, or a SYN,ACK, that an end sent beside the one in its half: [`Opening`].
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct OtherOpening {
    isn: U32,
    ack: U32,
    timestamp: U32,
    /// The window, and the MSS above it.
    sizes: U32,
    /// Bytes of data, 16 bits; what options are present, 8 bits; the window scale, 7 bits; whether it is a SYN,ACK.
    rest: U32,
}

impl OtherOpening {
    #[inline(always)]
    fn set(&self, opening: &Opening) {
        let Opening { isn, answers, ack, data, window, options } = *opening;
        self.isn.set(isn.0);
        self.ack.set(ack.0);
        self.timestamp.set(options.timestamp.0);
        self.sizes.set((window & 0xffff) | u32::from(options.mss) << 16);
        let scale = u32::from(options.window_scale & 0x7f) << 24;
        let present = u32::from(options.present) << 16 | u32::from(answers) << 31;
        self.rest.set((data & 0xffff) | scale | present);
    }

    #[inline(always)]
    fn get(&self) -> Opening {
        let (sizes, rest) = (self.sizes.get(), self.rest.get());
        #[allow(clippy::cast_possible_truncation)] // as they were put together
        let options = SynOptions {
            mss: (sizes >> 16) as u16,
            window_scale: (rest >> 24) as u8 & 0x7f,
            present: (rest >> 16) as u8,
            timestamp: Seq(self.timestamp.get()),
            timestamp_echo: Seq(0),
        };
        Opening {
            isn: Seq(self.isn.get()),
            answers: rest >> 31 != 0,
            ack: Seq(self.ack.get()),
            data: rest & 0xffff,
            window: sizes & 0xffff,
            options,
        }
    }
}

/// SYNs, or SYN,ACKs, of one end besides the one that its half holds: a SYN may come again with another ISN, and the
/// handshake that completes decides which of them counts (H8, H16). The last few are kept.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct OtherOpenings {
    count: U32,
    openings: [OtherOpening; OtherOpenings::KEPT as usize],
}

impl OtherOpenings {
    /// How many are remembered.
    const KEPT: u32 = 4;

    #[inline(always)]
    fn clear(&self) {
        self.count.set(0);
    }

    /// Remembers one, in the place of the oldest.
    #[inline(always)]
    pub fn remember(&self, opening: &Opening) {
        let count = self.count.get();
        let known = self.place(|known| known.repeats(opening));
        let place = if known == NO_PLACE { count } else { known };
        if let Some(place) = self.openings.get(Self::index(place)) {
            place.set(opening);
        }
        if known == NO_PLACE {
            self.count.set(count.saturating_add(1));
        }
    }

    /// Remembers what `before` does, and forgets the rest.
    #[inline(always)]
    fn take_over(&self, before: &Self) {
        self.count.set(before.count.get());
        for (mine, known) in self.openings.iter().zip(&before.openings) {
            mine.isn.set(known.isn.get());
            mine.ack.set(known.ack.get());
            mine.timestamp.set(known.timestamp.get());
            mine.sizes.set(known.sizes.get());
            mine.rest.set(known.rest.get());
        }
    }

    /// How many there were.
    #[inline(always)]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.get()
    }

    /// Whether there were more than are remembered.
    #[inline(always)]
    #[must_use]
    pub fn has_forgotten(&self) -> bool {
        self.count() > Self::KEPT
    }

    /// Whether one with the numbers of `opening` is among them.
    #[inline(always)]
    #[must_use]
    pub fn has(&self, opening: &Opening) -> bool {
        self.place(|known| known.repeats(opening)) != NO_PLACE
    }

    /// Whether the last one had this ISN.
    #[inline(always)]
    #[must_use]
    pub fn ends_with(&self, isn: Seq) -> bool {
        let last = Self::index(self.count.get().wrapping_sub(1));
        self.openings.get(last).is_some_and(|last| last.isn.get() == isn.0)
    }

    /// The SYN that `ack` acknowledges.
    #[inline(always)]
    #[must_use]
    pub fn acknowledged(&self, ack: Seq) -> Option<Opening> {
        self.find(|known| ack.within(known.isn.add(1), known.end()))
    }

    /// The SYN,ACK that a segment with these numbers answers: it goes on from what that acknowledges.
    #[inline(always)]
    #[must_use]
    pub fn answered(&self, seq: Seq, ack: Seq) -> Option<Opening> {
        // No segment goes on from a SYN.
        let goes_on = |known: &Opening| known.answers && seq == known.ack;
        self.find(|known| ack.within(known.isn.add(1), known.end()) && goes_on(known))
    }

    #[inline(always)]
    fn find(&self, is_it: impl Fn(&Opening) -> bool) -> Option<Opening> {
        let place = self.place(is_it);
        if place == NO_PLACE {
            return None;
        }
        self.openings.get(Self::index(place)).map(OtherOpening::get)
    }

    /// The place of the one that came after so many. Verifiers need the mask where the compiler does not.
    #[inline(always)]
    fn index(count: u32) -> usize {
        opaque(count as usize) & (Self::KEPT as usize - 1)
    }

    #[inline(always)]
    fn place(&self, is_it: impl Fn(&Opening) -> bool) -> u32 {
        let count = self.count.get();
        let mut place = NO_PLACE;
        for (n, known) in (0..).zip(&self.openings) {
            if n < count && is_it(&known.get()) {
                place = n;
            }
        }
        place
    }
}

/// In place of an index.
const NO_PLACE: u32 = u32::MAX;

/// A flow that is not confirmed: its handshake is not complete, or only one direction of it was seen.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct HalfOpen {
    /// What is kept when it is confirmed.
    pub flow: Flow,
    /// Further SYNs of the low and the high end.
    pub others: [OtherOpenings; 2],
    previous_isn: U32,
    has_previous_isn: U32,
}

impl HalfOpen {
    /// As [`Flow::start`].
    #[inline(always)]
    pub fn start(&self, now_ns: u64, originator: End, flags: u32) {
        self.flow.start(now_ns, originator, flags);
        self.others[0].clear();
        self.others[1].clear();
        self.has_previous_isn.set(0);
    }

    /// Remembers the further SYNs and SYN,ACKs of a handshake on the same key that came to nothing: one may still complete.
    #[inline(always)]
    pub fn take_over(&self, before: &Self) {
        self.others[0].take_over(&before.others[0]);
        self.others[1].take_over(&before.others[1]);
    }

    /// Remembers the ISN that the originator used for the connection before this one.
    #[inline(always)]
    pub fn remember_previous(&self, isn: Seq) {
        self.previous_isn.set(isn.0);
        self.has_previous_isn.set(1);
    }

    /// Whether `isn` is the one that the originator used for the connection before this one.
    #[inline(always)]
    #[must_use]
    pub fn is_previous(&self, isn: Seq) -> bool {
        self.has_previous_isn.get() != 0 && self.previous_isn.get() == isn.0
    }

    /// Whether the originator's ISN is the one that it used for the connection before this one.
    #[inline(always)]
    #[must_use]
    pub fn repeats_previous(&self) -> bool {
        let facts = self.flow.half(self.flow.originator()).facts();
        facts.has(fact::SYN) && self.is_previous(facts.isn)
    }

    /// Further SYNs of `end`.
    #[inline(always)]
    #[must_use]
    pub fn others(&self, end: End) -> &OtherOpenings {
        &self.others[end.index()]
    }
}
