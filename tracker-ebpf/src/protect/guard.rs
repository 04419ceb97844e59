//! What becomes of a SYN to a protected listener, and of an acknowledgment that may return a cookie.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::{bpf_skc_to_tcp_sock, bpf_tcp_check_syncookie},
};
use tracker_common::{
    cookie::{Agreed, Cookie, LIFETIME_NS, Refused},
    counters::Hook,
    event::Kind,
    flow::{Flow, HalfOpen},
    forget::opaque,
    key::End,
    packet::Packet,
    protect::{
        Accepted, Listener, ListenerState, Mode, Outcome, OutcomeCounters, Place, Way,
        cookie_limit, feature, is_martian, needs_cookies,
    },
    segment::{Flags, SynOptions},
    seq::Seq,
    state::State,
    track::{Environment, Report, VerifiedSteps},
    violation::{Breach, Marks, Rule},
};

use super::{
    Guarding,
    answer::tracker_is_left_to_host,
    check::{IS_OURS, tracker_check_cookie, tracker_was_sent},
    handshake::load_timestamps,
    protection,
    socket::{Socket, TCP_LISTEN, look_up, read_at},
};
use crate::{
    arriving::Arriving,
    kernel::Kernel,
    maps::{self, Scratch},
    reports, table,
};

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
    /// It belongs to a connection that another CPU is opening at this moment. It comes again.
    pub(crate) const TOO_EARLY: u32 = 4;
}

/// How long what is known of a listener is believed while it is sent cookies for, and while it is not, or not there: it
/// may begin to listen in the middle of a flood.
const ASK_WHILE_ON_NS: u64 = 100_000_000;
const ASK_WHILE_OFF_NS: u64 = 1_000_000;

/// Looks at the packet in [`Scratch`], whose record is `confirmed`, or null: one of [`guarded`].
#[inline(never)]
pub(crate) fn guard<A: Arriving>(
    ctx: A,
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
    let at = GuardContext { ctx, scratch, confirmed, listener, state, counters, now_ns };
    if is_syn { at.take_syn(packet, guarding) } else { at.take_ack(packet, guarding) }
}

/// Where a segment arrived, and when.
#[derive(Clone, Copy)]
pub(super) struct GuardContext<'a, A> {
    pub(super) ctx: A,
    pub(super) scratch: *mut Scratch,
    confirmed: Option<&'a Flow>,
    pub(super) listener: &'a Listener,
    state: &'a ListenerState,
    counters: &'a OutcomeCounters,
    pub(super) now_ns: u64,
}

