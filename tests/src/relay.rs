//! A cable that loses, delays, duplicates and reorders TCP segments, and remembers what became of each. On request it
//! carries segments that neither host sent ([`Relay::forge`]), or nothing on some connections ([`Relay::cut`]).
//!
//! What happens to a segment depends on the seed, its addresses and ports, its direction and how many have passed before
//! it in that direction, and on nothing else: the same seed gives the same fates as long as the hosts send the same
//! segments. (When they send them is for their clocks to say, so a run is repeated closely and not exactly.)

mod again;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    io::{PipeReader, PipeWriter},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    flows,
    lab::{INTERFACE, Pair},
    namespace::Namespace,
    offload::{Offload, set_offload},
    random::Random,
    segment::{Segment, flag},
    sockets::hardware_address,
    wire::Wire,
};

/// The relay's interfaces: that to the host, and that to the peer.
const INTERFACES: [&str; 2] = ["to-host", "to-peer"];

/// Numbers of a forged segment are this far from those of the connection at least, so that chance cannot put them into a
/// window: none here is a tenth as large.
const NEAR: u32 = 1 << 23;

/// Bytes of frames that may wait for the relay.
const ROOM: i32 = 64 << 20;

/// A side of the relay.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// The host's.
    Host,
    /// The peer's.
    Peer,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Host, Self::Peer];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        if self == Self::Host { Self::Peer } else { Self::Host }
    }
}

/// How many of a thousand segments each misfortune befalls. No segment has two of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Faults {
    /// Lost.
    pub drop: u64,
    /// Held for 5 to 40 ms.
    pub delay: u64,
    /// Sent twice: at once, or the second time 1 to 40 ms later.
    pub duplicate: u64,
    /// Held until the next segment of its direction has passed, but no longer than 10 ms.
    pub reorder: u64,
}

/// What the relay did with a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// Sent on at once.
    Passed,
    /// Not sent on.
    Dropped,
    /// Sent on at once, and once more: at once where no time is given.
    Duplicated(Option<Duration>),
    /// Held for this long.
    Delayed(Duration),
    /// Held for the next one to overtake it.
    Reordered,
    /// Sent on after it was held.
    Released,
    /// Sent on in the name of a host that did not send it.
    Forged,
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The host whose address it has.
    Host,
    /// An attacker ([`Relay::forge`]).
    Attacker,
    /// The host, in answer to a forged segment that arrived at it.
    ProvokedSeen,
    /// The peer, in answer to a forged segment in the host's name, which never passed the host.
    ProvokedUnseen,
}

/// How many segments came, and what became of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// TCP segments that came from the host, and from the peer.
    pub arrived: [u64; 2],
    /// TCP segments that were sent on to the host, and to the peer.
    pub sent: [u64; 2],
    /// Segments that came while there were faults.
    pub exposed: u64,
    /// Segments that were dropped.
    pub dropped: u64,
    /// Segments that were delayed.
    pub delayed: u64,
    /// Segments that were sent on twice.
    pub duplicated: u64,
    /// Segments that were held for the next one.
    pub reordered: u64,
    /// Segments that were forged in the name of the host, and of the peer.
    pub forged: [u64; 2],
    /// Frames of other protocols, which always pass.
    pub others: u64,
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    source: SocketAddr,
    destination: SocketAddr,
    flags: u16,
    seq: u32,
    ack: u32,
    window: u16,
    payload: usize,
}

/// One act on one segment. A segment that is held has two: when it came, and when it went.
#[derive(Clone, Copy, Debug)]
struct Passage {
    /// Since the relay began.
    at: Duration,
    from: Side,
    header: Header,
    act: Act,
}

/// What passed on one connection.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    passages: Vec<Passage>,
    /// The host's, then the peer's.
    sides: [FromSide; 2],
    last: Option<Instant>,
}

/// What one side has sent on a connection.
#[derive(Clone, Debug, Default)]
struct FromSide {
    /// The first sequence number, from which [`Trace`] counts when it is shown.
    base: Option<u32>,
    /// The number of the last segment.
    last: u32,
    segments: u64,
    sent_on: u64,
    is_last_dropped: bool,
    /// A segment that waits to be overtaken.
    waiting: Option<(Instant, u64)>,
}

