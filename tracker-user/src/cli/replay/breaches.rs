//! What a replay knows of broken rules: every breach of those that are reported, so that nothing of it is forgotten.

use std::collections::HashMap;

use tracker_common::{limit::is_due, violation::Rule};

use super::connections::Id;
use crate::model::{event::Event, record::Record};

/// Codes of the rules that a connection has broken, and how often.
pub(super) type Counts = Vec<(u8, u64)>;

/// Which rules each connection has broken, and how often.
#[derive(Default)]
pub(super) struct Breaches(HashMap<Id, Counts>);

impl Breaches {
    /// Counts the breach that an event reports. Returns whether to print it: repeated breaches are printed ever more seldom.
    pub(super) fn take(&mut self, event: &Event) -> bool {
        let (Some(violation), Some(flow)) = (&event.violation, &event.flow) else { return true };
        let Some(rule) = Rule::from_name(&violation.name) else { return true };
        // Their flow is the first of many.
        if matches!(rule, Rule::SynFlood | Rule::PortScan) {
            return true;
        }
        let counts = self.0.entry(flow.created_ns).or_default();
        let code = rule as u8;
        let at = counts.iter().position(|(known, _)| *known == code).unwrap_or_else(|| {
            counts.push((code, 0));
            counts.len() - 1
        });
        counts[at].1 += 1;
        is_due(counts[at].1, rule.back_off())
    }

    /// Writes into a connection's record what it has broken.
    pub(super) fn complete(&self, record: &mut Record) {
        write(record, self.0.get(&record.created_ns).map_or(&[], Vec::as_slice));
    }

    /// Forgets a connection, and returns what it has broken.
    pub(super) fn forget(&mut self, id: Id) -> Counts {
        self.0.remove(&id).unwrap_or_default()
    }
}

/// Writes into a connection's record what it has broken.
pub(super) fn write(record: &mut Record, counts: &[(u8, u64)]) {
    let named = counts.iter().filter_map(|(code, count)| {
        Rule::from_code(*code).map(|rule| (rule.name().to_owned(), *count))
    });
    record.broken_rules = Some(named.collect());
}
