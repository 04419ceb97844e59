//! The key of a flow: both ends in one order, whichever way a packet travels.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address: IPv6, or IPv4 mapped into it (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
pub type Address = [u8; 16];

/// `address` as a mapped IPv6 address.
#[inline(always)]
#[must_use]
pub fn mapped(address: [u8; 4]) -> Address {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Whether `address` is an IPv4 address mapped into IPv6.
#[inline(always)]
#[must_use]
pub fn is_mapped(address: &Address) -> bool {
    let prefix = u128::from_be_bytes(*address) >> 32;
    prefix == 0xffff
}

/// One of a key's two ends, and so one half of a flow's record. Not an enum: an index made from one is masked, and the
/// compiler must not take the mask away, because the verifier does not know what the compiler knows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct End(u8);

impl End {
    /// The end with the lower (address, port).
    pub const LOW: Self = Self(0);
    /// The end with the higher (address, port).
    pub const HIGH: Self = Self(1);

    /// The other end.
    #[inline(always)]
    #[must_use]
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// The high end or the low one.
    #[inline(always)]
    #[must_use]
    pub const fn from_high(high: bool) -> Self {
        if high { Self::HIGH } else { Self::LOW }
    }

    /// Whether this is the high end.
    #[inline(always)]
    #[must_use]
    pub const fn is_high(self) -> bool {
        self.0 & 1 != 0
    }

    /// 0 for the low end, 1 for the high one, as reports write it.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0 & 1
    }

    /// 0 for the low end, 1 for the high one.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0 & 1) as usize
    }
}

/// The ends of a connection, ordered jointly by (address, port), and the zone they live in.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// Address of the low and of the high end, network byte order.
    pub addresses: [Address; 2],
    /// Port of the low and of the high end, network byte order.
    pub ports: [[u8; 2]; 2],
    /// The zone of the interface: overlapping networks stay apart. Host byte order.
    pub zone: u16,
    /// Always 0.
    pub reserved: u16,
}

impl FlowKey {
    /// The key for a packet from `source` to `destination`, and the end that sent it.
    #[inline(always)]
    #[must_use]
    pub fn new(
        source: (&Address, [u8; 2]),
        destination: (&Address, [u8; 2]),
        zone: u16,
    ) -> (Self, End) {
        let words = |address: &Address| Words::of(address);
        Self::of_words((words(source.0), source.1), (words(destination.0), destination.1), zone)
    }

    /// [`Self::new`] of addresses in words.
    #[inline(always)]
    #[must_use]
    pub(crate) fn of_words(
        source: (Words, [u8; 2]),
        destination: (Words, [u8; 2]),
        zone: u16,
    ) -> (Self, End) {
        let sender_is_high = is_after(source, destination);
        let (low, high) =
            if sender_is_high { (destination, source) } else { (source, destination) };
        let key = Self {
            addresses: [low.0.octets(), high.0.octets()],
            ports: [low.1, high.1],
            zone,
            reserved: 0,
        };
        (key, End::from_high(sender_is_high))
    }

    /// Whether this is an IPv4 connection.
    #[inline(always)]
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        is_mapped(&self.addresses[0])
    }

    /// Both addresses, low end first.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [Words; 2] {
        // A key is aligned to its words, which its bytes alone do not tell.
        let [a, b, c, d, _]: &[u64; 5] = zerocopy::transmute_ref!(self);
        [Words([*a, *b]), Words([*c, *d])]
    }

    /// The port of `end`.
    #[must_use]
    pub const fn port(&self, end: End) -> u16 {
        u16::from_be_bytes(self.ports[end.index()])
    }
}

/// An address as it lies in memory, in two words: nothing moves bytes one by one then.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Words([u64; 2]);

