//! How often breaches are reported: ever more seldom of one flow, and only so many of one source. All are counted.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracker_tests::{
    agent::eventually,
    lab::{Bench, Connection},
    segment::{
        Segment,
        flag::{ACK, FIN, SYN},
    },
};

const SECOND: u64 = 1_000_000_000;

/// Returns the violations in `events`, in order: rule, client's port, and the number seen.
fn reported(events: &[Value]) -> Result<Vec<(&str, u64, u64)>> {
    let violations = events.iter().filter(|event| event["event"] == "VIOLATION");
    violations
        .map(|event| {
            let violation = &event["violation"];
            Ok((
                violation["name"].as_str().context("a name")?,
                event["flow"]["sport"].as_u64().context("a port")?,
                violation["actual"].as_u64().context("a number")?,
            ))
        })
        .collect()
}

/// Everything that was reported of what was sent by now.
fn all(bench: &Bench) -> Result<Vec<Value>> {
    bench.settle()?;
    // A segment that is reported whatever came before it: the only one of its source.
    let last = SocketAddr::from(([192, 0, 2, 99], 1));
    bench.arrive(&Segment::new(last, ([192, 0, 2, 2], 1).into(), SYN | FIN, 1, 0).frame())?;
    let mut events = bench.events.until(|event| event["segment"]["src"] == "192.0.2.99")?;
    events.pop();
    Ok(events)
}

/// C asks, and S answers so often with something else than what was asked for: 50001, 50002 and so on.
fn wrong_answers(tcp: &Connection<'_>, count: u32) -> Result<()> {
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    (1..=count).try_for_each(|n| tcp.s_sends(&tcp.s(SYN | ACK, 5000, 50_000 + n)))
}

/// Numbers beyond the window, so far apart that they are no gap in what we see.
const fn beyond(next: u32, n: u32) -> u32 {
    next + n * 1_000_000
}

#[test]
fn of_one_flow_ever_more_seldom() -> Result<()> {
    let bench = Bench::sparing(&["--report-rate", "0"])?;
    // Rules of the handshake: each time twice as far apart, for each flow anew.
    for port in [1, 2] {
        wrong_answers(&Connection::inbound(&bench).from_port(port), 20)?;
    }
    // Rules of an open connection: ten times.
    let open = Connection::inbound(&bench).from_port(3);
    open.handshake()?;
    for n in 1..=120 {
        open.c_sends(&open.c(ACK, beyond(1001, n), 5001).data(1))?;
    }
    // Another rule on the same flow has not been broken yet.
    open.c_sends(&open.c(ACK, 1001, 6001))?;
    let events = all(&bench)?;
    let expected: Vec<_> = [1, 2]
        .into_iter()
        .flat_map(|port| [1, 2, 4, 8, 16].map(|n| ("synack_bad_ack", port, 50_000 + n)))
        .chain([1, 10, 100].map(|n| ("seq_out_of_window", 3, beyond(1001, n).into())))
        .chain([("ack_unseen_data", 3, 6001)])
        .collect();
    assert_eq!(reported(&events)?, expected);
    let mut counted = bench.agent.violations()?;
    counted.sort_unstable();
    let exact = [
        ("ack_unseen_data", 1),
        ("seq_out_of_window", 120),
        ("syn_fin", 1),
        ("synack_bad_ack", 40),
    ];
    assert_eq!(counted, exact.map(|(name, count)| (name.to_owned(), count)));
    assert_eq!(bench.agent.counter("reports_backed_off")?, 40 - 10 + 120 - 3);
    assert_eq!(bench.agent.counter("reports_limited")?, 0);
    Ok(())
}

