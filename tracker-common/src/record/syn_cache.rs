//! The SYN cache: handshakes that go as nearly all do, in little memory and without lists.
//!
//! A SYN that anybody may send is not worth a whole record ([`crate::flow::HalfOpen`]). What a usual SYN and a usual SYN,ACK say
//! fits one cache line ([`CachedHandshake`]), from which the record is made when it is needed (Lemon, "Resisting SYN flood DoS attacks with
//! a SYN cache", 2002). A set ([`CacheSet`]) holds eight; where it is full, the oldest is overwritten.
//!
//! Each handshake of a set has a word: a part of the key's hash, when it was last seen, a version, and a lock. Whoever writes takes the
//! lock by compare-and-exchange, and gives it back with another version; whoever only reads reads the word before and after. A lock
//! is held for some hundred nanoseconds, never longer than one program runs.

use crate::{
    cell::U64,
    forget::{VerifierBarrier, opaque},
    key::{End, FlowKey, Words},
    owner::Owner,
    platform::siphash::SipHash,
    segment::{Segment, SynOptions},
    seq::Seq,
    time::Tick,
};

/// Handshakes of a set.
pub const WAYS: usize = 8;

/// Where keys are, and whether the cache is used: the one entry of the `SYN_CACHE_SETTINGS` map.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct CacheSettings {
    /// Key of the hash: random, so that nobody can choose keys that meet in one set. Zeros: the cache is not used.
    pub key: [u64; 2],
    /// Number of the last set; there is a power of two of them.
    pub last_set: u64,
}

/// Where a key's handshake is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CachePlace {
    /// Number of its set.
    pub set: u32,
    /// Tells it from others of the set, in [`TAG_BITS`] bits; never 0.
    pub tag: u64,
}

impl CacheSettings {
    /// Where this key is; `None` where the cache is not used.
    #[inline(always)]
    #[must_use]
    pub fn place(&self, key: &FlowKey) -> Option<CachePlace> {
        if self.key[0] | self.key[1] == 0 {
            return None;
        }
        let mut hash = SipHash::<1, 3>::new(&self.key);
        let (addresses, names) = (addresses(key), names(key));
        let len = if names & IPV6 == 0 {
            hash.absorb(together(&addresses));
            16
        } else {
            for word in addresses {
                hash.absorb(word);
            }
            40
        };
        hash.absorb(names);
        let hash = hash.finish(len);
        #[allow(clippy::cast_possible_truncation)] // masked
        let set = (hash & self.last_set) as u32;
        Some(CachePlace { set, tag: hash >> (64 - TAG_BITS) | 1 })
    }

    /// Sets for so many handshakes at least.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // eight
    pub const fn sets(handshakes: u32) -> u32 {
        let sets = handshakes.div_ceil(WAYS as u32);
        if sets > 1 << 24 { 1 << 24 } else { sets.next_power_of_two() }
    }
}

/// Bits of a tag.
const TAG_BITS: u32 = 40;

const LOCKED: u64 = 1;
const VERSION_SHIFT: u32 = 1;
const VERSION_MASK: u64 = 0x7f;
const TICK_SHIFT: u32 = 8;
const TICK_MASK: u64 = 0xffff;
const TAG_SHIFT: u32 = 24;

/// Where a full set's oldest handshake is at least so old, that is no flood: it stays, and the new one gets a whole record.
pub const SPARED_NS: u64 = 1_000_000_000;

/// How often a lock is tried. Who holds it has about a microsecond's work.
const TRIES: u32 = 256;

/// Up to eight handshakes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct CacheSet {
    words: [U64; WAYS],
    handshakes: [CachedHandshake; WAYS],
}

/// A place in a set that nobody else writes to.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Locked {
    /// Which of the set's.
    way: usize,
    /// Its word before.
    before: u64,
    /// Its word now.
    now: u64,
}

/// What came of taking a place for a new handshake.
#[derive(Clone, Copy, Debug)]
pub enum Taken {
    /// It is locked, and free or worth overwriting.
    Place(Locked),
    /// The set is full of what is not to be overwritten, or is being written to.
    None,
    /// Another CPU has just taken one for the same key.
    Twice,
}

impl CacheSet {
    /// The handshake with this tag, locked; `None` where there is none.
    #[inline(always)]
    pub fn lock<F: VerifierBarrier + ?Sized>(&self, f: &F, tag: u64) -> Option<Locked> {
        let way = self.find(f, tag);
        if way == WAYS {
            return None;
        }
        let word = self.word(way);
        for _ in 0..TRIES {
            let before = word.get();
            if before >> TAG_SHIFT != tag {
                return None;
            }
            if before & LOCKED == 0 && word.compare_exchange(before, before | LOCKED) {
                return Some(Locked { way, before, now: before | LOCKED });
            }
        }
        None
    }

