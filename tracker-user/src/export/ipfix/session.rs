//! A connection, or a UDP socket: messages of one transport session (RFC 7011, section 2), with templates before they are needed.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Result as IoResult},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::socket::{getsockopt, sockopt::IpMtu};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket, lookup_host},
    time::{sleep, timeout},
};

use super::{
    address::Address,
    message::{self, Exporter, Message},
};
use crate::model::error::{Context, Error, Result};

/// A transport session.
#[derive(Debug)]
pub(super) struct Session {
    link: Link,
    /// Data records that were sent.
    sequence: u32,
    /// When templates were sent last.
    templates_at: Option<Instant>,
    /// Bytes of a message at most.
    longest: usize,
}

#[derive(Debug)]
enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// What a connection's end means for what was sent over it.
#[derive(Debug)]
pub(super) enum End {
    /// The collector had read all that its kernel has acknowledged, and closed.
    Clean,
    /// It may not have read all of it.
    Broken(Error),
}

impl Session {
    /// Connects, to the first of the name's addresses that lets it.
    ///
    /// # Errors
    ///
    /// Where none does, within 10 s for each.
    pub(super) async fn open(address: &Address) -> Result<Self> {
        let places = lookup_host((address.name(), address.port)).await.context("looking it up")?;
        let mut outcome = Err(Error::text("the name has no address"));
        for place in places {
            outcome = if address.is_tcp {
                Self::over_tcp(place).await
            } else {
                Self::over_udp(place).await
            };
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn over_tcp(place: SocketAddr) -> Result<Self> {
        let connecting = timeout(LONGEST_CONNECT, TcpStream::connect(place)).await;
        let stream = connecting
            .map_err(|_| {
                Error::text(format!("no connection within {} s", LONGEST_CONNECT.as_secs()))
            })?
            .context("connecting")?;
        Ok(Self::new(Link::Tcp(stream), LONGEST_OVER_TCP))
    }

    async fn over_udp(place: SocketAddr) -> Result<Self> {
        let any: SocketAddr = match place {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await.context("opening a socket")?;
        socket.connect(place).await.context("connecting")?;
        let longest = match place {
            SocketAddr::V4(_) => {
                let mtu = getsockopt(&socket, IpMtu).ok().and_then(|mtu| usize::try_from(mtu).ok());
                mtu.unwrap_or(LEAST_MTU).saturating_sub(HEADERS_4).clamp(LEAST, LONGEST_OVER_UDP)
            }
            // What every path lets through (RFC 8200, section 5).
            SocketAddr::V6(_) => MTU_6 - HEADERS_6,
        };
        Ok(Self::new(Link::Udp(socket), longest))
    }

    const fn new(link: Link, longest: usize) -> Self {
        Self { link, sequence: 0, templates_at: None, longest }
    }

    /// Looks whether the collector has ended the connection; `None` where it has not.
    pub(super) async fn end(&self) -> Option<End> {
        let Link::Tcp(stream) = &self.link else { return None };
        // The runtime asks the kernel while it waits.
        let _ = timeout(Duration::from_millis(1), stream.readable()).await;
        match read(stream) {
            Ok(()) => None,
            Err(None) if unacknowledged(stream).is_ok_and(|bytes| bytes == 0) => Some(End::Clean),
            Err(None) => Some(End::Broken(Error::text(CLOSED))),
            Err(Some(error)) => Some(End::Broken(error)),
        }
    }

    /// Sends records of a spool, after templates where `refresh` is over since the last ones; returns how many of them have no form with
    /// these settings. Over TCP the collector's kernel has them then, over UDP this host's.
    ///
    /// # Errors
    ///
    /// Where that fails. Then the session is over, and what has arrived is unknown.
    pub(super) async fn send(
        &mut self,
        rows: &[u8],
        exporter: &Exporter,
        lost: u64,
        refresh: Duration,
    ) -> Result<u64> {
        let is_stale = match self.link {
            Link::Tcp(_) => self.templates_at.is_none(),
            Link::Udp(_) => self.templates_at.is_none_or(|at| at.elapsed() >= refresh),
        };
        if is_stale {
            let is_first = self.templates_at.is_none();
            self.transfer(message::of_templates(exporter, lost, self.longest)).await?;
            self.templates_at = Some(Instant::now());
            if is_first {
                // Where nobody listens, this is known before there is anything to lose.
                self.wait_for_refusal(FIRST_REFUSAL).await?;
            }
        }
        let (messages, left_out) = message::of_rows(rows, exporter, self.longest);
        self.transfer(messages).await?;
        match &self.link {
            Link::Udp(_) => self.wait_for_refusal(REFUSAL).await?,
            Link::Tcp(stream) => acknowledged(stream).await?,
        }
        Ok(left_out)
    }

    async fn transfer(&mut self, messages: Vec<Message>) -> Result<()> {
        for (at, mut message) in messages.into_iter().enumerate() {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = since.map_or(0, |since| since.as_secs());
            // Unsigned, until 2106 (RFC 7011, section 6.1.2).
            let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
            let bytes = message.bytes(seconds, self.sequence);
            match &mut self.link {
                Link::Udp(socket) => {
                    socket.send(bytes).await.context("sending")?;
                    if at % BURST == BURST - 1 {
                        sleep(BETWEEN_BURSTS).await;
                    }
                }
                Link::Tcp(stream) => {
                    let writing = timeout(LONGEST_WAIT, stream.write_all(bytes)).await;
                    writing.map_err(|_| hangs())?.context("sending")?;
                }
            }
            self.sequence = self.sequence.wrapping_add(message.records);
        }
        Ok(())
    }

    /// Waits whether an ICMP message refuses what was sent over UDP.
    async fn wait_for_refusal(&self, longest: Duration) -> Result<()> {
        let Link::Udp(socket) = &self.link else { return Ok(()) };
        let until = tokio::time::Instant::now() + longest;
        // A collector has nothing to say.
        let mut ignored = [0; 1];
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv(&mut ignored)).await {
            received
                .context("what was sent is refused (ICMP): does the collector listen there?")?;
        }
        Ok(())
    }
}

/// Waits until the peer's kernel has acknowledged all.
async fn acknowledged(stream: &TcpStream) -> Result<()> {
    let until = Instant::now() + LONGEST_WAIT;
    let mut pause = Duration::from_micros(100);
    loop {
        match read(stream) {
            Ok(()) => {}
            Err(error) => return Err(error.unwrap_or_else(|| Error::text(CLOSED))),
        }
        if unacknowledged(stream).context("asking for what is acknowledged")? == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(hangs());
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_POLL);
    }
}

/// Reads what the peer says, which means nothing: whether it closes (`None`), or an error is there, does.
fn read(stream: &TcpStream) -> Result<(), Option<Error>> {
    let mut ignored = [0; 512];
    loop {
        match stream.try_read(&mut ignored) {
            Ok(0) => return Err(None),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Some(Error::from(error).context("the connection"))),
        }
    }
}

