//! Which rules a connection has broken: `--violation` and `broken_rules`, from what the kernel programs remember.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Gid, chown};
use serde_json::{Value, json};
use tracker_tests::{
    agent::{Agent, eventually, run_tracker, tracker},
    lab::{Bench, Connection, INTERFACE, Pair},
    pcap::{Form, Order, Packet, pcap},
    segment::{
        Segment,
        flag::{ACK, FIN, SYN},
    },
    wire::Wire,
};

/// C asks, and S answers so often with something else than what was asked for.
fn wrong_answers(tcp: &Connection<'_>, count: u32) -> Result<()> {
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    (1..=count).try_for_each(|n| tcp.s_sends(&tcp.s(SYN | ACK, 5000, 50_000 + n)))
}

/// Connections by C's port: 1001 breaks one rule three times, 1002 none, 1003 another one, and 1004 both.
fn four(bench: &Bench) -> Result<()> {
    let from = |port| Connection::inbound(bench).from_port(port);
    wrong_answers(&from(1001), 3)?;
    from(1002).handshake()?;
    let open = from(1003);
    open.handshake()?;
    open.c_sends(&open.c(ACK, 1001, 6000))?;
    let both = from(1004);
    wrong_answers(&both, 1)?;
    both.s_sends(&both.s(SYN | ACK, 5000, 1001))?;
    both.c_sends(&both.c(ACK, 1001, 5001))?;
    both.c_sends(&both.c(ACK, 1001, 6000))?;
    bench.settle()
}

/// The source ports that are listed.
fn ports(bench: &Bench, arguments: &[&str]) -> Result<Vec<u64>> {
    let flows = bench.agent.flows(&[arguments, &["--sort", "sport"]].concat())?;
    flows.iter().map(|flow| flow["sport"].as_u64().context("a port")).collect()
}

/// What each flow has broken, in the order of the ports.
fn rules(bench: &Bench) -> Result<Vec<Value>> {
    let flows = bench.agent.flows(&["--sort", "sport"])?;
    Ok(flows.into_iter().map(|mut flow| flow["broken_rules"].take()).collect())
}

#[test]
fn flows_that_broke_a_rule() -> Result<()> {
    // As agents run: reports become rarer, and counts do not.
    let bench = Bench::sparing(&["--report-rate", "0"])?;
    four(&bench)?;
    for (arguments, expected) in [
        (&[][..], &[1001, 1002, 1003, 1004][..]),
        (&["--violation", "synack_bad_ack"], &[1001, 1004]),
        (&["--violation", "ack_unseen_data"], &[1003, 1004]),
        (&["--violation", "synack_bad_ack,ack_unseen_data"], &[1001, 1003, 1004]),
        (&["--violation", "syn_isn_change"], &[]),
        (&["--violation", "synack_bad_ack", "--not"], &[1002, 1003]),
        (&["--violation", "synack_bad_ack", "--dport", "80", "--sport", "1004"], &[1004]),
        (&["violation", "ack_unseen_data", "state", "established"], &[1003, 1004]),
    ] {
        assert_eq!(ports(&bench, arguments)?, expected, "{arguments:?}");
    }
    let known = [
        json!({"synack_bad_ack": 3}),
        json!({}),
        json!({"ack_unseen_data": 1}),
        json!({"ack_unseen_data": 1, "synack_bad_ack": 1}),
    ];
    assert_eq!(rules(&bench)?, known);
    let table = bench.agent.ask(&["flows", "-c", "sport,broken-rules", "--sort", "sport"])?;
    let cells: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["SPORT", "BROKEN_RULES"]);
    assert_eq!(cells[2], ["1002", "-"]);
    assert_eq!(cells[4], ["1004", "ack_unseen_data=1,synack_bad_ack=1"]);

    // The same flows are what is deleted.
    let said = bench.agent.ask(&["delete", "-o", "json", "--violation", "ack_unseen_data"])?;
    assert_eq!(said, "{\"v\":1,\"deleted\":2}\n");
    assert_eq!(ports(&bench, &[])?, [1001, 1002]);
    Ok(())
}

