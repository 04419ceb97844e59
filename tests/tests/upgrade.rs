//! One build of `tracker` takes the place of another during traffic, after `kill -9` or gracefully; and what an agent has left
//! whose tables cannot be used is replaced.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::MapData,
    programs::links::{FdLink, PinnedLink},
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tracker_common::LAYOUT_VERSION;
use tracker_tests::{
    agent::{Agent, eventually},
    lab::{INTERFACE, Pair, address},
    offload::{Offload, set_offload},
    segment::{Segment, flag::SYN},
    sockets::{Listeners, accept, bound, transfer},
    wire::Wire,
};

const PORT: u16 = 80;
/// How often one build takes the place of the other.
const ROUNDS: u16 = 6;

/// Packets of the host's interface, both ways, and of the agent's counters.
fn packets(pair: &Pair, stats: &Value) -> Result<[u64; 2]> {
    let text = pair.host.run("ip", &["-s", "-j", "link", "show", "dev", INTERFACE])?;
    let links: Value = serde_json::from_str(&text)?;
    let link =
        |name: &str| links[0]["stats64"][name]["packets"].as_u64().with_context(|| text.clone());
    Ok([link("rx")? + link("tx")?, sum(&stats["interfaces"][0]["packets"])])
}

fn sum(value: &Value) -> u64 {
    match value {
        Value::Object(members) => members.values().map(sum).sum(),
        other => other.as_u64().unwrap_or_default(),
    }
}

/// The tag of the XDP program on the host's interface: the kernel's digest of its instructions. None where there is none.
fn tag(pair: &Pair) -> Result<String> {
    let text = pair.host.run("ip", &["-d", "-j", "link", "show", "dev", INTERFACE])?;
    let links: Value = serde_json::from_str(&text)?;
    let tag = links[0]["xdp"]["prog"]["tag"].as_str();
    Ok(tag.with_context(|| format!("an XDP program: {text}"))?.to_owned())
}

