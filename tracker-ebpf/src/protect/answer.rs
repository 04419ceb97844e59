//! The SYN,ACK that answers a SYN, by a cookie of ours or of the kernel's.

use aya_ebpf::{helpers::generated::bpf_tcp_gen_syncookie, maps::lpm_trie::Key};
use tracker_common::{
    answer::{self, Terms},
    cookie::{self, Agreed},
    forget::opaque,
    key::is_mapped,
    packet::Packet,
    protect::{Answered, Listener, Outcome, Place, feature},
    route::ADDRESS_BITS,
    segment::Flags,
    seq::Seq,
};

use super::{Guarding, guard::GuardContext, socket::TCP_LISTEN};
use crate::{
    arriving::Arriving,
    maps::{self, Scratch},
};

impl<A: Arriving> GuardContext<'_, A> {
    /// Answers with a cookie of ours.
    #[inline(always)]
    pub(super) fn answer(&self, packet: &Packet, guarding: &mut Guarding) -> bool {
        let listener = self.offering();
        guarding.agreed = Agreed::on(packet, listener);
        if tracker_make_cookie(self.now_ns) == 0 {
            return false;
        }
        let terms = Terms::new(listener, &guarding.agreed, &guarding.cookie, self.now_ns);
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
        let listener = self.offering();
        let (mss, window) = (listener.mss, listener.first_window(false));
        let terms = Terms { isn, mss, window, ..Terms::default() };
        self.send(&terms, guarding)
    }

    /// The listener, with what it offers by the route to the client whose segment is in [`Scratch`].
    #[inline(always)]
    pub(super) fn offering(&self) -> &Listener {
        // SAFETY: this CPU's own element, a part that nothing but this and the function below writes.
        let offering = unsafe { &mut (*self.scratch).offering };
        *offering = *self.listener;
        if offering.has(feature::ROUTES) {
            tracker_take_route();
        }
        offering
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
        let has_ip = self.ctx.load(parsed.ip_at, guarding.ip.as_mut_ptr(), 40);
        let has_tcp = self.ctx.load(parsed.tcp_at, guarding.tcp.as_mut_ptr(), len);
        (has_ip && has_tcp).then_some(len)
    }

    /// Makes the SYN the SYN,ACK that answers it. False where that cannot be done; the SYN is as it was then.
    #[inline(always)]
    fn send(&self, terms: &Terms, guarding: &mut Guarding) -> bool {
        guarding.terms = *terms;
        let mut is_sent = send(self.ctx, self.scratch) != 0;
        if !is_sent {
            // A SYN without an MSS option leaves less room than the answer takes, where a driver has none behind the frame. The
            // answer then has no MSS option either.
            guarding.terms.mss = 0;
            is_sent = send(self.ctx, self.scratch) != 0;
        }
        let isn = guarding.terms.isn;
        if is_sent && let Some(answered) = maps::ANSWERED.get_ptr(Answered::place(isn)) {
            // SAFETY: an array's element is never freed. Two CPUs that write it at once may miss one SYN.
            if unsafe { &*answered }.again(isn, self.now_ns) {
                self.count(Outcome::Repeated);
            }
        }
        is_sent
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

/// Makes the listener in [`Scratch`] offer what the route to the client there says.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_take_route() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, offering, .. } = unsafe { &mut *scratch };
    let packet = &parsed.packet;
    let client = packet.key.addresses[packet.from.index()];
    let Some(route) = maps::ROUTES.get(Key::new(ADDRESS_BITS, client)) else { return 0 };
    // What the map holds may be replaced meanwhile.
    *offering = offering.on(&{ *route });
    1
}

/// Whether the host drops the SYN in [`Scratch`] because of where it comes from: 0 or 1.
#[inline(never)]
#[unsafe(no_mangle)]
pub(super) extern "C" fn tracker_is_left_to_host() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let packet = unsafe { &(*scratch).parsed.packet };
    let client = packet.key.addresses[packet.from.index()];
    let Some(slots) = maps::LEFT_TO_HOST.get(Key::new(ADDRESS_BITS, client)) else { return 0 };
    u32::from(*slots >> (maps::interface().slot & 63) & 1 != 0)
}

/// Writes the SYN,ACK that answers the SYN in [`Scratch`] with the terms there; its length.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_write_answer() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    #[allow(clippy::cast_possible_truncation)] // at most 80
    let len = answer::write(&mut guarding.bytes, &parsed.packet, &guarding.terms) as u32;
    len
}

/// Makes the SYN of [`Scratch`] the SYN,ACK with the terms there; 0 where there is no room for it.
#[inline(never)]
fn send<A: Arriving>(ctx: A, scratch: *mut Scratch) -> u32 {
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    let (ip_at, tcp_at) = (parsed.ip_at & 31, parsed.tcp_at);
    let is_partial = ctx.is_checksum_partial((tcp_at & 0x7fff) + 16);
    let ip_len = if is_mapped(&parsed.packet.key.addresses[0]) { 20 } else { 40 };
    if is_partial && tcp_at != ip_at + ip_len {
        // Who completes the checksum looks for it behind options that the answer does not have.
        return 0;
    }
    guarding.terms.partial_checksum = is_partial;
    let len = tracker_write_answer();
    if !ctx.resize(ip_at + len) {
        return 0;
    }
    if maps::interface().raw_ip == 0 {
        let Some([to, from]) = ctx.load_stations() else { return 0 };
        ctx.store_stations([from, to]);
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
    let stored = ctx.store(ip_at, guarding.bytes.as_ptr(), len as u32);
    u32::from(stored)
}

/// Whether the leaving packet in [`Scratch`] is an answer that was made of a SYN in the host's stack: it was counted as that SYN was.
/// The host's own answers have come by no interface.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_is_answer() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let Scratch { parsed, guarding, .. } = unsafe { &mut *scratch };
    let packet = &parsed.packet;
    if !packet.segment.forwarded || !packet.segment.has(Flags::SYN.with(Flags::ACK)) {
        return 0;
    }
    let host = packet.from.index();
    guarding.place = Place {
        address: packet.key.addresses[host],
        port: packet.key.ports[host],
        reserved: [0; 2],
    };
    u32::from(maps::LISTENERS.get_ptr(&guarding.place).is_some())
}
