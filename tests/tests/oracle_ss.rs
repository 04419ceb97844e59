//! Oracle `ss`: the states of both ends of real connections against the kernel's own word on its sockets.
//!
//! At every quiescent point the kernel must be where the scenario wants it, and the tracker must say what the kernel
//! says. Deaf ends hold connections in states that otherwise last for microseconds.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{Shutdown, SocketAddr},
    sync::Barrier,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::Socket;
use tracker_tests::{
    agent::{Agent, eventually},
    flows::{by_key, key, states},
    lab::{INTERFACE, Pair, address},
    sockets::{
        Listeners, accept, bound, deafen, introduce_host, introduce_peer, prepare,
        start_connecting, transfer, undeafen, wait_unread,
    },
    ss::Oracle,
};

/// Connections of each kind: five for either address family, with the client on either side.
const OF_EACH_KIND: usize = 20;
const SERVED: u16 = 80;
const NOT_SERVED: u16 = 81;
/// Ports from here on are those of simultaneous opens.
const SIMULTANEOUS: u16 = 20_000;

/// What happens to a connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    StaysOpen,
    ClientClosesFirst,
    ServerClosesFirst,
    /// Half-close by the client; the server goes on sending.
    ClientHalfCloses,
    ServerHalfCloses,
    /// The FINs cross.
    BothClose,
    /// Two threads close at the same moment, and what comes of it is for the kernel to say.
    BothRaceToClose,
    ClientResets,
    ServerResets,
    /// The server closes without having read everything, which is an RST too.
    ServerLeavesDataUnread,
    /// The client closes, the server goes on sending to nobody: an RST after a FIN.
    ClientIsGone,
    Refused,
    /// Simultaneous open: the SYNs cross. Then as `ClientClosesFirst`.
    SynsCross,
    /// Simultaneous open: both first SYNs are lost. Then as `BothClose`.
    SynsLost,
    /// SYN, then SYN,ACK are lost. At the end a lone half-close.
    OpensSlowly,
}

use Kind::{
    BothClose, BothRaceToClose, ClientClosesFirst, ClientHalfCloses, ClientIsGone, ClientResets,
    OpensSlowly, Refused, ServerClosesFirst, ServerHalfCloses, ServerLeavesDataUnread,
    ServerResets, StaysOpen, SynsCross, SynsLost,
};

const KINDS: [Kind; 15] = [
    StaysOpen,
    ClientClosesFirst,
    ServerClosesFirst,
    ClientHalfCloses,
    ServerHalfCloses,
    BothClose,
    BothRaceToClose,
    ClientResets,
    ServerResets,
    ServerLeavesDataUnread,
    ClientIsGone,
    Refused,
    SynsCross,
    SynsLost,
    OpensSlowly,
];

/// A connection and its sockets; the server of a simultaneous open is a client as well.
struct Connection {
    kind: Kind,
    client_on_host: bool,
    client_address: SocketAddr,
    server_address: SocketAddr,
    client: Option<Socket>,
    server: Option<Socket>,
}

impl Connection {
    fn client(&self) -> Result<&Socket> {
        self.client.as_ref().context("the client's socket")
    }

    fn server(&self) -> Result<&Socket> {
        self.server.as_ref().context("the server's socket")
    }

    /// Who accepts it.
    fn listener<'a>(&self, listeners: &'a Listeners) -> &'a Socket {
        listeners.at(!self.client_on_host, self.server_address.is_ipv6())
    }

    /// Who closes first, where somebody does, and who does not.
    fn closers(&self) -> Result<Option<(&Socket, &Socket)>> {
        Ok(match self.kind {
            ClientClosesFirst | ClientHalfCloses | SynsCross => {
                Some((self.client()?, self.server()?))
            }
            ServerClosesFirst | ServerHalfCloses => Some((self.server()?, self.client()?)),
            _ => None,
        })
    }

    /// States of the client and the server as seen in both maps, where an end without a socket is CLOSED, or LISTEN
    /// while its SYN was not heard.
    fn states<'a>(&self, oracle: &'a Oracle) -> [&'a str; 2] {
        let nobody =
            if self.kind == OpensSlowly && self.server.is_none() { "LISTEN" } else { "CLOSED" };
        let (on_host, client, server) =
            (self.client_on_host, self.client_address, self.server_address);
        [
            oracle.socket(on_host, client, server).map_or("CLOSED", |socket| &socket.state),
            oracle.socket(!on_host, server, client).map_or(nobody, |socket| &socket.state),
        ]
    }
}

