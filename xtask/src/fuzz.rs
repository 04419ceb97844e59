//! `cargo xtask fuzz`: the targets of `fuzz/`, with libFuzzer, by the stable compiler.

mod expected;
mod target;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::target::{Covered, Fuzzed, Target};
use crate::{host, plan::Purpose, setup::setup};

/// The package of the targets.
const PACKAGE: &str = "fuzz";

/// What to fuzz, and for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Seconds in all, shared by the targets, and names of targets [default: 60, and every target]
    #[arg(value_name = "SECONDS|TARGET")]
    args: Vec<String>,
    /// Fuzz nothing; write what each corpus reaches into fuzz/expected, which later runs are compared with
    #[arg(long)]
    write: bool,
    /// Draw inputs from this number
    #[arg(long)]
    seed: Option<u32>,
    /// Repeat what continuous integration does: from the committed inputs alone, so many new ones for each target as
    /// fuzz/runs.toml says; one build draws the same each time
    #[arg(long, conflicts_with_all = ["write", "seed"])]
    repeat: bool,
}

/// How long to fuzz.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Until {
    /// So many seconds for each target, with inputs drawn from a number, or from another one each time.
    Seconds(u64, Option<u32>),
    /// So many inputs, which are the same each time.
    Runs(u64),
}

impl Options {
    /// What continuous integration does: one build draws the same inputs each time, so that a failure is no chance of the clock.
    pub(crate) fn for_tests() -> Self {
        Self { args: Vec::new(), write: false, seed: None, repeat: true }
    }

    /// Seconds, and targets of these.
    fn choice(&self, targets: Vec<Target>) -> Result<(u64, Vec<Target>)> {
        let (mut seconds, mut names) = (60, Vec::new());
        for arg in &self.args {
            match arg.parse() {
                Ok(number) => seconds = number,
                Err(_) => names.push(arg.as_str()),
            }
        }
        for name in &names {
            let known = || targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>();
            ensure!(
                targets.iter().any(|target| target.name == *name),
                "there is no target {name}; there are {}",
                known().join(", ")
            );
        }
        let is_chosen = |target: &Target| names.is_empty() || names.contains(&target.name.as_str());
        Ok((seconds, targets.into_iter().filter(is_chosen).collect()))
    }
}

