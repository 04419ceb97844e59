//! The record of one connection: what each end has sent, in sequence space.
//!
//! A record has two halves, one an end. Each half has one direction of traffic as its writer, so XDP on one CPU and tcx
//! egress on another update a flow together without a lock. Facts only grow; states are derived from them
//! ([`crate::state`]) and never stored, so there is no transition to lose.

use crate::{
    cell::{U16, U32, U64},
    forget::opaque,
    history::History,
    key::End,
    owner::Owner,
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
    time::Tick,
};

/// Bits of [`Facts::flags`].
pub mod fact {
    /// Sent a SYN; `isn` holds.
    pub const SYN: u32 = 1 << 0;
    /// Sent a SYN,ACK.
    pub const SYN_ACK: u32 = 1 << 1;
    /// `ack` holds.
    pub const ACK: u32 = 1 << 2;
    /// Sent a FIN; `fin` holds.
    pub const FIN: u32 = 1 << 3;
    /// Sent an RST that ended the connection.
    pub const RST: u32 = 1 << 4;
    /// Has acknowledged the peer's SYN. Kept, because after 2 GB the numbers no longer tell.
    pub const ACKED_SYN: u32 = 1 << 5;
    /// Has sent a segment beyond its SYN; with [`SYN`], `end` holds from either on.
    pub const MOVED_ON: u32 = 1 << 6;
    /// Has acknowledged exactly all that the peer was seen to send: the peer's `end` can be relied on, also in a flow
    /// that was picked up in its middle.
    pub const SYNCED: u32 = 1 << 7;
    /// Sent data or a FIN before any SYN,ACK was seen: a breach if one comes to light that it did not know.
    pub const EARLY_DATA: u32 = 1 << 8;
    /// Its SYN carried data.
    pub const SYN_DATA: u32 = 1 << 9;
    /// A segment of its was refused whose numbers its peer has not confirmed yet: `refused_end` and `refused_ack` hold.
    pub const REFUSED: u32 = 1 << 10;
    /// Offered SACK.
    pub const SACK: u32 = 1 << 11;
    /// Offered timestamps.
    pub const TIMESTAMPS: u32 = 1 << 12;
    /// Sent a Fast Open option.
    pub const FAST_OPEN: u32 = 1 << 13;
    /// Some of its segments came in IP fragments, whose data is out of sight.
    pub const FRAGMENTED: u32 = 1 << 14;
    /// Some of its packets arrived at the interface.
    pub const SEEN_IN: u32 = 1 << 15;
    /// Some of its packets left by the interface.
    pub const SEEN_OUT: u32 = 1 << 16;
    /// Its history has an `a`.
    pub const PURE_ACK: u32 = 1 << 17;
    /// Its history has a `d`.
    pub const DATA: u32 = 1 << 18;
    /// `edge` holds.
    pub const EDGE: u32 = 1 << 19;
    /// `ts` holds.
    pub const TS: u32 = 1 << 20;
    /// Its first FIN acknowledged the peer's: it closed second. Whether it closed first is decided by this alone.
    pub const CLOSED_SECOND: u32 = 1 << 21;
    /// Its first FIN acknowledged more than was seen of the peer, so it may have closed second.
    pub const FIN_AHEAD: u32 = 1 << 22;
    /// Sent a SYN without ACK: only then may a SYN,ACK from its peer's side answer it.
    pub const BARE_SYN: u32 = 1 << 23;
    /// Where its window scale shift stands, plus one, in four bits; 0 where it offered none.
    pub const SCALE_SHIFT: u32 = 24;
    /// All four of them.
    pub const SCALE: u32 = 15 << SCALE_SHIFT;
    /// Its SYN offered Multipath TCP (RFC 8684).
    pub const MPTCP: u32 = 1 << 28;
    /// Its RST was at the very number that its peer had acknowledged: the peer takes it, whatever else comes to light.
    pub const RST_EXACT: u32 = 1 << 29;
    /// Went on after an RST that was not exact: its peer's, which it has refused (RFC 5961 section 3), or one in its own
    /// name that was so refused.
    pub const OUTLIVED_RST: u32 = 1 << 30;
    /// Came to acknowledge the peer's FIN after its own, or a copy of its FIN did not: it did not close second.
    pub const CLOSED_FIRST: u32 = 1 << 31;

