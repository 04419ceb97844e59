//! The acts of the demonstration.

use std::{
    fs,
    net::SocketAddr,
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tracker_tests::{
    lab::{INTERFACE, address},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, RST, SYN, URG},
    },
};

use crate::{
    sockets::{Client, PORT, STREAM, be_refused},
    stage::{PATIENCE, Stage, left_behind, link, named, packets, within},
};

/// Connections of the crowd, and how many clients make them.
const CROWD: [usize; 2] = [4, 100];

/// Two ends that exist only as segments put on the cable: at these addresses there is no host.
#[derive(Clone, Copy, Debug)]
struct Crafted {
    client: SocketAddr,
    server: SocketAddr,
    /// The client is at the agent's side of the cable.
    outbound: bool,
}

impl Crafted {
    fn new(port: u16, outbound: bool) -> Self {
        Self {
            client: ([192, 0, 2, 1], port).into(),
            server: ([192, 0, 2, 2], 80).into(),
            outbound,
        }
    }

    fn client_sends(self, stage: &Stage, flags: u16, seq: u32, ack: u32) -> Result<()> {
        let segment = Segment::new(self.client, self.server, flags, seq, ack);
        if self.outbound { stage.leave(&segment) } else { stage.arrive(&segment) }
    }

    fn server_sends(self, stage: &Stage, flags: u16, seq: u32, ack: u32) -> Result<()> {
        let segment = Segment::new(self.server, self.client, flags, seq, ack);
        if self.outbound { stage.arrive(&segment) } else { stage.leave(&segment) }
    }

    /// Waits for both states; the line of `tracker flows`.
    fn states(self, stage: &Stage, states: &str) -> Result<String> {
        let port = self.client.port().to_string();
        stage.in_states(&["--src", "192.0.2.1", "--sport", &port], states)
    }
}

/// Every act but the last; the clients whose conversations go on.
pub(crate) fn play(stage: &mut Stage) -> Vec<Client> {
    let mut clients = Vec::new();
    act(stage, "1. One connection in slow motion", slow_motion);
    act(stage, "2. Real clients and a real server", |stage| talk(stage, &mut clients));
    act(stage, "3. Five ways to end", |stage| close(stage, &mut clients));
    act(stage, "4. Breaking the rules", |stage| break_rules(stage, &mut clients));
    act(stage, "5. A crowd", crowd);
    act(stage, "6. Ageing", |stage| age(stage, &mut clients));
    act(stage, "7. What was counted", count);
    clients
}

fn act(stage: &mut Stage, title: &str, play: impl FnOnce(&mut Stage) -> Result<()>) {
    stage.screen.heading(title);
    if let Err(error) = play(stage) {
        stage.screen.say(&format!("This went wrong: {error:#}"));
        stage.sum_up().missing(&format!("act {title}"));
    }
}

fn slow_motion(stage: &mut Stage) -> Result<()> {
    stage.screen.say(
        "Seven segments, crafted one by one and put on the cable; after each, what `tracker flows --src 192.0.2.1` \
         says: the client's state, then the server's.",
    );
    let tcp = Crafted::new(40_000, false);
    let mut seen = 0;
    for (from_client, flags, name, seq, ack, states) in [
        (true, SYN, "SYN", 1000, 0, "SYN_SENT/LISTEN"),
        (false, SYN | ACK, "SYN,ACK", 5000, 1001, "SYN_SENT/SYN_RECEIVED"),
        (true, ACK, "ACK", 1001, 5001, "ESTABLISHED/ESTABLISHED"),
        (true, FIN | ACK, "FIN,ACK", 1001, 5001, "FIN_WAIT_1/ESTABLISHED"),
        (false, ACK, "ACK", 5001, 1002, "FIN_WAIT_2/CLOSE_WAIT"),
        (false, FIN | ACK, "FIN,ACK", 5001, 1002, "FIN_WAIT_2/LAST_ACK"),
        (true, ACK, "ACK", 1002, 5002, "TIME_WAIT/CLOSED"),
    ] {
        if from_client {
            tcp.client_sends(stage, flags, seq, ack)?;
        } else {
            tcp.server_sends(stage, flags, seq, ack)?;
        }
        let way = if from_client { "client --> server" } else { "client <-- server" };
        stage.screen.say(&format!("{way}  {name} seq={seq} ack={ack}"));
        stage.screen.output(&tcp.states(stage, states)?);
        seen += 1;
    }
    stage.known.begun += 1;
    stage.known.completed += 1;
    stage.known.fin += 1;
    stage.screen.say("`tracker events` told it while it happened:");
    for kind in ["NEW", "ESTABLISHED", "CLOSING"] {
        stage.show_event(kind, &named(tcp.client, tcp.server))?;
    }
    stage.sum_up().compare("steps of one connection, open to close", &seen, &7);
    Ok(())
}

