//! What metrics are served at: an address or a unix socket.

use std::{
    fmt,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    time::sleep,
};

use super::{
    address::MetricsAddress,
    places::Source,
    socket::{self, MetricsSocket},
};
use crate::{
    agent::condition::SHORTAGES,
    model::{
        error::{Context, Result},
        failure::Failure,
    },
};

/// A client's connection.
pub type Stream = Box<dyn Connection>;

/// What bytes come from and go to.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {
    /// Has the kernel acknowledge at once what has come, where it would wait for an answer to send along. Without that, a client that
    /// waits for it (Nagle's algorithm) sends its request 40 ms after the handshake.
    fn acknowledge(&self) {}
}

impl Connection for TcpStream {
    fn acknowledge(&self) {
        // A delay is all that a failure costs.
        let _ = SockRef::from(self).set_tcp_quickack(true);
    }
}

impl Connection for UnixStream {}

/// Who a client is.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// By its address and port.
    Tcp(SocketAddr),
    /// By its user, at a unix socket.
    Unix(Option<u32>),
}

impl Client {
    /// By what it shares places with others.
    #[must_use]
    pub fn source(self) -> Source {
        match self {
            Self::Tcp(address) => Source::of(address.ip()),
            Self::Unix(user) => Source::User(user),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(user)) => write!(f, "user {user}"),
            Self::Unix(None) => f.write_str("an unknown user"),
        }
    }
}

/// What clients come to.
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a unix socket.
    Unix(Box<MetricsSocket>),
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    ///
    /// Where the address or the socket cannot be had.
    pub async fn bind(at: &MetricsAddress) -> Result<Self> {
        match at {
            MetricsAddress::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp).with_context(|| {
                format!("serving metrics on {at}; choose another address with `--metrics ADDRESS:PORT`")
            }),
            MetricsAddress::Unix(path) => MetricsSocket::bind(path)
                .map(|socket| Self::Unix(Box::new(socket)))
                .with_context(|| format!("serving metrics on {at}")),
        }
    }

    /// What it listens at.
    ///
    /// # Errors
    ///
    /// Where the kernel does not say.
    pub fn at(&self) -> Result<MetricsAddress> {
        Ok(match self {
            Self::Tcp(listener) => MetricsAddress::Tcp(listener.local_addr()?),
            Self::Unix(socket) => MetricsAddress::Unix(socket.path().to_owned()),
        })
    }

    /// The next client. Nothing is lost where waiting is given up.
    pub async fn accept(&mut self) -> (Stream, Client) {
        match self {
            Self::Tcp(listener) => loop {
                match listener.accept().await {
                    Ok((stream, client)) => {
                        // The end of a long answer need not wait for what comes before it.
                        let _ = stream.set_nodelay(true);
                        return (Box::new(stream), Client::Tcp(client));
                    }
                    Err(error) => {
                        // It may get better, and must not spin.
                        let is_shortage =
                            error.raw_os_error().is_some_and(|number| SHORTAGES.contains(&number));
                        if is_shortage {
                            tracing::warn!("accepting a client of the metrics: {error}");
                            sleep(BACK_OFF).await;
                        } else {
                            // One that has left again, for instance.
                            tracing::debug!("accepting a client of the metrics: {error}");
                        }
                    }
                }
            },
            Self::Unix(socket) => {
                let stream = socket.accept().await;
                let user = stream.peer_cred().ok().map(|peer| peer.uid());
                (Box::new(stream), Client::Unix(user))
            }
        }
    }
}

/// Refuses what cannot be listened at here, whoever does now.
///
/// # Errors
///
/// An address that this host does not have, or a directory that others may change.
pub fn check(at: &MetricsAddress) -> Result<()> {
    match at {
        MetricsAddress::Tcp(address) => {
            // Any port: the one that is wanted may be an agent's that runs.
            let mut any_port = *address;
            any_port.set_port(0);
            match StdListener::bind(any_port) {
                Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                    let said = format!("--metrics: {} is no address of this host", address.ip());
                    Err(Failure::BadInput(said).into())
                }
                _ => Ok(()),
            }
        }
        MetricsAddress::Unix(path) => socket::check(path),
    }
}

/// After an error, before the next client is accepted.
const BACK_OFF: Duration = Duration::from_secs(1);
