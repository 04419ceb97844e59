//! SYN cookies: everything that a SYN,ACK must be remembered by, in its own sequence number.
//!
//! A cookie is 32 bits, from the highest: 21 bits of SipHash-2-4 under a secret key, 2 bits of the period it was made in,
//! 9 bits of what both ends agreed on. The hash covers both ends' addresses and ports, the client's ISN, the whole number
//! of the period, and what was agreed on, so nothing in an acknowledgment can be changed or moved to another connection.
//! The known bits are the lowest: whoever guesses where in the sequence space the connection lies knows no more of it
//! than of a random ISN, as far as a window of 64 KiB goes.
//!
//! Timestamps need no room: that they were agreed on is part of what is hashed, and shows in the acknowledgment. Their
//! offset is the other half of the hash, so that they tell nothing of the host's clock (RFC 7323 section 7.1). And a client
//! proves by its echo that it got the SYN,ACK: of 2^32 echoes 34,360 at most lie in the period that the cookie was made in.

use crate::{
    key::{Address, is_mapped},
    packet::Packet,
    platform::siphash::SipHash,
    protect::{Listener, feature},
    segment::{Flags, SynOptions},
    seq::Seq,
};

pub use crate::cookies::keys::{DatedKey, Keys};

/// Nanoseconds of a period are two to this power: about 34 s. A shift, because the division would cost more.
pub const PERIOD_SHIFT: u32 = 35;

/// Periods after its own in which a cookie is accepted: it lives for 69 to 103 s.
pub const PERIODS_ACCEPTED: u32 = 2;

/// Nanoseconds after which no cookie is accepted any more.
pub const LIFETIME_NS: u64 = ((PERIODS_ACCEPTED + 1) as u64) << PERIOD_SHIFT;

const AGREED_BITS: u32 = 9;
const PERIOD_BITS: u32 = 2;
const KNOWN_BITS: u32 = AGREED_BITS + PERIOD_BITS;

/// Bits of hash in a cookie.
pub const HASH_BITS: u32 = 32 - KNOWN_BITS;

/// Maximum segment sizes that a cookie can hold, for IPv4: the default (RFC 9293 section 3.7.1), and what the usual links
/// and tunnels leave. A client's own is rounded down to one of them, and 536 is used for less, as the kernel's cookies do.
pub const MSS_IPV4: [u16; 8] = [536, 1220, 1300, 1360, 1400, 1440, 1460, 8960];

/// The same for IPv6.
pub const MSS_IPV6: [u16; 8] = [1220, 1280, 1300, 1340, 1380, 1420, 1440, 8940];

/// In place of a window scale: none was agreed on. 15 is no scale (RFC 7323 section 2.3).
const NO_SCALE: u8 = 15;

/// The period that `now_ns` lies in: nanoseconds by the clock of [`Keys::dated`].
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation)] // wraps after 4,600 years
pub const fn period(now_ns: u64) -> u32 {
    (now_ns >> PERIOD_SHIFT) as u32
}

/// The clock of timestamps (RFC 7323 section 4.1) at `now_ns`, nanoseconds since boot: milliseconds, without a connection's
/// offset.
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation)] // it wraps
pub const fn timestamp_clock(now_ns: u64) -> u32 {
    (now_ns / 1_000_000) as u32
}

/// What both ends agree on in the handshake.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Agreed {
    /// Which of [`MSS_IPV4`] or [`MSS_IPV6`] the client takes at most; below 8.
    pub mss: u8,
    /// The client's window scale, below 15; 15 where windows are not scaled.
    pub scale: u8,
    /// Selective acknowledgments (RFC 2018).
    pub sack: bool,
    /// Explicit congestion notification (RFC 3168).
    pub ecn: bool,
    /// Timestamps (RFC 7323).
    pub timestamps: bool,
}

impl Agreed {
    /// What a client that sent `syn` and the host behind `listener` agree on.
    #[inline(always)]
    #[must_use]
    pub fn on(syn: &Packet, listener: &Listener) -> Self {
        let segment = &syn.segment;
        let options = &segment.options;
        let both = |option, feature| options.has(option) && listener.has(feature);
        let scaled = both(SynOptions::HAS_WINDOW_SCALE, feature::WINDOW_SCALE);
        Self {
            mss: mss_index(&syn.key.addresses[0], options.mss),
            scale: if scaled { options.window_scale } else { NO_SCALE },
            sack: both(SynOptions::HAS_SACK, feature::SACK),
            ecn: segment.has(Flags::ECE.with(Flags::CWR)) && listener.has(feature::ECN),
            timestamps: both(SynOptions::HAS_TIMESTAMPS, feature::TIMESTAMPS),
        }
    }

