//! An agent that lasts: its settings are read again, interfaces come and go, some readers stop and others hang.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tracker_tests::{
    agent::{Agent, Events, PATIENCE, eventually},
    counters::packets_counted,
    fault::{Directory, memory, pause, resume, send},
    lab::{INTERFACE, SEGMENTS, cable, send_both_ways, sends},
};

use crate::{
    site::Site,
    span::Span,
    truth::{self, Begin, counters_are_exact, descriptors, nothing_is_left, pinned},
};

/// How much more memory it may have at the end than the most it had in the first half, in KiB: in a minute queues for subscribers
/// may still grow (65,536 events, some 80 MiB), and buffers of sweeps.
const GROWTH_KIB: u64 = 128 << 10;

/// How many interfaces come and go, again and again.
const INTERFACES: u64 = 3;
/// Connections over one of them while it is there.
const OF_EACH_INTERFACE: u64 = 3;

/// A subscriber, and what it received.
struct Reader {
    events: Events,
    established: u64,
    /// How much it missed, by LOST events: in the kernel's ring buffer, and because it did not read.
    lost_in_ring: u64,
    lost: u64,
}

impl Reader {
    fn new(agent: &Agent, kinds: &str) -> Result<Self> {
        Ok(Self { events: agent.events_of(kinds)?, established: 0, lost_in_ring: 0, lost: 0 })
    }

    fn read(&mut self) -> Result<()> {
        for event in self.events.take()? {
            self.established += u64::from(truth::is_established(&event));
            if event["event"] == "LOST" {
                let lost = event["lost"].as_u64().context("lost")?;
                let stage = event["stage"].as_str().context("stage")?;
                *(if stage == "ring" { &mut self.lost_in_ring } else { &mut self.lost }) += lost;
            }
        }
        Ok(())
    }

    /// Waits until its events and the reported losses cover the `made` connections; returns a summary.
    fn knows_all(&mut self, made: u64) -> Result<String> {
        eventually("a subscriber is told of every connection", || {
            self.read()?;
            ensure!(self.established <= made, "{} instead of {made}", self.established);
            Ok(self.established + self.lost_in_ring + self.lost >= made)
        })?;
        Ok(format!(
            "{} connections, {} events lost in the ring, {} by itself",
            self.established, self.lost_in_ring, self.lost
        ))
    }
}

fn settings(round: u64) -> String {
    let short = 1 + round % 3;
    format!(
        "timeout-syn-sent = {short}\ntimeout-syn-received = {short}\ntimeout-time-wait = {short}\n\
         timeout-closed = {short}\ntimeout-established = 5\nreport-rate = {}\n",
        10 + round % 2
    )
}

