//! The handshake that a cookie stands for: it is tracked as if it had been seen when the cookie comes back.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::bpf_xdp_load_bytes,
};
use tracker_common::{
    cookie::LIFETIME_NS,
    key::is_mapped,
    protect::{Accepted, feature},
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
};

use super::Guarding;
use crate::{
    frame::opaque,
    maps::{self, Scratch},
    surroundings::Kernel,
};

/// Where options can be copied from.
pub(super) trait Load: Copy {
    /// Copies `len` octets (1 to 40) from `at`.
    fn load(self, at: u32, to: *mut u8, len: u32) -> bool;
}

impl Load for *mut xdp_md {
    #[inline(always)]
    fn load(self, at: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the context is valid while the program runs, and the destination for 40 octets.
        unsafe { bpf_xdp_load_bytes(self, at, to.cast(), len) == 0 }
    }
}

impl Load for *mut __sk_buff {
    #[inline(always)]
    fn load(self, at: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: as above.
        unsafe {
            aya_ebpf::helpers::generated::bpf_skb_load_bytes(self.cast(), at, to.cast(), len) == 0
        }
    }
}

/// Reads the timestamps of the segment in [`Scratch`], wherever among its options they are; false where it has none.
#[inline(always)]
pub(super) fn load_timestamps<L: Load>(
    ctx: L,
    scratch: *mut Scratch,
    guarding: &mut Guarding,
) -> bool {
    // SAFETY: this CPU's own element.
    let parsed = unsafe { &(*scratch).parsed };
    let (header_len, tcp_at) = (parsed.header_len, parsed.tcp_at);
    if header_len <= 20 {
        return false;
    }
    // At least 1 by the sum: comparisons with 0 tell verifiers before 6.8 nothing.
    let len = opaque((opaque(header_len as usize - 21) & 63) + 1);
    if len > SynOptions::MAX {
        return false;
    }
    // SAFETY: as above, another part of it.
    let octets = unsafe { &mut (*scratch).octets };
    #[allow(clippy::cast_possible_truncation)] // at most 40
    if !ctx.load(tcp_at + 20, octets.as_mut_ptr(), len as u32) {
        return false;
    }
    #[allow(clippy::cast_possible_truncation)] // at most 40
    let found = tracker_parse_timestamps(len as u32);
    guarding.timestamp = (found >> 32) as u32;
    #[allow(clippy::cast_possible_truncation)] // a half
    {
        guarding.timestamp_echo = found as u32;
    }
    // SAFETY: as above.
    unsafe { (*scratch).forgotten[11] == 1 }
}

/// The value and the echo of the options in [`Scratch::octets`]; in the last of its forgotten words, whether there are any.
///
/// A global function, as those of `answer.rs`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_parse_timestamps(len: u32) -> u64 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    let len = opaque(len as usize) & 63;
    if len > SynOptions::MAX {
        return 0;
    }
    // SAFETY: this CPU's own element.
    let octets = unsafe { &(*scratch).octets };
    let options = SynOptions::parse(octets, opaque(len), &Kernel::new(scratch));
    // SAFETY: as above, another part of it.
    unsafe { (*scratch).forgotten[11] = u64::from(options.has(SynOptions::HAS_TIMESTAMPS)) };
    u64::from(options.timestamp.0) << 32 | u64::from(options.timestamp_echo.0)
}

/// Nanoseconds since boot when the accepted connection's SYN was answered: by its timestamp's echo, or `now_ns`.
#[inline(always)]
pub(crate) fn answered_ns(scratch: *mut Scratch, now_ns: u64) -> u64 {
    // SAFETY: this CPU's own element.
    let guarding = unsafe { &(*scratch).guarding };
    let accepted = &guarding.accepted;
    if accepted.features & feature::TIMESTAMPS == 0 {
        return now_ns;
    }
    #[allow(clippy::cast_possible_truncation)] // the clock of timestamps wraps
    let clock = ((now_ns / 1_000_000) as u32).wrapping_add(accepted.timestamp_offset);
    let age_ns = u64::from(clock.wrapping_sub(guarding.timestamp_echo)) * 1_000_000;
    if age_ns < LIFETIME_NS { now_ns.saturating_sub(age_ns) } else { now_ns }
}

