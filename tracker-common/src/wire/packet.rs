//! From a frame to a segment: Ethernet, VLAN tags, IPv4, IPv6 with its extension headers, TCP.
//!
//! The parser reads through [`Bytes`], so that the same code runs over packet memory in the kernel and over slices on
//! the host. It never guesses: what it cannot read ends in an [`Unparsed`] reason, which the caller counts.

use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use crate::{
    forget::VerifierBarrier,
    key::{Address, End, FlowKey, Words, mapped},
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
};

/// Where a frame's bytes come from.
pub trait Bytes: VerifierBarrier {
    /// The header `T` at `at` bytes from the start, or `None` where the frame ends before it does.
    fn read<T: FromBytes + Unaligned>(&self, at: usize) -> Option<T>;

    /// The options of a SYN segment: `len` bytes (1 to 40) from `at`. `None` where the frame ends before.
    fn options(&self, at: usize, len: usize) -> Option<SynOptions>;

    /// Bytes in the whole frame, those outside linear memory included.
    fn frame_len(&self) -> usize;

    /// Whether so many bytes are there at once: all of them, where it is true; to be asked for, where it is not.
    #[inline(always)]
    fn has(&self, len: usize) -> bool {
        len <= self.frame_len()
    }
}

impl Bytes for [u8] {
    fn read<T: FromBytes + Unaligned>(&self, at: usize) -> Option<T> {
        T::read_from_prefix(self.get(at..)?).ok().map(|(header, _)| header)
    }

    fn options(&self, at: usize, len: usize) -> Option<SynOptions> {
        let mut bytes = [0; 64];
        bytes[..len].copy_from_slice(self.get(at..at.checked_add(len)?)?);
        Some(SynOptions::parse(&bytes, len))
    }

    fn frame_len(&self) -> usize {
        self.len()
    }
}

/// What a frame starts with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// The IP header itself (tun, WireGuard, PPP).
    RawIp,
}

/// Why a frame was passed on without a TCP segment having been read from it (behaviours P1 to P4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Unparsed {
    /// Shorter than its Ethernet header and VLAN tags.
    TruncatedEthernet,
    /// More than two VLAN tags.
    TooManyVlanTags,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// The frame ends inside the IP header or an extension header.
    TruncatedIp,
    /// An IP version, header length or total length that contradicts itself or the frame.
    BadIpHeader,
    /// More IPv6 extension headers than [`MAX_EXTENSION_HEADERS`].
    TooManyExtensionHeaders,
    /// IPv6 payload encrypted by ESP.
    Encrypted,
    /// IP, but not TCP.
    NotTcp,
    /// A fragment other than the first: it has no TCP header.
    LaterFragment,
    /// A first fragment that ends inside the TCP header.
    SplitTcpHeader,
    /// The frame or the IP packet ends inside the TCP header.
    TruncatedTcp,
    /// A data offset below 5, or past the end of the packet.
    BadTcpHeaderLength,
    /// An IPv6 packet with an address that none may have: a multicast source (RFC 4291 section 2.7), or an IPv4-mapped
    /// address on either side, whose key would be an IPv4 connection's. Linux drops both sources (`ip6_rcv_core`).
    BadIpv6Address,
}

/// IPv6 extension headers that are followed before a packet is given up. RFC 8200 knows six kinds, each wanted once.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// A TCP packet: which flow, which way, what segment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Packet {
    /// Both ends.
    pub key: FlowKey,
    /// The end that sent it.
    pub from: End,
    /// What it says.
    pub segment: Segment,
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ethernet {
    addresses: [u8; 12],
    ether_type: U16,
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct VlanTag {
    control: U16,
    ether_type: U16,
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ipv4 {
    version_and_length: u8,
    service: u8,
    total_length: U16,
    identification: U16,
    fragment: U16,
    time_to_live: u8,
    protocol: u8,
    checksum: U16,
    source: [u8; 4],
    destination: [u8; 4],
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ipv6 {
    version_and_label: U32,
    payload_length: U16,
    next_header: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
}

/// The first bytes of every IPv6 extension header that is followed; the fragment header fills all of them.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Extension {
    next_header: u8,
    length: u8,
    fragment: U16,
    identification: U32,
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Tcp {
    source: [u8; 2],
    destination: [u8; 2],
    seq: U32,
    ack: U32,
    offset_and_flags: U16,
    window: U16,
    checksum: U16,
    urgent: U16,
}

/// The timestamp option as RFC 7323 appendix A recommends it, and everybody sends it: first, and after two NOPs.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct TimestampOption {
    head: U32,
    value: U32,
    echo: U32,
}

impl TimestampOption {
    /// NOP, NOP, kind 8, length 10.
    const HEAD: u32 = 0x0101_080a;
}

const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q, 802.1ad (QinQ), and the value that older QinQ switches use.
const ETHER_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const PROTOCOL_TCP: u8 = 6;

/// What [`parse`] fills: in the kernel it lives in a map, because the stack is small.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Parsed {
    /// The result.
    pub packet: Packet,
    /// Bytes of the TCP header, by its own account.
    pub header_len: u32,
    /// Bytes before the IP header: a frame's Ethernet header and VLAN tags.
    pub ip_at: u32,
    /// Bytes before the TCP header.
    pub tcp_at: u32,
    source: Words,
    destination: Words,
}

/// Where the IP layer left the parser.
#[derive(Clone, Copy)]
struct Ip {
    /// Offset of the TCP header.
    tcp_at: usize,
    /// Bytes from there to the end of the IP packet.
    tcp_len: u32,
    ip_len: u32,
    first_fragment: bool,
}

/// Reads the TCP segment of a frame into `parsed`.
///
/// # Errors
///
/// The reason why there is none; what `parsed` holds then means nothing, but for [`Unparsed::BadTcpHeaderLength`]: all
/// of the header but its options.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(
    frame: &B,
    link: LinkLayer,
    zone: u16,
    parsed: &mut Parsed,
) -> Result<(), Unparsed> {
    let (ip_at, ether_type) = match link {
        LinkLayer::Ethernet => ethernet(frame)?,
        LinkLayer::RawIp => (0, raw_ip(frame)?),
    };
    let ip = match ether_type {
        ETHER_IPV4 => ipv4(frame, ip_at, parsed)?,
        ETHER_IPV6 => ipv6(frame, ip_at, parsed)?,
        _ => return Err(Unparsed::NotIp),
    };
    #[allow(clippy::cast_possible_truncation)] // at most 22
    let at = ip_at as u32;
    parsed.ip_at = at;
    tcp(frame, &frame.forget(ip), zone, parsed)
}

