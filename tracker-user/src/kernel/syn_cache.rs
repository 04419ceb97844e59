//! The SYN cache of an agent: handshakes that have no record yet. It is read through mapped memory, or where a descriptor may only be
//! read, of which the kernel maps nothing, in copies.

use std::{fs, io, marker::PhantomData, num::NonZeroUsize, os::fd::AsFd, path::Path, ptr::NonNull};

use aya::maps::{Array, Map, MapData};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use tracker_common::{
    flow::HalfOpen,
    key::FlowKey,
    syn_cache::{CacheSet, CacheSettings, CachedAddresses, CachedHandshake, WAYS},
    track::restore,
};
use zerocopy::FromBytes;

use crate::{
    kernel::{batch::Walk, map_forms},
    model::error::{Context, Result},
};

/// The handshakes.
pub const SETS: &str = "SYN_CACHE";
/// Their IPv6 addresses.
pub const ADDRESSES: &str = "SYN_CACHE_ADDRESSES";
/// [`CacheSettings`].
pub const SETTINGS: &str = "SYN_CACHE_SETTINGS";

/// So many handshakes can be cached for each half-open flow that can have a record.
pub const TIMES: u32 = 2;

/// Bytes that a place for a cached handshake takes.
pub const PLACE_BYTES: u64 = (size_of::<CacheSet>() / WAYS + size_of::<CachedAddresses>()) as u64;

/// Sets of a cache beside so many half-open flows.
#[must_use]
pub const fn sets(max_half_open: u32) -> u32 {
    CacheSettings::sets(max_half_open.saturating_mul(TIMES))
}

/// An array map in this process's memory, as the programs write it.
struct Mapped<T> {
    at: NonNull<libc::c_void>,
    bytes: NonZeroUsize,
    count: usize,
    values: PhantomData<T>,
}

// SAFETY: the memory stays where it is until it is dropped, and what is in it is read by atomic loads.
unsafe impl<T: Sync> Send for Mapped<T> {}
// SAFETY: likewise.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: FromBytes> Mapped<T> {
    /// Maps the values of an array that can be mapped, for reading.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn new(map: &MapData) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel rounds it up else") };
        let count = map.info().map_err(io::Error::other)?.max_entries() as usize;
        let bytes = NonZeroUsize::new(count * size_of::<T>()).ok_or(io::ErrorKind::InvalidData)?;
        let fd = map.fd().as_fd();
        // SAFETY: nothing else is at an address that the kernel chooses.
        let at = unsafe { mmap(None, bytes, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { at, bytes, count, values: PhantomData })
    }

    fn values(&self) -> &[T] {
        // SAFETY: mapped for so many values, aligned to a page; any bytes are a value, and the programs write them as cells.
        unsafe { std::slice::from_raw_parts(self.at.cast::<T>().as_ptr(), self.count) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing refers to it any more.
        let _ = unsafe { munmap(self.at, self.bytes.get()) };
    }
}

/// The SYN cache of one agent.
pub struct SynCache {
    capacity: u32,
    memory: Memory,
}

/// The sets, and the addresses beside them.
enum Memory {
    Mapped(Mapped<CacheSet>, Mapped<CachedAddresses>),
    ToCopy(Box<[MapData; 2]>),
}

/// Sets that are copied in one system call.
const STEP: usize = 64;

impl SynCache {
    /// Maps the cache's memory, of which `open` opens the maps.
    ///
    /// # Errors
    ///
    /// Where one cannot be opened or mapped, or is of another kind.
    pub fn new(mut open: impl FnMut(&str) -> Result<MapData>) -> Result<Self> {
        let sets = map_forms::check(SETS, open(SETS)?)?;
        let addresses = map_forms::check(ADDRESSES, open(ADDRESSES)?)?;
        let capacity = CacheSettings::places(sets.info()?.max_entries());
        let memory = match (Mapped::new(&sets), Mapped::new(&addresses)) {
            (Ok(sets), Ok(addresses)) => Memory::Mapped(sets, addresses),
            (Err(error), _) | (_, Err(error)) if error.raw_os_error() != Some(libc::EINVAL) => {
                return Err(error).context("mapping the SYN cache");
            }
            _ => Memory::ToCopy(Box::new([sets, addresses])),
        };
        Ok(Self { capacity, memory })
    }

