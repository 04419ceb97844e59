//! What is logged when a place is protected in another way than before.

use std::net::SocketAddr;

use tracker_common::protect::{Listener, Mode, Way};

use super::{
    trial::{Fault, PAUSE_NS},
    way::Why,
};

/// Logs what changes for a place; nothing of a new one that is protected as it should be.
pub(super) fn tell(
    place: SocketAddr,
    before: &Listener,
    now: &Listener,
    is_new: bool,
    why: Option<Why>,
    fault: Option<Fault>,
    syncookies: u32,
) {
    let listener = place;
    if now.way != before.way {
        match why {
            Some(why) => tracing::warn!(
                %listener,
                way = Way::Kernel.name(),
                "clients get the kernel's own cookies, and lose all options but the maximum segment size: {why}"
            ),
            None => tracing::info!(
                %listener,
                way = Way::Handover.name(),
                "clients get cookies that keep all options, and the listener is handed the connections"
            ),
        }
    }
    let is_off = now.mode == Mode::Off as u8;
    if let Some(fault) = fault {
        if now.mode != before.mode {
            let minutes = PAUSE_NS / 60_000_000_000;
            tracing::error!(%listener, "not protected for {minutes} minutes, because {fault}");
        }
    } else if is_off && (is_new || now.mode != before.mode) {
        let needed = if now.way == Way::Kernel as u8 { 2 } else { 1 };
        tracing::error!(
            %listener,
            "not protected: net.ipv4.tcp_syncookies is {} and must be {needed}: `sysctl -w \
             net.ipv4.tcp_syncookies={needed}`",
            syncookies
        );
    } else if !is_new && now.mode != before.mode {
        tracing::info!(%listener, "protected again");
    }
}
