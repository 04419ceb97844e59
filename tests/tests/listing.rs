//! `tracker flows`: which, in which order, in which form, and again and again.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracker_tests::{
    agent::run_tracker,
    lab::{Bench, address},
    segment::{
        Segment,
        flag::{ACK, PSH, SYN},
    },
};

/// Three connections from the peer, by ports 1001 to 1003, of which the second sends most and the third nothing.
fn three() -> Result<Bench> {
    let bench = Bench::new()?;
    let (client, server) = (address::PEER[0], SocketAddr::new(address::HOST[0], 80));
    for (port, bytes) in [(1001, 100), (1002, 1000), (1003, 0)] {
        let client = SocketAddr::new(client, port);
        let mut segments = vec![(true, Segment::new(client, server, SYN, 1, 0))];
        segments.push((false, Segment::new(server, client, SYN | ACK, 500, 2)));
        segments.push((true, Segment::new(client, server, ACK, 2, 501)));
        if bytes > 0 {
            let data = Segment::new(client, server, PSH | ACK, 2, 501).data(bytes);
            segments.push((true, data));
        }
        for (arrives, segment) in segments {
            if arrives {
                bench.arrive(&segment.frame())?;
            } else {
                bench.leave(&segment.frame())?;
            }
        }
    }
    bench.settle()?;
    Ok(bench)
}

/// The source ports that are listed.
fn ports(bench: &Bench, arguments: &[&str]) -> Result<Vec<u64>> {
    let flows = bench.agent.flows(arguments)?;
    flows.iter().map(|flow| flow["sport"].as_u64().context("a port")).collect()
}

#[test]
fn order_and_choice() -> Result<()> {
    let bench = three()?;
    for (arguments, expected) in [
        (&[][..], &[1001, 1002, 1003][..]),
        (&["--sort", "bytes"], &[1003, 1001, 1002]),
        (&["--sort", "bytes", "--last", "1"], &[1002]),
        (&["--sort", "bytes", "--reverse", "--last", "1"], &[1003]),
        (&["--sort", "packets", "--last", "2"], &[1001, 1002]),
        (&["--sort", "sport", "--reverse"], &[1003, 1002, 1001]),
        (&["--min-bytes", "1k"], &[1002]),
        (&["--min-bytes", "1k", "--not"], &[1001, 1003]),
        (&["--older-than", "1h"], &[]),
        (&["--older-than", "0s"], &[1001, 1002, 1003]),
        (&["--since", "1h"], &[1001, 1002, 1003]),
        (&["--since", "0s"], &[]),
        (&["--since", "2023-11-14T22:13:20Z"], &[1001, 1002, 1003]),
        (&["--since", "2223-11-14T22:13:20+02:00"], &[]),
    ] {
        assert_eq!(ports(&bench, arguments)?, expected, "{arguments:?}");
    }
    Ok(())
}

#[test]
fn since_the_first_packet_of_one_of_them() -> Result<()> {
    let bench = three()?;
    let flows = bench.agent.flows(&["--sort", "sport"])?;
    let between = |one: &serde_json::Value, other: &serde_json::Value| -> Result<String> {
        let time = |flow: &serde_json::Value| -> Result<jiff::Timestamp> {
            Ok(flow["created"].as_str().context("a time")?.parse()?)
        };
        let (one, other) = (time(one)?, time(other)?);
        Ok((one + other.duration_since(one) / 2).to_string())
    };
    // Both clocks are read anew each time: moments differ by less than what lies between two of them.
    assert_eq!(ports(&bench, &["--since", &between(&flows[0], &flows[1])?])?, [1002, 1003]);
    assert_eq!(ports(&bench, &["--since", &between(&flows[1], &flows[2])?])?, [1003]);
    assert_eq!(
        ports(&bench, &["--since", &between(&flows[1], &flows[2])?, "--older-than", "0s"])?,
        [1003]
    );
    Ok(())
}

#[test]
fn a_table_of_columns() -> Result<()> {
    let bench = three()?;
    let table = bench.agent.ask(&["flows", "-c", "sport,state,bytes", "--sort", "sport"])?;
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["SPORT", "STATE", "BYTES"]);
    let flows = bench.agent.flows(&["--sort", "sport"])?;
    assert_eq!(rows.len(), 4);
    for (row, flow) in rows[1..].iter().zip(&flows) {
        let bytes = flow["orig"]["bytes"].as_u64().zip(flow["reply"]["bytes"].as_u64());
        let (one, other) = bytes.context("counters")?;
        assert_eq!(row[0], flow["sport"].to_string());
        assert_eq!(row[1], "ESTABLISHED/ESTABLISHED");
        assert_eq!(row[2], (one + other).to_string());
    }
    Ok(())
}

#[test]
fn again_and_again() -> Result<()> {
    let bench = three()?;
    let mut child = bench
        .agent
        .command(&["flows", "--watch", "0.1", "-c", "sport", "--sort", "sport"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    for _ in 0..2 {
        let mut look = || lines.next().context("it ended")?.map_err(anyhow::Error::from);
        let head = look()?;
        ensure!(head.starts_with("flows at 20"), "{head}");
        let body = (0..5).map(|_| look()).collect::<Result<Vec<_>>>()?;
        assert_eq!(body, ["SPORT", "1001", "1002", "1003", "3 flows"]);
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    ensure!(child.wait()?.code() == Some(0));
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused() -> Result<()> {
    for (arguments, said) in [
        (&["-o", "json", "--columns", "src"][..], "JSON has all fields"),
        (&["-o", "json", "--watch"], "`-o jsonl`"),
        (&["--sort", "size"], "bytes"),
        (&["--min-bytes", "many"], "4096, 10k, 2G"),
        (&["--older-than", "old"], "--older-than"),
        (&["--watch", "0"], "from 0.1 to 3600"),
        (&["--since", "yesterday"], "neither how long ago, as in 90s or 2h 30m, nor a time"),
        (&["--since=-5m"], "neither how long ago"),
    ] {
        let (_, stderr, status) = run_tracker(&[&["flows"], arguments].concat(), None)?;
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
    Ok(())
}
