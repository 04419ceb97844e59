//! What answers the flood.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::Value;
use tracker_tests::agent::Agent;

use crate::{
    cable::{Cable, End, PORT, service},
    counters::{Counters, counters},
    cpu::Task,
};

/// What answers the flood.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Contender {
    /// The kernel without SYN cookies
    #[value(name = "syncookies-0")]
    Syncookies0,
    /// The kernel with SYN cookies once the listener's queue is full, which is its default
    #[value(name = "syncookies-1")]
    Syncookies1,
    /// The kernel with SYN cookies for everybody
    #[value(name = "syncookies-2")]
    Syncookies2,
    /// SYNPROXY, set up by iptables
    Iptables,
    /// SYNPROXY, set up by nft
    Nft,
    /// tracker that only watches, in front of the kernel's default
    TrackerOff,
    /// tracker, with SYN cookies once there are many half-open connections
    TrackerAuto,
    /// tracker, with SYN cookies for everybody
    TrackerAlways,
}

/// SYNPROXY as its manual has it: SYNs are not tracked, and what belongs to no connection goes to the proxy, which
/// offers what the server behind it would.
const NFT: &str = "
    table ip flood {
        chain raw {
            type filter hook prerouting priority raw; policy accept;
            tcp dport 80 tcp flags syn notrack
        }
        chain input {
            type filter hook input priority filter; policy accept;
            tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
            ct state invalid drop
        }
    }";

/// The same for iptables.
const IPTABLES: [&str; 3] = [
    "-t raw -A PREROUTING -p tcp --dport 80 --syn -j CT --notrack",
    "-A INPUT -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED \
     -j SYNPROXY --mss 1460 --wscale 7 --timestamp --sack-perm",
    "-A INPUT -m conntrack --ctstate INVALID -j DROP",
];

impl Contender {
    /// Its name in a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Syncookies0 => "kernel, `tcp_syncookies=0`",
            Self::Syncookies1 => "kernel, `tcp_syncookies=1`",
            Self::Syncookies2 => "kernel, `tcp_syncookies=2`",
            Self::Iptables => "iptables SYNPROXY",
            Self::Nft => "nft synproxy",
            Self::TrackerOff => "tracker, only watching",
            Self::TrackerAuto => "tracker, `--syn-cookies auto`",
            Self::TrackerAlways => "tracker, `--syn-cookies always`",
        }
    }

    /// Sets it up in the server's namespace, which is new. What is returned ends it when it is dropped; everything else
    /// ends with the namespace.
    ///
    /// # Errors
    ///
    /// Where it cannot be had here.
    pub(crate) fn start(self, cable: &Cable) -> Result<Running> {
        let End { namespace, interface, .. } = &cable.server;
        namespace.sysctl("net/ipv4/tcp_syncookies", self.syncookies())?;
        let agent = match self {
            Self::Syncookies0 | Self::Syncookies1 | Self::Syncookies2 => None,
            Self::Iptables => {
                for rule in IPTABLES {
                    let rule = rule.split_whitespace().collect::<Vec<_>>();
                    namespace.run("iptables", &rule)?;
                }
                None
            }
            Self::Nft => {
                namespace.run("nft", &[NFT])?;
                None
            }
            Self::TrackerOff => {
                Some(Agent::start(namespace, &["--interface", interface, "--xdp", "native"])?)
            }
            Self::TrackerAuto | Self::TrackerAlways => {
                let mode = if self == Self::TrackerAuto { "auto" } else { "always" };
                let protect = format!("{PORT}@{}", service().ip());
                let arguments = ["--protect", &protect, "--syn-cookies", mode];
                let on = ["--interface", interface, "--xdp", "native"];
                Some(Agent::start(namespace, &[&on[..], &arguments].concat())?)
            }
        };
        if matches!(self, Self::Iptables | Self::Nft) {
            // An ACK without a connection is the proxy's business, and must not begin one.
            namespace.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
        }
        Ok(Running { agent })
    }

    /// The sysctl of that name.
    fn syncookies(self) -> &'static str {
        match self {
            Self::Syncookies0 => "0",
            Self::Syncookies2 => "2",
            _ => "1",
        }
    }
}

/// A contender that has been set up.
#[derive(Debug)]
pub(crate) struct Running {
    agent: Option<Agent>,
}

impl Running {
    /// Its process, where it has one.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub(crate) fn helper(&self) -> Result<Option<Task>> {
        self.agent.as_ref().map(|agent| Task::process(agent.pid())).transpose()
    }

    /// What shows that it has done its work: the kernel's counters, and its own.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub(crate) fn counters(&self, cable: &Cable) -> Result<Counters> {
        let mut all = counters(&cable.server.namespace)?;
        all.retain(|name, _| is_evidence(name));
        if let Some(agent) = &self.agent {
            let stats = agent.stats()?;
            ensure!(stats.is_object(), "`tracker stats` has printed no object: {stats}");
            add_numbers("tracker", &stats, &mut all);
        }
        Ok(all)
    }
}

/// Whether the kernel counts under this name what becomes of SYNs.
fn is_evidence(name: &str) -> bool {
    name.starts_with("TcpExtSyncookies")
        || name.starts_with("TcpExtTCPReqQFull")
        || name.starts_with("TcpExtListen")
        || name.starts_with("synproxy ")
}

/// Adds those of the numbers in `value`, however deep, whose path tells of cookies or of half-open connections.
fn add_numbers(path: &str, value: &Value, to: &mut Counters) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                add_numbers(&format!("{path} {name}"), member, to);
            }
        }
        Value::Number(number) if path.contains("cookie") || path.contains("half_open") => {
            // Numbers that are no counters are none that could be compared.
            if let Some(number) = number.as_u64() {
                to.insert(path.to_owned(), number);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_about_cookies_are_found_anywhere() {
        let stats = serde_json::json!({
            "v": 1,
            "counters": {"cookies_sent": 5, "lost": 2},
            "cookies": [1],
            "half_open": {"now": 3, "name": "x"},
        });
        let mut found = Counters::new();
        add_numbers("tracker", &stats, &mut found);
        let expected = [("tracker counters cookies_sent", 5), ("tracker half_open now", 3)];
        assert_eq!(found, expected.map(|(name, count)| (name.to_owned(), count)).into());
    }
}