/// Builds the targets, runs each over its corpus, compares what that reaches, and fuzzes.
///
/// # Errors
///
/// Where a target crashes, or its corpus no longer reaches what is expected of it; all of them are said.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    setup(Purpose::Fuzz)?;
    let root = host::workspace().join(PACKAGE);
    let work = host::target_dir()?.join("fuzz");
    let (seconds, targets) = options.choice(targets(&root, &work)?)?;
    build(&root, &targets)?;
    let mut problems = Vec::new();
    for target in &targets {
        let covered = target.cover().with_context(|| format!("the corpus of {}", target.name))?;
        let expected = root.join("expected").join(&target.name);
        if options.write {
            fs::write(&expected, expected::text(&covered))
                .with_context(|| expected.display().to_string())?;
            println!("{}: {} edges, {} names", target.name, covered.edges, covered.names.len());
        } else {
            let text = fs::read_to_string(&expected)
                .with_context(|| format!("{}: `cargo xtask fuzz --write`", expected.display()))?;
            problems.extend(expected::problems(&target.name, &text, &covered)?);
        }
    }
    if !options.write {
        let at_once = thread::available_parallelism()?.get();
        let share = Until::Seconds(share(seconds, targets.len(), at_once), options.seed);
        let runs = if options.repeat { runs(&root)? } else { BTreeMap::new() };
        let until = |target: &Target| match runs.get(&target.name) {
            _ if !options.repeat => Ok(share),
            Some(runs) => Ok(Until::Runs(*runs)),
            None => bail!("fuzz/runs.toml has no number for {}", target.name),
        };
        let targets = targets
            .iter()
            .map(|target| Ok((target, until(target)?)))
            .collect::<Result<Vec<_>>>()?;
        problems.extend(run(&targets, at_once)?);
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// Every target of the package, in the order of names.
fn targets(root: &Path, work: &Path) -> Result<Vec<Target>> {
    let programs = host::target_dir()?.join("release");
    let mut targets = Vec::new();
    for entry in fs::read_dir(root.join("fuzz_targets"))? {
        let path = entry?.path();
        let name = path.file_stem().context("a target's name")?.to_string_lossy().into_owned();
        targets.push(Target::new(name, root, work, &programs));
    }
    targets.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(targets)
}

/// Compiles the targets. Their dependencies are those of the tests, with the same features, so that they are compiled once.
fn build(root: &Path, targets: &[Target]) -> Result<()> {
    let mut command = host::cargo();
    command
        .args(["build", "--release"])
        .args(host::PACKAGES)
        .args(targets.iter().flat_map(|target| ["--bin", &target.name]))
        .env("RUSTC_WORKSPACE_WRAPPER", root.join("rustc.sh"))
        // The kernel programs are the same as those of the tests.
        .env("TRACKER_BPF_TARGET_DIR", host::target_dir()?.join("release/bpf"));
    host::run(&mut command, "building the fuzz targets")
}

/// How many inputs each target is given where a run is to be the same each time.
fn runs(root: &Path) -> Result<BTreeMap<String, u64>> {
    let path = root.join("runs.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

/// Fuzzes these targets, so many at once, and prints a row each. Returns what they found.
fn run(targets: &[(&Target, Until)], at_once: usize) -> Result<Vec<String>> {
    println!(
        "{} targets, {at_once} at once\n\n| Target | Runs | Runs/s | Edges | Features | New edges | MB |\n\
         |---|--:|--:|--:|--:|--:|--:|",
        targets.len()
    );
    let queue = Mutex::new(targets.iter());
    let results = thread::scope(|scope| {
        let work = || {
            let mut results = Vec::new();
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((target, until)) = next else { return results };
                let result = target.fuzz(*until);
                if let Ok(fuzzed) = &result {
                    println!("{fuzzed}");
                }
                results.push(result);
            }
        };
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    });
    let fuzzed = results.into_iter().collect::<Result<Vec<Fuzzed>>>()?;
    println!("\n{} runs in all", fuzzed.iter().map(|fuzzed| fuzzed.runs).sum::<u64>());
    Ok(fuzzed.into_iter().filter_map(|fuzzed| fuzzed.crash).collect())
}

/// Seconds for each of so many targets, where all together have `seconds`.
fn share(seconds: u64, targets: usize, at_once: usize) -> u64 {
    let rounds = targets.div_ceil(at_once).max(1);
    (seconds / rounds as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        let path = Path::new("/work");
        Target::new(name.to_owned(), path, path, path)
    }

    #[test]
    fn seconds_and_targets_in_any_order() {
        let choice = |args: &[&str]| {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            let options = Options { args, write: false, seed: None, repeat: false };
            let (seconds, chosen) = options.choice(vec![target("a"), target("b")])?;
            Ok::<_, anyhow::Error>((
                seconds,
                chosen.into_iter().map(|target| target.name).collect::<Vec<_>>().join(" "),
            ))
        };
        assert_eq!(choice(&[]).expect("a choice"), (60, "a b".to_owned()));
        assert_eq!(choice(&["b", "600"]).expect("a choice"), (600, "b".to_owned()));
        let error = choice(&["c"]).expect_err("no such target");
        assert!(error.to_string().contains("there are a, b"), "{error}");
    }

    #[test]
    fn everybody_has_a_share() {
        assert_eq!(
            [(60, 10, 2), (60, 1, 2), (60, 3, 2), (1, 10, 1)].map(|(s, n, at)| share(s, n, at)),
            [12, 60, 30, 1]
        );
    }
}
