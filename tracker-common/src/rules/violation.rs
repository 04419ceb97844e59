//! What breaks the protocol: the rules by name, and what a breach of one shows.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How a rule's breaches are treated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// A violation, reported.
    Violation,
    /// A violation that legal traffic can look like: counted, reported where asked for.
    Minor,
    /// Nothing wrong in itself: counted, reported where asked for.
    Information,
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal, $severity:ident;)*) => {
        /// A rule of the protocol that a segment can break.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum Rule {
            $($(#[doc = $doc])* $name = $code,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in reports, filters and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// How its breaches are treated.
            #[inline(always)]
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// What it says, in one sentence, with the ids of behaviours in parentheses.
            #[cfg(not(target_arch = "bpf"))]
            #[must_use]
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_ascii(),)* }
            }
        }
    };
}

rules! {
    /// None of SYN, ACK, FIN and RST is set, whatever PSH and URG say (F4, F5).
    NullFlags = 0, "null_flags", Violation;
    /// FIN, PSH and URG without SYN, ACK and RST (F4).
    Xmas = 1, "xmas", Violation;
    /// SYN and FIN (F1).
    SynFin = 2, "syn_fin", Violation;
    /// SYN and RST (F2).
    SynRst = 3, "syn_rst", Violation;
    /// FIN and RST.
    FinRst = 4, "fin_rst", Violation;
    /// FIN without ACK (F3).
    FinWithoutAck = 5, "fin_without_ack", Violation;
    /// Source or destination port 0 (F8).
    PortZero = 6, "port_zero", Violation;
    /// Source and destination are the same address and port (F8).
    Land = 7, "land", Violation;
    /// SYN to a multicast or broadcast address (F8).
    SynMulticast = 8, "syn_multicast", Violation;
    /// A data offset below 5, or past the end of the packet (P4).
    BadHeaderLen = 9, "bad_header_len", Violation;
    /// A SYN's option with a length that its kind forbids, or that runs past the header (P4).
    BadOption = 10, "bad_option", Minor;
    /// An acknowledgment number without the ACK flag.
    AckFieldWithoutAck = 11, "ack_field_without_ack", Minor;
    /// SYN and URG.
    SynUrg = 12, "syn_urg", Information;
    /// A window scale above 14, taken for 14 (H14).
    WscaleRange = 13, "wscale_range", Information;
    /// RST that carries data, as RFC 9293 section 3.5.3 lets it.
    RstWithData = 14, "rst_with_data", Information;
    /// PSH on a segment without data (F7).
    PshWithoutData = 15, "psh_without_data", Information;
    /// URG with an urgent pointer of zero (F7).
    UrgWithoutPointer = 16, "urg_without_pointer", Information;
    /// A segment with no number that its sender had not used before (S4).
    Retransmission = 17, "retransmission", Information;
    /// A segment whose data was acknowledged already (S4).
    SpuriousRetransmission = 18, "spurious_retransmission", Information;
    /// An acknowledgment below one that the same end has sent.
    AckOld = 19, "ack_old", Information;
    /// A window of zero.
    ZeroWindow = 20, "zero_window", Information;
    /// A window whose right edge lies before one that was offered.
    WindowRecision = 21, "window_recision", Information;
    /// A shrunken window that comes with an acknowledgment of data never sent.
    BadWindowUpdate = 22, "bad_window_update", Information;
    /// A bare SYN from an end that has sent its SYN,ACK, with the same ISN.
    RepeatedSynNoAck = 23, "repeated_syn_no_ack", Information;
    /// A SYN that answers a SYN: simultaneous open (H9) or split handshake (H18).
    SimultaneousOpen = 24, "simultaneous_open", Information;
    /// A SYN with data and a Fast Open option (H5, RFC 7413).
    FastOpenData = 25, "fast_open_data", Information;
    /// A flow that was first seen in its middle (S6).
    Midstream = 26, "midstream", Information;
    /// A flow that was first seen by a FIN.
    FinNoSession = 27, "fin_no_session", Information;
    /// An RST that belongs to no flow.
    RstNoSession = 28, "rst_no_session", Information;
    /// Data from an end whose peer has closed its direction (T4).
    HalfClose = 29, "half_close", Information;
    /// A FIN from each end, neither acknowledging the other's (T5).
    SimultaneousClose = 30, "simultaneous_close", Information;
    /// A SYN that may open a new connection over one in TIME_WAIT (T9).
    TimeWaitReuse = 31, "time_wait_reuse", Information;
    /// An RST to or from an end in TIME_WAIT, which does not end it (RFC 1337).
    RstInTimeWait = 32, "rst_in_time_wait", Information;
    /// A connection that was asked for and refused by an RST (H11).
    Refused = 33, "refused", Information;
    /// An RST from the end that sent the SYN, in answer to the SYN,ACK: it does not want the connection (H10).
    StaleSyn = 34, "stale_syn", Information;
    /// A flow of which one direction only was ever seen (S9).
    Asymmetric = 35, "asymmetric", Information;
    /// SYN with data and no Fast Open option (H5).
    SynWithData = 36, "syn_with_data", Violation;
    /// SYN,ACK with data where no Fast Open option was exchanged (H5).
    SynAckWithData = 37, "synack_with_data", Violation;
    /// SYN with another ISN after the SYN,ACK to the first.
    SynIsnChange = 38, "syn_isn_change", Violation;
    /// Ten or more ISNs offered on one pair of addresses and ports (H16).
    SynFloodTuple = 39, "syn_flood_tuple", Violation;
    /// SYN from the responder after its SYN,ACK (H19).
    SynWrongDir = 40, "syn_wrong_dir", Violation;
    /// SYN,ACK to an end that never sent a SYN and resets it.
    SynAckUnsolicited = 41, "synack_unsolicited", Violation;
    /// SYN,ACK whose acknowledgment is not of the peer's SYN (H6).
    SynAckBadAck = 42, "synack_bad_ack", Violation;
    /// SYN,ACK from the end that opened the connection and was sent no bare SYN (H19).
    SynAckWrongDir = 43, "synack_wrong_dir", Violation;
    /// SYN,ACK that comes again with another ISN.
    SynAckIsnChange = 44, "synack_isn_change", Violation;
    /// SYN,ACK to the SYN of the connection before this one.
    OldIncarnationSynAck = 45, "old_incarnation_synack", Violation;
    /// The handshake's last segment acknowledges something else than the responder's SYN (H7).
    HandshakeAckBadAck = 46, "handshake_ack_bad_ack", Violation;
    /// The handshake's last segment lies outside the responder's window (H7).
    HandshakeAckBadSeq = 47, "handshake_ack_bad_seq", Violation;
    /// Both of the two above (H7).
    HandshakeBadSeqAck = 48, "handshake_bad_seq_ack", Violation;
    /// ACK instead of SYN,ACK from the end that was sent a SYN, and not of that SYN.
    AckWrongDir = 49, "ack_wrong_dir", Violation;
    /// Data or FIN from an end that could not know the peer's SYN (H13).
    DataBeforeEstablished = 50, "data_before_established", Violation;
    /// SYN with another ISN on an open connection (S5).
    SynInEstablished = 51, "syn_in_established", Violation;
    /// SYN,ACK on an open connection, with another ISN, that does not answer the SYN which opened it.
    SynAckInEstablished = 52, "synack_in_established", Violation;
    /// RST that does not acknowledge the SYN it answers (H11).
    RstBadAckSynSent = 53, "rst_bad_ack_syn_sent", Violation;
    /// A handshake that was never completed in its time (H12).
    HalfOpenTimeout = 54, "half_open_timeout", Violation;
    /// More half-open connections to one address and port than the limit.
    SynFlood = 55, "syn_flood", Violation;
    /// More addresses and ports tried in vain by one source than the limit.
    PortScan = 56, "port_scan", Violation;
    /// Data beyond what the receiver ever offered to take (S3).
    SeqOutOfWindow = 57, "seq_out_of_window", Violation;
    /// Acknowledgment of data that the peer never sent (S2).
    AckUnseenData = 58, "ack_unseen_data", Violation;
    /// New data with a timestamp older than the newest accepted (S7, RFC 7323 section 5).
    PawsReject = 59, "paws_reject", Minor;
    /// RST outside the receiver's window: a blind reset (T13).
    RstOutOfWindow = 60, "rst_out_of_window", Violation;
    /// RST inside the receiver's window, but not at its next number (T12, RFC 5961).
    RstInexact = 61, "rst_inexact", Minor;
    /// A connection that goes on after the RST that closed it: the RST was forged, or ignored.
    DataAfterRst = 62, "data_after_rst", Violation;
    /// FIN beyond what the receiver ever offered to take.
    FinOutOfWindow = 63, "fin_out_of_window", Violation;
    /// FIN that acknowledges data never sent.
    FinBadAck = 64, "fin_bad_ack", Minor;
    /// Acknowledgment of data never sent, on a connection that is being closed.
    CloseBadAck = 65, "close_bad_ack", Minor;
    /// Data or a second FIN beyond the sender's FIN (T15).
    DataAfterFin = 66, "data_after_fin", Violation;
    /// Fifty or more FINs from one end after its first.
    FinStorm = 67, "fin_storm", Minor;
    /// Fifty or more RSTs from one end after the connection was reset.
    RstStorm = 68, "rst_storm", Minor;
    /// SYN on a connection in TIME_WAIT with an older timestamp or, where that does not differ, no higher ISN (T10).
    SynInTimeWait = 69, "syn_in_time_wait", Violation;
    /// RST in the window in TIME_WAIT after a SYN of an old connection (T10, RFC 1337).
    TimeWaitAssassination = 70, "time_wait_assassination", Violation;
    /// A wrong TCP checksum, where checksums are asked to be verified.
    BadChecksum = 71, "bad_checksum", Information;
    /// SYN,ACK on an open connection, with another ISN, that answers the SYN which opened it.
    SynAckAnew = 72, "synack_anew", Minor;
    /// An acknowledgment for a listener that SYN cookies protect, which returns no valid one (C3).
    CookieBad = 73, "cookie_bad", Violation;
}

