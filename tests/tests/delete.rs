//! `tracker delete` and `tracker flush`.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result};
use nix::unistd::{Gid, chown};
use serde_json::Value;
use tracker_tests::{
    agent::tracker,
    lab::{Bench, Connection},
    segment::flag::{ACK, PSH, SYN},
};

#[test]
fn what_is_meant_goes_and_the_rest_stays() -> Result<()> {
    let bench = Bench::new()?;
    for port in [1001, 1002] {
        Connection::inbound(&bench).from_port(port).handshake()?;
    }
    let half_open = Connection::inbound(&bench).from_port(1003);
    half_open.c_sends(&half_open.c(SYN, 1, 0))?;
    bench.settle()?;
    bench.events.take()?;

    let said = bench.agent.ask(&["delete", "-o", "json", "sport", "1001"])?;
    assert_eq!(said, "{\"v\":1,\"deleted\":1}\n");
    let event = bench.events.wait_for("DESTROY")?;
    assert_eq!(
        (&event["flow"]["sport"], &event["end"]["reason"]),
        (&1001.into(), &"deleted".into())
    );
    let ports = |bench: &Bench| -> Result<Vec<u64>> {
        let flows = bench.agent.flows(&[])?;
        flows.iter().map(|flow| flow["sport"].as_u64().context("a port")).collect()
    };
    let mut left = ports(&bench)?;
    left.sort_unstable();
    assert_eq!(left, [1002, 1003]);
    assert_eq!(
        bench.agent.ask(&["delete", "-o", "jsonl", "sport", "7"])?,
        "{\"v\":1,\"deleted\":0}\n"
    );

    // A half-open one is no handshake that was not completed in time.
    assert_eq!(bench.agent.ask(&["flush", "-o", "json"])?, "{\"v\":1,\"deleted\":2}\n");
    assert!(ports(&bench)?.is_empty());
    assert_eq!(bench.agent.counter("flows_deleted")?, 3);
    assert_eq!(bench.agent.counter("flows_expired")?, 0);
    bench.nothing_reported()?;
    // What goes on is picked up in its middle.
    let tcp = Connection::inbound(&bench).from_port(1002);
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(10))?;
    bench.settle()?;
    assert_eq!(bench.flow()?["midstream"], true);
    Ok(())
}

#[test]
fn a_flow_that_is_in_use_goes_too() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    bench.settle()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        // Each tick renews it, so that no judgement of it stays true for long.
        let sender = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                tcp.s_sends(&tcp.s(ACK, 5001, 1001))?;
            }
            Ok(())
        });
        let asked = (0..20).map(|_| bench.agent.ask(&["delete", "-o", "json", "dport", "80"]));
        let said: Result<Vec<_>> = asked.collect();
        is_over.store(true, Ordering::Relaxed);
        sender.join().expect("it does not panic")?;
        let deleted = said?.iter().filter(|said| said.contains("\"deleted\":1")).count();
        // Once it is gone, the next segment begins it anew; that may come after the next deletion.
        assert!(deleted > 0);
        assert!(bench.agent.counter("flows_deleted")? >= u64::try_from(deleted)?);
        Ok(())
    })
}

#[test]
fn the_group_may_look_and_only_root_deletes() -> Result<()> {
    const GROUP: u32 = 64_123;
    const USER: u32 = 64_124;
    let bench = Bench::quiet(&[])?;
    Connection::inbound(&bench).handshake()?;
    // Two handshakes in the SYN cache, which root reads in mapped memory and others in copies.
    let begun = Connection::inbound(&bench).from_port(40_001);
    begun.c_sends(&begun.c(SYN, 7000, 0))?;
    let answered = Connection::outbound(&bench).ipv6().from_port(40_002);
    answered.c_sends(&answered.c(SYN, 8000, 0))?;
    bench.settle()?;
    answered.s_sends(&answered.s(SYN | ACK, 9000, 8001))?;
    bench.settle()?;
    // As if the agent ran with that group.
    for file in ["sock", "json"] {
        let path = format!("/run/tracker/{}.{file}", bench.agent.name());
        chown(path.as_str(), None, Some(Gid::from_raw(GROUP)))?;
    }
    // Where any user can start it.
    let directory = std::env::temp_dir().join(format!("tracker-group-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let program = directory.join("tracker");
    std::fs::copy(tracker()?, &program)?;
    let ask = |group: u32, arguments: &[&str]| -> Result<(bool, String, String)> {
        let command = bench.agent.command(arguments)?;
        let (user, group) = (USER.to_string(), group.to_string());
        let output = Command::new("setpriv")
            .args(["--reuid", &user, "--regid", &group, "--clear-groups"])
            .arg(&program)
            .args(command.get_args())
            .output()?;
        let text = |bytes| String::from_utf8(bytes);
        Ok((output.status.success(), text(output.stdout)?, text(output.stderr)?))
    };
    let (is_done, out, said) = ask(GROUP, &["flows", "-o", "jsonl"])?;
    assert!(is_done, "{said}");
    let mut flows = out.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let sorted = |flows: &mut Vec<Value>| flows.sort_by_key(|flow| flow["orig"]["isn"].as_u64());
    sorted(&mut flows);
    let mut of_root = bench.agent.flows(&[])?;
    sorted(&mut of_root);
    let what = |flow: &Value| {
        let of = |end: &str| ["state", "isn", "packets"].map(|name| flow[end][name].clone());
        (["tier", "src", "sport"].map(|name| flow[name].clone()), of("orig"), of("reply"))
    };
    let all = |flows: &[Value]| flows.iter().map(what).collect::<Vec<_>>();
    assert_eq!(all(&flows), all(&of_root));
    let tiers = flows.iter().map(|flow| flow["tier"].as_str()).collect::<Vec<_>>();
    assert_eq!(tiers, [Some("confirmed"), Some("half_open"), Some("half_open")], "{out}");
    let (is_done, out, said) = ask(GROUP, &["stats", "-o", "json"])?;
    assert!(is_done && out.contains("\"flows_confirmed\": 1"), "{out}{said}");
    let (is_done, _, said) = ask(GROUP, &["flush"])?;
    assert!(!is_done && said.contains("deleting flows needs root"), "{said}");
    let (is_done, _, said) = ask(USER, &["flows"])?;
    assert!(!is_done && said.contains("root and its group only"), "{said}");
    assert_eq!(bench.agent.flows(&[])?.len(), 3);
    Ok(std::fs::remove_dir_all(directory)?)
}

#[test]
fn what_makes_no_sense_is_refused() -> Result<()> {
    for (arguments, expected) in [
        (&["delete"][..], "which flows?"),
        (&["delete", "sport"], "`sport` of what?"),
        (&["--instance", "nobody", "flush"], "no agent named `nobody` is running"),
    ] {
        let (_, said, status) = tracker_tests::agent::run_tracker(arguments, None)?;
        assert!(!status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
    Ok(())
}
