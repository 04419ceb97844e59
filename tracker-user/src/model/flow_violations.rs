//! Rules that connections have broken, as records and filters name them.

use std::collections::BTreeMap;

use tracker_common::violation::Rule;

use crate::model::rule_lookup::{self, RuleMatch};

/// Rules that one connection has broken, by their names, and how often.
pub type BrokenRules = BTreeMap<String, u64>;

/// The filter for them, where something is known of them.
#[derive(Clone, Debug, Default, Eq, PartialEq, clap::Args)]
#[command(next_help_heading = "Filters")]
pub struct ViolationFilter {
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
    let meant = match rule_lookup::find(text) {
        Some(RuleMatch::Rule(rule)) => vec![rule],
        Some(RuleMatch::Elsewhere(rules)) => rules.iter().map(|(rule, _)| *rule).collect(),
        Some(RuleMatch::Outside(_)) | None => Vec::new(),
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
    fn an_unknown_rule_is_answered_with_those_there_are() {
        assert_eq!(rule("syn_fin"), Ok(Rule::SynFin));
        assert!(rule("syn_finn").is_err_and(|said| said.contains(", syn_fin,")));
        let said = rule("bad_SYN_ack").expect_err("Zeek's");
        assert!(said.contains("here it is `synack_bad_ack`"), "{said}");
    }
}
