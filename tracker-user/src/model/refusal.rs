//! What the kernel says when it refuses a program: a few lines that a user can act on. The verifier's whole log, which can
//! take thousands of lines, is a debug message (`tracker -v`).

use std::{error::Error, fmt};

/// Lines of the verifier's log that a refusal shows. Its last ones say why.
const LINES: usize = 5;

/// Characters of such a line: the states of all registers can take a thousand.
const WIDTH: usize = 160;

/// The kernel refused to load a program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// What was to be loaded.
    pub program: String,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// The system call's error.
    pub cause: String,
    /// Its number, where a system call has failed.
    pub number: Option<i32>,
    /// The verifier's whole log. Empty where the kernel refused before verification.
    pub log: String,
}

impl Refusal {
    /// Which program and which kernel, and the last lines of the verifier's log.
    #[must_use]
    pub fn reason(&self) -> String {
        let Self { program, release, cause, .. } = self;
        let mut text = format!("Linux {release} refuses {program} ({cause})");
        let last = self.last_lines();
        if !last.is_empty() {
            text.push_str("; its verifier ends with");
        }
        for line in last {
            text.push_str("\n    ");
            text.push_str(&line);
        }
        text
    }

    /// What the user can do about a refusal by the verifier.
    #[must_use]
    pub fn advice() -> &'static str {
        if tracing::enabled!(tracing::Level::DEBUG) {
            "The verifier's whole log stands above. Report this to the developers of tracker, with the output of \
             `tracker -v check`"
        } else {
            "`-v` prints the verifier's whole log. Report this to the developers of tracker, with the output of `tracker -v \
             check`"
        }
    }

    /// The last lines of the log that are no statistics.
    fn last_lines(&self) -> Vec<String> {
        let told: Vec<_> = self.log.lines().filter(|line| is_told(line)).collect();
        let first = told.len().saturating_sub(LINES);
        told[first..].iter().map(|line| shortened(line.trim_end())).collect()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason())?;
        if self.log.is_empty() { Ok(()) } else { write!(f, "\n{}", Self::advice()) }
    }
}

impl Error for Refusal {}

/// Whether a line of the log says something of the program, and is no statistics.
fn is_told(line: &str) -> bool {
    let line = line.trim();
    let is_count = line.starts_with("processed ") && line.contains(" insns ");
    // An instruction that was begun: its number, and nothing behind the colon.
    let is_number = line.strip_suffix(':').is_some_and(|number| number.parse::<u32>().is_ok());
    !(line.is_empty()
        || is_count
        || is_number
        || line.starts_with("verification time ")
        || line.starts_with("stack depth "))
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs of kernels of Debian, which refused an older version of the programs.
    const BY_6_1: &str = include_str!("refusal/linux-6.1.log");
    const BY_6_12: &str = include_str!("refusal/linux-6.12.log");

    fn refusal(log: &str) -> Refusal {
        Refusal {
            program: "tracker_egress".to_owned(),
            release: "6.12.118+deb13-cloud-amd64".to_owned(),
            cause: "Invalid argument (os error 22)".to_owned(),
            number: Some(libc::EINVAL),
            log: log.to_owned(),
        }
    }

    fn said(log: &str) -> String {
        refusal(log).reason()
    }

    #[test]
    fn before_verification() {
        assert_eq!(
            said(BY_6_1),
            "Linux 6.12.118+deb13-cloud-amd64 refuses tracker_egress (Invalid argument (os error 22)); its verifier ends with\n    \
             back-edge from insn 1061 to 1062"
        );
    }

    #[test]
    fn during_verification() {
        let said = said(BY_6_12);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 1 + LINES, "{said}");
        assert_eq!(
            lines[LINES],
            "    math between pkt pointer and register with unbounded min value is not allowed"
        );
        // The source that it is about.
        assert!(lines[2].starts_with("    ; ") && lines[2].ends_with("@ frame.rs:182"), "{said}");
        assert!(!said.contains("stack depth") && !said.contains("processed"), "{said}");
    }

    #[test]
    fn without_a_log() {
        let said = said("");
        assert!(
            said.ends_with("refuses tracker_egress (Invalid argument (os error 22))"),
            "{said}"
        );
        // Statistics say nothing of the reason.
        assert_eq!(said, self::said("\nverification time 3 usec\nstack depth 0\n"));
    }

    #[test]
    fn advice_follows_what_the_verifier_decided() {
        let by_verifier = refusal(BY_6_12).to_string();
        assert!(
            by_verifier.contains("\n`-v` prints the verifier's whole log. Report this"),
            "{by_verifier}"
        );
        // Nothing is to be reported of what was no verifier's decision.
        assert_eq!(refusal("").to_string(), said(""));
    }

    #[test]
    fn long_lines_are_cut() {
        let long = "é".repeat(WIDTH + 1);
        assert_eq!(shortened(&long), format!("{}…", "é".repeat(WIDTH)));
        assert_eq!(shortened(&long[..WIDTH * 2]), "é".repeat(WIDTH));
    }
}
