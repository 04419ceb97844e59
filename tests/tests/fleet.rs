//! What several agents saw of the same connections, in ClickHouse: one row a connection, with what was lost between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tracker_tests::{
    agent::eventually,
    clickhouse::{ClickHouse, statements},
    conntrack,
    fleet::{Collector, Path, send_crafted, wait_for_records},
    lab::INTERFACE,
    relay::Side,
    routed::{CONNECTIONS, MASQUERADE, Routed, connect, on_the_wire},
};

/// A file of packaging.
fn packaged(path: &str) -> Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The number that an answer consists of.
fn number(server: &ClickHouse<'_>, query: &str) -> Result<u64> {
    let text = server.ask(query)?;
    text.parse().with_context(|| format!("{query}: {text}"))
}

/// What each agent saw, by its host: the elements of an array of a joined row.
fn by_host<'a>(row: &'a Value, column: &str) -> Result<BTreeMap<&'a str, &'a Value>> {
    let array = |name: &str| row[name].as_array().with_context(|| format!("no {name} in {row}"));
    let names = array("hosts")?.iter().map(|host| host.as_str().unwrap_or_default());
    Ok(names.zip(array(column)?).collect())
}

/// Ends of a connection as views write them.
fn flow([client, server]: [std::net::SocketAddr; 2]) -> String {
    format!("{} {} {} {}", client.ip(), client.port(), server.ip(), server.port())
}

#[test]
fn both_ends_of_a_lossy_path_make_one_row_with_what_was_lost() -> Result<()> {
    let collector = Collector::new("fleet-lossy")?;
    let server = collector.start()?;
    let path = Path::new(&collector, [&[], &[]])?;
    let all = path.connect(30)?;
    let lost = path.relay.counts().dropped;
    ensure!(lost > 0, "nothing was lost");
    let mut handshakes = 0;
    for agent in &path.agents {
        handshakes += agent.flows(&[])?.iter().filter(|flow| !flow["rtt_us"].is_null()).count();
        agent.ask(&["flush"])?;
    }
    let count = all.len() as u64;
    wait_for_records(&server, 2 * all.len(), 0)?;
    // Every record comes twice, as after an acknowledgment that was lost, and an earlier one comes late.
    server.ask("INSERT INTO tracker.records SELECT * FROM tracker.records")?;
    let columns = "time, host, agent, boot_id, id, about, time_ns";
    server.ask(&format!(
        "INSERT INTO tracker.records ({columns}) \
         SELECT time, host, agent, boot_id, id, 'update', time_ns - 1 FROM tracker.records FINAL"
    ))?;
    ensure!(number(&server, "SELECT count() FROM tracker.connections")? == 2 * count);

    let rows = server.rows("SELECT * FROM tracker.joined")?;
    ensure!(rows.len() == all.len(), "{} rows of {count} connections: {rows:?}", rows.len());
    for one in &all {
        let ends = flow([one.client, one.server]);
        let row = rows.iter().find(|row| row["flows"][0] == *ends).context(ends.clone())?;
        let trace = path.trace(one)?;
        let [from_client, from_server] = [one.opener, one.opener.other()];
        let (sent, answered) = (trace.arrived(from_client), trace.arrived(from_server));
        let (heard, got) = (trace.delivered(from_client), trace.delivered(from_server));
        for (column, truth) in [
            ("orig_packets", json!(sent)),
            ("reply_packets", json!(answered)),
            ("orig_lost", json!(sent - heard)),
            ("reply_lost", json!(answered - got)),
            ("orig_stream_bytes", json!(one.asked)),
            ("reply_stream_bytes", json!(one.answered)),
            ("src", json!(one.client.ip().to_string())),
            ("dport", json!(one.server.port())),
            ("flows", json!([ends, ends])),
            ("seens", json!(["both", "both"])),
            ("conn_states", json!(["SF", "SF"])),
            ("joined_by", json!("isns")),
            ("is_translated", json!(0)),
            ("is_ended", json!(1)),
            ("violations", json!(0)),
        ] {
            ensure!(row[column] == truth, "{column} is not {truth}: {row}\n{trace}");
        }
        let name = |side| if side == Side::Host { "host" } else { "peer" };
        let (near, far) = (name(from_client), name(from_server));
        let (orig, reply) =
            (by_host(row, "orig_packets_seen")?, by_host(row, "reply_packets_seen")?);
        ensure!(orig == BTreeMap::from([(near, &json!(sent)), (far, &json!(heard))]), "{row}");
        ensure!(reply == BTreeMap::from([(near, &json!(got)), (far, &json!(answered))]), "{row}");
    }
    // What the other views count is the same.
    let pairs = "SELECT sum(lost_to_dst + lost_to_src) FROM tracker.lossy_pairs";
    ensure!(number(&server, pairs)? == lost, "{lost} were lost");
    ensure!(number(&server, "SELECT sum(connections) FROM tracker.top_talkers")? == count);
    let timed = number(&server, "SELECT sum(handshakes) FROM tracker.handshake_percentiles")?;
    ensure!(timed == handshakes as u64, "{timed} of {handshakes} handshakes");
    ensure!(number(&server, "SELECT count() FROM tracker.one_sided")? == 0);
    ensure!(number(&server, "SELECT count() FROM tracker.violations")? == 0);
    path.finish()
}

