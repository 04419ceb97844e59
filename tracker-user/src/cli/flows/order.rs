//! Which flow comes before which.

use std::cmp::Ordering;

use clap::ValueEnum;

use crate::model::record::Record;

/// What flows are sorted by, the least first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Key {
    /// Time of the first packet
    #[default]
    Created,
    /// Address of the end that opened the connection
    Src,
    /// Address of the other end
    Dst,
    /// Port of the end that opened the connection
    Sport,
    /// Port of the other end
    Dport,
    /// State of the end that opened the connection, then of the other one, by name
    State,
    /// Seconds until it expires
    Left,
    /// Packets of both ends
    Packets,
    /// Bytes of both ends
    Bytes,
    /// Number of violations
    Violations,
    /// Round trip of the handshake; those without one come first
    Rtt,
}

impl Key {
    /// How two flows stand to each other; of equal ones the older comes first.
    #[must_use]
    pub fn compare(self, one: &Record, other: &Record) -> Ordering {
        let by = match self {
            Self::Created => Ordering::Equal,
            Self::Src => one.src.cmp(&other.src),
            Self::Dst => one.dst.cmp(&other.dst),
            Self::Sport => one.sport.cmp(&other.sport),
            Self::Dport => one.dport.cmp(&other.dport),
            Self::State => one.states().cmp(&other.states()),
            Self::Left => one.timeout_s.cmp(&other.timeout_s),
            Self::Packets => one.packets().cmp(&other.packets()),
            Self::Bytes => one.bytes().cmp(&other.bytes()),
            Self::Violations => one.violations.cmp(&other.violations),
            Self::Rtt => one.rtt_us.cmp(&other.rtt_us),
        };
        by.then_with(|| (one.created_ns, one.sport).cmp(&(other.created_ns, other.sport)))
    }
}