impl Rule {
    /// Places in the table of counters; more than there are rules, so that it need not grow with them.
    pub const SLOTS: u32 = 128;

    /// The rule with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The rule with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|rule| rule.name() == name).copied()
    }

    /// Whether it is one of [`Severity::Violation`].
    #[inline(always)]
    #[must_use]
    pub const fn is_violation(self) -> bool {
        VIOLATIONS.has(self)
    }

    /// Whether SYN cookies drop what breaches it. All else passes, unless [`Rule::droppable`] says otherwise and it is asked for.
    #[must_use]
    pub const fn drops(self) -> bool {
        matches!(self, Self::CookieBad)
    }

    /// How much further apart, time after time, reports of this rule on one flow become: of the handshake's rules the
    /// 1st, 2nd, 4th, 8th breach is reported, of those of an open connection the 1st, 10th, 100th.
    #[inline(always)]
    #[must_use]
    pub const fn back_off(self) -> u64 {
        Self::factor(self as u8)
    }

    /// [`Rule::back_off`] by code.
    #[inline(always)]
    #[must_use]
    pub const fn factor(code: u8) -> u64 {
        if code >= Self::SeqOutOfWindow as u8 { 10 } else { 2 }
    }
}

/// As a constant, so that asking takes no branches.
const VIOLATIONS: Rules = Rules::of_severity(Severity::Violation);

