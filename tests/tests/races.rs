//! One flow, two hooks, two CPUs: no fact is lost, and every counter is exact. What passes one hook before the stack has
//! heard of what passed the other is not taken for an answer to it.

use std::{
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use etherparse::{SlicedPacket, TransportSlice};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;
use tracker_common::syn_cache::{CacheSet, WAYS};
use tracker_tests::{
    agent::{Agent, eventually, pins},
    kernel::has_handover,
    lab::{Bench, Connection, INTERFACE, Pair, address},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
    sockets::hardware_address,
    wire::Wire,
};

fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("this test needs two CPUs")
}

/// Runs both at once, each on a CPU of its own.
fn on_two_cpus(
    one: impl FnOnce() -> Result<()> + Send,
    other: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let one = scope.spawn(|| {
            pin_to(0)?;
            start.wait();
            one()
        });
        let other = scope.spawn(|| {
            pin_to(1)?;
            start.wait();
            other()
        });
        for thread in [one, other] {
            thread.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(())
    })
}

#[test]
fn both_directions_of_one_flow_at_once() -> Result<()> {
    const SEGMENTS: u32 = 100_000;
    const LENGTH: u32 = 100;
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    let scale = [3, 3, 14, 1];
    tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&scale))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001).options(&scale))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1001))?;
    // Arriving segments pass XDP on one CPU while leaving ones pass tcx egress on the other.
    on_two_cpus(
        || {
            (0..SEGMENTS).try_for_each(|n| {
                tcp.c_sends(&tcp.c(ACK | PSH, 1001 + n * LENGTH, 5001).data(LENGTH as usize))
            })
        },
        || {
            (0..SEGMENTS).try_for_each(|n| {
                tcp.s_sends(&tcp.s(ACK | PSH, 5001 + n * LENGTH, 1001).data(LENGTH as usize))
            })
        },
    )?;
    let flow = bench.flow()?;
    let bytes = u64::from(SEGMENTS) * u64::from(40 + LENGTH);
    for (end, isn, first, before) in [("orig", 1000, 2, 44 + 40), ("reply", 5000, 2, 44 + 40)] {
        assert_eq!(flow[end]["packets"], u64::from(SEGMENTS) + first, "{end}");
        assert_eq!(flow[end]["bytes"], bytes + before, "{end}");
        assert_eq!(flow[end]["seq"], isn + 1 + SEGMENTS * LENGTH, "{end}");
    }
    for (hook, count) in [("in", SEGMENTS + 2), ("out", SEGMENTS + 2)] {
        assert_eq!(bench.agent.packets(Some(hook), Some("tracked"))?, u64::from(count));
    }
    println!(
        "{SEGMENTS} segments each way at once: every packet, byte and sequence number is there"
    );
    bench.nothing_reported()
}

