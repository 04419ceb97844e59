//! Two hosts on one cable, and an agent on one of them.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{Agent, Events, eventually},
    namespace::Namespace,
    offload::{Offload, set_offload},
    segment::{Segment, flag},
    wire::Wire,
};

/// Name of the interface at either end of the cable.
pub const INTERFACE: &str = "veth0";

/// Addresses of both hosts of a [`Pair`], for IPv4 and IPv6.
pub mod address {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// The host that the agent runs on.
    pub const HOST: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1)),
    ];
    /// The other one.
    pub const PEER: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)),
        IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2)),
    ];
}

/// Two namespaces joined by a veth pair.
#[derive(Debug)]
pub struct Pair {
    /// Where the agent runs.
    pub host: Namespace,
    /// The other end of the cable.
    pub peer: Namespace,
}

impl Pair {
    /// Joined, up, and silent: no addresses, no IPv6 of the kernel's own, so that no packet passes but those sent.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn silent() -> Result<Self> {
        let pair = Self { host: Namespace::new()?, peer: Namespace::new()? };
        for namespace in [&pair.host, &pair.peer] {
            namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        pair.join()?;
        Ok(pair)
    }

    /// Joined, up, with [`address`]es.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn with_addresses() -> Result<Self> {
        let pair = Self { host: Namespace::new()?, peer: Namespace::new()? };
        pair.join()?;
        pair.address()?;
        Ok(pair)
    }

    /// Not joined, but each with a cable to `middle`, where the interfaces of that name are those to the host and to the
    /// peer. Up, with [`address`]es.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn around(middle: &Namespace, interfaces: [&str; 2]) -> Result<Self> {
        let pair = Self { host: Namespace::new()?, peer: Namespace::new()? };
        for (end, name) in [&pair.host, &pair.peer].into_iter().zip(interfaces) {
            cable((end, INTERFACE), (middle, name))?;
        }
        pair.address()?;
        Ok(pair)
    }

    fn address(&self) -> Result<()> {
        for (namespace, addresses) in [(&self.host, address::HOST), (&self.peer, address::PEER)] {
            let [v4, v6] = addresses;
            namespace.run("ip", &["addr", "add", &format!("{v4}/24"), "dev", INTERFACE])?;
            namespace
                .run("ip", &["addr", "add", &format!("{v6}/64"), "dev", INTERFACE, "nodad"])?;
        }
        Ok(())
    }

    /// Lets neither end merge or split packets: the kernel counts each as the programs do.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn without_offloads(&self) -> Result<()> {
        for namespace in [&self.host, &self.peer] {
            for offload in [Offload::Gso, Offload::Gro, Offload::Tso] {
                set_offload(namespace, INTERFACE, offload, false)?;
            }
            namespace.run("ip", &["link", "set", INTERFACE, "gso_max_segs", "1"])?;
        }
        Ok(())
    }

    fn join(&self) -> Result<()> {
        cable((&self.host, INTERFACE), (&self.peer, INTERFACE))
    }
}

/// Two network cards on a cable of their own, in a virtual machine: the ends of a [`Pair`]. When it is dropped, the kernel
/// gives them back to the namespace that the machine began with.
#[derive(Debug)]
pub struct CardPair(Pair);

impl CardPair {
    /// Takes the cards whose hardware addresses end in the pair's number and in 0 for the host's end, 1 for the peer's.
    /// `cargo xtask vm` gives machines such cards. They are up, and silent until they have addresses.
    ///
    /// # Errors
    ///
    /// Where there are no such cards.
    pub fn take(pair: u8) -> Result<Self> {
        let cards = Self(Pair { host: Namespace::new()?, peer: Namespace::new()? });
        for (end, namespace) in [&cards.0.host, &cards.0.peer].into_iter().enumerate() {
            namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
            let address = format!("52:54:00:00:{pair:02x}:{end:02x}");
            let mut found = None;
            // The last one who had them may have gone a moment ago.
            eventually(&format!("there is a network card {address}"), || {
                found = card(&address)?;
                Ok(found.is_some())
            })?;
            let name = found.context("a card")?;
            let command = ["link", "set", "dev", &name, "netns", &namespace.path()];
            crate::namespace::run("ip", &command)?;
            namespace.run("ip", &["link", "set", "dev", &name, "name", INTERFACE])?;
            namespace.run("ip", &["link", "set", INTERFACE, "up"])?;
        }
        Ok(cards)
    }

    /// The namespaces.
    #[must_use]
    pub fn pair(&self) -> &Pair {
        &self.0
    }

    /// Gives both ends [`address`]es.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn address(&self) -> Result<()> {
        for namespace in [&self.0.host, &self.0.peer] {
            namespace.sysctl(&format!("net/ipv6/conf/{INTERFACE}/disable_ipv6"), "0")?;
        }
        self.0.address()
    }
}

