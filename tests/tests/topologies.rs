//! Behaviours P6: where a packet passes several attached interfaces, and where addresses are translated between them, every
//! connection is whole and counted once. The oracles are nftables' counters where the client is, and nf_conntrack.

use anyhow::{Context, Result};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, eventually},
    lab::cable,
    namespace::Namespace,
    nft,
    routed::{CONNECTIONS, COUNTERS, MASQUERADE, Routed, address, connect, on_the_wire},
};

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
    let routed = Routed::new(MASQUERADE)?;
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
