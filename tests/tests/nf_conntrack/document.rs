//! The section of docs/conformance.md that the sequences write.

use std::{fmt::Write, fs, path::PathBuf};

use anyhow::{Context, Result};
use tracker_tests::conntrack::Entry;

use crate::{
    observe::{Outcome, Seen},
    row::{Begin, NOTHING, Row},
};

const BEGIN: &str = "<!-- nf_conntrack: begin, written by `UPDATE_DOCS=1 cargo xtask test -- --test nf_conntrack` -->\n";
const END: &str = "<!-- nf_conntrack: end -->\n";

/// docs/conformance.md.
fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "docs", "conformance.md"].iter().collect()
}

/// The section as it stands in the document, and what is before and behind it.
fn parts(text: &str) -> Result<[&str; 3]> {
    let (before, rest) =
        text.split_once(BEGIN).with_context(|| format!("no line `{}`", BEGIN.trim()))?;
    let (section, after) =
        rest.split_once(END).with_context(|| format!("no line `{}`", END.trim()))?;
    Ok([before, section, after])
}

/// The section as it stands in the document.
pub(crate) fn recorded() -> Result<String> {
    let text = fs::read_to_string(path()).with_context(|| path().display().to_string())?;
    Ok(parts(&text)?[1].to_owned())
}

/// Puts `section` into the document.
pub(crate) fn record(section: &str) -> Result<()> {
    let text = fs::read_to_string(path()).with_context(|| path().display().to_string())?;
    let [before, _, after] = parts(&text)?;
    Ok(fs::write(path(), [before, BEGIN, section, END, after].concat())?)
}

/// The kernel that a section was written on, as in `6.18`.
pub(crate) fn kernel(section: &str) -> Option<&str> {
    section.lines().next()?.strip_prefix(HEADING)
}

const HEADING: &str = "## Beside nf_conntrack of Linux ";

/// A section without what nf_conntrack said.
pub(crate) fn without_theirs(section: &str) -> String {
    let mut kept = String::new();
    for line in section.lines().filter(|line| line.starts_with("| ") || line.starts_with("#### ")) {
        let cells: Vec<_> = line.split(" | ").collect();
        let hidden: &[usize] = if cells.len() == SUMMARY_CELLS { &[3, 5] } else { &[2] };
        for (n, cell) in cells.iter().enumerate().filter(|(n, _)| !hidden.contains(n)) {
            let _ = write!(kept, "{n} {cell} ");
        }
        kept.push('\n');
    }
    kept
}

const SUMMARY_CELLS: usize = 6;

/// The section.
pub(crate) fn section(kernel: &str, rows: &[(Row, Outcome)]) -> String {
    let mut text = format!("{HEADING}{kernel}\n");
    let count = |is: fn(&Differences) -> bool| {
        rows.iter().filter(|(row, outcome)| is(&differences(row, outcome))).count()
    };
    let faults = count(|found| !found.faults.is_empty());
    let unseen = count(|found| found.unseen.is_some());
    let _ = write!(
        text,
        "\n{} sequences of crafted segments, each sent through one router that runs both, with the kernel's default \
         settings.\nIn {faults} of them nf_conntrack calls a lawful segment INVALID, or ends in a state that is not the \
         RFC's;\nin {unseen} a breach is not INVALID.\n\n{KEY}\n{SUMMARY}",
        rows.len()
    );
    for (row, outcome) in rows {
        let last = row.states().last().copied().unwrap_or(row.begin.states());
        let theirs = outcome.steps.last().and_then(|seen| seen.theirs.as_ref());
        let ours = outcome.steps.last().map_or(outcome.ours_at_begin.as_str(), |seen| &seen.ours);
        let rules: Vec<_> = row.steps.iter().flat_map(|step| step.rules.iter().copied()).collect();
        let counted: Vec<_> = row
            .steps
            .iter()
            .zip(&outcome.steps)
            .flat_map(|(step, seen)| seen.relevant(&step.rules))
            .collect();
        let invalid = outcome.steps.iter().filter(|seen| seen.invalid).count();
        let invalid = if invalid > 0 {
            format!(", INVALID {invalid} of {}", row.steps.len())
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {}{invalid} | {} | {} |",
            row.id,
            row.title,
            answer(last, &rules),
            entry(theirs),
            answer(ours, &counted),
            differences(row, outcome).text(),
        );
    }
    text.push_str("\n### Segment by segment\n");
    for (row, outcome) in rows {
        let _ = write!(text, "\n#### {} {}\n\n{}.\n\n{STEPS}", row.id, row.title, row.citation);
        if row.begin != Begin::Nothing {
            let before = entry(outcome.begin.as_ref());
            let _ = writeln!(
                text,
                "| *{}* | {} | {before} | {} |",
                row.begin.name(),
                row.begin.states(),
                outcome.ours_at_begin
            );
        }
        for ((step, states), seen) in row.steps.iter().zip(row.states()).zip(&outcome.steps) {
            let (expected, counted) =
                (answer(states, &step.rules), answer(&seen.ours, &seen.relevant(&step.rules)));
            let _ = writeln!(
                text,
                "| {} | {expected} | {} | {counted} |",
                step.text(),
                theirs_after(seen)
            );
        }
    }
    text.push('\n');
    text
}

const KEY: &str = "\
States are C's and S's, the client's first. A rule's name stands where a segment is to be counted under it; those that
are violations ([violations.md](violations.md)) are reported as well. The column of nf_conntrack has its state, the
seconds that it gives the entry, and whether it called the segment INVALID, as `ct state invalid` in the forward path
sees it. Where two connections share a pair of addresses and ports, the newer one is shown if the older is over. `open`
is a handshake after which C's next number is 1001 and S's is 5001; a close after it takes three segments. Windows are
65,535 unless another is given. Bytes of data are in brackets.

