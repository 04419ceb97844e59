//! Records as messages of Kafka: through a spool, whatever becomes of the agent and the brokers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tracker_tests::{
    agent::{Agent, eventually, run_tracker},
    export::{AT_ONCE, Directory, deleted_flows, metric, three_connections},
    kafka::{BROKER, Consumer, Message, Mock, Scripted, Tansu},
    lab::{Bench, INTERFACE, Pair, address},
    sockets::{accept, bound, listener, start_connecting},
};

/// The arguments of an agent that sends all records to these brokers.
fn sends_all<'a>(spool: &'a str, brokers: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["--interface", INTERFACE, "--metrics", "--export", "all"];
    [&common, &["--export-spool", spool, "--export-kafka", brokers][..], more].concat()
}

/// The source ports of messages about ends.
fn ports(messages: &[Message]) -> Result<BTreeSet<u64>> {
    let mut ports = BTreeSet::new();
    for message in messages {
        let record = message.json()?;
        if record["about"] == "end" {
            ports.insert(record["sport"].as_u64().context("a port")?);
        }
    }
    Ok(ports)
}

/// Each message's key is its record's Community ID, its time the record's, and its partition where others put that key.
fn are_in_place(messages: &[Message]) -> Result<()> {
    for message in messages {
        let record = message.json()?;
        ensure!(record["community_id"].as_str() == message.key.as_deref(), "{message:?}");
        ensure!(message.expected.is_none_or(|it| it == message.partition), "{message:?}");
        let time: jiff::Timestamp = record["time"].as_str().context("a time")?.parse()?;
        ensure!(time.as_millisecond() == message.time_ms, "{message:?}");
    }
    Ok(())
}

fn none_waits(pair: &Pair) -> Result<()> {
    eventually("none waits", || Ok(metric(pair, "kafka", "spool_records")? == 0))
}

/// Waits until the agent knows that brokers have so many records. That none waits may also be before the first one does.
fn has_sent(pair: &Pair, count: u64) -> Result<()> {
    eventually("all are sent", || Ok(metric(pair, "kafka", "records_total")? == count))
}

/// A file with this text and mode.
fn secret(directory: &Directory, text: &str, mode: u32) -> Result<String> {
    let path = directory.path("password")?;
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(path)
}

#[test]
fn a_message_has_everything_of_a_record() -> Result<()> {
    let directory = Directory::new("kafka-all")?;
    let (file, taken, spool) =
        (directory.path("records.jsonl")?, directory.path("taken")?, directory.path("spool")?);
    let options = [
        "--export-file",
        &file,
        "--export",
        "all",
        "--export-spool",
        &spool,
        "--export-kafka",
        BROKER,
        "--export-kafka-topic",
        "of.tests",
    ];
    let bench = Bench::with(&[&options, &AT_ONCE[..]].concat())?;
    let host = &bench.pair.host;
    let broker = Tansu::start(host)?;
    broker.create(host, "of.tests", 5)?;
    let consumer = Consumer::start(host, BROKER, "of.tests", &taken)?;
    let written = three_connections(&bench, &file)?;
    eventually("all are there", || Ok(consumer.messages()?.len() >= written.len()))?;
    let found = consumer.messages()?;
    are_in_place(&found)?;
    let lines = fs::read_to_string(&file)?;
    let lines: BTreeSet<_> = lines.lines().collect();
    let texts: BTreeSet<_> = found.iter().map(|message| message.text.as_str()).collect();
    ensure!(texts == lines && found.len() == lines.len(), "{texts:?}\n{lines:?}");
    bench.agent.finish()?;
    Ok(())
}

