//! Records as IPFIX: what collectors of others decode, and what becomes of records while one is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, eventually, run_tracker, tracker},
    export::{AT_ONCE, Directory, closes, is, metric, wait_for},
    ipfix::{Collector, PEN, Sink, Tap, dump, nfacctd_records, nfdump},
    lab::{Bench, Connection, INTERFACE, Pair},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
    wire::Wire,
};

type Fields = BTreeMap<String, String>;

/// The only record that is like this.
fn only(records: &[Fields], is_it: impl Fn(&Fields) -> bool) -> Result<&Fields> {
    let found: Vec<_> = records.iter().filter(|record| is_it(record)).collect();
    let [record] = found[..] else { anyhow::bail!("{} instead of one: {records:?}", found.len()) };
    Ok(record)
}

/// Wants the fields of a record to be these.
fn has(record: &Fields, wanted: &[(&str, &dyn ToString)]) -> Result<()> {
    for (name, value) in wanted {
        let found = record.get(*name).map(String::as_str);
        ensure!(
            found == Some(value.to_string().as_str()),
            "{name}: {found:?}, {}: {record:?}",
            value.to_string()
        );
    }
    Ok(())
}

/// Milliseconds since 1970 of a time in JSON.
fn ms(time: &Value) -> Result<i64> {
    let time: jiff::Timestamp = time.as_str().context("a time")?.parse()?;
    Ok(time.as_millisecond())
}

