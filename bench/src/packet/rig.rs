//! The programs that are measured, and the one that hands them packets.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, ProgramArray},
    programs::{SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use tracker_common::{
    config::InterfaceConfig,
    cookie::LIFETIME_NS,
    counters::{Fate, Hook},
    flow::{Flow, HalfOpen},
    protect::{Listener, Mode, Outcome, Way, feature},
    syn_cache::CacheSet,
    violation::Rule,
};
use tracker_user::{
    agent::protect::keys::Keeper,
    kernel::{
        batch::write_array,
        listeners::{KeyMap, ListenerMaps},
        load::{Sizes, load_protecting, program},
        object,
        private_bpffs::PrivateBpffs,
        protection::Prepared,
        syn_cache,
        tables::{Tables, take_map},
    },
    model::clock::monotonic_ns,
};

use super::frame::{Family, Frame, PORT};
use crate::programs::OBJECT;

/// Flows that have a cookie of their own, at most.
pub(crate) const COOKIES: u32 = 10_000;

/// What is run on a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Target {
    Nothing = 0,
    LookUp = 1,
    LookUpTimeless = 2,
    Insert = 3,
    InsertGrowing = 4,
    InsertLru = 5,
    Tracker = 6,
}

impl Target {
    const OURS: [(Self, &'static str); 6] = [
        (Self::Nothing, "pass"),
        (Self::LookUp, "look_up"),
        (Self::LookUpTimeless, "look_up_timeless"),
        (Self::Insert, "insert"),
        (Self::InsertGrowing, "insert_growing"),
        (Self::InsertLru, "insert_lru"),
    ];
}

/// As `drive` has it, word by word.
const TEMPLATE: usize = 96;
type Case = [u32; TEMPLATE / 4 + 14];

const KEY: usize = size_of::<tracker_common::key::FlowKey>();

/// The tables' and the listeners' share of the programs.
pub(crate) struct Rig {
    bench: Ebpf,
    tracker: Ebpf,
    tables: Tables,
    case: Array<MapData, Case>,
    answers: Array<MapData, [u32; 2]>,
    flows: [HashMap<MapData, [u8; KEY], [u8; size_of::<Flow>()]>; 2],
    half_open: [HashMap<MapData, [u8; KEY], [u8; size_of::<HalfOpen>()]>; 2],
    syn_cache: MapData,
    cached_sets: usize,
    _targets: ProgramArray<MapData>,
    bpffs: PrivateBpffs,
}

impl Rig {
    /// Loads everything, with room for so many flows. Protects port 80 of every address that packets go to if `protects`.
    pub(crate) fn new(flows: u32, half_open: u32, protects: bool) -> Result<Self> {
        let bpffs = PrivateBpffs::new()?;
        let pins = bpffs.path();
        let sizes = Sizes { max_flows: flows, max_half_open: half_open, ring_bytes: 1 << 20 };
        let protection = if protects {
            Prepared::for_this_kernel()?.protection
        } else {
            tracker_common::protect::Protection::default()
        };
        let mut tracker =
            load_protecting(object::PLAIN, &pins, &sizes, InterfaceConfig::default(), protection)?;
        program::<Xdp>(&mut tracker, "tracker_ingress")?.load()?;
        program::<SchedClassifier>(&mut tracker, "tracker_sweep")?.load()?;
        syn_cache::enable(&pins)?;
        if protects {
            protect(&pins)?;
        }
        let mut bench = EbpfLoader::new()
            .map_max_entries("LIMIT_FLOWS", flows)
            .map_max_entries("LIMIT_GROWING", if protects { 1 } else { flows })
            .map_max_entries("LIMIT_HALF_OPEN", half_open)
            .map_max_entries("TO_ANSWER", COOKIES)
            .load(OBJECT)
            .context("loading the benchmark's kernel programs")?;
        let mut targets: ProgramArray<_> =
            bench.take_map("TARGETS").context("no map TARGETS")?.try_into()?;
        let drive: &mut Xdp = program(&mut bench, "drive")?;
        drive.load().context("loading drive")?;
        for (target, name) in Target::OURS {
            let loaded: &mut Xdp = program(&mut bench, name)?;
            loaded.load().with_context(|| format!("loading {name}"))?;
            targets.set(target as u32, loaded.fd()?, 0)?;
        }
        let ingress: &mut Xdp = program(&mut tracker, "tracker_ingress")?;
        targets.set(Target::Tracker as u32, ingress.fd()?, 0)?;
        let open = |name| MapData::from_pin(pins.join(name)).context("opening a pinned map");
        Ok(Self {
            tables: Tables::from_pins(&pins)?,
            case: Map::Array(take_map(&mut bench, "CASE")?).try_into()?,
            answers: Map::Array(take_map(&mut bench, "TO_ANSWER")?).try_into()?,
            flows: [
                Map::HashMap(open("CONFIRMED")?).try_into()?,
                Map::HashMap(take_map(&mut bench, "LIMIT_FLOWS")?).try_into()?,
            ],
            half_open: [
                Map::LruHashMap(open("HALF_OPEN")?).try_into()?,
                Map::LruHashMap(take_map(&mut bench, "LIMIT_HALF_OPEN")?).try_into()?,
            ],
            syn_cache: open(syn_cache::SETS)?,
            cached_sets: syn_cache::sets(half_open) as usize,
            bench,
            tracker,
            _targets: targets,
            bpffs,
        })
    }