    /// Handshakes that it can hold.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Calls `visit` with every handshake's record; what comes and goes meanwhile may be missed or seen.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn each(&self, mut visit: impl FnMut(&FlowKey, &HalfOpen)) -> Result<()> {
        let half_open = HalfOpen::default();
        let mut restored = |key: &FlowKey, handshake: &CachedHandshake| {
            restore(handshake, &half_open);
            visit(key, &half_open);
        };
        match &self.memory {
            Memory::Mapped(sets, addresses) => {
                let addresses = addresses.values();
                for (number, set) in (0..).zip(sets.values()) {
                    let beside = |index: u32| addresses.get(index as usize);
                    set.each(set, number, beside, &mut restored);
                }
                Ok(())
            }
            Memory::ToCopy(maps) => {
                let [sets, addresses] = &**maps;
                copies(sets, addresses, restored).context("reading the SYN cache")
            }
        }
    }
}

/// Calls `visit` with every handshake, of copies of some sets at a time.
fn copies(
    sets: &MapData,
    addresses: &MapData,
    mut visit: impl FnMut(&FlowKey, &CachedHandshake),
) -> io::Result<()> {
    const SET: usize = size_of::<CacheSet>();
    const ADDRESSES: usize = size_of::<CachedAddresses>();
    let walk = |map, value, count| Walk::new(map, size_of::<u32>(), value, count);
    // The same places in all three, one after the other.
    let mut first = walk(sets, SET, STEP)?;
    let mut beside = walk(addresses, ADDRESSES, STEP * WAYS)?;
    let mut second = walk(sets, SET, STEP)?;
    let mut number = 0;
    while let Some((_, before)) = first.step()? {
        let (Some((_, addresses)), Some((_, after))) = (beside.step()?, second.step()?) else {
            return Ok(());
        };
        let base = CacheSettings::places(number);
        let addresses: Vec<_> = addresses
            .chunks_exact(ADDRESSES)
            .filter_map(|bytes| CachedAddresses::read_from_bytes(bytes).ok())
            .collect();
        for (before, after) in before.chunks_exact(SET).zip(after.chunks_exact(SET)) {
            if let (Ok(before), Ok(after)) =
                (CacheSet::read_from_bytes(before), CacheSet::read_from_bytes(after))
            {
                let at = |index: u32| addresses.get((index - base) as usize);
                before.each(&after, number, at, &mut visit);
            }
            number += 1;
        }
    }
    Ok(())
}

/// Lets the programs use the cache, if they do not: once all of them know of it.
///
/// # Errors
///
/// What the kernel says.
pub fn enable(pins: &Path) -> Result<()> {
    type Words = [u64; size_of::<CacheSettings>() / 8];
    let sets = map_forms::open(&pins.join(SETS))?.info()?.max_entries();
    let settings = map_forms::open(&pins.join(SETTINGS))?;
    let mut map: Array<_, Words> = Map::Array(settings).try_into()?;
    let there: CacheSettings = zerocopy::transmute!(map.get(&0, 0)?);
    if there != CacheSettings::default() {
        return Ok(());
    }
    let mut key = [0u8; 16];
    getrandom::fill(&mut key).map_err(io::Error::other).context("asking for random numbers")?;
    let mut key: [u64; 2] = zerocopy::transmute!(key);
    // Zeros mean that it is not used.
    key[0] |= 1;
    let words: Words = zerocopy::transmute!(CacheSettings { key, last_set: u64::from(sets) - 1 });
    Ok(map.set(0, words, 0)?)
}

/// Whether the agent whose maps are pinned there has a cache: one of an older version has none.
///
/// # Errors
///
/// Where that cannot be seen.
pub fn is_pinned(pins: &Path) -> io::Result<bool> {
    fs::exists(pins.join(SETS))
}
