//! A fuzz target: running it, and reading what libFuzzer says.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::Until;
use crate::host;

/// Seconds after which one input has taken too long: so many that no busy machine is taken for an endless loop.
const TIMEOUT_S: u32 = 120;

/// Megabytes that a target may take.
const MOST_MB: u32 = 2048;

/// A target.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) name: String,
    program: PathBuf,
    /// The committed inputs.
    corpus: PathBuf,
    /// Words of the language that it reads, where it is one.
    dictionary: PathBuf,
    /// Inputs that were found here.
    found: PathBuf,
    /// Where a run that repeats others has all its files.
    repeated: PathBuf,
    /// Inputs that crash it.
    artifacts: PathBuf,
    log: PathBuf,
}

/// What a corpus reaches.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Covered {
    /// Edges of the code with counters.
    pub(super) edges: u64,
    /// Names of what the target says was reached.
    pub(super) names: BTreeSet<String>,
}

/// What came of fuzzing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Fuzzed {
    name: String,
    pub(super) runs: u64,
    runs_a_second: u64,
    /// Edges when it began, and when it ended.
    edges: [u64; 2],
    features: u64,
    peak_mb: u64,
    /// What was found.
    pub(super) crash: Option<String>,
}

impl fmt::Display for Fuzzed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, runs, runs_a_second, edges: [first, last], features, peak_mb, crash } =
            self;
        let new = last.saturating_sub(*first);
        write!(
            f,
            "| {name} | {runs} | {runs_a_second} | {last} | {features} | {new} | {peak_mb} |"
        )?;
        if crash.is_some() { f.write_str(" CRASH") } else { Ok(()) }
    }
}

impl Target {
    pub(super) fn new(name: String, root: &Path, work: &Path, programs: &Path) -> Self {
        Self {
            program: programs.join(&name),
            corpus: root.join("corpus").join(&name),
            dictionary: root.join("dictionaries").join(&name),
            found: work.join("corpus").join(&name),
            repeated: work.join("repeated").join(&name),
            artifacts: work.join("artifacts").join(&name),
            log: work.join("logs").join(&name),
            name,
        }
    }

    /// Runs it over its committed corpus alone.
    pub(super) fn cover(&self) -> Result<Covered> {
        let names = self.log.with_extension("reached");
        self.make_directories()?;
        let said = self.run(
            self.command().arg(&self.corpus).arg("-runs=0").env("TRACKER_FUZZ_REACHED", &names),
        )?;
        if let Some(crash) = said.crash {
            bail!("{crash}");
        }
        let names = fs::read_to_string(&names).unwrap_or_default();
        let edges = said.edges[1];
        Ok(Covered { edges, names: names.lines().map(str::to_owned).collect() })
    }

    /// Fuzzes it for so long.
    pub(super) fn fuzz(&self, until: Until) -> Result<Fuzzed> {
        self.make_directories()?;
        let mut command = match until {
            Until::Seconds(seconds, seed) => {
                let mut command = self.command();
                command
                    .args([&self.found, &self.corpus])
                    .arg(format!("-max_total_time={seconds}"))
                    .args(seed.map(|seed| format!("-seed={seed}")));
                if self.dictionary.exists() {
                    command.arg(format!("-dict={}", self.dictionary.display()));
                }
                command
            }
            Until::Runs(runs) => self.repeat(runs)?,
        };
        self.run(command.arg("-print_final_stats=1"))
    }

    /// So many runs that are the same each time, for one build. What it compares steers it, addresses too; so all that decides on
    /// them is the same: names of files, the order of inputs, the environment.
    fn repeat(&self, runs: u64) -> Result<Command> {
        let place = &self.repeated;
        host::remove_all(place)?;
        for directory in ["corpus", "found"] {
            fs::create_dir_all(place.join(directory))?;
        }
        fs::hard_link(&self.program, place.join("target"))
            .or_else(|_| fs::copy(&self.program, place.join("target")).map(drop))?;
        let mut inputs = fs::read_dir(&self.corpus)?
            .map(|entry| entry?.file_name().into_string().ok().context("a name in UTF-8"))
            .collect::<Result<Vec<_>>>()?;
        inputs.sort();
        for input in &mut inputs {
            let path = format!("corpus/{input}");
            fs::copy(self.corpus.join(&*input), place.join(&path))?;
            *input = path;
        }
        fs::write(place.join("inputs"), inputs.join(","))?;
        let mut command = Command::new("setarch");
        command
            .current_dir(place)
            .env_clear()
            .env("TMPDIR", ".")
            .args(["--addr-no-randomize", "--", "./target", "found", "-seed_inputs=@inputs"])
            .args(["-seed=1", "-reload=0", &format!("-runs={runs}")]);
        if self.dictionary.exists() {
            fs::copy(&self.dictionary, place.join("dictionary"))?;
            command.arg("-dict=dictionary");
        }
        Ok(command)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("TMPDIR", &self.artifacts)
            .arg(format!("-artifact_prefix={}/", self.artifacts.display()));
        command
    }

