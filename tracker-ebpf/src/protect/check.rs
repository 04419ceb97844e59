//! Whether what comes back is a cookie, and the timestamp one that was sent with it. Two steps: the stack has no room for both at once.

use tracker_common::{
    cookie::{self, Refused},
    seq::Seq,
};

use crate::maps::{self, Scratch};

/// In place of a [`Refused`].
pub(super) const IS_OURS: u32 = 0xff;

/// Checks the cookie that the segment in [`Scratch`] returns: [`IS_OURS`], and then what it says is there, or the code of a
/// [`Refused`]. `timestamps` says whether the segment has the option. A global function, as those of `answer.rs`.
#[inline(never)]
#[unsafe(no_mangle)]
pub(super) extern "C" fn tracker_check_cookie(timestamps: u32, now_ns: u64) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return Refused::NoKey as u32 };
    let Some(keys) = maps::KEYS.get_ptr(0) else { return Refused::NoKey as u32 };
    // SAFETY: an array's element is never freed; nobody writes the key of a period that has begun.
    let keys = unsafe { &*keys };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    match cookie::check(keys, &parsed.packet, timestamps != 0, now_ns) {
        Ok((agreed, cookie)) => {
            (guarding.agreed, guarding.cookie) = (agreed, cookie);
            IS_OURS
        }
        Err(reason) => reason as u32,
    }
}

/// Whether the timestamp that the segment echoes was sent with the cookie that was found; both are in [`Guarding`]. A global
/// function, as those of `answer.rs`.
#[inline(never)]
#[unsafe(no_mangle)]
pub(super) extern "C" fn tracker_was_sent(now_ns: u64) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    let Some(keys) = maps::KEYS.get_ptr(0) else { return 0 };
    // SAFETY: an array's element is never freed; nobody writes the key of a period that has begun.
    let keys = unsafe { &*keys };
    // SAFETY: this CPU's own element.
    let guarding = unsafe { &(*scratch).guarding };
    let echo = Seq(guarding.timestamp_echo);
    u32::from(cookie::was_sent(keys, &guarding.cookie, echo, now_ns))
}
