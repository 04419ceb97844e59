//! An agent that is killed leaves its kernel side at work; the next one of its name takes it over, or `tracker detach`
//! removes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr},
    path::PathBuf,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    maps::{Array, Map, MapData},
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        loaded_links,
    },
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::Socket;
use tracker_common::cookie::Keys;
use tracker_tests::{
    agent::{Agent, PATIENCE, eventually, is_link, pins, run_tracker},
    counters::{no_less, packets_counted, packets_of_link, stats_of},
    flood::flood,
    flows::{by_key, key, states},
    kernel::{egress_ways, has_handover, has_tcx},
    lab::{INTERFACE, Pair, address},
    namespace::Namespace,
    segment::{
        Segment,
        flag::{ACK, PSH, SYN},
    },
    sockets::{Listeners, accept, bound, listener, transfer},
    ss::Oracle,
    wire::Wire,
};

/// How often the agent is killed in the long tests.
fn round_count() -> Result<u16> {
    match std::env::var("TRACKER_RESTART_ROUNDS") {
        Ok(text) => text.parse().with_context(|| format!("TRACKER_RESTART_ROUNDS={text}")),
        Err(_) => Ok(10),
    }
}

const PORT: u16 = 80;

/// A connection with both its sockets, until they are closed.
struct Connection {
    client_on_host: bool,
    client: SocketAddr,
    server: SocketAddr,
    sockets: Option<[Socket; 2]>,
}

impl Connection {
    /// One of four kinds, from a port of its own.
    fn open(pair: &Pair, listeners: &Listeners, number: u16) -> Result<Self> {
        let (client_on_host, family) = (number % 2 == 1, usize::from(number / 2 % 2));
        let (namespace, from, to) = if client_on_host {
            (&pair.host, address::HOST[family], address::PEER[family])
        } else {
            (&pair.peer, address::PEER[family], address::HOST[family])
        };
        let (client, server) = ((from, 10_000 + number).into(), (to, PORT).into());
        let socket = bound(namespace, client)?;
        socket.connect(&SocketAddr::into(server))?;
        let accepted = accept(listeners.at(!client_on_host, family == 1), client)?;
        Ok(Self { client_on_host, client, server, sockets: Some([socket, accepted]) })
    }

    fn exchange(&self, bytes: usize) -> Result<()> {
        let [client, server] = self.sockets.as_ref().context("an open connection")?;
        transfer(client, server, bytes)?;
        transfer(server, client, bytes)
    }

    /// Closes both ends, one after the other, each when it has heard of the other.
    fn close(&mut self) -> Result<()> {
        let [client, server] = self.sockets.take().context("an open connection")?;
        client.shutdown(Shutdown::Write)?;
        ensure!((&server).read(&mut [0])? == 0, "nothing but the end");
        server.shutdown(Shutdown::Write)?;
        ensure!((&client).read(&mut [0])? == 0, "nothing but the end");
        Ok(())
    }

    fn key(&self) -> [SocketAddr; 2] {
        key(self.client, self.server)
    }
}

fn records(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// What makes a flow that one: its ends, and when its first packet was seen.
fn identities(flows: &[Value]) -> Result<BTreeMap<[SocketAddr; 2], u64>> {
    let mut identities = BTreeMap::new();
    for (key, flows) in by_key(flows)? {
        ensure!(flows.len() == 1, "{key:?} has {} flows", flows.len());
        identities.insert(key, flows[0]["created_ns"].as_u64().context("created_ns")?);
    }
    Ok(identities)
}

/// Packets of the host's interface, both ways, and of the agent's counters.
fn packets(pair: &Pair, stats: &Value) -> Result<[u64; 2]> {
    Ok([packets_of_link(&pair.host)?, packets_counted(stats, INTERFACE, None)])
}

/// Flows whose states are others than those of the kernel's sockets.
fn wrong_states<'a>(
    pair: &Pair,
    flows: &[Value],
    connections: impl IntoIterator<Item = &'a Connection>,
) -> Result<Vec<String>> {
    let oracle = Oracle::ask(pair)?;
    let flows = by_key(flows)?;
    let mut wrong = Vec::new();
    for connection in connections {
        let flow = flows.get(&connection.key()).context("a flow for every connection")?[0];
        let Connection { client_on_host, client, server, .. } = *connection;
        let sockets = [
            oracle.socket(client_on_host, client, server),
            oracle.socket(!client_on_host, server, client),
        ];
        let expected = sockets.map(|socket| socket.map_or("CLOSED", |socket| &socket.state));
        let found = states(flow, client)?;
        if found != expected {
            wrong.push(format!("{found:?}, but ss says {expected:?}: {flow}"));
        }
    }
    Ok(wrong)
}

