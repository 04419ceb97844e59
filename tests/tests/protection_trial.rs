//! Protection that does harm ends, and says so: answers that cannot leave, a firewall that wants to have seen the SYN, a listener
//! whose address is translated. Clients that come then get through.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tracker_tests::{
    agent::{Agent, Events, PATIENCE, eventually, run_tracker},
    kernel::has_handover,
    lab::cable,
    namespace::Namespace,
    nft,
};

/// The protected listener.
const LISTENER: &str = "10.9.0.1:80";

/// A host, and a client in front of it whose interface has no XDP program and merges no packets.
struct Site {
    host: Namespace,
    client: Namespace,
}

impl Site {
    fn new() -> Result<Self> {
        let site = Self { host: Namespace::new()?, client: Namespace::new()? };
        cable((&site.host, "veth0"), (&site.client, "veth0"))?;
        for (namespace, address) in [(&site.host, "10.9.0.1/24"), (&site.client, "10.9.0.2/24")] {
            namespace.run("ip", &["address", "add", address, "dev", "veth0"])?;
        }
        Ok(site)
    }

    fn protect(&self, ingress: &str) -> Result<(Agent, Events)> {
        let options = ["--interface", "veth0", "--protect", "80", "--syn-cookies", "always"];
        let agent = Agent::start(&self.host, &[&options[..], &["--ingress", ingress]].concat())?;
        agent.wait_for_log("protected")?;
        let events = agent.events()?;
        Ok((agent, events))
    }

    fn connect(&self) -> Result<TcpStream> {
        let at: SocketAddr = LISTENER.parse()?;
        self.client.enter(|| {
            let stream = TcpStream::connect_timeout(&at, Duration::from_secs(20))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    }

    /// A connection comes through, and is answered.
    fn is_served_by(&self, listener: &TcpListener) -> Result<()> {
        let mut client = self.connect().context("a client that comes afterwards")?;
        client.write_all(b"ask")?;
        let asking = client.local_addr()?;
        let mut server = None;
        listener.set_nonblocking(true)?;
        // Those before it may be in the queue, or not.
        eventually("the client is accepted", || match listener.accept() {
            Ok((stream, from)) if from.port() == asking.port() => {
                server = Some(stream);
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        })?;
        let mut server = server.context("a connection")?;
        server.set_nonblocking(false)?;
        server.set_read_timeout(Some(PATIENCE))?;
        server.read_exact(&mut [0; 3]).context("what the client asks")?;
        server.write_all(b"answer")?;
        client.read_exact(&mut [0; 6]).context("what the server answers")?;
        Ok(())
    }
}

/// Cookies end, for one of these reasons, and the log tells what to do.
fn ended(agent: &Agent, events: &Events, reasons: &[&str], advice: &str) -> Result<()> {
    let event = loop {
        let event = events.wait_for("COOKIE")?;
        if event["mode"] == "off" {
            break event;
        }
    };
    let is_expected = reasons.iter().any(|reason| event["reason"] == *reason);
    ensure!(is_expected && event["listener"] == LISTENER, "{event}");
    let said = agent.wait_for_log("not protected for 5 minutes")?;
    ensure!(said.contains(advice), "{said}");
    eventually("the listener is left alone", || {
        let stats = agent.stats()?;
        let listeners = stats["cookies"]["listeners"].as_array().context("listeners")?;
        Ok(listeners.iter().any(|at| at["listener"] == LISTENER && at["mode"] == "off"))
    })
}

#[test]
fn answers_that_cannot_leave() -> Result<()> {
    let site = Site::new()?;
    // Without a program, or merging, at its other end a veth takes nothing that XDP sends back.
    let (agent, events) = site.protect("xdp")?;
    let listener = site.host.enter(|| Ok(TcpListener::bind(LISTENER)?))?;
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| site.connect())).collect();
        ended(&agent, &events, &["answers_lost"], "--ingress tcx")?;
        // They have tried again, and got through.
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?.context("a client")?;
        }
        Ok(())
    })?;
    site.is_served_by(&listener)
}

#[test]
fn a_firewall_that_wants_to_have_seen_the_syn() -> Result<()> {
    ensure!(has_handover()?, "connections are handed over since Linux 6.9");
    let site = Site::new()?;
    nft::load(
        &site.host,
        "table inet filter {
            chain input {
                type filter hook input priority 0;
                ct state new tcp flags & (fin | syn | rst | ack) != syn drop
            }
        }",
    )?;
    let (agent, events) = site.protect("tcx")?;
    let listener = site.host.enter(|| Ok(TcpListener::bind(LISTENER)?))?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = site.connect()?;
        client.write_all(b"ask")?;
        clients.push(client);
    }
    ended(&agent, &events, &["not_delivered"], "nf_conntrack_tcp_loose")?;
    site.is_served_by(&listener)
}

