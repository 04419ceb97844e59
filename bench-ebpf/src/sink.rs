//! Where the answers to the flood go.

use aya_ebpf::{bindings::xdp_action, macros::map, maps::PerCpuArray, programs::XdpContext};

use crate::frame::{IPV4, TCP, read};

/// First address of the flood's sources, in host byte order, and a mask of the bits that vary. Set before loading.
#[unsafe(no_mangle)]
static TARGETS: [u32; 2] = [0; 2];

const SYN_ACK: u8 = 0x12;

/// Frames to the flood's sources: SYN,ACKs, and everything else.
#[map]
static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Counts and drops what is sent to the flood's sources.
#[inline(always)]
pub(crate) fn sink(ctx: &XdpContext) -> u32 {
    let to_source = read::<u16>(ctx, 12) == Some(0x0800_u16.to_be())
        && read::<u32>(ctx, IPV4 + 16).is_some_and(is_source);
    if !to_source {
        return xdp_action::XDP_PASS;
    }
    let is_syn_ack = read::<u8>(ctx, TCP + 13).is_some_and(|flags| flags & 0x3f == SYN_ACK);
    if let Some(count) = ANSWERS.get_ptr_mut(u32::from(!is_syn_ack)) {
        // SAFETY: this CPU's own element.
        unsafe { *count += 1 }
    }
    xdp_action::XDP_DROP
}

/// Whether an address, in network byte order, is one that the flood may come from.
#[inline(always)]
fn is_source(address: u32) -> bool {
    // SAFETY: points to a static, which the compiler must not take for the 0 that it is before the program is loaded.
    let [first, mask] = unsafe { (&raw const TARGETS).read_volatile() };
    u32::from_be(address) & !mask == first
}
