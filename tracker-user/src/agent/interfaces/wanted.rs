//! Which interfaces the user asks for: names, and patterns of names.

use std::str::FromStr;

use anyhow::{Result, anyhow};
use glob::Pattern;

use crate::{interfaces::changes::Link, preflight::interface_index};

/// A name, or a pattern as a shell has them: `*`, `?`, `[a-c]`, `[!a]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Name {
    /// This one.
    Plain(String),
    /// All whose names match.
    Pattern(Pattern),
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
}

impl Wanted {
    /// Interfaces of these names; `may_be_missing` says whether plain names are waited for at the start.
    #[must_use]
    pub fn new(names: &[Name], may_be_missing: bool) -> Self {
        Self { names: names.to_vec(), may_be_missing }
    }

    /// Whether an interface of this name is asked for.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|wanted| match wanted {
            Name::Plain(plain) => plain == name,
            Name::Pattern(pattern) => pattern.matches(name),
        })
    }

    /// Whether it is asked for by its very name, so that it must not be left out.
    #[must_use]
    pub fn insists_on(&self, name: &str) -> bool {
        self.names.iter().any(|wanted| matches!(wanted, Name::Plain(plain) if plain == name))
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
            for Link { name, .. } in links {
                let is_meant = match wanted {
                    Name::Plain(plain) => plain == name,
                    Name::Pattern(pattern) => pattern.matches(name),
                };
                if is_meant && !found.contains(name) {
                    found.push(name.clone());
                }
            }
            match wanted {
                Name::Plain(plain) if !found.contains(plain) => {
                    if !self.may_be_missing {
                        interface_index(plain).map_err(|error| {
                            anyhow!("{error}. To wait until it comes: `--wait-for-interfaces`")
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
        (1..).zip(names).map(|(index, name)| Link { index, name: (*name).to_owned() }).collect()
    }

    #[test]
    fn names_and_patterns() {
        let wanted = wanted(&["eth1", "veth*", "e?h[0-2]"]);
        let there = links(&["lo", "eth0", "veth9", "eth1", "veth", "eth3", "eth2"]);
        let found = wanted.at_start(&there).expect("none is insisted on");
        assert_eq!(found, ["eth1", "veth9", "veth", "eth0", "eth2"]);
        assert!(wanted.has("veth.100") && !wanted.has("xveth") && !wanted.has("eth3"));
        assert!(wanted.insists_on("eth1") && !wanted.insists_on("eth0"));
    }

    #[test]
    fn what_is_no_pattern() {
        assert!("[a".parse::<Name>().expect_err("open").contains("[a"));
        assert!("".parse::<Name>().is_err());
    }
}