    fn make_directories(&self) -> Result<()> {
        let log = self.log.parent().context("a directory")?;
        for directory in [&self.found, &self.artifacts, log] {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        Ok(())
    }

    fn run(&self, command: &mut Command) -> Result<Fuzzed> {
        let log = fs::File::create(&self.log).with_context(|| self.log.display().to_string())?;
        let status = command
            .arg(format!("-timeout={TIMEOUT_S}"))
            .arg(format!("-rss_limit_mb={MOST_MB}"))
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .status()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        let mut fuzzed = read(&said);
        fuzzed.name.clone_from(&self.name);
        if !status.success() {
            fuzzed.crash = Some(self.crash(&said, &status.to_string()));
        }
        Ok(fuzzed)
    }

    /// What to say of a crash: the panic's message, and the input's file.
    fn crash(&self, said: &str, status: &str) -> String {
        let input = said.lines().find_map(|line| line.split_once("Test unit written to "));
        let input = input.map(|(_, path)| self.repeated.join(path).display().to_string());
        let input = input.unwrap_or_else(|| "no input was written".to_owned());
        let panic: Vec<_> = said
            .lines()
            .skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR: libFuzzer"))
            .take_while(|line| {
                !line.starts_with("note: ") && !line.starts_with("==") && !line.contains("NOTE: ")
            })
            .take(40)
            .collect();
        format!(
            "{} crashes ({status}):\n{}\nthe input: {input}\nagain: {} {input}\nall that was said: {}",
            self.name,
            panic.join("\n"),
            self.program.display(),
            self.log.display()
        )
    }
}

/// Reads libFuzzer's report.
fn read(said: &str) -> Fuzzed {
    let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse().ok());
    let stat = |name: &str| {
        said.lines()
            .find_map(|line| {
                number(line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':')?)
            })
            .unwrap_or_default()
    };
    let all = |name: &str| -> Vec<u64> {
        let status = said.lines().filter(|line| line.starts_with('#'));
        status.filter_map(|line| number(line.split_once(name)?.1)).collect()
    };
    let (edges, features) = (all(" cov: "), all(" ft: "));
    Fuzzed {
        name: String::new(),
        runs: stat("number_of_executed_units"),
        runs_a_second: stat("average_exec_per_sec"),
        edges: [edges.first(), edges.last()].map(|edges| edges.copied().unwrap_or_default()),
        features: features.last().copied().unwrap_or_default(),
        peak_mb: stat("peak_rss_mb"),
        crash: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let said = "INFO: seed corpus: files: 2\n#3\tINITED cov: 10 ft: 11 corp: 2/5b exec/s: 0 rss: 40Mb\n\
                    #9\tNEW    cov: 12 ft: 15 corp: 3/9b lim: 4 exec/s: 0 rss: 41Mb L: 4/4 MS: 1 ChangeBit-\n\
                    #500\tDONE   cov: 12 ft: 16 corp: 3/9b lim: 8 exec/s: 250 rss: 42Mb\nDone 500 runs in 2 second(s)\n\
                    stat::number_of_executed_units: 500\nstat::average_exec_per_sec:     250\nstat::peak_rss_mb:              42\n";
        let fuzzed = Fuzzed { name: "a".to_owned(), ..read(said) };
        assert_eq!(fuzzed.to_string(), "| a | 500 | 250 | 12 | 16 | 2 | 42 |");
    }

    #[test]
    fn a_crash_names_its_input() {
        let path = Path::new("/work");
        let target = Target::new("a".to_owned(), path, path, path);
        let said = "#3\tINITED cov: 10\nthread 'main' panicked at a.rs:1:2:\nno\nnote: run with\n== ERROR\n\
                    artifact_prefix='/inputs/'; Test unit written to /inputs/crash-1\n";
        let crash = target.crash(said, "signal: 6");
        assert!(crash.contains("a.rs:1:2:\nno\nthe input: /inputs/crash-1\n"), "{crash}");
    }
}
