//! SYN cookies: what of a protected listener's segments is answered, dropped, or goes on as a connection.
//!
//! Nothing here is compiled into a program whose [`Protection`] says that nothing is protected: the verifier removes it.

// A key that is passed by value is copied to the stack, which is small.
#![allow(clippy::needless_borrows_for_generic_args)]

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, xdp_md},
    helpers::generated::{
        bpf_ktime_get_ns, bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_sock,
        bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
        bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    programs::XdpContext,
};
use tracker_common::{
    answer::{self, Terms},
    cookie::{self, Agreed, Cookie, LIFETIME_NS, Refused},
    counters::Hook,
    event::Kind,
    flow::Flow,
    key::{End, is_mapped},
    packet::Packet,
    protect::{
        Accepted, Listener, ListenerState, Mode, Outcome, OutcomeCounters, Place, Protection, Way,
        feature,
    },
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
    state::State,
    track::{Parts, Report, Surroundings},
    violation::{Breach, Marks, Rule},
};

use crate::{
    frame::opaque,
    maps::{self, Scratch},
    reports,
    surroundings::Kernel,
};

/// What this program may protect, and where the kernel keeps what it must know; set by the agent before loading.
#[unsafe(no_mangle)]
static PROTECTION: Protection =
    Protection { enabled: 0, half_open_at: 0, backlog_at: 0, waiting_at: 0 };

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
    /// Of the arrived segment's options.
    timestamp: u32,
    timestamp_echo: u32,
    place: Place,
    tuple: [u32; 9],
    terms: Terms,
    /// What a client agrees to, and the cookie that says so.
    agreed: Agreed,
    cookie: Cookie,
    octets: [u8; answer::MOST],
    ip: [u8; 40],
    tcp: [u8; 64],
}

/// What becomes of a segment.
pub(crate) mod guarded {
    /// Nothing: it is none of a protected listener's, or goes to the host as any other.
    pub(crate) const PASSED: u32 = 0;
    /// It is a SYN,ACK now, and goes back.
    pub(crate) const ANSWERED: u32 = 1;
    /// It returns no cookie of ours.
    pub(crate) const REFUSED: u32 = 2;
    /// It opens a connection, of which nothing was seen before.
    pub(crate) const ACCEPTED: u32 = 3;
}

/// States of the kernel's sockets (include/net/tcp_states.h).
const TCP_LISTEN: u32 = 10;

/// How long what is known of a listener is believed while it is sent cookies for, and while it is not, or not there: it
/// may begin to listen in the middle of a flood.
const ASK_WHILE_ON_NS: u64 = 100_000_000;
const ASK_WHILE_OFF_NS: u64 = 1_000_000;

/// `BPF_F_CURRENT_NETNS`, as the helpers take it.
const CURRENT_NAMESPACE: u64 = u64::MAX;

/// Looks at the packet in [`Scratch`], whose record is `confirmed`, or null: one of [`guarded`].
#[inline(never)]
pub(crate) fn guard(
    ctx: *mut xdp_md,
    scratch: *mut Scratch,
    confirmed: *const Flow,
    now_ns: u64,
) -> u32 {
    // SAFETY: this CPU's own element; nothing below writes this part of it.
    let packet = unsafe { &(*scratch).parsed.packet };
    let flags =
        packet.segment.flags.only(Flags::SYN.with(Flags::ACK).with(Flags::RST).with(Flags::FIN));
    let is_syn = flags == Flags::SYN;
    let returns = flags.only(Flags::SYN.with(Flags::ACK).with(Flags::RST)) == Flags::ACK;
    if (!is_syn && !returns) || packet.segment.fragment {
        return guarded::PASSED;
    }
    let host = packet.from.other();
    // SAFETY: this CPU's own element, another part of it.
    let guarding = unsafe { &mut (*scratch).guarding };
    guarding.place = Place {
        address: packet.key.addresses[host.index()],
        port: packet.key.ports[host.index()],
        reserved: [0; 2],
    };
    let Some(listener) = maps::LISTENERS.get_ptr(&guarding.place) else { return guarded::PASSED };
    // SAFETY: stays allocated while the program runs. The agent may be writing another version of it: each member makes
    // sense by itself.
    let listener = unsafe { &*listener };
    let Some(state) = maps::LISTENER_STATES.get_ptr(listener.index) else { return guarded::PASSED };
    // SAFETY: an array's element is never freed.
    let state = unsafe { &*state };
    let Some(counters) = maps::COOKIES.get_ptr(listener.index) else { return guarded::PASSED };
    // SAFETY: an array's element is never freed; this CPU alone writes it.
    let counters = unsafe { &*counters };
    if listener.mode == Mode::Off as u8 {
        return guarded::PASSED;
    }
    // SAFETY: a record, or null; see `tracker_common::track` on races.
    let confirmed = unsafe { confirmed.as_ref() };
    let at = At { ctx, scratch, confirmed, listener, state, counters, now_ns };
    if is_syn { at.take_syn(packet, guarding) } else { at.take_ack(packet, guarding) }
}

