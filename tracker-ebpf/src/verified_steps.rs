//! The parts of tracking a segment as global functions, which the verifier checks once and each by itself. They take a
//! record, and exchange the rest through [`PartsState`].

use aya_ebpf::helpers::generated::bpf_loop;
use tracker_common::{
    counters::Hook,
    flow::{Flow, HalfOpen},
    judge::{IsnCandidates, Ruling, Situation, Verdict, take},
    key::FlowKey,
    packet::Packet,
    segment::Flags,
    state::State,
    sweep::states,
    syn_cache::{CacheSet, CachedHandshake, Found, Taken},
    track::{
        self, Environment, SegmentEffect, Step, VerifiedSteps, advance_on, agree_on, belongs,
        choose, close_on, conclude, judge_others_on, judge_reset_on, judge_syn_ack_on,
        judge_syn_on, keep_on, notes_on, offers, publish, reset_signs_on, restore, situation,
        write, write_offers,
    },
    violation::{Breach, Marks},
};

use crate::{
    hook_of,
    kernel::Kernel,
    maps,
    usual::{tracker_give_way, tracker_promote},
};

/// What one part leaves for the next: values as they lie in memory, because the kernel's type format has no words for an
/// `Option`.
#[repr(C)]
pub(crate) struct PartsState {
    offers: [u64; 2],
    situation: [u64; 4],
    ruling: [u64; 4],
    verdict: [u64; 14],
    marks: u64,
    storm: [u64; 3],
    seen: [u64; 6],
    step: [u64; 2],
    found: [u64; 4],
    taken: [u64; 4],
}

#[inline(always)]
fn put<T: Copy, const N: usize>(place: &mut [u64; N], value: T) {
    const { assert!(size_of::<T>() <= N * 8 && align_of::<T>() <= 8) };
    // SAFETY: large enough, and aligned.
    unsafe { place.as_mut_ptr().cast::<T>().write(value) };
}

/// What was [`put`] there last, and was a `T`.
#[inline(always)]
fn get<T: Copy, const N: usize>(place: &[u64; N]) -> &T {
    const { assert!(size_of::<T>() <= N * 8 && align_of::<T>() <= 8) };
    // SAFETY: a `T` was written there, by the caller's word.
    unsafe { &*place.as_ptr().cast::<T>() }
}

/// Returns the same as [`get`], mutably.
#[inline(always)]
fn get_mut<T: Copy, const N: usize>(place: &mut [u64; N]) -> &mut T {
    const { assert!(size_of::<T>() <= N * 8 && align_of::<T>() <= 8) };
    // SAFETY: a `T` was written there, by the caller's word.
    unsafe { &mut *place.as_mut_ptr().cast::<T>() }
}

impl Kernel {
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // this CPU's own memory, and nobody keeps what is returned
    fn parts(&self) -> &mut PartsState {
        // SAFETY: this CPU's own element.
        unsafe { &mut (*self.scratch).parts }
    }
}

/// The rest of a verdict stays in [`PartsState`].
pub(crate) struct Outcome {
    is_breach: bool,
    renews: bool,
}

impl track::Outcome for Outcome {
    #[inline(always)]
    fn is_breach(&self) -> bool {
        self.is_breach
    }

    #[inline(always)]
    fn renews(&self) -> bool {
        self.renews
    }
}

impl VerifiedSteps for Kernel {
    type Verdict = Outcome;

    #[inline(always)]
    fn states(&self, flow: &Flow) -> [State; 2] {
        states_of(flow)
    }

    #[inline(always)]
    fn choose(&self, half_open: &HalfOpen, _: &Packet) {
        tracker_choose(half_open);
    }

    #[inline(always)]
    fn offers(&self, half_open: &HalfOpen, _: &Packet) -> IsnCandidates {
        tracker_offers(half_open);
        *get(&self.parts().offers)
    }

    #[inline(always)]
    fn belongs(&self, newer: &HalfOpen, flow: &Flow, _: &Packet) -> bool {
        tracker_belongs(newer, flow) != 0
    }