/// Waits until the flows of these have the states of their sockets.
fn states_agree(pair: &Pair, agent: &Agent, connections: &[&Connection]) -> Result<()> {
    let mut wrong = Vec::new();
    eventually("states are those of the sockets", || {
        wrong = wrong_states(pair, &agent.flows(&[])?, connections.iter().copied())?;
        Ok(wrong.is_empty())
    })
    .with_context(|| wrong.join("\n"))
}

/// Exchanges bytes until `stop` is set.
fn chat(connection: &Connection, stop: &AtomicBool, exchanges: &AtomicU64) -> Result<()> {
    let mut bytes = 1;
    while !stop.load(Ordering::Relaxed) {
        connection.exchange(bytes)?;
        bytes = bytes * 7 % 9973;
        exchanges.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits until every chat has gone on for a while.
fn goes_on(exchanges: &AtomicU64) -> Result<()> {
    let then = exchanges.load(Ordering::Relaxed) + 50;
    eventually("connections go on", || Ok(exchanges.load(Ordering::Relaxed) >= then))
}

fn rounds(egress: &str) -> Result<()> {
    let kills = round_count()?;
    let pair = Pair::with_addresses()?;
    pair.without_offloads()?;
    let listeners = Listeners::new(&pair, PORT)?;
    let options = [
        ["--interface", INTERFACE],
        ["--xdp", "native"],
        ["--egress", egress],
        ["--events", "new,destroy,violation"],
        ["--output", "jsonl"],
        // Nothing is removed meanwhile.
        ["--timeout-time-wait", "86400"],
        ["--timeout-closed", "86400"],
    ]
    .concat();
    let first = Agent::start(&pair.host, &options)?;
    let [mut link, mut counted] = packets(&pair, &first.stats()?)?;
    eventually("the interface is quiet", || {
        let before = [link, counted];
        [link, counted] = packets(&pair, &first.stats()?)?;
        Ok(before == [link, counted])
    })?;

    let chatting: Vec<_> = [0, 3]
        .into_iter()
        .map(|n| Connection::open(&pair, &listeners, n))
        .collect::<Result<_>>()?;
    let (stop, exchanges) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut idle = Vec::new();
    let (mut outputs, mut unattended) = (Vec::new(), BTreeSet::new());
    let agent = thread::scope(|scope| -> Result<Agent> {
        let chats: Vec<_> = chatting
            .iter()
            .map(|connection| scope.spawn(|| chat(connection, &stop, &exchanges)))
            .collect();
        let outcome = (|| {
            let mut agent = first;
            for round in 0..kills {
                idle.push(Connection::open(&pair, &listeners, 100 + 2 * round)?);
                goes_on(&exchanges)?;
                let before = identities(&agent.flows(&[])?)?;
                let stats = agent.stats()?;
                let killed = agent.kill()?;
                // In the kernel everything goes on.
                let between = Connection::open(&pair, &listeners, 101 + 2 * round)?;
                between.exchange(1000)?;
                unattended.insert(between.key());
                idle.push(between);
                let mut closed = 0..0;
                if round % 3 == 2 {
                    closed = usize::from(round)..usize::from(round) + 2;
                    for connection in &mut idle[closed.clone()] {
                        connection.close()?;
                    }
                }
                goes_on(&exchanges)?;
                let stats_without = stats_of(&killed)?;
                no_less(&stats, &stats_without)?;
                let without = identities(&records(&killed.ask(&["flows", "-o", "jsonl"])?)?)?;
                outputs.push(records(&killed.output)?);
                agent = killed.restart(&pair.host, &options)?;
                goes_on(&exchanges)?;
                no_less(&stats_without, &agent.stats()?)?;
                let after = identities(&agent.flows(&[])?)?;
                ensure!(without == after, "{without:?}\n{after:?}");
                let new: Vec<_> =
                    after.iter().filter(|(key, _)| !before.contains_key(*key)).collect();
                ensure!(new.len() == 1 && after.len() == before.len() + 1, "{new:?}");
                ensure!(before.iter().all(|(key, created)| after.get(key) == Some(created)));
                // Before the kernel forgets those that were closed.
                let fresh: Vec<_> = idle[closed]
                    .iter()
                    .chain(idle.iter().filter(|connection| connection.sockets.is_some()))
                    .chain(&chatting)
                    .collect();
                states_agree(&pair, &agent, &fresh)?;
                // Interfaces are still the same ones.
                ensure!(agent.stats()?["interfaces"][0]["slot"] == 0);
            }
            Ok(agent)
        })();
        stop.store(true, Ordering::Relaxed);
        for chat in chats {
            chat.join().map_err(|_| anyhow::anyhow!("a connection's thread panicked"))??;
        }
        outcome
    })?;
    idle.extend(chatting);

    // Every packet was seen, and none twice.
    let mut last = String::new();
    eventually("packets of the interface are those that were counted", || {
        let [link_now, counted_now] = packets(&pair, &agent.stats()?)?;
        last = format!("{} of the interface, {} counted", link_now - link, counted_now - counted);
        Ok(link_now - link == counted_now - counted)
    })
    .with_context(|| last.clone())?;
    // The last acknowledgment may be delayed, and come between one question and the other.
    let mut differing = String::new();
    eventually("packets of the flows are those that were tracked", || {
        let of_flows: u64 = agent
            .flows(&[])?
            .iter()
            .flat_map(|flow| ["orig", "reply"].map(|end| flow[end]["packets"].as_u64()))
            .sum::<Option<u64>>()
            .context("packets")?;
        let tracked = agent.packets(None, Some("tracked"))?;
        differing = format!("flows have {of_flows} packets, {tracked} were tracked");
        Ok(of_flows == tracked)
    })
    .with_context(|| differing.clone())?;
    let open: Vec<_> = idle.iter().filter(|connection| connection.sockets.is_some()).collect();
    states_agree(&pair, &agent, &open)?;
    ensure!(agent.violations()?.is_empty(), "{:?}", agent.violations()?);
    ensure!(agent.counter("reports_lost")? == 0);

    // No connection is reported twice, except the one that an agent was reporting when it was killed: the next agent cannot
    // know of that report. Connections that began without an agent are reported by the next one.
    outputs.push(records(&agent.finish()?)?);
    let mut told: BTreeMap<_, u32> = BTreeMap::new();
    let (mut last_told, mut told_again) = (None, 0);
    for output in &outputs {
        for (n, event) in output.iter().enumerate() {
            ensure!(event["event"] == "NEW", "{event}");
            let identity = identities(&[event["flow"].clone()])?;
            if n == 0 && last_told.as_ref() == Some(&identity) {
                told_again += 1;
            } else {
                *told.entry(identity.clone()).or_default() += 1;
            }
            last_told = Some(identity);
        }
    }
    ensure!(told.values().all(|count| *count == 1), "{told:?}");
    let told: BTreeSet<_> = told.keys().flat_map(|identity| identity.keys().copied()).collect();
    ensure!(unattended.is_subset(&told), "{unattended:?}\n{told:?}");
    println!(
        "{egress}: {kills} kills, {} exchanges, {last}, {} flows, {} of them told of, {told_again} again",
        exchanges.load(Ordering::Relaxed),
        idle.len(),
        told.len()
    );
    Ok(())
}

#[test]
fn flows_and_counters_go_on_over_kills() -> Result<()> {
    rounds(egress_ways()?[0])
}

#[test]
fn so_they_do_with_clsact() -> Result<()> {
    rounds("clsact")
}

/// Ids of the links that an agent has pinned.
fn pinned_links(name: &str) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for slot in fs::read_dir(pins(name))?.collect::<Result<Vec<_>, _>>()? {
        if slot.file_type()?.is_dir() {
            for pin in fs::read_dir(slot.path())? {
                let pin = pin?.path();
                if is_link(&pin) {
                    ids.insert(FdLink::from(PinnedLink::from_pin(&pin)?).info()?.id());
                }
            }
        }
    }
    Ok(ids)
}

fn has_xdp(namespace: &Namespace, interface: &str) -> Result<bool> {
    Ok(namespace.run("ip", &["link", "show", "dev", interface])?.contains("prog/xdp"))
}

/// Programs by tcx at both hooks, and by clsact.
fn classifiers(namespace: &Namespace, interface: &str) -> Result<[usize; 3]> {
    let mut filters = 0;
    for hook in ["ingress", "egress"] {
        let shown = namespace.run("tc", &["filter", "show", "dev", interface, hook]);
        // Without the qdisc there is nothing to show.
        filters += shown.map_or(0, |shown| shown.matches("direct-action").count());
    }
    let [ingress, egress] = namespace.enter(|| {
        Ok([
            SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?.1.len(),
            SchedClassifier::query_tcx(interface, TcAttachType::Egress)?.1.len(),
        ])
    })?;
    Ok([ingress, egress, filters])
}

#[test]
fn detach_removes_what_a_killed_agent_has_left() -> Result<()> {
    let pair = Pair::with_addresses()?;
    for (egress, there) in [("tcx", [1, 1, 0]), ("clsact", [0, 0, 2])] {
        let options = ["--interface", INTERFACE, "--egress", egress, "--protect", "80"];
        let agent = Agent::start(&pair.host, &options)?;
        let name = agent.name().to_owned();
        let detach = ["--instance", &name, "detach"];

        // Not while it runs.
        let (_, said, status) = run_tracker(&detach, Some(&pair.host))?;
        assert_eq!(status.code(), Some(1));
        assert!(said.contains(&format!("pid {}", agent.pid())), "{said}");
        assert!(said.contains(&format!("`kill {}`", agent.pid())), "{said}");

        let killed = agent.kill()?;
        let links = pinned_links(&name)?;
        assert_eq!(links.len(), if egress == "tcx" { 3 } else { 1 });
        assert!(has_xdp(&pair.host, INTERFACE)?);
        assert_eq!(classifiers(&pair.host, INTERFACE)?, there);

        let (said, stderr, status) = run_tracker(&detach, Some(&pair.host))?;
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
        assert!(said.starts_with(&format!("detached from {INTERFACE}: xdp (native)")), "{said}");
        assert!(said.contains(&format!("egress ({egress})")), "{said}");
        assert!(!has_xdp(&pair.host, INTERFACE)?);
        assert_eq!(classifiers(&pair.host, INTERFACE)?, [0; 3]);
        let qdiscs = pair.host.run("tc", &["qdisc", "show", "dev", INTERFACE])?;
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        assert!(!pins(&name).exists());
        for kind in ["sock", "json", "lock"] {
            assert!(!PathBuf::from(format!("/run/tracker/{name}.{kind}")).exists(), "{kind}");
        }
        assert!(!loaded_links().filter_map(Result::ok).any(|link| links.contains(&link.id())));

        let (said, _, status) = run_tracker(&detach, Some(&pair.host))?;
        assert_eq!(status.code(), Some(0));
        assert!(said.starts_with("nothing to detach"), "{said}");
        drop(killed);
    }
    Ok(())
}

#[test]
fn stopping_leaves_nothing() -> Result<()> {
    let pair = Pair::with_addresses()?;
    pair.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--protect", "80"])?;
    let name = agent.name().to_owned();
    let links = pinned_links(&name)?;
    // XDP, and at egress and for the handover where these are links.
    let by_tcx = if has_tcx()? { 1 + usize::from(has_handover()?) } else { 0 };
    assert_eq!(links.len(), 1 + by_tcx);
    // Also where it has taken over what another one left.
    let agent = agent.kill()?.restart(&pair.host, &["--interface", INTERFACE])?;
    assert!(agent.stop(Signal::SIGINT)?.success());
    assert!(!has_xdp(&pair.host, INTERFACE)?);
    assert_eq!(classifiers(&pair.host, INTERFACE)?, [0; 3]);
    assert!(!loaded_links().filter_map(Result::ok).any(|link| links.contains(&link.id())));
    assert!(!pins(&name).exists());
    Ok(())
}

#[test]
fn other_sizes_begin_afresh() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let listeners = Listeners::new(&pair, PORT)?;
    let options = ["--interface", INTERFACE];
    let agent = Agent::start(&pair.host, &options)?;
    let connection = Connection::open(&pair, &listeners, 0)?;
    assert_eq!(agent.flows(&[])?.len(), 1);
    let agent =
        agent.kill()?.restart(&pair.host, &[&options[..], &["--max-flows", "1000"]].concat())?;
    assert_eq!(agent.stats()?["flows"]["confirmed_capacity"], 1000);
    assert!(agent.flows(&[])?.is_empty());
    connection.exchange(1)?;
    eventually("it is picked up in its middle", || {
        let flows = agent.flows(&[])?;
        Ok(flows.len() == 1 && flows[0]["midstream"] == true)
    })?;
    // With the same sizes it is not.
    let before = identities(&agent.flows(&[])?)?;
    let agent =
        agent.kill()?.restart(&pair.host, &[&options[..], &["--max-flows", "1000"]].concat())?;
    assert_eq!(identities(&agent.flows(&[])?)?, before);
    Ok(())
}

