//! A router between a client and a server, and connections through it. The oracles are nftables' counters where the client
//! is, and nf_conntrack.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{Agent, PATIENCE},
    conntrack,
    lab::cable,
    namespace::Namespace,
    nft,
};

/// Connections that [`connect`] makes.
pub const CONNECTIONS: u64 = 40;

/// Segments that a client sends and receives, as nftables counts them where it is.
pub const COUNTERS: &str = "
table inet wire {
    counter sent { }
    counter received { }
    chain output {
        type filter hook output priority 0;
        meta l4proto tcp counter name sent
    }
    chain input {
        type filter hook input priority 0;
        meta l4proto tcp counter name received
    }
}
";

/// Rules by which the router gives its own address to what goes to the server's side.
pub const MASQUERADE: &str = "
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100;
        oifname right masquerade
    }
}
";

/// What the client's kernel has sent and received, by [`COUNTERS`].
///
/// # Errors
///
/// Where nothing counts there.
pub fn on_the_wire(client: &Namespace) -> Result<[u64; 2]> {
    let text = client.run("nft", &["--json", "list", "counters", "table", "inet", "wire"])?;
    let listed: Value = serde_json::from_str(&text)?;
    let packets = |name: &str| {
        listed["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|object| object["counter"]["name"] == name)
            .and_then(|object| object["counter"]["packets"].as_u64())
            .with_context(|| format!("no counter {name} in {text}"))
    };
    Ok([packets("sent")?, packets("received")?])
}

/// Gives an interface an address.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn address(namespace: &Namespace, interface: &str, address: &str) -> Result<()> {
    namespace.run("ip", &["address", "add", address, "dev", interface]).map(drop)
}

/// Connections, one after the other, to `to`, where `server` listens on `listens`. Each asks and is answered some times, and is
/// closed by the client or by the server.
///
/// # Errors
///
/// What the kernel says.
pub fn connect(client: &Namespace, server: &Namespace, listens: &str, to: &str) -> Result<()> {
    let listener = server.enter(|| Ok(TcpListener::bind(listens)?))?;
    let to: SocketAddr = to.parse()?;
    thread::scope(|scope| {
        let serving = scope.spawn(|| -> Result<()> {
            for n in 0..CONNECTIONS {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(PATIENCE))?;
                for _ in 0..n % 4 {
                    let mut bytes = [0; 100];
                    stream.read_exact(&mut bytes)?;
                    stream.write_all(&bytes)?;
                }
                if n % 2 == 0 {
                    stream.shutdown(Shutdown::Write)?;
                }
                ensure!(stream.read(&mut [0; 1])? == 0, "the client said too much");
            }
            Ok(())
        });
        client.enter(|| {
            for n in 0..CONNECTIONS {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                for _ in 0..n % 4 {
                    let mut bytes = [7; 100];
                    stream.write_all(&bytes)?;
                    stream.read_exact(&mut bytes)?;
                }
                if n % 2 == 0 {
                    ensure!(stream.read(&mut [0; 1])? == 0, "the server said too much");
                }
            }
            Ok(())
        })?;
        serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
    })
}

/// left -- router -- right, with the rules on the router.
#[derive(Debug)]
pub struct Routed {
    /// Clients: 10.1.1.2.
    pub left: Namespace,
    /// Its interfaces are `left` and `right`.
    pub router: Namespace,
    /// Servers: 10.1.2.2.
    pub right: Namespace,
}

impl Routed {
    /// With [`COUNTERS`] where clients are.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn new(rules: &str) -> Result<Self> {
        let (left, router, right) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        for (other, near, net) in [(&left, "left", 1), (&right, "right", 2)] {
            cable((&router, near), (other, "veth0"))?;
            address(&router, near, &format!("10.1.{net}.1/24"))?;
            address(other, "veth0", &format!("10.1.{net}.2/24"))?;
            let gateway = format!("10.1.{net}.1");
            other.run("ip", &["route", "add", "default", "via", &gateway])?;
        }
        router.sysctl("net/ipv4/ip_forward", "1")?;
        nft::load(&router, rules)?;
        nft::load(&left, COUNTERS)?;
        Ok(Self { left, router, right })
    }

    /// An agent on both interfaces of the router.
    ///
    /// # Errors
    ///
    /// As [`Agent::start`].
    pub fn agent(&self) -> Result<Agent> {
        Agent::start(&self.router, &["--interface", "left", "--interface", "right"])
    }

    /// What nf_conntrack has on the clients' connections: as many, all over.
    ///
    /// # Errors
    ///
    /// Where it has others.
    pub fn conntrack_agrees(&self) -> Result<()> {
        let client: Ipv4Addr = "10.1.1.2".parse()?;
        let entries = conntrack::entries(&self.router)?;
        let ours: Vec<_> = entries.iter().filter(|entry| entry.source == client).collect();
        ensure!(ours.len() as u64 == CONNECTIONS, "{ours:?}");
        ensure!(ours.iter().all(|entry| entry.state == "TIME_WAIT"), "{ours:?}");
        Ok(())
    }
}
