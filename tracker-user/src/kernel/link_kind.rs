//! Link types: whether an interface's frames begin with an Ethernet header or an IP header.

use std::io;

use crate::model::error::{Context, Error, Result};

/// What frames of an interface begin with.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LinkKind {
    /// An Ethernet header.
    Ethernet,
    /// An Ethernet header too, and what leaves arrives.
    Loopback,
    /// The IP header.
    RawIp,
}

impl LinkKind {
    /// By the ARPHRD number (include/uapi/linux/if_arp.h). Not from sysfs, which shows the network namespace that it was
    /// mounted in.
    pub(crate) fn of(name: &str) -> Result<Self> {
        Self::from_number(hardware_type(name)?)
    }

    fn from_number(number: u16) -> Result<Self> {
        match number {
            1 => Ok(Self::Ethernet),
            772 => Ok(Self::Loopback),
            // ARPHRD_NONE (tun, WireGuard), ARPHRD_RAWIP, ARPHRD_PPP, ARPHRD_TUNNEL and its siblings.
            0xfffe | 519 | 512 | 768 | 769 | 776 | 778 => Ok(Self::RawIp),
            other => Err(Error::text(format!(
                "frames of link type {other} (see linux/if_arp.h) are not understood"
            ))),
        }
    }
}

/// ARPHRD number by SIOCGIFHWADDR.
fn hardware_type(name: &str) -> Result<u16> {
    use std::os::fd::AsRawFd;
    // Any socket will do. Loopback may be down, and has no address then.
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))
        .or_else(|_| std::net::UdpSocket::bind(("::", 0)))
        .context("opening a socket to ask for link types")?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        // Signed on some processors, and not on others.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the request lives until the call returns, and is what this ioctl reads and writes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("asking for the link type of {name}"));
    }
    // SAFETY: the ioctl has filled this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}
