//! Where metrics are served.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::net,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The port, where none is given.
pub const PORT: u16 = 9469;

/// What to listen at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MetricsAddress {
    /// An address and port.
    Tcp(SocketAddr),
    /// The absolute path of a unix socket.
    Unix(PathBuf),
}

/// What `--metrics` alone means.
pub const DEFAULT: &str = "127.0.0.1:9469";

/// How a unix socket begins.
const UNIX: &str = "unix:";

impl MetricsAddress {
    /// Whether what is sent there may pass a network.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Tcp(at) => !at.ip().to_canonical().is_loopback(),
            Self::Unix(_) => false,
        }
    }
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return socket(path).map(Self::Unix);
        }
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = if let Ok(address) = text.parse::<SocketAddr>() {
            address
        } else if let Ok(address) = bare.parse::<IpAddr>() {
            SocketAddr::new(address, PORT)
        } else if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
            SocketAddr::new(loopback, port)
        } else {
            return Err("an address, a port, or both, as in 127.0.0.1:9469 or [::1]:9469; or a unix socket, as in \
                        unix:/run/tracker/metrics.sock"
                .to_owned());
        };
        Ok(Self::Tcp(address))
    }
}

/// The path of a unix socket, as `unix:/PATH` and `unix:///PATH` have it.
fn socket(text: &str) -> Result<PathBuf, String> {
    let text = match text.trim_start_matches('/') {
        rest if rest.len() < text.len() => format!("/{rest}"),
        _ => return Err("the path of a unix socket begins with `/`".to_owned()),
    };
    let path = Path::new(&text);
    if path.file_name().is_none() || text.ends_with('/') {
        return Err("the path of a unix socket ends with its name".to_owned());
    }
    // The kernel has 108 bytes for it (unix(7)).
    net::SocketAddr::from_pathname(path).map_err(|error| format!("as a unix socket: {error}"))?;
    Ok(path.to_owned())
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => at.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_port_or_both() {
        let at = |text: &str| text.parse().map(|at: MetricsAddress| at.to_string());
        for (text, expected) in [
            (DEFAULT, "127.0.0.1:9469"),
            ("0.0.0.0", "0.0.0.0:9469"),
            ("::1", "[::1]:9469"),
            ("[::1]", "[::1]:9469"),
            ("[::]:80", "[::]:80"),
            ("8080", "127.0.0.1:8080"),
            (":8080", "127.0.0.1:8080"),
            ("unix:/run/tracker/metrics.sock", "unix:/run/tracker/metrics.sock"),
            ("unix:///run/m", "unix:/run/m"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(expected));
        }
        let long = format!("unix:/{}", "a".repeat(108));
        for text in [
            "",
            "localhost",
            "1.2.3",
            "70000",
            "1.2.3.4:70000",
            "unix:",
            "unix:run/m",
            "unix:/",
            "unix:/a/",
            &long,
        ] {
            assert!(text.parse::<MetricsAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_leaves_the_host() {
        for (text, expected) in [
            (DEFAULT, false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("127.9.9.9:1", false),
            ("unix:/run/m", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("192.0.2.1:1", true),
        ] {
            let at: MetricsAddress = text.parse().expect(text);
            assert_eq!(at.is_remote(), expected, "{text}");
        }
    }
}
