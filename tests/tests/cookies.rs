//! SYN cookies, decided in the kernel programs: ids C1 to C6, with real sockets and crafted segments.
//!
//! Every client here is behind an interface with an agent of its own, because a veth takes what XDP sends back only where
//! its other end runs a program too.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tracker_common::{
    cookie::{self, Agreed, DatedKey, Keys, PERIOD_SHIFT, period},
    key::{FlowKey, mapped},
    packet::Packet,
    segment::Segment as Parsed,
    seq::Seq,
};
use tracker_tests::{
    agent::{Agent, Events, PATIENCE, eventually},
    kernel::has_handover,
    lab::{INTERFACE, Pair, address},
    namespace::Namespace,
    segment::{
        Segment,
        flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN},
    },
    sockets::hardware_address,
    wire::Wire,
};

const PORT: u16 = 80;

/// MSS 1460, SACK permitted, timestamps, NOP, window scale 7: a Linux client's.
const LINUX: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, 3, 7];

/// A host that is protected, and clients that are no host's: their segments are crafted.
struct Site {
    agent: Agent,
    events: Events,
    _far: Agent,
    pair: Pair,
    sends: Wire,
    receives: Wire,
    /// The host's hardware address.
    hardware: [u8; 6],
}

impl Site {
    fn new(options: &[&str]) -> Result<Self> {
        let pair = Pair::with_addresses()?;
        let far = Agent::start(&pair.peer, &["--interface", INTERFACE])?;
        Self::on(pair, far, options)
    }

    fn on(pair: Pair, far: Agent, options: &[&str]) -> Result<Self> {
        let arguments =
            ["--interface", INTERFACE, "--events", "all", "--every", "--report-rate", "0"];
        let protect = ["--protect", "80"];
        if !has_handover()? {
            // All that is left are the kernel's own cookies, which it makes only where that is so.
            pair.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
        }
        let agent = Agent::start(&pair.host, &[&arguments[..], &protect, options].concat())?;
        let events = agent.events()?;
        agent.wait_for_log("listeners are protected")?;
        let sends = Wire::open(&pair.peer, INTERFACE)?;
        let receives = Wire::receiver(&pair.peer, INTERFACE)?;
        let hardware = hardware_address(&pair.host)?;
        let site = Self { agent, events, _far: far, pair, sends, receives, hardware };
        // The host knows where clients are that nobody else knows.
        for ip in [client(0).0, client(0).1] {
            let ip = ip.to_string();
            let neighbour = ["neigh", "replace", &ip, "lladdr", "02:00:00:00:00:77"];
            let rest = ["dev", INTERFACE, "nud", "permanent"];
            site.pair.host.run("ip", &[&neighbour[..], &rest].concat())?;
        }
        Ok(site)
    }

    fn send(&self, segment: &Segment) -> Result<()> {
        self.sends.send(&segment.clone().addressed_to(self.hardware).frame())
    }

    /// What the host answers `client` from `server`, the next of what `wanted` accepts.
    fn answer(
        &self,
        server: SocketAddr,
        client: SocketAddr,
        wanted: impl Fn(&Answer) -> bool,
    ) -> Result<Answer> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let frame = self.receives.receive()?;
            if let Some(answer) = Answer::read(&frame, server, client)
                && wanted(&answer)
            {
                return Ok(answer);
            }
        }
        anyhow::bail!("{server} never answered {client}")
    }

    /// The SYN,ACK for a SYN.
    fn syn_ack(&self, server: SocketAddr, client: SocketAddr, syn: &Segment) -> Result<Answer> {
        self.send(syn)?;
        self.answer(server, client, |answer| answer.flags & SYN != 0)
    }

    /// Cookies of the address of `at` by outcome.
    fn outcome(&self, at: SocketAddr, name: &str) -> Result<u64> {
        self.listener(at)?["outcomes"][name].as_u64().context("a count")
    }

    fn listener(&self, at: SocketAddr) -> Result<Value> {
        let stats = self.agent.stats()?;
        let listeners = stats["cookies"]["listeners"].as_array().context("listeners")?.clone();
        let at = at.to_string();
        listeners.into_iter().find(|listener| listener["listener"] == at).context("the listener")
    }

    fn wait_outcome(&self, at: SocketAddr, name: &str, count: u64) -> Result<()> {
        eventually(&format!("{name} is {count}"), || {
            let now = self.outcome(at, name)?;
            ensure!(now <= count, "{name} is {now}");
            Ok(now == count)
        })
    }

    /// Replaces the keys of its programs.
    fn set_keys(&self, keys: &Keys) -> Result<()> {
        let path: PathBuf = format!(
            "/sys/fs/bpf/tracker/v{}/{}/KEYS",
            tracker_common::LAYOUT_VERSION,
            self.agent.name()
        )
        .into();
        let mut map: Array<_, [u64; size_of::<Keys>() / 8]> =
            Map::Array(MapData::from_pin(path)?).try_into()?;
        let words: [u64; size_of::<Keys>() / 8] = zerocopy::transmute!(*keys);
        Ok(map.set(0, words, 0)?)
    }
}

/// An address of either family that no host has, and the port that goes with it.
fn client(n: u16) -> (IpAddr, IpAddr, u16) {
    let v6 = [0xfd09, 0, 0, 0, 0, 0, 0, 0x77];
    (IpAddr::from([10, 9, 0, 77]), IpAddr::from(v6), 40_000 + n)
}

