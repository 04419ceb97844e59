//! The SYN,ACK that answers a SYN, by a cookie of ours or of the kernel's.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{
        bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
        bpf_xdp_store_bytes,
    },
    programs::XdpContext,
};
use tracker_common::{
    answer::{self, Terms},
    cookie::{self, Agreed},
    forget::opaque,
    packet::Packet,
    seq::Seq,
};

use super::{Guarding, guard::At, socket::TCP_LISTEN};
use crate::maps::{self, Scratch};

impl At<'_> {
    /// Answers with a cookie of ours.
    #[inline(always)]
    pub(super) fn answer(&self, packet: &Packet, guarding: &mut Guarding) -> bool {
        guarding.agreed = Agreed::on(packet, self.listener);
        if tracker_make_cookie(self.now_ns) == 0 {
            return false;
        }
        let terms = Terms::new(self.listener, &guarding.agreed, &guarding.cookie, self.now_ns);
        self.send(&terms, guarding)
    }

    /// Answers with a cookie of the kernel's.
    #[inline(always)]
    pub(super) fn answer_by_kernel(&self, packet: &Packet, guarding: &mut Guarding) -> bool {
        let Some(tcp_len) = self.load_headers(guarding) else { return false };
        let Some(socket) = self.look_up(packet, guarding, 0) else { return false };
        let mut cookie = -1;
        if socket.state() == TCP_LISTEN {
            // SAFETY: a listener that is held, and headers of the lengths given.
            cookie = unsafe {
                bpf_tcp_gen_syncookie(
                    socket.0.cast(),
                    guarding.ip.as_mut_ptr().cast(),
                    40,
                    guarding.tcp.as_mut_ptr().cast(),
                    tcp_len,
                )
            };
        }
        socket.release();
        if cookie < 0 {
            return false;
        }
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
        // the cookie, and above it the segment size that it stands for
        let isn = Seq(cookie as u64 as u32);
        let terms =
            Terms { isn, mss: self.listener.mss, window: self.listener.window, ..Terms::default() };
        self.send(&terms, guarding)
    }

    /// Copies the IP and TCP headers, for helpers that read them; the latter's length.
    #[inline(always)]
    pub(super) fn load_headers(&self, guarding: &mut Guarding) -> Option<u32> {
        // SAFETY: this CPU's own element.
        let parsed = unsafe { &(*self.scratch).parsed };
        let len = opaque(parsed.header_len as usize) & 63;
        // One after the other: as one comparison, of the difference, it would tell older verifiers nothing of the number.
        if len < 20 {
            return None;
        }
        let len = opaque(len);
        if len > 60 {
            return None;
        }
        #[allow(clippy::cast_possible_truncation)] // at most 60
        let len = len as u32;
        // SAFETY: the destination is valid for so many octets.
        let ip = unsafe {
            bpf_xdp_load_bytes(self.ctx, parsed.ip_at, guarding.ip.as_mut_ptr().cast(), 40)
        };
        // SAFETY: as above.
        let tcp = unsafe {
            bpf_xdp_load_bytes(self.ctx, parsed.tcp_at, guarding.tcp.as_mut_ptr().cast(), len)
        };
        (ip == 0 && tcp == 0).then_some(len)
    }

    /// Makes the SYN the SYN,ACK that answers it. False where that cannot be done; the SYN is as it was then.
    #[inline(always)]
    fn send(&self, terms: &Terms, guarding: &mut Guarding) -> bool {
        guarding.terms = *terms;
        if send(self.ctx, self.scratch) != 0 {
            return true;
        }
        // A client that says nothing of its segments' size leaves less room than the answer takes, where a driver has none
        // behind the frame. It is not told ours either.
        guarding.terms.mss = 0;
        send(self.ctx, self.scratch) != 0
    }
}

// These are global functions: the verifier checks each once, and not on every path to a call.

/// Makes the cookie that answers the SYN in [`Scratch`] with what was agreed there; 0 without a key.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_make_cookie(now_ns: u64) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    let Some(keys) = maps::KEYS.get_ptr(0) else { return 0 };
    // SAFETY: an array's element is never freed; nobody writes the key of a period that has begun.
    let keys = unsafe { &*keys };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    let Some(cookie) = cookie::make(keys, &parsed.packet, guarding.agreed, now_ns) else {
        return 0;
    };
    guarding.cookie = cookie;
    1
}

/// Writes the SYN,ACK that answers the SYN in [`Scratch`] with the terms there; its length.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_write_answer() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    #[allow(clippy::cast_possible_truncation)] // at most 80
    let len = answer::write(&mut guarding.octets, &parsed.packet, &guarding.terms) as u32;
    len
}

/// Makes the SYN of [`Scratch`] the SYN,ACK with the terms there; 0 where there is no room for it.
#[inline(never)]
fn send(ctx: *mut xdp_md, scratch: *mut Scratch) -> u32 {
    let len = tracker_write_answer();
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    let at = parsed.ip_at & 31;
    #[allow(clippy::cast_possible_truncation)] // a frame
    // SAFETY: the context is valid while the program runs.
    let frame_len = unsafe { bpf_xdp_get_buff_len(ctx) } as u32;
    let longer = (at + len).cast_signed().wrapping_sub(frame_len.cast_signed());
    // SAFETY: as above. Pointers into the packet are read again below.
    if longer != 0 && unsafe { bpf_xdp_adjust_tail(ctx, longer) } != 0 {
        return 0;
    }
    if maps::interface().raw_ip == 0 {
        let context = XdpContext::new(ctx);
        let (data, end) = (context.data(), context.data_end());
        if data + 12 > end {
            return 0;
        }
        let addresses = data as *mut [[u8; 6]; 2];
        // SAFETY: within the packet, as just compared; octets have no alignment.
        let [to, from] = unsafe { addresses.read() };
        // SAFETY: as above.
        unsafe { addresses.write([from, to]) };
    }
    if len == 0 {
        return 0;
    }
    // At least 1 by the sum: comparisons with 0 tell verifiers before 6.8 nothing.
    let len = opaque((opaque(len as usize - 1) & 127) + 1);
    if len > answer::MOST {
        return 0;
    }
    #[allow(clippy::cast_possible_truncation)] // at most 80
    // SAFETY: the source is valid for so many octets.
    let stored =
        unsafe { bpf_xdp_store_bytes(ctx, at, guarding.octets.as_mut_ptr().cast(), len as u32) };
    u32::from(stored == 0)
}
