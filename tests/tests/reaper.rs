//! Sweeps: removal by compare-and-delete, and the walk over large tables.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tracker_common::{
    sweep::{Outcome, Timeouts},
    time::Tick,
};
use tracker_tests::{
    agent::eventually,
    lab::{Bench, Connection},
    segment::{
        Segment,
        flag::{ACK, FIN, SYN},
    },
};
use tracker_user::{
    agent::sweeper::{Sweep, Sweeper},
    kernel::load::Sizes,
    model::{
        clock::monotonic_ns,
        flood_detection::{FloodDetector, FloodLimits},
    },
};

/// A sweeper of the test's own beside the agent's, with timeouts of nothing: it judges everything due.
fn sweeper(bench: &Bench) -> Result<Sweeper> {
    let pins =
        format!("/sys/fs/bpf/tracker/v{}/{}", tracker_common::LAYOUT_VERSION, bench.agent.name());
    let sizes = Sizes { max_flows: 262_144, max_half_open: 65_536, ring_bytes: 16 << 20 };
    Ok(Sweeper::new(pins.as_ref(), &sizes, Timeouts { seconds: [0; 11] }, ())?)
}

fn no_floods() -> FloodDetector {
    FloodDetector::new(FloodLimits { syn_flood_limit: 0, port_scan_limit: 0 })
}

fn open(tcp: &Connection<'_>, isn: u32) -> Result<()> {
    tcp.c_sends(&tcp.c(SYN, isn, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, isn + 1))?;
    tcp.c_sends(&tcp.c(ACK, isn + 1, 5001))
}

/// Flows are renewed to a tick of 17 ms: waits for the next one.
fn a_tick_passes() -> Result<()> {
    let now = Tick::at(monotonic_ns());
    eventually("a tick passes", || Ok(Tick::at(monotonic_ns()) != now))
}

#[test]
fn a_connection_replaced_between_read_and_delete_survives() -> Result<()> {
    let bench = Bench::new()?;
    let mut sweeper = sweeper(&bench)?;
    let tcp = Connection::inbound(&bench);
    open(&tcp, 1000)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    bench.settle()?;
    // Read: the old connection is due. Then a new one takes its key, before the delete.
    let mut due = sweeper.judge(&mut Sweep::default(), &mut no_floods())?;
    assert_eq!(due.len(), 1);
    open(&tcp, 700_000)?;
    assert_eq!(bench.flow()?["orig"]["isn"], 700_000);
    sweeper.remove(&mut due)?;
    assert_eq!(due[0].outcome, Outcome::Changed as u32);
    assert_eq!(
        bench.flow()?["orig"]["isn"],
        700_000,
        "the new connection was removed for the old one"
    );
    // The same for a flow that was merely seen again, and for a half-open one.
    let half_open = Connection::inbound(&bench).from_port(50_000);
    half_open.c_sends(&half_open.c(SYN, 1, 0))?;
    bench.settle()?;
    let mut due = sweeper.judge(&mut Sweep::default(), &mut no_floods())?;
    assert_eq!(due.len(), 2);
    a_tick_passes()?;
    tcp.c_sends(&tcp.c(ACK, 700_001, 5001))?;
    half_open.s_sends(&half_open.s(SYN | ACK, 9, 2))?;
    bench.settle()?;
    sweeper.remove(&mut due)?;
    assert!(due.iter().all(|removal| removal.outcome == Outcome::Changed as u32));
    // Unchanged, it goes; a second removal finds nothing.
    let mut due = sweeper.judge(&mut Sweep::default(), &mut no_floods())?;
    sweeper.remove(&mut due)?;
    assert!(due.iter().all(|removal| removal.outcome == Outcome::Removed as u32));
    sweeper.remove(&mut due)?;
    assert!(due.iter().all(|removal| removal.outcome == Outcome::Missing as u32));
    assert!(bench.agent.flows(&[])?.is_empty());
    assert!(bench.agent.counter("removals_refused")? >= 2);
    Ok(())
}

