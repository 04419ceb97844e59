//! What a cookie's SYN,ACK offers by the route to the client: what the kernel's own SYN,ACK offers the same client of the same
//! listener.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use socket2::{Protocol, Socket};
use tracker_tests::{
    agent::{Agent, eventually},
    lab::{INTERFACE, Pair, address, cable},
    namespace::Namespace,
    offer::{Offer, listen, offered},
    wire::Wire,
};

/// The interface of the clients.
const FAR: &str = "far0";

/// What the route to each network of clients says, besides the router.
const METRICS: [&str; 12] = [
    "",
    "mtu 1300",
    "mtu lock 1350",
    "advmss 900",
    "window 20000",
    "window 3",
    "initrwnd 4",
    "initrwnd 300",
    "mtu 1400 window 7000 initrwnd 2",
    "window 4000000",
    "features ecn",
    // The path's MTU is learned there.
    "",
];

/// The network whose path's MTU the host learns.
const LEARNED: usize = METRICS.len() - 1;

/// A host, a router, and clients behind it.
struct Site {
    /// Without a program there, the driver sends nothing that native XDP answers.
    _at_router: Agent,
    pair: Pair,
    far: Namespace,
}

/// Addresses of the client in a network of clients.
fn client(network: usize) -> [IpAddr; 2] {
    let network = u8::try_from(network).expect("a few networks");
    [
        Ipv4Addr::new(10, 20, network, 1).into(),
        Ipv6Addr::new(0xfd20, u16::from(network), 0, 0, 0, 0, 0, 1).into(),
    ]
}