    /// A place for a handshake with this tag, which begins at `now_ns`: a free one, or that of the oldest, if it is younger than
    /// [`SPARED_NS`]. A full set of older ones is no flood, and what is in it stays.
    #[inline(always)]
    pub fn take<F: VerifierBarrier + ?Sized>(&self, f: &F, tag: u64, now_ns: u64) -> Taken {
        const FREE: u64 = TICK_MASK + 1;
        let tick = u64::from(Tick::at(now_ns).0);
        // Age and place in one number, so that the oldest is the largest. 0 where all are locked.
        let mut best = 0;
        for (n, word) in (0..).zip(&self.words) {
            let word = word.get();
            let age = tick.wrapping_sub(word >> TICK_SHIFT) & TICK_MASK;
            let age = if word >> TAG_SHIFT == 0 { FREE } else { age };
            let this = if word & LOCKED == 0 { age << 4 | 8 | n } else { 0 };
            best = f.forget(if this > best { this } else { best });
        }
        let (oldest, way) = (best >> 4, opaque(best as usize) & (WAYS - 1));
        if best == 0 || (oldest < FREE && oldest >= SPARED_NS >> Tick::SHIFT) {
            return Taken::None;
        }
        let word = self.word(way);
        let before = word.get();
        let now = tag << TAG_SHIFT | next_version(before) | LOCKED;
        if before & LOCKED != 0 || !word.compare_exchange(before, now) {
            return Taken::None;
        }
        let locked = Locked { way, before, now };
        // Both that take a place for one key see the other's, or one does.
        let mut same = 0;
        for word in &self.words {
            same = f.forget(same + u32::from(word.get() >> TAG_SHIFT == tag));
        }
        if same > 1 {
            self.unlock(locked);
            return Taken::Twice;
        }
        Taken::Place(locked)
    }

    /// Gives a place back as it was.
    #[inline(always)]
    pub fn unlock(&self, locked: Locked) {
        let _ = self.word(locked.way).compare_exchange(locked.now, locked.before);
    }

    /// Gives a place back with a handshake that was last seen at `now_ns`.
    #[inline(always)]
    pub fn publish(&self, locked: Locked, now_ns: u64) {
        let tick = (u64::from(Tick::at(now_ns).0) & TICK_MASK) << TICK_SHIFT;
        let tag = locked.now >> TAG_SHIFT << TAG_SHIFT;
        let word = tag | tick | next_version(locked.now);
        let _ = self.word(locked.way).compare_exchange(locked.now, word);
    }

    /// Gives a place back empty.
    #[inline(always)]
    pub fn free(&self, locked: Locked) {
        let word = next_version(locked.now);
        let _ = self.word(locked.way).compare_exchange(locked.now, word);
    }

    /// What is at a place.
    #[inline(always)]
    #[must_use]
    pub fn handshake(&self, locked: &Locked) -> &CachedHandshake {
        &self.handshakes[opaque(locked.way) & (WAYS - 1)]
    }

    /// Forgets the handshake with this tag. Nobody else may write to the set meanwhile.
    #[cfg(not(target_arch = "bpf"))]
    pub fn forget(&self, tag: u64) {
        if let Some(locked) = self.lock(&[0u8; 0][..], tag) {
            self.free(locked);
        }
    }

    /// The handshakes of the set number `set`, as they are now, with what of their addresses is elsewhere, by `beside`.
    #[cfg(not(target_arch = "bpf"))]
    pub fn each<'a>(
        &self,
        set: u32,
        beside: impl Fn(u32) -> Option<&'a CachedAddresses>,
        mut visit: impl FnMut(&FlowKey, &CachedHandshake),
    ) {
        use core::sync::atomic::{Ordering, fence};

        for (n, (word, handshake)) in (0..).zip(self.words.iter().zip(&self.handshakes)) {
            for _ in 0..TRIES {
                let before = word.get();
                if before >> TAG_SHIFT == 0 {
                    break;
                }
                if before & LOCKED != 0 {
                    continue;
                }
                fence(Ordering::Acquire);
                let copy = handshake.clone();
                let addresses = beside(index(set, n)).cloned().unwrap_or_default();
                fence(Ordering::Acquire);
                if word.get() == before {
                    visit(&copy.key(&addresses), &copy);
                    break;
                }
            }
        }
    }

    #[inline(always)]
    fn word(&self, way: usize) -> &U64 {
        &self.words[opaque(way) & (WAYS - 1)]
    }

    /// Which of the set's has this tag; [`WAYS`] for none.
    #[inline(always)]
    fn find<F: VerifierBarrier + ?Sized>(&self, f: &F, tag: u64) -> usize {
        let mut found = WAYS;
        for (n, word) in self.words.iter().enumerate() {
            let way = if word.get() >> TAG_SHIFT == tag { n } else { found };
            found = f.forget(way);
        }
        found
    }
}