/// For each of many connections both ends speak at the same moment, on two CPUs: while it opens, and while it closes.
#[test]
fn both_ends_of_many_flows_at_once() -> Result<()> {
    const FLOWS: u16 = 3000;
    let bench = Bench::new()?;
    let connection = |n: u16| Connection::inbound(&bench).from_port(10_000 + n);
    let step = Barrier::new(2);
    on_two_cpus(
        || {
            for n in 0..FLOWS {
                let tcp = connection(n);
                let frames = [
                    tcp.c(SYN, 1000, 0),
                    tcp.c(ACK, 1001, 5001),
                    tcp.c(FIN | ACK, 1001, 5001),
                    tcp.c(ACK, 1002, 5002),
                ];
                for frame in frames {
                    step.wait();
                    tcp.c_sends(&frame)?;
                }
            }
            Ok(())
        },
        || {
            for n in 0..FLOWS {
                let tcp = connection(n);
                // The SYN,ACK crosses the SYN (H17), then nothing, then a simultaneous close (T5).
                let frames = [
                    Some(tcp.s(SYN | ACK, 5000, 1001)),
                    None,
                    Some(tcp.s(FIN | ACK, 5001, 1001)),
                    Some(tcp.s(ACK, 5002, 1002)),
                ];
                for frame in frames {
                    step.wait();
                    if let Some(frame) = frame {
                        tcp.s_sends(&frame)?;
                    }
                }
            }
            Ok(())
        },
    )?;
    bench.settle()?;
    let flows = bench.agent.flows(&[])?;
    assert_eq!(flows.len(), usize::from(FLOWS));
    for flow in &flows {
        let states = (&flow["orig"]["state"], &flow["reply"]["state"]);
        assert_eq!(states, (&"TIME_WAIT".into(), &"TIME_WAIT".into()), "{flow}");
        assert_eq!(
            (&flow["orig"]["packets"], &flow["reply"]["packets"]),
            (&4.into(), &3.into()),
            "{flow}"
        );
        assert_eq!(
            (&flow["orig"]["isn"], &flow["reply"]["isn"]),
            (&1000.into(), &5000.into()),
            "{flow}"
        );
        let history = flow["history"].as_str().context("a history")?;
        for letter in ['S', 'h', 'A', 'F', 'f', 'a'] {
            ensure!(
                history.matches(letter).count() == 1,
                "{letter} is missing or doubled in {history}"
            );
        }
    }
    // Each step is reported once, whichever CPU was first.
    for kind in ["ESTABLISHED", "CLOSING", "CLOSE"] {
        for _ in 0..FLOWS {
            bench.events.wait_for(kind)?;
        }
    }
    println!("{FLOWS} flows opened and closed by both ends at once: every state is right");
    bench.nothing_reported()
}

/// The acknowledgment that completes a handshake, and the first data behind it, arrive on two CPUs: while one copies the
/// record into the table of confirmed flows, the other writes into the old one, or finds none there.
#[test]
fn the_last_ack_and_the_first_data_at_once() -> Result<()> {
    the_last_ack_and_the_first_data(&["--ingress", "tcx"])
}

#[test]
fn the_last_ack_and_the_first_data_at_once_by_generic_xdp() -> Result<()> {
    the_last_ack_and_the_first_data(&["--xdp", "generic"])
}

fn the_last_ack_and_the_first_data(way_in: &[&str]) -> Result<()> {
    const FLOWS: u16 = 10_000;
    const LENGTH: u32 = 100;
    // Its handshakes begin all at once.
    let bench = Bench::with(&[way_in, &["--syn-flood-limit", "100000"]].concat())?;
    let connection = |n: u16| Connection::inbound(&bench).from_port(10_000 + n);
    let connections = || (0..FLOWS).map(connection);
    connections().try_for_each(|tcp| tcp.c_sends(&tcp.c(SYN, 1000, 0)))?;
    bench.settle()?;
    connections().try_for_each(|tcp| tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001)))?;
    bench.settle()?;
    let step = Barrier::new(2);
    on_two_cpus(
        || {
            connections().try_for_each(|tcp| {
                let ack = tcp.c(ACK, 1001, 5001);
                step.wait();
                tcp.c_sends(&ack)
            })
        },
        || {
            connections().try_for_each(|tcp| {
                let data = tcp.c(ACK | PSH, 1001, 5001).data(LENGTH as usize);
                step.wait();
                tcp.c_sends(&data)
            })
        },
    )?;
    bench.settle()?;
    connections().try_for_each(|tcp| tcp.s_sends(&tcp.s(ACK, 5001, 1001 + LENGTH)))?;
    bench.settle()?;
    let flows = bench.agent.flows(&[])?;
    assert_eq!(flows.len(), usize::from(FLOWS));
    let wrong = flows.iter().filter(|flow| {
        (&flow["orig"]["packets"], &flow["orig"]["seq"]) != (&3.into(), &(1001 + LENGTH).into())
            || flow["reply"]["packets"] != 2
    });
    assert_eq!(wrong.map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    println!("{FLOWS} flows confirmed while their first data was written: all of it is there");
    bench.nothing_reported()
}

