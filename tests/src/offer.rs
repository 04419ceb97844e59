//! What a SYN,ACK offers, read off the wire.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use etherparse::{SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{namespace::Namespace, wire::Wire};

/// What a SYN,ACK offers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Offer {
    /// Maximum segment size, in bytes; 0 where it says none.
    pub mss: u16,
    /// Window scale; `None` without the option.
    pub scale: Option<u8>,
    /// The window, in bytes, not scaled.
    pub window: u16,
    /// Whether ECN is agreed to.
    pub ecn: bool,
}

impl Offer {
    fn of(tcp: &TcpSlice<'_>) -> Self {
        let mut offer = Self { mss: 0, scale: None, window: tcp.window_size(), ecn: tcp.ece() };
        for option in tcp.options_iterator().map_while(Result::ok) {
            match option {
                TcpOptionElement::MaximumSegmentSize(size) => offer.mss = size,
                TcpOptionElement::WindowScale(by) => offer.scale = Some(by),
                _ => {}
            }
        }
        offer
    }
}

/// A listening socket of the namespace; with a receive buffer of so many bytes where asked for.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn listen(
    namespace: &Namespace,
    at: SocketAddr,
    protocol: Protocol,
    buffer: Option<usize>,
) -> Result<Socket> {
    let socket = namespace
        .enter(|| Ok(Socket::new(Domain::for_address(at), Type::STREAM, Some(protocol))?))?;
    socket.set_reuse_address(true)?;
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(&at.into()).with_context(|| format!("binding to {at}"))?;
    socket.listen(16)?;
    Ok(socket)
}

/// Connects from a namespace, and from one of its addresses where one is given; what the SYN,ACK offers that comes to
/// `wire`, of the same namespace. The connection is aborted.
///
/// # Errors
///
/// Where there is no connection, or no frame is that SYN,ACK.
pub fn offered(
    namespace: &Namespace,
    wire: &Wire,
    from: Option<IpAddr>,
    to: SocketAddr,
) -> Result<Offer> {
    let client = namespace
        .enter(|| Ok(Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?))?;
    client.set_read_timeout(Some(Duration::from_secs(30)))?;
    client.set_linger(Some(Duration::ZERO))?;
    if let Some(ip) = from {
        client.bind(&SocketAddr::new(ip, 0).into()).with_context(|| format!("binding to {ip}"))?;
    }
    client.connect(&to.into()).with_context(|| format!("connecting from {from:?} to {to}"))?;
    let local = client.local_addr()?.as_socket().context("an IP address")?;
    loop {
        let frame = wire.receive()?;
        let Ok(packet) = SlicedPacket::from_ethernet(&frame) else { continue };
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { continue };
        if (tcp.source_port(), tcp.destination_port()) == (to.port(), local.port())
            && tcp.syn()
            && tcp.ack()
        {
            return Ok(Offer::of(&tcp));
        }
    }
}
