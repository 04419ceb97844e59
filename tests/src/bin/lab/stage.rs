//! What all acts share: the namespaces, the agent, its events, the server, and what is known to have been done.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tracker_tests::{
    agent::Agent,
    lab::{INTERFACE, Pair},
    namespace::Namespace,
    segment::Segment,
    ss,
    wire::Wire,
};

use crate::{screen::Screen, sockets::Server, summary::Summary};

/// How long anything that must happen is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

/// How the agent is started: native XDP, and timeouts short enough to watch.
pub(crate) const ARGUMENTS: [&str; 14] = [
    "--interface",
    INTERFACE,
    "--xdp",
    "native",
    "--events",
    "violation",
    "--timeout-time-wait",
    "5",
    "--timeout-closed",
    "3",
    "--timeout-syn-sent",
    "5",
    "--sweep-interval",
    "0.2",
];

/// What was done, and so must have been seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// SYNs of different connections.
    pub(crate) begun: u64,
    /// Handshakes that came to their end.
    pub(crate) completed: u64,
    /// Connections refused.
    pub(crate) refused: u64,
    /// Connections closed by FINs.
    pub(crate) fin: usize,
    /// Connections ended by an RST.
    pub(crate) rst: usize,
    /// Handshakes left half done.
    pub(crate) abandoned: usize,
    /// Rules broken.
    pub(crate) violations: Vec<String>,
    /// Ends of connections whose state was compared with `ss`.
    pub(crate) compared: u32,
    /// Those whose state was the same.
    pub(crate) agreed: u32,
}

/// Packets that an interface has received and sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Packets {
    pub(crate) arrived: u64,
    pub(crate) left: u64,
}

impl Packets {
    pub(crate) fn since(self, start: Self) -> Self {
        Self { arrived: self.arrived - start.arrived, left: self.left - start.left }
    }
}

/// The laboratory, while the demonstration lasts. The agent goes before the namespaces do.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) screen: Screen,
    pub(crate) told: Told,
    pub(crate) agent: Agent,
    pub(crate) server: Server,
    pub(crate) pair: Pair,
    pub(crate) known: Known,
    /// Packets of the interface and of tracker when the agent had just been started.
    pub(crate) start: [Packets; 2],
    pub(crate) summary: Arc<Mutex<Summary>>,
    arriving: Wire,
    leaving: Wire,
}

impl Stage {
    pub(crate) fn new(screen: Screen, summary: Arc<Mutex<Summary>>) -> Result<Self> {
        let pair = Pair::with_addresses()?;
        // The interface counts a super-segment as one packet, and tracker the packets that it is. So it sends none.
        let lone = ["link", "set", INTERFACE, "gso_max_segs", "1"];
        pair.host.run("ip", &lone)?;
        let server = Server::start(&pair.host)?;
        let agent = Agent::start(&pair.host, &ARGUMENTS)?;
        let told = Told::by(&agent)?;
        let arriving = Wire::open(&pair.peer, INTERFACE)?;
        let leaving = Wire::open(&pair.host, INTERFACE)?;
        let start = packets(&pair.host, &agent)?;
        Ok(Self {
            screen,
            told,
            agent,
            server,
            pair,
            known: Known::default(),
            start,
            summary,
            arriving,
            leaving,
        })
    }

    pub(crate) fn sum_up(&self) -> MutexGuard<'_, Summary> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a segment arrive at the host.
    pub(crate) fn arrive(&self, segment: &Segment) -> Result<()> {
        self.arriving.send(&segment.frame())
    }

    /// Lets a segment leave the host.
    pub(crate) fn leave(&self, segment: &Segment) -> Result<()> {
        self.leaving.send(&segment.frame())
    }

    /// Lets a segment arrive so that the host's own stack takes it in.
    pub(crate) fn arrive_for_real(&self, segment: &Segment) -> Result<()> {
        let mut frame = segment.frame();
        frame[..6].copy_from_slice(&hardware_address(&self.pair.host)?);
        self.arriving.send(&frame)
    }