impl Words {
    #[inline(always)]
    pub(crate) const fn of(address: &Address) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
        Self([
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
        ])
    }

    /// The two words.
    #[inline(always)]
    pub(crate) const fn words(self) -> [u64; 2] {
        self.0
    }

    /// Whether it is an IPv4 address mapped into IPv6, as [`is_mapped`] says of bytes.
    #[inline(always)]
    pub(crate) const fn is_mapped(self) -> bool {
        const PREFIX: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        const MAPPED: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        self.0[0] == 0 && self.0[1] & PREFIX == MAPPED
    }

    /// Whether it is an IPv6 multicast address (RFC 4291 section 2.7).
    #[inline(always)]
    pub(crate) const fn is_multicast(self) -> bool {
        const FIRST: u64 = u64::from_ne_bytes([0xff, 0, 0, 0, 0, 0, 0, 0]);
        self.0[0] & FIRST == FIRST
    }

    /// Whether one host may have it: neither multicast nor IPv4's broadcast.
    #[inline(always)]
    pub(crate) const fn is_unicast(self) -> bool {
        const CLASS: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0xf0, 0, 0, 0]);
        const MULTICAST: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0xe0, 0, 0, 0]);
        const BROADCAST: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        if self.is_mapped() {
            self.0[1] & CLASS != MULTICAST && self.0[1] & BROADCAST != BROADCAST
        } else {
            !self.is_multicast()
        }
    }

    #[inline(always)]
    const fn octets(self) -> Address {
        let [a, b, c, d, e, f, g, h] = self.0[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

/// Lexicographic order of (address, port).
#[inline(always)]
fn is_after(a: (Words, [u8; 2]), b: (Words, [u8; 2])) -> bool {
    let ([a_high, a_low], [b_high, b_low]) = (a.0.0.map(u64::from_be), b.0.0.map(u64::from_be));
    if a_high != b_high {
        return a_high > b_high;
    }
    if a_low != b_low {
        return a_low > b_low;
    }
    u16::from_be_bytes(a.1) > u16::from_be_bytes(b.1)
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_directions_have_one_key(a: (Address, [u8; 2]), b: (Address, [u8; 2]), zone: u16) {
            let (there, from) = FlowKey::new((&a.0, a.1), (&b.0, b.1), zone);
            let (back, answer) = FlowKey::new((&b.0, b.1), (&a.0, a.1), zone);
            prop_assert_eq!(there, back);
            prop_assert_eq!(from == answer, a == b);
            prop_assert!((there.addresses[0], there.ports[0]) <= (there.addresses[1], there.ports[1]));
            prop_assert_eq!((there.addresses[from.index()], there.ports[from.index()]), a);
        }

        #[test]
        fn words_are_what_their_bytes_are(address: Address, v4: [u8; 4]) {
            for address in [address, mapped(v4)] {
                prop_assert_eq!(Words::of(&address).is_mapped(), is_mapped(&address));
                prop_assert_eq!(Words::of(&address).is_multicast(), address[0] == 0xff);
                let ip = Ipv6Addr::from(address);
                let is_unicast = ip.to_ipv4_mapped().map_or(!ip.is_multicast(), |ip| {
                    !ip.is_multicast() && !ip.is_broadcast()
                });
                prop_assert_eq!(Words::of(&address).is_unicast(), is_unicast);
            }
        }
    }

    #[test]
    fn mapped_is_all_of_the_prefix() {
        let address = mapped([192, 0, 2, 1]);
        assert!(Words::of(&address).is_mapped());
        for at in 0..12 {
            let mut other = address;
            other[at] ^= 1;
            assert!(!Words::of(&other).is_mapped(), "{at}");
        }
        let mut all_nodes = address;
        all_nodes[0] = 0xff;
        assert!(Words::of(&all_nodes).is_multicast());
    }

    #[test]
    fn one_host_has_neither_a_group_nor_broadcast() {
        for (address, is_unicast) in [
            ([224, 0, 0, 1], false),
            ([239, 255, 255, 255], false),
            ([223, 255, 255, 255], true),
            ([240, 0, 0, 1], true),
            ([255, 255, 255, 254], true),
            ([255; 4], false),
        ] {
            assert_eq!(Words::of(&mapped(address)).is_unicast(), is_unicast, "{address:?}");
        }
    }

    #[test]
    fn an_address_talking_to_itself_has_two_ends() {
        let address = mapped([127, 0, 0, 1]);
        let (key, from) =
            FlowKey::new((&address, 80u16.to_be_bytes()), (&address, 40000u16.to_be_bytes()), 0);
        assert_eq!((from, key.port(End::LOW), key.port(End::HIGH)), (End::LOW, 80, 40000));
    }
}
