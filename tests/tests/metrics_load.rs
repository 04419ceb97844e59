//! Clients of the metrics that hang, a thousand of them, and whoever asks beside them. Times are printed, and nothing fails for
//! being slow.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tracker_tests::{
    agent::{Agent, PATIENCE, eventually},
    authority::{Authority, validity},
    fault::{Directory, memory},
    lab::{INTERFACE, Pair},
    namespace::Namespace,
};

/// Clients that hang.
const MANY: usize = 1000;

/// Questions that are timed.
const ASKED: usize = 20;

const AT: ([u8; 4], u16) = ([127, 0, 0, 1], 9469);

/// Connects inside the namespace.
fn client(namespace: &Namespace, at: ([u8; 4], u16)) -> Result<TcpStream> {
    let stream = namespace.enter(|| Ok(TcpStream::connect(SocketAddr::from(at))?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects so many times inside the namespace, sends what `begin` says to each, and keeps all.
fn hang(
    namespace: &Namespace,
    count: usize,
    begin: impl Fn(usize) -> Vec<u8> + Sync + Send,
) -> Result<Vec<TcpStream>> {
    namespace.enter(|| {
        (0..count)
            .map(|number| {
                let mut stream = TcpStream::connect(SocketAddr::from(AT))?;
                // One may have lost its place to another by now.
                let _ = stream.write_all(&begin(number));
                Ok(stream)
            })
            .collect()
    })
}

/// Asks `/readyz` with curl: the status, and how many milliseconds the answer took.
fn ask(namespace: &Namespace, arguments: &[&str]) -> Result<(String, f64)> {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "120", "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code} %{time_total}"]).args(arguments);
    let output = command.stdin(Stdio::null()).output().context("starting curl")?;
    let said = String::from_utf8(output.stdout)?;
    let failed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}: {failed}");
    let (code, seconds) = said.split_once(' ').context("two numbers")?;
    Ok((code.to_owned(), seconds.parse::<f64>()? * 1000.0))
}

/// How long answers of an agent that is ready take, in order.
fn times(namespace: &Namespace, arguments: &[&str]) -> Result<Vec<f64>> {
    eventually("it is ready", || Ok(ask(namespace, arguments)?.0 == "200"))?;
    let mut times = Vec::new();
    while times.len() < ASKED {
        let (code, time) = ask(namespace, arguments)?;
        ensure!(code == "200", "{code}");
        times.push(time);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Times questions on an idle agent, and again while `hang`'s clients do.
fn compare(
    what: &str,
    asked: impl Fn() -> Result<Vec<f64>>,
    hang: impl FnOnce() -> Result<Vec<TcpStream>>,
) -> Result<()> {
    let idle = asked()?;
    let clients = hang()?;
    ensure!(clients.len() >= MANY);
    let busy = asked()?;
    let (middle, last) = (ASKED / 2, ASKED - 1);
    let _ = writeln!(
        std::io::stdout(),
        "/readyz, {what}: idle {:.1} ms (longest {:.1}); beside {} clients that hang {:.1} ms (longest {:.1}), {:.1} times as long",
        idle[middle],
        idle[last],
        clients.len(),
        busy[middle],
        busy[last],
        busy[middle] / idle[middle]
    );
    Ok(())
}

/// A request that never ends; each is cut somewhere else.
fn part_of_a_request(number: usize) -> Vec<u8> {
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n";
    request[..number % request.len()].to_vec()
}

#[test]
fn readyz_answers_beside_a_thousand_that_hang() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(
        &pair.host,
        &["--interface", INTERFACE, "--metrics", "--sweep-interval", "0.05"],
    )?;
    let asked = || times(&pair.host, &["http://127.0.0.1:9469/readyz"]);
    compare("no TLS", asked, || hang(&pair.host, MANY, part_of_a_request))?;
    agent.finish()?;
    Ok(())
}

#[test]
fn readyz_answers_at_a_unix_socket_beside_a_thousand_that_hang() -> Result<()> {
    let directory = Directory::new("metrics-load")?;
    let path = directory.path("metrics.sock")?;
    let pair = Pair::silent()?;
    let at = format!("unix:{path}");
    let agent = Agent::start(
        &pair.host,
        &["--interface", INTERFACE, "--metrics", &at, "--sweep-interval", "0.05"],
    )?;
    let asked = || times(&pair.host, &["--unix-socket", &path, "http://localhost/readyz"]);
    let idle = asked()?;
    let mut clients = Vec::new();
    for number in 0..MANY {
        let mut stream = std::os::unix::net::UnixStream::connect(&path)?;
        let _ = stream.write_all(&part_of_a_request(number));
        clients.push(stream);
    }
    let busy = asked()?;
    let _ = writeln!(
        std::io::stdout(),
        "/readyz, unix socket: idle {:.1} ms; beside {} clients that hang {:.1} ms (longest {:.1})",
        idle[ASKED / 2],
        clients.len(),
        busy[ASKED / 2],
        busy[ASKED - 1]
    );
    agent.finish()?;
    Ok(())
}

/// The agent's options for TLS.
fn tls(authority: &Authority) -> Result<[String; 4]> {
    let [certificate, key] = ["server.pem", "server.key"].map(|name| authority.path(name));
    Ok(["--metrics-tls-cert".to_owned(), certificate?, "--metrics-tls-key".to_owned(), key?])
}

/// A connection whose handshake goes as far as rustls takes it.
struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    fn new(authority: &Authority) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.path("ca.pem")?)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    fn connection(&self) -> Result<ClientConnection> {
        let name = ServerName::try_from("127.0.0.1")?;
        Ok(ClientConnection::new(Arc::clone(&self.config), name)?)
    }

    /// A client's first message, or half of it.
    fn hello(&self, is_whole: bool) -> Result<Vec<u8>> {
        let mut hello = Vec::new();
        self.connection()?.write_tls(&mut hello)?;
        let length = if is_whole { hello.len() } else { hello.len() / 2 };
        hello.truncate(length);
        Ok(hello)
    }
}