/// Both ends, over IPv4 and IPv6.
fn ends(n: u16) -> [(SocketAddr, SocketAddr); 2] {
    let (v4, v6, port) = client(n);
    let [host4, host6] = address::HOST;
    [((v4, port).into(), (host4, PORT).into()), ((v6, port).into(), (host6, PORT).into())]
}

/// A segment that came back.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Answer {
    flags: u16,
    seq: u32,
    ack: u32,
    window: u16,
    mss: u16,
    scale: Option<u8>,
    sack: bool,
    timestamps: Option<(u32, u32)>,
    hops: u8,
    checksum_is_right: bool,
}

impl Answer {
    fn read(frame: &[u8], from: SocketAddr, to: SocketAddr) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
        let header = tcp.to_header();
        let (source, destination, hops, checksum): (IpAddr, IpAddr, u8, u16) = match packet.net? {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                let sum = header.calc_checksum_ipv4(&ip, tcp.payload()).ok()?;
                let (source, destination) = (IpAddr::from(ip.source), ip.destination.into());
                // Both checksums as one.
                let right = ip.header_checksum == ip.calc_header_checksum();
                (source, destination, ip.time_to_live, if right { sum } else { !sum })
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header().to_header();
                let sum = header.calc_checksum_ipv6(&ip, tcp.payload()).ok()?;
                (ip.source.into(), ip.destination.into(), ip.hop_limit, sum)
            }
            NetSlice::Arp(_) => return None,
        };
        if (source, header.source_port) != (from.ip(), from.port())
            || (destination, header.destination_port) != (to.ip(), to.port())
        {
            return None;
        }
        let flags = [
            (header.syn, SYN),
            (header.ack, ACK),
            (header.rst, RST),
            (header.fin, FIN),
            (header.psh, PSH),
            (header.ece, ECE),
            (header.cwr, CWR),
        ];
        let flags = flags.iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum();
        let mut answer = Self {
            flags,
            seq: header.sequence_number,
            ack: header.acknowledgment_number,
            window: header.window_size,
            mss: 0,
            scale: None,
            sack: false,
            timestamps: None,
            hops,
            checksum_is_right: header.checksum == checksum,
        };
        for option in header.options_iterator().map_while(Result::ok) {
            match option {
                TcpOptionElement::MaximumSegmentSize(size) => answer.mss = size,
                TcpOptionElement::WindowScale(by) => answer.scale = Some(by),
                TcpOptionElement::SelectiveAcknowledgementPermitted => answer.sack = true,
                TcpOptionElement::Timestamp(value, echo) => answer.timestamps = Some((value, echo)),
                _ => {}
            }
        }
        Some(answer)
    }
}

/// NOP, NOP, timestamps.
fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

