//! docs/from-conntrack.md: `conntrack` and `tracker` print the same lines of the same connections.

use std::{
    env,
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use socket2::Socket;
use tracker_tests::{
    agent::{Agent, eventually},
    lab::{INTERFACE, Pair, address},
    namespace::Namespace,
    nft,
    pairs::pairs,
    sockets::{accept, bound, listener, start_connecting, transfer},
};

/// A rule that asks for a packet's state is what makes a namespace track.
const RULES: &str = "
table inet from_conntrack {
    chain input {
        type filter hook input priority filter; policy accept;
        ct state invalid counter
    }
}
";

/// A host whose connections are in every state that lasts.
struct Laboratory {
    pair: Pair,
    agent: Agent,
    _sockets: Vec<Socket>,
}

impl Laboratory {
    fn new() -> Result<Self> {
        let pair = Pair::with_addresses()?;
        pair.without_offloads()?;
        nft::load(&pair.host, RULES)?;
        pair.host.sysctl("net/netfilter/nf_conntrack_acct", "1")?;
        let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--events", "all"])?;
        let mut lab = Self { pair, agent, _sockets: Vec::new() };
        lab.connect()?;
        Ok(lab)
    }

    fn connect(&mut self) -> Result<()> {
        let [peer_v4, peer_v6] = address::PEER;
        let servers = [(peer_v4, 80), (peer_v4, 443), (peer_v6, 80)].map(SocketAddr::from);
        let listeners = servers.map(|at| listener(&self.pair.peer, at));
        let [host_v4, host_v6] = address::HOST;
        let (mut port, mut sockets) = (40_000, Vec::new());
        let mut open = |n: usize| -> Result<[Socket; 2]> {
            port += 1;
            let local = SocketAddr::new(if n == 2 { host_v6 } else { host_v4 }, port);
            let client = bound(&self.pair.host, local)?;
            client.connect(&servers[n].into())?;
            let listener = listeners[n].as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            let server = accept(listener, local)?;
            transfer(&client, &server, 1000)?;
            Ok([client, server])
        };
        // Open, over either family and to either port.
        for n in 0..3 {
            sockets.extend(open(n)?);
        }
        // Half-closed.
        let [client, server] = open(0)?;
        client.shutdown(std::net::Shutdown::Write)?;
        sockets.extend([client, server]);
        // Closed, first by the host.
        let [client, server] = open(1)?;
        client.shutdown(std::net::Shutdown::Write)?;
        server.shutdown(std::net::Shutdown::Write)?;
        drop((client, server));
        // Reset.
        let [client, server] = open(2)?;
        client.set_linger(Some(std::time::Duration::ZERO))?;
        drop((client, server));
        // Not answered: nobody has the hardware address.
        let nobody: SocketAddr = "10.9.0.77:80".parse()?;
        let neighbour =
            ["neigh", "add", "10.9.0.77", "lladdr", "02:00:00:00:00:77", "dev", INTERFACE];
        self.pair.host.run("ip", &neighbour)?;
        let client = bound(&self.pair.host, SocketAddr::new(host_v4, 41_000))?;
        start_connecting(&client, nobody)?;
        sockets.push(client);
        sockets.extend(listeners.into_iter().collect::<Result<Vec<_>>>()?);
        self._sockets = sockets;
        Ok(())
    }
}

/// A line without the seconds that are left, which follow the protocol's number.
fn without_seconds(line: &str) -> String {
    let mut words: Vec<_> = line.split(' ').collect();
    let seconds = words.iter().position(|word| *word == "6").map(|at| at + 1);
    if let Some(seconds) = seconds.and_then(|at| words.get_mut(at)) {
        *seconds = "N";
    }
    words.join(" ")
}

/// The lines of `conntrack` or `tracker`, in order.
fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(without_seconds).collect();
    lines.sort();
    lines
}

fn run(namespace: &Namespace, command: &str) -> Result<String> {
    let mut words = command.split(' ');
    let program = words.next().context("a program")?;
    namespace.run(program, &words.collect::<Vec<_>>())
}

