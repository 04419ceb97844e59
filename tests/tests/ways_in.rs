//! Where arriving packets are seen: by XDP on network cards, and in the host's stack where XDP gives nothing.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracker_common::LAYOUT_VERSION;
use tracker_tests::{
    agent::{Agent, PATIENCE, eventually, run_tracker},
    lab::{INTERFACE, Pair, cable},
    namespace::Namespace,
    offload::{Offload, set_offload},
    tunnel::tunnel,
};
use tracker_user::kernel::{kernel_side::links, protection::Prepared};

/// Clients, one after the other.
const CLIENTS: u64 = 20;

/// A server behind one of the interfaces that software makes, and a client whose own interface has no XDP program.
struct Place {
    server: Namespace,
    client: Namespace,
    /// What the server's packets pass last.
    interface: &'static str,
    address: &'static str,
    /// A namespace that the packets pass through.
    _between: Option<Namespace>,
}

fn addresses(namespace: &Namespace, interface: &str, number: u8) -> Result<()> {
    let [v4, v6] = [format!("10.9.0.{number}/24"), format!("fd09::{number}/64")];
    namespace.run("ip", &["address", "add", &v4, "dev", interface])?;
    namespace.run("ip", &["address", "add", &v6, "dev", interface, "nodad"])?;
    Ok(())
}

impl Place {
    fn new(interface: &'static str, address: &'static str) -> Result<Self> {
        let (server, client) = (Namespace::new()?, Namespace::new()?);
        Ok(Self { server, client, interface, address, _between: None })
    }

    /// The server at the end of a veth pair, as containers are.
    fn veth() -> Result<Self> {
        let place = Self::new("veth0", "10.9.0.1:80")?;
        cable((&place.server, "veth0"), (&place.client, "veth0"))?;
        addresses(&place.server, "veth0", 1)?;
        addresses(&place.client, "veth0", 2)?;
        Ok(place)
    }

    /// The server's address is that of a bridge, of which the client's cable is a port.
    fn bridge() -> Result<Self> {
        let place = Self::new("br0", "[fd09::1]:80")?;
        cable((&place.server, "port"), (&place.client, "veth0"))?;
        place.server.run("ip", &["link", "add", "br0", "type", "bridge"])?;
        place.server.run("ip", &["link", "set", "port", "master", "br0"])?;
        place.server.run("ip", &["link", "set", "br0", "up"])?;
        addresses(&place.server, "br0", 1)?;
        addresses(&place.client, "veth0", 2)?;
        Ok(place)
    }

    /// The server has a macvlan of a veth.
    fn macvlan() -> Result<Self> {
        let place = Self::new("mac0", "10.9.0.1:80")?;
        cable((&place.server, "parent"), (&place.client, "veth0"))?;
        // Else it answers for the address, too.
        place.server.sysctl("net/ipv4/conf/parent/arp_ignore", "1")?;
        let make = ["link", "add", "mac0", "link", "parent", "type", "macvlan", "mode", "bridge"];
        place.server.run("ip", &make)?;
        place.server.run("ip", &["link", "set", "mac0", "up"])?;
        addresses(&place.server, "mac0", 1)?;
        addresses(&place.client, "veth0", 2)?;
        Ok(place)
    }

    /// The server in a container: the cable goes to a bridge of the host, and from there on to the client.
    fn container() -> Result<Self> {
        let mut place = Self::new("veth0", "10.9.0.1:80")?;
        let host = Namespace::new()?;
        host.run("ip", &["link", "add", "br0", "type", "bridge"])?;
        for (other, port) in [(&place.server, "server"), (&place.client, "client")] {
            cable((&host, port), (other, "veth0"))?;
            host.run("ip", &["link", "set", port, "master", "br0"])?;
        }
        host.run("ip", &["link", "set", "br0", "up"])?;
        addresses(&place.server, "veth0", 1)?;
        addresses(&place.client, "veth0", 2)?;
        place._between = Some(host);
        Ok(place)
    }

    /// The server at the end of a tunnel: its packets have no link header.
    fn tun(address: &'static str) -> Result<Self> {
        let place = Self::new("tun0", address)?;
        tunnel((&place.server, "tun0"), (&place.client, "tun0"))?;
        addresses(&place.server, "tun0", 1)?;
        addresses(&place.client, "tun0", 2)?;
        Ok(place)
    }

    /// Clients that ask and are answered; each is sent more than fits one packet.
    fn serve(&self) -> Result<()> {
        let at: SocketAddr = self.address.parse()?;
        let listener = self.server.enter(|| Ok(TcpListener::bind(at)?))?;
        self.serve_by(&listener)
    }

