//! IPFIX collectors of others (Debian's packages `nfdump`, `pmacct` and `libfixbuf-tools`), and places of tests' own that messages
//! pass.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::Value;
use socket2::SockRef;

use crate::{agent::eventually, namespace::Namespace};

/// The number of an enterprise for examples (RFC 5612), which packaging/ipfix has.
pub const PEN: &str = "32473";

/// A collector of others at a UDP port of 127.0.0.1. Dropping it kills it, and its children.
#[derive(Debug)]
pub struct Collector(Child, u16);

impl Collector {
    /// nfcapd, which writes to this directory.
    ///
    /// # Errors
    ///
    /// Where it is not installed, or does not come up.
    pub fn nfcapd(namespace: &Namespace, directory: &str, port: u16) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let port_text = port.to_string();
        let arguments = ["-l", directory, "-b", "127.0.0.1", "-p", &port_text, "-t", "3600"];
        Self::start(namespace, "nfcapd", "nfdump", &arguments, port)
    }

    /// nfacctd with the files of packaging/ipfix, which writes lines of JSON to `records.json` of this directory.
    ///
    /// # Errors
    ///
    /// Where it is not installed, or does not come up.
    pub fn nfacctd(namespace: &Namespace, directory: &str, port: u16) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/ipfix");
        let mut text = fs::read_to_string(packaging.join("nfacctd.conf"))?;
        let list = packaging.join("tracker.lst");
        for (from, to) in [
            ("/etc/pmacct/tracker.lst", list.to_str().context("a path of UTF-8")?),
            ("/var/lib/pmacct/tracker.json", &format!("{directory}/records.json")),
            ("nfacctd_port: 4739", &format!("nfacctd_port: {port}")),
            ("print_refresh_time: 10", "print_refresh_time: 1"),
        ] {
            ensure!(text.contains(from), "packaging/ipfix/nfacctd.conf has no `{from}`");
            text = text.replace(from, to);
        }
        let config = format!("{directory}/nfacctd.conf");
        fs::write(&config, text)?;
        Self::start(namespace, "nfacctd", "pmacct", &["-f", &config], port)
    }

    fn start(
        namespace: &Namespace,
        program: &str,
        package: &str,
        arguments: &[&str],
        port: u16,
    ) -> Result<Self> {
        let child = namespace
            .command(program)
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}: `apt-get install {package}`"))?;
        let mut collector = Self(child, port);
        eventually(&format!("{program} listens"), || {
            let ended = collector.0.try_wait()?;
            ensure!(ended.is_none(), "{program}, of the package {package}: {ended:?}");
            Ok(collector.unread().is_some())
        })?;
        Ok(collector)
    }

    /// Bytes that its socket holds, in hexadecimal digits; `None` where it has none.
    fn unread(&self) -> Option<String> {
        let sockets = fs::read_to_string(format!("/proc/{}/net/udp", self.0.id())).ok()?;
        let at = format!("0100007F:{:04X}", self.1);
        let socket = sockets.lines().find(|line| line.contains(&at))?;
        let (_, unread) = socket.split_whitespace().nth(4)?.split_once(':')?;
        Some(unread.to_owned())
    }

    /// Lets it read and write what it has got, and end.
    ///
    /// # Errors
    ///
    /// Where it cannot be waited for.
    pub fn finish(mut self) -> Result<()> {
        eventually("all is read", || Ok(self.unread().context("a socket")? == "00000000"))?;
        // nfacctd ends with SIGINT only, nfcapd with either.
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The flows that nfcapd has written to a directory: what nfdump says of each, by its names.
///
/// # Errors
///
/// Where nfdump cannot read them.
pub fn nfdump(namespace: &Namespace, directory: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let text = namespace.run("nfdump", &["-R", directory, "-o", "raw"])?;
    let mut flows = Vec::new();
    for line in text.lines() {
        if line.starts_with("Flow Record") {
            flows.push(BTreeMap::new());
        } else if let Some((name, value)) = line.split_once(" = ")
            && let Some(flow) = flows.last_mut()
        {
            // What is in brackets repeats it in words.
            let value = value.split(" [").next().unwrap_or(value);
            flow.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    Ok(flows)
}

/// The records that nfacctd has written to a directory.
///
/// # Errors
///
/// Where a line is no JSON.
pub fn nfacctd_records(directory: &str) -> Result<Vec<Value>> {
    crate::export::records(&format!("{directory}/records.json"))
}

/// What ipfixDump says of the data records in a file of messages: by the names of elements, `reverse` before the other direction's.
///
/// # Errors
///
/// Where it finds them wrong.
pub fn dump(file: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let output = std::process::Command::new("ipfixDump")
        .args(["--rfc5610", "--data", "--in", file])
        .output()
        .context("starting ipfixDump: `apt-get install libfixbuf-tools`")?;
    let (text, said) =
        (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(output.status.success() && said.is_empty(), "ipfixDump: {said}");
    let mut records = Vec::new();
    for line in text.lines() {
        if line.starts_with("--- ") && line.contains("record") {
            records.push(BTreeMap::new());
        } else if let Some((field, value)) = line.split_once(" : ")
            && let Some(name) = field.rsplit(char::is_whitespace).next()
            && let Some(record) = records.last_mut()
        {
            let value = value.trim();
            // Texts have their length before them.
            let value = value.strip_prefix("(len: ").and_then(|rest| rest.split_once(") "));
            let whole = line.split_once(" : ").map_or("", |(_, value)| value.trim());
            let value = value.map_or(whole, |(_, text)| text);
            record.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(records)
}

/// A UDP port of 127.0.0.1 that writes every message to a file and passes it on to others.
#[derive(Debug)]
pub struct Tap {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Tap {
    /// Listens at `port`.
    ///
    /// # Errors
    ///
    /// Where it cannot.
    pub fn start(namespace: &Namespace, port: u16, file: &str, to: &'static [u16]) -> Result<Self> {
        let bind = |port| Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?);
        let socket = namespace.enter(|| bind(port))?;
        let passing = namespace.enter(|| bind(0))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut file = File::create(file)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut message = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                let length = match socket.recv(&mut message) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error.into()),
                };
                ensure!(length <= 1400, "a message of {length} bytes");
                file.write_all(&message[..length])?;
                for port in to {
                    passing.send_to(&message[..length], (Ipv4Addr::LOCALHOST, *port))?;
                }
            }
            Ok(())
        });
        Ok(Self { is_over, thread: Some(thread) })
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// What it has met.
    pub fn finish(mut self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a thread")?;
        thread.join().map_err(|_| anyhow::anyhow!("the tap panicked"))?
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// A TCP collector at 127.0.0.1 that writes each connection's messages to a file of its own, `0`, `1` and so on of a directory.
#[derive(Debug)]
pub struct Sink {
    listener: Arc<TcpListener>,
    manner: Arc<Manner>,
    connections: Arc<AtomicU64>,
    keeping: Arc<Mutex<Vec<JoinHandle<Result<()>>>>>,
}

/// What it does with its connections, and what wakes those that hang.
#[derive(Debug, Default)]
struct Manner(Mutex<Does>, Condvar);

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Does {
    #[default]
    Reads,
    Hangs,
    Ends,
}

impl Manner {
    fn set(&self, does: Does) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = does;
        self.1.notify_all();
    }

    /// Whether to read now; returns once it is known, and false where it is to end.
    fn reads(&self) -> bool {
        let does = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let does = self.1.wait_while(does, |does| *does == Does::Hangs);
        *does.unwrap_or_else(PoisonError::into_inner) == Does::Reads
    }
}

impl Sink {
    /// Listens at `port`.
    ///
    /// # Errors
    ///
    /// Where it cannot.
    pub fn start(namespace: &Namespace, port: u16, directory: &str) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let before = fs::read_dir(directory)?.count();
        let bound = namespace.enter(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?))?;
        let sink = Self {
            listener: Arc::new(bound),
            manner: Arc::default(),
            connections: Arc::default(),
            keeping: Arc::default(),
        };
        let (listener, manner) = (Arc::clone(&sink.listener), Arc::clone(&sink.manner));
        let (connections, keeping) = (Arc::clone(&sink.connections), Arc::clone(&sink.keeping));
        let directory = directory.to_owned();
        thread::spawn(move || -> Result<()> {
            for (at, stream) in listener.incoming().map_while(std::io::Result::ok).enumerate() {
                let file = File::create(format!("{directory}/{}", before + at))?;
                let manner = Arc::clone(&manner);
                let keeper = thread::spawn(move || keep(stream, file, &manner));
                keeping.lock().unwrap_or_else(PoisonError::into_inner).push(keeper);
                connections.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(sink)
    }

    /// From now on nothing is read.
    pub fn hang(&self) {
        self.manner.set(Does::Hangs);
    }

    /// Connections since its start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Ends it as its process's death would: nobody listens any more, and its kernel resets connections of which it has not read all.
    ///
    /// # Errors
    ///
    /// What the kernel says, or what it has met.
    pub fn kill(self) -> Result<()> {
        // Wakes the thread that accepts.
        SockRef::from(&*self.listener).shutdown(Shutdown::Both)?;
        self.manner.set(Does::Ends);
        let keeping =
            std::mem::take(&mut *self.keeping.lock().unwrap_or_else(PoisonError::into_inner));
        for keeper in keeping {
            keeper.join().map_err(|_| anyhow::anyhow!("the sink panicked"))??;
        }
        Ok(())
    }
}

fn keep(mut stream: TcpStream, mut file: File, manner: &Manner) -> Result<()> {
    let mut bytes = vec![0; 65_536];
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    while manner.reads() {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => file.write_all(&bytes[..length])?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
