//! Records in ClickHouse: through a spool, whatever becomes of the agent and the server.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tracker_tests::{
    agent::{Agent, eventually, run_tracker},
    clickhouse::{ClickHouse, PASSWORD, documented, unzipped},
    export::{Directory, deleted_flows, metric},
    lab::{INTERFACE, Pair},
};
use tracker_user::export::spool::Spool;

/// Lets SYNs from these ports arrive, and deletes their flows, each of which has a record then.
fn records(pair: &Pair, agent: &Agent, ports: std::ops::Range<u16>) -> Result<()> {
    deleted_flows([192, 0, 2, 1], pair, agent, ports)
}

/// A file with a password.
fn password(directory: &Directory, text: &str) -> Result<String> {
    let path = directory.path("password")?;
    fs::write(&path, format!("{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

#[test]
fn a_server_has_every_record_once_whoever_is_killed() -> Result<()> {
    let directory = Directory::new("clickhouse")?;
    let (data, spool) = (directory.path("data")?, directory.path("spool")?);
    let file = password(&directory, PASSWORD)?;
    let pair = Pair::silent()?;
    let arguments = [
        "--interface",
        INTERFACE,
        "--metrics",
        "--export",
        "all",
        "--export-spool",
        &spool,
        "--export-clickhouse",
        "http://127.0.0.1:8123",
        "--export-clickhouse-user",
        "tracker",
        "--export-clickhouse-password",
        &file,
    ];
    let server = ClickHouse::start(&pair.host, Path::new(&data))?;
    server.load("records.sql")?;
    server.load("views.sql")?;
    let ports = |server: &ClickHouse<'_>| -> Result<BTreeSet<u16>> {
        let text = server.ask("SELECT sport FROM tracker.records FINAL WHERE about = 'end'")?;
        text.lines().map(|line| line.parse().context("a port")).collect()
    };
    let mut agent = Agent::start(&pair.host, &arguments)?;
    records(&pair, &agent, 1000..1010)?;
    eventually("the first ones are there", || Ok(ports(&server)?.len() == 10))?;
    let row = server.ask(
        "SELECT agent, src, dst, dport, conn_state, end_reason, orig_isn, reply_isn, community_id != '', length(id), \
         time_unix_ns > 0 FROM tracker.records WHERE sport = 1000",
    )?;
    let name = agent.name().to_owned();
    ensure!(
        row == format!("{name}\t192.0.2.1\t192.0.2.2\t80\tS0\tdeleted\t1\t\\N\t1\t32\t1"),
        "{row}"
    );
    // The server has them before it says so.
    eventually("the agent knows", || Ok(metric(&pair, "clickhouse", "spool_records")? == 0))?;
    ensure!(metric(&pair, "clickhouse", "records_total")? == 10);

    // While there is no server, records wait, also for the next agent.
    server.kill()?;
    records(&pair, &agent, 1010..1020)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("http://127.0.0.1:8123") && !said.contains(PASSWORD), "{said}");
    eventually("they wait on disk", || Ok(metric(&pair, "clickhouse", "spool_records")? == 10))?;
    for from in [1020, 1030] {
        let killed = agent.kill()?;
        agent = killed.restart(&pair.host, &arguments)?;
        records(&pair, &agent, from..from + 10)?;
        let waiting = u64::from(from + 10 - 1010);
        eventually("they wait on disk", || {
            Ok(metric(&pair, "clickhouse", "spool_records")? == waiting)
        })?;
    }
    let server = ClickHouse::start(&pair.host, Path::new(&data))?;
    eventually("all are there", || Ok(ports(&server)?.len() == 40))?;
    eventually("none waits", || Ok(metric(&pair, "clickhouse", "spool_records")? == 0))?;
    ensure!(ports(&server)? == (1000..1040).collect());
    ensure!(metric(&pair, "clickhouse", "records_lost_total")? == 0);
    // What the page asks can be asked.
    for query in [documented("SELECT")?, documented("ALTER")?].concat() {
        server.ask(&query)?;
    }
    agent.finish()?;
    Ok(())
}

#[test]
fn a_wrong_password_loses_nothing_and_is_renewed_without_a_restart() -> Result<()> {
    let directory = Directory::new("password")?;
    let (data, spool) = (directory.path("data")?, directory.path("spool")?);
    let file = password(&directory, "another secret")?;
    let pair = Pair::silent()?;
    let server = ClickHouse::start(&pair.host, Path::new(&data))?;
    let agent = Agent::start(
        &pair.host,
        &[
            "--interface",
            INTERFACE,
            "--export",
            "all",
            "--export-spool",
            &spool,
            "--export-clickhouse",
            "http://127.0.0.1:8123",
            "--export-clickhouse-user",
            "tracker",
            "--export-clickhouse-password",
            &file,
        ],
    )?;
    records(&pair, &agent, 1000..1003)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("the server answers 401") && !said.contains("another secret"), "{said}");
    password(&directory, PASSWORD)?;
    server.load("records.sql")?;
    agent.wait_for_log("the server takes records again")?;
    let count = server.ask("SELECT count() FROM tracker.records")?;
    ensure!(count == "3", "{count}");
    agent.finish()?;
    Ok(())
}

