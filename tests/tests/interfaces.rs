//! Interfaces that come, go and are renamed while the agent runs.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, eventually, pins, run_tracker},
    kernel::egress_ways,
    lab::{Pair, SEGMENTS, send_both_ways},
    namespace::Namespace,
    segment::{Segment, flag::SYN},
    wire::Wire,
};

/// A cable between the namespaces, with one end of this name and one of another.
fn add(pair: &Pair, name: &str) -> Result<()> {
    let far = format!("{name}-far");
    let peer = pair.peer.path();
    pair.host
        .run("ip", &["link", "add", name, "type", "veth", "peer", "name", &far, "netns", &peer])?;
    pair.host.run("ip", &["link", "set", name, "up"])?;
    pair.peer.run("ip", &["link", "set", &far, "up"])?;
    Ok(())
}

fn delete(pair: &Pair, name: &str) -> Result<()> {
    pair.host.run("ip", &["link", "del", name]).map(drop)
}

/// What `tracker stats` says of an interface.
fn interface(agent: &Agent, name: &str) -> Result<Option<Value>> {
    let stats = agent.stats()?;
    let interfaces = stats["interfaces"].as_array().context("interfaces")?;
    ensure!(interfaces.iter().filter(|one| one["name"] == name).count() <= 1, "{stats}");
    Ok(interfaces.iter().find(|one| one["name"] == name).cloned())
}

fn wait_attached(agent: &Agent, name: &str, attached: bool) -> Result<Value> {
    let mut found = Value::Null;
    eventually(&format!("{name} is attached: {attached}"), || {
        found = interface(agent, name)?.unwrap_or_default();
        Ok(found["attached"] == attached)
    })?;
    Ok(found)
}

fn sum(value: &Value) -> u64 {
    match value {
        Value::Object(members) => members.values().map(sum).sum(),
        other => other.as_u64().unwrap_or_default(),
    }
}

fn packets(agent: &Agent, name: &str) -> Result<u64> {
    Ok(sum(&interface(agent, name)?.context("it has counters")?["packets"]))
}

/// Sends segments of a connection both ways over a cable, and waits until each is counted once, under this name.
fn all_are_counted(pair: &Pair, agent: &Agent, name: &str, far: &str, port: u16) -> Result<()> {
    let before = packets(agent, name)?;
    let sent = send_both_ways(pair, [name, far], port)?;
    let mut counted = 0;
    eventually("every packet is counted once", || {
        counted = packets(agent, name)? - before;
        ensure!(counted <= sent, "{counted} of {sent}");
        Ok(counted == sent)
    })
    .with_context(|| format!("{counted} of {sent} at {name}"))
}

/// Pins of links and programs, which must be there only for what is attached.
fn pinned(agent: &Agent) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for slot in fs::read_dir(pins(agent.name()))? {
        let slot = slot?;
        if slot.file_type()?.is_dir() {
            for pin in fs::read_dir(slot.path())? {
                let pin = pin?.file_name().to_string_lossy().into_owned();
                if !matches!(pin.as_str(), "REPEATED" | "SOURCES") {
                    found.insert(format!("{}/{pin}", slot.file_name().to_string_lossy()));
                }
            }
        }
    }
    Ok(found)
}

/// Indexes of interfaces that arriving packets are counted at, as the kernel programs see them, with their slots.
fn counted_on_arrival(agent: &Agent) -> Result<BTreeSet<(u32, u32)>> {
    let map = MapData::from_pin(pins(agent.name()).join("ATTACHED"))?;
    let map: HashMap<_, u32, u32> = Map::HashMap(map).try_into()?;
    Ok(map.iter().collect::<Result<_, _>>()?)
}

/// The same as `tracker stats` has it.
fn attached(agent: &Agent) -> Result<BTreeSet<(u32, u32)>> {
    let number = |value: &Value| u32::try_from(value.as_u64().context("a number")?).context("u32");
    let stats = agent.stats()?;
    let interfaces = stats["interfaces"].as_array().context("interfaces")?;
    interfaces
        .iter()
        .filter(|one| one["attached"] == true && !one["xdp"].is_null())
        .map(|one| Ok((number(&one["ifindex"])?, number(&one["slot"])?)))
        .collect()
}