/// Where a segment arrived, and when.
#[derive(Clone, Copy)]
struct At<'a> {
    ctx: *mut xdp_md,
    scratch: *mut Scratch,
    confirmed: Option<&'a Flow>,
    listener: &'a Listener,
    state: &'a ListenerState,
    counters: &'a OutcomeCounters,
    now_ns: u64,
}

impl At<'_> {
    #[inline(always)]
    fn count(&self, outcome: Outcome) {
        let cell = &self.counters.counts[opaque(outcome as usize) & (Outcome::SLOTS - 1)];
        cell.set(cell.get() + 1);
    }

    #[inline(always)]
    fn is_auto(&self) -> bool {
        self.listener.mode == Mode::Auto as u8
    }

    #[inline(always)]
    fn take_syn(&self, packet: &Packet, guarding: &mut Guarding) -> u32 {
        if packet.segment.options.has(SynOptions::HAS_SIGNATURE) {
            self.count(Outcome::LeftToHost);
            return guarded::PASSED;
        }
        // Where the listener has no half-open connection, there is none to be found.
        if self.is_known(packet, self.state.half_open.get() != 0) || self.is_for_many() {
            return guarded::PASSED;
        }
        if !self.is_on(packet, guarding) {
            return guarded::PASSED;
        }
        let sent = if self.listener.way == Way::Kernel as u8 || self.state.refused.get() != 0 {
            self.answer_by_kernel(packet, guarding)
        } else {
            self.answer(packet, guarding)
        };
        if !sent {
            self.count(Outcome::Unanswered);
            return guarded::PASSED;
        }
        self.count(Outcome::Sent);
        if self.counters.sends(self.now_ns, self.listener.threshold) && self.is_auto() {
            self.hold(guarding, 0, 0);
        }
        guarded::ANSWERED
    }

    /// Whether the host knows the connection, by what was seen of it, in the table of half-open ones too or not: then its
    /// stack is to judge the segment.
    #[inline(always)]
    fn is_known(&self, packet: &Packet, in_half_open: bool) -> bool {
        let host = packet.from.other();
        let kernel = Kernel::new(self.scratch);
        if self.confirmed.is_some_and(|flow| !flow.is_dead() && is_open(&kernel, flow, host)) {
            return true;
        }
        if in_half_open && let Some(half_open) = maps::HALF_OPEN.get_ptr(&packet.key) {
            // SAFETY: the element stays allocated while the program runs: see `tracker_common::track` on races.
            let flow = unsafe { &(*half_open).flow };
            return !flow.is_dead()
                && flow.half(host).facts().seen()
                && is_open(&kernel, flow, host);
        }
        false
    }

    /// Whether the frame was sent to a group of stations, or to all.
    #[inline(always)]
    fn is_for_many(&self) -> bool {
        if maps::interface().raw_ip != 0 {
            return false;
        }
        let context = XdpContext::new(self.ctx);
        let (data, end) = (context.data(), context.data_end());
        if data + 14 > end {
            return true;
        }
        // SAFETY: within the packet, as just compared.
        let first = unsafe { core::ptr::read(data as *const u8) };
        first & 1 != 0
    }

    /// Whether SYNs are answered with cookies now.
    #[inline(always)]
    fn is_on(&self, packet: &Packet, guarding: &mut Guarding) -> bool {
        let (state, now_ns) = (self.state, self.now_ns);
        let was_on = !self.is_auto() || now_ns < state.cookies_until_ns.get();
        let is_sending = was_on && state.is_listening.get() != 0;
        let patience = if is_sending { ASK_WHILE_ON_NS } else { ASK_WHILE_OFF_NS };
        let asked_ns = state.asked_ns.get();
        if asked_ns == 0 || now_ns.wrapping_sub(asked_ns) >= patience {
            state.asked_ns.set(now_ns);
            self.ask(packet, guarding);
        }
        if state.is_listening.get() == 0 {
            return false;
        }
        if !self.is_auto() {
            return true;
        }
        // A short backlog would be full before.
        let limit = self.listener.threshold.min(state.backlog.get() / 4 * 3).max(1);
        let half_open = state.half_open.get();
        if half_open >= if was_on { limit / 2 } else { limit } {
            self.hold(guarding, half_open, limit);
            return true;
        }
        was_on
    }

    /// Sends cookies for a while from now on, and says so where none were sent before.
    #[inline(always)]
    fn hold(&self, guarding: &Guarding, half_open: u32, limit: u32) {
        let old = self.state.cookies_until_ns.get();
        let until = self.now_ns.wrapping_add(self.listener.hold_ns);
        if until.wrapping_sub(old).cast_signed() < ASK_WHILE_ON_NS.cast_signed() {
            return;
        }
        let began = self.now_ns >= old;
        // Whoever comes second finds another value, and need not say it again.
        if self.state.cookies_until_ns.compare_exchange(old, until) && began {
            reports::announce_cookies(self.scratch, &guarding.place, self.now_ns, half_open, limit);
        }
    }

    /// Asks the host whether somebody listens, and how many half-open connections there are.
    #[inline(always)]
    fn ask(&self, packet: &Packet, guarding: &mut Guarding) {
        // No connection has port 0, so that only a listener is found.
        let Some(socket) = self.look_up(packet, guarding, 0) else {
            self.state.is_listening.set(0);
            return;
        };
        let listens = socket.state() == TCP_LISTEN;
        self.state.is_listening.set(u32::from(listens));
        if listens {
            let protection = protection();
            // SAFETY: a socket that is held.
            let tcp = unsafe { bpf_skc_to_tcp_sock(socket.0.cast()) };
            if !tcp.is_null() {
                // SAFETY: a member of the kernel's structure; the agent has found out where it is.
                let half_open = unsafe { read_at(tcp as usize, protection.half_open_at) };
                // SAFETY: as above.
                let backlog = unsafe { read_at(tcp as usize, protection.backlog_at) };
                self.state.half_open.set(half_open);
                self.state.backlog.set(backlog);
            }
        }
        socket.release();
    }

    /// The host's socket for what a client's port sends to the place.
    #[inline(always)]
    fn look_up(&self, packet: &Packet, guarding: &mut Guarding, port: u16) -> Option<Socket> {
        look_up(self.ctx.cast(), packet, &mut guarding.tuple, port)
    }

    /// Answers with a cookie of ours.
    #[inline(always)]
    fn answer(&self, packet: &Packet, guarding: &mut Guarding) -> bool {
        guarding.agreed = Agreed::on(packet, self.listener);
        if tracker_make_cookie(self.now_ns) == 0 {
            return false;
        }
        let terms = Terms::new(self.listener, &guarding.agreed, &guarding.cookie, self.now_ns);
        self.send(&terms, guarding)
    }

    /// Answers with a cookie of the kernel's.
    #[inline(always)]
    fn answer_by_kernel(&self, packet: &Packet, guarding: &mut Guarding) -> bool {
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
    fn load_headers(&self, guarding: &mut Guarding) -> Option<u32> {
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

    #[inline(always)]
    fn take_ack(&self, packet: &Packet, guarding: &mut Guarding) -> u32 {
        let until = self.state.cookies_until_ns.get();
        if self.is_auto() && (until == 0 || self.now_ns >= until.wrapping_add(LIFETIME_NS)) {
            return guarded::PASSED;
        }
        if self.is_known(packet, true) {
            return guarded::PASSED;
        }
        let timestamps = load_timestamps(self.ctx, self.scratch, guarding);
        let checked = tracker_check_cookie(u32::from(timestamps), self.now_ns);
        if checked == IS_OURS && !self.was_accepted(packet, guarding.cookie.isn) {
            let (agreed, cookie) = (guarding.agreed, guarding.cookie);
            return self.accept(packet, guarding, &agreed, &cookie, Way::Handover);
        }
        let reason = if checked == IS_OURS {
            Refused::Replayed
        } else if checked == Refused::Expired as u32 {
            Refused::Expired
        } else if checked == Refused::NoKey as u32 {
            Refused::NoKey
        } else {
            Refused::Forged
        };
        self.refuse(packet, guarding, reason)
    }

    /// Whether this very cookie has become a connection before. While that lives, nobody asks.
    #[inline(always)]
    fn was_accepted(&self, packet: &Packet, cookie: Seq) -> bool {
        let Some(accepted) = maps::ACCEPTED.get_ptr(&packet.key) else { return false };
        // SAFETY: the element stays allocated while the program runs. Where it is evicted meanwhile, another
        // connection's is read, whose cookie is another one.
        let accepted = unsafe { &*accepted };
        accepted.cookie == cookie.0 && accepted.client_isn == packet.segment.seq.sub(1).0
    }

    /// Drops a segment that returns no cookie of ours, unless the host knows better.
    #[inline(always)]
    fn refuse(&self, packet: &Packet, guarding: &mut Guarding, reason: Refused) -> u32 {
        let port = packet.key.port(packet.from);
        let headers = self.load_headers(guarding);
        // A connection from before this program, or one that its tables have lost; or nobody listens.
        let Some(socket) = self.look_up(packet, guarding, port) else { return guarded::PASSED };
        let listens = socket.state() == TCP_LISTEN;
        let mut is_kernels = false;
        if listens && let Some(tcp_len) = headers {
            // SAFETY: a listener that is held, and headers of the lengths given.
            let error = unsafe {
                bpf_tcp_check_syncookie(
                    socket.0.cast(),
                    guarding.ip.as_mut_ptr().cast(),
                    40,
                    guarding.tcp.as_mut_ptr().cast(),
                    tcp_len,
                )
            };
            is_kernels = error == 0;
        }
        socket.release();
        if !listens {
            return guarded::PASSED;
        }
        let mut reason = reason;
        if is_kernels {
            let isn = packet.segment.ack.sub(1);
            if !self.was_accepted(packet, isn) {
                let agreed = Agreed { scale: 15, ..Agreed::default() };
                let cookie = Cookie { isn, timestamp_offset: 0 };
                return self.accept(packet, guarding, &agreed, &cookie, Way::Kernel);
            }
            reason = Refused::Replayed;
        }
        if reason as u8 != Refused::Replayed as u8 && has_ended(packet) {
            // It crossed the other end's RST, or the last segment: the host answers it as any that comes too late.
            return guarded::PASSED;
        }
        self.count(match reason {
            Refused::Forged => Outcome::Forged,
            Refused::Expired => Outcome::Expired,
            Refused::Replayed => Outcome::Replayed,
            Refused::NoKey => Outcome::NoKey,
        });
        let kernel = Kernel::new(self.scratch);
        kernel.count_breach(Rule::CookieBad, Hook::Ingress);
        kernel.report(&Report {
            now_ns: self.now_ns,
            kinds: Kind::Violation.bit(),
            packet,
            hook: Hook::Ingress,
            breach: Breach { rule: Rule::CookieBad, low: 0, high: 0, actual: packet.segment.ack.0 },
            marks: Marks::NONE,
            before: [State::Closed; 2],
            after: [State::Closed; 2],
            flow: None,
        });
        guarded::REFUSED
    }

    /// Remembers a connection, for the listener and against a second one by the same cookie.
    #[inline(always)]
    fn accept(
        &self,
        packet: &Packet,
        guarding: &mut Guarding,
        agreed: &Agreed,
        cookie: &Cookie,
        way: Way,
    ) -> u32 {
        let mut features = 0;
        for (is, bit) in [
            (agreed.is_scaled(), feature::WINDOW_SCALE),
            (agreed.sack, feature::SACK),
            (agreed.timestamps, feature::TIMESTAMPS),
            (agreed.ecn, feature::ECN),
        ] {
            if is {
                features |= bit;
            }
        }
        guarding.accepted = Accepted {
            at_ns: self.now_ns,
            handed_ns: 0,
            index: self.listener.index,
            client_isn: packet.segment.seq.sub(1).0,
            cookie: cookie.isn.0,
            timestamp_offset: cookie.timestamp_offset,
            mss: agreed.mss(&packet.key.addresses[0]),
            client_scale: agreed.scale,
            host_scale: self.listener.scale,
            features,
            // The kernel checks its own cookies.
            is_done: u8::from(way as u8 == Way::Kernel as u8),
            way: way as u8,
            reserved: 0,
        };
        let _ = maps::ACCEPTED.insert(&packet.key, &guarding.accepted, 0);
        self.count(Outcome::Accepted);
        self.counters.returned.set(self.counters.returned.get() + 1);
        guarding.arrived = *packet;
        guarded::ACCEPTED
    }
}

/// Whether the segment's addresses and ports are those of a connection that is still remembered. None that goes on gets
/// here.
#[inline(always)]
fn has_ended(packet: &Packet) -> bool {
    // SAFETY: the elements stay allocated while the program runs: see `tracker_common::track` on races.
    let confirmed = maps::CONFIRMED.get_ptr(&packet.key).map(|flow| unsafe { &*flow });
    // SAFETY: as above.
    let half_open = || maps::HALF_OPEN.get_ptr(&packet.key).map(|flow| unsafe { &(*flow).flow });
    let host = packet.from.other();
    confirmed
        .or_else(half_open)
        .is_some_and(|flow| !flow.is_dead() && flow.half(host).facts().seen())
}

// What follows are global functions: the verifier checks each once, and not on every path to a call.

/// In place of a [`Refused`].
const IS_OURS: u32 = 0xff;

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

/// Checks the cookie that the segment in [`Scratch`] returns: [`IS_OURS`], and then what it says is there, or the code of a
/// [`Refused`]. `timestamps` says whether the segment has the option.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_check_cookie(timestamps: u32, now_ns: u64) -> u32 {
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

/// Whether an end of a flow is not CLOSED.
#[inline(always)]
fn is_open(kernel: &Kernel, flow: &Flow, end: End) -> bool {
    // Not by an index: the compiler would make a pointer by an OR, which the verifier refuses.
    let [low, high] = kernel.states(flow).map(|state| opaque(state as usize));
    let state = if end.is_high() { high } else { low };
    state != State::Closed as usize
}

/// A socket that is held.
struct Socket(*mut bpf_sock);

impl Socket {
    #[inline(always)]
    fn state(&self) -> u32 {
        // SAFETY: a valid socket.
        let socket = unsafe { &*self.0 };
        // SAFETY: this member may be read.
        unsafe { core::ptr::read_volatile(&raw const socket.state) }
    }

    #[inline(always)]
    fn release(self) {
        // SAFETY: held until now.
        unsafe { bpf_sk_release(self.0.cast()) };
    }
}

/// The host's socket for what the sender of `packet`, or another port of its address, sends.
#[inline(always)]
fn look_up(
    ctx: *mut core::ffi::c_void,
    packet: &Packet,
    tuple: &mut [u32; 9],
    port: u16,
) -> Option<Socket> {
    let (client, host) = (packet.from.index(), packet.from.other().index());
    let addresses = &packet.key.addresses;
    let [high, low] = packet.key.ports[host];
    let ports = {
        let [a, b] = port.to_be_bytes();
        u32::from_ne_bytes([a, b, high, low])
    };
    let word = |end: usize, at: usize| {
        let address = &addresses[end];
        u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]])
    };
    let len = if is_mapped(&addresses[0]) {
        (tuple[0], tuple[1], tuple[2]) = (word(client, 12), word(host, 12), ports);
        12
    } else {
        for n in 0..4 {
            tuple[n] = word(client, n * 4);
            tuple[4 + n] = word(host, n * 4);
        }
        tuple[8] = ports;
        36
    };
    // SAFETY: a context, and a tuple of the length given.
    let socket =
        unsafe { bpf_skc_lookup_tcp(ctx, tuple.as_mut_ptr().cast(), len, CURRENT_NAMESPACE, 0) };
    (!socket.is_null()).then_some(Socket(socket))
}

