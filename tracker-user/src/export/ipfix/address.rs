//! A collector's address: `udp://collector.example:4739`.

use std::{fmt, str::FromStr};

use hyper::Uri;

/// A collector's address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// TCP, else UDP.
    pub(super) is_tcp: bool,
    host: String,
    pub(super) port: u16,
}

impl Address {
    /// Its name or IP address, without the brackets of IPv6.
    pub(super) fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether what the network drops is lost.
    #[must_use]
    pub const fn is_best_effort(&self) -> bool {
        !self.is_tcp
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "as in udp://collector.example:4739 or tcp://collector.example:4739";
        let no_scheme = || format!("`{text}` begins with neither udp:// nor tcp://, {example}");
        let is_tcp = match text.split_once("://") {
            Some(("tcp", _)) => true,
            Some(("udp", _)) => false,
            _ => return Err(no_scheme()),
        };
        let uri: Uri = text.parse().map_err(|_| format!("`{text}` is no address, {example}"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(format!("an address has no user, {example}"));
        }
        if uri.path_and_query().is_some_and(|path| !matches!(path.as_str(), "" | "/")) {
            return Err(format!("`{text}` has a path; only a host and a port, {example}"));
        }
        let host = uri.host().unwrap_or_default().to_owned();
        let has_port = authority.len() > host.len();
        let port = match uri.port_u16() {
            Some(port) if port > 0 => port,
            None if !has_port => PORT,
            _ => return Err(format!("`{text}` has no port from 1 to 65535, {example}")),
        };
        if host.is_empty() {
            return Err(format!("`{text}` has no host, {example}"));
        }
        Ok(Self { is_tcp, host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tcp { "tcp" } else { "udp" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// IANA's for IPFIX, over UDP and TCP.
const PORT: u16 = 4739;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("udp://127.0.0.1", "udp://127.0.0.1:4739"),
            ("tcp://collector.example:9995/", "tcp://collector.example:9995"),
            ("udp://[::1]:99", "udp://[::1]:99"),
        ] {
            let address = text.parse::<Address>().map(|address| address.to_string());
            assert_eq!(address.as_deref(), Ok(shown));
        }
        for (text, said) in [
            ("collector:4739", "neither udp:// nor tcp://"),
            ("sctp://collector", "neither udp:// nor tcp://"),
            ("udp://u@collector", "no user"),
            ("tcp://collector/path", "has a path"),
            ("udp://", "no address"),
            ("udp://collector:0", "no port"),
            ("udp://collector:70000", "no port"),
            ("udp://a b", "no address"),
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