#[test]
fn collectors_decode_what_connections_were() -> Result<()> {
    let directory = Directory::new("ipfix")?;
    let path = |name: &str| directory.path(name);
    let (file, messages, spool) = (path("records.jsonl")?, path("messages")?, path("spool")?);
    let (flows, accounts) = (path("nfcapd")?, path("nfacctd")?);
    let bench = Bench::with(
        &[
            &["--export", "all", "--export-file", &file, "--export-spool", &spool, "--metrics"][..],
            &["--export-host", "web-1", "--export-ipfix", "udp://127.0.0.1"],
            &["--export-ipfix-pen", PEN, "--export-ipfix-domain", "77"],
            &AT_ONCE,
        ]
        .concat(),
    )?;
    let nfcapd = Collector::nfcapd(&bench.pair.host, &flows, 9995)?;
    let nfacctd = Collector::nfacctd(&bench.pair.host, &accounts, 9996)?;
    let tap = Tap::start(&bench.pair.host, 4739, &messages, &[9995, 9996])?;

    let usual = Connection::inbound(&bench);
    usual.handshake()?;
    usual.c_sends(&usual.c(PSH | ACK, 1001, 5001).data(100))?;
    usual.s_sends(&usual.s(ACK, 5001, 1101))?;
    usual.c_sends(&usual.c(FIN | ACK, 1101, 5001))?;
    usual.s_sends(&usual.s(FIN | ACK, 5001, 1102))?;
    usual.c_sends(&usual.c(ACK, 1102, 5002))?;
    closes(&Connection::inbound(&bench).ipv6().from_port(40_001))?;
    let reset = Connection::outbound(&bench).from_port(40_002);
    reset.handshake()?;
    // It acknowledges what was never sent.
    reset.c_sends(&reset.c(ACK, 1001, 9001))?;
    reset.s_sends(&reset.s(RST, 5001, 0))?;

    for port in [40_000, 40_001, 40_002] {
        wait_for(&file, "a connection's end", is("end", port))?;
    }
    eventually("all is sent", || {
        Ok(metric(&bench.pair, "ipfix", "records_total")? >= 4
            && metric(&bench.pair, "ipfix", "spool_records")? == 0)
    })?;
    eventually("nfacctd has all", || Ok(nfacctd_records(&accounts)?.len() >= 4))?;
    nfcapd.finish()?;
    nfacctd.finish()?;
    let agent = bench.agent.name().to_owned();
    let pair = &bench.pair;
    let end = |port| wait_for(&file, "a connection's end", is("end", port));
    let breach = wait_for(&file, "the breach", |record| record["about"] == "violation")?;
    let (ended, ended_6, ended_by_reset) = (end(40_000)?, end(40_001)?, end(40_002)?);
    bench.agent.finish()?;
    tap.finish()?;

    // nfdump: both directions, times and why they ended; a breach is a flow without packets.
    let flows = nfdump(&pair.host, &flows)?;
    ensure!(flows.len() == 4, "{flows:?}");
    for (record, port, addresses) in [
        (&ended, "40000", ["192.0.2.1", "192.0.2.2"]),
        (&ended_6, "40001", ["2001:db8::1", "2001:db8::2"]),
        (&ended_by_reset, "40002", ["192.0.2.1", "192.0.2.2"]),
    ] {
        let flow = only(&flows, |flow| flow["src port"] == port && flow["in packets"] != "0")?;
        let first = ms(&record["created"])?;
        let ns = record["duration_ns"].as_i64().context("a duration")?;
        has(
            flow,
            &[
                ("src addr", &addresses[0]),
                ("dst addr", &addresses[1]),
                ("dst port", &80),
                ("proto", &"6 TCP"),
                ("in packets", &record["orig"]["packets"]),
                ("in bytes", &record["orig"]["bytes"]),
                ("out packets", &record["reply"]["packets"]),
                ("out bytes", &record["reply"]["bytes"]),
                ("first", &first),
                ("last", &(first + ns / 1_000_000)),
                ("biFlow Dir", &"0x01 initiator"),
                ("end reason", &"0x03 end of Flow detected"),
                ("export sysid", &1),
            ],
        )?;
    }
    has(only(&flows, |flow| flow["src port"] == "40000")?, &[("tcp flags", &"0x13 ...A..SF")])?;
    // Packets with IP and TCP headers, one of them with data.
    ensure!(ended["orig"]["packets"] == 5 && ended["orig"]["bytes"] == 5 * 40 + 100, "{ended}");

    // nfacctd: own elements, and breaches.
    let accounts = nfacctd_records(&accounts)?;
    ensure!(accounts.len() == 4, "{accounts:?}");
    for record in [&ended, &ended_6, &ended_by_reset] {
        let found = accounts
            .iter()
            .find(|it| it["port_src"] == record["sport"] && it["broken_rule"] == "")
            .context("a connection")?;
        let number = |value: &Value| Value::from(value.to_string());
        for (name, value) in [
            ("ip_src", record["src"].clone()),
            ("ip_dst", record["dst"].clone()),
            ("port_dst", record["dport"].clone()),
            ("orig_packets", number(&record["orig"]["packets"])),
            ("orig_octets", number(&record["orig"]["bytes"])),
            ("reply_packets", number(&record["reply"]["packets"])),
            ("reply_octets", number(&record["reply"]["bytes"])),
            ("conn_state", record["conn_state"].clone()),
            ("history", record["history"].clone()),
            ("community_id", record["community_id"].clone()),
            ("orig_isn", "1000".into()),
            ("reply_isn", "5000".into()),
            ("orig_stream_octets", number(&record["orig"]["stream_bytes"])),
            ("end_reason", "3".into()),
            ("end_reason_name", record["end"]["reason"].clone()),
            ("violations", number(&record["violations"])),
        ] {
            ensure!(found[name] == value, "{name}, {value}: {found}");
        }
    }
    let found = accounts.iter().find(|it| it["broken_rule"] != "").context("the breach")?;
    for (name, value) in [
        ("broken_rule", "ack_unseen_data"),
        ("action", "passed"),
        ("tcp_seq", "1001"),
        ("tcp_ack", "9001"),
        ("actual", "9001"),
        ("orig_state", "ESTABLISHED"),
    ] {
        ensure!(found[name] == value, "{name}, {value}: {found}");
    }

    // libfixbuf: every element by its name, because records of types name them (RFC 5610).
    let dumped = dump(&messages)?;
    let is_own = |record: &Fields, port: &str| {
        record.get("sourceTransportPort").is_some_and(|it| it == port)
            && record.contains_key("trackerHistory")
    };
    let of_6 = only(&dumped, |record| is_own(record, "40001"))?;
    has(
        of_6,
        &[
            ("sourceIPv6Address", &"2001:0db8::0001"),
            ("trackerConnState", &"SF"),
            ("trackerOrigState", &ended_6["orig"]["state"].as_str().unwrap_or_default()),
            ("reversePacketTotalCount", &ended_6["reply"]["packets"]),
            ("reverseTcpControlBits", &0x13),
            ("interfaceName", &INTERFACE),
            ("trackerZone", &0),
        ],
    )?;
    let of_breach = only(&dumped, |record| record.contains_key("trackerBrokenRule"))?;
    let flow_id = of_breach.get("flowId").context("an identity")?.parse::<u64>()?;
    ensure!(breach["id"].as_str().is_some_and(|id| id.starts_with(&format!("{flow_id:016x}"))));
    has(
        of_breach,
        &[("trackerActual", &9001), ("biflowDirection", &1), ("tcpControlBits", &0x10)],
    )?;
    has(only(&dumped, |record| is_own(record, "40002"))?, &[("flowId", &flow_id)])?;
    let host = only(&dumped, |record| record.contains_key("observationDomainName"))?;
    has(
        host,
        &[
            ("observationDomainId", &77),
            ("observationDomainName", &"web-1"),
            ("trackerAgent", &agent),
            ("trackerBootId", &ended["boot_id"].as_str().unwrap_or_default()),
        ],
    )?;
    has(
        only(&dumped, |record| record.contains_key("notSentFlowTotalCount"))?,
        &[("notSentFlowTotalCount", &0)],
    )?;
    Ok(())
}

