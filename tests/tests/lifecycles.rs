//! Random lifecycles against `ss`: two thousand connections of real sockets that open, talk, half-close, close and reset
//! in random order, over a cable that loses, delays, duplicates and reorders segments.
//!
//! Ten rounds. In each, new connections begin and older ones go on; then the cable heals, everything that is under way
//! comes to rest, and the tracker must say of every connection what the kernel says. What the agent's own end is in must
//! be right always. What the far end is in can be known only where it heard what was last sent to it, and was heard.
//!
//! Some things no observer at the interface can know ([`Unknowable`]). These alone are forgiven, each on the connection and
//! at the end to which it happened, and only where the state that is shown is the one that it leads to.
//!
//! All of it is legal TCP, so nothing may be reported. `TRACKER_RELAY_SEED` repeats a run, as closely as clocks allow.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    env,
    fmt::Write,
    io,
    net::{Shutdown, SocketAddr},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use socket2::Socket;
use tracker_tests::{
    agent::{Agent, Events, PATIENCE},
    flows::{by_key, key, states},
    lab::{INTERFACE, Pair, address},
    namespace::Namespace,
    random::Random,
    relay::{Faults, Relay, Side, Trace},
    sockets::{
        Listeners, bound, introduce, is_last_ack_due, start_connecting, unacknowledged, unsent,
    },
    ss::Oracle,
};

const ROUNDS: usize = 10;
const NEW_EACH_ROUND: usize = 200;
const SERVED: u16 = 80;
const NOT_SERVED: u16 = 81;
/// Ports from here on are those of simultaneous opens.
const SIMULTANEOUS: u16 = 20_000;
const FAULTS: Faults = Faults { drop: 20, delay: 20, duplicate: 20, reorder: 20 };
/// A round's random part ends after this, whatever is still to be done.
const RANDOM_PART: Duration = Duration::from_millis(1500);
/// The kernel forgets TIME_WAIT after 60 s, so from here on nothing is compared.
const TIME_WAIT_IS_SAFE: Duration = Duration::from_secs(45);
/// Delayed acknowledgments, the only segments whose coming `ss` does not show, take 200 ms at most.
const AT_REST: Duration = Duration::from_millis(250);

/// How a connection is opened.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Opening {
    Ordinary,
    /// The client takes little at once, so that its window closes.
    SmallWindow,
    /// Both connect to each other, and the SYNs cross.
    Simultaneous,
    /// Between the addresses and ports of an older connection, which is over, but maybe in TIME_WAIT.
    Again,
    /// To a port where nobody listens.
    Refused,
    /// The client closes its socket without waiting for an answer, which says nothing to anybody.
    Abandoned,
}

/// Why nobody can know the state of an end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Unknowable {
    /// Both close at once, and each FIN of the far end that does not acknowledge the host's is lost on its way to the
    /// interface: what is seen is a passive close. TIME_WAIT is taken for CLOSED.
    CrossingFinLost,
    /// An application closes while its FIN must wait behind unsent data. Its socket is in FIN_WAIT_1 at once; where the
    /// peer's FIN comes first, the own one acknowledges that when it is sent at last, as in a passive close. TIME_WAIT is
    /// taken for CLOSED.
    FinWaited,
    /// A client closes its socket in SYN_SENT, and no answer ever comes, which it would refuse. Linux says nothing.
    Abandoned,
    /// An application resets (SO_LINGER 0) in CLOSING or LAST_ACK. Linux says nothing (`tcp_need_reset()`), so the state
    /// stays until something comes that is answered with an RST: that of before the FIN, where this was lost on its way to
    /// the interface.
    ResetSilently,
    /// An application resets in CLOSING, while the acknowledgment of its FIN is on the way from the interface to the
    /// socket, or finds it gone. TIME_WAIT, which no RST ends (RFC 1337), is shown where nothing is left.
    ResetBeforeTimeWait,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Who {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Send(Who, usize),
    Read(Who),
    HalfClose(Who),
    /// Closes after having read what has come.
    Close(Who),
    /// Closes without reading: an RST if something has come.
    CloseUnread(Who),
    Reset(Who),
    /// Nothing more in this round.
    Rest,
}

