//! The kernel programs, fed with captured packets.

use std::{collections::HashMap, mem};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData, RingBuf},
    programs::{TestRun, TestRunOptions, Xdp},
};
use tracker_common::{
    config::{InterfaceConfig, LiveConfig, Replayed, TraceFilter},
    counters::{Fate, Hook, Tally},
    event::{Event as Raw, Kind, Reason},
    flow::Flow,
    key::FlowKey,
    packet::{LinkLayer, Parsed, parse},
    state::State,
    sweep::{BATCH, Outcome, Removal, Tier, Timeouts},
    violation::{Rule, Rules},
};
use zerocopy::FromBytes;

use super::{
    clock::{CaptureClock, START_NS, date},
    connections::{Connection, Connections, Ended, Gone, Id, Span},
    flow::ReplayedFlow,
};
use crate::{
    agent::sweeper::{RemovedFlow, SWEEP_INTERVAL, load_sweep, removal, remove},
    cli::capture::Packet,
    kernel::{
        load::{Sizes, load, load_ingress},
        object,
        private_bpffs::PrivateBpffs,
        tables::{Tables, take_map},
    },
    model::{
        clock::Clock,
        event::{Event, parts::EndView},
        flood_detection::{FloodDetector, FloodLimits},
        record::{Record, View},
    },
};

/// What stands for an interface in records and events.
pub const INTERFACE: &str = "replay";

/// The least that the kernel takes for a frame. Shorter ones have no TCP segment; the same parser says why.
const SHORTEST: usize = 14;

/// Bytes that the kernel gets of a packet: more than the longest chain of headers that the parser follows takes. The
/// rest of a longer one is not looked at.
const LONGEST: usize = 20_480;

/// A ring buffer holds all that one packet causes, whatever size was asked for.
const LEAST_RING: u32 = 1 << 16;

/// Nanoseconds between two surveys, as by a running agent.
#[allow(clippy::cast_possible_truncation)] // a second
const SURVEY_NS: u64 = SWEEP_INTERVAL.as_nanos() as u64;

/// A newer connection took the key. No timeout decided that.
const REOPENED: Gone = Gone::Ended(Reason::Reopened, State::Closed);

/// The kernel programs with tables of their own, and the capture's clock.
pub struct Engine {
    ebpf: Ebpf,
    tables: Tables,
    replayed: Array<MapData, [u64; size_of::<Replayed>() / 8]>,
    reports: RingBuf<MapData>,
    /// Bits of [`Kind`] that the caller wants to see.
    wanted: u32,
    /// Rules whose breaches are among the events.
    reported: Rules,
    clock: CaptureClock,
    connections: Connections,
    flood_detector: FloodDetector,
    /// When floods and scans are searched for next, on the programs' clock.
    next_survey_ns: u64,
    /// Packets that no program can be run on.
    short: [u64; Fate::SLOTS],
    view: View,
}

impl Engine {
    /// Loads the programs. `config` applies as on an interface, except for its filter of traced segments: the engine gets all
    /// segments, and so does the caller where [`Kind::Segment`] is among the events.
    ///
    /// # Errors
    ///
    /// What the kernel says. Nothing is left behind, however this process ends.
    pub fn new(
        sizes: &Sizes,
        timeouts: Timeouts,
        config: LiveConfig,
        limits: FloodLimits,
    ) -> Result<Self> {
        let sizes = Sizes { ring_bytes: sizes.ring_bytes.max(LEAST_RING), ..*sizes };
        let pins = PrivateBpffs::new()?;
        let interface = InterfaceConfig { replay: 1, ..InterfaceConfig::default() };
        let mut ebpf = load(object::PLAIN, &pins.path(), &sizes, interface)?;
        drop(pins);
        load_ingress(&mut ebpf)?;
        load_sweep(&mut ebpf)?;
        let mut tables = Tables::take(&mut ebpf)?;
        tables.configure(LiveConfig {
            events: config.events | Kind::Segment.bit() | Kind::Destroy.bit(),
            trace: TraceFilter::default(),
            ..config
        })?;
        let names = HashMap::from([(interface.slot, INTERFACE.to_owned())]);
        Ok(Self {
            replayed: Map::Array(take_map(&mut ebpf, "REPLAYED")?).try_into()?,
            reports: Map::RingBuf(take_map(&mut ebpf, "EVENTS")?).try_into()?,
            ebpf,
            tables,
            wanted: config.events,
            reported: config.reported,
            clock: CaptureClock::default(),
            connections: Connections::default(),
            flood_detector: FloodDetector::new(limits),
            next_survey_ns: START_NS + SURVEY_NS,
            short: [0; Fate::SLOTS],
            view: View { clock: Clock::at(0, date(0)), timeouts, names },
        })
    }

