//! The kernel's maps and clock as [`Environment`].

use tracker_common::{
    config::InterfaceConfig,
    counters::Hook,
    dropping::NO_RULE,
    flow::{Flow, HalfOpen},
    forget::VerifierBarrier,
    key::FlowKey,
    report::{MOST_MARKS, wanted},
    sweep::Tables,
    syn_cache::{CachePlace, CacheSet, CachedAddresses},
    track::{Environment, Inserted, Report},
    violation::{Marks, Rule},
};

use crate::{
    dropping::{self, tracker_drop_if_chosen},
    maps::{self, Scratch, interface},
    reports, table,
};

pub(crate) struct Kernel {
    interface: InterfaceConfig,
    pub(crate) scratch: *mut Scratch,
}

impl Kernel {
    #[inline(always)]
    pub(crate) fn new(scratch: *mut Scratch) -> Self {
        Self { interface: interface(), scratch }
    }
}

impl Tables for Kernel {
    #[inline(always)]
    fn confirmed(&self, key: &FlowKey) -> Option<&Flow> {
        table::confirmed(key)
    }

    #[inline(always)]
    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen> {
        table::half_open(key)
    }

    #[inline(always)]
    fn delete_confirmed(&self, key: &FlowKey) {
        table::delete_confirmed(key);
    }

    #[inline(always)]
    fn delete_half_open(&self, key: &FlowKey) {
        table::delete_half_open(key);
    }
}

impl Environment for Kernel {
    #[inline(always)]
    fn slot(&self) -> u32 {
        self.interface.slot
    }

    #[inline(always)]
    fn scratch(&self) -> Option<&HalfOpen> {
        // SAFETY: this CPU's own element.
        Some(unsafe { &(*self.scratch).flow })
    }

    #[inline(always)]
    fn insert_half_open(&self, key: &FlowKey, flow: &HalfOpen, replace: bool) -> Inserted {
        table::insert_half_open(key, flow, replace)
    }

    #[inline(always)]
    fn insert_confirmed(&self, key: &FlowKey, flow: &Flow, replace: bool) -> Inserted {
        const WORDS: usize = size_of::<Flow>() / 8;
        const { assert!(size_of::<Flow>().is_multiple_of(8) && align_of::<Flow>() == 8) };
        // A global function's argument is no value for a map before Linux 6.2: copied to where one may lie. Where the
        // record is there already, this moves it to itself.
        // SAFETY: this CPU's own element.
        let copy = unsafe { &raw mut (*self.scratch).flow.flow };
        let (from, to) = (core::ptr::from_ref(flow).cast::<u64>(), copy.cast::<u64>());
        for n in 0..WORDS {
            // SAFETY: within the two records.
            #[allow(clippy::multiple_unsafe_ops_per_block)]
            unsafe {
                to.add(n).write_volatile(from.add(n).read_volatile());
            }
        }
        // SAFETY: written above.
        table::insert_confirmed(key, unsafe { &*copy }, replace)
    }

    #[inline(always)]
    fn tally_code(&self, code: u32) {
        maps::tally_code(code);
    }

    #[inline(always)]
    fn count_breach(&self, rule: Rule, hook: Hook) {
        maps::count_breach(rule, hook);
    }

    #[inline(always)]
    fn count_marks(&self, marks: Marks, hook: Hook) {
        if marks != Marks::NONE {
            tracker_count_marks(marks.0, hook as u32);
        }
    }

    #[inline(always)]
    fn drop_if_chosen(&self, marks: Marks, breach: u32) {
        if self.interface.drops != 0 && (marks != Marks::NONE || breach != NO_RULE) {
            tracker_drop_if_chosen(marks.0, breach);
        }
    }

    #[inline(always)]
    fn report(&self, report: &Report<'_>) {
        let Some(config) = maps::CONFIG.get_ptr(0) else { return };
        // SAFETY: an array's element is never freed.
        let config = unsafe { &*config };
        // SAFETY: this CPU's own element.
        let reports = unsafe { &mut (*self.scratch).reports };
        if wanted(config, report.kinds, report.marks) != 0 {
            let dropped = dropping::mode(self.scratch);
            reports::file(report, self.interface.slot, dropped, reports);
        }
    }

    #[inline(always)]
    fn listens(&self, kinds: u32) -> bool {
        // SAFETY: an array's element is never freed.
        maps::CONFIG.get_ptr(0).is_some_and(|config| unsafe { &*config }.events & kinds != 0)
    }

    #[inline(always)]
    fn syn_cache(&self, key: &FlowKey) -> Option<(CachePlace, &CacheSet)> {
        table::syn_cache(key)
    }

    #[inline(always)]
    fn is_flooded(&self, now_ns: u64) -> bool {
        // SAFETY: an array's element is never freed.
        let limit = maps::CONFIG.get_ptr(0).map_or(0, |config| unsafe { &*config }.shed_above);
        // SAFETY: this CPU's own element.
        unsafe { &(*self.scratch).new_rate }.exceeds(limit, now_ns)
    }

    #[inline(always)]
    fn cached_addresses(&self, index: u32) -> Option<&CachedAddresses> {
        table::cached_addresses(index)
    }
}

impl VerifierBarrier for Kernel {
    #[inline(always)]
    fn forget<T: Copy>(&self, value: T) -> T {
        forget_in(self.scratch, value)
    }
}

/// Writes `value` to map memory and reads it back: to the verifier it is then an unknown number.
#[inline(always)]
pub(crate) fn forget_in<T: Copy>(scratch: *mut Scratch, value: T) -> T {
    const { assert!(size_of::<T>() <= 96 && align_of::<T>() <= 8) };
    // SAFETY: this CPU's own element.
    let mut place = unsafe { &raw mut (*scratch).forgotten }.cast::<T>();
    // SAFETY: valid for a `T`, by its size and alignment.
    unsafe { place.write(value) };
    // The compiler, too, must not know what is read back.
    // SAFETY: a move of a register to itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) place, options(nostack, preserves_flags)) };
    // SAFETY: written above.
    unsafe { place.read() }
}

/// Counts a breach of each of `marks`. A global function: the verifier checks it once, not at every call.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_count_marks(marks: u64, hook: u32) -> u32 {
    let mut left = marks;
    for _ in 0..MOST_MARKS {
        if left == 0 {
            break;
        }
        maps::count_code(left.trailing_zeros(), hook);
        left &= left - 1;
    }
    0
}
