//! The two ways in: frames that XDP sees before the host's stack, and socket buffers that tcx or clsact see in it. What becomes
//! of a packet is the same; how it is read and answered is not.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
        bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    programs::XdpContext,
};
use tracker_common::packet::Unparsed;

use crate::{
    frame::{SkbFrame, XdpFrame},
    maps::{Scratch, interface},
    parse_frame,
};

/// A packet that arrives, as its program is given it.
pub(crate) trait Arriving: Copy {
    /// Reads the packet into [`Scratch`]; why not, where it is no TCP packet.
    fn parse(self, scratch: *mut Scratch) -> Option<Unparsed>;

    /// What helpers take.
    fn context(self) -> *mut c_void;

    /// Copies `len` bytes (1 to 64) from `at`.
    fn load(self, at: u32, to: *mut u8, len: u32) -> bool;

    /// Whether the frame was sent to a group of stations, to all, or to another one.
    fn is_for_others(self) -> bool;

    /// Bytes of the frame.
    fn len(self) -> u32;

    /// Whether the stack, or a device, has still to add to the TCP checksum at `at`.
    fn is_checksum_partial(self, at: u32) -> bool;

    /// Makes the frame as long as this; pointers into it end.
    fn resize(self, len: u32) -> bool;

    /// The two addresses of an Ethernet header, the receiver's first.
    fn load_stations(self) -> Option<[[u8; 6]; 2]>;

    /// Writes those.
    fn store_stations(self, stations: [[u8; 6]; 2]);

    /// Writes `len` bytes (1 to 127) of an IP packet to `at`.
    fn store(self, at: u32, from: *const u8, len: u32) -> bool;
}

impl Arriving for *mut xdp_md {
    #[inline(always)]
    fn parse(self, scratch: *mut Scratch) -> Option<Unparsed> {
        parse_xdp(self, scratch)
    }

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.cast()
    }

    #[inline(always)]
    fn load(self, at: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the context is valid while the program runs, and the destination for so many bytes.
        unsafe { bpf_xdp_load_bytes(self, at, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn is_for_others(self) -> bool {
        let context = XdpContext::new(self);
        let (data, end) = (context.data(), context.data_end());
        if data + 14 > end {
            return true;
        }
        // SAFETY: within the packet, as just compared.
        let first = unsafe { core::ptr::read(data as *const u8) };
        first & 1 != 0
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // a frame
    fn len(self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_xdp_get_buff_len(self) as u32 }
    }

    #[inline(always)]
    fn is_checksum_partial(self, _at: u32) -> bool {
        false
    }

    #[inline(always)]
    fn resize(self, len: u32) -> bool {
        let longer = len.cast_signed().wrapping_sub(self.len().cast_signed());
        // SAFETY: the context is valid while the program runs.
        longer == 0 || unsafe { bpf_xdp_adjust_tail(self, longer) == 0 }
    }

    #[inline(always)]
    fn load_stations(self) -> Option<[[u8; 6]; 2]> {
        let context = XdpContext::new(self);
        let (data, end) = (context.data(), context.data_end());
        if data + 12 > end {
            return None;
        }
        // SAFETY: within the packet, as just compared; bytes have no alignment.
        Some(unsafe { (data as *const [[u8; 6]; 2]).read() })
    }

    #[inline(always)]
    fn store_stations(self, stations: [[u8; 6]; 2]) {
        let context = XdpContext::new(self);
        let (data, end) = (context.data(), context.data_end());
        if data + 12 <= end {
            // SAFETY: within the packet, as just compared; bytes have no alignment.
            unsafe { (data as *mut [[u8; 6]; 2]).write(stations) };
        }
    }

    #[inline(always)]
    fn store(self, at: u32, from: *const u8, len: u32) -> bool {
        // SAFETY: the source is valid for so many bytes.
        unsafe { bpf_xdp_store_bytes(self, at, from.cast_mut().cast(), len) == 0 }
    }
}

/// `PACKET_HOST` (include/uapi/linux/if_packet.h): a frame for this station.
const PACKET_HOST: u32 = 0;

/// `BPF_F_RECOMPUTE_CSUM`: a sum that a network card made of the packet stays that of the packet.
const RECOMPUTE_CHECKSUM: u64 = 1;

impl Arriving for *mut __sk_buff {
    #[inline(always)]
    fn parse(self, scratch: *mut Scratch) -> Option<Unparsed> {
        parse_skb(self, scratch)
    }

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.cast()
    }

    #[inline(always)]
    fn load(self, at: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the context is valid while the program runs, and the destination for so many bytes.
        unsafe { bpf_skb_load_bytes(self.cast(), at, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn is_for_others(self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self).pkt_type != PACKET_HOST }
    }

    #[inline(always)]
    fn len(self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self).len }
    }

    /// The kernel tells programs nothing of it. But it leaves such a checksum alone where a program says that something below it
    /// has changed, and else changes it.
    #[inline(always)]
    fn is_checksum_partial(self, at: u32) -> bool {
        let (mut before, mut after) = ([0_u8; 2], [0_u8; 2]);
        let changed = self.load(at, before.as_mut_ptr(), 2)
            // SAFETY: the context is valid while the program runs. The low bits say that the checksum covers words of two bytes.
            && unsafe { bpf_l4_csum_replace(self, at, 0, 1, 2) } == 0
            && self.load(at, after.as_mut_ptr(), 2)
            && before != after;
        if changed {
            // SAFETY: the context is valid while the program runs.
            unsafe { bpf_l4_csum_replace(self, at, 1, 0, 2) };
        }
        !changed
    }

    #[inline(always)]
    fn resize(self, len: u32) -> bool {
        // SAFETY: the context is valid while the program runs.
        len == self.len() || unsafe { bpf_skb_change_tail(self, len, 0) == 0 }
    }

    #[inline(always)]
    fn load_stations(self) -> Option<[[u8; 6]; 2]> {
        let mut stations = [[0; 6]; 2];
        self.load(0, stations.as_mut_ptr().cast(), 12).then_some(stations)
    }

    #[inline(always)]
    fn store_stations(self, stations: [[u8; 6]; 2]) {
        // Through memory of the packet it would cost a copy of every packet that somebody else holds, too.
        // SAFETY: the context is valid while the program runs, and the source for 12 bytes.
        unsafe { bpf_skb_store_bytes(self, 0, stations.as_ptr().cast(), 12, 0) };
    }

    #[inline(always)]
    fn store(self, at: u32, from: *const u8, len: u32) -> bool {
        // SAFETY: the source is valid for so many bytes.
        unsafe { bpf_skb_store_bytes(self, at, from.cast(), len, RECOMPUTE_CHECKSUM) == 0 }
    }
}

