//! Link types: every packet becomes an Ethernet frame.

/// A link type that is understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Link {
    Ethernet,
    /// An IP packet of the version that its first four bits say.
    Raw,
    Ipv4,
    Ipv6,
    /// Four octets with an address family, in the byte order of whichever host captured it.
    Null,
    /// The same in network byte order.
    Loop,
    /// Linux's "any" device.
    Sll,
    Sll2,
}

/// By number, as pcap and pcapng write it: <https://www.tcpdump.org/linktypes.html>. Raw IP is 101; 12 and 14 are what
/// some systems' own headers call it.
const LINKS: [(u32, Link); 10] = [
    (0, Link::Null),
    (1, Link::Ethernet),
    (12, Link::Raw),
    (14, Link::Raw),
    (101, Link::Raw),
    (108, Link::Loop),
    (113, Link::Sll),
    (228, Link::Ipv4),
    (229, Link::Ipv6),
    (276, Link::Sll2),
];

const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;
/// Reserved: nobody's protocol.
const ETHER_NONE: u16 = 0xffff;

/// Octets of an Ethernet header.
const HEADER: usize = 14;

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
        }
    }

    /// The packet as an Ethernet frame, and its length on the wire as one. What ends inside its link header is a frame
    /// that ends inside its Ethernet header.
    pub(super) fn frame<'a>(
        self,
        data: &'a [u8],
        wire_len: u32,
        built: &'a mut Vec<u8>,
    ) -> (&'a [u8], u32) {
        let Some((header_len, ether_type)) = self.header(data) else { return (data, wire_len) };
        built.clear();
        let Some(payload) = data.get(header_len..) else { return (built, wire_len) };
        built.resize(HEADER - 2, 0);
        built.extend(ether_type.to_be_bytes());
        built.extend(payload);
        // 20 octets at most.
        #[allow(clippy::cast_possible_truncation)]
        let wire_len = wire_len.saturating_sub(header_len as u32).saturating_add(HEADER as u32);
        (built, wire_len)
    }

    /// Octets of its header, and the type of what follows; `None` for Ethernet's own.
    fn header(self, data: &[u8]) -> Option<(usize, u16)> {
        let ether_type_at = |at: usize| {
            data.get(at..at + 2)
                .map_or(ETHER_NONE, |octets| u16::from_be_bytes([octets[0], octets[1]]))
        };
        Some(match self {
            Self::Ethernet => return None,
            Self::Raw => (0, version(data.first().copied())),
            Self::Ipv4 => (0, ETHER_IPV4),
            Self::Ipv6 => (0, ETHER_IPV6),
            Self::Null => (4, family(data, true)),
            Self::Loop => (4, family(data, false)),
            Self::Sll => (16, ether_type_at(14)),
            Self::Sll2 => (20, ether_type_at(0)),
        })
    }
}

/// Nothing at all is an IP packet that was cut off.
fn version(first: Option<u8>) -> u16 {
    match first.map(|octet| octet >> 4) {
        None | Some(4) => ETHER_IPV4,
        Some(6) => ETHER_IPV6,
        Some(_) => ETHER_NONE,
    }
}

/// AF_INET is 2 everywhere; AF_INET6 is 10 on Linux, 24, 28 and 30 on the BSDs and macOS.
fn family(data: &[u8], either_order: bool) -> u16 {
    let Some(Ok(octets)) = data.get(..4).map(<[u8; 4]>::try_from) else { return ETHER_NONE };
    let known = |family| match family {
        2 => Some(ETHER_IPV4),
        10 | 24 | 28 | 30 => Some(ETHER_IPV6),
        _ => None,
    };
    let little = either_order.then(|| u32::from_le_bytes(octets)).and_then(known);
    known(u32::from_be_bytes(octets)).or(little).unwrap_or(ETHER_NONE)
}
