//! Filters, the same on every command.

use std::{fmt, net::IpAddr, str::FromStr};

use clap::Parser;
use serde::{Deserialize, Serialize};
use tracker_common::{state::State, violation::Rule};

use crate::{event::Event, model::broken::BrokenFilter, record::Record, scope::Scope};

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

/// A number of octets, with or without a unit.
fn octets(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("`{text}` is no number of bytes; examples: 4096, 10k, 2G"))
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
    /// State of either end: `ESTABLISHED`, `time-wait`
    #[arg(long, value_name = "STATE[,STATE]", value_delimiter = ',', value_parser = state)]
    pub state: Vec<String>,
    /// Address family
    #[arg(long, value_name = "FAMILY", value_parser = ["ipv4", "ipv6"])]
    pub family: Option<String>,
    /// Interface that saw the connection's first packet
    #[arg(long, value_name = "NAME", id = "filter_interface")]
    pub interface: Option<String>,
    /// Minimum bytes of both ends together, IP headers included; `k`, `M` and `G` are powers of 1000
    #[arg(long, value_name = "N", value_parser = octets)]
    pub min_bytes: Option<u64>,
    /// Invert the filter: everything that does not match
    #[arg(long)]
    pub not: bool,
    /// Rules that were broken: by the flow or, where events are chosen, by what the event tells. Not every command knows, so
    /// that the option is [`BrokenFilter`]'s.
    #[arg(skip)]
    pub violation: Vec<Rule>,
}

/// A filter in words: an option's name without its hyphens, and its value. `and`, `=`, and the colon before a port are
/// understood, because `ss` has them.
///
/// # Errors
///
/// What is wrong, in a line.
pub fn words(text: &str) -> Result<Filter, String> {
    #[derive(Parser)]
    #[command(no_binary_name = true, disable_help_flag = true)]
    struct Words {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        broken: BrokenFilter,
    }
    const NAMES: [&str; 11] = [
        "src",
        "dst",
        "addr",
        "sport",
        "dport",
        "port",
        "state",
        "family",
        "interface",
        "min-bytes",
        "violation",
    ];
    let mut rest = text.split_whitespace().filter(|word| !["and", "=", "=="].contains(word));
    let mut arguments = Vec::new();
    while let Some(word) = rest.next() {
        let name = word.strip_prefix("--").unwrap_or(word);
        if name == "not" {
            arguments.push("--not".to_owned());
            continue;
        }
        if !NAMES.contains(&name) {
            return Err(format!("`{word}` is no filter; there are {} and not", NAMES.join(", ")));
        }
        let value = rest.next().ok_or_else(|| format!("`{word}` of what?"))?;
        let value = if name.ends_with("port") { value.trim_start_matches(':') } else { value };
        arguments.push(format!("--{name}={value}"));
    }
    let read = Words::try_parse_from(arguments);
    read.map(|words| Filter { violation: words.broken.violation, ..words.filter }).map_err(
        |error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        },
    )
}

impl fmt::Display for Filter {
    /// In the words that [`words`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            src,
            dst,
            addr,
            sport,
            dport,
            port,
            state,
            family,
            interface,
            min_bytes,
            not,
            violation,
        } = self;
        let prefix = |prefix: &Option<Prefix>| prefix.map(|prefix| prefix.to_string());
        let number = |number: &Option<u16>| number.map(|number| number.to_string());
        let words = [
            ("src", prefix(src)),
            ("dst", prefix(dst)),
            ("addr", prefix(addr)),
            ("sport", number(sport)),
            ("dport", number(dport)),
            ("port", number(port)),
            ("state", (!state.is_empty()).then(|| state.join(","))),
            ("family", family.clone()),
            ("interface", interface.clone()),
            ("min-bytes", min_bytes.map(|bytes| bytes.to_string())),
            ("violation", (!violation.is_empty()).then(|| names(violation).join(","))),
        ];
        let given =
            words.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        let given: Vec<_> = given.chain(not.then(|| "not".to_owned())).collect();
        f.write_str(&given.join(" "))
    }
}

