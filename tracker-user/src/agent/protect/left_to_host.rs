//! From where no SYN is answered with a cookie, because the host drops it: its own addresses and broadcast addresses, and what comes by
//! another interface than the way back, where reverse paths are filtered (`net.ipv4.conf.*.rp_filter` 1, RFC 3704 section 2.2).

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

use tracker_common::protect::MAX_LEFT_TO_HOST;

use super::routes::{SHARE, by_prefix};
use crate::{
    kernel::{
        attach::Interface,
        listeners::LeftToHostMap,
        netlink::{Host, Netlink},
        routes::{HostRoute, routes},
    },
    model::{
        error::{Context, Result},
        network::{Network, network},
    },
};

/// By every interface.
const ALL_SLOTS: u64 = u64::MAX;

/// Looks after the networks whose SYNs the kernel programs leave to the host.
pub(super) struct SourceKeeper {
    map: LeftToHostMap,
    told: BTreeMap<Network, u64>,
    /// What reverse paths say.
    filtered: BTreeMap<Network, u64>,
    /// Not before this are routes read again.
    next: Instant,
    /// Whether it was said that there are too many.
    is_told: bool,
}

impl SourceKeeper {
    /// Takes over what the map holds.
    pub(super) fn new(map: LeftToHostMap) -> Result<Self> {
        let told = map.networks()?;
        let filtered = BTreeMap::new();
        Ok(Self { map, told, filtered, next: Instant::now(), is_told: false })
    }

    /// Looks at the host again, and tells the kernel programs what has changed. Reads routes where it is time.
    pub(super) async fn look(
        &mut self,
        netlink: &Netlink,
        host: &Host,
        interfaces: &[Interface],
    ) -> Result<()> {
        let began = Instant::now();
        if began >= self.next {
            self.filtered = filtered(netlink, interfaces).await?;
            self.next = began + (began.elapsed() * SHARE).max(Duration::from_millis(500));
        }
        let mut wanted = everywhere(host);
        let count = wanted.len() + self.filtered.len();
        let is_too_many = count > MAX_LEFT_TO_HOST as usize;
        if is_too_many && !self.is_told {
            tracing::warn!(
                "SYNs from {count} networks would have to be left to the host, and {MAX_LEFT_TO_HOST} are at most: those that rp_filter \
                 refuses may be answered with cookies"
            );
        }
        self.is_told = is_too_many;
        if !is_too_many {
            // Where both have something to say, the host drops it anyway.
            for (prefix, slots) in &self.filtered {
                wanted.entry(*prefix).or_insert(*slots);
            }
        }
        for (prefix, slots) in &wanted {
            if self.told.get(prefix) != Some(slots) {
                self.map.set(*prefix, *slots)?;
            }
        }
        for prefix in self.told.keys().filter(|prefix| !wanted.contains_key(*prefix)) {
            self.map.remove(*prefix)?;
        }
        self.told = wanted;
        Ok(())
    }
}

/// The host's own and broadcast addresses.
fn everywhere(host: &Host) -> BTreeMap<Network, u64> {
    let broadcasts = host.broadcasts.iter().map(|address| IpAddr::V4(*address));
    let all = host.addresses.iter().copied().chain(broadcasts);
    let whole = |ip: IpAddr| network((ip, if ip.is_ipv4() { 32 } else { 128 }));
    all.take(MAX_LEFT_TO_HOST as usize).map(|ip| (whole(ip), ALL_SLOTS)).collect()
}

/// What is refused because its way back is another attached interface. Where other rules than the kernel's own choose the way, or it is an
/// interface that is not attached, nothing is: that may be a VLAN or a bridge above this one.
async fn filtered(netlink: &Netlink, interfaces: &[Interface]) -> Result<BTreeMap<Network, u64>> {
    let mut strict = Vec::new();
    for interface in interfaces {
        if is_strict(&interface.name)? {
            strict.push(interface);
        }
    }
    if interfaces.len() < 2 || strict.is_empty() || netlink.has_routing_rules().await? {
        return Ok(BTreeMap::new());
    }
    let known = routes(netlink, |route| route.to.0.is_ipv4() && !route.is_learned).await?;
    Ok(refused(&known, interfaces, &strict))
}

fn refused(
    routes: &[HostRoute],
    interfaces: &[Interface],
    strict: &[&Interface],
) -> BTreeMap<Network, u64> {
    let is_attached = |index: &u32| interfaces.iter().any(|interface| interface.ifindex == *index);
    let slots = |route: &HostRoute| {
        let ways = &route.interfaces;
        if !ways.iter().all(is_attached) {
            return 0;
        }
        let others = strict.iter().filter(|interface| !ways.contains(&interface.ifindex));
        others.fold(0, |slots, interface| slots | 1_u64 << (interface.slot & 63))
    };
    by_prefix(routes, slots, |_| 0)
}

/// Whether the host drops what comes by the interface of this name and would not go back by it. What is 2 takes any way back.
fn is_strict(name: &str) -> Result<bool> {
    let mut setting = 0;
    for name in ["all", name] {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        let text = match fs::read_to_string(&path) {
            // It has gone just now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            text => text.with_context(|| format!("reading {path}"))?,
        };
        let one: u32 =
            text.trim().parse().with_context(|| format!("{path} holds `{}`", text.trim()))?;
        setting = setting.max(one);
    }
    Ok(setting == 1)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::kernel::routes::Metrics;

    fn interface(ifindex: u32, slot: u32) -> Interface {
        Interface {
            name: format!("eth{slot}"),
            ifindex,
            slot,
            zone: 0,
            attached: true,
            xdp: None,
            ingress: Some("tcx".to_owned()),
            egress: "tcx".to_owned(),
            handover: None,
        }
    }

    fn route(to: &str, interfaces: &[u32]) -> HostRoute {
        let (ip, length) = to.split_once('/').expect("a prefix");
        let to = (ip.parse().expect(ip), length.parse().expect(length));
        let interfaces = interfaces.to_vec();
        let metrics = Metrics::default();
        HostRoute { to, priority: 0, is_learned: false, interfaces, metrics }
    }

    #[test]
    fn what_comes_by_another_interface_than_the_way_back_is_the_hosts() {
        let interfaces = [interface(4, 0), interface(7, 1), interface(9, 5)];
        let routes = [
            route("0.0.0.0/0", &[4]),
            route("192.0.2.0/24", &[7]),
            route("192.0.2.128/25", &[7]),
            route("198.51.100.0/24", &[4, 7]),
            route("203.0.113.0/24", &[8]),
        ];
        let strict = [&interfaces[0], &interfaces[2]];
        let found: Vec<_> = refused(&routes, &interfaces, &strict)
            .into_iter()
            .map(|((address, length), slots)| {
                (format!("{}/{length}", Ipv6Addr::from(address)), slots)
            })
            .collect();
        let wanted = [
            ("::ffff:0.0.0.0/96", 1 << 5),
            ("::ffff:192.0.2.0/120", 1 | 1 << 5),
            // Two ways back, of which one is right; and one that is not attached.
            ("::ffff:203.0.113.0/120", 0),
        ];
        assert_eq!(found, wanted.map(|(to, slots)| (to.to_owned(), slots)));
    }

    #[test]
    fn own_and_broadcast_addresses_are_the_hosts_by_every_interface() {
        let host = Host {
            addresses: ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().expect(ip)).into(),
            broadcasts: ["192.0.2.255"].map(|ip| ip.parse().expect(ip)).into(),
            ..Host::default()
        };
        let found = everywhere(&host);
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|((_, length), slots)| *length == 128 && *slots == ALL_SLOTS));
    }
}
