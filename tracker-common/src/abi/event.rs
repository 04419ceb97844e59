//! What the kernel tells the agent through the ring buffer.

use crate::{flow::Flow, key::FlowKey};

/// Kinds of reports.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// A flow was seen for the first time.
    New = 0,
    /// Both ends are ESTABLISHED.
    Established = 1,
    /// A FIN or an RST was seen first.
    Closing = 2,
    /// The flow is gone.
    Destroy = 3,
    /// A rule was broken.
    Violation = 4,
    /// A segment of a flow that is being traced.
    Segment = 5,
    /// SYN cookies began to be sent for a listener: [`Event::key`]'s low end. `actual` of `high` half-open connections
    /// were there; where that is less, too many cookies were not returned.
    Cookie = 6,
    /// Both ends are CLOSED or in TIME_WAIT.
    Close = 7,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::New,
        Self::Established,
        Self::Closing,
        Self::Destroy,
        Self::Violation,
        Self::Segment,
        Self::Cookie,
        Self::Close,
    ];

    /// Its name in events, as conntrack writes them.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Established => "ESTABLISHED",
            Self::Closing => "CLOSING",
            Self::Destroy => "DESTROY",
            Self::Violation => "VIOLATION",
            Self::Segment => "SEGMENT",
            Self::Cookie => "COOKIE",
            Self::Close => "CLOSE",
        }
    }

    /// The kind with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Its bit in [`crate::config::LiveConfig::events`].
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Why a flow is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Reason {
    /// Its time was over.
    Timeout = 0,
    /// Closed by FINs, and its time was over.
    Fin = 1,
    /// Closed by an RST, and its time was over.
    Rst = 2,
    /// A new connection took its key.
    Reopened = 3,
    /// Somebody had it deleted.
    Deleted = 4,
}

impl Reason {
    /// Its name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Fin => "fin",
            Self::Rst => "rst",
            Self::Reopened => "reopened",
            Self::Deleted => "deleted",
        }
    }
}

/// One report as it stands in the ring buffer. Numbers are in host byte order, states and rules are codes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Event {
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// The flow.
    pub key: FlowKey,
    /// [`Kind`].
    pub kind: u8,
    /// [`crate::violation::Rule`], of a violation.
    pub rule: u8,
    /// [`crate::key::End`] that sent the segment.
    pub from: u8,
    /// [`crate::counters::Hook`] that saw it.
    pub hook: u8,
    /// [`crate::state::State`] of the low and the high end before the segment.
    pub before: [u8; 2],
    /// And after it.
    pub after: [u8; 2],
    /// The slot of the interface that saw it.
    pub slot: u32,
    /// The segment's sequence number.
    pub seq: u32,
    /// Its acknowledgment number.
    pub ack: u32,
    /// Bytes of its data.
    pub payload: u32,
    /// Lowest number that the rule allows.
    pub low: u32,
    /// Highest number that the rule allows.
    pub high: u32,
    /// The number seen.
    pub actual: u32,
    /// Its flags.
    pub flags: u16,
    /// Its window, not scaled.
    pub window: u16,
    /// 1 where `flow` holds; 0 for a violation without a flow.
    pub has_flow: u32,
    /// [`crate::dropping::DropMode`]: what became of a packet that broke a rule.
    pub dropped: u32,
    /// The record after the segment.
    pub flow: Flow,
}
