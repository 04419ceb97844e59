//! What the agent and the kernel programs tell each other about listeners that SYN cookies protect.

mod accepted;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use self::accepted::{Accepted, Handed, MAX_ACCEPTED};
use crate::{
    cell::{U32, U64},
    key::{Address, is_mapped},
    seq::Seq,
};

/// Addresses with a port that one agent can protect.
pub const MAX_LISTENERS: u32 = 1024;

/// Networks in the `LEFT_TO_HOST` map at most. Its values have a bit for each interface's slot: a SYN from there that arrives by it is
/// not answered, because the host drops it.
pub const MAX_LEFT_TO_HOST: u32 = 65_536;

/// What a program knows of the kernel it runs on: a constant of the loaded program, so that the kernel's verifier removes
/// the whole of protection where it is not wanted.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Protection {
    /// 1 where listeners are protected.
    pub enabled: u32,
    /// 1 where accepted connections are handed to listeners, and not left to the kernel's own cookies.
    pub hands_over: u32,
    /// Bytes from the start of the kernel's `struct tcp_sock` to the number of a listener's half-open connections,
    /// `inet_conn.icsk_accept_queue.qlen`.
    pub half_open_at: u32,
    /// The same for the listener's backlog, `sk_max_ack_backlog`.
    pub backlog_at: u32,
    /// The same for the connections that wait to be accepted, `sk_ack_backlog`.
    pub waiting_at: u32,
}

/// An address and port of this host, and so a place to listen at: the key of the `LISTENERS` map.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Place {
    /// In the form of [`crate::key::FlowKey::addresses`].
    pub address: Address,
    /// In network byte order.
    pub port: [u8; 2],
    /// Always 0.
    pub reserved: [u8; 2],
}

/// Whether nobody may send from this address: of this network, loopback, multicast, reserved or broadcast (RFC 1122 section 3.2.1.3,
/// RFC 4291 sections 2.5.2, 2.5.3 and 2.7). Linux drops what does (`ip_route_input_slow`, `ip6_rcv_core`).
#[inline(always)]
#[must_use]
pub fn is_martian(address: &Address) -> bool {
    if is_mapped(address) {
        let first = address[12];
        return first == 0 || first == 127 || first >= 224;
    }
    if address[0] != 0 {
        return address[0] == 0xff;
    }
    let mut others = 0;
    let mut n = 1;
    while n < 15 {
        others |= address[n];
        n += 1;
    }
    others == 0 && address[15] <= 1
}

/// When SYNs are answered with cookies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Mode {
    /// Never.
    Off = 0,
    /// While there are too many half-open connections.
    Auto = 1,
    /// Always.
    Always = 2,
}

/// Whose cookies a listener's clients get.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Way {
    /// Ours, and the listener is handed what was agreed on (`bpf_sk_assign_tcp_reqsk`, Linux 6.9).
    Handover = 0,
    /// The kernel's own, which lose all options but the maximum segment size (`bpf_tcp_gen_syncookie`).
    Kernel = 1,
}

impl Way {
    /// Its name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handover => "handover",
            Self::Kernel => "kernel",
        }
    }
}

/// Options that the host would agree to, and what else there is to know of a listener.
pub mod feature {
    /// Window scale.
    pub const WINDOW_SCALE: u8 = 1;
    /// Selective acknowledgments.
    pub const SACK: u8 = 2;
    /// Timestamps.
    pub const TIMESTAMPS: u8 = 4;
    /// Explicit congestion notification.
    pub const ECN: u8 = 8;
    /// There are routes that change what is offered: the `ROUTES` map has them.
    pub const ROUTES: u8 = 16;
    /// Windows are no larger than a signed number says (`net.ipv4.tcp_workaround_signed_windows`).
    pub const SIGNED_WINDOWS: u8 = 32;
    /// Other hosts make cookies with the same keys: one may come back where none was sent.
    pub const SHARED_KEYS: u8 = 64;
}

/// What the agent says about a place: a value of the `LISTENERS` map.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Listener {
    /// Its place among states and counters, below [`MAX_LISTENERS`].
    pub index: u32,
    /// Half-open connections that trigger cookies, in [`Mode::Auto`]. Three quarters of the listener's backlog trigger them
    /// where that is less.
    pub threshold: u32,
    /// Nanoseconds for which cookies are sent after the last reason to.
    pub hold_ns: u64,
    /// Bytes of the receive buffer that are for data.
    pub space: u32,
    /// The maximum segment size that the host announces, in bytes.
    pub mss: u16,
    /// The window that the host announces at first where timestamps are agreed on, in bytes, not scaled.
    pub window: u16,
    /// The same without timestamps, which leave less room in a segment.
    pub plain_window: u16,
    /// Always 0.
    pub reserved: [u8; 2],
    /// The host's window scale.
    pub scale: u8,
    /// Bits of [`feature`].
    pub features: u8,
    /// Code of a [`Mode`].
    pub mode: u8,
    /// Code of a [`Way`].
    pub way: u8,
}