/// Bytes that were written and not acknowledged (tcp(7), `SIOCOUTQ`).
fn unacknowledged(stream: &TcpStream) -> IoResult<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the number is what this ioctl writes, and lives until the call returns.
    if unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(bytes.unsigned_abs())
}

fn hangs() -> Error {
    Error::text(format!("the collector has acknowledged nothing for {} s", LONGEST_WAIT.as_secs()))
}

/// What was sent last over a connection, as far as a collector's receive buffer may hold it unread.
#[derive(Debug, Default)]
pub(super) struct Recent {
    batches: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Recent {
    /// Adds rows that were acknowledged; the oldest go.
    pub(super) fn add(&mut self, rows: &[u8]) {
        self.batches.push_back(rows.to_vec());
        self.bytes += rows.len();
        while let Some(oldest) = self.batches.front().map(Vec::len)
            && self.bytes - oldest >= MOST_UNREAD
        {
            self.bytes -= oldest;
            self.batches.pop_front();
        }
    }

    /// All of them, in their order.
    pub(super) fn rows(&self) -> Vec<u8> {
        self.batches.iter().flatten().copied().collect()
    }

    /// None is to be sent again.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What a connection says that its peer has closed.
const CLOSED: &str = "the collector has closed the connection";

/// How long a connection may take.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);

/// How long a collector may acknowledge nothing.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Between two looks at what is acknowledged, after many.
const LONGEST_POLL: Duration = Duration::from_millis(20);

/// How long a refusal is waited for after the first messages.
const FIRST_REFUSAL: Duration = Duration::from_millis(200);

/// How long a refusal is waited for after others.
const REFUSAL: Duration = Duration::from_millis(50);

/// Datagrams in a row: some 90 kB, of which a collector's socket holds 212,992 bytes by default, with what the kernel adds.
const BURST: usize = 32;

/// Between two of them.
const BETWEEN_BURSTS: Duration = Duration::from_millis(10);

/// Bytes of a message over TCP at most.
const LONGEST_OVER_TCP: usize = 16_384;

/// Bytes of a message over UDP at most, also where a local network takes more.
const LONGEST_OVER_UDP: usize = 1400;

/// Bytes of a message over UDP at least, where a path is said to take fewer.
const LEAST: usize = 484;

/// Bytes of a packet where the path's MTU is not known (RFC 7011, section 10.3.3).
const LEAST_MTU: usize = 512;

/// Headers of IPv4 and UDP.
const HEADERS_4: usize = 28;

/// Headers of IPv6 and UDP.
const HEADERS_6: usize = 48;

/// The least MTU of IPv6.
const MTU_6: usize = 1280;

/// Bytes of rows that are sent again after a connection broke.
const MOST_UNREAD: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_last_is_bounded() {
        let mut recent = Recent::default();
        for at in 0..20_u8 {
            recent.add(&vec![at; 1 << 20]);
            assert!(recent.bytes < MOST_UNREAD + (1 << 20));
        }
        let rows = recent.rows();
        assert_eq!((rows.len(), rows[0], rows[rows.len() - 1]), (4 << 20, 16, 19));
        recent.clear();
        assert!(recent.rows().is_empty());
    }
}
