//! What the host offers by which route, passed to the kernel programs where it differs from what it offers everywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use tracker_common::{
    key::Address,
    protect::feature,
    route::{MAX_ROUTES, Route},
};

use super::synack_terms::mss;
use crate::{
    kernel::{
        listeners::RouteMap,
        netlink::{Host, Netlink},
        routes::{HostRoute, routes},
    },
    model::{
        error::Result,
        network::{Network, masked, network},
    },
};

/// All addresses of IPv4.
const ALL_IPV4: Network = ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0], 96);

/// The agent reads routes for one part in so many of the time at most: some routers have a million.
pub(super) const SHARE: u32 = 100;

/// Looks after the routes that the kernel programs know.
pub(super) struct RouteKeeper {
    map: RouteMap,
    told: BTreeMap<Network, Route>,
    /// Not before this are they read again.
    next: Instant,
    /// Whether it was said that there are too many.
    is_told: bool,
}

impl RouteKeeper {
    /// Takes over what the map holds.
    pub(super) fn new(map: RouteMap) -> Result<Self> {
        let told = map.routes()?;
        Ok(Self { map, told, next: Instant::now(), is_told: false })
    }

    /// Whether any route offers something else than the settings and the interfaces, whose smallest MTU is `mtu`, say. Reads the
    /// routes again where it is time.
    pub(super) async fn look(&mut self, netlink: &Netlink, host: &Host, mtu: u32) -> Result<bool> {
        let began = Instant::now();
        if began < self.next {
            return Ok(!self.told.is_empty());
        }
        let is_usual = |route: &HostRoute| offered(route, host, mtu) == usual(route.to.0, mtu);
        let mut known = routes(netlink, |route| !is_usual(route)).await?;
        let wide = Prefixes::of(&known);
        if !wide.0.is_empty() {
            // What is offered inside of these as everywhere else.
            let inside =
                |route: &HostRoute| is_usual(route) && wide.has_one_around(network(route.to));
            known.extend(routes(netlink, inside).await?);
        }
        let mut wanted = differing(&known, host, mtu);
        if wanted.len() > MAX_ROUTES as usize {
            if !self.is_told {
                tracing::warn!(
                    "{} routes have a maximum segment size or window of their own, and {MAX_ROUTES} are at most: cookies offer the \
                     interfaces' on all of them",
                    wanted.len()
                );
            }
            self.is_told = true;
            wanted.clear();
        } else {
            self.is_told = false;
        }
        for (prefix, route) in &wanted {
            if self.told.get(prefix) != Some(route) {
                self.map.set(*prefix, route)?;
            }
        }
        for prefix in self.told.keys().filter(|prefix| !wanted.contains_key(*prefix)) {
            self.map.remove(*prefix)?;
        }
        self.told = wanted;
        self.next = began + (began.elapsed() * SHARE).max(Duration::from_millis(500));
        Ok(!self.told.is_empty())
    }
}

/// The routes on which something else is offered than on the next wider one.
fn differing(routes: &[HostRoute], host: &Host, mtu: u32) -> BTreeMap<Network, Route> {
    by_prefix(routes, |route| offered(route, host, mtu), |ip| usual(ip, mtu))
}

/// What is said `of` the routes whose next wider one says something else. Where there is none, it says what is `usual` of an address's
/// family.
pub(super) fn by_prefix<T: Copy + PartialEq>(
    routes: &[HostRoute],
    of: impl Fn(&HostRoute) -> T,
    usual: impl Fn(IpAddr) -> T,
) -> BTreeMap<Network, T> {
    let mut best = BTreeMap::<_, &HostRoute>::new();
    for route in routes {
        let prefix = network(route.to);
        let rank = |route: &HostRoute| (!route.is_learned, route.priority);
        // By length first: the wider one before those inside of it.
        let known = best.entry((prefix.1, prefix.0)).or_insert(route);
        if rank(route) < rank(known) {
            *known = route;
        }
    }
    let mut kept = BTreeMap::<Network, T>::new();
    let mut lengths = BTreeSet::new();
    for ((length, address), route) in best {
        let found = of(route);
        let wider = lengths
            .iter()
            .rev()
            .filter(|wider| **wider < length)
            .find_map(|wider| kept.get(&(masked(address, *wider), *wider)))
            .copied()
            .unwrap_or_else(|| usual(route.to.0));
        if found != wider {
            kept.insert((address, length), found);
            lengths.insert(length);
        }
    }
    if !kept.is_empty() {
        // Else a wide route of IPv6 would stand for these, too.
        kept.entry(ALL_IPV4).or_insert(usual(IpAddr::V4([0; 4].into())));
    }
    kept
}

/// Prefixes of routes that others may lie inside of, by their lengths.
struct Prefixes(BTreeMap<u8, BTreeSet<Address>>);

impl Prefixes {
    /// Returns the prefixes of all routes but learned ones: a learned route is to one address, and precedes any other to it.
    fn of(routes: &[HostRoute]) -> Self {
        let mut all = BTreeMap::<u8, BTreeSet<Address>>::new();
        for route in routes.iter().filter(|route| !route.is_learned) {
            let (address, length) = network(route.to);
            all.entry(length).or_default().insert(address);
        }
        Self(all)
    }

    /// Whether one of them is this one, or a wider one.
    fn has_one_around(&self, (address, length): Network) -> bool {
        self.0
            .range(..=length)
            .any(|(length, addresses)| addresses.contains(&masked(address, *length)))
    }
}

