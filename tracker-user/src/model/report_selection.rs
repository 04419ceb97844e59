//! Which rules' breaches are reported.

use std::str::FromStr;

use tracker_common::violation::{Rule, Rules, Severity};

/// A rule, or all of one severity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// One rule.
    Rule(Rule),
    /// Every rule of a severity.
    Severity(Severity),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "violation" => Ok(Self::Severity(Severity::Violation)),
            "minor" => Ok(Self::Severity(Severity::Minor)),
            "information" => Ok(Self::Severity(Severity::Information)),
            name => Rule::from_name(name).map(Self::Rule).ok_or_else(|| {
                let names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
                format!(
                    "`{name}` is no rule; there are violation, minor and information for all of a severity, and {}",
                    names.join(", ")
                )
            }),
        }
    }
}

/// Which rules' breaches are reported; those of others are counted.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ReportSelection {
    /// Report only these rules, by name or by severity: `violation` (the default), `minor`, `information`. All are counted
    #[arg(long, value_delimiter = ',', value_name = "NAME[,NAME]")]
    pub report: Vec<Choice>,
}

impl ReportSelection {
    /// Returns the rules whose breaches the kernel programs report.
    #[must_use]
    pub fn rules(&self) -> Rules {
        if self.report.is_empty() {
            return Rules::reported_by_default();
        }
        let chosen = |rule: Rule| {
            self.report.iter().any(|choice| match choice {
                Choice::Rule(named) => *named == rule,
                Choice::Severity(severity) => *severity == rule.severity(),
            })
        };
        Rule::ALL
            .iter()
            .filter(|rule| chosen(**rule))
            .fold(Rules::default(), |rules, rule| rules.with(*rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(names: &[&str]) -> Result<Rules, String> {
        let report = names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        Ok(ReportSelection { report }.rules())
    }

    #[test]
    fn rules_by_name_and_by_severity() {
        assert_eq!(rules(&[]), Ok(Rules::reported_by_default()));
        assert_eq!(rules(&["violation"]), Ok(Rules::reported_by_default()));
        assert_eq!(
            rules(&["xmas", "zero_window"]),
            Ok(Rules::default().with(Rule::Xmas).with(Rule::ZeroWindow))
        );
        let both = rules(&["minor", "information"]).expect("known");
        assert!(
            Rule::ALL
                .iter()
                .all(|rule| both.has(*rule) != (rule.severity() == Severity::Violation))
        );
        assert!(
            rules(&["xmass"])
                .is_err_and(|error| error.contains("`xmass`") && error.contains("xmas,"))
        );
    }
}