fn listen(namespace: &Namespace, at: SocketAddr) -> Result<TcpListener> {
    let socket = namespace
        .enter(|| Ok(Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?))?;
    if at.is_ipv6() && !at.ip().is_unspecified() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn both_families(namespace: &Namespace) -> Result<[TcpListener; 2]> {
    let [v4, v6] = address::HOST;
    Ok([listen(namespace, (v4, PORT).into())?, listen(namespace, (v6, PORT).into())?])
}

/// Frees the addresses at once: a process that another thread starts has copies of the sockets until it runs its own
/// program, and closing ours would leave them listening so long.
fn stop_listening(listeners: [TcpListener; 2]) -> Result<()> {
    for listener in listeners {
        Socket::from(listener).shutdown(Shutdown::Both)?;
    }
    Ok(())
}

/// The next connection that `listener` has.
fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    let mut accepted = None;
    listener.set_nonblocking(true)?;
    eventually("a connection is accepted", || match listener.accept() {
        Ok(found) => {
            accepted = Some(found);
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    })?;
    let (stream, from) = accepted.context("a connection")?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok((stream, from))
}

/// Nothing waits to be accepted.
fn nothing_to_accept(listener: &TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    match listener.accept() {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

fn connect(namespace: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = namespace.enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A counter of the namespace's stack, as `nstat` shows it.
fn counter(namespace: &Namespace, name: &str) -> Result<u64> {
    let text = namespace.run("nstat", &["-a", "-s", "-z", name])?;
    let line = text.lines().find(|line| line.starts_with(name)).context("the counter")?;
    Ok(line.split_whitespace().nth(1).context("a count")?.parse()?)
}

#[test]
fn c1_a_syn_is_answered_and_forgotten() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always"])?;
    let _listeners = both_families(&site.pair.host)?;
    for (client, server) in ends(0) {
        let syn = Segment::new(client, server, SYN | ECE | CWR, 1000, 0).options(LINUX);
        let answer = site.syn_ack(server, client, &syn)?;
        assert!(answer.checksum_is_right, "{answer:?}");
        assert_eq!((answer.flags, answer.ack), (SYN | ACK | ECE, 1001));
        assert_eq!(answer.mss, if server.is_ipv4() { 1460 } else { 1440 });
        assert!(answer.sack && answer.scale.is_some() && answer.hops == 64);
        assert_eq!(answer.timestamps.context("timestamps")?.1, 0x100);
        assert_eq!(site.outcome(server, "sent")?, 1);
        // Another ISN, another cookie; the same, the same hash.
        let other = Segment::new(client, server, SYN, 2000, 0).options(LINUX);
        assert_ne!(site.syn_ack(server, client, &other)?.seq, answer.seq);
    }
    assert!(site.agent.flows(&[])?.is_empty());
    assert_eq!(site.agent.packets(Some("in"), Some("cookie_sent"))?, 4);
    let host = &site.pair.host;
    assert_eq!(host.run("ss", &["-H", "-t", "-n", "state", "syn-recv"])?, "");
    for name in ["TcpInSegs", "TcpExtSyncookiesSent", "TcpPassiveOpens", "TcpExtListenDrops"] {
        assert_eq!(counter(host, name)?, 0, "{name}");
    }
    assert!(site.agent.violations()?.is_empty());
    Ok(())
}

/// What `ss` says that both ends of a connection have agreed on, as the one at `local` sees it.
fn agreed(
    namespace: &Namespace,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<BTreeSet<String>> {
    let text =
        namespace.run("ss", &["-H", "-t", "-i", "-n", "-o", "-O", "state", "established"])?;
    let line = text
        .lines()
        .find(|line| {
            let mut words = line.split_whitespace().skip(2);
            words.next() == Some(&local.to_string()) && words.next() == Some(&remote.to_string())
        })
        .with_context(|| format!("no socket {local} {remote}: {text}"))?;
    Ok(line
        .split_whitespace()
        .filter(|word| {
            matches!(*word, "ts" | "sack" | "ecn" | "ecnseen" | "usec_ts")
                || ["wscale:", "mss:", "pmtu:", "advmss:"].iter().any(|name| word.starts_with(name))
        })
        .map(str::to_owned)
        .collect())
}

/// A connection to each listener, over which the server speaks first: what both ends say of it.
fn converse(pair: &Pair, listeners: &[TcpListener; 2]) -> Result<Vec<BTreeSet<String>>> {
    let mut seen = Vec::new();
    for (listener, server) in listeners.iter().zip(address::HOST) {
        let server = SocketAddr::new(server, PORT);
        let mut near = connect(&pair.peer, server)?;
        let (mut far, from) = accept(listener)?;
        far.write_all(b"hello")?;
        let mut greeting = [0; 5];
        near.read_exact(&mut greeting)?;
        near.write_all(&[7; 50_000])?;
        far.read_exact(&mut vec![0; 50_000])?;
        assert_eq!(near.local_addr()?, from);
        seen.push(agreed(&pair.host, server, from)?);
        seen.push(agreed(&pair.peer, from, server)?);
    }
    Ok(seen)
}

#[test]
fn c2_connections_are_what_they_were_without_cookies() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let far = Agent::start(&pair.peer, &["--interface", INTERFACE])?;
    let clients: &[&[(&str, &str)]] = &[
        &[],
        &[("tcp_timestamps", "0")],
        &[("tcp_sack", "0")],
        &[("tcp_window_scaling", "0")],
        &[("tcp_ecn", "1")],
        &[("tcp_timestamps", "0"), ("tcp_sack", "0"), ("tcp_window_scaling", "0")],
        &[("tcp_timestamps", "0"), ("tcp_ecn", "1")],
    ];
    let all = |pair: &Pair, listeners: &[TcpListener; 2]| -> Result<Vec<_>> {
        let mut seen = Vec::new();
        for sysctls in clients {
            for (name, value) in *sysctls {
                pair.peer.sysctl(&format!("net/ipv4/{name}"), value)?;
            }
            seen.push(converse(pair, listeners)?);
            for (name, _) in *sysctls {
                let default = if *name == "tcp_ecn" { "2" } else { "1" };
                pair.peer.sysctl(&format!("net/ipv4/{name}"), default)?;
            }
        }
        Ok(seen)
    };
    let listeners = both_families(&pair.host)?;
    let without = all(&pair, &listeners)?;
    let distinct: BTreeSet<_> = without.iter().flatten().collect();
    assert!(distinct.len() >= clients.len(), "they are different: {distinct:?}");
    let site = Site::on(pair, far, &["--syn-cookies", "always"])?;
    let with = all(&site.pair, &listeners)?;
    for ((sysctls, without), with) in clients.iter().zip(&without).zip(&with) {
        assert_eq!(with, without, "{sysctls:?}");
    }
    let count = u64::try_from(clients.len())?;
    for server in address::HOST {
        for name in ["sent", "accepted", "handed_over"] {
            assert_eq!(site.outcome((server, PORT).into(), name)?, count, "{name}");
        }
    }
    // The kernel has seen no SYN, and no cookie of its own.
    assert_eq!(counter(&site.pair.host, "TcpExtSyncookiesRecv")?, 0);
    assert!(site.agent.violations()?.is_empty());
    let flows = site.agent.flows(&[])?;
    assert_eq!(flows.len(), clients.len() * 2);
    for flow in &flows {
        assert_eq!(flow["midstream"], false, "{flow}");
        assert!(flow["history"].as_str().context("a history")?.starts_with("ShA"), "{flow}");
    }
    Ok(())
}

#[test]
fn c2_a_flow_is_established_at_once() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always"])?;
    let listeners = both_families(&site.pair.host)?;
    for ((client, server), listener) in ends(1).into_iter().zip(&listeners) {
        let syn = Segment::new(client, server, SYN, 1000, 0).options(LINUX);
        let answer = site.syn_ack(server, client, &syn)?;
        let (value, _) = answer.timestamps.context("timestamps")?;
        let ack = Segment::new(client, server, ACK, 1001, answer.seq.wrapping_add(1));
        site.send(&ack.options(&timestamps(0x105, value)))?;
        let (_stream, from) = accept(listener)?;
        assert_eq!(from, client);
        for kind in ["NEW", "ESTABLISHED"] {
            let event = site.events.wait_for(kind)?;
            assert_eq!(event["flow"]["src"], client.ip().to_string());
        }
        let flow = site.agent.flows(&["--src", &client.ip().to_string()])?.remove(0);
        assert_eq!(
            (flow["orig"]["state"].as_str(), flow["reply"]["state"].as_str()),
            (Some("ESTABLISHED"), Some("ESTABLISHED"))
        );
        assert_eq!(flow["orig"]["isn"], 1000);
        assert_eq!(flow["reply"]["isn"], answer.seq);
        assert_eq!(
            (flow["orig"]["wscale"].as_u64(), flow["orig"]["sack"].as_bool()),
            (Some(7), Some(true))
        );
        assert_eq!(flow["tier"], "confirmed");
        assert!(flow["rtt_us"].as_u64().context("a round trip")? < 30_000_000);
    }
    assert!(site.agent.violations()?.is_empty());
    Ok(())
}

/// Keys of which the test knows the one that is used.
fn known_keys(since: u32) -> Keys {
    Keys {
        keys: [DatedKey { key: [7, 8], since, present: 1 }, DatedKey::default()],
        ..Keys::default()
    }
}

/// The cookie that the programs send, with [`known_keys`], for a SYN without options sent at `at_ns`.
fn cookie_of(
    client: SocketAddr,
    server: SocketAddr,
    isn: u32,
    key: [u64; 2],
    at_ns: u64,
) -> Result<u32> {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    };
    let (key_of_flow, from) = FlowKey::new(
        (&address(client.ip()), client.port().to_be_bytes()),
        (&address(server.ip()), server.port().to_be_bytes()),
        0,
    );
    let segment = Parsed { seq: Seq(isn), ..Parsed::default() };
    let syn = Packet { key: key_of_flow, from, segment };
    let keys = Keys {
        keys: [DatedKey { key, since: period(at_ns), present: 1 }, DatedKey::default()],
        ..Keys::default()
    };
    let agreed = Agreed { scale: 15, ..Agreed::default() };
    Ok(cookie::make(&keys, &syn, agreed, at_ns).context("a key")?.isn.0)
}

fn now_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(Duration::from(now).as_nanos())?)
}

