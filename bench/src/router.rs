//! A router between clients and a server, with tracker, nf_conntrack, both or nothing on it.

use std::{
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use tracker_tests::{agent::Agent, namespace::Namespace};

use crate::{
    cable::{End, hardware_address, join, quiet_namespace},
    counters::received,
    cpu::{Cores, Task, URGENT},
    programs::OBJECT,
    script::{ANSWER, CLOSE, CLOSE_TOO, CONFIRM, DONE, Load, OPEN, Sender, UPDATE},
};

static ROUTERS: AtomicU32 = AtomicU32::new(0);

/// Handshakes pass at this rate, in segments a second, so that none is lost.
const GENTLE: u64 = 100_000;

/// Handshakes that are under way at once.
const CHUNK: usize = 20_000;

/// How often handshakes are sent at most.
const ATTEMPTS: usize = 4;

/// What makes a namespace track: a rule that asks for a packet's state.
const RULE: &str = "table ip bench {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state established,related accept
    }
}";

/// Who looks at what the router forwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trackers {
    /// `tracker run` on both interfaces.
    pub(crate) tracker: bool,
    /// A rule of nft that asks for the state of each packet.
    pub(crate) conntrack: bool,
    /// An XDP program on both interfaces that only passes packets on.
    pub(crate) passing: bool,
}

impl Trackers {
    /// Nobody.
    pub(crate) const NOTHING: Self = Self { tracker: false, conntrack: false, passing: false };

    /// All that are compared, nothing first.
    pub(crate) const ALL: [Self; 5] = [
        Self::NOTHING,
        Self { passing: true, ..Self::NOTHING },
        Self { tracker: true, ..Self::NOTHING },
        Self { conntrack: true, ..Self::NOTHING },
        Self { tracker: true, conntrack: true, ..Self::NOTHING },
    ];

    /// Its name in a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self { passing: true, .. } => "XDP that only passes",
            Self { tracker: true, conntrack: true, .. } => "both",
            Self { tracker: true, .. } => "tracker",
            Self { conntrack: true, .. } => "nf_conntrack",
            Self { .. } => "nothing",
        }
    }
}

/// Attaches an XDP program that only passes packets on, for as long as what is returned is there.
///
/// # Errors
///
/// Where the kernel refuses.
pub(crate) fn pass_on(namespace: &Namespace, interfaces: &[&str]) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(OBJECT).context("loading a program that passes")?;
    let program: &mut Xdp = ebpf.program_mut("pass").context("no program pass")?.try_into()?;
    program.load()?;
    for interface in interfaces {
        namespace.enter(|| Ok(program.attach(interface, XdpMode::Driver)?))?;
    }
    Ok(ebpf)
}

/// Three namespaces in a row.
#[derive(Debug)]
pub(crate) struct Router {
    agent: Option<Agent>,
    _passing: Option<Ebpf>,
    trackers: Trackers,
    namespace: Namespace,
    receiver: Task,
    ends: [End; 2],
    senders: [Sender; 2],
    cores: Cores,
}

/// What a load was to the router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    /// Packets that came out at the other side.
    pub(crate) forwarded: f64,
    /// How long the router's receiver ran for them, in seconds.
    pub(crate) busy: f64,
    /// How long it took until the last one was through, in seconds.
    pub(crate) took: f64,
}

