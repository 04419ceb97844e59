//! What a corpus must reach: names that the target gives, and a number of edges.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::Covered;

/// Percent of the edges that were written down which must be reached. Compilers differ in how many they make of the same code.
const LEAST_PERCENT: u64 = 80;

/// The text that says so.
pub(super) fn text(covered: &Covered) -> String {
    let mut text = format!(
        "# What this corpus reaches; `cargo xtask fuzz --write` writes it.\nedges {}\n",
        covered.edges
    );
    for name in &covered.names {
        text.push_str(name);
        text.push('\n');
    }
    text
}

/// Compares what a target's corpus reaches with such a text. More is right, too.
///
/// # Errors
///
/// Where it is no such text.
pub(super) fn problems(target: &str, text: &str, covered: &Covered) -> Result<Vec<String>> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let edges = lines.next().and_then(|line| line.strip_prefix("edges "));
    let edges: u64 = edges.and_then(|edges| edges.parse().ok()).context("a number of edges")?;
    let mut problems = Vec::new();
    let missing: BTreeSet<_> = lines.filter(|line| !covered.names.contains(*line)).collect();
    if !missing.is_empty() {
        let missing = Vec::from_iter(missing).join(", ");
        problems.push(format!("the corpus of {target} no longer reaches: {missing}"));
    }
    if covered.edges * 100 < edges * LEAST_PERCENT {
        problems.push(format!(
            "the corpus of {target} reaches {} edges, and {edges} were written down",
            covered.edges
        ));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_expected_is_a_problem_and_more_is_none() {
        let covered = |edges, names: &[&str]| Covered {
            edges,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let expected = text(&covered(100, &["a", "b"]));
        for (covered, said) in [
            (covered(100, &["a", "b"]), ""),
            (covered(80, &["a", "b", "c"]), ""),
            (
                covered(79, &["a", "b"]),
                "the corpus of t reaches 79 edges, and 100 were written down",
            ),
            (covered(100, &["a"]), "the corpus of t no longer reaches: b"),
        ] {
            assert_eq!(problems("t", &expected, &covered).expect("a list").join("\n"), said);
        }
        assert!(problems("t", "a\n", &covered(1, &[])).is_err());
    }
}
