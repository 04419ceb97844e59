//! The metrics endpoint: scraped over a real socket, parsed by a parser that is not ours, compared with other sources.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use openmetrics_parser::{OpenMetricsValue, openmetrics::parse_openmetrics};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, PATIENCE, eventually, run_tracker},
    lab::{Bench, Connection, INTERFACE, Pair},
    namespace::Namespace,
    segment::flag::{ACK, SYN},
    sockets::{bound, listener},
    wire::Wire,
};

const AT: ([u8; 4], u16) = ([127, 0, 0, 1], 9469);

/// Connects inside the namespace.
fn client(namespace: &Namespace) -> Result<TcpStream> {
    let stream = namespace.enter(|| Ok(TcpStream::connect(SocketAddr::from(AT))?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The status line's code, the header, and the body.
fn get(namespace: &Namespace, path: &str) -> Result<(u16, String, String)> {
    let mut stream = client(namespace)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an empty line")?;
    let code = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((code, head.to_lowercase(), body.to_owned()))
}

/// One scrape, as another program reads it.
struct Scrape(String);

impl Scrape {
    fn of(namespace: &Namespace) -> Result<Self> {
        let (code, head, body) = get(namespace, "/metrics")?;
        ensure!(code == 200, "{code}: {body}");
        ensure!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        ensure!(body.ends_with("# EOF\n"), "{body}");
        Ok(Self(body))
    }

    /// The sum of the samples of a family that have all these labels.
    fn sum(&self, family: &str, wanted: &[(&str, &str)]) -> Result<f64> {
        let parsed = parse_openmetrics(&self.0).map_err(|error| anyhow::anyhow!("{error}"))?;
        let family = parsed.families.get(family).with_context(|| format!("no family {family}"))?;
        let mut sum = 0.0;
        for sample in family.iter_samples() {
            let labels: Vec<_> = match sample.get_labelset() {
                Ok(labels) => labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
                Err(error) => anyhow::bail!("{error}"),
            };
            let has =
                |(name, value): &(&str, &str)| labels.iter().any(|(n, v)| n == name && v == value);
            if wanted.iter().all(has) {
                sum += number(&sample.value)?;
            }
        }
        Ok(sum)
    }
}

fn number(value: &OpenMetricsValue) -> Result<f64> {
    match value {
        OpenMetricsValue::Counter(counter) => Ok(counter.value.as_f64()),
        OpenMetricsValue::Gauge(number) => Ok(number.as_f64()),
        OpenMetricsValue::Histogram(histogram) => {
            let bits = histogram.count.context("a count")?;
            Ok(f64::from(u32::try_from(bits)?))
        }
        _ => anyhow::bail!("a value of another kind"),
    }
}

fn float(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

#[test]
fn they_are_what_stats_and_the_interface_say() -> Result<()> {
    let bench = Bench::with(&["--metrics", "--sweep-interval", "0.05"])?;
    let host = &bench.pair.host;
    // Handshakes over both families, one that is never answered, and one breach.
    for port in 1..=5 {
        Connection::inbound(&bench).from_port(port).handshake()?;
        Connection::inbound(&bench).ipv6().from_port(port).handshake()?;
    }
    let lone = Connection::inbound(&bench).from_port(99);
    lone.c_sends(&lone.c(SYN, 1000, 0))?;
    lone.s_sends(&lone.s(SYN | ACK, 5000, 7))?;
    bench.settle()?;
    eventually("a sweep has seen all of it", || {
        Ok(Scrape::of(host)?.sum("tracker_flows", &[])? == 11.0)
    })?;
    let scrape = Scrape::of(host)?;
    let stats = bench.agent.stats()?;
    for family in ["ipv4", "ipv6"] {
        let labels = [("state", "ESTABLISHED"), ("family", family)];
        assert_eq!(scrape.sum("tracker_flows", &labels)?, 5.0);
    }
    for (hook, fates) in stats["interfaces"][0]["packets"].as_object().context("hooks")? {
        for (fate, count) in fates.as_object().context("fates")? {
            let labels =
                [("interface", INTERFACE), ("hook", hook.as_str()), ("fate", fate.as_str())];
            assert_eq!(scrape.sum("tracker_packets", &labels)?, float(count)?, "{labels:?}");
        }
    }
    for (name, by_hook) in stats["violations"].as_object().context("violations")? {
        for hook in ["in", "out"] {
            let labels = [("name", name.as_str()), ("direction", hook)];
            assert_eq!(scrape.sum("tracker_violations", &labels)?, float(&by_hook[hook])?);
        }
    }
    assert_eq!(scrape.sum("tracker_violations", &[("name", "synack_bad_ack")])?, 1.0);
    for (family, labels, expected) in [
        ("tracker_handshake_duration_seconds", [("", ""); 0].as_slice(), 10.0),
        ("tracker_half_open_flows", &[], 1.0),
        ("tracker_flow_table_entries", &[("table", "confirmed")], 10.0),
        ("tracker_flow_table_entries", &[("table", "half_open")], 1.0),
        ("tracker_flows_created", &[("origin", "syn")], 11.0),
        ("tracker_flows_closed", &[], 0.0),
        ("tracker_reports_lost", &[], 0.0),
        ("tracker_table_insert_failures", &[], 0.0),
        ("tracker_program_attached", &[("interface", INTERFACE), ("mode", "native")], 1.0),
        ("tracker_program_attached", &[], 2.0),
    ] {
        assert_eq!(scrape.sum(family, labels)?, expected, "{family} {labels:?}");
    }
    for table in ["confirmed", "half_open"] {
        let capacity = scrape.sum("tracker_flow_table_capacity", &[("table", table)])?;
        assert_eq!(capacity, float(&stats["flows"][format!("{table}_capacity")])?);
    }
    // No label holds an address or a port of a flow.
    for of_a_flow in ["192.0.2", "2001:db8", "\"80\"", "\"99\""] {
        assert!(!scrape.0.contains(of_a_flow), "{of_a_flow}");
    }
    let sweeps = scrape.sum("tracker_sweep_duration_seconds", &[])?;
    eventually("sweeps go on", || {
        Ok(Scrape::of(host)?.sum("tracker_sweep_duration_seconds", &[])? > sweeps)
    })?;
    Ok(())
}

#[test]
fn every_frame_of_the_interface_is_in_them() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let agent = Agent::start(
        &pair.host,
        &[
            "--interface",
            INTERFACE,
            "--metrics",
            "--sweep-interval",
            "0.05",
            "--timeout-closed",
            "1",
            "--timeout-time-wait",
            "1",
        ],
    )?;
    let at = SocketAddr::from(([10, 9, 0, 1], 8080));
    let listening = listener(&pair.host, at)?;
    // What the interface has counted before it was attached to, once the counts are of one moment.
    let uncounted = |scrape: &Scrape| -> Result<[f64; 2]> {
        let [received, sent] = frames(&pair.host)?;
        let counted = |hook| scrape.sum("tracker_packets", &[("hook", hook)]);
        Ok([received - counted("in")?, sent - counted("out")?])
    };
    let mut before = [0.0; 2];
    eventually("nothing passes meanwhile", || {
        before = uncounted(&Scrape::of(&pair.host)?)?;
        Ok(before == uncounted(&Scrape::of(&pair.host)?)?)
    })?;
    for _ in 0..20 {
        let mut there = bound(&pair.peer, ([10, 9, 0, 2], 0).into())?;
        there.connect(&at.into())?;
        let mut here = listening.accept()?.0;
        there.write_all(&[7; 5000])?;
        drop(there);
        let mut taken = Vec::new();
        here.read_to_end(&mut taken)?;
        ensure!(taken.len() == 5000, "{} bytes", taken.len());
    }
    eventually("all flows are closed, and every frame is counted", || {
        let scrape = Scrape::of(&pair.host)?;
        Ok(scrape.sum("tracker_flows_closed", &[("reason", "fin")])? == 20.0
            && scrape.sum("tracker_handshake_duration_seconds", &[])? == 20.0
            && uncounted(&scrape)? == before)
    })?;
    agent.finish()?;
    Ok(())
}

/// Frames that the interface has received and sent, by its own counters.
fn frames(namespace: &Namespace) -> Result<[f64; 2]> {
    let said = namespace.run("ip", &["-s", "-j", "link", "show", "dev", INTERFACE])?;
    let said: Value = serde_json::from_str(&said)?;
    let of = |way: &str| float(&said[0]["stats64"][way]["packets"]);
    Ok([of("rx")?, of("tx")?])
}

/// A cable between the namespaces.
fn add(pair: &Pair, name: &str) -> Result<()> {
    let (far, peer) = (format!("{name}-far"), pair.peer.path());
    pair.host
        .run("ip", &["link", "add", name, "type", "veth", "peer", "name", &far, "netns", &peer])?;
    pair.host.run("ip", &["link", "set", name, "up"])?;
    pair.peer.run("ip", &["link", "set", &far, "up"])?;
    Ok(())
}

#[test]
fn counters_go_on_when_interfaces_come_and_go() -> Result<()> {
    // A frame of a protocol for experiments.
    const FRAME: [u8; 60] = {
        let mut frame = [0xff; 60];
        [frame[6], frame[12], frame[13]] = [2, 0x88, 0xb5];
        frame
    };
    let pair = Pair::silent()?;
    for name in ["one", "two"] {
        add(&pair, name)?;
    }
    let agent = Agent::start(
        &pair.host,
        &["--interface", "one,two", "--metrics", "--sweep-interval", "0.05"],
    )?;
    let attached = |name: &str| {
        Scrape::of(&pair.host)?.sum("tracker_program_attached", &[("interface", name)])
    };
    let unparsed =
        || Scrape::of(&pair.host)?.sum("tracker_unparsed_packets", &[("reason", "not_ip")]);
    let not_ip = |name| {
        let labels = [("interface", name), ("fate", "not_ip")];
        Scrape::of(&pair.host)?.sum("tracker_packets", &labels)
    };
    let mut sent = 0.0;
    for _ in 0..3 {
        let wire = Wire::open(&pair.peer, "one-far")?;
        for _ in 0..50 {
            wire.send(&FRAME)?;
        }
        sent += 50.0;
        eventually("each is counted", || Ok(not_ip("one")? == sent))?;
        assert_eq!(unparsed()?, sent);
        pair.host.run("ip", &["link", "del", "one"])?;
        eventually("it is detached", || Ok(attached("one")? == 0.0))?;
        assert_eq!(attached("two")?, 2.0);
        assert_eq!((not_ip("one")?, unparsed()?), (sent, sent));
        add(&pair, "one")?;
        eventually("it is attached again", || Ok(attached("one")? == 2.0))?;
        assert_eq!((not_ip("one")?, unparsed()?), (sent, sent));
    }
    assert_eq!(not_ip("two")?, 0.0);
    agent.finish()?;
    Ok(())
}

#[test]
fn a_cookies_flow_is_counted_once_and_for_good() -> Result<()> {
    let pair = Pair::with_addresses()?;
    // A veth takes what XDP sends back only where its other end runs a program too.
    let far = Agent::start(&pair.peer, &["--interface", INTERFACE])?;
    let agent = Agent::start(
        &pair.host,
        &["--interface", INTERFACE, "--metrics", "--protect", "80", "--syn-cookies", "always"],
    )?;
    let (here, there) = ([10, 9, 0, 1], [10, 9, 0, 2]);
    let [at, far_at]: [SocketAddr; 2] = [(here, 80).into(), (there, 81).into()];
    let (listening, far_listening) = (listener(&pair.host, at)?, listener(&pair.peer, far_at)?);
    eventually("the listener is protected", || {
        let labels = [("listener", "10.9.0.1:80")];
        Ok(Scrape::of(&pair.host)?.sum("tracker_syncookie_mode", &labels)? == 1.0)
    })?;
    let mut connections = Vec::new();
    for _ in 0..10 {
        let client = bound(&pair.peer, (there, 0).into())?;
        client.connect(&at.into())?;
        connections.extend([client, listening.accept()?.0]);
    }
    for _ in 0..3 {
        let client = bound(&pair.host, (here, 0).into())?;
        client.connect(&far_at.into())?;
        connections.extend([client, far_listening.accept()?.0]);
    }
    let check = |scrape: &Scrape| -> Result<()> {
        for (family, labels, expected) in [
            ("tracker_flows_created", [("origin", "cookie")].as_slice(), 10.0),
            ("tracker_flows_created", &[("origin", "syn")], 3.0),
            ("tracker_flows_created", &[("origin", "midstream")], 0.0),
            ("tracker_syncookies_sent", &[], 10.0),
            ("tracker_syncookies_received", &[("result", "accepted")], 10.0),
            ("tracker_syncookies_received", &[], 10.0),
            ("tracker_syncookies_handovers", &[("result", "handed_over")], 10.0),
        ] {
            ensure!(scrape.sum(family, labels)? == expected, "{family} {labels:?}\n{}", scrape.0);
        }
        Ok(())
    };
    check(&Scrape::of(&pair.host)?)?;
    // The place goes, and what was counted there stays.
    pair.host.run("ip", &["address", "del", "10.9.0.1/24", "dev", INTERFACE])?;
    eventually("the place has gone", || {
        let labels = [("listener", "10.9.0.1:80")];
        Ok(Scrape::of(&pair.host)?.sum("tracker_syncookie_mode", &labels)? == 0.0)
    })?;
    check(&Scrape::of(&pair.host)?)?;
    agent.finish()?;
    far.finish()?;
    Ok(())
}

#[test]
fn bad_and_slow_clients_hurt_nobody() -> Result<()> {
    let bench = Bench::with(&["--metrics", "127.0.0.1:9469", "--sweep-interval", "0.05"])?;
    let host = &bench.pair.host;
    // As many as could keep half of the places for as long as they like.
    let slow: Vec<_> = (0..8).map(|_| client(host)).collect::<Result<_>>()?;
    for (n, mut stream) in slow.iter().enumerate() {
        stream.write_all(&b"GET /metrics HTTP/1.1\r\nHost"[..n * 3])?;
    }
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01\xff"[..], b"GET\r\n\r\n", &[b'A'; 100_000]] {
        let mut stream = client(host)?;
        // It may hang up before it has read all of it.
        let _ = stream.write_all(nonsense);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // These ask, and never read.
    let unread: Vec<_> = (0..4).map(|_| client(host)).collect::<Result<_>>()?;
    for mut stream in &unread {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    }
    // More than there are places: whoever comes is served all the same.
    let many: Vec<_> = (0..100).map(|_| client(host)).collect::<Result<_>>()?;
    for mut stream in &many {
        // One may have lost its place to another by now.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    for (path, code) in [("/healthz", 200), ("/metrics", 200), ("/", 404), ("/metrics/", 404)] {
        assert_eq!(get(host, path)?.0, code, "{path}");
    }
    eventually("it is ready", || Ok(get(host, "/readyz")?.0 == 200))?;
    let mut stream = client(host)?;
    stream.write_all(b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    // Tracking goes on beside them.
    Connection::inbound(&bench).handshake()?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    drop((slow, unread, many));
    Ok(())
}

#[test]
fn an_address_that_is_taken_is_refused_before_anything_is_attached() -> Result<()> {
    let pair = Pair::silent()?;
    let _taken = listener(&pair.host, AT.into())?;
    let arguments = ["--instance", "metrics-1", "run", "--interface", INTERFACE, "--metrics"];
    let (_, said, status) = run_tracker(&arguments, Some(&pair.host))?;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("serving metrics on 127.0.0.1:9469") && said.contains("--metrics"),
        "{said}"
    );
    assert!(!said.contains("attached"), "{said}");
    let usage = ["run", "--interface", INTERFACE, "--metrics", "localhost"];
    let (_, said, status) = run_tracker(&usage, Some(&pair.host))?;
    assert_eq!(status.code(), Some(2), "{said}");
    Ok(())
}
