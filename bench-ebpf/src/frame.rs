//! Bytes of a frame, which the verifier wants to see compared with its end.

use core::arch::asm;

use aya_ebpf::programs::XdpContext;

/// Offset of the IPv4 header, and of the TCP header behind it, which has no options before it.
pub(crate) const IPV4: usize = 14;
pub(crate) const TCP: usize = IPV4 + 20;

/// A number at an offset, in the packet's byte order, or `None` where the frame is too short.
#[inline(always)]
pub(crate) fn read<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the frame.
    Some(unsafe { (start as *const T).read_unaligned() })
}

/// Loses what the compiler knows of a number, so that it does not merge two comparisons into one that says less to the
/// verifier.
#[inline(always)]
pub(crate) fn opaque(mut value: usize) -> usize {
    // An empty statement would give two lines of source to one instruction, which the kernel refuses.
    // SAFETY: a move of a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