/// Sends bytes to and fro over sockets until `stop` is set.
fn chat(pair: &Pair, listeners: &Listeners, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let client = SocketAddr::from((address::PEER[0], 10_000));
    let socket = bound(&pair.peer, client)?;
    socket.connect(&SocketAddr::from((address::HOST[0], PORT)).into())?;
    let accepted = accept(listeners.at(true, false), client)?;
    while !stop.load(Ordering::Relaxed) {
        transfer(&socket, &accepted, 5000)?;
        transfer(&accepted, &socket, 5000)?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Sends SYNs from changing ports to a port where nobody listens, each answered by an RST, until `stop` is set.
fn flood(wire: &Wire, hardware: [u8; 6], stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let server = SocketAddr::from((address::HOST[0], 9));
    for n in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let port = u16::try_from(n % 20_000)? + 20_000;
        let client = SocketAddr::from((address::PEER[0], port));
        let syn = Segment::new(client, server, SYN, n, 0).addressed_to(hardware);
        wire.send(&syn.frame())?;
        done.fetch_add(1, Ordering::Relaxed);
        if n % 8 == 0 {
            thread::yield_now();
        }
    }
    Ok(())
}

fn hardware(pair: &Pair) -> Result<[u8; 6]> {
    let text = pair.host.run("ip", &["-j", "link", "show", "dev", INTERFACE])?;
    let links: Value = serde_json::from_str(&text)?;
    let mut bytes = [0; 6];
    let address = links[0]["address"].as_str().context("an address")?;
    for (byte, digits) in bytes.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(bytes)
}

fn goes_on(what: &AtomicU64, further: u64) -> Result<()> {
    let then = what.load(Ordering::Relaxed) + further;
    eventually("traffic goes on", || Ok(what.load(Ordering::Relaxed) >= then))
}

/// A pair whose interfaces count as many packets as they carry.
fn quiet_pair() -> Result<Pair> {
    let pair = Pair::with_addresses()?;
    for namespace in [&pair.host, &pair.peer] {
        for offload in [Offload::Gso, Offload::Gro, Offload::Tso] {
            set_offload(namespace, INTERFACE, offload, false)?;
        }
        namespace.run("ip", &["link", "set", INTERFACE, "gso_max_segs", "1"])?;
    }
    Ok(pair)
}

#[test]
fn no_packet_is_missed_from_one_build_to_the_next() -> Result<()> {
    let pair = quiet_pair()?;
    let listeners = Listeners::new(&pair, PORT)?;
    let build = |round: u16| {
        let mut options = vec!["--interface", INTERFACE, "--keep-attached", "--xdp", "native"];
        // These are other kernel programs, from another object.
        if round % 2 == 1 {
            options.push("--kernel-log");
        }
        options
    };
    let mut agent = Agent::start(&pair.host, &build(0))?;
    let [mut link, mut counted] = packets(&pair, &agent.stats()?)?;
    eventually("the interface is quiet", || {
        let before = [link, counted];
        [link, counted] = packets(&pair, &agent.stats()?)?;
        Ok(before == [link, counted])
    })?;
    let mut created = None;
    let (stop, chats, syns) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (wire, hardware) = (Wire::open(&pair.peer, INTERFACE)?, hardware(&pair)?);
    let agent = thread::scope(|scope| -> Result<Agent> {
        let threads = [
            scope.spawn(|| chat(&pair, &listeners, &stop, &chats)),
            scope.spawn(|| flood(&wire, hardware, &stop, &syns)),
        ];
        let outcome = (|| {
            for round in 1..=ROUNDS {
                goes_on(&chats, 20)?;
                goes_on(&syns, 1000)?;
                let before = tag(&pair)?;
                let left = if round % 3 == 0 { agent.kill()? } else { agent.leave()? };
                ensure!(tag(&pair)? == before, "its programs are still there");
                goes_on(&chats, 20)?;
                goes_on(&syns, 1000)?;
                agent = left.restart(&pair.host, &build(round))?;
                ensure!(tag(&pair)? != before, "another program is there");
                let flows = agent.flows(&["--port", "80"])?;
                let now = flows.first().context("the connection")?["created_ns"].clone();
                ensure!(flows.len() == 1 && *created.get_or_insert(now.clone()) == now);
            }
            Ok(agent)
        })();
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        outcome
    })?;
    let mut last = String::new();
    eventually("packets of the interface are those that were counted", || {
        let [link_now, counted_now] = packets(&pair, &agent.stats()?)?;
        last = format!("{} of the interface, {} counted", link_now - link, counted_now - counted);
        Ok(link_now - link == counted_now - counted)
    })
    .with_context(|| last.clone())?;
    println!("{ROUNDS} upgrades, {last}, {} SYNs", syns.load(Ordering::Relaxed));
    // To end it for good: SIGINT.
    let pins = pins(agent.name(), &format!("v{LAYOUT_VERSION}"));
    ensure!(agent.stop(Signal::SIGINT)?.success());
    ensure!(!pins.exists() && tag(&pair).is_err());
    Ok(())
}

fn pins(name: &str, version: &str) -> PathBuf {
    format!("/sys/fs/bpf/tracker/{version}/{name}").into()
}

fn link_of(pins: &std::path::Path, name: &str) -> Result<u32> {
    let pin = pins.join(format!("slot-0-{INTERFACE}")).join(name);
    Ok(FdLink::from(PinnedLink::from_pin(&pin).with_context(|| pin.display().to_string())?)
        .info()?
        .id())
}

/// What another layout's version has left is replaced in place, and nothing of it stays.
#[test]
fn what_another_version_has_left_is_replaced_without_a_gap() -> Result<()> {
    for egress in ["tcx", "clsact"] {
        let pair = quiet_pair()?;
        let listeners = Listeners::new(&pair, PORT)?;
        pair.host.run("ip", &["link", "add", "other", "type", "veth", "peer", "name", "far"])?;
        let options = ["--interface", INTERFACE, "--egress", egress, "--xdp", "native"];
        let agent = Agent::start(&pair.host, &[&options[..], &["--interface", "other"]].concat())?;
        let name = agent.name().to_owned();
        let (now, then) = (pins(&name, &format!("v{LAYOUT_VERSION}")), pins(&name, "v999"));
        let links = |pins: &std::path::Path| -> Result<Vec<u32>> {
            let names =
                if egress == "tcx" { &["xdp-native", "egress-tcx"][..] } else { &["xdp-native"] };
            names.iter().map(|name| link_of(pins, name)).collect()
        };
        let (stop, chats) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| -> Result<()> {
            let chatting = scope.spawn(|| chat(&pair, &listeners, &stop, &chats));
            let outcome = (|| {
                goes_on(&chats, 20)?;
                let killed = agent.kill()?;
                fs::create_dir_all(then.parent().context("a directory")?)?;
                fs::rename(&now, &then)?;
                // Its tables are of a form of their own, too: what is in them is never read.
                ensure!(MapData::from_pin(then.join("CONFIRMED")).is_ok());
                let (before, old_tag) = (links(&then)?, tag(&pair)?);
                let old = MapData::from_pin(then.join("CONFIRMED"))?.info()?.id();

                let agent = killed.restart(&pair.host, &options)?;
                ensure!(links(&now)? == before, "the links are the same, with other programs");
                ensure!(tag(&pair)? == old_tag, "it is the same build in truth");
                ensure!(MapData::from_pin(now.join("CONFIRMED"))?.info()?.id() != old);
                ensure!(!then.exists() && !then.parent().is_some_and(std::path::Path::exists));
                // Its other interface was not asked for.
                ensure!(!pair.host.run("ip", &["link", "show", "other"])?.contains("xdp"));
                // It goes on at once, as a connection that is picked up in its middle.
                goes_on(&chats, 20)?;
                let flows = agent.flows(&[])?;
                ensure!(flows.len() == 1 && flows[0]["midstream"] == true, "{flows:?}");
                ensure!(agent.violations()?.is_empty(), "{:?}", agent.violations()?);

                // Tables of other sizes are replaced in the same way.
                let killed = agent.kill()?;
                let more = [&options[..], &["--max-flows", "1000"]].concat();
                let agent = killed.restart(&pair.host, &more)?;
                ensure!(links(&now)? == before, "the links are still the same");
                ensure!(!pins(&name, "replaced").exists());
                ensure!(agent.stop(Signal::SIGTERM)?.success());
                ensure!(!now.exists() && tag(&pair).is_err());
                Ok(())
            })();
            stop.store(true, Ordering::Relaxed);
            chatting.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            outcome
        })?;
    }
    Ok(())
}

