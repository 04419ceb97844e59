//! This host's addresses and interfaces, as rtnetlink tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use futures::TryStreamExt;
use rtnetlink::{
    Handle, IpVersion,
    packet_route::{
        address::AddressAttribute,
        link::{AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkLayerType},
        route::RouteHeader,
    },
};
use tokio::task::JoinHandle;

use crate::model::error::{Context, Result};

/// An open connection to the kernel, in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What the host has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Broadcast addresses of its subnets.
    pub broadcasts: BTreeSet<Ipv4Addr>,
    /// Its interfaces by index.
    pub links: BTreeMap<u32, Link>,
}

/// An interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Bytes of an IP packet at most.
    pub mtu: u32,
    /// The same for IPv6, which routers may say (RFC 4861 section 4.6.4).
    pub mtu6: u32,
    /// Whether it is loopback.
    pub is_loopback: bool,
}

/// `RT_TABLE_LOCAL`, `RT_TABLE_MAIN` and `RT_TABLE_DEFAULT` (include/uapi/linux/rtnetlink.h).
const OWN_TABLES: [u8; 3] = [255, RouteHeader::RT_TABLE_MAIN, 253];

impl Host {
    /// Whether the interface of this name is loopback.
    #[must_use]
    pub fn is_loopback(&self, name: &str) -> bool {
        self.links.values().any(|link| link.name == name && link.is_loopback)
    }
}

impl Netlink {
    /// Opens one; inside of a tokio runtime.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .context("opening rtnetlink, which tells of addresses and interfaces")?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// For other questions.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether routes are looked up by other rules (`ip rule`) than the kernel's own three: local, main and default table.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub async fn has_routing_rules(&self) -> Result<bool> {
        let mut rules = std::pin::pin!(self.handle.rule().get(IpVersion::V4).execute());
        while let Some(rule) =
            rules.try_next().await.context("asking for this host's routing rules")?
        {
            if !OWN_TABLES.contains(&rule.header.table) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns what the host has now. Link-local addresses (RFC 4291 section 2.5.6) are only those of the interfaces with the
    /// indexes `attached`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub async fn host(&self, attached: &[u32]) -> Result<Host> {
        let mut host = Host::default();
        let mut links = std::pin::pin!(self.handle.link().get().execute());
        while let Some(link) =
            links.try_next().await.context("asking for this host's interfaces")?
        {
            let mut found = Link {
                is_loopback: link.header.link_layer_type == LinkLayerType::Loopback,
                ..Link::default()
            };
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => found.name = name,
                    LinkAttribute::Mtu(mtu) => found.mtu = mtu,
                    LinkAttribute::AfSpecUnspec(families) => found.mtu6 = mtu6(&families),
                    _ => {}
                }
            }
            if found.mtu6 == 0 {
                found.mtu6 = found.mtu;
            }
            host.links.insert(link.header.index, found);
        }
        let mut addresses = std::pin::pin!(self.handle.address().get().execute());
        while let Some(message) =
            addresses.try_next().await.context("asking for this host's addresses")?
        {
            // Where there is a far end, `Address` is that one's.
            let own = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
                message.attributes.iter().find_map(wanted)
            };
            let local = own(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = local.or_else(|| {
                own(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            });
            let is_elsewhere = |address: &IpAddr| match address {
                IpAddr::V4(_) => false,
                IpAddr::V6(address) => {
                    address.is_unicast_link_local() && !attached.contains(&message.header.index)
                }
            };
            // The kernel has a route for the subnet's own, of the far end's where there is one, and another where somebody has named it.
            let prefix = message.header.prefix_len;
            host.broadcasts.extend(message.attributes.iter().filter_map(
                |attribute| match attribute {
                    AddressAttribute::Broadcast(address) => Some(*address),
                    AddressAttribute::Address(IpAddr::V4(address)) => broadcast(*address, prefix),
                    _ => None,
                },
            ));
            host.addresses.extend(address.filter(|address| !is_elsewhere(address)));
        }
        Ok(host)
    }
}

/// The broadcast address of a subnet that an address is in (RFC 919); `None` where it has no room for one (RFC 3021).
fn broadcast(address: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    let host_bits = u32::MAX.checked_shr(prefix.into()).filter(|_| prefix < 31)?;
    Some(Ipv4Addr::from_bits(address.to_bits() | host_bits))
}

/// What is said of IPv6's MTU, in bytes; 0 where nothing is.
fn mtu6(families: &[AfSpecUnspec]) -> u32 {
    let of_ipv6 = families.iter().filter_map(|family| match family {
        AfSpecUnspec::Inet6(said) => Some(said),
        _ => None,
    });
    let mtu = of_ipv6.flatten().find_map(|said| match said {
        AfSpecInet6::DevConf(settings) => u32::try_from(settings.mtu6).ok(),
        _ => None,
    });
    mtu.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_addresses() {
        for (address, prefix, wanted) in [
            ("192.0.2.5", 24, Some("192.0.2.255")),
            ("192.0.2.5", 30, Some("192.0.2.7")),
            ("10.1.2.3", 8, Some("10.255.255.255")),
            ("10.1.2.3", 0, Some("255.255.255.255")),
            ("192.0.2.5", 31, None),
            ("192.0.2.5", 32, None),
        ] {
            let found = broadcast(address.parse().expect(address), prefix);
            assert_eq!(found, wanted.map(|text| text.parse().expect(text)), "{address}/{prefix}");
        }
    }
}
