//! Two hosts on a cable, connections in both directions, and a flood.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::Socket;
use tracker_tests::{
    flood::flood,
    lab::{INTERFACE, Pair, address},
    sockets::{Listeners, accept, bound, hardware_address, transfer},
};

use crate::span::Span;

pub(crate) const PORT: u16 = 80;

/// Local ports, one connection after the other. When one comes again, the kernel's own TIME_WAIT is over.
const PORTS: std::ops::Range<u16> = 10_000..50_000;

pub(crate) struct Site {
    pub(crate) pair: Pair,
    listeners: Listeners,
    /// Connections that were made, used and closed.
    pub(crate) made: AtomicU64,
    /// SYNs that were forged.
    pub(crate) flooded: AtomicU64,
}

impl Site {
    /// One whose host answers anybody: what it sends to those who do not exist goes to the peer, which drops it.
    pub(crate) fn new() -> Result<Self> {
        let pair = Pair::with_addresses()?;
        pair.without_offloads()?;
        let peer = address::PEER[0].to_string();
        let hardware = hardware_address(&pair.peer)?.map(|byte| format!("{byte:02x}")).join(":");
        let neighbour = ["neigh", "replace", &peer, "lladdr", &hardware, "nud", "permanent"];
        pair.host.run("ip", &[&neighbour[..], &["dev", INTERFACE]].concat())?;
        pair.host.run("ip", &["route", "add", "default", "via", &peer])?;
        let listeners = Listeners::new(&pair, PORT)?;
        Ok(Self { pair, listeners, made: AtomicU64::new(0), flooded: AtomicU64::new(0) })
    }

    /// Connections, one after the other.
    pub(crate) fn visit(&self, span: &Span) -> Result<()> {
        while span.goes_on() {
            let number = self.made.load(Ordering::Relaxed);
            self.one_visit(number).with_context(|| format!("connection {number}"))?;
            self.made.fetch_add(1, Ordering::Relaxed);
            // A bound: else there is nothing but this.
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// One of twelve kinds: IPv4 or IPv6, by either host; closed by the client, by the server, or reset.
    fn one_visit(&self, number: u64) -> Result<()> {
        let (by_host, family) = (number % 2 == 1, usize::from(number / 2 % 2 == 1));
        let (namespace, from, to) = if by_host {
            (&self.pair.host, address::HOST[family], address::PEER[family])
        } else {
            (&self.pair.peer, address::PEER[family], address::HOST[family])
        };
        let port = PORTS.start + u16::try_from(number % u64::from(PORTS.end - PORTS.start))?;
        let from = SocketAddr::new(from, port);
        let client = bound(namespace, from)?;
        client.connect(&SocketAddr::new(to, PORT).into())?;
        (&client).write_all(b"?")?;
        let server = accept(self.listeners.at(!by_host, family == 1), from)?;
        (&server).read_exact(&mut [0])?;
        let bytes = usize::try_from(number * 7 % 9973)? + 1;
        transfer(&client, &server, bytes)?;
        transfer(&server, &client, bytes)?;
        match number / 4 % 3 {
            0 => close(&client, &server),
            1 => close(&server, &client),
            _ => reset(client, &server),
        }
    }

    pub(crate) fn flood(&self, span: &Span) -> Result<()> {
        let breath = Duration::from_millis(10);
        flood(&self.pair, PORT, breath, &self.flooded, || span.goes_on())
    }

    /// Waits until connections and flood have gone on for a while.
    pub(crate) fn goes_on(&self, span: &Span) -> Result<()> {
        let made = self.made.load(Ordering::Relaxed) + 50;
        let flooded = self.flooded.load(Ordering::Relaxed) + 1000;
        span.wait("connections and flood go on", || {
            let is_there = self.made.load(Ordering::Relaxed) >= made
                && self.flooded.load(Ordering::Relaxed) >= flooded;
            Ok(is_there || !span.goes_on())
        })
    }
}

fn close(first: &Socket, second: &Socket) -> Result<()> {
    for (one, other) in [(first, second), (second, first)] {
        one.shutdown(Shutdown::Write)?;
        let mut other = other;
        ensure!(other.read(&mut [0])? == 0, "nothing but the end");
    }
    Ok(())
}

fn reset(first: Socket, mut second: &Socket) -> Result<()> {
    first.set_linger(Some(Duration::ZERO))?;
    drop(first);
    let heard = second.read(&mut [0]).map_err(|error| error.kind());
    ensure!(heard == Err(ErrorKind::ConnectionReset), "{heard:?}");
    Ok(())
}