/// Another interface in the host's namespace.
fn add_interface(pair: &Pair, name: &str) -> Result<()> {
    let far = format!("{name}-far");
    pair.host.run("ip", &["link", "add", name, "type", "veth", "peer", "name", &far])?;
    pair.host.run("ip", &["link", "set", name, "up"])?;
    Ok(())
}

fn slots(agent: &Agent) -> Result<Vec<(String, u64)>> {
    let stats = agent.stats()?;
    let mut slots = Vec::new();
    for interface in stats["interfaces"].as_array().context("interfaces")? {
        let name = interface["name"].as_str().context("a name")?;
        slots.push((name.to_owned(), interface["slot"].as_u64().context("a slot")?));
    }
    Ok(slots)
}

#[test]
fn interfaces_come_and_go_between_agents() -> Result<()> {
    let pair = Pair::with_addresses()?;
    add_interface(&pair, "one.1")?;
    add_interface(&pair, "two")?;
    let agent = Agent::start(
        &pair.host,
        &["--interface", "one.1", "--interface", INTERFACE, "--interface", "lo"],
    )?;
    let expected = [("one.1", 0), (INTERFACE, 1), ("lo", 2)];
    assert_eq!(slots(&agent)?, expected.map(|(name, slot)| (name.to_owned(), slot)));

    // One is not asked for any more, and another one is; the rest keep their slots.
    let agent = agent.kill()?.restart(
        &pair.host,
        &["--interface", "two", "--interface", "lo", "--interface", INTERFACE],
    )?;
    let expected = [("two", 3), ("lo", 2), (INTERFACE, 1)];
    assert_eq!(slots(&agent)?, expected.map(|(name, slot)| (name.to_owned(), slot)));
    assert!(!has_xdp(&pair.host, "one.1")?);
    assert_eq!(classifiers(&pair.host, "one.1")?, [0; 3]);
    assert!(has_xdp(&pair.host, "two")?);

    // One has gone, and another one has its name.
    let killed = agent.kill()?;
    pair.host.run("ip", &["link", "del", "two"])?;
    add_interface(&pair, "two")?;
    assert!(!has_xdp(&pair.host, "two")?);
    let agent = killed.restart(
        &pair.host,
        &["--interface", "one.1", "--interface", "two", "--interface", "lo"],
    )?;
    let expected = [("one.1", 0), ("two", 3), ("lo", 2)];
    assert_eq!(slots(&agent)?, expected.map(|(name, slot)| (name.to_owned(), slot)));
    for name in ["one.1", "two"] {
        assert!(has_xdp(&pair.host, name)?, "{name}");
        assert_eq!(classifiers(&pair.host, name)?, [0, 1, 0], "{name}");
    }
    assert_eq!(classifiers(&pair.host, "lo")?, [0, 1, 0]);
    assert!(!has_xdp(&pair.host, INTERFACE)?);
    let known = MapData::from_pin(pins(agent.name()).join("ATTACHED"))?;
    let known: aya::maps::HashMap<_, u32, u32> = Map::HashMap(known).try_into()?;
    let known: Vec<_> = known.iter().collect::<Result<_, _>>()?;
    let stats = agent.stats()?;
    for (ifindex, slot) in &known {
        let interfaces = stats["interfaces"].as_array().context("interfaces")?;
        assert!(interfaces.iter().any(|one| one["ifindex"] == *ifindex && one["slot"] == *slot));
    }
    assert_eq!(known.len(), 2);
    Ok(())
}

