//! tracker's kernel programs: they feed packets and maps to [`tracker_common`], and decide nothing themselves.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// The macros for programs hand the context over by value.
#![allow(clippy::needless_pass_by_value)]

mod arriving;
mod dropping;
mod frame;
mod kernel;
#[cfg(feature = "kernel-log")]
mod log;
mod maps;
mod protect;
mod reports;
mod sweep;
mod table;
mod usual;
mod verified_steps;

use core::{cell::Cell, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns, bpf_redirect},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use tracker_common::{
    counters::{Fate, Hook},
    elsewhere::ends_on_arrival,
    flow::{Flow, HalfOpen},
    owner::Owner,
    packet::{Bytes, Unparsed, parse},
    segment::Flags,
    track::{
        Lookup, Place, bad_header_len, in_order, prepare, settle, track_confirmed, track_half_open,
        track_illegal,
    },
};

use crate::{
    arriving::{Arriving, count_further},
    frame::SkbFrame,
    kernel::Kernel,
    maps::{LastTick, Scratch, count_packet, interface},
    protect::{
        answered_ns, guard, guarded, hand_over, protection, tracker_is_answer, tracker_note_reset,
        tracker_put_back, tracker_put_syn, tracker_put_syn_ack,
    },
    reports::deliver,
    usual::{expected, in_cache, predicted, tracker_promote},
};

/// Arriving packets. Every one is passed on, but what SYN cookies answer or refuse, and what breaks a rule that packets are
/// dropped for.
#[xdp(frags)]
fn tracker_ingress(ctx: XdpContext) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return xdp_action::XDP_PASS };
    let (fate, verdict) = arriving(ctx.ctx, scratch);
    count_packet(Hook::Ingress, fate, scratch);
    #[cfg(feature = "kernel-log")]
    log::log(&ctx, scratch, Hook::Ingress, fate);
    match verdict {
        verdict::ANSWERED => xdp_action::XDP_TX,
        verdict::DROPPED => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// Arriving packets where XDP is not the way in: in the host's stack, after what belongs together was merged. Every one goes on
/// to other programs, but what [`tracker_ingress`] would not pass on.
#[classifier]
fn tracker_arrival(ctx: TcContext) -> i32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    let skb = ctx.skb.skb;
    let (fate, verdict) = arriving(skb, scratch);
    count_packet(Hook::Ingress, fate, scratch);
    #[cfg(feature = "kernel-log")]
    log::log(&ctx, scratch, Hook::Ingress, fate);
    match verdict {
        verdict::ANSWERED => {
            // SAFETY: the context is valid while the program runs.
            let back = unsafe { (*skb).ifindex };
            #[allow(clippy::cast_possible_truncation)] // an action
            // SAFETY: takes no pointer.
            let action = unsafe { bpf_redirect(back, 0) } as i32;
            action
        }
        verdict::DROPPED => TC_ACT_SHOT,
        verdict::PASSED if protection().hands_over != 0 => hand_over(skb, scratch),
        _ => TC_ACT_UNSPEC,
    }
}

/// What becomes of an arriving packet.
mod verdict {
    /// It goes on, and nothing was read from it.
    pub(crate) const UNREAD: u32 = 0;
    /// It goes on.
    pub(crate) const PASSED: u32 = 1;
    /// It is an answer now, and goes back.
    pub(crate) const ANSWERED: u32 = 2;
    /// It is dropped.
    pub(crate) const DROPPED: u32 = 3;
}