#[inline(always)]
fn ethernet<B: Bytes + ?Sized>(frame: &B) -> Result<(usize, u16), Unparsed> {
    let header: Ethernet = frame.read(0).ok_or(Unparsed::TruncatedEthernet)?;
    let mut ether_type = header.ether_type.get();
    let mut at = size_of::<Ethernet>();
    for _ in 0..2 {
        if !ETHER_VLAN.contains(&ether_type) {
            return Ok((at, ether_type));
        }
        let tag: VlanTag = frame.read(at).ok_or(Unparsed::TruncatedEthernet)?;
        ether_type = tag.ether_type.get();
        at += size_of::<VlanTag>();
    }
    if ETHER_VLAN.contains(&ether_type) {
        Err(Unparsed::TooManyVlanTags)
    } else {
        Ok((at, ether_type))
    }
}

#[inline(always)]
fn raw_ip<B: Bytes + ?Sized>(frame: &B) -> Result<u16, Unparsed> {
    let first: [u8; 1] = frame.read(0).ok_or(Unparsed::TruncatedIp)?;
    match first[0] >> 4 {
        4 => Ok(ETHER_IPV4),
        6 => Ok(ETHER_IPV6),
        _ => Err(Unparsed::NotIp),
    }
}

/// The IP packet's length: as its header says, or all of the frame where that says 0 (BIG TCP). A frame may be longer
/// (Ethernet padding, S8), never shorter.
#[inline(always)]
fn ip_length<B: Bytes + ?Sized>(frame: &B, at: usize, stated: usize) -> Result<u32, Unparsed> {
    #[allow(clippy::cast_possible_truncation)] // 16 bits, and a header
    if stated != 0 && frame.has(at + stated) {
        return Ok(stated as u32);
    }
    let available = frame.frame_len().wrapping_sub(at);
    let length = if stated == 0 { available } else { stated };
    if length > available {
        return Err(Unparsed::BadIpHeader);
    }
    u32::try_from(length).map_err(|_| Unparsed::BadIpHeader)
}

#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(frame: &B, at: usize, parsed: &mut Parsed) -> Result<Ip, Unparsed> {
    let header: Ipv4 = frame.read(at).ok_or(Unparsed::TruncatedIp)?;
    let header_len = ((header.version_and_length & 0xf) * 4) as usize;
    if header.version_and_length >> 4 != 4 || header_len < size_of::<Ipv4>() {
        return Err(Unparsed::BadIpHeader);
    }
    let ip_len = ip_length(frame, at, header.total_length.get() as usize)?;
    if (ip_len as usize) < header_len {
        return Err(Unparsed::BadIpHeader);
    }
    if header.protocol != PROTOCOL_TCP {
        return Err(Unparsed::NotTcp);
    }
    let fragment = header.fragment.get();
    if fragment & 0x1fff != 0 {
        return Err(Unparsed::LaterFragment);
    }
    parsed.source = Words::of(&mapped(header.source));
    parsed.destination = Words::of(&mapped(header.destination));
    Ok(Ip {
        tcp_at: at + header_len,
        #[allow(clippy::cast_possible_truncation)] // at most 60
        tcp_len: ip_len - header_len as u32,
        ip_len,
        first_fragment: fragment & 0x2000 != 0,
    })
}