impl Act {
    fn who(self) -> Option<Who> {
        match self {
            Self::Send(who, _)
            | Self::Read(who)
            | Self::HalfClose(who)
            | Self::Close(who)
            | Self::CloseUnread(who)
            | Self::Reset(who) => Some(who),
            Self::Rest => None,
        }
    }
}

/// An act, and how long after the one before it.
type Step = (Duration, Act);

/// One end's socket.
enum Slot {
    /// Not opened, or not accepted yet.
    Nothing,
    Connecting(Socket),
    Open(Socket),
    /// Closed by us, or by a reset.
    Gone,
}

struct Life {
    opening: Opening,
    client_on_host: bool,
    client_address: SocketAddr,
    server_address: SocketAddr,
    client: Slot,
    server: Slot,
    script: VecDeque<Step>,
    /// What was done already.
    done: Vec<Act>,
    /// Who closed while the FIN had to wait for what was sent before: the client, the server. Nobody hears of that
    /// close before the FIN is sent, and where the peer's comes first, it looks like an answer to that.
    closed_unheard: [bool; 2],
    /// Who was reset while the last acknowledgment was due, about which Linux says nothing.
    reset_unheard: [bool; 2],
    /// When it was last compared, both ends were closed, or one or both in TIME_WAIT.
    was_over: bool,
    /// Something was wrong with it, and was written down.
    is_wrong: bool,
    /// What passed, where a newer one has its addresses and ports.
    replaced: Option<Trace>,
}

impl Life {
    fn slot(&mut self, who: Who) -> &mut Slot {
        match who {
            Who::Client => &mut self.client,
            Who::Server => &mut self.server,
        }
    }

    /// The host's address, and the peer's.
    fn addresses(&self) -> (SocketAddr, SocketAddr) {
        if self.client_on_host {
            (self.client_address, self.server_address)
        } else {
            (self.server_address, self.client_address)
        }
    }

    fn server_side(&self) -> Side {
        if self.client_on_host { Side::Peer } else { Side::Host }
    }

    /// Whether its addresses and ports may be used again: that its server listens, and nothing more will happen.
    fn is_over(&self) -> bool {
        self.was_over
            && self.replaced.is_none()
            && !self.is_wrong
            && self.server_address.port() == SERVED
            && matches!((&self.client, &self.server), (Slot::Gone, Slot::Gone))
    }

    /// Why nobody could know that the end at this side is in another state than the tracker says, if so.
    fn unknowable(
        &self,
        trace: &Trace,
        side: Side,
        tracked: &str,
        kernel: &str,
    ) -> Option<Unknowable> {
        let who = self.at(side) as usize;
        let looks_passive = trace.closes_second(side);
        match (tracked, kernel) {
            ("CLOSED", "TIME_WAIT") if looks_passive && self.closed_unheard[who] => {
                Some(Unknowable::FinWaited)
            }
            ("CLOSED", "TIME_WAIT")
                if looks_passive && side == Side::Peer && trace.is_crossing_fin_dropped(side) =>
            {
                Some(Unknowable::CrossingFinLost)
            }
            ("CLOSE_WAIT", "CLOSED")
                if self.reset_unheard[who]
                    && side == Side::Peer
                    && !trace.is_fin_delivered(side)
                    && !trace.has_reset(side) =>
            {
                Some(Unknowable::ResetSilently)
            }
            ("CLOSING" | "LAST_ACK", "CLOSED")
                if self.reset_unheard[who] && !trace.has_reset(side) =>
            {
                Some(Unknowable::ResetSilently)
            }
            ("TIME_WAIT", "CLOSED") if self.reset_unheard[who] || trace.has_reset(side) => {
                Some(Unknowable::ResetBeforeTimeWait)
            }
            _ => None,
        }
    }

    /// Who is at this side.
    fn at(&self, side: Side) -> Who {
        if side == self.server_side() { Who::Server } else { Who::Client }
    }
}

/// What became of an attempt to take a step.
enum Taken {
    Done,
    /// The socket is not connected yet.
    NotYet,
}