/// How many segments [`send_both_ways`] sends each way.
pub const SEGMENTS: u32 = 100;

/// Sends segments of a connection both ways over a cable, by the interfaces with these names; how many there are.
///
/// # Errors
///
/// Where they cannot be sent.
pub fn send_both_ways(pair: &Pair, [near, far]: [&str; 2], port: u16) -> Result<u64> {
    let (near, far) = (Wire::open(&pair.host, near)?, Wire::open(&pair.peer, far)?);
    let (client, server) = (([192, 0, 2, 1], port).into(), ([192, 0, 2, 2], 80).into());
    far.send(&Segment::new(client, server, flag::SYN, 1000, 0).frame())?;
    near.send(&Segment::new(server, client, flag::SYN | flag::ACK, 5000, 1001).frame())?;
    for _ in 1..SEGMENTS {
        far.send(&Segment::new(client, server, flag::ACK, 1001, 5001).frame())?;
        near.send(&Segment::new(server, client, flag::ACK, 5001, 1001).frame())?;
    }
    Ok(u64::from(2 * SEGMENTS))
}

/// Sends segments of a connection both ways, and waits until the agent has counted each once.
///
/// # Errors
///
/// Where it has not.
pub fn all_are_counted(pair: &Pair, agent: &Agent, port: u16) -> Result<()> {
    let before = agent.packets(None, None)?;
    let sent = send_both_ways(pair, [INTERFACE; 2], port)?;
    eventually("every packet is counted once", || {
        let counted = agent.packets(None, None)? - before;
        ensure!(counted <= sent, "{counted} of {sent}");
        Ok(counted == sent)
    })
}

/// The name of the card with a hardware address, in this program's own namespace.
fn card(address: &str) -> Result<Option<String>> {
    for entry in std::fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        // One that is just leaving has none any more.
        let Ok(text) = std::fs::read_to_string(entry.path().join("address")) else { continue };
        if text.trim() == address {
            return Ok(entry.file_name().into_string().ok());
        }
    }
    Ok(None)
}

/// Waits until an interface sends what it is given: some time after it was brought up, it drops it.
///
/// # Errors
///
/// Where there is no such interface, or it never does.
pub fn sends(namespace: &Namespace, name: &str) -> Result<()> {
    eventually(&format!("{name} is up"), || {
        let shown = namespace.run("ip", &["link", "show", "dev", name])?;
        Ok(shown.contains(" state UP ") && !shown.contains(" qdisc noop "))
    })
}

/// Makes a veth pair, either end in the namespace and with the name given, and brings both up.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn cable(one: (&Namespace, &str), other: (&Namespace, &str)) -> Result<()> {
    let far = other.0.path();
    one.0.run(
        "ip",
        &["link", "add", one.1, "type", "veth", "peer", "name", other.1, "netns", &far],
    )?;
    for (namespace, name) in [one, other] {
        namespace.run("ip", &["link", "set", name, "up"])?;
    }
    Ok(())
}

/// A silent [`Pair`], an agent on its host, and a packet socket at either end: every packet is one that a test sent.
#[derive(Debug)]
pub struct Bench {
    /// The agent.
    pub agent: Agent,
    /// Its events.
    pub events: Events,
    /// The namespaces.
    pub pair: Pair,
    arriving: Wire,
    leaving: Wire,
    sent: AtomicU64,
}

impl Bench {
    /// A bench whose agent runs with default options.
    ///
    /// # Errors
    ///
    /// Where the laboratory cannot be made.
    pub fn new() -> Result<Self> {
        Self::with(&[])
    }

    /// A bench whose agent runs with further options. XDP must be native: generic XDP would hide what drivers do.
    ///
    /// # Errors
    ///
    /// Where the laboratory cannot be made.
    pub fn with(options: &[&str]) -> Result<Self> {
        // Nothing is held back, so that an event can be waited for whatever came before it.
        Self::sparing(&[&["--every", "--report-rate", "0"], options].concat())
    }

    /// A bench whose agent does not report every breach, unless the options say so.
    ///
    /// # Errors
    ///
    /// Where the laboratory cannot be made.
    pub fn sparing(options: &[&str]) -> Result<Self> {
        Self::listening("all", options)
    }

    /// A bench where nobody listens to anything but breaches of rules: what is as usual need not be reported, and takes the
    /// shortest ways.
    ///
    /// # Errors
    ///
    /// Where the laboratory cannot be made.
    pub fn quiet(options: &[&str]) -> Result<Self> {
        Self::listening("violation", options)
    }

