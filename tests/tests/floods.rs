//! What many connections together show, and handshakes that nobody completes.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tracker_tests::{
    lab::{Bench, Connection},
    segment::{Segment, flag::SYN},
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