    /// Shows a command and what it prints.
    pub(crate) fn show(&self, arguments: &[&str]) -> Result<String> {
        let text = self.agent.ask(arguments)?;
        self.screen.command(&format!("tracker {}", arguments.join(" ")));
        self.screen.output(&text);
        Ok(text)
    }

    /// Waits until `tracker flows FILTER` is one flow in these states, and returns its line.
    pub(crate) fn in_states(&self, filter: &[&str], states: &str) -> Result<String> {
        let arguments = [&["flows"], filter].concat();
        let mut text = String::new();
        let seen = within(PATIENCE, || {
            text = self.agent.ask(&arguments)?;
            Ok(text.lines().count() == 1 && text.contains(&format!(" {states} ")))
        })?;
        ensure!(seen, "`tracker {}` was to say {states}, but says: {text}", arguments.join(" "));
        Ok(text)
    }

    /// Shows an event's line, and returns it.
    pub(crate) fn show_event(&mut self, kind: &str, about: &[String]) -> Result<String> {
        let line = self.told.wait(kind, about)?;
        self.screen.output(&line);
        Ok(line)
    }

    /// Waits until tracker and `ss` on both hosts say that a connection is in these states.
    pub(crate) fn compare(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        states: [&str; 2],
    ) -> Result<()> {
        let mut seen = Vec::new();
        let agreed = within(PATIENCE, || {
            // `ss` does not list what is closed.
            let socket = |namespace, local: SocketAddr, remote: SocketAddr| -> Result<String> {
                let of = (local.to_string(), remote.to_string());
                Ok(ss::states(namespace)?.remove(&of).unwrap_or_else(|| "CLOSED".to_owned()))
            };
            let flow = self.flow(client)?;
            seen = vec![
                flow["orig"]["state"].as_str().unwrap_or("?").to_owned(),
                flow["reply"]["state"].as_str().unwrap_or("?").to_owned(),
                socket(&self.pair.peer, client, server)?,
                socket(&self.pair.host, server, client)?,
            ];
            Ok(seen[..2] == states && seen[2..] == states)
        })?;
        self.known.compared += 2;
        self.known.agreed +=
            (0..2).map(|end| u32::from(seen.get(end) == seen.get(end + 2))).sum::<u32>();
        ensure!(
            agreed,
            "{client} and {server} were to be in {}/{}; tracker and `ss` say {seen:?}",
            states[0],
            states[1]
        );
        Ok(())
    }

    /// The confirmed flow, or else the only one, that `client` opened.
    pub(crate) fn flow(&self, client: SocketAddr) -> Result<Value> {
        let (ip, port) = (client.ip().to_string(), client.port().to_string());
        let mut flows = self.agent.flows(&["--src", &ip, "--sport", &port])?;
        if flows.len() > 1 {
            flows.retain(|flow| flow["tier"] == "confirmed");
        }
        ensure!(flows.len() == 1, "one flow from {client} was expected: {flows:?}");
        Ok(flows.remove(0))
    }

    /// Shows what `ss` says about a connection on both hosts.
    pub(crate) fn show_ss(&self, client: SocketAddr) -> Result<()> {
        for (name, namespace, side) in
            [("client", &self.pair.peer, "sport"), ("host", &self.pair.host, "dport")]
        {
            let filter = format!("{side} = :{}", client.port());
            let text = namespace.run("ss", &["-H", "-t", "-a", "-n", &filter])?;
            self.screen.command(&format!("ss -Htan '{filter}'   # on the {name}"));
            self.screen.output(if text.is_empty() { "(no socket: CLOSED)" } else { &text });
        }
        Ok(())
    }
}

/// Packets that the host's interface has counted, and those that tracker has, at one moment.
pub(crate) fn packets(host: &Namespace, agent: &Agent) -> Result<[Packets; 2]> {
    let mut both = None;
    let quiet = within(PATIENCE, || {
        let before = interface_packets(host)?;
        let counted = Packets {
            arrived: agent.packets(Some("in"), None)?,
            left: agent.packets(Some("out"), None)?,
        };
        both = Some([before, counted]);
        Ok(interface_packets(host)? == before)
    })?;
    ensure!(quiet, "the interface is never quiet");
    both.context("the packets were counted")
}

