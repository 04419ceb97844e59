//! Agents on several hosts that export into one ClickHouse.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{Agent, eventually},
    clickhouse::ClickHouse,
    export::Directory,
    lab::{INTERFACE, Pair, address, cable},
    namespace::Namespace,
    relay::{Faults, Relay, Side, Trace},
    segment::{Segment, flag},
    sockets::{accept, bound, listener, transfer},
    ss,
    wire::Wire,
};

/// The port of the first connection of [`Path::connect`] at its server, and at its client.
const PORTS: [u16; 2] = [8000, 20_000];

/// Bytes that a client sends at once, and that a server answers with.
const CHUNKS: [usize; 2] = [3000, 20_000];

/// How long nothing has passed when nothing is under way.
const SILENCE: Duration = Duration::from_millis(100);

/// A host of its own for ClickHouse, with a cable to each host that has an agent. Agents are not attached to these.
#[derive(Debug)]
pub struct Collector {
    /// Where ClickHouse is to run.
    pub namespace: Namespace,
    directory: Directory,
}

impl Collector {
    /// Without cables.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self { namespace: Namespace::new()?, directory: Directory::new(name)? })
    }

    /// A path in a directory of its own.
    ///
    /// # Errors
    ///
    /// Where that is no UTF-8.
    pub fn path(&self, name: &str) -> Result<String> {
        self.directory.path(name)
    }

    /// Starts ClickHouse, with all that packaging/clickhouse has for it.
    ///
    /// # Errors
    ///
    /// Where it does not start, or refuses that.
    pub fn start(&self) -> Result<ClickHouse<'_>> {
        let server = ClickHouse::start(&self.namespace, std::path::Path::new(&self.path("data")?))?;
        for file in ["records.sql", "shipped.sql", "views.sql"] {
            server.load(file)?;
        }
        Ok(server)
    }

    /// Lays a cable to a host, and starts an agent there that exports everything as the host `name`.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, or the agent does not start.
    pub fn agent(&self, host: &Namespace, name: &str, options: &[&str]) -> Result<Agent> {
        let near = format!("to-{name}");
        cable((&self.namespace, &near), (host, "collector"))?;
        // Each cable is a network with two addresses; its number makes them differ.
        let number = self.namespace.run("ip", &["-o", "-4", "addr"])?.lines().count();
        let [here, there] = [1, 2].map(|end| format!("10.250.{number}.{end}"));
        for (namespace, interface, address) in
            [(&self.namespace, &*near, &here), (host, "collector", &there)]
        {
            namespace.run("ip", &["addr", "add", &format!("{address}/30"), "dev", interface])?;
        }
        let (url, spool) = (format!("http://{here}:8123"), self.path(&format!("spool-{name}"))?);
        let exports = ["--export", "all", "--export-host", name, "--export-spool", &spool];
        let arguments = [&exports, &["--export-clickhouse", &url][..], options].concat();
        Agent::start(host, &arguments)
    }
}

/// Waits until ClickHouse has so many records, each counted once: of connections that ended, and of breaches.
///
/// # Errors
///
/// Where it gets others.
pub fn wait_for_records(server: &ClickHouse<'_>, ends: usize, breaches: usize) -> Result<()> {
    eventually(&format!("{ends} ends and {breaches} breaches are there"), || {
        let of = "countIf(about = 'end'), countIf(about = 'violation'), count()";
        let there = server.ask(&format!("SELECT {of} FROM tracker.records FINAL"))?;
        let counts: Vec<usize> = there.split('\t').map(str::parse).collect::<Result<_, _>>()?;
        ensure!(counts[0] <= ends && counts[1] <= breaches, "{there}, not {ends} and {breaches}");
        Ok(counts == [ends, breaches, ends + breaches])
    })
}

/// A connection that was there.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    /// Which side opened it.
    pub opener: Side,
    /// The opener's end.
    pub client: SocketAddr,
    /// The other end.
    pub server: SocketAddr,
    /// Bytes that the opener sent.
    pub asked: u64,
    /// Bytes that the other end sent.
    pub answered: u64,
}

