//! Random lifecycles of real sockets, on a cable that loses, delays, duplicates and reorders segments, against `ss`.
//!
//! In each round, new connections begin and older ones go on; then the cable heals, everything that is under way comes to
//! rest, and the tracker must say of every connection what the kernel says. What the agent's own end is in must be right
//! always. What the far end is in can be known only where it heard what was last sent to it, and was heard.
//!
//! Some things no observer at the interface can know (`Unknowable`). These alone are forgiven, each on the connection and
//! at the end to which it happened, and only where the state that is shown is the one that it leads to.
//!
//! With interference, the sockets have options at random, and a blind attacker forges segments in the name of either end,
//! also to connections that rest. What it sends may be reported; what a host sent may not.

mod attack;
mod begin;
mod compare;
mod life;
mod script;
mod summary;
mod terms;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use socket2::{Protocol, Socket};

use self::{
    life::{Life, Unknowable},
    script::{Act, Slot, Who, perform},
    terms::take_data_with_syn,
};
use crate::{
    agent::{Agent, Events},
    lab::{INTERFACE, Pair},
    namespace::Namespace,
    random::Random,
    relay::{Faults, Relay, Side},
    sockets::{Listeners, bound, bound_for, introduce, is_last_ack_due, unacknowledged, unsent},
};

const SERVED: u16 = 80;
const NOT_SERVED: u16 = 81;
/// Its listeners speak Multipath TCP.
const MULTIPATH: u16 = 82;
/// Its listeners have short queues, and nobody accepts until everything else has come to rest.
const CROWDED: u16 = 83;
/// Ports from here on are those of simultaneous opens.
const SIMULTANEOUS: u16 = 20_000;
const FAULTS: Faults = Faults { drop: 20, delay: 20, duplicate: 20, reorder: 20 };
/// A round's random part ends after this, whatever is still to be done.
const RANDOM_PART: Duration = Duration::from_millis(1500);
/// The kernel forgets TIME_WAIT after 60 s, so from here on nothing is compared.
const TIME_WAIT_IS_SAFE: Duration = Duration::from_secs(45);
/// Delayed acknowledgments, the only segments whose coming `ss` does not show, take 200 ms at most.
const AT_REST: Duration = Duration::from_millis(250);

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// How many rounds there are.
    pub rounds: usize,
    /// How many connections begin in each.
    pub new_each_round: usize,
    /// Whether sockets have options, and a blind attacker forges segments.
    pub interferes: bool,
    /// Whether the agent drops what lawful traffic cannot be.
    pub drops: bool,
}

/// Two hosts, their connections, and what was compared of these.
pub struct Laboratory {
    plan: Plan,
    pair: Pair,
    relay: Relay,
    /// The agent, on the host.
    pub agent: Agent,
    events: Events,
    listeners: Vec<(u16, Listeners)>,
    lives: Vec<Life>,
    by_client: HashMap<SocketAddr, usize>,
    random: Random,
    /// `tcp_syncookies` in this round, of the host and of the peer.
    cookies: [u8; 2],
    /// Where the short queue of this round is: whether its client is on the host, and its address family.
    crowded_at: (bool, usize),
    compared: BTreeMap<String, usize>,
    far_ends: usize,
    /// How often an end was found in a state that nobody could know.
    unknowable: BTreeMap<Unknowable, usize>,
    /// Which connection, and what is wrong with it.
    wrong: Vec<(usize, String)>,
    /// How many reports came, how many of each rule were of forged segments, of answers to those that went to the peer, of
    /// what a forged SYN has brought about, and all others.
    reports: u64,
    forged: BTreeMap<String, usize>,
    provoked: BTreeMap<String, usize>,
    doubtful: BTreeMap<String, usize>,
    innocent: Vec<Value>,
}

/// What became of an attempt to take a step.
enum Taken {
    Done,
    /// The socket is not connected yet.
    NotYet,
}