    /// Whether windows are scaled.
    #[inline(always)]
    #[must_use]
    pub const fn is_scaled(&self) -> bool {
        self.scale != NO_SCALE
    }

    /// The client's maximum segment size in bytes, of a connection with `address`.
    #[inline(always)]
    #[must_use]
    pub fn mss(&self, address: &Address) -> u16 {
        let index = self.mss as usize & 7;
        if is_mapped(address) { MSS_IPV4[index] } else { MSS_IPV6[index] }
    }

    #[inline(always)]
    const fn bits(self) -> u32 {
        (self.mss as u32 & 7)
            | (self.scale as u32 & 15) << 3
            | (self.sack as u32) << 7
            | (self.ecn as u32) << 8
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // masked
    const fn from_bits(bits: u32, timestamps: bool) -> Self {
        Self {
            mss: (bits & 7) as u8,
            scale: (bits >> 3 & 15) as u8,
            sack: bits >> 7 & 1 != 0,
            ecn: bits >> 8 & 1 != 0,
            timestamps,
        }
    }
}

#[inline(always)]
fn mss_index(address: &Address, offered: u16) -> u8 {
    // Without a table in memory: the programs would have to look it up.
    let at_least = |table: [u16; 8]| {
        let mut index = 0;
        for size in [table[1], table[2], table[3], table[4], table[5], table[6], table[7]] {
            index += u8::from(offered >= size);
        }
        index
    };
    if is_mapped(address) { at_least(MSS_IPV4) } else { at_least(MSS_IPV6) }
}

/// What a SYN is answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cookie {
    /// The SYN,ACK's sequence number.
    pub isn: Seq,
    /// What is added to the host's clock, in milliseconds, to make its timestamps.
    pub timestamp_offset: u32,
}

/// Why an acknowledgment returns no cookie of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Refused {
    /// The hash is another one, or the timestamp that is echoed was not sent with it.
    Forged = 0,
    /// It was ours, and is too old.
    Expired = 1,
    /// It was accepted before.
    Replayed = 2,
    /// The key it would have been made with is gone.
    NoKey = 3,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Forged, Self::Expired, Self::Replayed, Self::NoKey];

    /// Its name in output and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::NoKey => "no_key",
        }
    }
}

/// The cookie for a client that agrees to `agreed` with a SYN, or `None` without a key.
#[inline(always)]
#[must_use]
pub fn make(keys: &Keys, syn: &Packet, agreed: Agreed, now_ns: u64) -> Option<Cookie> {
    let date_ns = keys.dated(now_ns);
    let period = period(date_ns);
    let key = keys.of(period)?;
    let hash = hash(key, syn, syn.segment.seq, period, agreed);
    Some(cookie(hash, period, agreed, ahead(date_ns, now_ns)))
}