    #[inline(always)]
    fn situation(&self, flow: &Flow, _: &Packet, hook: Hook, offers: IsnCandidates) -> Situation {
        put(&mut self.parts().offers, offers);
        tracker_situation(flow, hook as u32);
        *get(&self.parts().situation)
    }

    #[inline(always)]
    fn judge(&self, flow: &Flow, packet: &Packet, _: &Situation) -> Outcome {
        if packet.segment.has(Flags::RST) {
            tracker_judge_reset(flow, tracker_reset_signs(flow));
            tracker_reset(flow);
        } else if packet.segment.has(Flags::SYN.with(Flags::ACK)) {
            tracker_judge_syn_ack(flow);
        } else if packet.segment.has(Flags::SYN) {
            tracker_judge_syn(flow);
        } else if tracker_judge_others(flow) != 0 {
            tracker_advance(flow);
            tracker_agree(flow);
        } else {
            tracker_keep(flow);
        }
        let verdict: &Verdict = get(&self.parts().verdict);
        Outcome { is_breach: verdict.breach.is_some(), renews: verdict.renew }
    }

    #[inline(always)]
    fn notes(&self, flow: &Flow, _: &Packet, _: &Situation) -> Marks {
        tracker_notes(flow);
        Marks(self.parts().marks)
    }

    #[inline(always)]
    fn write(&self, flow: &Flow, _: &Packet, hook: Hook, _: &Outcome, _: Marks) -> Option<Breach> {
        tracker_write(flow, hook as u32);
        *get(&self.parts().storm)
    }

    #[inline(always)]
    fn write_offers(&self, half_open: &HalfOpen, _: &Packet, _: &Outcome) {
        tracker_write_offers(half_open);
    }

    #[inline(always)]
    fn lock(&self, set: &CacheSet, tag: u64) -> Found {
        tracker_lock(set, tag);
        *get(&self.parts().found)
    }

    #[inline(always)]
    fn take(&self, set: &CacheSet, tag: u64, now_ns: u64, shed: bool) -> Taken {
        tracker_take(set, tag, now_ns, u32::from(shed));
        *get(&self.parts().taken)
    }

    #[inline(always)]
    fn give_way(&self, _: &FlowKey) {
        tracker_give_way();
    }

    #[inline(always)]
    fn restore(&self, handshake: &CachedHandshake) {
        tracker_restore(handshake);
    }

    #[inline(always)]
    fn promote(&self, key: &FlowKey) {
        // SAFETY: this CPU's own element.
        unsafe { (*self.scratch).parsed.packet.key = *key };
        tracker_promote();
    }

    #[inline(always)]
    fn conclude(&self, flow: &Flow, seen: &SegmentEffect) -> Step {
        put(&mut self.parts().seen, *seen);
        tracker_conclude(flow);
        *get(&self.parts().step)
    }

    #[inline(always)]
    fn publish(
        &self,
        flow: &Flow,
        _: &Packet,
        hook: Hook,
        now_ns: u64,
        seen: &SegmentEffect,
        step: Step,
    ) {
        put(&mut self.parts().seen, *seen);
        put(&mut self.parts().step, step);
        tracker_publish(flow, hook as u32, now_ns);
    }
}

