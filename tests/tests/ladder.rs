//! Ladders: of captures, and of connections that go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use insta::assert_snapshot;
use nix::sys::signal::Signal;
use tracker_common::{config::LiveConfig, event::Kind};
use tracker_tests::{
    agent::{eventually, pins, run_tracker},
    lab::{Bench, Connection},
    pcap::{Form, Order, Packet, pcap},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
};
use tracker_user::kernel::tables::Tables;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_000 * SECOND;

/// MSS 1460, SACK permitted, timestamps, window scale 7: what Linux offers.
const OFFER: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

/// A capture in a file of its own, removed when dropped.
struct File(PathBuf);

impl File {
    fn new(bytes: &[u8]) -> Result<Self> {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("tracker-ladder-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes)?;
        Ok(Self(path))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `tracker replay --ladder OPTIONS` of a file.
fn ladder_of(file: &str, options: &[&str]) -> Result<(String, String)> {
    let arguments = [&["replay", "--ladder"], options, &[file]].concat();
    let (stdout, stderr, status) = run_tracker(&arguments, None)?;
    ensure!(status.success(), "{status}: {stderr}");
    ensure!(stdout.is_ascii(), "ASCII only: {stdout}");
    Ok((stdout, stderr))
}

/// The same of packets.
fn ladder(packets: &[Packet], options: &[&str]) -> Result<String> {
    let file = File::new(&pcap(Order::Little, Form::Nanoseconds, 1, packets))?;
    Ok(ladder_of(file.0.to_str().context("a path of UTF-8")?, options)?.0)
}

/// What two ends send, ten milliseconds apart.
#[derive(Clone, Copy)]
struct Talk {
    client: SocketAddr,
    server: SocketAddr,
}

impl Talk {
    fn from_port(port: u16) -> Self {
        Self { client: ([192, 0, 2, 1], port).into(), server: ([192, 0, 2, 2], 80).into() }
    }

    fn c(&self, flags: u16, seq: u32, ack: u32) -> Segment {
        Segment::new(self.client, self.server, flags, seq, ack)
    }

    fn s(&self, flags: u16, seq: u32, ack: u32) -> Segment {
        Segment::new(self.server, self.client, flags, seq, ack)
    }

    fn open(&self, c: u32, s: u32) -> Vec<Segment> {
        vec![self.c(SYN, c, 0), self.s(SYN | ACK, s, c + 1), self.c(ACK, c + 1, s + 1)]
    }
}

fn packets(segments: &[Segment]) -> Vec<Packet> {
    let at = (START..).step_by(10_000_000);
    segments.iter().zip(at).map(|(segment, at)| Packet::new(at, segment.frame())).collect()
}

fn drawn(segments: &[Segment]) -> Result<String> {
    ladder(&packets(segments), &[])
}

#[test]
fn a_normal_connection() -> Result<()> {
    let t = Talk::from_port(40_000);
    // RFC 9293 figures 6 and 12, with numbers that wrap, and windows that are scaled but for the SYNs'.
    let text = drawn(&[
        t.c(SYN, u32::MAX - 9, 0).window(64_240).options(&OFFER),
        t.s(SYN | ACK, 300, u32::MAX - 8).window(65_160).options(&OFFER),
        t.c(ACK, u32::MAX - 8, 301).window(502),
        t.c(PSH | ACK, u32::MAX - 8, 301).window(502).data(100),
        t.s(ACK, 301, 91).window(509).data(1448),
        t.c(ACK, 91, 1749).window(501),
        t.c(FIN | ACK, 91, 1749).window(501),
        t.s(ACK, 1749, 92).window(509),
        t.s(FIN | ACK, 1749, 92).window(509),
        t.c(ACK, 92, 1750).window(501),
    ])?;
    assert_snapshot!("open_and_close", text);
    Ok(())
}

#[test]
fn a_simultaneous_open() -> Result<()> {
    let t = Talk::from_port(40_000);
    // RFC 9293 figure 7.
    let text = drawn(&[
        t.c(SYN, 100, 0),
        t.s(SYN, 300, 0),
        t.c(SYN | ACK, 100, 301),
        t.s(SYN | ACK, 300, 101),
        t.c(ACK, 101, 301),
    ])?;
    assert_snapshot!("simultaneous_open", text);
    Ok(())
}

#[test]
fn a_half_close() -> Result<()> {
    let t = Talk::from_port(40_000);
    let mut segments = t.open(1000, 5000);
    segments.extend([
        t.c(FIN | ACK, 1001, 5001),
        t.s(ACK, 5001, 1002),
        t.s(PSH | ACK, 5001, 1002).data(1000),
        t.c(ACK, 1002, 6001),
        t.s(FIN | ACK, 6001, 1002),
        t.c(ACK, 1002, 6002),
    ]);
    assert_snapshot!("half_close", drawn(&segments)?);
    Ok(())
}

#[test]
fn breaches_where_they_happen() -> Result<()> {
    let t = Talk::from_port(40_000);
    let text = drawn(&[
        t.c(SYN, 1000, 0),
        t.s(SYN | ACK, 5000, 3001),
        t.s(SYN | ACK, 5000, 1001),
        t.c(ACK, 1001, 5001),
        // A header that no receiver would look at belongs to the diagram too, once, with each of its breaches.
        t.c(SYN | FIN | RST, 1001, 0),
        t.c(ACK, 1001, 9001),
        t.c(PSH | ACK, 200_000, 5001).data(10),
        t.s(RST, 7000, 0),
        t.c(PSH | ACK, 1001, 5001).data(10),
    ])?;
    assert_snapshot!("breaches", text);
    Ok(())
}

#[test]
fn a_connection_from_its_middle() -> Result<()> {
    let t = Talk::from_port(40_000);
    let text = drawn(&[
        t.s(PSH | ACK, 900_000, 70_000).data(500),
        t.c(ACK, 70_000, 900_500),
        t.c(PSH | ACK, 70_000, 900_500).data(20),
        t.s(RST, 900_500, 0),
    ])?;
    assert_snapshot!("midstream", text);
    Ok(())
}

#[test]
fn what_is_sent_again() -> Result<()> {
    let t = Talk::from_port(40_000);
    let data = t.c(PSH | ACK, 2001, 5001).data(100);
    let text = drawn(&[
        t.c(SYN, 1000, 0),
        t.c(SYN, 1000, 0),
        // Another number: the answer decides which of them counts.
        t.c(SYN, 2000, 0),
        t.s(SYN | ACK, 5000, 2001),
        t.c(ACK, 2001, 5001),
        data.clone(),
        data,
        t.s(ACK, 5001, 2101),
        // A keepalive lies one below.
        t.c(ACK, 2100, 5001),
    ])?;
    assert_snapshot!("sent_again", text);
    Ok(())
}

#[test]
fn one_after_the_other_although_they_come_mixed() -> Result<()> {
    let (a, b) = (Talk::from_port(40_000), Talk::from_port(40_001));
    let (first, second) = (a.open(1000, 5000), b.open(2000, 6000));
    let mixed: Vec<Segment> =
        first.into_iter().zip(second).flat_map(<[Segment; 2]>::from).collect();
    let mut packets = packets(&mixed);
    // Long after the first is forgotten, its ports are used again.
    packets.push(Packet::new(START + 100_000 * SECOND, a.c(SYN, 9000, 0).frame()));
    let text = ladder(&packets, &[])?;
    assert_snapshot!("mixed", text);
    let one = ladder(&packets, &["--port", "40001"])?;
    assert_eq!(text.split("\n\n").nth(1).map(str::trim_end), Some(one.trim_end()));
    // The filter is about the connection as it is at last, as in the list of connections.
    let states = ladder(&packets, &["--state", "syn-sent"])?;
    assert_eq!(text.split("\n\n").nth(2), Some(states.as_str()));
    Ok(())
}

#[test]
fn ports_used_again_at_once() -> Result<()> {
    let t = Talk::from_port(40_000);
    let mut segments = t.open(1000, 5000);
    segments.extend([t.c(FIN | ACK, 1001, 5001), t.s(FIN | ACK, 5001, 1002), t.c(ACK, 1002, 5002)]);
    segments.extend(t.open(700_000, 800_000));
    assert_snapshot!("used_again", drawn(&segments)?);
    Ok(())
}

fn captures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures")
}

#[test]
fn other_peoples_captures() -> Result<()> {
    for (name, file) in [
        ("http", "zeek/http/get.pcap"),
        ("fin_without_ack", "zeek/tcp/fin_retransmission.pcap"),
        ("evasion", "suricata-verify/bug-3286-03-windows-evasion/with_evasion_windows.pcap"),
        ("one_sided", "zeek/tcp/one-sided-2745.pcap"),
    ] {
        let path = captures().join(file);
        let (text, _) = ladder_of(path.to_str().context("a path of UTF-8")?, &[])?;
        assert_snapshot!(name, text);
    }
    Ok(())
}

/// Numbers of the packets that a ladder shows, and how often.
fn shown(text: &str) -> BTreeMap<u64, usize> {
    let mut shown = BTreeMap::new();
    let segments = text.lines().filter(|line| line.contains(" -- ") || line.contains(" <- "));
    for number in segments.filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        *shown.entry(number).or_default() += 1;
    }
    shown
}

#[test]
fn every_packet_of_every_capture_is_drawn() -> Result<()> {
    let index = fs::read_to_string(captures().join("index.tsv"))?;
    let mut whole = 0;
    for row in index.lines().skip(1) {
        let columns: Vec<_> = row.split('\t').collect();
        let (file, tcp_packets) = (columns[0], columns[4].parse::<usize>()?);
        let path = captures().join(file);
        let (text, summary) = ladder_of(path.to_str().context("a path of UTF-8")?, &[])
            .with_context(|| file.to_owned())?;
        let fate = |name: &str| -> usize {
            let line = format!("packets fate={name} ");
            let count = summary.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok());
            count.unwrap_or_default()
        };
        let numbers = shown(&text);
        let (tracked, illegal) = (fate("tracked"), fate("illegal"));
        assert!(
            (tracked..=tracked + illegal).contains(&numbers.len()),
            "{file}: {summary}\n{text}"
        );
        // Somebody else counted the packets.
        whole += usize::from(numbers.len() == tcp_packets);
        let diagrams = text.lines().filter(|line| line.contains(" > ")).count();
        assert!(
            summary.contains(&format!("\n{diagrams} flows shown\n")),
            "{file}: {summary}\n{text}"
        );
    }
    // The others have packets of which the header was cut off, or RSTs and fragments that belong to no connection.
    assert!(whole > 60, "of {} captures, {whole} are drawn whole", index.lines().count() - 1);
    Ok(())
}

