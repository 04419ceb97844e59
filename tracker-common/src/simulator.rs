//! The kernel programs' surroundings on ordinary memory: tables, counters and reports. What the kernel does with a
//! packet can be done here without a kernel, by the same functions, and compared.
//!
//! Simulated are the maps and what `tracker-ebpf` does around [`crate::track`]. Not simulated are eviction, which takes
//! more half-open flows than fit, and other CPUs.

extern crate std;

mod tables;

use std::{
    boxed::Box,
    cell::{Cell, RefCell},
    collections::HashMap,
    vec::Vec,
};

use zerocopy::{FromBytes, Unaligned};

use self::tables::{SynCache, Table};
use crate::{
    config::{InterfaceConfig, LiveConfig},
    counters::{Fate, Hook, Tally},
    dropping::{DropMode, NO_RULE, chosen},
    elsewhere::is_counted_elsewhere,
    event::{Event, Kind},
    flow::{Flow, HalfOpen},
    forget::VerifierBarrier,
    judge::{Situation, Verdict},
    key::FlowKey,
    limit::Repeated,
    owner::Owner,
    packet::{Bytes, Packet, Parsed, Unparsed, parse},
    predict::{track_close, track_predicted},
    report::{self, Delivery, Filed, MOST_REPORTS, wanted},
    segment::SynOptions,
    sweep::{Outcome, Removal, Tables, remove_and_count},
    syn_cache::{
        CachePlace, CacheSet, CacheSettings, CachedAddresses, CachedHandshake, NewRate, WAYS,
    },
    track::{
        Environment, InCache, Inserted, Lookup, Report, VerifiedSteps, bad_header_len, in_order,
        judge_on, prepare, restore, settle, track_confirmed, track_half_open, track_handshake,
        track_illegal, write, write_offers,
    },
    violation::{Breach, Marks, Rule, Rules},
};

/// A captured frame: its first bytes, and how many it had on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// What was captured.
    pub bytes: &'a [u8],
    /// All of its bytes on the wire.
    pub wire_len: usize,
}

impl VerifierBarrier for Captured<'_> {}

impl Bytes for Captured<'_> {
    fn read<T: FromBytes + Unaligned>(&self, at: usize) -> Option<T> {
        self.bytes.read(at)
    }

    fn options(&self, at: usize, len: usize) -> Option<SynOptions> {
        self.bytes.options(at, len)
    }

    fn frame_len(&self) -> usize {
        self.wire_len
    }
}

/// A host that tracks what is shown to it.
#[derive(Debug)]
pub struct Host {
    confirmed: Table<Flow>,
    half_open: Table<HalfOpen>,
    /// None, where every handshake has a record.
    syn_cache: SynCache,
    new_rate: NewRate,
    scratch: HalfOpen,
    interface: InterfaceConfig,
    config: LiveConfig,
    filed: RefCell<Vec<Filed>>,
    /// How often a connection broke a rule, for each interface.
    repeated: RefCell<HashMap<(u32, Repeated), u64>>,
    /// When a source's bucket is full again, for each interface.
    sources: RefCell<HashMap<(u32, u32), u64>>,
    events: RefCell<Vec<Event>>,
    packets: HashMap<(u32, u8), [u64; Fate::SLOTS]>,
    breaches: Box<[Cell<u64>; Rule::SLOTS as usize * 2]>,
    tallies: [Cell<u64>; Tally::SLOTS as usize],
    /// What becomes of the packet for the rules that it breaks: the code of a [`DropMode`].
    dropped: Cell<u32>,
}

impl Default for Host {
    /// With room for everything, every breach reported, and every kind of event listened to.
    fn default() -> Self {
        Self::new(usize::MAX, Self::report_all())
    }
}

impl Host {
    /// Every breach is reported, however often, and every kind of event.
    #[must_use]
    pub fn report_all() -> LiveConfig {
        let reported = Rule::ALL.iter().fold(Rules::default(), |rules, rule| rules.with(*rule));
        LiveConfig { reported, events: u32::MAX, no_back_off: 1, ..LiveConfig::default() }
    }

