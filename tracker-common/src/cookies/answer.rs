//! The SYN,ACK that a SYN cookie travels in, from the IP header on.

use crate::{
    cookie::{Agreed, Cookie, timestamp_clock},
    key::{Address, is_mapped},
    packet::Packet,
    protect::Listener,
    segment::{Flags, SynOptions},
    seq::Seq,
};

/// Bytes of the largest answer: an IPv6 header, a TCP header, and options.
pub const MOST: usize = 40 + 20 + MOST_OPTIONS * 4;

/// 32-bit words of options at most: MSS, SACK and timestamps, window scale.
const MOST_OPTIONS: usize = 5;

/// Hops that Linux sends with by default.
const TIME_TO_LIVE: u8 = 64;

/// What the host says in the handshake, about itself and about what was agreed on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Terms {
    /// Its sequence number.
    pub isn: Seq,
    /// The timestamp to send, where timestamps were agreed on.
    pub timestamp: Seq,
    /// Its maximum segment size in bytes; 0 to say nothing of it.
    pub mss: u16,
    /// Its window, not scaled.
    pub window: u16,
    /// Its window scale, where windows are scaled.
    pub scale: u8,
    /// Bits of [`SynOptions::present`] that it sends too.
    pub present: u8,
    /// It agrees to ECN.
    pub ecn: bool,
    /// The network stack, or the device, adds the TCP header's part of the checksum: the field holds the pseudo-header's alone
    /// (Linux's `CHECKSUM_PARTIAL`).
    pub partial_checksum: bool,
}

impl Terms {
    /// Those of the host behind `listener`, for a client that it agrees with on `agreed`, at `now_ns` since boot.
    #[inline(always)]
    #[must_use]
    pub const fn new(listener: &Listener, agreed: &Agreed, cookie: &Cookie, now_ns: u64) -> Self {
        let mut present = 0;
        if agreed.is_scaled() {
            present |= SynOptions::HAS_WINDOW_SCALE;
        }
        if agreed.sack {
            present |= SynOptions::HAS_SACK;
        }
        if agreed.timestamps {
            present |= SynOptions::HAS_TIMESTAMPS;
        }
        Self {
            isn: cookie.isn,
            timestamp: Seq(timestamp_clock(now_ns).wrapping_add(cookie.timestamp_offset)),
            mss: listener.mss,
            window: listener.first_window(agreed.timestamps),
            scale: listener.scale,
            present,
            ecn: agreed.ecn,
            partial_checksum: false,
        }
    }

    const fn sends(&self, option: u8) -> bool {
        self.present & option != 0
    }

    /// Its flags.
    #[inline(always)]
    #[must_use]
    pub const fn flags(&self) -> Flags {
        let flags = Flags::SYN.with(Flags::ACK);
        if self.ecn { flags.with(Flags::ECE) } else { flags }
    }
}

/// Writes the answer to `syn` into `bytes`, and returns its length.
#[inline(always)]
pub fn write(bytes: &mut [u8; MOST], syn: &Packet, terms: &Terms) -> usize {
    if is_mapped(&syn.key.addresses[0]) {
        let len = tcp::<20, 40>(bytes, syn, terms);
        ipv4(bytes, syn, len);
        20 + len
    } else {
        let len = tcp::<40, 60>(bytes, syn, terms);
        ipv6(bytes, syn, len);
        40 + len
    }
}

/// Four bytes of an address, as they lie in memory.
#[inline(always)]
fn word(address: &Address, at: usize) -> u32 {
    u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]])
}

/// Writes a word, given in host byte order.
#[inline(always)]
fn put(bytes: &mut [u8; MOST], at: usize, word: u32) {
    let [a, b, c, d] = word.to_be_bytes();
    (bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]) = (a, b, c, d);
}

/// The options from `at` on, each in words of its own; returns how many bytes they take.
#[inline(always)]
fn options<const AT: usize>(bytes: &mut [u8; MOST], syn: &Packet, terms: &Terms) -> usize {
    // What is not an option is no part of the packet, and 0 in the checksum.
    for n in 0..MOST_OPTIONS {
        put(bytes, AT + n * 4, 0);
    }
    if terms.mss == 0 {
        return other_options(bytes, AT, syn, terms);
    }
    put(bytes, AT, 0x0204_0000 | u32::from(terms.mss));
    4 + other_options(bytes, AT + 4, syn, terms)
}

