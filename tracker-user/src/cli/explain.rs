//! `tracker explain`: a rule in full, by its own name or by another tool's.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use anyhow::{Context, Result};
use schemars::JsonSchema;
use serde::Serialize;
use tracker_common::{
    violation::{Rule, Severity},
    vocabulary::{Name, Tool, entry},
};

use crate::{
    cli::{
        terminal::{self, wrapped},
        violations::{RuleView, SeverityName},
    },
    model::{
        failure::Failure,
        format::{Format, Line},
        rule_lookup::{RuleMatch, find, nearest, summary},
    },
};

/// Columns of text where stdout is no terminal, and the most on one.
const WIDTH: u16 = 100;

/// Options of `tracker explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A rule, or its name in Suricata, Zeek, Snort, nf_conntrack or Wireshark: `synack_bad_ack`,
    /// `stream.3whs_synack_with_wrong_ack`, `2210007`, `bad_SYN_ack`, `116:420`, a log line
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Output format: text, one JSON document, or one JSON record per rule and line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// What somebody else calls a rule, in JSON.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct NameView {
    tool: &'static str,
    name: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'static str,
}

impl From<&Name> for NameView {
    fn from(Name(tool, name, id): &Name) -> Self {
        Self { tool: tool.name(), name, id }
    }
}

/// A rule in full, in JSON.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Explanation {
    #[serde(flatten)]
    rule: RuleView,
    meaning: &'static str,
    causes: &'static str,
    next: &'static str,
    state: &'static str,
    behaviours: &'static [&'static str],
    names: Vec<NameView>,
    /// Which of the names it was found by; empty where it was its own.
    found_by: Vec<NameView>,
}

