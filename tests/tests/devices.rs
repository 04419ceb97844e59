//! Devices and queueing disciplines that a kernel may lack: VLAN devices, bonds, netem. `cargo test` leaves this program out;
//! `cargo xtask vm --test devices` runs it on kernels that have them.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result, ensure};
use tracker_tests::{
    agent::{Agent, eventually},
    flows::{by_key, key, states},
    kernel::has_handover,
    lab::{INTERFACE, Pair, address},
    ss::Oracle,
};

const PORT: u16 = 80;
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 8, 0, 1));

/// Opens connections to `to`, has `bytes` sent in both directions, and closes them in different ways. Returns their ends.
fn connections(
    pair: &Pair,
    to: SocketAddr,
    count: usize,
    bytes: usize,
) -> Result<Vec<[SocketAddr; 2]>> {
    let listener = pair.host.enter(|| Ok(TcpListener::bind(to)?))?;
    let mut ends = Vec::new();
    for n in 0..count {
        let mut client = pair.peer.enter(|| Ok(TcpStream::connect(to)?))?;
        let (mut server, from) = listener.accept()?;
        ends.push([from, to]);
        thread::scope(|scope| -> Result<()> {
            let echo = scope.spawn(|| -> Result<()> {
                let mut read = vec![0; bytes];
                server.read_exact(&mut read)?;
                server.write_all(&read)?;
                Ok(())
            });
            client.write_all(&vec![1; bytes])?;
            let mut read = vec![0; bytes];
            client.read_exact(&mut read)?;
            echo.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
        })?;
        // Either end first, or both at once.
        match n % 3 {
            0 => {
                client.shutdown(Shutdown::Write)?;
                ensure!(server.read(&mut [0])? == 0, "the end of the stream");
            }
            1 => {
                server.shutdown(Shutdown::Write)?;
                ensure!(client.read(&mut [0])? == 0, "the end of the stream");
            }
            _ => {}
        }
    }
    Ok(ends)
}

/// What `ss` says of connections that are over, in the end: TIME_WAIT, or no socket. Their flows are kept for longer than
/// [`agrees`] looks at them.
const KEPT: [&str; 4] = ["--timeout-time-wait", "3600", "--timeout-closed", "3600"];

fn agrees(pair: &Pair, agent: &Agent, ends: &[[SocketAddr; 2]]) -> Result<()> {
    let mut differ = BTreeMap::new();
    eventually("the agent says what ss says of all connections", || {
        let flows = agent.flows(&[])?;
        let flows = by_key(&flows)?;
        let oracle = Oracle::ask(pair)?;
        differ.clear();
        for [client, server] in ends {
            let found = flows.get(&key(*client, *server)).map_or(&[][..], Vec::as_slice);
            ensure!(found.len() == 1, "one flow a connection: {found:?}");
            let state = |on_host, local, remote| {
                oracle.socket(on_host, local, remote).map_or("CLOSED", |socket| &socket.state)
            };
            let expected = [state(false, *client, *server), state(true, *server, *client)];
            // The kernel forgets TIME_WAIT after a minute.
            let said = states(found[0], *client)?;
            let is_right = said.iter().zip(expected).all(|(said, expected)| {
                *said == expected || (*said == "TIME_WAIT" && expected == "CLOSED")
            });
            if !is_right {
                differ.insert(*client, (said.map(str::to_owned), expected.map(str::to_owned)));
            }
        }
        Ok(differ.is_empty())
    })
    .with_context(|| format!("said, and by ss: {differ:?}"))?;
    let violations = agent.violations()?;
    ensure!(violations.is_empty(), "nothing should have been reported: {violations:?}");
    Ok(())
}

fn add_address(pair: &Pair, device: &str) -> Result<()> {
    for (namespace, last) in [(&pair.host, 1), (&pair.peer, 2)] {
        namespace.run("ip", &["addr", "add", &format!("10.8.0.{last}/24"), "dev", device])?;
        namespace.run("ip", &["link", "set", device, "up"])?;
    }
    Ok(())
}

/// The tag is in the frame, or the device below has taken it out: tracked either way, by the device below.
#[test]
fn p2_a_vlan_device_above() -> Result<()> {
    let pair = Pair::with_addresses()?;
    for namespace in [&pair.host, &pair.peer] {
        namespace.run(
            "ip",
            &["link", "add", "link", INTERFACE, "name", "vlan7", "type", "vlan", "id", "7"],
        )?;
    }
    let agent = Agent::start(&pair.host, &[&["--interface", INTERFACE][..], &KEPT].concat())?;
    add_address(&pair, "vlan7")?;
    let ends = connections(&pair, (HOST, PORT).into(), 6, 100_000)?;
    agrees(&pair, &agent, &ends)
}