/// Milliseconds by which the clock of dates is ahead of the host's.
#[inline(always)]
const fn ahead(date_ns: u64, now_ns: u64) -> u32 {
    timestamp_clock(date_ns).wrapping_sub(timestamp_clock(now_ns))
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // a half
fn cookie(hash: u64, period: u32, agreed: Agreed, ahead: u32) -> Cookie {
    let known = agreed.bits() | (period & ((1 << PERIOD_BITS) - 1)) << AGREED_BITS;
    Cookie {
        isn: Seq((hash as u32) << KNOWN_BITS | known),
        timestamp_offset: ((hash >> 32) as u32).wrapping_add(ahead),
    }
}

/// What the cookie that `ack` returns stands for: `ack` is a segment whose first byte follows the SYN. `timestamps`
/// says whether it has the option; [`was_sent`] has to say the same of its echo.
///
/// # Errors
///
/// Why it is none of ours, or not any more. Whether it was accepted before is not known here.
#[inline(always)]
pub fn check(
    keys: &Keys,
    ack: &Packet,
    timestamps: bool,
    now_ns: u64,
) -> Result<(Agreed, Cookie), Refused> {
    let claimed = ack.segment.ack.sub(1);
    let agreed = Agreed::from_bits(claimed.0 & ((1 << AGREED_BITS) - 1), timestamps);
    let date_ns = keys.dated(now_ns);
    let now = period(date_ns.wrapping_add(keys.skew_ns));
    let age = age(claimed, now);
    let period = now.wrapping_sub(age);
    let Some(key) = keys.of(period) else { return Err(Refused::NoKey) };
    let hash = hash(key, ack, ack.segment.seq.sub(1), period, agreed);
    let cookie = cookie(hash, period, agreed, ahead(date_ns, now_ns));
    if cookie.isn != claimed {
        Err(Refused::Forged)
    } else if age > PERIODS_ACCEPTED {
        Err(Refused::Expired)
    } else {
        Ok((agreed, cookie))
    }
}

/// How many periods before `now` the cookie was made. What a host has made whose clock is ahead has been made already: `now` is the
/// latest period that any of them is in.
#[inline(always)]
const fn age(cookie: Seq, now: u32) -> u32 {
    now.wrapping_sub(cookie.0 >> AGREED_BITS) & ((1 << PERIOD_BITS) - 1)
}

/// Milliseconds that a period has a part of.
const ECHOES: u32 = timestamp_clock(1 << PERIOD_SHIFT) + 1;

/// Whether a SYN,ACK with a cookie that [`check`] has found can have had the timestamp `echo`. A step of its own, because the stack
/// of kernel programs has no room for both at once.
#[inline(always)]
#[must_use]
pub const fn was_sent(keys: &Keys, cookie: &Cookie, echo: Seq, now_ns: u64) -> bool {
    let date_ns = keys.dated(now_ns);
    let latest_ns = date_ns.wrapping_add(keys.skew_ns);
    let age = age(cookie.isn, period(latest_ns));
    let begin_ns = (latest_ns >> PERIOD_SHIFT).saturating_sub(age as u64) << PERIOD_SHIFT;
    let latest = timestamp_clock(latest_ns);
    let offset = cookie.timestamp_offset.wrapping_sub(ahead(date_ns, now_ns));
    let sent_ago = latest.wrapping_sub(echo.0.wrapping_sub(offset));
    let began_ago = latest.wrapping_sub(timestamp_clock(begin_ns));
    sent_ago <= began_ago && began_ago - sent_ago <= ECHOES
}

/// Returns a key's fingerprint of 32 bits, by which hosts that share keys can compare them. It discloses nothing of the key.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // a half
pub fn fingerprint(key: &[u64; 2]) -> u32 {
    // Messages of cookies are longer.
    SipHash::<2, 4>::new(key).finish(0) as u32
}

/// SipHash-2-4 of the connection that the sender of `packet` opens with `isn`.
#[inline(always)]
fn hash(key: &[u64; 2], packet: &Packet, isn: Seq, period: u32, agreed: Agreed) -> u64 {
    let (client, host) = (packet.from, packet.from.other());
    let addresses = &packet.key.addresses;
    let (from, to) = (&addresses[client.index()], &addresses[host.index()]);
    let port = |end: crate::key::End| u64::from(packet.key.port(end));
    let ends = port(client) | port(host) << 16 | u64::from(isn.0) << 32;
    let rest =
        u64::from(period) | u64::from(agreed.bits()) << 32 | u64::from(agreed.timestamps) << 41;
    let mut state = SipHash::<2, 4>::new(key);
    if is_mapped(from) {
        state.absorb(half(from, 12) | half(to, 12) << 32);
        state.absorb(ends);
        state.absorb(rest);
        state.finish(24)
    } else {
        state.absorb(half(from, 0) | half(from, 4) << 32);
        state.absorb(half(from, 8) | half(from, 12) << 32);
        state.absorb(half(to, 0) | half(to, 4) << 32);
        state.absorb(half(to, 8) | half(to, 12) << 32);
        state.absorb(ends);
        state.absorb(rest);
        state.finish(48)
    }
}

/// Four bytes of an address.
#[inline(always)]
fn half(address: &Address, at: usize) -> u64 {
    u64::from(u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        key::{FlowKey, mapped},
        segment::Segment,
    };

    const NOW: u64 = 1_000_000_000_000_000;

    fn keys() -> Keys {
        let now = period(NOW);
        Keys {
            keys: [
                DatedKey { key: [1, 2], since: now - 100, present: 1 },
                DatedKey { key: [3, 4], since: now, present: 1 },
            ],
            ..Keys::default()
        }
    }

    /// The same at a host that was booted so much later, and whose clock is ahead of the others' by so much.
    fn keys_elsewhere(later_ns: u64, ahead_ns: u64) -> Keys {
        Keys { clock_ns: later_ns + ahead_ns, skew_ns: 2_000_000_000, ..keys() }
    }

    fn packet(v6: bool, seq: u32, ack: u32) -> Packet {
        let address = |n: u8| if v6 { [n; 16] } else { mapped([10, 0, 0, n]) };
        let (key, from) = FlowKey::new(
            (&address(9), 40_000_u16.to_be_bytes()),
            (&address(1), 443_u16.to_be_bytes()),
            0,
        );
        Packet {
            key,
            from,
            segment: Segment { seq: Seq(seq), ack: Seq(ack), ..Segment::default() },
        }
    }

    /// The echo of what is sent with `cookie` at `now_ns`, where timestamps were agreed on.
    fn echo(agreed: Agreed, cookie: &Cookie, now_ns: u64) -> Option<Seq> {
        agreed
            .timestamps
            .then(|| Seq(timestamp_clock(now_ns).wrapping_add(cookie.timestamp_offset)))
    }

    /// As the programs check: the number, and then the echo.
    fn check(
        keys: &Keys,
        ack: &Packet,
        echo: Option<Seq>,
        now_ns: u64,
    ) -> Result<(Agreed, Cookie), Refused> {
        let (agreed, cookie) = super::check(keys, ack, echo.is_some(), now_ns)?;
        let is_wrong = echo.is_some_and(|echo| !was_sent(keys, &cookie, echo, now_ns));
        if is_wrong { Err(Refused::Forged) } else { Ok((agreed, cookie)) }
    }

    fn agreed() -> impl Strategy<Value = Agreed> {
        (0..8u8, 0..16u8, any::<(bool, bool, bool)>()).prop_map(
            |(mss, scale, (sack, ecn, timestamps))| Agreed { mss, scale, sack, ecn, timestamps },
        )
    }

    proptest! {
        // Each case of the second is right by chance once in 400,000.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_agreed_on_comes_back(
            agreed in agreed(), isn: u32, v6: bool, age in 0..2 * (1u64 << PERIOD_SHIFT),
        ) {
            let made = make(&keys(), &packet(v6, isn, 0), agreed, NOW).expect("a key");
            let ack = packet(v6, isn.wrapping_add(1), made.isn.add(1).0);
            let echo = echo(agreed, &made, NOW);
            prop_assert_eq!(check(&keys(), &ack, echo, NOW + age), Ok((agreed, made)));
        }

        #[test]
        fn nothing_may_be_changed(agreed in agreed(), isn: u32, v6: bool, bit in 0..32u32, other in 1u32..) {
            let made = make(&keys(), &packet(v6, isn, 0), agreed, NOW).expect("a key");
            let said = echo(agreed, &made, NOW);
            let unsaid = if said.is_none() { Some(Seq(other)) } else { None };
            let wrong = |ack: &Packet, echo| {
                matches!(check(&keys(), ack, echo, NOW), Err(Refused::Forged | Refused::NoKey))
            };
            let ack = |seq: u32, cookie: Seq| packet(v6, seq, cookie.add(1).0);
            let next = isn.wrapping_add(1);
            let flipped = ack(next, Seq(made.isn.0 ^ 1 << bit));
            prop_assert!(wrong(&flipped, said));
            prop_assert!(wrong(&ack(next.wrapping_add(other), made.isn), said));
            prop_assert!(wrong(&ack(next, made.isn), unsaid));
            prop_assert!(wrong(&packet(!v6, next, made.isn.add(1).0), said));
            let mut elsewhere = ack(next, made.isn);
            elsewhere.key.ports[elsewhere.from.other().index()] = 444_u16.to_be_bytes();
            prop_assert!(wrong(&elsewhere, said));
        }
    }

    #[test]
    fn cookies_expire_and_keys_end() {
        let agreed = Agreed { timestamps: true, ..Agreed::default() };
        let made = make(&keys(), &packet(false, 7, 0), agreed, NOW).expect("a key");
        let ack = packet(false, 8, made.isn.add(1).0);
        let said = echo(agreed, &made, NOW);
        let after = |periods: u64| check(&keys(), &ack, said, NOW + (periods << PERIOD_SHIFT));
        assert!(after(0).is_ok() && after(2).is_ok());
        assert_eq!(after(3), Err(Refused::Expired));
        // Another period with the same two bits.
        assert_eq!(after(4), Err(Refused::Forged));
        // Made with the key before.
        let before = NOW - (1 << PERIOD_SHIFT);
        let made = make(&keys(), &packet(false, 7, 0), agreed, before).expect("a key");
        let ack = packet(false, 8, made.isn.add(1).0);
        assert!(check(&keys(), &ack, echo(agreed, &made, before), NOW).is_ok());
        assert_eq!(Keys::default().of(5), None);
        assert_eq!(keys().of(period(NOW) - 101), None);
        assert_eq!(keys().of(period(NOW) - 1), Some(&[1, 2]));
        assert_eq!(keys().of(period(NOW)), Some(&[3, 4]));
    }

    proptest! {
        #[test]
        fn hosts_with_the_same_keys_take_each_others_cookies(
            agreed in agreed(), isn: u32, v6: bool, travels_ns in 0..60_000_000_000_u64,
            later in proptest::array::uniform2(0..NOW / 2), ahead_ns in proptest::array::uniform2(0..2_000_000_000_u64), at in 0..1_u64 << PERIOD_SHIFT,
        ) {
            let [one, other] = [0, 1].map(|host| keys_elsewhere(later[host], ahead_ns[host]));
            let now_ns = NOW + at;
            let [there, here] = [0, 1].map(|host: usize| now_ns - later[host]);
            let made = make(&one, &packet(v6, isn, 0), agreed, there).expect("a key");
            let ack = packet(v6, isn.wrapping_add(1), made.isn.add(1).0);
            let said = echo(agreed, &made, there);
            let found = check(&other, &ack, said, here + travels_ns);
            let (found, cookie) = found.expect("it is accepted");
            prop_assert_eq!((found, cookie.isn), (agreed, made.isn));
            // Its own clock goes on from the other's, but for what one is ahead.
            let gone = timestamp_clock(here).wrapping_add(cookie.timestamp_offset)
                .wrapping_sub(timestamp_clock(there).wrapping_add(made.timestamp_offset));
            prop_assert!(gone.cast_signed().unsigned_abs() <= 2001, "{gone}");
            // And what comes from a clock that is much further ahead is none of them.
            let far = keys_elsewhere(later[0], 5_000_000_000 + ahead_ns[1]);
            let made = make(&far, &packet(v6, isn, 0), agreed, there).expect("a key");
            let ack = packet(v6, isn.wrapping_add(1), made.isn.add(1).0);
            let is_wrong = check(&other, &ack, echo(agreed, &made, there), here).is_err();
            prop_assert!(is_wrong || !agreed.timestamps);
        }
    }

    #[test]
    fn fingerprints_differ() {
        assert_ne!(fingerprint(&[1, 2]), fingerprint(&[2, 1]));
    }

    #[test]
    fn an_echo_that_was_not_sent_with_it_is_forged() {
        let agreed = Agreed { timestamps: true, ..Agreed::default() };
        let begin = NOW >> PERIOD_SHIFT << PERIOD_SHIFT;
        let last = begin + (1 << PERIOD_SHIFT) - 1;
        for (made_ns, now_ns) in
            [(begin, begin), (begin, last), (last, last + 5), (last, NOW + 2 * (last - begin))]
        {
            let made = make(&keys(), &packet(false, 7, 0), agreed, made_ns).expect("a key");
            let ack = packet(false, 8, made.isn.add(1).0);
            let check = |sent_ns| check(&keys(), &ack, echo(agreed, &made, sent_ns), now_ns);
            assert!(check(made_ns).is_ok(), "{made_ns} {now_ns}");
            // An echo from earlier in the same period, as after a SYN that came again.
            assert!(check(begin.max(made_ns - 1_000_000)).is_ok());
            for wrong in [begin - 2_000_000, now_ns + 1_000_000, last + 3_000_000] {
                assert_eq!(check(wrong), Err(Refused::Forged), "{made_ns} {now_ns} {wrong}");
            }
        }
    }

    #[test]
    fn a_size_that_fits() {
        let index = |offered| mss_index(&mapped([10, 0, 0, 1]), offered);
        assert_eq!([0, 535, 536, 1219].map(index), [0; 4]);
        assert_eq!([1220, 1459, 1460, 8959, 8960, 65_495].map(index), [1, 5, 6, 6, 7, 7]);
        assert_eq!(mss_index(&[1; 16], 1440), 6);
    }
}
