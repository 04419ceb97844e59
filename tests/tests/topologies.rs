//! Behaviours P6: where a packet passes several attached interfaces, and where addresses are translated between them, every
//! connection is whole and counted once. The oracles are nftables' counters where the client is, and nf_conntrack.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, PATIENCE, eventually},
    conntrack,
    lab::cable,
    namespace::Namespace,
    nft,
};

/// Connections of each test.
const CONNECTIONS: u64 = 40;

/// Segments that a client sends and receives, as nftables counts them where it is.
const COUNTERS: &str = "
table inet wire {
    counter sent { }
    counter received { }
    chain output {
        type filter hook output priority 0;
        meta l4proto tcp counter name sent
    }
    chain input {
        type filter hook input priority 0;
        meta l4proto tcp counter name received
    }
}
";

/// What the client's kernel has sent and received.
fn on_the_wire(client: &Namespace) -> Result<[u64; 2]> {
    let text = client.run("nft", &["--json", "list", "counters", "table", "inet", "wire"])?;
    let listed: Value = serde_json::from_str(&text)?;
    let packets = |name: &str| {
        listed["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|object| object["counter"]["name"] == name)
            .and_then(|object| object["counter"]["packets"].as_u64())
            .with_context(|| format!("no counter {name} in {text}"))
    };
    Ok([packets("sent")?, packets("received")?])
}

fn address(namespace: &Namespace, interface: &str, address: &str) -> Result<()> {
    namespace.run("ip", &["address", "add", address, "dev", interface]).map(drop)
}

/// Connections, one after the other, to `to`, where `server` listens on `listens`. Each asks and is answered some times, and is
/// closed by the client or by the server.
fn connect(client: &Namespace, server: &Namespace, listens: &str, to: &str) -> Result<()> {
    let listener = server.enter(|| Ok(TcpListener::bind(listens)?))?;
    let to: SocketAddr = to.parse()?;
    thread::scope(|scope| {
        let serving = scope.spawn(|| -> Result<()> {
            for n in 0..CONNECTIONS {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(PATIENCE))?;
                for _ in 0..n % 4 {
                    let mut bytes = [0; 100];
                    stream.read_exact(&mut bytes)?;
                    stream.write_all(&bytes)?;
                }
                if n % 2 == 0 {
                    stream.shutdown(Shutdown::Write)?;
                }
                ensure!(stream.read(&mut [0; 1])? == 0, "the client said too much");
            }
            Ok(())
        });
        client.enter(|| {
            for n in 0..CONNECTIONS {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                for _ in 0..n % 4 {
                    let mut bytes = [7; 100];
                    stream.write_all(&bytes)?;
                    stream.read_exact(&mut bytes)?;
                }
                if n % 2 == 0 {
                    ensure!(stream.read(&mut [0; 1])? == 0, "the server said too much");
                }
            }
            Ok(())
        })?;
        serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
    })
}

/// Every connection is there once with this filter, has ended well, and all together have the packets that the client's kernel
/// counted.
fn whole(agent: &Agent, client: &Namespace, filter: &[&str]) -> Result<()> {
    eventually("every connection is closed", || {
        let flows = agent.flows(filter)?;
        let closed = |end: &Value| {
            ["CLOSED", "TIME_WAIT"].contains(&end["state"].as_str().unwrap_or_default())
        };
        Ok(flows.len() as u64 == CONNECTIONS
            && flows.iter().all(|flow| closed(&flow["orig"]) && closed(&flow["reply"])))
    })?;
    let flows = agent.flows(filter)?;
    for flow in &flows {
        assert_eq!((&flow["conn_state"], &flow["seen"]), (&"SF".into(), &"both".into()), "{flow}");
        assert_eq!(flow["midstream"], false, "{flow}");
    }
    let sum =
        |end: &str| -> u64 { flows.iter().filter_map(|flow| flow[end]["packets"].as_u64()).sum() };
    assert_eq!([sum("orig"), sum("reply")], on_the_wire(client)?, "{filter:?}");
    assert_eq!(agent.violations()?, []);
    Ok(())
}

/// left -- router -- right, with the rules on the router.
struct Routed {
    left: Namespace,
    router: Namespace,
    right: Namespace,
}

impl Routed {
    fn new(rules: &str) -> Result<Self> {
        let (left, router, right) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        for (other, near, net) in [(&left, "left", 1), (&right, "right", 2)] {
            cable((&router, near), (other, "veth0"))?;
            address(&router, near, &format!("10.1.{net}.1/24"))?;
            address(other, "veth0", &format!("10.1.{net}.2/24"))?;
            let gateway = format!("10.1.{net}.1");
            other.run("ip", &["route", "add", "default", "via", &gateway])?;
        }
        router.sysctl("net/ipv4/ip_forward", "1")?;
        nft::load(&router, rules)?;
        nft::load(&left, COUNTERS)?;
        Ok(Self { left, router, right })
    }

    fn agent(&self) -> Result<Agent> {
        Agent::start(&self.router, &["--interface", "left", "--interface", "right"])
    }

    /// What nf_conntrack has on the clients' connections: as many, all over.
    fn conntrack_agrees(&self) -> Result<()> {
        let client: Ipv4Addr = "10.1.1.2".parse()?;
        let entries = conntrack::entries(&self.router)?;
        let ours: Vec<_> = entries.iter().filter(|entry| entry.source == client).collect();
        assert_eq!(ours.len() as u64, CONNECTIONS);
        assert!(ours.iter().all(|entry| entry.state == "TIME_WAIT"), "{ours:?}");
        Ok(())
    }
}