struct Laboratory {
    pair: Pair,
    agent: Agent,
    connections: Vec<Connection>,
    points: usize,
    comparisons: usize,
    compared: BTreeMap<String, usize>,
}

/// Ends whose states are compared.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Ends {
    Both,
    /// The host's only: what the host sends is known to leave, not to be heard.
    Host,
}

impl Laboratory {
    fn of_kinds(&self, kinds: &[Kind]) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(move |connection| kinds.contains(&connection.kind))
    }

    /// Waits until the kernel is where `expected` wants it and the tracker agrees about every connection.
    fn compare(
        &mut self,
        point: &str,
        ends: Ends,
        expected: impl Fn(&Connection) -> &'static [&'static str],
    ) -> Result<()> {
        let mut wrong = Vec::new();
        let mut agreed = Vec::new();
        // What never comes true is reported in full below.
        let _ = eventually(point, || {
            (wrong, agreed) = self.disagreements(ends, &expected)?;
            if !wrong.is_empty() {
                // Connections progress by timers of tenths of a second.
                thread::park_timeout(Duration::from_millis(20));
            }
            Ok(wrong.is_empty())
        });
        self.points += 1;
        self.comparisons += agreed.len();
        let mut counts = BTreeMap::new();
        for states in agreed {
            *counts.entry(states).or_insert(0) += 1;
        }
        println!("{point}: {counts:?}, {} disagreements", wrong.len());
        for (states, count) in counts {
            *self.compared.entry(states).or_default() += count;
        }
        ensure!(wrong.is_empty(), "{point}: {} disagreements\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    }

    /// What is wrong, and the states that were agreed on.
    fn disagreements(
        &self,
        ends: Ends,
        expected: &impl Fn(&Connection) -> &'static [&'static str],
    ) -> Result<(Vec<String>, Vec<String>)> {
        let oracle = Oracle::ask(&self.pair)?;
        let flows = self.agent.flows(&[])?;
        let (mut wrong, mut agreed) = (Vec::new(), Vec::new());
        if flows.len() != self.connections.len() {
            wrong.push(format!("{} flows of {}", flows.len(), self.connections.len()));
        }
        let mut by_key = by_key(&flows)?;
        for connection in &self.connections {
            let mut told = String::new();
            let found = by_key
                .remove(&key(connection.client_address, connection.server_address))
                .unwrap_or_default();
            write!(
                told,
                "{:?} {} > {} (client on the {})",
                connection.kind,
                connection.client_address,
                connection.server_address,
                if connection.client_on_host { "host" } else { "peer" }
            )?;
            let [flow] = found[..] else {
                wrong.push(format!("{told}: {} flows", found.len()));
                continue;
            };
            let mut tracked = states(flow, connection.client_address)?;
            let mut kernel = connection.states(&oracle);
            let hidden = usize::from(connection.client_on_host);
            if ends == Ends::Host {
                tracked[hidden] = "-";
                kernel[hidden] = "-";
            }
            let (tracked, kernel) = (tracked.join("/"), kernel.join("/"));
            let wanted = expected(connection);
            let is_wanted = wanted.iter().any(|wanted| match ends {
                Ends::Both => kernel == *wanted,
                Ends::Host => {
                    wanted.split('/').nth(1 - hidden) == kernel.split('/').nth(1 - hidden)
                }
            });
            if !is_wanted {
                wrong.push(format!("{told}: ss says {kernel}, the scenario {wanted:?}"));
            }
            if tracked == kernel {
                agreed.push(tracked);
            } else {
                wrong.push(format!("{told}: tracker says {tracked}, ss says {kernel}\n  {flow}"));
            }
        }
        wrong.extend(by_key.into_keys().map(|key| format!("a flow that is none of ours: {key:?}")));
        Ok((wrong, agreed))
    }
}

fn make_laboratory() -> Result<Laboratory> {
    let pair = Pair::with_addresses()?;
    prepare(&pair)?;
    let arguments = ["--timeout-closed", "300", "--timeout-time-wait", "300"];
    let agent = Agent::start(
        &pair.host,
        &[&["--interface", INTERFACE, "--xdp", "native"], &arguments[..]].concat(),
    )?;
    Ok(Laboratory {
        pair,
        agent,
        connections: Vec::new(),
        points: 0,
        comparisons: 0,
        compared: BTreeMap::new(),
    })
}