#[test]
fn the_same_name_in_another_namespace_is_another_interface() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    // Even with the same index.
    let agent = agent.kill()?.restart(&pair.peer, &["--interface", INTERFACE])?;
    assert!(!has_xdp(&pair.host, INTERFACE)?);
    assert_eq!(classifiers(&pair.host, INTERFACE)?, [0; 3]);
    assert!(has_xdp(&pair.peer, INTERFACE)?);
    assert_eq!(classifiers(&pair.peer, INTERFACE)?, [0, 1, 0]);
    drop(agent);
    Ok(())
}

#[test]
fn how_it_is_attached_may_change() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let listeners = Listeners::new(&pair, PORT)?;
    let start = ["--interface", INTERFACE];
    let mut agent = Agent::start(&pair.host, &start)?;
    let connection = Connection::open(&pair, &listeners, 0)?;
    let before = identities(&agent.flows(&[])?)?;
    for (options, mode, hook, there) in [
        (&["--egress", "clsact"][..], "native", "clsact", [0, 0, 1]),
        (&[], "native", "clsact", [0, 0, 1]),
        (&["--xdp", "generic", "--egress", "tcx"], "generic", "tcx", [0, 1, 0]),
        (&[], "generic", "tcx", [0, 1, 0]),
        (&["--protect", "80", "--xdp", "native"], "native", "tcx", [1, 1, 0]),
        (&["--protect", "80"], "native", "tcx", [1, 1, 0]),
        (&["--protect", "81"], "native", "tcx", [1, 1, 0]),
        (&["--protect", "81", "--egress", "clsact"], "native", "clsact", [0, 0, 2]),
        (&[], "native", "clsact", [0, 0, 1]),
    ] {
        agent = agent.kill()?.restart(&pair.host, &[&start, options].concat())?;
        let stats = agent.stats()?;
        assert_eq!(stats["interfaces"][0]["xdp"], mode, "{options:?}");
        assert_eq!(stats["interfaces"][0]["egress"], hook, "{options:?}");
        assert!(has_xdp(&pair.host, INTERFACE)?, "{options:?}");
        assert_eq!(classifiers(&pair.host, INTERFACE)?, there, "{options:?}");
        connection.exchange(100)?;
        assert_eq!(identities(&agent.flows(&[])?)?, before, "{options:?}");
        if options.first() == Some(&"--protect") {
            agent.wait_for_log("listeners are protected")?;
            let listeners = agent.stats()?["cookies"]["listeners"].clone();
            let listeners = listeners.as_array().context("listeners")?;
            assert!(!listeners.is_empty());
            for listener in listeners {
                let at = listener["listener"].as_str().context("an address")?;
                assert!(at.ends_with(&format!(":{}", options[1])), "{at}, {options:?}");
            }
        } else {
            assert!(stats["cookies"].is_null(), "{options:?}");
        }
    }
    Ok(())
}

