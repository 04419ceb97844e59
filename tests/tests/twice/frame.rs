//! Segments as bytes.

use crate::traffic::{Addresses, Segment};

const ETHER_HEADER: [u8; 12] = [2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 0x98];

/// What surrounds a segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wrapping {
    /// No Ethernet header.
    pub(crate) raw: bool,
    /// Types of VLAN tags.
    pub(crate) vlans: Vec<u16>,
    /// IPv4 options, in fours.
    pub(crate) ip_options: usize,
    /// IPv6 extension headers: kind and length field.
    pub(crate) extensions: Vec<(u8, u8)>,
    /// Fragment offset and the bit for more, as IPv4 has it, in the IPv4 header or an IPv6 fragment header.
    pub(crate) fragment: Option<u16>,
    /// The IP length says 0.
    pub(crate) no_length: bool,
}

/// A frame, and where its parts begin.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ip_at: usize,
    pub(crate) tcp_at: usize,
}

/// Writes a segment down, with the first `shown` bytes of its data; the frame's length on the wire comes second.
pub(crate) fn write(
    segment: &Segment,
    addresses: &Addresses,
    wrapping: &Wrapping,
    shown: usize,
) -> (Frame, u32) {
    let v6 = addresses.v6;
    let mut bytes = Vec::with_capacity(160);
    if !wrapping.raw {
        bytes.extend(ETHER_HEADER);
        for vlan in &wrapping.vlans {
            bytes.extend(vlan.to_be_bytes());
            bytes.extend([0, 5]);
        }
        bytes.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    }
    let ip_at = bytes.len();
    let (source, destination) = addresses.of(segment.from);
    let tcp_len = 20 + segment.options.len() + segment.payload as usize;
    if v6 {
        ipv6(&mut bytes, wrapping, tcp_len, source.0, destination.0);
    } else {
        ipv4(&mut bytes, wrapping, tcp_len, source.0, destination.0);
    }
    let tcp_at = bytes.len();
    bytes.extend(source.1.to_be_bytes());
    bytes.extend(destination.1.to_be_bytes());
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    let words = u16::try_from(5 + segment.options.len() / 4).unwrap_or(15);
    bytes.extend((words << 12 | segment.flags).to_be_bytes());
    bytes.extend(segment.window.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(segment.urgent.to_be_bytes());
    bytes.extend(&segment.options);
    let shown = shown.min(segment.payload as usize);
    let wire_len = bytes.len() + segment.payload as usize;
    bytes.resize(bytes.len() + shown, b'x');
    (Frame { bytes, ip_at, tcp_at }, u32::try_from(wire_len).unwrap_or(u32::MAX))
}

fn ipv4(bytes: &mut Vec<u8>, wrapping: &Wrapping, tcp_len: usize, from: [u8; 16], to: [u8; 16]) {
    let header_len = 20 + wrapping.ip_options;
    let length = if wrapping.no_length { 0 } else { header_len + tcp_len };
    bytes.push(0x40 | u8::try_from(header_len / 4).unwrap_or(15));
    bytes.push(0);
    bytes.extend(u16::try_from(length).unwrap_or(0).to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(wrapping.fragment.unwrap_or(0x4000).to_be_bytes());
    bytes.extend([64, 6, 0, 0]);
    bytes.extend(&from[12..]);
    bytes.extend(&to[12..]);
    bytes.resize(bytes.len() + wrapping.ip_options, 1);
}

fn ipv6(bytes: &mut Vec<u8>, wrapping: &Wrapping, tcp_len: usize, from: [u8; 16], to: [u8; 16]) {
    let mut chain = wrapping.extensions.clone();
    chain.extend(wrapping.fragment.map(|_| (44, 0)));
    let size = |(kind, length): (u8, u8)| match kind {
        44 => 8,
        51 => (usize::from(length) + 2) * 4,
        _ => (usize::from(length) + 1) * 8,
    };
    let length = chain.iter().map(|header| size(*header)).sum::<usize>() + tcp_len;
    bytes.extend([0x60, 0, 0, 0]);
    let length = if wrapping.no_length { 0 } else { length };
    bytes.extend(u16::try_from(length).unwrap_or(0).to_be_bytes());
    bytes.push(chain.first().map_or(6, |(kind, _)| *kind));
    bytes.push(64);
    bytes.extend(from);
    bytes.extend(to);
    for (n, header) in chain.iter().enumerate() {
        let at = bytes.len();
        bytes.push(chain.get(n + 1).map_or(6, |(kind, _)| *kind));
        bytes.push(header.1);
        bytes.resize(at + size(*header), 0);
        if header.0 == 44 {
            // Offset in the upper 13 bits, more fragments in the lowest.
            let fragment = wrapping.fragment.unwrap_or(0);
            let field = (fragment & 0x1fff) << 3 | fragment >> 13 & 1;
            bytes[at + 2..at + 4].copy_from_slice(&field.to_be_bytes());
        }
    }
}