    fn serve_by(&self, listener: &TcpListener) -> Result<()> {
        let at: SocketAddr = self.address.parse()?;
        thread::scope(|scope| {
            let serving = scope.spawn(|| -> Result<()> {
                for _ in 0..CLIENTS {
                    let (mut stream, _) = listener.accept()?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    let mut asked = [0; 4];
                    stream.read_exact(&mut asked)?;
                    stream.write_all(&[7; 20_000])?;
                }
                Ok(())
            });
            self.client.enter(|| {
                for _ in 0..CLIENTS {
                    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(20))
                        .context("connecting")?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.write_all(b"send")?;
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all)?;
                    ensure!(all == [7; 20_000], "{} bytes came", all.len());
                }
                Ok(())
            })?;
            serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
        })
    }
}

fn way(agent: &Agent) -> Result<(Value, Value)> {
    let interface = &agent.stats()?["interfaces"][0];
    Ok((interface["xdp"].clone(), interface["ingress"].clone()))
}

/// Every flow is whole, and nothing was reported.
fn whole(agent: &Agent) -> Result<()> {
    eventually("every connection is closed", || {
        let flows = agent.flows(&[])?;
        let closed = |flow: &Value| flow["conn_state"] == "SF";
        Ok(flows.len() as u64 == CLIENTS && flows.iter().all(closed))
    })?;
    for flow in agent.flows(&[])? {
        ensure!(flow["seen"] == "both" && flow["midstream"] == false, "{flow}");
        ensure!(flow["reply"]["stream_bytes"] == 20_000, "{flow}");
    }
    let violations = agent.violations()?;
    ensure!(violations.is_empty(), "{violations:?}");
    Ok(())
}

/// Cookies for every SYN, by each of the ways that software makes interfaces, and clients that know nothing of it: neither the
/// client's interface nor what is between has an XDP program, and nothing there merges packets.
fn protected(place: &Place) -> Result<()> {
    if Prepared::for_this_kernel()?.assign.is_none() {
        place.server.sysctl("net/ipv4/tcp_syncookies", "2")?;
    }
    let on = ["--interface", place.interface, "--protect", "80", "--syn-cookies", "always"];
    // What the agent chooses, and not what these tests choose for it.
    let agent = Agent::start(&place.server, &[&on[..], &["--ingress", "auto"]].concat())?;
    let at: SocketAddr = place.address.parse()?;
    let listener = place.server.enter(|| Ok(TcpListener::bind(at)?))?;
    agent.wait_for_log("protected")?;
    let events = agent.events()?;
    place.serve_by(&listener)?;
    let (xdp, ingress) = way(&agent)?;
    ensure!(xdp.is_null() && (ingress == "tcx" || ingress == "clsact"), "{xdp} {ingress}");
    let stats = agent.stats()?;
    whole(&agent).with_context(|| format!("{}\n{:?}", stats["cookies"]["total"], events.take()))?;
    let total = &stats["cookies"]["total"];
    // A client that waits for a second, on a busy machine, asks again.
    ensure!(total["accepted"] == CLIENTS && total["sent"].as_u64() >= Some(CLIENTS), "{stats}");
    agent.finish()?;
    Ok(())
}

#[test]
fn listeners_are_protected_behind_a_veth() -> Result<()> {
    protected(&Place::veth()?)
}

#[test]
fn listeners_are_protected_behind_a_bridge() -> Result<()> {
    protected(&Place::bridge()?)
}

#[test]
fn listeners_are_protected_behind_a_macvlan() -> Result<()> {
    protected(&Place::macvlan()?)
}

#[test]
fn listeners_are_protected_in_a_container() -> Result<()> {
    protected(&Place::container()?)
}

#[test]
fn listeners_are_protected_behind_a_tunnel() -> Result<()> {
    for address in ["10.9.0.1:80", "[fd09::1]:80"] {
        protected(&Place::tun(address)?).context(address)?;
    }
    Ok(())
}

#[test]
fn what_software_makes_is_watched_in_the_stack() -> Result<()> {
    for place in [Place::veth()?, Place::bridge()?, Place::macvlan()?] {
        let options = ["--interface", place.interface, "--ingress", "auto"];
        let agent = Agent::start(&place.server, &options)?;
        let links = place.server.run("ip", &["-details", "link", "show"])?;
        ensure!(!links.contains("xdp"), "{links}");
        place.serve()?;
        whole(&agent)?;
        let arrived = agent.packets(Some("in"), Some("tracked"))?;
        ensure!(arrived >= CLIENTS * 4, "{arrived} packets arrived");
        agent.finish()?;
    }
    Ok(())
}

