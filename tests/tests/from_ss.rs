//! docs/from-ss.md: `ss` and `tracker` show the same connections.

use std::{
    collections::BTreeSet,
    net::{Shutdown, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::Socket;
use tracker_tests::{
    agent::{Agent, eventually},
    lab::{INTERFACE, Pair, address},
    pairs::pairs,
    sockets::{accept, bound, listener, start_connecting, transfer},
};

/// The host's end of a connection, and the peer's.
type Ends = (SocketAddr, SocketAddr);

/// Connections that the host has opened, in states that last.
struct Laboratory {
    pair: Pair,
    agent: Agent,
    _sockets: Vec<Socket>,
}

impl Laboratory {
    fn new() -> Result<Self> {
        let pair = Pair::with_addresses()?;
        let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
        let [peer_v4, peer_v6] = address::PEER;
        let servers = [(peer_v4, 80), (peer_v4, 443), (peer_v4, 8080), (peer_v6, 80)];
        let servers = servers.map(SocketAddr::from);
        let listeners: Vec<_> =
            servers.iter().map(|at| listener(&pair.peer, *at)).collect::<Result<_>>()?;
        let [host_v4, host_v6] = address::HOST;
        let (mut port, mut sockets) = (40_000, Vec::new());
        let mut open = |n: usize| -> Result<[Socket; 2]> {
            port += 1;
            let ip = if servers[n].is_ipv4() { host_v4 } else { host_v6 };
            let local = SocketAddr::new(ip, port);
            let client = bound(&pair.host, local)?;
            client.connect(&servers[n].into())?;
            let server = accept(&listeners[n], local)?;
            transfer(&client, &server, 1000)?;
            Ok([client, server])
        };
        for n in 0..servers.len() {
            sockets.extend(open(n)?);
        }
        // Half-closed.
        let [client, server] = open(0)?;
        client.shutdown(Shutdown::Write)?;
        sockets.extend([client, server]);
        // Closed, first by the host.
        let [client, server] = open(1)?;
        client.shutdown(Shutdown::Write)?;
        server.shutdown(Shutdown::Write)?;
        drop((client, server));
        // Not answered: nobody has the hardware address.
        let neighbour =
            ["neigh", "add", "10.9.0.77", "lladdr", "02:00:00:00:00:77", "dev", INTERFACE];
        pair.host.run("ip", &neighbour)?;
        let client = bound(&pair.host, SocketAddr::new(host_v4, 41_000))?;
        start_connecting(&client, "10.9.0.77:80".parse()?)?;
        sockets.push(client);
        sockets.extend(listeners);
        Ok(Self { pair, agent, _sockets: sockets })
    }

    /// What `ss` shows.
    fn theirs(&self, command: &str) -> Result<BTreeSet<Ends>> {
        let mut words = command.split(' ');
        ensure!(words.next() == Some("ss"), "{command}");
        let text = self.pair.host.run("ss", &words.collect::<Vec<_>>())?;
        // Local and peer address are the last two columns; the state stands before them unless it was asked for.
        let ends = |line: &str| {
            let mut words = line.split_whitespace().rev();
            let (peer, local) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some((local, peer))
        };
        text.lines().map(|line| ends(line).with_context(|| line.to_owned())).collect()
    }

    /// What `tracker` shows.
    fn ours(&self, command: &str) -> Result<BTreeSet<Ends>> {
        let mut words: Vec<_> = command.split(' ').skip(1).collect();
        words.extend(["-o", "json"]);
        let shown: Value = serde_json::from_str(&self.agent.ask(&words)?)?;
        let end = |flow: &Value, [ip, port]: [&str; 2]| -> Result<SocketAddr> {
            let ip = flow[ip].as_str().context("an address")?.parse()?;
            Ok(SocketAddr::new(ip, u16::try_from(flow[port].as_u64().context("a port")?)?))
        };
        let flows = shown["flows"].as_array().context("flows")?;
        flows
            .iter()
            .map(|flow| Ok((end(flow, ["src", "sport"])?, end(flow, ["dst", "dport"])?)))
            .collect()
    }
}

#[test]
fn both_show_the_same_connections() -> Result<()> {
    let lab = Laboratory::new()?;
    let pairs = pairs("from-ss.md")?;
    ensure!(pairs.len() >= 14, "{} pairs", pairs.len());
    let mut found = BTreeSet::new();
    for (theirs, ours) in &pairs {
        let mut last = (BTreeSet::new(), BTreeSet::new());
        // The last segments are on their way.
        let same = eventually(ours, || {
            last = (lab.theirs(theirs)?, lab.ours(ours)?);
            Ok(last.0 == last.1 && !last.0.is_empty())
        });
        same.with_context(|| format!("{theirs}\n{:#?}\n{ours}\n{:#?}", last.0, last.1))?;
        found.insert(last.0);
    }
    // Filters that let everything through would agree, too.
    ensure!(found.len() >= 12, "{} different answers: {found:#?}", found.len());
    Ok(())
}
