//! Programs of tests, run two at a time: most of them wait for packets and timers most of the time.

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host;

/// How many run at a time.
const AT_A_TIME: usize = 2;

/// What takes longest is begun first, so that nothing long is left for the end.
const LONGEST: [&str; 12] = [
    "replay",
    "restart",
    "upkeep",
    "ways_in",
    "interfaces",
    "bulk",
    "upgrade",
    "ladder",
    "cookies",
    "documentation",
    "opening",
    "lifecycles",
];

/// A program of tests, and what it is given.
pub(super) struct Program {
    /// Its name in output.
    name: String,
    path: PathBuf,
    /// The directory of its package, where cargo runs it.
    directory: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
}

impl Program {
    /// The same with a variable, and called so.
    pub(super) fn with(&self, variable: &'static str, value: &'static str) -> Self {
        Self {
            name: format!("{} with {variable}={value}", self.name),
            path: self.path.clone(),
            directory: self.directory.clone(),
            environment: vec![(variable, value)],
        }
    }

    /// Whether it is the file of that name in `tests/tests`.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// Its place in the queue.
    fn rank(&self) -> usize {
        let name = self.name.split(' ').next().unwrap_or_default();
        LONGEST.iter().position(|long| *long == name).unwrap_or(LONGEST.len())
    }

    /// Runs it; what it wrote is in the file `log`.
    fn run(&self, log: &Path) -> Result<bool> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let status = Command::new(&self.path)
            .current_dir(&self.directory)
            .env("CARGO_MANIFEST_DIR", &self.directory)
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("starting {}", self.path.display()))?;
        Ok(status.success())
    }
}

/// Builds the programs of tests that these arguments of `cargo test` choose.
///
/// # Errors
///
/// Where they do not build.
pub(super) fn build(args: &[&str]) -> Result<Vec<Program>> {
    let output = host::cargo()
        .args(["test", "--release", "--no-run", "--message-format=json-render-diagnostics"])
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let messages = String::from_utf8(output.stdout)?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        programs.extend(program(&serde_json::from_str(line)?));
    }
    Ok(programs)
}

/// The program of tests that a message of cargo's is about, if any.
fn program(message: &Value) -> Option<Program> {
    if message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let target = message["target"]["name"].as_str()?;
    let is_unit = message["target"]["kind"].as_array()?.iter().all(|kind| kind != "test");
    // Those inside of a library or a program have its name.
    let name = if is_unit { format!("{target} (units)") } else { target.to_owned() };
    Some(Program { name, path, directory, environment: Vec::new() })
}

/// Runs them, and prints what each has written once it has ended.
///
/// # Errors
///
/// Where one has failed: which.
pub(super) fn run(mut programs: Vec<Program>) -> Result<()> {
    let logs = host::target_dir()?.join("test-logs");
    fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    programs.sort_by_key(Program::rank);
    let count = programs.len();
    let began = Instant::now();
    let queue = Mutex::new(programs.into_iter().zip(1..).collect::<VecDeque<_>>());
    let failed = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || -> Result<()> {
        while let Some((program, number)) = next() {
            let log = logs.join(format!("{number}.log"));
            // Should it never end, this is what shows which.
            println!("       Begins {}: {}", program.name, log.display());
            let is_right = program.run(&log)?;
            let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock, so that it is in one piece.
            println!("\n     Running {} ({})\n{text}", program.name, program.path.display());
            if !is_right {
                failed.push(program.name);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker has panicked")))
    })?;
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("of {count} programs of tests {} failed: {}", failed.len(), failed.join(", "));
    }
    println!("{count} programs of tests passed in {} s.", began.elapsed().as_secs());
    Ok(())
}

/// Runs the examples in comments, which are no programs.
///
/// # Errors
///
/// Where one fails.
pub(super) fn examples(args: &[&str]) -> Result<()> {
    host::run(host::cargo().args(["test", "--release", "--doc"]).args(args), "cargo test --doc")
}