fn talk(stage: &mut Stage, clients: &mut Vec<Client>) -> Result<()> {
    for n in 0..6 {
        let mut client = Client::connect(&stage.pair.peer, n % 2 == 1)?;
        client.talk(&format!("hello from client {n}"))?;
        stage.known.begun += 1;
        stage.known.completed += 1;
        clients.push(client);
    }
    let port = PORT.to_string();
    let text = stage.show(&["flows", "--dport", &port, "--state", "ESTABLISHED"])?;
    stage.screen.command("ss -tan   # on the host");
    stage.screen.output(&stage.pair.host.run("ss", &["-t", "-a", "-n"])?);
    for client in clients.iter() {
        stage.compare(client.local, client.remote, ["ESTABLISHED"; 2])?;
    }
    let shown = text.lines().count();
    stage.sum_up().compare("conversations in `flows --state ESTABLISHED`", &shown, &clients.len());
    stage.screen.say(
        "Three over IPv4, three over IPv6, each with its round trip (rtt_us) and its history in Zeek's letters; the \
         kernel's sockets say the same.",
    );
    Ok(())
}

/// Shows one ending: tracker's line, `ss`, and that both agree.
fn show_end(
    stage: &mut Stage,
    client: SocketAddr,
    server: SocketAddr,
    states: [&str; 2],
) -> Result<()> {
    let (ip, port) = (client.ip().to_string(), client.port().to_string());
    stage.compare(client, server, states)?;
    stage.show(&["flows", "--src", &ip, "--sport", &port])?;
    stage.show_ss(client)
}

fn close(stage: &mut Stage, clients: &mut Vec<Client>) -> Result<()> {
    ensure!(clients.len() >= 4, "there are no clients to close");

    let client = clients.remove(0);
    let (local, remote) = (client.local, client.remote);
    stage.screen.say("The client closes first: it is the one that waits in TIME_WAIT.");
    drop(client);
    stage.known.fin += 1;
    show_end(stage, local, remote, ["TIME_WAIT", "CLOSED"])?;

    let mut client = clients.remove(0);
    let (local, remote) = (client.local, client.remote);
    stage.screen.say("The server closes first: TIME_WAIT is at the server.");
    client.tell("bye")?;
    client.hear_end()?;
    drop(client);
    stage.known.fin += 1;
    show_end(stage, local, remote, ["CLOSED", "TIME_WAIT"])?;

    let mut client = clients.remove(0);
    let (local, remote) = (client.local, client.remote);
    stage.screen.say(&format!(
        "Half-closed: the client has sent its FIN, and the server still sends {STREAM} bytes."
    ));
    client.tell("stream")?;
    client.close_half()?;
    client.hear(STREAM)?;
    show_end(stage, local, remote, ["FIN_WAIT_2", "CLOSE_WAIT"])?;
    let flow = stage.flow(local)?;
    let reply = |field: &str| flow["reply"][field].as_u64().context("a sequence number");
    // The sequence space wraps, and the SYN took one number. What was echoed in act 2 came before.
    let sent = (reply("seq")? + (1 << 32) - reply("isn")? - 1) & 0xffff_ffff;
    let echoed = "hello from client 2\n".len() as u64;
    stage.sum_up().compare("bytes after the client's FIN", &(sent - echoed), &STREAM);
    stage.server.let_go();
    client.hear_end()?;
    drop(client);
    stage.known.fin += 1;
    stage.compare(local, remote, ["TIME_WAIT", "CLOSED"])?;

    let client = clients.remove(0);
    let (local, remote) = (client.local, client.remote);
    stage.screen.say("The client breaks off with an RST (SO_LINGER 0): nobody waits.");
    client.reset()?;
    stage.known.rst += 1;
    show_end(stage, local, remote, ["CLOSED", "CLOSED"])?;

    stage.screen.say("A port that nobody listens on: refused by an RST.");
    let (local, remote) = be_refused(&stage.pair.peer)?;
    stage.known.begun += 1;
    stage.known.refused += 1;
    stage.known.rst += 1;
    show_end(stage, local, remote, ["CLOSED", "CLOSED"])
}