/// The prefix that is one address.
fn prefix(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

impl Site {
    fn new() -> Result<Self> {
        let pair = Pair::with_addresses()?;
        let at_router = Agent::start(&pair.peer, &["--interface", INTERFACE])?;
        let site = Self { _at_router: at_router, pair, far: Namespace::new()? };
        let Pair { host, peer: router } = &site.pair;
        cable((router, "near0"), (&site.far, FAR))?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let ends = [
            (router, "near0", "10.21.0.1/24", "fd21::1/64"),
            (&site.far, FAR, "10.21.0.2/24", "fd21::2/64"),
        ];
        for (namespace, interface, v4, v6) in ends {
            namespace.run("ip", &["addr", "add", v4, "dev", interface])?;
            namespace.run("ip", &["addr", "add", v6, "dev", interface, "nodad"])?;
        }
        for (to, via) in [("10.9.0.0/24", "10.21.0.1"), ("fd09::/64", "fd21::1")] {
            site.far.run("ip", &["route", "add", to, "via", via])?;
        }
        for (to, via) in [("10.20.0.0/16", "10.21.0.2"), ("fd20::/16", "fd21::2")] {
            router.run("ip", &["route", "add", to, "via", via])?;
        }
        for (network, metrics) in METRICS.iter().enumerate() {
            for (ip, via) in client(network).into_iter().zip(address::PEER) {
                let to = prefix(ip);
                site.far.run("ip", &["addr", "add", &to, "dev", "lo"])?;
                let via = via.to_string();
                let mut command = vec!["route", "add", &to, "via", &via];
                command.extend(metrics.split_whitespace());
                host.run("ip", &command)?;
            }
        }
        Ok(site)
    }

    /// Makes the host learn the MTU of the path to a client as hosts do: a packet is too long for the router, which says so.
    fn learn(&self) -> Result<()> {
        let Pair { host, peer: router } = &self.pair;
        let [v4, v6] = client(LEARNED);
        router.run("ip", &["route", "add", &prefix(v4), "via", "10.21.0.2", "mtu", "1250"])?;
        router.run("ip", &["route", "add", &prefix(v6), "via", "fd21::2", "mtu", "1290"])?;
        for (ip, mtu) in [(v4, "mtu 1250"), (v6, "mtu 1290")] {
            let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = host.enter(|| Ok(UdpSocket::bind(any)?))?;
            socket.connect((ip, 9))?;
            socket.send(&[0; 1400])?;
            eventually("the host learns the path's MTU", || {
                Ok(host.run("ip", &["route", "get", &ip.to_string()])?.contains(mtu))
            })?;
        }
        Ok(())
    }
}

/// Settings of the clients that decide what is agreed on.
const SETTINGS: [&[(&str, &str)]; 4] = [
    &[],
    &[("net/ipv4/tcp_timestamps", "0")],
    &[("net/ipv4/tcp_window_scaling", "0")],
    &[("net/ipv4/tcp_ecn", "1"), ("net/ipv4/tcp_sack", "0")],
];

/// What they are by default.
const DEFAULTS: &[(&str, &str)] = &[
    ("net/ipv4/tcp_timestamps", "1"),
    ("net/ipv4/tcp_window_scaling", "1"),
    ("net/ipv4/tcp_ecn", "2"),
    ("net/ipv4/tcp_sack", "1"),
];

/// What every client is offered by every listener.
fn all_offers(site: &Site, listeners: &[(SocketAddr, Socket)]) -> Result<Vec<(String, Offer)>> {
    let mut all = Vec::new();
    let wire = Wire::receiver(&site.far, FAR)?;
    for settings in SETTINGS {
        for (name, value) in settings {
            site.far.sysctl(name, value)?;
        }
        for (network, metrics) in METRICS.iter().enumerate() {
            for (at, listener) in listeners {
                let ip = client(network)[usize::from(at.is_ipv6())];
                let offer = offered(&site.far, &wire, Some(ip), *at)?;
                listener.accept().with_context(|| format!("{ip} to {at}"))?;
                all.push((format!("{settings:?} {ip} to {at}, `{metrics}`"), offer));
            }
        }
        for (name, value) in DEFAULTS {
            site.far.sysctl(name, value)?;
        }
    }
    Ok(all)
}

/// How many cookies of the agent's programs came back.
fn accepted(agent: &Agent) -> Result<usize> {
    let stats = agent.stats()?;
    let accepted = stats["cookies"]["total"]["accepted"].as_u64().context("cookies")?;
    Ok(usize::try_from(accepted)?)
}

#[test]
fn cookies_offer_what_the_kernel_offers_on_every_route() -> Result<()> {
    let site = Site::new()?;
    let Pair { host, .. } = &site.pair;
    // So that only a route's metric agrees to it.
    host.sysctl("net/ipv4/tcp_ecn", "0")?;
    site.learn()?;
    let mut listeners = Vec::new();
    for (ip, first) in address::HOST.into_iter().zip([80, 90]) {
        for (port, buffer) in (first..).zip([None, Some(33_000), Some(1 << 20)]) {
            let at = SocketAddr::new(ip, port);
            listeners.push((at, listen(host, at, Protocol::TCP, buffer)?));
        }
    }
    let kernels = all_offers(&site, &listeners)?;
    let different: BTreeSet<_> = kernels.iter().map(|(_, offer)| *offer).collect();
    assert!(different.len() > 60, "{different:?}");

    for ingress in ["xdp", "tcx"] {
        let options = [
            "--interface",
            INTERFACE,
            "--ingress",
            ingress,
            "--protect",
            "80-82@10.9.0.1",
            "--protect",
            "90-92@fd09::1",
            "--syn-cookies",
            "always",
        ];
        let agent = Agent::start(host, &options)?;
        agent.wait_for_log("listeners are protected")?;
        let ours = all_offers(&site, &listeners)?;
        let wrong: Vec<_> =
            ours.iter().zip(&kernels).filter(|(ours, kernels)| ours != kernels).collect();
        assert!(wrong.is_empty(), "{ingress}: {} of {}: {wrong:#?}", wrong.len(), ours.len());
        assert_eq!(accepted(&agent)?, ours.len(), "each got a cookie of ours");
    }
    Ok(())
}

#[test]
fn routes_that_change_are_followed() -> Result<()> {
    let site = Site::new()?;
    let Pair { host, .. } = &site.pair;
    let options = ["--interface", INTERFACE, "--protect", "80", "--syn-cookies", "always"];
    let agent = Agent::start(host, &options)?;
    agent.wait_for_log("listeners are protected")?;
    let connections = AtomicUsize::new(0);
    let wire = Wire::receiver(&site.far, FAR)?;
    for (at, via, headers) in [(0, "10.9.0.2", 40), (1, "fd09::2", 60)] {
        let listener = SocketAddr::new(address::HOST[at], 80);
        let socket = listen(host, listener, Protocol::TCP, None)?;
        let ip = client(0)[at];
        let offers = |mss: u16| -> Result<bool> {
            let offer = offered(&site.far, &wire, Some(ip), listener)?;
            socket.accept()?;
            connections.fetch_add(1, Ordering::Relaxed);
            Ok(offer.mss == mss)
        };
        eventually("the interface decides", || offers(1500 - headers))?;
        host.run("ip", &["route", "change", &prefix(ip), "via", via, "mtu", "1340"])?;
        eventually("the route decides", || offers(1340 - headers))?;
        host.run("ip", &["route", "del", &prefix(ip)])?;
        host.run("ip", &["route", "add", "default", "via", via, "advmss", "1111"])?;
        eventually("a wider route decides", || offers(1111))?;
        host.run("ip", &["route", "change", "default", "via", via])?;
        eventually("the interface decides again", || offers(1500 - headers))?;
    }
    assert_eq!(accepted(&agent)?, connections.into_inner(), "each got a cookie of ours");
    Ok(())
}