/// The time, once cookies' period does not end within some seconds.
fn early_in_a_period() -> Result<u64> {
    loop {
        let now = now_ns()?;
        let left = (1 << PERIOD_SHIFT) - now % (1 << PERIOD_SHIFT);
        if left > 15_000_000_000 {
            return Ok(now);
        }
        // The clock is what is waited for.
        thread::sleep(Duration::from_nanos(left));
    }
}

#[test]
fn c3_what_is_no_cookie_never_gets_to_the_listener() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always"])?;
    let listeners = both_families(&site.pair.host)?;
    ensure!(
        now_ns()? > 4 << PERIOD_SHIFT,
        "this machine runs for too short a time to have old cookies: wait for two minutes"
    );
    // Far enough in the past for old cookies.
    let since = period(now_ns()?).wrapping_sub(10);
    site.set_keys(&known_keys(since))?;
    let refused = |server: SocketAddr, client: SocketAddr, seq: u32, cookie: u32, why: &str| {
        let before = site.outcome(server, why)?;
        let ack = Segment::new(client, server, ACK, seq, cookie.wrapping_add(1));
        site.send(&ack)?;
        let event = site.events.violation("cookie_bad")?;
        assert_eq!(event["segment"]["ack"], cookie.wrapping_add(1));
        assert_eq!(event["violation"]["action"], "dropped");
        assert!(event["violation"]["expected"].is_null(), "{event}");
        site.wait_outcome(server, why, before + 1)
    };
    let mut count = 0;
    for ((client, server), listener) in ends(2).into_iter().zip(&listeners) {
        let now = early_in_a_period()?;
        let good = cookie_of(client, server, 1000, [7, 8], now)?;
        refused(server, client, 1001, good ^ 1 << 30, "forged")?;
        refused(server, client, 1002, good, "forged")?;
        // For another port, by another key, and for another client.
        let elsewhere = SocketAddr::new(server.ip(), 81);
        refused(server, client, 1001, cookie_of(client, elsewhere, 1000, [7, 8], now)?, "forged")?;
        refused(server, client, 1001, cookie_of(client, server, 1000, [9, 9], now)?, "forged")?;
        let other = SocketAddr::new(client.ip(), 1);
        refused(server, other, 1001, good, "forged")?;
        count += 5;
        // One period later it would look like one that was never sent.
        let now = early_in_a_period()?;
        let periods = |n: u64| now - (n << PERIOD_SHIFT);
        let old = cookie_of(client, server, 1000, [7, 8], periods(3))?;
        refused(server, client, 1001, old, "expired")?;
        count += 1;
        // A cookie from before the oldest key.
        site.set_keys(&known_keys(period(now)))?;
        refused(
            server,
            client,
            1001,
            cookie_of(client, server, 1000, [7, 8], periods(1))?,
            "no_key",
        )?;
        count += 1;
        site.set_keys(&known_keys(since))?;
        nothing_to_accept(listener)?;
        // The right one is accepted.
        let good = cookie_of(client, server, 1000, [7, 8], now_ns()?)?;
        site.send(&Segment::new(client, server, ACK, 1001, good.wrapping_add(1)))?;
        assert_eq!(accept(listener)?.1, client);
    }
    assert_eq!(site.agent.packets(Some("in"), Some("cookie_refused"))?, count);
    // Nobody answered them: no RST left.
    assert_eq!(counter(&site.pair.host, "TcpOutRsts")?, 0);
    Ok(())
}

