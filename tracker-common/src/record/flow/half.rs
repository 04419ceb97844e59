//! One direction's part of the record.

use super::facts::{Facts, Opening, fact};
use crate::{
    cell::{U16, U32, U64},
    segment::{Flags, Segment},
    seq::Seq,
};

/// One end's half of a record. Fields as in [`Facts`].
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Half {
    /// Packets that this end sent.
    pub packets: U64,
    /// Their bytes, IP headers included.
    pub bytes: U64,
    isn: U32,
    end: U32,
    ack: U32,
    edge: U32,
    fin: U32,
    ts: U32,
    flags: U32,
    /// The window field of its last segment but for RSTs, not scaled.
    pub window: U16,
    /// MSS that its SYN offered; 0 where none was.
    pub mss: U16,
    refused_end: U32,
    refused_ack: U32,
}

impl Half {
    /// The facts as they stand.
    #[inline(always)]
    #[must_use]
    pub fn facts(&self) -> Facts {
        // First, as [`Half::grow`] writes them last: where they hold, so do the numbers.
        let flags = self.flags.get();
        Facts {
            isn: Seq(self.isn.get()),
            end: Seq(self.end.get()),
            ack: Seq(self.ack.get()),
            edge: Seq(self.edge.get()),
            fin: Seq(self.fin.get()),
            ts: Seq(self.ts.get()),
            refused_end: Seq(self.refused_end.get()),
            refused_ack: Seq(self.refused_ack.get()),
            window: u32::from(self.window.get()),
            flags,
        }
    }

    /// As [`Half::grow`], for what a segment of this end says: where other CPUs are at work on segments of the same end
    /// ([`Segment::shared`]), what they have stored meanwhile stays, as far as it goes further.
    #[inline(always)]
    pub fn grow_on(&self, segment: &Segment, before: &Facts, now: &Facts) {
        // Numbers mean something only with the bits that say so.
        let holds = before.has_end() && before.isn == now.isn;
        if !segment.shared || !holds || segment.has(Flags::SYN) || segment.has(Flags::RST) {
            self.grow(before, now);
            return;
        }
        let mut before = *before;
        advance(&self.end, now.end);
        before.end = now.end;
        if before.has(fact::ACK | fact::EDGE) {
            advance(&self.ack, now.ack);
            advance(&self.edge, now.edge);
            (before.ack, before.edge) = (now.ack, now.edge);
        }
        self.grow(&before, now);
    }

    /// Stores what is new in `now` against `before`. Numbers first, then the bits that say they hold; the bits by an
    /// atomic OR, so that none is lost where a network card spreads one direction over CPUs. Bits that go (few ever do)
    /// are cleared by an atomic AND.
    #[inline(always)]
    pub fn grow(&self, before: &Facts, now: &Facts) {
        store(&self.isn, before.isn, now.isn);
        store(&self.end, before.end, now.end);
        store(&self.ack, before.ack, now.ack);
        store(&self.edge, before.edge, now.edge);
        store(&self.fin, before.fin, now.fin);
        store(&self.ts, before.ts, now.ts);
        store(&self.refused_end, before.refused_end, now.refused_end);
        store(&self.refused_ack, before.refused_ack, now.refused_ack);
        if before.flags != now.flags {
            self.flags.or(now.flags & !before.flags);
            let gone = before.flags & !now.flags;
            if gone != 0 {
                self.flags.and(!gone);
            }
        }
    }

    /// Sets bits of [`fact`] that no number goes with.
    #[inline(always)]
    pub fn mark(&self, bits: u32) {
        self.flags.or(bits);
    }

    /// Counts a packet of this end, or the packets that it stands for.
    #[inline(always)]
    pub fn count(&self, segment: &Segment) {
        self.packets.add(1 + u64::from(segment.further));
        self.bytes.add(segment.wire_len());
        // An end without a socket offers none with its RST.
        if !segment.has(Flags::RST) {
            self.window.set(segment.window);
        }
    }

    /// Another SYN, or SYN,ACK, of this end is the one that counts (H8, H16): it replaces all that was known of its
    /// numbers. Called from the peer's direction, where both ends agree on it.
    #[inline(always)]
    pub fn choose(&self, opening: &Opening) {
        let before = self.facts();
        let mut facts = opening.facts();
        facts.flags |= before.flags & fact::KEPT;
        self.grow(&before, &facts);
        self.mss.set(opening.options.mss);
    }

    /// Adds what `other` knows, which this is an earlier copy of, and which another CPU has written to meanwhile.
    #[inline(always)]
    pub(super) fn join(&self, other: &Self) {
        let (here, there) = (self.facts(), other.facts());
        if here.has(fact::SYN) && there.has(fact::SYN) && here.isn != there.isn {
            return;
        }
        let is_new = |bits| there.has(bits) && !here.has(bits);
        if is_new(fact::SYN) {
            self.isn.set(there.isn.0);
        }
        if is_new(fact::FIN) {
            self.fin.set(there.fin.0);
        }
        if is_new(fact::RST) {
            self.refused_end.set(there.refused_end.0);
            self.refused_ack.set(there.refused_ack.0);
        }
        join_number(&self.end, here.has_end(), there.has_end(), there.end);
        join_number(&self.ack, here.has(fact::ACK), there.has(fact::ACK), there.ack);
        join_number(&self.edge, here.has(fact::EDGE), there.has(fact::EDGE), there.edge);
        join_number(&self.ts, here.has(fact::TS), there.has(fact::TS), there.ts);
        if other.packets.get() > self.packets.get() {
            self.window.set(other.window.get());
        }
        raise(&self.packets, other.packets.get());
        raise(&self.bytes, other.bytes.get());
        if self.mss.get() == 0 {
            self.mss.set(other.mss.get());
        }
        self.flags.or(there.flags & !(here.flags | fact::REFUSED));
    }

    #[inline(always)]
    pub(super) fn clear(&self) {
        for cell in [&self.isn, &self.end, &self.ack, &self.edge, &self.fin, &self.ts, &self.flags]
        {
            cell.set(0);
        }
        self.packets.set(0);
        self.bytes.set(0);
        self.window.set(0);
        self.mss.set(0);
        self.refused_end.set(0);
        self.refused_ack.set(0);
    }
}

/// Stores `now` where it is later than what is there. Given up where others store all the time, who are later then.
#[inline(always)]
fn advance(cell: &U32, now: Seq) {
    for _ in 0..3 {
        let there = cell.get();
        if !now.after(Seq(there)) || cell.compare_exchange(there, now.0) {
            return;
        }
    }
}

/// Stores `there`, where that holds, in place of a number that does not hold here, or is earlier.
#[inline(always)]
fn join_number(cell: &U32, holds_here: bool, holds_there: bool, there: Seq) {
    if holds_there && holds_here {
        advance(cell, there);
    } else if holds_there {
        cell.set(there.0);
    }
}

/// Stores `count` where it is more than what is there.
#[inline(always)]
fn raise(cell: &U64, count: u64) {
    for _ in 0..3 {
        let there = cell.get();
        if count <= there || cell.compare_exchange(there, count) {
            return;
        }
    }
}

#[inline(always)]
fn store(cell: &U32, before: Seq, now: Seq) {
    if before != now {
        cell.set(now.0);
    }
}