#[test]
fn of_a_connection_that_takes_another_s_place_from_the_beginning() -> Result<()> {
    let bench = Bench::sparing(&["--report-rate", "0"])?;
    let tcp = Connection::inbound(&bench);
    for isn in [1000, 700_000] {
        tcp.c_sends(&tcp.c(SYN, isn, 0))?;
        tcp.s_sends(&tcp.s(SYN | ACK, 5000, isn + 1))?;
        tcp.c_sends(&tcp.c(ACK, isn + 1, 5001))?;
        for n in 1..=9 {
            tcp.c_sends(&tcp.c(ACK, beyond(isn + 1, n), 5001).data(1))?;
        }
        tcp.c_sends(&tcp.c(FIN | ACK, isn + 1, 5001))?;
        tcp.s_sends(&tcp.s(FIN | ACK, 5001, isn + 2))?;
        tcp.c_sends(&tcp.c(ACK, isn + 2, 5002))?;
    }
    let events = all(&bench)?;
    let first = |isn: u32| ("seq_out_of_window", 40_000, beyond(isn + 1, 1).into());
    assert_eq!(reported(&events)?, [first(1000), first(700_000)]);
    assert_eq!(bench.agent.counter("reports_backed_off")?, 16);
    Ok(())
}

/// That no more than `burst` of these were at once, and one a second after that: by the times that they have.
fn ensure_within_limit(times: &[u64], burst: usize) -> Result<()> {
    ensure!(times.len() >= burst, "{} are less than a burst", times.len());
    for (n, time) in times.iter().enumerate().skip(burst) {
        let seconds = u64::try_from(n - burst)? + 1;
        ensure!(time - times[0] >= seconds * SECOND, "{times:?}");
    }
    Ok(())
}

fn times(events: &[Value], rule: &str) -> Result<Vec<u64>> {
    let of_rule = events.iter().filter(|event| event["violation"]["name"] == rule);
    of_rule.map(|event| event["time_ns"].as_u64().context("a time")).collect()
}

#[test]
fn of_one_source_so_many_at_once_and_then_at_a_rate() -> Result<()> {
    let bench = Bench::sparing(&["--report-rate", "1", "--report-burst", "5"])?;
    let syn_fin = |source: u8, port: u16| {
        let source = SocketAddr::from(([192, 0, 2, source], port));
        bench.arrive(&Segment::new(source, ([192, 0, 2, 2], 80).into(), SYN | FIN, 1, 0).frame())
    };
    (1..=50).try_for_each(|port| syn_fin(1, port))?;
    // Others are not limited by it.
    (1..=5).try_for_each(|port| syn_fin(3, port))?;
    let events = all(&bench)?;
    let ports = |source: &str| {
        let of_source = events.iter().filter(|event| event["segment"]["src"] == source);
        of_source.filter_map(|event| event["segment"]["sport"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(ports("192.0.2.1")[..5], [1, 2, 3, 4, 5]);
    assert_eq!(ports("192.0.2.3"), [1, 2, 3, 4, 5]);
    let of_first = || events.iter().filter(|event| event["segment"]["src"] == "192.0.2.1").cloned();
    ensure_within_limit(&times(&of_first().collect::<Vec<_>>(), "syn_fin")?, 5)?;
    // With the last one of `all`.
    assert_eq!(bench.agent.violations()?, [("syn_fin".to_owned(), 56)]);
    let told = u64::try_from(events.len())?;
    assert_eq!(bench.agent.counter("reports_limited")?, 55 - told);
    assert_eq!(bench.agent.counter("reports_backed_off")?, 0);
    // Time passes, and the source may be reported again.
    eventually("the source is reported again", || {
        syn_fin(1, 1000)?;
        bench.settle()?;
        Ok(bench.events.take()?.iter().any(|event| event["segment"]["sport"] == 1000))
    })
}

#[test]
fn of_one_source_so_many_unfinished_handshakes() -> Result<()> {
    let bench =
        Bench::sparing(&["--report-rate", "1", "--report-burst", "5", "--timeout-syn-sent", "1"])?;
    for port in 1..=20 {
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    }
    let mut events = Vec::new();
    for _ in 0..20 {
        events.extend(bench.events.until(|event| event["event"] == "DESTROY")?);
    }
    ensure_within_limit(&times(&events, "half_open_timeout")?, 5)?;
    assert_eq!(bench.agent.violations()?, [("half_open_timeout".to_owned(), 20)]);
    Ok(())
}