#[test]
fn three_agents_around_a_nat_make_one_row() -> Result<()> {
    let collector = Collector::new("fleet-nat")?;
    let server = collector.start()?;
    let routed = Routed::new(MASQUERADE)?;
    let both = ["--interface", "left", "--interface", "right"];
    let agents = [
        collector.agent(&routed.left, "client", &["--interface", INTERFACE])?,
        collector.agent(&routed.router, "router", &both)?,
        collector.agent(&routed.right, "server", &["--interface", INTERFACE])?,
    ];
    connect(&routed.left, &routed.right, "10.1.2.2:80", "10.1.2.2:80")?;
    let [sent, received] = on_the_wire(&routed.left)?;
    for (agent, flows) in agents.iter().zip([1, 2, 1]) {
        eventually("the agent has counted what the client's kernel has", || {
            let sum = |end: &str| -> Result<u64> {
                let flows = agent.flows(&[])?;
                Ok(flows.iter().filter_map(|flow| flow[end]["packets"].as_u64()).sum())
            };
            Ok(sum("orig")? == flows * sent && sum("reply")? == flows * received)
        })?;
    }
    routed.conntrack_agrees()?;
    let entries = conntrack::entries(&routed.router)?;
    for agent in &agents {
        agent.ask(&["flush"])?;
    }
    wait_for_records(&server, usize::try_from(4 * CONNECTIONS)?, 0)?;

    let rows = server.rows("SELECT * FROM tracker.joined")?;
    ensure!(rows.len() as u64 == CONNECTIONS, "{} rows: {rows:?}", rows.len());
    let mut sums = [0, 0];
    for row in &rows {
        let flows: BTreeSet<_> =
            row["flows"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // The oracle has the client's ends, and those that the server sees.
        let entry = entries.iter().find(|entry| flows.contains(&*flow(entry.original)));
        let entry = entry.with_context(|| format!("nf_conntrack does not know {row}"))?;
        let [server, translated] = entry.reply;
        let (inside, outside) = (flow(entry.original), flow([translated, server]));
        ensure!(flows == BTreeSet::from([&*inside, &*outside]), "{entry:?}: {row}");
        let seen = by_host(row, "flows")?;
        ensure!(seen["client"] == inside.as_str() && seen["server"] == outside.as_str(), "{row}");
        let hosts: BTreeSet<_> = seen.into_keys().collect();
        ensure!(hosts == BTreeSet::from(["client", "router", "server"]), "{row}");
        for (column, truth) in [
            ("is_translated", json!(1)),
            ("is_ended", json!(1)),
            ("joined_by", json!("isns")),
            ("orig_lost", json!(0)),
            ("reply_lost", json!(0)),
        ] {
            ensure!(row[column] == truth, "{column} is not {truth}: {row}");
        }
        for (sum, column) in sums.iter_mut().zip(["orig_packets", "reply_packets"]) {
            let packets = row[column].as_u64().context("packets")?;
            *sum += packets;
            let each = json!([packets, packets, packets, packets]);
            ensure!(row[format!("{column}_seen")] == each, "{row}");
        }
    }
    ensure!(sums == [sent, received], "{sums:?}, and {sent} and {received} on the wire");
    agents.into_iter().try_for_each(|agent| agent.finish().map(drop))
}

#[test]
fn what_has_no_numbers_stays_apart_and_a_refusal_has_one_row() -> Result<()> {
    let collector = Collector::new("fleet-apart")?;
    let server = collector.start()?;
    let path = Path::new(&collector, [&[], &[]])?;
    path.relay.set_faults(None);
    let crafted = send_crafted(&path)?;
    path.flush(crafted.flows)?;
    wait_for_records(&server, 2 * crafted.flows, 2 * crafted.breaches)?;
    let joined = |port: u16, columns: &str| {
        server.ask(&format!("SELECT {columns} FROM tracker.joined WHERE sport = {port}"))
    };
    let columns = "joined_by, length(agents), is_ended";
    let [unanswered, refused, midstream, broken] = crafted.ports;
    for port in [unanswered, refused] {
        let row = joined(port, columns)?;
        ensure!(row == "community_id\t2\t1", "{port}: {row}");
    }
    // Nothing but time says that these are the same.
    let rows = joined(midstream, columns)?;
    ensure!(rows == "\t1\t1\n\t1\t1", "{rows}");
    let row = joined(broken, "joined_by, violations, conn_states")?;
    ensure!(row == "isns\t1\t['S1','S1']", "{row}");
    let sided = server.ask("SELECT host, sport FROM tracker.one_sided ORDER BY host, sport")?;
    let expected = ["host", "peer"]
        .map(|host| [unanswered, midstream].map(|port| format!("{host}\t{port}")).join("\n"));
    ensure!(sided == expected.join("\n"), "{sided}");
    path.finish()
}

/// A panel's query as the data source's plug-in gives it to the server, for a time range and an interval: it documents its
/// macros' expansions in its README.
fn expanded(query: &str, from: u64, to: u64) -> Result<String> {
    let mut parts = query.split("$__timeFilter(");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (column, rest) = part.split_once(')').context("a column")?;
        text.push_str(&format!(
            "{column} >= toDateTime({from}) AND {column} <= toDateTime({to}){rest}"
        ));
    }
    let text = text.replace("$__interval_s", "20");
    ensure!(!text.contains('$'), "an unknown macro: {text}");
    Ok(text)
}

