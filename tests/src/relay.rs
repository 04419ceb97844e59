//! A cable that loses, delays, duplicates and reorders TCP segments, and remembers what became of each.
//!
//! What happens to a segment depends on the seed, its addresses and ports, its direction and how many have passed before
//! it in that direction, and on nothing else: the same seed gives the same fates as long as the hosts send the same
//! segments. (When they send them is for their clocks to say, so a run is repeated closely and not exactly.)

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    io::{PipeReader, PipeWriter},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    flows,
    lab::{INTERFACE, Pair},
    namespace::Namespace,
    offload::{Offload, set_offload},
    random::Random,
    segment::flag,
    wire::Wire,
};

/// The relay's interfaces: that to the host, and that to the peer.
const INTERFACES: [&str; 2] = ["to-host", "to-peer"];

/// Octets of frames that may wait for the relay.
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
    const BOTH: [Self; 2] = [Self::Host, Self::Peer];

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
}

/// How many segments came, and what became of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// TCP segments that came from the host, and from the peer.
    pub arrived: [u64; 2],
    /// TCP segments that were sent on to the host, and to the peer.
    pub sent: [u64; 2],
    /// Segments that were dropped.
    pub dropped: u64,
    /// Segments that were delayed.
    pub delayed: u64,
    /// Segments that were sent on twice.
    pub duplicated: u64,
    /// Segments that were held for the next one.
    pub reordered: u64,
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
    /// Of the host, of the peer.
    sides: [FromSide; 2],
    last: Option<Instant>,
}

/// What one side has sent on a connection.
#[derive(Clone, Debug, Default)]
struct FromSide {
    /// The first sequence number, from which [`Trace`] counts when it is shown.
    base: Option<u32>,
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
        let resets =
            || self.passages.iter().filter(|passage| passage.header.flags & flag::RST != 0);
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
        let came = self.passages.iter().filter(|passage| passage.act != Act::Released);
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
        let mut fins = self.passages.iter().filter(|passage| passage.header.flags & flag::FIN != 0);
        fins.any(|passage| passage.from == from && passage.act != Act::Dropped)
    }

    /// Whether this side has sent an RST.
    #[must_use]
    pub fn has_reset(&self, from: Side) -> bool {
        let mut passages = self.passages.iter();
        passages.any(|passage| passage.from == from && passage.header.flags & flag::RST != 0)
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
        let side = self.trace(&header).side(from);
        side.base.get_or_insert(header.seq);
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
            Act::Passed | Act::Released => self.send(wires, from, &header, frame)?,
        }
        Ok(())
    }

    fn fate(&self, header: &Header, from: Side, ordinal: u64) -> Act {
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

impl Header {
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
