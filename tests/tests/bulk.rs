//! Bulk transfers: no byte unaccounted for, no false report, whatever the interfaces do to segments.
//!
//! `TRACKER_BULK_SECONDS` says how long the load lasts in total; 30 by default.

use std::{
    collections::BTreeMap,
    env,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::Socket;
use tracker_tests::{
    agent::{Agent, Events, eventually},
    lab::{INTERFACE, Pair, address},
    namespace::Namespace,
    offload::{Offload, set_offload, set_queues},
    sockets::{accept, bound, listener, set_patience},
    way_in::is_tcx,
};

/// Connections at a time, half of them over IPv6, half of them opened by the host.
const CONNECTIONS: u16 = 32;
/// An MTU that no single buffer of XDP holds.
const SEVERAL_BUFFERS: u64 = 30_000;
/// A page, beyond which a frame is in several buffers.
const BUFFER: u64 = 4096;
const ROOMY: u16 = 80;
/// The port of those whose receivers have little room.
const TIGHT: u16 = 81;
/// Longest silence of a connection that is being read from.
const SILENCE: Duration = Duration::from_secs(120);

/// What the interfaces do.
#[derive(Clone, Copy, Debug)]
struct Phase {
    name: &'static str,
    offloads: bool,
    mtu: u64,
    queues: u32,
}

/// The kernel lets no super-segments arrive at native XDP on a veth, so frames of several buffers are large ones there.
const PHASES: [Phase; 4] = [
    Phase { name: "super-segments leave", offloads: true, mtu: 1500, queues: 1 },
    Phase { name: "no offloads", offloads: false, mtu: 1500, queues: 1 },
    Phase { name: "several buffers arrive", offloads: false, mtu: SEVERAL_BUFFERS, queues: 1 },
    Phase { name: "two queues", offloads: true, mtu: 1500, queues: 2 },
];

impl Phase {
    fn prepare(&self, pair: &Pair) -> Result<()> {
        for namespace in [&pair.host, &pair.peer] {
            set_offload(namespace, INTERFACE, Offload::Gso, self.offloads)?;
            set_offload(namespace, INTERFACE, Offload::Gro, self.offloads)?;
            let mtu = self.mtu.to_string();
            // TCP makes super-segments for every device; those without GSO get them cut after egress programs.
            let segments = if self.offloads { "65535" } else { "1" };
            let arguments = ["link", "set", INTERFACE, "mtu", &mtu, "gso_max_segs", segments];
            namespace.run("ip", &arguments)?;
        }
        set_offload(&pair.host, INTERFACE, Offload::Tso, self.offloads)
    }
}

/// How the bytes are read.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// A small receive buffer at both ends: small windows, often zero.
    tight: bool,
    /// Readers pause long enough for window probes.
    pauses: bool,
}

/// A connection with both its sockets.
struct Connection {
    client_address: SocketAddr,
    client_on_host: bool,
    manner: Manner,
    client: Socket,
    server: Socket,
}

/// Xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A length of any magnitude up to 2^18.
    fn length(&mut self) -> usize {
        let magnitude = self.next() % 19;
        usize::try_from(1 + self.next() % (1 << magnitude)).unwrap_or(1)
    }
}

