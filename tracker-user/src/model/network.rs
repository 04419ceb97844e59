//! Networks as the kernel programs have them.

use std::net::{IpAddr, Ipv6Addr};

use tracker_common::key::Address;

/// An address in the form of [`tracker_common::key::FlowKey::addresses`], and how many of its bits have to be the same, of 128.
pub type Network = (Address, u8);

/// A network by an address in it and a length, which counts the address's own bits.
#[must_use]
pub fn network((ip, length): (IpAddr, u8)) -> Network {
    match ip {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped().octets(), length + 96),
        IpAddr::V6(ip) => (ip.octets(), length),
    }
}

/// The first bits of an address, so many.
#[must_use]
pub fn masked(address: Address, length: u8) -> Address {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    Ipv6Addr::from_bits(u128::from_be_bytes(address) & mask).octets()
}