#[test]
fn a_topic_has_every_record_whoever_is_killed() -> Result<()> {
    let directory = Directory::new("kafka-killed")?;
    let (first, second, script, spool) = (
        directory.path("first")?,
        directory.path("second")?,
        directory.path("script")?,
        directory.path("spool")?,
    );
    let pair = Pair::silent()?;
    let arguments = sends_all(&spool, BROKER, &[]);
    let broker = Tansu::start(&pair.host)?;
    broker.create(&pair.host, "tracker", 4)?;
    let consumer = Consumer::start(&pair.host, BROKER, "tracker", &first)?;
    let mut agent = Agent::start(&pair.host, &arguments)?;
    let flows = |agent: &Agent, ports| deleted_flows([192, 0, 2, 1], &pair, agent, ports);
    let waits = |count| {
        eventually("they wait on disk", || Ok(metric(&pair, "kafka", "spool_records")? == count))
    };
    flows(&agent, 1000..1010)?;
    eventually("the first ones are there", || Ok(ports(&consumer.messages()?)?.len() == 10))?;
    none_waits(&pair)?;
    broker.kill()?;
    // It accepts, and hangs: the agent waits for it, and tracks.
    let hanging = Scripted::start(&pair.host, &script, &["ok"], &[("HANG", "")])?;
    // The first connection is the test's.
    let before = hanging.connections();
    flows(&agent, 1010..1020)?;
    eventually("it hangs", || Ok(hanging.connections() > before))?;
    flows(&agent, 1020..1030)?;
    waits(20)?;
    hanging.kill()?;
    agent.wait_for_log("records wait in the spool")?;
    let killed = agent.kill()?;
    agent = killed.restart(&pair.host, &arguments)?;
    flows(&agent, 1030..1040)?;
    waits(30)?;
    // A topic that is not there yet.
    let broker = Tansu::start(&pair.host)?;
    flows(&agent, 1040..1050)?;
    waits(40)?;
    broker.create(&pair.host, "tracker", 4)?;
    let consumer = Consumer::start(&pair.host, BROKER, "tracker", &second)?;
    let rest: BTreeSet<_> = (1010..1050).collect();
    eventually("all are there", || Ok(ports(&consumer.messages()?)? == rest))?;
    none_waits(&pair)?;
    are_in_place(&consumer.messages()?)?;
    ensure!(metric(&pair, "kafka", "records_lost_total")? == 0);
    agent.finish()?;
    Ok(())
}

#[test]
fn messages_are_as_the_options_have_them() -> Result<()> {
    let directory = Directory::new("kafka-forms")?;
    let pair = Pair::silent()?;
    for (at, (options, version, compression)) in [
        (&[][..], "8", "lz4"),
        (&["--export-kafka-compression", "gzip"], "7", "gzip"),
        (&["--export-kafka-compression", "none"], "3", "none"),
    ]
    .into_iter()
    .enumerate()
    {
        let spool = directory.path("spool")?;
        let taken = directory.path(&format!("taken-{at}"))?;
        let variables = [("PRODUCE", version), ("PARTITIONS", "2")];
        let broker = Scripted::start(&pair.host, &taken, &["ok"], &variables)?;
        let agent = Agent::start(&pair.host, &sends_all(&spool, BROKER, options))?;
        deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1040)?;
        has_sent(&pair, 40)?;
        let found = broker.messages()?;
        are_in_place(&found)?;
        ensure!(ports(&found)? == (1000..1040).collect() && found.len() == 40, "{found:?}");
        for request in broker.requests()? {
            ensure!(request.acks == -1 && request.compression == compression, "{request:?}");
            ensure!(request.version.to_string() == version, "{request:?}");
        }
        agent.finish()?;
    }
    Ok(())
}

#[test]
fn a_record_that_is_refused_holds_up_none() -> Result<()> {
    let directory = Directory::new("kafka-refused")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &sends_all(&spool, BROKER, &[]))?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1040)?;
    eventually("they wait on disk", || Ok(metric(&pair, "kafka", "spool_records")? == 40))?;
    let broker = Scripted::start(&pair.host, &taken, &["without:1017"], &[])?;
    let others = |to| (1000..to).filter(|port| *port != 1017).collect();
    eventually("the others are there", || Ok(ports(&broker.messages()?)? == others(1040)))?;
    // Records end in any order. Where it is the last one, it waits until another one is taken.
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1040..1050)?;
    let said = agent.wait_for_log("given up")?;
    ensure!(said.contains("87, it refuses a message: wrong?") && !said.contains('\x1b'), "{said}");
    eventually("those after it are there", || Ok(ports(&broker.messages()?)? == others(1050)))?;
    none_waits(&pair)?;
    for name in ["records_lost_total", "records_rejected_total"] {
        ensure!(metric(&pair, "kafka", name)? == 1, "{name}");
    }
    // Those that a broker has are not sent again with those that it has not.
    let ends = broker.messages()?.into_iter().filter(|message| message.key.is_some()).count();
    ensure!(ends == 49, "{ends}");
    agent.finish()?;
    Ok(())
}

