//! Frames, read a second time: from IEEE 802.1Q, RFC 791, RFC 8200, RFC 4302 and RFC 9293, one header after the other over a slice,
//! with vectors and without a thought for speed.

/// What a frame says, where it has a TCP segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tcp {
    /// Source address and port; an IPv4 address is a mapped one.
    pub source: ([u8; 16], u16),
    /// Destination address and port.
    pub destination: ([u8; 16], u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Nine flags.
    pub flags: u16,
    /// The window field.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// Bytes of data.
    pub payload: usize,
    /// Bytes of the IP packet.
    pub ip_len: usize,
    /// It is the first fragment of several.
    pub is_fragment: bool,
    /// The options, as far as they were captured; `None` where they were not.
    pub options: Option<Vec<u8>>,
}

/// Why there is none, in the words of [`tracker_common::packet::Unparsed`].
pub type Why = &'static str;

/// An IP packet's payload.
struct Ip {
    protocol_at: usize,
    end: usize,
    start: usize,
    addresses: [[u8; 16]; 2],
    is_fragment: bool,
}

/// Reads a frame of which `captured` is there and `wire_len` bytes were sent; without an Ethernet header where `is_raw`.
///
/// # Errors
///
/// Why it has no TCP segment.
pub fn read(captured: &[u8], wire_len: usize, is_raw: bool) -> Result<Tcp, Why> {
    let (start, version) = if is_raw {
        let first = captured.first().ok_or("TruncatedIp")?;
        (0, usize::from(first >> 4))
    } else {
        link(captured)?
    };
    let ip = match version {
        4 => ipv4(captured, wire_len, start)?,
        6 => ipv6(captured, wire_len, start)?,
        _ => return Err("NotIp"),
    };
    tcp(captured, &ip)
}

fn half(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Where the IP header begins, and its version.
fn link(captured: &[u8]) -> Result<(usize, usize), Why> {
    let mut at = 12;
    let mut tags = 0;
    loop {
        if captured.len() < at + 2 {
            return Err("TruncatedEthernet");
        }
        match half(captured, at) {
            0x8100 | 0x88a8 | 0x9100 if tags == 2 => return Err("TooManyVlanTags"),
            0x8100 | 0x88a8 | 0x9100 => {
                tags += 1;
                at += 4;
            }
            0x0800 => return Ok((at + 2, 4)),
            0x86dd => return Ok((at + 2, 6)),
            _ => return Err("NotIp"),
        }
    }
}

/// The end of a packet that begins at `start` and says that it has `stated` bytes; 0 is all of the frame.
fn end(start: usize, stated: usize, wire_len: usize) -> Result<usize, Why> {
    let end = if stated == 0 { wire_len } else { start + stated };
    if end > wire_len || u32::try_from(end - start).is_err() { Err("BadIpHeader") } else { Ok(end) }
}

fn ipv4(captured: &[u8], wire_len: usize, start: usize) -> Result<Ip, Why> {
    let header = captured.get(start..start + 20).ok_or("TruncatedIp")?;
    let header_len = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err("BadIpHeader");
    }
    let end = end(start, half(header, 2), wire_len)?;
    if end < start + header_len {
        return Err("BadIpHeader");
    }
    if header[9] != 6 {
        return Err("NotTcp");
    }
    let fragment = half(header, 6);
    if !fragment.is_multiple_of(0x2000) {
        return Err("LaterFragment");
    }
    let address = |at: usize| {
        let mut address = [0; 16];
        address[10..12].fill(0xff);
        address[12..].copy_from_slice(&header[at..at + 4]);
        address
    };
    Ok(Ip {
        protocol_at: start + header_len,
        end,
        start,
        addresses: [address(12), address(16)],
        is_fragment: fragment / 0x2000 % 2 == 1,
    })
}