    /// A host with room for so many confirmed flows, that reports as `config` says.
    #[must_use]
    pub fn new(max_flows: usize, config: LiveConfig) -> Self {
        Self {
            confirmed: Table::new(max_flows),
            half_open: Table::new(usize::MAX),
            syn_cache: SynCache::default(),
            new_rate: NewRate::default(),
            scratch: HalfOpen::default(),
            interface: InterfaceConfig::default(),
            config,
            filed: RefCell::default(),
            repeated: RefCell::default(),
            sources: RefCell::default(),
            events: RefCell::default(),
            packets: HashMap::new(),
            breaches: Box::new([const { Cell::new(0) }; Rule::SLOTS as usize * 2]),
            tallies: [const { Cell::new(0) }; Tally::SLOTS as usize],
            dropped: Cell::default(),
        }
    }

    /// Caches handshakes from now on, in so many sets (a power of two).
    #[must_use]
    pub fn with_syn_cache(mut self, sets: usize) -> Self {
        self.syn_cache = SynCache {
            settings: CacheSettings { key: [1, 2], last_set: sets as u64 - 1 },
            sets: (0..sets).map(|_| CacheSet::default()).collect(),
            addresses: (0..sets * WAYS).map(|_| CachedAddresses::default()).collect(),
        };
        self
    }

    /// Reports as `config` says from now on.
    pub fn configure(&mut self, config: LiveConfig) {
        self.config = config;
    }

    /// What is shown from now on was seen at this interface.
    pub fn set_interface(&mut self, interface: InterfaceConfig) {
        self.interface = interface;
    }

    /// Tracks a frame that was seen at `hook` of an interface at `now_ns`, and says what became of it.
    pub fn frame<B: Bytes + ?Sized>(
        &mut self,
        frame: &B,
        interface: InterfaceConfig,
        hook: Hook,
        now_ns: u64,
    ) -> Fate {
        let mut parsed = Parsed::default();
        self.interface = interface;
        match parse(frame, interface.link(), interface.zone, &mut parsed) {
            Ok(()) => self.packet(&parsed.packet, hook, now_ns),
            Err(reason) => {
                if reason == Unparsed::BadTcpHeaderLength {
                    return self.bad_header(&parsed.packet, hook, now_ns, parsed.header_len);
                }
                self.done(hook, reason.into())
            }
        }
    }

    /// Counts a packet whose TCP header has this length, which cannot be right; in its flow, too.
    pub fn bad_header(&mut self, packet: &Packet, hook: Hook, now_ns: u64, len: u32) -> Fate {
        bad_header_len(self, packet, hook, now_ns, len);
        self.deliver();
        self.done(hook, Unparsed::BadTcpHeaderLength.into())
    }

    /// Tracks a packet that was seen at `hook` at `now_ns`, and says what became of it.
    pub fn packet(&mut self, packet: &Packet, hook: Hook, now_ns: u64) -> Fate {
        let here = Owner::new(self.interface.slot, hook);
        if let Some(flow) = self.confirmed(&packet.key) {
            if is_counted_elsewhere(flow, true, packet, here) {
                return self.done(hook, Fate::CountedOnArrival);
            }
            if !self.config.is_traced() && track_predicted(flow, packet, hook, || now_ns) {
                return self.done(hook, Fate::Tracked);
            }
            if !self.listens(Kind::Segment.bit() | Kind::Closing.bit() | Kind::Close.bit())
                && track_close(flow, packet, hook, || now_ns)
            {
                return self.done(hook, Fate::Tracked);
            }
        }
        self.poison_scratch();
        if self.confirmed(&packet.key).is_none() {
            match track_handshake(self, packet, hook, now_ns) {
                InCache::Tracked => return self.done(hook, Fate::Tracked),
                InCache::Elsewhere => return self.done(hook, Fate::CountedOnArrival),
                // There is no other CPU.
                InCache::Again | InCache::Stuck => return self.done(hook, Fate::NotInserted),
                InCache::Not => self.poison_scratch(),
            }
        }
        let this = &*self;
        let confirmed = Cell::new(this.confirmed(&packet.key));
        let step = |fate| {
            this.deliver();
            fate
        };
        let fate = in_order(
            || step(track_illegal(this, packet, hook, now_ns)),
            |lookup| {
                if lookup == Lookup::Again {
                    confirmed.set(this.confirmed(&packet.key));
                }
                step(track_confirmed(this, confirmed.get()?, packet, hook, now_ns))
            },
            || {
                let half_open = this.half_open(&packet.key);
                let confirmed = confirmed.get();
                let place = prepare(this, confirmed, half_open, packet, hook, now_ns);
                let fate = step(track_half_open(this, half_open, packet, hook, now_ns, place));
                if fate == Some(Fate::Tracked) {
                    settle(this, half_open, place, confirmed.is_some(), packet, hook, now_ns);
                    step(None);
                }
                fate
            },
        )
        .unwrap_or(Fate::NotInserted);
        self.done(hook, fate)
    }