    /// What stays when a SYN is replaced by another: what was seen of the end, whatever its numbers.
    pub const KEPT: u32 = SEEN_IN | SEEN_OUT | PURE_ACK | DATA | BARE_SYN;
}

/// A window that nothing is known about: the largest that is not scaled.
pub const UNSCALED_WINDOW: u32 = 0xffff;

/// What one end has sent, as plain values.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// Initial sequence number; without [`fact::SYN`], the first number seen.
    pub isn: Seq,
    /// Highest sequence number sent, plus one (SND.NXT as far as seen).
    pub end: Seq,
    /// Highest acknowledgment sent (RCV.NXT as last told to the peer).
    pub ack: Seq,
    /// Highest acknowledgment plus window sent: the end of what it ever offered to receive. Without [`fact::EDGE`], the
    /// window that its SYN offered, which counts from the peer's first number.
    pub edge: Seq,
    /// Sequence number of its FIN. Without [`fact::FIN`], the last number of what was missed directly before a segment
    /// without data, which may have been a FIN ([`Facts::ends_with_gap`]); or the FIN of a segment that was refused
    /// ([`Facts::refused_fin`]).
    pub fin: Seq,
    /// The newest timestamp that its peer will have taken over from it (RFC 7323 section 4.3's TS.Recent); numbers like
    /// these are compared as sequence numbers are.
    pub ts: Seq,
    /// With [`fact::REFUSED`], the end of the segment that was refused last: if the peer acknowledges it, it was sent. For an
    /// end that has sent an RST: the number of that.
    pub refused_end: Seq,
    /// With [`fact::REFUSED`], what that segment acknowledged: if the peer goes on from there, it was sent. For an end that
    /// has sent an RST: the end of what the peer had sent until then.
    pub refused_ack: Seq,
    /// The window field of its last segment, not scaled.
    pub window: u32,
    /// Bits of [`fact`].
    pub flags: u32,
}