    fn listening(kinds: &str, options: &[&str]) -> Result<Self> {
        let pair = Pair::silent()?;
        let mut arguments = vec!["--interface", INTERFACE, "--events", kinds];
        if !options.contains(&"--xdp") && !options.contains(&"--ingress") {
            arguments.extend(["--xdp", "native"]);
        }
        arguments.extend(options);
        let agent = Agent::start(&pair.host, &arguments)?;
        let events = agent.events_of(kinds)?;
        let arriving = Wire::open(&pair.peer, INTERFACE)?;
        let leaving = Wire::open(&pair.host, INTERFACE)?;
        let bench = Self { agent, events, pair, arriving, leaving, sent: AtomicU64::new(0) };
        ensure!(bench.agent.packets(None, None)? == 0, "a silent pair is silent");
        Ok(bench)
    }

    /// Lets a frame arrive at the agent's interface.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn arrive(&self, frame: &[u8]) -> Result<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.arriving.send(frame)
    }

    /// Lets a frame leave by the agent's interface.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn leave(&self, frame: &[u8]) -> Result<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.leaving.send(frame)
    }

    /// Waits until the agent's programs have seen every packet that was sent, and no other.
    ///
    /// # Errors
    ///
    /// Where they never do: a packet was missed, or counted twice.
    pub fn settle(&self) -> Result<()> {
        let sent = self.sent.load(Ordering::Relaxed);
        eventually(&format!("{sent} packets are counted, each once"), || {
            let counted = self.agent.packets(None, None)?;
            ensure!(counted <= sent, "{counted} packets were counted, but {sent} were sent");
            Ok(counted == sent)
        })
    }

    /// After everything that was sent: the one flow there is.
    ///
    /// # Errors
    ///
    /// Where there is none, or more than one.
    pub fn flow(&self) -> Result<Value> {
        self.settle()?;
        let mut flows = self.agent.flows(&[])?;
        ensure!(flows.len() == 1, "one flow was expected: {flows:?}");
        Ok(flows.remove(0))
    }

    /// After everything that was sent: both states of the one flow there is, the opener's first.
    ///
    /// # Errors
    ///
    /// As [`Bench::flow`].
    pub fn states(&self) -> Result<String> {
        let flow = self.flow()?;
        let state = |end: &str| flow[end]["state"].as_str().unwrap_or("?").to_owned();
        Ok(format!("{}/{}", state("orig"), state("reply")))
    }

    /// After everything that was sent: nothing was reported.
    ///
    /// # Errors
    ///
    /// Where something was.
    pub fn nothing_reported(&self) -> Result<()> {
        self.settle()?;
        let violations = self.agent.violations()?;
        ensure!(violations.is_empty(), "nothing should have been reported: {violations:?}");
        Ok(())
    }
}

/// Two ends of a connection on a [`Bench`]: what C sends arrives, what S sends leaves, or the other way round.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'bench> {
    bench: &'bench Bench,
    /// C's address and port.
    pub client: std::net::SocketAddr,
    /// S's address and port.
    pub server: std::net::SocketAddr,
    client_is_host: bool,
}

impl<'bench> Connection<'bench> {
    /// A client outside and a server on the agent's host.
    #[must_use]
    pub fn inbound(bench: &'bench Bench) -> Self {
        Self {
            bench,
            client: ([192, 0, 2, 1], 40_000).into(),
            server: ([192, 0, 2, 2], 80).into(),
            client_is_host: false,
        }
    }

    /// A client on the agent's host and a server outside.
    #[must_use]
    pub fn outbound(bench: &'bench Bench) -> Self {
        Self { client_is_host: true, ..Self::inbound(bench) }
    }

    /// The same over IPv6.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.client.set_ip([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into());
        self.server.set_ip([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into());
        self
    }

    /// The same from another port.
    #[must_use]
    pub fn from_port(mut self, port: u16) -> Self {
        self.client.set_port(port);
        self
    }

    /// The three segments of a handshake: C's next number is then 1001, S's is 5001, and neither scales its window.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn handshake(&self) -> Result<()> {
        self.c_sends(&self.c(flag::SYN, 1000, 0))?;
        self.s_sends(&self.s(flag::SYN | flag::ACK, 5000, 1001))?;
        self.c_sends(&self.c(flag::ACK, 1001, 5001))
    }

    /// A segment of C's.
    #[must_use]
    pub fn c(&self, flags: u16, seq: u32, ack: u32) -> Segment {
        Segment::new(self.client, self.server, flags, seq, ack)
    }

    /// A segment of S's.
    #[must_use]
    pub fn s(&self, flags: u16, seq: u32, ack: u32) -> Segment {
        Segment::new(self.server, self.client, flags, seq, ack)
    }

    /// C sends a frame.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn c_sends(&self, segment: &Segment) -> Result<()> {
        let frame = segment.frame();
        if self.client_is_host { self.bench.leave(&frame) } else { self.bench.arrive(&frame) }
    }

    /// S sends a frame.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn s_sends(&self, segment: &Segment) -> Result<()> {
        let frame = segment.frame();
        if self.client_is_host { self.bench.arrive(&frame) } else { self.bench.leave(&frame) }
    }
}