/// Waits for the report that `rule` was broken, shows it, and holds it against the numbers that are known.
fn reported(
    stage: &mut Stage,
    rule: &str,
    client: SocketAddr,
    numbers: Option<(String, u32)>,
) -> Result<()> {
    stage.known.violations.push(rule.to_owned());
    let mut words = vec![rule.to_owned()];
    if numbers.is_none() {
        words.push(format!("sport={}", client.port()));
    }
    let line = stage.show_event("VIOLATION", &words)?;
    let states = |of| line.split(' ').find_map(|word| word.strip_prefix(of));
    let before = states("before=");
    ensure!(before.is_some() && before == states("after="), "the states were not to change");
    if let Some((expected, actual)) = numbers {
        let numbers = format!(" expected={expected} actual={actual} ");
        ensure!(line.contains(&numbers), "the report was to say{numbers}");
    }
    Ok(())
}

fn break_rules(stage: &mut Stage, clients: &mut [Client]) -> Result<()> {
    stage.screen.say(
        "Crafted segments break rules one by one. Each is reported once, with what was expected and what was seen, and \
         changes no state.",
    );
    bad_handshakes(stage)?;
    scans(stage)?;
    forgeries(stage, clients)
}

fn bad_handshakes(stage: &mut Stage) -> Result<()> {
    let tcp = Crafted::new(41_000, true);
    stage.screen.say(
        "The host sends SYN 7000; a SYN,ACK comes back that acknowledges 9999 instead of 7001:",
    );
    tcp.client_sends(stage, SYN, 7000, 0)?;
    tcp.server_sends(stage, SYN | ACK, 8000, 9999)?;
    reported(stage, "synack_bad_ack", tcp.client, Some(("7001".into(), 9999)))?;
    tcp.states(stage, "SYN_SENT/LISTEN")?;
    tcp.server_sends(stage, SYN | ACK, 8000, 7001)?;
    tcp.client_sends(stage, ACK, 7001, 8001)?;
    stage.screen.say("Then the right SYN,ACK, and the handshake goes on as if nothing had been:");
    stage.screen.output(&tcp.states(stage, "ESTABLISHED/ESTABLISHED")?);
    tcp.client_sends(stage, RST, 7001, 0)?;
    tcp.states(stage, "CLOSED/CLOSED")?;

    let tcp = Crafted::new(42_000, false);
    stage.screen.say(
        "The host answers a SYN with SYN,ACK 20000; the third segment acknowledges 19000 instead of 20001:",
    );
    tcp.client_sends(stage, SYN, 10_000, 0)?;
    tcp.states(stage, "SYN_SENT/LISTEN")?;
    tcp.server_sends(stage, SYN | ACK, 20_000, 10_001)?;
    tcp.states(stage, "SYN_SENT/SYN_RECEIVED")?;
    tcp.client_sends(stage, ACK, 10_001, 19_000)?;
    reported(stage, "handshake_ack_bad_ack", tcp.client, Some(("20001".into(), 19_000)))?;
    stage.screen.say("The handshake stays half done, until the right acknowledgment comes:");
    stage.screen.output(&tcp.states(stage, "SYN_SENT/SYN_RECEIVED")?);
    tcp.client_sends(stage, ACK, 10_001, 20_001)?;
    stage.screen.output(&tcp.states(stage, "ESTABLISHED/ESTABLISHED")?);
    tcp.client_sends(stage, RST, 10_001, 0)?;
    tcp.states(stage, "CLOSED/CLOSED")?;

    stage.known.begun += 2;
    stage.known.completed += 2;
    stage.known.rst += 2;
    Ok(())
}

