//! tracker's kernel programs: they feed packets and maps to [`tracker_common`], and decide nothing themselves.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// The macros for programs hand the context over by value.
#![allow(clippy::needless_pass_by_value)]

mod frame;
mod maps;
mod surroundings;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC, xdp_action, xdp_md},
    helpers::generated::bpf_ktime_get_ns,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use tracker_common::{
    counters::{Fate, Hook, Tally},
    packet::{Bytes, Unparsed, parse},
    sweep::{Outcome, Tier, remove, unfinished},
    track::{in_order, track_confirmed, track_half_open},
    violation::Rule,
};

use crate::{
    frame::{SkbFrame, XdpFrame},
    maps::{Scratch, count_packet, interface},
    surroundings::Kernel,
};

/// Arriving packets. Every one is passed on.
#[xdp(frags)]
fn tracker_ingress(ctx: XdpContext) -> u32 {
    if let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) {
        let unparsed = parse_arriving(ctx.ctx, scratch);
        let fate = fate(scratch, unparsed, Hook::Ingress);
        count_packet(Hook::Ingress, fate);
        #[cfg(feature = "kernel-log")]
        log(&ctx, scratch, Hook::Ingress, fate);
    }
    xdp_action::XDP_PASS
}

/// Leaving packets. Every one is passed on, to whatever other program is attached.
#[classifier]
fn tracker_egress(ctx: TcContext) -> i32 {
    if is_counted_elsewhere(&ctx) {
        count_packet(Hook::Egress, Fate::CountedOnArrival);
    } else if let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) {
        let unparsed = parse_leaving(ctx.skb.skb, scratch);
        let fate = fate(scratch, unparsed, Hook::Egress);
        count_packet(Hook::Egress, fate);
        #[cfg(feature = "kernel-log")]
        log(&ctx, scratch, Hook::Egress, fate);
    }
    TC_ACT_UNSPEC
}

/// A forwarded packet was counted by XDP where it arrived, if that interface is attached too.
#[inline(always)]
fn is_counted_elsewhere(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    let arrived_at = unsafe { (*ctx.skb.skb).ingress_ifindex };
    arrived_at != 0 && maps::ATTACHED.get_ptr(arrived_at).is_some()
}

/// One debug message a packet; what it says of the segment means something only where the fate is one of a TCP packet.
#[cfg(feature = "kernel-log")]
#[inline(always)]
fn log<C: aya_ebpf::EbpfContext>(ctx: &C, scratch: *mut Scratch, hook: Hook, fate: Fate) {
    // SAFETY: this CPU's own element.
    let segment = unsafe { (*scratch).parsed.packet.segment };
    aya_log_ebpf::debug!(
        ctx,
        "hook {} fate {} flags {:x} seq {} ack {} len {}",
        hook as u8,
        fate as u8,
        segment.flags.0,
        segment.seq.0,
        segment.ack.0,
        segment.payload
    );
}

// The steps are functions of their own, one after the other, so that each has the stack of 512 octets for itself.

#[inline(always)]
fn fate(scratch: *mut Scratch, unparsed: Option<Unparsed>, hook: Hook) -> Fate {
    if let Some(reason) = unparsed {
        return Fate::from(reason);
    }
    let now_ns = now_ns();
    in_order(|| confirmed(scratch, hook, now_ns), || half_open(scratch, hook, now_ns))
}

#[inline(always)]
fn now_ns() -> u64 {
    match maps::replayed() {
        Some(replayed) => replayed.now_ns,
        // SAFETY: takes nothing.
        None => unsafe { bpf_ktime_get_ns() },
    }
}

#[inline(never)]
fn parse_arriving(ctx: *mut xdp_md, scratch: *mut Scratch) -> Option<Unparsed> {
    parse_frame(&XdpFrame::new(ctx, scratch), scratch)
}

#[inline(never)]
fn parse_leaving(ctx: *mut __sk_buff, scratch: *mut Scratch) -> Option<Unparsed> {
    parse_frame(&SkbFrame::new(ctx, scratch), scratch)
}

#[inline(always)]
fn parse_frame<B: Bytes>(frame: &B, scratch: *mut Scratch) -> Option<Unparsed> {
    let interface = interface();
    // SAFETY: this CPU's own element, and nothing else refers to this part of it.
    let parsed = unsafe { &mut (*scratch).parsed };
    parse(frame, interface.link(), interface.zone, parsed).err()
}

#[inline(never)]
fn confirmed(scratch: *mut Scratch, hook: Hook, now_ns: u64) -> Option<Fate> {
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    track_confirmed(&Kernel::new(scratch), packet, hook, now_ns)
}

#[inline(never)]
fn half_open(scratch: *mut Scratch, hook: Hook, now_ns: u64) -> Option<Fate> {
    // SAFETY: as above.
    let packet = unsafe { &(*scratch).parsed.packet };
    track_half_open(&Kernel::new(scratch), packet, hook, now_ns)
}

/// Removes flows that the agent has judged: the first N entries of `REMOVALS`, N being the first four octets of the
/// packet that the agent runs this program on. Never attached.
#[classifier]
fn tracker_sweep(ctx: TcContext) -> i32 {
    let Ok(count) = ctx.load::<u32>(0) else { return -1 };
    // SAFETY: the callback has the signature that the helper asks for, and the context is not used.
    let done = unsafe {
        aya_ebpf::helpers::generated::bpf_loop(
            count.min(tracker_common::sweep::BATCH),
            remove_nth as *mut core::ffi::c_void,
            core::ptr::null_mut(),
            0,
        )
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
    if remove(&kernel, removal) == Outcome::Removed {
        maps::tally(Tally::FlowsExpired);
        if removal.tier == Tier::HalfOpen as u32 {
            maps::tally(Tally::HalfOpenExpired);
        }
        if let Some(hook) = unfinished(&removal.flow) {
            maps::count_breach(Rule::HalfOpenTimeout, hook);
        }
    } else {
        maps::tally(Tally::RemovalsRefused);
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}

/// The kernel lets only GPL-compatible programs call the helpers that are needed.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