pub(crate) fn story(span: &Span) -> Result<String> {
    let site = Site::new()?;
    let directory = Directory::new("soak")?;
    let file = directory.path("tracker.toml")?;
    fs::write(&file, settings(0))?;
    let options = [
        ["--interface", INTERFACE],
        ["--interface", "soak*"],
        ["--config", &file],
        ["--events", "established"],
        ["--metrics", "127.0.0.1:9469"],
        ["--max-half-open", "262144"],
    ];
    let agent = Agent::start(&site.pair.host, &options.concat())?;
    let begin = Begin::of(&site, &agent)?;
    // What the agent loads for the first of them stays, and the counters of each.
    for round in 0..INTERFACES {
        one_interface(&site, &agent, span, round)?;
    }
    let (pins_before, descriptors_before) = (pinned(&agent)?, descriptors(agent.pid())?);
    let mut readers =
        [Reader::new(&agent, "established")?, Reader::new(&agent, "established,closing")?];
    let [steady, stopped] = &mut readers;
    let (reloads, interfaces, asked) =
        (AtomicU64::new(0), AtomicU64::new(INTERFACES), AtomicU64::new(0));
    let (most, last) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| -> Result<()> {
        let workers = [
            scope.spawn(|| span.part(|| site.visit(span))),
            scope.spawn(|| span.part(|| site.flood(span))),
            scope.spawn(|| span.part(|| reload(&site, &agent, span, &file, &reloads))),
            scope.spawn(|| span.part(|| come_and_go(&site, &agent, span, &interfaces))),
            scope.spawn(|| span.part(|| hang_and_ask(&site, &agent, span, &asked))),
            scope.spawn(|| span.part(|| stop_and_go_on(&site, stopped, span))),
            scope.spawn(|| {
                span.part(|| {
                    while span.goes_on() {
                        site.goes_on(span)?;
                        steady.read()?;
                        let now = memory(agent.pid(), "RssAnon")?;
                        if !span.is_half_over() {
                            most.fetch_max(now, Ordering::Relaxed);
                        }
                        last.store(now, Ordering::Relaxed);
                    }
                    Ok(())
                })
            }),
        ];
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;

    let made = site.made.load(Ordering::Relaxed);
    let by_others = OF_EACH_INTERFACE * interfaces.load(Ordering::Relaxed);
    let counted = counters_are_exact(&site, &agent, &begin, made + by_others)?;
    let [steady, stopped] = readers;
    let (mut steady, mut stopped) = (steady, stopped);
    let told = [steady.knows_all(made)?, stopped.knows_all(made)?];
    let lost = agent.counter("reports_lost")?;
    ensure!(steady.lost_in_ring == lost, "{} were told as lost, {lost} were", steady.lost_in_ring);
    ensure!(steady.lost == 0, "a subscriber that reads missed {}", steady.lost);
    drop((steady, stopped));
    let mut now = BTreeMap::new();
    eventually("descriptors are what they were", || {
        now = descriptors(agent.pid())?;
        Ok(now == descriptors_before)
    })
    .with_context(|| format!("at the beginning: {descriptors_before:?}\nnow: {now:?}"))?;
    ensure!(pinned(&agent)? == pins_before, "{pins_before:?}\n{:?}", pinned(&agent)?);
    let (most, last) = (most.into_inner(), last.into_inner());
    ensure!(last <= most + GROWTH_KIB, "{most} KiB in the first half, {last} KiB at the end");
    let name = agent.name().to_owned();
    agent.finish()?;
    nothing_is_left(&name, &site.pair.host)?;
    Ok(format!(
        "lasting: {} reloads, {} interfaces, {} answers, {made} connections, {} forged SYNs; {counted}; \
         steady reader {}, stopped reader {}; at most {most} KiB in the first half, {last} KiB at the end",
        reloads.into_inner(),
        interfaces.into_inner(),
        asked.into_inner(),
        site.flooded.into_inner(),
        told[0],
        told[1],
    ))
}

/// Other settings, which the agent reads again.
fn reload(site: &Site, agent: &Agent, span: &Span, file: &str, done: &AtomicU64) -> Result<()> {
    while span.goes_on() {
        site.goes_on(span)?;
        let round = done.fetch_add(1, Ordering::Relaxed) + 1;
        fs::write(file, settings(round))?;
        send(agent.pid(), Signal::SIGHUP)?;
        agent.wait_for_log("setting=\"report-rate\"")?;
    }
    Ok(())
}

/// Interfaces come and go.
fn come_and_go(site: &Site, agent: &Agent, span: &Span, done: &AtomicU64) -> Result<()> {
    while span.goes_on() {
        one_interface(site, agent, span, done.fetch_add(1, Ordering::Relaxed))?;
    }
    Ok(())
}

/// An interface that the agent attaches to when it comes. It counts what passes it, whatever happens to it.
fn one_interface(site: &Site, agent: &Agent, span: &Span, round: u64) -> Result<()> {
    let (host, peer) = (&site.pair.host, &site.pair.peer);
    let is_attached = |name: &str| -> Result<bool> {
        let stats = agent.stats()?;
        let all = stats["interfaces"].as_array().context("interfaces")?;
        Ok(all.iter().any(|one| one["name"] == name && one["attached"] == true))
    };
    let tracked =
        |name: &str| -> Result<u64> { Ok(packets_counted(&agent.stats()?, name, Some("tracked"))) };
    let (near, far) = (format!("soak{}", round % INTERFACES), format!("far{}", round % INTERFACES));
    cable((host, &near), (peer, &far))?;
    let port = 1000 + 3 * u16::try_from(round % 2000)?;
    let changes: [&[&[&str]]; OF_EACH_INTERFACE as usize] =
        [&[&["mtu", "1400"]], &[&["down"], &["up"]], &[]];
    for (changes, port) in changes.into_iter().zip(port..) {
        span.wait("it is attached to", || is_attached(&near))?;
        sends(host, &near)?;
        sends(peer, &far)?;
        let due = tracked(&near)? + u64::from(2 * SEGMENTS);
        send_both_ways(&site.pair, [&near, &far], port)?;
        span.wait("each of its packets is counted once", || {
            let counted = tracked(&near)?;
            ensure!(counted <= due, "{counted} instead of {due}");
            Ok(counted == due)
        })?;
        for change in changes {
            host.run("ip", &[&["link", "set", &near], *change].concat())?;
        }
    }
    host.run("ip", &["link", "del", &near])?;
    span.wait("it is given up", || Ok(!is_attached(&near)?))
}

/// Clients that hang, and commands and probes that are answered nevertheless.
fn hang_and_ask(site: &Site, agent: &Agent, span: &Span, done: &AtomicU64) -> Result<()> {
    let at = SocketAddr::from(([127, 0, 0, 1], 9469));
    let connect = || site.pair.host.enter(|| Ok(TcpStream::connect(at)?));
    let get = |path: &str| -> Result<String> {
        let mut stream = connect()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let socket = format!("/run/tracker/{}.sock", agent.name());
    while span.goes_on() {
        let mut hung = Vec::new();
        for _ in 0..80 {
            let mut stream = connect()?;
            write!(stream, "GET /metrics HTTP/1.1\r\n")?;
            hung.push(stream);
        }
        let idle: Vec<_> =
            (0..100).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
        for _ in 0..5 {
            let ready = get("/readyz")?;
            let is_known =
                ["HTTP/1.1 200 ", "HTTP/1.1 503 "].iter().any(|it| ready.starts_with(it));
            ensure!(is_known, "{ready}");
            let metrics = get("/metrics")?;
            ensure!(metrics.starts_with("HTTP/1.1 200 "), "{metrics}");
            ensure!(metrics.contains("tracker_program_attached"), "{metrics}");
            for command in [&["flows", "-o", "jsonl", "--last", "5"][..], &["stats", "-o", "json"]]
            {
                if agent.ask(command)?.is_empty() && command[0] == "stats" {
                    bail!("no answer to {command:?}");
                }
            }
            done.fetch_add(4, Ordering::Relaxed);
        }
        drop((hung, idle));
    }
    Ok(())
}

/// A subscriber that is stopped now and then.
fn stop_and_go_on(site: &Site, reader: &mut Reader, span: &Span) -> Result<()> {
    while span.goes_on() {
        let pid = reader.events.pid();
        pause(pid)?;
        let outcome = (0..5).try_for_each(|_| site.goes_on(span));
        resume(pid)?;
        outcome?;
        site.goes_on(span)?;
        reader.read()?;
    }
    Ok(())
}