/// Each segment of a handshake, and a copy of it, on two CPUs at once: the SYN cache's locks, and its way to a record.
#[test]
fn each_segment_of_a_handshake_twice_at_once() -> Result<()> {
    const FLOWS: u16 = 10_000;
    let bench = Bench::quiet(&["--ingress", "tcx", "--syn-flood-limit", "100000"])?;
    let connections = || {
        (0..FLOWS).map(|n| {
            let tcp =
                if n % 2 == 0 { Connection::inbound(&bench) } else { Connection::outbound(&bench) };
            let tcp = if n % 4 < 2 { tcp } else { tcp.ipv6() };
            tcp.from_port(10_000 + n)
        })
    };
    let step = Barrier::new(2);
    for number in 0..3 {
        let all = || {
            connections().try_for_each(|tcp| {
                let by_client = number != 1;
                let segment = match number {
                    0 => tcp.c(SYN, 1000, 0),
                    1 => tcp.s(SYN | ACK, 5000, 1001),
                    _ => tcp.c(ACK, 1001, 5001),
                };
                step.wait();
                if by_client { tcp.c_sends(&segment) } else { tcp.s_sends(&segment) }
            })
        };
        on_two_cpus(all, all)?;
        bench.settle()?;
    }
    let flows = bench.agent.flows(&[])?;
    let wrong = flows.iter().filter(|flow| {
        let states = (&flow["orig"]["state"], &flow["reply"]["state"]);
        states != (&"ESTABLISHED".into(), &"ESTABLISHED".into()) || flow["tier"] != "confirmed"
    });
    assert_eq!(wrong.map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(flows.len(), usize::from(FLOWS));
    let packets = |flow: &Value, end: &str| flow[end]["packets"].as_u64().unwrap_or_default();
    let counted: u64 =
        flows.iter().map(|flow| packets(flow, "orig") + packets(flow, "reply")).sum();
    assert_eq!(bench.agent.packets(None, Some("not_inserted"))?, 0);
    assert_eq!(counted, 6 * u64::from(FLOWS));
    let stats = bench.agent.stats()?;
    let counters = ["flows_by_syn", "flows_midstream", "flows_confirmed", "half_open_inserted"]
        .map(|name| stats["counters"][name].as_u64());
    let all = Some(u64::from(FLOWS));
    assert_eq!(counters, [all, Some(0), all, all], "{stats}");
    bench.nothing_reported()
}

/// A SYN that the SYN cache takes, and one with data, which needs a record, on two CPUs at once: a connection has one or the other.
#[test]
fn a_syn_and_a_copy_with_data_at_once() -> Result<()> {
    const FLOWS: u16 = 10_000;
    let bench = Bench::quiet(&["--ingress", "tcx", "--syn-flood-limit", "100000"])?;
    let step = Barrier::new(2);
    let syns = |payload: usize| {
        let (bench, step) = (&bench, &step);
        move || {
            (0..FLOWS).try_for_each(|n| {
                let tcp = Connection::inbound(bench).from_port(10_000 + n);
                let segment = tcp.c(SYN, 1000, 0).data(payload);
                step.wait();
                tcp.c_sends(&segment)
            })
        }
    };
    on_two_cpus(syns(0), syns(5))?;
    for n in 0..FLOWS {
        let tcp = Connection::inbound(&bench).from_port(10_000 + n);
        tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
        tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    }
    bench.settle()?;
    let flows = bench.agent.flows(&[])?;
    let wrong = flows.iter().filter(|flow| flow["tier"] != "confirmed");
    assert_eq!(wrong.map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(flows.len(), usize::from(FLOWS));
    Ok(())
}

/// A hypervisor may stop a CPU that has a handshake's lock, for longer than the other takes to send the next segment. This test has
/// the lock, as that CPU would. Where the test itself was stopped for too long, that round shows nothing.
#[test]
fn a_packet_waits_for_a_cpu_that_was_stopped() -> Result<()> {
    type Words = [u64; size_of::<CacheSet>() / 8];
    let bench = Bench::quiet(&["--ingress", "tcx"])?;
    let sets = MapData::from_pin(pins(bench.agent.name()).join("SYN_CACHE"))?;
    let mut sets: Array<MapData, Words> = Map::Array(sets).try_into()?;
    pin_to(1)?;
    let (mut judged, mut late) = (0, 0);
    for n in 0..1000 {
        if judged == 20 {
            break;
        }
        let tcp = Connection::inbound(&bench).from_port(10_000 + n);
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
        tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
        bench.settle()?;
        // A word of a place that is free has no tag.
        let is_taken = |word: &u64| word >> 24 != 0;
        let is_used = |words: &Words| words[..WAYS].iter().any(is_taken);
        let all = sets.iter().enumerate().collect::<Vec<_>>();
        let (number, words) = all
            .into_iter()
            .find_map(|(number, words)| Some((number, words.ok().filter(is_used)?)))
            .context("the handshake is cached")?;
        let mut locked = words;
        for word in locked[..WAYS].iter_mut().filter(|word| is_taken(word)) {
            *word |= 1;
        }
        let number = u32::try_from(number)?;
        let since = Instant::now();
        sets.set(number, locked, 0)?;
        let begins = Barrier::new(2);
        let held = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let pinned = pin_to(0);
                begins.wait();
                pinned?;
                tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
                tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(100))
            });
            begins.wait();
            // That it waits in the kernel is no event. Whoever did not wait would be through by then.
            thread::sleep(Duration::from_millis(10));
            sets.set(number, words, 0)?;
            let held = since.elapsed();
            sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            anyhow::Ok(held)
        })?;
        bench.settle()?;
        if held > Duration::from_millis(50) {
            late += 1;
            continue;
        }
        judged += 1;
        let flow = bench.agent.flows(&["--sport", &(10_000 + n).to_string()])?;
        let [flow] = &flow[..] else { anyhow::bail!("not one flow: {flow:?}") };
        ensure!(flow["tier"] == "confirmed" && flow["orig"]["packets"] == 3, "{flow}");
        ensure!(flow["history"] == "ShAD", "{flow}");
    }
    ensure!(judged == 20, "this test was stopped too often");
    ensure!(bench.agent.packets(None, Some("not_inserted"))? <= late * 2);
    Ok(())
}

