//! Who listens on this host, as the kernel's sock_diag tells.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::NlasIterator;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags, nlas::Nla};

use crate::{kernel::sock_diag::each_socket, model::error::Result};

/// include/uapi/linux/inet_diag.h: what a layer above TCP says of itself, and its name therein.
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;

/// A listening socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListeningSocket {
    /// Where; the unspecified address for any.
    pub address: IpAddr,
    /// At which port.
    pub port: u16,
    /// Whether it is one of IPv6 that takes no IPv4.
    pub is_only_ipv6: bool,
    /// Its number in the kernel: another one after the listener was started again.
    pub inode: u32,
    /// Its receive buffer in bytes.
    pub buffer: u32,
    /// Whether it speaks MPTCP.
    pub is_mptcp: bool,
}

/// Every listening socket of this network namespace.
///
/// # Errors
///
/// What the kernel says.
pub fn listening() -> Result<Vec<ListeningSocket>> {
    let mut found = Vec::new();
    each_socket(
        &StateFlags::LISTEN,
        &(ExtensionFlags::INFO | ExtensionFlags::SKMEMINFO),
        |response| found.push(ListeningSocket::new(response)),
    )?;
    Ok(found)
}

impl ListeningSocket {
    fn new(response: &InetResponse) -> Self {
        let mut socket = Self {
            address: response.header.socket_id.source_address.to_canonical(),
            port: response.header.socket_id.source_port,
            is_only_ipv6: false,
            inode: response.header.inode,
            buffer: 0,
            is_mptcp: false,
        };
        for attribute in &response.nlas {
            match attribute {
                Nla::MemInfo(memory) => socket.buffer = memory.receive_queue_max,
                Nla::SkV6Only(only) => socket.is_only_ipv6 = *only,
                Nla::Other(other) => {
                    use netlink_packet_core::Nla as _;
                    if other.kind() & 0x3fff == INET_DIAG_ULP_INFO {
                        let mut bytes = vec![0; other.value_len()];
                        other.emit_value(&mut bytes);
                        socket.is_mptcp |= upper_layer(&bytes) == Some(b"mptcp");
                    }
                }
                _ => {}
            }
        }
        socket
    }

    /// How well it fits the place: a listener at an address comes before one at any. `None` where it does not.
    fn fits(&self, at: SocketAddr) -> Option<u8> {
        match (self.address, at.ip()) {
            _ if self.port != at.port() => None,
            (mine, theirs) if mine == theirs => Some(2),
            (IpAddr::V4(mine), IpAddr::V4(_)) if mine.is_unspecified() => Some(1),
            (IpAddr::V6(mine), IpAddr::V6(_)) if mine.is_unspecified() => Some(1),
            (IpAddr::V6(mine), IpAddr::V4(_)) if mine.is_unspecified() && !self.is_only_ipv6 => {
                Some(0)
            }
            _ => None,
        }
    }
}

/// The name of what is above TCP, without its final zero.
fn upper_layer(attributes: &[u8]) -> Option<&[u8]> {
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == INET_ULP_INFO_NAME)
        .map(|attribute| {
            let name = attribute.into_inner().get(4..).unwrap_or_default();
            name.split(|byte| *byte == 0).next().unwrap_or_default()
        })
}

/// Who listens at one place.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Listening {
    /// Numbers of the sockets that connections may go to: more than one with SO_REUSEPORT. In order.
    pub inodes: Vec<u32>,
    /// The smallest of their receive buffers in bytes; `None` where nobody listens.
    pub buffer: Option<u32>,
    /// Whether one of them speaks MPTCP.
    pub is_mptcp: bool,
}

impl Listening {
    /// Those among `sockets` that connections to `place` go to.
    #[must_use]
    pub fn at(sockets: &[ListeningSocket], place: SocketAddr) -> Self {
        let best = sockets.iter().filter_map(|socket| socket.fits(place)).max();
        let mut found = Self::default();
        for socket in sockets {
            if best.is_some() && socket.fits(place) == best {
                found.inodes.push(socket.inode);
                found.is_mptcp |= socket.is_mptcp;
                found.buffer =
                    Some(found.buffer.map_or(socket.buffer, |buffer| buffer.min(socket.buffer)));
            }
        }
        found.inodes.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(at: &str, inode: u32) -> ListeningSocket {
        let at: SocketAddr = at.parse().expect(at);
        let (address, port) = (at.ip(), at.port());
        let buffer = 1000 + inode;
        ListeningSocket { address, port, is_only_ipv6: false, inode, buffer, is_mptcp: false }
    }

    #[test]
    fn the_closest_listener_is_meant() {
        let mut sockets = vec![
            socket("0.0.0.0:80", 1),
            socket("192.0.2.1:80", 2),
            socket("[::]:80", 3),
            socket("[::]:443", 4),
            socket("192.0.2.1:443", 6),
            ListeningSocket { is_mptcp: true, ..socket("192.0.2.1:443", 5) },
            ListeningSocket { is_only_ipv6: true, ..socket("[::]:22", 7) },
        ];
        let at =
            |sockets: &[ListeningSocket], at: &str| Listening::at(sockets, at.parse().expect(at));
        assert_eq!(at(&sockets, "192.0.2.1:80").inodes, [2]);
        assert_eq!(at(&sockets, "192.0.2.2:80").inodes, [1]);
        assert_eq!(at(&sockets, "[2001:db8::1]:80").inodes, [3]);
        let several = at(&sockets, "192.0.2.1:443");
        assert_eq!(several, Listening { inodes: vec![5, 6], buffer: Some(1005), is_mptcp: true });
        assert_eq!(at(&sockets, "192.0.2.2:443").inodes, [4]);
        assert_eq!(at(&sockets, "192.0.2.1:22"), Listening::default());
        assert_eq!(at(&sockets, "[2001:db8::1]:22").inodes, [7]);
        sockets.remove(0);
        assert_eq!(at(&sockets, "192.0.2.2:80").inodes, [3]);
    }

    #[test]
    fn the_name_of_a_layer_above_tcp() {
        // Length 10, type 1, the name and its zero, padding; then another attribute.
        let bytes = *b"\x0a\x00\x01\x00mptcp\0\0\0\x08\x00\x03\x00\x01\x00\x00\x00";
        assert_eq!(upper_layer(&bytes), Some(&b"mptcp"[..]));
        assert_eq!(upper_layer(b"\x08\x00\x01\x00tls\0"), Some(&b"tls"[..]));
        assert_eq!(upper_layer(b""), None);
        assert_eq!(upper_layer(b"\xff\xff\x01\x00"), None);
    }
}