/// The code of an arriving packet's [`Fate`], and its [`verdict`].
#[inline(always)]
fn arriving<A: Arriving>(ctx: A, scratch: *mut Scratch) -> (u32, u32) {
    if let Some(reason) = ctx.parse(scratch) {
        let fate = unreadable(scratch, reason, Hook::Ingress);
        return dropping::unless_dropped(scratch, fate, verdict::UNREAD);
    }
    let confirmed = confirmed(scratch);
    match predicted(confirmed, Hook::Ingress) {
        expected::NOT => {}
        expected::ELSEWHERE => return (Fate::CountedOnArrival as u32, verdict::PASSED),
        _ => return (Fate::Tracked as u32, verdict::PASSED),
    }
    let now_ns = now_ns();
    if protection().enabled != 0 {
        if confirmed.is_null() {
            // What a cookie is judged by is in records.
            tracker_promote();
        }
        match guard(ctx, scratch, confirmed, now_ns) {
            guarded::ANSWERED => return (Fate::CookieSent as u32, verdict::ANSWERED),
            guarded::REFUSED => {
                deliver(scratch);
                return (Fate::CookieRefused as u32, verdict::DROPPED);
            }
            guarded::TOO_EARLY => return (Fate::CookieRefused as u32, verdict::DROPPED),
            guarded::ACCEPTED => {
                remember_handshake(scratch, now_ns);
                let fate = fate(scratch, self::confirmed(scratch), Hook::Ingress, now_ns);
                return dropping::unless_dropped(scratch, fate, verdict::PASSED);
            }
            _ => {}
        }
    }
    if let Some(fate) = in_cache(confirmed, Hook::Ingress, now_ns) {
        return (fate, verdict::PASSED);
    }
    let fate = fate(scratch, confirmed, Hook::Ingress, now_ns);
    dropping::unless_dropped(scratch, fate, verdict::PASSED)
}

/// Tracks the SYN and the SYN,ACK that came before the first segment of a connection that a cookie opens.
#[inline(always)]
fn remember_handshake(scratch: *mut Scratch, now_ns: u64) {
    let answered_ns = answered_ns(scratch, now_ns);
    tracker_put_syn();
    fate(scratch, confirmed(scratch), Hook::Ingress, answered_ns);
    tracker_put_syn_ack();
    fate(scratch, confirmed(scratch), Hook::Egress, answered_ns);
    tracker_put_back();
}

/// Packets that XDP has seen, on their way into the host's stack, while SYN cookies are on.
#[classifier]
fn tracker_handover(ctx: TcContext) -> i32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    if parse_leaving(ctx.skb.skb, scratch).is_some() {
        return TC_ACT_UNSPEC;
    }
    hand_over(ctx.skb.skb, scratch)
}

/// Leaving packets. Every one is passed on, to whatever other program is attached.
#[classifier]
fn tracker_egress(ctx: TcContext) -> i32 {
    if let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) {
        let fate = leaving(ctx.skb.skb, scratch);
        count_packet(Hook::Egress, fate, scratch);
        #[cfg(feature = "kernel-log")]
        log::log(&ctx, scratch, Hook::Egress, fate);
    }
    TC_ACT_UNSPEC
}

/// The code of a leaving packet's [`Fate`].
#[inline(always)]
fn leaving(ctx: *mut __sk_buff, scratch: *mut Scratch) -> u32 {
    if let Some(reason) = parse_leaving(ctx, scratch) {
        return if tracker_seen_arriving() != 0 {
            Fate::CountedOnArrival as u32
        } else {
            unreadable(scratch, reason, Hook::Egress)
        };
    }
    // What XDP answers does not pass here.
    if protection().enabled != 0 && tracker_is_answer() != 0 {
        return Fate::CountedOnArrival as u32;
    }
    let confirmed = confirmed(scratch);
    match predicted(confirmed, Hook::Egress) {
        expected::NOT => {}
        expected::ELSEWHERE => return Fate::CountedOnArrival as u32,
        _ => return Fate::Tracked as u32,
    }
    if protection().enabled != 0 {
        tracker_note_reset();
    }
    if tracker_ended_on_arrival(u32::from(!confirmed.is_null())) != 0 {
        return Fate::CountedOnArrival as u32;
    }
    let now_ns = now_ns();
    in_cache(confirmed, Hook::Egress, now_ns)
        .unwrap_or_else(|| fate(scratch, confirmed, Hook::Egress, now_ns))
}

// The steps are functions of their own, one after the other, so that each has the stack of 512 bytes for itself.

/// The code of the [`Fate`] of a packet that cannot be read.
#[inline(always)]
fn unreadable(scratch: *mut Scratch, reason: Unparsed, hook: Hook) -> u32 {
    dropping::begin(scratch);
    if reason as u8 == Unparsed::BadTcpHeaderLength as u8 {
        bad_header(scratch, hook, now_ns());
        deliver(scratch);
    }
    Fate::from(reason) as u32
}

