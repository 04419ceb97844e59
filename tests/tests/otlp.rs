//! Records as log records of OpenTelemetry: through a spool, whatever becomes of the agent and the collector.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tracker_tests::{
    agent::{Agent, eventually, run_tracker},
    export::{AT_ONCE, Directory, deleted_flows, metric, three_connections},
    lab::{Bench, INTERFACE, Pair},
    otlp::{Collector, expected},
};

const URL: &str = "http://127.0.0.1:4318";

/// The arguments of an agent that sends all records to the collector of this host.
fn sends_all<'a>(spool: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["--interface", INTERFACE, "--metrics", "--export", "all"];
    [&common, &["--export-spool", spool, "--export-otlp", URL][..], more].concat()
}

/// The source ports of records about ends.
fn ports(records: &[Value]) -> BTreeSet<u64> {
    let ended = records.iter().filter(|record| record["event_name"] == "tracker.connection.end");
    ended.filter_map(|record| record["attributes"]["source.port"].as_u64()).collect()
}

/// A file with this text and mode.
fn secret(directory: &Directory, text: &str, mode: u32) -> Result<String> {
    let path = directory.path("headers")?;
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(path)
}

/// What a test compares: attributes, without those that differ between two exporters of one record.
fn attributes(record: &Value) -> BTreeMap<String, Value> {
    let found = record["attributes"].as_object().into_iter().flatten();
    found.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Waits until as many records are there as in the file, and compares them.
fn all_are_there(
    file: &[Value],
    taken: impl Fn() -> Result<Vec<Value>>,
) -> Result<Vec<(Value, Value)>> {
    eventually("all records are there", || Ok(taken()?.len() >= file.len()))?;
    let taken = taken()?;
    ensure!(taken.len() == file.len(), "{taken:?}");
    let mut pairs = Vec::new();
    for record in file {
        let wanted = expected(record);
        let found = taken.iter().find(|it| attributes(it) == wanted);
        let found = found.with_context(|| format!("{wanted:?} is not in {taken:?}"))?;
        pairs.push((record.clone(), found.clone()));
    }
    Ok(pairs)
}

#[test]
fn a_log_record_has_everything_of_a_record() -> Result<()> {
    let directory = Directory::new("otlp-all")?;
    let (file, taken, spool) =
        (directory.path("records.jsonl")?, directory.path("taken")?, directory.path("spool")?);
    let options = [
        "--export-file",
        &file,
        "--export-host",
        "web-1",
        "--export",
        "all",
        "--export-spool",
        &spool,
        "--export-otlp",
        URL,
    ];
    let bench = Bench::with(&[&options, &AT_ONCE[..]].concat())?;
    let collector = Collector::start(&bench.pair.host, &taken, &["ok"])?;
    let written = three_connections(&bench, &file)?;
    let pairs = all_are_there(&written, || collector.records())?;
    for (record, log) in &pairs {
        let time: jiff::Timestamp = record["time"].as_str().context("a time")?.parse()?;
        ensure!(log["time"].as_i64().map(i128::from) == Some(time.as_nanosecond()), "{log}");
        let severity = if record["about"] == "violation" { ("WARN", 13) } else { ("INFO", 9) };
        ensure!(
            (&log["severity"], &log["severity_number"]) == (&json!(severity.0), &json!(severity.1))
        );
        ensure!(log["event_name"] == log["attributes"]["event.name"], "{log}");
        let resource = &log["resource"];
        ensure!(resource["service.name"] == "tracker" && resource["host.name"] == "web-1", "{log}");
        let instance = format!("web-1/{}", bench.agent.name());
        ensure!(resource["service.instance.id"] == instance, "{log}");
        ensure!(log["scope"]["name"] == "tracker" && log["scope"]["version"].is_string(), "{log}");
    }
    let bodies: Vec<_> = pairs.iter().filter_map(|(_, log)| log["body"].as_str()).collect();
    for body in [
        "end 192.0.2.1:40000 > 192.0.2.2:80 SF fin",
        "violation ack_unseen_data 192.0.2.1:40002 > 192.0.2.2:80",
    ] {
        ensure!(bodies.iter().any(|it| it.starts_with(body)), "{body}: {bodies:?}");
    }
    ensure!(collector.requests()?.iter().all(|request| request.compression == "gzip"));
    bench.agent.finish()?;
    Ok(())
}

/// A receiver of others, which takes no compression.
#[test]
fn oteltap_has_everything_of_a_record() -> Result<()> {
    let directory = Directory::new("oteltap")?;
    let (file, taken, spool) =
        (directory.path("records.jsonl")?, directory.path("taken")?, directory.path("spool")?);
    let options = [
        "--export-file",
        &file,
        "--export",
        "all",
        "--export-spool",
        &spool,
        "--export-otlp",
        URL,
        "--export-otlp-compression",
        "none",
    ];
    let bench = Bench::with(&[&options, &AT_ONCE[..]].concat())?;
    let tap = Collector::start_tap(&bench.pair.host, &taken)?;
    let written = three_connections(&bench, &file)?;
    all_are_there(&written, || tap.tapped())?;
    bench.agent.finish()?;
    Ok(())
}

#[test]
fn a_collector_has_every_record_whoever_is_killed() -> Result<()> {
    let directory = Directory::new("otlp-killed")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let arguments = sends_all(&spool, &[]);
    let collector = Collector::start(&pair.host, &taken, &["ok"])?;
    let mut agent = Agent::start(&pair.host, &arguments)?;
    let flows = |agent: &Agent, ports| deleted_flows([192, 0, 2, 1], &pair, agent, ports);
    flows(&agent, 1000..1010)?;
    eventually("the first ones are there", || Ok(ports(&collector.records()?).len() == 10))?;
    // The collector has them before it says so.
    eventually("the agent knows", || Ok(metric(&pair, "otlp", "spool_records")? == 0))?;
    collector.kill()?;
    // It accepts, and hangs: the agent waits for it, and tracks.
    let hanging = Collector::start(&pair.host, &taken, &["hang"])?;
    flows(&agent, 1010..1020)?;
    eventually("it hangs", || Ok(hanging.requests()?.iter().any(|it| it.manner == "hang")))?;
    flows(&agent, 1020..1030)?;
    eventually("they wait on disk", || Ok(metric(&pair, "otlp", "spool_records")? == 20))?;
    hanging.kill()?;
    agent.wait_for_log("records wait in the spool")?;
    let killed = agent.kill()?;
    agent = killed.restart(&pair.host, &arguments)?;
    flows(&agent, 1030..1040)?;
    eventually("they wait on disk", || Ok(metric(&pair, "otlp", "spool_records")? == 30))?;
    let collector = Collector::start(&pair.host, &taken, &["ok"])?;
    eventually("all are there", || Ok(ports(&collector.records()?) == (1000..1040).collect()))?;
    eventually("none waits", || Ok(metric(&pair, "otlp", "spool_records")? == 0))?;
    ensure!(metric(&pair, "otlp", "records_lost_total")? == 0);
    agent.finish()?;
    Ok(())
}

#[test]
fn a_collector_that_is_busy_is_left_alone_as_long_as_it_asks() -> Result<()> {
    let directory = Directory::new("otlp-busy")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &sends_all(&spool, &[]))?;
    let manners = ["429:4", "503", "401", "ok"];
    let collector = Collector::start(&pair.host, &taken, &manners)?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1010)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("429") && said.contains("http://127.0.0.1:4318/v1/logs"), "{said}");
    eventually("all are there", || Ok(ports(&collector.records()?) == (1000..1010).collect()))?;
    let requests = collector.requests()?;
    let found: Vec<_> = requests.iter().map(|request| request.manner.as_str()).collect();
    ensure!(found == manners, "{requests:?}");
    ensure!(requests[1].at - requests[0].at >= 4.0, "{requests:?}");
    eventually("none waits", || Ok(metric(&pair, "otlp", "spool_records")? == 0))?;
    ensure!(
        metric(&pair, "otlp", "records_lost_total")? == 0
            && metric(&pair, "otlp", "failures_total")? == 3
    );
    agent.finish()?;
    Ok(())
}

