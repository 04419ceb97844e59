//! What the kernel's own tracker, nf_conntrack, says about the packets that a namespace forwards.

use std::{
    collections::BTreeSet,
    fmt, fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{namespace::Namespace, nft};

/// A rule that asks for a packet's state is what makes a namespace track; these only count.
const RULES: &str = "
table ip side_by_side {
    counter forwarded {
    }
    counter invalid {
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        meta l4proto tcp counter name forwarded
        meta l4proto tcp ct state invalid counter name invalid
    }
}
";

/// Makes nf_conntrack track what `namespace` forwards, with the kernel's default settings.
///
/// # Errors
///
/// Where nftables or nf_conntrack are not there; the message names what lacks.
pub fn start(namespace: &Namespace) -> Result<()> {
    nft::load(namespace, RULES).context(
        "nf_conntrack needs CONFIG_NF_TABLES_IPV4, CONFIG_NFT_CT and CONFIG_NF_CONNTRACK",
    )?;
    entries(namespace).map(drop)
}

/// Packets in the forward path.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// All of them: nf_conntrack dropped none of these.
    pub forwarded: u64,
    /// Those that nf_conntrack called INVALID.
    pub invalid: u64,
}

/// What the rules of [`start`] have counted.
///
/// # Errors
///
/// Where they are not there.
pub fn counts(namespace: &Namespace) -> Result<Counts> {
    let text =
        namespace.run("nft", &["--json", "list", "counters", "table", "ip", "side_by_side"])?;
    let listed: Value = serde_json::from_str(&text)?;
    let packets = |name: &str| {
        listed["nftables"]
            .as_array()
            .and_then(|objects| objects.iter().find(|object| object["counter"]["name"] == name))
            .and_then(|object| object["counter"]["packets"].as_u64())
            .with_context(|| format!("no counter {name} in {text}"))
    };
    Ok(Counts { forwarded: packets("forwarded")?, invalid: packets("invalid")? })
}

/// A connection as nf_conntrack has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its word for the state.
    pub state: String,
    /// Seconds until it is removed.
    pub seconds: u64,
    /// One direction only was seen.
    pub unreplied: bool,
    /// Not to be dropped early.
    pub assured: bool,
    /// The address that it takes for the originator's.
    pub source: IpAddr,
    /// Who sent the first segment, and to whom.
    pub original: [SocketAddr; 2],
    /// Who answers, and to whom: where addresses are translated, they are others.
    pub reply: [SocketAddr; 2],
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.state, self.seconds)?;
        for (word, said) in [("UNREPLIED", self.unreplied), ("ASSURED", self.assured)] {
            if said {
                write!(f, " [{word}]")?;
            }
        }
        Ok(())
    }
}

/// The TCP connections of `namespace`.
///
/// # Errors
///
/// Where the kernel does not list them, or in a form that is not understood.
pub fn entries(namespace: &Namespace) -> Result<Vec<Entry>> {
    let text = namespace.enter(|| {
        fs::read_to_string("/proc/thread-self/net/nf_conntrack")
            .context("the kernel needs CONFIG_NF_CONNTRACK and CONFIG_NF_CONNTRACK_PROCFS")
    })?;
    text.lines()
        .filter(|line| line.split_whitespace().nth(2) == Some("tcp"))
        .map(|line| parse(line).with_context(|| format!("nf_conntrack says `{line}`")))
        .collect()
}

/// `ipv4 2 tcp 6 SECONDS STATE src=A dst=B sport=P dport=Q [UNREPLIED] src=... [ASSURED] mark=0 zone=0 use=2`
fn parse(line: &str) -> Result<Entry> {
    let words: Vec<_> = line.split_whitespace().collect();
    let end = |address: &str, port: &str, direction: usize| -> Result<SocketAddr> {
        let nth = |name: &str| {
            words.iter().filter_map(|word| word.strip_prefix(name)).nth(direction).context("no end")
        };
        Ok(SocketAddr::new(nth(address)?.parse()?, nth(port)?.parse()?))
    };
    let ends = |direction| -> Result<_> {
        Ok([end("src=", "sport=", direction)?, end("dst=", "dport=", direction)?])
    };
    let original = ends(0)?;
    Ok(Entry {
        state: (*words.get(5).context("no state")?).to_owned(),
        seconds: words.get(4).context("no timeout")?.parse()?,
        unreplied: words.contains(&"[UNREPLIED]"),
        assured: words.contains(&"[ASSURED]"),
        source: original[0].ip(),
        original,
        reply: ends(1)?,
    })
}

/// The timeouts that `namespace` gives TCP connections, in seconds.
///
/// # Errors
///
/// Where there are none to be read.
pub fn timeouts(namespace: &Namespace) -> Result<BTreeSet<u64>> {
    namespace.enter(|| {
        let mut timeouts = BTreeSet::new();
        for file in
            fs::read_dir("/proc/sys/net/netfilter").context("the sysctls of nf_conntrack")?
        {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with("nf_conntrack_tcp_timeout_") {
                timeouts.insert(fs::read_to_string(file.path())?.trim().parse()?);
            }
        }
        Ok(timeouts)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_the_kernel_prints_them() {
        let line = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.1.0.1 dst=10.2.0.1 sport=40000 dport=80 \
                    src=10.2.0.1 dst=10.1.0.1 sport=80 dport=40000 [ASSURED] mark=0 zone=0 use=2";
        let entry = parse(line).expect("a line of the kernel's");
        assert_eq!(entry.to_string(), "ESTABLISHED 431999 [ASSURED]");
        assert_eq!(entry.source, IpAddr::from([10, 1, 0, 1]));
        let (client, server) = (([10, 1, 0, 1], 40_000).into(), ([10, 2, 0, 1], 80).into());
        assert_eq!((entry.original, entry.reply), ([client, server], [server, client]));
        assert!(parse("ipv4 2 tcp 6").is_err());
    }
}