fn scans(stage: &mut Stage) -> Result<()> {
    stage.screen.say("A scanner tries flags that no connection has, on the server's port:");
    let ([scanner, _], [host, _]) = (address::PEER, address::HOST);
    let target = SocketAddr::new(host, PORT);
    for (port, flags, rule) in [
        // Below the ports that the kernel gives to the real clients.
        (20_001, SYN | FIN, "syn_fin"),
        (20_002, 0, "null_flags"),
        (20_003, FIN | PSH | URG, "xmas"),
    ] {
        let from = SocketAddr::new(scanner, port);
        stage.arrive_for_real(&Segment::new(from, target, flags, 1, 0))?;
        reported(stage, rule, from, None)?;
    }
    Ok(())
}

/// Segments forged into a real conversation: the host's own stack gets them, and must not fall for them either.
fn forgeries(stage: &mut Stage, clients: &mut [Client]) -> Result<()> {
    let client = clients.first_mut().context("there is no conversation to forge")?;
    let (local, remote) = (client.local, client.remote);
    client.talk("before the forgeries")?;
    let mut numbers = [0; 3];
    let quiet = within(PATIENCE, || {
        let flow = stage.flow(local)?;
        numbers = [
            number(&flow, "orig", "seq")?,
            number(&flow, "orig", "ack")?,
            number(&flow, "reply", "seq")?,
        ];
        // The client has acknowledged the answer: nothing is on its way.
        Ok(numbers[1] == numbers[2])
    })?;
    ensure!(quiet, "the conversation does not come to rest");
    let [seq, ack, sent] = numbers;
    let isn = number(&stage.flow(local)?, "orig", "isn")?;

    let unseen = sent.wrapping_add(1_000_000);
    stage.screen.say(&format!(
        "Into a real conversation, from port {}: an acknowledgment of a million bytes that the server never sent \
         (its real numbers are in `tracker flows -o jsonl`):",
        local.port()
    ));
    stage.arrive_for_real(&Segment::new(local, remote, ACK, seq, unseen))?;
    let expected = if ack == sent { sent.to_string() } else { format!("{ack}..{sent}") };
    reported(stage, "ack_unseen_data", local, Some((expected, unseen)))?;

    stage.screen.say("And a SYN, as if the client began anew:");
    let challenges = challenges(stage)?;
    let forged = seq.wrapping_add(1 << 30);
    stage.arrive_for_real(&Segment::new(local, remote, SYN, forged, 0))?;
    stage.known.begun += 1;
    stage.known.abandoned += 1;
    reported(stage, "syn_in_established", local, Some((isn.to_string(), forged)))?;
    let challenged = within(PATIENCE, || Ok(self::challenges(stage)? == challenges + 1))?;
    ensure!(challenged, "the host's stack did not challenge the SYN");

    stage.show(&[
        "flows",
        "--src",
        &local.ip().to_string(),
        "--sport",
        &local.port().to_string(),
    ])?;
    client.talk("after the forgeries")?;
    stage.compare(local, remote, ["ESTABLISHED"; 2])?;
    stage.screen.say(
        "The conversation goes on undisturbed, and counts two violations. The forged SYN is kept apart, in case the \
         server answers it; the host's stack only challenged it (TCPSYNChallenge in /proc/net/netstat).",
    );
    Ok(())
}

