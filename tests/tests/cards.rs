//! Drivers of network cards, in a virtual machine: `cargo xtask vm --test cards`. `cargo test` leaves this program out,
//! because it takes the machine's cards; their hardware addresses tell which ones it may take.
//!
//! A pair of cards is a cable. One end goes to the host's namespace, the other one to the peer's.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, eventually},
    flows::{by_key, key, states},
    lab::{CardPair, INTERFACE, address},
    namespace::Namespace,
    ss::Oracle,
};

const PORT: u16 = 80;
const CONNECTIONS: usize = 20;
const BYTES: usize = 200_000;

/// A pair of cards whose host's end has native XDP: virtio-net with one queue.
const ONE_QUEUE: u8 = 0;
/// The host's end is a driver that has native XDP since Linux 6.6 only: vmxnet3.
const LATE_XDP: u8 = 1;
/// virtio-net with two queues at either end.
const TWO_QUEUES: u8 = 2;

/// Opens connections from the peer, has both ends send, closes them, and compares what the agent says with `ss`.
fn connections_are_tracked(cards: &CardPair, agent: &Agent) -> Result<()> {
    let pair = cards.pair();
    let mut open = Vec::new();
    for address in address::HOST {
        let listener = listen(&pair.host, (address, PORT).into())?;
        for n in 0..CONNECTIONS {
            let client = pair.peer.enter(|| Ok(TcpStream::connect((address, PORT))?))?;
            let (server, _) = listener.accept()?;
            exchange(client.try_clone()?, server.try_clone()?)?;
            open.push((n, client, server));
        }
    }
    compare(cards, agent, &open)?;
    // Some end, by either side.
    let mut left = Vec::new();
    for (n, client, server) in open {
        match n % 3 {
            0 => left.push((n, client, server)),
            1 => {
                close(client, server)?;
            }
            _ => {
                close(server, client)?;
            }
        }
    }
    compare(cards, agent, &left)?;
    let violations = agent.violations()?;
    ensure!(violations.is_empty(), "nothing should have been reported: {violations:?}");
    Ok(())
}

fn listen(namespace: &Namespace, at: SocketAddr) -> Result<TcpListener> {
    namespace.enter(|| Ok(TcpListener::bind(at)?))
}

/// Either end sends, and reads what the other one sends.
fn exchange(mut client: TcpStream, mut server: TcpStream) -> Result<()> {
    let data = vec![7; BYTES];
    thread::scope(|scope| -> Result<()> {
        let answer = scope.spawn(|| -> Result<()> {
            let mut read = vec![0; BYTES];
            server.read_exact(&mut read)?;
            server.write_all(&read)?;
            Ok(())
        });
        client.write_all(&data)?;
        let mut read = vec![0; BYTES];
        client.read_exact(&mut read)?;
        ensure!(read == data, "what came back is what was sent");
        answer.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
    })
}

/// Closes `first`, then the other end once it has read that.
fn close(first: TcpStream, mut second: TcpStream) -> Result<()> {
    drop(first);
    ensure!(second.read(&mut [0])? == 0, "the end of the stream");
    Ok(())
}

/// Both states of every connection are what `ss` says of its sockets in both namespaces, as soon as both have heard of all.
fn compare(cards: &CardPair, agent: &Agent, open: &[(usize, TcpStream, TcpStream)]) -> Result<()> {
    for (_, client, server) in open {
        let (from, to) = (client.local_addr()?, server.local_addr()?);
        eventually("the agent says what ss says", || {
            let flows = agent.flows(&[])?;
            let flows = by_key(&flows)?;
            let Some(found) = flows.get(&key(from, to)) else { return Ok(false) };
            ensure!(found.len() == 1, "one flow a connection: {found:?}");
            let oracle = Oracle::ask(cards.pair())?;
            let state = |on_host, local, remote| {
                oracle.socket(on_host, local, remote).map_or("CLOSED", |socket| &socket.state)
            };
            let expected = [state(false, from, to), state(true, to, from)];
            Ok(states(found[0], from)? == expected)
        })?;
    }
    // TIME_WAIT is held by whoever closed first, and by nobody else.
    eventually("as many wait as ss shows", || {
        let oracle = Oracle::ask(cards.pair())?;
        let waiting = oracle.sockets().filter(|socket| socket.state == "TIME_WAIT").count();
        Ok(agent.flows(&["--state", "TIME_WAIT"])?.len() == waiting)
    })
}