/// A 32-bit member of one of the kernel's structures.
///
/// # Safety
///
/// `base` is a pointer that the verifier knows, and the agent has found the member at `at`.
#[inline(always)]
unsafe fn read_at(base: usize, at: u32) -> u32 {
    // SAFETY: by the caller's word; the verifier checks it too.
    unsafe { core::ptr::read_volatile((base + at as usize) as *const u32) }
}

/// Where options can be copied from.
pub(crate) trait Load: Copy {
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
fn load_timestamps<L: Load>(ctx: L, scratch: *mut Scratch, guarding: &mut Guarding) -> bool {
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

/// `struct bpf_tcp_req_attrs` (include/net/tcp.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    rcv_tsval: u32,
    rcv_tsecr: u32,
    mss: u16,
    rcv_wscale: u8,
    snd_wscale: u8,
    ecn_ok: u8,
    wscale_ok: u8,
    sack_ok: u8,
    tstamp_ok: u8,
    usec_ts_ok: u8,
    reserved: [u8; 3],
}

/// The kernel's error number for what makes no sense.
const EINVAL: u32 = 22;

/// In the place of `bpf_sk_assign_tcp_reqsk`, until the agent writes the number that it has in this kernel here.
const ASSIGN: usize = 0x7fff_0001;

type Assign =
    unsafe extern "C" fn(*mut __sk_buff, *mut core::ffi::c_void, *mut Attributes, u64) -> i64;

/// What becomes of a segment on its way to the host's stack.
pub(crate) mod handed {
    /// It goes on.
    pub(crate) const ON: i32 = -1;
    /// It is dropped.
    pub(crate) const DROPPED: i32 = 2;
}

/// Hands the connection that the packet in [`Scratch`] belongs to over to its listener, if that is still to be done: one
/// of [`handed`].
#[inline(always)]
pub(crate) fn hand_over(ctx: *mut __sk_buff, scratch: *mut Scratch) -> i32 {
    // SAFETY: this CPU's own element; nothing below writes this part of it.
    let packet = unsafe { &(*scratch).parsed.packet };
    let segment = &packet.segment;
    let flags = segment.flags.only(Flags::SYN.with(Flags::ACK).with(Flags::RST));
    if flags != Flags::ACK {
        return handed::ON;
    }
    let Some(accepted) = maps::ACCEPTED.get_ptr_mut(&packet.key) else { return handed::ON };
    // SAFETY: the element stays allocated while the program runs. Where it is evicted and used for another connection
    // meanwhile, the segment does not begin that one, and is sent again.
    let accepted = unsafe { &mut *accepted };
    if accepted.is_done != 0 {
        return handed::ON;
    }
    // SAFETY: as above, another part of it.
    let guarding = unsafe { &mut (*scratch).guarding };
    let port = packet.key.port(packet.from);
    let Some(socket) = look_up(ctx.cast(), packet, &mut guarding.tuple, port) else {
        return handed::ON;
    };
    if socket.state() != TCP_LISTEN {
        accepted.is_done = 1;
        socket.release();
        return handed::ON;
    }
    let (outcome, error) = assign(ctx, scratch, packet, accepted, &socket, guarding);
    socket.release();
    let Some(outcome) = outcome else { return handed::ON };
    let Some(counters) = maps::COOKIES.get_ptr(accepted.index) else { return handed::ON };
    // SAFETY: an array's element is never freed; this CPU alone writes it.
    let counters = unsafe { &*counters };
    let cell = &counters.counts[opaque(outcome as usize) & (Outcome::SLOTS - 1)];
    cell.set(cell.get() + 1);
    if outcome as u8 == Outcome::HandoverFailed as u8
        && let Some(state) = maps::LISTENER_STATES.get_ptr(accepted.index)
    {
        // SAFETY: as above.
        unsafe { (*state).refused.set(error) };
    }
    if outcome as u8 == Outcome::TooEarly as u8 { handed::DROPPED } else { handed::ON }
}

/// How long the listener is given to make a socket of what it was handed: a batch of packets, and more.
const HANDING_NS: u64 = 10_000_000;

/// Hands the connection over, if this segment is one to do it with; no outcome where the listener has it on its way.
#[inline(always)]
fn assign(
    ctx: *mut __sk_buff,
    scratch: *mut Scratch,
    packet: &Packet,
    accepted: &mut Accepted,
    socket: &Socket,
    guarding: &mut Guarding,
) -> (Option<Outcome>, u32) {
    // SAFETY: a socket that is held.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.0.cast()) };
    if tcp.is_null() {
        return (Some(Outcome::HandoverFailed), EINVAL);
    }
    let protection = protection();
    // SAFETY: a member of the kernel's structure; the agent has found out where it is.
    let waiting = unsafe { read_at(tcp as usize, protection.waiting_at) };
    // SAFETY: as above.
    let backlog = unsafe { read_at(tcp as usize, protection.backlog_at) };
    // SAFETY: takes nothing.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let is_full = waiting > backlog;
    // All packets of a batch come here before the first of them gets to the listener. The ones after that one find its
    // socket then. A second request for the same connection would be dropped, and its data with it.
    if accepted.handed_ns != 0 && now_ns.wrapping_sub(accepted.handed_ns) < HANDING_NS && !is_full {
        return (None, 0);
    }
    let segment = &packet.segment;
    if segment.seq.0 != accepted.client_isn.wrapping_add(1)
        || segment.ack.0 != accepted.cookie.wrapping_add(1)
    {
        // The kernel would take the connection's numbers from this one.
        return (Some(Outcome::TooEarly), 0);
    }
    // A full queue makes the kernel drop it.
    accepted.handed_ns = if is_full { 0 } else { now_ns };
    let has = |bit| u8::from(accepted.features & bit != 0);
    let mut attributes = Attributes {
        mss: accepted.mss,
        ecn_ok: has(feature::ECN),
        sack_ok: has(feature::SACK),
        ..Attributes::default()
    };
    if accepted.features & feature::WINDOW_SCALE != 0 {
        attributes.wscale_ok = 1;
        attributes.rcv_wscale = accepted.host_scale;
        attributes.snd_wscale = accepted.client_scale;
    }
    if accepted.features & feature::TIMESTAMPS != 0 && load_timestamps(ctx, scratch, guarding) {
        attributes.tstamp_ok = 1;
        attributes.rcv_tsval = guarding.timestamp;
        // The kernel takes this for its clock's value now. With what is echoed in fact, the round trip would seem to have
        // taken no time, and BBR would send as if it had.
        #[allow(clippy::cast_possible_truncation)] // the clock of timestamps wraps
        let clock = (now_ns / 1_000_000) as u32;
        attributes.rcv_tsecr = clock.wrapping_add(accepted.timestamp_offset);
    }
    // SAFETY: never called: the agent makes it a call of the kernel's function before loading.
    let assign: Assign = unsafe { core::mem::transmute(ASSIGN) };
    // SAFETY: a context, a listener that is held, and attributes of the length given.
    let error =
        unsafe { assign(ctx, tcp.cast(), &raw mut attributes, size_of::<Attributes>() as u64) };
    if error == 0 {
        return (Some(Outcome::HandedOver), 0);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an error number
    (Some(Outcome::HandoverFailed), -error as u32)
}
