//! A blind attacker: it knows the addresses and ports of a connection, and none of its numbers.

use std::net::SocketAddr;

use crate::{
    random::Random,
    segment::{Segment, flag},
};

/// What it sends in the name of one end to the other.
pub(super) fn forge(random: &mut Random, source: SocketAddr, destination: SocketAddr) -> Segment {
    let (flags, data) = random.pick(&[
        (flag::SYN, 0),
        (flag::SYN | flag::ACK, 0),
        (flag::ACK, 0),
        (flag::ACK | flag::PSH, 1),
        (flag::ACK | flag::PSH, 1000),
        (flag::FIN | flag::ACK, 0),
        (flag::RST, 0),
        (flag::RST | flag::ACK, 0),
    ]);
    with_flags(random, source, destination, flags).data(data)
}

/// A SYN, with which an attacker may be first on these addresses and ports.
pub(super) fn forge_syn(
    random: &mut Random,
    source: SocketAddr,
    destination: SocketAddr,
) -> Segment {
    with_flags(random, source, destination, flag::SYN)
}

fn with_flags(
    random: &mut Random,
    source: SocketAddr,
    destination: SocketAddr,
    flags: u16,
) -> Segment {
    let [seq, ack, window, timestamp] = [(); 4].map(|()| number(random));
    let ack = if flags & flag::ACK == 0 { 0 } else { ack };
    let window = u16::try_from(window >> 16).unwrap_or(0);
    let mut segment = Segment::new(source, destination, flags, seq, ack).window(window);
    let mut options = Vec::new();
    if flags & flag::SYN != 0 {
        // Maximum segment size 1460.
        options.extend([2, 4, 5, 0xb4]);
    }
    if random.percent(50) {
        options.extend([1, 1, 8, 10]);
        options.extend(timestamp.to_be_bytes());
        options.extend(number(random).to_be_bytes());
    }
    segment = segment.options(&options);
    segment
}

fn number(random: &mut Random) -> u32 {
    u32::try_from(random.next() >> 32).unwrap_or(0)
}