/// A life that may last for many rounds.
fn script(random: &mut Random) -> VecDeque<Step> {
    use Who::{Client, Server};
    let mut steps = VecDeque::new();
    // Whose sockets exist, and whose can still send.
    let (mut exist, mut speak) = (vec![Client, Server], vec![Client, Server]);
    for _ in 0..=random.below(16) {
        if exist.is_empty() {
            break;
        }
        let who = random.pick(&exist);
        let roll = random.below(100);
        let step = match roll {
            0..45 if !speak.is_empty() => {
                Act::Send(random.pick(&speak), random.pick(&[1, 100, 1400, 3000, 9000]))
            }
            0..66 => Act::Read(who),
            66..72 => Act::Rest,
            72..82 if speak.contains(&who) => Act::HalfClose(who),
            72..92 => Act::Close(who),
            92..96 => Act::CloseUnread(who),
            _ => Act::Reset(who),
        };
        let wait = match random.below(5) {
            0 | 1 => 0,
            2 | 3 => random.below(5000),
            _ => random.below(30_000),
        };
        steps.push_back((Duration::from_micros(wait), step));
        if matches!(step, Act::HalfClose(_) | Act::Close(_)) && random.percent(25) {
            // Both at once.
            let other = if who == Client { Server } else { Client };
            steps.push_back((
                Duration::ZERO,
                match step {
                    Act::HalfClose(_) => Act::HalfClose(other),
                    _ => Act::Close(other),
                },
            ));
            forget(&mut exist, &mut speak, other, step);
            if matches!(step, Act::HalfClose(_)) && random.percent(20) {
                let reset = Act::Reset(random.pick(&[Client, Server]));
                steps.push_back((Duration::ZERO, reset));
                forget(&mut exist, &mut speak, reset.who().unwrap_or(other), reset);
            }
        }
        forget(&mut exist, &mut speak, who, step);
    }
    steps
}

fn forget(exist: &mut Vec<Who>, speak: &mut Vec<Who>, who: Who, act: Act) {
    match act {
        Act::Send(..) | Act::Read(_) | Act::Rest => {}
        Act::HalfClose(_) => speak.retain(|one| *one != who),
        Act::Close(_) | Act::CloseUnread(_) | Act::Reset(_) => {
            speak.retain(|one| *one != who);
            exist.retain(|one| *one != who);
        }
    }
}

struct Laboratory {
    pair: Pair,
    relay: Relay,
    agent: Agent,
    events: Events,
    listeners: Listeners,
    lives: Vec<Life>,
    by_client: HashMap<SocketAddr, usize>,
    random: Random,
    compared: BTreeMap<String, usize>,
    far_ends: usize,
    /// How often an end was found in a state that nobody could know.
    unknowable: BTreeMap<Unknowable, usize>,
    /// Which connection, and what is wrong with it.
    wrong: Vec<(usize, String)>,
}

fn make_laboratory(seed: u64) -> Result<Laboratory> {
    let (pair, relay) = Relay::between_hosts(seed)?;
    for namespace in [&pair.host, &pair.peer] {
        tune(namespace)?;
    }
    introduce(&pair)?;
    let mut arguments = vec![
        "--interface",
        INTERFACE,
        "--xdp",
        "native",
        "--egress",
        "tcx",
        "--max-flows",
        "65536",
    ];
    for timeout in [
        "--timeout-syn-sent",
        "--timeout-syn-received",
        "--timeout-fin-wait-1",
        "--timeout-fin-wait-2",
        "--timeout-closing",
        "--timeout-last-ack",
        "--timeout-time-wait",
        "--timeout-closed",
    ] {
        arguments.extend([timeout, "3600"]);
    }
    let agent = Agent::start(&pair.host, &arguments)?;
    let events = agent.events()?;
    let listeners = Listeners::new(&pair, SERVED)?;
    for listener in listeners.iter() {
        listener.set_nonblocking(true)?;
    }
    Ok(Laboratory {
        pair,
        relay,
        agent,
        events,
        listeners,
        lives: Vec::new(),
        by_client: HashMap::new(),
        random: Random::new(seed),
        compared: BTreeMap::new(),
        far_ends: 0,
        unknowable: BTreeMap::new(),
        wrong: Vec::new(),
    })
}

