//! SYNs that no cookie answers because of where they come from: the host drops them. Its own counter of what its filter of reverse paths
//! drops (`net.ipv4.conf.*.rp_filter`) is the oracle.

use std::{
    cell::Cell,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::{Context, Result};
use tracker_tests::{
    agent::{Agent, eventually},
    lab::{INTERFACE, Pair, cable},
    segment::{Segment, flag::SYN},
    sockets::hardware_address,
    wire::Wire,
};

/// The host's other interface.
const OTHER: &str = "other0";

/// The listener that is protected, on the network of [`INTERFACE`].
const LISTENER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)), 80);

struct Site {
    agent: Agent,
    _listener: TcpListener,
    pair: Pair,
    sends: Wire,
    hardware: [u8; 6],
    /// The next client's.
    ports: Cell<u16>,
}

impl Site {
    /// A host with two networks, whose clients are crafted.
    fn new(ingress: &str) -> Result<Self> {
        let pair = Pair::with_addresses()?;
        let Pair { host, peer } = &pair;
        cable((host, OTHER), (peer, "far0"))?;
        host.run("ip", &["addr", "add", "10.30.0.1/24", "dev", OTHER])?;
        for name in ["all", INTERFACE, OTHER] {
            host.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
        }
        let listener = host.enter(|| Ok(TcpListener::bind(LISTENER)?))?;
        let options = ["--interface", INTERFACE, "--interface", OTHER, "--ingress", ingress];
        let protect = ["--protect", "80@10.9.0.1", "--syn-cookies", "always"];
        let agent = Agent::start(host, &[&options[..], &protect].concat())?;
        agent.wait_for_log("listeners are protected")?;
        let sends = Wire::open(peer, INTERFACE)?;
        let hardware = hardware_address(host)?;
        Ok(Self { agent, _listener: listener, pair, sends, hardware, ports: Cell::new(5000) })
    }

    /// A SYN from there to the listener, and what became of it.
    fn syn(&self, from: &str) -> Result<&'static str> {
        const OUTCOMES: [&str; 2] = ["sent", "left_to_host"];
        let before = OUTCOMES.map(|name| self.outcome(name));
        // None is a copy of another: clients that repeat theirs seem to get no answers.
        let port = self.ports.get();
        self.ports.set(port + 1);
        let client = SocketAddr::new(from.parse()?, port);
        let isn = u32::from(port) << 16;
        let syn = Segment::new(client, LISTENER, SYN, isn, 0).addressed_to(self.hardware);
        self.sends.send(&syn.frame())?;
        let mut found = None;
        eventually("it is answered, or left to the host", || {
            for (name, before) in OUTCOMES.into_iter().zip(&before) {
                let before = before.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
                if self.outcome(name)? > *before {
                    found = Some(name);
                }
            }
            Ok(found.is_some())
        })?;
        found.context("an outcome")
    }

    fn outcome(&self, name: &str) -> Result<u64> {
        let stats = self.agent.stats()?;
        stats["cookies"]["total"][name].as_u64().with_context(|| format!("{name} in {stats}"))
    }

    /// What the host has dropped because of the way back.
    fn filtered(&self) -> Result<u64> {
        let read = || Ok(fs::read_to_string("/proc/thread-self/net/netstat")?);
        let text = self.pair.host.enter(read)?;
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let (_, value) = pairs.find(|(name, _)| *name == "IPReversePathFilter").context("name")?;
        Ok(value.parse()?)
    }

    fn filter(&self, interface: &str, setting: &str) -> Result<()> {
        self.pair.host.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), setting)
    }
}

/// By this way in.
fn sources(ingress: &str) -> Result<()> {
    let site = Site::new(ingress)?;
    // The host's own addresses, and those of its subnets' broadcasts, whatever is filtered.
    for own in ["10.9.0.1", "10.30.0.1", "10.9.0.255", "10.30.0.255"] {
        assert_eq!(site.syn(own)?, "left_to_host", "{own}");
    }
    assert_eq!(site.syn("10.9.0.77")?, "sent");
    // The way back to the other network is the other interface.
    assert_eq!(site.syn("10.30.0.77")?, "sent");
    assert_eq!(site.filtered()?, 0);

    site.filter(INTERFACE, "1")?;
    eventually("what the host would drop is left to it", || {
        Ok(site.syn("10.30.0.77")? == "left_to_host")
    })?;
    eventually("the host drops it because of the way back", || Ok(site.filtered()? > 0))?;
    assert_eq!(site.syn("10.9.0.77")?, "sent");
    // No way back at all: nothing says that it would be another interface.
    assert_eq!(site.syn("192.0.2.1")?, "sent");
    // Other rules may find another way back.
    site.pair.host.run("ip", &["rule", "add", "from", "10.30.0.0/24", "lookup", "100"])?;
    eventually("the host is believed no more", || Ok(site.syn("10.30.0.77")? == "sent"))?;
    site.pair.host.run("ip", &["rule", "del", "from", "10.30.0.0/24", "lookup", "100"])?;
    eventually("it is believed again", || Ok(site.syn("10.30.0.77")? == "left_to_host"))?;
    // Any way back will do.
    site.filter(INTERFACE, "2")?;
    eventually("a loose filter drops nothing here", || Ok(site.syn("10.30.0.77")? == "sent"))?;
    // The greater of both settings counts; this interface's is 2.
    site.filter("all", "1")?;
    assert_eq!(site.syn("10.30.0.77")?, "sent");
    site.filter(INTERFACE, "0")?;
    eventually("the setting of all interfaces counts", || {
        Ok(site.syn("10.30.0.77")? == "left_to_host")
    })?;
    // A route that changes is followed.
    site.pair.host.run("ip", &["route", "add", "10.30.0.64/26", "dev", INTERFACE])?;
    eventually("there is another way back", || Ok(site.syn("10.30.0.77")? == "sent"))?;
    assert_eq!(site.syn("10.30.0.5")?, "left_to_host");
    Ok(())
}

#[test]
fn what_the_host_drops_is_not_answered_by_xdp() -> Result<()> {
    sources("xdp")
}

#[test]
fn what_the_host_drops_is_not_answered_by_tcx() -> Result<()> {
    sources("tcx")
}
