//! A server and its clients on one cable that behaves like two network cards: what arrives is received on a core of the
//! receiver's own, whoever sent it, and interrupts are coalesced.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tracker_tests::{
    namespace::Namespace,
    offload::{Offload, set_offload},
};

use crate::cpu::{Cores, NICE, NICEST, Task};

/// The server's address.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The real clients' address.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Where the server listens.
pub(crate) const PORT: u16 = 80;
/// The flood's sources: what RFC 2544 sets aside for benchmarks.
pub(crate) const SOURCES: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);

/// How long an interface gathers packets before it wakes its receiver, in nanoseconds: a rate that network cards use.
pub(crate) const COALESCE_NS: u32 = 20_000;

static CABLES: AtomicU32 = AtomicU32::new(0);

/// Where the server listens.
pub(crate) fn service() -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(SERVER, PORT))
}

/// One end of a cable.
#[derive(Debug)]
pub(crate) struct End {
    /// The namespace, which has nothing else.
    pub(crate) namespace: Namespace,
    /// The interface's name, unique on this machine.
    pub(crate) interface: String,
    /// The kernel thread that receives.
    pub(crate) receiver: Task,
}

/// Both ends. The namespaces vanish when this is dropped.
#[derive(Debug)]
pub(crate) struct Cable {
    /// Where the flood and the real clients come from.
    pub(crate) clients: End,
    /// Where they go.
    pub(crate) server: End,
}

impl Cable {
    /// Connects two new hosts, which know each other's addresses and never have to ask.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn new(cores: Cores) -> Result<Self> {
        let number = CABLES.fetch_add(1, Ordering::Relaxed);
        // Linux' longest name has 15 characters, a process number at most 7 digits.
        let name = |end: &str| format!("f{}{end}{}", process::id(), number % 1_000);
        let names = [name("c"), name("s")];
        let namespaces = [Namespace::new()?, Namespace::new()?];
        for namespace in &namespaces {
            namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
            namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
            // Else the first round trips decide on how patient later connections are.
            namespace.sysctl("net/ipv4/tcp_no_metrics_save", "1")?;
        }
        let [clients, server] = &namespaces;
        let far = server.path();
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let one = ["link", "add", &names[0]];
        let other = ["type", "veth", "peer", "name", &names[1], "netns", &far];
        clients.run("ip", &[&one[..], &queues, &other, &queues].concat())?;
        for (namespace, name) in namespaces.iter().zip(&names) {
            // What comes from a network card has its checksum.
            set_offload(namespace, name, Offload::TxChecksum, name == &names[1])?;
            namespace.run("ip", &["link", "set", name, "up"])?;
        }
        for (namespace, name) in namespaces.iter().zip(&names) {
            // With GRO, veth receives as network cards do. The other end learns that XDP may send to it only where it is
            // turned on while the interface is up.
            set_offload(namespace, name, Offload::Gro, true)?;
            be_a_network_card(namespace, name)?;
        }
        for (at, own, other, address) in [(0, CLIENT, SERVER, 1), (1, SERVER, CLIENT, 0)] {
            let (namespace, name) = (&namespaces[at], &names[at]);
            namespace.run("ip", &["addr", "add", &format!("{own}/24"), "dev", name])?;
            let hardware = hardware_address(&namespaces[address], &names[address])?;
            let neighbour = ["neigh", "replace", &other.to_string(), "lladdr", &hardware, "dev"];
            namespace.run("ip", &[&neighbour[..], &[name, "nud", "permanent"]].concat())?;
        }
        let (sources, length) = SOURCES;
        let (sources, gateway) = (format!("{sources}/{length}"), CLIENT.to_string());
        server.run("ip", &["route", "add", &sources, "via", &gateway, "dev", &names[1]])?;

        let [client_name, server_name] = names;
        let [clients, server] = namespaces;
        let end = |namespace, interface: String, core, nice| -> Result<End> {
            let receiver = Task::receiver_of(&interface)?;
            receiver.pin(core)?;
            receiver.be_nice(nice)?;
            Ok(End { namespace, interface, receiver })
        };
        Ok(Self {
            // Whatever the generator does, the clients hear the answers.
            clients: end(clients, client_name, cores.generator, NICEST)?,
            server: end(server, server_name, cores.server, NICE)?,
        })
    }
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

/// An interface's hardware address, as `ip` prints it.
pub(crate) fn hardware_address(namespace: &Namespace, interface: &str) -> Result<String> {
    let link = namespace.run("ip", &["-o", "link", "show", "dev", interface])?;
    let address = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    let address = address.context("ip shows no hardware address")?;
    ensure!(address.len() == 17, "{address} is no hardware address");
    Ok(address.to_owned())
}
