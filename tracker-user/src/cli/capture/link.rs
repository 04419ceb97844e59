//! Link types: every packet becomes an Ethernet frame.

/// A link type that is understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Link {
    Ethernet,
    /// An IP packet of the version that its first four bits say.
    Raw,
    Ipv4,
    Ipv6,
    /// Four bytes with an address family, in the byte order of whichever host captured it.
    Null,
    /// The same in network byte order.
    Loop,
    /// Linux's "any" device.
    Sll,
    Sll2,
    /// RFC 1661's header, behind the two bytes of RFC 1662's framing or not.
    Ppp,
    /// What netfilter's NFLOG hands over: an address family, and attributes of which one is the packet.
    Nflog,
}

/// By number, as pcap and pcapng write it: <https://www.tcpdump.org/linktypes.html>. Raw IP is 101; 12 and 14 are what
/// some systems' own headers call it.
const LINKS: [(u32, Link); 12] = [
    (0, Link::Null),
    (1, Link::Ethernet),
    (9, Link::Ppp),
    (12, Link::Raw),
    (14, Link::Raw),
    (101, Link::Raw),
    (108, Link::Loop),
    (113, Link::Sll),
    (228, Link::Ipv4),
    (229, Link::Ipv6),
    (239, Link::Nflog),
    (276, Link::Sll2),
];

const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;
/// Reserved: nobody's protocol.
const ETHER_NONE: u16 = 0xffff;

/// Bytes of an Ethernet header.
const HEADER: usize = 14;

/// NFULA_PACKET_HDR: begins with the Ethernet type of what was logged, big-endian.
const NFLOG_HEADER: u16 = 1;

/// NFULA_PAYLOAD: the packet, from its IP header on.
const NFLOG_PAYLOAD: u16 = 9;

/// Where a packet begins behind its link header, and how long it is.
struct Payload<'a> {
    ether_type: u16,
    /// What was captured of it.
    bytes: &'a [u8],
    /// All of its bytes on the wire.
    wire_len: u32,
}

/// What is understood, for errors about what is not.
pub(super) fn understood() -> String {
    let names: Vec<_> =
        LINKS.iter().map(|(number, link)| format!("{number} ({})", link.name())).collect();
    format!("these are: {}", names.join(", "))
}

impl Link {
    pub(super) fn of(number: u32) -> Option<Self> {
        LINKS.iter().find(|(known, _)| *known == number).map(|(_, link)| *link)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ethernet => "ethernet",
            Self::Raw => "raw_ip",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Null => "null",
            Self::Loop => "loop",
            Self::Sll => "linux_sll",
            Self::Sll2 => "linux_sll2",
            Self::Ppp => "ppp",
            Self::Nflog => "nflog",
        }
    }

    /// Builds the packet as an Ethernet frame, and returns its length on the wire as one; `None` where it is one. What
    /// ends inside its link header is a frame that ends inside its Ethernet header. `is_big_endian` is the file's byte
    /// order.
    pub(super) fn build(
        self,
        data: &[u8],
        wire_len: u32,
        is_big_endian: bool,
        built: &mut Vec<u8>,
    ) -> Option<u32> {
        let payload = match self {
            Self::Ethernet => return None,
            Self::Ppp => ppp(data, wire_len),
            Self::Nflog => nflog(data, is_big_endian),
            _ => self.fixed(data, wire_len),
        };
        built.clear();
        let Some(Payload { ether_type, bytes, wire_len }) = payload else { return Some(wire_len) };
        built.resize(HEADER - 2, 0);
        built.extend(ether_type.to_be_bytes());
        built.extend(bytes);
        #[allow(clippy::cast_possible_truncation)] // 14
        Some(wire_len.saturating_add(HEADER as u32))
    }

    /// What follows a header of one length; `None` where that was cut off.
    fn fixed(self, data: &[u8], wire_len: u32) -> Option<Payload<'_>> {
        let ether_type_at = |at: usize| {
            data.get(at..at + 2)
                .map_or(ETHER_NONE, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let (header_len, ether_type) = match self {
            Self::Ipv4 => (0, ETHER_IPV4),
            Self::Ipv6 => (0, ETHER_IPV6),
            Self::Null => (4, family(data, true)),
            Self::Loop => (4, family(data, false)),
            Self::Sll => (16, ether_type_at(14)),
            Self::Sll2 => (20, ether_type_at(0)),
            Self::Raw | Self::Ethernet | Self::Ppp | Self::Nflog => {
                (0, version(data.first().copied()))
            }
        };
        Payload::behind(data, header_len, wire_len, ether_type)
    }
}