impl Locked {
    /// Where the rest of an IPv6 handshake's addresses is, in a set with this number.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // below eight
    pub fn index(&self, set: u32) -> u32 {
        index(set, self.way as u32)
    }
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // eight
const fn index(set: u32, way: u32) -> u32 {
    set * WAYS as u32 + way
}

#[inline(always)]
const fn next_version(word: u64) -> u64 {
    ((word >> VERSION_SHIFT) + 1 & VERSION_MASK) << VERSION_SHIFT
}

/// Addresses of an IPv6 handshake, network byte order, the low end's first. IPv4's are in the handshake itself.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct CachedAddresses([U64; 4]);

/// A usual SYN, and maybe its usual SYN,ACK.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct CachedHandshake {
    /// Low and high end's IPv4 address; 0 for IPv6.
    addresses: U64,
    /// [`names`], and [`ORIGINATOR_HIGH`] and [`ANSWERED`].
    names: U64,
    /// ISN of the SYN, and of the SYN,ACK above it. In this order all that follows.
    isns: U64,
    /// Their timestamps.
    timestamps: U64,
    /// Windows and MSS: 16 bits each.
    sizes: U64,
    /// Nanoseconds since boot when the SYN was seen.
    syn_ns: U64,
    /// The same of the SYN,ACK.
    answer_ns: U64,
    /// [`Rest`] of the SYN and of the SYN,ACK, 32 bits each.
    rest: U64,
}

/// Of what bits of the names of a connection's ends consist: both ports, the zone, and whether it is IPv6.
const NAMES: u64 = (1 << 49) - 1;
const IPV6: u64 = 1 << 48;
const ORIGINATOR_HIGH: u64 = 1 << 49;
const ANSWERED: u64 = 1 << 50;

/// What of a key is beside the addresses.
#[inline(always)]
fn names(key: &FlowKey) -> u64 {
    let [[a, b], [c, d]] = key.ports;
    let family = if key.is_ipv4() { 0 } else { IPV6 };
    u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(key.zone) << 32 | family
}

#[inline(always)]
fn addresses(key: &FlowKey) -> [u64; 4] {
    let [low, high] = &key.addresses;
    let ([a, b], [c, d]) = (Words::of(low).words(), Words::of(high).words());
    [a, b, c, d]
}

/// Both IPv4 addresses in one word, in the order in which they lie in memory.
#[inline(always)]
fn together([_, low, _, high]: &[u64; 4]) -> u64 {
    // The address is the last half of the last word.
    if cfg!(target_endian = "little") {
        low >> 32 | high & 0xffff_ffff_0000_0000
    } else {
        low << 32 | high & 0xffff_ffff
    }
}

/// A usual SYN, or SYN,ACK, as it is cached and read again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UsualOpening {
    /// Its sequence number.
    pub isn: Seq,
    /// The window field.
    pub window: u16,
    /// Of its options, those that nearly all have.
    pub options: SynOptions,
    /// Bytes of its IP packet.
    pub ip_len: u32,
    /// Who has seen it first.
    pub owner: u32,
    /// When: nanoseconds since boot.
    pub seen_ns: u64,
}

/// Options that a usual SYN may have beside its MSS.
const USUAL: u8 =
    SynOptions::HAS_WINDOW_SCALE | SynOptions::HAS_SACK | SynOptions::HAS_TIMESTAMPS;

impl UsualOpening {
    /// A SYN, or SYN,ACK, that `owner` has seen at `seen_ns`; `None` where there is more to it than is cached: data, further
    /// options, a fragment.
    #[inline(always)]
    #[must_use]
    pub fn of(segment: &Segment, owner: Owner, seen_ns: u64) -> Option<Self> {
        let Segment { seq: isn, window, ip_len, .. } = *segment;
        let options = segment.options;
        let is_usual = options.present & !USUAL == 0
            && segment.payload == 0
            && segment.further == 0
            && !segment.fragment
            && ip_len <= 0xff;
        is_usual.then_some(Self { isn, window, options, ip_len, owner: owner.0, seen_ns })
    }

    #[inline(always)]
    fn rest(&self) -> u32 {
        let scale = u32::from(self.options.window_scale & 15);
        self.owner & 0xff
            | (self.ip_len & 0xff) << 8
            | u32::from(self.options.present) << 16
            | scale << 24
    }
}