/// Cookies leave with the tag of the SYN that they answer.
#[test]
fn listeners_on_a_vlan_are_protected() -> Result<()> {
    for (interface, ingress) in [("vlan7", "auto"), (INTERFACE, "auto"), (INTERFACE, "xdp")] {
        let pair = Pair::with_addresses()?;
        for namespace in [&pair.host, &pair.peer] {
            let vlan = ["name", "vlan7", "type", "vlan", "id", "7"];
            namespace.run("ip", &[&["link", "add", "link", INTERFACE], &vlan[..]].concat())?;
        }
        add_address(&pair, "vlan7")?;
        if !has_handover()? {
            pair.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
        }
        // A veth takes what XDP sends back only where its other end runs a program too.
        let options = ["--interface", INTERFACE, "--ingress", ingress];
        let _far = Agent::start(&pair.peer, &options)?;
        let options = ["--interface", interface, "--ingress", ingress];
        let protect = ["--protect", "80", "--syn-cookies", "always"];
        let agent = Agent::start(&pair.host, &[&options[..], &protect, &KEPT].concat())?;
        agent.wait_for_log("protected")?;
        let ends = connections(&pair, (HOST, PORT).into(), 6, 1_000)?;
        agrees(&pair, &agent, &ends).with_context(|| format!("{interface} by {ingress}"))?;
        let total = &agent.stats()?["cookies"]["total"];
        ensure!(total["accepted"] == 6 && total["sent"].as_u64() >= Some(6), "{total}");
    }
    Ok(())
}

/// The agent on the VLAN device itself, which sees no tags.
#[test]
fn p2_the_vlan_device_itself() -> Result<()> {
    let pair = Pair::with_addresses()?;
    for namespace in [&pair.host, &pair.peer] {
        namespace.run(
            "ip",
            &["link", "add", "link", INTERFACE, "name", "vlan7", "type", "vlan", "id", "7"],
        )?;
    }
    let agent = Agent::start(&pair.host, &[&["--interface", "vlan7"][..], &KEPT].concat())?;
    add_address(&pair, "vlan7")?;
    let ends = connections(&pair, (HOST, PORT).into(), 6, 100_000)?;
    agrees(&pair, &agent, &ends)?;
    // What the device below carries without a tag is none of its business.
    let others = connections(&pair, (address::HOST[0], PORT + 1).into(), 2, 1_000)?;
    let flows = agent.flows(&[])?;
    for [client, server] in others {
        ensure!(!by_key(&flows)?.contains_key(&key(client, server)), "seen on another device");
    }
    Ok(())
}

/// A bond of two cables at either end; the agent is on the bond.
#[test]
fn a_bond() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let far = pair.peer.path();
    pair.host.run(
        "ip",
        &["link", "add", "veth1", "type", "veth", "peer", "name", "veth1", "netns", &far],
    )?;
    for namespace in [&pair.host, &pair.peer] {
        let mode = ["link", "add", "bond0", "type", "bond", "mode", "balance-rr", "miimon", "100"];
        namespace.run("ip", &mode)?;
        for port in [INTERFACE, "veth1"] {
            namespace.run("ip", &["link", "set", port, "down"])?;
            namespace.run("ip", &["link", "set", port, "master", "bond0"])?;
        }
    }
    let agent = Agent::start(&pair.host, &[&["--interface", "bond0"][..], &KEPT].concat())?;
    add_address(&pair, "bond0")?;
    let ends = connections(&pair, (HOST, PORT).into(), 6, 100_000)?;
    agrees(&pair, &agent, &ends)
}

/// Loss, reordering, copies and delay in both directions, made by the kernel behind what the agent sees of leaving packets
/// and before it sees arriving ones.
#[test]
fn s4_netem_loses_reorders_and_copies() -> Result<()> {
    let pair = Pair::with_addresses()?;
    for namespace in [&pair.host, &pair.peer] {
        let netem = [
            "qdisc",
            "add",
            "dev",
            INTERFACE,
            "root",
            "netem",
            "delay",
            "4ms",
            "3ms",
            "loss",
            "3%",
            "duplicate",
            "2%",
        ];
        namespace.run("tc", &netem).context("netem")?;
    }
    let agent = Agent::start(&pair.host, &[&["--interface", INTERFACE][..], &KEPT].concat())?;
    for server in address::HOST {
        let ends = connections(&pair, (server, PORT).into(), 9, 60_000)?;
        agrees(&pair, &agent, &ends)?;
    }
    let flows = agent.flows(&[])?;
    ensure!(flows.len() == 18, "{} flows", flows.len());
    Ok(())
}
