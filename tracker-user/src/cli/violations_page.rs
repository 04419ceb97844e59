//! The text of `docs/violations.md`, written from the same source as `tracker violations` and `tracker explain`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
};

use anyhow::{Context, Result};
use tracker_common::{
    violation::{Rule, Severity},
    vocabulary::{Name, OUTSIDE, Phase, Tool, entry},
};

use crate::{
    cli::{
        explain::parts,
        terminal::wrapped,
        violations::{SeverityName, select},
    },
    model::rule_lookup::summary,
};

/// Columns of running text.
const WIDTH: usize = 120;

const INTRODUCTION: &str = "\
<!-- Written by `cargo xtask docs` from tracker-common/src/vocabulary.rs. Do not edit. -->

# Violations

Each rule of the protocol that a segment can break has a name. It is the same in VIOLATION events, in
`tracker events --violation NAME`, in `tracker stats` and in the labels of metrics. `tracker violations` lists the
rules, `tracker explain NAME` prints what this page says of one, and takes the names of other tools too:

    tracker explain synack_bad_ack
    tracker explain stream.3whs_synack_with_wrong_ack     # Suricata's event; its sid, 2210007, does as well
    tracker explain bad_SYN_ack                           # Zeek's weird
    tracker explain 116:420                               # Snort's generator and signature
    tracker explain 'SEQ is over upper bound 4711 (over the window of the receiver)'

Both need neither root nor a running agent.

## Severities

";

const REPORTING: &str = "\
## What is reported, and how often

Counts are always exact: `tracker stats` has every breach of every rule, for each direction. Reports are fewer, because
one misbehaving connection can break a rule with every packet.

- **Which rules.** Those of severity `violation`, unless `tracker run --report` says otherwise;
  `tracker run --help` tells what it takes. `tracker events --violation NAME` shows one rule's of those that are
  reported, `tracker flows --violation NAME` the flows that have broken it, as far as that is remembered.
- **Back-off.** The first of its kind on a flow is reported at once, those after it at growing distances: the 2nd, 4th,
  8th and so on; of rules that one wrong window makes every packet break, the 10th, 100th, 1000th. Which of the two it
  is, each rule says below. A report has the expected and the actual number of its own segment.
- **Sources.** A token bucket for each source address: one that breaks rules on thousands of flows is reported up to a
  rate, then only counted.
- **Lost reports.** Where the ring buffer is full, reports are lost and counted, and a LOST event says how many.
- **Sweeps.** `syn_flood` and `port_scan` are found by the agent from its tables, at each sweep, and by a replay once a
  second of the capture; their limits can be set. `half_open_timeout` is found when the flow is removed.
- **Replays.** As by an agent, but sources are not limited.

## What is dropped

Nothing, unless `tracker run --drop` asks for it. Then arriving packets that break the rules it names are dropped before the
host sees them. `--drop invalid` means every rule that lawful traffic cannot break. Rules that lawful traffic can break are
refused, with the reason that each rule says below. docs/dropping.md has more.

## What is not judged

- On a flow that was picked up in its middle, windows (`seq_out_of_window`) and acknowledgments (`ack_unseen_data`) are
  not judged until both sides are known.
- Where only one direction is seen, nothing is reported that one-sidedness alone explains.
- What lies beyond a first IP fragment is out of sight, so acknowledgments of it are not judged.
- Checksums are verified by `tracker replay --verify-checksums` only. On the sending host the card computes them after
  the segment was seen.
- Sequence numbers that both ends agree on are believed, even if they were refused at first: packets can be missed here.

";

const ELSEWHERE: &str = "\
## Names elsewhere

Conditions are close, seldom the same: other tools keep other state, and some of their events cover several rules.
Suricata's events and sids are those of its `stream-events.rules` and `decoder-events.rules`; Snort's are generators
116 (decoder), 122 (port_scan) and 129 (stream_tcp) of Snort 3. nf_conntrack's texts are what Linux 6.18 logs with
`net.netfilter.nf_conntrack_log_invalid=6`: `index` is 0 for a SYN, 1 for a SYN,ACK, 2 for a FIN, 3 for an ACK, 4 for
an RST, `dir` 0 is the opener's, and numbers that vary are left out. Drop reasons are those of the tracepoint
`skb:kfree_skb`, counters those of `nstat`.

";

