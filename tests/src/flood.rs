//! Floods of SYNs.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::{
    lab::{INTERFACE, Pair, address},
    segment::{Segment, flag::SYN},
    sockets::hardware_address,
    wire::Wire,
};

/// Sends SYNs to a port of the host from addresses that nobody has (198.18.0.0/15), bursts of a hundred with a breath between
/// them, while `goes_on`.
///
/// # Errors
///
/// What the kernel says.
pub fn flood(
    pair: &Pair,
    port: u16,
    breath: Duration,
    sent: &AtomicU64,
    goes_on: impl Fn() -> bool,
) -> Result<()> {
    let wire = Wire::open(&pair.peer, INTERFACE)?;
    let hardware = hardware_address(&pair.host)?;
    let server = SocketAddr::new(address::HOST[0], port);
    // A bound, should nobody stop it.
    for n in 0..100_000_000_u32 {
        if !goes_on() {
            break;
        }
        let [_, b, c, d] = n.to_be_bytes();
        let client = SocketAddr::from(([198, 18 + (b & 1), c, d], 1024 + u16::from(b)));
        let syn = Segment::new(client, server, SYN, n, 0).addressed_to(hardware);
        wire.send(&syn.frame())?;
        sent.fetch_add(1, Ordering::Relaxed);
        if n % 100 == 99 {
            // Else the core has nothing else to do.
            thread::sleep(breath);
        }
    }
    Ok(())
}