/// The code of the packet's [`Fate`]; `confirmed` is the record that it has in the table of confirmed flows, or null. Each
/// table is asked once, for all steps, unless another CPU has changed them meanwhile.
#[inline(always)]
fn fate(scratch: *mut Scratch, confirmed: *const Flow, hook: Hook, now_ns: u64) -> u32 {
    dropping::begin(scratch);
    let delivered = |fate| {
        deliver(scratch);
        (fate != NO_FATE).then_some(fate)
    };
    let confirmed = Cell::new(confirmed);
    in_order(
        || delivered(tracker_illegal(hook as u32, now_ns)),
        |lookup| {
            if matches!(lookup, Lookup::Again) {
                confirmed.set(self::confirmed(scratch));
            }
            let confirmed = confirmed.get();
            let fate = if confirmed.is_null() {
                NO_FATE
            } else {
                tracker_confirmed(confirmed, hook as u32, now_ns)
            };
            delivered(fate)
        },
        || {
            let (confirmed, half_open) = (confirmed.get(), half_open(scratch));
            let place = tracker_prepare(confirmed, half_open, hook as u32, now_ns);
            let fate = delivered(tracker_half_open(half_open, place, hook as u32, now_ns));
            if fate == Some(Fate::Tracked as u32) {
                let had_confirmed = u32::from(!confirmed.is_null());
                delivered(tracker_settle(half_open, place, had_confirmed, hook as u32, now_ns));
            }
            fate
        },
    )
    .unwrap_or(Fate::NotInserted as u32)
}

/// The record that the confirmed table has on the packet's key, or null.
#[inline(always)]
fn confirmed(scratch: *mut Scratch) -> *const Flow {
    // SAFETY: this CPU's own element.
    let key = unsafe { &(*scratch).parsed.packet.key };
    table::confirmed(key).map_or(ptr::null(), ptr::from_ref)
}

/// The half-open table's, likewise.
#[inline(always)]
fn half_open(scratch: *mut Scratch) -> *const HalfOpen {
    // SAFETY: this CPU's own element.
    let key = unsafe { &(*scratch).parsed.packet.key };
    table::half_open(key).map_or(ptr::null(), ptr::from_ref)
}

#[inline(always)]
fn now_ns() -> u64 {
    match maps::replayed() {
        Some(replayed) => replayed.now_ns,
        // SAFETY: takes nothing.
        None => unsafe { bpf_ktime_get_ns() },
    }
}

/// The time, to a few milliseconds, for next to nothing.
#[inline(always)]
fn about_now_ns(scratch: *mut Scratch) -> u64 {
    // SAFETY: takes nothing; the verifier makes it a load.
    let tick = unsafe { bpf_jiffies64() };
    // SAFETY: this CPU's own element.
    let last = unsafe { &mut (*scratch).last_tick };
    if maps::replayed().is_some() || last.tick != tick {
        *last = LastTick { tick, now_ns: now_ns() };
    }
    last.now_ns
}

#[inline(never)]
fn parse_leaving(ctx: *mut __sk_buff, scratch: *mut Scratch) -> Option<Unparsed> {
    let unparsed = parse_frame(&SkbFrame::new(ctx, scratch), scratch);
    count_further(ctx, scratch, unparsed.is_none());
    // SAFETY: the context is valid while the program runs.
    let arrived_at = unsafe { (*ctx).ingress_ifindex };
    // SAFETY: this CPU's own element, and nothing else refers to it now.
    let scratch = unsafe { &mut *scratch };
    scratch.arrived_at = arrived_at;
    // What a socket sends leaves under its lock, one segment after the other.
    scratch.parsed.packet.segment.forwarded = arrived_at != 0;
    scratch.parsed.packet.segment.shared = arrived_at != 0;
    unparsed
}

#[inline(always)]
fn parse_frame<B: Bytes>(frame: &B, scratch: *mut Scratch) -> Option<Unparsed> {
    let interface = interface();
    // SAFETY: this CPU's own element, and nothing else refers to this part of it.
    let parsed = unsafe { &mut (*scratch).parsed };
    parse(frame, interface.link(), interface.zone, parsed).err()
}