/// What the host offers where no route says anything.
fn usual(ip: IpAddr, mtu: u32) -> Route {
    Route { mss: mss(ip, mtu), ..Route::default() }
}

/// What the host offers by this route.
fn offered(route: &HostRoute, host: &Host, mtu: u32) -> Route {
    let metrics = &route.metrics;
    let ip = route.to.0;
    let interfaces = route.interfaces.iter().filter_map(|index| host.links.get(index));
    let of_interfaces =
        interfaces.map(|link| if ip.is_ipv4() { link.mtu } else { link.mtu6 }).min();
    let mtu = match metrics.mtu {
        0 => of_interfaces.unwrap_or(mtu),
        mtu => mtu,
    };
    let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    Route {
        window: metrics.window,
        mss: if metrics.advmss == 0 { mss(ip, mtu) } else { small(metrics.advmss) },
        first_segments: small(metrics.initrwnd),
        features: if metrics.ecn { feature::ECN } else { 0 },
        reserved: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::kernel::{netlink::Link, routes::Metrics};

    fn route(to: &str, priority: u32, interface: u32, metrics: Metrics) -> HostRoute {
        let (ip, length) = to.split_once('/').expect("a prefix");
        let to = (ip.parse().expect(ip), length.parse().expect(length));
        HostRoute { to, priority, is_learned: false, interfaces: vec![interface], metrics }
    }

    fn found(routes: &[HostRoute]) -> Vec<(String, Route)> {
        let link = |mtu| Link { mtu, mtu6: mtu, ..Link::default() };
        let host = Host { links: [(1, link(1500)), (2, link(1420))].into(), ..Host::default() };
        differing(routes, &host, 1500)
            .into_iter()
            .map(|((address, length), route)| {
                (format!("{}/{length}", Ipv6Addr::from(address)), route)
            })
            .collect()
    }

    const NONE: Metrics = Metrics { mtu: 0, advmss: 0, window: 0, initrwnd: 0, ecn: false };

    #[test]
    fn routes_like_the_interface_are_not_told() {
        let routes = [
            route("0.0.0.0/0", 0, 1, NONE),
            route("192.0.2.0/24", 0, 1, NONE),
            route("::/0", 0, 1, NONE),
        ];
        assert!(found(&routes).is_empty());
        assert!(found(&[]).is_empty());
    }

    #[test]
    fn an_ordinary_route_inside_of_another_one_is_told() {
        let small = Metrics { mtu: 1400, ..NONE };
        let routes = [
            route("192.0.2.128/25", 0, 1, NONE),
            route("192.0.2.0/24", 0, 1, small),
            route("192.0.2.0/26", 0, 1, small),
            route("198.51.100.0/24", 0, 2, NONE),
            route("0.0.0.0/0", 0, 1, NONE),
        ];
        let sizes: Vec<_> = found(&routes).into_iter().map(|(to, route)| (to, route.mss)).collect();
        let told = [
            ("::ffff:0.0.0.0/96", 1460),
            ("::ffff:192.0.2.0/120", 1360),
            ("::ffff:192.0.2.128/121", 1460),
            ("::ffff:198.51.100.0/120", 1380),
        ];
        assert_eq!(sizes, told.map(|(to, mss)| (to.to_owned(), mss)));
    }

    #[test]
    fn what_lies_inside_of_a_prefix() {
        let routes = [
            route("192.0.2.0/24", 0, 1, NONE),
            HostRoute { is_learned: true, ..route("198.51.100.1/32", 0, 1, NONE) },
        ];
        let wide = Prefixes::of(&routes);
        for (to, is_inside) in [
            ("192.0.2.0/24", true),
            ("192.0.2.128/25", true),
            ("192.0.2.9/32", true),
            ("192.0.0.0/16", false),
            ("192.0.3.0/24", false),
            ("198.51.100.1/32", false),
            ("::/0", false),
        ] {
            assert_eq!(wide.has_one_around(network(route(to, 0, 1, NONE).to)), is_inside, "{to}");
        }
    }

    #[test]
    fn a_default_route_of_ipv6_says_nothing_of_ipv4() {
        let routes = [route("::/0", 0, 2, NONE)];
        let sizes: Vec<_> = found(&routes).into_iter().map(|(to, route)| (to, route.mss)).collect();
        assert_eq!(sizes, [("::/0".to_owned(), 1360), ("::ffff:0.0.0.0/96".to_owned(), 1460)]);
    }

    #[test]
    fn of_several_the_best_counts() {
        let metrics = |window| Metrics { window, ..NONE };
        let mut routes = vec![
            route("192.0.2.0/24", 100, 1, metrics(1000)),
            route("192.0.2.0/24", 50, 1, metrics(2000)),
            route("192.0.2.0/24", 200, 1, metrics(3000)),
        ];
        assert_eq!(found(&routes)[1].1.window, 2000);
        routes.push(HostRoute { is_learned: true, ..route("192.0.2.0/24", 300, 1, metrics(4000)) });
        assert_eq!(found(&routes)[1].1.window, 4000);
    }

    #[test]
    fn every_metric_is_told() {
        let metrics = Metrics { mtu: 1400, advmss: 999, window: 5000, initrwnd: 4, ecn: true };
        let (_, told) = found(&[route("2001:db8::/32", 0, 1, metrics)])[1].clone();
        let right = Route {
            window: 5000,
            mss: 999,
            first_segments: 4,
            features: feature::ECN,
            reserved: [0; 3],
        };
        assert_eq!(told, right);
    }
}
