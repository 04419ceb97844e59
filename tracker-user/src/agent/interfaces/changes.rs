//! Interfaces that come, go and are renamed, as rtnetlink tells.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{LinkAttribute, Prop},
    },
    sys::SocketAddr,
};
use tokio::task::JoinHandle;

use crate::model::error::{Context, Result};

/// An interface that is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its other names (`ip link property add dev NAME altname OTHER`).
    pub other_names: Vec<String>,
    /// The interface that it is a port of: a bridge, a bond.
    pub controller: Option<u32>,
    /// The interface of this network namespace that it sits on (VLAN, macvlan); of a veth, its other end.
    pub parent: Option<u32>,
}

impl Link {
    /// Every name that it has.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.other_names).map(String::as_str)
    }

    /// Whether `upper` takes what this one receives.
    fn is_below(&self, upper: &Self) -> bool {
        let is_peer = self.parent == Some(upper.index);
        self.controller == Some(upper.index) || (upper.parent == Some(self.index) && !is_peer)
    }
}

/// How many interfaces stand below the one of this name, one upon the other.
#[must_use]
pub fn height(links: &[Link], name: &str) -> usize {
    let mut level: Vec<_> = links.iter().filter(|link| link.name == name).collect();
    let mut height = 0;
    // The kernel allows no more (`MAX_NEST_DEV`).
    while height < 8 {
        level =
            links.iter().filter(|link| level.iter().any(|upper| link.is_below(upper))).collect();
        if level.is_empty() {
            break;
        }
        height += 1;
    }
    height
}

/// What has changed since one has asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Change {
    /// Indexes of interfaces that something was said of.
    pub touched: BTreeSet<u32>,
    /// Indexes of interfaces that have gone; another one may have the number by now.
    pub gone: BTreeSet<u32>,
    /// Whether something else may have changed, because messages may have been lost.
    pub is_lossy: bool,
}

/// A subscription to the interfaces of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Changes {
    handle: Handle,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    connection: JoinHandle<()>,
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Changes {
    /// Tells of what changes from now on; inside of a tokio runtime.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn subscribe() -> Result<Self> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
                .context("opening rtnetlink, which tells of interfaces that come and go")?;
        Ok(Self { handle, messages, connection: tokio::spawn(connection) })
    }

    /// Waits until something has changed. Nothing is lost where that is given up.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub async fn next(&mut self) -> Result<Change> {
        let mut change = Change::default();
        match self.messages.next().await {
            Some((message, _)) => change.add(message),
            None => {
                *self = Self::subscribe()?;
                change.is_lossy = true;
            }
        }
        while let Ok((message, _)) = self.messages.try_recv() {
            change.add(message);
        }
        Ok(change)
    }

    /// The interfaces that are there now, by index.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        let mut answers = std::pin::pin!(self.handle.link().get().execute());
        while let Some(answer) = answers.try_next().await.context("asking for interfaces")? {
            let (mut name, mut other_names) = (None, Vec::new());
            let (mut controller, mut parent, mut is_elsewhere) = (None, None, false);
            for attribute in answer.attributes {
                match attribute {
                    LinkAttribute::IfName(found) => name = Some(found),
                    LinkAttribute::Controller(index) => controller = Some(index),
                    LinkAttribute::Link(index) => parent = Some(index),
                    LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
                    LinkAttribute::PropList(properties) => {
                        other_names.extend(properties.into_iter().filter_map(|one| match one {
                            Prop::AltIfName(name) => Some(name),
                            _ => None,
                        }));
                    }
                    _ => {}
                }
            }
            let index = answer.header.index;
            let parent = parent.filter(|_| !is_elsewhere);
            links.extend(name.map(|name| Link { index, name, other_names, controller, parent }));
        }
        links.sort_by_key(|link| link.index);
        Ok(links)
    }
}

impl Change {
    fn add(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        match message.payload {
            // A bridge tells of its ports in the same way: one that leaves it is still there.
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
            ) if link.header.interface_family != AddressFamily::Unspec => {}
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                self.touched.insert(link.header.index);
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                self.touched.insert(link.header.index);
                self.gone.insert(link.header.index);
            }
            _ => self.is_lossy = true,
        }
    }
}
