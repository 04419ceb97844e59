//! What breaks the protocol: the rules by name, and what a breach of one shows.

/// How a rule's breaches are treated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// A violation, reported.
    Violation,
    /// Counted, not reported.
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
    /// A SYN's option with a length that its kind forbids, or that runs past the header (P4).
    BadOption = 9, "bad_option", Information;
    /// SYN with data and no Fast Open option (H5).
    SynWithData = 10, "syn_with_data", Violation;
    /// SYN,ACK with data where no Fast Open option was exchanged (H5).
    SynAckWithData = 11, "synack_with_data", Violation;
    /// SYN from the responder after its SYN,ACK (H19).
    SynWrongDir = 12, "syn_wrong_dir", Violation;
    /// SYN,ACK whose acknowledgment is not the peer's ISN plus one (H6).
    SynAckBadAck = 13, "synack_bad_ack", Violation;
    /// SYN,ACK from the end that opened the connection (H19).
    SynAckWrongDir = 14, "synack_wrong_dir", Violation;
    /// SYN,ACK on an open connection, with another ISN.
    SynAckInEstablished = 15, "synack_in_established", Violation;
    /// The handshake's last segment acknowledges something else than the responder's SYN (H7).
    HandshakeAckBadAck = 16, "handshake_ack_bad_ack", Violation;
    /// The handshake's last segment lies outside the responder's window (H7).
    HandshakeAckBadSeq = 17, "handshake_ack_bad_seq", Violation;
    /// Both of the two above (H7).
    HandshakeBadSeqAck = 18, "handshake_bad_seq_ack", Violation;
    /// Data or FIN from an end that could not know the peer's SYN (H13).
    DataBeforeEstablished = 19, "data_before_established", Violation;
    /// SYN with another ISN on an open connection (S5).
    SynInEstablished = 20, "syn_in_established", Violation;
    /// RST that does not acknowledge the SYN it answers (H11).
    RstBadAckSynSent = 21, "rst_bad_ack_syn_sent", Violation;
    /// Data beyond what the receiver ever offered to take (S3).
    SeqOutOfWindow = 22, "seq_out_of_window", Violation;
    /// Acknowledgment of data that the peer never sent (S2).
    AckUnseenData = 23, "ack_unseen_data", Violation;
    /// RST outside the receiver's window: a blind reset (T13).
    RstOutOfWindow = 24, "rst_out_of_window", Violation;
    /// RST inside the receiver's window, but not at its next number (T12, RFC 5961).
    RstInexact = 25, "rst_inexact", Violation;
    /// Data or a second FIN beyond the sender's FIN (T15).
    DataAfterFin = 26, "data_after_fin", Violation;
    /// A connection that was asked for and refused by an RST (H11).
    Refused = 27, "refused", Information;
    /// A handshake that was never completed in its time (H12).
    HalfOpenTimeout = 28, "half_open_timeout", Information;
}

impl Rule {
    /// Places in the table of counters; more than there are rules, so that it need not grow with them.
    pub const SLOTS: u32 = 64;

    /// The rule with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The rule's bit in a set of header rules; meaningful for codes below 32.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
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
    }
}