/// The page.
#[must_use]
pub fn page() -> String {
    let mut text = INTRODUCTION.to_owned();
    severities(&mut text);
    text.push_str(REPORTING);
    text.push_str("## The rules\n");
    for phase in Phase::ALL {
        overview(&mut text, phase);
    }
    text.push_str("\n## The rules in full\n");
    for rule in select(&[]) {
        in_full(&mut text, rule);
    }
    outside(&mut text);
    text.push_str(ELSEWHERE);
    for (heading, tools) in [
        ("Suricata", &[Tool::Suricata][..]),
        ("Zeek", &[Tool::ZeekWeird, Tool::ZeekState, Tool::ZeekHistory]),
        ("Snort", &[Tool::Snort]),
        ("nf_conntrack and the kernel", &[Tool::Conntrack, Tool::DropReason, Tool::Counter]),
        ("Others", &[Tool::Wireshark, Tool::Arkime, Tool::Ndpi, Tool::Ntopng, Tool::Alias]),
    ] {
        mapping(&mut text, heading, tools);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Prints the page.
///
/// # Errors
///
/// Where stdout cannot be written.
pub fn run() -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(page().as_bytes()).and_then(|()| out.flush()).context("writing to stdout")
}

fn severities(text: &mut String) {
    text.push_str("| Severity | Rules | What it means |\n|---|---|---|\n");
    for (severity, meaning) in [
        (Severity::Violation, "The protocol was broken. Reported."),
        (
            Severity::Minor,
            "The protocol was broken, or lost packets make it look so. Counted; reported where asked for.",
        ),
        (
            Severity::Information,
            "Nothing wrong in itself, worth knowing beside others. Counted; reported where asked for.",
        ),
    ] {
        let name = SeverityName::from(severity);
        let count = select(&[name]).len();
        let _ = writeln!(text, "| {} | {count} | {meaning} |", name.name());
    }
    text.push('\n');
}

const fn title(phase: Phase) -> &'static str {
    match phase {
        Phase::Header => "Header",
        Phase::Handshake => "Handshake",
        Phase::Established => "Open connection",
        Phase::Closing => "Closing and after",
    }
}

fn overview(text: &mut String, phase: Phase) {
    let _ =
        writeln!(text, "\n### {}\n\n| Name | Severity | What it is |\n|---|---|---|", title(phase));
    for rule in select(&[]).into_iter().filter(|rule| entry(*rule).phase == phase) {
        let severity = SeverityName::from(rule.severity()).name();
        let _ = writeln!(text, "| [`{0}`](#{0}) | {severity} | {1} |", rule.name(), summary(rule));
    }
}

fn in_full(text: &mut String, rule: Rule) {
    let entry = entry(rule);
    let severity = SeverityName::from(rule.severity()).name();
    let _ = writeln!(text, "\n### {}\n", rule.name());
    let heading = format!("{} Severity: {severity}.", summary(rule));
    let _ = writeln!(text, "{}\n", textwrap::fill(&heading, wrapped(WIDTH)));
    for (label, said) in parts(rule) {
        item(text, label, &said);
    }
    for tool in Tool::ALL {
        let names: Vec<_> = entry.names.iter().filter(|name| name.0 == tool).map(quoted).collect();
        if !names.is_empty() {
            item(text, tool.label(), &names.join(", "));
        }
    }
}

fn item(text: &mut String, label: &str, said: &str) {
    let line = format!("- **{label}**: {said}");
    let _ = writeln!(text, "{}", textwrap::fill(&line, wrapped(WIDTH).subsequent_indent("  ")));
}

fn quoted(Name(_, name, id): &Name) -> String {
    if id.is_empty() { format!("`{name}`") } else { format!("`{name}` ({id})") }
}

fn outside(text: &mut String) {
    text.push_str("\n## What is no rule\n\n| Name | Why |\n|---|---|\n");
    for outside in OUTSIDE {
        let names: Vec<_> = outside.names.iter().map(quoted).collect();
        let called =
            if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        let _ = writeln!(text, "| `{}`{called} | {} |", outside.name, outside.why);
    }
    text.push('\n');
}

/// Where a name stands in its table: by tool, by id (116:54 before 116:420), by name.
type Place = (usize, Vec<u32>, &'static str);

/// From the names of `tools` to ours.
fn mapping(text: &mut String, heading: &str, tools: &[Tool]) {
    let mut rows: BTreeMap<Place, (Name, Vec<&str>)> = BTreeMap::new();
    for rule in select(&[]) {
        for name in entry(rule).names {
            if let Some(place) = tools.iter().position(|tool| *tool == name.0) {
                let id = name.2.split(':').filter_map(|part| part.parse().ok()).collect();
                rows.entry((place, id, name.1)).or_insert((*name, Vec::new())).1.push(rule.name());
            }
        }
    }
    let with_ids = rows.values().any(|(name, _)| !name.2.is_empty());
    let with_tools = tools.len() > 1;
    let mut header = Vec::new();
    if with_ids {
        header.push("Id");
    }
    if with_tools {
        header.push("Where");
    }
    header.extend(["Name", "Here"]);
    let _ = writeln!(
        text,
        "### {heading}\n\n| {} |\n|{}",
        header.join(" | "),
        "---|".repeat(header.len())
    );
    for (Name(tool, name, id), rules) in rows.values() {
        let mut cells = Vec::new();
        if with_ids {
            cells.push((*id).to_owned());
        }
        if with_tools {
            cells.push(tool.label().to_owned());
        }
        cells.push(format!("`{name}`"));
        let links: Vec<_> = rules.iter().map(|rule| format!("[`{rule}`](#{rule})")).collect();
        cells.push(links.join(", "));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
}