/// Makes a host's timers fit a cable without latency, and keeps its sockets for as long as the test lasts.
fn tune(host: &Namespace) -> Result<()> {
    for (name, value) in [
        // As the tracker: RSTs do not end TIME_WAIT (RFC 1337).
        ("tcp_rfc1337", "1"),
        ("tcp_max_tw_buckets", "100000"),
        // Orphans in FIN_WAIT_2 stay.
        ("tcp_fin_timeout", "600"),
        // A late duplicate of a SYN opens what nobody wants, and TIME_WAIT lets no RST end: 7 s instead of 63.
        ("tcp_synack_retries", "2"),
        // A client may use its port again while it is in TIME_WAIT.
        ("tcp_tw_reuse", "1"),
        // Each segment out of place is answered.
        ("tcp_invalid_ratelimit", "0"),
    ] {
        host.sysctl(&format!("net/ipv4/{name}"), value)?;
    }
    for family in ["-4", "-6"] {
        let routes = host.run("ip", &[family, "route", "show", "dev", INTERFACE])?;
        for route in routes.lines().filter(|route| !route.starts_with("fe80")) {
            let words: Vec<_> = route.split_whitespace().collect();
            let tuned =
                [&[family, "route", "change"], &words[..], &["dev", INTERFACE, "rto_min", "20ms"]];
            host.run("ip", &tuned.concat())?;
        }
    }
    Ok(())
}

impl Laboratory {
    /// A new connection, whose client's socket is bound to a port of its own.
    fn begin(&mut self) -> Result<usize> {
        let n = self.lives.len();
        let random = &mut self.random;
        let mut opening = match random.below(100) {
            0..6 => Opening::SmallWindow,
            6..12 => Opening::Simultaneous,
            12..15 => Opening::Refused,
            15..18 => Opening::Abandoned,
            18..26 => Opening::Again,
            _ => Opening::Ordinary,
        };
        // A client has to leave its port alone for a second: that is, for the round before this one.
        let mut over = (0..n.saturating_sub(2 * NEW_EACH_ROUND)).rev();
        let older = over.find(|n| opening == Opening::Again && self.lives[*n].is_over());
        if opening == Opening::Again && older.is_none() {
            opening = Opening::Ordinary;
        }
        let (client_on_host, client_address, server_address) = if let Some(older) = older {
            let older = &mut self.lives[older];
            older.replaced = self.relay.begin_anew(older.client_address, older.server_address);
            (older.client_on_host, older.client_address, older.server_address)
        } else {
            let (client_on_host, family) = (random.percent(50), usize::from(random.percent(50)));
            let (from, to) = if client_on_host {
                (address::HOST[family], address::PEER[family])
            } else {
                (address::PEER[family], address::HOST[family])
            };
            let number = u16::try_from(n)?;
            let port = match opening {
                Opening::Simultaneous => SIMULTANEOUS + number,
                Opening::Refused => NOT_SERVED,
                _ => SERVED,
            };
            let client_address = SocketAddr::new(from, 10_000 + number);
            (client_on_host, client_address, SocketAddr::new(to, port))
        };
        let (namespace, elsewhere) = if client_on_host {
            (&self.pair.host, &self.pair.peer)
        } else {
            (&self.pair.peer, &self.pair.host)
        };
        let client = bound(namespace, client_address)?;
        let mut server = Slot::Nothing;
        if opening == Opening::SmallWindow {
            client.set_recv_buffer_size(4096)?;
        }
        if opening == Opening::Simultaneous {
            let other = bound(elsewhere, server_address)?;
            let _pause = self.relay.pause();
            start_connecting(&client, server_address)?;
            start_connecting(&other, client_address)?;
            other.set_nonblocking(true)?;
            server = Slot::Connecting(other);
        } else {
            start_connecting(&client, server_address)?;
        }
        client.set_nonblocking(true)?;
        let (client, mut script) = match opening {
            Opening::Abandoned => (Slot::Gone, VecDeque::new()),
            _ => (Slot::Connecting(client), script(random)),
        };
        if opening == Opening::SmallWindow {
            script.push_front((Duration::ZERO, Act::Send(Who::Server, 30_000)));
        }
        self.lives.push(Life {
            opening,
            client_on_host,
            client_address,
            server_address,
            client,
            server,
            script,
            done: Vec::new(),
            closed_unheard: [false; 2],
            reset_unheard: [false; 2],
            was_over: false,
            is_wrong: false,
            replaced: None,
        });
        self.by_client.insert(client_address, n);
        Ok(n)
    }