#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(frame: &B, at: usize, parsed: &mut Parsed) -> Result<Ip, Unparsed> {
    let header: Ipv6 = frame.read(at).ok_or(Unparsed::TruncatedIp)?;
    if header.version_and_label.get() >> 28 != 6 {
        return Err(Unparsed::BadIpHeader);
    }
    let stated = match header.payload_length.get() {
        0 => 0,
        n => n as usize + size_of::<Ipv6>(),
    };
    let ip_len = ip_length(frame, at, stated)?;
    let (source, destination) = (Words::of(&header.source), Words::of(&header.destination));
    if source.is_mapped() || source.is_multicast() || destination.is_mapped() {
        return Err(Unparsed::BadIpv6Address);
    }
    (parsed.source, parsed.destination) = (source, destination);
    let mut next = header.next_header;
    let mut offset = size_of::<Ipv6>();
    let mut first_fragment = false;
    // RFC 8200 section 4: hop-by-hop 0, routing 43, fragment 44, destination 60; RFC 4302: AH 51; RFC 6275: mobility
    // 135; RFC 7401: HIP 139; RFC 5533: shim6 140. ESP is 50, and 59 says that nothing follows.
    let mut walked = 0;
    while next != PROTOCOL_TCP {
        if !matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
            return Err(if next == 50 { Unparsed::Encrypted } else { Unparsed::NotTcp });
        }
        if walked == MAX_EXTENSION_HEADERS {
            return Err(Unparsed::TooManyExtensionHeaders);
        }
        walked += 1;
        let extension: Extension = frame.read(at + offset).ok_or(Unparsed::TruncatedIp)?;
        let length = match next {
            44 => {
                let fragment = extension.fragment.get();
                if fragment & 0xfff8 != 0 {
                    return Err(Unparsed::LaterFragment);
                }
                first_fragment |= fragment & 1 != 0;
                8
            }
            51 => (extension.length as usize + 2) * 4,
            _ => (extension.length as usize + 1) * 8,
        };
        next = extension.next_header;
        (offset, first_fragment) = frame.forget((offset + length, first_fragment));
    }
    let Some(tcp_len) = (ip_len as usize).checked_sub(offset) else {
        return Err(Unparsed::BadIpHeader);
    };
    Ok(Ip {
        tcp_at: at + offset,
        #[allow(clippy::cast_possible_truncation)] // not above ip_len
        tcp_len: tcp_len as u32,
        ip_len,
        first_fragment,
    })
}

#[inline(always)]
fn tcp<B: Bytes + ?Sized>(
    frame: &B,
    ip: &Ip,
    zone: u16,
    parsed: &mut Parsed,
) -> Result<(), Unparsed> {
    let truncated =
        if ip.first_fragment { Unparsed::SplitTcpHeader } else { Unparsed::TruncatedTcp };
    #[allow(clippy::cast_possible_truncation)] // 20
    if ip.tcp_len < size_of::<Tcp>() as u32 {
        return Err(truncated);
    }
    let header: Tcp = frame.read(ip.tcp_at).ok_or(truncated)?;
    let offset_and_flags = header.offset_and_flags.get();
    let header_len = u32::from(offset_and_flags >> 12) * 4;
    let Parsed { packet, header_len: stated, tcp_at, source, destination, .. } = parsed;
    *stated = header_len;
    #[allow(clippy::cast_possible_truncation)] // the headers before it are shorter
    let at = ip.tcp_at as u32;
    *tcp_at = at;
    (packet.key, packet.from) =
        FlowKey::of_words((*source, header.source), (*destination, header.destination), zone);
    packet.segment = Segment {
        seq: Seq(header.seq.get()),
        ack: Seq(header.ack.get()),
        payload: ip.tcp_len.saturating_sub(header_len),
        flags: Flags(offset_and_flags & 0x1ff),
        window: header.window.get(),
        urgent: header.urgent.get(),
        ip_len: ip.ip_len,
        fragment: ip.first_fragment,
        ..Segment::default()
    };
    if header_len < 20 {
        return Err(Unparsed::BadTcpHeaderLength);
    }
    if header_len > ip.tcp_len {
        return Err(if ip.first_fragment { truncated } else { Unparsed::BadTcpHeaderLength });
    }
    let options_at = ip.tcp_at + size_of::<Tcp>();
    let segment = &mut packet.segment;
    if segment.has(Flags::SYN) {
        if header_len > 20 {
            // They are in the IP packet. Where they are not in the frame, a capture left them out.
            segment.options = frame
                .options(options_at, (header_len - 20) as usize)
                .unwrap_or(SynOptions::UNKNOWN);
            segment.timestamp = segment.options.timestamp;
            segment.has_timestamp = segment.options.has(SynOptions::HAS_TIMESTAMPS);
        }
    } else if header_len >= 32
        && let Some(options) = frame.read::<TimestampOption>(options_at)
    {
        segment.timestamp = Seq(options.value.get());
        segment.has_timestamp = options.head.get() == TimestampOption::HEAD;
    }
    Ok(())
}
