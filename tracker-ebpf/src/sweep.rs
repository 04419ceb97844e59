//! What the agent has the kernel do with its tables: look for the flows that are due, and remove those that still are.

use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_seq_write},
    macros::classifier,
    programs::TcContext,
};
use tracker_common::{
    flow::Flow,
    forget::opaque,
    key::FlowKey,
    sweep::{BATCH, remove_and_count},
    walk::{Found, STRIDE},
};

use crate::{
    kernel::Kernel,
    maps::{self, WALK},
    verified_steps::states_of,
};

/// `struct bpf_iter__bpf_map_elem` (kernel/bpf/map_iter.c).
#[repr(C)]
struct Element {
    meta: *const Meta,
    map: *const core::ffi::c_void,
    /// Null after the last one.
    key: *const FlowKey,
    value: *const Flow,
}

/// The beginning of `struct bpf_iter_meta` (include/linux/bpf.h).
#[repr(C)]
struct Meta {
    seq: *mut aya_ebpf::bindings::seq_file,
}

/// The walk over the confirmed flows, as [`maps::WALK`] says: the kernel calls this with each, and the agent reads those that are
/// written. A flow at which this returns 1 comes again at the next read.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
extern "C" fn tracker_walk(element: *const Element) -> i32 {
    const AGAIN: i32 = 1;
    let Some(walk) = WALK.get_ptr_mut(0) else { return 0 };
    // SAFETY: an array's element is never freed, and the agent leaves it alone during a walk.
    let walk = unsafe { &mut *walk };
    // SAFETY: the context is valid while the program runs.
    let element = unsafe { &*element };
    // SAFETY: so is the flow, but for the last call, which has none.
    let (Some(key), Some(flow)) =
        (unsafe { element.key.as_ref() }, unsafe { element.value.as_ref() })
    else {
        return 0;
    };
    if walk.steps == 0 {
        walk.steps = STRIDE;
        return AGAIN;
    }
    walk.steps -= 1;
    let look = walk.look(flow, states_of);
    if look.is_due || look.handshake_us != 0 {
        let due = match look.state {
            Some(state) if look.is_due => state as u32,
            _ => Found::NOT_DUE,
        };
        let found = Found { key: *key, life: look.life, due, handshake_us: look.handshake_us };
        // SAFETY: as the context.
        let file = unsafe { (*element.meta).seq };
        #[allow(clippy::cast_possible_truncation)] // 56
        // SAFETY: the file is valid while the program runs, and the bytes are the stack's.
        let written =
            unsafe { bpf_seq_write(file, (&raw const found).cast(), size_of::<Found>() as u32) };
        if written < 0 {
            return AGAIN;
        }
    }
    walk.read += 1;
    if let Some(state) = look.state
        && walk.takes_census != 0
    {
        // The compiler knows that they are small and would take the masks away; the verifier does not.
        let family = opaque(usize::from(!key.is_ipv4())) & 1;
        walk.flows[family][opaque(state as usize) & 15] += 1;
    }
    0
}

/// Removes flows that the agent has judged: the first N entries of `REMOVALS`, N being the first four bytes of the
/// packet that the agent runs this program on. Never attached.
#[classifier]
fn tracker_sweep(ctx: TcContext) -> i32 {
    let Ok(count) = ctx.load::<u32>(0) else { return -1 };
    // SAFETY: the callback has the signature that the helper asks for, and the context is not used.
    let done = unsafe {
        bpf_loop(count.min(BATCH), remove_nth as *mut core::ffi::c_void, core::ptr::null_mut(), 0)
    };
    #[allow(clippy::cast_possible_truncation)] // at most BATCH
    let done = done as i32;
    done
}

unsafe extern "C" fn remove_nth(n: u32, _: *mut core::ffi::c_void) -> i64 {
    let Some(removal) = maps::REMOVALS.get_ptr_mut(n) else { return 1 };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 1 };
    let kernel = Kernel::new(scratch);
    // SAFETY: an array's element is never freed, and the agent leaves the batch alone while this program runs.
    let removal = unsafe { &mut *removal };
    remove_and_count(&kernel, removal);
    0
}
