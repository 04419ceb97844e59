//! What an agent has counted, beside what the kernel has.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{agent::Killed, lab::INTERFACE, namespace::Namespace};

/// Every number in a document, by its path.
pub fn numbers(value: &Value, path: &str, into: &mut BTreeMap<String, u64>) {
    match value {
        Value::Number(number) => {
            into.insert(path.to_owned(), number.as_u64().unwrap_or_default());
        }
        Value::Object(members) => {
            for (name, member) in members {
                numbers(member, &format!("{path}.{name}"), into);
            }
        }
        Value::Array(elements) => {
            for (n, element) in elements.iter().enumerate() {
                numbers(element, &format!("{path}[{n}]"), into);
            }
        }
        _ => {}
    }
}

fn counters(stats: &Value) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    for part in ["interfaces", "counters", "violations"] {
        numbers(&stats[part], part, &mut counters);
    }
    counters
}

/// No counter of these statistics has less than before.
///
/// # Errors
///
/// Where one has: its name, and both numbers.
pub fn no_less(before: &Value, after: &Value) -> Result<()> {
    let after = counters(after);
    for (name, count) in counters(before) {
        let now = after.get(&name).copied().unwrap_or_default();
        ensure!(now >= count, "{name} was {count}, and is {now}");
    }
    Ok(())
}

/// Packets of a host's [`INTERFACE`], both ways, as the kernel counts them; those, too, that its driver dropped when they left,
/// behind the programs.
///
/// # Errors
///
/// Where there is no such interface.
pub fn packets_of_link(namespace: &Namespace) -> Result<u64> {
    let text = namespace.run("ip", &["-s", "-j", "link", "show", "dev", INTERFACE])?;
    let links: Value = serde_json::from_str(&text)?;
    let stats = &links[0]["stats64"];
    [&stats["rx"]["packets"], &stats["tx"]["packets"], &stats["tx"]["dropped"]]
        .into_iter()
        .map(Value::as_u64)
        .sum::<Option<u64>>()
        .with_context(|| format!("no packets in {text}"))
}

/// Packets of one interface in these statistics, with this fate or with any, both ways; none where it is not among them.
#[must_use]
pub fn packets_counted(stats: &Value, interface: &str, fate: Option<&str>) -> u64 {
    let all = stats["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut counted = BTreeMap::new();
    for found in all.iter().filter(|found| found["name"] == interface) {
        numbers(&found["packets"], "", &mut counted);
    }
    let wanted = |name: &String| fate.is_none_or(|fate| name.ends_with(&format!(".{fate}")));
    counted.iter().filter(|(name, _)| wanted(name)).map(|(_, count)| count).sum()
}

/// What the maps say that a killed agent has left.
///
/// # Errors
///
/// Where they cannot be read.
pub fn stats_of(killed: &Killed) -> Result<Value> {
    Ok(serde_json::from_str(&killed.ask(&["stats", "-o", "json"])?)?)
}