#[test]
fn c3_a_cookie_is_accepted_once() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always", "--timeout-closed", "1"])?;
    let listeners = both_families(&site.pair.host)?;
    for ((client, server), listener) in ends(3).into_iter().zip(&listeners) {
        let syn = Segment::new(client, server, SYN, 1000, 0);
        let cookie = site.syn_ack(server, client, &syn)?.seq;
        let ack = Segment::new(client, server, ACK, 1001, cookie.wrapping_add(1));
        site.send(&ack)?;
        let (stream, _) = accept(listener)?;
        // Reset by the client, and then the same acknowledgment again: while its flow is remembered, and after.
        site.send(&Segment::new(client, server, RST, 1001, 0))?;
        let mut stream = stream;
        assert!(stream.read(&mut [0]).is_err(), "it was reset");
        site.send(&ack)?;
        site.events.violation("cookie_bad")?;
        site.wait_outcome(server, "replayed", 1)?;
        site.events.wait_for("DESTROY")?;
        site.send(&ack)?;
        site.events.violation("cookie_bad")?;
        site.wait_outcome(server, "replayed", 2)?;
        nothing_to_accept(listener)?;
        assert_eq!(site.outcome(server, "accepted")?, 1);
    }
    Ok(())
}

#[test]
fn c3_an_echo_that_was_not_sent_is_as_wrong_as_the_number() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always"])?;
    let listeners = both_families(&site.pair.host)?;
    for ((client, server), listener) in ends(6).into_iter().zip(&listeners) {
        let syn = Segment::new(client, server, SYN, 1000, 0).options(LINUX);
        let answer = site.syn_ack(server, client, &syn)?;
        let (value, _) = answer.timestamps.context("timestamps")?;
        let ack = Segment::new(client, server, ACK, 1001, answer.seq.wrapping_add(1));
        // From before the cookie's period, from after now, none at all, no option.
        let wrong = [value.wrapping_sub(40_000), value.wrapping_add(40_000), !value];
        let wrong = wrong.map(|echo| ack.clone().options(&timestamps(0x105, echo)));
        for (count, ack) in (1..).zip(wrong.iter().chain([&ack])) {
            site.send(ack)?;
            site.events.violation("cookie_bad")?;
            site.wait_outcome(server, "forged", count)?;
        }
        nothing_to_accept(listener)?;
        site.send(&ack.options(&timestamps(0x105, value)))?;
        assert_eq!(accept(listener)?.1, client);
        assert_eq!(site.outcome(server, "accepted")?, 1);
    }
    Ok(())
}

#[test]
fn c4_data_in_place_of_the_third_segment() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always"])?;
    let listeners = both_families(&site.pair.host)?;
    for ((client, server), listener) in ends(4).into_iter().zip(&listeners) {
        let syn = Segment::new(client, server, SYN, 1000, 0).options(LINUX);
        let answer = site.syn_ack(server, client, &syn)?;
        let (value, _) = answer.timestamps.context("timestamps")?;
        let ack = answer.seq.wrapping_add(1);
        let data = Segment::new(client, server, ACK | PSH, 1001, ack)
            .data(100)
            .options(&timestamps(0x105, value));
        site.send(&data)?;
        let (mut stream, _) = accept(listener)?;
        stream.read_exact(&mut [0; 100])?;
        stream.write_all(b"an answer")?;
        let said = site.answer(server, client, |answer| answer.flags & PSH != 0)?;
        assert_eq!((said.seq, said.ack), (ack, 1101));
        // Its clock goes on from the SYN,ACK's: the client would drop what is older (RFC 7323 section 5.2).
        let later = said.timestamps.context("timestamps")?.0;
        assert!(later.wrapping_sub(value) < 1 << 31, "{value} {later}");
    }
    assert!(site.agent.violations()?.is_empty());
    Ok(())
}

