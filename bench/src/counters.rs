//! The kernel's own counters of a namespace.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use tracker_tests::namespace::Namespace;

/// Counters by name.
pub(crate) type Counters = BTreeMap<String, u64>;

/// What `nstat` knows about TCP and SYN cookies, by its names, and what SYNPROXY counts.
///
/// # Errors
///
/// Where the files cannot be read.
pub(crate) fn counters(namespace: &Namespace) -> Result<Counters> {
    namespace.enter(|| {
        let text = fs::read_to_string("/proc/thread-self/net/netstat")
            .context("reading /proc/net/netstat")?;
        let mut counters = netstat(&text);
        // Only there once the kernel's SYNPROXY is.
        if let Ok(text) = fs::read_to_string("/proc/thread-self/net/stat/synproxy") {
            counters.extend(synproxy(&text));
        }
        Ok(counters)
    })
}

/// What has been counted since `before`, without what has not.
pub(crate) fn since(before: &Counters, after: &Counters) -> Counters {
    after
        .iter()
        .map(|(name, count)| {
            (name.clone(), count.saturating_sub(before.get(name).copied().unwrap_or(0)))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Packets that an interface has received.
///
/// # Errors
///
/// Where there is no such interface.
pub(crate) fn received(namespace: &Namespace, interface: &str) -> Result<u64> {
    namespace.enter(|| {
        let text = fs::read_to_string("/proc/thread-self/net/dev")?;
        received_by(&text, interface)
            .with_context(|| format!("/proc/net/dev does not know {interface}"))
    })
}

/// Parses pairs of lines: names, then numbers.
fn netstat(text: &str) -> Counters {
    let lines: Vec<_> = text.lines().collect();
    let mut counters = Counters::new();
    for pair in lines.chunks_exact(2) {
        let (names, values) = (pair[0].split_whitespace(), pair[1].split_whitespace());
        let mut both = names.zip(values);
        let Some((group, _)) = both.next() else { continue };
        let group = group.trim_end_matches(':');
        counters.extend(both.filter_map(|(name, value)| {
            // Those that may be negative are none that count.
            Some((format!("{group}{name}"), value.parse().ok()?))
        }));
    }
    counters
}

/// Parses a line of names, and a line of hexadecimal numbers for each core; returns their sums.
fn synproxy(text: &str) -> Counters {
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    let mut counters = Counters::new();
    for line in lines {
        for (name, value) in names.iter().zip(line.split_whitespace()) {
            let value = u64::from_str_radix(value, 16).unwrap_or(0);
            *counters.entry(format!("synproxy {name}")).or_default() += value;
        }
    }
    counters
}

fn received_by(text: &str, interface: &str) -> Option<u64> {
    let numbers = text.lines().find_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        (name.trim() == interface).then_some(numbers)
    })?;
    numbers.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_nstats_names() {
        let text = "TcpExt: SyncookiesSent Pressure\nTcpExt: 12 -1\nIpExt: InOctets\nIpExt: 99\n";
        let expected = [("IpExtInOctets", 99), ("TcpExtSyncookiesSent", 12)];
        let expected = expected.map(|(name, count)| (name.to_owned(), count)).into();
        assert_eq!(netstat(text), expected);
    }

    #[test]
    fn cores_are_added_up() {
        let text = "entries\t\tsyn_received\n00000000\t0000000a\n00000000\t00000010\n";
        let counted = synproxy(text);
        assert_eq!(counted.get("synproxy syn_received"), Some(&26));
        assert_eq!(since(&Counters::new(), &counted).len(), 1);
    }

    #[test]
    fn an_interface_is_found_by_its_whole_name() {
        let text = "Inter-| Receive\n face |bytes packets\n  veth0: 100 2 0\nveth01: 900 7 0\n";
        assert_eq!(received_by(text, "veth01"), Some(7));
        assert_eq!(received_by(text, "veth"), None);
    }
}
