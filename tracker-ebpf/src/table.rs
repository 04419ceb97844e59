//! The tables of flows. No other file touches their maps.
//!
//! An element stays allocated while a program runs that holds it. It may be deleted, and used for another key, meanwhile: see
//! [`tracker_common::track`] on races.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    macros::map,
    maps::{HashMap, LruHashMap},
};
use tracker_common::{
    flow::{Flow, HalfOpen},
    key::FlowKey,
    track::Inserted,
};

/// Flows that nothing evicts. The agent sets the size, for which memory is taken at once: an insertion cannot fail for want
/// of memory so, and is no dearer where there are many flows (docs/performance.md).
#[map]
static CONFIRMED: HashMap<FlowKey, Flow> = HashMap::pinned(1, 0);

/// Flows that the next flood may evict. The agent sets the size.
#[map]
static HALF_OPEN: LruHashMap<FlowKey, HalfOpen> = LruHashMap::pinned(1, 0);

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
