//! This host's routes with their metrics, as rtnetlink tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType,
    },
};

use crate::{
    kernel::netlink::Netlink,
    model::error::{Context, Result},
};

/// A route of the main table, or what the host has learned of the path to one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostRoute {
    /// Where it begins, and how many bits of an address have to be the same.
    pub to: (IpAddr, u8),
    /// Among several routes to one place, the one with the smallest is taken.
    pub priority: u32,
    /// Whether it was learned (RFC 1191, RFC 8201), and stands before all others.
    pub is_learned: bool,
    /// Indexes of the interfaces that it leaves by.
    pub interfaces: Vec<u32>,
    /// What it says of connections.
    pub metrics: Metrics,
}

/// Metrics of a route; 0 where it does not say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Metrics {
    /// Bytes of an IP packet at most.
    pub mtu: u32,
    /// The maximum segment size to announce, in bytes.
    pub advmss: u32,
    /// The largest window, in bytes.
    pub window: u32,
    /// Segments that the first window has room for.
    pub initrwnd: u32,
    /// Whether ECN is agreed to on this route, whatever the settings say.
    pub ecn: bool,
}

/// `RTAX_FEATURE_ECN` (include/uapi/linux/rtnetlink.h).
const FEATURE_ECN: u32 = 1;

/// Those of the host's routes to others that are wanted. Some routers have a million, so that not all are kept at once.
///
/// # Errors
///
/// What the kernel says.
pub async fn routes(
    netlink: &Netlink,
    wanted: impl Fn(&HostRoute) -> bool,
) -> Result<Vec<HostRoute>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let mut answers = std::pin::pin!(netlink.handle().route().get(question).execute());
        while let Some(message) =
            answers.try_next().await.context("asking for this host's routes")?
        {
            routes.extend(route(&message).filter(&wanted));
        }
    }
    Ok(routes)
}

fn route(message: &RouteMessage) -> Option<HostRoute> {
    let header = &message.header;
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if header.kind != RouteType::Unicast || header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    let mut found = HostRoute {
        to: (any, header.destination_prefix_length),
        priority: 0,
        is_learned: header.flags.contains(RouteFlags::Cloned),
        interfaces: Vec::new(),
        metrics: Metrics::default(),
    };
    let mut table = u32::from(header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                found.to.0 = (*address).into();
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                found.to.0 = (*address).into();
            }
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => found.priority = *priority,
            RouteAttribute::Oif(index) => found.interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => {
                found.interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            RouteAttribute::Metrics(metrics) => found.metrics = Metrics::of(metrics),
            _ => {}
        }
    }
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(found)
}

impl Metrics {
    fn of(metrics: &[RouteMetric]) -> Self {
        let mut found = Self::default();
        for metric in metrics {
            match metric {
                RouteMetric::Mtu(bytes) => found.mtu = *bytes,
                RouteMetric::Advmss(bytes) => found.advmss = *bytes,
                RouteMetric::Window(bytes) => found.window = *bytes,
                RouteMetric::InitRwnd(segments) => found.initrwnd = *segments,
                RouteMetric::Features(features) => found.ecn = features & FEATURE_ECN != 0,
                _ => {}
            }
        }
        found
    }
}
