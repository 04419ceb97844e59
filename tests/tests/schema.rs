//! The JSON Schemas in docs/schema are those of this version, and what the commands print is as they say.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use jsonschema::Validator;
use serde_json::Value;
use tracker_tests::{
    agent::run_tracker,
    lab::{Bench, Connection},
    pcap::{Form, Order, Packet, pcap},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, SYN},
    },
};

struct Schemas(BTreeMap<String, Validator>);

impl Schemas {
    fn read() -> Result<Self> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(directory())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
            let name = name.strip_suffix(".schema.json").context("a schema's name")?.to_owned();
            let schema: Value = serde_json::from_slice(&fs::read(&path)?)?;
            let validator = jsonschema::validator_for(&schema)
                .map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
            all.insert(name, validator);
        }
        Ok(Self(all))
    }

    /// Whether `text` is one document, or a record a line, as the schema of this name says; how many.
    fn holds(&self, name: &str, text: &str) -> Result<usize> {
        let schema = self.0.get(name).with_context(|| format!("no schema {name}"))?;
        let stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let values = stream.collect::<Result<Vec<_>, _>>()?;
        for value in &values {
            let errors: Vec<_> = schema
                .iter_errors(value)
                .map(|error| format!("{}: {error}", error.instance_path))
                .collect();
            ensure!(errors.is_empty(), "{name}: {errors:?}\n{value}");
        }
        Ok(values.len())
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/schema")
}

#[test]
fn they_are_those_of_this_version() -> Result<()> {
    let fresh = std::env::temp_dir().join(format!("tracker-schema-{}", std::process::id()));
    let text = fresh.to_str().context("a path of UTF-8")?;
    let (_, said, status) = run_tracker(&["generate", "schemas", text], None)?;
    ensure!(status.success(), "{said}");
    let read = |directory: &PathBuf| -> Result<BTreeMap<_, _>> {
        fs::read_dir(directory)?
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name(), fs::read_to_string(entry.path())?))
            })
            .collect()
    };
    let (here, there) = (read(&fresh)?, read(&directory())?);
    fs::remove_dir_all(&fresh)?;
    ensure!(here == there, "docs/schema is of another version: `cargo xtask docs` writes it");
    Ok(())
}

#[test]
fn an_agents_output_is_as_they_say() -> Result<()> {
    let schemas = Schemas::read()?;
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1001, 5001).data(10))?;
    tcp.c_sends(&tcp.c(SYN | FIN, 1011, 0))?;
    let half_open = Connection::inbound(&bench).ipv6();
    half_open.c_sends(&half_open.c(SYN, 1, 0))?;
    bench.settle()?;
    let ask = |arguments: &[&str]| bench.agent.ask(arguments);
    assert_eq!(schemas.holds("flows", &ask(&["flows", "-o", "json"])?)?, 1);
    assert_eq!(schemas.holds("flows.line", &ask(&["flows", "-o", "jsonl"])?)?, 2);
    assert_eq!(schemas.holds("stats", &ask(&["stats", "-o", "json"])?)?, 1);
    assert_eq!(schemas.holds("delete", &ask(&["flush", "-o", "json"])?)?, 1);
    let mut events = vec![bench.events.violation("syn_fin")?];
    for _ in 0..2 {
        events.push(bench.events.wait_for("DESTROY")?);
    }
    events.extend(bench.events.take()?);
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    // Beside these: two that are NEW, and one that is ESTABLISHED.
    assert_eq!(schemas.holds("events.line", &lines)?, 6, "{lines}");
    Ok(())
}

#[test]
fn what_needs_no_agent_is_as_they_say() -> Result<()> {
    let schemas = Schemas::read()?;
    for (name, arguments) in [
        ("violations", &["violations", "-o", "json"][..]),
        ("violations.line", &["violations", "-o", "jsonl"]),
        ("explain", &["explain", "syn_fin", "-o", "json"]),
        ("explain.line", &["explain", "syn_fin", "-o", "jsonl"]),
        ("explain", &["explain", "PSNG_TCP_PORTSCAN", "-o", "json"]),
        ("check", &["check", "-i", "lo", "-o", "json"]),
        ("check.line", &["check", "-i", "lo", "-o", "jsonl"]),
    ] {
        let (out, said, _) = run_tracker(arguments, None)?;
        let count = schemas.holds(name, &out).with_context(|| said.clone())?;
        ensure!(count > 0, "{arguments:?}: {said}");
    }
    Ok(())
}

#[test]
fn a_replays_output_is_as_they_say() -> Result<()> {
    let schemas = Schemas::read()?;
    let (client, server) = (([192, 0, 2, 1], 40_000).into(), ([192, 0, 2, 2], 80).into());
    let segments = [
        Segment::new(client, server, SYN, 100, 0),
        Segment::new(server, client, SYN | ACK, 500, 101),
        Segment::new(client, server, ACK, 101, 501),
        Segment::new(client, server, SYN | FIN, 101, 0),
    ];
    let packets: Vec<_> = segments
        .iter()
        .map(|segment| Packet::new(1_700_000_000_000_000_000, segment.frame()))
        .collect();
    let file = std::env::temp_dir().join(format!("tracker-schema-{}.pcap", std::process::id()));
    fs::write(&file, pcap(Order::Little, Form::Microseconds, 1, &packets))?;
    let replay = |form| -> Result<String> {
        let path = file.to_str().context("a path of UTF-8")?;
        let (out, said, status) = run_tracker(&["replay", path, "-o", form], None)?;
        ensure!(status.success(), "{said}");
        Ok(out)
    };
    assert_eq!(schemas.holds("replay", &replay("json")?)?, 1);
    let lines = replay("jsonl")?;
    let (events, flows): (Vec<_>, Vec<_>) =
        lines.lines().partition(|line| line.contains("\"event\":"));
    assert!(schemas.holds("events.line", &events.concat())? > 0, "{lines}");
    assert!(schemas.holds("replay-flow.line", &flows.concat())? > 0, "{lines}");
    Ok(fs::remove_file(file)?)
}
