//! Records of connections: which are written, to files that are bounded, and read back.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, eventually, run_tracker},
    export::{AT_ONCE, Directory, closes, is, metric, records, wait_for},
    lab::{Bench, Connection, INTERFACE, Pair},
    segment::flag::{ACK, FIN, RST, SYN},
    wire::Wire,
};

#[test]
fn by_default_it_is_what_went_wrong() -> Result<()> {
    let directory = Directory::new("default")?;
    let file = directory.path("records.jsonl")?;
    let bench =
        Bench::with(&[&["--export-file", &file, "--export-host", "web-1"], &AT_ONCE[..]].concat())?;
    // Its numbers, 1000 and 5000, are in no sample of one in 100.
    let usual = Connection::inbound(&bench);
    closes(&usual)?;
    bench.events.wait(|event| event["event"] == "DESTROY" && event["flow"]["sport"] == 40_000)?;
    let reset = Connection::inbound(&bench).from_port(40_001);
    reset.handshake()?;
    reset.s_sends(&reset.s(RST, 5001, 0))?;
    let end = wait_for(&file, "the connection that was reset", is("end", 40_001))?;
    let broken = Connection::inbound(&bench).from_port(40_002);
    broken.handshake()?;
    // It acknowledges what was never sent.
    broken.c_sends(&broken.c(ACK, 1001, 9001))?;
    let breach = wait_for(&file, "the breach", |record| record["about"] == "violation")?;
    broken.s_sends(&broken.s(RST, 5001, 0))?;
    let broken_end = wait_for(&file, "the end of the connection with it", is("end", 40_002))?;

    ensure!(end["conn_state"] == "RSTR" && end["end"]["reason"] == "rst", "{end}");
    ensure!(end["orig"]["isn"] == 1000 && end["reply"]["isn"] == 5000, "{end}");
    ensure!(end["host"] == "web-1" && end["agent"] == bench.agent.name(), "{end}");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    ensure!(end["boot_id"] == boot.trim(), "{end}");
    ensure!(end["duration_ns"].is_u64() && end["v"] == 1, "{end}");
    ensure!(breach["violation"]["name"] == "ack_unseen_data", "{breach}");
    ensure!(breach["segment"]["ack"] == 9001 && breach["id"] == broken_end["id"], "{breach}");
    ensure!(broken_end["broken_rules"]["ack_unseen_data"] == 1, "{broken_end}");
    let all = records(&file)?;
    ensure!(all.len() == 3, "{all:?}");
    bench.agent.finish()?;
    Ok(())
}

#[test]
fn everything_that_is_asked_for_and_passes_the_filter() -> Result<()> {
    let directory = Directory::new("all")?;
    let file = directory.path("records.jsonl")?;
    let options =
        ["--export-file", &file, "--export", "all", "--export-filter", "dport 80 and not ip6"];
    let bench = Bench::with(&[&options, &AT_ONCE[..]].concat())?;
    closes(&Connection::inbound(&bench).ipv6().from_port(40_005))?;
    let wait = |port: u16| {
        bench
            .events
            .wait(move |event| event["event"] == "DESTROY" && event["flow"]["sport"] == port)
    };
    wait(40_005)?;
    closes(&Connection::inbound(&bench))?;
    let end = wait_for(&file, "a connection that closed", is("end", 40_000))?;
    ensure!(
        end["conn_state"] == "SF" && end["community_id"] == "1:G+HkHCrmxWLQgwEnSytJ6z6uCFc=",
        "{end}"
    );
    // As `tracker events` had it.
    let event = wait(40_000)?;
    for field in ["orig", "reply", "history", "created_ns", "interface"] {
        ensure!(end[field] == event["flow"][field], "{field}: {end} {event}");
    }
    let all = records(&file)?;
    ensure!(all.len() == 1, "{all:?}");
    Ok(())
}

