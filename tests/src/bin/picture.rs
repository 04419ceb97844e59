//! `picture FILE [SECONDS]`: writes the picture of `tracker top` that README.md shows, as an SVG.
//!
//! It makes a laboratory of two network namespaces with real connections, follows them for SECONDS (34, 8 at least) with
//! `tracker top` on a pseudo-terminal, and draws the last screen. It needs root, and touches nothing outside its
//! namespaces. `cargo xtask docs` runs it.

use std::{
    collections::VecDeque,
    env, fs,
    net::{Shutdown, SocketAddr},
    process::ExitCode,
};

use anyhow::{Context, Result};
use socket2::Socket;
use tracker_tests::{
    agent::Agent,
    lab::{INTERFACE, Pair, address},
    segment::{
        Segment,
        flag::{ACK, PSH, RST, SYN},
    },
    sockets::{accept, bound, listener, transfer},
    svg::svg,
    terminal::Terminal,
    wire::Wire,
};

/// Rows and columns of the terminal: from 120 columns on, `tracker top` shows everything.
const SIZE: (u16, u16) = (30, 132);

/// Seconds, which the plots need to be full. `tracker top` refreshes once a second.
const SECONDS: u16 = 34;

/// Seconds for all that the picture shows besides plots.
const LEAST: u16 = 8;

/// The ports of the three servers.
const PORTS: [u16; 3] = [22, 80, 443];

