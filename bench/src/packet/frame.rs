//! The packets that are measured.

use anyhow::Result;
use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};

/// Bytes of data in a segment with data.
pub(crate) const DATA: u32 = 64;

pub(crate) const PORT: u16 = 80;
const CLIENT_PORT: u16 = 40_000;

/// Initial sequence numbers.
pub(crate) const CLIENT_ISN: u32 = 1_000;
pub(crate) const SERVER_ISN: u32 = 5_000;

/// IP's version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Syn,
    SynAck,
    /// The handshake's third segment.
    ThirdAck,
    /// The server's whole window, which a SYN,ACK cannot offer.
    WindowUpdate,
    /// From the client; each turn the next bytes.
    Data,
    /// From the server; each turn it acknowledges more of them.
    Ack,
    /// From the client.
    Fin,
    /// From the client.
    Rst,
    /// No TCP.
    Udp,
    /// The third segment in answer to a cookie.
    Cookie,
    /// The same without timestamps.
    PlainCookie,
}

/// A packet, but for what differs from flow to flow.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) family: Family,
    pub(crate) from_server: bool,
    /// Numbers of the first turn, and by how much they grow.
    pub(crate) seq: u32,
    pub(crate) seq_step: u32,
    pub(crate) ack: u32,
    pub(crate) ack_step: u32,
}

impl Frame {
    /// A packet of this kind, after so many turns of data.
    pub(crate) fn new(kind: Kind, family: Family, turns: u32) -> Result<Self> {
        let sent = CLIENT_ISN + 1 + turns * DATA;
        let (client, server) = (CLIENT_ISN + 1, SERVER_ISN + 1);
        let (seq, ack) = match kind {
            Kind::Syn => (CLIENT_ISN, 0),
            Kind::SynAck => (SERVER_ISN, client),
            Kind::WindowUpdate => (server, client),
            Kind::Ack => (server, sent + DATA),
            Kind::Data | Kind::Fin | Kind::Rst => (sent, server),
            Kind::ThirdAck | Kind::Udp | Kind::Cookie | Kind::PlainCookie => (client, server),
        };
        let from_server = matches!(kind, Kind::SynAck | Kind::WindowUpdate | Kind::Ack);
        Ok(Self {
            bytes: bytes(kind, family, from_server)?,
            family,
            from_server,
            seq,
            seq_step: if kind == Kind::Data { DATA } else { 0 },
            ack,
            ack_step: if kind == Kind::Ack { DATA } else { 0 },
        })
    }
}

fn bytes(kind: Kind, family: Family, from_server: bool) -> Result<Vec<u8>> {
    let ports = if from_server { (PORT, CLIENT_PORT) } else { (CLIENT_PORT, PORT) };
    let mut bytes = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match family {
        Family::V4 => {
            let (client, server) = ([10, 0, 0, 0], [192, 0, 2, 1]);
            let (from, to) = if from_server { (server, client) } else { (client, server) };
            link.ipv4(from, to, 64)
        }
        Family::V6 => {
            let mut ends = [[0; 16]; 2];
            for (end, last) in ends.iter_mut().zip([0, 1]) {
                end[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
                end[7] = 1 + last;
                end[15] = last;
            }
            let [client, server] = ends;
            let (from, to) = if from_server { (server, client) } else { (client, server) };
            link.ipv6(from, to, 64)
        }
    };
    if kind == Kind::Udp {
        ip.udp(ports.0, ports.1).write(&mut bytes, &[0; 18])?;
        return Ok(bytes);
    }
    // The programs write the numbers.
    let mut header = TcpHeader::new(ports.0, ports.1, 0, 65_535);
    header.syn = matches!(kind, Kind::Syn | Kind::SynAck);
    header.ack = kind != Kind::Syn;
    header.fin = kind == Kind::Fin;
    header.rst = kind == Kind::Rst;
    header.psh = kind == Kind::Data;
    let timestamp = TcpOptionElement::Timestamp(if header.syn { 1 } else { 2 }, 1);
    if header.syn {
        header.set_options(&[
            TcpOptionElement::MaximumSegmentSize(1460),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            timestamp,
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(14),
        ])?;
    } else if kind != Kind::PlainCookie {
        header.set_options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, timestamp])?;
    }
    let data = vec![0; if kind == Kind::Data { DATA as usize } else { 0 }];
    ip.tcp_header(header).write(&mut bytes, &data)?;
    Ok(bytes)
}