/// Lets SYNs from these ports arrive, and deletes their flows, each of which has a record then.
fn records(pair: &Pair, agent: &Agent, ports: std::ops::Range<u16>) -> Result<()> {
    let wire = Wire::open(&pair.peer, INTERFACE)?;
    let count = ports.len();
    for port in ports {
        let (client, server) = (([192, 0, 2, 1], port).into(), ([192, 0, 2, 2], 80).into());
        wire.send(&Segment::new(client, server, SYN, 1, 0).frame())?;
    }
    eventually("all flows are there", || Ok(agent.flows(&[])?.len() == count))?;
    agent.ask(&["flush"])?;
    Ok(())
}

#[test]
fn a_collector_over_udp_that_comes_late_or_goes_decodes_what_comes_then() -> Result<()> {
    let directory = Directory::new("ipfix-late")?;
    let (flows, spool) = (directory.path("nfcapd")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let agent =
        Agent::start(
            &pair.host,
            &[
                &[
                    "--interface",
                    INTERFACE,
                    "--metrics",
                    "--export",
                    "all",
                    "--export-spool",
                    &spool,
                ][..],
                &["--export-ipfix", "udp://127.0.0.1:9995", "--export-ipfix-templates", "1"],
            ]
            .concat(),
        )?;
    let waiting = || metric(&pair, "ipfix", "spool_records");
    records(&pair, &agent, 1000..1010)?;
    // Nobody listens: the host says so, and records wait.
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("udp://127.0.0.1:9995") && said.contains("refused"), "{said}");
    eventually("all wait on disk", || Ok(waiting()? == 10))?;
    ensure!(metric(&pair, "ipfix", "failures_total")? > 0);
    let has = |directory: &str, ports: std::ops::Range<u16>| -> Result<()> {
        let flows = nfdump(&pair.host, directory)?;
        let found: BTreeSet<u16> =
            flows.iter().map(|flow| Ok(flow["src port"].parse()?)).collect::<Result<_>>()?;
        ensure!(found == ports.collect(), "{found:?}");
        ensure!(flows.iter().all(|flow| flow["end reason"].starts_with("0x04")), "{flows:?}");
        Ok(())
    };
    let collector = Collector::nfcapd(&pair.host, &flows, 9995)?;
    eventually("none waits", || Ok(waiting()? == 0))?;
    collector.finish()?;
    has(&flows, 1000..1010)?;

    // While something else swallows the templates, nothing is noticed. The next ones come after a second.
    let swallowing = Tap::start(&pair.host, 9995, &directory.path("swallowed")?, &[])?;
    eventually("it has records", || {
        records(&pair, &agent, 1010..1011)?;
        eventually("none waits", || Ok(waiting()? == 0))?;
        Ok(fs::metadata(directory.path("swallowed")?)?.len() > 0)
    })?;
    swallowing.finish()?;
    let late = directory.path("late")?;
    let collector = Collector::nfcapd(&pair.host, &late, 9995)?;
    // Each waits half a second for others.
    for port in 2000..2004 {
        records(&pair, &agent, port..port + 1)?;
        eventually("none waits", || Ok(waiting()? == 0))?;
    }
    collector.finish()?;
    let flows = nfdump(&pair.host, &late)?;
    ensure!(flows.iter().any(|flow| flow["src port"] == "2003"), "{flows:?}");
    ensure!(metric(&pair, "ipfix", "records_lost_total")? == 0);
    agent.finish()?;
    Ok(())
}

