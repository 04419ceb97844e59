//! Where metrics are served.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// The port, where none is given.
pub const PORT: u16 = 9469;

/// An address and port to listen at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MetricsAddress(pub SocketAddr);

/// What `--metrics` alone means.
pub const DEFAULT: &str = "127.0.0.1:9469";

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = if let Ok(address) = text.parse::<SocketAddr>() {
            address
        } else if let Ok(address) = bare.parse::<IpAddr>() {
            SocketAddr::new(address, PORT)
        } else if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
            SocketAddr::new(loopback, port)
        } else {
            return Err(
                "an address, a port, or both, as in 127.0.0.1:9469 or [::1]:9469".to_owned()
            );
        };
        Ok(Self(address))
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_port_or_both() {
        let at = |text: &str| text.parse().map(|MetricsAddress(at)| at.to_string());
        for (text, expected) in [
            (DEFAULT, "127.0.0.1:9469"),
            ("0.0.0.0", "0.0.0.0:9469"),
            ("::1", "[::1]:9469"),
            ("[::1]", "[::1]:9469"),
            ("[::]:80", "[::]:80"),
            ("8080", "127.0.0.1:8080"),
            (":8080", "127.0.0.1:8080"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(expected));
        }
        for text in ["", "localhost", "1.2.3", "70000", "1.2.3.4:70000"] {
            assert!(text.parse::<MetricsAddress>().is_err(), "{text}");
        }
    }
}
