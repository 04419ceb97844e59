//! Which flow comes before which.

use std::net::IpAddr;

use clap::ValueEnum;
use tracker_common::state::State;

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

/// Where a flow stands among others, comparing as bytes do: its rank, when it began, its port, and which of the table it
/// was.
pub(super) type Place = [u8; PLACE];

const PLACE: usize = 16 + 8 + 2 + 8;

/// An order of flows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) key: Key,
    /// The greatest first.
    pub(super) reverse: bool,
}

impl Order {
    /// The place of the flow that comes after `before` others in the table. The older of two equal ones comes first.
    pub(super) fn place(self, record: &Record, before: u64) -> Place {
        let mut place = [0; PLACE];
        place[..16].copy_from_slice(&self.key.rank(record).to_be_bytes());
        place[16..24].copy_from_slice(&record.created_ns.to_be_bytes());
        place[24..26].copy_from_slice(&record.sport.to_be_bytes());
        place[26..].copy_from_slice(&before.to_be_bytes());
        if self.reverse { inverted(place) } else { place }
    }
}

/// The place in the opposite order.
pub(super) fn inverted(place: Place) -> Place {
    place.map(|byte| !byte)
}

impl Key {
    /// The number that flows are compared by.
    fn rank(self, record: &Record) -> u128 {
        match self {
            Self::Created => 0,
            Self::Src => of_address(record.src),
            Self::Dst => of_address(record.dst),
            Self::Sport => record.sport.into(),
            Self::Dport => record.dport.into(),
            Self::State => {
                let [orig, reply] = record.states().map(of_state);
                orig << 8 | reply
            }
            Self::Left => record.timeout_s.into(),
            Self::Packets => record.packets().into(),
            Self::Bytes => record.bytes().into(),
            Self::Violations => record.violations.into(),
            Self::Rtt => record.rtt_us.map_or(0, |us| u128::from(us) + 1),
        }
    }
}

/// IPv4 before IPv6. No flow has the IPv6 addresses that stand for IPv4: those below them make room for IPv4.
fn of_address(address: IpAddr) -> u128 {
    const IPV4: u128 = 1 << 32;
    const MAPPED: u128 = 0xffff << 32;
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => match address.to_bits() {
            low @ ..MAPPED => low + IPV4,
            high => high,
        },
    }
}

/// A state's place among all of them by name.
fn of_state(name: &str) -> u128 {
    State::ALL.iter().map(|state| u128::from(state.name() < name)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_their_order() {
        let addresses = [
            "0.0.0.0",
            "10.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::fffe:ffff:ffff",
            "::1:0:0:0",
            "2001:db8::1",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ];
        let addresses = addresses.map(|text| text.parse::<IpAddr>().expect(text));
        assert!(addresses.is_sorted_by(|one, other| one < other));
        assert!(addresses.is_sorted_by(|one, other| of_address(*one) < of_address(*other)));
    }

    #[test]
    fn states_by_name() {
        for (one, other) in State::ALL.iter().flat_map(|one| State::ALL.map(|other| (*one, other)))
        {
            let names = one.name().cmp(other.name());
            assert_eq!(of_state(one.name()).cmp(&of_state(other.name())), names);
        }
    }
}
