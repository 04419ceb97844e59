//! Which rules each connection has broken, as far as the kernel programs remember: to report repeated breaches ever more
//! seldom, each interface's count those of the rules that are reported.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::maps::MapData;
use tracker_common::{flow::Flow, key::FlowKey, limit::Repeated, violation::Rule};
use zerocopy::FromBytes;

use crate::{
    batch::Walk,
    instance::Instance,
    kernel_side::{links, slots::slots},
    lent::Lent,
    lookup::{self, Found},
    record::Record,
    tables::Source,
};

/// The map that remembers, of which each interface has one.
pub const MAP: &str = "REPEATED";

/// Entries that are read in one system call.
const STEP: usize = 512;

/// Rules that one connection has broken, by their names, and how often.
pub type BrokenRules = BTreeMap<String, u64>;

/// The same of every connection of which something is remembered.
#[derive(Debug, Default)]
pub struct Broken(HashMap<(FlowKey, u32), BrokenRules>);

impl Broken {
    /// What the programs of an agent remember.
    ///
    /// # Errors
    ///
    /// Where there is no agent, this user may not ask it, or its maps cannot be read.
    pub fn of(instance: &Instance) -> Result<Self> {
        match Source::of(instance)? {
            Source::Pins(pins) => Self::from_pins(&pins),
            Source::Lent(_) => Self::read(&Lent::ask_for_repeated(instance)?),
        }
    }

    /// What is remembered in the maps below a directory of pins.
    ///
    /// # Errors
    ///
    /// As [`Broken::of`].
    pub fn from_pins(directory: &Path) -> Result<Self> {
        let maps = pins(directory)?.into_iter().map(|pin| {
            MapData::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))
        });
        Self::read(&maps.collect::<Result<Vec<_>>>()?)
    }

    fn read(maps: &[MapData]) -> Result<Self> {
        let mut all = Self::default();
        for map in maps {
            let mut walk =
                Walk::new(map.fd().as_fd(), size_of::<Repeated>(), size_of::<u64>(), STEP);
            while let Some((keys, values)) =
                walk.step().context("reading which rules were broken")?
            {
                let keys = keys.chunks_exact(size_of::<Repeated>());
                for (key, count) in keys.zip(values.chunks_exact(size_of::<u64>())) {
                    if let (Ok(key), Ok(count)) =
                        (Repeated::read_from_bytes(key), u64::read_from_bytes(count))
                    {
                        all.add(&key, count);
                    }
                }
            }
        }
        Ok(all)
    }

    /// A connection's segments may have come by more than one interface.
    fn add(&mut self, repeated: &Repeated, count: u64) {
        let rule = u8::try_from(repeated.rule).ok().and_then(Rule::from_code);
        if let Some(rule) = rule {
            let rules = self.0.entry((repeated.key, repeated.generation)).or_default();
            *rules.entry(rule.name().to_owned()).or_default() += count;
        }
    }

    /// Writes into a flow's record what is remembered of it.
    pub fn complete(&self, key: &FlowKey, flow: &Flow, record: &mut Record) {
        let rules = self.0.get(&(*key, flow.life().generation));
        record.broken_rules = Some(rules.cloned().unwrap_or_default());
    }
}

/// The pins of these maps below an agent's directory; where an interface is just being attached to, there is none yet.
///
/// # Errors
///
/// Where the directory cannot be read.
pub fn pins(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for slot in slots(directory)? {
        let pin = slot.map(MAP);
        if links::exists(&pin)? {
            found.push(pin);
        }
    }
    Ok(found)
}

/// The filter for them, where something is known of them.
#[derive(Clone, Debug, Default, Eq, PartialEq, clap::Args)]
#[command(next_help_heading = "Filters")]
pub struct BrokenFilter {
    /// Connections that broke one of these rules, as far as the kernel remembers; `tracker violations` lists the rules
    ///
    /// The kernel programs remember about the last 16,384 pairs of a connection and a rule on each interface. They remember
    /// reported rules only (`tracker run --report`), while somebody subscribes to VIOLATION events, as the agent does by
    /// default. Segments that are wrong by their header alone belong to no connection. The findings of sweeps are not included
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', value_parser = rule)]
    pub violation: Vec<Rule>,
}

/// A rule by its name.
///
/// # Errors
///
/// What there is instead, in a line.
pub fn rule(text: &str) -> Result<Rule, String> {
    if let Some(rule) = Rule::from_name(text) {
        return Ok(rule);
    }
    let names = |rules: &[Rule], between| {
        rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(between)
    };
    let meant = match lookup::find(text) {
        Some(Found::Rule(rule)) => vec![rule],
        Some(Found::Elsewhere(rules)) => rules.iter().map(|(rule, _)| *rule).collect(),
        Some(Found::Outside(_)) | None => Vec::new(),
    };
    Err(if meant.is_empty() {
        format!("`{text}` is no rule; there are {}", names(Rule::ALL, ", "))
    } else {
        let meant = names(&meant, "`, `");
        format!(
            "`{text}` is no rule, but here it is `{meant}`; `tracker violations` lists them all"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_interfaces_have_seen_is_one_connection_s() {
        let mut broken = Broken::default();
        let key = FlowKey { zone: 7, ..FlowKey::default() };
        let repeated = |generation, rule| Repeated { key, generation, rule };
        let code = Rule::SynAckBadAck as u32;
        for (repeated, count) in [
            (repeated(1, code), 2),
            (repeated(1, code), 3),
            (repeated(1, Rule::AckUnseenData as u32), 1),
            (repeated(2, code), 9),
            // Of another version.
            (repeated(1, 255), 1),
        ] {
            broken.add(&repeated, count);
        }
        let of = |generation| {
            let rules = broken.0.get(&(key, generation)).expect("it has broken one");
            rules.iter().map(|(name, count)| (name.as_str(), *count)).collect::<Vec<_>>()
        };
        assert_eq!(of(1), [("ack_unseen_data", 1), ("synack_bad_ack", 5)]);
        assert_eq!(of(2), [("synack_bad_ack", 9)]);
    }

    #[test]
    fn an_unknown_rule_is_answered_with_those_there_are() {
        assert_eq!(rule("syn_fin"), Ok(Rule::SynFin));
        assert!(rule("syn_finn").is_err_and(|said| said.contains(", syn_fin,")));
        let said = rule("bad_SYN_ack").expect_err("Zeek's");
        assert!(said.contains("here it is `synack_bad_ack`"), "{said}");
    }
}
