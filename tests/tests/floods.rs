//! What many connections together show, and handshakes that nobody completes.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};
use tracker_tests::{
    lab::{Bench, Connection},
    segment::{
        Segment,
        flag::{ACK, SYN},
    },
};

/// A SYN from one source, which differs by what varies.
fn syn(source_port: u16, destination_port: u16) -> Vec<u8> {
    let source = SocketAddr::from(([192, 0, 2, 1], source_port));
    let destination = SocketAddr::from(([192, 0, 2, 2], destination_port));
    Segment::new(source, destination, SYN, 1000, 0).frame()
}

#[test]
fn h12_a_handshake_that_is_not_completed_in_its_time() -> Result<()> {
    let bench = Bench::with(&["--timeout-syn-sent", "1"])?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    let event = bench.events.violation("half_open_timeout")?;
    assert_eq!(event["violation"]["before"]["orig"], "SYN_SENT");
    assert_eq!(event["violation"]["before"]["reply"], "LISTEN");
    Ok(())
}

#[test]
fn a_syn_flood_is_told_once() -> Result<()> {
    let bench = Bench::with(&["--syn-flood-limit", "20", "--sweep-interval", "0.05"])?;
    for port in 0..19 {
        bench.arrive(&syn(40_000 + port, 80))?;
    }
    bench.settle()?;
    bench.nothing_reported()?;
    for port in 19..40 {
        bench.arrive(&syn(40_000 + port, 80))?;
    }
    let event = bench.events.violation("syn_flood")?;
    let actual = event["violation"]["actual"].as_u64().unwrap_or_default();
    ensure!((20..=40).contains(&actual), "{event}");
    assert_eq!(event["violation"]["expected"]["high"], 20);
    assert_eq!(event["flow"]["dport"], 80);
    // It goes on, and is one flood.
    bench.arrive(&syn(50_000, 80))?;
    bench.settle()?;
    assert_eq!(bench.agent.violations()?, [("syn_flood".to_owned(), 1)]);
    Ok(())
}

#[test]
fn a_port_scan_is_told_once() -> Result<()> {
    let bench = Bench::with(&["--port-scan-limit", "20", "--sweep-interval", "0.05"])?;
    // One port, however often, is no scan.
    for port in 0..30 {
        bench.arrive(&syn(40_000 + port, 80))?;
    }
    bench.settle()?;
    bench.nothing_reported()?;
    for port in 0..20 {
        bench.arrive(&syn(50_000, 1000 + port))?;
    }
    let event = bench.events.violation("port_scan")?;
    assert_eq!(event["flow"]["src"], "192.0.2.1");
    assert_eq!(event["violation"]["expected"]["high"], 20);
    bench.settle()?;
    assert_eq!(bench.agent.violations()?, [("port_scan".to_owned(), 1)]);
    Ok(())
}

/// SYNs from ports that nobody has used before: `from` and so many after it.
fn flood(bench: &Bench, from: u16, count: u16) -> Result<()> {
    (from..from + count).try_for_each(|port| bench.arrive(&syn(port, 80)))
}

/// A bench whose SYN cache is full of handshakes that are older than a second, 1,000 having begun.
fn full_of_old_handshakes(shed_above: &str) -> Result<Bench> {
    let options = ["--max-half-open", "64", "--syn-flood-limit", "0", "--shed-above", shed_above];
    // Who listens to NEW has a record of every SYN.
    let bench = Bench::quiet(&options)?;
    flood(&bench, 10_000, 1000)?;
    bench.settle()?;
    // Time alone makes them old.
    thread::sleep(Duration::from_millis(1100));
    Ok(bench)
}

#[test]
fn a_flood_is_shed_and_nobody_else_suffers() -> Result<()> {
    let bench = full_of_old_handshakes("50")?;
    assert_eq!(bench.agent.counter("half_open_shed")?, 0);
    let living = Connection::inbound(&bench);
    living.handshake()?;
    flood(&bench, 20_000, 500)?;
    let on = bench.events.wait(|event| event["event"] == "SHED")?;
    ensure!(on["shed"]["mode"] == "on" && on["shed"]["above"] == 50, "{on}");
    ensure!(on["shed"]["handshakes"].as_u64() > Some(0), "{on}");
    let said = bench.agent.wait_for_log("SYNs come as in a flood")?;
    ensure!(said.contains("--shed-above (now 50 a second"), "{said}");
    // A handshake amid SYNs is a connection as always.
    let beside = Connection::inbound(&bench).from_port(5000);
    beside.c_sends(&beside.c(SYN, 1000, 0))?;
    flood(&bench, 50_000, 20)?;
    beside.s_sends(&beside.s(SYN | ACK, 5000, 1001))?;
    flood(&bench, 50_020, 20)?;
    beside.c_sends(&beside.c(ACK, 1001, 5001))?;
    bench.settle()?;
    assert_eq!(bench.agent.flows(&["--state", "ESTABLISHED"])?.len(), 2);
    // All are accounted for.
    let stats = bench.agent.stats()?;
    let number = |of: &str, name: &str| stats[of][name].as_u64().expect("a number");
    let (evicted, shed) =
        (number("flows", "half_open_evicted"), number("counters", "half_open_shed"));
    assert_eq!(number("counters", "half_open_inserted"), 1000 + 500 + 40 + 2);
    assert_eq!(evicted + number("flows", "half_open"), 1000 + 500 + 40);
    ensure!(shed <= evicted, "{stats}");
    let off = bench.events.wait(|event| event["event"] == "SHED")?;
    ensure!(off["shed"]["mode"] == "off" && off["shed"]["handshakes"] == shed, "{off}");
    bench.nothing_reported()
}

#[test]
fn nothing_is_shed_where_that_is_not_wanted() -> Result<()> {
    let bench = full_of_old_handshakes("0")?;
    flood(&bench, 20_000, 500)?;
    bench.settle()?;
    assert_eq!(bench.agent.counter("half_open_shed")?, 0);
    Ok(())
}
