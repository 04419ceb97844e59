//! What passes between the clients and the server, beside the flood.
//!
//! The clients' frames leave by the program that floods, so that a queue which the flood fills has room for them exactly
//! as often as for a SYN. All programs of a wire run on one core, and so never at the same time.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{
        bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    macros::map,
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};

use crate::{
    flood::{SYN, is_source, now},
    frame::{IPV4, TCP, opaque, read},
};

/// The interface on the clients' side. Set before loading.
#[unsafe(no_mangle)]
static CLIENTS: u32 = 0;

const SYN_ACK: u8 = 0x12;

/// The longest frame of a client that is carried: a segment with all options and some data.
const LONGEST: usize = 124;

/// How long a client's frame is on its way, in nanoseconds. While it comes in, the flood pauses for microseconds, and the
/// server's queue drains: it must not find that room.
const DELAY: u64 = 1_000_000;

/// How many clients' frames can wait: a power of 2.
const MOST: u32 = 4096;

/// A frame of a client.
#[repr(C)]
struct Frame {
    /// When it is due, in nanoseconds of the monotonic clock.
    due: u64,
    length: u32,
    bytes: [u8; LONGEST],
}

/// Clients' frames that wait, in a ring.
#[map]
static WAITING: Array<Frame> = Array::with_max_entries(MOST, 0);

/// How many have been put into the ring, and how many taken out.
#[repr(C)]
struct Ends {
    put: u64,
    taken: u64,
}

#[map]
static ENDS: Array<Ends> = Array::with_max_entries(1, 0);

/// Frames to the flood's sources: SYN,ACKs, and everything else.
#[map]
static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Lets a client's frame wait for its turn. One that is too long or too many is lost.
#[inline(always)]
pub(crate) fn merge(ctx: &XdpContext) -> u32 {
    let length = opaque(ctx.data_end() - ctx.data());
    if length == 0 {
        return xdp_action::XDP_DROP;
    }
    let length = opaque(length);
    if length <= LONGEST
        && let Some(ends) = ends()
        && ends.put - ends.taken < u64::from(MOST)
        && let Some(frame) = WAITING.get_ptr_mut(ends.put as u32 % MOST)
    {
        // SAFETY: no other program of the wire runs.
        let frame = unsafe { &mut *frame };
        frame.due = now() + DELAY;
        frame.length = length as u32;
        let to = frame.bytes.as_mut_ptr().cast();
        // SAFETY: the context is valid while the program runs, and the buffer is long enough.
        if unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, to, length as u32) } == 0 {
            ends.put += 1;
        }
    }
    xdp_action::XDP_DROP
}

/// Sends a client's frame in place of this one, which is as long as a SYN, if one is due.
#[inline(always)]
pub(crate) fn send_waiting(ctx: &XdpContext, now: u64) -> Option<u32> {
    let ends = ends()?;
    if ends.put == ends.taken {
        return None;
    }
    let frame = WAITING.get_ptr_mut(ends.taken as u32 % MOST)?;
    // SAFETY: no other program of the wire runs.
    let frame = unsafe { &mut *frame };
    if now < frame.due {
        return None;
    }
    ends.taken += 1;
    let length = frame.length;
    // Nothing else was let in; the verifier has to see it.
    if length == 0 || length > LONGEST as u32 {
        return None;
    }
    // SAFETY: the context is valid while the program runs.
    let adjusted = unsafe { bpf_xdp_adjust_tail(ctx.ctx, length as i32 - SYN as i32) };
    // SAFETY: as before, and the buffer is long enough.
    let stored =
        unsafe { bpf_xdp_store_bytes(ctx.ctx, 0, frame.bytes.as_mut_ptr().cast(), length) };
    Some(if adjusted == 0 && stored == 0 { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED })
}

#[inline(always)]
fn ends() -> Option<&'static mut Ends> {
    // SAFETY: no other program of the wire runs, and none asks twice.
    ENDS.get_ptr_mut(0).map(|ends| unsafe { &mut *ends })
}

/// Counts and drops what is sent to the flood's sources; everything else is for the real clients.
#[inline(always)]
pub(crate) fn split(ctx: &XdpContext) -> u32 {
    let to_source = read::<u16>(ctx, 12) == Some(0x0800_u16.to_be())
        && read::<u32>(ctx, IPV4 + 16).is_some_and(is_source);
    if !to_source {
        // SAFETY: points to a static, which the compiler must not take for the 0 that it is before the program is loaded.
        let clients = unsafe { (&raw const CLIENTS).read_volatile() };
        // SAFETY: takes numbers only.
        return unsafe { bpf_redirect(clients, 0) } as u32;
    }
    let is_syn_ack = read::<u8>(ctx, TCP + 13).is_some_and(|flags| flags & 0x3f == SYN_ACK);
    if let Some(count) = ANSWERS.get_ptr_mut(u32::from(!is_syn_ack)) {
        // SAFETY: this CPU's own element.
        unsafe { *count += 1 }
    }
    xdp_action::XDP_DROP
}