#[test]
fn a_tun_device_is_watched_in_the_stack() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.run("ip", &["tuntap", "add", "tun0", "mode", "tun"])?;
    let agent = Agent::start(&namespace, &["--interface", "tun0", "--ingress", "auto"])?;
    ensure!(way(&agent)?.0.is_null());
    Ok(())
}

/// What an agent before has attached gives way to another way in, and no connection is lost by it.
#[test]
fn the_next_agent_may_take_another_way() -> Result<()> {
    let place = Place::veth()?;
    // The other end of native XDP needs a program, too, or merges packets.
    set_offload(&place.client, "veth0", Offload::Gro, true)?;
    let options = |way| ["--interface", "veth0", "--ingress", way, "--keep-attached"];
    let mut agent = Agent::start(&place.server, &options("xdp"))?;
    let at: SocketAddr = place.address.parse()?;
    let listener = place.server.enter(|| Ok(TcpListener::bind(at)?))?;
    let mut client =
        place.client.enter(|| Ok(TcpStream::connect_timeout(&at, Duration::from_secs(20))?))?;
    let (mut server, _) = listener.accept()?;
    for (next, shown) in [("tcx", "tcx"), ("xdp", "native"), ("tcx", "tcx")] {
        agent = agent.kill()?.restart(&place.server, &options(next))?;
        let (xdp, ingress) = way(&agent)?;
        ensure!(xdp == shown || ingress == shown, "{xdp} {ingress}");
        ensure!(xdp.is_null() != ingress.is_null(), "{xdp} {ingress}");
        let links = place.server.run("ip", &["-details", "link", "show", "veth0"])?;
        ensure!(links.contains("xdp") == (next == "xdp"), "{links}");
        for _ in 0..10 {
            client.write_all(&[1; 3000])?;
            server.read_exact(&mut [0; 3000])?;
        }
    }
    let flow = &agent.flows(&[])?[0];
    ensure!(flow["orig"]["stream_bytes"] == 90_000, "{flow}");
    ensure!(agent.violations()?.is_empty(), "{:?}", agent.violations()?);
    agent.finish()?;
    let left = place.server.run("tc", &["filter", "show", "dev", "veth0", "ingress"])?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

#[test]
fn a_program_of_the_stack_that_is_gone_is_attached_again() -> Result<()> {
    let place = Place::veth()?;
    let options = ["--interface", "veth0", "--ingress", "tcx", "--egress", "tcx"];
    let agent = Agent::start(&place.server, &options)?;
    let pin = Path::new("/sys/fs/bpf/tracker")
        .join(format!("v{LAYOUT_VERSION}/{}/slot-0-veth0/ingress-tcx", agent.name()));
    ensure!(links::remove(&pin)?, "there is no {}", pin.display());
    let said = agent.wait_for_log("is gone")?;
    ensure!(said.contains("hook=\"in\""), "{said}");
    agent.wait_for_log("attached again")?;
    place.serve()?;
    whole(&agent)?;
    agent.finish()?;
    Ok(())
}

#[test]
fn choices_that_exclude_each_other_are_refused() -> Result<()> {
    let pair = Pair::silent()?;
    let named = ["--instance", "ways-in", "run", "--interface", INTERFACE];
    for (options, word) in [
        (&["--ingress", "tcx", "--xdp", "native"][..], "leave one of them away"),
        (&["--xdp", "generic", "--protect", "80"], "--ingress tcx"),
    ] {
        let (_, said, status) = run_tracker(&[&named[..], options].concat(), Some(&pair.host))?;
        ensure!(!status.success() && said.contains(word), "{said}");
    }
    // Nothing was attached on the way.
    let links = pair.host.run("ip", &["-details", "link", "show", INTERFACE])?;
    ensure!(!links.contains("xdp"), "{links}");
    Ok(())
}

#[test]
fn a_check_says_which_way_it_will_be() -> Result<()> {
    let pair = Pair::silent()?;
    let check = ["check", "--interface", INTERFACE];
    for (options, said) in [
        (&[][..], "way in of veth0: in the network stack: this is a veth"),
        (&["--ingress", "tcx"], "way in of veth0: in the network stack: --ingress tcx"),
        (&["--ingress", "xdp"], "place for XDP of veth0: free"),
        (&["--xdp", "native"], "driver of veth0: native XDP"),
    ] {
        let (found, error, _) = run_tracker(&[&check[..], options].concat(), Some(&pair.host))?;
        ensure!(found.contains(said), "{options:?}: {found}{error}");
    }
    Ok(())
}