    /// In the kernel, what a new flow is built in holds an earlier one.
    fn poison_scratch(&mut self) {
        if let Ok(scratch) = HalfOpen::read_from_bytes(&[0xa5; size_of::<HalfOpen>()]) {
            self.scratch = scratch;
        }
    }

    fn done(&mut self, hook: Hook, fate: Fate) -> Fate {
        let is_dropped = self.dropped.take() == DropMode::Drop as u32;
        let fate = if is_dropped { Fate::Dropped } else { fate };
        let slot = self.interface.slot;
        self.packets.entry((slot, hook as u8)).or_default()[fate as usize] += 1;
        self.confirmed.forget_deleted();
        self.half_open.forget_deleted();
        fate
    }

    /// Removes a flow if it is still as it was judged, as the kernel program `tracker_sweep` does.
    pub fn remove(&mut self, removal: &mut Removal) -> Outcome {
        let outcome = remove_and_count(self, removal);
        self.confirmed.forget_deleted();
        self.half_open.forget_deleted();
        outcome
    }

    /// The flow of `key`, wherever it is; the confirmed one of two.
    #[must_use]
    pub fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.confirmed(key).or_else(|| self.half_open(key).map(|half_open| &half_open.flow))
    }

    /// Every confirmed flow, in no order.
    #[must_use]
    pub fn all_confirmed(&self) -> Vec<(FlowKey, Flow)> {
        all(&self.confirmed)
    }

    /// Every half-open flow, in no order.
    #[must_use]
    pub fn all_half_open(&self) -> Vec<(FlowKey, HalfOpen)> {
        let mut all = all(&self.half_open);
        for (number, set) in (0..).zip(&self.syn_cache.sets) {
            let beside = |index| self.syn_cache.addresses.get(index as usize);
            set.each(set, number, beside, |key, handshake| {
                let half_open = HalfOpen::default();
                restore(handshake, &half_open);
                all.push((*key, half_open));
            });
        }
        all
    }

    /// Packets by fate, of one hook of the interface with this slot.
    #[must_use]
    pub fn packets(&self, slot: u32, hook: Hook) -> [u64; Fate::SLOTS] {
        self.packets.get(&(slot, hook as u8)).copied().unwrap_or_default()
    }

    /// Breaches of a rule at a hook.
    #[must_use]
    pub fn breaches(&self, rule: Rule, hook: Hook) -> u64 {
        self.breaches[rule as usize * 2 + hook as usize].get()
    }

    /// A tally.
    #[must_use]
    pub fn tallied(&self, tally: Tally) -> u64 {
        self.tallies[tally as usize].get()
    }

    /// Takes what was reported since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(self.events.get_mut())
    }

    /// Sends what was filed, and forgets it.
    fn deliver(&self) {
        for filed in self.filed.take() {
            report::deliver(&Delivering { host: self, filed: RefCell::new(filed) });
        }
    }
}

fn all<V: Clone>(table: &Table<V>) -> Vec<(FlowKey, V)> {
    table.records.borrow().iter().map(|(key, record)| (*key, (**record).clone())).collect()
}