impl Explanation {
    fn new(rule: Rule, found_by: &[Name]) -> Self {
        let entry = entry(rule);
        Self {
            rule: RuleView::new(rule),
            meaning: entry.meaning,
            causes: entry.causes,
            next: entry.next,
            state: entry.state,
            behaviours: entry.behaviours,
            names: entry.names.iter().map(Into::into).collect(),
            found_by: found_by.iter().map(Into::into).collect(),
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Document<'a> {
    v: u32,
    query: &'a str,
    rules: Vec<Explanation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outside: Option<OutsideView>,
}

#[derive(Serialize, JsonSchema)]
struct OutsideView {
    name: &'static str,
    why: &'static str,
}

/// Prints what is known of a name. Needs neither an agent nor root.
///
/// # Errors
///
/// Where nothing is called so, or stdout cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let query = options.name.as_str();
    let Some(found) = find(query) else {
        let near = nearest(query);
        let nearest = if near.is_empty() {
            String::new()
        } else {
            format!("the nearest: {}; ", near.join(", "))
        };
        return Err(Failure::BadInput(format!(
            "nothing is called `{query}`; {nearest}`tracker violations` lists all rules"
        ))
        .into());
    };
    let mut out = io::stdout().lock();
    match options.output {
        Format::Text => {
            let width = terminal::width().map_or(WIDTH, |width| width.min(WIDTH));
            write!(out, "{}", text(query, &found, width.into()))?;
        }
        Format::Json => {
            let (rules, outside) = views(&found);
            serde_json::to_writer_pretty(&mut out, &Document { v: 1, query, rules, outside })?;
            writeln!(out)?;
        }
        Format::Jsonl => {
            let (rules, outside) = views(&found);
            if outside.is_some() {
                let document = Document { v: 1, query, rules: Vec::new(), outside };
                serde_json::to_writer(&mut out, &document)?;
                writeln!(out)?;
            }
            for rule in rules {
                serde_json::to_writer(&mut out, &Line::new(rule))?;
                writeln!(out)?;
            }
        }
    }
    out.flush().context("writing to stdout")
}

fn views(found: &RuleMatch) -> (Vec<Explanation>, Option<OutsideView>) {
    match found {
        RuleMatch::Rule(rule) => (vec![Explanation::new(*rule, &[])], None),
        RuleMatch::Elsewhere(rules) => {
            (rules.iter().map(|(rule, names)| Explanation::new(*rule, names)).collect(), None)
        }
        RuleMatch::Outside(outside) => {
            (Vec::new(), Some(OutsideView { name: outside.name, why: outside.why }))
        }
    }
}

/// What is said of `query`, in lines of at most `width` columns.
#[must_use]
pub fn text(query: &str, found: &RuleMatch, width: usize) -> String {
    match found {
        RuleMatch::Rule(rule) => explanation(*rule, width),
        RuleMatch::Outside(outside) => {
            let heading = format!("{}: no rule", outside.name);
            format!("{heading}\n\n{}\n", textwrap::fill(outside.why, wrapped(width)))
        }
        RuleMatch::Elsewhere(rules) => elsewhere(query, rules, width),
    }
}

/// Another tool's name: the one rule in full, or all of them in short.
fn elsewhere(query: &str, rules: &[(Rule, Vec<Name>)], width: usize) -> String {
    let mut names: Vec<Name> = Vec::new();
    for name in rules.iter().flat_map(|(_, names)| names) {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    let names: Vec<_> = names
        .iter()
        .map(|Name(tool, name, id)| {
            let comma = if id.is_empty() { "" } else { ", " };
            format!("{} {name}{comma}{id}", tool.label())
        })
        .collect();
    let ours: Vec<_> = rules.iter().map(|(rule, _)| rule.name()).collect();
    let heading = format!("`{query}` ({}) is here: {}", names.join("; "), ours.join(", "));
    let mut text = textwrap::fill(&heading, wrapped(width));
    text.push_str("\n\n");
    if let [(rule, _)] = rules {
        text.push_str(&explanation(*rule, width));
        return text;
    }
    for (rule, _) in rules {
        paragraph(&mut text, rule.name(), &summary(*rule), 26, width);
    }
    text.push_str("\n`tracker explain NAME` says more of each.\n");
    text
}

/// A rule in full.
fn explanation(rule: Rule, width: usize) -> String {
    let entry = entry(rule);
    let severity = SeverityName::from(rule.severity()).name();
    let mut text = format!("{}: {severity}, {}\n", rule.name(), entry.phase.name());
    text.push_str(&textwrap::fill(&summary(rule), wrapped(width)));
    text.push_str("\n\n");
    for (label, said) in parts(rule) {
        paragraph(&mut text, label, &said, 9, width);
    }
    if !entry.names.is_empty() {
        text.push_str("\nElsewhere\n");
        for tool in Tool::ALL {
            let names: Vec<_> =
                entry.names.iter().filter(|name| name.0 == tool).map(spelt).collect();
            if !names.is_empty() {
                paragraph(&mut text, &format!("  {}", tool.label()), &names.join(", "), 22, width);
            }
        }
    }
    text
}

/// What there is to say of a rule, part by part, each with its label.
#[must_use]
pub fn parts(rule: Rule) -> [(&'static str, String); 7] {
    let entry = entry(rule);
    [
        ("What", entry.meaning.to_owned()),
        ("Causes", entry.causes.to_owned()),
        ("Next", entry.next.to_owned()),
        ("State", entry.state.to_owned()),
        ("Reports", reports(rule)),
        ("Drop", drop(rule)),
        ("Tests", entry.behaviours.join(", ")),
    ]
}

/// A name with its id.
fn spelt(Name(_, name, id): &Name) -> String {
    if id.is_empty() { (*name).to_owned() } else { format!("{name} ({id})") }
}

/// When breaches of `rule` are reported.
fn reports(rule: Rule) -> String {
    let when = if rule.severity() == Severity::Violation {
        "By default"
    } else {
        "Counted, and only where asked for"
    };
    // Not by a segment, so never twice on a flow.
    if matches!(rule, Rule::SynFlood | Rule::PortScan | Rule::HalfOpenTimeout) {
        return format!("{when}, by the agent's sweep.");
    }
    let nth = match rule.back_off() {
        2 => "1st, 2nd, 4th, 8th",
        _ => "1st, 10th, 100th",
    };
    format!("{when}: the {nth} and so on of a flow.")
}

/// Whether packets that break `rule` can be dropped.
fn drop(rule: Rule) -> String {
    match rule.kept_because() {
        None => format!("By `--drop {}`, or with others by `--drop invalid`.", rule.name()),
        Some(why) => format!("Never by `--drop`: {why}."),
    }
}

/// `label`, then `said` wrapped beside it.
fn paragraph(text: &mut String, label: &str, said: &str, indent: usize, width: usize) {
    let blank = " ".repeat(indent);
    let first = format!("{label:<indent$}");
    let options = wrapped(width).initial_indent(&first).subsequent_indent(&blank);
    let _ = writeln!(text, "{}", textwrap::fill(said, options));
}
