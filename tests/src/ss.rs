//! What `ss` says: the kernel's own word on the states of its sockets.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};

use crate::{lab::Pair, namespace::Namespace};

/// A socket as `ss` shows it.
#[derive(Clone, Debug)]
pub struct Socket {
    /// RFC 9293's name of its state.
    pub state: String,
    /// Bytes that its peer has not acknowledged.
    pub unacknowledged: u64,
    /// The whole line.
    pub line: String,
}

impl Socket {
    /// Whether it is of a connection to this port.
    #[must_use]
    pub fn is_at_port(&self, port: u16) -> bool {
        let is_at = |end: &str| end.rsplit(':').next() == Some(&port.to_string());
        self.line.split_whitespace().skip(3).take(2).any(is_at)
    }
}

/// Sockets by (local, remote) address and port as `ss` prints them, listeners left out.
///
/// # Errors
///
/// Where `ss` fails, or prints a line that is not understood.
pub fn sockets(namespace: &Namespace) -> Result<BTreeMap<(String, String), Socket>> {
    let text = namespace.run("ss", &["-H", "-t", "-a", "-n", "-o"])?;
    let mut sockets = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let state = words.next().context("a state")?;
        let unacknowledged = words.nth(1).context("two queues")?;
        let (local, remote) =
            (words.next().context("a local address")?, words.next().context("a remote address")?);
        if state != "LISTEN" {
            let socket = Socket {
                state: rfc_name(state).to_owned(),
                unacknowledged: unacknowledged.parse().with_context(|| line.to_owned())?,
                line: line.to_owned(),
            };
            sockets.insert((local.to_owned(), remote.to_owned()), socket);
        }
    }
    Ok(sockets)
}

/// States by (local, remote) address and port as `ss` prints them, listeners left out.
///
/// # Errors
///
/// As [`sockets`].
pub fn states(namespace: &Namespace) -> Result<BTreeMap<(String, String), String>> {
    Ok(sockets(namespace)?.into_iter().map(|(ends, socket)| (ends, socket.state)).collect())
}

/// What `ss` says in both namespaces of a pair.
#[derive(Debug)]
pub struct Oracle {
    host: BTreeMap<(String, String), Socket>,
    peer: BTreeMap<(String, String), Socket>,
}

impl Oracle {
    /// Asks.
    ///
    /// # Errors
    ///
    /// As [`sockets`].
    pub fn ask(pair: &Pair) -> Result<Self> {
        Ok(Self { host: sockets(&pair.host)?, peer: sockets(&pair.peer)? })
    }

    /// The socket of the host, or of the peer, with these addresses.
    #[must_use]
    pub fn socket(&self, on_host: bool, local: SocketAddr, remote: SocketAddr) -> Option<&Socket> {
        let sockets = if on_host { &self.host } else { &self.peer };
        sockets.get(&(local.to_string(), remote.to_string()))
    }

    /// Every socket of both.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.host.values().chain(self.peer.values())
    }
}

/// RFC 9293's name for a state of `ss`.
fn rfc_name(state: &str) -> &str {
    match state {
        "ESTAB" => "ESTABLISHED",
        "SYN-SENT" => "SYN_SENT",
        "SYN-RECV" => "SYN_RECEIVED",
        "FIN-WAIT-1" => "FIN_WAIT_1",
        "FIN-WAIT-2" => "FIN_WAIT_2",
        "TIME-WAIT" => "TIME_WAIT",
        "UNCONN" => "CLOSED",
        "CLOSE-WAIT" => "CLOSE_WAIT",
        "LAST-ACK" => "LAST_ACK",
        "CLOSING" => "CLOSING",
        other => other,
    }
}