/// The arguments of an agent that sends all records to the server of this host.
fn sends_all(spool: &str) -> [&str; 9] {
    [
        "--interface",
        INTERFACE,
        "--metrics",
        "--export",
        "all",
        "--export-spool",
        spool,
        "--export-clickhouse",
        "http://127.0.0.1:8123",
    ]
}

/// The lost records, and those of them that were refused.
fn lost(pair: &Pair) -> Result<(u64, u64)> {
    Ok((
        metric(pair, "clickhouse", "records_lost_total")?,
        metric(pair, "clickhouse", "records_rejected_total")?,
    ))
}

#[test]
fn a_row_that_is_no_json_holds_up_none() -> Result<()> {
    let directory = Directory::new("no-json")?;
    let (data, spool) = (directory.path("data")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let arguments = sends_all(&spool);
    let agent = Agent::start(&pair.host, &arguments)?;
    records(&pair, &agent, 1000..1010)?;
    eventually("they wait on disk", || Ok(metric(&pair, "clickhouse", "spool_records")? == 10))?;
    let rows = Path::new(&spool).join(agent.name()).join("clickhouse");
    let killed = agent.kill()?;
    Spool::open(&rows, 1 << 30)?.append(&[b"{\"sport\":,\n".to_vec()])?;
    let agent = killed.restart(&pair.host, &arguments)?;
    records(&pair, &agent, 1010..1020)?;
    eventually("they wait on disk", || Ok(metric(&pair, "clickhouse", "spool_records")? == 21))?;
    let server = ClickHouse::start(&pair.host, Path::new(&data))?;
    // There is no table yet: that is no row's fault.
    agent.wait_for_log("records wait in the spool")?;
    ensure!(lost(&pair)? == (0, 0));
    server.load("records.sql")?;
    let said = agent.wait_for_log("given up")?;
    ensure!(said.contains("Cannot parse") && said.contains("1 records"), "{said}");
    let count = || server.ask("SELECT uniqExact(sport) FROM tracker.records WHERE about = 'end'");
    eventually("all others are there", || Ok(count()? == "20"))?;
    eventually("none waits", || Ok(metric(&pair, "clickhouse", "spool_records")? == 0))?;
    ensure!(lost(&pair)? == (1, 1));
    // With the next records, the server hears of it.
    records(&pair, &agent, 1020..1021)?;
    eventually("it says so", || {
        Ok(server.ask("SELECT sum(lost) FROM tracker.records FINAL WHERE stage = 'export'")? == "1")
    })?;
    agent.wait_for_log("every record is taken again")?;
    agent.finish()?;
    Ok(())
}

#[test]
fn a_table_that_refuses_every_row_loses_none() -> Result<()> {
    let directory = Directory::new("types")?;
    let (data, spool) = (directory.path("data")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let server = ClickHouse::start(&pair.host, Path::new(&data))?;
    server.load("records.sql")?;
    server.ask("DROP TABLE tracker.records")?;
    // No address is a number.
    server.ask("CREATE TABLE tracker.records (src UInt8, sport UInt16) ENGINE = Memory")?;
    let agent = Agent::start(&pair.host, &sends_all(&spool))?;
    records(&pair, &agent, 1000..1030)?;
    let said = agent.wait_for_log("no record is taken")?;
    ensure!(said.contains("Cannot parse input"), "{said}");
    ensure!(lost(&pair)? == (0, 0) && metric(&pair, "clickhouse", "spool_records")? == 30);
    server.ask("DROP TABLE tracker.records")?;
    server.load("records.sql")?;
    let count = || server.ask("SELECT uniqExact(sport) FROM tracker.records");
    eventually("all are there", || Ok(count()? == "30"))?;
    eventually("none waits", || Ok(metric(&pair, "clickhouse", "spool_records")? == 0))?;
    ensure!(lost(&pair)? == (0, 0));
    agent.finish()?;
    Ok(())
}

#[test]
fn a_refused_row_waits_until_another_one_is_taken() -> Result<()> {
    let directory = Directory::new("enum")?;
    let (data, spool) = (directory.path("data")?, directory.path("spool")?);
    let pair = Pair::silent()?;
    let server = ClickHouse::start(&pair.host, Path::new(&data))?;
    server.load("records.sql")?;
    server.ask("DROP TABLE tracker.records")?;
    server.ask(
        "CREATE TABLE tracker.records (sport UInt16, src Enum8('' = 0, '192.0.2.1' = 1)) ENGINE = Memory",
    )?;
    let agent = Agent::start(&pair.host, &sends_all(&spool))?;
    let count = || server.ask("SELECT count() FROM tracker.records");
    records(&pair, &agent, 1000..1005)?;
    eventually("the first ones are there", || Ok(count()? == "5"))?;
    deleted_flows([192, 0, 2, 5], &pair, &agent, 1005..1006)?;
    agent.wait_for_log("no record is taken")?;
    ensure!(lost(&pair)? == (0, 0) && metric(&pair, "clickhouse", "spool_records")? == 1);
    records(&pair, &agent, 1006..1010)?;
    let count = || server.ask("SELECT uniqExact(sport) FROM tracker.records WHERE sport > 0");
    eventually("the others are there", || Ok(count()? == "9"))?;
    eventually("it is given up", || Ok(lost(&pair)? == (1, 1)))?;
    eventually("none waits", || Ok(metric(&pair, "clickhouse", "spool_records")? == 0))?;
    ensure!(server.ask("SELECT count() FROM tracker.records WHERE sport = 1005")? == "0");
    agent.finish()?;
    Ok(())
}

#[test]
fn no_error_repeats_an_address() -> Result<()> {
    let directory = Directory::new("address")?;
    let config = directory.path("tracker.toml")?;
    for address in ["https://u:hidden@127.0.0.1", "https//u:hidden@h", "https://h/?token=hidden"] {
        let (out, error, status) =
            run_tracker(&["run", "--interface", INTERFACE, "--export-clickhouse", address], None)?;
        ensure!(status.code() == Some(2), "{status:?}");
        ensure!(error.contains("invalid value for '--export-clickhouse <ADDRESS>'"), "{error}");
        ensure!(!error.contains("hidden") && !out.contains("hidden"), "{error}");
        fs::write(&config, format!("interface = [\"lo\"]\nexport-clickhouse = \"{address}\"\n"))?;
        for verb in [&["config", "check", &config][..], &["run", "--config", &config]] {
            let (out, error, status) = run_tracker(verb, None)?;
            ensure!(!status.success() && error.contains("--export-clickhouse"), "{error}");
            ensure!(!error.contains("hidden") && !out.contains("hidden"), "{error}");
        }
    }
    Ok(())
}

/// What a server that misbehaves does with a request.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Answer(&'static str),
    /// It reads the request, and no answer comes until somebody lets it close.
    Hang,
    /// It closes in the middle of the request.
    Close,
}

/// A server with manners of a test's own, one after the other; the last one lasts.
struct Server {
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    requests: Arc<AtomicU64>,
    release: mpsc::Sender<()>,
}

impl Server {
    fn start(
        pair: &Pair,
        port: u16,
        manners: Vec<Manner>,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self> {
        let listener = pair.host.enter(|| Ok(TcpListener::bind(("127.0.0.1", port))?))?;
        let (bodies, requests) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (release, released) = mpsc::channel();
        let (to, count) = (Arc::clone(&bodies), Arc::clone(&requests));
        thread::spawn(move || {
            for (at, stream) in listener.incoming().map_while(std::io::Result::ok).enumerate() {
                let manner = manners[at.min(manners.len() - 1)];
                let served = match &tls {
                    Some(tls) => match ServerConnection::new(Arc::clone(tls)) {
                        Ok(connection) => {
                            serve(StreamOwned::new(connection, stream), manner, &released)
                        }
                        Err(_) => return,
                    },
                    None => serve(stream, manner, &released),
                };
                if let Ok(Some(body)) = served {
                    to.lock().unwrap_or_else(PoisonError::into_inner).push(body);
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { bodies, requests, release })
    }

    /// The rows that it has taken.
    fn rows(&self) -> Result<Vec<serde_json::Value>> {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rows = Vec::new();
        for body in bodies {
            for line in unzipped(&body)?.lines() {
                rows.push(serde_json::from_str(line)?);
            }
        }
        Ok(rows)
    }
}

/// Serves one request; its body, if it was taken.
fn serve(
    stream: impl Read + Write,
    manner: Manner,
    released: &mpsc::Receiver<()>,
) -> Result<Option<Vec<u8>>> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    if matches!(manner, Manner::Close) {
        return Ok(None);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let Manner::Answer(status) = manner else {
        released.recv()?;
        return Ok(None);
    };
    let text = "what is wrong\r\nsecond line";
    write!(
        reader.get_mut(),
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    reader.get_mut().flush()?;
    Ok(status.starts_with("200").then_some(body))
}

#[test]
fn a_server_that_fails_closes_or_hangs_gets_everything_in_the_end() -> Result<()> {
    let directory = Directory::new("manners")?;
    let spool = directory.path("spool")?;
    let pair = Pair::silent()?;
    let manners = vec![
        Manner::Answer("503 Service Unavailable"),
        Manner::Close,
        Manner::Hang,
        Manner::Answer("429 Too Many Requests"),
        Manner::Answer("200 OK"),
    ];
    let server = Server::start(&pair, 8000, manners, None)?;
    let agent = Agent::start(
        &pair.host,
        &[
            "--interface",
            INTERFACE,
            "--metrics",
            "--export",
            "all",
            "--export-spool",
            &spool,
            "--export-clickhouse",
            "http://127.0.0.1:8000",
        ],
    )?;
    records(&pair, &agent, 1000..1010)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(
        said.contains("503") && said.contains("what is wrong") && !said.contains("second"),
        "{said}"
    );
    eventually("it hangs", || Ok(server.requests.load(Ordering::Relaxed) == 2))?;
    // Meanwhile the agent works as always, and further records wait.
    records(&pair, &agent, 1010..1020)?;
    eventually("all wait on disk", || Ok(metric(&pair, "clickhouse", "spool_records")? == 20))?;
    ensure!(metric(&pair, "clickhouse", "records_waiting")? == 0);
    server.release.send(())?;
    eventually("it has all", || Ok(server.rows()?.len() >= 20))?;
    let ports: BTreeSet<_> =
        server.rows()?.iter().filter_map(|row| row["sport"].as_u64()).collect();
    ensure!(ports == (1000..1020).collect(), "{ports:?}");
    eventually("none waits", || Ok(metric(&pair, "clickhouse", "spool_records")? == 0))?;
    ensure!(
        metric(&pair, "clickhouse", "failures_total")? == 4
            && metric(&pair, "clickhouse", "records_lost_total")? == 0
    );
    agent.finish()?;
    Ok(())
}

#[test]
fn a_server_is_known_by_its_certificate() -> Result<()> {
    let directory = Directory::new("tls")?;
    let (certificate, key, spool) =
        (directory.path("cert.pem")?, directory.path("key.pem")?, directory.path("spool")?);
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"])
        .args([
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ])
        .output()
        .context("starting openssl")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(&certificate)?],
                PrivateKeyDer::from_pem_file(&key)?,
            )?;
    let pair = Pair::silent()?;
    let server =
        Server::start(&pair, 8443, vec![Manner::Answer("200 OK")], Some(Arc::new(config)))?;
    let common = [
        "--interface",
        INTERFACE,
        "--export",
        "all",
        "--export-spool",
        &spool,
        "--export-clickhouse",
        "https://127.0.0.1",
    ];
    // The system's authorities do not know it.
    let agent = Agent::start(&pair.host, &common)?;
    records(&pair, &agent, 1000..1001)?;
    let said = agent.wait_for_log("records wait in the spool")?;
    ensure!(said.contains("certificate"), "{said}");
    agent.finish()?;
    ensure!(server.rows()?.is_empty());
    let agent = Agent::start(
        &pair.host,
        &[&common[..], &["--export-clickhouse-ca", &certificate]].concat(),
    )?;
    // It has a spool of its own.
    records(&pair, &agent, 1001..1002)?;
    eventually("it has the record", || Ok(server.rows()?.len() == 1))?;
    agent.finish()?;
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_before_an_agent_starts() -> Result<()> {
    let directory = Directory::new("clickhouse-refused")?;
    let pair = Pair::silent()?;
    let (config, file) = (directory.path("tracker.toml")?, password(&directory, "secret words")?);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let at = "export-clickhouse = \"https://127.0.0.1\"\n";
    for (text, said) in [
        ("export-clickhouse = \"127.0.0.1:8123\"\n".to_owned(), "neither http:// nor https://"),
        (
            "export-clickhouse = \"http://u:secret@127.0.0.1\"\n".to_owned(),
            "an address has no user",
        ),
        (format!("{at}export-clickhouse-table = \"records\"\n"), "DATABASE.TABLE"),
        (
            format!("{at}export-clickhouse-ca = \"{config}\"\n"),
            "the certificates of authorities in",
        ),
        (
            format!(
                "{at}export-clickhouse-user = \"a\"\nexport-clickhouse-password = \"{file}\"\n"
            ),
            "others may read it",
        ),
        (format!("{at}export-spool-size = \"1k\"\n"), "10000000 bytes at least"),
        ("export-spool = \"/tmp\"\n".to_owned(), "--export-clickhouse"),
    ] {
        fs::write(&config, format!("interface = [\"{INTERFACE}\"]\n{text}"))?;
        let (out, error, status) = run_tracker(&["config", "check", &config], Some(&pair.host))?;
        ensure!(status.code() == Some(1) && out.is_empty(), "{text}: {out}{error}");
        ensure!(error.contains(said) && !error.contains("secret words"), "{said}: {error}");
    }
    Ok(())
}