#[test]
fn every_panel_has_rows() -> Result<()> {
    let collector = Collector::new("fleet-panels")?;
    let server = collector.start()?;
    let path = Path::new(&collector, [&[], &[]])?;
    let all = path.connect(30)?;
    ensure!(path.relay.counts().dropped > 0, "nothing was lost");
    path.relay.set_faults(None);
    let crafted = send_crafted(&path)?;
    let count = all.len() + crafted.flows;
    path.flush(count)?;
    wait_for_records(&server, 2 * count, 2 * crafted.breaches)?;

    let dashboard: Value = serde_json::from_str(&packaged("grafana/clickhouse.json")?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut queries = String::new();
    for panel in dashboard["panels"].as_array().context("panels")? {
        let (title, targets) = (&panel["title"], panel["targets"].as_array().context("targets")?);
        ensure!(!targets.is_empty(), "{title} has no query");
        for target in targets {
            for source in [&panel["datasource"], &target["datasource"]] {
                ensure!(source["type"] == "grafana-clickhouse-datasource", "{title}: {source}");
            }
            let query = target["rawSql"].as_str().with_context(|| format!("{title}: no SQL"))?;
            // Rows by the hour have its beginning as their time.
            let rows = server.rows(&expanded(query, now - 7200, now + 3600)?)?;
            ensure!(!rows.is_empty(), "{title} has no rows");
            let none = server.rows(&expanded(query, 1, 2)?)?;
            ensure!(none.is_empty(), "{title} does not ask for the time that is shown: {none:?}");
            queries.push_str(query);
        }
    }
    for statement in statements("views.sql")? {
        let Some(view) = statement.strip_prefix("CREATE VIEW ") else { continue };
        let view = view.split_whitespace().next().context("a name")?;
        ensure!(queries.contains(&format!("{view} ")), "no panel shows {view}");
    }
    path.finish()
}

#[test]
fn lines_that_others_ship_make_the_rows_that_an_agent_sends() -> Result<()> {
    let collector = Collector::new("fleet-shipped")?;
    let server = collector.start()?;
    let file = collector.path("records.jsonl")?;
    let path = Path::new(&collector, [&["--export-file", &file], &[]])?;
    path.relay.set_faults(None);
    let all = path.connect(4)?;
    let crafted = send_crafted(&path)?;
    let count = all.len() + crafted.flows;
    path.flush(count)?;
    wait_for_records(&server, 2 * count, 2 * crafted.breaches)?;
    path.finish()?;
    let columns = "* FROM tracker.records FINAL WHERE host = 'host' ORDER BY time_ns, about, sport";
    let sent = server.ask(&format!("SELECT {columns}"))?;
    let lines = fs::read_to_string(&file)?;
    let kinds: BTreeSet<_> =
        lines.lines().map(|line| line.split('"').nth(5).unwrap_or_default()).collect();
    ensure!(kinds == BTreeSet::from(["end", "violation"]), "{kinds:?}");
    server.ask("TRUNCATE TABLE tracker.records")?;
    let wrapped: Vec<_> = lines.lines().map(|line| json!({ "line": line }).to_string()).collect();
    let insert = format!("INSERT INTO tracker.shipped FORMAT JSONEachRow\n{}", wrapped.join("\n"));
    // A shipper may send lines twice, too.
    for _ in 0..2 {
        server.ask(&insert)?;
    }
    let shipped = server.ask(&format!("SELECT {columns}"))?;
    ensure!(shipped == sent, "shipped:\n{shipped}\n\nsent:\n{sent}");
    Ok(())
}

/// What a file of YAML says. Debian's interpreter reads it.
fn yaml(text: &str) -> Result<Value> {
    let program = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting /usr/bin/python3")?;
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "no YAML, or the package python3-yaml is missing");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The names in an array, or the keys of an object.
fn names(value: &Value) -> BTreeSet<&str> {
    let keys = value.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str));
    keys.chain(value.as_array().into_iter().flatten().filter_map(Value::as_str)).collect()
}

