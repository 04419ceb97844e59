//! Packets that are dropped for the rules that they break.

use aya_ebpf::maps::lpm_trie::Key;
use tracker_common::{
    counters::Fate,
    dropping::{DropMode, NO_RULE, chosen},
    route::ADDRESS_BITS,
    violation::Marks,
};

use crate::{
    maps::{self, Scratch},
    verdict,
};

/// What becomes of the packet in [`Scratch`], as far as it was judged: the code of a [`DropMode`].
#[inline(always)]
pub(crate) fn mode(scratch: *const Scratch) -> u32 {
    if maps::interface().drops == 0 {
        return DropMode::Off as u32;
    }
    // SAFETY: this CPU's own element.
    unsafe { (*scratch).dropped }
}

/// The code of the packet's [`Fate`], and its [`verdict`], unless it is to be dropped.
#[inline(always)]
pub(crate) fn unless_dropped(scratch: *const Scratch, fate: u32, verdict: u32) -> (u32, u32) {
    if mode(scratch) == DropMode::Drop as u32 {
        (Fate::Dropped as u32, verdict::DROPPED)
    } else {
        (fate, verdict)
    }
}

/// The packet in [`Scratch`] is a new one.
#[inline(always)]
pub(crate) fn begin(scratch: *mut Scratch) {
    // SAFETY: this CPU's own element.
    unsafe { (*scratch).dropped = DropMode::Off as u32 };
}

/// [`tracker_common::track::Environment::drop_if_chosen`] of the packet in [`Scratch`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_drop_if_chosen(marks: u64, breach: u32) -> u32 {
    let Some(config) = maps::CONFIG.get_ptr(0) else { return 0 };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: an array's element is never freed.
    let config = unsafe { &*config };
    let mode = config.drop_mode;
    if mode == DropMode::Off as u32 {
        return 0;
    }
    let rule = chosen(&config.dropped, Marks(marks), breach);
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    if rule == NO_RULE {
        return 0;
    }
    let source = packet.key.addresses[packet.from.index()];
    if maps::DROP_EXEMPT.get(Key::new(ADDRESS_BITS, source)).is_some() {
        return 0;
    }
    let index = rule * 2 + u32::from(mode == DropMode::Drop as u32);
    // SAFETY: this CPU's own element.
    let further = unsafe { (*scratch).further };
    if let Some(count) = maps::DROPS.get_ptr_mut(index) {
        // SAFETY: an array's element is never freed; this CPU alone writes it.
        unsafe { *count += 1 + u64::from(further) };
    }
    // SAFETY: this CPU's own element.
    unsafe { (*scratch).dropped = mode };
    0
}
