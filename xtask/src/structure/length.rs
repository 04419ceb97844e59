//! Files are short, or say why they are not.

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Source;

/// Lines that a file may have without a reason.
const MOST: usize = 500;

/// What was found.
#[derive(Debug)]
pub(super) struct Report {
    /// Each file that is long, with its lines and its reason.
    pub(super) long: Vec<String>,
    /// A line each.
    pub(super) problems: Vec<String>,
}

/// Compares files with a list of those that may be long: TOML, a reason a path.
///
/// # Errors
///
/// Where that is no such list.
pub(super) fn check(sources: &[Source], list: &str) -> Result<Report> {
    let mut listed: Table = list.parse().context("the list of long files")?;
    let (mut long, mut problems) = (Vec::new(), Vec::new());
    for Source { path, text } in sources {
        let lines = text.lines().count();
        let reason = listed.remove(path);
        match (lines > MOST, reason) {
            (true, Some(Value::String(reason))) if !reason.trim().is_empty() => {
                long.push(format!("{path}: {lines} lines: {reason}"));
            }
            (true, Some(_)) => problems.push(format!("{path}: the list says no reason for its length")),
            (true, None) => problems.push(format!(
                "{path} has {lines} lines, and {MOST} need no reason: cut it by concern, or list it with a reason"
            )),
            (false, Some(_)) => problems.push(format!(
                "{path} has {lines} lines, which need no reason: remove it from the list of long files"
            )),
            (false, None) => {}
        }
    }
    problems.extend(listed.keys().map(|path| format!("{path} is listed as long, and not there")));
    Ok(Report { long, problems })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: usize, list: &str) -> Report {
        let source = Source { path: "a/b.rs".to_owned(), text: "x\n".repeat(lines) };
        check(&[source], list).expect("a list")
    }

    #[test]
    fn long_files_are_listed_and_others_are_not() {
        let listed = "\"a/b.rs\" = \"a table\"";
        assert_eq!(report(MOST, "").problems, [""; 0]);
        let long = report(MOST + 1, listed);
        assert_eq!((long.problems.len(), &*long.long[0]), (0, "a/b.rs: 501 lines: a table"));
        for (lines, list, said) in [
            (MOST + 1, "", "has 501 lines"),
            (MOST + 1, "\"a/b.rs\" = \" \"", "no reason"),
            (MOST + 1, "\"a/b.rs\" = 1", "no reason"),
            (MOST, listed, "remove it from the list"),
            (1, "\"a/c.rs\" = \"a table\"", "a/c.rs is listed as long, and not there"),
        ] {
            let report = report(lines, list);
            assert!(report.problems.len() == 1 && report.problems[0].contains(said), "{report:?}");
            assert!(report.long.is_empty());
        }
        assert!(check(&[], "a/b.rs").is_err());
    }
}
