//! A router between clients and a server, with tracker, nf_conntrack, both or nothing on it.

use std::{
    fs, process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tracker_tests::{agent::Agent, namespace::Namespace};

use crate::{
    cable::{End, hardware_address, join, quiet_namespace},
    counters::received,
    cpu::{Cores, Task, URGENT},
    script::{ANSWER, CONFIRM, Load, OPEN, Sender},
};

static ROUTERS: AtomicU32 = AtomicU32::new(0);

/// Handshakes pass at this rate, in segments a second, so that none is lost.
const GENTLE: u64 = 200_000;

/// What makes a namespace track: a rule that asks for a packet's state.
const RULE: &str = "table ip bench { chain forward {
    type filter hook forward priority filter; policy accept; ct state established counter accept; } }";

/// Who looks at what the router forwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trackers {
    /// `tracker run` on both interfaces.
    pub(crate) tracker: bool,
    /// A rule of nft that asks for the state of each packet.
    pub(crate) conntrack: bool,
}

impl Trackers {
    /// Every combination, nothing first.
    pub(crate) const ALL: [Self; 4] = [
        Self { tracker: false, conntrack: false },
        Self { tracker: true, conntrack: false },
        Self { tracker: false, conntrack: true },
        Self { tracker: true, conntrack: true },
    ];

    /// Its name in a table.
    pub(crate) fn name(self) -> &'static str {
        match (self.tracker, self.conntrack) {
            (false, false) => "nothing",
            (true, false) => "tracker",
            (false, true) => "nf_conntrack",
            (true, true) => "both",
        }
    }
}

/// Three namespaces in a row.
#[derive(Debug)]
pub(crate) struct Router {
    /// The agent, where there is one.
    pub(crate) agent: Option<Agent>,
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
            let gateway = hardware.map(|octet| format!("{octet:02x}")).join(":");
            ip(&format!("addr add 192.168.{side}.1/24 dev {inside}"))?;
            ip(&format!(
                "neigh add 192.168.{side}.2 lladdr {gateway} dev {inside} nud permanent"
            ))?;
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
        let senders = [Sender::new(&left, *to_left)?, Sender::new(&right, *to_right)?];
        let receiver = Task::receiver_of(inside)?;
        Ok(Self { agent, namespace, receiver, ends: [left, right], senders, cores })
    }

    /// Lets the handshakes of so many flows through, and returns how many are established for those who look.
    ///
    /// # Errors
    ///
    /// Where it cannot be sent, or one of a hundred was lost.
    pub(crate) fn establish(&mut self, first: u64, flows: u64) -> Result<Established> {
        let load = Load { first, flows, segments: flows, rate: Some(GENTLE) };
        for (side, step) in [(0, OPEN), (1, ANSWER), (0, CONFIRM)] {
            self.senders[side].send(&self.ends[side].namespace, self.cores.generator, &[step], load)?;
        }
        self.settle(1)?;
        let established = self.established()?;
        for count in [established.tracker, established.conntrack].into_iter().flatten() {
            ensure!(
                count >= (first + flows) * 99 / 100,
                "of {flows} handshakes {count} were seen: the machine has too much other work to do"
            );
        }
        Ok(established)
    }

    /// How many flows those who look have now.
    ///
    /// # Errors
    ///
    /// Where they do not say.
    pub(crate) fn established(&self) -> Result<Established> {
        let tracker = match &self.agent {
            Some(agent) => {
                let stats = agent.stats()?;
                let count = stats["flows"]["confirmed"].as_u64();
                Some(count.with_context(|| format!("no flows in {stats}"))?)
            }
            None => None,
        };
        // There is no such file in a namespace that does not track.
        let conntrack = self.namespace.enter(|| {
            let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
            Ok(text.ok().and_then(|text| text.trim().parse().ok()))
        })?;
        Ok(Established { tracker, conntrack })
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

/// How many flows were established.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Established {
    /// For tracker.
    pub(crate) tracker: Option<u64>,
    /// For nf_conntrack, in whatever state.
    pub(crate) conntrack: Option<u64>,
}