impl Listener {
    /// Whether the host would agree to a [`feature`].
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, feature: u8) -> bool {
        self.features & feature != 0
    }

    /// The window that the host announces at first, in bytes, not scaled.
    #[inline(always)]
    #[must_use]
    pub const fn first_window(&self, with_timestamps: bool) -> u16 {
        if with_timestamps { self.window } else { self.plain_window }
    }
}

/// What the kernel programs know of a place: an element of the `LISTENER_STATES` map.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout))]
pub struct ListenerState {
    /// In [`Mode::Auto`], cookies are sent until this, in nanoseconds since boot; 0 where they never were.
    pub cookies_until_ns: U64,
    /// When the host was last asked whether somebody listens there, in nanoseconds since boot.
    pub asked_ns: U64,
    /// 1 where somebody listened.
    pub is_listening: U32,
    /// Half-open connections then.
    pub half_open: U32,
    /// The listener's backlog then.
    pub backlog: U32,
    /// The error number with which the kernel refused to take a connection over, if it ever did: this listener needs
    /// [`Way::Kernel`].
    pub refused: U32,
}

/// Returns how many half-open connections of a listener trigger cookies, in [`Mode::Auto`]: `threshold`, or three quarters of
/// `backlog` where that is less, because a short backlog fills first. At least 1.
#[inline(always)]
#[must_use]
pub const fn cookie_limit(threshold: u32, backlog: u32) -> u32 {
    let most = backlog - backlog.div_ceil(4);
    let limit = if threshold < most { threshold } else { most };
    at_least_1(limit)
}

#[inline(always)]
const fn at_least_1(limit: u32) -> u32 {
    if limit == 0 { 1 } else { limit }
}

