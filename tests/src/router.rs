//! A router between two networks, with nf_conntrack and an agent on it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;

use crate::{
    agent::{Agent, Events},
    conntrack,
    namespace::Namespace,
    offload::{Offload, set_offload},
    segment::Segment,
    wire::Wire,
};

/// The router's interfaces, left and right.
pub const INTERFACES: [&str; 2] = ["r0", "r1"];

/// Name of the interface at the other end of either.
const OUTSIDE: &str = "veth0";

/// So many segments fit into every queue of the way.
const AT_ONCE: u32 = 100;

/// Hardware address of the router's interface on a side.
const fn hardware(side: Side) -> [u8; 6] {
    [0x02, 0, 0, 0, 1, side as u8]
}

/// Where a segment comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Side {
    /// Clients: 10.1.0.0/16.
    Left = 0,
    /// Servers: 10.2.0.0/16.
    Right = 1,
}

impl Side {
    /// Its host number `n`. Nobody owns the address: the router hands on to it, and nothing answers.
    #[must_use]
    pub fn host(self, n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(10, 1 + self as u8, high, low).into()
    }

    const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// A network on one side of the router: sends frames, and receives what the router forwards.
#[derive(Debug)]
struct Network {
    sending: Wire,
    receiving: Wire,
    // Interfaces live as long as their namespaces.
    _namespace: Namespace,
}

/// Three namespaces in a row. The one in the middle forwards, tracks by nf_conntrack, and has an agent on both its
/// interfaces. The outer ones are silent: every segment is one that a test sent.
#[derive(Debug)]
pub struct Router {
    /// The agent.
    pub agent: Agent,
    /// Its events.
    pub events: Events,
    /// The namespace in the middle.
    pub namespace: Namespace,
    networks: [Network; 2],
    sent: AtomicU64,
}

impl Router {
    /// A router whose agent runs with these further options.
    ///
    /// # Errors
    ///
    /// Where the laboratory cannot be made.
    pub fn new(options: &[&str]) -> Result<Self> {
        let namespace = Namespace::new()?;
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        let networks = [join(&namespace, Side::Left)?, join(&namespace, Side::Right)?];
        conntrack::start(&namespace)?;
        let [left, right] = INTERFACES;
        let attach = ["--interface", left, "--interface", right];
        let agent = Agent::start(&namespace, &[&attach, options].concat())?;
        let events = agent.events()?;
        Ok(Self { agent, events, namespace, networks, sent: AtomicU64::new(0) })
    }

    /// Sends a segment to the router, and waits until the router is done with it.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that the router stopped forwarding.
    pub fn send(&self, from: Side, segment: Segment) -> Result<()> {
        self.send_often(from, segment, 1)
    }

    /// Sends a segment so many times, and waits until the router is done with all of them.
    ///
    /// # Errors
    ///
    /// As [`Router::send`].
    pub fn send_often(&self, from: Side, segment: Segment, times: u32) -> Result<()> {
        let network = &self.networks[from as usize];
        let frame = segment.addressed_to(hardware(from)).frame();
        let mut left = times;
        while left > 0 {
            let now = left.min(AT_ONCE);
            for _ in 0..now {
                network.sending.send(&frame)?;
            }
            left -= now;
            // A datagram behind them takes the same queues, and nobody drops it.
            let sent = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
            network.sending.send(&datagram(from, sent)?)?;
            let receiving = &self.networks[from.other() as usize].receiving;
            while !receiving.receive()?.ends_with(&mark(sent)) {}
            // The sender's own receiver is given copies of what is sent, and must not be full when it is needed.
            while network.receiving.try_receive(&mut [0; 128])?.is_some() {}
        }
        Ok(())
    }

    /// The agent has counted every segment that was sent once, where it arrived.
    ///
    /// # Errors
    ///
    /// Where it has not.
    pub fn counted_once(&self) -> Result<()> {
        let sent = self.sent.load(Ordering::Relaxed);
        let all = self.agent.packets(Some("in"), None)?;
        let datagrams = self.agent.packets(Some("in"), Some("not_tcp"))?;
        ensure!(
            (all - datagrams, datagrams) == (sent, sent),
            "{sent} segments and as many datagrams arrived, but {all} packets were counted, {datagrams} no TCP"
        );
        let out = self.agent.packets(Some("out"), None)?;
        let skipped = self.agent.packets(Some("out"), Some("counted_on_arrival"))?
            + self.agent.packets(Some("out"), Some("not_tcp"))?;
        ensure!(out == skipped, "{out} packets left, but {skipped} were skipped as counted");
        Ok(())
    }
}

/// Makes a network on one side, and the router's route to it through a gateway that does not exist.
fn join(router: &Namespace, side: Side) -> Result<Network> {
    let namespace = Namespace::new()?;
    namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    let (name, number) = (INTERFACES[side as usize], 1 + side as u8);
    let [a, b, c, d, e, f] = hardware(side);
    let address = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let path = namespace.path();
    let ip = |words: &str| router.run("ip", &words.split(' ').collect::<Vec<_>>());
    ip(&format!("link add {name} address {address} type veth peer name {OUTSIDE} netns {path}"))?;
    // The router is to see segments as they were sent, and in their order.
    set_offload(router, name, Offload::Gro, false)?;
    ip(&format!("link set {name} up"))?;
    namespace.run("ip", &["link", "set", OUTSIDE, "up"])?;
    ip(&format!("addr add 192.168.{number}.1/24 dev {name}"))?;
    ip(&format!("neigh add 192.168.{number}.2 lladdr 02:00:00:00:02:00 dev {name} nud permanent"))?;
    ip(&format!("route add 10.{number}.0.0/16 via 192.168.{number}.2"))?;
    Ok(Network {
        sending: Wire::open(&namespace, OUTSIDE)?,
        receiving: Wire::receiver(&namespace, OUTSIDE)?,
        _namespace: namespace,
    })
}

/// What ends the datagram behind the segment with this number.
fn mark(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

fn datagram(from: Side, number: u64) -> Result<Vec<u8>> {
    let address = |side: Side| [10, 1 + side as u8, 255, 255];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([0x02, 0, 0, 0, 0, 0x98], hardware(from))
        .ipv4(address(from), address(from.other()), 64)
        .udp(9, 9)
        .write(&mut frame, &mark(number))?;
    Ok(frame)
}
