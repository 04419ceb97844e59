//! What a replay knows of broken rules: every breach of those that are reported, so that nothing of it is forgotten.

use std::collections::HashMap;

use tracker_common::{limit::is_due, violation::Rule};

use super::connections::Id;
use crate::{event::Event, model::broken::BrokenRules, record::Record};

/// Which rules each connection has broken, and how often.
#[derive(Default)]
pub(super) struct Breaches(HashMap<Id, BrokenRules>);

impl Breaches {
    /// Takes notice of an event; whether it is told, where those that repeat themselves are told ever more seldom.
    pub(super) fn take(&mut self, event: &Event) -> bool {
        let (Some(violation), Some(flow)) = (&event.violation, &event.flow) else { return true };
        let Some(rule) = Rule::from_name(&violation.name) else { return true };
        // Their flow is the first of many.
        if matches!(rule, Rule::SynFlood | Rule::PortScan) {
            return true;
        }
        let rules = self.0.entry(flow.created_ns).or_default();
        let count = rules.entry(violation.name.clone()).or_default();
        *count += 1;
        is_due(*count, rule.back_off())
    }

    /// Writes into a connection's record what it has broken.
    pub(super) fn complete(&self, record: &mut Record) {
        record.broken_rules = Some(self.0.get(&record.created_ns).cloned().unwrap_or_default());
    }
}
