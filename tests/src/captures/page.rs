//! The captures' section of `docs/conformance.md`.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use anyhow::{Context, Result};

use super::{
    claims::Source,
    classes::{CLASSES, Class, VIOLATIONS},
    corpus::Capture,
    explained::EXPLAINED,
};

const BEGIN: &str = "<!-- captures:begin -->\n";
const END: &str = "<!-- captures:end -->\n";

/// docs/conformance.md.
fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md"))
}

/// The document, taken apart: what comes before the section, the section, and what comes after.
fn parts() -> Result<[String; 3]> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (before, rest) =
        text.split_once(BEGIN).with_context(|| format!("no line {}", BEGIN.trim()))?;
    let (section, after) =
        rest.split_once(END).with_context(|| format!("no line {}", END.trim()))?;
    Ok([before, section, after].map(ToOwned::to_owned))
}

/// The section as it stands in the document.
///
/// # Errors
///
/// Where there is no such document, or no such section.
pub fn recorded() -> Result<String> {
    let [_, section, _] = parts()?;
    Ok(section)
}

/// Puts `section` into the document.
///
/// # Errors
///
/// As [`recorded`]; or where it cannot be written.
pub fn record(section: &str) -> Result<()> {
    let [before, _, after] = parts()?;
    Ok(fs::write(path(), [&before, BEGIN, section, END, &after].concat())?)
}

/// The section, after `compared` claims by source.
#[must_use]
pub fn section(captures: &[Capture], compared: &BTreeMap<Source, usize>) -> String {
    let mut text = String::from(HEAD);
    summary(&mut text, captures.len(), compared);
    violations(&mut text);
    differences(&mut text);
    classes(&mut text, captures);
    text
}

const HEAD: &str = "\
## Public captures

Written by `UPDATE_DOCS=1 cargo xtask test -- --test captures`; the test fails while this is not what it finds.

Captures from the test suites of Zeek, Suricata, Arkime and tcpdump, and of the Quantum Insert research, each replayed by
`tracker replay`. What those suites expect is compared fact by fact. For Zeek, that is each line of `conn.log` (both
ends, `conn_state`, `history`, bytes, packets, duration). For Arkime, it is each session (packets by direction, flags,
validated handshake, round trip, length). For the others, it is what their tests check, and a list of situations with the
numbers of the packets at which they occur. Rules have their names from [violations.md](violations.md).

How the words of others are read:

- Zeek's commands without `-C` are compared with `--verify-checksums`.
- Zeek's `duration` ends with the segment by which the second end closes (FIN or RST); ours with the last segment. Ours is
  cut there before they are compared, to the microsecond.
- Zeek writes `-` for bytes and duration of a connection that had a single packet; it counts as 0, as do the bytes of an
  end that was never seen.
- Not compared: Zeek's `service` and `missed_bytes`, and Arkime's `vlan`, which a record does not keep.
- Suricata's flow is `new` until both ends are ESTABLISHED, and `closed` when both are CLOSED or in TIME_WAIT.
- A situation that has no rule is met where both ends' states, or the way the flow begins, show it.

";

fn summary(text: &mut String, captures: usize, compared: &BTreeMap<Source, usize>) {
    let all: usize = compared.values().sum();
    let _ = writeln!(
        text,
        "{captures} captures, {all} facts, {} differences, every one of them explained below.\n",
        EXPLAINED.len()
    );
    text.push_str("| Who | Facts |\n|---|---|\n");
    for source in Source::ALL {
        let count = compared.get(&source).copied().unwrap_or_default();
        let _ = writeln!(text, "| {} | {count} |", source.title());
    }
}

fn violations(text: &mut String) {
    let quiet = CLASSES.iter().filter(|(_, class)| !class.may_violate()).count();
    let _ = writeln!(
        text,
        "\n### Violations\n\nNo violation is reported in the {quiet} captures of ordinary, one-sided, incomplete and \
         wrapped traffic. Those of the other {} follow. A `half_open_timeout`, which no packet shows, stands at the \
         connection's first packet:\n",
        CLASSES.len() - quiet
    );
    text.push_str("| Capture | Rule | Packets | What is wrong with them |\n|---|---|---|---|\n");
    for reported in VIOLATIONS {
        let packets: Vec<_> = reported.packets.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} |",
            reported.path,
            reported.rule.name(),
            packets.join(", "),
            reported.why
        );
    }
}

fn differences(text: &mut String) {
    text.push_str("\n### Differences\n");
    for class in Class::ALL {
        let of_class = |path: &str| CLASSES.iter().any(|(known, c)| *known == path && *c == class);
        let mut known = EXPLAINED.iter().filter(|known| of_class(known.path)).peekable();
        if known.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, "\n#### Differences in {} traffic\n", class.name());
        text.push_str(
            "| Capture | Subject | Field | They | We | Why |\n|---|---|---|---|---|---|\n",
        );
        for known in known {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                known.path,
                known.subject,
                known.field,
                cell(known.theirs),
                cell(known.ours),
                known.why
            );
        }
    }
}

fn cell(value: &str) -> &str {
    if value.is_empty() { "none" } else { value }
}

fn classes(text: &mut String, captures: &[Capture]) {
    text.push_str(
        "\n### Captures\n\n| Capture | Traffic | Packets | What it shows |\n|---|---|---|---|\n",
    );
    for class in Class::ALL {
        for (path, _) in CLASSES.iter().filter(|(_, c)| *c == class) {
            let Some(capture) = captures.iter().find(|capture| capture.path == *path) else {
                continue;
            };
            let shows = capture.shows.replace('|', "\\|");
            let _ = writeln!(text, "| {path} | {} | {} | {shows} |", class.name(), capture.packets);
        }
    }
}
