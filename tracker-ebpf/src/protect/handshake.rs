//! The handshake that a cookie stands for: it is tracked as if it had been seen when the cookie comes back.

use tracker_common::{forget::opaque, handshake, protect::feature, segment::SynOptions};

use super::Guarding;
use crate::{
    arriving::Arriving,
    frame::parse_options,
    maps::{self, Scratch},
    table,
};

/// Reads the timestamps of the segment in [`Scratch`], wherever among its options they are; false where it has none.
#[inline(always)]
pub(super) fn load_timestamps<A: Arriving>(
    ctx: A,
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
    // SAFETY: this CPU's own element; nothing else refers to this part of it now.
    let bytes = unsafe { &mut (*scratch).bytes };
    #[allow(clippy::cast_possible_truncation)] // at most 40
    if !ctx.load(tcp_at + 20, bytes.as_mut_ptr(), len as u32) {
        return false;
    }
    let options = parse_options(scratch, len);
    (guarding.timestamp, guarding.timestamp_echo) = (options.timestamp.0, options.timestamp_echo.0);
    options.has(SynOptions::HAS_TIMESTAMPS)
}

/// [`handshake::answered_ns`] of the accepted connection.
#[inline(always)]
pub(crate) fn answered_ns(scratch: *mut Scratch, now_ns: u64) -> u64 {
    // SAFETY: this CPU's own element.
    let guarding = unsafe { &(*scratch).guarding };
    handshake::answered_ns(&guarding.accepted, guarding.timestamp_echo, now_ns)
}

/// Puts the SYN that nobody remembered in the arrived packet's place.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_put_syn() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    let (accepted, arrived) = (&guarding.accepted, &guarding.arrived);
    parsed.packet.key = arrived.key;
    parsed.packet.from = arrived.from;
    parsed.packet.segment = handshake::syn(accepted, arrived, guarding.timestamp);
    0
}

/// Puts the SYN,ACK that was sent in the arrived packet's place.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_put_syn_ack() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, offering, .. } = unsafe { &mut *scratch };
    let (accepted, arrived) = (&guarding.accepted, &guarding.arrived);
    parsed.packet.from = arrived.from.other();
    parsed.packet.segment =
        handshake::syn_ack(accepted, arrived, offering, guarding.timestamp_echo);
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
        && let Some(half_open) = table::half_open(&parsed.packet.key)
    {
        half_open.flow.handshake_us.set(u32::MAX);
    }
    0
}