#[test]
fn also_where_every_breach_is_reported() -> Result<()> {
    let bench = Bench::new()?;
    four(&bench)?;
    assert_eq!(ports(&bench, &["--violation", "synack_bad_ack"])?, [1001, 1004]);
    assert_eq!(rules(&bench)?[0], json!({"synack_bad_ack": 3}));
    Ok(())
}

#[test]
fn rules_that_are_not_reported_are_not_remembered() -> Result<()> {
    let bench = Bench::with(&["--report", "ack_unseen_data"])?;
    four(&bench)?;
    assert_eq!(ports(&bench, &["--violation", "synack_bad_ack"])?, [0_u64; 0]);
    assert_eq!(ports(&bench, &["--violation", "ack_unseen_data"])?, [1003, 1004]);
    Ok(())
}

#[test]
fn another_connection_in_the_same_place_has_broken_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(ACK, 1001, 6000))?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    assert_eq!(bench.flow()?["broken_rules"], json!({"ack_unseen_data": 1}));
    tcp.c_sends(&tcp.c(SYN, 700_000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 900_000, 700_001))?;
    tcp.c_sends(&tcp.c(ACK, 700_001, 900_001))?;
    assert_eq!(bench.flow()?["broken_rules"], json!({}));
    Ok(())
}

#[test]
fn what_two_interfaces_have_seen_is_one_connection_s() -> Result<()> {
    let pair = Pair::silent()?;
    let far = pair.peer.path();
    let cable = ["link", "add", "veth1", "type", "veth", "peer", "name", "veth1", "netns", &far];
    pair.host.run("ip", &cable)?;
    for end in [&pair.host, &pair.peer] {
        end.run("ip", &["link", "set", "veth1", "up"])?;
    }
    let agent = Agent::start(&pair.host, &["--interface", "veth0,veth1"])?;
    // As on a router: what either end sends arrives at an interface of its own.
    let [from_client, from_server] =
        [Wire::open(&pair.peer, "veth0")?, Wire::open(&pair.peer, "veth1")?];
    let (client, server) = (([192, 0, 2, 1], 1001).into(), ([192, 0, 2, 2], 80).into());
    let c =
        |flags, seq, ack| from_client.send(&Segment::new(client, server, flags, seq, ack).frame());
    let s =
        |flags, seq, ack| from_server.send(&Segment::new(server, client, flags, seq, ack).frame());
    let so_many = |packets| {
        eventually(
            "they are counted",
            || Ok(agent.packets(Some("in"), Some("tracked"))? == packets),
        )
    };
    // One after the other, because they come by two ways.
    c(SYN, 1000, 0)?;
    so_many(1)?;
    s(SYN | ACK, 5000, 1001)?;
    so_many(2)?;
    c(ACK, 1001, 5001)?;
    so_many(3)?;
    c(ACK, 1001, 6000)?;
    c(ACK, 1001, 60_000)?;
    s(ACK, 5001, 2000)?;
    so_many(6)?;
    let flows = agent.flows(&["--violation", "ack_unseen_data"])?;
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0]["broken_rules"], json!({"ack_unseen_data": 2}));
    assert_eq!(flows[0]["violations"], 2);
    Ok(())
}