    /// Pushes a packet through the programs, and returns what they and the passing of time until then made happen, in
    /// order, of the kinds that the configuration asked for.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn push(&mut self, packet: &Packet<'_>) -> Result<Vec<Event>> {
        let now_ns = self.clock.advance(packet.timestamp_ns);
        let mut events = self.wait_until(now_ns)?;
        if packet.frame.len() < SHORTEST {
            self.count_short(packet.frame);
            return Ok(events);
        }
        let replayed = Replayed { now_ns, wire_len: packet.wire_len, reserved: 0 };
        let words: [u64; size_of::<Replayed>() / 8] = zerocopy::transmute!(replayed);
        self.replayed.set(0, words, 0)?;
        let frame = &packet.frame[..packet.frame.len().min(LONGEST)];
        self.run(frame)
            .with_context(|| format!("running tracker_ingress on packet {}", packet.number))?;
        self.view.clock = Clock::at(now_ns, date(packet.timestamp_ns));
        self.drain(packet, now_ns, &mut events)?;
        Ok(events)
    }

    /// The floods and scans that a running agent would find next, after the capture's last packet.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn finish(&mut self) -> Result<Vec<Event>> {
        self.detect_floods(self.clock.now_ns())
    }

    fn run(&self, frame: &[u8]) -> Result<()> {
        let ingress: &Xdp = self
            .ebpf
            .program("tracker_ingress")
            .context("the object has no program tracker_ingress")?
            .try_into()?;
        ingress.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() })?;
        Ok(())
    }

    fn count_short(&mut self, frame: &[u8]) {
        let fate = match parse(frame, LinkLayer::Ethernet, 0, &mut Parsed::default()) {
            Err(reason) => Fate::from(reason),
            Ok(()) => Fate::Tracked,
        };
        self.short[fate as usize] += 1;
    }

    /// Takes the packet's reports out of the ring buffer.
    fn drain(&mut self, packet: &Packet<'_>, now_ns: u64, events: &mut Vec<Event>) -> Result<()> {
        while let Some(item) = self.reports.next() {
            let raw = Raw::read_from_bytes(&item).ok().context("a report of another length")?;
            drop(item);
            let kind = Kind::from_code(raw.kind).context("an unknown kind of report")?;
            let id = raw.flow.created_ns();
            if matches!(kind, Kind::New | Kind::Segment) {
                let timeouts = &self.view.timeouts;
                self.connections.saw(&raw.key, &raw.flow, packet.timestamp_ns, now_ns, timeouts);
            }
            if self.wanted & kind.bit() != 0 {
                let mut event = Event::from_kernel(&raw, &self.view)?;
                event.packet = Some(packet.number);
                correct(&mut event, self.connections.get(id));
                events.push(event);
            }
            if kind == Kind::Destroy {
                self.connections.end(id, Some(raw.flow), REOPENED, now_ns);
            }
        }
        Ok(())
    }

    /// Lets time pass until `now_ns` of the programs' clock, and returns the events of it that are wanted.
    fn wait_until(&mut self, now_ns: u64) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let first_ns = self.next_survey_ns;
        if let Some(late_ns) = now_ns.checked_sub(first_ns) {
            // Without packets there are only ever fewer flows: all that can begin is there at the first of many surveys,
            // and all that can end is over at the last.
            let last_ns = now_ns - late_ns % SURVEY_NS;
            events.extend(self.sweep(first_ns)?);
            events.extend(self.detect_floods(first_ns)?);
            events.extend(self.sweep(last_ns)?);
            events.extend(self.detect_floods(last_ns)?);
            self.next_survey_ns = last_ns + SURVEY_NS;
        }
        events.extend(self.sweep(now_ns)?);
        Ok(events)
    }

    /// Removes every flow whose time is over at `now_ns` of the programs' clock, in the order of their deadlines, and
    /// returns the events of it that are wanted.
    fn sweep(&mut self, now_ns: u64) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            // Which of the two tables a flow is in is not known: it is asked for in both.
            let due = self.connections.due(now_ns, BATCH as usize / 2);
            if due.is_empty() {
                return Ok(events);
            }
            let mut batch = Vec::with_capacity(due.len() * 2);
            for connection in due.iter().filter_map(|(_, id)| self.connections.get(*id)) {
                for tier in [Tier::Confirmed, Tier::HalfOpen] {
                    batch.push(removal(
                        &connection.key,
                        &connection.flow,
                        tier,
                        &self.view.timeouts,
                    ));
                }
            }
            remove(&self.ebpf, &self.tables, &mut batch)?;
            for ((deadline_ns, id), tried) in due.into_iter().zip(batch.chunks_exact_mut(2)) {
                events.extend(self.removed(id, deadline_ns, tried));
            }
        }
    }

    /// Notes what became of a connection that was due, and says so if that is wanted.
    fn removed(&mut self, id: Id, deadline_ns: u64, tried: &mut [Removal]) -> Vec<Event> {
        let found = tried.iter_mut().find(|removal| removal.outcome == Outcome::Removed as u32);
        let Some(removal) = found else {
            self.connections.end(id, None, Gone::Evicted, deadline_ns);
            return Vec::new();
        };
        let reaped = RemovedFlow::new(mem::take(removal), &self.view.timeouts);
        self.view.clock = self.clock.at(deadline_ns);
        let mut events = Vec::new();
        if self.tells(Rule::HalfOpenTimeout) {
            events.extend(reaped.half_open_timeout(&self.view));
        }
        if self.wanted & Kind::Destroy.bit() != 0 {
            events.push(reaped.event(&self.view));
        }
        for event in &mut events {
            correct(event, self.connections.get(id));
        }
        let RemovedFlow { removal, reason, decided_by } = reaped;
        let gone = Gone::Ended(reason, decided_by);
        self.connections.end(id, Some(removal.flow), gone, deadline_ns);
        events
    }

    /// Looks for floods and scans at `now_ns` of the programs' clock, and returns those that are wanted.
    fn detect_floods(&mut self, now_ns: u64) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        if !self.flood_detector.matters(self.connections.attempts()) {
            return Ok(events);
        }
        self.tables.each_half_open(|key, flow| self.flood_detector.see(key, flow))?;
        self.view.clock = self.clock.at(now_ns);
        for finding in self.flood_detector.findings() {
            self.tables.count_breach(finding.rule, Hook::Ingress)?;
            if self.tells(finding.rule) {
                let mut event = finding.event(&self.view);
                correct(&mut event, self.connections.get(finding.flow.created_ns()));
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Whether breaches of a rule are wanted that no packet shows.
    fn tells(&self, rule: Rule) -> bool {
        self.wanted & Kind::Violation.bit() != 0 && self.reported.has(rule)
    }

    /// Takes the connections that have ended since the last call, in the order in which they did.
    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        self.connections.take_ended()
    }

    /// What [`Engine::ended`] needs, and overwrites.
    pub(super) fn view(&self) -> View {
        self.view.clone()
    }

    /// A connection that has ended, as users see it.
    pub(super) fn ended(&self, ended: &Ended, view: &mut View) -> ReplayedFlow {
        self.flow(&Stored::Ended(ended), view)
    }

    /// Every connection so far that was not taken, in the order of their first packets: those that live, as they are after
    /// the last packet, and those that ended, as they were last.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn flows(&self) -> Result<impl Iterator<Item = ReplayedFlow>> {
        let mut known: HashMap<Id, Stored<'_>> = HashMap::new();
        for (id, connection) in self.connections.live() {
            known.insert(id, Stored::Evicted(connection));
        }
        self.tables.each_flow(|_, flow, tier| {
            let id = flow.created_ns();
            if let Some(connection) = self.connections.get(id)
                && !flow.is_dead()
            {
                known.insert(id, Stored::Alive(connection, Box::new(flow.clone()), tier));
            }
        })?;
        for ended in self.connections.ended() {
            known.insert(ended.id, Stored::Ended(ended));
        }
        let mut known: Vec<_> = known.into_iter().collect();
        known.sort_unstable_by_key(|(id, _)| *id);
        let mut view = self.view.clone();
        Ok(known.into_iter().map(move |(_, stored)| self.flow(&stored, &mut view)))
    }

    fn flow(&self, stored: &Stored<'_>, view: &mut View) -> ReplayedFlow {
        let at_ns = match stored {
            Stored::Ended(ended) => ended.at_ns,
            Stored::Alive(..) | Stored::Evicted(_) => self.clock.now_ns(),
        };
        view.clock = self.clock.at(at_ns);
        match stored {
            Stored::Alive(Connection { key, span, .. }, flow, tier) => {
                ReplayedFlow::new(key, flow, Some(*tier), *span, None, view)
            }
            Stored::Evicted(Connection { key, flow, span, .. }) => {
                ReplayedFlow::new(key, flow, None, *span, Some(evicted(*span)), view)
            }
            Stored::Ended(ended) => {
                let Ended { key, flow, span, .. } = ended;
                ReplayedFlow::new(key, flow, None, *span, Some(end(ended)), view)
            }
        }
    }

    /// Connections that newer unfinished ones pushed out of the half-open table.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn evicted(&self) -> Result<u64> {
        let mut here = 0;
        self.tables.each_flow(|_, _, tier| here += u64::from(tier == Tier::HalfOpen))?;
        Ok(self.tables.half_open_evicted(here)?)
    }

    /// Packets by fate, indexed by [`Fate`].
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn packets(&self) -> Result<[u64; Fate::SLOTS]> {
        let mut packets = self.tables.packets(0, Hook::Ingress)?;
        for (sum, count) in packets.iter_mut().zip(self.short) {
            *sum += count;
        }
        Ok(packets)
    }

    /// Breaches of a rule.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn breaches(&self, rule: Rule) -> Result<u64> {
        // A handshake that is never completed is counted where its SYN was seen.
        Ok(self.tables.breaches(rule, Hook::Ingress)? + self.tables.breaches(rule, Hook::Egress)?)
    }

    /// What happened to flows and reports. Two of a sweep's tallies mean nothing here: each flow is asked for in both
    /// tables, and so one removal of two is refused.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn tally(&self, tally: Tally) -> Result<u64> {
        Ok(self.tables.tally(tally)?)
    }
}