impl CachedHandshake {
    /// Writes down that `from` has sent `syn` to the other end of `key`.
    #[inline(always)]
    pub fn begin(&self, beside: &CachedAddresses, key: &FlowKey, from: End, syn: &UsualOpening) {
        let (names, addresses) = (names(key), addresses(key));
        if names & IPV6 == 0 {
            self.addresses.set(together(&addresses));
        } else {
            self.addresses.set(0);
            for (to, word) in beside.0.iter().zip(addresses) {
                to.set(word);
            }
        }
        self.names.set(names | if from.is_high() { ORIGINATOR_HIGH } else { 0 });
        self.isns.set(u64::from(syn.isn.0));
        self.timestamps.set(u64::from(syn.options.timestamp.0));
        self.sizes.set(u64::from(syn.window) | u64::from(syn.options.mss) << 16);
        self.syn_ns.set(syn.seen_ns);
        self.answer_ns.set(0);
        self.rest.set(u64::from(syn.rest()));
    }

    /// Writes down that the other end has answered.
    #[inline(always)]
    pub fn answer(&self, answer: &UsualOpening) {
        let also = |cell: &U64, value: u32| cell.set(cell.get() & 0xffff_ffff | u64::from(value) << 32);
        also(&self.isns, answer.isn.0);
        also(&self.timestamps, answer.options.timestamp.0);
        also(&self.sizes, u32::from(answer.window) | u32::from(answer.options.mss) << 16);
        also(&self.rest, answer.rest());
        self.answer_ns.set(answer.seen_ns);
        self.names.set(self.names.get() | ANSWERED);
    }

    /// Whether it is of the connection with this key.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, beside: &CachedAddresses, key: &FlowKey) -> bool {
        let (names, addresses) = (names(key), addresses(key));
        if self.names.get() & NAMES != names {
            return false;
        }
        if names & IPV6 == 0 {
            return self.addresses.get() == together(&addresses);
        }
        let mut differ = 0;
        for (there, word) in beside.0.iter().zip(addresses) {
            differ |= there.get() ^ word;
        }
        differ == 0
    }

    /// The end that sent the SYN.
    #[inline(always)]
    #[must_use]
    pub fn originator(&self) -> End {
        End::from_high(self.names.get() & ORIGINATOR_HIGH != 0)
    }

    /// Whether the other end has answered.
    #[inline(always)]
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.names.get() & ANSWERED != 0
    }

    /// Who counts what the originator sends, and what the other end sends.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // masked
    pub fn owners(&self) -> [Owner; 2] {
        let rest = self.rest.get();
        [Owner::of_bits(rest as u32), Owner::of_bits((rest >> 32) as u32)]
    }

    /// Its SYN.
    #[inline(always)]
    #[must_use]
    pub fn syn(&self) -> UsualOpening {
        self.opening(0, self.syn_ns.get())
    }

    /// Its SYN,ACK; zeros where there is none.
    #[inline(always)]
    #[must_use]
    pub fn syn_ack(&self) -> UsualOpening {
        self.opening(32, self.answer_ns.get())
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // as they were put together
    fn opening(&self, shift: u32, seen_ns: u64) -> UsualOpening {
        let half = |cell: &U64| (cell.get() >> shift) as u32;
        let (sizes, rest) = (half(&self.sizes), half(&self.rest));
        UsualOpening {
            isn: Seq(half(&self.isns)),
            window: sizes as u16,
            options: SynOptions {
                mss: (sizes >> 16) as u16,
                window_scale: (rest >> 24) as u8 & 15,
                present: (rest >> 16) as u8,
                timestamp: Seq(half(&self.timestamps)),
                timestamp_echo: Seq(0),
            },
            ip_len: rest >> 8 & 0xff,
            owner: rest & 0xff,
            seen_ns,
        }
    }

    /// The key, with what of its addresses is elsewhere.
    #[cfg(not(target_arch = "bpf"))]
    fn key(&self, beside: &CachedAddresses) -> FlowKey {
        let names = self.names.get();
        let octets = |words: [u64; 2]| {
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&words[0].to_ne_bytes());
            octets[8..].copy_from_slice(&words[1].to_ne_bytes());
            octets
        };
        let addresses = if names & IPV6 == 0 {
            let [a, b, c, d, e, f, g, h] = self.addresses.get().to_ne_bytes();
            [crate::key::mapped([a, b, c, d]), crate::key::mapped([e, f, g, h])]
        } else {
            let [a, b, c, d] = beside.0.each_ref().map(U64::get);
            [octets([a, b]), octets([c, d])]
        };
        #[allow(clippy::cast_possible_truncation)] // as they were put together
        let ([a, b, c, d], zone) = ((names as u32).to_ne_bytes(), (names >> 32) as u16);
        FlowKey { addresses, ports: [[a, b], [c, d]], zone, reserved: 0 }
    }
}

const _: () = assert!(size_of::<CachedHandshake>() == 64, "one line of the cache");
