//! Receivers of OTLP/HTTP: one that decodes requests by OpenTelemetry's own messages for Python and misbehaves on demand
//! (tests/receivers/otlp.py), and OtelTap. Both are in an environment that `cargo xtask setup` makes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{agent::eventually, namespace::Namespace};

/// The port that both listen at, of 127.0.0.1.
pub const PORT: u16 = 4318;

/// The interpreter of the environment with both.
///
/// # Errors
///
/// Where it is not there.
fn python() -> Result<PathBuf> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/otlp/bin").join("python3");
    ensure!(
        path.exists(),
        "no receivers of OTLP in target/tools/otlp: `cargo xtask setup` installs them there"
    );
    Ok(path)
}

/// A receiver in a namespace. Dropping it kills it; what it took stays in its file.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    file: PathBuf,
}

/// A request that a [`Collector`] got.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Seconds since some time.
    pub at: f64,
    /// What became of it.
    pub manner: String,
    /// How its body was compressed; `None` in Python's words where it was not.
    pub compression: String,
}

impl Collector {
    /// Starts it, and waits until it listens. `manners` are those of tests/receivers/otlp.py, one after the other; what it takes is
    /// appended to `file`.
    ///
    /// # Errors
    ///
    /// Where it is not installed, or ends.
    pub fn start(namespace: &Namespace, file: &str, manners: &[&str]) -> Result<Self> {
        Self::start_with(namespace, file, manners, None)
    }

    /// The same with TLS, where there is a file with a certificate and its key.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_with(
        namespace: &Namespace,
        file: &str,
        manners: &[&str],
        tls: Option<&str>,
    ) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("receivers/otlp.py");
        let mut command = namespace.command(path(&python()?)?);
        command
            .arg(script)
            .args([&PORT.to_string(), file])
            .args(manners)
            .envs(tls.map(|it| ("TLS", it)));
        Self::spawn(namespace, command.stdout(Stdio::null()), file)
    }

    /// Starts OtelTap, which prints records to `file`.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_tap(namespace: &Namespace, file: &str) -> Result<Self> {
        let mut command = namespace.command(path(&python()?)?);
        command.args(["-u", "-m", "oteltap", "--port", &PORT.to_string()]);
        Self::spawn(namespace, command.stdout(File::create(file)?), file)
    }

    fn spawn(namespace: &Namespace, command: &mut Command, file: &str) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().context("starting a receiver of OTLP")?;
        let mut collector = Self { child, file: file.into() };
        eventually("a receiver of OTLP listens", || {
            let ended = collector.child.try_wait()?;
            ensure!(ended.is_none(), "the receiver of OTLP has ended: {ended:?}");
            namespace.enter(|| Ok(TcpStream::connect(("127.0.0.1", PORT)).is_ok()))
        })?;
        Ok(collector)
    }

    /// The records that it and those before it have taken.
    ///
    /// # Errors
    ///
    /// Where a line is none.
    pub fn records(&self) -> Result<Vec<Value>> {
        crate::export::records(path(&self.file)?)
    }

    /// The records that OtelTap has printed, in the form of [`Self::records`].
    ///
    /// # Errors
    ///
    /// Where a line is none.
    pub fn tapped(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.file)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| Ok(plain(&serde_json::from_str(line)?))).collect()
    }

    /// The requests that it and those before it got.
    ///
    /// # Errors
    ///
    /// Where a line is none.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let Ok(text) = fs::read_to_string(format!("{}.requests", self.file.display())) else {
            return Ok(Vec::new());
        };
        let request = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some(Request {
                at: words.next()?.parse().ok()?,
                manner: words.next()?,
                compression: words.next()?,
            })
        };
        text.lines().map(|line| request(line).with_context(|| line.to_owned())).collect()
    }

    /// Kills it.
    ///
    /// # Errors
    ///
    /// Where it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path of UTF-8")
}

/// A log record in protobuf's JSON as tests/receivers/otlp.py writes it.
fn plain(record: &Value) -> Value {
    let attributes = record["attributes"].as_array().into_iter().flatten().map(|attribute| {
        let key = attribute["key"].as_str().unwrap_or_default().to_owned();
        (key, plain_value(&attribute["value"]))
    });
    serde_json::json!({
        "attributes": attributes.collect::<serde_json::Map<_, _>>(),
        "time": record["timeUnixNano"].as_str().and_then(|time| time.parse::<u64>().ok()),
        "severity": record["severityText"],
        "severity_number": record["severityNumber"],
        "body": record["body"]["stringValue"],
        "event_name": record["eventName"],
    })
}

fn plain_value(value: &Value) -> Value {
    let Some((kind, value)) = value.as_object().and_then(|value| value.iter().next()) else {
        return Value::Null;
    };
    match (kind.as_str(), value) {
        ("intValue", Value::String(number)) => {
            number.parse::<i64>().map_or(Value::Null, Value::from)
        }
        ("arrayValue", value) => {
            value["values"].as_array().into_iter().flatten().map(plain_value).collect()
        }
        (_, value) => value.clone(),
    }
}

/// The attributes of a record of [`crate::export::records`], by the rule of docs/fleet.md. That is written here a second time,
/// and not taken from tracker.
#[must_use]
pub fn expected(record: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let event = match record["about"].as_str() {
        Some("end") => "tracker.connection.end",
        Some("update") => "tracker.connection.update",
        Some("violation") => "tracker.violation",
        Some("cookie") => "tracker.cookie",
        _ => "tracker.lost",
    };
    all.insert("event.name".to_owned(), event.into());
    let ends = if record["src"].is_null() { &record["segment"] } else { record };
    if !ends["src"].is_null() {
        let is_ipv4 = ends["src"].as_str().is_some_and(|address| !address.contains(':'));
        all.extend([
            ("network.transport".to_owned(), "tcp".into()),
            ("network.type".to_owned(), if is_ipv4 { "ipv4" } else { "ipv6" }.into()),
            ("source.address".to_owned(), ends["src"].clone()),
            ("source.port".to_owned(), ends["sport"].clone()),
            ("destination.address".to_owned(), ends["dst"].clone()),
            ("destination.port".to_owned(), ends["dport"].clone()),
        ]);
    }
    let mut open: Vec<_> =
        record.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value)).collect();
    open.retain(|(key, _)| {
        !["about", "time", "host", "agent", "family", "protocol", "src", "dst", "sport", "dport"]
            .contains(&key.as_str())
    });
    while let Some((key, value)) = open.pop() {
        match value {
            Value::Null => {}
            Value::Object(rules) if key == "broken_rules" => {
                all.insert(format!("tracker.{key}"), rules.keys().cloned().collect());
            }
            Value::Object(fields) => {
                open.extend(fields.iter().map(|(part, value)| (format!("{key}.{part}"), value)));
            }
            value => {
                all.insert(format!("tracker.{key}"), value.clone());
            }
        }
    }
    all
}