    /// Nanoseconds that a run on each of `flows`' packets takes, so many turns of them, the writing of the packet included.
    pub(crate) fn run(
        &mut self,
        frame: &Frame,
        flows: Range<u32>,
        turns: u32,
        target: Target,
    ) -> Result<f64> {
        self.run_answering(frame, flows, turns, target, false)
    }

    /// The same, with the acknowledgments of [`Self::take_cookies`] if `answering`.
    pub(crate) fn run_answering(
        &mut self,
        frame: &Frame,
        flows: Range<u32>,
        turns: u32,
        target: Target,
        answering: bool,
    ) -> Result<f64> {
        let mut case: Case = [0; TEMPLATE / 4 + 14];
        for (word, bytes) in case.iter_mut().take(TEMPLATE / 4).zip(frame.bytes.chunks(4)) {
            let mut whole = [0; 4];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u32::from_ne_bytes(whole);
        }
        let count = flows.end - flows.start;
        case[TEMPLATE / 4..].copy_from_slice(&[
            u32::try_from(frame.bytes.len())?,
            u32::from(frame.family == Family::V6),
            u32::from(frame.from_server),
            flows.start,
            count,
            frame.seq,
            frame.seq_step,
            frame.ack,
            frame.ack_step,
            u32::from(answering),
            target as u32,
            0,
            0,
            0,
        ]);
        self.case.set(0, case, 0)?;
        let drive: &Xdp = self.bench.program("drive").context("no program drive")?.try_into()?;
        let result = drive.test_run(TestRunOptions {
            data_in: Some(&frame.bytes),
            repeat: count * turns,
            ..TestRunOptions::new()
        })?;
        ensure!(result.return_value != 0, "the program that writes packets gave up");
        #[allow(clippy::cast_precision_loss)] // some hundreds
        Ok(result.duration.as_nanos() as f64)
    }

