//! `tracker violations`: the rules by name.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::ValueEnum;
use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use schemars::JsonSchema;
use serde::Serialize;
use tracker_common::{
    violation::{Rule, Severity},
    vocabulary::{Phase, entry},
};

use crate::{
    cli::terminal,
    model::{
        format::{Format, Line},
        rule_lookup::summary,
    },
};

/// Options of `tracker violations`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only rules of these severities
    #[arg(short, long, value_enum, value_delimiter = ',', value_name = "SEVERITY[,SEVERITY]")]
    pub severity: Vec<SeverityName>,
    /// Output format: a table, one JSON document, or one JSON record per line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// The severities by their names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SeverityName {
    /// A violation: reported
    Violation,
    /// Lawful traffic can look like this: counted, reported with `--report`
    Minor,
    /// Not wrong in itself: counted, reported with `--report`
    Information,
}

impl SeverityName {
    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::Minor => "minor",
            Self::Information => "information",
        }
    }
}

impl From<Severity> for SeverityName {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Violation => Self::Violation,
            Severity::Minor => Self::Minor,
            Severity::Information => Self::Information,
        }
    }
}

/// A rule in JSON.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RuleView {
    name: &'static str,
    severity: SeverityName,
    phase: &'static str,
    summary: String,
    /// Reported unless something else is asked for.
    reported: bool,
    /// How much further apart reports on one flow become, time after time.
    back_off: u64,
    /// Whether packets that break it can be dropped: `tracker run --drop`.
    droppable: bool,
}

impl RuleView {
    /// What is said of `rule` in short.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            name: rule.name(),
            severity: rule.severity().into(),
            phase: entry(rule).phase.name(),
            summary: summary(rule),
            reported: rule.severity() == Severity::Violation,
            back_off: rule.back_off(),
            droppable: rule.kept_because().is_none(),
        }
    }
}

/// The rules of these severities, or all of them, in the order of a connection's life.
#[must_use]
pub fn select(severities: &[SeverityName]) -> Vec<Rule> {
    let asked_for =
        |rule: Rule| severities.is_empty() || severities.contains(&rule.severity().into());
    Phase::ALL
        .into_iter()
        .flat_map(|phase| Rule::ALL.iter().filter(move |rule| entry(**rule).phase == phase))
        .copied()
        .filter(|rule| asked_for(*rule))
        .collect()
}

/// A table of `width` columns with lines between its parts; without a width, aligned words and a rule a line.
#[must_use]
pub fn table(rules: &[Rule], width: Option<u16>) -> String {
    let mut table = Table::new();
    if let Some(width) = width {
        table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    } else {
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(["NAME", "SEVERITY", "WHAT IT IS"]);
    for rule in rules {
        let severity = SeverityName::from(rule.severity()).name();
        table.add_row([rule.name(), severity, &summary(*rule)]);
    }
    if width.is_none()
        && let Some(column) = table.column_mut(0)
    {
        // A line begins with the name, for awk and for eyes.
        column.set_padding((0, 1));
    }
    table.trim_fmt()
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Document {
    v: u32,
    rules: Vec<RuleView>,
}

/// Prints the rules. Needs neither an agent nor root.
///
/// # Errors
///
/// Where stdout cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let rules = select(&options.severity);
    let views = rules.iter().map(|rule| RuleView::new(*rule));
    let mut out = io::stdout().lock();
    match options.output {
        Format::Text => writeln!(out, "{}", table(&rules, terminal::width()))?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &Document { v: 1, rules: views.collect() })?;
            writeln!(out)?;
        }
        Format::Jsonl => {
            for rule in views {
                serde_json::to_writer(&mut out, &Line::new(rule))?;
                writeln!(out)?;
            }
        }
    }
    out.flush().context("writing to stdout")?;
    if options.output == Format::Text {
        let _ =
            writeln!(io::stderr(), "{} rules shown; `tracker explain NAME` says more", rules.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_listed_once() {
        let all = select(&[]);
        assert_eq!(all.len(), Rule::ALL.len());
        assert!(Rule::ALL.iter().all(|rule| all.contains(rule)));
        let by_severity: usize =
            SeverityName::value_variants().iter().map(|severity| select(&[*severity]).len()).sum();
        assert_eq!(by_severity, all.len());
    }

    #[test]
    fn a_table_keeps_to_its_width() {
        for width in [60, 80, 120] {
            let table = table(&select(&[]), Some(width));
            assert!(table.lines().all(|line| line.chars().count() <= width.into()), "{table}");
        }
    }

    #[test]
    fn a_pipe_gets_a_rule_a_line() {
        let table = table(Rule::ALL, None);
        assert_eq!(table.lines().count(), Rule::ALL.len() + 1);
        for (line, rule) in table.lines().skip(1).zip(Rule::ALL) {
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some(rule.name()));
            assert_eq!(words.next(), Some(SeverityName::from(rule.severity()).name()));
            assert!(line.ends_with(&summary(*rule)));
        }
    }
}
