//! What a filter asks: tests of a flow, and how they are joined.

use std::fmt;

use tracker_common::violation::Rule;

use super::{Ports, Prefix, tokens};
use crate::model::{record::Record, scope::Scope};

/// Tests, joined by `and`, `or` and `not`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Expression {
    /// All hold; none of them holds always, as every flow is TCP.
    All(Vec<Self>),
    /// One holds.
    Any(Vec<Self>),
    /// It does not hold.
    Not(Box<Self>),
    /// A test holds.
    Is(Test),
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    /// The one that opened it.
    Src,
    /// The other one.
    Dst,
    /// One of both.
    Either,
}

/// What is asked of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Test {
    /// An address in one of these.
    Address(Side, Vec<Prefix>),
    /// One of these ports.
    Port(Side, Ports),
    /// Either end in one of these states.
    State(Vec<String>),
    /// This address family.
    Family(String),
    /// First seen on one of these interfaces.
    Interface(Vec<String>),
    /// So many bytes of both ends.
    MinBytes(u64),
    /// One of these rules broken.
    Broke(Vec<Rule>),
}

impl Expression {
    /// All of them as one; `None` of none.
    pub(super) fn all(mut all: Vec<Self>) -> Option<Self> {
        if all.len() > 1 { Some(Self::All(all)) } else { all.pop() }
    }

    /// Any of them as one; `None` of none.
    pub(super) fn any(mut any: Vec<Self>) -> Option<Self> {
        if any.len() > 1 { Some(Self::Any(any)) } else { any.pop() }
    }

    /// Its opposite.
    pub(super) fn inverted(self) -> Self {
        Self::Not(Box::new(self))
    }

    /// Whether it holds, where each test holds or not.
    pub(super) fn holds(&self, test: &impl Fn(&Test) -> bool) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.holds(test)),
            Self::Any(any) => any.iter().any(|one| one.holds(test)),
            Self::Not(one) => !one.holds(test),
            Self::Is(one) => test(one),
        }
    }

    /// Calls `visit` with each test.
    pub(super) fn each(&self, visit: &mut impl FnMut(&Test)) {
        match self {
            Self::All(all) | Self::Any(all) => all.iter().for_each(|one| one.each(visit)),
            Self::Not(one) => one.each(visit),
            Self::Is(test) => visit(test),
        }
    }

    /// The least that is known of whose flows match: none of those that it leaves out does.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Self::Is(Test::Address(_, prefixes)) if prefixes.len() == 1 => {
                Scope { address: prefixes.first().copied(), port: None }
            }
            Self::Is(Test::Port(_, ports)) => Scope { address: None, port: ports.single() },
            Self::All(all) => all.iter().map(Self::scope).fold(Scope::default(), |one, other| {
                // The longer prefix leaves out more.
                let longest = one.address.into_iter().chain(other.address).rev();
                Scope { address: longest.max_by_key(Prefix::length), port: one.port.or(other.port) }
            }),
            Self::Any(any) => any
                .iter()
                .map(Self::scope)
                .reduce(|one, other| one.union(&other))
                .unwrap_or_default(),
            Self::Is(_) | Self::Not(_) => Scope::default(),
        }
    }

    /// Two tests of the same end that no flow passes both.
    pub(super) fn contradiction(all: &[Self]) -> Option<(&Test, &Test)> {
        let tests: Vec<_> = all
            .iter()
            .filter_map(|one| match one {
                Self::Is(test) => Some(test),
                _ => None,
            })
            .collect();
        let mut pairs = tests
            .iter()
            .enumerate()
            .flat_map(|(index, one)| tests[..index].iter().map(move |other| (*other, *one)));
        pairs.find(|(one, other)| one.excludes(other))
    }
}

impl Test {
    /// Whether `record` passes. Where rules are asked for, those that it broke must have been looked up.
    pub(super) fn matches(&self, record: &Record) -> bool {
        let at = |side: Side, src: bool, dst: bool| match side {
            Side::Src => src,
            Side::Dst => dst,
            Side::Either => src || dst,
        };
        match self {
            Self::Address(side, prefixes) => {
                let holds = |address| prefixes.iter().any(|prefix| prefix.contains(address));
                at(*side, holds(record.src), holds(record.dst))
            }
            Self::Port(side, ports) => {
                at(*side, ports.contains(record.sport), ports.contains(record.dport))
            }
            Self::State(states) => {
                record.states().iter().any(|state| states.iter().any(|wanted| wanted == state))
            }
            Self::Family(family) => *family == record.family,
            Self::Interface(names) => names.contains(&record.interface),
            Self::MinBytes(least) => record.bytes() >= *least,
            Self::Broke(rules) => rules.iter().any(|rule| {
                record.broken_rules.as_ref().is_some_and(|broken| broken.contains_key(rule.name()))
            }),
        }
    }

    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Address(one, these), Self::Address(another, those)) => {
                one == another
                    && *one != Side::Either
                    && !these.iter().any(|prefix| those.iter().any(|it| it.overlaps(prefix)))
            }
            (Self::Port(one, these), Self::Port(another, those)) => {
                one == another && *one != Side::Either && !these.overlaps(those)
            }
            (Self::Family(one), Self::Family(other)) => one != other,
            _ => false,
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |side: &Side, names: [&'static str; 3]| match side {
            Side::Src => names[0],
            Side::Dst => names[1],
            Side::Either => names[2],
        };
        match self {
            Self::Address(side, prefixes) => {
                let prefixes: Vec<_> = prefixes.iter().map(Prefix::to_string).collect();
                write!(f, "{} {}", name(side, ["src", "dst", "addr"]), prefixes.join(","))
            }
            Self::Port(side, ports) => {
                write!(f, "{} {ports}", name(side, ["sport", "dport", "port"]))
            }
            Self::State(states) => write!(f, "state {}", states.join(",")),
            Self::Family(family) => write!(f, "family {family}"),
            Self::Interface(names) => write!(f, "interface {}", tokens::join(names)),
            Self::MinBytes(least) => write!(f, "min-bytes {least}"),
            Self::Broke(rules) => {
                let names: Vec<_> = rules.iter().map(|rule| rule.name()).collect();
                write!(f, "violation {}", names.join(","))
            }
        }
    }
}

impl fmt::Display for Expression {
    /// In the words that are read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = |one: &Self| match one {
            Self::All(all) if all.is_empty() => one.to_string(),
            Self::All(_) | Self::Any(_) => format!("( {one} )"),
            Self::Not(_) | Self::Is(_) => one.to_string(),
        };
        let joined = |all: &[Self], by: &str| all.iter().map(inner).collect::<Vec<_>>().join(by);
        match self {
            Self::All(all) if all.is_empty() => f.write_str("tcp"),
            Self::All(all) => f.write_str(&joined(all, " and ")),
            Self::Any(any) => f.write_str(&joined(any, " or ")),
            Self::Not(one) => write!(f, "not {}", inner(one)),
            Self::Is(test) => test.fmt(f),
        }
    }
}