/// All connections there will be, with their clients' sockets bound: no port is used twice.
fn plan(pair: &Pair) -> Result<Vec<Connection>> {
    let mut planned = Vec::new();
    for (n, kind) in KINDS.iter().flat_map(|kind| [*kind; OF_EACH_KIND]).enumerate() {
        let (client_on_host, family) = (n % 2 == 1, n / 2 % 2);
        let (namespace, from, to) = if client_on_host {
            (&pair.host, address::HOST[family], address::PEER[family])
        } else {
            (&pair.peer, address::PEER[family], address::HOST[family])
        };
        let n = u16::try_from(n)?;
        let port = match kind {
            Refused => NOT_SERVED,
            SynsCross | SynsLost => SIMULTANEOUS + n,
            _ => SERVED,
        };
        let client_address = SocketAddr::new(from, 10_000 + n);
        planned.push(Connection {
            kind,
            client_on_host,
            client_address,
            server_address: SocketAddr::new(to, port),
            client: Some(bound(namespace, client_address)?),
            server: None,
        });
    }
    Ok(planned)
}

/// Both ends of a simultaneous open send their SYN.
fn connect_both_ways(pair: &Pair, connection: &mut Connection) -> Result<()> {
    let elsewhere = if connection.client_on_host { &pair.peer } else { &pair.host };
    let server = bound(elsewhere, connection.server_address)?;
    start_connecting(connection.client()?, connection.server_address)?;
    start_connecting(&server, connection.client_address)?;
    connection.server = Some(server);
    Ok(())
}

fn converse(connection: &Connection) -> Result<()> {
    transfer(connection.client()?, connection.server()?, 100)?;
    transfer(connection.server()?, connection.client()?, 5000)
}