#[test]
fn settings_of_others_name_what_is_there() -> Result<()> {
    let tables = statements("shipped.sql")?;
    ensure!(tables[0].starts_with("CREATE TABLE IF NOT EXISTS tracker.shipped (line String)"));
    let key = "\"community_id\":\"";

    let vector: Value = toml::from_str(&packaged("shippers/vector.toml")?)?;
    let kinds = ["sources", "transforms", "sinks"];
    let all: BTreeSet<_> = kinds.iter().flat_map(|kind| names(&vector[kind])).collect();
    for kind in kinds {
        for (name, part) in vector[kind].as_object().context(kind)? {
            ensure!(names(&part["inputs"]).is_subset(&all), "{name}: {part}");
        }
    }
    let row = &vector["sinks"]["clickhouse"];
    ensure!(row["database"] == "tracker" && row["table"] == "shipped", "{row}");
    ensure!(vector["transforms"]["row"]["source"] == ". = {\"line\": .message}");

    let fluent = yaml(&packaged("shippers/fluent-bit.yaml")?)?;
    let parsers = fluent["parsers"].as_array().context("parsers")?;
    ensure!(
        parsers.len() == 1 && parsers[0]["regex"].as_str().is_some_and(|at| at.starts_with(key))
    );
    ensure!(fluent["pipeline"]["filters"][0]["parser"] == parsers[0]["name"]);
    ensure!(fluent["pipeline"]["inputs"][0]["key"] == "line");
    let uri = fluent["pipeline"]["outputs"][0]["uri"].as_str().context("an address")?;
    ensure!(uri.contains("INSERT%20INTO%20tracker.shipped%20FORMAT%20JSONEachRow"), "{uri}");

    let collector = yaml(&packaged("shippers/opentelemetry.yaml")?)?;
    let pipeline = &collector["service"]["pipelines"]["logs"];
    for kind in ["receivers", "exporters"] {
        ensure!(names(&pipeline[kind]) == names(&collector[kind]), "{kind}: {pipeline}");
    }
    ensure!(names(&collector["service"]["extensions"]) == names(&collector["extensions"]));
    let regex = collector["receivers"]["filelog"]["operators"][0]["regex"].as_str();
    ensure!(regex.is_some_and(|regex| regex.starts_with(key)), "{regex:?}");

    let compose = yaml(&packaged("shippers/compose.yaml")?)?;
    for (name, service) in compose["services"].as_object().context("services")? {
        for volume in names(&service["volumes"]) {
            let from = volume.split(':').next().unwrap_or_default();
            let is_there = from.strip_prefix("../").map_or_else(
                || names(&compose["volumes"]).contains(from),
                |path| {
                    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                        .join("../packaging")
                        .join(path)
                        .exists()
                },
            );
            ensure!(is_there, "{name}: {volume}");
        }
        for config in service["configs"].as_array().into_iter().flatten() {
            let source = config["source"].as_str().context("a source")?;
            let text = compose["configs"][source]["content"].as_str().context(source.to_owned())?;
            ensure!(yaml(text)?["apiVersion"] == 1, "{text}");
        }
    }
    Ok(())
}