fn increment(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Tables for Host {
    fn confirmed(&self, key: &FlowKey) -> Option<&Flow> {
        self.confirmed.get(key)
    }

    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen> {
        self.half_open.get(key)
    }

    fn delete_confirmed(&self, key: &FlowKey) {
        self.confirmed.delete(key);
    }

    fn delete_half_open(&self, key: &FlowKey) {
        self.half_open.delete(key);
    }
}

impl VerifierBarrier for Host {}

impl VerifiedSteps for Host {
    type Verdict = Verdict;

    fn judge(&self, flow: &Flow, packet: &Packet, situation: &Situation) -> Verdict {
        judge_on(self, flow, packet, situation)
    }

    fn write(
        &self,
        flow: &Flow,
        packet: &Packet,
        hook: Hook,
        verdict: &Verdict,
        marks: Marks,
    ) -> Option<Breach> {
        write(flow, packet, hook, verdict, marks)
    }

    fn write_offers(&self, half_open: &HalfOpen, packet: &Packet, verdict: &Verdict) {
        write_offers(half_open, packet, verdict);
    }

    fn restore(&self, handshake: &CachedHandshake) {
        restore(handshake, &self.scratch);
    }
}

impl Environment for Host {
    fn slot(&self) -> u32 {
        self.interface.slot
    }

    fn scratch(&self) -> Option<&HalfOpen> {
        Some(&self.scratch)
    }

    fn insert_half_open(&self, key: &FlowKey, flow: &HalfOpen, replace: bool) -> Inserted {
        self.half_open.insert(key, flow, replace)
    }

    fn insert_confirmed(&self, key: &FlowKey, flow: &Flow, replace: bool) -> Inserted {
        self.confirmed.insert(key, flow, replace)
    }

    fn tally_code(&self, code: u32) {
        increment(&self.tallies[code as usize]);
    }

    fn count_breach(&self, rule: Rule, hook: Hook) {
        increment(&self.breaches[rule as usize * 2 + hook as usize]);
    }

    fn count_marks(&self, marks: Marks, hook: Hook) {
        for rule in Rule::ALL.iter().filter(|rule| (**rule as u8) < 64 && marks.has(**rule)) {
            self.count_breach(*rule, hook);
        }
    }

    fn drop_if_chosen(&self, marks: Marks, breach: u32) {
        let config = &self.config;
        if self.interface.drops != 0 && chosen(&config.dropped, marks, breach) != NO_RULE {
            self.dropped.set(config.drop_mode);
        }
    }

    fn report(&self, report: &Report<'_>) {
        if wanted(&self.config, report.kinds, report.marks) == 0 {
            return;
        }
        let mut filed = self.filed.borrow_mut();
        if filed.len() == MOST_REPORTS {
            self.tally(Tally::ReportsLost);
            return;
        }
        let mut new = Filed::default();
        new.write(report, self.slot());
        new.event.flow = report.flow.cloned().unwrap_or_default();
        new.event.dropped = self.dropped.get();
        filed.push(new);
    }

    fn listens(&self, kinds: u32) -> bool {
        self.config.events & kinds != 0
    }

    fn syn_cache(&self, key: &FlowKey) -> Option<(CachePlace, &CacheSet)> {
        let place = self.syn_cache.settings.place(key)?;
        Some((place, self.syn_cache.sets.get(place.set as usize)?))
    }

    fn is_flooded(&self, now_ns: u64) -> bool {
        self.new_rate.exceeds(self.config.shed_above, now_ns)
    }

    fn cached_addresses(&self, index: u32) -> Option<&CachedAddresses> {
        self.syn_cache.addresses.get(index as usize)
    }
}

/// A report on its way.
struct Delivering<'a> {
    host: &'a Host,
    filed: RefCell<Filed>,
}

impl Delivery for Delivering<'_> {
    fn config(&self) -> &LiveConfig {
        &self.host.config
    }

    fn filed<T>(&self, with: impl FnOnce(&mut Filed) -> T) -> T {
        with(&mut self.filed.borrow_mut())
    }

    fn not_sent(&self, why: Tally) {
        self.host.tally(why);
    }

    fn repeat(&self, repeated: Repeated) -> u64 {
        let mut all = self.host.repeated.borrow_mut();
        let count = all.entry((self.host.slot(), repeated)).or_default();
        *count += 1;
        *count
    }

    fn bucket(&self, bucket: u32, take: impl FnOnce(u64) -> Option<u64>) -> bool {
        let mut sources = self.host.sources.borrow_mut();
        let full_at = sources.entry((self.host.slot(), bucket)).or_default();
        let next = take(*full_at);
        *full_at = next.unwrap_or(*full_at);
        next.is_some()
    }

    fn send(&self, kind: Kind, rule: u32) {
        let event = self.filed.borrow().event.clone();
        #[allow(clippy::cast_possible_truncation)] // a rule's code
        let event = Event { kind: kind as u8, rule: rule as u8, ..event };
        self.host.events.borrow_mut().push(event);
    }
}