impl Trace {
    /// Whether the last segment of either side reached the other, and each RST, if only by a later one with its number.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        let resets = || self.real().filter(|passage| passage.header.flags & flag::RST != 0);
        let reached = |lost: &Passage| {
            resets().any(|other| {
                other.from == lost.from
                    && other.act != Act::Dropped
                    && other.header.seq == lost.header.seq
            })
        };
        let lost = resets().filter(|passage| passage.act == Act::Dropped);
        self.sides.iter().all(|side| !side.is_last_dropped) && lost.into_iter().all(reached)
    }

    /// Whether a FIN from this side that did not acknowledge the other's was dropped.
    #[must_use]
    pub fn is_crossing_fin_dropped(&self, from: Side) -> bool {
        self.crossing_fins(from).any(|passage| passage.act == Act::Dropped)
    }

    /// Whether each FIN of this side that the host's interface has seen acknowledged the other side's.
    #[must_use]
    pub fn closes_second(&self, from: Side) -> bool {
        let is_seen = |passage: &Passage| from == Side::Host || passage.act != Act::Dropped;
        !self.crossing_fins(from).any(is_seen)
    }

    /// FINs of this side that do not acknowledge the other's, each once for its coming.
    fn crossing_fins(&self, from: Side) -> impl Iterator<Item = &Passage> {
        let came = self.real().filter(|passage| passage.act != Act::Released);
        let mut fins = came.filter(|passage| passage.header.flags & flag::FIN != 0);
        let other = fins.clone().find(|passage| passage.from != from);
        let behind = other.map(|fin| fin.header.behind_fin());
        std::iter::from_fn(move || {
            fins.by_ref().find(|passage| passage.from == from && Some(passage.header.ack) != behind)
        })
    }

    /// Whether a FIN of this side was sent on.
    #[must_use]
    pub fn is_fin_delivered(&self, from: Side) -> bool {
        let mut fins = self.real().filter(|passage| passage.header.flags & flag::FIN != 0);
        fins.any(|passage| passage.from == from && passage.act != Act::Dropped)
    }

    /// Whether an acknowledgment of this side's FIN reached it.
    #[must_use]
    pub fn is_fin_acknowledged(&self, from: Side) -> bool {
        let mut fins = self.real().filter(|passage| passage.header.has(flag::FIN));
        let behind = fins.find(|passage| passage.from == from).map(|fin| fin.header.behind_fin());
        let mut heard = self.real().filter(|passage| {
            passage.from != from && passage.act != Act::Dropped && passage.header.has(flag::ACK)
        });
        heard.any(|passage| Some(passage.header.ack) == behind)
    }

    /// Whether this side has sent an RST of its own accord, not in answer to a forged segment.
    #[must_use]
    pub fn has_reset(&self, from: Side) -> bool {
        let mut resets = self.real().filter(|passage| passage.header.flags & flag::RST != 0);
        resets.any(|passage| passage.from == from && self.provoked_by(passage).is_none())
    }

    /// Whether RSTs that this side sent of its own accord reached the other, and each came with another number than the other had
    /// acknowledged until then, so that this refused it.
    #[must_use]
    pub fn has_refused_resets_only(&self, from: Side) -> bool {
        let mut resets = self
            .real()
            .filter(|passage| passage.from == from && passage.header.has(flag::RST))
            .filter(|passage| passage.act != Act::Dropped)
            .filter(|passage| self.provoked_by(passage).is_none())
            .peekable();
        let is_refused = |reset: &Passage| {
            let earlier = self.real().take_while(|passage| passage.at <= reset.at);
            let acks = earlier.filter(|passage| {
                passage.from != from && passage.header.flags & (flag::ACK | flag::RST) == flag::ACK
            });
            let acked = acks.map(|passage| passage.header.ack).reduce(later);
            acked.is_some_and(|acked| acked != reset.header.seq)
        };
        resets.peek().is_some() && resets.all(is_refused)
    }

    /// Whether something that this side sent, or waits to send, was never acknowledged as far as it heard: its last number, or
    /// a window that is closed.
    #[must_use]
    pub fn is_left_waiting(&self, from: Side) -> bool {
        let says = |passage: &&Passage| {
            !passage.header.has(flag::RST) && self.provoked_by(passage).is_none()
        };
        let sent = self.real().filter(says).filter(|passage| passage.from == from);
        let end = sent.map(|passage| passage.header.end()).reduce(later);
        let heard = self.real().filter(says).filter(|passage| {
            passage.from != from
                && passage.act != Act::Dropped
                && passage.header.flags & flag::ACK != 0
        });
        let acked = heard.clone().map(|passage| passage.header.ack).reduce(later);
        let is_shut = heard.last().is_some_and(|passage| passage.header.window == 0);
        end.is_some_and(|end| acked.is_none_or(|acked| is_before(acked, end))) || is_shut
    }

    /// Whether this initial sequence number is that of a forged SYN.
    #[must_use]
    pub fn is_forged_syn(&self, isn: u32) -> bool {
        self.forged_syns().any(|header| header.seq == isn)
    }

    /// Who sent a segment with these numbers, in this name: `None` where nobody did.
    #[must_use]
    pub fn origin(&self, source: SocketAddr, seq: u32, ack: u32, payload: usize) -> Option<Origin> {
        let mut passages = self.passages.iter();
        passages
            .find(|Passage { header, .. }| {
                (header.source, header.seq, header.ack, header.payload)
                    == (source, seq, ack, payload)
            })
            .map(|passage| match passage.act {
                Act::Forged => Origin::Attacker,
                _ => match self.provoked_by(passage) {
                    Some(Side::Host) => Origin::ProvokedUnseen,
                    Some(Side::Peer) => Origin::ProvokedSeen,
                    None => Origin::Host,
                },
            })
    }

    /// In whose name a segment was forged that this one answers, with the numbers that RFC 9293 section 3.10.7 says. An RST may
    /// answer a SYN,ACK that answers a forged SYN.
    fn provoked_by(&self, answer: &Passage) -> Option<Side> {
        let earlier = || {
            let earlier = self.passages.iter().take_while(|passage| passage.at <= answer.at);
            earlier.filter(|passage| passage.from != answer.from)
        };
        let mut forged = earlier().filter(|passage| passage.act == Act::Forged);
        if let Some(forged) = forged.find(|forged| answer.header.answers(&forged.header)) {
            return Some(forged.from);
        }
        let is_reset = answer.header.flags & (flag::RST | flag::ACK) == flag::RST;
        let mut provoked = earlier().filter(|passage| {
            passage.act != Act::Forged && is_reset && answer.header.answers(&passage.header)
        });
        let is_syn_ack = |header: &Header| header.has(flag::SYN | flag::ACK);
        provoked
            .find(|passage| is_syn_ack(&passage.header) && self.answers_forged_syn(passage))
            .map(|passage| passage.from)
    }

    /// Whether this is the SYN,ACK that answers a forged SYN.
    fn answers_forged_syn(&self, answer: &Passage) -> bool {
        answer.header.has(flag::SYN | flag::ACK)
            && self.forged_syns().any(|syn| answer.header.ack == syn.end())
    }

    /// Whether all that this side has sent since the first segment with this number, but for answers to SYNs, are RSTs: it has no
    /// socket for this connection any more.
    #[must_use]
    pub fn only_refuses_since(&self, source: SocketAddr, seq: u32) -> bool {
        let is_it =
            |passage: &&Passage| passage.header.source == source && passage.header.seq == seq;
        let Some(first) = self.real().find(is_it) else { return false };
        let since = self.real().filter(|passage| {
            passage.from == first.from && passage.at > first.at && passage.act != Act::Released
        });
        since.clone().all(|passage| {
            passage.header.has(flag::RST) || passage.header.has(flag::SYN | flag::ACK)
        })
    }

    /// Whether this side answered a segment that was forged in the other's name with an RST at the number that it acknowledged.
    #[must_use]
    pub fn has_refused_forged(&self, from: Side) -> bool {
        let mut resets = self.real().filter(|passage| {
            passage.from == from && passage.header.flags & (flag::RST | flag::ACK) == flag::RST
        });
        resets.any(|reset| self.provoked_by(reset).is_some())
    }

    /// Whether several SYNs were forged for this side.
    #[must_use]
    pub fn has_competing_forged_syns(&self, to: Side) -> bool {
        let forged = self.passages.iter().filter(|passage| passage.act == Act::Forged);
        let syns = forged.filter(|passage| {
            passage.from != to && passage.header.flags & (flag::SYN | flag::ACK) == flag::SYN
        });
        syns.count() > 1
    }

    /// Whether this side has sent nothing but RSTs since a forged SYN came to it.
    #[must_use]
    pub fn has_ignored_forged_syn(&self, to: Side) -> bool {
        let mut since = self
            .passages
            .iter()
            .rev()
            // Who has no socket any more answers what comes later with RSTs.
            .take_while(|passage| {
                passage.from != to
                    || passage.act == Act::Forged
                    || passage.header.flags & flag::RST != 0
            });
        since.any(|passage| {
            passage.from != to
                && passage.act == Act::Forged
                && passage.header.flags & (flag::SYN | flag::ACK) == flag::SYN
        })
    }

    /// Whether this side has sent a SYN with this number.
    #[must_use]
    pub fn has_sent_syn(&self, from: Side, isn: u32) -> bool {
        let is_syn = |header: &Header| header.flags & (flag::SYN | flag::ACK) == flag::SYN;
        let mut syns = self.real().filter(|passage| is_syn(&passage.header));
        syns.any(|passage| passage.from == from && passage.header.seq == isn)
    }

    /// Whether this side has acknowledged less than before, as a socket that was begun anew.
    #[must_use]
    pub fn has_gone_back(&self, from: Side) -> bool {
        let mut acks = self.real().filter_map(|passage| {
            let counts = passage.from == from
                && passage.act != Act::Released
                && passage.header.flags & (flag::ACK | flag::SYN | flag::RST) == flag::ACK;
            counts.then_some(passage.header.ack)
        });
        let Some(mut last) = acks.next() else { return false };
        acks.any(|ack| is_before(ack, std::mem::replace(&mut last, ack)))
    }

    /// Whether a SYN was forged.
    #[must_use]
    pub fn has_forged_syn(&self) -> bool {
        self.forged_syns().next().is_some()
    }

    /// Whether this side took a forged SYN for the beginning of a connection, and answered it with a SYN,ACK.
    #[must_use]
    pub fn has_taken_forged_syn(&self, side: Side) -> bool {
        let mut answers = self.real().filter(|passage| passage.from == side);
        answers.any(|answer| self.answers_forged_syn(answer))
    }

    fn forged_syns(&self) -> impl Iterator<Item = &Header> {
        let forged = self.passages.iter().filter(|passage| passage.act == Act::Forged);
        let flags = flag::SYN | flag::ACK;
        forged
            .map(|passage| &passage.header)
            .filter(move |header| header.flags & flags == flag::SYN)
    }

    /// What the hosts sent.
    fn real(&self) -> impl Iterator<Item = &Passage> + Clone {
        self.passages.iter().filter(|passage| passage.act != Act::Forged)
    }

    /// Whether a number is so near those of this side that it may be in a window.
    fn is_near(&self, side: Side, number: u32) -> bool {
        let side = &self.sides[side as usize];
        let is_near = |other: u32| number.wrapping_sub(other).wrapping_add(NEAR) < 2 * NEAR;
        side.base.is_some_and(|base| is_near(base) || is_near(side.last))
    }

    /// How many segments came from this side.
    #[must_use]
    pub fn arrived(&self, from: Side) -> u64 {
        self.sides[from as usize].segments
    }

    /// How many segments from this side were sent on, copies included.
    #[must_use]
    pub fn delivered(&self, from: Side) -> u64 {
        self.sides[from as usize].sent_on
    }

    /// How long no segment has come or gone.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.last.map_or(Duration::MAX, |last| last.elapsed())
    }
}