#[test]
fn both_print_the_same_lines() -> Result<()> {
    let lab = Laboratory::new()?;
    let mut states = Vec::new();
    let pairs = pairs("from-conntrack.md")?;
    ensure!(pairs.len() >= 9, "{} pairs", pairs.len());
    for (theirs, ours) in &pairs {
        let arguments: Vec<_> = ours.split(' ').skip(1).collect();
        let mut last = (Vec::new(), Vec::new());
        // Acknowledgments are on their way, and a SYN comes again between the one and the other.
        let same = eventually(ours, || {
            last = (lines(&run(&lab.pair.host, theirs)?), lines(&lab.agent.ask(&arguments)?));
            Ok(last.0 == last.1 && !last.0.is_empty())
        });
        same.with_context(|| {
            format!("{theirs}\n{}\n{ours}\n{}", last.0.join("\n"), last.1.join("\n"))
        })?;
        states.extend(last.0.iter().filter_map(|line| line.split(' ').nth(8).map(str::to_owned)));
    }
    states.sort();
    states.dedup();
    for state in ["CLOSE", "CLOSE_WAIT", "ESTABLISHED", "SYN_SENT", "TIME_WAIT"] {
        ensure!(states.iter().any(|seen| seen == state), "nothing was in {state}: {states:?}");
    }
    println!("{} pairs of commands print the same lines, of {states:?}", pairs.len());
    Ok(())
}

/// A program that writes lines into a file.
struct Watching {
    child: Child,
    file: PathBuf,
}

impl Watching {
    fn start(mut command: Command, name: &str) -> Result<Self> {
        let file = env::temp_dir().join(format!("tracker-{name}-{}", std::process::id()));
        let child = command.stdout(File::create(&file)?).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context(name.to_owned())?, file })
    }

    /// Its lines about this port, in order of time.
    fn of(&self, port: u16) -> Result<Vec<String>> {
        let word = format!("sport={port} ");
        let text = fs::read_to_string(&self.file)?;
        Ok(text.lines().filter(|line| line.contains(&word)).map(without_seconds).collect())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}

#[test]
fn events_have_the_same_form() -> Result<()> {
    let lab = Laboratory::new()?;
    let mut theirs = lab.pair.host.command("conntrack");
    theirs.args(["-E", "-p", "tcp"]);
    let theirs = Watching::start(theirs, "conntrack")?;
    let ours = Watching::start(lab.agent.command(&["events", "-o", "conntrack"])?, "events")?;
    let [host, _] = address::HOST;
    let server = SocketAddr::new(address::PEER[0], 8080);
    let listener = listener(&lab.pair.peer, server)?;
    let connect = |port| -> Result<()> {
        let client = bound(&lab.pair.host, SocketAddr::new(host, port))?;
        client.connect(&server.into())?;
        accept(&listener, SocketAddr::new(host, port)).map(drop)
    };
    // Both are listening once they have written of a connection.
    let mut port = 42_000;
    eventually("both listen", || {
        port += 1;
        connect(port)?;
        Ok(!theirs.of(port)?.is_empty() && !ours.of(port)?.is_empty())
    })?;
    let port = 43_000;
    connect(port)?;
    let is_open = |line: &String| line.contains("ESTABLISHED");
    eventually("both write of it", || {
        Ok(theirs.of(port)?.iter().any(is_open) && ours.of(port)?.iter().any(is_open))
    })?;
    for said in ["[NEW]", "ESTABLISHED"] {
        let line = |watching: &Watching| -> Result<String> {
            let all = watching.of(port)?;
            all.into_iter().find(|line| line.contains(said)).context(said)
        };
        assert_eq!(line(&theirs)?, line(&ours)?);
    }
    // Who is closed on both sides is gone from the one table by and by, from the other on demand.
    lab.pair.host.run("conntrack", &["-D", "-p", "tcp", "--sport", &port.to_string()])?;
    lab.agent.ask(&["delete", "sport", &port.to_string()])?;
    let gone = |watching: &Watching| -> Result<Option<String>> {
        Ok(watching.of(port)?.into_iter().find(|line| line.contains("[DESTROY]")))
    };
    eventually("it is gone from both", || Ok(gone(&theirs)?.is_some() && gone(&ours)?.is_some()))?;
    let (theirs, ours) = (gone(&theirs)?.context("theirs")?, gone(&ours)?.context("ours")?);
    // The kernel adds who has deleted it.
    assert_eq!(theirs.split(" [USERSPACE]").next(), Some(ours.as_str()));
    Ok(())
}
