//! One TCP segment, as the facts that tracking needs (RFC 9293 section 3.1).

use core::fmt;

use crate::seq::Seq;

/// The nine flag bits of a TCP header: the low byte of byte 13, and AE in bit 8 (RFC 9293, RFC 3168, RFC 9768).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Flags(pub u16);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x001);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x002);
    /// Reset the connection.
    pub const RST: Self = Self(0x004);
    /// Push function.
    pub const PSH: Self = Self(0x008);
    /// The acknowledgment number is significant.
    pub const ACK: Self = Self(0x010);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x020);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x040);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x080);
    /// Accurate ECN (RFC 9768), once the NS bit.
    pub const AE: Self = Self(0x100);

    /// Every flag with its name, from the lowest bit.
    pub const NAMES: [(Self, &'static str); 9] = [
        (Self::FIN, "fin"),
        (Self::SYN, "syn"),
        (Self::RST, "rst"),
        (Self::PSH, "psh"),
        (Self::ACK, "ack"),
        (Self::URG, "urg"),
        (Self::ECE, "ece"),
        (Self::CWR, "cwr"),
        (Self::AE, "ae"),
    ];

    /// Whether all of `bits` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// Both sets of bits.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, bits: Self) -> Self {
        Self(self.0 | bits.0)
    }

    /// The bits that are also in `mask`.
    #[inline(always)]
    #[must_use]
    pub const fn only(self, mask: Self) -> Self {
        Self(self.0 & mask.0)
    }
}

impl fmt::Display for Flags {
    /// Comma-separated lower-case names (`syn,ack`), or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (flag, name) in Self::NAMES {
            if self.has(flag) {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

/// What a SYN segment's options offer. Other segments' options are not read (behaviour H14), but for an acknowledgment
/// that may return a cookie.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SynOptions {
    /// Maximum segment size in bytes; 0 where the option is absent.
    pub mss: u16,
    /// Window scale shift, clamped to 14 as RFC 7323 section 2.3 asks.
    pub window_scale: u8,
    /// [`SynOptions::HAS_WINDOW_SCALE`] and its siblings.
    pub present: u8,
    /// The timestamp value, where there is one.
    pub timestamp: Seq,
    /// The timestamp that is echoed, where there is one.
    pub timestamp_echo: Seq,
}

impl SynOptions {
    /// Window scale was offered (RFC 7323).
    pub const HAS_WINDOW_SCALE: u8 = 1;
    /// SACK permitted (RFC 2018).
    pub const HAS_SACK: u8 = 2;
    /// Timestamps (RFC 7323).
    pub const HAS_TIMESTAMPS: u8 = 4;
    /// A Fast Open option, request or cookie (RFC 7413).
    pub const HAS_FAST_OPEN: u8 = 8;
    /// An option had a length of 0, 1, one that its kind forbids, or one past the header's end. What stood before it
    /// was read, as hosts do.
    pub const MALFORMED: u8 = 16;

    /// The window scale was above 14.
    pub const SCALE_CLAMPED: u8 = 32;

    /// The segment is signed (MD5, RFC 2385, or TCP-AO, RFC 5925).
    pub const HAS_SIGNATURE: u8 = 64;

    /// Multipath TCP was offered (RFC 8684), by a connection's first subflow or by a further one.
    pub const HAS_MPTCP: u8 = 128;

    /// The most bytes of options that a TCP header can carry.
    pub const MAX: usize = 40;

    /// Options that a capture has cut off. Whatever would permit something is taken to be among them: nothing that was not
    /// seen can break a rule. Nobody sends just these.
    pub const UNKNOWN: Self = Self {
        mss: 0,
        window_scale: 14,
        present: Self::HAS_WINDOW_SCALE | Self::HAS_FAST_OPEN,
        timestamp: Seq(0),
        timestamp_echo: Seq(0),
    };

