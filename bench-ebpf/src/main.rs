//! The kernel programs of the flood benchmark: where the flood comes from, where the answers go, and the cheapest way to
//! be rid of it.
#![no_std]
#![no_main]
// The macros for programs hand the context over by value.
#![allow(clippy::needless_pass_by_value)]

mod flood;
mod frame;
mod sink;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// A SYN from anywhere each time it is due. Run by `BPF_PROG_TEST_RUN` on live frames.
#[xdp]
fn flood(ctx: XdpContext) -> u32 {
    flood::flood(&ctx)
}

/// Counts and drops what is sent to the flood's sources; the others are real.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    sink::sink(&ctx)
}

/// Drops everything: the flood without an answer, which every answer is compared with.
#[xdp]
fn drop_all(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}

/// As the tracker's own, so that nothing is dearer to one than to the other.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
