//! What `tracker` knows about TCP, as plain functions of plain data.
//!
//! This crate is compiled twice: into the kernel programs and into the agent, its tests and the capture replay. A rule
//! that decides something about a packet lives here and nowhere else.
//!
//! Reading order: [`packet`] turns bytes into a [`segment::Segment`]; [`flow`] is the record of one connection;
//! [`state`] derives both ends' RFC 9293 states from it; [`judge`] decides what one segment means for one flow,
//! [`notes`] what is worth counting about it; [`track`] finds the flow, creates it, confirms it, and says what to
//! report. [`walk`] is what a sweep looks for, [`sweep`] how it removes.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod cookies;
pub mod platform;
pub mod record;
pub mod rules;
#[cfg(not(target_arch = "bpf"))]
pub mod simulator;
pub mod sweeping;
pub mod tracking;
#[cfg(not(target_arch = "bpf"))]
pub mod vocabulary;
pub mod wire;

pub use crate::{
    abi::{config, counters, event},
    cookies::{answer, cookie, handshake, protect, route},
    platform::{cell, forget},
    record::{conn_state, flow, history, key, owner, state, syn_cache, time},
    rules::{dropping, judge, predict, violation},
    sweeping::{sweep, walk},
    tracking::{elsewhere, limit, notes, report, track},
    wire::{packet, segment, seq},
};

/// Version of every layout that is shared through pinned maps and the ring buffer. It is part of the pin path, so that
/// an agent never reads maps whose records mean something else.
pub const LAYOUT_VERSION: u32 = 6;