/// Shows all passages in order, numbers counted from the first ones of each side.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Passage { at, from, header, act } in &self.passages {
            let names = [(flag::SYN, 'S'), (flag::FIN, 'F'), (flag::RST, 'R'), (flag::PSH, 'P')];
            let flags: String = names
                .iter()
                .chain(&[(flag::ACK, '.')])
                .filter(|(bit, _)| header.flags & bit != 0)
                .map(|(_, name)| name)
                .collect();
            let base = |side: Side| self.sides[side as usize].base.unwrap_or(0);
            let seq = header.seq.wrapping_sub(base(*from));
            let ack = if header.flags & flag::ACK == 0 {
                0
            } else {
                header.ack.wrapping_sub(base(from.other()))
            };
            writeln!(
                f,
                "    {:11.6} {} [{flags}] seq {seq} ack {ack} win {} len {}{}",
                at.as_secs_f64(),
                if *from == Side::Host { "host > peer" } else { "peer > host" },
                header.window,
                header.payload,
                match act {
                    Act::Passed => String::new(),
                    Act::Dropped => ": dropped".to_owned(),
                    Act::Duplicated(None) => ": sent twice".to_owned(),
                    Act::Duplicated(Some(after)) => format!(": sent, and again in {after:?}"),
                    Act::Delayed(by) => format!(": held for {by:?}"),
                    Act::Reordered => ": held for the next one".to_owned(),
                    Act::Released => ": sent after it was held".to_owned(),
                    Act::Forged => ": FORGED".to_owned(),
                },
            )?;
        }
        Ok(())
    }
}