    /// Has the tracker answer a SYN of each of these flows, and remembers the answers' numbers.
    pub(crate) fn take_cookies(&mut self, syn: &Frame, flows: Range<u32>) -> Result<()> {
        let ingress: &Xdp =
            self.tracker.program("tracker_ingress").context("no tracker_ingress")?.try_into()?;
        let (address, tcp) = match syn.family {
            Family::V4 => (26, 34),
            Family::V6 => (34, 54),
        };
        for flow in flows {
            let mut frame = syn.bytes.clone();
            frame[address..address + 4].copy_from_slice(&(0x0a00_0000 | flow).to_be_bytes());
            frame[tcp + 4..tcp + 8].copy_from_slice(&syn.seq.to_be_bytes());
            let mut answer = [0; 160];
            let result = ingress.test_run(TestRunOptions {
                data_in: Some(&frame),
                data_out: Some(&mut answer),
                ..TestRunOptions::new()
            })?;
            ensure!(
                result.return_value == 3,
                "a SYN to a protected port was not answered: {result:?}"
            );
            let number = |at: usize| {
                let bytes = answer[at..].first_chunk().copied().unwrap_or_default();
                u32::from_be_bytes(bytes)
            };
            let timestamp = answer[tcp + 20..]
                .windows(2)
                .position(|pair| pair == [8, 10])
                .context("an answer without a timestamp")?;
            let echo = number(tcp + 20 + timestamp + 2);
            self.answers.set(flow, [number(tcp + 4).wrapping_add(1), echo], 0)?;
        }
        Ok(())
    }

    /// Makes every remembered answer one that nobody gave.
    pub(crate) fn forge_answers(&mut self, flows: Range<u32>) -> Result<()> {
        for flow in flows {
            let [ack, echo] = self.answers.get(&flow, 0)?;
            self.answers.set(flow, [ack ^ 0x5555_0000, echo], 0)?;
        }
        Ok(())
    }

    /// Packets that the tracker has counted under a fate.
    pub(crate) fn counted(&self, fate: Fate) -> Result<u64> {
        Ok(self.tables.packets(0, Hook::Ingress)?[fate as usize])
    }

    /// Cookies to the listener of IPv4 with this outcome.
    pub(crate) fn cookies(&self, outcome: Outcome) -> Result<u64> {
        let maps = ListenerMaps::from_pins(&self.bpffs.path())?.context("no map LISTENERS")?;
        Ok(maps.outcomes(0)?[outcome as usize])
    }

    /// Violations that it has counted.
    pub(crate) fn violations(&self) -> Result<Vec<(Rule, u64)>> {
        let rules = Rule::ALL.iter().filter(|rule| rule.is_violation());
        let mut counts = rules
            .map(|rule| Ok((*rule, self.tables.breaches(*rule, Hook::Ingress)?)))
            .collect::<Result<Vec<_>>>()?;
        counts.retain(|(_, count)| *count > 0);
        Ok(counts)
    }

    /// Forgets every flow.
    pub(crate) fn clear(&mut self) -> Result<()> {
        for map in &mut self.flows {
            empty(map)?;
        }
        for map in &mut self.half_open {
            empty(map)?;
        }
        let zeros = vec![0; self.cached_sets * size_of::<CacheSet>()];
        Ok(write_array(&self.syn_cache, &zeros, size_of::<CacheSet>())?)
    }
}

/// Tells the programs of two listeners with cookies for every SYN, as an agent would.
fn protect(pins: &std::path::Path) -> Result<()> {
    let mut listeners = ListenerMaps::from_pins(pins)?.context("no map LISTENERS")?;
    let addresses =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1).into()];
    for (index, address) in (0..).zip(addresses) {
        let listener = Listener {
            index,
            threshold: 1,
            hold_ns: 1_000_000_000,
            space: 65_536,
            mss: 1460,
            window: 65_160,
            plain_window: 64_240,
            reserved: [0; 2],
            scale: 7,
            features: feature::WINDOW_SCALE | feature::SACK | feature::TIMESTAMPS,
            mode: Mode::Always as u8,
            way: Way::Handover as u8,
        };
        listeners.set(SocketAddr::new(address, PORT), &listener)?;
    }
    // As if it had run for a while: no cookie is refused because it would be older than the key.
    let since_ns = monotonic_ns().saturating_sub(2 * LIFETIME_NS);
    Keeper::new(KeyMap::from_pins(pins)?, u64::MAX, since_ns)?;
    Ok(())
}

fn empty<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> Result<()> {
    let keys = map.keys().collect::<Result<Vec<K>, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}