#[inline(never)]
fn bad_header(scratch: *mut Scratch, hook: Hook, now_ns: u64) -> u32 {
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let parsed = unsafe { &(*scratch).parsed };
    bad_header_len(&Kernel::new(scratch), &parsed.packet, hook, now_ns, parsed.header_len);
    0
}

// These are global functions: the verifier checks them once, whatever way leads to them.

/// Whether the leaving packet in [`Scratch`] has come by an interface that is attached too; 0 for no.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_seen_arriving() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let arrived_at = unsafe { (*scratch).arrived_at };
    u32::from(arrived_at != 0 && maps::ATTACHED.get_ptr(arrived_at).is_some())
}

/// Whether all that there is to count of the leaving packet in [`Scratch`] was counted where it arrived ([`ends_on_arrival`]); 0 for no.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_ended_on_arrival(has_confirmed: u32) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    if !packet.segment.forwarded || tracker_seen_arriving() == 0 {
        return 0;
    }
    let mut has_flow = has_confirmed != 0;
    // This matters for an RST only.
    if !has_flow && packet.segment.has(Flags::RST) {
        tracker_promote();
        has_flow = !half_open(scratch).is_null();
    }
    u32::from(ends_on_arrival(packet, has_flow))
}

/// This interface, at one of its hooks.
#[inline(always)]
fn here(hook: Hook) -> Owner {
    Owner::new(interface().slot, hook)
}

/// [`track_illegal`] on the packet in [`Scratch`]; [`NO_FATE`] for none.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_illegal(hook: u32, now_ns: u64) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_FATE };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    code(track_illegal(&Kernel::new(scratch), packet, hook_of(hook), now_ns))
}

/// [`track_confirmed`], likewise.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_confirmed(flow: *const Flow, hook: u32, now_ns: u64) -> u32 {
    // SAFETY: a record, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return NO_FATE };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_FATE };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    code(track_confirmed(&Kernel::new(scratch), flow, packet, hook_of(hook), now_ns))
}

/// [`prepare`], likewise; the code of a [`Place`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_prepare(
    confirmed: *const Flow,
    half_open: *const HalfOpen,
    hook: u32,
    now_ns: u64,
) -> u32 {
    // SAFETY: a record, or null.
    let confirmed = unsafe { confirmed.as_ref() };
    // SAFETY: likewise.
    let half_open = unsafe { half_open.as_ref() };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return Place::NoMemory as u32 };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    prepare(&Kernel::new(scratch), confirmed, half_open, packet, hook_of(hook), now_ns) as u32
}

/// [`track_half_open`], likewise.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_half_open(
    half_open: *const HalfOpen,
    place: u32,
    hook: u32,
    now_ns: u64,
) -> u32 {
    // SAFETY: a record, or null.
    let half_open = unsafe { half_open.as_ref() };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_FATE };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    let place = Place::from_code(place);
    code(track_half_open(&Kernel::new(scratch), half_open, packet, hook_of(hook), now_ns, place))
}

/// [`settle`], likewise.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_settle(
    half_open: *const HalfOpen,
    place: u32,
    had_confirmed: u32,
    hook: u32,
    now_ns: u64,
) -> u32 {
    // SAFETY: a record, or null.
    let half_open = unsafe { half_open.as_ref() };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NO_FATE };
    // SAFETY: this CPU's own element, and nobody writes this part of it now.
    let packet = unsafe { &(*scratch).parsed.packet };
    let (place, had_confirmed) = (Place::from_code(place), had_confirmed != 0);
    let kernel = Kernel::new(scratch);
    settle(&kernel, half_open, place, had_confirmed, packet, hook_of(hook), now_ns);
    NO_FATE
}

/// In place of a [`Fate`].
const NO_FATE: u32 = 0xff;

#[inline(always)]
fn code(fate: Option<Fate>) -> u32 {
    fate.map_or(NO_FATE, |fate| fate as u32)
}

#[inline(always)]
fn hook_of(code: u32) -> Hook {
    if code == Hook::Ingress as u32 { Hook::Ingress } else { Hook::Egress }
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