/// Where a connection's record is to be found.
enum Stored<'a> {
    /// In a table.
    Alive(&'a Connection, Box<Flow>, Tier),
    /// Nowhere, and nothing removed it: this is what its last packet left.
    Evicted(&'a Connection),
    Ended(&'a Ended),
}

fn end(ended: &Ended) -> EndView {
    let Gone::Ended(reason, decided_by) = ended.gone else { return evicted(ended.span) };
    let timeout_state = (reason == Reason::Timeout).then_some(decided_by);
    let duration_ns = ended.span.duration_ns();
    EndView { duration_ns, ..EndView::new(&ended.flow, reason, timeout_state) }
}

fn evicted(span: Span) -> EndView {
    EndView { reason: "evicted".to_owned(), timeout_state: None, duration_ns: span.duration_ns() }
}

impl ReplayedFlow {
    fn new(
        key: &FlowKey,
        flow: &Flow,
        tier: Option<Tier>,
        span: Span,
        end: Option<EndView>,
        view: &View,
    ) -> Self {
        let mut record = Record::new(key, flow, tier, view);
        record.created = date(span.first_ns);
        Self { record, duration_ns: span.duration_ns(), end }
    }
}

/// Puts the capture's own times in the place of those that a connection's record keeps.
fn correct(event: &mut Event, connection: Option<&Connection>) {
    let Some(Connection { span, .. }) = connection else { return };
    if let Some(flow) = &mut event.flow {
        flow.created = date(span.first_ns);
    }
    if let Some(end) = &mut event.end {
        end.duration_ns = span.duration_ns();
    }
}