/// An agent that serves metrics by TLS.
struct ByTls {
    agent: Agent,
    pair: Pair,
    client: Client,
    authority: Authority,
}

impl ByTls {
    fn new(name: &str) -> Result<Self> {
        let authority = Authority::new(name)?;
        authority.issue("server", validity::PRESENT)?;
        let (tls, client) = (tls(&authority)?, Client::new(&authority)?);
        let pair = Pair::silent()?;
        let mut arguments = vec!["--interface", INTERFACE, "--metrics", "--sweep-interval", "0.05"];
        arguments.extend(tls.iter().map(String::as_str));
        let agent = Agent::start(&pair.host, &arguments)?;
        Ok(Self { agent, pair, client, authority })
    }

    fn ask(&self) -> Result<Vec<f64>> {
        let ca = self.authority.path("ca.pem")?;
        times(&self.pair.host, &["--cacert", &ca, "https://127.0.0.1:9469/readyz"])
    }
}

#[test]
fn readyz_answers_by_tls_beside_a_thousand_that_hang_in_handshakes() -> Result<()> {
    let site = ByTls::new("handshakes")?;
    let ByTls { pair, client, .. } = &site;
    // Nothing, half of a first message, and all of it without what comes next.
    let hellos = [Vec::new(), client.hello(false)?, client.hello(true)?];
    compare("TLS", || site.ask(), || hang(&pair.host, MANY, |number| hellos[number % 3].clone()))?;
    site.agent.finish()?;
    Ok(())
}

#[test]
fn readyz_answers_by_tls_beside_a_thousand_that_hang_in_requests() -> Result<()> {
    let site = ByTls::new("requests")?;
    let ByTls { pair, agent, client, .. } = &site;
    let mut before = 0;
    compare(
        "TLS, after the handshake",
        || site.ask(),
        || {
            before = memory(agent.pid(), "VmRSS")?;
            pair.host.enter(|| {
                let mut streams = Vec::new();
                for number in 0..MANY {
                    let stream = TcpStream::connect(SocketAddr::from(AT))?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    let mut stream = StreamOwned::new(client.connection()?, stream);
                    stream.conn.complete_io(&mut stream.sock)?;
                    stream.write_all(&part_of_a_request(number))?;
                    streams.push(stream.sock);
                }
                Ok(streams)
            })
        },
    )?;
    let _ = writeln!(
        std::io::stdout(),
        "the agent has {} KiB, {before} KiB before",
        memory(agent.pid(), "VmRSS")?
    );
    site.agent.finish()?;
    Ok(())
}

#[test]
fn no_address_takes_the_places_of_others() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--metrics", "0.0.0.0:9469"])?;
    agent.wait_for_log("metrics are served")?;
    let there = ([10, 9, 0, 1], 9469);
    // A request must come within seconds, which may pass on a busy machine: then this is tried again.
    eventually("who was there first is answered", || {
        let mut waiting = client(&pair.host, AT)?;
        waiting.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")?;
        let greedy = pair.peer.enter(|| {
            let connect = |_| Ok(TcpStream::connect(SocketAddr::from(there))?);
            (0..100).map(connect).collect::<Result<Vec<_>>>()
        })?;
        // The first of these has lost its place: nothing comes from it any more.
        greedy[0].set_read_timeout(Some(PATIENCE))?;
        ensure!(matches!((&greedy[0]).read(&mut [0; 1]), Ok(0)), "it has its place still");
        let _ = waiting.write_all(b"\r\n");
        let mut answer = String::new();
        let _ = waiting.read_to_string(&mut answer);
        Ok(answer.starts_with("HTTP/1.1 200 "))
    })?;

    // Also where those that lose a place come again at once.
    let (is_over, connected) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| -> Result<()> {
        let churn = scope.spawn(|| {
            pair.peer.enter(|| {
                let mut clients = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    if let Ok(stream) = TcpStream::connect(SocketAddr::from(there)) {
                        clients.push(stream);
                        connected.fetch_add(1, Ordering::Relaxed);
                    }
                    if clients.len() > MANY {
                        clients.drain(..MANY / 2);
                    }
                }
                Ok(())
            })
        });
        let times = eventually("they come", || Ok(connected.load(Ordering::Relaxed) > MANY))
            .and_then(|()| times(&pair.host, &["http://127.0.0.1:9469/readyz"]));
        is_over.store(true, Ordering::Relaxed);
        churn.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        let times = times?;
        let _ = writeln!(
            std::io::stdout(),
            "/readyz beside {} that came from one other address: {:.1} ms (longest {:.1})",
            connected.load(Ordering::Relaxed),
            times[ASKED / 2],
            times[ASKED - 1]
        );
        Ok(())
    })?;
    ensure!(fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count() < 250);
    agent.finish()?;
    Ok(())
}
