//! Flows as `tracker flows` shows them, found by their ends.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use serde_json::Value;

/// Both ends of a connection in an order that does not depend on who opened it.
#[must_use]
pub fn key(a: SocketAddr, b: SocketAddr) -> [SocketAddr; 2] {
    if a < b { [a, b] } else { [b, a] }
}

/// Flows by their [`key`]; there should be one each.
///
/// # Errors
///
/// Where a flow has no addresses.
pub fn by_key(flows: &[Value]) -> Result<BTreeMap<[SocketAddr; 2], Vec<&Value>>> {
    let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for flow in flows {
        let key = key(end(flow, "src", "sport")?, end(flow, "dst", "dport")?);
        by_key.entry(key).or_default().push(flow);
    }
    Ok(by_key)
}

/// States of the end at `first`, and of the other one.
///
/// # Errors
///
/// Where the flow has no addresses or states.
pub fn states(flow: &Value, first: SocketAddr) -> Result<[&str; 2]> {
    let is_orig = end(flow, "src", "sport")? == first;
    let (one, other) = if is_orig { ("orig", "reply") } else { ("reply", "orig") };
    let state = |end: &str| flow[end]["state"].as_str().context("a state");
    Ok([state(one)?, state(other)?])
}

fn end(flow: &Value, address: &str, port: &str) -> Result<SocketAddr> {
    let ip = flow[address].as_str().context("an address")?.parse()?;
    Ok(SocketAddr::new(ip, u16::try_from(flow[port].as_u64().context("a port")?)?))
}