#[test]
fn a_partition_that_waits_makes_no_other_come_twice() -> Result<()> {
    let directory = Directory::new("kafka-partition")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &sends_all(&spool, BROKER, &[]))?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1040)?;
    eventually("they wait on disk", || Ok(metric(&pair, "kafka", "spool_records")? == 40))?;
    // Its replicas are not in time, then it has moved, then it has both.
    let manners = ["7@1", "7@1", "6@1", "6@1", "ok"];
    let broker = Scripted::start(&pair.host, &taken, &manners, &[])?;
    none_waits(&pair)?;
    let found = broker.messages()?;
    ensure!(ports(&found)? == (1000..1040).collect() && found.len() == 40, "{}", found.len());
    let requests = broker.requests()?;
    let partitions: Vec<_> = requests.iter().map(|request| &*request.partitions).collect();
    ensure!(partitions == ["0,1,2", "1", "1", "1", "1"], "{requests:?}");
    ensure!(metric(&pair, "kafka", "records_lost_total")? == 0);
    ensure!(metric(&pair, "kafka", "failures_total")? >= 2);
    agent.finish()?;
    Ok(())
}

#[test]
fn what_a_broker_has_taken_without_an_answer_comes_again() -> Result<()> {
    let directory = Directory::new("kafka-unanswered")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &sends_all(&spool, BROKER, &[]))?;
    let broker = Scripted::start(&pair.host, &taken, &["close", "ok"], &[])?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1010)?;
    agent.wait_for_log("records wait in the spool")?;
    has_sent(&pair, 10)?;
    let mut times = BTreeMap::new();
    for message in broker.messages()? {
        *times.entry(message.text).or_insert(0) += 1;
    }
    ensure!(times.len() == 10 && times.values().any(|times| *times == 2), "{times:?}");
    agent.finish()?;
    Ok(())
}

#[test]
fn a_broker_that_throttles_is_left_alone_and_gets_nothing_twice() -> Result<()> {
    let directory = Directory::new("kafka-throttle")?;
    let (taken, spool) = (directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &sends_all(&spool, BROKER, &[]))?;
    let broker = Scripted::start(&pair.host, &taken, &["throttle:3000", "ok"], &[])?;
    for (ports, count) in [(1000..1010, 10), (1010..1020, 20)] {
        deleted_flows([192, 0, 2, 1], &pair, &agent, ports)?;
        has_sent(&pair, count)?;
    }
    let found = broker.messages()?;
    ensure!(ports(&found)? == (1000..1020).collect() && found.len() == 20, "{}", found.len());
    let requests = broker.requests()?;
    ensure!(requests.len() >= 2 && requests[1].at - requests[0].at >= 3.0, "{requests:?}");
    // It is the same connection.
    ensure!(requests[0].connection == requests[1].connection, "{requests:?}");
    ensure!(metric(&pair, "kafka", "failures_total")? == 0);
    agent.finish()?;
    Ok(())
}

#[test]
fn leaders_that_move_or_are_away_lose_nothing() -> Result<()> {
    let directory = Directory::new("kafka-leaders")?;
    let (brokers, taken, spool) =
        (directory.path("brokers")?, directory.path("taken")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    pair.host.run("ip", &["link", "set", "lo", "up"])?;
    let mut mock = Mock::start(&pair.host, &brokers, 3)?;
    mock.ask("create tracker 6")?;
    let all = mock.brokers.clone();
    let agent = Agent::start(&pair.host, &sends_all(&spool, &all, &[]))?;
    let consumer = Consumer::start(&pair.host, &all, "tracker", &taken)?;
    let flows = |ports| deleted_flows([192, 0, 2, 1], &pair, &agent, ports);
    let leads = |mock: &mut Mock, broker: u32| {
        (0..6).try_for_each(|partition| mock.ask(&format!("leader tracker {partition} {broker}")))
    };
    let have = |until: u64| {
        let all = (1000..until).collect();
        eventually("all are there", || Ok(ports(&consumer.messages()?)? == all))
    };
    flows(1000..1020)?;
    have(1020)?;
    none_waits(&pair)?;
    // They move while the agent knows where they were: nothing fails.
    leads(&mut mock, 2)?;
    flows(1020..1040)?;
    have(1040)?;
    none_waits(&pair)?;
    ensure!(metric(&pair, "kafka", "failures_total")? == 0);
    // Too few replicas.
    mock.ask("errors 19")?;
    flows(1040..1060)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("min.insync.replicas"), "{said}");
    have(1060)?;
    none_waits(&pair)?;
    // The leader is away, and comes back.
    mock.ask("down 2")?;
    flows(1060..1080)?;
    agent.wait_for_log("records wait in the spool")?;
    mock.ask("up 2")?;
    have(1080)?;
    none_waits(&pair)?;
    // Or another one leads in its place.
    mock.ask("down 2")?;
    leads(&mut mock, 3)?;
    flows(1080..1100)?;
    have(1100)?;
    none_waits(&pair)?;
    are_in_place(&consumer.messages()?)?;
    ensure!(metric(&pair, "kafka", "records_lost_total")? == 0);
    agent.finish()?;
    Ok(())
}