/// One that cannot be replaced is left as it was.
#[test]
fn a_failed_upgrade_leaves_the_other_version_at_work() -> Result<()> {
    let pair = quiet_pair()?;
    pair.host.run("ip", &["link", "add", "held", "type", "veth", "peer", "name", "far"])?;
    let holder = Agent::start(&pair.host, &["--interface", "held"])?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let name = agent.name().to_owned();
    let killed = agent.kill()?;
    let (now, then) = (pins(&name, &format!("v{LAYOUT_VERSION}")), pins(&name, "v998"));
    fs::create_dir_all(then.parent().context("a directory")?)?;
    fs::rename(&now, &then)?;
    let before = link_of(&then, "xdp-native")?;
    let (_, said, status) = tracker_tests::agent::run_tracker(
        &[
            "--instance",
            &name,
            "run",
            "--interface",
            "held",
            "--interface",
            INTERFACE,
            "--ingress",
            "xdp",
        ],
        Some(&pair.host),
    )?;
    ensure!(status.code() == Some(1), "{said}");
    ensure!(said.contains("goes on") && said.contains("another version of tracker"), "{said}");
    ensure!(link_of(&then, "xdp-native")? == before && tag(&pair).is_ok());
    ensure!(!now.exists());
    // `tracker detach` removes it.
    let said = killed.ask(&["detach"])?;
    ensure!(said.contains(INTERFACE) && !then.exists() && tag(&pair).is_err(), "{said}");
    drop(holder);
    Ok(())
}
