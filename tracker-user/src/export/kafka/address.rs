//! Names that options have: brokers, and a topic.

use std::{fmt, net::IpAddr, str::FromStr};

/// A broker that is asked for the others: `kafka.example:9092`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Broker {
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Broker {
    /// The broker that a text names.
    ///
    /// # Errors
    ///
    /// Where it names none. The message never repeats the text, which may have a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err(
                "a broker has no user: --export-kafka-user, and a password in a file".to_owned()
            );
        }
        if text.contains("://") {
            return Err(format!("a broker has no scheme, {EXAMPLE}; --export-kafka-tls is TLS"));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) if host.contains(':') => (host, port),
                _ => return Err(format!("this is no broker, {EXAMPLE}")),
            },
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let is_ip = host.parse::<IpAddr>().is_ok();
        let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if host.is_empty() || !(is_ip || is_name) {
            return Err(format!("this is no broker, {EXAMPLE}"));
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| format!("a port is a number from 1 to 65535, {EXAMPLE}"))?,
            None => return Err(format!("this is no broker, {EXAMPLE}")),
        };
        Ok(Self { host: host.to_owned(), port })
    }

    /// Whether a secret that is sent to it passes no network.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Topic(String);

impl Topic {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Default for Topic {
    fn default() -> Self {
        Self("tracker".to_owned())
    }
}

impl FromStr for Topic {
    type Err = String;

    /// As brokers have it (Apache Kafka, `Topic.validate`).
    fn from_str(text: &str) -> Result<Self, String> {
        let is_good = (1..=249).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
            && !matches!(text, "." | "..");
        if is_good {
            Ok(Self(text.to_owned()))
        } else {
            Err("a topic is 1 to 249 letters, digits, `.`, `_` and `-`".to_owned())
        }
    }
}

const EXAMPLE: &str = "as in kafka.example:9092";

/// Where a broker listens that is named without a port.
const PORT: u16 = 9092;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers() {
        for (text, shown) in [
            ("kafka.example", "kafka.example:9092"),
            ("kafka-1.example:9093", "kafka-1.example:9093"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[2001:db8::1]", "[2001:db8::1]:9092"),
            ("[::1]:99", "[::1]:99"),
        ] {
            assert_eq!(Broker::parse(text).map(|it| it.to_string()).as_deref(), Ok(shown));
        }
        for (text, said) in [
            ("", "no broker"),
            (":9092", "no broker"),
            ("::1", "no broker"),
            ("[kafka]:9092", "no broker"),
            ("[::1]secret", "no broker"),
            ("kafka/secret", "no broker"),
            ("kafka:secret", "a port is"),
            ("kafka:0", "a port is"),
            ("kafka:65536", "a port is"),
            ("user:secret@kafka:9092", "no user"),
            ("ssl://secret:9092", "no scheme"),
        ] {
            let error = Broker::parse(text).expect_err(text);
            assert!(error.contains(said) && !error.contains("secret"), "{text}: {error}");
        }
        let is_local = |text| Broker::parse(text).is_ok_and(|it| it.is_local());
        assert!(is_local("localhost") && is_local("[::1]:1") && is_local("127.0.0.2"));
        assert!(!is_local("kafka.example") && !is_local("192.0.2.1"));
    }

    #[test]
    fn topics() {
        for text in ["tracker", "a.b_c-9", "..."] {
            assert!(text.parse::<Topic>().is_ok(), "{text}");
        }
        for text in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(text.parse::<Topic>().is_err(), "{text}");
        }
    }
}