impl Filter {
    /// What this and `other` ask for together.
    ///
    /// # Errors
    ///
    /// Where both say something of the same.
    pub fn and(self, other: &Self) -> Result<Self, String> {
        fn one<T>(name: &str, one: Option<T>, other: Option<T>) -> Result<Option<T>, String> {
            match (one, other) {
                (Some(_), Some(_)) => Err(format!("`{name}` is given twice")),
                (one, other) => Ok(one.or(other)),
            }
        }
        if !self.state.is_empty() && !other.state.is_empty() {
            return Err("`state` is given twice".to_owned());
        }
        if !self.violation.is_empty() && !other.violation.is_empty() {
            return Err("`violation` is given twice".to_owned());
        }
        let other = other.clone();
        Ok(Self {
            src: one("src", self.src, other.src)?,
            dst: one("dst", self.dst, other.dst)?,
            addr: one("addr", self.addr, other.addr)?,
            sport: one("sport", self.sport, other.sport)?,
            dport: one("dport", self.dport, other.dport)?,
            port: one("port", self.port, other.port)?,
            state: [self.state, other.state].concat(),
            family: one("family", self.family, other.family)?,
            interface: one("interface", self.interface, other.interface)?,
            min_bytes: one("min-bytes", self.min_bytes, other.min_bytes)?,
            not: self.not || other.not,
            violation: [self.violation, other.violation].concat(),
        })
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The least that is known of whose flows can be meant: nothing that this leaves out matches.
    #[must_use]
    pub fn scope(&self) -> Scope {
        if self.not {
            return Scope::default();
        }
        let addresses = [self.src, self.dst, self.addr].into_iter().flatten();
        Scope {
            address: addresses.max_by_key(Prefix::length),
            port: self.sport.or(self.dport).or(self.port),
        }
    }

    /// Whether `record` is meant. Where rules are asked for, what it has broken must have been looked up.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        let has_broken = |rule: &Rule| {
            record.broken_rules.as_ref().is_some_and(|rules| rules.contains_key(rule.name()))
        };
        let broken = self.violation.is_empty() || self.violation.iter().any(has_broken);
        (broken && self.matches_but_rules(record)) != self.not
    }

    /// Whether `event` is meant: where rules are asked for, it must tell of a breach of one. One without a flow is meant
    /// only where nothing is asked for of flows, and one that tells of lost reports always.
    #[must_use]
    pub fn matches_event(&self, event: &Event) -> bool {
        if event.lost.is_some() {
            return true;
        }
        let tells_of = |rule: &Rule| {
            event.violation.as_ref().is_some_and(|violation| violation.name == rule.name())
        };
        let told = self.violation.is_empty() || self.violation.iter().any(tells_of);
        match &event.flow {
            Some(flow) => (told && self.matches_but_rules(flow)) != self.not,
            None => told != self.not && self.asks_nothing_of_flows(),
        }
    }

    fn asks_nothing_of_flows(&self) -> bool {
        Self { violation: Vec::new(), not: false, ..self.clone() } == Self::default()
    }

    fn matches_but_rules(&self, record: &Record) -> bool {
        fn holds<T>(wanted: Option<&T>, test: impl FnOnce(&T) -> bool) -> bool {
            wanted.is_none_or(test)
        }
        holds(self.src.as_ref(), |prefix| prefix.contains(record.src))
            && holds(self.dst.as_ref(), |prefix| prefix.contains(record.dst))
            && holds(self.addr.as_ref(), |prefix| {
                prefix.contains(record.src) || prefix.contains(record.dst)
            })
            && holds(self.sport.as_ref(), |port| *port == record.sport)
            && holds(self.dport.as_ref(), |port| *port == record.dport)
            && holds(self.port.as_ref(), |port| [record.sport, record.dport].contains(port))
            && holds(self.family.as_ref(), |family| *family == record.family)
            && holds(self.interface.as_ref(), |name| *name == record.interface)
            && holds(self.min_bytes.as_ref(), |least| record.bytes() >= *least)
            && (self.state.is_empty()
                || record
                    .states()
                    .iter()
                    .any(|state| self.state.iter().any(|wanted| wanted == state)))
    }
}

fn names(rules: &[Rule]) -> Vec<&'static str> {
    rules.iter().map(|rule| rule.name()).collect()
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
    fn words_are_options_without_hyphens() {
        let read = |text: &str| words(text).map(|filter| filter.to_string());
        for (text, expected) in [
            ("", ""),
            ("state established", "state ESTABLISHED"),
            (
                "state syn-recv,time-wait and sport = :443 not",
                "sport 443 state SYN_RECEIVED,TIME_WAIT not",
            ),
            ("dst 10.0.0.0/8 dport :80", "dst 10.0.0.0/8 dport 80"),
            ("src 2001:db8::1 min-bytes 2k", "src 2001:db8::1/128 min-bytes 2000"),
            ("--family ipv6 --interface eth0", "family ipv6 interface eth0"),
            (
                "violation syn_isn_change,synack_bad_ack port 80",
                "port 80 violation syn_isn_change,synack_bad_ack",
            ),
        ] {
            let shown = read(text).expect(text);
            assert_eq!(shown, expected);
            assert_eq!(read(&shown).as_ref(), Ok(&shown));
        }
        for (text, expected) in [
            ("established", "`established` is no filter"),
            ("sport", "`sport` of what?"),
            ("sport http", "invalid value 'http'"),
            ("port 80 port 81", "cannot be used multiple times"),
            ("state open", "is no state"),
            ("violation nonsense", "is no rule; there are "),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
        let dport = || words("dport 80").expect("a filter");
        assert_eq!(
            dport().and(&words("src ::1 not").expect("a filter")).map(|both| both.to_string()),
            Ok("src ::1/128 dport 80 not".to_owned())
        );
        assert!(dport().and(&dport()).is_err());
    }

    #[test]
    fn a_scope_leaves_out_nothing_that_matches() {
        let prefix = |text: &str| text.parse::<Prefix>().expect(text);
        let filter = Filter {
            src: Some(prefix("10.0.0.0/8")),
            addr: Some(prefix("192.0.2.1")),
            dport: Some(80),
            ..Filter::default()
        };
        let scope = Scope { address: Some(prefix("192.0.2.1")), port: Some(80) };
        assert_eq!(filter.scope(), scope);
        assert_eq!(Filter { not: true, ..filter }.scope(), Scope::default());
        assert_eq!(
            Filter { family: Some("ipv4".into()), ..Filter::default() }.scope(),
            Scope::default()
        );
    }

    #[test]
    fn octets_in_units() {
        assert_eq!(octets("10k"), Ok(10_000));
        assert_eq!(octets("2G"), Ok(2_000_000_000));
        assert_eq!(octets("0"), Ok(0));
        for wrong in ["", "k", "-1", "1.5M", "99999999999999999999", "18446744073709551615k"] {
            assert!(octets(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn states_in_every_spelling() {
        assert_eq!(state("time-wait"), Ok("TIME_WAIT".to_owned()));
        assert_eq!(state("SYN_RECV"), Ok("SYN_RECEIVED".to_owned()));
        assert!(state("open").is_err());
    }
}