#[test]
fn records_that_a_collector_drops_are_lost_and_not_sent_again() -> Result<()> {
    let directory = Directory::new("otlp-partial")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &sends_all(&spool, &[]))?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1010)?;
    eventually("they wait on disk", || Ok(metric(&pair, "otlp", "spool_records")? == 10))?;
    let collector = Collector::start(&pair.host, &taken, &["partial:2", "ok"])?;
    let said = agent.wait_for_log("given up")?;
    ensure!(said.contains("too old: 2 records"), "{said}");
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1010..1020)?;
    eventually("the others are there", || Ok(ports(&collector.records()?).len() == 18))?;
    eventually("none waits", || Ok(metric(&pair, "otlp", "spool_records")? == 0))?;
    for name in ["records_lost_total", "records_rejected_total"] {
        ensure!(metric(&pair, "otlp", name)? == 2, "{name}");
    }
    // The collector hears of it.
    let lost = |record: &&Value| record["event_name"] == "tracker.lost";
    let all = collector.records()?;
    let lost = all.iter().find(lost).context("a record says so")?;
    ensure!(lost["attributes"]["tracker.lost"] == 2 && lost["severity"] == "ERROR", "{lost}");
    agent.finish()?;
    Ok(())
}

#[test]
fn a_record_that_is_refused_holds_up_none() -> Result<()> {
    let directory = Directory::new("otlp-refused")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &sends_all(&spool, &[]))?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1040)?;
    eventually("they wait on disk", || Ok(metric(&pair, "otlp", "spool_records")? == 40))?;
    let collector = Collector::start(&pair.host, &taken, &["without:1017"])?;
    let others = |to| (1000..to).filter(|port| *port != 1017).collect();
    eventually("the others are there", || Ok(ports(&collector.records()?) == others(1040)))?;
    // Records end in any order. Where it is the last one, it waits until another one is taken.
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1040..1050)?;
    let said = agent.wait_for_log("given up")?;
    ensure!(said.contains("400 Bad Request: wrong?") && !said.contains('\x1b'), "{said}");
    eventually("those after it are there", || Ok(ports(&collector.records()?) == others(1050)))?;
    eventually("none waits", || Ok(metric(&pair, "otlp", "spool_records")? == 0))?;
    for name in ["records_lost_total", "records_rejected_total"] {
        ensure!(metric(&pair, "otlp", name)? == 1, "{name}");
    }
    agent.finish()?;
    Ok(())
}

