//! Addresses and prefixes, as filters have them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// An address, or a prefix of one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address: IpAddr =
            bare.unwrap_or(address).parse().map_err(|_| no_address(text, address))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(text) => text.parse().ok().filter(|length| *length <= most).ok_or_else(|| {
                format!("the prefix length `{text}` is not a number from 0 to {most}")
            })?,
        };
        Ok(Self { address, length })
    }
}

/// What to write instead of something that is no address.
fn no_address(text: &str, address: &str) -> String {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    match text.rsplit_once(':') {
        Some((host, port)) if is_port(port) && host.parse::<Ipv4Addr>().is_ok() => {
            format!(
                "`{text}` is an address and a port; write `{host}` here, and the port by itself"
            )
        }
        _ if is_port(address) => {
            format!("`{address}` is no IP address; did you mean `port {address}`?")
        }
        _ => format!("`{address}` is no IP address; names are not looked up"),
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Prefix {
    /// A network as tcpdump's `net` has it: also by its first parts (`10`, `192.168`), or with a mask.
    ///
    /// # Errors
    ///
    /// What is wrong, in a line.
    pub fn network(text: &str, mask: Option<&str>) -> Result<Self, String> {
        if let Some(mask) = mask {
            let prefix: Self = text.parse()?;
            let bits = mask.parse::<Ipv4Addr>().map(u32::from);
            let bits = bits.ok().filter(|bits| bits.leading_ones() == bits.count_ones());
            let length = bits.and_then(|bits| u8::try_from(bits.count_ones()).ok());
            return match length {
                Some(length) if prefix.address.is_ipv4() => Ok(Self { length, ..prefix }),
                _ => Err(format!("`{mask}` is no mask; an example: `net 10.0.0.0 mask 255.0.0.0`")),
            };
        }
        let parts: Vec<_> = text.split('.').collect();
        if parts.len() < 4 && parts.iter().all(|part| part.parse::<u8>().is_ok()) {
            let zeros = vec!["0"; 4 - parts.len()];
            return format!("{}/{}", [&parts[..], &zeros].concat().join("."), 8 * parts.len())
                .parse();
        }
        text.parse()
    }

    /// Its address; the bits beyond its length mean nothing.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        fn same(a: &[u8], b: &[u8], bits: u8) -> bool {
            let (whole, rest) = (usize::from(bits / 8), bits % 8);
            a[..whole] == b[..whole] && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0)
        }
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(&a.octets(), &b.octets(), self.length),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(&a.octets(), &b.octets(), self.length),
            _ => false,
        }
    }

    /// Whether an address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (long, short) = if self.length >= other.length { (self, other) } else { (other, self) };
        short.contains(long.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let contains = |prefix: &str, address: &str| {
            prefix.parse::<Prefix>().expect(prefix).contains(address.parse().expect(address))
        };
        assert!(contains("10.0.0.0/8", "10.255.1.2"));
        assert!(contains("10.1.2.3", "10.1.2.3") && !contains("10.1.2.3", "10.1.2.4"));
        assert!(contains("10.128.0.0/9", "10.200.0.1") && !contains("10.128.0.0/9", "10.1.0.1"));
        assert!(contains("::/0", "2001:db8::1") && !contains("::/0", "10.0.0.1"));
        assert!(contains("[::1]", "::1"));
        for wrong in ["10.0.0.0/33", "example.com", "10.0.0.0/x", "::/129", "10.0.0.1:80", "80"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_as_tcpdump_has_them() {
        for (text, mask, expected) in [
            ("10", None, "10.0.0.0/8"),
            ("192.168", None, "192.168.0.0/16"),
            ("192.0.2.0/24", None, "192.0.2.0/24"),
            ("2001:db8::/32", None, "2001:db8::/32"),
            ("10.0.0.0", Some("255.255.0.0"), "10.0.0.0/16"),
        ] {
            let read = Prefix::network(text, mask).map(|prefix| prefix.to_string());
            assert_eq!(read.as_deref(), Ok(expected));
        }
        assert!(Prefix::network("10.0.0.0", Some("255.0.255.0")).is_err());
        assert!(Prefix::network("::", Some("255.0.0.0")).is_err());
        assert!(Prefix::network("300", None).is_err());
    }
}