/// Makes a host's timers fit a cable without latency, and keeps its sockets for as long as the test lasts.
fn tune(host: &Namespace, interferes: bool) -> Result<()> {
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
        // Each segment out of place is answered. Where a forged segment has brought two sockets to numbers that differ, they
        // would answer each other for ever.
        ("tcp_invalid_ratelimit", if interferes { "20" } else { "0" }),
    ] {
        host.sysctl(&format!("net/ipv4/{name}"), value)?;
    }
    // No retransmission waits for longer than a second (since Linux 6.15), else one that is lost again and again takes a minute.
    // By default, a host gives up orphans whose timeout has reached that second.
    host.sysctl("net/ipv4/tcp_orphan_retries", "100")?;
    let _ = host.sysctl_if_present("net/ipv4/tcp_rto_max_ms", "1000")?;
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
    /// Hosts, listeners and an agent.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, or lacks something.
    pub fn new(plan: Plan) -> Result<Self> {
        let (pair, relay) = Relay::between_hosts(plan.seed)?;
        for namespace in [&pair.host, &pair.peer] {
            tune(namespace, plan.interferes)?;
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
        if plan.interferes {
            arguments.extend(["--every", "--report-rate", "0"]);
        }
        if plan.drops {
            arguments.extend(["--drop", "invalid"]);
        }
        let agent = Agent::start(&pair.host, &arguments)?;
        let events = agent.events()?;
        let mut listeners = vec![(SERVED, Listeners::new(&pair, SERVED)?)];
        if plan.interferes {
            listeners.push((MULTIPATH, Listeners::with(&pair, MULTIPATH, multipath_listener)?));
            listeners.push((CROWDED, Listeners::with(&pair, CROWDED, crowded_listener)?));
        }
        for listener in listeners.iter().flat_map(|(_, listeners)| listeners.iter()) {
            listener.set_nonblocking(true)?;
            if plan.interferes {
                take_data_with_syn(listener)?;
            }
        }
        Ok(Self {
            plan,
            pair,
            relay,
            agent,
            events,
            listeners,
            lives: Vec::new(),
            by_client: HashMap::new(),
            random: Random::new(plan.seed),
            crowded_at: (false, 0),
            cookies: [1; 2],
            compared: BTreeMap::new(),
            far_ends: 0,
            unknowable: BTreeMap::new(),
            wrong: Vec::new(),
            reports: 0,
            forged: BTreeMap::new(),
            provoked: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            innocent: Vec::new(),
        })
    }

    /// The rounds.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that something does not come to rest.
    pub fn run(&mut self) -> Result<()> {
        for round in 1..=self.plan.rounds {
            self.set_cookies(round)?;
            self.relay.set_faults(Some(FAULTS));
            self.random_part()?;
            self.relay.set_faults(None);
            let (oracle, flows) = self.rest(!self.plan.interferes)?;
            self.compare(round, &oracle, &flows)?;
            if self.plan.interferes {
                self.attack_all()?;
                let (oracle, flows) = self.rest(true)?;
                self.compare(round, &oracle, &flows)?;
                self.take_reports()?;
            }
        }
        Ok(())
    }

    /// Sets `tcp_syncookies` on both hosts, for a whole round: a listener that began to send cookies, or ceased to, while it has
    /// a request would answer its SYN with two numbers.
    fn set_cookies(&mut self, round: usize) -> Result<()> {
        const CYCLES: [[u8; 4]; 2] = [[2, 1, 0, 1], [1, 2, 1, 0]];
        if !self.plan.interferes {
            return Ok(());
        }
        self.cookies = CYCLES.map(|cycle| cycle[round % cycle.len()]);
        for (host, cookies) in [&self.pair.host, &self.pair.peer].into_iter().zip(self.cookies) {
            host.sysctl("net/ipv4/tcp_syncookies", &cookies.to_string())?;
        }
        Ok(())
    }

    /// New connections begin, older ones go on, all at once.
    fn random_part(&mut self) -> Result<()> {
        /// What is to be done next, in the order in which it is due.
        #[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
        enum Next {
            Begin,
            Step(usize),
            Forge(usize),
            Cut(usize),
        }
        let began = Instant::now();
        let mut agenda = BinaryHeap::new();
        self.crowded_at = (self.random.percent(50), usize::from(self.random.percent(50)));
        for _ in 0..self.plan.new_each_round {
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
            self.accept(!self.plan.interferes)?;
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                thread::park_timeout(early);
            }
            let n = match next {
                Next::Begin => {
                    let Some(n) = self.begin()? else { continue };
                    for after in self.attacks() {
                        agenda.push(Reverse((Instant::now() + after, Next::Forge(n))));
                    }
                    if let Some(after) = self.lives[n].when_to_cut(&mut self.random) {
                        agenda.push(Reverse((Instant::now() + after, Next::Cut(n))));
                    }
                    n
                }
                Next::Forge(n) => {
                    self.attack(n)?;
                    continue;
                }
                Next::Cut(n) => {
                    let (host, peer) = self.lives[n].addresses();
                    self.relay.cut(host, peer, true);
                    continue;
                }
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
        for life in &self.lives {
            self.relay.cut(life.client_address, life.server_address, false);
        }
        Ok(())
    }

    /// When segments are forged after a connection has begun: often while it opens.
    fn attacks(&mut self) -> Vec<Duration> {
        let random = &mut self.random;
        let attacks = if self.plan.interferes { random.below(7) } else { 0 };
        (0..attacks)
            .map(|_| {
                let within = random.pick(&[500, 3000, 50_000, 800_000]);
                Duration::from_micros(random.below(within))
            })
            .collect()
    }

    /// Forges a segment of a connection, in the name of one of its ends.
    fn attack(&mut self, n: usize) -> Result<()> {
        let (host, peer) = self.lives[n].addresses();
        let (from, source, destination) = if self.random.percent(60) {
            (Side::Peer, peer, host)
        } else {
            (Side::Host, host, peer)
        };
        self.relay.forge(from, attack::forge(&mut self.random, source, destination)).map(drop)
    }

    /// Forges segments of all connections that are compared, and of some twice.
    fn attack_all(&mut self) -> Result<()> {
        for n in 0..self.lives.len() {
            let life = &self.lives[n];
            if life.replaced.is_none() && life.began.elapsed() < TIME_WAIT_IS_SAFE {
                for _ in 0..=self.random.below(2) {
                    self.attack(n)?;
                }
            }
        }
        Ok(())
    }

    /// Accepts everything there is to accept, from short queues only if they are to be `served`.
    fn accept(&mut self, served: bool) -> Result<()> {
        let all = self.listeners.iter().filter(|(port, _)| served || *port != CROWDED);
        for listener in all.flat_map(|(_, listeners)| listeners.iter()) {
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
                let life = &mut self.lives[*n];
                life.terms.end(Who::Server).set(&socket)?;
                life.server_again |= matches!(life.server, Slot::Gone);
                life.server = Slot::Open(socket);
            }
        }
        Ok(())
    }

    /// Takes the next step of a life.
    fn step(&mut self, n: usize) -> Result<Taken> {
        let life = &mut self.lives[n];
        let Some((_, act)) = life.script.front().copied() else { return Ok(Taken::Done) };
        if let Some(who) = act.who() {
            life.look(who)?;
            let slot = life.slot(who);
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
}

fn multipath_listener(namespace: &Namespace, local: SocketAddr) -> Result<Socket> {
    let socket = bound_for(namespace, local, Protocol::MPTCP)?;
    socket.listen(4096)?;
    Ok(socket)
}

fn crowded_listener(namespace: &Namespace, local: SocketAddr) -> Result<Socket> {
    let socket = bound(namespace, local)?;
    socket.listen(2)?;
    Ok(socket)
}
