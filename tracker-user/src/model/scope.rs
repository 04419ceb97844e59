//! Whose flows somebody asks for, as coarsely as the kernel programs can tell: what keeps all others out of the ring
//! buffer and the socket. A filter leaves out more.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use tracker_common::config::TraceFilter;

use crate::model::filter::Prefix;

/// Flows with an address and a port; all of them by default.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Scope {
    /// Address or prefix of either end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<Prefix>,
    /// Port of either end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
}

impl Scope {
    /// Whether a flow between these ends is in it.
    #[must_use]
    pub fn contains(&self, ends: [SocketAddr; 2]) -> bool {
        self.port.is_none_or(|port| ends.iter().any(|end| end.port() == port))
            && self.address.is_none_or(|prefix| ends.iter().any(|end| prefix.contains(end.ip())))
    }

    /// A scope that holds what either does. Where they differ it is wider than both together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            address: self.address.filter(|_| self.address == other.address),
            port: self.port.filter(|_| self.port == other.port),
        }
    }

    /// Returns the scope as the kernel programs' filter of traced segments.
    #[must_use]
    pub fn trace_filter(&self) -> TraceFilter {
        // Port 0, which the kernel takes for any, is the port of hardly a flow.
        let port = self.port.unwrap_or_default().to_be_bytes();
        let mut filter = TraceFilter { port, ..TraceFilter::default() };
        if let Some(prefix) = self.address {
            let (bytes, before) = match prefix.address() {
                IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), 96),
                IpAddr::V6(address) => (address.octets(), 0),
            };
            let bits = u128::MAX.checked_shl(128 - u32::from(prefix.length()) - before);
            filter.mask = bits.unwrap_or_default().to_be_bytes();
            filter.address = bytes;
            for (byte, mask) in filter.address.iter_mut().zip(filter.mask) {
                *byte &= mask;
            }
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use tracker_common::key::FlowKey;

    use super::*;

    fn scope(address: &str, port: u16) -> Scope {
        Scope {
            address: (!address.is_empty()).then(|| address.parse().expect(address)),
            port: (port != 0).then_some(port),
        }
    }

    fn ends(one: &str, other: &str) -> [SocketAddr; 2] {
        [one, other].map(|end| end.parse().expect(end))
    }

    /// As the kernel programs would answer.
    fn kernel_contains(scope: &Scope, ends: [SocketAddr; 2]) -> bool {
        let bytes = |end: SocketAddr| match end.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        scope.trace_filter().matches(&FlowKey {
            addresses: ends.map(bytes),
            ports: ends.map(|end| end.port().to_be_bytes()),
            ..FlowKey::default()
        })
    }

    #[test]
    fn the_kernel_is_told_the_same() {
        let flows = [
            ends("10.1.2.3:40000", "192.0.2.1:80"),
            ends("192.0.2.1:443", "10.255.2.3:40000"),
            ends("[2001:db8::1]:40000", "[2001:db8::2]:80"),
            ends("[fd00::a01:203]:1", "[fd00::2]:2"),
        ];
        for (address, port, expected) in [
            ("", 0, [true, true, true, true]),
            ("", 80, [true, false, true, false]),
            ("10.0.0.0/8", 0, [true, true, false, false]),
            ("10.1.2.3", 40_000, [true, false, false, false]),
            ("10.1.255.255/9", 0, [true, false, false, false]),
            ("0.0.0.0/0", 0, [true, true, false, false]),
            ("8000::/1", 2, [false, false, false, true]),
            ("8000::/1", 443, [false, false, false, false]),
            ("2001:db8::/127", 80, [false, false, true, false]),
            ("2001:db8::2", 0, [false, false, true, false]),
            ("fd00::/8", 0, [false, false, false, true]),
        ] {
            let scope = scope(address, port);
            assert_eq!(flows.map(|ends| kernel_contains(&scope, ends)), expected, "{scope:?}");
            assert_eq!(flows.map(|ends| scope.contains(ends)), expected, "{scope:?}");
        }
        // What the kernel sends may be more: to it, IPv4 is a prefix of IPv6.
        assert!(kernel_contains(&scope("::/0", 0), flows[0]));
    }

    #[test]
    fn a_union_holds_both() {
        let whole = Scope::default();
        assert_eq!(scope("10.0.0.1", 80).union(&scope("10.0.0.1", 80)), scope("10.0.0.1", 80));
        assert_eq!(scope("10.0.0.1", 80).union(&scope("10.0.0.2", 80)), scope("", 80));
        assert_eq!(scope("10.0.0.1", 80).union(&scope("10.0.0.1", 443)), scope("10.0.0.1", 0));
        assert_eq!(scope("10.0.0.1", 0).union(&scope("", 80)), whole);
        assert_eq!(whole.union(&scope("10.0.0.1", 80)), whole);
    }

    #[test]
    fn as_it_is_asked_for() {
        let asked = serde_json::to_string(&scope("10.0.0.1", 80)).expect("JSON");
        assert_eq!(asked, r#"{"address":"10.0.0.1/32","port":80}"#);
        assert_eq!(serde_json::from_str::<Scope>(&asked).ok(), Some(scope("10.0.0.1", 80)));
        assert_eq!(serde_json::from_str::<Scope>("{}").ok(), Some(Scope::default()));
        assert!(serde_json::from_str::<Scope>(r#"{"address":"somewhere"}"#).is_err());
    }
}