#[inline(always)]
fn other_options(bytes: &mut [u8; MOST], at: usize, syn: &Packet, terms: &Terms) -> usize {
    let is_scaled = terms.sends(SynOptions::HAS_WINDOW_SCALE);
    let scale = if is_scaled { 0x0103_0300 | u32::from(terms.scale) } else { 0 };
    let sack = terms.sends(SynOptions::HAS_SACK);
    let before_scale = if terms.sends(SynOptions::HAS_TIMESTAMPS) {
        // SACK permitted, or two NOPs, before them.
        put(bytes, at, if sack { 0x0402_080a } else { 0x0101_080a });
        put(bytes, at + 4, terms.timestamp.0);
        put(bytes, at + 8, syn.segment.timestamp.0);
        put(bytes, at + 12, scale);
        12
    } else if sack {
        put(bytes, at, 0x0101_0402);
        put(bytes, at + 4, scale);
        4
    } else {
        put(bytes, at, scale);
        0
    };
    if is_scaled { before_scale + 4 } else { before_scale }
}

/// The TCP header with its checksum, behind `AT` bytes of IP header and with options at `OPTIONS`; returns its length.
#[inline(always)]
fn tcp<const AT: usize, const OPTIONS: usize>(
    bytes: &mut [u8; MOST],
    syn: &Packet,
    terms: &Terms,
) -> usize {
    let (client, host) = (syn.from, syn.from.other());
    let key = &syn.key;
    let len = 20 + options::<OPTIONS>(bytes, syn, terms);
    #[allow(clippy::cast_possible_truncation)] // at most 40
    let len_and_flags = ((len / 4) as u32) << 28 | u32::from(terms.flags().0) << 16;
    put(bytes, AT, u32::from(key.port(host)) << 16 | u32::from(key.port(client)));
    put(bytes, AT + 4, terms.isn.0);
    put(bytes, AT + 8, syn.segment.seq.add(1).0);
    put(bytes, AT + 12, len_and_flags | u32::from(terms.window));
    put(bytes, AT + 16, 0);
    // RFC 1071: a sum of ones' complements does not care about the order of bytes, nor of the words.
    #[allow(clippy::cast_possible_truncation)] // at most 40
    let mut sum = u64::from((6 + len as u32).to_be());
    for end in [client, host] {
        let address = &key.addresses[end.index()];
        sum += u64::from(word(address, 12));
        if AT == 40 {
            sum += u64::from(word(address, 0));
            sum += u64::from(word(address, 4));
            sum += u64::from(word(address, 8));
        }
    }
    if terms.partial_checksum {
        let [a, b] = (!fold(sum)).to_ne_bytes();
        (bytes[AT + 16], bytes[AT + 17]) = (a, b);
    } else {
        put_checksum(bytes, AT + 16, sum + sum_of::<10>(bytes, AT));
    }
    len
}