#[test]
fn a_connection_that_goes_on_keeps_its_identity_over_a_kill() -> Result<()> {
    let directory = Directory::new("kill")?;
    let file = directory.path("records.jsonl")?;
    let options = ["--export-file", &file, "--export", "all", "--export-update", "1"];
    let bench = Bench::with(&[&options, &AT_ONCE[..]].concat())?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    let first = wait_for(&file, "the connection", is("update", 40_000))?;
    ensure!(first["orig"]["state"] == "ESTABLISHED" && first["duration_ns"].is_u64(), "{first}");
    ensure!(first.get("end").is_none(), "{first}");
    let mut arguments = vec!["--interface", INTERFACE, "--xdp", "native"];
    arguments.extend(options);
    arguments.extend(AT_ONCE);
    let Bench { agent, pair, .. } = bench;
    let mut agent = agent;
    for _ in 0..3 {
        let killed = agent.kill()?;
        let before = records(&file)?.len();
        agent = killed.restart(&pair.host, &arguments)?;
        eventually("there are further records", || Ok(records(&file)?.len() > before))?;
    }
    let wire = Wire::open(&pair.peer, INTERFACE)?;
    let reset = tracker_tests::segment::Segment::new(
        ([192, 0, 2, 1], 40_000).into(),
        ([192, 0, 2, 2], 80).into(),
        RST,
        1001,
        0,
    );
    wire.send(&reset.frame())?;
    let end = wait_for(&file, "the connection's end", is("end", 40_000))?;
    let all = records(&file)?;
    ensure!(all.iter().all(|record| record["id"] == end["id"]), "{all:?}");
    // What is read back is one connection, as it ended.
    let (out, said, status) = run_tracker(&["flows", "--from", &file, "-o", "jsonl"], None)?;
    ensure!(status.success(), "{said}");
    ensure!(out.lines().count() == 1 && out.contains("\"conn_state\":\"RSTO\""), "{out}");
    agent.finish()?;
    Ok(())
}

#[test]
fn what_is_written_passes_a_schema_and_metrics_count_it() -> Result<()> {
    let directory = Directory::new("schema")?;
    let file = directory.path("records.jsonl")?;
    let options = ["--export-file", &file, "--export", "all", "--export-update", "1", "--metrics"];
    let bench = Bench::with(&[&options, &AT_ONCE[..]].concat())?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    wait_for(&file, "an update", is("update", 40_000))?;
    tcp.c_sends(&tcp.c(SYN | FIN, 1001, 0))?;
    tcp.c_sends(&tcp.c(RST, 1001, 0))?;
    wait_for(&file, "an end", is("end", 40_000))?;
    let schema =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/export.line.schema.json");
    let schema: Value = serde_json::from_slice(&fs::read(schema)?)?;
    let schema = jsonschema::validator_for(&schema).map_err(|error| anyhow::anyhow!("{error}"))?;
    for record in records(&file)? {
        let errors: Vec<_> = schema.iter_errors(&record).map(|error| error.to_string()).collect();
        ensure!(errors.is_empty(), "{errors:?}: {record}");
    }
    // The counter follows the write.
    eventually("metrics count the records", || {
        let text = fs::read_to_string(&file)?;
        let value = |name: &str| metric(&bench.pair, "file", name);
        ensure!(value("records_lost_total")? == 0 && value("failures_total")? == 0);
        Ok(value("records_total")? == text.lines().count() as u64
            && value("bytes_total")? == text.len() as u64
            && value("records_waiting")? == 0)
    })
}

#[test]
fn files_are_bounded() -> Result<()> {
    let directory = Directory::new("bounded")?;
    let file = directory.path("records.jsonl")?;
    let options = [
        "--export-file",
        &file,
        "--export",
        "all",
        "--export-file-size",
        "5k",
        "--export-file-count",
        "3",
    ];
    let bench = Bench::with(&options)?;
    for port in 0..40 {
        let tcp = Connection::inbound(&bench).from_port(1000 + port);
        tcp.c_sends(&tcp.c(SYN, 1, 0))?;
    }
    bench.settle()?;
    bench.agent.ask(&["flush"])?;
    for _ in 0..40 {
        bench.events.wait_for("DESTROY")?;
    }
    bench.agent.finish()?;
    let mut ports = Vec::new();
    for name in ["records.jsonl.2", "records.jsonl.1", "records.jsonl"] {
        let path = directory.path(name)?;
        ensure!(fs::metadata(&path)?.len() <= 5000, "{name}");
        for record in records(&path)? {
            ports.push(record["sport"].as_u64().context("a port")?);
        }
    }
    ensure!(fs::read_dir(directory.path("")?)?.count() == 3);
    ports.sort_unstable();
    ports.dedup();
    // The last of them, each once.
    ensure!((6..=15).contains(&ports.len()), "{ports:?}");
    Ok(())
}