/// A relay that runs. Dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
    /// Closed to stop it.
    stop: Option<PipeWriter>,
}

#[derive(Debug)]
struct Shared {
    wires: [Wire; 2],
    core: Mutex<Core>,
}

#[derive(Debug)]
struct Core {
    seed: u64,
    faults: Option<Faults>,
    began: Instant,
    last: Instant,
    /// Frames that wait, by when they are due; numbered, because two may be due at once.
    held: BTreeMap<(Instant, u64), Held>,
    next_number: u64,
    traces: HashMap<[SocketAddr; 2], Trace>,
    /// Connections on which nothing passes.
    cut: HashSet<[SocketAddr; 2]>,
    /// Hardware addresses of the host and the peer.
    hardware: [[u8; 6]; 2],
    counts: Counts,
}

#[derive(Debug)]
struct Held {
    from: Side,
    header: Header,
    frame: Vec<u8>,
}

/// While this exists, nothing passes.
#[derive(Debug)]
pub struct Pause<'relay> {
    _core: MutexGuard<'relay, Core>,
}

impl Relay {
    /// Two hosts with addresses and a relay between them, which passes everything at first. Neither host cuts or merges
    /// segments below its egress programs, so that what they see is what passes here.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn between_hosts(seed: u64) -> Result<(Pair, Self)> {
        let middle = Namespace::new()?;
        // It says nothing itself.
        middle.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        let pair = Pair::around(&middle, INTERFACES)?;
        for host in [&pair.host, &pair.peer] {
            for offload in [Offload::TxChecksum, Offload::Tso, Offload::Gso, Offload::Gro] {
                set_offload(host, INTERFACE, offload, false)?;
            }
            host.run("ip", &["link", "set", INTERFACE, "gso_max_segs", "1"])?;
        }
        let wires =
            [Wire::receiver(&middle, INTERFACES[0])?, Wire::receiver(&middle, INTERFACES[1])?];
        for wire in &wires {
            wire.set_room(ROOM)?;
        }
        let began = Instant::now();
        let shared = Arc::new(Shared {
            wires,
            core: Mutex::new(Core {
                seed,
                faults: None,
                began,
                last: began,
                held: BTreeMap::new(),
                next_number: 0,
                traces: HashMap::new(),
                cut: HashSet::new(),
                hardware: [hardware_address(&pair.host)?, hardware_address(&pair.peer)?],
                counts: Counts::default(),
            }),
        });
        let (stopped, stop) = std::io::pipe()?;
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(&stopped)
        });
        Ok((pair, Self { shared, thread: Some(thread), stop: Some(stop) }))
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.shared.core()
    }

    /// From now on, segments meet with these misfortunes, or pass.
    pub fn set_faults(&self, faults: Option<Faults>) {
        self.core().faults = faults;
    }

    /// Lets nothing pass for a while. The relay must not be asked for anything meanwhile.
    #[must_use]
    pub fn pause(&self) -> Pause<'_> {
        Pause { _core: self.core() }
    }

    /// Lets nothing pass between two sockets any more, or everything again.
    pub fn cut(&self, a: SocketAddr, b: SocketAddr, is_cut: bool) {
        let mut core = self.core();
        if is_cut {
            core.cut.insert(flows::key(a, b));
        } else {
            core.cut.remove(&flows::key(a, b));
        }
    }

    /// Sends a segment in the name of a side to the other, unless its numbers are near those of the connection, which a
    /// blind attacker does not know. (Of a connection that has sent nothing yet, nobody knows them: there, one forged number
    /// of 2^16 would be in a window of 64 KB.)
    ///
    /// Returns whether it was sent.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn forge(&self, from: Side, segment: Segment) -> Result<bool> {
        let mut core = self.core();
        let to = from.other();
        let frame = segment.addressed_to(core.hardware[to as usize]).frame();
        let header = Header::of(&frame).context("a segment")?;
        let trace = core.trace(&header);
        let claims_ack = header.flags & flag::ACK != 0;
        if trace.is_near(from, header.seq) || claims_ack && trace.is_near(to, header.ack) {
            return Ok(false);
        }
        let now = Instant::now();
        let at = now - core.began;
        let trace = core.trace(&header);
        trace.passages.push(Passage { at, from, header, act: Act::Forged });
        core.last = now;
        core.counts.forged[from as usize] += 1;
        core.counts.sent[to as usize] += 1;
        self.shared.wires[to as usize].send(&frame)?;
        Ok(true)
    }

    /// How long no segment has come or gone: no time at all while one is held.
    ///
    /// # Errors
    ///
    /// Where the relay has ended, or its socket had to drop a frame.
    pub fn idle(&self) -> Result<Duration> {
        ensure!(
            self.thread.as_ref().is_some_and(|thread| !thread.is_finished()),
            "the relay has ended"
        );
        for wire in &self.shared.wires {
            ensure!(wire.take_lost()? == 0, "the relay was too slow and lost a frame");
        }
        let core = self.core();
        Ok(if core.held.is_empty() { core.last.elapsed() } else { Duration::ZERO })
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.core().counts
    }

    /// What passed between two sockets.
    #[must_use]
    pub fn trace(&self, a: SocketAddr, b: SocketAddr) -> Option<Trace> {
        self.core().traces.get(&flows::key(a, b)).cloned()
    }

    /// Ends the trace of two sockets and returns it: what they send from now on is a connection of its own.
    pub fn begin_anew(&self, a: SocketAddr, b: SocketAddr) -> Option<Trace> {
        self.core().traces.get_mut(&flows::key(a, b)).map(|trace| {
            let segments = [trace.sides[0].segments, trace.sides[1].segments];
            // Fates go on, or each connection between two sockets would have those of the first.
            let sides = segments.map(|segments| FromSide { segments, ..FromSide::default() });
            std::mem::replace(trace, Trace { sides, ..Trace::default() })
        })
    }

    /// Undoes [`Relay::begin_anew`], which has returned `before`.
    pub fn go_on(&self, a: SocketAddr, b: SocketAddr, before: Trace) {
        let mut core = self.core();
        let trace = core.traces.entry(flows::key(a, b)).or_default();
        let since = std::mem::replace(trace, before);
        trace.passages.extend(since.passages);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("the relay: {error:#}"),
                Err(_) => eprintln!("the relay panicked"),
            }
        }
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, stopped: &PipeReader) -> Result<()> {
        let mut buffer = vec![0; 70_000];
        loop {
            let due = self.core().held.first_key_value().map(|((due, _), _)| *due);
            let timeout = due.map_or(PollTimeout::NONE, |due| {
                let left = due.saturating_duration_since(Instant::now()).as_millis();
                PollTimeout::try_from(left + 1).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [stopped.as_fd(), self.wires[0].as_fd(), self.wires[1].as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            poll(&mut fds, timeout)?;
            if fds[0].revents().is_some_and(|events| !events.is_empty()) {
                return Ok(());
            }
            for from in Side::BOTH {
                while let Some(length) = self.wires[from as usize].try_receive(&mut buffer)? {
                    self.core().arrived(&self.wires, from, &buffer[..length])?;
                }
            }
            self.core().release_due(&self.wires)?;
        }
    }
}

impl Core {
    fn arrived(&mut self, wires: &[Wire; 2], from: Side, frame: &[u8]) -> Result<()> {
        let to = &wires[from.other() as usize];
        let Some(header) = Header::of(frame) else {
            self.counts.others += 1;
            return to.send(frame);
        };
        let now = Instant::now();
        self.counts.arrived[from as usize] += 1;
        self.counts.exposed += u64::from(self.faults.is_some());
        let side = self.trace(&header).side(from);
        side.base.get_or_insert(header.seq);
        side.last = header.seq;
        let ordinal = side.segments;
        side.segments += 1;
        let act = self.fate(&header, from, ordinal);
        let side = self.trace(&header).side(from);
        side.is_last_dropped = act == Act::Dropped;
        self.note(now, from, header, act);
        let held = || Held { from, header, frame: frame.to_vec() };
        match act {
            Act::Dropped => self.counts.dropped += 1,
            Act::Delayed(by) => {
                self.counts.delayed += 1;
                self.hold(now + by, held());
            }
            Act::Reordered => {
                self.counts.reordered += 1;
                let at = self.hold(now + Duration::from_millis(10), held());
                // Where one waits already, that one is overtaken when its time is up.
                self.trace(&header).side(from).waiting = Some(at);
            }
            Act::Duplicated(after) => {
                self.counts.duplicated += 1;
                self.send(wires, from, &header, frame)?;
                match after {
                    None => self.send(wires, from, &header, frame)?,
                    Some(after) => drop(self.hold(now + after, held())),
                }
            }
            Act::Passed | Act::Released | Act::Forged => self.send(wires, from, &header, frame)?,
        }
        Ok(())
    }

    fn fate(&self, header: &Header, from: Side, ordinal: u64) -> Act {
        if self.cut.contains(&flows::key(header.source, header.destination)) {
            return Act::Dropped;
        }
        let Some(faults) = self.faults else { return Act::Passed };
        let mut random = Random::of(&[
            self.seed,
            header.source.is_ipv6().into(),
            header.source.port().into(),
            header.destination.port().into(),
            from as u64,
            ordinal,
        ]);
        let mut roll = random.below(1000);
        let mut is = |share: u64| {
            let hit = roll < share;
            roll = roll.wrapping_sub(share);
            hit
        };
        if is(faults.drop) {
            Act::Dropped
        } else if is(faults.delay) {
            Act::Delayed(Duration::from_millis(5 + random.below(36)))
        } else if is(faults.duplicate) {
            let late = random.percent(50);
            Act::Duplicated(late.then(|| Duration::from_millis(1 + random.below(40))))
        } else if is(faults.reorder) {
            Act::Reordered
        } else {
            Act::Passed
        }
    }

    /// Sends a segment on, and after it one that waited for that.
    fn send(&mut self, wires: &[Wire; 2], from: Side, header: &Header, frame: &[u8]) -> Result<()> {
        self.send_one(wires, from, header, frame)?;
        if let Some(at) = self.trace(header).side(from).waiting.take() {
            self.release(wires, at)?;
        }
        Ok(())
    }

    fn send_one(
        &mut self,
        wires: &[Wire; 2],
        from: Side,
        header: &Header,
        frame: &[u8],
    ) -> Result<()> {
        self.counts.sent[from.other() as usize] += 1;
        self.trace(header).side(from).sent_on += 1;
        wires[from.other() as usize].send(frame)
    }

    fn hold(&mut self, until: Instant, held: Held) -> (Instant, u64) {
        let at = (until, self.next_number);
        self.next_number += 1;
        self.held.insert(at, held);
        at
    }

    fn release_due(&mut self, wires: &[Wire; 2]) -> Result<()> {
        let now = Instant::now();
        while let Some((at, _)) = self.held.first_key_value()
            && at.0 <= now
        {
            let at = *at;
            self.release(wires, at)?;
        }
        Ok(())
    }

    fn release(&mut self, wires: &[Wire; 2], at: (Instant, u64)) -> Result<()> {
        // It may have gone already.
        let Some(Held { from, header, frame }) = self.held.remove(&at) else { return Ok(()) };
        self.note(Instant::now(), from, header, Act::Released);
        self.send_one(wires, from, &header, &frame)
    }

    fn note(&mut self, now: Instant, from: Side, header: Header, act: Act) {
        self.last = now;
        let at = now - self.began;
        let trace = self.trace(&header);
        trace.last = Some(now);
        trace.passages.push(Passage { at, from, header, act });
    }

    fn trace(&mut self, header: &Header) -> &mut Trace {
        self.traces.entry(flows::key(header.source, header.destination)).or_default()
    }
}

impl Trace {
    fn side(&mut self, from: Side) -> &mut FromSide {
        &mut self.sides[from as usize]
    }
}

const fn is_before(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).wrapping_sub(1) < 1 << 31
}

fn later(a: u32, b: u32) -> u32 {
    if is_before(a, b) { b } else { a }
}

impl Header {
    fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// Whether this may be the answer to `other` of an end that has no use for that.
    fn answers(&self, other: &Self) -> bool {
        if self.has(flag::RST | flag::ACK) || self.has(flag::SYN | flag::ACK) {
            !other.has(flag::ACK | flag::SYN) && self.ack == other.end()
        } else if self.has(flag::RST) {
            other.has(flag::ACK) && self.seq == other.ack
        } else {
            other.has(flag::SYN) && self.ack == other.end()
        }
    }

    /// The number that acknowledges all of it.
    fn end(&self) -> u32 {
        let payload = u32::try_from(self.payload).unwrap_or(u32::MAX);
        let bits = [flag::SYN, flag::FIN].iter().filter(|bit| self.flags & **bit != 0).count();
        self.seq.wrapping_add(payload).wrapping_add(u32::try_from(bits).unwrap_or(0))
    }

    /// The number that acknowledges its FIN.
    fn behind_fin(&self) -> u32 {
        let payload = u32::try_from(self.payload).unwrap_or(u32::MAX);
        self.seq.wrapping_add(payload).wrapping_add(1)
    }

    /// That of a frame which holds a TCP segment.
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
        let [source, destination]: [IpAddr; 2] = match packet.net? {
            NetSlice::Ipv4(ip) => {
                [ip.header().source_addr().into(), ip.header().destination_addr().into()]
            }
            NetSlice::Ipv6(ip) => {
                [ip.header().source_addr().into(), ip.header().destination_addr().into()]
            }
            NetSlice::Arp(_) => return None,
        };
        let flags = [
            (tcp.fin(), flag::FIN),
            (tcp.syn(), flag::SYN),
            (tcp.rst(), flag::RST),
            (tcp.psh(), flag::PSH),
            (tcp.ack(), flag::ACK),
        ];
        Some(Self {
            source: SocketAddr::new(source, tcp.source_port()),
            destination: SocketAddr::new(destination, tcp.destination_port()),
            flags: flags.iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum(),
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            window: tcp.window_size(),
            payload: tcp.payload().len(),
        })
    }
}