#[test]
fn best_effort_is_said_at_the_start() -> Result<()> {
    let directory = Directory::new("ipfix-said")?;
    let spool = directory.path("spool")?;
    let pair = Pair::silent()?;
    for (address, is_best_effort) in [("udp://127.0.0.1", true), ("tcp://127.0.0.1", false)] {
        let mut agent = pair
            .host
            .command(tracker()?.to_str().context("a path of UTF-8")?)
            .args(["--instance", &format!("said-{}", std::process::id()), "run"])
            .args(["--interface", INTERFACE, "--export-spool", &spool, "--export-ipfix", address])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = BufReader::new(agent.stderr.take().context("stderr is a pipe")?);
        // What it says at its start; the exporter is a thread of its own.
        let (mut log, mut line) = (String::new(), String::new());
        while !log.contains("attached") || (is_best_effort && !log.contains("best effort")) {
            line.clear();
            ensure!(said.read_line(&mut line)? > 0, "{address}: {log}");
            log.push_str(&line);
        }
        kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM)?;
        said.read_to_string(&mut log)?;
        ensure!(agent.wait()?.success() && log.contains("best effort") == is_best_effort, "{log}");
    }
    Ok(())
}

/// The source ports of all records that a sink has got; its last message may be on its way.
fn ports(directory: &str) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for entry in fs::read_dir(directory)? {
        let bytes = fs::read(entry?.path())?;
        let mut whole = 0;
        while let Some(header) = bytes.get(whole..whole + 4) {
            let end = whole + usize::from(u16::from_be_bytes([header[2], header[3]]));
            if end > bytes.len() {
                break;
            }
            whole = end;
        }
        let copy = format!("{directory}.whole");
        fs::write(&copy, &bytes[..whole])?;
        let dumped = if whole > 0 { dump(&copy)? } else { Vec::new() };
        for port in dumped.iter().filter_map(|record| record.get("sourceTransportPort")) {
            ports.push(port.parse()?);
        }
    }
    ports.sort_unstable();
    Ok(ports)
}

#[test]
fn over_tcp_nothing_is_lost_whoever_is_killed() -> Result<()> {
    let directory = Directory::new("ipfix-tcp")?;
    let (sink, spool) = (directory.path("sink")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let arguments = [
        &["--interface", INTERFACE, "--metrics", "--export", "all", "--export-spool", &spool][..],
        &["--export-ipfix", "tcp://127.0.0.1", "--export-ipfix-pen", PEN],
    ]
    .concat();
    let waiting = || metric(&pair, "ipfix", "spool_records");
    let collector = Sink::start(&pair.host, 4739, &sink)?;
    let mut agent = Agent::start(&pair.host, &arguments)?;
    records(&pair, &agent, 1000..1010)?;
    eventually("the first ones are there", || Ok(metric(&pair, "ipfix", "records_total")? == 10))?;
    records(&pair, &agent, 1010..1020)?;
    eventually("more are there", || Ok(metric(&pair, "ipfix", "records_total")? == 20))?;
    eventually("none waits", || Ok(waiting()? == 0))?;
    ensure!(collector.connections() == 1);

    // It hangs: its kernel acknowledges what its process never reads, and is killed with that.
    eventually("all is read", || Ok(ports(&sink)?.len() == 20))?;
    collector.hang();
    records(&pair, &agent, 1020..1030)?;
    eventually("its kernel has them", || Ok(metric(&pair, "ipfix", "records_total")? == 30))?;
    eventually("none waits", || Ok(waiting()? == 0))?;
    ensure!(ports(&sink)?.len() == 20);
    collector.kill()?;
    records(&pair, &agent, 1030..1040)?;
    let said = agent.wait_for_log("what was sent last is sent again")?;
    ensure!(said.contains("reset"), "{said}");
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("tcp://127.0.0.1:4739") && said.contains("refused"), "{said}");
    eventually("they wait on disk", || Ok(waiting()? == 10))?;
    // Once more a collector that reads all, and is killed: what it has is not sent again.
    let collector = Sink::start(&pair.host, 4739, &sink)?;
    eventually("none waits", || Ok(waiting()? == 0))?;
    eventually("all is read", || Ok(BTreeSet::from_iter(ports(&sink)?).len() == 40))?;
    let before = ports(&sink)?.len();
    collector.kill()?;
    for from in [1040, 1050] {
        let killed = agent.kill()?;
        agent = killed.restart(&pair.host, &arguments)?;
        records(&pair, &agent, from..from + 10)?;
        let count = u64::from(from + 10 - 1040);
        eventually("they wait on disk", || Ok(waiting()? == count))?;
    }
    let collector = Sink::start(&pair.host, 4739, &sink)?;
    eventually("none waits", || Ok(waiting()? == 0))?;
    eventually("all is read", || Ok(ports(&sink)?.len() >= before + 20))?;
    let all = ports(&sink)?;
    ensure!(BTreeSet::from_iter(all.clone()) == (1000..1060).collect(), "{all:?}");
    // Those that were unread came twice at most, with what was sent before them.
    ensure!(all.len() == before + 20 && before <= 40 + 30, "{}: {all:?}", all.len());
    ensure!(metric(&pair, "ipfix", "records_lost_total")? == 0);
    agent.finish()?;
    collector.kill()?;
    Ok(())
}

