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
        let name = CString::new(name)?;
        let socket = namespace.enter(|| {
            // Protocol 0: nothing is received.
            // SAFETY: takes numbers only.
            let fd =
                unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
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
