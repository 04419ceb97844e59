//! A server and its clients, and the wire between them. Interfaces behave like network cards: what arrives is received
//! on a core of the receiver's own, whoever sent it, and interrupts are coalesced.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tracker_tests::{
    namespace::Namespace,
    offload::{Offload, set_offload},
};

use crate::cpu::{Cores, Task, URGENT};

/// The server's address.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The real clients' address.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Where the server listens.
pub(crate) const PORT: u16 = 80;
/// The flood's sources: what RFC 2544 sets aside for benchmarks.
pub(crate) const SOURCES: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);

/// How long an interface gathers packets before it wakes its receiver, in nanoseconds: a rate that network cards use.
pub(crate) const COALESCE_NS: u32 = 50_000;

static CABLES: AtomicU32 = AtomicU32::new(0);

/// Where the server listens.
pub(crate) fn service() -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(SERVER, PORT))
}

/// A host, which has nothing but an interface.
#[derive(Debug)]
pub(crate) struct End {
    /// The namespace.
    pub(crate) namespace: Namespace,
    /// The interface's name, unique on this machine.
    pub(crate) interface: String,
    /// The kernel thread that receives.
    pub(crate) receiver: Task,
    /// The interface's hardware address.
    pub(crate) hardware: [u8; 6],
}

/// A server, its clients, and the wire between them, on which the flood joins the clients' frames. The namespaces vanish
/// when this is dropped.
#[derive(Debug)]
pub(crate) struct Cable {
    /// The real clients.
    pub(crate) clients: End,
    /// Where the flood comes from.
    pub(crate) wire: Wire,
    /// Where both go.
    pub(crate) server: End,
}

/// What is between the clients and the server. It passes nothing on by itself.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The namespace, which has no address.
    pub(crate) namespace: Namespace,
    /// The interface on the clients' side, whose name is unique on this machine.
    pub(crate) to_clients: String,
    /// The one on the server's side.
    pub(crate) to_server: String,
}

impl Cable {
    /// Connects new hosts, which know each other's addresses and never have to ask.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn new(cores: Cores) -> Result<Self> {
        let number = CABLES.fetch_add(1, Ordering::Relaxed);
        // Linux' longest name has 15 characters, a process number at most 7 digits.
        let name = |end: &str| format!("f{}{end}{}", process::id(), number % 1_000);
        let [clients, wire, server] = [quiet_namespace()?, quiet_namespace()?, quiet_namespace()?];
        let (client_name, server_name) = (name("c"), name("s"));
        let wire = Wire { namespace: wire, to_clients: name("v"), to_server: name("w") };
        join((&clients, &client_name), (&wire.namespace, &wire.to_clients))?;
        join((&server, &server_name), (&wire.namespace, &wire.to_server))?;
        // Whatever the generator does, the rest of the world goes on.
        for interface in [&client_name, &wire.to_clients, &wire.to_server] {
            let receiver = Task::receiver_of(interface)?;
            receiver.pin(cores.generator)?;
            receiver.be_nice(URGENT)?;
        }
        Task::receiver_of(&server_name)?.pin(cores.server)?;
        let end = |namespace, interface: String| -> Result<End> {
            let receiver = Task::receiver_of(&interface)?;
            let hardware = hardware_address(&namespace, &interface)?;
            Ok(End { namespace, interface, receiver, hardware })
        };
        let cable =
            Self { clients: end(clients, client_name)?, wire, server: end(server, server_name)? };
        for (own, address, other, neighbour) in [
            (&cable.clients, CLIENT, &cable.server, SERVER),
            (&cable.server, SERVER, &cable.clients, CLIENT),
        ] {
            own.run_ip("addr add", &[&format!("{address}/24")])?;
            let hardware = other.hardware.map(|byte| format!("{byte:02x}")).join(":");
            let permanent = [&neighbour.to_string(), "lladdr", &hardware, "nud", "permanent"];
            own.run_ip("neigh replace", &permanent)?;
        }
        let (sources, length) = SOURCES;
        let route = [&format!("{sources}/{length}"), "via", &CLIENT.to_string()];
        cable.server.run_ip("route add", &route)?;
        Ok(cable)
    }
}

impl End {
    /// Runs one of `ip`'s commands on the interface.
    fn run_ip(&self, command: &str, arguments: &[&str]) -> Result<()> {
        let command = command.split(' ').collect::<Vec<_>>();
        let device = ["dev", &self.interface];
        self.namespace.run("ip", &[&command[..], arguments, &device].concat()).map(drop)
    }
}

/// A namespace that sends nothing by itself.
///
/// # Errors
///
/// Where the kernel refuses.
pub(crate) fn quiet_namespace() -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    // Else the first round trips decide on how patient later connections are.
    namespace.sysctl("net/ipv4/tcp_no_metrics_save", "1")?;
    Ok(namespace)
}

/// Makes a veth pair, an end in either namespace, whose ends behave like network cards.
///
/// # Errors
///
/// Where the kernel refuses.
pub(crate) fn join(one: (&Namespace, &str), other: (&Namespace, &str)) -> Result<()> {
    let queues = ["numrxqueues", "1", "numtxqueues", "1"];
    let far = other.0.path();
    let add = ["link", "add", one.1];
    let peer = ["type", "veth", "peer", "name", other.1, "netns", &far];
    one.0.run("ip", &[&add[..], &queues, &peer, &queues].concat())?;
    for (namespace, name) in [one, other] {
        // XDP would pass on frames without one.
        set_offload(namespace, name, Offload::TxChecksum, false)?;
        namespace.run("ip", &["link", "set", name, "up"])?;
    }
    for (namespace, name) in [one, other] {
        // With GRO, veth receives as network cards do. The other end learns that XDP may send to it only where it is
        // turned on while the interface is up.
        set_offload(namespace, name, Offload::Gro, true)?;
        be_a_network_card(namespace, name)?;
    }
    Ok(())
}

/// Lets an interface receive on a kernel thread of its own, which can be pinned and whose time is known to the
/// nanosecond, and coalesce interrupts. Else whoever sends to a veth receives at its other end too.
fn be_a_network_card(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace.enter(|| {
        // What /sys shows depends on where it was mounted. This thread ends soon, and its mounts with it.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)
            .context("mounting /sys")?;
        for (setting, value) in [
            ("threaded", "1".to_owned()),
            ("gro_flush_timeout", COALESCE_NS.to_string()),
            ("napi_defer_hard_irqs", "1".to_owned()),
        ] {
            let path = format!("/sys/class/net/{interface}/{setting}");
            fs::write(&path, &value).with_context(|| {
                format!("writing {value} to {path}, which Linux has since 5.12")
            })?;
        }
        Ok(())
    })
}

/// An interface's hardware address.
///
/// # Errors
///
/// Where there is none.
pub(crate) fn hardware_address(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let link = namespace.run("ip", &["-o", "link", "show", "dev", interface])?;
    let address = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    parse_hardware_address(address.context("ip shows no hardware address")?)
}

fn parse_hardware_address(text: &str) -> Result<[u8; 6]> {
    let mut address = [0; 6];
    let mut bytes = text.split(':');
    for byte in &mut address {
        let digits = bytes.next().with_context(|| format!("{text} is too short"))?;
        *byte = u8::from_str_radix(digits, 16).with_context(|| text.to_owned())?;
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_read() {
        let address = parse_hardware_address("02:00:5e:10:00:ff");
        assert_eq!(address.ok(), Some([2, 0, 0x5e, 0x10, 0, 0xff]));
        assert!(parse_hardware_address("02:00:5e").is_err());
    }
}
