//! The parts of tracking a segment as global functions, which the verifier checks once and each by itself. They take a
//! record, and tell each other the rest through [`PartsState`].

use tracker_common::{
    counters::Hook,
    flow::{Flow, HalfOpen},
    judge::{Offers, Situation, Verdict},
    packet::Packet,
    segment::Flags,
    state::State,
    sweep::states,
    track::{
        Parts, Seen, Step, conclude, judge_others_on, judge_reset_on, notes_on, publish, situation,
        write, write_offers,
    },
    violation::{Breach, Marks},
};

use crate::{hook_of, maps, surroundings::Kernel};

/// What one part tells the next: values as they lie in memory, because the kernel's type format has no words for an
/// `Option`.
#[repr(C)]
pub(crate) struct PartsState {
    offers: [u64; 1],
    situation: [u64; 3],
    verdict: [u64; 8],
    marks: u64,
    states: [u64; 1],
    storm: [u64; 3],
    seen: [u64; 6],
    step: [u64; 2],
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

impl Kernel {
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // this CPU's own memory, and nobody keeps what is returned
    fn parts(&self) -> &mut PartsState {
        // SAFETY: this CPU's own element.
        unsafe { &mut (*self.scratch).parts }
    }
}

impl Parts for Kernel {
    #[inline(always)]
    fn states(&self, flow: &Flow) -> [State; 2] {
        tracker_states(flow);
        *get(&self.parts().states)
    }

    #[inline(always)]
    fn situation(&self, flow: &Flow, _: &Packet, hook: Hook, offers: Offers) -> Situation {
        put(&mut self.parts().offers, offers);
        tracker_situation(flow, hook as u32);
        *get(&self.parts().situation)
    }

    #[inline(always)]
    fn judge(&self, flow: &Flow, packet: &Packet, _: &Situation) -> Verdict {
        if packet.segment.has(Flags::RST) {
            tracker_judge_reset(flow);
        } else {
            tracker_judge_others(flow);
        }
        *get(&self.parts().verdict)
    }

    #[inline(always)]
    fn notes(&self, flow: &Flow, _: &Packet, _: &Situation) -> Marks {
        tracker_notes(flow);
        Marks(self.parts().marks)
    }

    #[inline(always)]
    fn write(&self, flow: &Flow, _: &Packet, hook: Hook, _: &Verdict, _: Marks) -> Option<Breach> {
        tracker_write(flow, hook as u32);
        *get(&self.parts().storm)
    }

    #[inline(always)]
    fn write_offers(&self, half_open: &HalfOpen, _: &Packet, _: &Verdict) {
        tracker_write_offers(half_open);
    }

    #[inline(always)]
    fn conclude(&self, flow: &Flow, seen: &Seen) -> Step {
        put(&mut self.parts().seen, *seen);
        tracker_conclude(flow);
        *get(&self.parts().step)
    }

    #[inline(always)]
    fn publish(&self, flow: &Flow, _: &Packet, hook: Hook, now_ns: u64, seen: &Seen, step: Step) {
        put(&mut self.parts().seen, *seen);
        put(&mut self.parts().step, step);
        tracker_publish(flow, hook as u32, now_ns);
    }
}

/// What the functions below get instead of a record, never in fact: the verifier allows for it.
const NO_RECORD: u32 = 1;

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_states(flow: *const Flow) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    let states = states(flow);
    // SAFETY: this CPU's own element.
    put(unsafe { &mut (*scratch).parts.states }, states);
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_situation(flow: *const Flow, hook: u32) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    // SAFETY: this CPU's own element.
    let scratch = unsafe { &mut *scratch };
    let parts = &mut scratch.parts;
    let offers: &Offers = get(&parts.offers);
    let situation = situation(flow, &scratch.parsed.packet, hook_of(hook), *offers);
    put(&mut parts.situation, situation);
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_judge_reset(flow: *const Flow) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    // SAFETY: this CPU's own element.
    let scratch = unsafe { &mut *scratch };
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    put(&mut parts.verdict, judge_reset_on(flow, &scratch.parsed.packet, situation));
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_judge_others(flow: *const Flow) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    // SAFETY: this CPU's own element.
    let scratch = unsafe { &mut *scratch };
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    put(&mut parts.verdict, judge_others_on(flow, &scratch.parsed.packet, situation));
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_notes(flow: *const Flow) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    // SAFETY: this CPU's own element.
    let scratch = unsafe { &mut *scratch };
    let parts = &mut scratch.parts;
    let situation: &Situation = get(&parts.situation);
    parts.marks = notes_on(flow, &scratch.parsed.packet, situation).0;
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_write(flow: *const Flow, hook: u32) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    // SAFETY: this CPU's own element.
    let scratch = unsafe { &mut *scratch };
    let parts = &mut scratch.parts;
    let verdict: &Verdict = get(&parts.verdict);
    let packet = &scratch.parsed.packet;
    put(&mut parts.storm, write(flow, packet, hook_of(hook), verdict, Marks(parts.marks)));
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_write_offers(half_open: *const HalfOpen) -> u32 {
    // SAFETY: a record, or null.
    let Some(half_open) = (unsafe { half_open.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    // SAFETY: this CPU's own element.
    let scratch = unsafe { &*scratch };
    write_offers(half_open, &scratch.parsed.packet, get(&scratch.parts.verdict));
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_conclude(flow: *const Flow) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    let kernel = Kernel::new(scratch);
    // SAFETY: this CPU's own element.
    let parts = unsafe { &mut (*scratch).parts };
    let seen: &Seen = get(&parts.seen);
    put(&mut parts.step, conclude(&kernel, flow, seen));
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_publish(flow: *const Flow, hook: u32, now_ns: u64) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_RECORD };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_RECORD };
    let kernel = Kernel::new(scratch);
    // SAFETY: this CPU's own element.
    let packet = unsafe { &(*scratch).parsed.packet };
    // SAFETY: this CPU's own element.
    let parts = unsafe { &(*scratch).parts };
    let step: &Step = get(&parts.step);
    publish(&kernel, flow, packet, hook_of(hook), now_ns, get(&parts.seen), *step);
    0
}