#[test]
fn a_full_disk_stops_nothing_and_nothing_is_lost_that_finds_room_in_memory() -> Result<()> {
    let mut directory = Directory::new("full")?;
    let small = directory.mount("small", 64)?;
    let file = small.join("records.jsonl").into_os_string().into_string().ok().context("UTF-8")?;
    let filler = small.join("filler");
    let bench = Bench::with(&["--export-file", &file, "--export", "all"])?;
    let send = |ports: std::ops::Range<u16>| -> Result<()> {
        for port in ports.clone() {
            let tcp = Connection::inbound(&bench).from_port(port);
            tcp.c_sends(&tcp.c(SYN, 1, 0))?;
        }
        bench.settle()?;
        bench.agent.ask(&["flush"])?;
        ports.clone().try_for_each(|port| {
            bench
                .events
                .wait(move |event| event["event"] == "DESTROY" && event["flow"]["sport"] == port)?;
            Ok(())
        })
    };
    send(1000..1001)?;
    wait_for(&file, "the first one", is("end", 1000))?;
    let mut filling = fs::File::create(&filler)?;
    while filling.write_all(&[0; 512]).is_ok() {}
    drop(filling);
    // More than what is left of the page that the file has.
    send(1001..1021)?;
    let said = bench.agent.wait_for_log("this is tried again, and records wait")?;
    ensure!(said.contains("No space left on device"), "{said}");
    ensure!(bench.agent.flows(&[])?.is_empty(), "it goes on");
    fs::remove_file(filler)?;
    bench.agent.wait_for_log("records can be written again")?;
    for port in 1000..1021 {
        wait_for(&file, &format!("port {port}"), is("end", port))?;
    }
    let all = records(&file)?;
    ensure!(all.len() == 21, "{}", all.len());
    Ok(())
}

#[test]
fn exporting_begins_changes_and_ends_at_sighup() -> Result<()> {
    let directory = Directory::new("reload")?;
    let (config, first, second) =
        (directory.path("tracker.toml")?, directory.path("1.jsonl")?, directory.path("2.jsonl")?);
    fs::write(&config, "")?;
    let bench = Bench::with(&[&["--config", &config], &AT_ONCE[..]].concat())?;
    let reload = |text: &str, said: &str| -> Result<()> {
        fs::write(&config, text)?;
        kill(Pid::from_raw(bench.agent.pid().cast_signed()), Signal::SIGHUP)?;
        bench.agent.wait_for_log(said)?;
        Ok(())
    };
    let close = |port| {
        closes(&Connection::inbound(&bench).from_port(port))?;
        bench
            .events
            .wait(move |event| event["event"] == "DESTROY" && event["flow"]["sport"] == port)
    };
    close(1001)?;
    reload(&format!("export-file = \"{first}\"\nexport = \"ended\"\n"), "setting=\"export-file\"")?;
    close(1002)?;
    wait_for(&first, "a connection", is("end", 1002))?;
    reload(
        &format!("export-file = \"{second}\"\nexport = \"ended\"\n"),
        "setting=\"export-file\"",
    )?;
    close(1003)?;
    wait_for(&second, "a connection", is("end", 1003))?;
    reload("", "setting=\"export-file\"")?;
    close(1004)?;
    // What cannot be written is said, and the agent goes on.
    let wrong = format!("export-file = \"{config}\"\nexport = \"ended\"\n");
    fs::write(&config, &wrong)?;
    kill(Pid::from_raw(bench.agent.pid().cast_signed()), Signal::SIGHUP)?;
    let said = bench.agent.wait_for_log("this is tried again")?;
    ensure!(said.contains("no exported records"), "{said}");
    close(1005)?;
    bench.agent.finish()?;
    ensure!(fs::read_to_string(&config)? == wrong);
    for (path, port) in [(&first, 1002), (&second, 1003)] {
        let all = records(path)?;
        ensure!(all.len() == 1 && all[0]["sport"] == port, "{all:?}");
    }
    Ok(())
}

#[test]
fn what_run_would_refuse_is_refused() -> Result<()> {
    let directory = Directory::new("refused")?;
    let other = directory.path("other")?;
    fs::write(&other, "127.0.0.1 localhost\n")?;
    let pair = Pair::silent()?;
    let config = directory.path("tracker.toml")?;
    for (text, said) in [
        (format!("export-file = \"{other}\"\n"), "no exported records"),
        (format!("export-file = \"{other}/none\"\n"), "Not a directory"),
        (format!("export-file = \"{other}2/none\"\n"), "there is no directory"),
        ("export = \"all\"\n".to_owned(), "--export-file"),
        (format!("export-file = \"{other}2\"\nexport = \"most\"\n"), "none of violations"),
        (
            format!("export-file = \"{other}2\"\nexport-filter = \"prot 80\"\n"),
            "did you mean `port`",
        ),
        (format!("export-file = \"{other}2\"\nexport-file-size = 10\n"), "4096 bytes at least"),
    ] {
        fs::write(&config, format!("interface = [\"{INTERFACE}\"]\n{text}"))?;
        let (out, error, status) = run_tracker(&["config", "check", &config], Some(&pair.host))?;
        ensure!(status.code() == Some(1) && out.is_empty(), "{text}: {out}{error}");
        ensure!(error.contains(said), "{said}: {error}");
    }
    ensure!(!Path::new(&format!("{other}2")).exists(), "a check makes nothing");
    fs::write(&config, format!("interface = [\"{INTERFACE}\"]\nexport-file = \"{other}2\"\n"))?;
    let (_, error, status) = run_tracker(&["config", "check", &config], Some(&pair.host))?;
    ensure!(status.success(), "{error}");
    Ok(())
}

