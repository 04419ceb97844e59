//! What a network interface does for TCP: merging and cutting segments, spreading them over queues.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;

/// Something that an interface may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Offload {
    /// Checksums of what is sent. Without it they are right on the wire, as a packet socket between two hosts needs it.
    TxChecksum = 0x17,
    /// TCP segmentation offload: the device cuts. Not to be had where the other end of a veth runs native XDP.
    Tso = 0x1f,
    /// Generic segmentation offload: the stack cuts, after egress programs.
    Gso = 0x24,
    /// Generic receive offload: the stack merges, after native XDP.
    Gro = 0x2c,
}

const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;
const SIOCETHTOOL: u64 = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`: the largest numbers, then the numbers now.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// Turns an offload of an interface on or off, as `ethtool -K` does.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn set_offload(
    namespace: &Namespace,
    interface: &str,
    offload: Offload,
    on: bool,
) -> Result<()> {
    ethtool(namespace, interface, &mut Value { command: offload as u32, data: on.into() })
        .with_context(|| format!("turning {offload:?} {on}"))
}

/// Gives an interface so many queues either way, as `ethtool -L` does.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn set_queues(namespace: &Namespace, interface: &str, queues: u32) -> Result<()> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    ethtool(namespace, interface, &mut channels).context("reading the numbers of queues")?;
    (channels.command, channels.rx, channels.tx) = (ETHTOOL_SCHANNELS, queues, queues);
    ethtool(namespace, interface, &mut channels).context("setting the numbers of queues")
}

/// Runs one of ethtool's commands, whose structure must be one that the kernel knows.
fn ethtool<T: Send>(namespace: &Namespace, interface: &str, data: &mut T) -> Result<()> {
    namespace.enter(|| {
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        ensure!(fd >= 0, "opening a socket: {}", io::Error::last_os_error());
        // SAFETY: just opened, and owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeroes is a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        ensure!(interface.len() < request.ifr_name.len(), "{interface} is too long");
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_data = (&raw mut *data).cast();
        // SAFETY: the request and the structure that it points to live until the call returns.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        ensure!(result == 0, "{interface}: {}", io::Error::last_os_error());
        Ok(())
    })
}
