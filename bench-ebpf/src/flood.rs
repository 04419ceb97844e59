//! Where the flood comes from.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::map,
    maps::Array,
    programs::XdpContext,
};

use crate::frame::{IPV4, TCP};

/// A SYN: 14 bytes of Ethernet, 20 of IPv4, 40 of TCP.
pub(crate) const SYN: usize = 74;

const IPV4_CHECKSUM: usize = IPV4 + 10;
const IPV4_SOURCE: usize = IPV4 + 12;
const TCP_SOURCE: usize = TCP;
const TCP_SEQUENCE: usize = TCP + 4;
const TCP_CHECKSUM: usize = TCP + 16;

/// How far a generator that had to wait may fall behind, in SYNs. What it missed beyond that it never sends.
const ARREARS: u64 = 64;

/// The SYN, without its source address and port, its sequence number and its checksums, all of which are 0; padded. Set
/// before loading.
#[unsafe(no_mangle)]
static TEMPLATE: [u64; 10] = [0; 10];

/// The sums of 16-bit words, in the packet's byte order and neither folded nor complemented, over the template's IPv4
/// header, and over its TCP header and the pseudo-header. Set before loading.
#[unsafe(no_mangle)]
static SUMS: [u64; 2] = [0; 2];

/// First address of the sources, in host byte order, and a mask of the bits that vary. Set before loading.
#[unsafe(no_mangle)]
static SOURCES: [u32; 2] = [0; 2];

/// When to send.
#[repr(C)]
struct Pace {
    /// Nanoseconds between two SYNs; 0 is as fast as it goes, the greatest number is none at all.
    gap: u64,
    /// When the next one is due, in nanoseconds of the monotonic clock.
    next: u64,
    /// How many were sent.
    sent: u64,
}

/// The only element is the only generator's.
#[map]
static PACE: Array<Pace> = Array::with_max_entries(1, 0);

/// Sends a SYN if one is due. A frame may be one that was sent before, and that its receiver has written to.
#[inline(always)]
pub(crate) fn flood(ctx: &XdpContext, now: u64) -> u32 {
    let Some(pace) = PACE.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: nobody else has it while the program runs.
    let pace = unsafe { &mut *pace };
    if pace.gap == u64::MAX {
        return xdp_action::XDP_DROP;
    }
    if pace.gap > 0 {
        if now < pace.next {
            return xdp_action::XDP_DROP;
        }
        let earliest = now - pace.gap * ARREARS;
        pace.next = pace.next.max(earliest) + pace.gap;
    }
    let frame = ctx.data();
    if frame + SYN > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    write_syn(frame);
    pace.sent += 1;
    xdp_action::XDP_TX
}

/// Whether an address, in network byte order, is one that the flood may come from.
#[inline(always)]
pub(crate) fn is_source(address: u32) -> bool {
    let [first, mask] = [setting(&raw const SOURCES[0]), setting(&raw const SOURCES[1])];
    u32::from_be(address) & !mask == first
}

/// Writes a SYN from a random source to the [`SYN`] bytes at `frame`.
#[inline(always)]
fn write_syn(frame: usize) {
    // Word by word, so that the template needs no copy on the stack.
    (0..SYN / 8).for_each(|index| put(frame, index * 8, setting(&raw const TEMPLATE[index])));
    // What is left of the template's last word.
    let tail = setting(&raw const TEMPLATE[SYN / 8]).to_ne_bytes();
    put(frame, SYN / 8 * 8, u16::from_ne_bytes([tail[0], tail[1]]));

    let [first, mask] = [setting(&raw const SOURCES[0]), setting(&raw const SOURCES[1])];
    let address = (first | (random() & mask)).to_be();
    let sequence = random();
    // From 1024 on: nobody connects from a port below.
    let port = ((sequence.rotate_left(7) ^ address) as u16 | 0x400).to_be();
    put(frame, IPV4_SOURCE, address);
    put(frame, TCP_SOURCE, port);
    put(frame, TCP_SEQUENCE, sequence);

    let source = words(address);
    put(frame, IPV4_CHECKSUM, checksum(setting(&raw const SUMS[0]) + source));
    let tcp = setting(&raw const SUMS[1]) + source + u64::from(port) + words(sequence);
    put(frame, TCP_CHECKSUM, checksum(tcp));
}

/// A setting, which the compiler must not take for the 0 that it is before the program is loaded.
#[inline(always)]
fn setting<T>(of: *const T) -> T {
    // SAFETY: points to a static.
    unsafe { of.read_volatile() }
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: takes nothing.
    unsafe { bpf_get_prandom_u32() }
}

/// The sum of both 16-bit words.
#[inline(always)]
pub(crate) fn words(number: u32) -> u64 {
    u64::from(number >> 16) + u64::from(number & 0xffff)
}

/// The Internet checksum (RFC 1071) of a sum of at most 2^31.
#[inline(always)]
pub(crate) fn checksum(sum: u64) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

/// Writes to a frame at an offset below [`SYN`], which the frame has.
#[inline(always)]
pub(crate) fn put<T>(frame: usize, offset: usize, value: T) {
    // SAFETY: the frame has been compared with its end.
    unsafe { ((frame + offset) as *mut T).write_unaligned(value) }
}