/// As Docker publishes a port: its proxy listens, and its rules translate.
#[test]
fn a_listener_whose_address_is_translated() -> Result<()> {
    ensure!(has_handover()?, "connections are handed over since Linux 6.9");
    let site = Site::new()?;
    let container = Namespace::new()?;
    cable((&site.host, "inside"), (&container, "veth0"))?;
    site.host.run("ip", &["address", "add", "10.8.0.1/24", "dev", "inside"])?;
    container.run("ip", &["address", "add", "10.8.0.2/24", "dev", "veth0"])?;
    container.run("ip", &["route", "add", "default", "via", "10.8.0.1"])?;
    site.host.sysctl("net/ipv4/ip_forward", "1")?;
    nft::load(
        &site.host,
        "table ip nat {
            chain prerouting {
                type nat hook prerouting priority -100;
                tcp dport 80 dnat to 10.8.0.2:8000
            }
        }",
    )?;
    let (agent, events) = site.protect("tcx")?;
    let _proxy = site.host.enter(|| Ok(TcpListener::bind(LISTENER)?))?;
    let service = container.enter(|| Ok(TcpListener::bind("10.8.0.2:8000")?))?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = site.connect()?;
        // The container may have reset it already.
        let _ = client.write_all(b"ask");
        clients.push(client);
    }
    // What was handed to the proxy is not forwarded; what follows at once is, and the container knows nothing of it.
    ended(&agent, &events, &["reset_at_once", "not_delivered"], "DNAT")?;
    site.is_served_by(&service)
}

/// Whether `check` warns of the host's rules, with these words.
fn warned(host: &Namespace) -> Result<Vec<String>> {
    let check = ["check", "--interface", "veth0", "--protect", "80,443"];
    let (found, error, status) = run_tracker(&check, Some(host))?;
    ensure!(status.success(), "{found}{error}");
    let lines = found.lines().filter(|line| line.contains("firewall"));
    Ok(lines.map(str::to_owned).collect())
}

#[test]
fn a_check_names_the_rules_that_are_in_the_way() -> Result<()> {
    let site = Site::new()?;
    let said = warned(&site.host)?;
    ensure!(said.len() == 1 && said[0].starts_with("ok"), "{said:?}");
    // What decides nothing about the protected ports.
    nft::load(
        &site.host,
        "table ip nat {
            chain prerouting {
                type nat hook prerouting priority -100;
                tcp dport 8080 dnat to 10.8.0.2:8000
            }
            chain postrouting {
                type nat hook postrouting priority 100;
                masquerade
            }
        }
        table inet filter {
            chain forward {
                type filter hook forward priority 0;
                ct state new tcp flags & (fin | syn | rst | ack) != syn drop
            }
            chain input {
                type filter hook input priority 0; policy drop;
                ct state established,related accept
                ct state invalid drop
                tcp dport { 80, 443 } ct state new accept
                tcp dport 22 ct state new tcp flags & (fin | syn | rst | ack) != syn drop
            }
        }",
    )?;
    let said = warned(&site.host)?;
    ensure!(said.len() == 1 && said[0].starts_with("ok"), "{said:?}");
    site.host.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
    let said = warned(&site.host)?;
    ensure!(said.len() == 1 && said[0].contains("chain input in table inet filter"), "{said:?}");
    ensure!(said[0].contains("nf_conntrack_tcp_loose=1"), "{said:?}");
    site.host.sysctl("net/netfilter/nf_conntrack_tcp_loose", "1")?;
    for (rule, chain) in [
        (
            "inet filter input ct state new tcp flags & (fin | syn | rst | ack) != syn reject",
            "input",
        ),
        ("ip nat prerouting tcp dport 443 redirect to :8443", "prerouting"),
    ] {
        nft::load(&site.host, &format!("insert rule {rule}"))?;
        let said = warned(&site.host)?;
        let named = said.iter().filter(|line| line.contains(&format!("chain {chain} ")));
        ensure!(named.count() == 1, "{rule}: {said:?}");
    }
    // An agent starts all the same, and says so, too.
    let options = ["--interface", "veth0", "--protect", "80", "--ingress", "tcx"];
    let agent = Agent::start(&site.host, &options)?;
    agent.wait_for_log("chain input in table inet filter")?;
    agent.wait_for_log("protected")?;
    Ok(())
}
