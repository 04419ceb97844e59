//! Variants that end otherwise than the whole connection, and why they must.

use crate::{
    connection::Connection,
    loss::Loss,
    variant::{Kind, Variant},
};

/// What may come of a loss. For several connections on the same ends, states and words are joined by ` + `.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) loss: Loss,
    pub(crate) why: &'static str,
    /// Both ends' states that it may come to.
    pub(crate) states: &'static [&'static str],
    /// Zeek's words that it may come to.
    pub(crate) words: &'static [&'static str],
}

/// One variant of one connection.
#[derive(Debug)]
pub(crate) struct Single {
    pub(crate) capture: &'static str,
    pub(crate) kind: Kind,
    /// The connection's packet at which it begins, from 1.
    pub(crate) at: usize,
    /// Both ends' states, and Zeek's word.
    pub(crate) end: &'static str,
    /// Reports at most.
    pub(crate) reports: usize,
    pub(crate) why: &'static str,
}

impl Single {
    pub(crate) fn is(
        &self,
        connection: &Connection,
        variant: Variant,
        end: &str,
        reports: usize,
    ) -> bool {
        (self.capture, self.kind, self.at, self.end)
            == (connection.capture.as_str(), variant.kind, variant.at + 1, end)
            && reports <= self.reports
    }
}

/// What may come of losses.
pub(crate) const CLASSES: &[Class] = &[
    Class {
        loss: Loss::Beginning,
        why: "nobody sees who opened it, and how; an RST alone begins nothing, and a SYN that comes again begins another",
        states: &[
            "",
            "TIME_WAIT/CLOSED",
            "CLOSED/TIME_WAIT",
            "FIN_WAIT_2/LAST_ACK",
            "ESTABLISHED/ESTABLISHED + TIME_WAIT/CLOSED",
            "FIN_WAIT_2/CLOSE_WAIT + SYN_SENT/LISTEN",
        ],
        words: &["", "OTH", "OTH + SF", "OTH + S0"],
    },
    Class {
        loss: Loss::SynAck,
        why: "Zeek's words ask for the SYN,ACK",
        states: &["SYN_SENT/LISTEN"],
        words: &["SH", "S0", "RSTOS0", "REJ"],
    },
    Class {
        loss: Loss::Opening,
        why: "without the third segment, and all others of this end, the handshake is not complete",
        states: &["SYN_SENT/SYN_RECEIVED", "ESTABLISHED/ESTABLISHED"],
        words: &["S1", "OTH"],
    },
    Class {
        loss: Loss::Fin,
        why: "a FIN that nobody saw, and that nothing else shows",
        states: &[
            "ESTABLISHED/ESTABLISHED",
            "FIN_WAIT_1/ESTABLISHED",
            "ESTABLISHED/FIN_WAIT_1",
            "FIN_WAIT_2/CLOSE_WAIT",
            "CLOSE_WAIT/FIN_WAIT_2",
            "CLOSED/TIME_WAIT",
        ],
        words: &["S1", "S2", "S3", "RSTO"],
    },
    Class {
        loss: Loss::FirstFin,
        why: "later copies of a FIN acknowledge the other end's, so that it seems to have closed second",
        states: &["FIN_WAIT_2/LAST_ACK"],
        words: &[],
    },
    Class {
        loss: Loss::FinAck,
        why: "whether a FIN has arrived is not seen",
        states: &["FIN_WAIT_2/LAST_ACK", "LAST_ACK/FIN_WAIT_2"],
        words: &[],
    },
    Class {
        loss: Loss::Rst,
        why: "without the RST it goes on, or closes by FINs",
        states: &[
            "ESTABLISHED/ESTABLISHED",
            "FIN_WAIT_1/ESTABLISHED",
            "ESTABLISHED/FIN_WAIT_1",
            "FIN_WAIT_2/CLOSE_WAIT",
            "FIN_WAIT_2/LAST_ACK",
        ],
        words: &["S1", "S2", "S3"],
    },
    Class {
        loss: Loss::FirstRst,
        why: "whether an RST comes before or after the second FIN decides on Zeek's word",
        states: &[],
        words: &["SF", "RSTO"],
    },
    Class {
        loss: Loss::Apart,
        why: "what closes comes before a pause, and what is then left of the connection is picked up after its time",
        states: &[
            "FIN_WAIT_1/ESTABLISHED + TIME_WAIT/CLOSED",
            "CLOSED/CLOSED + ESTABLISHED/ESTABLISHED",
        ],
        words: &["S2 + OTH", "RSTO + OTH"],
    },
];

/// Variants that no class is about.
pub(crate) const SINGLES: &[Single] = &[
    Single {
        capture: "zeek/ldap/simpleauth.pcap",
        kind: Kind::LeftOut(5),
        at: 7,
        end: "ESTABLISHED/ESTABLISHED S1",
        reports: 1,
        why: "all that came before the RST is missing: its number lies ahead, and cannot be told from a guessed one \
              (RFC 5961 section 3)",
    },
    Single {
        capture: "suricata-verify/tcp-fastopen-08/tcp_fastopen_segmentation-s1.pcap",
        kind: Kind::Swapped,
        at: 9,
        end: "CLOSED/CLOSED RSTO",
        reports: 1,
        why: "the FIN that comes early acknowledges what was not yet seen, and nobody acknowledges it: RSTs follow",
    },
    Single {
        capture: "zeek/tcp/qi_internet_SYNACK_curl_jsonip.pcap",
        kind: Kind::LeftOut(5),
        at: 4,
        end: "CLOSED/CLOSED RSTO",
        reports: 3,
        why: "the FIN before the RST is missing: what acknowledges it seems to go on after the RST, and is reported besides the \
              gap",
    },
    Single {
        capture: "zeek/tcp/qi_internet_SYNACK_curl_jsonip.pcap",
        kind: Kind::LeftOut(5),
        at: 5,
        end: "CLOSED/CLOSED RSTO",
        reports: 3,
        why: "the FIN before the RST is missing: what acknowledges it seems to go on after the RST, and is reported besides the \
              gap",
    },
    Single {
        capture: "suricata-verify/bug-7264-tcp-3whs-ack-data-tls-01/input.pcap",
        kind: Kind::LeftOut(5),
        at: 12,
        end: "FIN_WAIT_2/LAST_ACK SF",
        reports: 1,
        why: "the second FIN is believed only with the segment after it, which acknowledges the first: that they crossed \
              cannot be seen any more",
    },
];
