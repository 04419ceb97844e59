//! `cargo xtask bench connections`: connections that a server takes, with trackers beside it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::Ebpf;
use tracker_tests::{
    agent::{Agent, PATIENCE},
    lab::{INTERFACE, Pair, address},
    sockets::listener,
};

use crate::{
    cpu::{Cores, Task},
    machine,
    router::{Trackers, pass_on},
    section,
    spread::Spread,
    table::{Table, grouped, whole},
};

const COMMAND: &str = "cargo xtask bench connections";

const ROUNDS: u16 = 9;

/// Connections of each contender a round.
const CONNECTIONS: usize = 12_000;

/// Clients at once.
const CLIENTS: usize = 4;

/// The port of the first round; each has one of its own, so that none meets the last one's TIME_WAIT.
const FIRST_PORT: u16 = 800;

/// What makes a server track: a rule that asks for a packet's state.
const RULE: &str = "table ip bench {
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
    }
}";

/// A server, a cable, and its clients.
struct Lane {
    pair: Pair,
    _agent: Option<Agent>,
    _passing: Option<Ebpf>,
}

/// Measures, prints the section, and writes it into docs/performance.md.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn connections() -> Result<()> {
    let machine = machine::describe();
    let cores = Cores::choose()?;
    let lanes = Trackers::ALL.into_iter().map(Lane::new).collect::<Result<Vec<_>>>()?;
    let mut rates = vec![Vec::new(); lanes.len()];
    for round in 0..ROUNDS {
        for (n, lane) in lanes.iter().enumerate() {
            let took = lane.round(cores, FIRST_PORT + round)?;
            #[allow(clippy::cast_precision_loss, reason = "some thousands")]
            rates[n].push(CONNECTIONS as f64 / took.as_secs_f64());
        }
    }
    let mut table = Table::new(&["On the server", "connections/s", "of nothing's"]);
    for (trackers, own) in Trackers::ALL.iter().zip(&rates) {
        let shares = own.iter().zip(&rates[0]).map(|(rate, nothing)| rate / nothing * 100.0);
        let (rate, share) = (Spread::of(own.clone()), Spread::of(shares.collect()));
        let (rate, share) = rate.zip(share).context("no rounds")?;
        table.row([
            trackers.name().to_owned(),
            format!("{} ({} to {})", whole(rate.median), whole(rate.least), whole(rate.most)),
            format!("{:.1} % ({:.1} to {:.1})", share.median, share.least, share.most),
        ]);
    }
    let text = format!(
        "## Connections

{machine}
Written by the command above.

{CLIENTS} clients connect to a server from another network namespace, over a veth pair: kernel sockets, each of which connects,
sends a byte, gets it back, and closes; {connections} connections a round, as fast as it goes. Clients have a core, and the server another.
The contenders are those of *Forwarding*, on the server's interface (nf_conntrack by a rule of its input chain). They take
turns, {ROUNDS} times; medians, in brackets the least and the most. *Of nothing's* compares with nothing's in the same round.

{table}",
        connections = grouped(CONNECTIONS as u64),
        table = table.into_text()
    );
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    section::write(&page, "connections", COMMAND, &text)
}

impl Lane {
    fn new(trackers: Trackers) -> Result<Self> {
        let pair = Pair::with_addresses()?;
        pair.peer.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        let agent = if trackers.tracker {
            let options = ["--interface", INTERFACE, "--xdp", "native"];
            Some(Agent::start(&pair.host, &options)?)
        } else {
            None
        };
        if trackers.conntrack {
            pair.host.run("nft", &[RULE])?;
        }
        let passing =
            if trackers.passing { Some(pass_on(&pair.host, &[INTERFACE])?) } else { None };
        Ok(Self { pair, _agent: agent, _passing: passing })
    }

    /// How long all connections take.
    fn round(&self, cores: Cores, port: u16) -> Result<Duration> {
        let at = SocketAddr::new(address::HOST[0], port);
        let listener = listener(&self.pair.host, at)?;
        listener.set_read_timeout(Some(PATIENCE))?;
        thread::scope(|scope| {
            let servers: Vec<_> =
                (0..CLIENTS).map(|_| scope.spawn(|| serve(cores, &listener))).collect();
            let started = Instant::now();
            self.pair.peer.enter(|| {
                thread::scope(|scope| {
                    let clients: Vec<_> =
                        (0..CLIENTS).map(|_| scope.spawn(|| ask(cores, at))).collect();
                    clients.into_iter().try_for_each(joined)
                })
            })?;
            let took = started.elapsed();
            servers.into_iter().try_for_each(joined)?;
            Ok(took)
        })
    }
}

fn joined(handle: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    handle.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

/// Takes one server's share of connections: gives the byte back, and closes after the client.
fn serve(cores: Cores, listener: &socket2::Socket) -> Result<()> {
    Task::this_thread().pin(cores.server)?;
    for _ in 0..CONNECTIONS / CLIENTS {
        let (socket, _) = listener.accept().context("no client came")?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        let _ = stream.read(&mut byte)?;
    }
    Ok(())
}

/// Makes one client's share of connections, one after the other.
fn ask(cores: Cores, at: SocketAddr) -> Result<()> {
    Task::this_thread().pin(cores.generator)?;
    for _ in 0..CONNECTIONS / CLIENTS {
        let mut stream = TcpStream::connect(at).context("connecting")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}
