//! What is known of one end: plain data, read from the record and written back.

use crate::{
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
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
    /// Highest acknowledgment sent (RCV.NXT as last announced to the peer).
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
    /// has sent an RST: the end of what the peer had sent until then, or that nothing was seen of it (`judge/reset.rs`).
    pub refused_ack: Seq,
    /// The window field of its last segment but for RSTs, not scaled.
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
    /// Whether it is a SYN,ACK.
    pub answers: bool,
    /// What a SYN,ACK acknowledges.
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
        let answers = segment.has(Flags::ACK);
        let ack = if answers { segment.ack } else { Seq(0) };
        let Segment { seq, payload, window, options, .. } = *segment;
        Self { isn: seq, answers, ack, data: payload, window: window as u32, options }
    }

    /// Whether `other` has the same numbers.
    #[inline(always)]
    #[must_use]
    pub const fn repeats(&self, other: &Self) -> bool {
        self.isn.0 == other.isn.0 && self.answers == other.answers && self.ack.0 == other.ack.0
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

    /// What is known of an end of which this is the SYN or the SYN,ACK.
    #[inline(always)]
    #[must_use]
    pub fn facts(&self) -> Facts {
        let mut facts = Facts { edge: Seq(self.window), window: self.window, ..Facts::default() };
        self.add_to(&mut facts);
        if self.answers {
            facts.ack = self.ack;
            facts.edge = self.ack.add(self.window);
            facts.flags |= fact::SYN_ACK | fact::ACK | fact::EDGE;
        }
        facts
    }
}