/// How many connections there were, and up to how many there may be. No port is used twice: what is known of the connection before
/// would be asked.
#[derive(Default)]
struct Connected {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    made: u64,
    most: u64,
    over: bool,
}

impl Connected {
    fn change(&self, how: impl FnOnce(&mut Counts)) -> Counts {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        how(&mut counts);
        self.changed.notify_all();
        *counts
    }

    fn wait(&self, is_there: impl Fn(&Counts) -> bool) -> Counts {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.changed.wait_timeout_while(counts, PATIENCE, |now| !is_there(now));
        *waiting.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Twenty more, and then some, which come while other things happen.
    fn wait_for_more(&self) -> Result<()> {
        let mut then = 0;
        self.change(|counts| {
            then = counts.made + 20;
            counts.most = counts.most.max(then + 500);
        });
        ensure!(self.wait(|now| now.made >= then).made >= then, "no clients connect");
        Ok(())
    }
}

/// Connections through cookies, from real clients, one after the other.
fn clients(pair: &Pair, listener: &Socket, connected: &Connected) -> Result<()> {
    let [v4, _] = address::HOST;
    let mut port = 20_000;
    while !connected.wait(|now| now.over || now.made < now.most).over {
        let from: SocketAddr = (address::PEER[0], port).into();
        let client = bound(&pair.peer, from)?;
        client
            .connect_timeout(&SocketAddr::from((v4, PORT)).into(), PATIENCE)
            .with_context(|| format!("connection {port}"))?;
        (&client).write_all(b"?")?;
        let server = accept(listener, from)?;
        transfer(&server, &client, 1000)?;
        // Nothing stays behind.
        client.set_linger(Some(Duration::ZERO))?;
        port += 1;
        connected.change(|counts| counts.made += 1);
    }
    Ok(())
}

fn keys(name: &str) -> Result<Keys> {
    type Words = [u64; size_of::<Keys>() / 8];
    let map = MapData::from_pin(pins(name).join("KEYS"))?;
    let map: Array<_, Words> = Map::Array(map).try_into()?;
    Ok(zerocopy::transmute!(map.get(&0, 0)?))
}

fn outcome(stats: &Value, name: &str) -> Result<u64> {
    stats["cookies"]["total"][name].as_u64().with_context(|| format!("no {name} in {stats}"))
}

#[test]
fn listeners_stay_protected_over_kills_in_a_flood() -> Result<()> {
    let kills = round_count()?;
    let pair = Pair::with_addresses()?;
    // A veth takes what XDP sends back only where its other end runs a program too.
    let far = Agent::start(&pair.peer, &["--interface", INTERFACE])?;
    let options = ["--interface", INTERFACE, "--protect", "80", "--syn-cookies", "always"];
    let first = Agent::start(&pair.host, &options)?;
    first.wait_for_log("listeners are protected")?;
    let keys_before = keys(first.name())?;
    let listener = listener(&pair.host, (address::HOST[0], PORT).into())?;
    let (stop, connected) = (AtomicBool::new(false), Connected::default());
    let forged = AtomicU64::new(0);
    let agent = thread::scope(|scope| -> Result<Agent> {
        let clients = scope.spawn(|| clients(&pair, &listener, &connected));
        let flood = scope.spawn(|| {
            let goes_on = || !stop.load(Ordering::Relaxed);
            flood(&pair, PORT, Duration::from_millis(2), &forged, goes_on)
        });
        let outcome = (|| {
            let mut agent = first;
            for _ in 0..kills {
                connected.wait_for_more()?;
                let before = agent.stats()?;
                let killed = agent.kill()?;
                let at = stats_of(&killed)?;
                connected.wait_for_more()?;
                let without = stats_of(&killed)?;
                no_less(&before, &without)?;
                ensure!(outcome(&without, "accepted")? >= outcome(&at, "accepted")? + 19);
                // The flood goes on meanwhile, and is answered without an agent.
                let answered = outcome(&at, "sent")? + 1000;
                eventually("forged SYNs are answered", || {
                    Ok(outcome(&stats_of(&killed)?, "sent")? > answered)
                })?;
                agent = killed.restart(&pair.host, &options)?;
                agent.wait_for_log("listeners are protected")?;
                no_less(&without, &agent.stats()?)?;
                connected.wait_for_more()?;
            }
            Ok(agent)
        })();
        stop.store(true, Ordering::Relaxed);
        connected.change(|counts| counts.over = true);
        let clients =
            clients.join().map_err(|_| anyhow::anyhow!("the clients' thread panicked"))?;
        clients?;
        flood.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??;
        outcome
    })?;
    ensure!(keys(agent.name())? == keys_before, "the keys have changed");
    let connected = connected.change(|_| ()).made;
    eventually("every connection was by a cookie", || {
        Ok(outcome(&agent.stats()?, "accepted")? == connected)
    })?;
    let stats = agent.stats()?;
    for refused in ["forged", "expired", "replayed", "no_key", "handover_failed", "unanswered"] {
        assert_eq!(outcome(&stats, refused)?, 0, "{refused}");
    }
    assert!(agent.violations()?.is_empty(), "{:?}", agent.violations()?);
    // Nothing is remembered of the flood, here or by the host.
    assert_eq!(stats["counters"]["half_open_inserted"], connected);
    assert_eq!(pair.host.run("ss", &["-H", "-t", "-n", "state", "syn-recv"])?, "");
    let forged = forged.load(Ordering::Relaxed);
    ensure!(forged > 10_000, "{forged} are no flood");
    println!("{kills} kills, {connected} connections by cookies, {forged} forged SYNs");
    drop(far);
    Ok(())
}

/// The sequence number of the SYN,ACK to `client`.
fn cookie(wire: &Wire, client: SocketAddr) -> Result<u32> {
    loop {
        let frame = wire.receive()?;
        let Ok(packet) = SlicedPacket::from_ethernet(&frame) else { continue };
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { continue };
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { continue };
        let to = (IpAddr::from(ip.header().destination_addr()), tcp.destination_port());
        if SocketAddr::from(to) == client && tcp.syn() && tcp.ack() {
            return Ok(tcp.sequence_number());
        }
    }
}

#[test]
fn a_cookie_is_good_for_the_next_agent_and_between_them() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let far = Agent::start(&pair.peer, &["--interface", INTERFACE])?;
    let options = ["--interface", INTERFACE, "--protect", "80", "--syn-cookies", "always"];
    let agent = Agent::start(&pair.host, &options)?;
    agent.wait_for_log("listeners are protected")?;
    let server: SocketAddr = (address::HOST[0], PORT).into();
    let listener = listener(&pair.host, server)?;
    let (sends, receives) =
        (Wire::open(&pair.peer, INTERFACE)?, Wire::receiver(&pair.peer, INTERFACE)?);
    let link = pair.host.run("ip", &["-j", "link", "show", "dev", INTERFACE])?;
    let link: Value = serde_json::from_str(&link)?;
    let hardware: Vec<_> = link[0]["address"]
        .as_str()
        .context("a hardware address")?
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    let Ok(hardware) = <[u8; 6]>::try_from(hardware) else { bail!("six bytes") };
    // Somebody whom only the host knows.
    let ip = IpAddr::from([10, 9, 0, 77]);
    pair.host.run(
        "ip",
        &["neigh", "replace", &ip.to_string(), "lladdr", "02:00:00:00:00:77", "dev", INTERFACE],
    )?;
    let send = |segment: Segment| sends.send(&segment.addressed_to(hardware).frame());
    let begin = |port: u16| -> Result<(SocketAddr, u32)> {
        let client = SocketAddr::new(ip, port);
        send(Segment::new(client, server, SYN, 1000, 0))?;
        Ok((client, cookie(&receives, client)?))
    };
    let complete = |(client, cookie): (SocketAddr, u32)| -> Result<()> {
        let answer = cookie.wrapping_add(1);
        send(Segment::new(client, server, ACK, 1001, answer))?;
        send(Segment::new(client, server, ACK | PSH, 1001, answer).data(10))?;
        let accepted = accept(&listener, client)?;
        (&accepted).read_exact(&mut [0; 10])?;
        Ok(())
    };
    let [one, other, third] = [begin(40_001)?, begin(40_002)?, begin(40_003)?];
    complete(one)?;
    let killed = agent.kill()?;
    complete(other)?;
    let fourth = begin(40_004)?;
    let agent = killed.restart(&pair.host, &options)?;
    complete(third)?;
    complete(fourth)?;
    assert_eq!(outcome(&agent.stats()?, "accepted")?, 4);
    assert_eq!(agent.flows(&[])?.len(), 4);
    drop(far);
    Ok(())
}