/// Two hosts, a path between them that loses packets and counts them, and an agent at either end.
#[derive(Debug)]
pub struct Path {
    /// The agents: the host's, then the peer's.
    pub agents: [Agent; 2],
    /// Both hosts.
    pub pair: Pair,
    /// What loses.
    pub relay: Relay,
}

impl Path {
    /// A path that loses 2 % of what passes from now on. Options are for both agents.
    ///
    /// # Errors
    ///
    /// Where the laboratory cannot be made.
    pub fn new(collector: &Collector, options: [&[&str]; 2]) -> Result<Self> {
        let (pair, relay) = Relay::between_hosts(0x002f_1ee7)?;
        let [host, peer] = options.map(|more| [&["--interface", INTERFACE], more].concat());
        let agents = [
            collector.agent(&pair.host, "host", &host)?,
            collector.agent(&pair.peer, "peer", &peer)?,
        ];
        relay.set_faults(Some(Faults { drop: 20, delay: 0, duplicate: 0, reorder: 0 }));
        Ok(Self { agents, pair, relay })
    }

    /// So many connections, all at once, over IPv4 and IPv6, opened by either side. Both ends close them. Returns when no socket
    /// sends any more, and both agents have counted what the relay has.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that an agent counts otherwise.
    pub fn connect(&self, count: u16) -> Result<Vec<Connected>> {
        let all: Vec<_> = (0..count).map(Connected::number).collect();
        std::thread::scope(|scope| {
            let running: Vec<_> =
                all.iter().map(|one| scope.spawn(|| one.run(&self.pair))).collect();
            running.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| anyhow::anyhow!("a connection panicked"))?
            })
        })?;
        for namespace in [&self.pair.host, &self.pair.peer] {
            eventually("no socket sends any more", || {
                let mut sockets = ss::sockets(namespace)?;
                sockets.retain(|_, socket| !socket.is_at_port(8123));
                Ok(sockets.values().all(|socket| socket.state == "TIME_WAIT"))
            })?;
        }
        self.settle(&all)?;
        Ok(all)
    }

    /// Makes records of everything that the agents have, which is so many flows each.
    ///
    /// # Errors
    ///
    /// Where they have others.
    pub fn flush(&self, flows: usize) -> Result<()> {
        for agent in &self.agents {
            eventually("its flows are there", || Ok(agent.flows(&[])?.len() == flows))?;
            agent.ask(&["flush"])?;
        }
        Ok(())
    }

    /// Ends both agents.
    ///
    /// # Errors
    ///
    /// Where one ends badly.
    pub fn finish(self) -> Result<()> {
        self.agents.into_iter().try_for_each(|agent| agent.finish().map(drop))
    }

    /// What passed of a connection.
    ///
    /// # Errors
    ///
    /// Where nothing did.
    pub fn trace(&self, of: &Connected) -> Result<Trace> {
        self.relay.trace(of.client, of.server).with_context(|| format!("nothing of {of:?}"))
    }

    /// Waits until each agent has seen of each connection what its side of the relay has.
    fn settle(&self, all: &[Connected]) -> Result<()> {
        for (agent, side) in self.agents.iter().zip(Side::BOTH) {
            eventually("the agents have counted what the relay has", || {
                let flows = agent.flows(&[])?;
                for one in all {
                    let trace = self.trace(one)?;
                    let is_it = |flow: &&Value| {
                        flow["sport"] == one.client.port() && flow["dport"] == one.server.port()
                    };
                    let Some(flow) = flows.iter().find(is_it) else { return Ok(false) };
                    for (end, from) in [("orig", one.opener), ("reply", one.opener.other())] {
                        let passed =
                            if from == side { trace.arrived(from) } else { trace.delivered(from) };
                        if flow[end]["packets"] != passed {
                            return Ok(false);
                        }
                    }
                }
                // An answer to the last segment may be under way.
                Ok(self.relay.idle()? > SILENCE)
            })?;
        }
        Ok(())
    }
}