/// Each flow names the other one of its connection.
fn name_each_other(agent: &Agent) -> Result<()> {
    let flows = agent.flows(&["--nat"])?;
    let ends = |value: &Value| ["src", "dst", "sport", "dport"].map(|name| value[name].clone());
    for flow in &flows {
        let other = flows.iter().find(|other| ends(other) == ends(&flow["translated"]));
        let other = other.with_context(|| format!("nothing is the other side of {flow}"))?;
        assert_eq!(ends(&other["translated"]), ends(flow), "{other}");
    }
    Ok(())
}

#[test]
fn masquerading_makes_two_whole_flows_of_a_connection() -> Result<()> {
    let routed = Routed::new(
        "table ip nat {
            chain postrouting {
                type nat hook postrouting priority 100;
                oifname right masquerade
            }
        }",
    )?;
    let agent = routed.agent()?;
    connect(&routed.left, &routed.right, "10.1.2.2:80", "10.1.2.2:80")?;
    whole(&agent, &routed.left, &["--src", "10.1.1.2", "--dst", "10.1.2.2"])?;
    whole(&agent, &routed.left, &["--src", "10.1.2.1", "--dst", "10.1.2.2"])?;
    assert_eq!(agent.flows(&[])?.len() as u64, 2 * CONNECTIONS);
    name_each_other(&agent)?;
    routed.conntrack_agrees()
}

/// As Docker publishes a port.
#[test]
fn a_port_that_is_forwarded_makes_two_whole_flows_of_a_connection() -> Result<()> {
    let routed = Routed::new(
        "table ip nat {
            chain prerouting {
                type nat hook prerouting priority -100;
                tcp dport 8080 dnat to 10.1.2.2:80
            }
        }",
    )?;
    let agent = routed.agent()?;
    connect(&routed.left, &routed.right, "10.1.2.2:80", "10.1.1.1:8080")?;
    whole(&agent, &routed.left, &["--dst", "10.1.1.1", "--dport", "8080"])?;
    whole(&agent, &routed.left, &["--dst", "10.1.2.2", "--dport", "80"])?;
    assert_eq!(agent.flows(&[])?.len() as u64, 2 * CONNECTIONS);
    name_each_other(&agent)?;
    routed.conntrack_agrees()
}

/// The listener and the client of either direction: on this host, and outside.
fn both_directions(
    agent: &Agent,
    host: &Namespace,
    outside: &Namespace,
    addresses: [&str; 2],
) -> Result<()> {
    let [here, there] = addresses;
    nft::load(outside, COUNTERS)?;
    let listens = format!("{here}:80");
    connect(outside, host, &listens, &listens)?;
    whole(agent, outside, &["--dst", here, "--dport", "80"])?;
    let listens = format!("{there}:81");
    nft::load(host, COUNTERS)?;
    connect(host, outside, &listens, &listens)?;
    whole(agent, host, &["--dst", there, "--dport", "81"])
}

#[test]
fn a_bridge_and_its_port_count_once() -> Result<()> {
    let (host, outside) = (Namespace::new()?, Namespace::new()?);
    cable((&host, "port0"), (&outside, "veth0"))?;
    host.run("ip", &["link", "add", "br0", "type", "bridge"])?;
    host.run("ip", &["link", "set", "port0", "master", "br0"])?;
    host.run("ip", &["link", "set", "br0", "up"])?;
    address(&host, "br0", "10.1.1.1/24")?;
    address(&outside, "veth0", "10.1.1.2/24")?;
    let agent = Agent::start(&host, &["--interface", "br0", "--interface", "port0"])?;
    both_directions(&agent, &host, &outside, ["10.1.1.1", "10.1.1.2"])
}

#[test]
fn macvlan_and_its_parent_count_once() -> Result<()> {
    let (host, outside) = (Namespace::new()?, Namespace::new()?);
    cable((&host, "parent"), (&outside, "veth0"))?;
    host.run("ip", &["link", "add", "mv0", "link", "parent", "type", "macvlan", "mode", "bridge"])?;
    host.run("ip", &["link", "set", "mv0", "up"])?;
    address(&host, "mv0", "10.1.1.1/24")?;
    address(&outside, "veth0", "10.1.1.2/24")?;
    let agent = Agent::start(&host, &["--interface", "mv0", "--interface", "parent"])?;
    both_directions(&agent, &host, &outside, ["10.1.1.1", "10.1.1.2"])
}

/// A bridge between two attached ports, and itself: what it hands on passes four hooks.
#[test]
fn what_a_bridge_hands_on_is_counted_once() -> Result<()> {
    let (left, bridge, right) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    bridge.run("ip", &["link", "add", "br0", "type", "bridge"])?;
    for (other, near, host) in [(&left, "left", 1), (&right, "right", 2)] {
        cable((&bridge, near), (other, "veth0"))?;
        bridge.run("ip", &["link", "set", near, "master", "br0"])?;
        address(other, "veth0", &format!("10.1.1.{host}/24"))?;
    }
    bridge.run("ip", &["link", "set", "br0", "up"])?;
    nft::load(&left, COUNTERS)?;
    let agent = Agent::start(
        &bridge,
        &["--interface", "br0", "--interface", "left", "--interface", "right"],
    )?;
    connect(&left, &right, "10.1.1.2:80", "10.1.1.2:80")?;
    whole(&agent, &left, &["--dport", "80"])?;
    assert_eq!(agent.flows(&[])?.len() as u64, CONNECTIONS);
    Ok(())
}