#[test]
fn two_hundred_thousand_flows_are_read_and_removed() -> Result<()> {
    const FLOWS: u32 = 200_000;
    let bench = Bench::with(&[
        "--max-half-open",
        "400000",
        "--timeout-syn-sent",
        "30",
        "--sweep-interval",
        "3600",
    ])?;
    // Every flow is a SYN from an address of its own.
    for n in 0..FLOWS {
        let [_, a, b, c] = n.to_be_bytes();
        let source = std::net::SocketAddr::from(([10, a, b, c], 40_000));
        bench.arrive(&Segment::new(source, ([192, 0, 2, 2], 80).into(), SYN, 1000, 0).frame())?;
    }
    bench.settle()?;
    let mut sweeper = sweeper(&bench)?;
    // New flows go on appearing during the walk, which must neither miss old ones nor start again.
    let mut seen = std::collections::HashSet::new();
    let mut sweep = Sweep::default();
    let mut twice = 0;
    for removal in sweeper.judge(&mut sweep, &mut no_floods())? {
        twice += u32::from(!seen.insert(removal.key));
    }
    assert_eq!((sweep.read, seen.len(), twice), (FLOWS as usize, FLOWS as usize, 0));
    let mut removed = 0u32;
    let sweep = sweeper.sweep(&mut no_floods(), |_| removed += 1)?;
    // Past the test runner, which would keep it: the figure is to be seen.
    writeln!(
        std::io::stderr(),
        "{} flows read, {} removed in {:.1} ms, {:.0} ns a flow",
        sweep.read,
        sweep.removed,
        sweep.took.as_secs_f64() * 1e3,
        sweep.took.as_secs_f64() * 1e9 / f64::from(FLOWS)
    )?;
    assert_eq!(
        (sweep.read, sweep.removed, sweep.changed, removed),
        (FLOWS as usize, FLOWS as usize, 0, FLOWS)
    );
    assert!(bench.agent.flows(&[])?.is_empty());
    assert_eq!(bench.agent.counter("flows_expired")?, u64::from(FLOWS));
    Ok(())
}

#[test]
fn a_full_table_is_counted_and_passes_packets() -> Result<()> {
    let bench = Bench::with(&["--max-flows", "10"])?;
    for port in 1..=20 {
        open(&Connection::inbound(&bench).from_port(port), 1000)?;
    }
    bench.settle()?;
    // All twenty are tracked, ten of them where they may be evicted.
    let flows = bench.agent.flows(&["--state", "ESTABLISHED"])?;
    assert_eq!(flows.len(), 20);
    let confirmed = flows.iter().filter(|flow| flow["tier"] == "confirmed").count();
    assert_eq!(confirmed, 10);
    assert_eq!(bench.agent.counter("table_full")?, 10);
    // Those left out are tracked to their end.
    let out = flows.iter().find(|flow| flow["tier"] == "half_open").context("one left out")?;
    let port = u16::try_from(out["sport"].as_u64().context("a port")?)?;
    let tcp = Connection::inbound(&bench).from_port(port);
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    bench.settle()?;
    assert_eq!(bench.agent.flows(&["--state", "TIME_WAIT"])?.len(), 1);
    bench.nothing_reported()
}

#[test]
fn a_clean_end_leaves_nothing() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let bench = Bench::new()?;
        let Bench { agent, pair, .. } = bench;
        let name = agent.name().to_owned();
        let status = agent.stop(signal)?;
        ensure!(status.success(), "{signal}: {status}");
        let link = pair.host.run("ip", &["link", "show", "dev", tracker_tests::lab::INTERFACE])?;
        assert!(!link.contains("xdp"), "{link}");
        for path in [
            format!("/sys/fs/bpf/tracker/v{}/{name}", tracker_common::LAYOUT_VERSION),
            format!("/run/tracker/{name}.sock"),
            format!("/run/tracker/{name}.json"),
            format!("/run/tracker/{name}.lock"),
        ] {
            assert!(!std::path::Path::new(&path).exists(), "{path} was left behind");
        }
    }
    Ok(())
}