#[test]
fn headers_are_secret_and_renewed_without_a_restart() -> Result<()> {
    let directory = Directory::new("otlp-headers")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let file = secret(&directory, "Authorization: Bearer hidden\nX-Scope: 7\n", 0o600)?;
    let arguments = sends_all(&spool, &["--export-otlp-headers", &file]);
    let collector = Collector::start(&pair.host, &taken, &["ok"])?;
    let agent = Agent::start(&pair.host, &arguments)?;
    let flows = |ports| deleted_flows([192, 0, 2, 1], &pair, &agent, ports);
    flows(1000..1001)?;
    eventually("it is there", || Ok(collector.records()?.len() == 1))?;
    secret(&directory, "no header, hidden\n", 0o600)?;
    flows(1001..1002)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("line 1: no `Name: value`") && !said.contains("hidden"), "{said}");
    secret(&directory, "Authorization: Bearer other\n", 0o600)?;
    eventually("it is there, too", || Ok(collector.records()?.len() == 2))?;
    let headers: Vec<_> =
        collector.records()?.iter().map(|record| record["headers"].clone()).collect();
    ensure!(headers[0]["authorization"] == "Bearer hidden" && headers[0]["x-scope"] == "7");
    ensure!(headers[1]["authorization"] == "Bearer other" && headers[1]["x-scope"].is_null());
    let (shown, error, status) =
        run_tracker(&[&["config", "show"], &arguments[..]].concat(), Some(&pair.host))?;
    ensure!(status.success() && shown.contains(&file), "{error}");
    ensure!(!shown.contains("other") && !error.contains("other"), "{shown}");
    agent.finish()?;
    Ok(())
}

#[test]
fn a_collector_is_known_by_its_certificate() -> Result<()> {
    let directory = Directory::new("otlp-tls")?;
    let (taken, spool, both) =
        (directory.path("taken")?, directory.path("spool")?, directory.path("both.pem")?);
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "/dev/stdout", "-out", "/dev/stdout"])
        .output()
        .context("starting openssl")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(&both, made.stdout)?;
    let pair = Pair::silent()?;
    let collector = Collector::start_with(&pair.host, &taken, &["ok"], Some(&both))?;
    let common = ["--interface", INTERFACE, "--export", "all", "--export-spool", &spool];
    let address = ["--export-otlp", "https://127.0.0.1/"];
    let agent = Agent::start(&pair.host, &[&common[..], &address].concat())?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1001)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("certificate"), "{said}");
    agent.finish()?;
    ensure!(collector.records()?.is_empty());
    let agent =
        Agent::start(&pair.host, &[&common[..], &address, &["--export-otlp-ca", &both]].concat())?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1001..1002)?;
    eventually("it has the record", || Ok(collector.records()?.len() == 1))?;
    agent.finish()?;
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_before_an_agent_starts() -> Result<()> {
    let directory = Directory::new("otlp-refuses")?;
    let pair = Pair::silent()?;
    let config = directory.path("tracker.toml")?;
    let at = "export-otlp = \"https://127.0.0.1\"\n";
    for (text, headers, mode, said) in [
        ("export-otlp = \"127.0.0.1:4318\"\n", "", 0o600, "neither http:// nor https://"),
        ("export-otlp = \"https://u:hidden@h\"\n", "", 0o600, "--export-otlp-headers"),
        ("export-otlp = \"https://h/?key=hidden\"\n", "", 0o600, "an address has no query"),
        (at, "Authorization: hidden", 0o644, "others may read it"),
        (at, "hidden", 0o600, "line 1: no `Name: value`"),
        (at, "Host: hidden", 0o600, "their own header"),
        ("export-spool = \"/tmp\"\n", "", 0o600, "--export-otlp"),
        ("export-otlp-compression = \"gzip\"\n", "", 0o600, "--export-otlp"),
    ] {
        let file = secret(&directory, headers, mode)?;
        let mut text = format!("interface = [\"{INTERFACE}\"]\n{text}");
        if !headers.is_empty() {
            text.push_str(&format!("export-otlp-headers = \"{file}\"\n"));
        }
        fs::write(&config, text)?;
        let (out, error, status) = run_tracker(&["config", "check", &config], Some(&pair.host))?;
        ensure!(status.code() == Some(1) && out.is_empty(), "{said}: {out}{error}");
        ensure!(error.contains(said) && !error.contains("hidden"), "{said}: {error}");
    }
    Ok(())
}
