//! Which rules each connection has broken, as far as the kernel programs remember: to report repeated breaches ever more
//! seldom, each interface's count those of the rules that are reported.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use tracker_common::{
    flow::{Flow, Life},
    key::FlowKey,
    limit::Repeated,
    violation::Rule,
};
use zerocopy::FromBytes;

use crate::{
    kernel::{
        batch::Walk,
        kernel_side::{links, slots::slots},
        map_forms,
    },
    model::{
        error::{Context, Result},
        flow_violations::BrokenRules,
        record::Record,
    },
};

/// The map that remembers, of which each interface has one.
pub const MAP: &str = "REPEATED";

/// Entries that are read in one system call.
const STEP: usize = 512;

/// The broken rules of every connection of which something is remembered.
#[derive(Debug, Default)]
pub struct FlowViolations(HashMap<(FlowKey, u32), BrokenRules>);

impl FlowViolations {
    /// What is remembered in the maps below a directory of pins.
    ///
    /// # Errors
    ///
    /// Where the maps cannot be read.
    pub fn from_pins(directory: &Path) -> Result<Self> {
        let maps = pins(directory)?.into_iter().map(|pin| map_forms::open(&pin));
        Self::read(&maps.collect::<Result<Vec<_>>>()?)
    }

    /// What is remembered in these maps.
    ///
    /// # Errors
    ///
    /// Where one cannot be read.
    pub fn read(maps: &[MapData]) -> Result<Self> {
        let mut all = Self::default();
        for map in maps {
            let mut walk = Walk::new(map, size_of::<Repeated>(), size_of::<u64>(), STEP)
                .context("reading which rules were broken")?;
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
        // A flow that was removed is a tombstone.
        let generation = flow.life().generation & !Life::DEAD;
        let rules = self.0.get(&(*key, generation));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_interfaces_have_seen_is_one_connection_s() {
        let mut broken = FlowViolations::default();
        let key = FlowKey { zone: 7, ..FlowKey::default() };
        let repeated = |generation, rule| Repeated { key, generation, rule };
        let code = Rule::SynAckBadAck as u32;
        for (repeated, count) in [
            (repeated(1, code), 2),
            (repeated(1, code), 3),
            (repeated(1, Rule::AckUnseenData as u32), 1),
            (repeated(2, code), 9),
            // A code of another version.
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
}