fn number(flow: &Value, end: &str, field: &str) -> Result<u32> {
    let number = flow[end][field].as_u64().with_context(|| format!("{end}.{field}"))?;
    Ok(u32::try_from(number)?)
}

/// How many SYNs the host's stack has answered with a challenge ACK.
fn challenges(stage: &Stage) -> Result<u64> {
    let text =
        stage.pair.host.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().context("TcpExt")?.split(' ');
    let (_, value) = names
        .zip(lines.next().context("TcpExt")?.split(' '))
        .find(|(name, _)| *name == "TCPSYNChallenge")
        .context("TCPSYNChallenge")?;
    Ok(value.parse()?)
}

fn crowd(stage: &mut Stage) -> Result<()> {
    let lonely = Crafted::new(43_000, false);
    lonely.client_sends(stage, SYN, 1, 0)?;
    stage.known.begun += 1;
    stage.known.abandoned += 1;

    let [clients, each] = CROWD;
    let total = clients * each;
    let peer = &stage.pair.peer;
    let began = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|n| {
                scope.spawn(move || {
                    peer.enter(|| {
                        (0..each).try_for_each(|_| Client::connect_here(n % 2 == 1)?.talk("hello"))
                    })
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
        })
    })?;
    let took = began.elapsed();
    stage.known.begun += total as u64;
    stage.known.completed += total as u64;
    stage.known.fin += total;
    let completed = usize::try_from(stage.known.completed)?;
    let all = stage.told.wait_for(completed, "ESTABLISHED", "")?;
    ensure!(all, "{completed} connections were opened, but not all of them were seen");
    let text = stage.agent.ask(&["stats"])?;
    stage.screen.command("tracker stats | grep -v violations");
    for line in text.lines().filter(|line| !line.starts_with("violations")) {
        stage.screen.output(line);
    }
    stage.screen.say(&format!(
        "{total} connections opened, used and closed by {clients} clients in {} ms; every one was seen.",
        took.as_millis()
    ));
    Ok(())
}

fn age(stage: &mut Stage, clients: &mut [Client]) -> Result<()> {
    stage.screen.say(
        "What is over is removed: after 5 s in TIME_WAIT here, 3 s where an RST came; an unfinished handshake after 5 \
         s. (By default these are 60 s, 10 s and 60 s.) One line of each kind, of those that were told:",
    );
    let known = stage.known.clone();
    let expected = [
        ("reason=fin", known.fin),
        ("reason=rst", known.rst),
        ("timeout=SYN_SENT", known.abandoned),
    ];
    for (word, count) in expected {
        stage.told.wait_for(count, "DESTROY", word)?;
    }
    for (word, count) in expected {
        stage.show_event("DESTROY", &[word.to_owned()])?;
        let told = stage.told.count("DESTROY", word);
        stage.sum_up().compare(&format!("DESTROY events with {word}"), &told, &count);
    }
    let orderly = stage.told.count("DESTROY", "conn_state=SF");
    stage.sum_up().compare("of these, orderly by Zeek's word (SF)", &orderly, &known.fin);

    let alive = stage.show(&["flows"])?;
    for client in clients.iter_mut() {
        client.talk("still here?")?;
        stage.compare(client.local, client.remote, ["ESTABLISHED"; 2])?;
    }
    stage.screen.say("Only the conversations that go on are left, and they still answer.");
    stage.sum_up().compare("flows left", &alive.lines().count(), &clients.len());
    Ok(())
}