    /// New connections begin, older ones go on, all at once.
    fn random_part(&mut self) -> Result<()> {
        /// What is to be done next, in the order in which it is due.
        #[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
        enum Next {
            Begin,
            Step(usize),
        }
        let began = Instant::now();
        let mut agenda = BinaryHeap::new();
        for _ in 0..NEW_EACH_ROUND {
            let when = began + Duration::from_micros(self.random.below(400_000));
            agenda.push(Reverse((when, Next::Begin)));
        }
        for n in 0..self.lives.len() {
            if !self.lives[n].script.is_empty() {
                let when = began + Duration::from_micros(self.random.below(400_000));
                agenda.push(Reverse((when, Next::Step(n))));
            }
        }
        while let Some(Reverse((due, next))) = agenda.pop() {
            if due > began + RANDOM_PART {
                break;
            }
            self.accept()?;
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                thread::park_timeout(early);
            }
            let n = match next {
                Next::Begin => self.begin()?,
                Next::Step(n) => {
                    if matches!(self.step(n)?, Taken::NotYet) {
                        let later = Instant::now() + Duration::from_millis(3);
                        agenda.push(Reverse((later, next)));
                        continue;
                    }
                    n
                }
            };
            match self.lives[n].script.front() {
                None => {}
                // What comes after it is for the next round.
                Some((_, Act::Rest)) => drop(self.lives[n].script.pop_front()),
                Some((wait, _)) => {
                    agenda.push(Reverse((Instant::now() + *wait, Next::Step(n))));
                }
            }
        }
        Ok(())
    }

    /// Accepts everything there is to accept.
    fn accept(&mut self) -> Result<()> {
        for listener in self.listeners.iter() {
            loop {
                let (socket, from) = match listener.accept() {
                    Ok(accepted) => accepted,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // It was reset before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    Err(error) => return Err(error).context("accepting"),
                };
                socket.set_nonblocking(true)?;
                let from = from.as_socket().context("an address")?;
                let n = self.by_client.get(&from).with_context(|| format!("{from} is not ours"))?;
                self.lives[*n].server = Slot::Open(socket);
            }
        }
        Ok(())
    }

    /// Takes the next step of a life.
    fn step(&mut self, n: usize) -> Result<Taken> {
        let life = &mut self.lives[n];
        let Some((_, act)) = life.script.front().copied() else { return Ok(Taken::Done) };
        if let Some(who) = act.who() {
            let slot = life.slot(who);
            slot.look()?;
            match slot {
                Slot::Nothing | Slot::Connecting(_) => return Ok(Taken::NotYet),
                Slot::Gone => {}
                Slot::Open(socket) => {
                    // What the peer says may let the FIN go before anybody has looked.
                    let _pause = self.relay.pause();
                    let had_unacknowledged = unacknowledged(socket)? > 0;
                    let is_silent = matches!(act, Act::Reset(_)) && is_last_ack_due(socket)?;
                    perform(socket, act).with_context(|| format!("{act:?}"))?;
                    let is_unheard = match act {
                        Act::HalfClose(_) | Act::Close(_) => unsent(socket)? > 0,
                        // There is no asking whether the congestion window had room for the FIN.
                        Act::CloseUnread(_) => had_unacknowledged,
                        _ => false,
                    };
                    if matches!(act, Act::Close(_) | Act::CloseUnread(_) | Act::Reset(_)) {
                        *slot = Slot::Gone;
                    }
                    life.closed_unheard[who as usize] |= is_unheard;
                    life.reset_unheard[who as usize] |= is_silent;
                    life.done.push(act);
                }
            }
        }
        life.script.pop_front();
        Ok(Taken::Done)
    }

    /// Waits until both kernels have nothing left to say to each other, and returns what they say then.
    fn rest(&mut self) -> Result<(Oracle, Vec<Value>)> {
        let until = Instant::now() + PATIENCE;
        loop {
            self.accept()?;
            for life in &mut self.lives {
                for who in [Who::Client, Who::Server] {
                    let slot = life.slot(who);
                    slot.look()?;
                    // Closed windows open, so that what is waiting for that can be sent.
                    if let Slot::Open(socket) = slot {
                        read_all(socket)?;
                    }
                }
            }
            let passed = self.relay.counts();
            let oracle = Oracle::ask(&self.pair)?;
            let restless: Vec<_> = oracle.sockets().filter(|socket| !is_at_rest(socket)).collect();
            if restless.is_empty() && self.relay.idle()? >= AT_REST {
                let flows = self.agent.flows(&[])?;
                if self.relay.counts() == passed {
                    return Ok((oracle, flows));
                }
            }
            if Instant::now() > until {
                let lines: Vec<_> = restless.iter().map(|socket| socket.line.as_str()).collect();
                let of_restless = |life: &&Life| {
                    let (host, peer) = life.addresses();
                    [oracle.socket(true, host, peer), oracle.socket(false, peer, host)]
                        .iter()
                        .any(|socket| socket.is_some_and(|socket| !is_at_rest(socket)))
                };
                let lives: Vec<_> =
                    self.lives.iter().filter(of_restless).map(|life| self.tell(life)).collect();
                bail!(
                    "the connections did not come to rest; these are under way:\n{}\n{}",
                    lines.join("\n"),
                    lives.join("\n")
                );
            }
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Compares every connection with what the kernel says of it.
    fn compare(&mut self, round: usize, oracle: &Oracle, flows: &[Value]) -> Result<()> {
        let mut flows = by_key(flows)?;
        let (mut pairs, mut far_ends, mut wrong) = (0, 0, 0);
        for (n, life) in self.lives.iter_mut().enumerate() {
            if life.replaced.is_some() {
                continue;
            }
            let (host, peer) = life.addresses();
            let found = flows.remove(&key(host, peer)).unwrap_or_default();
            let trace =
                self.relay.trace(host, peer).context("no segment of a connection passed")?;
            if life.is_wrong || trace.idle() > TIME_WAIT_IS_SAFE {
                continue;
            }
            let sockets = [oracle.socket(true, host, peer), oracle.socket(false, peer, host)];
            let kernel = sockets.map(|socket| socket.map_or("CLOSED", |socket| &socket.state));
            let tracked = living(&found, host)?;
            if life.opening == Opening::Abandoned && trace.delivered(life.server_side()) == 0 {
                // Nobody knows that the client is gone.
                let shown =
                    if life.client_on_host { ["SYN_SENT", "LISTEN"] } else { ["no flow"; 2] };
                ensure!(tracked == shown, "an abandoned SYN is shown as {tracked:?}");
                *self.unknowable.entry(Unknowable::Abandoned).or_default() += 1;
                continue;
            }
            let heard = trace.is_heard();
            let mut is_right = [tracked[0] == kernel[0], tracked[1] == kernel[1] || !heard];
            for side in [Side::Host, Side::Peer] {
                let end = side as usize;
                if !is_right[end]
                    && let Some(why) = life.unknowable(&trace, side, tracked[end], kernel[end])
                {
                    is_right[end] = true;
                    *self.unknowable.entry(why).or_default() += 1;
                }
            }
            let is_over = |state: &&str| ["CLOSED", "TIME_WAIT"].contains(state);
            // Where one is over without a word, a SYN that uses its port again does not look right.
            life.was_over = kernel.iter().chain(&tracked).all(is_over);
            pairs += 1;
            far_ends += usize::from(heard);
            if is_right == [true; 2] {
                let far = if heard { kernel[1] } else { "-" };
                *self.compared.entry(format!("{}/{far}", kernel[0])).or_default() += 1;
                continue;
            }
            wrong += 1;
            life.is_wrong = true;
            let (tracked, kernel) = (tracked.join("/"), kernel.join("/"));
            let mut told = format!("round {round}: tracker says {tracked}, ss says {kernel}\n");
            for flow in found {
                writeln!(told, "  {flow}")?;
            }
            for socket in sockets.iter().flatten() {
                writeln!(told, "  {}", socket.line)?;
            }
            self.wrong.push((n, told));
        }
        ensure!(flows.is_empty(), "flows that are none of ours: {flows:?}");
        self.far_ends += far_ends;
        println!(
            "round {round}: {pairs} connections compared, {far_ends} far ends, {wrong} disagreements"
        );
        Ok(())
    }

    /// Says what was done and compared, and checks that it was what it should be.
    fn summarize(&self, seed: u64) -> Result<()> {
        let counts = self.relay.counts();
        let [from_host, from_peer] = counts.arrived;
        println!("seed {seed}: {} segments, {counts:?}", from_host + from_peer);
        let mut openings = BTreeMap::new();
        for life in &self.lives {
            *openings.entry(life.opening).or_insert(0) += 1;
        }
        let acts: usize = self.lives.iter().map(|life| life.done.len()).sum();
        println!("{} connections, {acts} acts on their sockets, {openings:?}", self.lives.len());
        let pairs: usize = self.compared.values().sum();
        println!("host/peer agreed on, {pairs} times, {} times with the far end:", self.far_ends);
        for (states, count) in &self.compared {
            println!("  {count:5} {states}");
        }
        println!("what nobody could know: {:?}", self.unknowable);
        let stats = self.agent.stats()?;
        let counted = stats["violations"].as_object().context("violations")?.iter();
        let counted = counted.map(|(name, hooks)| {
            (name, hooks["in"].as_u64().unwrap_or(0), hooks["out"].as_u64().unwrap_or(0))
        });
        let counted: Vec<_> = counted.filter(|(_, in_, out)| in_ + out > 0).collect();
        println!("rules, in and out: {counted:?}");

        let share = (from_host + from_peer) / 100;
        for (what, count) in [
            ("dropped", counts.dropped),
            ("delayed", counts.delayed),
            ("duplicated", counts.duplicated),
            ("reordered", counts.reordered),
        ] {
            ensure!(count > share, "{count} {what}: less than one of a hundred");
        }
        for states in [
            "CLOSED/CLOSED",
            "CLOSED/TIME_WAIT",
            "TIME_WAIT/CLOSED",
            "TIME_WAIT/TIME_WAIT",
            "ESTABLISHED/ESTABLISHED",
            "CLOSE_WAIT/FIN_WAIT_2",
            "FIN_WAIT_2/CLOSE_WAIT",
        ] {
            let count = self.compared.get(states).copied().unwrap_or(0);
            ensure!(count >= 100, "{states} was compared {count} times only");
        }
        ensure!(self.far_ends >= pairs * 9 / 10, "too few far ends heard what was last said");
        for (hook, passed) in [("in", counts.sent[Side::Host as usize]), ("out", from_host)] {
            let mut seen = self.agent.packets(Some(hook), None)?;
            for other in ["not_ip", "not_tcp"] {
                seen -= self.agent.packets(Some(hook), Some(other))?;
            }
            ensure!(seen == passed, "{passed} segments passed {hook}, and the agent saw {seen}");
        }
        Ok(())
    }

    /// What was done to a connection, and what passed.
    fn tell(&self, life: &Life) -> String {
        let (host, peer) = life.addresses();
        let trace = life.replaced.clone().or_else(|| self.relay.trace(host, peer));
        let trace = trace.unwrap_or_default();
        format!("{life}: did {:?}\n{trace}", life.done)
    }

    /// Everything about the violations that were reported.
    fn reported(&self) -> Result<String> {
        let mut told = String::new();
        for event in self.events.take()? {
            if event["event"] != "VIOLATION" {
                continue;
            }
            writeln!(told, "{event}")?;
            for life in &self.lives {
                let ports = [&event["flow"]["sport"], &event["flow"]["dport"]];
                if ports.iter().any(|port| **port == life.client_address.port()) {
                    writeln!(told, "{}", self.tell(life))?;
                }
            }
        }
        Ok(told)
    }
}

impl std::fmt::Display for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = if self.client_on_host { "host" } else { "peer" };
        let Self { opening, client_address, server_address, .. } = self;
        write!(f, "{opening:?} {client_address} > {server_address} (client on the {at}), host/peer")
    }
}

