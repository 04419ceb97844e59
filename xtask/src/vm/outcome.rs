//! What the tests in a machine showed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use super::{
    absence::Absences,
    kernel::{Kernel, Version},
    suite::Selection,
};

/// How a test ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// Well.
    Passed,
    /// It failed.
    Failed,
}

/// What one kernel showed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) kernel: Kernel,
    /// Tests as `program::test`.
    pub(crate) endings: BTreeMap<String, Ending>,
    /// Those that failed as they must, with the reason.
    pub(crate) absent: BTreeMap<String, String>,
    /// What is wrong, a line each.
    pub(crate) wrong: Vec<String>,
    /// Other lines that programs printed.
    pub(crate) facts: Vec<String>,
    duration: Duration,
}

impl Outcome {
    /// Reads what a machine printed.
    pub(crate) fn read(
        kernel: &Kernel,
        text: &str,
        selection: &Selection,
        absences: &Absences,
        duration: Duration,
    ) -> Self {
        let mut outcome = Self::of_text(&kernel.version, text, absences);
        for program in selection.programs_on(&kernel.name) {
            if !outcome.finished.contains(&program.name) {
                outcome.wrong.push(format!("{} did not run to its end", program.name));
            }
        }
        Self {
            kernel: kernel.clone(),
            endings: outcome.endings,
            absent: outcome.absent,
            wrong: outcome.wrong,
            facts: outcome.facts,
            duration,
        }
    }

    /// Whether everything ended as it must.
    pub(crate) fn is_right(&self) -> bool {
        self.wrong.is_empty()
    }

    /// How many tests passed.
    pub(crate) fn passed(&self) -> usize {
        self.endings.values().filter(|ending| **ending == Ending::Passed).count()
    }

    /// What a program printed after `name`.
    pub(crate) fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find_map(|line| line.strip_prefix(name))
    }

    /// The kernel programs, and how many instructions the verifier has followed in each.
    pub(crate) fn verified(&self) -> impl Iterator<Item = (&str, &str)> {
        self.facts.iter().filter_map(|line| {
            let (program, count) = line.split_once(" of ")?.0.rsplit_once(' ')?;
            program.contains(": tracker_").then_some((program, count))
        })
    }

    fn of_text(version: &Version, text: &str, absences: &Absences) -> Read {
        let mut read = Read::default();
        let mut program = String::new();
        let (mut announced, mut ended) = (0, 0);
        // A test whose own lines come before its ending.
        let mut open = None;
        for line in text.lines().map(str::trim_end) {
            if let Some(name) = line.strip_prefix("@@ begin ") {
                (program, announced, ended) = (name.to_owned(), 0, 0);
            } else if let Some(rest) = line.strip_prefix("@@ end ") {
                if ended < announced {
                    read.wrong.push(format!("{rest}: {ended} of {announced} tests ended"));
                }
                read.finished.insert(program.clone());
            } else if let Some(module) = line.strip_prefix("@@ module ") {
                read.wrong.push(format!("module {module} cannot be loaded"));
            } else if let Some(count) = line.strip_prefix("running ") {
                announced = count.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            } else if let Some((test, ending)) = ending(line)
                .or_else(|| Some((open.take_if(|_| is_ending(line))?, ending_of(line)?)))
            {
                open = None;
                ended += 1;
                let test = format!("{program}::{test}");
                match (ending, absences.reason(&test, version)) {
                    (Ending::Failed, None) => read.wrong.push(format!("{test} failed")),
                    (Ending::Passed, Some(_)) => {
                        read.wrong.push(format!("{test} passed: it is no absence any more"));
                    }
                    (Ending::Failed, Some(reason)) => {
                        read.absent.insert(test.clone(), reason.to_owned());
                    }
                    (Ending::Passed, None) => {}
                }
                read.endings.insert(test, ending);
            } else if program == "verifier" {
                if let Some((test, _)) = begun(line) {
                    open = Some(test);
                }
                // The first line of a test's follows its name.
                read.facts.push(line.rsplit(" ... ").next().unwrap_or(line).to_owned());
            }
        }
        read
    }
}

/// What a text says.
#[derive(Debug, Default)]
struct Read {
    endings: BTreeMap<String, Ending>,
    absent: BTreeMap<String, String>,
    wrong: Vec<String>,
    facts: Vec<String>,
    finished: BTreeSet<String>,
}

/// `test NAME ... ok`; what a test prints may stand in between.
fn ending(line: &str) -> Option<(&str, Ending)> {
    let (test, rest) = begun(line)?;
    Some((test, ending_of(rest)?))
}

fn begun(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ")
}

fn ending_of(text: &str) -> Option<Ending> {
    if text.ends_with("ok") {
        Some(Ending::Passed)
    } else {
        text.ends_with("FAILED").then_some(Ending::Failed)
    }
}

fn is_ending(line: &str) -> bool {
    matches!(line, "ok" | "FAILED")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Linux {}: {} passed, {} absent as expected, {} wrong, {} s",
            self.kernel.release,
            self.passed(),
            self.absent.len(),
            self.wrong.len(),
            self.duration.as_secs()
        )?;
        for wrong in &self.wrong {
            write!(f, "\n    {wrong}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Absences, Ending, Outcome, Version};

    const TEXT: &str = "@@ release 6.1.0\n@@ begin closing\nrunning 3 tests\ntest t1 ... ok\ntest t2 ... FAILED\n\
                        test t3 ... ok\n@@ end closing 101\n@@ begin flags\nrunning 2 tests\ntest f1 ... ok\n\
                        @@ end flags 139\n";

    #[test]
    fn a_test_may_print_before_it_ends() {
        let text = "@@ begin verifier\nrunning 1 test\ntest t ... Ethernet: tracker_egress 5 of 9\n\
                    Ethernet: tracker_walk 6 of 9\nok\n@@ end verifier 0\n";
        let version = Version::parse("6.1.0").expect("valid");
        let read = Outcome::of_text(&version, text, &Absences::default());
        assert_eq!(read.endings["verifier::t"], Ending::Passed);
        assert_eq!(
            read.facts,
            ["Ethernet: tracker_egress 5 of 9", "Ethernet: tracker_walk 6 of 9"]
        );
        assert!(read.wrong.is_empty(), "{:?}", read.wrong);
    }

    #[test]
    fn what_fails_is_absent_or_wrong() {
        let version = Version::parse("6.1.0").expect("valid");
        let read = Outcome::of_text(&version, TEXT, &Absences::default());
        assert_eq!(read.endings["closing::t1"], Ending::Passed);
        assert_eq!(read.wrong, ["closing::t2 failed", "flags 139: 1 of 2 tests ended"]);
        let list = "[[absent]]\ntests = [\"closing::t2\", \"closing::t3\"]\nreason = \"none\"";
        let absences: Absences = toml::from_str(list).expect("valid");
        let read = Outcome::of_text(&version, TEXT, &absences);
        assert_eq!(read.absent["closing::t2"], "none");
        assert_eq!(
            read.wrong,
            ["closing::t3 passed: it is no absence any more", "flags 139: 1 of 2 tests ended"]
        );
    }
}
