//! `tracker top` on a terminal of its own, read as a person reads it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracker_common::LAYOUT_VERSION;
use tracker_tests::{
    agent::{Agent, eventually, run_tracker},
    lab::{Bench, address},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, SYN},
    },
    terminal::Terminal,
};
use tracker_user::kernel::tables::Tables;

/// `tracker top` on a terminal.
fn top(agent: &Agent, size: (u16, u16), no_colour: bool, options: &[&str]) -> Result<Terminal> {
    Terminal::start(agent, size, no_colour, &[&["top", "--every", "0.1"], options].concat())
}

fn ends(port: u16) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(address::PEER[0], port), SocketAddr::new(address::HOST[0], 80))
}

/// A connection from the peer, with so many bytes.
fn open(bench: &Bench, port: u16, bytes: usize) -> Result<()> {
    let (client, server) = ends(port);
    bench.arrive(&Segment::new(client, server, SYN, 1, 0).frame())?;
    bench.leave(&Segment::new(server, client, SYN | ACK, 500, 2).frame())?;
    bench.arrive(&Segment::new(client, server, ACK, 2, 501).frame())?;
    if bytes > 0 {
        bench.arrive(&Segment::new(client, server, PSH | ACK, 2, 501).data(bytes).frame())?;
    }
    Ok(())
}

/// Two that are established, of which the second has sent more, and one that waits for its SYN,ACK.
fn three() -> Result<Bench> {
    let bench = Bench::new()?;
    open(&bench, 1001, 100)?;
    open(&bench, 1002, 1000)?;
    let (client, server) = ends(1003);
    bench.arrive(&Segment::new(client, server, SYN, 1, 0).frame())?;
    bench.settle()?;
    Ok(bench)
}

/// The rows of flows, from the line below their titles to the violations.
fn flows(screen: &str) -> Vec<Vec<&str>> {
    let rows = screen.lines().skip_while(|line| !line.starts_with("SRC")).skip(1);
    let rows = rows.take_while(|line| !line.starts_with("violations"));
    rows.map(|row| row.split_whitespace().collect::<Vec<_>>())
        .filter(|row| !row.is_empty())
        .collect()
}

fn has_row(screen: &str, place: usize, words: &[&str]) -> bool {
    flows(screen).get(place).is_some_and(|row| words.iter().all(|word| row.contains(word)))
}