/// An RST that is not at the number that the host has last acknowledged: the host takes it where it has got that far.
#[test]
fn what_leaves_before_the_stack_has_heard_of_the_reset_refuses_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let states = |tcp: &Connection<'_>| -> Result<String> {
        bench.settle()?;
        let port = tcp.client.port().to_string();
        let flow = bench.agent.flows(&["--sport", &port])?.pop().context("a flow")?;
        let state = |end: &str| flow[end]["state"].as_str().unwrap_or("?").to_owned();
        Ok(format!("{}/{}", state("orig"), state("reply")))
    };
    let reset = |port: u16, number: u32| -> Result<Connection<'_>> {
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.handshake()?;
        tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(100))?;
        tcp.c_sends(&tcp.c(ACK | PSH, 1101, 5001).data(100))?;
        tcp.c_sends(&tcp.c(RST | ACK, number, 5001))?;
        assert_eq!(states(&tcp)?, "CLOSED/CLOSED");
        Ok(tcp)
    };
    // The application sends and closes while the RST is on its way up, behind none, one or all of the data; or the stack
    // acknowledges the first part of it.
    for (port, flags, ack, data) in [
        (40_000, FIN | PSH | ACK, 1201, 10),
        (40_001, ACK, 1201, 0),
        (40_002, FIN | PSH | ACK, 1101, 10),
        (40_003, PSH | ACK, 1001, 10),
        (40_004, FIN | ACK, 1001, 0),
        (40_005, ACK, 1101, 0),
    ] {
        let tcp = reset(port, 1201)?;
        tcp.s_sends(&tcp.s(flags, 5001, ack).data(data))?;
        assert_eq!(states(&tcp)?, "CLOSED/CLOSED", "{flags:#x} that acknowledges {ack}");
    }
    // The data was lost after all: the stack says again how far it has got. Or it had got beyond the RST already.
    for (port, number, ack) in [(41_000, 1201, 1001), (41_001, 1101, 1201)] {
        let tcp = reset(port, number)?;
        tcp.s_sends(&tcp.s(ACK, 5001, ack))?;
        assert_eq!(states(&tcp)?, "CLOSED/ESTABLISHED", "an acknowledgment of {ack}");
    }
    bench.nothing_reported()
}