impl Router {
    /// Sets one up. `options` are further ones of `tracker run`.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn new(cores: Cores, trackers: Trackers, options: &[&str]) -> Result<Self> {
        let number = ROUTERS.fetch_add(1, Ordering::Relaxed) % 1_000;
        let name = |end: &str| format!("g{}{end}{number}", process::id());
        let namespace = quiet_namespace()?;
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        let (mut ends, mut inner) = (Vec::new(), Vec::new());
        for (side, outside, inside) in [(1, name("l"), name("p")), (2, name("r"), name("q"))] {
            let beyond = quiet_namespace()?;
            join((&beyond, &outside), (&namespace, &inside))?;
            let receiver = Task::receiver_of(&outside)?;
            receiver.pin(cores.generator)?;
            receiver.be_nice(URGENT)?;
            let hardware = hardware_address(&beyond, &outside)?;
            let ip = |words: &str| namespace.run("ip", &words.split(' ').collect::<Vec<_>>());
            let gateway = hardware.map(|byte| format!("{byte:02x}")).join(":");
            ip(&format!("addr add 192.168.{side}.1/24 dev {inside}"))?;
            ip(&format!("neigh add 192.168.{side}.2 lladdr {gateway} dev {inside} nud permanent"))?;
            ip(&format!("route add 10.{side}.0.0/16 via 192.168.{side}.2"))?;
            Task::receiver_of(&inside)?.pin(cores.server)?;
            inner.push((hardware_address(&namespace, &inside)?, inside));
            ends.push(End { namespace: beyond, interface: outside, receiver, hardware });
        }
        if trackers.conntrack {
            namespace.run("nft", &[RULE])?;
            // A network card would have verified the checksums.
            namespace.sysctl("net/netfilter/nf_conntrack_checksum", "0")?;
        }
        let [left, right]: [End; 2] = ends.try_into().ok().context("two ends")?;
        let [(to_left, inside), (to_right, other)] = &inner[..] else {
            anyhow::bail!("two interfaces")
        };
        let agent = if trackers.tracker {
            let on = ["--interface", inside, "--interface", other, "--xdp", "native"];
            let agent = Agent::start(&namespace, &[&on[..], options].concat())?;
            // What it does now and then is not what is measured.
            Task::process(agent.pid())?.pin(cores.generator)?;
            Some(agent)
        } else {
            None
        };
        let passing =
            if trackers.passing { Some(pass_on(&namespace, &[inside, other])?) } else { None };
        let senders = [Sender::new(&left, *to_left)?, Sender::new(&right, *to_right)?];
        let receiver = Task::receiver_of(inside)?;
        Ok(Self {
            trackers,
            agent,
            _passing: passing,
            namespace,
            receiver,
            ends: [left, right],
            senders,
            cores,
        })
    }

    /// Lets the handshakes of so many flows through, until they are established for those who look.
    ///
    /// # Errors
    ///
    /// Where it cannot be sent, or one of a hundred was lost.
    pub(crate) fn establish(&mut self, first: u64, flows: u64) -> Result<()> {
        let mut least = 0;
        // What was lost comes again, as it would from hosts.
        for _ in 0..ATTEMPTS {
            // Fewer at once than may be half-open.
            for from in (first..first + flows).step_by(CHUNK) {
                let count = (first + flows - from).min(u64::try_from(CHUNK)?);
                let load = Load {
                    first: from,
                    flows: count,
                    turns: 0,
                    segments: count,
                    rate: Some(GENTLE),
                };
                for (side, step) in [(0, OPEN), (1, ANSWER), (0, CONFIRM), (1, UPDATE)] {
                    let namespace = &self.ends[side].namespace;
                    self.senders[side].send(namespace, self.cores.generator, &[step], load)?;
                    self.settle(1 - side)?;
                }
            }
            let established = self.established()?;
            least = established.into_iter().flatten().min().unwrap_or(u64::MAX);
            if least >= first + flows {
                return Ok(());
            }
        }
        ensure!(
            least >= (first + flows) * 99 / 100,
            "of {flows} handshakes {least} were seen: the machine has too much other work to do"
        );
        Ok(())
    }

    /// Opens connections from number `first` on and closes them again, segments at a rate, for a while. Returns how many there were,
    /// and how long it took. What is lost does not come again.
    ///
    /// # Errors
    ///
    /// Where they cannot be sent.
    pub(crate) fn live_and_die(
        &mut self,
        first: u64,
        segments_a_second: u64,
        least: Duration,
    ) -> Result<(u64, Duration)> {
        let steps = [(0, OPEN), (1, ANSWER), (0, CONFIRM), (0, CLOSE), (1, CLOSE_TOO), (0, DONE)];
        let crowd = u64::try_from(CHUNK)?;
        let started = Instant::now();
        for crowds in 0.. {
            let took = started.elapsed();
            if took >= least {
                return Ok((crowds * crowd, took));
            }
            let load = Load {
                first: first + crowds * crowd,
                flows: crowd,
                turns: 0,
                segments: crowd,
                rate: Some(segments_a_second),
            };
            for (side, step) in steps {
                let namespace = &self.ends[side].namespace;
                self.senders[side].send(namespace, self.cores.generator, &[step], load)?;
            }
        }
        unreachable!("there is always another crowd")
    }

    /// The agent, where there is one.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// Where tracker's maps are pinned.
    pub(crate) fn pins(&self) -> Option<PathBuf> {
        let version = tracker_common::LAYOUT_VERSION;
        let agent = self.agent.as_ref()?;
        Some(format!("/sys/fs/bpf/tracker/v{version}/{}", agent.name()).into())
    }

    /// How many flows the one that looks knows.
    ///
    /// # Errors
    ///
    /// Where it does not say.
    pub(crate) fn flows(&self) -> Result<u64> {
        self.established()?.into_iter().flatten().min().context("nobody looks")
    }

    /// How many flows tracker has confirmed, and nf_conntrack remembers, where they look.
    ///
    /// # Errors
    ///
    /// Where they do not say.
    fn established(&self) -> Result<[Option<u64>; 2]> {
        let tracker = match &self.agent {
            Some(agent) => {
                let stats = agent.stats()?;
                let count = stats["flows"]["confirmed"].as_u64();
                Some(count.with_context(|| format!("no flows in {stats}"))?)
            }
            None => None,
        };
        let conntrack = if self.trackers.conntrack {
            let text =
                self.namespace.run("cat", &["/proc/sys/net/netfilter/nf_conntrack_count"])?;
            Some(text.trim().parse()?)
        } else {
            None
        };
        Ok([tracker, conntrack])
    }

    /// Forwards segments from the clients' side.
    ///
    /// # Errors
    ///
    /// Where they cannot be sent.
    pub(crate) fn forward(&mut self, step: [u64; 4], load: Load) -> Result<Passed> {
        let (before, ran) = (self.forwarded(1)?, self.receiver.cpu_time()?);
        let started = Instant::now();
        let [left, _] = &self.ends;
        self.senders[0].send(&left.namespace, self.cores.generator, &[step], load)?;
        let took = started.elapsed().as_secs_f64();
        self.settle(1)?;
        let busy = self.receiver.cpu_time()?.saturating_sub(ran).as_secs_f64();
        let forwarded = self.forwarded(1)? - before;
        #[allow(clippy::cast_precision_loss, reason = "some millions")]
        Ok(Passed { forwarded: forwarded as f64, busy, took })
    }

    /// Waits until nothing more comes out at a side.
    fn settle(&self, side: usize) -> Result<()> {
        let mut last = self.forwarded(side)?;
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.forwarded(side)?;
            if now == last {
                return Ok(());
            }
            last = now;
        }
    }

    fn forwarded(&self, side: usize) -> Result<u64> {
        received(&self.ends[side].namespace, &self.ends[side].interface)
    }
}