fn interface_packets(host: &Namespace) -> Result<Packets> {
    let link = link(host)?;
    let count = |way: &str| link["stats64"][way]["packets"].as_u64().context("a packet count");
    Ok(Packets { arrived: count("rx")?, left: count("tx")? })
}

/// What `ip` says about a host's end of the cable.
pub(crate) fn link(host: &Namespace) -> Result<Value> {
    let text = host.run("ip", &["-json", "-stats", "-details", "link", "show", INTERFACE])?;
    let links: Value = serde_json::from_str(&text)?;
    links.get(0).cloned().context("ip shows the interface")
}

fn hardware_address(host: &Namespace) -> Result<[u8; 6]> {
    let link = link(host)?;
    let text = link["address"].as_str().context("a hardware address")?;
    let bytes =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text} is no hardware address"))
}

/// What an agent of this name has left: its pinned maps and its socket.
pub(crate) fn left_behind(instance: &str) -> Vec<PathBuf> {
    let layouts = fs::read_dir("/sys/fs/bpf/tracker");
    layouts
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|layout| layout.path().join(instance))
        .chain([format!("/run/tracker/{instance}.sock").into()])
        .filter(|path| path.exists())
        .collect()
}

/// Calls `done` until it says so; false where it never does.
pub(crate) fn within(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let until = Instant::now() + patience;
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        thread::yield_now();
    }
}

/// A running `tracker events`, in its form for people.
#[derive(Debug)]
pub(crate) struct Told {
    child: Child,
    lines: Receiver<String>,
    /// All that was said.
    seen: Vec<String>,
}

impl Told {
    fn by(agent: &Agent) -> Result<Self> {
        let mut child =
            agent.command(&["events"])?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        let mut stderr = BufReader::new(child.stderr.take().context("stderr is a pipe")?);
        let mut first = String::new();
        stderr.read_line(&mut first)?;
        ensure!(first.trim() == "listening", "tracker events: {first}");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, seen: Vec::new() })
    }

    /// The first line of this kind that holds all of these words.
    pub(crate) fn wait(&mut self, kind: &str, about: &[String]) -> Result<String> {
        let mut read = 0;
        let mut found = None;
        self.until(|seen| {
            let fits = |line: &&String| is(line, kind) && about.iter().all(|word| has(line, word));
            found = seen[read..].iter().find(fits).cloned();
            read = seen.len();
            found.is_some()
        })?;
        found.with_context(|| format!("`tracker events` was to say [{kind}] {}", about.join(" ")))
    }

    /// Waits until so many lines of this kind that hold `word` have come; false where they never do.
    pub(crate) fn wait_for(&mut self, count: usize, kind: &str, word: &str) -> Result<bool> {
        let (mut read, mut found) = (0, 0);
        self.until(|seen| {
            found += seen[read..].iter().filter(|line| is(line, kind) && has(line, word)).count();
            read = seen.len();
            found >= count
        })
    }

    /// Reads on until `done` is content with all that was said; false where it never is.
    fn until(&mut self, mut done: impl FnMut(&[String]) -> bool) -> Result<bool> {
        let until = Instant::now() + PATIENCE;
        while !done(&self.seen) {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => bail!("`tracker events` ended"),
                Err(RecvTimeoutError::Timeout) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// How many have come until now.
    pub(crate) fn count(&mut self, kind: &str, word: &str) -> usize {
        self.seen.extend(self.lines.try_iter());
        self.seen.iter().filter(|line| is(line, kind) && has(line, word)).count()
    }
}

fn is(line: &str, kind: &str) -> bool {
    line.split(' ').nth(1).is_some_and(|word| word == format!("[{kind}]"))
}

fn has(line: &str, word: &str) -> bool {
    word.is_empty() || line.split(' ').any(|other| other == word)
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// The words that name a connection in an event's line.
pub(crate) fn named(client: SocketAddr, server: SocketAddr) -> Vec<String> {
    vec![
        format!("src={}", client.ip()),
        format!("sport={}", client.port()),
        format!("dport={}", server.port()),
    ]
}