/// By the kernel's own TCP, with the brokers away in the middle.
#[test]
fn ten_thousand_connections_are_ten_thousand_ends() -> Result<()> {
    const COUNT: u16 = 10_000;
    let directory = Directory::new("kafka-many")?;
    let (file, brokers, taken, spool) = (
        directory.path("records.jsonl")?,
        directory.path("brokers")?,
        directory.path("taken")?,
        directory.path("spool")?,
    );
    let pair = Pair::with_addresses()?;
    pair.host.run("ip", &["link", "set", "lo", "up"])?;
    let mut mock = Mock::start(&pair.host, &brokers, 2)?;
    mock.ask("create tracker 8")?;
    let all = mock.brokers.clone();
    let more = [&["--export-file", &file][..], &AT_ONCE].concat();
    let agent = Agent::start(&pair.host, &sends_all(&spool, &all, &more))?;
    let consumer = Consumer::start(&pair.host, &all, "tracker", &taken)?;
    let server = SocketAddr::new(address::HOST[0], 80);
    let listening = listener(&pair.host, server)?;
    for port in 0..COUNT {
        if port == COUNT / 2 {
            eventually("some are there", || Ok(!consumer.messages()?.is_empty()))?;
            mock.ask("down 1")?;
            mock.ask("down 2")?;
        }
        let client = SocketAddr::new(address::PEER[0], 20_000 + port);
        let socket = bound(&pair.peer, client)?;
        start_connecting(&socket, server)?;
        drop((accept(&listening, client)?, socket));
    }
    agent.wait_for_log("records wait in the spool")?;
    mock.ask("up 1")?;
    mock.ask("up 2")?;
    let every: BTreeSet<_> = (20_000..20_000 + u64::from(COUNT)).collect();
    eventually("all have ended", || {
        Ok(metric(&pair, "file", "records_total")? >= u64::from(COUNT))
    })?;
    none_waits(&pair)?;
    let lines = fs::read_to_string(&file)?;
    let lines: BTreeSet<_> = lines.lines().map(str::to_owned).collect();
    let texts = || -> Result<BTreeSet<String>> {
        Ok(consumer.messages()?.into_iter().map(|message| message.text).collect())
    };
    eventually("all are there", || Ok(texts()? == lines))?;
    let found = consumer.messages()?;
    ensure!(ports(&found)? == every && lines.len() == every.len(), "{}", lines.len());
    are_in_place(&found)?;
    ensure!(metric(&pair, "kafka", "records_lost_total")? == 0);
    agent.finish()?;
    Ok(())
}

#[test]
fn a_password_is_secret_and_renewed_without_a_restart() -> Result<()> {
    let directory = Directory::new("kafka-sasl")?;
    let pair = Pair::silent()?;
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        let (taken, spool) = (directory.path(mechanism)?, directory.path("spool")?);
        let file = secret(&directory, "hidden\n", 0o600)?;
        let user = ["--export-kafka-user", "agent", "--export-kafka-password", &file];
        let more = [&user[..], &["--export-kafka-mechanism", mechanism]].concat();
        let arguments = sends_all(&spool, BROKER, &more);
        let sasl = format!("{}:agent:right", mechanism.to_uppercase());
        let broker = Scripted::start(&pair.host, &taken, &["ok"], &[("SASL", &sasl)])?;
        let agent = Agent::start(&pair.host, &arguments)?;
        deleted_flows([192, 0, 2, 1], &pair, &agent, 1000..1001)?;
        let said = agent.wait_for_log("records wait in the spool")?;
        ensure!(said.contains("user or password are wrong: no? such user"), "{said}");
        ensure!(said.contains("user agent") && !said.contains("hidden"), "{said}");
        ensure!(broker.messages()?.is_empty());
        secret(&directory, "right\n", 0o600)?;
        has_sent(&pair, 1)?;
        ensure!(ports(&broker.messages()?)? == [1000].into());
        let (shown, error, status) =
            run_tracker(&[&["config", "show"], &arguments[..]].concat(), Some(&pair.host))?;
        ensure!(status.success() && shown.contains(&file), "{error}");
        ensure!(!shown.contains("right") && !error.contains("right"), "{shown}");
        agent.finish()?;
    }
    // The broker has another mechanism.
    let (taken, spool) = (directory.path("other")?, directory.path("spool")?);
    let file = secret(&directory, "right\n", 0o600)?;
    let user = ["--export-kafka-user", "agent", "--export-kafka-password", &file];
    let _broker = Scripted::start(&pair.host, &taken, &["ok"], &[("SASL", "PLAIN:agent:right")])?;
    let agent = Agent::start(&pair.host, &sends_all(&spool, BROKER, &user))?;
    deleted_flows([192, 0, 2, 1], &pair, &agent, 1001..1002)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("--export-kafka-mechanism: it has PLAIN"), "{said}");
    agent.finish()?;
    Ok(())
}