/// The sum of `N` words as they lie in memory.
#[inline(always)]
fn sum_of<const N: usize>(bytes: &[u8; MOST], at: usize) -> u64 {
    let mut sum = 0;
    for n in 0..N {
        let at = at + n * 4;
        sum +=
            u64::from(u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    }
    sum
}

#[inline(always)]
fn put_checksum(bytes: &mut [u8; MOST], at: usize, sum: u64) {
    let [a, b] = fold(sum).to_ne_bytes();
    (bytes[at], bytes[at + 1]) = (a, b);
}

/// The checksum of words whose sum this is, as it lies in memory.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // folded
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// As Linux sends its own SYN,ACKs: not to be fragmented, and so without an identification (RFC 6864).
#[inline(always)]
fn ipv4(bytes: &mut [u8; MOST], syn: &Packet, tcp_len: usize) {
    let (client, host) = (syn.from.index(), syn.from.other().index());
    #[allow(clippy::cast_possible_truncation)] // at most 60
    let len = 20 + tcp_len as u32;
    put(bytes, 0, 0x4500_0000 | len);
    put(bytes, 4, 0x0000_4000);
    put(bytes, 8, u32::from(TIME_TO_LIVE) << 24 | 6 << 16);
    put(bytes, 12, u32::from_be(word(&syn.key.addresses[host], 12)));
    put(bytes, 16, u32::from_be(word(&syn.key.addresses[client], 12)));
    let sum = sum_of::<5>(bytes, 0);
    put_checksum(bytes, 10, sum);
}

#[inline(always)]
fn ipv6(bytes: &mut [u8; MOST], syn: &Packet, tcp_len: usize) {
    #[allow(clippy::cast_possible_truncation)] // at most 40
    let len = tcp_len as u32;
    put(bytes, 0, 0x6000_0000);
    put(bytes, 4, len << 16 | 6 << 8 | u32::from(TIME_TO_LIVE));
    for (at, end) in [(8, syn.from.other()), (24, syn.from)] {
        let address = &syn.key.addresses[end.index()];
        for n in 0..4 {
            put(bytes, at + n * 4, u32::from_be(word(address, n * 4)));
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};

    use super::*;
    use crate::{
        key::{FlowKey, mapped},
        segment::Segment,
    };

    fn syn(v6: bool) -> Packet {
        let address = |n: u8| if v6 { [n; 16] } else { mapped([10, 0, 0, n]) };
        let (key, from) = FlowKey::new(
            (&address(9), 40_000_u16.to_be_bytes()),
            (&address(1), 443_u16.to_be_bytes()),
            0,
        );
        let segment =
            Segment { seq: Seq(u32::MAX), timestamp: Seq(0xfedc_ba98), ..Segment::default() };
        Packet { key, from, segment }
    }

    #[test]
    fn others_read_what_was_meant() {
        for (present, mss) in (0..8).flat_map(|present| [(present, 1460), (present, 0)]) {
            for (v6, ecn) in [(false, false), (false, true), (true, false), (true, true)] {
                let terms = Terms {
                    isn: Seq(0x1234_5678),
                    timestamp: Seq(77),
                    mss,
                    window: 64_240,
                    scale: 7,
                    present,
                    ecn,
                    partial_checksum: false,
                };
                let mut bytes = [0xaa; MOST];
                let len = write(&mut bytes, &syn(v6), &terms);
                let mut partial = [0xaa; MOST];
                let same =
                    write(&mut partial, &syn(v6), &Terms { partial_checksum: true, ..terms });
                assert_eq!(same, len);
                let tcp_at = if v6 { 40 } else { 20 };
                // What the stack does: it sums up all from the TCP header on, this field included.
                let rest = partial[tcp_at..len].chunks(2).fold(0_u64, |sum, word| {
                    sum + u64::from(u16::from_ne_bytes([word[0], word[1]]))
                });
                put_checksum(&mut partial, tcp_at + 16, rest);
                assert_eq!(partial, bytes);
                let packet = SlicedPacket::from_ip(&bytes[..len]).expect("a packet");
                let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
                let header = tcp.to_header();
                match packet.net.as_ref().expect("IP") {
                    NetSlice::Ipv4(ip) => {
                        let ip = ip.header().to_header();
                        assert_eq!((ip.source, ip.destination), ([10, 0, 0, 1], [10, 0, 0, 9]));
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        assert_eq!((ip.total_len as usize, ip.dont_fragment), (len, true));
                        assert_eq!(Ok(header.checksum), header.calc_checksum_ipv4(&ip, &[]));
                    }
                    NetSlice::Ipv6(ip) => {
                        let ip = ip.header().to_header();
                        assert_eq!((ip.source, ip.destination), ([1; 16], [9; 16]));
                        assert_eq!(usize::from(ip.payload_length) + 40, len);
                        assert_eq!(Ok(header.checksum), header.calc_checksum_ipv6(&ip, &[]));
                    }
                    NetSlice::Arp(_) => panic!("ARP"),
                }
                assert_eq!((header.source_port, header.destination_port), (443, 40_000));
                assert_eq!(
                    (header.sequence_number, header.acknowledgment_number),
                    (0x1234_5678, 0)
                );
                assert_eq!(
                    (header.syn, header.ack, header.ece, header.cwr),
                    (true, true, ecn, false)
                );
                assert_eq!((header.window_size, header.urgent_pointer), (64_240, 0));
                let has = |bit| present & bit != 0;
                let mut wanted = Vec::new();
                if mss != 0 {
                    wanted.push(TcpOptionElement::MaximumSegmentSize(mss));
                }
                if has(SynOptions::HAS_SACK) {
                    wanted.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
                }
                if has(SynOptions::HAS_TIMESTAMPS) {
                    wanted.push(TcpOptionElement::Timestamp(77, 0xfedc_ba98));
                }
                if has(SynOptions::HAS_WINDOW_SCALE) {
                    wanted.push(TcpOptionElement::WindowScale(7));
                }
                let options: Vec<_> = header
                    .options_iterator()
                    .map(|option| option.expect("an option"))
                    .filter(|option| *option != TcpOptionElement::Noop)
                    .collect();
                assert_eq!(options, wanted);
            }
        }
    }
}
