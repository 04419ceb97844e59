//! `cargo xtask bench path`: a bulk transfer over a path of 50 ms, on connections that SYN cookies opened and on others.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tracker_tests::{
    agent::{Agent, PATIENCE},
    lab::{INTERFACE, Pair, address},
    namespace::Namespace,
    offload::{Offload, set_offload},
    sockets::{listener, set_patience},
    wire::Wire,
};

use crate::{machine, section, spread::Spread, table::Table};

const COMMAND: &str = "cargo xtask bench path";
const PORT: u16 = 80;

/// Half of a round trip.
const DELAY: Duration = Duration::from_millis(25);
/// Bytes of a transfer.
const BYTES: usize = 24 << 20;
const ROUNDS: usize = 5;

/// Names of the middle's interfaces, to the host and to the peer.
const MIDDLE: [&str; 2] = ["host", "peer"];

/// Who answers SYNs.
#[derive(Clone, Copy, Debug)]
enum Contender {
    Kernel,
    KernelCookies,
    Tracker,
}

impl Contender {
    const ALL: [Self; 3] = [Self::Kernel, Self::KernelCookies, Self::Tracker];

    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel, no cookies",
            Self::KernelCookies => "kernel, `tcp_syncookies=2`",
            Self::Tracker => "tracker, `--syn-cookies always`",
        }
    }
}

/// Measures, prints the section, and writes it into docs/performance.md.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn path() -> Result<()> {
    let machine = machine::describe();
    let lanes: Vec<Lane> = Contender::ALL.into_iter().map(Lane::new).collect::<Result<_>>()?;
    let mut table =
        Table::new(&["Contender", "with timestamps, Mbit/s", "without, Mbit/s", "window scales"]);
    let mut figures = vec![[Vec::new(), Vec::new()]; lanes.len()];
    let mut scales = vec![String::new(); lanes.len()];
    for _ in 0..ROUNDS {
        for (n, lane) in lanes.iter().enumerate() {
            for (timestamps, figures) in ["1", "0"].into_iter().zip(&mut figures[n]) {
                lane.pair.peer.sysctl("net/ipv4/tcp_timestamps", timestamps)?;
                let (seconds, scale) = lane.transfer().with_context(|| lane.contender.name())?;
                #[allow(clippy::cast_precision_loss)] // a few million
                figures.push(BYTES as f64 * 8.0 / 1e6 / seconds);
                if !scales[n].contains(&scale) {
                    let separator = if scales[n].is_empty() { "" } else { "; " };
                    scales[n] += &format!("{separator}{scale}");
                }
            }
        }
    }
    for ((lane, figures), scales) in lanes.iter().zip(figures).zip(scales) {
        let [with, without] = figures.map(|figures| {
            Spread::of(figures).map_or_else(String::new, |spread| {
                format!("{:.0} ({:.0} to {:.0})", spread.median, spread.least, spread.most)
            })
        });
        table.row([lane.contender.name().to_owned(), with, without, scales]);
    }
    let text = format!(
        "## A path of 50 ms\n\n{machine}\nWritten by the command above.\n\n\
         A server sends {} MiB to a client that has just connected. Between them a process holds every frame back for\n25 ms \
         each way; nothing is offloaded, and nothing lost. {ROUNDS} rounds in which the contenders take turns, with a\nclient \
         that has timestamps and one that has not; medians, in brackets the least and the most. *Window scales* are\nthose \
         that `ss` shows on the server, the client's first.\n\n{}",
        BYTES >> 20,
        table.into_text()
    );
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    section::write(&page, "path", COMMAND, &text)?;
    eprintln!("Written to docs/performance.md.");
    Ok(())
}

/// A server, a client, and a slow path between them.
struct Lane {
    // First, because it ends first.
    _path: SlowPath,
    contender: Contender,
    pair: Pair,
    listener: TcpListener,
    _agent: Option<Agent>,
    _far: Agent,
    _middle: Namespace,
}