    /// Reads the options of a SYN segment: the first `len` bytes of `bytes`.
    #[must_use]
    pub fn parse(bytes: &[u8; 64], len: usize) -> Self {
        let mut options = Self::default();
        Self::each(len, |at| options.read_one(bytes, at, len));
        options
    }

    /// Calls `read` with the place of each option, which returns that of the next: [`SynOptions::read_one`], which the kernel
    /// program calls as a function of its own, so that the verifier follows it once and not for each option.
    #[inline(always)]
    pub fn each(len: usize, mut read: impl FnMut(usize) -> usize) {
        let mut at = 0;
        // An option takes at least one byte.
        for _ in 0..Self::MAX {
            if at >= len {
                break;
            }
            at = read(at);
        }
    }

    /// Takes over the option at `at`, which lies within the first `len` bytes of `bytes`, and returns the place of the next;
    /// `len` where there is none.
    #[inline(always)]
    pub fn read_one(&mut self, bytes: &[u8; 64], at: usize, len: usize) -> usize {
        // The masks tell the verifier what the comparisons already say.
        let kind = bytes[at & 63];
        if kind == 0 {
            return len;
        }
        if kind == 1 {
            return at + 1;
        }
        let size = bytes[(at + 1) & 63] as usize;
        if at + 1 >= len || size < 2 || at + size > len {
            self.present |= Self::MALFORMED;
            return len;
        }
        self.read(kind, size, bytes, at);
        at + size
    }

    /// Takes over the option of `kind` with `size` bytes at `at`.
    #[inline(always)]
    fn read(&mut self, kind: u8, size: usize, bytes: &[u8; 64], at: usize) {
        match (kind, size) {
            (2, 4) => self.mss = u16::from_be_bytes([bytes[(at + 2) & 63], bytes[(at + 3) & 63]]),
            (3, 3) => {
                let scale = bytes[(at + 2) & 63];
                self.window_scale = scale.min(14);
                self.present |= Self::HAS_WINDOW_SCALE;
                if scale > 14 {
                    self.present |= Self::SCALE_CLAMPED;
                }
            }
            (4, 2) => self.present |= Self::HAS_SACK,
            (8, 10) => {
                self.present |= Self::HAS_TIMESTAMPS;
                let number = |at: usize| {
                    Seq(u32::from_be_bytes([
                        bytes[at & 63],
                        bytes[(at + 1) & 63],
                        bytes[(at + 2) & 63],
                        bytes[(at + 3) & 63],
                    ]))
                };
                self.timestamp = number(at + 2);
                self.timestamp_echo = number(at + 6);
            }
            (19, 18) | (29, 4..) => self.present |= Self::HAS_SIGNATURE,
            (30, 3..) => self.present |= Self::HAS_MPTCP,
            (34, _) => self.present |= Self::HAS_FAST_OPEN,
            // The experimental kind with Fast Open's magic number (RFC 7413 appendix A, RFC 6994).
            (254, 4..) if bytes[(at + 2) & 63] == 0xf9 && bytes[(at + 3) & 63] == 0x89 => {
                self.present |= Self::HAS_FAST_OPEN;
            }
            (2 | 3 | 4 | 8, _) => self.present |= Self::MALFORMED,
            _ => {}
        }
    }

    /// Whether the given bit of [`SynOptions::present`] is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bit: u8) -> bool {
        self.present & bit != 0
    }
}

