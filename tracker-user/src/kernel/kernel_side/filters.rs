//! Filters on the clsact qdisc. They belong to the interface and not to a process, so that their program's id identifies
//! them.

use std::pin::pin;

use aya::programs::{
    Link,
    tc::{SchedClassifierLink, TcAttachType, TcHandle},
};
use futures::TryStreamExt;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcFilterBpfOption, TcHandle as QdiscHandle, TcOption,
};

use crate::{
    kernel::netlink::Netlink,
    model::error::{Context, Result},
};

/// A filter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    /// Its BPF program's id; 0 for a filter of another kind.
    pub program: u32,
    /// The program's name, as who attached it gave it.
    pub name: String,
    priority: u16,
    handle: u32,
}

impl Filter {
    /// As aya knows it.
    ///
    /// # Errors
    ///
    /// Where there is no such interface.
    pub fn link(&self, interface: &str, hook: TcAttachType) -> Result<SchedClassifierLink> {
        let handle = TcHandle::from(self.handle);
        SchedClassifierLink::attached(interface, hook, self.priority, handle, None)
            .with_context(|| format!("looking for the interface {interface}"))
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove(&self, interface: &str, hook: TcAttachType) -> Result<()> {
        self.link(interface, hook)?
            .detach()
            .with_context(|| format!("removing the filter of {} from {interface}", self.name))
    }
}

/// All filters at a hook of an interface; none where it has no clsact qdisc.
///
/// # Errors
///
/// What the kernel says.
pub async fn filters(ifindex: u32, hook: TcAttachType) -> Result<Vec<Filter>> {
    let netlink = Netlink::open()?;
    let request = netlink.handle().traffic_filter(ifindex.cast_signed()).get();
    let request = match hook {
        TcAttachType::Ingress => request.ingress(),
        _ => request.egress(),
    };
    let mut found = Vec::new();
    let mut messages = pin!(request.execute());
    while let Some(message) = messages.try_next().await.context("asking for filters")? {
        let mut filter = Filter {
            program: 0,
            name: String::new(),
            // The upper half is the priority, the lower one the protocol.
            priority: u16::try_from(message.header.info >> 16).unwrap_or_default(),
            handle: message.header.handle.into(),
        };
        for attribute in message.attributes {
            let TcAttribute::Options(options) = attribute else { continue };
            for option in options {
                match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = id,
                    TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = name,
                    _ => {}
                }
            }
        }
        // Each priority comes by itself too, without a filter.
        if filter.handle != 0 {
            found.push(filter);
        }
    }
    Ok(found)
}

/// Removes the clsact qdisc of an interface.
///
/// # Errors
///
/// What the kernel says.
pub async fn remove_qdisc(ifindex: u32) -> Result<()> {
    let netlink = Netlink::open()?;
    let mut request = netlink.handle().qdisc().del(ifindex.cast_signed());
    request.message_mut().header.parent = QdiscHandle::CLSACT;
    Ok(request.execute().await?)
}