#[test]
fn c4_what_overtakes_the_lost_third_segment_is_sent_again() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always"])?;
    let listeners = both_families(&site.pair.host)?;
    let (client, server) = ends(5)[0];
    // A full queue of connections to be accepted: the third segment is as good as lost.
    site.pair.host.sysctl("net/core/somaxconn", "1")?;
    let listener = &listeners[0];
    let resize = socket2::SockRef::from(listener);
    resize.listen(0)?;
    let fill = connect(&site.pair.peer, server)?;
    let answer = site.syn_ack(server, client, &Segment::new(client, server, SYN, 1000, 0))?;
    let ack = answer.seq.wrapping_add(1);
    site.send(&Segment::new(client, server, ACK, 1001, ack))?;
    site.wait_outcome(server, "handed_over", 2)?;
    // Its first segment is lost; the second one comes.
    site.send(&Segment::new(client, server, ACK | PSH, 1101, ack).data(100))?;
    site.wait_outcome(server, "too_early", 1)?;
    let (_first, from) = accept(listener)?;
    assert_eq!(from, fill.local_addr()?);
    site.send(&Segment::new(client, server, ACK | PSH, 1001, ack).data(200))?;
    let (mut stream, from) = accept(listener)?;
    assert_eq!(from, client);
    stream.read_exact(&mut [0; 200])?;
    assert_eq!(counter(&site.pair.host, "TcpOutRsts")?, 0);
    Ok(())
}

#[test]
fn c5_off_leaves_everything_to_the_host() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let arguments = ["--interface", INTERFACE, "--protect", "80", "--syn-cookies", "off"];
    let agent = Agent::start(&pair.host, &arguments)?;
    let listeners = both_families(&pair.host)?;
    converse(&pair, &listeners)?;
    assert_eq!(agent.packets(None, Some("cookie_sent"))?, 0);
    assert_eq!(counter(&pair.host, "TcpPassiveOpens")?, 2);
    Ok(())
}

#[test]
fn c5_by_the_configuration_file() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let path = std::env::temp_dir().join(format!("tracker-cookies-{}.toml", std::process::id()));
    let text = format!(
        "interface = [\"{INTERFACE}\"]\nprotect = [\"80@10.9.0.1\", \"443\"]\nsyn-cookies = \"always\"\n"
    );
    std::fs::write(&path, text)?;
    let file = path.to_str().context("a path of UTF-8")?;
    let modes = |options: &[&str]| -> Result<BTreeSet<(String, String)>> {
        let agent = Agent::start(&pair.host, &[&["--config", file], options].concat())?;
        agent.wait_for_log("listeners are protected")?;
        let stats = agent.stats()?;
        let listeners = stats["cookies"]["listeners"].as_array().context("listeners")?;
        let word = |listener: &Value, name: &str| listener[name].as_str().unwrap_or("?").to_owned();
        Ok(listeners
            .iter()
            .map(|listener| (word(listener, "listener"), word(listener, "mode")))
            .filter(|(place, _)| !place.contains("fe80"))
            .collect())
    };
    let with = |mode: &str| {
        ["10.9.0.1:80", "10.9.0.1:443", "[fd09::1]:443"]
            .map(|place| (place.to_owned(), mode.to_owned()))
            .into()
    };
    let result =
        modes(&[]).and_then(|file_alone| Ok((file_alone, modes(&["--syn-cookies", "auto"])?)));
    std::fs::remove_file(&path)?;
    let (file_alone, with_a_flag) = result?;
    assert_eq!(file_alone, with("always"));
    assert_eq!(with_a_flag, with("auto"), "the command line wins");
    Ok(())
}

#[test]
fn c5_auto_begins_and_ends() -> Result<()> {
    let site =
        Site::new(&["--syn-cookies", "auto", "--syn-cookies-at", "16", "--syn-cookies-hold", "1"])?;
    let listeners = both_families(&site.pair.host)?;
    let server = SocketAddr::new(address::HOST[0], PORT);
    // Not yet: the host answers by itself.
    converse(&site.pair, &listeners)?;
    assert_eq!(site.outcome(server, "sent")?, 0);
    let unfinished = |site: &Site| -> Result<usize> {
        let text = site.pair.host.run("ss", &["-H", "-t", "-n", "state", "syn-recv"])?;
        Ok(text.lines().count())
    };
    for n in 0..400 {
        let (client, server) = ends(n)[0];
        site.send(&Segment::new(client, server, SYN, 1000, 0).options(LINUX))?;
        // As a flood that lasts: a listener's queue is looked at once a millisecond.
        while n < 100 && now_ns()? % 500_000 > 10_000 {}
    }
    let began = site.events.wait_for("COOKIE")?;
    assert_eq!(began["mode"], "on", "{began}");
    assert_eq!(began["listener"], "10.9.0.1:80", "{began}");
    let sent = site.outcome(server, "sent")?;
    assert!(sent > 200, "{sent}");
    let half_open = unfinished(&site)?;
    assert!((16..64).contains(&half_open), "{half_open}");
    assert_eq!(site.listener(server)?["on"], true);
    // A real client gets through. Cookies are sent for the flooded listener alone.
    converse(&site.pair, &listeners)?;
    assert_eq!(site.outcome(server, "accepted")?, 1);
    assert_eq!(site.listener((address::HOST[1], PORT).into())?["on"], false);

    // The host gives up those that it had, when the listener is closed and opened again.
    stop_listening(listeners)?;
    let listeners = both_families(&site.pair.host)?;
    let ended = site.events.wait_for("COOKIE")?;
    assert_eq!(ended["mode"], "off", "{ended}");
    let sent = site.outcome(server, "sent")?;
    converse(&site.pair, &listeners)?;
    assert_eq!(site.outcome(server, "sent")?, sent);
    Ok(())
}

