//! Debug messages of packets, in programs that are built with them.

use tracker_common::counters::Hook;

use crate::maps::Scratch;

/// One debug message a packet; what it says of the segment means something only where the fate is one of a TCP packet.
/// A function of its own, for what it needs of the stack.
#[inline(never)]
pub(crate) fn log<C: aya_ebpf::EbpfContext>(ctx: &C, scratch: *mut Scratch, hook: Hook, fate: u32) {
    // SAFETY: this CPU's own element.
    let segment = unsafe { (*scratch).parsed.packet.segment };
    aya_log_ebpf::debug!(
        ctx,
        "hook {} fate {} flags {:x} seq {} ack {} len {}",
        hook as u8,
        fate,
        segment.flags.0,
        segment.seq.0,
        segment.ack.0,
        segment.payload
    );
}
