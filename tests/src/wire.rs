//! Frames put on an interface as they are, by packet sockets.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;

/// A packet socket on one interface: what is sent through it leaves by that interface, past its egress hook.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// A socket on the interface `name` of `namespace`.
    ///
    /// # Errors
    ///
    /// Where there is no such interface, or the kernel refuses.
    pub fn open(namespace: &Namespace, name: &str) -> Result<Self> {
        // Protocol 0: nothing is received.
        Self::with_protocol(namespace, name, 0)
    }

    /// A socket that receives every frame that arrives at the interface `name` of `namespace`.
    ///
    /// # Errors
    ///
    /// As [`Wire::open`].
    pub fn receiver(namespace: &Namespace, name: &str) -> Result<Self> {
        Self::with_protocol(namespace, name, u16::try_from(libc::ETH_P_ALL)?)
    }

    /// The next frame that arrives; a VLAN tag may be left out of it.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that none comes.
    pub fn receive(&self) -> Result<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        loop {
            // SAFETY: all zeroes is a valid address.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = u32::try_from(size_of::<libc::sockaddr_ll>())?;
            // SAFETY: the buffers are of the sizes given, and live until the call returns.
            let received = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let received = usize::try_from(received)
                .map_err(|_| io::Error::last_os_error())
                .context("receiving a frame")?;
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                frame.truncate(received);
                return Ok(frame);
            }
        }
    }

    fn with_protocol(namespace: &Namespace, name: &str, protocol: u16) -> Result<Self> {
        let name = CString::new(name)?;
        let socket = namespace.enter(|| {
            let protocol = protocol.to_be();
            // SAFETY: takes numbers only.
            let fd = unsafe {
                libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                    i32::from(protocol),
                )
            };
            if fd < 0 {
                return Err(io::Error::last_os_error()).context("opening a packet socket");
            }
            // SAFETY: just opened, and owned by nobody else.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: the name is a C string.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            ensure!(index != 0, "there is no interface {}", name.to_string_lossy());
            // SAFETY: all zeroes is a valid address.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = u16::try_from(libc::AF_PACKET)?;
            address.sll_ifindex = i32::try_from(index)?;
            address.sll_protocol = protocol;
            let patience = libc::timeval { tv_sec: 30, tv_usec: 0 };
            // SAFETY: the option's value is of the size given, and lives until the call returns.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const patience).cast(),
                    u32::try_from(size_of::<libc::timeval>())?,
                )
            };
            ensure!(
                result == 0,
                "setting a packet socket's patience: {}",
                io::Error::last_os_error()
            );
            // SAFETY: the address is of the size given, and lives until the call returns.
            let result = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const address).cast(),
                    u32::try_from(size_of::<libc::sockaddr_ll>())?,
                )
            };
            ensure!(result == 0, "binding a packet socket: {}", io::Error::last_os_error());
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// Sends one frame.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            // SAFETY: the buffer is of the size given, and lives until the call returns.
            let sent = unsafe {
                libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0)
            };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // The interface's queue is full for a moment.
            if error.raw_os_error() != Some(libc::ENOBUFS) {
                return Err(error).context("sending a frame");
            }
        }
    }
}