impl Facts {
    /// Whether all of `bits` hold.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, bits: u32) -> bool {
        self.flags & bits == bits
    }

    /// Whether any packet of this end was seen.
    #[inline(always)]
    #[must_use]
    pub const fn seen(&self) -> bool {
        self.flags & (fact::SEEN_IN | fact::SEEN_OUT) != 0
    }

    /// Whether `end` holds.
    #[inline(always)]
    #[must_use]
    pub const fn has_end(&self) -> bool {
        self.flags & (fact::SYN | fact::MOVED_ON) != 0
    }

    /// The window scale shift that its SYN offered.
    #[inline(always)]
    #[must_use]
    pub const fn window_scale(&self) -> Option<u32> {
        (self.flags >> fact::SCALE_SHIFT & 15).checked_sub(1)
    }

    /// Shift for windows that this end sends to `peer` after the handshake: only if both offered it (RFC 7323 section
    /// 2.2). Where a SYN was not seen, the largest that is possible.
    #[inline(always)]
    #[must_use]
    pub const fn scale(&self, peer: &Self) -> u32 {
        if !self.has(fact::SYN) {
            return 14;
        }
        let shift = self.flags >> fact::SCALE_SHIFT & 15;
        if shift == 0 || (peer.has(fact::SYN) && peer.flags & fact::SCALE == 0) {
            0
        } else {
            shift - 1
        }
    }

    /// Whether this and `peer` are the ends of a Multipath TCP connection, as far as their SYNs were seen (RFC 8684
    /// section 3.1).
    #[inline(always)]
    #[must_use]
    pub const fn is_multipath(&self, peer: &Self) -> bool {
        (self.flags | peer.flags) & fact::MPTCP != 0
            && (!self.has(fact::SYN) || self.has(fact::MPTCP))
            && (!peer.has(fact::SYN) || peer.has(fact::MPTCP))
    }

    /// Whether the last number before `end` was never seen in a segment, but in what came after it: data that was missed,
    /// or a FIN.
    #[inline(always)]
    #[must_use]
    pub const fn ends_with_gap(&self) -> bool {
        !self.has(fact::FIN) && self.has_end() && self.end.0 == self.fin.add(1).0
    }

    /// Whether the segment that was refused last was a FIN.
    #[inline(always)]
    #[must_use]
    pub const fn refused_fin(&self) -> bool {
        self.has(fact::REFUSED)
            && !self.has(fact::FIN)
            && self.refused_end.0 == self.fin.add(1).0
            && (!self.has_end() || self.refused_end.after(self.end))
    }

    /// Whether a FIN was refused that goes on from `end`, where its sender's SYN ends: that came late.
    #[inline(always)]
    #[must_use]
    pub const fn has_early_fin(&self, end: Seq) -> bool {
        self.refused_fin()
            && !self.has(fact::MOVED_ON)
            && self.fin.within(end, end.add(UNSCALED_WINDOW))
    }

    /// Forgets what was last refused, and what may have been a FIN.
    #[inline(always)]
    pub fn forget_refused(&mut self) {
        if self.has(fact::REFUSED) {
            self.flags &= !fact::REFUSED;
            self.refused_end = Seq(0);
            self.refused_ack = Seq(0);
            self.forget_gap();
        }
    }

    /// Forgets that anything may have been a FIN.
    #[inline(always)]
    pub fn forget_gap(&mut self) {
        if !self.has(fact::FIN) {
            // No end of what was sent is one more than this.
            self.fin = self.isn.sub(2);
        }
    }

    /// How far beyond an acknowledgment `peer` may go on: the window that this end offered it last, or the largest that it
    /// is known to have.
    #[inline(always)]
    #[must_use]
    pub const fn reach(&self, peer: &Self) -> u32 {
        let last = self.window << self.scale(peer);
        let known = if self.has(fact::ACK | fact::EDGE) { self.edge.since(self.ack) } else { 0 };
        if known > last { known } else { last }
    }

    /// Takes over what a SYN segment's options offer.
    #[inline(always)]
    pub fn offer(&mut self, options: &SynOptions) {
        if options.has(SynOptions::HAS_WINDOW_SCALE) && self.flags & fact::SCALE == 0 {
            let shift = u32::from(options.window_scale);
            self.flags |= ((if shift > 14 { 14 } else { shift }) + 1) << fact::SCALE_SHIFT;
        }
        if options.has(SynOptions::HAS_SACK) {
            self.flags |= fact::SACK;
        }
        if options.has(SynOptions::HAS_TIMESTAMPS) {
            self.flags |= fact::TIMESTAMPS;
            // A value of 0 in a SYN is none (the kernel's tcp_paws_check()).
            if options.timestamp.0 != 0 && !self.has(fact::TS) {
                self.flags |= fact::TS;
                self.ts = options.timestamp;
            }
        }
        if options.has(SynOptions::HAS_FAST_OPEN) {
            self.flags |= fact::FAST_OPEN;
        }
        if options.has(SynOptions::HAS_MPTCP) {
            self.flags |= fact::MPTCP;
        }
    }
}

/// What a SYN or a SYN,ACK says, as plain values.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opening {
    /// Its sequence number.
    pub isn: Seq,
    /// What it acknowledges; 0 for a SYN.
    pub ack: Seq,
    /// Bytes of data.
    pub data: u32,
    /// The window field.
    pub window: u32,
    /// What its options offer.
    pub options: SynOptions,
}

impl Opening {
    /// What is said by a SYN or a SYN,ACK.
    #[inline(always)]
    #[must_use]
    pub const fn of(segment: &Segment) -> Self {
        let ack = if segment.has(Flags::ACK) { segment.ack } else { Seq(0) };
        let Segment { seq, payload, window, options, .. } = *segment;
        Self { isn: seq, ack, data: payload, window: window as u32, options }
    }