/// The sequence number of a SYN,ACK to a port.
fn cookie_for(frame: &[u8], port: u16) -> Option<u32> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
    let is_it = tcp.syn() && tcp.ack() && tcp.destination_port() == port;
    is_it.then(|| tcp.sequence_number())
}

/// The acknowledgment that returns a cookie, and the data behind it. The listener has no socket yet when it gets the second one, and would
/// answer with an RST.
#[test]
fn the_returned_cookie_and_the_first_data_at_once() -> Result<()> {
    const CONNECTIONS: u16 = 2_000;
    let pair = Pair::with_addresses()?;
    if !has_handover()? {
        pair.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
    }
    let options = ["--interface", INTERFACE, "--protect", "80", "--syn-cookies", "always"];
    // Without XDP each CPU passes on what it was sent, so packets of one connection pass each other.
    let agent = Agent::start(&pair.host, &[&options[..], &["--ingress", "auto"]].concat())?;
    let server = SocketAddr::from((address::HOST[0], 80));
    let listener = pair.host.enter(|| Ok(TcpListener::bind(server)?))?;
    agent.wait_for_log("listeners are protected")?;
    // The clients are no host's, so nobody resets what is answered.
    let ip = Ipv4Addr::new(10, 9, 0, 77);
    let neighbour = ["neigh", "replace", &ip.to_string(), "lladdr", "02:00:00:00:00:77"];
    pair.host.run("ip", &[&neighbour[..], &["dev", INTERFACE, "nud", "permanent"]].concat())?;
    let hardware = hardware_address(&pair.host)?;
    let wires = [Wire::open(&pair.peer, INTERFACE)?, Wire::open(&pair.peer, INTERFACE)?];
    let receives = Wire::receiver(&pair.peer, INTERFACE)?;
    listener.set_nonblocking(true)?;
    for port in 10_000..10_000 + CONNECTIONS {
        let segment = |flags, seq, ack| {
            let client = SocketAddr::from((ip, port));
            Segment::new(client, server, flags, seq, ack).addressed_to(hardware)
        };
        wires[0].send(&segment(SYN, 1000, 0).frame())?;
        let cookie = loop {
            if let Some(cookie) = cookie_for(&receives.receive()?, port) {
                break cookie;
            }
        };
        let returned = segment(ACK, 1001, cookie.wrapping_add(1)).frame();
        let data = segment(ACK | PSH, 1001, cookie.wrapping_add(1)).data(4).frame();
        on_two_cpus(|| wires[0].send(&returned), || wires[1].send(&data))?;
        // What was dropped comes again.
        let mut accepted = None;
        eventually("the server has the data", || {
            accepted = match accepted.take() {
                None => listener.accept().ok(),
                Some((stream, from)) => Some((stream, from)),
            };
            let Some((stream, _)) = &mut accepted else { return Ok(false) };
            stream.set_nonblocking(true)?;
            match stream.read_exact(&mut [0; 4]) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wires[0].send(&data)?;
                    Ok(false)
                }
                Err(error) => Err(error).context(format!("the server reads from {port}")),
            }
        })?;
    }
    let total = &agent.stats()?["cookies"]["total"];
    ensure!(total["accepted"] == CONNECTIONS && total["reset_at_once"] == 0, "{total}");
    let violations = agent.violations()?;
    ensure!(violations.is_empty(), "{violations:?}: {total}");
    println!("{CONNECTIONS} connections: {total}");
    agent.finish()?;
    Ok(())
}