#[test]
fn on_the_smallest_terminal_without_colours() -> Result<()> {
    let bench = three()?;
    let mut top = top(&bench.agent, (24, 80), true, &["--sort", "bytes"])?;
    let screen = top.until("three flows", |screen| flows(screen).len() == 3)?;
    for said in [
        "flows 3  half-open 1  ESTABLISHED 2  TIME_WAIT 0",
        "half-open 1, most 1",
        "TIME_WAIT 0, most 0",
        "3 flows by bytes, greatest first",
        "none since this began",
        "q quit",
    ] {
        assert!(screen.contains(said), "{said}:\n{screen}");
    }
    assert_eq!(screen.lines().count(), 24);
    assert!(has_row(&screen, 0, &["10.9.0.2:1002", "ESTAB/ESTAB"]), "{screen}");
    assert!(has_row(&screen, 1, &["10.9.0.2:1001", "ESTAB/ESTAB"]), "{screen}");
    assert!(has_row(&screen, 2, &["10.9.0.2:1003", "SYN_SENT/LISTEN"]), "{screen}");
    // What it says is what `tracker flows` says, in the same order.
    let listed = bench.agent.flows(&["--sort", "bytes", "--reverse"])?;
    for (row, flow) in flows(&screen).iter().zip(&listed) {
        let text = |name: &str| flow[name].to_string().replace('"', "");
        let state = |end: &str| flow[end]["state"].as_str().map(str::to_owned).context("a state");
        assert_eq!(row[0], format!("{}:{}", text("src"), text("sport")));
        assert_eq!(row[1], format!("{}:{}", text("dst"), text("dport")));
        let states = format!("{}/{}", state("orig")?, state("reply")?);
        assert_eq!(row[2], states.replace("ESTABLISHED", "ESTAB"));
    }

    // A violation appears as it comes.
    let (client, server) = ends(1001);
    bench.leave(&Segment::new(server, client, ACK, 501, 9999).frame())?;
    top.until("a violation", |screen| {
        screen.contains("ack_unseen_data 10.9.0.1:80 > 10.9.0.2:1001 ack")
            && screen.contains("violations 1")
    })?;

    // While it is paused, nothing changes; afterwards all of it is there.
    top.press("p")?;
    top.until("a pause", |screen| screen.contains("PAUSED"))?;
    open(&bench, 1004, 0)?;
    bench.settle()?;
    top.press("r")?;
    let screen = top.until("the other order", |screen| screen.contains("least first"))?;
    assert!(!screen.contains("10.9.0.2:1004"), "{screen}");
    top.press("p")?;
    top.until("all flows", |screen| {
        !screen.contains("PAUSED") && flows(screen).len() == 4 && screen.contains("10.9.0.2:1004")
    })?;

    // A filter, a wrong one first.
    top.press("/")?;
    top.until("a prompt", |screen| screen.contains("filter:"))?;
    top.press("sport htpp\r")?;
    top.until("what is wrong", |screen| {
        screen.contains("`htpp` is no port; did you mean `http`?")
    })?;
    top.press("\x15state syn-sent\r")?;
    top.until("the flow that is meant", |screen| {
        flows(screen).len() == 1
            && has_row(screen, 0, &["10.9.0.2:1003", "SYN_SENT/LISTEN"])
            && screen.contains("1 flows by bytes, least first: state SYN_SENT")
    })?;

    // The connection by itself: its segments as they pass.
    top.press("\r")?;
    top.until("the connection", |screen| {
        screen.contains("10.9.0.2:1003 > 10.9.0.1:80")
            && screen.contains("history=S ")
            && !screen.contains("left=gone")
    })?;
    let (client, server) = ends(1003);
    let tables = Tables::from_pins(
        format!("/sys/fs/bpf/tracker/v{LAYOUT_VERSION}/{}", bench.agent.name()).as_ref(),
    )?;
    eventually("the kernel is told whose segments are wanted", || {
        Ok(tables.live_config()?.trace.port == 1003_u16.to_be_bytes())
    })?;
    bench.leave(&Segment::new(server, client, SYN | ACK, 500, 2).frame())?;
    bench.arrive(&Segment::new(client, server, ACK, 2, 501).frame())?;
    bench.arrive(&Segment::new(client, server, FIN | ACK, 2, 501).frame())?;
    let screen = top.until("its segments", |screen| {
        screen.contains("FIN_WAIT_1") && screen.contains("history=ShAF ")
    })?;
    let drawn: Vec<_> =
        screen.lines().skip_while(|line| !line.contains("segments since")).collect();
    assert!(
        drawn[1].contains("<- SYN,ACK seq=0") && drawn[1].ends_with("SYN_RECEIVED"),
        "{screen}"
    );
    assert!(drawn[2].contains("ESTABLISHED  -- ACK seq=1 ack=1"), "{screen}");
    assert!(drawn[3].contains("FIN_WAIT_1   -- FIN,ACK seq=1 ack=1"), "{screen}");

    top.press("\x1b")?;
    top.until("the flows", |screen| screen.contains("flows by bytes"))?;
    top.press("q")?;
    top.end()?;
    let written = String::from_utf8_lossy(top.written());
    let coloured = written.split("\x1b[").skip(1).find(|rest| {
        let Some((numbers, _)) = rest.split_once('m') else { return false };
        numbers.split(';').any(|number| matches!(number.parse(), Ok(30..=38 | 40..=48 | 90..=107)))
    });
    assert_eq!(coloured, None);
    Ok(())
}