/// The states of the flow on a key, the host's first. A late copy of a SYN may begin another flow beside one that is
/// over: of several, one at most may live.
fn living<'a>(flows: &[&'a Value], host: SocketAddr) -> Result<[&'a str; 2]> {
    let over = ["CLOSED"; 2];
    let states: Vec<_> = flows.iter().map(|flow| states(flow, host)).collect::<Result<_>>()?;
    let mut living = states.iter().filter(|states| **states != over);
    Ok(match (living.next(), living.next()) {
        (Some(_), Some(_)) => ["two flows"; 2],
        (Some(one), None) => *one,
        (None, _) if states.is_empty() => ["no flow"; 2],
        (None, _) => over,
    })
}

/// Whether nothing about this socket changes by itself, as long as nothing is lost any more.
fn is_at_rest(socket: &tracker_tests::ss::Socket) -> bool {
    let is_lasting = ["ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_2", "TIME_WAIT"];
    is_lasting.contains(&socket.state.as_str()) && socket.unacknowledged == 0
}

impl Slot {
    /// Finds out what has become of a socket.
    fn look(&mut self) -> Result<()> {
        let (Self::Connecting(socket) | Self::Open(socket)) = &*self else { return Ok(()) };
        let is_connected = socket.peer_addr().is_ok();
        match std::mem::replace(self, Self::Gone) {
            Self::Connecting(socket) if is_connected => *self = Self::Open(socket),
            Self::Connecting(socket) if socket.take_error()?.is_none() => {
                *self = Self::Connecting(socket);
            }
            Self::Open(socket) if is_connected => *self = Self::Open(socket),
            _ => {}
        }
        Ok(())
    }
}