impl Lane {
    fn new(contender: Contender) -> Result<Self> {
        let middle = Namespace::new()?;
        let pair = Pair::around(&middle, MIDDLE)?;
        for namespace in [&pair.host, &pair.peer] {
            for offload in [Offload::Tso, Offload::Gso, Offload::TxChecksum] {
                set_offload(namespace, INTERFACE, offload, false)?;
            }
        }
        // A veth takes what XDP sends where it runs a program itself. But what it merges then could not be sent on.
        middle.run("ip", &["link", "set", "dev", MIDDLE[0], "gro_max_size", "1500"])?;
        let far = Agent::start(&middle, &["--interface", MIDDLE[0]])?;
        let path = SlowPath::between(&middle)?;
        if matches!(contender, Contender::KernelCookies) {
            pair.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
        }
        let agent = if matches!(contender, Contender::Tracker) {
            let options = ["--interface", INTERFACE, "--protect", "80", "--syn-cookies", "always"];
            let agent = Agent::start(&pair.host, &options)?;
            agent.wait_for_log("listeners are protected")?;
            Some(agent)
        } else {
            None
        };
        let listener = listener(&pair.host, SocketAddr::new(address::HOST[0], PORT))?.into();
        Ok(Self {
            contender,
            pair,
            listener,
            _agent: agent,
            _far: far,
            _path: path,
            _middle: middle,
        })
    }

    /// Seconds that a transfer takes, and the window scales of its connection.
    fn transfer(&self) -> Result<(f64, String)> {
        let server = SocketAddr::new(address::HOST[0], PORT);
        let mut near =
            self.pair.peer.enter(|| Ok(TcpStream::connect_timeout(&server, PATIENCE)?))?;
        near.set_read_timeout(Some(PATIENCE))?;
        // With the kernel's cookies, the connection is there once the client has said something.
        near.write_all(b"?")?;
        let (far, _) = self.listener.accept()?;
        set_patience(&far.try_clone()?.into(), PATIENCE)?;
        let mut far = far;
        far.read_exact(&mut [0; 1])?;
        let sockets =
            self.pair.host.run("ss", &["-H", "-t", "-i", "-n", "-O", "state", "established"])?;
        let scale = sockets
            .split_whitespace()
            .find_map(|word| word.strip_prefix("wscale:"))
            .unwrap_or("none")
            .replace(',', ", ");
        let started = Instant::now();
        let sending = thread::spawn(move || -> Result<TcpStream> {
            far.write_all(&vec![7; BYTES])?;
            Ok(far)
        });
        near.read_exact(&mut vec![0; BYTES])?;
        let took = started.elapsed();
        drop(sending.join().ok().context("the server panicked")??);
        Ok((took.as_secs_f64(), scale))
    }
}

/// A process between two interfaces that holds every frame back.
struct SlowPath {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl SlowPath {
    fn between(middle: &Namespace) -> Result<Self> {
        let wires = [Wire::receiver(middle, MIDDLE[0])?, Wire::receiver(middle, MIDDLE[1])?];
        for wire in &wires {
            wire.set_room(64 << 20)?;
        }
        let ends = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ends);
        let thread = thread::spawn(move || forward(&wires, &asked));
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for SlowPath {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the slow path ended early: {error:#}");
        }
    }
}

fn forward(wires: &[Wire; 2], ends: &AtomicBool) -> Result<()> {
    let mut held: [VecDeque<(Instant, Vec<u8>)>; 2] = Default::default();
    let mut buffer = vec![0; 70_000];
    while !ends.load(Ordering::Relaxed) {
        let mut is_idle = true;
        for (n, held) in held.iter_mut().enumerate() {
            while let Some(length) = wires[n].try_receive(&mut buffer)? {
                held.push_back((Instant::now() + DELAY, buffer[..length].to_vec()));
            }
            while held.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                if let Some((_, frame)) = held.pop_front() {
                    wires[1 - n].send(&frame)?;
                    is_idle = false;
                }
            }
        }
        if is_idle {
            thread::sleep(Duration::from_micros(200));
        }
    }
    Ok(())
}