#[test]
fn on_a_large_terminal() -> Result<()> {
    let bench = three()?;
    let mut top = top(&bench.agent, (50, 200), false, &["dport", "80", "--sort", "packets"])?;
    let screen = top.until("three flows", |screen| flows(screen).len() == 3)?;
    for said in [
        "flows 3, most 3",
        "violations 0, most 0",
        "3 flows by packets, greatest first: dport 80",
        "PKT/S",
        "HISTORY",
    ] {
        assert!(screen.contains(said), "{said}:\n{screen}");
    }
    assert!(has_row(&screen, 2, &["10.9.0.2:1003", "SYN_SENT/LISTEN", "S", "veth0"]), "{screen}");
    let flow = bench.agent.flows(&["--sport", "1002"])?;
    let bytes = flow[0]["orig"]["bytes"].as_u64().zip(flow[0]["reply"]["bytes"].as_u64());
    let bytes = bytes.map(|(one, other)| (one + other).to_string()).context("counters")?;
    let all = flows(&screen);
    let row = all.iter().find(|row| row[0] == "10.9.0.2:1002").context("a row")?;
    assert_eq!((row[5], row[6]), (bytes.as_str(), "4"), "{screen}");
    // The colour of ESTABLISHED is not that of SYN_SENT.
    let colour = |port: &str, state: &str| {
        let (line, text) = screen.lines().enumerate().find(|(_, line)| line.contains(port))?;
        let column = text.find(state)?;
        let cell = top.screen().cell(u16::try_from(line).ok()?, u16::try_from(column).ok()?);
        cell.map(vt100::Cell::fgcolor)
    };
    let (established, waiting) = (colour(":1002", "ESTAB"), colour(":1003", "SYN_SENT"));
    assert!(established.is_some() && waiting.is_some() && established != waiting, "{screen}");

    // Ended by a signal, it gives the terminal back as well.
    top.press("?")?;
    top.until("help", |screen| screen.contains("any key goes back"))?;
    let top_itself = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", top.pid()))?;
    let pid = match top_itself.split_whitespace().next() {
        Some(pid) => pid.parse()?,
        None => top.pid().cast_signed(),
    };
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    top.end()
}

#[test]
fn flows_that_broke_a_rule() -> Result<()> {
    let bench = three()?;
    for (port, ack) in [(1001, 9999), (1002, 501)] {
        let (client, server) = ends(port);
        bench.leave(&Segment::new(server, client, ACK, 501, ack).frame())?;
    }
    bench.settle()?;
    let mut top = top(&bench.agent, (24, 80), true, &["--violation", "ack_unseen_data,syn_fin"])?;
    top.until("the flow that broke one of them", |screen| {
        flows(screen).len() == 1
            && has_row(screen, 0, &["10.9.0.2:1001"])
            && screen.contains("violation ack_unseen_data,syn_fin")
    })?;
    top.press("\r")?;
    top.until("the connection", |screen| {
        screen.contains("10.9.0.2:1001 > 10.9.0.1:80")
            && screen.contains("broken ack_unseen_data=1")
    })?;
    // A new breach appears with the next sample.
    let (client, server) = ends(1001);
    bench.arrive(&Segment::new(client, server, ACK, 501, 9999).frame())?;
    top.until("the next breach", |screen| screen.contains("broken ack_unseen_data=2"))?;
    top.press("\x1b")?;
    top.until("the flows", |screen| screen.contains("flows by"))?;
    top.press("/")?;
    top.until("a prompt", |screen| screen.contains("filter:"))?;
    top.press("\x15violation syn_fin\r")?;
    top.until("no flow", |screen| {
        flows(screen).is_empty() && screen.contains("violation syn_fin")
    })?;
    top.press("q")?;
    top.end()
}

#[test]
fn it_needs_a_terminal_and_a_filter_that_is_one() -> Result<()> {
    let (_, stderr, status) = run_tracker(&["top"], None)?;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("`tracker flows --watch`"), "{stderr}");
    let (_, stderr, status) = run_tracker(&["top", "state", "open"], None)?;
    assert_eq!((status.code(), stderr.contains("is no state")), (Some(2), true), "{stderr}");
    Ok(())
}