/// One TCP segment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Segment {
    /// Sequence number of the first byte, or of the SYN.
    pub seq: Seq,
    /// Acknowledgment number; meaningless without the ACK flag.
    pub ack: Seq,
    /// Bytes of data, from the IP header's length (or the frame's, where that is 0: BIG TCP).
    pub payload: u32,
    /// The nine flags.
    pub flags: Flags,
    /// The window field, not scaled.
    pub window: u16,
    /// The urgent pointer; meaningless without the URG flag.
    pub urgent: u16,
    /// Options, of a SYN segment only.
    pub options: SynOptions,
    /// The timestamp value (RFC 7323), where `has_timestamp`.
    pub timestamp: Seq,
    /// There is a timestamp: in any place among a SYN's options, in the one that appendix A of RFC 7323 recommends in
    /// other segments.
    pub has_timestamp: bool,
    /// The IP packet's length in bytes.
    pub ip_len: u32,
    /// The IP packet is the first fragment of a larger one: more data follows out of sight.
    pub fragment: bool,
    /// Packets of the same size as this one, but for the last, that the kernel holds as one with it, beside the first: what its
    /// offloads merged after they arrived (GRO), or split after they are seen leaving (GSO). `ip_len` has their data, and one
    /// packet's headers.
    pub further: u32,
    /// Programs on other CPUs may be looking at the next segments of this end: in the host's stack packets of one flow go through
    /// the CPUs that they were sent from, where sender and receiver are on one machine.
    pub shared: bool,
    /// The packet came to this host by an interface before it was seen leaving: its sender is not here. Not known of one that
    /// arrives.
    pub forwarded: bool,
}

impl Segment {
    /// Whether all of `bits` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, bits: Flags) -> bool {
        self.flags.has(bits)
    }

    /// Bytes of all IP packets that this one stands for.
    #[inline(always)]
    #[must_use]
    pub const fn wire_len(&self) -> u64 {
        self.ip_len as u64 + self.further as u64 * (self.ip_len - self.payload) as u64
    }

    /// The sequence number after this segment's last: data counts its bytes, SYN and FIN one each (H15).
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> Seq {
        self.seq.add(
            self.payload + self.flags.has(Flags::SYN) as u32 + self.flags.has(Flags::FIN) as u32,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[u8]) -> SynOptions {
        let mut bytes = [0xff; 64];
        bytes[..options.len()].copy_from_slice(options);
        SynOptions::parse(&bytes, options.len())
    }

    #[test]
    fn a_linux_syn() {
        let options = parse(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
        assert_eq!((options.mss, options.window_scale), (1460, 7));
        assert_eq!(
            options.present,
            SynOptions::HAS_WINDOW_SCALE | SynOptions::HAS_SACK | SynOptions::HAS_TIMESTAMPS
        );
    }

    #[test]
    fn broken_options_keep_what_stood_before() {
        for tail in [&[8, 0][..], &[8, 1], &[8, 10, 0], &[3]] {
            let options = parse(&[&[2, 4, 5, 0xb4], tail].concat());
            assert_eq!((options.mss, options.present), (1460, SynOptions::MALFORMED), "{tail:?}");
        }
        assert_eq!(parse(&[3, 3, 200]).window_scale, 14);
        assert_eq!(parse(&[0, 3, 3, 7]), SynOptions::default());
        assert_eq!(parse(&[1; 40]), SynOptions::default());
    }

    #[test]
    fn fast_open_in_both_encodings() {
        assert!(parse(&[34, 2]).has(SynOptions::HAS_FAST_OPEN));
        assert!(parse(&[254, 4, 0xf9, 0x89]).has(SynOptions::HAS_FAST_OPEN));
        assert!(!parse(&[254, 4, 0, 0]).has(SynOptions::HAS_FAST_OPEN));
    }

    #[test]
    fn multipath_tcp_of_a_first_and_of_a_further_subflow() {
        assert!(parse(&[30, 4, 1, 1]).has(SynOptions::HAS_MPTCP));
        assert!(parse(&[30, 12, 0x10, 1, 0, 0, 0, 1, 0, 0, 0, 2]).has(SynOptions::HAS_MPTCP));
        assert!(!parse(&[30, 2]).has(SynOptions::HAS_MPTCP));
    }

    #[test]
    fn flags_are_named() {
        assert_eq!(Flags::SYN.with(Flags::ACK).to_string(), "syn,ack");
        assert_eq!(Flags(0).to_string(), "none");
    }
}