/// The lines of segments and breaches without the columns of packets and times, and without what depends on how much was
/// known when a line was drawn: the length of its arrow, and the ISNs that the header did not know yet.
fn bare<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    lines
        .into_iter()
        .filter(|line| [" -- ", " <- ", "! "].iter().any(|mark| line.contains(mark)))
        .map(|line| {
            let words = line.get(13..).unwrap_or_default().split_whitespace();
            let words = words.filter(|word| !word.starts_with("isn="));
            words
                .map(|word| word.trim_start_matches('-'))
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

#[test]
fn a_trace_is_what_a_replay_shows() -> Result<()> {
    let bench = Bench::with(&["--timeout-closed", "1", "--sweep-interval", "0.05"])?;
    let tcp = Connection::inbound(&bench);
    let trace = bench.agent.trace(&["--port", "40000"])?;
    let segments = [
        (true, tcp.c(SYN, 1000, 0).options(&OFFER)),
        (false, tcp.s(SYN | ACK, 5000, 4001).options(&OFFER)),
        (false, tcp.s(SYN | ACK, 5000, 1001).options(&OFFER)),
        (true, tcp.c(ACK, 1001, 5001).window(500)),
        (true, tcp.c(PSH | ACK, 1001, 5001).window(500).data(100)),
        (true, tcp.c(SYN | FIN, 1101, 5001)),
        (false, tcp.s(PSH | ACK, 5001, 1101).window(500).data(1000)),
        (true, tcp.c(ACK, 1101, 7001).window(500)),
        (true, tcp.c(FIN | ACK, 1101, 6001).window(500)),
        (false, tcp.s(ACK, 6001, 1102).window(500)),
        (false, tcp.s(RST | ACK, 6001, 1102)),
    ];
    for (is_client, segment) in &segments {
        if *is_client {
            tcp.c_sends(segment)?;
        } else {
            tcp.s_sends(segment)?;
        }
        // One hook after the other: their programs run on any CPU.
        bench.settle()?;
    }
    let mut lines = Vec::new();
    while !lines.iter().any(|line: &String| line.contains("end reason=")) {
        lines.push(trace.line()?);
    }
    let replayed = drawn(&segments.clone().map(|(_, segment)| segment))?;
    assert_eq!(bare(lines.iter().map(String::as_str)), bare(replayed.lines()), "{replayed}");
    assert_eq!(bare(replayed.lines()).len(), segments.len() + 3, "three breaches: {replayed}");
    // Both begin with both ends and their ISNs, as far as they are known.
    assert!(
        lines[0].starts_with("[1] 192.0.2.1:40000 > 192.0.2.2:80 isn=1000/- wscale=7/- "),
        "{}",
        lines[0]
    );
    let header = "192.0.2.1:40000 > 192.0.2.2:80 isn=1000/5000 wscale=7/7 ";
    assert!(replayed.starts_with(header), "{replayed}");
    assert_eq!(
        lines.iter().filter(|line| line.contains(" > ")).count(),
        1,
        "one header: {lines:?}"
    );
    assert!(lines.iter().skip(1).all(|line| line.starts_with("[1] ")), "{lines:?}");
    let end = lines.last().context("a line")?;
    assert!(end.ends_with("end reason=rst conn_state=RSTR"), "{end}");
    let (rest, status) = trace.stop(Signal::SIGINT)?;
    assert!(rest.is_empty() && status.success(), "{status}: {rest:?}");
    Ok(())
}

#[test]
fn each_tracer_gets_its_own() -> Result<()> {
    let bench = Bench::new()?;
    let ends = |lines: &[String]| -> BTreeSet<String> {
        let headers = lines.iter().filter(|line| line.contains(" > "));
        headers.filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect()
    };
    let set =
        |ends: &[&str]| -> BTreeSet<String> { ends.iter().map(|&end| end.to_owned()).collect() };
    let mut one = bench.agent.trace(&["--sport", "40001", "--last", "3"])?;
    let mut other =
        bench.agent.trace(&["--dst", "192.0.2.2", "--sport", "40002", "--last", "3"])?;
    let mut json = bench.agent.trace(&["--port", "40001", "-o", "jsonl", "--last", "3"])?;
    let mut both = bench.agent.trace(&["--addr", "192.0.2.0/24", "--last", "9"])?;
    for port in [40_003, 40_001, 40_002] {
        Connection::inbound(&bench).from_port(port).handshake()?;
    }
    for (trace, expected) in [
        (&mut one, set(&["192.0.2.1:40001"])),
        (&mut other, set(&["192.0.2.1:40002"])),
        (&mut both, set(&["192.0.2.1:40001", "192.0.2.1:40002", "192.0.2.1:40003"])),
    ] {
        let (lines, status) = trace.to_end()?;
        assert!(status.success());
        assert_eq!(ends(&lines), expected, "{lines:?}");
        assert_eq!(bare(lines.iter().map(String::as_str)).len(), 3 * expected.len(), "{lines:?}");
    }
    let (lines, status) = json.to_end()?;
    assert!(status.success());
    let events: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    assert_eq!(events.len(), 3);
    for event in events {
        assert_eq!((&event["event"], &event["flow"]["sport"]), (&"SEGMENT".into(), &40_001.into()));
        assert!(event["states"]["after"]["orig"].is_string(), "{event}");
    }
    // Events come to who asked for them, as ever: no segments among them.
    bench.events.wait_for("ESTABLISHED")?;
    assert!(bench.events.take()?.iter().all(|event| event["event"] != "SEGMENT"));
    Ok(())
}

#[test]
fn a_line_says_whose_it_is() -> Result<()> {
    let bench = Bench::new()?;
    let (a, b) = (Connection::inbound(&bench), Connection::inbound(&bench).from_port(40_001));
    let mut trace = bench.agent.trace(&["--dport", "80", "--last", "5"])?;
    for (tcp, segment) in [
        (&a, a.c(SYN, 1000, 0)),
        (&b, b.c(SYN, 2000, 0)),
        (&b, b.c(SYN, 2000, 0)),
        (&a, a.c(SYN, 1000, 0)),
        (&b, b.c(SYN, 2000, 0)),
    ] {
        tcp.c_sends(&segment)?;
        bench.settle()?;
    }
    let (lines, _) = trace.to_end()?;
    let tags: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    // A header whenever it is another one's turn.
    assert_eq!(tags, ["[1]", "[1]", "[2]", "[2]", "[2]", "[1]", "[1]", "[2]", "[2]"], "{lines:?}");
    let headers: Vec<_> = lines.iter().map(|line| line.contains(" > ")).collect();
    assert_eq!(headers, [true, false, true, false, false, true, false, true, false], "{lines:?}");
    Ok(())
}

/// How many bytes the kernel programs have written into the ring buffer of reports so far: what the kernel itself says
/// in the second page of the map (`struct bpf_ringbuf`'s producer_pos).
fn bytes_reported(bench: &Bench) -> Result<u64> {
    use std::os::fd::{AsFd, AsRawFd};
    let ring = aya::maps::MapData::from_pin(pins(bench.agent.name()).join("EVENTS"))?;
    let page = usize::try_from(
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("a page")?,
    )?;
    // SAFETY: a new mapping, of a page that the map has.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            page,
            libc::PROT_READ,
            libc::MAP_SHARED,
            ring.fd().as_fd().as_raw_fd(),
            page.try_into()?,
        )
    };
    ensure!(mapped != libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    // SAFETY: the page begins with this number, which the kernel writes at any time.
    let position = unsafe { mapped.cast::<u64>().read_volatile() };
    // SAFETY: mapped above, and not used any more.
    unsafe { libc::munmap(mapped, page) };
    Ok(position)
}

fn live_config(bench: &Bench) -> Result<LiveConfig> {
    Ok(Tables::from_pins(&pins(bench.agent.name()))?.live_config()?)
}

#[test]
fn the_kernel_reports_the_segments_that_are_traced_and_no_others() -> Result<()> {
    let bench = Bench::new()?;
    let (traced, other) =
        (Connection::inbound(&bench), Connection::inbound(&bench).from_port(40_001));
    for tcp in [&traced, &other] {
        tcp.handshake()?;
        bench.settle()?;
    }
    let mut next = 1001;
    // On an open connection, data makes no event but a segment's.
    let mut grows = |tcp: &Connection<'_>| -> Result<bool> {
        bench.settle()?;
        let before = bytes_reported(&bench)?;
        tcp.c_sends(&tcp.c(PSH | ACK, next, 5001).data(10))?;
        next += 10;
        bench.settle()?;
        Ok(bytes_reported(&bench)? > before)
    };
    assert_eq!((grows(&traced)?, grows(&other)?), (false, false), "nobody traces");
    let is_traced = |config: LiveConfig| config.events & Kind::Segment.bit() != 0;
    assert!(!is_traced(live_config(&bench)?));

    let one = bench.agent.trace(&["--port", "40000"])?;
    assert!(is_traced(live_config(&bench)?), "listening means that the kernel was told");
    assert_eq!(live_config(&bench)?.trace.port, 40_000_u16.to_be_bytes());
    assert_eq!((grows(&traced)?, grows(&other)?), (true, false));

    let two = bench.agent.trace(&["--addr", "198.51.100.1"])?;
    assert_eq!(
        (grows(&traced)?, grows(&other)?),
        (true, true),
        "what both filters have in common: nothing"
    );
    drop(two);
    eventually("the first one's filter is back", || {
        Ok(live_config(&bench)?.trace.port == 40_000_u16.to_be_bytes())
    })?;
    assert_eq!((grows(&traced)?, grows(&other)?), (true, false));

    let (lines, status) = one.stop(Signal::SIGTERM)?;
    assert!(status.success());
    assert_eq!(
        bare(lines.iter().map(String::as_str)).len(),
        3,
        "its own three segments: {lines:?}"
    );
    eventually("the kernel is told that nobody traces", || Ok(!is_traced(live_config(&bench)?)))?;
    assert_eq!((grows(&traced)?, grows(&other)?), (false, false));
    Ok(())
}

#[test]
fn usage() -> Result<()> {
    for (arguments, code, expected) in [
        (&["trace"][..], 2, "say whose segments"),
        (&["trace", "--port", "no"], 2, "--port"),
        (&["trace", "--all", "-o", "json"], 2, "use `-o jsonl`"),
        (&["--instance", "nobody", "trace", "--all"], 1, "no agent named `nobody`"),
        (&["replay", "--ladder", "-o", "jsonl", "x"], 2, "cannot be used with"),
        (&["replay", "--ladder", "-e", "new", "x"], 2, "cannot be used with"),
    ] {
        let (stdout, stderr, status) = run_tracker(arguments, None)?;
        assert_eq!(status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    Ok(())
}