/// How the programs are attached, as the agent says.
fn mode(agent: &Agent) -> Result<String> {
    let stats = agent.stats()?;
    let mode = find(&stats, "xdp").with_context(|| format!("no mode in {stats}"))?;
    Ok(mode.to_owned())
}

fn find<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    match value {
        Value::Object(members) => members
            .iter()
            .find_map(|(key, value)| value.as_str().filter(|_| key == name))
            .or_else(|| members.values().find_map(|value| find(value, name))),
        Value::Array(values) => values.iter().find_map(|value| find(value, name)),
        _ => None,
    }
}

/// How many packets the host's card has received.
fn received(cards: &CardPair) -> Result<u64> {
    let text = cards.pair().host.run("ip", &["-s", "-j", "link", "show", "dev", INTERFACE])?;
    let links: Value = serde_json::from_str(&text)?;
    links[0]["stats64"]["rx"]["packets"].as_u64().context("a counter")
}

/// Every packet that the card has received since then was counted, and none twice.
fn counts_are_the_cards(cards: &CardPair, agent: &Agent, before: u64) -> Result<()> {
    let mut counts = [0; 2];
    eventually("the agent has counted what the card has received", || {
        counts = [agent.packets(Some("in"), None)?, received(cards)? - before];
        Ok(counts[0] == counts[1])
    })
    .with_context(|| format!("counted, and received: {counts:?}"))
}

fn native(pair: u8) -> Result<()> {
    let cards = CardPair::take(pair)?;
    let agent = Agent::start(&cards.pair().host, &["--interface", INTERFACE, "--xdp", "native"])?;
    let before = received(&cards)?;
    cards.address()?;
    ensure!(mode(&agent)? == "native", "native XDP was asked for");
    connections_are_tracked(&cards, &agent)?;
    counts_are_the_cards(&cards, &agent, before)
}

fn cookies(pair: u8) -> Result<()> {
    let cards = CardPair::take(pair)?;
    let host = &cards.pair().host;
    // The kernel's own cookies, where it takes no others, are only made when that is so.
    host.sysctl("net/ipv4/tcp_syncookies", "2")?;
    let options = ["--interface", INTERFACE, "--protect", "80", "--syn-cookies", "always"];
    cards.address()?;
    let agent = Agent::start(host, &options)?;
    agent.wait_for_log("listeners are protected")?;
    connections_are_tracked(&cards, &agent)?;
    let sent = agent.packets(Some("in"), Some("cookie_sent"))?;
    let expected = (2 * CONNECTIONS) as u64;
    ensure!(sent >= expected, "{sent} cookies were sent for {expected} connections");
    Ok(())
}

#[test]
fn virtio_net_with_one_queue() -> Result<()> {
    native(ONE_QUEUE)
}

#[test]
fn virtio_net_with_two_queues() -> Result<()> {
    native(TWO_QUEUES)
}

#[test]
fn cookies_by_virtio_net_with_one_queue() -> Result<()> {
    cookies(ONE_QUEUE)
}

#[test]
fn cookies_by_virtio_net_with_two_queues() -> Result<()> {
    cookies(TWO_QUEUES)
}

/// What is chosen where nothing is asked for is right, whether the driver has native XDP or not.
#[test]
fn a_driver_that_learned_native_xdp_late() -> Result<()> {
    let cards = CardPair::take(LATE_XDP)?;
    let agent = Agent::start(&cards.pair().host, &["--interface", INTERFACE])?;
    let before = received(&cards)?;
    cards.address()?;
    println!("vmxnet3: {}", mode(&agent)?);
    connections_are_tracked(&cards, &agent)?;
    counts_are_the_cards(&cards, &agent, before)
}

#[test]
fn a_driver_without_native_xdp_says_so() -> Result<()> {
    let cards = CardPair::take(LATE_XDP)?;
    let agent = Agent::start(&cards.pair().host, &["--interface", INTERFACE, "--xdp", "generic"])?;
    cards.address()?;
    ensure!(mode(&agent)? == "generic", "generic XDP was asked for");
    connections_are_tracked(&cards, &agent)
}