impl<A: Arriving> GuardContext<'_, A> {
    #[inline(always)]
    pub(super) fn count(&self, outcome: Outcome) {
        let cell = &self.counters.counts[opaque(outcome as usize) & (Outcome::SLOTS - 1)];
        cell.set(cell.get() + 1);
    }

    #[inline(always)]
    fn is_auto(&self) -> bool {
        self.listener.mode == Mode::Auto as u8
    }

    #[inline(always)]
    fn take_syn(&self, packet: &Packet, guarding: &mut Guarding) -> u32 {
        let client = &packet.key.addresses[packet.from.index()];
        if packet.segment.options.has(SynOptions::HAS_SIGNATURE) || is_martian(client) {
            self.count(Outcome::LeftToHost);
            return guarded::PASSED;
        }
        // Where the listener has no half-open connection, there is none to be found.
        if self.is_known(packet, self.state.half_open.get() != 0) || self.is_for_others() {
            return guarded::PASSED;
        }
        if !self.is_on(packet, guarding) {
            return guarded::PASSED;
        }
        if tracker_is_left_to_host() != 0 {
            self.count(Outcome::LeftToHost);
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
        if in_half_open && let Some(HalfOpen { flow, .. }) = table::half_open(&packet.key) {
            return !flow.is_dead()
                && flow.half(host).facts().seen()
                && is_open(&kernel, flow, host);
        }
        false
    }

    #[inline(always)]
    fn is_for_others(&self) -> bool {
        maps::interface().raw_ip == 0 && self.ctx.is_for_others()
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
        let limit = cookie_limit(self.listener.threshold, state.backlog.get());
        let half_open = state.half_open.get();
        if needs_cookies(half_open, limit, was_on) {
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
                // SAFETY: a member of the kernel's structure; the agent has found out where it is.
                let backlog = unsafe { read_at(tcp as usize, protection.backlog_at) };
                self.state.half_open.set(half_open);
                self.state.backlog.set(backlog);
            }
        }
        socket.release();
    }

    /// The host's socket for what a client's port sends to the place.
    #[inline(always)]
    pub(super) fn look_up(
        &self,
        packet: &Packet,
        guarding: &mut Guarding,
        port: u16,
    ) -> Option<Socket> {
        look_up(self.ctx.context(), packet, &mut guarding.tuple, port)
    }

    #[inline(always)]
    fn take_ack(&self, packet: &Packet, guarding: &mut Guarding) -> u32 {
        let until = self.state.cookies_until_ns.get();
        let may_be_ours =
            !self.is_auto() || (until != 0 && self.now_ns < until.wrapping_add(LIFETIME_NS));
        if !may_be_ours && !self.listener.has(feature::SHARED_KEYS) {
            return guarded::PASSED;
        }
        if self.is_known(packet, true) {
            return guarded::PASSED;
        }
        let timestamps = load_timestamps(self.ctx, self.scratch, guarding);
        let mut checked = tracker_check_cookie(u32::from(timestamps), self.now_ns);
        if checked == IS_OURS && timestamps && tracker_was_sent(self.now_ns) == 0 {
            checked = Refused::Forged as u32;
        }
        if checked == IS_OURS && !self.was_accepted(packet, guarding.cookie.isn) {
            let (agreed, cookie) = (guarding.agreed, guarding.cookie);
            return self.accept(packet, guarding, &agreed, &cookie, Way::Handover);
        }
        if !may_be_ours {
            // No cookie was sent here, and this is none of another host's either: the host answers it.
            return guarded::PASSED;
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

    /// When this very cookie became a connection, if it did. While that lives, nobody asks.
    #[inline(always)]
    fn accepted_ns(&self, packet: &Packet, cookie: Seq) -> Option<u64> {
        let accepted = maps::ACCEPTED.get_ptr(&packet.key)?;
        // SAFETY: the element stays allocated while the program runs. Where it is evicted meanwhile, another
        // connection's is read, whose cookie is another one.
        let accepted = unsafe { &*accepted };
        let is_same =
            accepted.cookie == cookie.0 && accepted.client_isn == packet.segment.seq.sub(1).0;
        is_same.then_some(accepted.at_ns)
    }

    #[inline(always)]
    fn was_accepted(&self, packet: &Packet, cookie: Seq) -> bool {
        self.accepted_ns(packet, cookie).is_some()
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
        let kernel = Kernel::new(self.scratch);
        let remembered = remembered(packet);
        // Another CPU may have remembered it since this packet was looked up.
        let has_ended = remembered.is_some_and(|flow| !is_open(&kernel, flow, packet.from.other()));
        if reason as u8 != Refused::Replayed as u8 {
            if remembered.is_some() {
                // It crossed the other end's RST, or the last segment: the host answers it as any that comes too late.
                return guarded::PASSED;
            }
        } else if !has_ended
            && let Some(accepted_ns) = self.accepted_ns(packet, packet.segment.ack.sub(1))
            && Accepted::is_opening(accepted_ns, self.now_ns)
        {
            // The listener would answer it with an RST: it has no socket for it yet.
            self.count(Outcome::TooEarly);
            return guarded::TOO_EARLY;
        }
        self.count(match reason {
            Refused::Forged => Outcome::Forged,
            Refused::Expired => Outcome::Expired,
            Refused::Replayed => Outcome::Replayed,
            Refused::NoKey => Outcome::NoKey,
        });
        kernel.count_breach(Rule::CookieBad, Hook::Ingress);
        kernel.report(&Report {
            now_ns: self.now_ns,
            kinds: Kind::Violation.bit(),
            packet,
            hook: Hook::Ingress,
            breach: Breach { rule: Rule::CookieBad, low: 0, high: 0, actual: 0 },
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
            handed: 0,
            index: self.listener.index,
            client_isn: packet.segment.seq.sub(1).0,
            cookie: cookie.isn.0,
            timestamp_offset: cookie.timestamp_offset,
            mss: agreed.mss(&packet.key.addresses[0]),
            client_scale: agreed.scale,
            host_scale: self.offering().scale,
            features,
            // The kernel checks its own cookies.
            is_done: u8::from(way as u8 == Way::Kernel as u8),
            way: way as u8,
            reserved: 0,
        };
        let (key, accepted) = (&packet.key, &guarding.accepted);
        if maps::ACCEPTED.insert(key, accepted, u64::from(BPF_NOEXIST)).is_err() {
            if self.was_accepted(packet, cookie.isn) {
                // Another CPU has, a moment ago.
                self.count(Outcome::TooEarly);
                return guarded::TOO_EARLY;
            }
            let _ = maps::ACCEPTED.insert(key, accepted, u64::from(BPF_ANY));
        }
        self.count(Outcome::Accepted);
        self.counters.returned.set(self.counters.returned.get() + 1);
        guarding.arrived = *packet;
        guarded::ACCEPTED
    }
}

/// The record of a connection with the segment's addresses and ports, where the host's end was seen.
#[inline(always)]
fn remembered<'a>(packet: &Packet) -> Option<&'a Flow> {
    let half_open = || table::half_open(&packet.key).map(|half_open| &half_open.flow);
    let host = packet.from.other();
    table::confirmed(&packet.key)
        .or_else(half_open)
        .filter(|flow| !flow.is_dead() && flow.half(host).facts().seen())
}

/// Whether an end of a flow is not CLOSED.
#[inline(always)]
fn is_open(kernel: &Kernel, flow: &Flow, end: End) -> bool {
    // Not by an index: the compiler would make a pointer by an OR, which the verifier refuses.
    let [low, high] = kernel.states(flow).map(|state| opaque(state as usize));
    let state = if end.is_high() { high } else { low };
    state != State::Closed as usize
}
