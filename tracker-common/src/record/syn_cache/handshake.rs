//! What is cached of a handshake: a usual SYN, and maybe its usual SYN,ACK.

use crate::{
    cell::U64,
    key::{End, FlowKey, Words},
    owner::Owner,
    segment::{Segment, SynOptions},
    seq::Seq,
};

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

/// What the names of a connection's ends consist of: both ports, the zone, and whether it is IPv6.
const NAMES: u64 = (1 << 49) - 1;
pub(super) const IPV6: u64 = 1 << 48;
const ORIGINATOR_HIGH: u64 = 1 << 49;
const ANSWERED: u64 = 1 << 50;

/// What of a key is beside the addresses.
#[inline(always)]
pub(super) fn names(key: &FlowKey) -> u64 {
    let [[a, b], [c, d]] = key.ports;
    let family = if key.is_ipv4() { 0 } else { IPV6 };
    u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(key.zone) << 32 | family
}

#[inline(always)]
pub(super) fn addresses(key: &FlowKey) -> [u64; 4] {
    let [low, high] = &key.addresses;
    let ([a, b], [c, d]) = (Words::of(low).words(), Words::of(high).words());
    [a, b, c, d]
}

/// Both IPv4 addresses in one word, in the order in which they lie in memory.
#[inline(always)]
pub(super) fn together([_, low, _, high]: &[u64; 4]) -> u64 {
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
    /// Those of its options that nearly all have.
    pub options: SynOptions,
    /// Bytes of its IP packet.
    pub ip_len: u32,
    /// Who has seen it first.
    pub owner: u32,
    /// When: nanoseconds since boot.
    pub seen_ns: u64,
}

/// Options that a usual SYN may have beside its MSS.
const USUAL: u8 = SynOptions::HAS_WINDOW_SCALE | SynOptions::HAS_SACK | SynOptions::HAS_TIMESTAMPS;

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
        let also =
            |cell: &U64, value: u32| cell.set(cell.get() & 0xffff_ffff | u64::from(value) << 32);
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
    pub(super) fn key(&self, beside: &CachedAddresses) -> FlowKey {
        let names = self.names.get();
        let address = |words: [u64; 2]| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
            bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
            bytes
        };
        let addresses = if names & IPV6 == 0 {
            let [a, b, c, d, e, f, g, h] = self.addresses.get().to_ne_bytes();
            [crate::key::mapped([a, b, c, d]), crate::key::mapped([e, f, g, h])]
        } else {
            let [a, b, c, d] = beside.0.each_ref().map(U64::get);
            [address([a, b]), address([c, d])]
        };
        #[allow(clippy::cast_possible_truncation)] // as they were put together
        let ([a, b, c, d], zone) = ((names as u32).to_ne_bytes(), (names >> 32) as u16);
        FlowKey { addresses, ports: [[a, b], [c, d]], zone, reserved: 0 }
    }
}

const _: () = assert!(size_of::<CachedHandshake>() == 64, "one line of the cache");