#[test]
fn records_are_asked_as_an_agent_is() -> Result<()> {
    let directory = Directory::new("from")?;
    let file = directory.path("records.jsonl")?;
    let bench = Bench::with(&["--export-file", &file, "--export", "all"])?;
    for (port, data) in [(1001, 100), (1002, 1000), (1003, 0)] {
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.handshake()?;
        if data > 0 {
            tcp.c_sends(&tcp.c(ACK, 1001, 5001).data(data))?;
        }
    }
    let broken = Connection::inbound(&bench).from_port(1004);
    broken.handshake()?;
    broken.c_sends(&broken.c(SYN | FIN, 1001, 0))?;
    bench.settle()?;
    bench.agent.ask(&["flush"])?;
    for port in 1001..=1004 {
        wait_for(&file, "each of them", is("end", port))?;
    }
    bench.agent.finish()?;
    let ports = |arguments: &[&str]| -> Result<Vec<u64>> {
        let arguments = [&["flows", "--from", &file, "-o", "jsonl"], arguments].concat();
        let (out, said, status) = run_tracker(&arguments, None)?;
        ensure!(status.success(), "{arguments:?}: {said}");
        let lines = out.lines().map(serde_json::from_str::<Value>);
        lines.map(|line| line?["sport"].as_u64().context("a port")).collect()
    };
    for (arguments, expected) in [
        (&[][..], &[1001, 1002, 1003, 1004][..]),
        (&["--sort", "bytes", "--last", "1"], &[1002]),
        (&["--sort", "sport", "--reverse"], &[1004, 1003, 1002, 1001]),
        (&["--min-bytes", "1k"], &[1002]),
        (&["sport", "1003", "or", "sport", "1001"], &[1001, 1003]),
        (&["--violation", "syn_fin"], &[1004]),
        (&["--violation", "xmas"], &[]),
        (&["--older-than", "1h"], &[]),
        (&["--since", "1h"], &[1001, 1002, 1003, 1004]),
        (&["--interface", INTERFACE, "--state", "established"], &[1001, 1002, 1003, 1004]),
        // The same file twice has the same connections.
        (&["--from", &file], &[1001, 1002, 1003, 1004]),
    ] {
        assert_eq!(ports(arguments)?, expected, "{arguments:?}");
    }
    let (table, said, status) =
        run_tracker(&["flows", "--from", &file, "-c", "sport,age,broken-rules"], None)?;
    ensure!(status.success() && said.contains("4 flows shown"), "{said}");
    ensure!(table.contains("1004") && table.contains("syn_fin=1"), "{table}");
    // A pipe is read, too.
    let mut child = Command::new(tracker_tests::agent::tracker()?)
        .args(["flows", "--from", "-", "sport", "1002"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    child.stdin.take().context("a pipe")?.write_all(&fs::read(&file)?)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && text.lines().count() == 1 && text.contains("sport=1002"),
        "{text}"
    );

    let config = directory.path("tracker.toml")?;
    fs::write(&config, "interface = [\"eth0\"]\n")?;
    for (arguments, code, said) in [
        (&["--from", &file, "--watch"][..], 2, "--watch"),
        (&["--from", &file, "-c", "process"], 2, "records do not have the processes"),
        (&["--from", &config], 1, "line 1: this is no record"),
        (&["--from", "/nonexistent"], 1, "/nonexistent"),
        (&["--from", "/tmp"], 1, "is a directory"),
    ] {
        let (_, error, status) = run_tracker(&[&["flows"], arguments].concat(), None)?;
        ensure!(status.code() == Some(code) && error.contains(said), "{arguments:?}: {error}");
    }
    Ok(())
}

/// An agent needs no listener for its exports: the kernel reports what they need.
#[test]
fn nobody_else_need_listen() -> Result<()> {
    let directory = Directory::new("alone")?;
    let file = directory.path("records.jsonl")?;
    let pair = Pair::silent()?;
    let arguments =
        [&["--interface", INTERFACE, "--events", "new", "--export-file", &file], &AT_ONCE[..]]
            .concat();
    let agent = Agent::start(&pair.host, &arguments)?;
    let wire = Wire::open(&pair.peer, INTERFACE)?;
    let (client, server) = (([192, 0, 2, 1], 1000).into(), ([192, 0, 2, 2], 80).into());
    let segment = |flags| tracker_tests::segment::Segment::new(client, server, flags, 1, 0).frame();
    wire.send(&segment(SYN | FIN))?;
    let breach = wait_for(&file, "a breach", |record| record["about"] == "violation")?;
    ensure!(breach["violation"]["name"] == "syn_fin" && breach.get("id").is_none(), "{breach}");
    ensure!(breach["community_id"].is_string(), "{breach}");
    agent.finish()?;
    Ok(())
}