/// Puts the SYN that nobody remembered in the arrived packet's place.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_put_syn() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    let (accepted, arrived) = (&guarding.accepted, &guarding.arrived);
    let mut flags = Flags::SYN;
    if accepted.features & feature::ECN != 0 {
        flags = flags.with(Flags::ECE).with(Flags::CWR);
    }
    let window = u32::from(arrived.segment.window) << (shift(accepted.client_scale));
    parsed.packet.key = arrived.key;
    parsed.packet.from = arrived.from;
    #[allow(clippy::cast_possible_truncation)] // limited
    let window = window.min(0xffff) as u16;
    parsed.packet.segment = of_handshake(
        accepted,
        &arrived.key,
        [accepted.client_isn, 0],
        flags,
        (window, accepted.mss, shift(accepted.client_scale)),
        guarding.timestamp,
    );
    0
}

/// Puts the SYN,ACK that was sent in the arrived packet's place.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_put_syn_ack() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    let (accepted, arrived) = (&guarding.accepted, &guarding.arrived);
    let mut flags = Flags::SYN.with(Flags::ACK);
    if accepted.features & feature::ECN != 0 {
        flags = flags.with(Flags::ECE);
    }
    let (mut window, mut mss) = (0, 0);
    if let Some(listener) = maps::LISTENERS.get_ptr(&guarding.place) {
        // SAFETY: as in `guard`.
        let listener = unsafe { &*listener };
        (window, mss) = (listener.window, listener.mss);
    }
    parsed.packet.from = arrived.from.other();
    parsed.packet.segment = of_handshake(
        accepted,
        &arrived.key,
        [accepted.cookie, accepted.client_isn.wrapping_add(1)],
        flags,
        (window, mss, accepted.host_scale),
        guarding.timestamp_echo,
    );
    0
}

/// Puts the arrived packet back. What is between the SYN and the acknowledgment in time is not known where
/// nothing echoes it.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_put_back() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    parsed.packet = guarding.arrived;
    if guarding.accepted.features & feature::TIMESTAMPS == 0
        && let Some(half_open) = maps::HALF_OPEN.get_ptr(&parsed.packet.key)
    {
        // SAFETY: the element stays allocated while the program runs.
        unsafe { (*half_open).flow.handshake_us.set(u32::MAX) };
    }
    0
}

#[inline(always)]
fn shift(scale: u8) -> u8 {
    if scale > 14 { 0 } else { scale }
}

#[inline(always)]
fn of_handshake(
    accepted: &Accepted,
    key: &tracker_common::key::FlowKey,
    [seq, ack]: [u32; 2],
    flags: Flags,
    (window, mss, scale): (u16, u16, u8),
    timestamp: u32,
) -> Segment {
    let has = |bit| accepted.features & bit != 0;
    let mut present = 0;
    let mut ip_len = if is_mapped(&key.addresses[0]) { 20 + 20 + 4 } else { 40 + 20 + 4 };
    if has(feature::WINDOW_SCALE) {
        present |= SynOptions::HAS_WINDOW_SCALE;
        ip_len += 4;
    }
    if has(feature::SACK) {
        present |= SynOptions::HAS_SACK;
    }
    if has(feature::TIMESTAMPS) {
        present |= SynOptions::HAS_TIMESTAMPS;
        ip_len += 12;
    } else if has(feature::SACK) {
        ip_len += 4;
    }
    let timestamp = Seq(timestamp);
    Segment {
        seq: Seq(seq),
        ack: Seq(ack),
        flags,
        window,
        options: SynOptions {
            mss,
            window_scale: scale,
            present,
            timestamp,
            timestamp_echo: Seq(0),
        },
        timestamp,
        has_timestamp: has(feature::TIMESTAMPS),
        ip_len,
        ..Segment::default()
    }
}
