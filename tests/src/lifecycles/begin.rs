//! How a connection begins.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Protocol, Socket};

use super::{
    CROWDED, Laboratory, MULTIPATH, NOT_SERVED, SERVED, SIMULTANEOUS,
    attack::forge_syn,
    life::{Life, Opening},
    script::{Act, Slot, Who, script},
    terms::Terms,
};
use crate::{
    lab::address,
    relay::Side,
    sockets::{bound, bound_for, start_connecting},
};

impl Laboratory {
    /// A new connection, whose client's socket is bound to a port of its own. `None` where the kernel keeps the port of an older
    /// one in TIME_WAIT: that has no timestamps, because another connection had changed the host's settings.
    pub(super) fn begin(&mut self) -> Result<Option<usize>> {
        let n = self.lives.len();
        let random = &mut self.random;
        let interferes = self.plan.interferes;
        let mut opening = match random.below(100) {
            26..40 if interferes => Opening::Crowded,
            0..6 => Opening::SmallWindow,
            6..12 => Opening::Simultaneous,
            12..15 => Opening::Refused,
            15..18 => Opening::Abandoned,
            18..26 => Opening::Again,
            _ => Opening::Ordinary,
        };
        // A client has to leave its port alone for a second: that is, for the round before this one.
        let mut over = (0..n.saturating_sub(2 * self.plan.new_each_round)).rev();
        let older = over.find(|n| {
            opening == Opening::Again
                && self.lives[*n].is_over()
                && self.lives[*n].terms.allow_reuse()
        });
        if opening == Opening::Again && older.is_none() {
            opening = Opening::Ordinary;
        }
        let (client_on_host, client_address, server_address) = if let Some(older) = older {
            let older = &mut self.lives[older];
            older.replaced = self.relay.begin_anew(older.client_address, older.server_address);
            (older.client_on_host, older.client_address, older.server_address)
        } else {
            let (client_on_host, family) = if opening == Opening::Crowded {
                // All crowd into one listener.
                self.crowded_at
            } else {
                (random.percent(50), usize::from(random.percent(50)))
            };
            let (from, to) = if client_on_host {
                (address::HOST[family], address::PEER[family])
            } else {
                (address::PEER[family], address::HOST[family])
            };
            let number = u16::try_from(n)?;
            let port = match opening {
                Opening::Crowded => CROWDED,
                Opening::Ordinary if interferes && random.percent(15) => MULTIPATH,
                Opening::Simultaneous => SIMULTANEOUS + number,
                Opening::Refused => NOT_SERVED,
                _ => SERVED,
            };
            let client_address = SocketAddr::new(from, 10_000 + number);
            (client_on_host, client_address, SocketAddr::new(to, port))
        };
        let (namespace, elsewhere) = if client_on_host {
            (&self.pair.host, &self.pair.peer)
        } else {
            (&self.pair.peer, &self.pair.host)
        };
        let mut terms = if interferes { Terms::random(random) } else { Terms::default() };
        terms.cookies = self.cookies[usize::from(client_on_host)];
        // Multipath TCP knows no simultaneous open.
        terms.ends[0].multipath &= opening != Opening::Simultaneous;
        terms.ends[1].multipath = server_address.port() == MULTIPATH;
        terms.fast_open &= opening != Opening::Simultaneous;
        for end in &mut terms.ends {
            // Multipath TCP does not open the smallest windows again, and what waits for them waits for minutes.
            end.tiny &= !end.multipath;
        }
        terms.set_hosts(namespace, elsewhere)?;
        let protocol = if terms.ends[0].multipath { Protocol::MPTCP } else { Protocol::TCP };
        let client = bound_for(namespace, client_address, protocol)?;
        terms.ends[0].set(&client)?;
        if interferes && random.percent(10) {
            // An attacker is first.
            let from = if client_on_host { Side::Host } else { Side::Peer };
            let _ = self.relay.forge(from, forge_syn(random, client_address, server_address))?;
        }
        let mut server = Slot::Nothing;
        let mut connected = Ok(());
        if opening == Opening::SmallWindow {
            client.set_recv_buffer_size(4096)?;
        }
        if opening == Opening::Simultaneous {
            let other = bound(elsewhere, server_address)?;
            let _pause = self.relay.pause();
            start_connecting(&client, server_address)?;
            start_connecting(&other, client_address)?;
            other.set_nonblocking(true)?;
            terms.ends[1].set(&other)?;
            server = Slot::Connecting(other);
        } else if terms.fast_open {
            connected = connect_with_data(&client, server_address);
        } else {
            connected = start_connecting(&client, server_address);
        }
        if let Some(older) = older
            && connected.as_ref().is_err_and(is_port_kept)
        {
            let before = self.lives[older].replaced.take();
            self.relay.go_on(client_address, server_address, before.unwrap_or_default());
            return Ok(None);
        }
        connected?;
        client.set_nonblocking(true)?;
        let (client, mut script) = match opening {
            Opening::Abandoned => (Slot::Gone, VecDeque::new()),
            _ => (Slot::Connecting(client), script(random)),
        };
        if opening == Opening::SmallWindow {
            script.push_front((Duration::ZERO, Act::Send(Who::Server, 30_000)));
        }
        self.lives.push(Life {
            opening,
            client_on_host,
            client_address,
            server_address,
            client,
            server,
            script,
            done: Vec::new(),
            closed_unheard: [false; 2],
            reset_unheard: [false; 2],
            began: Instant::now(),
            terms,
            server_again: false,
            gave_up: [false; 2],
            was_over: false,
            is_wrong: false,
            replaced: None,
        });
        self.by_client.insert(client_address, n);
        Ok(Some(n))
    }
}

fn is_port_kept(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// Sends data with the SYN, if the client has a cookie; else the SYN asks for one, and the data comes later.
fn connect_with_data(socket: &Socket, remote: SocketAddr) -> Result<()> {
    socket.set_nonblocking(true)?;
    match socket.send_to_with_flags(b"first", &remote.into(), libc::MSG_FASTOPEN) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(error).with_context(|| format!("connecting to {remote} with data"))
        }
        _ => Ok(()),
    }
}
