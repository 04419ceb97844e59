//! The kernel programs' maps, as the agent and the other commands read them.

use std::{
    ops::ControlFlow,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, PerCpuValues},
};
use tracker_common::{
    config::LiveConfig,
    counters::{Fate, Hook, Tally},
    flow::{Flow, HalfOpen},
    key::FlowKey,
    sweep::Tier,
    violation::Rule,
};
use zerocopy::FromBytes;

use crate::{
    kernel::{
        batch::Walk,
        map_forms,
        syn_cache::{self, SynCache},
    },
    model::error::{Context, Error, Result},
};

/// Entries of a hash map that are read in one system call.
const STEP: usize = 512;

/// The maps of one agent.
pub struct Tables {
    confirmed: MapData,
    half_open: MapData,
    /// None, where the agent is of a version that has none.
    syn_cache: Option<SynCache>,
    packets: PerCpuArray<MapData, [u64; Fate::SLOTS]>,
    violations: PerCpuArray<MapData, u64>,
    drops: PerCpuArray<MapData, u64>,
    tallies: PerCpuArray<MapData, u64>,
    removals: MapData,
    config: Array<MapData, [u64; size_of::<LiveConfig>() / 8]>,
}

impl Tables {
    /// Opens the maps that are pinned in a directory.
    ///
    /// # Errors
    ///
    /// Where one is missing or cannot be opened.
    pub fn from_pins(pins: &Path) -> Result<Self> {
        let has_cache = syn_cache::is_pinned(pins)?;
        Self::from_maps(has_cache, |name| map_forms::open(&pins.join(name)))
    }

