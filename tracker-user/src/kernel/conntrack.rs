//! What this host's own tracker, nf_conntrack, says of connections that it translates, over ctnetlink.

use std::{collections::HashMap, net::IpAddr};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    kernel::{net_namespace, netlink_dump::dump},
    model::{
        error::{Context, Result},
        record::Ends,
    },
};

/// `CTA_ZONE` (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const ZONE: u16 = 18;

/// The connections of a network namespace that have other addresses on the other side: either side's by the other's.
///
/// Entries in a conntrack zone of their own are left out, because addresses alone do not name these.
#[derive(Clone, Debug, Default)]
pub struct Translations(HashMap<Ends, Ends>);

impl Translations {
    /// Asks the kernel, in the network namespace of the process with this number; in this one's own without a number.
    ///
    /// # Errors
    ///
    /// Without `CAP_NET_ADMIN`, and `CAP_SYS_ADMIN` where that is another namespace, or where the kernel has no ctnetlink
    /// (`CONFIG_NF_CT_NETLINK`).
    pub fn around(process: Option<&str>) -> Result<Self> {
        net_namespace::within(process, Self::of_this_namespace)
    }

    fn of_this_namespace() -> Result<Self> {
        let mut found = HashMap::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
            let header = NetfilterHeader::new(family, 0, 0);
            let question = NetfilterMessage::new(header, ConntrackMessage::Get(Vec::new()));
            dump(NETLINK_NETFILTER, question, |message| {
                if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) =
                    message.inner
                    && let Some((here, there)) = translated(&entry)
                {
                    found.insert(here, there);
                    found.insert(there, here);
                }
            })
            .context(
                "asking nf_conntrack for what it translates, which needs CAP_NET_ADMIN and CONFIG_NF_CT_NETLINK",
            )?;
        }
        Ok(Self(found))
    }

    /// The addresses on the other side of the connection between these, in the same order.
    #[must_use]
    pub fn other_side(&self, ends: Ends) -> Option<Ends> {
        let by = |ends: Ends| self.0.get(&ends).copied();
        by(ends).or_else(|| by(ends.reversed()).map(Ends::reversed))
    }
}

/// An entry's addresses on either side, the opener's first, where they differ.
fn translated(entry: &[ConntrackAttribute]) -> Option<(Ends, Ends)> {
    let (mut original, mut reply) = (None, None);
    for attribute in entry {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = ends(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = ends(tuple),
            ConntrackAttribute::Other(other) if is_zone(other) => return None,
            _ => {}
        }
    }
    let (here, there) = (original?, reply?.reversed());
    (here != there).then_some((here, there))
}

fn is_zone(attribute: &impl netlink_packet_core::Nla) -> bool {
    attribute.kind() == ZONE
}

/// The ends of a TCP connection.
fn ends(tuple: &[Tuple]) -> Option<Ends> {
    let (mut src, mut dst): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut sport, mut dport, mut is_tcp) = (None, None, false);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => src = Some(*address),
                        IPTuple::DestinationAddress(address) => dst = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(ports) => {
                for port in ports {
                    match port {
                        ProtoTuple::Protocol(protocol) => is_tcp = *protocol == Protocol::Tcp,
                        ProtoTuple::SourcePort(port) => sport = Some(*port),
                        ProtoTuple::DestinationPort(port) => dport = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    is_tcp.then_some(Ends { src: src?, dst: dst?, sport: sport?, dport: dport? })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn tuple(protocol: Protocol, from: (u8, u16), to: (u8, u16)) -> Vec<Tuple> {
        let address = |n: u8| IpAddr::from(Ipv4Addr::new(192, 0, 2, n));
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(address(from.0)),
                IPTuple::DestinationAddress(address(to.0)),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(protocol),
                ProtoTuple::SourcePort(from.1),
                ProtoTuple::DestinationPort(to.1),
            ]),
        ]
    }

    fn entry(protocol: Protocol, reply_to: (u8, u16)) -> Vec<ConntrackAttribute> {
        vec![
            ConntrackAttribute::CtaTupleOrig(tuple(protocol, (1, 4000), (2, 80))),
            ConntrackAttribute::CtaTupleReply(tuple(protocol, (2, 80), reply_to)),
        ]
    }

    #[test]
    fn only_what_is_translated_counts() {
        assert_eq!(translated(&entry(Protocol::Tcp, (1, 4000))), None);
        assert_eq!(translated(&entry(Protocol::Udp, (9, 5000))), None);
        assert_eq!(translated(&[]), None);
        let (here, there) = translated(&entry(Protocol::Tcp, (9, 5000))).expect("a masquerade");
        assert_eq!((here.sport, there.sport, here.dst, here.dport), (4000, 5000, there.dst, 80));
    }

    #[test]
    fn either_side_names_the_other_in_either_order() {
        let (here, there) = translated(&entry(Protocol::Tcp, (9, 5000))).expect("a masquerade");
        let all = Translations([(here, there), (there, here)].into());
        assert_eq!(all.other_side(here), Some(there));
        assert_eq!(all.other_side(there), Some(here));
        assert_eq!(all.other_side(there.reversed()), Some(here.reversed()));
        assert_eq!(all.other_side(Ends { sport: 1, ..here }), None);
    }
}