fn count(stage: &mut Stage) -> Result<()> {
    let known = stage.known.clone();
    let begun = stage.agent.counter("flows_by_syn")?;
    let completed = stage.agent.counter("flows_confirmed")?;
    let established = stage.told.count("ESTABLISHED", "");
    let stats = stage.agent.stats()?;
    let refused = &stats["violations"]["refused"];
    let refused = refused["in"].as_u64().unwrap_or(0) + refused["out"].as_u64().unwrap_or(0);
    let mut violations = stage.agent.violations()?;
    violations.sort();
    let lost = stage.agent.counter("reports_lost")?;
    let told = stage.told.count("VIOLATION", "");

    // Each rule was broken once, and no other was, but by the handshakes that nobody completed.
    let mut broken: Vec<_> = known.violations.iter().map(|name| (name.clone(), 1)).collect();
    broken.push(("half_open_timeout".to_owned(), u64::try_from(known.abandoned)?));
    broken.sort();
    let all_broken: u64 = broken.iter().map(|(_, count)| count).sum();
    stage.screen.command("tracker stats | grep violations");
    for line in stage.agent.ask(&["stats"])?.lines().filter(|line| line.starts_with("violations")) {
        stage.screen.output(line);
    }

    let mut now = packets(&stage.pair.host, &stage.agent)?;
    // A frame may be on its way between the interface's counter and the program.
    within(Duration::from_secs(2), || {
        now = packets(&stage.pair.host, &stage.agent)?;
        Ok(now[0].since(stage.start[0]) == now[1].since(stage.start[1]))
    })?;
    let [interface, counted] = [now[0].since(stage.start[0]), now[1].since(stage.start[1])];

    let agreed = format!("{} ends", known.agreed);
    let compared = format!("{} ends", known.compared);
    let mut summary = stage.sum_up();
    summary.compare("connections begun (SYNs, two of them never answered)", &begun, &known.begun);
    summary.compare("handshakes completed", &completed, &known.completed);
    summary.compare("ESTABLISHED events", &established, &known.completed);
    summary.compare("connections refused", &refused, &known.refused);
    summary.compare("states that are the same in `ss`", &agreed, &compared);
    let rules = if violations == broken {
        broken.len().to_string()
    } else {
        violations
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    summary.compare("rules broken and counted, no others", &rules, &broken.len());
    summary.compare("VIOLATION events", &told, &all_broken);
    summary.compare(
        "packets that arrived (known by the interface)",
        &counted.arrived,
        &interface.arrived,
    );
    summary.compare("packets that left (known by the interface)", &counted.left, &interface.left);
    summary.compare("reports lost", &lost, &0);
    Ok(())
}

/// Stops the agent, and looks for what it may have left.
pub(crate) fn end(stage: Stage, clients: &mut [Client]) -> Result<()> {
    let Stage { screen, told, agent, pair, summary, .. } = stage;
    screen.heading("8. The end");
    let name = agent.name().to_owned();
    let has_xdp = || -> Result<bool> { Ok(link(&pair.host)?.get("xdp").is_some()) };
    let before = (has_xdp()?, left_behind(&name).len());
    drop(told);
    let status = agent.stop(Signal::SIGTERM)?;
    let after = (has_xdp()?, left_behind(&name).len());
    screen.command("ip link show veth0   # on the host, after SIGTERM to the agent");
    screen.output(&pair.host.run("ip", &["link", "show", INTERFACE])?);
    for client in clients.iter_mut() {
        client.talk("and without the agent?")?;
    }
    if after == (false, 0) {
        screen.say("No XDP program, no pinned maps, no socket; the conversations did not notice.");
    }
    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
    let word = |attached| if attached { "attached" } else { "none" };
    summary.compare("XDP program while the agent ran", &word(before.0), &"attached");
    summary.compare("XDP program after it was stopped", &word(after.0), &"none");
    summary.compare("pinned maps and socket while it ran", &before.1, &2);
    summary.compare("pinned maps and socket after", &after.1, &0);
    summary.compare("the agent's exit", &status, &"exit status: 0");
    Ok(())
}