fn open(pair: &Pair) -> Result<Vec<Connection>> {
    let mut connections = Vec::new();
    let listeners = [(&pair.host, address::HOST), (&pair.peer, address::PEER)]
        .into_iter()
        .flat_map(|(namespace, addresses)| {
            addresses.into_iter().flat_map(move |address| {
                [ROOMY, TIGHT].map(|port| {
                    let address = SocketAddr::new(address, port);
                    Ok((address, listener(namespace, address)?))
                })
            })
        })
        .collect::<Result<BTreeMap<_, _>>>()?;
    for (address, listener) in &listeners {
        if address.port() == TIGHT {
            listener.set_recv_buffer_size(4096)?;
            listener.set_send_buffer_size(65_536)?;
        }
    }
    for n in 0..CONNECTIONS {
        let (client_on_host, family) = (n % 2 == 1, usize::from(n / 2 % 2));
        let manner = Manner { tight: n / 4 % 2 == 1, pauses: n / 8 % 2 == 1 };
        let (namespace, from, to) = if client_on_host {
            (&pair.host, address::HOST[family], address::PEER[family])
        } else {
            (&pair.peer, address::PEER[family], address::HOST[family])
        };
        let client_address = SocketAddr::new(from, 10_000 + n);
        let server_address = SocketAddr::new(to, if manner.tight { TIGHT } else { ROOMY });
        let client = bound(namespace, client_address)?;
        if manner.tight {
            client.set_recv_buffer_size(4096)?;
            client.set_send_buffer_size(65_536)?;
        }
        client.connect(&server_address.into())?;
        let server = accept(&listeners[&server_address], client_address)?;
        for socket in [&client, &server] {
            set_patience(socket, SILENCE)?;
        }
        connections.push(Connection { client_address, client_on_host, manner, client, server });
    }
    Ok(connections)
}

/// Writes until the time is over, then a FIN; how many bytes it was.
fn write(mut socket: &Socket, seed: u64, until: Instant) -> Result<u64> {
    let mut random = Random(seed);
    let buffer = vec![b'x'; 1 << 18];
    let mut written = 0;
    while Instant::now() < until {
        let bytes = random.length();
        socket.write_all(&buffer[..bytes]).context("writing")?;
        written += bytes as u64;
    }
    socket.shutdown(Shutdown::Write)?;
    Ok(written)
}

/// Reads until the FIN; how many bytes it was.
fn read(mut socket: &Socket, seed: u64, manner: Manner, until: Instant) -> Result<u64> {
    let mut random = Random(seed);
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        if manner.pauses
            && (bytes == 0 || random.next().is_multiple_of(256))
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(300 + random.next() % 700));
        }
        let room = random.length();
        match socket.read(&mut buffer[..room]) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes += read as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading"),
        }
    }
}

/// Bytes from the client and from the server of each connection, which both arrived.
fn transfer(connections: &[Connection], lasting: Duration) -> Result<Vec<[u64; 2]>> {
    let until = Instant::now() + lasting;
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (seed, Connection { client, server, manner, .. }) in (1_u64..).zip(connections) {
            let manner = *manner;
            let seed = seed << 32 | 0x9e37_79b9;
            running.push([
                scope.spawn(move || write(client, seed, until)),
                scope.spawn(move || write(server, seed + 1, until)),
                scope.spawn(move || read(server, seed + 2, manner, until)),
                scope.spawn(move || read(client, seed + 3, manner, until)),
            ]);
        }
        let mut all = Vec::new();
        for (threads, connection) in running.into_iter().zip(connections) {
            let mut counts = Vec::new();
            for thread in threads {
                let count = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
                counts.push(count.with_context(|| connection.client_address.to_string())?);
            }
            let [sent, answered, received, answer] = counts[..] else { unreachable!() };
            ensure!(
                [sent, answered] == [received, answer],
                "the kernel lost something: {counts:?}"
            );
            all.push([sent, answered]);
        }
        Ok(all)
    })
}

/// The reports that must not be, as far as they come.
fn report(events: &mut Events, violations: &[(String, u64)]) -> String {
    let expected: u64 = violations.iter().map(|(_, count)| count).sum();
    let mut told = format!("{expected} false reports: {violations:?}\n");
    for _ in 0..expected.min(20) {
        let Ok(event) = events.wait(|event| event["violation"].is_object()) else { break };
        told.push_str(&format!("{event}\n"));
    }
    told
}