/// A set of [`Rule`]s.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Rules(pub [u64; 2]);

impl Rules {
    /// The rules that are reported unless something else is asked for.
    #[must_use]
    pub const fn reported_by_default() -> Self {
        VIOLATIONS
    }

    const fn of_severity(severity: Severity) -> Self {
        let mut rules = Self([0; 2]);
        let mut n = 0;
        while n < Rule::ALL.len() {
            if Rule::ALL[n].severity() as u8 == severity as u8 {
                rules = rules.with(Rule::ALL[n]);
            }
            n += 1;
        }
        rules
    }

    /// The set, and `rule`.
    #[inline(always)]
    #[must_use]
    pub const fn with(mut self, rule: Rule) -> Self {
        self.0[(rule as usize >> 6) & 1] |= 1 << (rule as u64 & 63);
        self
    }

    /// Whether `rule` is in the set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, rule: Rule) -> bool {
        self.has_code(rule as u8)
    }

    /// Whether the rule with this code is in the set.
    #[inline(always)]
    #[must_use]
    pub const fn has_code(&self, code: u8) -> bool {
        let word = if code & 64 == 0 { self.0[0] } else { self.0[1] };
        word >> (code & 63) & 1 != 0
    }
}

/// The rules that a segment breaks without numbers to show for it: those with codes below 64, one bit each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Marks(pub u64);

impl Marks {
    /// None.
    pub const NONE: Self = Self(0);

    /// The set, and `rule`.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, rule: Rule) -> Self {
        Self(self.0 | Self::bit(rule))
    }

    /// The set, and `rule` where `broken`.
    #[inline(always)]
    #[must_use]
    pub const fn with_if(self, rule: Rule, broken: bool) -> Self {
        // Without a branch: the verifier follows each one both ways.
        Self(self.0 | (broken as u64) << (rule as u64 & 63))
    }

    /// The set without `rule`.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self(self.0 & !Self::bit(rule))
    }

    /// How many of them are violations.
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u32 {
        (self.0 & VIOLATIONS.0[0]).count_ones()
    }

    /// Both sets.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `rule` is in the set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, rule: Rule) -> bool {
        self.0 & Self::bit(rule) != 0
    }

    #[inline(always)]
    const fn bit(rule: Rule) -> u64 {
        1 << (rule as u64 & 63)
    }
}

/// One breach: what was expected and what was seen, as sequence or acknowledgment numbers, whichever the rule is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Breach {
    /// The rule.
    pub rule: Rule,
    /// Lowest number that would have been right.
    pub low: u32,
    /// Highest number that would have been right.
    pub high: u32,
    /// The number seen.
    pub actual: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_count_up_and_names_differ() {
        for (n, rule) in Rule::ALL.iter().enumerate() {
            assert_eq!(*rule as usize, n);
            assert_eq!(Rule::ALL.iter().filter(|other| other.name() == rule.name()).count(), 1);
        }
        assert!(Rule::ALL.len() <= Rule::SLOTS as usize);
        // The last that may be a mark.
        assert!((Rule::Asymmetric as u8) < 64);
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        for rule in Rule::ALL {
            let set = Rules::default().with(*rule);
            assert!(Rule::ALL.iter().all(|other| set.has(*other) == (other == rule)));
        }
    }
}
