//! Kernel sockets at both ends of a [`Pair`](crate::lab::Pair), and ways to keep segments from them.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    agent::PATIENCE,
    lab::{INTERFACE, Pair, address},
    namespace::Namespace,
};

/// A TCP socket of `namespace` bound to `local`. Any thread may use it; no operation on it waits for ever.
///
/// # Errors
///
/// What the kernel says.
pub fn bound(namespace: &Namespace, local: SocketAddr) -> Result<Socket> {
    bound_for(namespace, local, Protocol::TCP)
}

/// The same of another protocol: Multipath TCP.
///
/// # Errors
///
/// What the kernel says; that there is no such protocol, where it was built without.
pub fn bound_for(namespace: &Namespace, local: SocketAddr, protocol: Protocol) -> Result<Socket> {
    let socket = namespace
        .enter(|| Ok(Socket::new(Domain::for_address(local), Type::STREAM, Some(protocol))?))
        .with_context(|| format!("a socket of protocol {}", i32::from(protocol)))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&local.into()).with_context(|| format!("binding to {local}"))?;
    set_patience(&socket, PATIENCE)?;
    Ok(socket)
}

/// A listening TCP socket of `namespace`.
///
/// # Errors
///
/// What the kernel says.
pub fn listener(namespace: &Namespace, local: SocketAddr) -> Result<Socket> {
    let socket = bound(namespace, local)?;
    socket.listen(4096)?;
    Ok(socket)
}

/// A listening socket for each address of both ends of a pair.
#[derive(Debug)]
pub struct Listeners([[Socket; 2]; 2]);

impl Listeners {
    /// All of them listen on `port`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(pair: &Pair, port: u16) -> Result<Self> {
        Self::with(pair, port, listener)
    }

    /// All of them are made by `listener`.
    ///
    /// # Errors
    ///
    /// What that says.
    pub fn with(
        pair: &Pair,
        port: u16,
        listener: impl Fn(&Namespace, SocketAddr) -> Result<Socket>,
    ) -> Result<Self> {
        let on = |namespace: &Namespace, [v4, v6]: [IpAddr; 2]| -> Result<_> {
            Ok([
                listener(namespace, SocketAddr::new(v4, port))?,
                listener(namespace, SocketAddr::new(v6, port))?,
            ])
        };
        Ok(Self([on(&pair.host, address::HOST)?, on(&pair.peer, address::PEER)?]))
    }

    /// That of the host, or of the peer, for one address family.
    #[must_use]
    pub fn at(&self, on_host: bool, is_ipv6: bool) -> &Socket {
        &self.0[usize::from(!on_host)][usize::from(is_ipv6)]
    }

    /// All four.
    pub fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.0.iter().flatten()
    }
}

/// How long reading, writing, accepting and connecting may take.
///
/// # Errors
///
/// What the kernel says.
pub fn set_patience(socket: &Socket, patience: Duration) -> Result<()> {
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    Ok(())
}

/// Sends a SYN and does not wait for what follows.
///
/// # Errors
///
/// What the kernel says.
pub fn start_connecting(socket: &Socket, remote: SocketAddr) -> Result<()> {
    socket.set_nonblocking(true)?;
    let result = socket.connect(&remote.into());
    socket.set_nonblocking(false)?;
    match result {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(error).with_context(|| format!("connecting to {remote}"))
        }
        _ => Ok(()),
    }
}

/// Accepts the connection from `remote`, which must be the next one.
///
/// # Errors
///
/// What the kernel says, or that it is another's.
pub fn accept(listener: &Socket, remote: SocketAddr) -> Result<Socket> {
    let (socket, from) =
        listener.accept().with_context(|| format!("accepting the connection from {remote}"))?;
    ensure!(from == SockAddr::from(remote), "{remote} was expected, not {from:?}");
    set_patience(&socket, PATIENCE)?;
    Ok(socket)
}

/// Sends so many bytes to the other end of the connection, which reads them.
///
/// # Errors
///
/// What the kernel says.
pub fn transfer(mut from: &Socket, mut to: &Socket, bytes: usize) -> Result<()> {
    from.write_all(&vec![b'x'; bytes]).context("writing")?;
    to.read_exact(&mut vec![0; bytes]).context("reading")?;
    Ok(())
}

/// Waits until so many bytes have arrived that nobody has read.
///
/// # Errors
///
/// What the kernel says.
pub fn wait_unread(socket: &Socket, bytes: usize) -> Result<()> {
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); bytes];
    let flags = libc::MSG_PEEK | libc::MSG_WAITALL;
    ensure!(socket.recv_with_flags(&mut buffer, flags)? == bytes, "the connection ended");
    Ok(())
}

/// How many bytes wait to be sent for the first time, a FIN counted as one: behind a closed window, for instance.
///
/// # Errors
///
/// What the kernel says.
pub fn unsent(socket: &Socket) -> Result<i32> {
    const SIOCOUTQNSD: u64 = 0x894b;
    queued(socket, SIOCOUTQNSD)
}

