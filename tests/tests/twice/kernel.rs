//! The kernel programs on packets that are handed to them, with tables of their own.

use std::{cell::Cell, path::Path};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, RingBuf},
    programs::{SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use tracker_common::{
    config::{InterfaceConfig, LiveConfig, Replayed},
    counters::{Hook, Tally},
    flow::{Flow, HalfOpen},
    key::FlowKey,
    limit::BUCKETS,
    sweep::{Removal, Tier},
    syn_cache::{CachePlace, CacheSet, CacheSettings},
    violation::Rule,
};
use tracker_user::{
    agent::sweeper::remove,
    kernel::{
        batch::{Walk, write_array},
        load::{Sizes, load, program},
        map_forms, object,
        private_bpffs::PrivateBpffs,
        syn_cache::{self, SynCache},
        tables::{Tables, take_map},
    },
};
use zerocopy::IntoBytes;

use crate::{
    step::{INTERFACES, Shot},
    twice::{Books, HALF_OPEN_SIZE, KEY_SIZE, Records},
};

/// Far more than there are keys, so that nothing is evicted.
const MAX_HALF_OPEN: u32 = 65_536;

/// A set of the SYN cache.
const SET_WORDS: usize = size_of::<CacheSet>() / 8;

/// A rule that a connection broke, as the map `REPEATED` has it.
const REPEATED_SIZE: usize = KEY_SIZE + 8;

/// The programs as they are loaded for one interface, and the maps that are its own.
struct Programs {
    ebpf: Ebpf,
    replayed: Array<MapData, [u64; size_of::<Replayed>() / 8]>,
    repeated: HashMap<MapData, [u8; REPEATED_SIZE], u64>,
    sources: MapData,
}

impl Programs {
    fn load(pins: &Path, sizes: &Sizes, interface: InterfaceConfig) -> Result<Self> {
        let mut ebpf = load(object::PLAIN, pins, sizes, interface)?;
        program::<Xdp>(&mut ebpf, "tracker_ingress")?.load()?;
        program::<SchedClassifier>(&mut ebpf, "tracker_egress")?.load()?;
        Ok(Self {
            replayed: Map::Array(take_map(&mut ebpf, "REPLAYED")?).try_into()?,
            repeated: Map::LruHashMap(take_map(&mut ebpf, "REPEATED")?).try_into()?,
            sources: take_map(&mut ebpf, "SOURCES")?,
            ebpf,
        })
    }

    fn run(&mut self, shot: &Shot) -> Result<()> {
        let replayed = Replayed { now_ns: shot.now_ns, wire_len: shot.wire_len, reserved: 0 };
        let words: [u64; size_of::<Replayed>() / 8] = zerocopy::transmute!(replayed);
        self.replayed.set(0, words, 0)?;
        let options = TestRunOptions { data_in: Some(&shot.bytes), ..TestRunOptions::new() };
        let name = match shot.hook {
            Hook::Ingress => "tracker_ingress",
            Hook::Egress => "tracker_egress",
        };
        let program = self.ebpf.program(name).context("no such program")?;
        match shot.hook {
            Hook::Ingress => <&Xdp>::try_from(program)?.test_run(options)?,
            Hook::Egress => <&SchedClassifier>::try_from(program)?.test_run(options)?,
        };
        Ok(())
    }

    fn forget_reported(&mut self) -> Result<()> {
        empty(&mut self.repeated)?;
        let zeros = vec![0; BUCKETS as usize * 8];
        Ok(write_array(&self.sources, &zeros, 8)?)
    }
}

/// The kernel programs.
pub(crate) struct Kernel {
    programs: Vec<Programs>,
    sweep: Ebpf,
    tables: Tables,
    confirmed: HashMap<MapData, [u8; KEY_SIZE], [u8; size_of::<Flow>()]>,
    half_open: HashMap<MapData, [u8; KEY_SIZE], [u8; HALF_OPEN_SIZE]>,
    /// The same once more, for reading in batches.
    fds: [MapData; 2],
    syn_cache: SynCache,
    cached_sets: Array<MapData, [u64; SET_WORDS]>,
    cache_settings: CacheSettings,
    reports: RingBuf<MapData>,
    /// Handshakes that were cached when the books were read.
    cached: Cell<u64>,
}

impl Kernel {
    /// Whether any handshake was cached when the books were read.
    pub(crate) fn has_cached(&self) -> bool {
        self.cached.get() != 0
    }

    /// Loads the programs, with room for so many confirmed flows.
    pub(crate) fn load(max_flows: u32) -> Result<Self> {
        let sizes = Sizes { max_flows, max_half_open: MAX_HALF_OPEN, ring_bytes: 16 << 20 };
        let mount = PrivateBpffs::new()?;
        let pins = mount.path();
        let mut programs = Vec::new();
        for interface in INTERFACES {
            programs.push(Programs::load(&pins, &sizes, interface)?);
        }
        let mut sweep = load(object::PLAIN, &pins, &sizes, InterfaceConfig::default())?;
        program::<SchedClassifier>(&mut sweep, "tracker_sweep")?.load()?;
        let open = |name: &str| MapData::from_pin(pins.join(name)).context("opening a pinned map");
        syn_cache::enable(&pins)?;
        let settings: Array<_, [u64; size_of::<CacheSettings>() / 8]> =
            Map::Array(open(syn_cache::SETTINGS)?).try_into()?;
        let words = settings.get(&0, 0)?;
        Ok(Self {
            programs,
            sweep,
            tables: Tables::from_pins(&pins)?,
            confirmed: Map::HashMap(open("CONFIRMED")?).try_into()?,
            half_open: Map::LruHashMap(open("HALF_OPEN")?).try_into()?,
            fds: [open("CONFIRMED")?, open("HALF_OPEN")?],
            syn_cache: SynCache::new(|name| map_forms::open(&pins.join(name)))?,
            cached_sets: Map::Array(open(syn_cache::SETS)?).try_into()?,
            cache_settings: zerocopy::transmute!(words),
            reports: Map::RingBuf(open("EVENTS")?).try_into()?,
            cached: Cell::default(),
        })
    }

    pub(crate) fn configure(&mut self, config: LiveConfig) -> Result<()> {
        Ok(self.tables.configure(config)?)
    }

    /// Runs a program on a packet.
    pub(crate) fn run(&mut self, shot: &Shot) -> Result<()> {
        let bytes = shot.bytes.len();
        self.programs[shot.interface]
            .run(shot)
            .with_context(|| format!("a program on {bytes} bytes: {shot:?}"))
    }

    /// Runs the sweep's program on a batch.
    pub(crate) fn remove(&self, batch: &mut [Removal]) -> Result<()> {
        Ok(remove(&self.sweep, &self.tables, batch)?)
    }

    /// Writes over a record, as another CPU might.
    pub(crate) fn overwrite_confirmed(&mut self, key: &FlowKey, flow: &mut Flow) -> Result<()> {
        let mut value = [0; size_of::<Flow>()];
        value.copy_from_slice(flow.as_mut_bytes());
        Ok(self.confirmed.insert(key_bytes(key), value, 0)?)
    }

    /// As [`Self::overwrite_confirmed`].
    pub(crate) fn overwrite_half_open(&mut self, key: &FlowKey, flow: &mut HalfOpen) -> Result<()> {
        let mut value = [0; HALF_OPEN_SIZE];
        value.copy_from_slice(flow.as_mut_bytes());
        // It may have been cached, and have no record yet.
        if let Some(CachePlace { set, tag }) = self.cache_settings.place(key) {
            let mut words = self.cached_sets.get(&set, 0)?;
            let mut there: CacheSet = zerocopy::transmute!(words);
            there.forget(tag);
            words.as_mut_bytes().copy_from_slice(there.as_mut_bytes());
            self.cached_sets.set(set, words, 0)?;
        }
        Ok(self.half_open.insert(key_bytes(key), value, 0)?)
    }

    /// Takes a record away, whatever it is.
    pub(crate) fn delete(&mut self, key: &FlowKey, tier: Tier) -> Result<()> {
        match tier {
            Tier::Confirmed => self.confirmed.remove(&key_bytes(key))?,
            Tier::HalfOpen => self.half_open.remove(&key_bytes(key))?,
        }
        Ok(())
    }

    /// Takes what was reported out of the ring buffer, in order.
    pub(crate) fn take_events(&mut self, events: &mut Vec<Vec<u8>>) {
        while let Some(event) = self.reports.next() {
            events.push(event.to_vec());
        }
    }

    /// Everything that was written down.
    pub(crate) fn books(&self) -> Result<Books> {
        let [confirmed, half_open] = &self.fds;
        let mut books = Books {
            confirmed: records(confirmed, size_of::<Flow>())?,
            half_open: records(half_open, HALF_OPEN_SIZE)?,
            ..Books::default()
        };
        let (mut cached, mut twice) = (0, None);
        self.syn_cache.each(|key, record| {
            cached += 1;
            let bytes = record.clone().as_mut_bytes().to_vec();
            if books.half_open.insert(key_bytes(key).to_vec(), bytes).is_some() {
                twice = Some(*key);
            }
        })?;
        self.cached.set(self.cached.get() + cached);
        if let Some(key) = twice {
            bail!("{key:?} is cached, and has a record");
        }
        for interface in INTERFACES {
            for hook in Hook::ALL {
                books.packets.extend(self.tables.packets(interface.slot, hook)?);
            }
        }
        for rule in Rule::ALL {
            for hook in Hook::ALL {
                books.breaches.push(self.tables.breaches(*rule, hook)?);
            }
        }
        for tally in Tally::ALL {
            books.tallies.push(self.tables.tally(*tally)?);
        }
        Ok(books)
    }

    /// Forgets every flow, report, and what was reported too often. Counters go on.
    pub(crate) fn clear(&mut self) -> Result<()> {
        empty(&mut self.confirmed)?;
        empty(&mut self.half_open)?;
        for set in 0..=u32::try_from(self.cache_settings.last_set)? {
            self.cached_sets.set(set, [0; SET_WORDS], 0)?;
        }
        for programs in &mut self.programs {
            programs.forget_reported()?;
        }
        self.take_events(&mut Vec::new());
        Ok(())
    }
}

fn key_bytes(key: &FlowKey) -> [u8; KEY_SIZE] {
    zerocopy::transmute!(*key)
}

fn empty<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> Result<()> {
    let keys = map.keys().collect::<Result<Vec<K>, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}

fn records(map: &MapData, size: usize) -> Result<Records> {
    let mut found = Records::new();
    let mut walk = Walk::new(map, KEY_SIZE, size, 1024)?;
    while let Some((keys, values)) = walk.step()? {
        let pairs = keys.chunks_exact(KEY_SIZE).zip(values.chunks_exact(size));
        found.extend(pairs.map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
    Ok(found)
}
