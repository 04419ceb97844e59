//! Frames put on an interface as they are, by packet sockets.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
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
        let length = self.receive_into(&mut frame, 0).context("receiving a frame")?;
        frame.truncate(length);
        Ok(frame)
    }

    /// The length of the next frame, which is put into `buffer`, or `None` where none has arrived.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn try_receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self.receive_into(buffer, libc::MSG_DONTWAIT) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("receiving a frame"),
        }
    }

    fn receive_into(&self, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        loop {
            // SAFETY: all zeroes is a valid address.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = socklen::<libc::sockaddr_ll>()?;
            // SAFETY: the buffers are of the sizes given, and live until the call returns.
            let received = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    flags,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Ok(received);
            }
        }
    }

    /// Gives the socket room for so many bytes of frames that nobody has received yet.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set_room(&self, bytes: i32) -> Result<()> {
        self.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes)
            .context("setting a packet socket's room")
    }

    /// How many frames found no room since this was last asked.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn take_lost(&self) -> Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = u32::try_from(size_of_val(&statistics))?;
        // SAFETY: the option's value is of the size given, and lives until the call returns.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        ensure!(result == 0, "reading a packet socket's losses: {}", io::Error::last_os_error());
        Ok(statistics.tp_drops)
    }

    fn set_option<T>(&self, level: i32, option: i32, value: &T) -> io::Result<()> {
        // SAFETY: the option's value is of the size given, and lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                (&raw const *value).cast(),
                socklen::<T>()?,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn with_protocol(namespace: &Namespace, name: &str, protocol: u16) -> Result<Self> {
        let name = CString::new(name)?;
        namespace.enter(|| {
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
            let wire = Self { socket };
            let patience = libc::timeval { tv_sec: 30, tv_usec: 0 };
            wire.set_option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)
                .context("setting a packet socket's patience")?;
            // SAFETY: the address is of the size given, and lives until the call returns.
            let result = unsafe {
                libc::bind(
                    wire.socket.as_raw_fd(),
                    (&raw const address).cast(),
                    u32::try_from(size_of::<libc::sockaddr_ll>())?,
                )
            };
            ensure!(result == 0, "binding a packet socket: {}", io::Error::last_os_error());
            Ok(wire)
        })
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

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn socklen<T>() -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)
}
