//! The kernel's maps and clock as [`Surroundings`].

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use tracker_common::{
    config::{InterfaceConfig, LiveConfig},
    counters::{Hook, Tally},
    event::{Event, Kind},
    flow::{Flow, HalfOpen},
    forget::Forget,
    key::FlowKey,
    sweep::Tables,
    track::{Inserted, Report, Surroundings},
    violation::Rule,
};

use crate::maps::{self, Scratch, interface};

pub(crate) struct Kernel {
    interface: InterfaceConfig,
    scratch: *mut Scratch,
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
        // SAFETY: the element stays allocated while the program runs. It may be deleted and used for another key
        // meanwhile: see `tracker_common::track` on races.
        maps::CONFIRMED.get_ptr(key).map(|flow| unsafe { &*flow })
    }

    #[inline(always)]
    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen> {
        // SAFETY: as above.
        maps::HALF_OPEN.get_ptr(key).map(|flow| unsafe { &*flow })
    }

    #[inline(always)]
    fn delete_confirmed(&self, key: &FlowKey) {
        let _ = maps::CONFIRMED.remove(key);
    }

    #[inline(always)]
    fn delete_half_open(&self, key: &FlowKey) {
        let _ = maps::HALF_OPEN.remove(key);
    }
}

impl Surroundings for Kernel {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.interface.ifindex
    }

    #[inline(always)]
    fn scratch(&self) -> Option<&HalfOpen> {
        // SAFETY: this CPU's own element.
        Some(unsafe { &(*self.scratch).flow })
    }

    #[inline(always)]
    fn insert_half_open(&self, key: &FlowKey, flow: &HalfOpen, replace: bool) -> Inserted {
        outcome(maps::HALF_OPEN.insert(key, flow, how(replace)))
    }

    #[inline(always)]
    fn insert_confirmed(&self, key: &FlowKey, flow: &Flow, replace: bool) -> Inserted {
        outcome(maps::CONFIRMED.insert(key, flow, how(replace)))
    }

    #[inline(always)]
    fn tally(&self, tally: Tally) {
        maps::tally(tally);
    }

    #[inline(always)]
    fn count_breach(&self, rule: Rule, hook: Hook) {
        maps::count_breach(rule, hook);
    }

    #[inline(always)]
    fn report(&self, report: &Report<'_>) {
        let Some(config) = maps::CONFIG.get_ptr(0) else { return };
        // SAFETY: an array's element is never freed.
        let config = unsafe { &*config };
        if config.events & report.kind.bit() != 0 && is_traced(config, report) {
            send(report, self.interface.ifindex);
        }
    }
}

/// Whether a segment's report is about a flow that somebody follows; other reports need not be.
#[inline(always)]
fn is_traced(config: &LiveConfig, report: &Report<'_>) -> bool {
    report.kind as u8 != Kind::Segment as u8 || config.trace.matches(&report.packet.key)
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

impl Forget for Kernel {
    #[inline(always)]
    fn forget<T: Copy>(&self, value: T) -> T {
        forget_in(self.scratch, value)
    }
}

/// Writes `value` to map memory and reads it back: to the verifier it is then an unknown number.
#[inline(always)]
pub(crate) fn forget_in<T: Copy>(scratch: *mut Scratch, value: T) -> T {
    const { assert!(size_of::<T>() <= 64 && align_of::<T>() <= 8) };
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

/// Writes a report into the ring buffer. Not inlined: it is called from many places.
#[inline(never)]
fn send(report: &Report<'_>, ifindex: u32) -> u32 {
    let Some(mut entry) = maps::EVENTS.reserve::<Event>(0) else {
        maps::tally(Tally::ReportsLost);
        return 1;
    };
    // SAFETY: the reserved entry is valid for an `Event`, any octets are one, and all are written below.
    let event = unsafe { entry.assume_init_mut() };
    let segment = &report.packet.segment;
    event.time_ns = report.now_ns;
    event.key = report.packet.key;
    event.kind = report.kind as u8;
    event.rule = report.breach.rule as u8;
    event.from = report.packet.from.code();
    event.hook = report.hook as u8;
    event.before = [report.before[0] as u8, report.before[1] as u8];
    event.after = [report.after[0] as u8, report.after[1] as u8];
    event.ifindex = ifindex;
    event.seq = segment.seq.0;
    event.ack = segment.ack.0;
    event.payload = segment.payload;
    event.low = report.breach.low;
    event.high = report.breach.high;
    event.actual = report.breach.actual;
    event.flags = segment.flags.0;
    event.window = segment.window;
    event.has_flow = u32::from(report.flow.is_some());
    event.reserved = 0;
    match report.flow {
        // SAFETY: two records, one of them ours alone.
        Some(flow) => unsafe { core::ptr::copy_nonoverlapping(flow, &raw mut event.flow, 1) },
        // SAFETY: any octets are a record.
        None => unsafe { core::ptr::write_bytes(&raw mut event.flow, 0, 1) },
    }
    entry.submit(0);
    0
}
