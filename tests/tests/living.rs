//! A connection that is silent for longer than its timeout lives on while its socket on this host does.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::Socket;
use tracker_tests::{
    agent::{Agent, eventually},
    flows::{by_key, key},
    lab::{INTERFACE, Pair, address},
    segment::{
        Segment,
        flag::{ACK, SYN},
    },
    sockets::{Listeners, accept, bound, transfer},
    wire::Wire,
};

const PORT: u16 = 80;

/// Closes a socket as if the host had lost it: nothing is sent (include/uapi/linux/tcp.h).
fn close_silently(socket: Socket) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value lives until the call returns, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            4,
        )
    };
    ensure!(result == 0, "TCP_REPAIR: {}", std::io::Error::last_os_error());
    drop(socket);
    Ok(())
}

/// The flow between these, if there is one.
fn flow(agent: &Agent, ends: [SocketAddr; 2]) -> Result<Option<Value>> {
    let flows = agent.flows(&[])?;
    Ok(by_key(&flows)?.get(&ends).map(|flows| flows[0].clone()))
}

#[test]
fn a_flow_lives_as_long_as_its_socket() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let listeners = Listeners::new(&pair, PORT)?;
    let agent = Agent::start(
        &pair.host,
        &[
            ["--interface", INTERFACE],
            ["--timeout-established", "1"],
            ["--timeout-close-wait", "1"],
            ["--sweep-interval", "0.02"],
        ]
        .concat(),
    )?;
    let events = agent.events()?;
    for (number, (family, client_on_host)) in
        [(0, false), (0, true), (1, false), (1, true)].into_iter().enumerate()
    {
        let (namespace, from, to) = if client_on_host {
            (&pair.host, address::HOST[family], address::PEER[family])
        } else {
            (&pair.peer, address::PEER[family], address::HOST[family])
        };
        let number = u16::try_from(number)?;
        let [client, abandoned] = [10_000 + number, 20_000 + number].map(|port| -> Result<_> {
            let client: SocketAddr = (from, port).into();
            let socket = bound(namespace, client)?;
            socket.connect(&SocketAddr::from((to, PORT)).into())?;
            let accepted = accept(listeners.at(!client_on_host, family == 1), client)?;
            transfer(&socket, &accepted, 1000)?;
            let (host, peer) = if client_on_host { (socket, accepted) } else { (accepted, socket) };
            Ok((key(client, (to, PORT).into()), host, peer))
        });
        let ((kept, host, peer), (lost, lost_host, lost_peer)) = (client?, abandoned?);

        // Only the far end's socket is still there, and a listener at the same port: neither counts.
        close_silently(lost_host)?;
        let gone = events.wait(|event| {
            event["event"] == "DESTROY"
                && by_key(&[event["flow"].clone()]).is_ok_and(|flows| flows.contains_key(&lost))
        })?;
        ensure!(
            gone["end"]["reason"] == "timeout" && gone["end"]["timeout_state"] == "ESTABLISHED",
            "{gone}"
        );

        let created = flow(&agent, kept)?.context("the one with a socket")?["created_ns"].clone();
        eventually("its time is over", || {
            Ok(flow(&agent, kept)?.context("it has a socket")?["timeout_s"] == 0)
        })?;
        // What the log says from here on is said after the other one was removed.
        agent.wait_for_log("removed=1")?;
        for _ in 0..50 {
            agent.wait_for_log("alive=1")?;
        }
        ensure!(flow(&agent, kept)?.context("it has a socket")?["created_ns"] == created);
        // It is the same connection to both ends.
        transfer(&host, &peer, 1000)?;
        transfer(&peer, &host, 1000)?;

        close_silently(host)?;
        eventually("it goes when its socket has gone", || Ok(flow(&agent, kept)?.is_none()))?;
        agent.wait_for_log("removed=1")?;
        close_silently(peer)?;
        close_silently(lost_peer)?;
    }
    ensure!(agent.flows(&[])?.is_empty());
    Ok(())
}

#[test]
fn a_connection_of_others_goes_when_its_time_is_over() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(
        &pair.host,
        &["--interface", INTERFACE, "--timeout-established", "1", "--sweep-interval", "0.02"],
    )?;
    let events = agent.events()?;
    let (arriving, leaving) =
        (Wire::open(&pair.peer, INTERFACE)?, Wire::open(&pair.host, INTERFACE)?);
    let client: SocketAddr = ([192, 0, 2, 1], 40_000).into();
    let server: SocketAddr = ([198, 51, 100, 1], PORT).into();
    arriving.send(&Segment::new(client, server, SYN, 1000, 0).frame())?;
    leaving.send(&Segment::new(server, client, SYN | ACK, 5000, 1001).frame())?;
    arriving.send(&Segment::new(client, server, ACK, 1001, 5001).frame())?;
    let gone = events.wait_for("DESTROY")?;
    ensure!(
        gone["end"]["reason"] == "timeout" && gone["end"]["timeout_state"] == "ESTABLISHED",
        "{gone}"
    );
    ensure!(agent.flows(&[])?.is_empty());
    Ok(())
}
