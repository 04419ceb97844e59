//! What nearly all packets are: segments that are to be expected, and those of usual handshakes. What is left is for the steps of
//! tracking in `main.rs`.

use tracker_common::{
    counters::{Fate, Hook},
    elsewhere::is_counted_elsewhere,
    event::Kind,
    flow::Flow,
    predict::{track_close, track_predicted},
    track::{Environment, InCache, give_way, promote, track_handshake},
};

use crate::{
    about_now_ns, here, hook_of,
    kernel::Kernel,
    maps::{self, is_traced},
};

/// How often a packet comes back where another CPU begins the same handshake: copies of one SYN. Each time one of both has its place.
const AGAIN: u32 = 64;

/// The code of the packet's [`Fate`], where it is of a usual handshake.
#[inline(always)]
pub(crate) fn in_cache(confirmed: *const Flow, hook: Hook, now_ns: u64) -> Option<u32> {
    if !confirmed.is_null() {
        return None;
    }
    let mut seen = tracker_handshake(hook as u32, now_ns);
    for _ in 0..AGAIN {
        if seen != InCache::Again as u32 {
            break;
        }
        seen = tracker_handshake(hook as u32, now_ns);
    }
    if seen == InCache::Tracked as u32 {
        Some(Fate::Tracked as u32)
    } else if seen == InCache::Elsewhere as u32 {
        Some(Fate::CountedOnArrival as u32)
    } else if seen == InCache::Again as u32 || seen == InCache::Stuck as u32 {
        Some(Fate::NotInserted as u32)
    } else {
        None
    }
}

/// What [`tracker_predicted`] returns.
pub(crate) mod expected {
    /// All the rest is to be done.
    pub(crate) const NOT: u32 = 0;
    /// The packet was tracked.
    pub(crate) const TRACKED: u32 = 1;
    /// It is counted at another hook.
    pub(crate) const ELSEWHERE: u32 = 2;
}

/// Whether anything is left to be done for a packet with this record: a code of [`expected`].
#[inline(always)]
pub(crate) fn predicted(confirmed: *const Flow, hook: Hook) -> u32 {
    if confirmed.is_null() {
        return expected::NOT;
    }
    match tracker_predicted(confirmed, hook as u32) {
        expected::NOT => tracker_close(confirmed, hook as u32),
        expected => expected,
    }
}

/// [`is_counted_elsewhere`], then [`track_predicted`] on the packet in [`Scratch`], if nobody wants to hear of every segment: a code of
/// [`expected`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_predicted(flow: *const Flow, hook: u32) -> u32 {
    // SAFETY: a record, or null. It stays allocated while the program runs, but may be deleted and used for another key
    // meanwhile: see `tracker_common::track` on races. The same holds for all records below.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return expected::NOT };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return expected::NOT };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    let hook = hook_of(hook);
    if is_counted_elsewhere(flow, true, packet, here(hook)) {
        return expected::ELSEWHERE;
    }
    let is_predicted =
        !is_traced() && track_predicted(flow, packet, hook, || about_now_ns(scratch));
    if is_predicted { expected::TRACKED } else { expected::NOT }
}

/// [`track_close`] on the packet in [`Scratch`], if nobody wants to hear of it: a code of [`expected`]. A function of its own, so that
/// [`tracker_predicted`] stays short.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_close(flow: *const Flow, hook: u32) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return expected::NOT };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return expected::NOT };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    let kinds = Kind::Segment.bit() | Kind::Closing.bit() | Kind::Close.bit();
    let is_predicted = !Kernel::new(scratch).listens(kinds)
        && track_close(flow, packet, hook_of(hook), || about_now_ns(scratch));
    if is_predicted { expected::TRACKED } else { expected::NOT }
}

/// [`track_handshake`] on the packet in [`Scratch`]; the code of an [`InCache`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_handshake(hook: u32, now_ns: u64) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return InCache::Not as u32 };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    track_handshake(&Kernel::new(scratch), packet, hook_of(hook), now_ns) as u32
}

/// [`give_way`] for the key in [`Scratch`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_give_way() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let key = unsafe { &(*scratch).parsed.packet.key };
    give_way(&Kernel::new(scratch), key);
    0
}

/// [`promote`] for the key in [`Scratch`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_promote() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let key = unsafe { &(*scratch).parsed.packet.key };
    promote(&Kernel::new(scratch), key);
    0
}