    /// Takes the maps of one loaded object.
    ///
    /// # Errors
    ///
    /// Where one is missing, or was taken before.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Self::from_maps(true, |name| take_map(ebpf, name))
    }

    /// Opens each map by its name with `open`; those of the SYN cache, if there is one.
    ///
    /// # Errors
    ///
    /// Where one cannot be opened, or is of another kind.
    pub fn from_maps(
        has_cache: bool,
        mut open: impl FnMut(&str) -> Result<MapData>,
    ) -> Result<Self> {
        let syn_cache = has_cache.then(|| SynCache::new(&mut open)).transpose()?;
        let mut open = |name: &str| map_forms::check(name, open(name)?);
        Ok(Self {
            confirmed: open("CONFIRMED")?,
            half_open: open("HALF_OPEN")?,
            syn_cache,
            packets: Map::PerCpuArray(open("PACKETS")?).try_into()?,
            violations: Map::PerCpuArray(open("VIOLATIONS")?).try_into()?,
            drops: Map::PerCpuArray(open("DROPS")?).try_into()?,
            tallies: Map::PerCpuArray(open("TALLIES")?).try_into()?,
            removals: open("REMOVALS")?,
            config: Map::Array(open("CONFIG")?).try_into()?,
        })
    }

    /// Calls `visit` with every flow; what comes and goes during the walk may be missed or seen.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn each_flow(&self, mut visit: impl FnMut(&FlowKey, &Flow, Tier)) -> Result<()> {
        self.each_flow_until(|key, flow, tier| {
            visit(key, flow, tier);
            ControlFlow::Continue(())
        })
    }

    /// Calls `visit` with every flow until that breaks, as [`Tables::each_flow`] does.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn each_flow_until(
        &self,
        mut visit: impl FnMut(&FlowKey, &Flow, Tier) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut walk = Walk::new(&self.confirmed, size_of::<FlowKey>(), size_of::<Flow>(), STEP)
            .context("reading the confirmed flows")?;
        while let Some((keys, values)) = walk.step().context("reading the confirmed flows")? {
            for (key, flow) in pairs::<Flow>(keys, values) {
                if visit(&key, &flow, Tier::Confirmed).is_break() {
                    return Ok(());
                }
            }
        }
        self.each_half_open_until(|key, flow| visit(key, flow, Tier::HalfOpen))
    }

    /// Calls `visit` with every half-open flow, as [`Tables::each_flow`] does.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn each_half_open(&self, mut visit: impl FnMut(&FlowKey, &Flow)) -> Result<()> {
        self.each_half_open_until(|key, flow| {
            visit(key, flow);
            ControlFlow::Continue(())
        })
    }

    fn each_half_open_until(
        &self,
        mut visit: impl FnMut(&FlowKey, &Flow) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut walk =
            Walk::new(&self.half_open, size_of::<FlowKey>(), size_of::<HalfOpen>(), STEP)
                .context("reading the half-open flows")?;
        while let Some((keys, values)) = walk.step().context("reading the half-open flows")? {
            for (key, half_open) in pairs::<HalfOpen>(keys, values) {
                if visit(&key, &half_open.flow).is_break() {
                    return Ok(());
                }
            }
        }
        if let Some(cache) = &self.syn_cache {
            let mut goes_on = ControlFlow::Continue(());
            cache.each(|key, half_open| {
                if goes_on.is_continue() {
                    goes_on = visit(key, &half_open.flow);
                }
            })?;
        }
        Ok(())
    }

    /// Packets by fate, of one hook of the interface with this slot, over all CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn packets(&self, slot: u32, hook: Hook) -> Result<[u64; Fate::SLOTS]> {
        let mut sum = [0; Fate::SLOTS];
        for counters in self.packets.get(&(slot * 2 + hook as u32), 0)?.iter() {
            for (total, count) in sum.iter_mut().zip(counters) {
                *total += count;
            }
        }
        Ok(sum)
    }

    /// Sets the packets of the interface with this slot to zero.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn forget_packets(&mut self, slot: u32) -> Result<()> {
        for hook in Hook::ALL {
            let index = slot * 2 + hook as u32;
            let cpus = self.packets.get(&index, 0)?.len();
            let zeroes = PerCpuValues::try_from(vec![[0; Fate::SLOTS]; cpus])?;
            self.packets.set(index, zeroes, 0)?;
        }
        Ok(())
    }

    /// Breaches of a rule at a hook, over all CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn breaches(&self, rule: Rule, hook: Hook) -> Result<u64> {
        Ok(self.violations.get(&(rule as u32 * 2 + hook as u32), 0)?.iter().sum())
    }

    /// Packets that were chosen to be dropped because they break a rule, over all CPUs: those that passed, because packets are only
    /// counted, and those that were dropped.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn drops(&self, rule: Rule) -> Result<[u64; 2]> {
        let count = |index| -> Result<u64> { Ok(self.drops.get(&index, 0)?.iter().sum()) };
        Ok([count(rule as u32 * 2)?, count(rule as u32 * 2 + 1)?])
    }

    /// Counts a breach of a rule that only the agent finds: nobody else writes its counter.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn count_breach(&mut self, rule: Rule, hook: Hook) -> Result<()> {
        let index = rule as u32 * 2 + hook as u32;
        let mut counts: Vec<u64> = self.violations.get(&index, 0)?.iter().copied().collect();
        if let Some(first) = counts.first_mut() {
            *first += 1;
        }
        Ok(self.violations.set(index, PerCpuValues::try_from(counts)?, 0)?)
    }

    /// A tally, over all CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn tally(&self, tally: Tally) -> Result<u64> {
        Ok(self.tallies.get(&(tally as u32), 0)?.iter().sum())
    }

    /// Flows that were pushed out of the half-open table by newer ones, where `here` are in it. The kernel does not say
    /// so: it is what entered it less what left it otherwise and what is there, and so right to the few that come and
    /// go while it is read.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn half_open_evicted(&self, here: u64) -> Result<u64> {
        let left = self.tally(Tally::FlowsConfirmed)? + self.tally(Tally::HalfOpenExpired)?;
        Ok(self.tally(Tally::HalfOpenInserted)?.saturating_sub(left + here))
    }

    /// How many flows a table can hold.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn capacity(&self, tier: Tier) -> Result<u32> {
        Ok(match tier {
            Tier::HalfOpen => {
                let cached = self.syn_cache.as_ref().map_or(0, SynCache::capacity);
                self.half_open.info()?.max_entries().saturating_add(cached)
            }
            Tier::Confirmed => self.confirmed.info()?.max_entries(),
        })
    }

    /// The confirmed flows.
    #[must_use]
    pub fn confirmed(&self) -> BorrowedFd<'_> {
        self.confirmed.fd().as_fd()
    }

    /// The batch of flows to remove.
    #[must_use]
    pub fn removals(&self) -> &MapData {
        &self.removals
    }

    /// Returns what the kernel programs report.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn live_config(&self) -> Result<LiveConfig> {
        let words = self.config.get(&0, 0)?;
        Ok(zerocopy::transmute!(words))
    }

    /// Tells the kernel programs what they are to report.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn configure(&mut self, config: LiveConfig) -> Result<()> {
        let words: [u64; size_of::<LiveConfig>() / 8] = zerocopy::transmute!(config);
        Ok(self.config.set(0, words, 0)?)
    }
}

/// Takes a map of a loaded object.
///
/// # Errors
///
/// Where there is none of this name, it was taken before, or it is of a kind that the programs do not use.
pub fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(
            Map::Array(map)
            | Map::HashMap(map)
            | Map::LruHashMap(map)
            | Map::PerCpuArray(map)
            | Map::RingBuf(map),
        ) => Ok(map),
        _ => Err(Error::text(format!("the object has no map {name}"))),
    }
}

fn pairs<V: FromBytes>(keys: &[u8], values: &[u8]) -> impl Iterator<Item = (FlowKey, V)> {
    keys.chunks_exact(size_of::<FlowKey>()).zip(values.chunks_exact(size_of::<V>())).filter_map(
        |(key, value)| Some((FlowKey::read_from_bytes(key).ok()?, V::read_from_bytes(value).ok()?)),
    )
}