    /// The number after its last.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> Seq {
        self.isn.add(1 + self.data)
    }

    /// Adds the facts of an end's SYN, or SYN,ACK, to those of an end that has sent none.
    #[inline(always)]
    pub fn add_to(&self, facts: &mut Facts) {
        facts.isn = self.isn;
        let is_closed = facts.has_early_fin(self.end());
        facts.end = if facts.has_end() { facts.end.latest(self.end()) } else { self.end() };
        if !is_closed {
            facts.forget_refused();
            if !facts.has(fact::MOVED_ON) {
                facts.forget_gap();
            }
        }
        facts.flags |= fact::SYN;
        if self.data > 0 {
            facts.flags |= fact::SYN_DATA;
        }
        facts.offer(&self.options);
    }

    /// What is known of an end of which this is the SYN, or, where it `answers`, the SYN,ACK.
    #[inline(always)]
    #[must_use]
    pub fn facts(&self, answers: bool) -> Facts {
        let mut facts = Facts { edge: Seq(self.window), window: self.window, ..Facts::default() };
        self.add_to(&mut facts);
        if answers {
            facts.ack = self.ack;
            facts.edge = self.ack.add(self.window);
            facts.flags |= fact::SYN_ACK | fact::ACK | fact::EDGE;
        }
        facts
    }
}

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
    /// The window field of its last segment, not scaled.
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
            flags: self.flags.get(),
        }
    }

    /// As [`Half::grow`], for what a segment of this end says: where other CPUs are at work on segments of the same end
    /// ([`Segment::shared`]), what they have stored meanwhile stays, as far as it goes further.
    #[inline(always)]
    pub fn grow_on(&self, segment: &Segment, before: &Facts, now: &Facts) {
        // Numbers mean something only with the bits that say so.
        let hold = before.has(fact::ACK | fact::EDGE | fact::MOVED_ON) && before.isn == now.isn;
        if !segment.shared || !hold || segment.has(Flags::SYN) || segment.has(Flags::RST) {
            self.grow(before, now);
            return;
        }
        advance(&self.end, now.end);
        advance(&self.ack, now.ack);
        advance(&self.edge, now.edge);
        let (end, ack, edge) = (now.end, now.ack, now.edge);
        self.grow(&Facts { end, ack, edge, ..*before }, now);
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
        self.window.set(segment.window);
    }

    /// Another SYN, or SYN,ACK, of this end is the one that counts (H8, H16): it replaces all that was known of its
    /// numbers. Called from the peer's direction, where both ends agree on it.
    #[inline(always)]
    pub fn choose(&self, opening: &Opening, answers: bool) {
        let before = self.facts();
        let mut facts = opening.facts(answers);
        facts.flags |= before.flags & fact::KEPT;
        self.grow(&before, &facts);
        self.mss.set(opening.options.mss);
    }

    #[inline(always)]
    fn clear(&self) {
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

#[inline(always)]
fn store(cell: &U32, before: Seq, now: Seq) {
    if before != now {
        cell.set(now.0);
    }
}

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

/// A generation counts 2^4 ns.
const GENERATION_SHIFT: u32 = 4;

/// It has so many bits; the one above says that the record is a tombstone.
const GENERATION_BITS: u32 = 31;

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
        #[allow(clippy::cast_possible_truncation)] // the lower bits are meant
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
    /// Bytes of data, 16 bits; what options are present, 8 bits; the window scale, 8 bits.
    rest: U32,
}

impl OtherOpening {
    #[inline(always)]
    fn set(&self, opening: &Opening) {
        let Opening { isn, ack, data, window, options } = *opening;
        self.isn.set(isn.0);
        self.ack.set(ack.0);
        self.timestamp.set(options.timestamp.0);
        self.sizes.set((window & 0xffff) | u32::from(options.mss) << 16);
        let present = u32::from(options.present) << 16 | u32::from(options.window_scale) << 24;
        self.rest.set((data & 0xffff) | present);
    }

    #[inline(always)]
    fn get(&self) -> Opening {
        let (sizes, rest) = (self.sizes.get(), self.rest.get());
        #[allow(clippy::cast_possible_truncation)] // as they were put together
        let options = SynOptions {
            mss: (sizes >> 16) as u16,
            window_scale: (rest >> 24) as u8,
            present: (rest >> 16) as u8,
            timestamp: Seq(self.timestamp.get()),
            timestamp_echo: Seq(0),
        };
        Opening {
            isn: Seq(self.isn.get()),
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
        let known = self.place(|known| known.isn == opening.isn && known.ack == opening.ack);
        let place = if known == NO_PLACE { count } else { known };
        if let Some(place) = self.openings.get(Self::index(place)) {
            place.set(opening);
        }
        if known == NO_PLACE {
            self.count.set(count.saturating_add(1));
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

    /// Whether this ISN came with this acknowledgment (0 for a SYN).
    #[inline(always)]
    #[must_use]
    pub fn has(&self, isn: Seq, ack: Seq) -> bool {
        self.place(|known| known.isn == isn && known.ack == ack) != NO_PLACE
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
        // One that acknowledges 0 is a SYN, which no segment goes on from.
        let goes_on = |known: &Opening| known.ack != Seq(0) && seq == known.ack;
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

const _: () = assert!(
    size_of::<Flow>() + size_of::<crate::key::FlowKey>() <= 192,
    "record and key together stay within 192 bytes"
);