impl Connected {
    fn number(n: u16) -> Self {
        let family = usize::from(n % 2);
        let opener = if n.is_multiple_of(3) { Side::Host } else { Side::Peer };
        let [host, peer] = [address::HOST, address::PEER].map(|both| both[family]);
        let (client, server) = if opener == Side::Host { (host, peer) } else { (peer, host) };
        let rounds = 1 + u64::from(n % 4);
        Self {
            opener,
            client: SocketAddr::new(client, PORTS[1] + n),
            server: SocketAddr::new(server, PORTS[0] + n),
            asked: rounds * CHUNKS[0] as u64,
            answered: rounds * CHUNKS[1] as u64,
        }
    }

    fn run(&self, pair: &Pair) -> Result<()> {
        let (near, far) = match self.opener {
            Side::Host => (&pair.host, &pair.peer),
            Side::Peer => (&pair.peer, &pair.host),
        };
        let listener = listener(far, self.server)?;
        let client = bound(near, self.client)?;
        client.connect(&self.server.into()).with_context(|| format!("connecting {self:?}"))?;
        let server = accept(&listener, self.client)?;
        for _ in 0..self.asked / CHUNKS[0] as u64 {
            transfer(&client, &server, CHUNKS[0])?;
            transfer(&server, &client, CHUNKS[1])?;
        }
        client.shutdown(std::net::Shutdown::Write)?;
        let ended = |socket: &socket2::Socket| -> Result<()> {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            ensure!(socket.recv(&mut byte)? == 0, "{self:?}: there was more");
            Ok(())
        };
        ended(&server)?;
        server.shutdown(std::net::Shutdown::Write)?;
        ended(&client)
    }
}

/// What [`send_crafted`] has sent.
#[derive(Clone, Copy, Debug)]
pub struct Crafted {
    /// Flows that each agent has of it.
    pub flows: usize,
    /// Breaches that each agent reports.
    pub breaches: usize,
    /// Clients' ports of connections that are unanswered, refused, picked up midstream, and with a breach.
    pub ports: [u16; 4],
}

/// Sends segments of connections that need no sockets over a path that loses nothing: an unanswered SYN, a refusal, one that is
/// picked up midstream, one with a breach; and a breach that belongs to no connection.
///
/// # Errors
///
/// What the kernel says.
pub fn send_crafted(path: &Path) -> Result<Crafted> {
    let ports @ [unanswered, refused, midstream, broken] = [30_000, 30_001, 30_002, 30_003];
    let (near, far) =
        (Wire::open(&path.pair.host, INTERFACE)?, Wire::open(&path.pair.peer, INTERFACE)?);
    let server: SocketAddr = ([192, 0, 2, 2], 80).into();
    let client = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
    let asks = |port, flags, seq, ack| {
        far.send(&Segment::new(client(port), server, flags, seq, ack).frame())
    };
    let answers = |port, flags, seq, ack| {
        near.send(&Segment::new(server, client(port), flags, seq, ack).frame())
    };
    asks(unanswered, flag::SYN, 1000, 0)?;
    asks(midstream, flag::ACK, 1000, 5000)?;
    asks(30_004, flag::SYN | flag::FIN, 1000, 0)?;
    // Each answer comes after both agents have seen what it answers.
    let has_come = |port: u16, packets: u64| {
        eventually("both have seen it", || {
            for agent in &path.agents {
                let flows = agent.flows(&["--sport", &port.to_string()])?;
                let seen = flows.first().map_or(0, |flow| {
                    ["orig", "reply"].iter().filter_map(|end| flow[end]["packets"].as_u64()).sum()
                });
                if seen < packets {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    };
    asks(refused, flag::SYN, 1000, 0)?;
    has_come(refused, 1)?;
    answers(refused, flag::RST | flag::ACK, 0, 1001)?;
    has_come(refused, 2)?;
    asks(broken, flag::SYN, 1000, 0)?;
    has_come(broken, 1)?;
    answers(broken, flag::SYN | flag::ACK, 5000, 1001)?;
    has_come(broken, 2)?;
    asks(broken, flag::ACK, 1001, 5001)?;
    asks(broken, flag::ACK, 1001, 9001)?;
    has_come(broken, 4)?;
    has_come(unanswered, 1)?;
    has_come(midstream, 1)?;
    Ok(Crafted { flows: ports.len(), breaches: 2, ports })
}