The last column is computed. A *breach* is a segment that its receiver refuses, and that breaks a rule; a *lawful* one is
taken. Rules that are stricter than the RFC (data in a SYN, port 0, LAND, ...) and segments that only others show to be
wrong are neither. Timeouts (H12, T7, T8) are not compared, nor what a router does not forward (multicast).
";

const SUMMARY: &str = "\
| Id | Sequence | RFC | nf_conntrack | tracker | Where nf_conntrack differs |
|---|---|---|---|---|---|
";

const STEPS: &str = "\
| Segment | RFC | nf_conntrack | tracker |
|---|---|---|---|
";

fn answer(states: &str, rules: &[&str]) -> String {
    let mut text = states.to_owned();
    for (n, rule) in rules.iter().enumerate() {
        if !rules[..n].contains(rule) {
            let _ = write!(text, ", `{rule}`");
        }
    }
    text
}

fn entry(entry: Option<&Entry>) -> String {
    entry.map_or_else(|| "no entry".to_owned(), Entry::to_string)
}

fn theirs_after(seen: &Seen) -> String {
    let mark = match seen {
        Seen { forwarded: false, .. } => ", dropped",
        Seen { invalid: true, .. } => ", INVALID",
        _ => "",
    };
    format!("{}{mark}", entry(seen.theirs.as_ref()))
}

/// Where nf_conntrack and the RFC differ, in words.
#[derive(Debug, Default)]
struct Differences {
    /// Lawful segments that are INVALID, and an entry that is not what the RFC's states are.
    faults: Vec<String>,
    /// Breaches that are not INVALID.
    unseen: Option<String>,
}

impl Differences {
    fn text(&self) -> String {
        self.faults.iter().chain(&self.unseen).cloned().collect::<Vec<_>>().join("; ")
    }
}

fn differences(row: &Row, outcome: &Outcome) -> Differences {
    let mut found = Differences::default();
    if !row.steps.iter().any(|step| step.is_lawful() || step.is_breach()) {
        return found;
    }
    let refused = |seen: &Seen| seen.invalid || !seen.forwarded;
    let steps = || row.steps.iter().zip(&outcome.steps);
    let lawful = steps().filter(|(step, seen)| step.is_lawful() && refused(seen)).count();
    if lawful > 0 {
        found.faults.push(format!("{lawful} lawful INVALID"));
    }
    let states = row.states().last().copied().unwrap_or(row.begin.states());
    let theirs = outcome.steps.last().and_then(|seen| seen.theirs.as_ref());
    if !words(states).contains(&theirs.map_or(NO_ENTRY, |entry| &entry.state)) {
        let word = theirs.map_or("no entry", |entry| &entry.state);
        found.faults.push(format!("ends as {word}"));
    } else if let Some(cut) =
        theirs.filter(|entry| entry.state == "ESTABLISHED" && entry.seconds < UNACKNOWLEDGED)
    {
        found.faults.push(format!("forgets it in {} s", cut.seconds));
    }
    let breaches = steps().filter(|(step, _)| step.is_breach()).count();
    let unseen = steps().filter(|(step, seen)| step.is_breach() && !refused(seen)).count();
    if unseen > 0 {
        let of = if breaches == 1 {
            "breach".to_owned()
        } else {
            format!("{unseen} of {breaches} breaches")
        };
        found.unseen = Some(format!("{of} not INVALID"));
    }
    found
}

const NO_ENTRY: &str = "";

/// What nf_conntrack gives an open connection with data on its way, in seconds.
const UNACKNOWLEDGED: u64 = 300;

/// The words of nf_conntrack, which has one for both ends, that are true of these states.
fn words(states: &str) -> &'static [&'static str] {
    let has = |state: &str| states.split('/').any(|end| end == state);
    match states {
        NOTHING | "CLOSED/CLOSED" => &[NO_ENTRY, "CLOSE"],
        "ESTABLISHED/ESTABLISHED" => &["ESTABLISHED"],
        "SYN_SENT/SYN_SENT" => &["SYN_SENT2"],
        // It has no word for a simultaneous close.
        "FIN_WAIT_1/FIN_WAIT_1" => &["FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"],
        _ if has("CLOSING") => &["FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"],
        _ if has("TIME_WAIT") => &["TIME_WAIT"],
        _ if has("LAST_ACK") => &["LAST_ACK"],
        _ if has("CLOSE_WAIT") => &["CLOSE_WAIT"],
        _ if has("FIN_WAIT_1") => &["FIN_WAIT"],
        _ if has("SYN_RECEIVED") => &["SYN_RECV"],
        _ => &["SYN_SENT"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_another_kernel_all_but_its_answers_is_compared() {
        let section = |theirs: &str, ours: &str, differs: &str| {
            format!(
                "{HEADING}6.18\n{SUMMARY}| H2 | three | ESTABLISHED | {theirs} | {ours} | {differs} |\n\
                 #### H2 three\n{STEPS}| C SYN 1 | ESTABLISHED | {theirs} | {ours} |\n"
            )
        };
        let recorded = without_theirs(&section("SYN_RECV 60", "ESTABLISHED", "ends as SYN_RECV"));
        assert_eq!(recorded, without_theirs(&section("ESTABLISHED 300", "ESTABLISHED", "")));
        assert_ne!(recorded, without_theirs(&section("SYN_RECV 60", "CLOSED", "ends as SYN_RECV")));
        assert_eq!(kernel(&section("", "", "")), Some("6.18"));
    }
}
