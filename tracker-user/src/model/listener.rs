//! Protected listeners as users see them: where they are, and when their SYNs are answered with cookies.

use std::net::SocketAddr;

use tracker_common::{
    key::{Address, mapped},
    protect::{Listener, ListenerState, Mode, Place, Way, cookie_limit},
};

use crate::model::{record, unknown_code::UnknownCode};

/// A place as people write it.
#[must_use]
pub fn socket_address(place: &Place) -> SocketAddr {
    (record::address(place.address), u16::from_be_bytes(place.port)).into()
}

/// The place at an address and a port.
#[must_use]
pub fn place(at: SocketAddr) -> Place {
    let address: Address = match at.ip().to_canonical() {
        std::net::IpAddr::V4(address) => mapped(address.octets()),
        std::net::IpAddr::V6(address) => address.octets(),
    };
    Place { address, port: at.port().to_be_bytes(), reserved: [0; 2] }
}

/// Name of the [`Mode`] with this code.
///
/// # Errors
///
/// Where there is none.
pub fn mode_name(code: u8) -> Result<&'static str, UnknownCode> {
    match code {
        code if code == Mode::Off as u8 => Ok("off"),
        code if code == Mode::Auto as u8 => Ok("auto"),
        code if code == Mode::Always as u8 => Ok("always"),
        code => Err(UnknownCode { what: "mode", code }),
    }
}

/// Name of the [`Way`] with this code.
///
/// # Errors
///
/// Where there is none.
pub fn way_name(code: u8) -> Result<&'static str, UnknownCode> {
    [Way::Handover, Way::Kernel]
        .into_iter()
        .find(|way| *way as u8 == code)
        .map(Way::name)
        .ok_or(UnknownCode { what: "way", code })
}

/// Whether SYNs for a listener are answered with cookies at `now_ns`, nanoseconds since boot.
#[must_use]
pub fn is_on(listener: &Listener, state: &ListenerState, now_ns: u64) -> bool {
    listener.mode == Mode::Always as u8
        || listener.mode == Mode::Auto as u8 && state.cookies_until_ns.get() > now_ns
}

/// Returns how many half-open connections of a listener trigger cookies: fewer than its setting where its backlog is short.
#[must_use]
pub fn threshold(listener: &Listener, state: &ListenerState) -> u32 {
    if state.is_listening.get() == 0 {
        return listener.threshold;
    }
    cookie_limit(listener.threshold, state.backlog.get())
}

#[cfg(test)]
mod tests {
    use tracker_common::cell::U32;

    use super::*;

    #[test]
    fn places_and_addresses() {
        for at in ["192.0.2.1:80", "[2001:db8::1]:65535"] {
            let address = at.parse().expect(at);
            assert_eq!(socket_address(&place(address)), address);
        }
        let mapped = place("[::ffff:192.0.2.1]:80".parse().expect("an address"));
        assert_eq!(mapped, place("192.0.2.1:80".parse().expect("an address")));
    }

    #[test]
    fn a_short_backlog_protects_earlier() {
        let listener = Listener { threshold: 128, ..Listener::default() };
        assert_eq!(threshold(&listener, &ListenerState::default()), 128);
        for (backlog, expected) in [(u32::MAX, 128), (4096, 128), (128, 96), (7, 5), (0, 1)] {
            let state = ListenerState {
                is_listening: U32::new(1),
                backlog: U32::new(backlog),
                ..ListenerState::default()
            };
            assert_eq!(threshold(&listener, &state), expected, "{backlog}");
        }
    }
}