#[test]
fn what_is_remembered_outlives_the_agent_and_is_lent() -> Result<()> {
    const GROUP: u32 = 64_125;
    let bench = Bench::sparing(&["--report-rate", "0"])?;
    four(&bench)?;
    let Bench { agent, events, pair, .. } = bench;
    drop(events);
    let killed = agent.kill()?;
    let broken = ["flows", "-o", "jsonl", "--violation", "synack_bad_ack"];
    assert_eq!(killed.ask(&broken)?.lines().count(), 2);
    let agent = killed.restart(&pair.host, &["--interface", INTERFACE])?;
    assert_eq!(agent.ask(&broken)?.lines().count(), 2);

    // As if the agent ran with that group.
    for file in ["sock", "json"] {
        let path = format!("/run/tracker/{}.{file}", agent.name());
        chown(path.as_str(), None, Some(Gid::from_raw(GROUP)))?;
    }
    // Where any user can start it.
    let directory = std::env::temp_dir().join(format!("tracker-broken-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let program = directory.join("tracker");
    fs::copy(tracker()?, &program)?;
    let group = GROUP.to_string();
    let output = Command::new("setpriv")
        .args(["--reuid", "64126", "--regid", &group, "--clear-groups"])
        .arg(&program)
        .args(agent.command(&broken)?.get_args())
        .output()?;
    fs::remove_dir_all(&directory)?;
    let out = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(out.lines().count(), 2, "{out}");
    ensure!(out.contains("\"broken_rules\":{\"synack_bad_ack\":3}"), "{out}");
    Ok(())
}

#[test]
fn an_unknown_rule_is_refused_with_those_there_are() -> Result<()> {
    for arguments in [
        &["flows", "--violation", "nonsense"][..],
        &["flows", "violation", "nonsense"],
        &["top", "--violation", "nonsense"],
        &["delete", "--violation", "nonsense"],
        &["replay", "--violation", "nonsense", "capture.pcap"],
        &["events", "--violation", "nonsense"],
    ] {
        let (_, stderr, status) = run_tracker(arguments, None)?;
        assert_eq!(status.code(), Some(2), "{stderr}");
        ensure!(stderr.contains("`nonsense` is no rule; there are "), "{arguments:?}: {stderr}");
        ensure!(stderr.contains(", synack_bad_ack,"), "{arguments:?}: {stderr}");
    }
    let (_, stderr, status) = run_tracker(&["trace", "violation", "syn_fin"], None)?;
    assert_eq!(status.code(), Some(2), "{stderr}");
    ensure!(stderr.contains("`violation` chooses flows and events"), "{stderr}");
    let twice = ["flows", "--violation", "syn_fin", "violation", "xmas"];
    let (_, stderr, status) = run_tracker(&twice, None)?;
    assert_eq!(status.code(), Some(2), "{stderr}");
    ensure!(stderr.contains("`violation` is given twice"), "{stderr}");
    Ok(())
}

#[test]
fn events_by_words() -> Result<()> {
    let bench = Bench::new()?;
    let mut child = bench
        .agent
        .command(&["events", "-o", "jsonl", "--last", "2", "violation", "ack_unseen_data"])?
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let mut listening = String::new();
    let mut stderr = std::io::BufReader::new(child.stderr.take().context("a pipe")?);
    std::io::BufRead::read_line(&mut stderr, &mut listening)?;
    four(&bench)?;
    let output = child.wait_with_output()?;
    let told = String::from_utf8(output.stdout)?;
    assert_eq!(told.lines().count(), 2, "{told}");
    ensure!(told.lines().all(|line| line.contains("\"name\":\"ack_unseen_data\"")), "{told}");
    Ok(())
}

/// A capture of three connections that begin a second apart: 1001 breaks a rule three times, 1002 none, 1003 another one.
fn capture(name: &str) -> Result<std::path::PathBuf> {
    const START_NS: u64 = 1_700_000_000_000_000_000;
    let server = ([192, 0, 2, 2], 80).into();
    let mut packets = Vec::new();
    let mut send = |second: u64, segment: &Segment| {
        packets.push(Packet::new(START_NS + second * 1_000_000_000, segment.frame()));
    };
    let client = |port: u16| ([192, 0, 2, 1], port).into();
    send(0, &Segment::new(client(1001), server, SYN, 1000, 0));
    for n in 1..=3 {
        send(0, &Segment::new(server, client(1001), SYN | ACK, 5000, 50_000 + n));
    }
    for (second, port) in [(1, 1002), (2, 1003)] {
        send(second, &Segment::new(client(port), server, SYN, 1000, 0));
        send(second, &Segment::new(server, client(port), SYN | ACK, 5000, 1001));
        send(second, &Segment::new(client(port), server, ACK, 1001, 5001));
    }
    send(2, &Segment::new(client(1003), server, ACK, 1001, 6000));
    let file = std::env::temp_dir().join(format!("tracker-{name}-{}.pcap", std::process::id()));
    fs::write(&file, pcap(Order::Little, Form::Nanoseconds, 1, &packets))?;
    Ok(file)
}

/// The source ports of a replay's events and of its connections.
fn replay(file: &std::path::Path, arguments: &[&str]) -> Result<(Vec<u64>, Vec<Value>)> {
    let path = file.to_str().context("a path of UTF-8")?;
    let asked = [&["replay", path, "-o", "json"], arguments].concat();
    let (out, said, status) = run_tracker(&asked, None)?;
    ensure!(status.success(), "{said}");
    let mut document: Value = serde_json::from_str(&out)?;
    let events = document["events"].as_array().context("events")?;
    let events = events.iter().filter_map(|event| event["flow"]["sport"].as_u64()).collect();
    let Value::Array(flows) = document["flows"].take() else { anyhow::bail!("no flows") };
    Ok((events, flows))
}

#[test]
fn of_a_capture_it_is_known_exactly() -> Result<()> {
    let file = capture("broken")?;
    for (arguments, events, flows) in [
        // The third breach of a rule is not reported.
        (&[][..], &[1001, 1001, 1003][..], &[1001, 1002, 1003][..]),
        (&["--every"], &[1001, 1001, 1001, 1003], &[1001, 1002, 1003]),
        (&["--violation", "synack_bad_ack"], &[1001, 1001], &[1001]),
        (&["--violation", "ack_unseen_data,synack_bad_ack"], &[1001, 1001, 1003], &[1001, 1003]),
        (&["-e", "new", "--violation", "ack_unseen_data"], &[], &[1003]),
        (
            &["-e", "new", "--violation", "ack_unseen_data", "--not"],
            &[1001, 1002, 1003],
            &[1001, 1002],
        ),
        (&["--since", "2023-11-14T22:13:21Z"], &[1003], &[1002, 1003]),
        (&["--since", "2023-11-15T00:13:22+02:00"], &[1003], &[1003]),
        (&["--since", "1h"], &[], &[]),
        (&["--last", "2"], &[1001, 1001, 1003], &[1002, 1003]),
        (&["--last", "1", "--violation", "synack_bad_ack"], &[1001, 1001], &[1001]),
        (&["--last", "0"], &[1001, 1001, 1003], &[]),
    ] {
        let (told, listed) = replay(&file, arguments)?;
        assert_eq!(told, events, "{arguments:?}");
        let ports: Vec<_> = listed.iter().filter_map(|flow| flow["sport"].as_u64()).collect();
        assert_eq!(ports, flows, "{arguments:?}");
    }
    let (_, flows) = replay(&file, &[])?;
    let rules: Vec<_> = flows.iter().map(|flow| &flow["broken_rules"]).collect();
    assert_eq!(rules, [&json!({"synack_bad_ack": 3}), &json!({}), &json!({"ack_unseen_data": 1})]);

    // A diagram is drawn of the same connections.
    let path = file.to_str().context("a path of UTF-8")?;
    for (arguments, expected) in [
        (&["--violation", "ack_unseen_data"][..], &["1003"][..]),
        (&["--since", "2023-11-14T22:13:21Z"], &["1002", "1003"]),
    ] {
        let asked = [&["replay", path, "--ladder"], arguments].concat();
        let (out, said, status) = run_tracker(&asked, None)?;
        ensure!(status.success(), "{said}");
        let drawn: Vec<_> = out
            .lines()
            .filter_map(|line| line.strip_prefix("192.0.2.1:")?.split_whitespace().next())
            .collect();
        assert_eq!(drawn, expected, "{out}");
    }
    Ok(fs::remove_file(file)?)
}