#[inline(never)]
fn parse_xdp(ctx: *mut xdp_md, scratch: *mut Scratch) -> Option<Unparsed> {
    // SAFETY: this CPU's own element, and nothing else refers to it now.
    unsafe { (*scratch).further = 0 };
    let unparsed = parse_frame(&XdpFrame::new(ctx, scratch), scratch);
    // SAFETY: this CPU's own element, and nothing else refers to it now.
    unsafe { (*scratch).parsed.packet.segment.shared = interface().shared != 0 };
    unparsed
}

#[inline(never)]
fn parse_skb(ctx: *mut __sk_buff, scratch: *mut Scratch) -> Option<Unparsed> {
    let unparsed = parse_frame(&SkbFrame::new(ctx, scratch), scratch);
    count_further(ctx, scratch, unparsed.is_none());
    // SAFETY: this CPU's own element, and nothing else refers to it now.
    unsafe { (*scratch).parsed.packet.segment.shared = true };
    unparsed
}

/// Stores how many packets this socket buffer holds beyond its first. Without `is_read` the payload's length is not known, so
/// that only `gso_segs` counts.
#[inline(always)]
pub(crate) fn count_further(ctx: *mut __sk_buff, scratch: *mut Scratch, is_read: bool) {
    // SAFETY: the context is valid while the program runs.
    let segments = unsafe { (*ctx).gso_segs };
    // SAFETY: the context is valid while the program runs.
    let size = unsafe { (*ctx).gso_size };
    // SAFETY: this CPU's own element, and nothing else refers to it now.
    let scratch = unsafe { &mut *scratch };
    let segment = &mut scratch.parsed.packet.segment;
    let further = if segments > 1 {
        segments - 1
    } else if is_read && size != 0 && segments == 0 && segment.payload != 0 {
        // A virtual machine has sent it, and nobody has counted yet.
        (segment.payload - 1) / size
    } else {
        0
    };
    scratch.further = further;
    segment.further = further;
}