fn ipv6(captured: &[u8], wire_len: usize, start: usize) -> Result<Ip, Why> {
    let header = captured.get(start..start + 40).ok_or("TruncatedIp")?;
    if header[0] >> 4 != 6 {
        return Err("BadIpHeader");
    }
    let stated = half(header, 4);
    let end = end(start, if stated == 0 { 0 } else { 40 + stated }, wire_len)?;
    let addresses: [[u8; 16]; 2] =
        [8, 24].map(|at| header[at..at + 16].try_into().expect("sixteen bytes"));
    let is_mapped = |address: &[u8; 16]| address[..10] == [0; 10] && address[10..12] == [255; 2];
    if addresses[0][0] == 255 || addresses.iter().any(is_mapped) {
        return Err("BadIpv6Address");
    }
    let (mut next, mut at, mut is_fragment) = (header[6], start + 40, false);
    for headers in 0.. {
        let known = match next {
            6 => break,
            50 => return Err("Encrypted"),
            0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => next,
            _ => return Err("NotTcp"),
        };
        if headers == 8 {
            return Err("TooManyExtensionHeaders");
        }
        let extension = captured.get(at..at + 8).ok_or("TruncatedIp")?;
        next = extension[0];
        at += match known {
            44 => {
                let field = half(extension, 2);
                if field >> 3 != 0 {
                    return Err("LaterFragment");
                }
                is_fragment |= field % 2 == 1;
                8
            }
            51 => 8 + 4 * usize::from(extension[1]),
            _ => 8 + 8 * usize::from(extension[1]),
        };
    }
    if at > end {
        return Err("BadIpHeader");
    }
    Ok(Ip { protocol_at: at, end, start, addresses, is_fragment })
}

fn tcp(captured: &[u8], ip: &Ip) -> Result<Tcp, Why> {
    let cut = if ip.is_fragment { "SplitTcpHeader" } else { "TruncatedTcp" };
    let (at, len) = (ip.protocol_at, ip.end - ip.protocol_at);
    if len < 20 {
        return Err(cut);
    }
    let header = captured.get(at..at + 20).ok_or(cut)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 {
        return Err("BadTcpHeaderLength");
    }
    if header_len > len {
        return Err(if ip.is_fragment { cut } else { "BadTcpHeaderLength" });
    }
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Ok(Tcp {
        source: (ip.addresses[0], port(0)),
        destination: (ip.addresses[1], port(2)),
        seq: word(header, 4),
        ack: word(header, 8),
        flags: port(12) & 0x1ff,
        window: port(14),
        urgent: port(18),
        payload: len - header_len,
        ip_len: ip.end - ip.start,
        is_fragment: ip.is_fragment,
        options: captured.get(at + 20..at + header_len).map(<[u8]>::to_vec),
    })
}

/// What a SYN's options say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale as it was sent.
    pub scale: Option<u8>,
    /// Some scale was above 14.
    pub is_clamped: bool,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamp and echo.
    pub timestamps: Option<[u32; 2]>,
    /// Fast Open.
    pub fast_open: bool,
    /// MD5 or TCP-AO.
    pub signed: bool,
    /// Multipath TCP.
    pub mptcp: bool,
    /// A length that cannot be.
    pub malformed: bool,
}

/// Reads options: of several of a kind the last one counts.
#[must_use]
pub fn options(mut bytes: &[u8]) -> Options {
    let mut said = Options::default();
    loop {
        match bytes {
            [] | [0, ..] => return said,
            [1, rest @ ..] => bytes = rest,
            [kind, len, ..] if (2..=bytes.len()).contains(&usize::from(*len)) => {
                let (option, rest) = bytes.split_at(usize::from(*len));
                one(&mut said, *kind, &option[2..]);
                bytes = rest;
            }
            _ => {
                said.malformed = true;
                return said;
            }
        }
    }
}

fn one(said: &mut Options, kind: u8, value: &[u8]) {
    match (kind, value) {
        (2, [a, b]) => said.mss = Some(u16::from_be_bytes([*a, *b])),
        (3, [scale]) => {
            said.scale = Some(*scale);
            said.is_clamped |= *scale > 14;
        }
        (4, []) => said.sack = true,
        (8, [_, _, _, _, _, _, _, _]) => said.timestamps = Some([word(value, 0), word(value, 4)]),
        (2 | 3 | 4 | 8, _) => said.malformed = true,
        (19, value) => said.signed |= value.len() == 16,
        (29, [_, _, ..]) => said.signed = true,
        (30, [_, ..]) => said.mptcp = true,
        (34, _) | (254, [0xf9, 0x89, ..]) => said.fast_open = true,
        _ => {}
    }
}

/// The sum of RFC 1071 over an IP packet's TCP pseudo-header, header and data: 0xffff where its checksum is right.
///
/// # Panics
///
/// Where it is no whole IP packet with TCP directly behind the IP header.
#[must_use]
pub fn tcp_checksum(packet: &[u8]) -> u16 {
    let (addresses, tcp) = match packet[0] >> 4 {
        4 => (&packet[12..20], &packet[usize::from(packet[0] & 15) * 4..]),
        _ => (&packet[8..40], &packet[40..]),
    };
    let words = |bytes: &[u8]| {
        bytes
            .chunks(2)
            .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
            .sum::<u64>()
    };
    let mut sum = words(addresses) + words(tcp) + tcp.len() as u64 + 6;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).expect("sixteen bits")
}
