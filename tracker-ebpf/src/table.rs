//! The tables of flows. No other file touches their maps.
//!
//! An element stays allocated while a program runs that holds it. It may be deleted, and used for another key, meanwhile: see
//! [`tracker_common::track`] on races.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, LruHashMap},
};
use tracker_common::{
    flow::{Flow, HalfOpen},
    key::FlowKey,
    syn_cache::{CachePlace, CacheSet, CacheSettings, CachedAddresses},
    track::Inserted,
};

/// Flows that nothing evicts. The agent sets the size, for which memory is taken at once: an insertion cannot fail for want
/// of memory so, and is no dearer where there are many flows (docs/performance.md).
#[map]
static CONFIRMED: HashMap<FlowKey, Flow> = HashMap::pinned(1, 0);

/// Flows that the next flood may evict. The agent sets the size.
#[map]
static HALF_OPEN: LruHashMap<FlowKey, HalfOpen> = LruHashMap::pinned(1, 0);

/// Handshakes that go as nearly all do, before they are worth a record. The agent sets the size; the memory is its own, too.
#[map]
static SYN_CACHE: Array<CacheSet> = Array::pinned(1, BPF_F_MMAPABLE);

/// Their IPv6 addresses: eight a set.
#[map]
static SYN_CACHE_ADDRESSES: Array<CachedAddresses> = Array::pinned(8, BPF_F_MMAPABLE);

/// Where in the cache a key is. Zeros, until the agent says otherwise.
#[map]
static SYN_CACHE_SETTINGS: Array<CacheSettings> = Array::pinned(1, 0);

/// The set of the SYN cache where the handshake of a key is, if it is cached.
#[inline(always)]
pub(crate) fn syn_cache<'a>(key: &FlowKey) -> Option<(CachePlace, &'a CacheSet)> {
    // SAFETY: an array's element is never freed.
    let settings = SYN_CACHE_SETTINGS.get_ptr(0).map(|settings| unsafe { &*settings })?;
    let place = settings.place(key)?;
    // SAFETY: likewise.
    let set = SYN_CACHE.get_ptr(place.set).map(|set| unsafe { &*set })?;
    Some((place, set))
}

/// Where the IPv6 addresses of a cached handshake are.
#[inline(always)]
pub(crate) fn cached_addresses<'a>(index: u32) -> Option<&'a CachedAddresses> {
    // SAFETY: an array's element is never freed.
    SYN_CACHE_ADDRESSES.get_ptr(index).map(|addresses| unsafe { &*addresses })
}

/// The confirmed flow of a key.
#[inline(always)]
pub(crate) fn confirmed<'a>(key: &FlowKey) -> Option<&'a Flow> {
    // SAFETY: the element stays allocated while the program runs.
    CONFIRMED.get_ptr(key).map(|flow| unsafe { &*flow })
}

/// The half-open flow of a key.
#[inline(always)]
pub(crate) fn half_open<'a>(key: &FlowKey) -> Option<&'a HalfOpen> {
    // SAFETY: the element stays allocated while the program runs.
    HALF_OPEN.get_ptr(key).map(|flow| unsafe { &*flow })
}

/// Deletes the confirmed flow of a key, if there is one.
#[inline(always)]
pub(crate) fn delete_confirmed(key: &FlowKey) {
    let _ = CONFIRMED.remove(key);
}

/// Deletes the half-open flow of a key, if there is one.
#[inline(always)]
pub(crate) fn delete_half_open(key: &FlowKey) {
    let _ = HALF_OPEN.remove(key);
}

/// Copies a flow into the table of confirmed ones, over an existing one only if `replace`.
#[inline(always)]
pub(crate) fn insert_confirmed(key: &FlowKey, flow: &Flow, replace: bool) -> Inserted {
    outcome(CONFIRMED.insert(key, flow, how(replace)))
}

/// Copies a flow into the table of half-open ones, over an existing one only if `replace`.
#[inline(always)]
pub(crate) fn insert_half_open(key: &FlowKey, flow: &HalfOpen, replace: bool) -> Inserted {
    outcome(HALF_OPEN.insert(key, flow, how(replace)))
}

#[inline(always)]
fn how(replace: bool) -> u64 {
    u64::from(if replace { BPF_ANY } else { BPF_NOEXIST })
}

#[inline(always)]
fn outcome(result: Result<(), i32>) -> Inserted {
    const EEXIST: i32 = 17;
    match result {
        Ok(()) => Inserted::Done,
        Err(error) if error == -EEXIST => Inserted::Exists,
        Err(_) => Inserted::Full,
    }
}