/// Defines a part of tracking as a function that the verifier checks by itself, with a stack frame of its own. It gets a record,
/// the kernel's maps, and this CPU's [`Scratch`](crate::maps::Scratch), where its other arguments and its results are; without them it
/// returns what stands after `or`.
macro_rules! step {
    ($(#[$attribute:meta])* $name:ident($record:ident: $of:ty $(, $argument:ident: $type:ty)*) or $missing:expr,
     |$kernel:ident, $scratch:ident| $body:block) => {
        $(#[$attribute])*
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $name($record: *const $of $(, $argument: $type)*) -> u32 {
            // SAFETY: a record, or null.
            let Some($record) = (unsafe { $record.as_ref() }) else { return $missing };
            let Some(own) = maps::SCRATCH.get_ptr_mut(0) else { return $missing };
            let $kernel = Kernel::new(own);
            // SAFETY: this CPU's own element.
            let $scratch = unsafe { &mut *own };
            $body
        }
    };
}

/// What the functions below get instead of a record, never in fact: the verifier allows for it.
const NO_RECORD: u32 = 1;

/// [`states`] as a number: the low end's in the lowest byte, the high end's in the next. A walk calls it too, which packets may
/// interrupt; so it leaves [`maps::SCRATCH`] alone.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_states(flow: *const Flow) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    let [low, high] = states(flow);
    low as u32 | (high as u32) << 8
}

/// [`states`], which the verifier follows once in a program.
#[inline(always)]
pub(crate) fn states_of(flow: &Flow) -> [State; 2] {
    let states = tracker_states(flow);
    [states, states >> 8].map(|code| {
        let code = (code & 0xff) as u8;
        // SAFETY: the number of a state.
        unsafe { core::hint::assert_unchecked(code <= State::TimeWait as u8) };
        // SAFETY: so it is.
        unsafe { core::mem::transmute::<u8, State>(code) }
    })
}

step!(tracker_choose(half_open: HalfOpen) or NO_RECORD, |_kernel, scratch| {
    choose(half_open, &scratch.parsed.packet);
    0
});

step!(tracker_offers(half_open: HalfOpen) or NO_RECORD, |_kernel, scratch| {
    put(&mut scratch.parts.offers, offers(half_open, &scratch.parsed.packet));
    0
});

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_belongs(newer: *const HalfOpen, flow: *const Flow) -> u32 {
    // SAFETY: a record, or null.
    let Some(newer) = (unsafe { newer.as_ref() }) else { return 0 };
    // SAFETY: likewise.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    u32::from(belongs(newer, flow, unsafe { &(*scratch).parsed.packet }))
}

step!(tracker_situation(flow: Flow, hook: u32) or NO_RECORD, |_kernel, scratch| {
    let parts = &mut scratch.parts;
    let offers: &IsnCandidates = get(&parts.offers);
    let situation = situation(flow, &scratch.parsed.packet, hook_of(hook), *offers);
    put(&mut parts.situation, situation);
    0
});

step!(
    /// [`reset_signs_on`], which it returns.
    tracker_reset_signs(flow: Flow) or 0, |kernel, scratch| {
    let situation: &Situation = get(&scratch.parts.situation);
    u32::from(reset_signs_on(&kernel, flow, &scratch.parsed.packet, situation))
});

step!(tracker_judge_reset(flow: Flow, signs: u32) or NO_RECORD, |kernel, scratch| {
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    let signs = (signs & 0xff) as u8;
    put(&mut parts.ruling, judge_reset_on(&kernel, flow, &scratch.parsed.packet, situation, signs));
    0
});

step!(tracker_reset(flow: Flow) or NO_RECORD, |_kernel, scratch| {
    let parts = &mut scratch.parts;
    let ruling: &Ruling = get(&parts.ruling);
    let verdict: &mut Verdict = get_mut(&mut parts.verdict);
    close_on(flow, &scratch.parsed.packet, ruling, verdict);
    0
});

step!(tracker_judge_syn(flow: Flow) or NO_RECORD, |_kernel, scratch| {
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    put(&mut parts.verdict, judge_syn_on(flow, &scratch.parsed.packet, situation));
    0
});

step!(tracker_judge_syn_ack(flow: Flow) or NO_RECORD, |kernel, scratch| {
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    put(&mut parts.verdict, judge_syn_ack_on(&kernel, flow, &scratch.parsed.packet, situation));
    0
});

step!(
    /// [`judge_others_on`]; 1 where [`tracker_advance`] and [`tracker_agree`] are to follow, 0 where [`tracker_keep`] is.
    tracker_judge_others(flow: Flow) or 0, |kernel, scratch| {
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    let ruling = judge_others_on(&kernel, flow, &scratch.parsed.packet, situation);
    put(&mut parts.ruling, ruling);
    u32::from(ruling.take & take::ANY)
});

step!(tracker_advance(flow: Flow) or NO_RECORD, |kernel, scratch| {
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    let ruling: &Ruling = get(&parts.ruling);
    let verdict: &mut Verdict = get_mut(&mut parts.verdict);
    advance_on(&kernel, flow, &scratch.parsed.packet, situation, ruling.take, verdict);
    0
});

step!(tracker_agree(flow: Flow) or NO_RECORD, |kernel, scratch| {
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    let verdict: &mut Verdict = get_mut(&mut parts.verdict);
    agree_on(&kernel, flow, &scratch.parsed.packet, situation, verdict);
    0
});

step!(tracker_keep(flow: Flow) or NO_RECORD, |_kernel, scratch| {
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    let ruling: &Ruling = get(&parts.ruling);
    let verdict: &mut Verdict = get_mut(&mut parts.verdict);
    keep_on(flow, &scratch.parsed.packet, situation, ruling, verdict);
    0
});

step!(tracker_notes(flow: Flow) or NO_RECORD, |_kernel, scratch| {
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    parts.marks = notes_on(flow, &scratch.parsed.packet, situation).0;
    0
});

step!(tracker_write(flow: Flow, hook: u32) or NO_RECORD, |_kernel, scratch| {
    let parts = &mut scratch.parts;
    let verdict: &Verdict = get(&parts.verdict);
    let packet = &scratch.parsed.packet;
    put(&mut parts.storm, write(flow, packet, hook_of(hook), verdict, Marks(parts.marks)));
    0
});

step!(tracker_write_offers(half_open: HalfOpen) or NO_RECORD, |_kernel, scratch| {
    write_offers(half_open, &scratch.parsed.packet, get(&scratch.parts.verdict));
    0
});

step!(tracker_lock(set: CacheSet, tag: u64) or NO_RECORD, |kernel, scratch| {
    let found = set.lock(&kernel, tag);
    put(&mut scratch.parts.found, found);
    if matches!(found, Found::Busy) {
        // SAFETY: the callback has the signature that the helper asks for, and the context is not used.
        unsafe { bpf_loop(TRIES, lock_again as *mut core::ffi::c_void, core::ptr::null_mut(), 0) };
    }
    0
});

/// How often a lock is tried: for about a quarter of a second, as long as the kernel's own locks wait (`RES_DEF_TIMEOUT` of
/// kernel/bpf/rqspinlock.c). Who holds it runs with softirqs disabled, and less than a microsecond; but a hypervisor may have
/// stopped its CPU. A packet that is not tracked then would be missing in its flow.
const TRIES: u32 = 1 << 22;

/// [`tracker_lock`] once more, for the key in [`Scratch`](crate::maps::Scratch). 1, which ends the loop, where it need not come again.
unsafe extern "C" fn lock_again(_: u32, _: *mut core::ffi::c_void) -> i64 {
    let Some(own) = maps::SCRATCH.get_ptr_mut(0) else { return 1 };
    let kernel = Kernel::new(own);
    // SAFETY: this CPU's own element.
    let scratch = unsafe { &mut *own };
    let Some((place, set)) = kernel.syn_cache(&scratch.parsed.packet.key) else { return 1 };
    let found = set.lock(&kernel, place.tag);
    put(&mut scratch.parts.found, found);
    i64::from(!matches!(found, Found::Busy))
}

step!(tracker_take(set: CacheSet, tag: u64, now_ns: u64, shed: u32) or NO_RECORD, |kernel, scratch| {
    put(&mut scratch.parts.taken, set.take(&kernel, tag, now_ns, shed != 0));
    0
});

step!(tracker_restore(handshake: CachedHandshake) or NO_RECORD, |_kernel, scratch| {
    restore(handshake, &scratch.flow);
    0
});

step!(tracker_conclude(flow: Flow) or NO_RECORD, |kernel, scratch| {
    let parts = &mut scratch.parts;
    let seen: &SegmentEffect = get(&parts.seen);
    put(&mut parts.step, conclude(&kernel, flow, seen));
    0
});

step!(tracker_publish(flow: Flow, hook: u32, now_ns: u64) or NO_RECORD, |kernel, scratch| {
    let packet = &scratch.parsed.packet;
    let parts = &scratch.parts;
    let step: &Step = get(&parts.step);
    publish(&kernel, flow, packet, hook_of(hook), now_ns, get(&parts.seen), *step);
    0
});
