//! The record of one connection: what each end has sent, in sequence space.
//!
//! A record has two halves, one an end. Each half has one direction of traffic as its writer, so XDP on one CPU and tcx
//! egress on another update a flow together without a lock. Facts only grow; states are derived from them
//! ([`crate::state`]) and never stored, so there is no transition to lose.

mod facts;
mod half;
mod half_open;
mod life;

use self::life::{GENERATION_BITS, GENERATION_SHIFT};
pub use self::{
    facts::{Facts, Opening, UNSCALED_WINDOW, fact},
    half::Half,
    half_open::{HalfOpen, OtherOpening, OtherOpenings},
    life::Life,
};
use crate::{
    cell::{U32, U64},
    history::History,
    key::End,
    owner::Owner,
    time::Tick,
};

/// Bits of [`Flow::flags`].
pub mod flow_flag {
    /// First seen after its handshake.
    pub const MIDSTREAM: u32 = 1 << 0;
    /// The high end opened it.
    pub const ORIGINATOR_HIGH: u32 = 1 << 1;
    /// A newer SYN on the same key waits among the half-open flows.
    pub const SUCCESSOR: u32 = 1 << 2;
    /// Its ESTABLISHED event was sent.
    pub const ESTABLISHED: u32 = 1 << 3;
    /// Its CLOSING event was sent.
    pub const CLOSING: u32 = 1 << 4;
    /// That it found the table full was counted.
    pub const TABLE_FULL: u32 = 1 << 5;
    /// A SYN of an old connection was seen on it while it was in TIME_WAIT (T10).
    pub const OLD_SYN: u32 = 1 << 6;
    /// That data went on after one end's FIN was counted.
    pub const HALF_CLOSE: u32 = 1 << 7;
    /// Other ISNs were used on its key shortly before: RSTs for those may still come.
    pub const OTHER_ISNS: u32 = 1 << 8;
    /// The history has a `q` of the low end; the bit above, of the high end.
    pub const SYN_MIXED: u32 = 1 << 9;
    /// The history has an `i` of the low end; the bit above, of the high end.
    pub const FIN_MIXED: u32 = 1 << 11;
    /// The SYN of [`OLD_SYN`] was the low end's; the bit above, the high end's.
    pub const OLD_SYN_OF: u32 = 1 << 13;
    /// Its CLOSE event was sent.
    pub const CLOSED: u32 = 1 << 15;
    /// Those that say that something was sent, counted or noted.
    pub const ONCE: u32 = ESTABLISHED
        | CLOSING
        | CLOSED
        | TABLE_FULL
        | OLD_SYN
        | HALF_CLOSE
        | OTHER_ISNS
        | (3 * (SYN_MIXED | FIN_MIXED | OLD_SYN_OF));
    /// Where the [`Owner`](crate::owner::Owner) of the low end's half stands, eight bits; the high end's follows.
    pub const OWNERS_SHIFT: u32 = 16;
}

/// What a flow counts of each end, for its history and for storms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Repeat {
    /// Sent what it had sent before.
    Retransmission = 0,
    /// Sent data that was not seen, though the peer acknowledged it.
    Gap = 1,
    /// Offered a window of zero.
    ZeroWindow = 2,
    /// Sent a FIN after its first, or an RST after the connection was reset.
    Close = 3,
}

impl Repeat {
    /// Counting stops here.
    pub const MAX: u32 = 255;

    #[inline(always)]
    const fn shift(self) -> u32 {
        self as u32 * 8
    }
}

/// The record of one connection.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Flow {
    /// [`Life`].
    life: U64,
    /// Zeek's letters.
    pub history: History,
    /// The upper bits of when its first packet was seen; the generation has the lower ones.
    epoch: U32,
    /// From the SYN to the segment that completed the handshake, microseconds; 0 where not seen.
    pub handshake_us: U32,
    /// Violations counted on it.
    pub violations: U32,
    flags: U32,
    repeats: [U32; 2],
    /// What the low and the high end sent.
    pub halves: [Half; 2],
}

