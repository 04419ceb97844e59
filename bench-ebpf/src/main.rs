//! The benchmarks' kernel programs: the wire between clients and server, which a flood joins, and the cheapest way to be
//! rid of it; packets for programs that are measured alone, and what these are compared with.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// The macros for programs hand the context over by value.
#![allow(clippy::needless_pass_by_value)]
// A key by value is copied to the stack twice.
#![allow(clippy::needless_borrows_for_generic_args)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lengths have been compared, helpers return small numbers, and random ones may be cut"
)]

mod flood;
mod frame;
mod packet;
mod wire;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::packet::Table;

/// A client's frame where one is due, or else a SYN from anywhere each time it is due. Run by `BPF_PROG_TEST_RUN` on live
/// frames.
#[xdp]
fn flood(ctx: XdpContext) -> u32 {
    let now = flood::now();
    wire::send_waiting(&ctx, now).unwrap_or_else(|| flood::flood(&ctx, now))
}

/// From the clients to the program that floods.
#[xdp]
fn merge(ctx: XdpContext) -> u32 {
    wire::merge(&ctx)
}

/// From the server to the clients, or to the flood's sources, which are nowhere.
#[xdp]
fn split(ctx: XdpContext) -> u32 {
    wire::split(&ctx)
}

/// Drops everything: the flood without an answer, which every answer is compared with.
#[xdp]
fn drop_all(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The next packet, for the program that is measured. As that one, it takes frames of several buffers.
#[xdp(frags)]
fn drive(ctx: XdpContext) -> u32 {
    packet::drive(&ctx)
}

/// What is measured where nothing is.
#[xdp(frags)]
fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// One look-up.
#[xdp(frags)]
fn look_up(ctx: XdpContext) -> u32 {
    packet::look_up(&ctx, true)
}

/// The same without a clock.
#[xdp(frags)]
fn look_up_timeless(ctx: XdpContext) -> u32 {
    packet::look_up(&ctx, false)
}

/// One insertion into a hash table.
#[xdp(frags)]
fn insert(ctx: XdpContext) -> u32 {
    packet::insert(&ctx, Table::Hash)
}

/// One insertion into a hash table that takes memory as it needs it.
#[xdp(frags)]
fn insert_growing(ctx: XdpContext) -> u32 {
    packet::insert(&ctx, Table::Growing)
}

/// One insertion into a table that evicts.
#[xdp(frags)]
fn insert_lru(ctx: XdpContext) -> u32 {
    packet::insert(&ctx, Table::Lru)
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