#[test]
fn without_a_number_there_are_the_registry_s_elements_only() -> Result<()> {
    let directory = Directory::new("ipfix-plain")?;
    let (sink, spool) = (directory.path("sink")?, directory.path("spool")?);
    let bench = Bench::with(
        &[
            &["--export", "all", "--export-spool", &spool, "--metrics"][..],
            &["--export-ipfix", "tcp://127.0.0.1:4739"],
            &AT_ONCE,
        ]
        .concat(),
    )?;
    let collector = Sink::start(&bench.pair.host, 4739, &sink)?;
    let broken = Connection::inbound(&bench);
    broken.handshake()?;
    broken.c_sends(&broken.c(ACK, 1001, 9001))?;
    broken.s_sends(&broken.s(RST, 5001, 0))?;
    eventually("its end is there", || Ok(metric(&bench.pair, "ipfix", "records_total")? == 1))?;
    // A breach has no form, which is no loss.
    ensure!(metric(&bench.pair, "ipfix", "records_lost_total")? == 0);
    eventually("it is read", || Ok(ports(&sink)? == [40_000]))?;
    let dumped = dump(&format!("{sink}/0"))?;
    ensure!(dumped.iter().flat_map(|record| record.keys()).all(|name| !name.contains("tracker")));
    let connection = only(&dumped, |record| record.contains_key("sourceTransportPort"))?;
    has(connection, &[("flowEndReason", &3), ("reverseTcpControlBits", &0x16)])?;
    has(
        only(&dumped, |record| record.contains_key("observationDomainName"))?,
        &[("observationDomainId", &1)],
    )?;
    bench.agent.finish()?;
    collector.kill()?;
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_before_an_agent_starts() -> Result<()> {
    let directory = Directory::new("ipfix-refused")?;
    let pair = Pair::silent()?;
    let config = directory.path("tracker.toml")?;
    let at = "export-ipfix = \"udp://127.0.0.1\"\n";
    for (text, said) in [
        ("export-ipfix = \"127.0.0.1:4739\"\n".to_owned(), "neither udp:// nor tcp://"),
        ("export-ipfix = \"udp://127.0.0.1:0\"\n".to_owned(), "no port from 1 to 65535"),
        ("export-ipfix = \"tcp://127.0.0.1/x\"\n".to_owned(), "has a path"),
        (format!("{at}export-ipfix-pen = 0\n"), "as IANA assigns them"),
        (format!("{at}export-ipfix-pen = 29305\n"), "is for reverse elements (RFC 5103)"),
        (format!("{at}export-ipfix-domain = -1\n"), "export-ipfix-domain"),
        (format!("{at}export-ipfix-templates = 0\n"), "export-ipfix-templates"),
        ("export-ipfix-pen = 32473\n".to_owned(), "--export-ipfix"),
    ] {
        fs::write(&config, format!("interface = [\"{INTERFACE}\"]\n{text}"))?;
        let (out, error, status) = run_tracker(&["config", "check", &config], Some(&pair.host))?;
        ensure!(status.code() == Some(1) && out.is_empty(), "{text}: {out}{error}");
        ensure!(error.contains(said), "{said}: {error}");
    }
    Ok(())
}
