//! Which interfaces the user asks for: names, and patterns of names.

use std::str::FromStr;

use glob::Pattern;

use crate::{
    agent::interfaces::changes::Link,
    kernel::preflight::interface_index,
    model::{error::Result, failure::Failure},
};

/// A name, or a pattern as a shell has them: `*`, `?`, `[a-c]`, `[!a]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Name {
    /// This one.
    Plain(String),
    /// All whose names match.
    Pattern(Pattern),
}

impl Name {
    /// The name, unless it is a pattern.
    #[must_use]
    pub fn plain(&self) -> Option<&str> {
        match self {
            Self::Plain(name) => Some(name),
            Self::Pattern(_) => None,
        }
    }

    fn means(&self, name: &str) -> bool {
        match self {
            Self::Plain(plain) => plain == name,
            Self::Pattern(pattern) => pattern.matches(name),
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a name is empty".to_owned());
        }
        if text.contains(['*', '?', '[']) {
            Pattern::new(text).map(Self::Pattern).map_err(|error| format!("{text}: {error}"))
        } else {
            Ok(Self::Plain(text.to_owned()))
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    names: Vec<Name>,
    may_be_missing: bool,
    drop_on: Vec<Name>,
}

impl Wanted {
    /// Interfaces of these names; `may_be_missing` says whether plain names are waited for at the start.
    #[must_use]
    pub fn new(names: &[Name], may_be_missing: bool) -> Self {
        Self { names: names.to_vec(), may_be_missing, drop_on: Vec::new() }
    }

    /// The same, where packets may be dropped at these interfaces alone, or at all for none.
    #[must_use]
    pub fn dropping_on(self, names: &[Name]) -> Self {
        Self { drop_on: names.to_vec(), ..self }
    }

    /// Whether packets may be dropped at this interface for the rules that they break.
    #[must_use]
    pub fn drops_on(&self, name: &str) -> bool {
        self.drop_on.is_empty() || self.drop_on.iter().any(|wanted| wanted.means(name))
    }

    /// Whether an interface of this name is asked for.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|wanted| wanted.means(name))
    }

    /// Whether this interface is asked for, by any of its names.
    #[must_use]
    pub fn has_link(&self, link: &Link) -> bool {
        link.names().any(|name| self.has(name))
    }

    /// Whether it is asked for by its very name, or another one that it has, so that it must not be left out.
    #[must_use]
    pub fn insists_on(&self, link: &Link) -> bool {
        let is_named =
            |name: &str| self.names.iter().any(|wanted| *wanted == Name::Plain(name.to_owned()));
        link.names().any(is_named)
    }

    /// The names of those that are there, in the order in which they were asked for.
    ///
    /// # Errors
    ///
    /// Where one is missing that must not be.
    pub fn at_start(&self, links: &[Link]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for wanted in &self.names {
            let before = found.len();
            let meant: Vec<_> = links
                .iter()
                .filter(|link| link.names().any(|name| wanted.means(name)))
                .map(|link| &link.name)
                .collect();
            for name in &meant {
                if !found.contains(*name) {
                    found.push((*name).clone());
                }
            }
            match wanted {
                Name::Plain(plain) if meant.is_empty() => {
                    if !self.may_be_missing {
                        interface_index(plain).map_err(|error| {
                            let hint = "To wait until it comes: `--wait-for-interfaces`";
                            Failure::BadInput(format!("{error}. {hint}"))
                        })?;
                    }
                    tracing::info!(interface = plain, "not there yet: it is waited for");
                }
                Name::Pattern(pattern) if found.len() == before => {
                    tracing::info!(pattern = pattern.as_str(), "no further interface matches yet");
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str]) -> Wanted {
        let names: Vec<Name> = names.iter().map(|name| name.parse().expect(name)).collect();
        Wanted::new(&names, true)
    }

    fn links(names: &[&str]) -> Vec<Link> {
        let link = |(index, name): (u32, &&str)| {
            let mut names = name.split(' ').map(str::to_owned);
            let name = names.next().expect("a name");
            Link { index, name, other_names: names.collect(), controller: None, parent: None }
        };
        (1..).zip(names).map(link).collect()
    }

    #[test]
    fn names_and_patterns() {
        let wanted = wanted(&["eth1", "veth*", "e?h[0-2]"]);
        let there = links(&["lo", "eth0", "veth9", "eth1", "veth", "eth3", "eth2"]);
        let found = wanted.at_start(&there).expect("none is insisted on");
        assert_eq!(found, ["eth1", "veth9", "veth", "eth0", "eth2"]);
        assert!(wanted.has("veth.100") && !wanted.has("xveth") && !wanted.has("eth3"));
        assert!(wanted.insists_on(&there[3]) && !wanted.insists_on(&there[1]));
    }

    #[test]
    fn other_names_mean_the_same_interface() {
        let wanted = wanted(&["eth1", "wan", "enp*"]);
        let there = links(&["eth0 lan enp1s0", "eth1 enp2s0", "eth2 wan"]);
        assert_eq!(wanted.at_start(&there).expect("all are there"), ["eth1", "eth2", "eth0"]);
        assert!(there.iter().all(|link| wanted.has_link(link)) && !wanted.has("eth2"));
        assert!(wanted.insists_on(&there[2]) && !wanted.insists_on(&there[0]));
    }

    #[test]
    fn what_is_no_pattern() {
        assert!("[a".parse::<Name>().expect_err("open").contains("[a"));
        assert!("".parse::<Name>().is_err());
    }
}