/// Whether `half_open` connections are a reason to send cookies, where the limit is [`cookie_limit`]. Where they are sent
/// already, half as many are: a listener at its limit would begin and end all the time. None are never a reason.
#[inline(always)]
#[must_use]
pub const fn needs_cookies(half_open: u32, limit: u32, was_on: bool) -> bool {
    let limit = if was_on { at_least_1(limit / 2) } else { limit };
    half_open >= limit
}

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What becomes of SYNs and cookies, counted per place and CPU.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u8)]
        pub enum Outcome {
            $($(#[doc = $doc])* $name = $code,)*
        }

        impl Outcome {
            /// Every outcome.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in output and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

outcomes! {
    /// SYNs answered with a cookie.
    Sent = 0, "sent";
    /// Acknowledgments that returned one of ours: connections.
    Accepted = 1, "accepted";
    /// Acknowledgments dropped: see [`crate::cookie::Refused::Forged`].
    Forged = 2, "forged";
    /// See [`crate::cookie::Refused::Expired`].
    Expired = 3, "expired";
    /// See [`crate::cookie::Refused::Replayed`].
    Replayed = 4, "replayed";
    /// See [`crate::cookie::Refused::NoKey`].
    NoKey = 5, "no_key";
    /// Connections that the listener was handed.
    HandedOver = 6, "handed_over";
    /// Connections that the kernel did not let the listener be handed.
    HandoverFailed = 7, "handover_failed";
    /// Segments dropped because the one that begins the connection did not get to the listener, or is on its way there on
    /// another CPU: they come again.
    TooEarly = 8, "too_early";
    /// SYNs left to the host, because they ask for what a cookie cannot give, a signature (RFC 2385, RFC 5925), or because nobody
    /// may send from their address ([`is_martian`], or the host's own): it drops them.
    LeftToHost = 9, "left_to_host";
    /// SYNs that could not be answered: no key, or no room in the frame. The host got them.
    Unanswered = 10, "unanswered";
    /// SYNs of clients that try again, although they were answered ([`Answered`]): the answer got lost, on its way or where it
    /// was to leave.
    Repeated = 11, "repeated";
    /// Connections that were handed over, and that the host had when their next segment came.
    Opened = 12, "opened";
    /// Connections handed over once more, because the host did not have them when their client tried again: on its way to the
    /// listener the first segment got lost.
    HandedAgain = 13, "handed_again";
    /// Connections handed over, that were reset from this host's side before it had them.
    ResetAtOnce = 14, "reset_at_once";
}

impl Outcome {
    /// Places in [`OutcomeCounters`]; more than there are outcomes.
    pub const SLOTS: usize = 16;
}

/// Outcomes at one place on one CPU: an element of the `COOKIES` map.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout))]
pub struct OutcomeCounters {
    /// Indexed by [`Outcome`].
    pub counts: [U64; Outcome::SLOTS],
    /// When the second began in which the next two are counted, in nanoseconds since boot.
    pub second_ns: U64,
    /// Cookies sent in that second.
    pub sent: U64,
    /// Cookies returned in that second.
    pub returned: U64,
}

impl OutcomeCounters {
    /// Counts a cookie that is sent at `now_ns`. Where a second has passed, says whether in that second so many were sent
    /// to nobody that the host would have had to remember them: an eighth of all, and a 32nd of `threshold`. A half-open
    /// connection lives for more than that many seconds.
    #[inline(always)]
    pub fn sends(&self, now_ns: u64, threshold: u32) -> bool {
        const SECOND_NS: u64 = 1_000_000_000;
        let (sent, returned) = (self.sent.get(), self.returned.get());
        if now_ns.wrapping_sub(self.second_ns.get()) < SECOND_NS {
            self.sent.set(sent + 1);
            return false;
        }
        self.second_ns.set(now_ns);
        self.sent.set(1);
        self.returned.set(0);
        let unreturned = sent.saturating_sub(returned);
        unreturned * 32 >= u64::from(threshold) && unreturned * 8 >= sent && unreturned > 0
    }
}

/// A SYN that was answered: an element of the `ANSWERED` map.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Answered {
    /// The ISN of the answer, a cookie: the same as long as its key and period are, so that it names the SYN.
    isn: U32,
    /// When it was answered first, in units of 2^20 ns since boot; 0 for never.
    at: U32,
}

/// How many [`Answered`] are remembered by each interface's programs, at [`Answered::place`].
pub const MAX_ANSWERED: u32 = 1 << 14;

impl Answered {
    /// Where the answer with this ISN is remembered: by its highest bits, which are those of a hash.
    #[inline(always)]
    #[must_use]
    pub const fn place(isn: Seq) -> u32 {
        isn.0 >> (u32::BITS - MAX_ANSWERED.ilog2())
    }

    /// Notes that a SYN is answered with `isn` at `now_ns`. Whether it was answered before, at least half a second ago: a client
    /// tries again after one (RFC 6298 section 2). One is remembered for 8 seconds, and nothing else at its place meanwhile.
    #[inline(always)]
    pub fn again(&self, isn: Seq, now_ns: u64) -> bool {
        const SECOND: u32 = 1_000_000_000 >> 20;
        #[allow(clippy::cast_possible_truncation)] // wraps after 52 days
        let now = (now_ns >> 20) as u32;
        let at = self.at.get();
        let age = now.wrapping_sub(at);
        if at != 0 && age < 8 * SECOND {
            return self.isn.get() == isn.0 && age >= SECOND / 2;
        }
        self.isn.set(isn.0);
        self.at.set(now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::mapped;

    #[test]
    fn martians_are_what_linux_drops() {
        use core::net::{Ipv4Addr, Ipv6Addr};
        for (text, martian) in [
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("1.0.0.1", false),
            ("126.255.255.255", false),
            ("127.0.0.1", true),
            ("128.0.0.1", false),
            ("223.255.255.255", false),
            ("224.0.0.1", true),
            ("240.0.0.1", true),
            ("255.255.255.255", true),
        ] {
            let address: Ipv4Addr = text.parse().expect(text);
            assert_eq!(is_martian(&mapped(address.octets())), martian, "{text}");
        }
        for (text, martian) in [
            ("::", true),
            ("::1", true),
            ("::2", false),
            ("1::", false),
            ("0:1::1", false),
            ("::1:0:0:1", false),
            ("fe80::1", false),
            ("ff02::1", true),
        ] {
            let address: Ipv6Addr = text.parse().expect(text);
            assert_eq!(is_martian(&address.octets()), martian, "{text}");
        }
    }

    #[test]
    fn a_client_that_tries_again_is_known() {
        const SECOND_NS: u64 = 1_000_000_000;
        let (answered, now) = (Answered::default(), 5_000_000_000_000);
        let (mine, others) = (Seq(0xabcd_0000), Seq(0xabcd_0001));
        assert_eq!(Answered::place(mine), Answered::place(others));
        assert!(Answered::place(Seq(u32::MAX)) < MAX_ANSWERED);
        assert!(!answered.again(mine, now));
        // A copy of it, and somebody else's at the same place.
        assert!(!answered.again(mine, now + SECOND_NS / 10));
        assert!(!answered.again(others, now + SECOND_NS));
        assert!(answered.again(mine, now + SECOND_NS));
        assert!(answered.again(mine, now + 7 * SECOND_NS));
        assert!(!answered.again(others, now + 9 * SECOND_NS));
        assert!(answered.again(others, now + 10 * SECOND_NS));
    }

    #[test]
    fn a_short_backlog_is_protected_earlier() {
        for (backlog, expected) in [
            (u32::MAX, 128),
            (4096, 128),
            (172, 128),
            (171, 128),
            (170, 127),
            (128, 96),
            // 5.25, not three times 7 / 4 = 1.
            (7, 5),
            (5, 3),
            (4, 3),
            (2, 1),
            (1, 1),
            (0, 1),
        ] {
            assert_eq!(cookie_limit(128, backlog), expected, "{backlog}");
            assert_eq!(cookie_limit(1, backlog), 1, "{backlog}");
        }
    }

    #[test]
    fn cookies_end_at_half_of_what_they_begin_at() {
        let reasons =
            |limit, was_on| (0..9).filter(|n| needs_cookies(*n, limit, was_on)).collect::<Vec<_>>();
        assert_eq!(reasons(7, false), [7, 8]);
        assert_eq!(reasons(7, true), [3, 4, 5, 6, 7, 8]);
        assert_eq!(reasons(6, true), [3, 4, 5, 6, 7, 8]);
        // They end, whatever the limit.
        assert_eq!(reasons(1, true), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