/// SYNs that nobody has answered yet, one number a second, again and again.
const UNANSWERED: [u16; 12] = [0, 1, 3, 5, 8, 9, 7, 8, 4, 2, 1, 1];

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (file, seconds) = (arguments.next(), arguments.next());
    let seconds = seconds.map_or(Ok(SECONDS), |seconds| seconds.parse());
    let (Some(file), Ok(seconds @ LEAST..=120)) = (file, seconds) else {
        eprintln!("usage: picture FILE [SECONDS, from {LEAST} to 120]");
        return ExitCode::from(2);
    };
    let drawn = draw(seconds)
        .and_then(|svg| fs::write(&file, svg).with_context(|| format!("writing {file}")));
    match drawn {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("picture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn draw(seconds: u16) -> Result<String> {
    let scene = Scene::new()?;
    let long = scene.long_connections()?;
    let mut top = Terminal::start(&scene.agent, SIZE, false, &["top"])?;
    let mut screen = top.until("flows", |screen| screen.contains("ESTAB/ESTAB"))?;
    let mut unanswered = VecDeque::new();
    for second in 0..seconds {
        scene.short_connections(second)?;
        scene.handshakes(second, &mut unanswered)?;
        for ((client, server), bytes) in long.iter().zip([48_000, 9_000, 1_200]) {
            transfer(server, client, bytes)?;
            transfer(client, server, bytes / 20)?;
        }
        match seconds - second {
            7 => scene.forge(ACK, 400_000_000)?,
            5 => scene.forge(RST, 0)?,
            2 => scene.forge(PSH | ACK, 900_000_000)?,
            _ => {}
        }
        // One step a refresh, so that rates and plots are the same in each run. The first line has the time.
        let title = screen.lines().next().unwrap_or_default().to_owned();
        screen = top.until("the next refresh", |screen| screen.lines().next() != Some(&title))?;
    }
    top.until("the last violation", |screen| screen.contains("seq_out_of_window"))?;
    // A paused screen changes by keys only, and the prompt on its last line is drawn last: then all of it is there.
    top.press("p")?;
    top.until("a pause", |screen| screen.contains("PAUSED"))?;
    top.press("/")?;
    top.until("a prompt", |screen| screen.contains("filter:"))?;
    top.press("\x1b")?;
    top.until("the keys", |screen| screen.contains("q quit"))?;
    let svg = svg(
        top.screen(),
        "tracker top: rates, plots of half-open connections and TIME_WAIT, a protected listener, flows with both states, \
         violations",
    );
    top.press("q")?;
    top.end()?;
    let lines = svg.lines().filter(|line| !line.contains(">PAUSED<"));
    let lines: Vec<_> = lines.map(|line| line.replace(scene.agent.name(), "default")).collect();
    Ok(lines.join("\n") + "\n")
}

/// Two hosts, servers on one of them, and its agent. The agent goes before the namespaces do.
struct Scene {
    agent: Agent,
    servers: Vec<Socket>,
    arriving: Wire,
    leaving: Wire,
    pair: Pair,
}

impl Scene {
    fn new() -> Result<Self> {
        let pair = Pair::with_addresses()?;
        let host = address::HOST[0];
        let servers = PORTS
            .iter()
            .map(|port| listener(&pair.host, SocketAddr::new(host, *port)))
            .collect::<Result<_>>()?;
        let options = ["--interface", INTERFACE, "--xdp", "native", "--protect", "443"];
        let timeouts = ["--timeout-time-wait", "12", "--timeout-closed", "1"];
        let agent = Agent::start(&pair.host, &[&options[..], &timeouts].concat())?;
        let arriving = Wire::open(&pair.peer, INTERFACE)?;
        let leaving = Wire::open(&pair.host, INTERFACE)?;
        Ok(Self { agent, servers, arriving, leaving, pair })
    }

    /// A connection from this port to that server: both its ends.
    fn connect(&self, port: u16, server: usize) -> Result<(Socket, Socket)> {
        let local = SocketAddr::new(address::PEER[0], port);
        let client = bound(&self.pair.peer, local)?;
        client.connect(&SocketAddr::new(address::HOST[0], PORTS[server]).into())?;
        Ok((client, accept(&self.servers[server], local)?))
    }

    /// Three that stay open, and two of which one end has closed its half.
    fn long_connections(&self) -> Result<Vec<(Socket, Socket)>> {
        let mut all = [(50_122, 2), (50_087, 1), (50_014, 0), (50_131, 1), (50_140, 2)]
            .into_iter()
            .map(|(port, server)| self.connect(port, server))
            .collect::<Result<Vec<_>>>()?;
        all[3].0.shutdown(Shutdown::Write)?;
        all[4].1.shutdown(Shutdown::Write)?;
        // The last two stay as they are, with both ends held open.
        for (client, server) in all.drain(3..) {
            std::mem::forget((client, server));
        }
        Ok(all)
    }

    /// Some that are opened, used and closed.
    fn short_connections(&self, second: u16) -> Result<()> {
        for number in 0..[1, 2, 4, 2, 1][usize::from(second % 5)] {
            let (client, server) = self.connect(51_000 + second * 8 + number, 2)?;
            transfer(&client, &server, 300)?;
            transfer(&server, &client, 2_000)?;
        }
        Ok(())
    }

    /// As many SYNs without an answer as [`UNANSWERED`] says, which are refused some time later.
    fn handshakes(&self, second: u16, unanswered: &mut VecDeque<u16>) -> Result<()> {
        let wanted = usize::from(UNANSWERED[usize::from(second) % UNANSWERED.len()]);
        let (mut next, server) =
            (53_000 + second * 16, SocketAddr::new(address::HOST[0], PORTS[0]));
        while unanswered.len() < wanted {
            let client = SocketAddr::new(address::PEER[0], next);
            self.arriving.send(&Segment::new(client, server, SYN, 1, 0).frame())?;
            unanswered.push_back(next);
            next += 1;
        }
        while unanswered.len() > wanted {
            let Some(port) = unanswered.pop_front() else { break };
            let client = SocketAddr::new(address::PEER[0], port);
            self.leaving.send(&Segment::new(server, client, RST | ACK, 0, 2).frame())?;
        }
        Ok(())
    }

    /// A forged segment of a connection that is open.
    fn forge(&self, flags: u16, offset: u32) -> Result<()> {
        let client = SocketAddr::new(address::PEER[0], 50_014);
        let server = SocketAddr::new(address::HOST[0], PORTS[0]);
        let flow = self.agent.flows(&["--sport", "50014"])?;
        let number = |end: &str, what: &str| {
            let number = flow.first().and_then(|flow| flow[end][what].as_u64());
            number.and_then(|number| u32::try_from(number).ok()).context("a sequence number")
        };
        let (seq, ack) = (number("orig", "seq")?, number("reply", "seq")?);
        let segment = match flags {
            // An acknowledgment of data that was never sent.
            ACK => Segment::new(client, server, ACK, seq, ack.wrapping_add(offset)),
            // A blind reset, and blind data.
            RST => Segment::new(client, server, RST, seq.wrapping_add(500_000_000), 0),
            _ => Segment::new(client, server, flags, seq.wrapping_add(offset), ack).data(10),
        };
        self.arriving.send(&segment.frame())
    }
}