/// Whether both ends are through. Where a copy of a segment was late, the one whose socket is gone has answered it with an
/// RST, so that conn_state is not SF; what each has sent is compared with what was written in any case.
fn is_closed(flow: &Value) -> bool {
    ["orig", "reply"].iter().all(|end| {
        let state = &flow[end]["state"];
        state == "TIME_WAIT" || state == "CLOSED"
    })
}

fn number(flow: &Value, end: &str, name: &str) -> Result<u64> {
    flow[end][name].as_u64().with_context(|| format!("{end}.{name} of {flow}"))
}

/// What is wrong with a flow whose applications wrote so much, the client's and the server's.
fn check(flow: &Value, written: [u64; 2]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (end, other, written) in [("orig", "reply", written[0]), ("reply", "orig", written[1])] {
        let get = |end, name| -> Result<u32> { Ok(u32::try_from(number(flow, end, name)?)?) };
        let advance = get(end, "seq")?.wrapping_sub(get(end, "isn")?);
        // One for the SYN, one for the FIN.
        let expected = u32::try_from((written + 2) & u64::from(u32::MAX))?;
        if advance != expected {
            wrong.push(format!("{end}: {written} bytes written, but seq is {advance} further"));
        }
        if get(other, "ack")? != get(end, "seq")? {
            wrong.push(format!("{end}: not everything is acknowledged"));
        }
        if number(flow, end, "bytes")? < written {
            wrong.push(format!("{end}: fewer bytes counted than written, {written}"));
        }
    }
    if flow["violations"] != 0 || flow["midstream"] != false || flow["seen"] != "both" {
        wrong.push("violations, midstream or seen".to_owned());
    }
    Ok(wrong)
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default)]
struct Direction {
    packets: u64,
    bytes: u64,
    /// Bytes of a packet in the mean of that connection where it is largest.
    largest_mean: u64,
}

impl Direction {
    fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
        self.largest_mean = self.largest_mean.max(bytes / packets);
    }
}

/// Segments that TCP of a namespace has sent, as the wire would show them (`Tcp: OutSegs`, which has none that was sent before, and
/// `RetransSegs`).
fn segments_sent(namespace: &Namespace) -> Result<u64> {
    let text = namespace.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    let sent = pairs.filter(|(name, _)| ["OutSegs", "RetransSegs"].contains(name));
    sent.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}

/// Frames that a namespace's interface has sent: a super-segment is one.
fn frames_sent(namespace: &Namespace) -> Result<u64> {
    let shown = namespace.run("ip", &["-json", "-stats", "link", "show", INTERFACE])?;
    let links: Value = serde_json::from_str(&shown)?;
    links[0]["stats64"]["tx"]["packets"].as_u64().context("a counter")
}

/// A counter of TCP's in both namespaces.
fn kernel_counter(pair: &Pair, name: &str) -> Result<u64> {
    let mut sum = 0;
    for namespace in [&pair.host, &pair.peer] {
        let text =
            namespace.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?))?;
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let (_, value) = pairs.find(|(found, _)| *found == name).context("a counter")?;
        sum += value.parse::<u64>()?;
    }
    Ok(sum)
}

fn seconds() -> Result<u64> {
    match env::var("TRACKER_BULK_SECONDS") {
        Ok(text) => text.parse().with_context(|| format!("TRACKER_BULK_SECONDS={text}")),
        Err(_) => Ok(30),
    }
}