#[test]
fn c6_any_syn_that_the_host_would_take() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always"])?;
    let _listeners = both_families(&site.pair.host)?;
    let mut n = 10;
    let mut answered = |change: &dyn Fn(Segment) -> Segment| -> Result<Vec<Answer>> {
        n += 1;
        ends(n)
            .into_iter()
            .map(|(client, server)| {
                let syn = change(Segment::new(client, server, SYN, 1000, 0));
                let answer = site.syn_ack(server, client, &syn)?;
                ensure!(answer.checksum_is_right && answer.ack == 1001, "{answer:?} for {syn:?}");
                Ok(answer)
            })
            .collect()
    };
    // With data, which is not acknowledged.
    answered(&|syn| syn.data(500))?;
    answered(&|syn| syn.data(1400).options(LINUX))?;
    // Padded, as short frames are; with tags of one and of two VLANs.
    answered(&|syn| syn.padded_to(60))?;
    answered(&|syn| syn.vlan(0x8100, 5))?;
    answered(&|syn| syn.vlan(0x88a8, 5).vlan(0x8100, 6).options(LINUX))?;
    // Options in any order, some unknown, some that end the list.
    let odd: &[&[u8]] = &[
        &[],
        &[1, 1, 1, 0],
        &[3, 3, 2, 1, 1, 4, 2, 1],
        &[8, 10, 0, 0, 1, 0, 0, 0, 0, 0, 2, 4, 5, 0],
        &[254, 6, 1, 2, 3, 5, 2, 4, 5, 0xb4, 0, 0],
        &[34, 2, 1, 1],
        &[3, 3, 14, 4, 2, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0, 2, 4, 0x23, 0, 1, 1, 1, 0, 9, 9, 9],
    ];
    for options in odd {
        let mut bytes = options.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        for answer in answered(&|syn| syn.options(&bytes))? {
            let has = |kind: u8, length: u8| options.windows(2).any(|pair| pair == [kind, length]);
            assert_eq!(answer.sack, has(4, 2), "{options:?}");
            assert_eq!(answer.timestamps.is_some(), has(8, 10), "{options:?}");
            assert_eq!(answer.scale.is_some(), has(3, 3), "{options:?}");
            // Without room for more, a client that does not speak of sizes does not hear of ours.
            assert!(answer.mss >= 1440 || (answer.mss == 0 && !has(2, 4)), "{answer:?}");
        }
    }
    // IPv4 options; extension headers of IPv6.
    let (client, server) = ends(90)[0];
    let syn = Segment::new(client, server, SYN, 1000, 0).options(LINUX).ip_options(&[7, 4, 4, 0]);
    site.syn_ack(server, client, &syn)?;
    let (client, server) = ends(90)[1];
    let syn = Segment::new(client, server, SYN, 1000, 0).extensions(60, &[6, 0, 1, 4, 0, 0, 0, 0]);
    site.syn_ack(server, client, &syn)?;
    // The host would not take these: it gets them, and says nothing.
    let (client, server) = ends(91)[0];
    site.send(&Segment::new(client, server, SYN | FIN, 1000, 0))?;
    site.send(&Segment::new(client, server, SYN | RST, 1000, 0))?;
    // This one asks for what no cookie can give: it is the host's to answer.
    let (client, server) = ends(92)[0];
    let signed = [&[19, 18][..], &[7; 16], &[1, 1]].concat();
    site.send(&Segment::new(client, server, SYN, 1000, 0).options(&signed))?;
    site.wait_outcome(server, "left_to_host", 1)?;
    // Nobody may send from these, and the host drops what comes from them.
    let [(_, v4), (_, v6)] = ends(93);
    let own = [v4.ip().to_string(), v6.ip().to_string()];
    let martians = ["0.0.0.1", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255", &own[0]];
    for source in martians.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 5)) {
        site.send(&Segment::new(source, v4, SYN, 1000, 0))?;
    }
    site.wait_outcome(v4, "left_to_host", 1 + 6)?;
    for source in ["::", "::1", &own[1]].map(|ip| SocketAddr::new(ip.parse().expect(ip), 5)) {
        site.send(&Segment::new(source, v6, SYN, 1000, 0))?;
    }
    site.wait_outcome(v6, "left_to_host", 3)?;
    Ok(())
}

#[test]
fn c6_listeners_of_every_kind() -> Result<()> {
    let site = Site::new(&["--syn-cookies", "always"])?;
    let [v4, v6] = address::HOST;
    let host = &site.pair.host;
    // Any address of either family, and a group of sockets that share a port.
    let any = listen(host, (IpAddr::from([0_u16; 8]), PORT).into())?;
    for ip in [v4, v6] {
        let _near = connect(&site.pair.peer, (ip, PORT).into())?;
        accept(&any)?;
        assert_eq!(site.outcome((ip, PORT).into(), "handed_over")?, 1);
    }
    drop(any);
    let group: Result<Vec<TcpListener>> = (0..4)
        .map(|_| {
            let socket =
                host.enter(|| Ok(Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?))?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.bind(&SocketAddr::new(v4, PORT).into())?;
            socket.listen(16)?;
            Ok(socket.into())
        })
        .collect();
    let group = group?;
    let connections: Result<Vec<_>> =
        (0..32).map(|_| connect(&site.pair.peer, (v4, PORT).into())).collect();
    let connections = connections?;
    let mut found = 0;
    eventually("each of them was handed to one", || {
        for listener in &group {
            listener.set_nonblocking(true)?;
            while listener.accept().is_ok() {
                found += 1;
            }
        }
        Ok(found == connections.len())
    })?;
    assert_eq!(site.outcome((v4, PORT).into(), "handed_over")?, 33);
    // Where nobody listens, the host refuses.
    drop(group);
    eventually("nobody is let in any more", || {
        let refused = site
            .pair
            .peer
            .enter(|| Ok(TcpStream::connect_timeout(&(v4, PORT).into(), PATIENCE).is_err()))?;
        Ok(refused)
    })?;
    Ok(())
}