#[test]
fn who_holds_an_interface_is_named() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let name = agent.name().to_owned();
    let other =
        ["--instance", "restart-other", "run", "--interface", INTERFACE, "--ingress", "xdp"];
    let refusal = || -> Result<String> {
        let (_, said, status) = run_tracker(&other, Some(&pair.host))?;
        ensure!(status.code() == Some(1), "{said}");
        ensure!(!pins("restart-other").exists(), "nothing stays behind");
        Ok(said)
    };
    let said = refusal()?;
    assert!(said.contains(&format!("the agent named `{name}` (pid {})", agent.pid())), "{said}");
    let killed = agent.kill()?;
    let said = refusal()?;
    assert!(said.contains(&format!("`tracker --instance {name} detach`")), "{said}");
    // It was left alone.
    assert!(has_xdp(&pair.host, INTERFACE)?);
    assert_eq!(classifiers(&pair.host, INTERFACE)?, [0, 1, 0]);
    killed.ask(&["detach"])?;
    assert!(!has_xdp(&pair.host, INTERFACE)?);
    Ok(())
}

#[test]
fn what_cannot_be_taken_over_goes_on() -> Result<()> {
    let pair = Pair::with_addresses()?;
    add_interface(&pair, "one")?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let holder = Agent::start(&pair.host, &["--interface", "one"])?;
    let name = agent.name().to_owned();
    let killed = agent.kill()?;
    let next = [
        "--instance",
        &name,
        "run",
        "--interface",
        INTERFACE,
        "--interface",
        "one",
        "--ingress",
        "xdp",
    ];
    let (_, said, status) = run_tracker(&next, Some(&pair.host))?;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("`{}` (pid {})", holder.name(), holder.pid())), "{said}");
    assert!(said.contains("goes on") && said.contains("detach"), "{said}");
    assert!(has_xdp(&pair.host, INTERFACE)?);
    assert_eq!(classifiers(&pair.host, INTERFACE)?, [0, 1, 0]);
    // The interface that it could not have has only what was there before.
    assert_eq!(classifiers(&pair.host, "one")?, [0, 1, 0]);
    let agent = killed.restart(&pair.host, &["--interface", INTERFACE])?;
    assert_eq!(slots(&agent)?, [(INTERFACE.to_owned(), 0)]);
    Ok(())
}