#[test]
fn an_interface_that_returns_is_counted_again() -> Result<()> {
    for options in [&[][..], &["--egress", "clsact"], &["--xdp", "generic"]] {
        let pair = Pair::silent()?;
        add(&pair, "one")?;
        add(&pair, "two")?;
        let agent = Agent::start(&pair.host, &[&["--interface", "one,two"], options].concat())?;
        let there = pinned(&agent)?;
        for round in 0..5_u16 {
            all_are_counted(&pair, &agent, "one", "one-far", 1000 + round)?;
            let [one, two] = [packets(&agent, "one")?, packets(&agent, "two")?];
            let slot = interface(&agent, "one")?.context("it")?["slot"].clone();
            delete(&pair, "one")?;
            let gone = wait_attached(&agent, "one", false)?;
            ensure!(sum(&gone["packets"]) == one && gone["slot"] == slot, "{gone}");
            eventually("nothing is pinned for it", || {
                Ok(pinned(&agent)?.iter().all(|pin| pin.contains("-two/")))
            })?;
            ensure!(counted_on_arrival(&agent)? == attached(&agent)?);
            // The other one does not feel it, nor do flows.
            all_are_counted(&pair, &agent, "two", "two-far", 2000 + round)?;
            ensure!(packets(&agent, "two")? == two + u64::from(2 * SEGMENTS));
            ensure!(agent.flows(&["--interface", "one"])?.len() == usize::from(round) + 1);

            add(&pair, "one")?;
            let back = wait_attached(&agent, "one", true)?;
            ensure!(back["slot"] == slot && sum(&back["packets"]) == one, "{back}");
        }
        ensure!(pinned(&agent)? == there, "{:?}", pinned(&agent)?);
        ensure!(counted_on_arrival(&agent)? == attached(&agent)? && attached(&agent)?.len() == 2);
        all_are_counted(&pair, &agent, "one", "one-far", 999)?;
        ensure!(agent.violations()?.is_empty(), "{:?}", agent.violations()?);
    }
    Ok(())
}

#[test]
fn a_pattern_means_those_that_come_too() -> Result<()> {
    let pair = Pair::silent()?;
    add(&pair, "other")?;
    add(&pair, "tap1")?;
    let agent = Agent::start(&pair.host, &["--interface", "tap*,lo"])?;
    for number in 2..=5_u16 {
        let name = format!("tap{number}");
        add(&pair, &name)?;
        wait_attached(&agent, &name, true)?;
        all_are_counted(&pair, &agent, &name, &format!("{name}-far"), number)?;
    }
    ensure!(interface(&agent, "other")?.is_none());
    ensure!(attached(&agent)?.len() == 5 && counted_on_arrival(&agent)? == attached(&agent)?);
    // All other slots but one are those of interfaces that were there once; then more come than there are slots.
    for number in 6..63 {
        fs::create_dir(pins(agent.name()).join(format!("slot-{number}-once{number}")))?;
    }
    for number in 100..105_u16 {
        let name = format!("tap{number}");
        add(&pair, &name)?;
        let found = wait_attached(&agent, &name, true)?;
        ensure!(sum(&found["packets"]) == 0, "it begins with nothing: {found}");
        all_are_counted(&pair, &agent, &name, &format!("{name}-far"), number)?;
        delete(&pair, &name)?;
        wait_attached(&agent, &name, false)?;
    }
    ensure!(attached(&agent)?.len() == 5 && counted_on_arrival(&agent)? == attached(&agent)?);
    ensure!(
        fs::read_dir(pins(agent.name()))?.flatten().filter(|entry| entry.path().is_dir()).count()
            == 64
    );
    all_are_counted(&pair, &agent, "tap3", "tap3-far", 9999)?;
    Ok(())
}

fn rename(namespace: &Namespace, from: &str, to: &str) -> Result<()> {
    // The kernel renames interfaces that are up, since 6.2.
    namespace.run("ip", &["link", "set", "dev", from, "name", to]).map(drop)
}