impl Flow {
    /// Makes this the record of a connection first seen at `now_ns`.
    #[inline(always)]
    pub fn start(&self, now_ns: u64, originator: End, flags: u32) {
        self.halves[0].clear();
        self.halves[1].clear();
        self.history.clear();
        self.repeats[0].set(0);
        self.repeats[1].set(0);
        self.handshake_us.set(0);
        self.violations.set(0);
        let high = if originator.is_high() { flow_flag::ORIGINATOR_HIGH } else { 0 };
        self.flags.set(flags | high);
        // Connections on one key begin at different times, so the time tells them apart: repeating takes two that
        // begin a multiple of 34 s apart to 16 ns, and were last seen in the same 17 ms.
        #[allow(clippy::cast_possible_truncation)] // keeps the lower bits
        let generation = (now_ns >> GENERATION_SHIFT) as u32 & !Life::DEAD;
        #[allow(clippy::cast_possible_truncation)] // never that large
        self.epoch.set((now_ns >> (GENERATION_SHIFT + GENERATION_BITS)) as u32);
        self.life.set(Life { generation, last_seen: Tick::at(now_ns) }.to_word());
    }

    /// When its first packet was seen, nanoseconds since boot, to 16 ns.
    #[inline(always)]
    #[must_use]
    pub fn created_ns(&self) -> u64 {
        let lower = u64::from(self.life().generation & !Life::DEAD);
        (u64::from(self.epoch.get()) << GENERATION_BITS | lower) << GENERATION_SHIFT
    }

    /// Who counts what `end` sends.
    #[inline(always)]
    #[must_use]
    pub fn owner(&self, end: End) -> Owner {
        Owner(self.flags.get() >> Self::owner_shift(end) & Owner::MASK)
    }

    /// Makes `owner` the one that counts what `end` sends.
    #[inline(always)]
    pub fn set_owner(&self, end: End, owner: Owner) {
        let shift = Self::owner_shift(end);
        self.unmark(Owner::MASK << shift & !(owner.0 << shift));
        self.mark(owner.0 << shift);
    }

    #[inline(always)]
    const fn owner_shift(end: End) -> u32 {
        flow_flag::OWNERS_SHIFT + if end.is_high() { 8 } else { 0 }
    }

    /// The slot of the interface that counts what its originator sends; where nothing was seen of that, what the other end sends.
    #[inline(always)]
    #[must_use]
    pub fn slot(&self) -> u32 {
        let opener = self.owner(self.originator());
        if opener.is_some() { opener.slot() } else { self.owner(self.originator().other()).slot() }
    }

    /// How often `end` did what [`Repeat`] names.
    #[inline(always)]
    #[must_use]
    pub fn repeats(&self, end: End, what: Repeat) -> u32 {
        self.repeats[end.index()].get() >> what.shift() & Repeat::MAX
    }

    /// Counts that `end` did it once more, up to [`Repeat::MAX`], and returns how often it has.
    #[inline(always)]
    pub fn repeat(&self, end: End, what: Repeat) -> u32 {
        let cell = &self.repeats[end.index()];
        let count = cell.get() >> what.shift() & Repeat::MAX;
        if count == Repeat::MAX {
            return count;
        }
        cell.set(cell.get() + (1 << what.shift()));
        count + 1
    }

    /// The half of `end`.
    #[inline(always)]
    #[must_use]
    pub fn half(&self, end: End) -> &Half {
        &self.halves[end.index()]
    }

    /// The end that opened it; for a flow picked up in its middle, the end seen first.
    #[inline(always)]
    #[must_use]
    pub fn originator(&self) -> End {
        End::from_high(self.has(flow_flag::ORIGINATOR_HIGH))
    }