/// A laboratory of its own for each phase: a queue that a veth is given while XDP is attached gets no program.
fn run(phase: Phase, lasting: Duration) -> Result<()> {
    let pair = Pair::with_addresses()?;
    for namespace in [&pair.host, &pair.peer] {
        set_queues(namespace, INTERFACE, phase.queues)?;
    }
    let agent = Agent::start(
        &pair.host,
        &[
            ["--interface", INTERFACE],
            ["--xdp", "native"],
            ["--egress", "tcx"],
            ["--timeout-time-wait", "86400"],
        ]
        .concat(),
    )?;
    phase.prepare(&pair)?;
    let mut events = agent.events()?;
    let connections = open(&pair)?;
    let written = transfer(&connections, lasting)?;

    // The last segments of all: everything is acknowledged, and either end knows that the other is gone.
    let mut flows = Vec::new();
    let closed = eventually("all flows are closed", || {
        flows = agent.flows(&[])?;
        Ok(flows.iter().all(is_closed))
    });
    let violations = agent.violations()?;
    ensure!(violations.is_empty(), "{}", report(&mut events, &violations));
    closed.with_context(|| {
        flows.retain(|flow| !is_closed(flow));
        let flows: Vec<_> = flows.iter().map(Value::to_string).collect();
        format!("{} flows are not closed:\n{}", flows.len(), flows.join("\n"))
    })?;
    ensure!(flows.len() == connections.len(), "{} flows", flows.len());

    let mut wrong = Vec::new();
    let mut directions = [Direction::default(); 2];
    for (connection, written) in connections.iter().zip(&written) {
        let flow = flows
            .iter()
            .find(|flow| flow["sport"] == connection.client_address.port())
            .with_context(|| format!("no flow of {}", connection.client_address))?;
        for what in check(flow, *written)? {
            wrong.push(format!("{:?}: {what}\n  {flow}", connection.manner));
        }
        for (end, of_client) in [("orig", true), ("reply", false)] {
            let arrived = usize::from(of_client != connection.client_on_host);
            directions[arrived].add(number(flow, end, "packets")?, number(flow, end, "bytes")?);
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    let zero_windows = kernel_counter(&pair, "TCPToZeroWindowAdv")?;
    let probes = kernel_counter(&pair, "TCPWinProbe")?;
    let [host, peer] = [segments_sent(&pair.host)?, segments_sent(&pair.peer)?];
    println!(
        "{}: {} connections, {} bytes, {zero_windows} zero windows, {probes} window probes",
        phase.name,
        connections.len(),
        written.iter().flatten().sum::<u64>(),
    );
    // The kernel counts what it makes of a super-segment, too.
    for (name, direction, sent) in [("left", directions[0], host), ("arrived", directions[1], peer)]
    {
        println!("  {name}: {direction:?}, of {sent} segments that TCP sent");
        // A veth with native XDP drops what its ring has no place for.
        let is_exact = name == "left" || is_tcx();
        ensure!(
            direction.packets == sent || (!is_exact && direction.packets < sent),
            "{name}: {direction:?}, of {sent} segments that TCP sent"
        );
        // A mean above a number needs packets above it.
        ensure!(direction.largest_mean <= phase.mtu, "{direction:?}");
        if phase.mtu == SEVERAL_BUFFERS {
            ensure!(direction.largest_mean > BUFFER, "{direction:?}");
        }
    }
    let left = frames_sent(&pair.host)?;
    ensure!((left < host) == phase.offloads, "{left} frames left, of {host} segments");
    ensure!(zero_windows > 0 && probes > 0, "no zero windows, no probes");

    let sum = directions.iter().map(|direction| direction.packets).sum::<u64>();
    let tracked = agent.packets(None, Some("tracked"))?;
    println!("  flows have {sum} packets, {tracked} were tracked");
    ensure!(sum == tracked, "flows have {sum} packets, {tracked} were tracked");
    let parsed = ["not_ip", "not_tcp", "tracked"]
        .map(|fate| agent.packets(None, Some(fate)))
        .into_iter()
        .sum::<Result<u64>>()?;
    let all = agent.packets(None, None)?;
    ensure!(all == parsed, "{} packets had another fate: {}", all - parsed, agent.stats()?);
    Ok(())
}

#[test]
fn every_byte_is_accounted_for_and_nothing_is_reported() -> Result<()> {
    let lasting = Duration::from_secs(seconds()?) / u32::try_from(PHASES.len())?;
    PHASES.into_iter().try_for_each(|phase| run(phase, lasting).context(phase.name))
}