/// How many bytes are not acknowledged, whether they were sent or not, a FIN counted as one.
///
/// # Errors
///
/// What the kernel says.
pub fn unacknowledged(socket: &Socket) -> Result<i32> {
    queued(socket, libc::TIOCOUTQ)
}

fn queued(socket: &Socket, request: u64) -> Result<i32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one integer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) };
    ensure!(result == 0, "asking for queued bytes: {}", std::io::Error::last_os_error());
    Ok(bytes)
}

/// Whether the peer's FIN has come and the own one is not acknowledged: CLOSING or LAST_ACK.
///
/// # Errors
///
/// What the kernel says.
pub fn is_last_ack_due(socket: &Socket) -> Result<bool> {
    const TCP_LAST_ACK: u8 = 9;
    const TCP_CLOSING: u8 = 11;
    // SAFETY: all zeroes is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = u32::try_from(size_of_val(&info))?;
    // SAFETY: the option's value is of the size given, and lives until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    ensure!(result == 0, "asking for a socket's state: {}", std::io::Error::last_os_error());
    Ok(matches!(info.tcpi_state, TCP_LAST_ACK | TCP_CLOSING))
}

/// Prepares both ends of a new pair for [`introduce`] and [`deafen`]: they do not ask for hardware addresses, and look
/// up the route of every packet.
///
/// # Errors
///
/// Where the kernel has no such setting.
pub fn prepare(pair: &Pair) -> Result<()> {
    for namespace in [&pair.host, &pair.peer] {
        namespace.sysctl("net/ipv4/ip_early_demux", "0")?;
        // Orphans must not expire before they are looked at.
        namespace.sysctl("net/ipv4/tcp_fin_timeout", "600")?;
        for family in ["ipv4", "ipv6"] {
            // It is for a program to find out, patiently.
            namespace.sysctl(&format!("net/{family}/neigh/{INTERFACE}/app_solicit"), "100000")?;
        }
    }
    Ok(())
}

/// Keeps everything that arrives from the sockets of `namespace`, after XDP has seen it. What they send still leaves.
/// So both ends have provably sent something before either has heard of it.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn deafen(namespace: &Namespace) -> Result<()> {
    for family in ["-4", "-6"] {
        // Rules before that of the local table take precedence only if it moves back.
        rule(namespace, family, &["add", "pref", "10", "lookup", "local"])?;
        rule(namespace, family, &["add", "pref", "5", "iif", INTERFACE, "blackhole"])?;
        rule(namespace, family, &["del", "pref", "0"])?;
    }
    Ok(())
}

/// Ends what [`deafen`] began.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn undeafen(namespace: &Namespace) -> Result<()> {
    for family in ["-4", "-6"] {
        rule(namespace, family, &["add", "pref", "0", "lookup", "local"])?;
        rule(namespace, family, &["del", "pref", "5"])?;
        rule(namespace, family, &["del", "pref", "10"])?;
    }
    Ok(())
}

fn rule(namespace: &Namespace, family: &str, arguments: &[&str]) -> Result<()> {
    namespace.run("ip", &[&[family, "rule"], arguments].concat()).map(drop)
}

/// Tells both ends the other's hardware address for good. Segments that waited for it leave now, the host's first.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn introduce(pair: &Pair) -> Result<()> {
    introduce_peer(pair)?;
    introduce_host(pair)
}

/// Tells the host the peer's hardware address for good.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn introduce_peer(pair: &Pair) -> Result<()> {
    is_neighbour(&pair.host, &pair.peer, address::PEER)
}

/// Tells the peer the host's hardware address for good.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn introduce_host(pair: &Pair) -> Result<()> {
    is_neighbour(&pair.peer, &pair.host, address::HOST)
}

fn is_neighbour(namespace: &Namespace, other: &Namespace, addresses: [IpAddr; 2]) -> Result<()> {
    let hardware = hardware_address(other)?.map(|byte| format!("{byte:02x}")).join(":");
    for address in addresses {
        let address = address.to_string();
        let neighbour = ["neigh", "replace", &address, "lladdr", &hardware];
        namespace.run("ip", &[&neighbour[..], &["dev", INTERFACE, "nud", "permanent"]].concat())?;
    }
    Ok(())
}

/// The hardware address of a host's interface.
///
/// # Errors
///
/// Where there is none.
pub fn hardware_address(namespace: &Namespace) -> Result<[u8; 6]> {
    let link = namespace.run("ip", &["-o", "link", "show", "dev", INTERFACE])?;
    let mut words = link.split_whitespace().skip_while(|word| *word != "link/ether");
    let text = words.nth(1).context("a hardware address")?;
    let bytes: Vec<_> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text} is no hardware address"))
}
