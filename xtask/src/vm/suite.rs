//! Which test programs run in a virtual machine, and how they are built.

use std::{fs, path::PathBuf, process::Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{cross::Target, host};

/// The committed list: `tests/vm/suite.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    program: Vec<Program>,
}

/// A program of tests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// The name of its file in `tests/tests`.
    pub(crate) name: String,
    /// The tests that continuous integration runs; all where there is no list.
    #[serde(default)]
    short: Option<Vec<String>>,
    /// The tests that run on ARM64; none where there is no list.
    #[serde(default)]
    arm64: Option<Vec<String>>,
    /// It runs its tests one after the other.
    #[serde(default)]
    serial: bool,
    /// It runs on these kernels only, by name.
    #[serde(default)]
    only: Option<Vec<String>>,
}

impl Program {
    /// The tests of it that are asked for; all where there is no list.
    fn tests(&self, extent: Extent) -> Option<&[String]> {
        match extent {
            Extent::Whole => None,
            Extent::Short => self.short.as_deref(),
            Extent::Arm64 => self.arm64.as_deref(),
        }
    }
}

/// How much of the list is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// What continuous integration runs.
    Short,
    /// What runs on ARM64, where everything is emulated.
    Arm64,
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Selection {
    /// The programs.
    pub(crate) programs: Vec<Program>,
    filter: Option<String>,
    extent: Extent,
    /// How long a machine may take.
    pub(crate) minutes: u64,
}

/// A program that was built.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl Selection {
    /// Reads the list, and takes what is asked for.
    ///
    /// # Errors
    ///
    /// Where the list is not valid, or names no such program.
    pub(crate) fn load(extent: Extent, names: &[String], filter: Option<&str>) -> Result<Self> {
        let path = host::workspace().join("tests/vm/suite.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let List { mut program } =
            toml::from_str(&text).with_context(|| path.display().to_string())?;
        for name in names {
            ensure!(
                program.iter().any(|program| program.name == *name),
                "{} names no program `{name}`",
                path.display()
            );
        }
        program.retain(|program| {
            (names.is_empty() || names.contains(&program.name))
                && match extent {
                    Extent::Whole => true,
                    Extent::Short => program.short.as_ref().is_none_or(|tests| !tests.is_empty()),
                    // One that is asked for by its name is run.
                    Extent::Arm64 => program.arm64.is_some() || !names.is_empty(),
                }
        });
        Ok(Self {
            programs: program,
            filter: filter.map(str::to_owned),
            extent,
            minutes: if extent == Extent::Whole { 180 } else { 30 },
        })
    }

    /// The lines of shell that run the programs, one after the other.
    pub(crate) fn script(&self) -> String {
        let mut script = String::new();
        if matches!(self.extent, Extent::Short) {
            // For each kill the programs are loaded anew, which takes an emulated kernel half a minute.
            script.push_str("export TRACKER_RESTART_ROUNDS=2\n");
        }
        for program in &self.programs {
            let name = &program.name;
            let threads = if program.serial { 1 } else { 2 };
            let which = match (&self.filter, program.tests(self.extent)) {
                (Some(filter), _) => format!(" {filter}"),
                (None, Some(tests)) => format!(" --exact {}", tests.join(" ")),
                (None, None) => String::new(),
            };
            let print = if name == "verifier" { " --nocapture" } else { "" };
            let run = format!(
                "echo '@@ begin {name}'\n/suite/{name} --test-threads={threads}{print}{which} 2>&1\necho \"@@ end {name} $?\"\n"
            );
            match &program.only {
                None => script.push_str(&run),
                Some(kernels) => {
                    let condition = kernels.join("|");
                    script.push_str(&format!("case \"$KERNEL\" in {condition})\n{run};;\nesac\n"));
                }
            }
        }
        script
    }

    /// The programs that run on a kernel of that name.
    pub(crate) fn programs_on(&self, kernel: &str) -> impl Iterator<Item = &Program> {
        let kernel = kernel.to_owned();
        self.programs.iter().filter(move |program| {
            program.only.as_ref().is_none_or(|kernels| kernels.contains(&kernel))
        })
    }
}

/// Builds the command and the programs of tests, as `cargo xtask test` does.
///
/// # Errors
///
/// Where they do not build.
pub(crate) fn build(selection: &Selection, target: Target) -> Result<Vec<Built>> {
    let (mut command, directory) = target.cargo("test", &[])?;
    let output = command
        .args(["--release", "--no-run", "--message-format=json-render-diagnostics"])
        .args(host::PACKAGES)
        .args(host::WITHOUT_FUZZING)
        .args(selection.programs.iter().flat_map(|program| ["--test", &program.name]))
        // One of the command's own package, for which cargo builds the command, with the features that the tests have.
        .args(["--test", "cli"])
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut built = executables(&String::from_utf8(output.stdout)?)?;
    built.retain(|built| selection.programs.iter().any(|program| program.name == built.name));
    for program in &selection.programs {
        ensure!(
            built.iter().any(|built| built.name == program.name),
            "there is no program of tests `{}`",
            program.name
        );
    }
    built.push(Built { name: "tracker".to_owned(), path: directory.join("release/tracker") });
    Ok(built)
}

fn executables(messages: &str) -> Result<Vec<Built>> {
    let mut built = Vec::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let Some(path) = message["executable"].as_str() else { continue };
        let Some(name) = message["target"]["name"].as_str() else { continue };
        let is_test = message["target"]["kind"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"));
        if is_test {
            built.push(Built { name: name.to_owned(), path: path.into() });
        }
    }
    Ok(built)
}
