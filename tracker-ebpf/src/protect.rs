//! SYN cookies: what of a protected listener's segments is answered, dropped, or goes on as a connection.
//!
//! Nothing here is compiled into a program whose [`Protection`] says that nothing is protected: the verifier removes it.

// A key that is passed by value is copied to the stack, which is small.
#![allow(clippy::needless_borrows_for_generic_args)]

mod answer;
mod check;
mod guard;
mod handover;
mod handshake;
mod socket;

use tracker_common::{
    answer::{MOST, Terms},
    cookie::{Agreed, Cookie},
    packet::Packet,
    protect::{Accepted, Place, Protection},
};

pub(crate) use self::{
    answer::tracker_is_answer,
    guard::{guard, guarded},
    handover::{hand_over, tracker_note_reset},
    handshake::{answered_ns, tracker_put_back, tracker_put_syn, tracker_put_syn_ack},
};

/// What this program may protect, and where the kernel keeps what it must know; set by the agent before loading.
#[unsafe(no_mangle)]
static PROTECTION: Protection =
    Protection { enabled: 0, hands_over: 0, half_open_at: 0, backlog_at: 0, waiting_at: 0 };

/// Whether listeners are protected here.
#[inline(always)]
pub(crate) fn protection() -> Protection {
    // SAFETY: a valid static; volatile, because the agent replaces its value before the program is loaded.
    unsafe { core::ptr::read_volatile(&raw const PROTECTION) }
}

/// What is kept here while a segment is looked at.
#[repr(C)]
pub(crate) struct Guarding {
    /// The packet that arrived, while others stand in its place.
    arrived: Packet,
    /// The connection that it opens.
    accepted: Accepted,
    /// TSval of the arrived segment's timestamps; TSecr follows.
    timestamp: u32,
    timestamp_echo: u32,
    place: Place,
    tuple: [u32; 9],
    terms: Terms,
    /// What a client agrees to, and the cookie that says so.
    agreed: Agreed,
    cookie: Cookie,
    bytes: [u8; MOST],
    ip: [u8; 40],
    tcp: [u8; 64],
}
