//! Ports, as filters have them: numbers, ranges, lists and the names of services.

use std::{fmt, fs, ops::RangeInclusive, str::FromStr, sync::OnceLock};

use crate::model::nearest::hint;

/// Ports that a filter lets through: never none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

/// Names of services where /etc/services is absent, as in containers.
const SERVICES: [(&str, u16); 38] = [
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("dns", 53),
    ("gopher", 70),
    ("finger", 79),
    ("http", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("sunrpc", 111),
    ("nntp", 119),
    ("imap2", 143),
    ("imap", 143),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("submissions", 465),
    ("submission", 587),
    ("ipp", 631),
    ("ldaps", 636),
    ("rsync", 873),
    ("imaps", 993),
    ("pop3s", 995),
    ("socks", 1080),
    ("ms-sql-s", 1433),
    ("mqtt", 1883),
    ("nfs", 2049),
    ("mysql", 3306),
    ("ms-wbt-server", 3389),
    ("postgresql", 5432),
    ("amqp", 5672),
    ("vnc", 5900),
    ("redis", 6379),
    ("http-alt", 8080),
];

/// Names of TCP services of this host, then those that are known everywhere.
fn services() -> &'static [(String, u16)] {
    static ALL: OnceLock<Vec<(String, u16)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let text = fs::read_to_string("/etc/services").unwrap_or_default();
        let known = SERVICES.iter().map(|(name, port)| ((*name).to_owned(), *port));
        text.lines().flat_map(of_line).chain(known).collect()
    })
}

/// The names in a line of services(5): `http 80/tcp www # World Wide Web`.
fn of_line(line: &str) -> Vec<(String, u16)> {
    let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
    let (Some(name), Some(port)) = (words.next(), words.next()) else { return Vec::new() };
    let port = port.strip_suffix("/tcp").and_then(|port| port.parse().ok());
    let Some(port) = port else { return Vec::new() };
    [name].into_iter().chain(words).map(|name| (name.to_lowercase(), port)).collect()
}

/// The port that is called `name`, a number or a service.
///
/// # Errors
///
/// What is wrong with it, and the nearest service.
pub(super) fn port(name: &str) -> Result<u16, String> {
    if let Ok(port) = name.parse() {
        return Ok(port);
    }
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{name}` is no port; the highest is 65535"));
    }
    let lower = name.to_lowercase();
    let all = services();
    all.iter().find(|(known, _)| *known == lower).map(|(_, port)| *port).ok_or_else(|| {
        let names = all.iter().map(|(name, _)| name.as_str());
        let examples = || "examples: 80, 80,443, 8000-8100, https".to_owned();
        format!("`{name}` is no port{}", hint(name, names, examples))
    })
}

/// Whether this is the name of a service, not a number.
pub(super) fn is_service(name: &str) -> bool {
    name.parse::<u16>().is_err() && port(name).is_ok()
}

impl FromStr for Ports {
    type Err = String;

    /// `80`, `80,443`, `8000-8100`, `https`, and each with the colon that `ss` puts before ports.
    fn from_str(text: &str) -> Result<Self, String> {
        let end = |text: &str| port(text.trim_start_matches(':'));
        let one = |text: &str| {
            // Names have hyphens, too.
            if let Ok(port) = end(text) {
                return Ok(port..=port);
            }
            let bare = text.trim_start_matches(':');
            match bare.split_once('-').or_else(|| bare.split_once(':')) {
                Some((low, high)) if low.parse::<u16>().is_ok() || end(high).is_ok() => {
                    let (low, high) = (end(low)?, end(high)?);
                    if low > high {
                        return Err(format!("`{text}` has no ports; did you mean `{high}-{low}`?"));
                    }
                    Ok(low..=high)
                }
                _ => end(text).map(|port| port..=port),
            }
        };
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Err(format!("`{text}` is no port; did you mean `host {text}`?"));
        }
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (low, high) if low == high => low.to_string(),
            (low, high) => format!("{low}-{high}"),
        };
        f.write_str(&self.0.iter().map(text).collect::<Vec<_>>().join(","))
    }
}

impl Ports {
    /// All from `low` to `high`; `None` if there are none.
    #[must_use]
    pub fn range(low: u16, high: u16) -> Option<Self> {
        (low <= high).then(|| Self(vec![low..=high]))
    }

    /// Those of all.
    pub(super) fn union(all: &[Self]) -> Option<Self> {
        (!all.is_empty()).then(|| Self(all.iter().flat_map(|ports| ports.0.clone()).collect()))
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// The port, if it is the only one.
    #[must_use]
    pub fn single(&self) -> Option<u16> {
        match &self.0[..] {
            [range] if range.start() == range.end() => Some(*range.start()),
            _ => None,
        }
    }

    /// Whether a port is one of both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|one| {
            other.0.iter().any(|other| one.start() <= other.end() && other.start() <= one.end())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_ranges_and_names() {
        for (text, expected) in [
            ("80", "80"),
            ("80,443", "80,443"),
            ("80-90", "80-90"),
            (":80", "80"),
            ("http,https", "80,443"),
            ("1-22,ssh", "1-22,22"),
            ("ftp-data", "20"),
            ("ftp-data-ssh", ""),
            ("1024:2048", "1024-2048"),
            ("HTTPS", "443"),
        ] {
            let read = text.parse::<Ports>().map(|ports| ports.to_string());
            assert_eq!(read.unwrap_or_default(), expected, "{text}");
        }
        let ports: Ports = "80-90,443".parse().expect("ports");
        assert!(ports.contains(80) && ports.contains(90) && ports.contains(443));
        assert!(!ports.contains(91) && ports.single().is_none());
        assert_eq!("80".parse::<Ports>().map(|ports| ports.single()), Ok(Some(80)));
    }

    #[test]
    fn what_is_none_is_answered_with_the_nearest() {
        for (text, expected) in [
            ("", "is no port; examples"),
            ("70000", "the highest is 65535"),
            ("90-80", "did you mean `80-90`?"),
            ("htpps", "did you mean `https`?"),
            ("10.0.0.1", "did you mean `host 10.0.0.1`?"),
            ("80,", "is no port"),
        ] {
            let said = text.parse::<Ports>().expect_err(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn services_as_the_file_has_them() {
        let names = |line| of_line(line).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names("http\t80/tcp\twww # WorldWideWeb HTTP"), ["http", "www"]);
        assert!(names("# http 80/tcp").is_empty() && names("domain 53/udp").is_empty());
    }
}
