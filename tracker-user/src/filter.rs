//! Filters, the same on every command.

use std::{net::IpAddr, str::FromStr};

use tracker_common::state::State;

use crate::record::Record;

/// An address, or a prefix of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("`{address}` is no IP address; names are not looked up"))?;
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

impl Prefix {
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
}

fn state(text: &str) -> Result<String, String> {
    let name = text.to_ascii_uppercase().replace('-', "_");
    // The field's other spellings of the same states.
    let name = match name.as_str() {
        "SYN_RECV" => "SYN_RECEIVED",
        "FIN_WAIT1" => "FIN_WAIT_1",
        "FIN_WAIT2" => "FIN_WAIT_2",
        "CLOSE" => "CLOSED",
        other => other,
    };
    if State::ALL.iter().any(|state| state.name() == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<_> = State::ALL.iter().map(|state| state.name()).collect();
    Err(format!("`{text}` is no state; there are {}", names.join(", ")))
}

/// Which flows are meant. Every condition given must hold.
#[derive(Clone, Debug, Default, Eq, PartialEq, clap::Args)]
#[command(next_help_heading = "Filters")]
pub struct Filter {
    /// Address or prefix of the end that opened the connection
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub src: Option<Prefix>,
    /// Address or prefix of the other end
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub dst: Option<Prefix>,
    /// Address or prefix of either end
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub addr: Option<Prefix>,
    /// Port of the end that opened the connection
    #[arg(long, value_name = "PORT")]
    pub sport: Option<u16>,
    /// Port of the other end
    #[arg(long, value_name = "PORT")]
    pub dport: Option<u16>,
    /// Port of either end
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// State of either end, as in `ESTABLISHED` or `time-wait`
    #[arg(long, value_name = "STATE[,STATE]", value_delimiter = ',', value_parser = state)]
    pub state: Vec<String>,
    /// Address family
    #[arg(long, value_name = "FAMILY", value_parser = ["ipv4", "ipv6"])]
    pub family: Option<String>,
    /// Interface that saw the connection's first packet
    #[arg(long, value_name = "NAME", id = "filter_interface")]
    pub interface: Option<String>,
    /// Turn the filter round: everything that does not match
    #[arg(long)]
    pub not: bool,
}

impl Filter {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `record` is meant.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        fn holds<T>(wanted: Option<&T>, test: impl FnOnce(&T) -> bool) -> bool {
            wanted.is_none_or(test)
        }
        let all = holds(self.src.as_ref(), |prefix| prefix.contains(record.src))
            && holds(self.dst.as_ref(), |prefix| prefix.contains(record.dst))
            && holds(self.addr.as_ref(), |prefix| {
                prefix.contains(record.src) || prefix.contains(record.dst)
            })
            && holds(self.sport.as_ref(), |port| *port == record.sport)
            && holds(self.dport.as_ref(), |port| *port == record.dport)
            && holds(self.port.as_ref(), |port| [record.sport, record.dport].contains(port))
            && holds(self.family.as_ref(), |family| *family == record.family)
            && holds(self.interface.as_ref(), |name| *name == record.interface)
            && (self.state.is_empty()
                || record
                    .states()
                    .iter()
                    .any(|state| self.state.iter().any(|wanted| wanted == state)));
        all != self.not
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
        for wrong in ["10.0.0.0/33", "example.com", "10.0.0.0/x", "::/129"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn states_in_every_spelling() {
        assert_eq!(state("time-wait"), Ok("TIME_WAIT".to_owned()));
        assert_eq!(state("SYN_RECV"), Ok("SYN_RECEIVED".to_owned()));
        assert!(state("open").is_err());
    }
}