#[test]
fn a_renamed_interface_is_followed_without_a_gap() -> Result<()> {
    for egress in egress_ways()?.iter().copied() {
        let pair = Pair::silent()?;
        add(&pair, "w1")?;
        let agent = Agent::start(&pair.host, &["--interface", "w?", "--egress", egress])?;
        let slot = interface(&agent, "w1")?.context("it")?["slot"].clone();
        let far = Wire::open(&pair.peer, "w1-far")?;
        let segments = 3000_u32;
        std::thread::scope(|scope| -> Result<()> {
            let sender = scope.spawn(|| -> Result<()> {
                for n in 0..segments {
                    let client = std::net::SocketAddr::from(([198, 51, 100, 1], 1000));
                    let syn = Segment::new(client, ([192, 0, 2, 2], 80).into(), SYN, 1000 + n, 0);
                    far.send(&syn.frame())?;
                    if n % 16 == 0 {
                        std::thread::yield_now();
                    }
                }
                Ok(())
            });
            for (from, to) in [("w1", "w2"), ("w2", "w3"), ("w3", "w1")] {
                rename(&pair.host, from, to)?;
                wait_attached(&agent, to, true)?;
                wait_attached(&agent, from, false)?;
            }
            sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?
        })?;
        let mut counted = 0;
        eventually("every packet is counted under one name or another", || {
            counted = ["w1", "w2", "w3"]
                .into_iter()
                .map(|name| packets(&agent, name))
                .sum::<Result<u64>>()?;
            ensure!(counted <= segments.into(), "{counted}");
            Ok(counted == u64::from(segments))
        })
        .with_context(|| format!("{counted} of {segments}"))?;
        let back = interface(&agent, "w1")?.context("it")?;
        ensure!(back["slot"] == slot && back["attached"] == true, "{back}");
        ensure!(pinned(&agent)?.iter().all(|pin| pin.contains("-w1/")), "{:?}", pinned(&agent)?);

        // A name that nobody has asked for.
        rename(&pair.host, "w1", "x1")?;
        wait_attached(&agent, "w1", false)?;
        eventually("nothing is left of it", || Ok(pinned(&agent)?.is_empty()))?;
        ensure!(counted_on_arrival(&agent)?.is_empty());
        ensure!(!pair.host.run("ip", &["link", "show", "dev", "x1"])?.contains("xdp"));
    }
    Ok(())
}

#[test]
fn what_is_not_there_yet_is_waited_for_where_asked() -> Result<()> {
    let pair = Pair::silent()?;
    let run = ["--instance", "interfaces-none", "run", "--interface"];
    let (_, said, status) = run_tracker(&[&run[..], &["later"]].concat(), Some(&pair.host))?;
    ensure!(status.code() == Some(1), "{said}");
    ensure!(said.contains("no interface named `later`"), "{said}");
    ensure!(said.contains("--wait-for-interfaces"), "{said}");
    let (_, said, status) = run_tracker(&[&run[..], &["et[h"]].concat(), Some(&pair.host))?;
    ensure!(status.code() == Some(2) && said.contains("et[h"), "{said}");

    let agent = Agent::start(&pair.host, &["--interface", "later,lo", "--wait-for-interfaces"])?;
    ensure!(interface(&agent, "later")?.is_none());
    add(&pair, "later")?;
    wait_attached(&agent, "later", true)?;
    all_are_counted(&pair, &agent, "later", "later-far", 1)?;
    Ok(())
}

#[test]
fn nothing_is_left_when_the_agent_ends() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", "z*,lo"])?;
    let pins = pins(agent.name());
    for _ in 0..3 {
        add(&pair, "z1")?;
        wait_attached(&agent, "z1", true)?;
        delete(&pair, "z1")?;
        wait_attached(&agent, "z1", false)?;
    }
    ensure!(agent.stop(nix::sys::signal::Signal::SIGTERM)?.success());
    ensure!(!pins.exists());
    ensure!(!pair.host.run("ip", &["link", "show"])?.contains("xdp"));
    Ok(())
}
