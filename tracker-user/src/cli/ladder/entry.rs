//! What a diagram is made of.

use tracker_common::{segment::Flags, state::State, violation::Rule};

/// One line of a diagram, or a few. Numbers are relative to their end's first one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entry {
    /// A segment.
    Segment(Segment),
    /// A rule that the segment above broke, or all of them.
    Breach(Breach),
    /// The connection is gone.
    End(Box<End>),
}

/// A segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Its number in the capture.
    pub packet: Option<u64>,
    /// Microseconds since the connection began; negative where a capture's times are out of order.
    pub at_us: i64,
    /// Whether the end sent it that did not open the connection.
    pub from_reply: bool,
    /// Its flags.
    pub flags: Flags,
    /// Sequence number.
    pub seq: i64,
    /// A SYN's sequence number, as it is on the wire.
    pub isn: Option<u32>,
    /// Acknowledgment number, where there is one.
    pub ack: Option<i64>,
    /// Bytes of data.
    pub payload: u32,
    /// Bytes that its sender is ready to take, scaled where both ends' scales are known.
    pub window: u32,
    /// Options, of a SYN.
    pub options: Option<Options>,
    /// Both ends' states after it, where they are not those shown last.
    pub states: [Option<State>; 2],
}

/// A SYN's options.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale.
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
}

/// A breach of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Breach {
    /// The rule.
    pub rule: Rule,
    /// The lowest and the highest number that would have been right, and the one seen; absent for rules that are not
    /// about a number.
    pub numbers: Option<(i64, i64, i64)>,
}

/// A connection's end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct End {
    /// The packet that made an end of it: that of a newer connection.
    pub packet: Option<u64>,
    /// Microseconds since the connection began.
    pub at_us: i64,
    /// Why, as in events.
    pub reason: String,
    /// The state whose time was over.
    pub timeout_state: Option<String>,
    /// Zeek's word for what it came to.
    pub conn_state: String,
}