fn perform(socket: &Socket, act: Act) -> Result<()> {
    let done = match act {
        Act::Send(_, octets) => socket.send(&vec![b'x'; octets]).map(drop),
        Act::HalfClose(_) => socket.shutdown(Shutdown::Write),
        Act::Read(_) => return read_all(socket),
        Act::Close(_) => {
            read_all(socket)?;
            socket.shutdown(Shutdown::Write)
        }
        Act::Reset(_) => socket.set_linger(Some(Duration::ZERO)),
        Act::CloseUnread(_) | Act::Rest => Ok(()),
    };
    forgive(done)
}

/// Takes what has come.
fn read_all(socket: &Socket) -> Result<()> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 16_384];
    loop {
        match socket.recv(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return forgive(Err(error)),
        }
    }
}

/// What may happen to a socket whose peer does as it likes.
fn forgive(done: io::Result<()>) -> Result<()> {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, WouldBlock};
    match done {
        Err(error)
            if ![WouldBlock, BrokenPipe, ConnectionReset, ConnectionRefused, NotConnected]
                .contains(&error.kind()) =>
        {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

fn seed() -> Result<u64> {
    match env::var("TRACKER_RELAY_SEED") {
        Ok(text) => text.parse().with_context(|| format!("TRACKER_RELAY_SEED={text}")),
        Err(env::VarError::NotPresent) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            Ok(Random::new(u64::try_from(now.as_micros())?).next())
        }
        Err(error) => Err(error).context("TRACKER_RELAY_SEED"),
    }
}

#[test]
fn random_lifecycles_end_where_ss_says() -> Result<()> {
    let seed = seed()?;
    println!("TRACKER_RELAY_SEED={seed}");
    let mut lab = make_laboratory(seed)?;
    for round in 1..=ROUNDS {
        lab.relay.set_faults(Some(FAULTS));
        lab.random_part()?;
        lab.relay.set_faults(None);
        let (oracle, flows) = lab.rest()?;
        lab.compare(round, &oracle, &flows)?;
    }

    lab.summarize(seed)?;
    for (n, told) in &lab.wrong {
        println!("{told}{}", lab.tell(&lab.lives[*n]));
    }
    println!("{}", lab.reported()?);
    let violations = lab.agent.violations()?;
    println!("{} disagreements, violations {violations:?}", lab.wrong.len());
    ensure!(lab.wrong.is_empty(), "{} disagreements", lab.wrong.len());
    ensure!(violations.is_empty(), "nothing was wrong, but reported were {violations:?}");
    Ok(())
}