#[test]
fn brokers_are_known_by_their_certificates() -> Result<()> {
    let directory = Directory::new("kafka-tls")?;
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
    let broker = Scripted::start(&pair.host, &taken, &["ok"], &[("TLS", &both)])?;
    for (port, more, said) in [
        (1000, &[][..], "it may want TLS"),
        (1001, &["--export-kafka-tls"], "certificate"),
        (1002, &["--export-kafka-tls", "--export-kafka-ca", &both], ""),
    ] {
        let agent = Agent::start(&pair.host, &sends_all(&spool, BROKER, more))?;
        deleted_flows([192, 0, 2, 1], &pair, &agent, port..port + 1)?;
        if said.is_empty() {
            has_sent(&pair, 1)?;
        } else {
            let log = agent.wait_for_log("records wait in the spool")?;
            ensure!(log.contains(said) && broker.messages()?.is_empty(), "{log}");
        }
        agent.finish()?;
    }
    // Each agent has a spool of its own.
    ensure!(ports(&broker.messages()?)? == [1002].into());
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_before_an_agent_starts() -> Result<()> {
    let directory = Directory::new("kafka-refuses")?;
    let pair = Pair::silent()?;
    let config = directory.path("tracker.toml")?;
    let at = "export-kafka = [\"127.0.0.1\", \"kafka.example:9093\"]\n";
    let user = |text: &str| format!("{at}export-kafka-user = \"agent\"\n{text}");
    for (text, password, mode, said) in [
        ("export-kafka = [\"kafka://hidden:9092\"]\n".to_owned(), "", 0o600, "no scheme"),
        ("export-kafka = [\"a\", \"u:hidden@b\"]\n".to_owned(), "", 0o600, "--export-kafka-user"),
        ("export-kafka = [\"a:hidden\"]\n".to_owned(), "", 0o600, "a port is a number"),
        (format!("{at}export-kafka-topic = \"a b\"\n"), "", 0o600, "a topic is"),
        (format!("{at}export-kafka-compression = \"zstd\"\n"), "", 0o600, "zstd"),
        (format!("{at}export-kafka-ca = \"/none\"\n"), "", 0o600, "--export-kafka-tls"),
        (
            format!("{at}export-kafka-tls = true\nexport-kafka-ca = \"/none\"\n"),
            "",
            0o600,
            "the certificates of authorities in /none (--export-kafka-ca names another file)",
        ),
        (user(""), "", 0o600, "--export-kafka-password"),
        (user(""), "hidden", 0o644, "others may read it"),
        (user("export-kafka-mechanism = \"gssapi\"\n"), "hidden", 0o600, "gssapi"),
        ("export-kafka-topic = \"a\"\n".to_owned(), "", 0o600, "--export-kafka"),
    ] {
        let file = secret(&directory, password, mode)?;
        let mut text = format!("interface = [\"{INTERFACE}\"]\n{text}");
        if !password.is_empty() {
            text.push_str(&format!("export-kafka-password = \"{file}\"\n"));
        }
        fs::write(&config, text)?;
        let (out, error, status) = run_tracker(&["config", "check", &config], Some(&pair.host))?;
        ensure!(status.code() == Some(1) && out.is_empty(), "{said}: {out}{error}");
        ensure!(error.contains(said) && !error.contains("hidden"), "{said}: {error}");
    }
    Ok(())
}
