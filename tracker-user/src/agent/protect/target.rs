//! What the user asks to protect: ports, on all addresses or on one.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// `PORTS[@ADDR]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// First and last port of each range.
    ports: Vec<(u16, u16)>,
    /// The one address that it selects; `None` for all of the host.
    address: Option<IpAddr>,
}

impl Target {
    /// Whether it selects this port, at whatever address.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, address) = match text.split_once('@') {
            Some((ports, address)) => (ports, Some(self::address(address)?)),
            None => (text, None),
        };
        let ports = ports.split(',').map(range).collect::<Result<_, _>>()?;
        Ok(Self { ports, address })
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(0) => Err("port 0 is nobody's".to_owned()),
        Ok(port) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(format!("`{text}` is no port, which is a number from 1 to 65535")),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("`{text}` is no range: write `{last}-{first}`"));
    }
    Ok((first, last))
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address: IpAddr =
        bare.parse().map_err(|_| format!("`{text}` is no IP address; names are not looked up"))?;
    let address = address.to_canonical();
    if address.is_unspecified() {
        return Err(format!("leave out `@{text}` to mean every address of this host"));
    }
    if address.is_loopback() {
        return Err(format!(
            "`{text}` is an address of loopback, which cannot be protected: nothing sees its packets before the host does"
        ));
    }
    if address.is_multicast() {
        return Err(format!("`{text}` is a multicast address, and TCP has none"));
    }
    Ok(address)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.ports.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        match self.address {
            Some(address @ IpAddr::V4(_)) => write!(f, "@{address}"),
            Some(address @ IpAddr::V6(_)) => write!(f, "@[{address}]"),
            None => Ok(()),
        }
    }
}

/// What targets mean on a host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Places {
    /// Every address with a port.
    pub here: BTreeSet<SocketAddr>,
    /// Addresses that were named and are not the host's.
    pub foreign: Vec<IpAddr>,
}

/// What `targets` mean on a host with these addresses. What is not the host's is left out: it would be somebody else's
/// connections that are answered. So are addresses of loopback, whose packets nobody sees.
#[must_use]
pub fn places(targets: &[Target], addresses: &BTreeSet<IpAddr>) -> Places {
    let mut places = Places::default();
    for Target { ports, address } in targets {
        let meant: Vec<_> = match address {
            None => addresses.iter().copied().filter(|address| !address.is_loopback()).collect(),
            Some(address) if addresses.contains(address) => vec![*address],
            Some(address) => {
                places.foreign.push(*address);
                continue;
            }
        };
        for port in ports.iter().flat_map(|(first, last)| *first..=*last) {
            places.here.extend(meant.iter().map(|ip| SocketAddr::new(*ip, port)));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(targets: &[&str], addresses: &[&str]) -> Vec<String> {
        let targets: Vec<_> = targets.iter().map(|text| text.parse().expect(text)).collect();
        let addresses = addresses.iter().map(|text| text.parse().expect(text)).collect();
        let places = places(&targets, &addresses);
        places.here.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        for (text, expected) in [
            ("80", "80"),
            ("80,443", "80,443"),
            ("8000-8100", "8000-8100"),
            ("1-1", "1"),
            ("22,8000-8002,65535@192.0.2.1", "22,8000-8002,65535@192.0.2.1"),
            ("443@2001:db8::1", "443@[2001:db8::1]"),
            ("443@[2001:DB8:0::1]", "443@[2001:db8::1]"),
            ("443@[192.0.2.1]", "443@192.0.2.1"),
            ("443@::ffff:192.0.2.1", "443@192.0.2.1"),
        ] {
            assert_eq!(
                text.parse::<Target>().map(|target| target.to_string()).as_deref(),
                Ok(expected)
            );
        }
    }

    #[test]
    fn what_is_wrong_says_so() {
        for (text, expected) in [
            ("", "`` is no port"),
            ("http", "`http` is no port"),
            ("0", "port 0"),
            ("65536", "`65536` is no port"),
            ("+80", "`+80` is no port"),
            ("80,", "`` is no port"),
            ("80-", "`` is no port"),
            ("90-80", "write `80-90`"),
            ("80:443", "`80:443` is no port"),
            ("80@", "`` is no IP address"),
            ("@192.0.2.1", "`` is no port"),
            ("80@example.com", "names are not looked up"),
            ("80@192.0.2.0/24", "`192.0.2.0/24` is no IP address"),
            ("80@[192.0.2.1", "`[192.0.2.1` is no IP address"),
            ("80@0.0.0.0", "leave out `@0.0.0.0`"),
            ("80@[::]", "leave out `@[::]`"),
            ("80@127.0.0.1", "loopback"),
            ("80@::1", "loopback"),
            ("80@224.0.0.1", "multicast"),
            ("80@ff02::1", "multicast"),
        ] {
            let said = text.parse::<Target>().expect_err(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn all_addresses_but_those_of_loopback() {
        let host = ["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"];
        assert_eq!(here(&["80"], &host), ["192.0.2.1:80", "[2001:db8::1]:80"]);
        assert_eq!(
            here(&["80-81@192.0.2.1", "81@192.0.2.1"], &host),
            ["192.0.2.1:80", "192.0.2.1:81"]
        );
        assert_eq!(here(&["80", "80@192.0.2.1"], &["192.0.2.1"]), ["192.0.2.1:80"]);
        assert!(here(&["80"], &["127.0.0.1"]).is_empty());
        let foreign = places(&["80@192.0.2.9".parse().expect("a target")], &BTreeSet::new());
        assert_eq!(foreign.foreign, ["192.0.2.9".parse::<IpAddr>().expect("an address")]);
        assert!(foreign.here.is_empty());
    }
}
