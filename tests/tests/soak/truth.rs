//! What must be true when the troubles are over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, eventually, pins},
    counters::{packets_counted, packets_of_link},
    lab::INTERFACE,
    namespace::Namespace,
};

use crate::site::Site;

/// Packets that the kernel had counted on the interface, and the agent, when it was quiet.
pub(crate) struct Begin {
    link: u64,
    counted: u64,
}

impl Begin {
    pub(crate) fn of(site: &Site, agent: &Agent) -> Result<Self> {
        let look = || -> Result<Self> {
            let counted = with_answers(&agent.stats()?);
            Ok(Self { link: packets_of_link(&site.pair.host)?, counted })
        };
        let mut last = look()?;
        eventually("the interface is quiet", || {
            let before = std::mem::replace(&mut last, look()?);
            Ok((before.link, before.counted) == (last.link, last.counted))
        })?;
        Ok(last)
    }
}

/// Packets that the agent has counted, and the cookies that its programs have sent: those leave behind them.
fn with_answers(stats: &Value) -> u64 {
    packets_counted(stats, INTERFACE, None) + packets_counted(stats, INTERFACE, Some("cookie_sent"))
}

/// Every packet was counted once, every flow is accounted for, so many were connections, and nothing is said of the innocent.
pub(crate) fn counters_are_exact(
    site: &Site,
    agent: &Agent,
    begin: &Begin,
    connections: u64,
) -> Result<String> {
    let mut said = String::new();
    eventually("packets of the interface are those that were counted", || {
        let counted = with_answers(&agent.stats()?) - begin.counted;
        let link = packets_of_link(&site.pair.host)? - begin.link;
        said = format!("{}: {link} packets of the interface, {counted} counted", agent.name());
        Ok(link == counted)
    })
    .with_context(|| format!("{said}\n{}", agent.ask(&["stats"]).unwrap_or_default()))?;
    eventually("all flows expire", || {
        let flows = &agent.stats()?["flows"];
        Ok(flows["confirmed"] == 0 && flows["half_open"] == 0)
    })
    .with_context(|| agent.ask(&["flows", "--last", "10"]).unwrap_or_default())?;
    let stats = agent.stats()?;
    let count = |name: &str| stats["counters"][name].as_u64().with_context(|| format!("no {name}"));
    let began = count("flows_by_syn")? + count("flows_midstream")?;
    let ended = count("flows_expired")? + count("flows_deleted")? + count("flows_reopened")?;
    let evicted = stats["flows"]["half_open_evicted"].as_u64().context("half_open_evicted")?;
    ensure!(began == ended + evicted, "{began} flows began, {ended} ended, {evicted} evicted");
    let confirmed = count("flows_confirmed")?;
    ensure!(confirmed == connections, "{confirmed} flows of {connections} connections");
    ensure!(count("half_open_insert_failed")? == 0 && count("table_full")? == 0);
    // Nothing but the flood has broken rules.
    let known = ["half_open_timeout", "syn_flood", "port_scan"];
    let others: Vec<_> = agent.violations()?;
    let others: Vec<_> = others.iter().filter(|(name, _)| !known.contains(&&**name)).collect();
    ensure!(others.is_empty(), "{others:?}");
    Ok(format!("{said}, {began} flows, {evicted} evicted"))
}

/// Names of all pins of an agent.
pub(crate) fn pinned(agent: &Agent) -> Result<BTreeSet<String>> {
    fn below(directory: &Path, into: &mut BTreeSet<String>) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                below(&entry.path(), into)?;
            } else {
                into.insert(entry.path().display().to_string());
            }
        }
        Ok(())
    }
    let mut names = BTreeSet::new();
    below(&pins(agent.name()), &mut names)?;
    Ok(names)
}

/// What a process has open, and how many of each.
pub(crate) fn descriptors(pid: u32) -> Result<BTreeMap<String, usize>> {
    let mut open = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // It may be closed by now.
        let Ok(what) = fs::read_link(entry?.path()) else { continue };
        let what = what.display().to_string();
        let kind = what.split_once(":[").map_or(what.as_str(), |(kind, _)| kind).to_owned();
        *open.entry(kind).or_default() += 1;
    }
    Ok(open)
}

/// Nothing is left of an agent that has ended.
pub(crate) fn nothing_is_left(name: &str, host: &Namespace) -> Result<()> {
    ensure!(!pins(name).exists(), "pins are left");
    for kind in ["sock", "json", "lock"] {
        let path = format!("/run/tracker/{name}.{kind}");
        ensure!(!Path::new(&path).exists(), "{path} is left");
    }
    let link = host.run("ip", &["link", "show", "dev", INTERFACE])?;
    ensure!(!link.contains("prog/xdp"), "{link}");
    let qdiscs = host.run("tc", &["qdisc", "show", "dev", INTERFACE])?;
    ensure!(!qdiscs.contains("clsact"), "{qdiscs}");
    Ok(())
}

/// How many events of this kind there are about connections of the site.
pub(crate) fn is_established(event: &Value) -> bool {
    let of_site = |end: &Value| {
        end.as_str().is_some_and(|text| text.starts_with("10.9.") || text.starts_with("fd09:"))
    };
    event["event"] == "ESTABLISHED" && of_site(&event["flow"]["src"])
}