#[test]
fn c2_the_kernels_own_cookies_where_it_takes_no_others() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let far = Agent::start(&pair.peer, &["--interface", INTERFACE])?;
    pair.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
    let [v4, _] = address::HOST;
    let socket =
        pair.host.enter(|| Ok(Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))?))?;
    socket.bind(&SocketAddr::new(v4, PORT).into())?;
    socket.listen(64)?;
    let listener = TcpListener::from(socket);
    let site = Site::on(pair, far, &["--syn-cookies", "always"])?;
    let server = SocketAddr::new(v4, PORT);
    eventually("it gets the kernel's", || Ok(site.listener(server)?["way"] == "kernel"))?;
    let mut near = connect(&site.pair.peer, server)?;
    let (mut far, from) = accept(&listener)?;
    far.write_all(b"hello")?;
    near.read_exact(&mut [0; 5])?;
    assert_eq!(near.local_addr()?, from);
    assert_eq!(site.outcome(server, "accepted")?, 1);
    assert_eq!(counter(&site.pair.host, "TcpExtSyncookiesRecv")?, 1);
    let flows = site.agent.flows(&[])?;
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0]["orig"]["state"], "ESTABLISHED");
    assert!(site.agent.violations()?.is_empty());
    // And what is none is refused.
    let (client, server) = ends(1)[0];
    site.send(&Segment::new(client, server, ACK, 5, 6))?;
    site.events.violation("cookie_bad")?;
    Ok(())
}

#[test]
fn connections_from_before_go_on() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let listeners = both_families(&pair.host)?;
    let server = SocketAddr::new(address::HOST[0], PORT);
    let mut near = connect(&pair.peer, server)?;
    let (mut far, _) = accept(&listeners[0])?;
    let agent_of_peer = Agent::start(&pair.peer, &["--interface", INTERFACE])?;
    let site = Site::on(pair, agent_of_peer, &["--syn-cookies", "always"])?;
    near.write_all(&[1; 1000])?;
    far.read_exact(&mut [0; 1000])?;
    far.write_all(&[1; 1000])?;
    near.read_exact(&mut [0; 1000])?;
    assert_eq!(site.agent.packets(None, Some("cookie_refused"))?, 0);
    drop(near);
    assert_eq!(far.read(&mut [0])?, 0);
    assert!(site.agent.violations()?.is_empty());
    Ok(())
}

#[test]
fn a_flood_takes_nothing_from_anybody() -> Result<()> {
    const FORGED: u32 = 30_000;
    let site = Site::new(&["--syn-cookies", "always", "--max-half-open", "1024"])?;
    let listeners = both_families(&site.pair.host)?;
    let server = SocketAddr::new(address::HOST[0], PORT);
    let mut connections = Vec::new();
    for _ in 0..50 {
        let near = connect(&site.pair.peer, server)?;
        connections.push((near, accept(&listeners[0])?.0));
    }
    let before = site.agent.flows(&[])?;
    assert_eq!(before.len(), connections.len());
    for n in 0..FORGED {
        let [_, b, c, d] = n.to_be_bytes();
        let from = SocketAddr::from(([198, 18 + b, c, d], 1024 + (n % 50_000) as u16));
        site.send(&Segment::new(from, server, SYN, n, 0).options(LINUX))?;
        // And acknowledgments of nothing.
        if n % 10 == 0 {
            site.send(&Segment::new(from, server, ACK, n, 7))?;
        }
    }
    let sent = u64::from(FORGED) + 50;
    eventually("every SYN is answered", || Ok(site.outcome(server, "sent")? == sent))?;
    eventually("every acknowledgment is refused", || {
        Ok(site.agent.packets(Some("in"), Some("cookie_refused"))? == u64::from(FORGED / 10))
    })?;
    // Nothing is remembered of them: not here, and not by the host.
    let stats = site.agent.stats()?;
    assert_eq!(stats["counters"]["half_open_inserted"], 50, "{stats}");
    assert_eq!(site.pair.host.run("ss", &["-H", "-t", "-n", "state", "syn-recv"])?, "");
    let after = site.agent.flows(&[])?;
    assert_eq!(after.len(), before.len());
    for (near, far) in &mut connections {
        near.write_all(b"still there")?;
        far.read_exact(&mut [0; 11])?;
    }
    converse(&site.pair, &listeners)?;
    let bad: BTreeSet<_> = site.agent.violations()?.into_iter().map(|(name, _)| name).collect();
    assert_eq!(bad, BTreeSet::from(["cookie_bad".to_owned()]));
    Ok(())
}