    /// Makes `end` the one that opened it.
    #[inline(always)]
    pub fn set_originator(&self, end: End) {
        if end.is_high() {
            self.mark(flow_flag::ORIGINATOR_HIGH);
        } else {
            self.unmark(flow_flag::ORIGINATOR_HIGH);
        }
    }

    /// Whether all of `bits` of [`flow_flag`] are set.
    #[inline(always)]
    #[must_use]
    pub fn has(&self, bits: u32) -> bool {
        self.flags.get() & bits == bits
    }

    /// Whether any of `bits` of [`flow_flag`] is set.
    #[inline(always)]
    #[must_use]
    pub fn has_any(&self, bits: u32) -> bool {
        self.flags.get() & bits != 0
    }

    /// Sets `bits` of [`flow_flag`].
    #[inline(always)]
    pub fn mark(&self, bits: u32) {
        self.flags.or(bits);
    }

    /// Sets bits of [`flow_flag`], and says which of them this call has set: each is set by one of two CPUs.
    #[inline(always)]
    pub fn mark_once(&self, bits: u32) -> u32 {
        // One other writer, and it sets other bits at most, so the second try decides.
        for _ in 0..4 {
            let now = self.flags.get();
            if now & bits == bits {
                return 0;
            }
            if self.flags.compare_exchange(now, now | bits) {
                return bits & !now;
            }
        }
        0
    }

    /// Clears bits of [`flow_flag`], unless another CPU writes at the same moment.
    #[inline(always)]
    pub fn unmark(&self, bits: u32) {
        let now = self.flags.get();
        let _ = self.flags.compare_exchange(now, now & !bits);
    }

    /// Adds what `other` knows: the record in another table that this is an earlier copy of, and that another CPU has written to
    /// since. Nothing where it is another connection's. Counts become the larger of both: where each has counted a packet that the other
    /// has not, one of them is missing.
    #[inline(always)]
    pub fn join(&self, other: &Self) {
        if self.is_dead() || other.created_ns() != self.created_ns() {
            return;
        }
        for end in [End::LOW, End::HIGH] {
            self.half(end).join(other.half(end));
            if !self.owner(end).is_some() && other.owner(end).is_some() {
                self.set_owner(end, other.owner(end));
            }
        }
        self.mark(other.flags.get() & flow_flag::ONCE);
        self.history.join(&other.history);
        if self.handshake_us.get() == 0 {
            self.handshake_us.set(other.handshake_us.get());
        }
        if other.violations.get() > self.violations.get() {
            self.violations.set(other.violations.get());
        }
    }

    /// Which connection, last seen when.
    #[inline(always)]
    #[must_use]
    pub fn life(&self) -> Life {
        Life::from_word(self.life.get())
    }

    /// Whether this record is about to be deleted, and so no connection any more.
    #[inline(always)]
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.life().is_dead()
    }

    /// Notes that it was seen at `now_ns`; false where it died meanwhile. A record seen within the tick is left alone:
    /// nobody removes one that young.
    #[inline(always)]
    #[must_use]
    pub fn renew(&self, now_ns: u64) -> bool {
        let now = Tick::at(now_ns);
        for _ in 0..4 {
            let life = self.life();
            if life.is_dead() {
                return false;
            }
            if life.last_seen == now
                || self
                    .life
                    .compare_exchange(life.to_word(), Life { last_seen: now, ..life }.to_word())
            {
                return true;
            }
        }
        true
    }

    /// Declares it dead if it is still what `judged` says; the caller then deletes its key.
    #[inline(always)]
    #[must_use]
    pub fn entomb(&self, judged: Life) -> bool {
        let tombstone = Life { generation: judged.generation | Life::DEAD, ..judged };
        !judged.is_dead() && self.life.compare_exchange(judged.to_word(), tombstone.to_word())
    }
}

const _: () = assert!(
    size_of::<Flow>() + size_of::<crate::key::FlowKey>() <= 192,
    "record and key together stay within 192 bytes"
);