impl<'a> Payload<'a> {
    /// What follows `header_len` bytes; `None` where there are fewer.
    fn behind(data: &'a [u8], header_len: usize, wire_len: u32, ether_type: u16) -> Option<Self> {
        let bytes = data.get(header_len..)?;
        #[allow(clippy::cast_possible_truncation)] // 20 at most
        let wire_len = wire_len.saturating_sub(header_len as u32);
        Some(Self { ether_type, bytes, wire_len })
    }
}

/// PPP's protocol number has one byte where that is odd, and else two (RFC 1661 section 6.5).
fn ppp(data: &[u8], wire_len: u32) -> Option<Payload<'_>> {
    let at = if data.starts_with(&[0xff, 0x03]) { 2 } else { 0 };
    let first = *data.get(at)?;
    let (header_len, protocol) = if first & 1 == 1 {
        (at + 1, u16::from(first))
    } else {
        (at + 2, u16::from_be_bytes([first, *data.get(at + 1)?]))
    };
    let ether_type = match protocol {
        0x0021 => ETHER_IPV4,
        0x0057 => ETHER_IPV6,
        _ => ETHER_NONE,
    };
    Payload::behind(data, header_len, wire_len, ether_type)
}

/// NFLOG: an address family, a version, a resource id, and then attributes, each of a length and a type in the byte order
/// of the host that has written the file, padded to four bytes. `None` where there is no packet among them.
fn nflog(data: &[u8], is_big_endian: bool) -> Option<Payload<'_>> {
    let number = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1]];
        if is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    };
    let mut ether_type = match data.first()? {
        2 => ETHER_IPV4,
        10 => ETHER_IPV6,
        _ => ETHER_NONE,
    };
    let mut rest = data.get(4..)?;
    loop {
        let head = rest.get(..4)?;
        let len = usize::from(number(&head[..2]));
        let value_len = len.checked_sub(4)?;
        let value = &rest[4..rest.len().min(len)];
        match number(&head[2..]) {
            NFLOG_HEADER if ether_type == ETHER_NONE && value.len() >= 2 => {
                ether_type = u16::from_be_bytes([value[0], value[1]]);
            }
            NFLOG_PAYLOAD => {
                // The kernel copies as much of a packet as it was asked for, and nobody says how much that was.
                let wire_len = ip_len(value).max(u32::try_from(value_len).unwrap_or(u32::MAX));
                return Some(Payload { ether_type, bytes: value, wire_len });
            }
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

/// The length that an IP header says; 0 where there is none.
fn ip_len(packet: &[u8]) -> u32 {
    let number = |at: usize| packet.get(at..at + 2).map(|bytes| [bytes[0], bytes[1]]);
    let length = match packet.first().map(|byte| byte >> 4) {
        Some(4) => number(2).map(|bytes| u16::from_be_bytes(bytes).into()),
        Some(6) => number(4).map(|bytes| 40 + u32::from(u16::from_be_bytes(bytes))),
        _ => None,
    };
    length.unwrap_or_default()
}

/// Nothing at all is an IP packet that was cut off.
fn version(first: Option<u8>) -> u16 {
    match first.map(|byte| byte >> 4) {
        None | Some(4) => ETHER_IPV4,
        Some(6) => ETHER_IPV6,
        Some(_) => ETHER_NONE,
    }
}

/// AF_INET is 2 everywhere; AF_INET6 is 10 on Linux, 24, 28 and 30 on the BSDs and macOS.
fn family(data: &[u8], either_order: bool) -> u16 {
    let Some(Ok(bytes)) = data.get(..4).map(<[u8; 4]>::try_from) else { return ETHER_NONE };
    let known = |family| match family {
        2 => Some(ETHER_IPV4),
        10 | 24 | 28 | 30 => Some(ETHER_IPV6),
        _ => None,
    };
    let little = either_order.then(|| u32::from_le_bytes(bytes)).and_then(known);
    known(u32::from_be_bytes(bytes)).or(little).unwrap_or(ETHER_NONE)
}