#[test]
#[allow(clippy::too_many_lines)] // one story, in order
fn tracker_and_ss_agree_on_every_connection() -> Result<()> {
    let mut lab = make_laboratory()?;
    let listeners = Listeners::new(&lab.pair, SERVED)?;
    let (crossing, others): (Vec<_>, Vec<_>) =
        plan(&lab.pair)?.into_iter().partition(|connection| connection.kind == SynsCross);
    let (late, punctual): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|connection| matches!(connection.kind, SynsLost | OpensSlowly));

    // While neither host knows the other's hardware address, SYNs wait.
    for mut connection in crossing {
        connect_both_ways(&lab.pair, &mut connection)?;
        lab.connections.push(connection);
    }
    let early = lab.agent.flows(&[])?;
    ensure!(early.is_empty(), "the SYNs wait: {early:?}");
    introduce_peer(&lab.pair)?;
    // An answer could overtake the peer's SYN while that leaves. It waits behind it as long as nothing may.
    eventually("every SYN of the host has arrived", || {
        let oracle = Oracle::ask(&lab.pair)?;
        Ok(lab.connections.iter().all(|connection| {
            let (client, server) = (connection.client_address, connection.server_address);
            let [local, remote] =
                if connection.client_on_host { [server, client] } else { [client, server] };
            oracle.socket(false, local, remote).is_some_and(|socket| socket.state == "SYN_RECEIVED")
        }))
    })?;
    introduce_host(&lab.pair)?;
    lab.compare("SYNs crossed", Ends::Both, |_| &["ESTABLISHED/ESTABLISHED"])?;
    lab.connections.iter().try_for_each(converse)?;

    for mut connection in punctual {
        let connected = connection.client()?.connect(&connection.server_address.into());
        if connection.kind == Refused {
            let error = connected.err().context("refused")?;
            ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "refused: {error}");
            connection.client = None;
        } else {
            connected.with_context(|| connection.client_address.to_string())?;
            connection.server =
                Some(accept(connection.listener(&listeners), connection.client_address)?);
            converse(&connection)?;
        }
        lab.connections.push(connection);
    }
    let opened = |connection: &Connection| -> &'static [&'static str] {
        match connection.kind {
            Refused => &["CLOSED/CLOSED"],
            _ => &["ESTABLISHED/ESTABLISHED"],
        }
    };
    lab.compare("opened", Ends::Both, opened)?;

    deafen(&lab.pair.host)?;
    deafen(&lab.pair.peer)?;
    for mut connection in late {
        if connection.kind == SynsLost {
            connect_both_ways(&lab.pair, &mut connection)?;
        } else {
            start_connecting(connection.client()?, connection.server_address)?;
        }
        lab.connections.push(connection);
    }
    lab.compare("SYNs sent, both ends deaf", Ends::Both, |connection| match connection.kind {
        SynsLost => &["SYN_SENT/SYN_SENT"],
        OpensSlowly => &["SYN_SENT/LISTEN"],
        _ => opened(connection),
    })?;
    undeafen(&lab.pair.host)?;
    lab.compare("SYNs sent, the peer deaf", Ends::Both, |connection| {
        match (connection.kind, connection.client_on_host) {
            (SynsLost, true) => &["SYN_RECEIVED/SYN_SENT"],
            (SynsLost | OpensSlowly, false) => &["SYN_SENT/SYN_RECEIVED"],
            (OpensSlowly, true) => &["SYN_SENT/LISTEN"],
            _ => opened(connection),
        }
    })?;
    undeafen(&lab.pair.peer)?;
    lab.compare("all opened", Ends::Both, opened)?;
    // They are accepted in the order in which they were completed.
    let mut accepted = Vec::new();
    for connection in lab.of_kinds(&[OpensSlowly]) {
        accepted.push(connection.listener(&listeners).accept()?);
    }
    for (socket, from) in accepted {
        let from = from.as_socket().context("an address")?;
        let mut slow = lab.connections.iter_mut().filter(|c| c.client_address == from);
        slow.next().context("one of ours")?.server = Some(socket);
    }
    lab.of_kinds(&[SynsLost, OpensSlowly]).try_for_each(converse)?;

    for connection in &mut lab.connections {
        if let Some((first, _)) = connection.closers()? {
            first.shutdown(Shutdown::Write)?;
            continue;
        }
        match connection.kind {
            ClientIsGone => connection.client = None,
            ClientResets => {
                connection.client()?.set_linger(Some(Duration::ZERO))?;
                connection.client = None;
            }
            ServerResets => {
                connection.server()?.set_linger(Some(Duration::ZERO))?;
                connection.server = None;
            }
            ServerLeavesDataUnread => {
                use std::io::Write as _;
                connection.client()?.write_all(b"nobody reads this")?;
                wait_unread(connection.server()?, 17)?;
                connection.server = None;
            }
            _ => {}
        }
    }
    let half_closed = |connection: &Connection| -> &'static [&'static str] {
        match connection.kind {
            ClientClosesFirst | ClientHalfCloses | SynsCross | ClientIsGone => {
                &["FIN_WAIT_2/CLOSE_WAIT"]
            }
            ServerClosesFirst | ServerHalfCloses => &["CLOSE_WAIT/FIN_WAIT_2"],
            ClientResets | ServerResets | ServerLeavesDataUnread | Refused => &["CLOSED/CLOSED"],
            _ => &["ESTABLISHED/ESTABLISHED"],
        }
    };
    lab.compare("half-closed or reset", Ends::Both, half_closed)?;

    for connection in lab.of_kinds(&[ClientHalfCloses, ServerHalfCloses]) {
        let (closed, open) = connection.closers()?.context("one closes first")?;
        for bytes in [1, 1000, 100_000] {
            transfer(open, closed, bytes)?;
        }
    }
    for connection in lab.of_kinds(&[ClientIsGone]) {
        ensure!(connection.server()?.send(b"is anybody there?")? == 17, "it is written");
    }
    let half_closed = |connection: &Connection| match connection.kind {
        ClientIsGone => &["CLOSED/CLOSED"],
        _ => half_closed(connection),
    };
    lab.compare("data after a half-close", Ends::Both, half_closed)?;

    deafen(&lab.pair.host)?;
    deafen(&lab.pair.peer)?;
    for connection in &lab.connections {
        if let Some((_, second)) = connection.closers()? {
            second.shutdown(Shutdown::Write)?;
        } else if matches!(connection.kind, BothClose | SynsLost) {
            connection.client()?.shutdown(Shutdown::Write)?;
            connection.server()?.shutdown(Shutdown::Write)?;
        } else if connection.kind == OpensSlowly {
            connection.client()?.shutdown(Shutdown::Write)?;
        }
    }
    lab.compare("closed, both ends deaf", Ends::Both, |connection| match connection.kind {
        ClientClosesFirst | ClientHalfCloses | SynsCross => &["FIN_WAIT_2/LAST_ACK"],
        ServerClosesFirst | ServerHalfCloses => &["LAST_ACK/FIN_WAIT_2"],
        BothClose | SynsLost => &["FIN_WAIT_1/FIN_WAIT_1"],
        OpensSlowly => &["FIN_WAIT_1/ESTABLISHED"],
        _ => half_closed(connection),
    })?;
    undeafen(&lab.pair.host)?;
    lab.compare("closed, the peer deaf", Ends::Host, |connection| {
        match (connection.kind, connection.client_on_host) {
            (ClientClosesFirst | ClientHalfCloses | SynsCross, true) => &["TIME_WAIT/LAST_ACK"],
            (ClientClosesFirst | ClientHalfCloses | SynsCross, false) => &["FIN_WAIT_2/LAST_ACK"],
            (ServerClosesFirst | ServerHalfCloses, true) => &["LAST_ACK/FIN_WAIT_2"],
            (ServerClosesFirst | ServerHalfCloses, false) => &["LAST_ACK/TIME_WAIT"],
            (BothClose | SynsLost, true) => &["CLOSING/FIN_WAIT_1"],
            (BothClose | SynsLost, false) => &["FIN_WAIT_1/CLOSING"],
            (OpensSlowly, true) => &["FIN_WAIT_1/ESTABLISHED"],
            (OpensSlowly, false) => &["FIN_WAIT_1/CLOSE_WAIT"],
            _ => half_closed(connection),
        }
    })?;
    undeafen(&lab.pair.peer)?;
    for connection in lab.of_kinds(&[BothRaceToClose]) {
        let barrier = Barrier::new(2);
        let close = |socket: &Socket| {
            barrier.wait();
            socket.shutdown(Shutdown::Write)
        };
        let (client, server) = (connection.client()?, connection.server()?);
        thread::scope(|scope| {
            let other = scope.spawn(|| close(client));
            close(server)?;
            other.join().map_err(|_| anyhow::anyhow!("the closing thread panicked"))??;
            Ok::<_, anyhow::Error>(())
        })?;
    }
    lab.compare("everything closed", Ends::Both, |connection| match connection.kind {
        ClientClosesFirst | ClientHalfCloses | SynsCross => &["TIME_WAIT/CLOSED"],
        ServerClosesFirst | ServerHalfCloses => &["CLOSED/TIME_WAIT"],
        BothClose | SynsLost => &["TIME_WAIT/TIME_WAIT"],
        BothRaceToClose => &["TIME_WAIT/CLOSED", "CLOSED/TIME_WAIT", "TIME_WAIT/TIME_WAIT"],
        OpensSlowly => &["FIN_WAIT_2/CLOSE_WAIT"],
        _ => half_closed(connection),
    })?;

    println!("{} connections of {} kinds:", lab.connections.len(), KINDS.len());
    for kind in KINDS {
        println!("  {:4} {kind:?}", lab.of_kinds(&[kind]).count());
    }
    println!("{} pairs of states compared at {} points:", lab.comparisons, lab.points);
    for (states, count) in &lab.compared {
        println!("  {count:4} {states}");
    }
    for flow in lab.agent.flows(&[])? {
        let is_simultaneous = [&flow["sport"], &flow["dport"]]
            .iter()
            .any(|port| port.as_u64().is_some_and(|port| port >= SIMULTANEOUS.into()));
        if is_simultaneous {
            let history = flow["history"].as_str().context("a history")?;
            // A SYN that waited can be overtaken by a SYN,ACK that is sent again while it leaves. That these SYNs have crossed,
            // the peer's sockets have shown.
            let ends = by_key(std::slice::from_ref(&flow))?;
            let has_crossed = lab
                .of_kinds(&[SynsCross])
                .any(|one| ends.contains_key(&key(one.client_address, one.server_address)));
            let is_so = history.starts_with("Ss") || has_crossed && history.starts_with("Sh");
            ensure!(is_so, "no simultaneous open: {flow}");
        }
    }
    let violations = lab.agent.violations()?;
    println!("disagreements 0, violations {violations:?}");
    ensure!(violations.is_empty(), "nothing was wrong, but reported were {violations:?}");
    Ok(())
}
