//! What a connection's sockets and hosts are set to, at random.

use std::{io, os::fd::AsRawFd};

use anyhow::{Context, Result};
use socket2::Socket;

use super::script::Who;
use crate::{namespace::Namespace, random::Random};

/// The options of one connection. By default none is set, and the hosts are left as they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// Client and server.
    pub(super) ends: [End; 2],
    /// The client sends data with its SYN, as far as it has a cookie for that.
    pub(super) fast_open: bool,
    /// What the hosts of client and server are set to before the client connects.
    pub(super) hosts: Option<[Host; 2]>,
    /// `tcp_syncookies` of the server's host: 1 where its queue is full, 2 always.
    pub(super) cookies: u8,
}

/// Options of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    /// Multipath TCP; the server's depends on the listener.
    pub(super) multipath: bool,
    /// Buffers as small as the kernel allows.
    pub(super) tiny: bool,
    /// Milliseconds after which it gives up (`TCP_USER_TIMEOUT`).
    pub(super) user_timeout: Option<u32>,
}

/// Settings of a host. They are those of a namespace: the next connection may find others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    timestamps: u8,
    sack: u8,
    ecn: u8,
    fast_open: u16,
}

impl Terms {
    /// Options at random.
    pub(super) fn random(random: &mut Random) -> Self {
        let mut end = || End {
            multipath: random.percent(20),
            tiny: random.percent(15),
            user_timeout: random
                .percent(20)
                .then(|| 60 + u32::try_from(random.below(200)).unwrap_or(0)),
        };
        let ends = [end(), end()];
        let mut host = || Host {
            timestamps: random.percent(70).into(),
            sack: random.percent(70).into(),
            ecn: random.pick(&[0, 1, 2]),
            // Client and server; the server with and without a cookie.
            fast_open: random.pick(&[3, 3, 0x203]),
        };
        let hosts = Some([host(), host()]);
        Self { ends, fast_open: random.percent(25), hosts, cookies: 1 }
    }

    /// Whether a client may use its port again while it is in TIME_WAIT, which needs timestamps.
    pub(super) fn allow_reuse(&self) -> bool {
        self.hosts.is_none_or(|hosts| hosts.iter().all(|host| host.timestamps == 1))
    }

    /// Whether the server's host answers each SYN with a cookie.
    pub(super) fn has_cookies(&self) -> bool {
        self.cookies == 2
    }

    /// Whether it sends cookies where the listener's queue is full.
    pub(super) fn may_have_cookies(&self) -> bool {
        self.cookies > 0
    }

    /// What of all this is set, by name.
    #[must_use]
    pub(super) fn names(&self) -> Vec<&'static str> {
        let Some(hosts) = self.hosts else { return Vec::new() };
        let any_end = |is: fn(&End) -> bool| self.ends.iter().any(is);
        let any_host = |is: fn(&Host) -> bool| hosts.iter().any(is);
        let all = [
            ("fast open", self.fast_open),
            ("timestamps off", any_host(|host| host.timestamps == 0)),
            ("SACK off", any_host(|host| host.sack == 0)),
            ("ECN", hosts[0].ecn == 1 && hosts[1].ecn > 0),
            ("MPTCP", any_end(|end| end.multipath)),
            ("tiny buffers", any_end(|end| end.tiny)),
            ("tcp_syncookies=2", self.has_cookies()),
            ("TCP_USER_TIMEOUT", any_end(|end| end.user_timeout.is_some())),
        ];
        all.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }

    /// Sets both hosts.
    pub(super) fn set_hosts(&self, client: &Namespace, server: &Namespace) -> Result<()> {
        for (namespace, host) in [client, server].into_iter().zip(self.hosts.iter().flatten()) {
            namespace.enter(|| host.set())?;
        }
        Ok(())
    }
}

impl Host {
    fn set(&self) -> Result<()> {
        for (name, value) in [
            ("timestamps", u16::from(self.timestamps)),
            ("sack", self.sack.into()),
            ("ecn", self.ecn.into()),
            ("fastopen", self.fast_open),
        ] {
            let path = format!("/proc/sys/net/ipv4/tcp_{name}");
            std::fs::write(&path, value.to_string()).with_context(|| path.clone())?;
        }
        Ok(())
    }
}

impl End {
    /// Sets a socket of this end.
    pub(super) fn set(&self, socket: &Socket) -> Result<()> {
        if self.tiny {
            socket.set_recv_buffer_size(1)?;
            socket.set_send_buffer_size(1)?;
        }
        if let Some(milliseconds) = self.user_timeout.filter(|_| !self.multipath) {
            set(socket, libc::TCP_USER_TIMEOUT, milliseconds).context("TCP_USER_TIMEOUT")?;
        }
        Ok(())
    }
}

impl Terms {
    /// The options of this end.
    pub(super) fn end(&self, who: Who) -> &End {
        &self.ends[who as usize]
    }
}

/// Lets a listener take data with a SYN, if the client has a cookie (`TCP_FASTOPEN`).
pub(super) fn take_data_with_syn(listener: &Socket) -> Result<()> {
    set(listener, libc::TCP_FASTOPEN, 100).context("TCP_FASTOPEN")
}

fn set(socket: &Socket, option: libc::c_int, value: u32) -> io::Result<()> {
    // SAFETY: the option's value is of the size given, and lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
