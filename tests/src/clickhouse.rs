//! A ClickHouse server of a test's own (Debian's package `clickhouse-server`).

use std::{
    fs,
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

/// A server at port 8123 of every IPv4 address of a namespace. Dropping it kills it; its data stay in its directory.
#[derive(Debug)]
pub struct ClickHouse<'a> {
    namespace: &'a Namespace,
    child: Child,
}

/// The password of the user `tracker`.
pub const PASSWORD: &str = "a secret of tests";

impl<'a> ClickHouse<'a> {
    /// Starts it with the data that are in this directory, and waits until it answers.
    ///
    /// # Errors
    ///
    /// Where it is not installed, or does not answer.
    pub fn start(namespace: &'a Namespace, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let at = directory.to_str().context("a path of UTF-8")?;
        let (config, users) = (directory.join("config.xml"), directory.join("users.xml"));
        fs::write(
            &config,
            format!(
                "<yandex><logger><level>warning</level><console>1</console></logger><http_port>8123</http_port>\
                 <tcp_port>9000</tcp_port><listen_host>0.0.0.0</listen_host><path>{at}/data/</path>\
                 <tmp_path>{at}/tmp/</tmp_path><users_config>{at}/users.xml</users_config>\
                 <default_profile>default</default_profile><default_database>default</default_database>\
                 <mark_cache_size>16777216</mark_cache_size></yandex>"
            ),
        )?;
        let user = |name: &str, password: &str| {
            format!(
                "<{name}><password>{password}</password><networks><ip>::/0</ip></networks><profile>default</profile>\
                 <quota>default</quota></{name}>"
            )
        };
        let all = [user("default", ""), user("tracker", PASSWORD)].concat();
        fs::write(
            &users,
            format!(
                "<yandex><profiles><default/></profiles><quotas><default/></quotas><users>{all}</users></yandex>"
            ),
        )?;
        let child = namespace
            .command("clickhouse-server")
            .arg(format!("--config-file={}", config.display()))
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting clickhouse-server: `apt-get install clickhouse-server`")?;
        let mut server = Self { namespace, child };
        eventually("clickhouse-server answers", || {
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "clickhouse-server, of the package of this name: {ended:?}");
            Ok(server.ask("SELECT 1").is_ok())
        })?;
        Ok(server)
    }

    /// What it answers to a query.
    ///
    /// # Errors
    ///
    /// Where it refuses it.
    pub fn ask(&self, query: &str) -> Result<String> {
        let output = self
            .namespace
            .command("curl")
            .args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"])
            .args([
                "--data-binary",
                query,
                "http://127.0.0.1:8123/?output_format_json_quote_64bit_integers=0",
            ])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, code) = text.rsplit_once('\n').context("an answer")?;
        ensure!(code == "200", "{query}: {code}: {answer}");
        Ok(answer.trim_end().to_owned())
    }

    /// The rows that it answers to a query, by the names of their columns.
    ///
    /// # Errors
    ///
    /// Where it refuses it.
    pub fn rows(&self, query: &str) -> Result<Vec<Value>> {
        let text = self.ask(&format!("{query} FORMAT JSONEachRow"))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Gives it all statements of a file of packaging/clickhouse.
    ///
    /// # Errors
    ///
    /// Where it refuses one.
    pub fn load(&self, file: &str) -> Result<()> {
        statements(file)?.iter().try_for_each(|statement| self.ask(statement).map(drop))
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

impl Drop for ClickHouse<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// The statements of a file of packaging/clickhouse, in their order.
///
/// # Errors
///
/// Where it is not there, or has none.
pub fn statements(file: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/clickhouse").join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let code: Vec<_> = text.lines().filter(|line| !line.starts_with("--")).collect();
    let code = code.join("\n");
    let all: Vec<_> =
        code.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect();
    ensure!(!all.is_empty(), "{} has no statement", path.display());
    Ok(all.into_iter().map(str::to_owned).collect())
}

/// The statements of docs/fleet.md that begin with this word.
///
/// # Errors
///
/// Where there is none.
pub fn documented(word: &str) -> Result<Vec<String>> {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/fleet.md");
    let (mut all, mut now) = (Vec::new(), String::new());
    for line in fs::read_to_string(page)?.lines().chain([""]) {
        match line.strip_prefix("    ") {
            Some(code) if !now.is_empty() || code.starts_with(word) => {
                now.push_str(code);
                now.push('\n');
            }
            _ if !now.is_empty() => all.push(std::mem::take(&mut now)),
            _ => {}
        }
    }
    ensure!(!all.is_empty(), "docs/fleet.md has no {word}");
    Ok(all)
}

/// What a gzip stream holds.
///
/// # Errors
///
/// Where that is none.
pub fn unzipped(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting gzip")?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    let bytes = bytes.to_owned();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes));
    let output = child.wait_with_output()?;
    ensure!(writing.join().is_ok_and(|written| written.is_ok()) && output.status.success());
    Ok(String::from_utf8(output.stdout)?)
}
