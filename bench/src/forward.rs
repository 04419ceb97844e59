//! `cargo xtask bench forward`: what a router forwards, and what looking at it costs.

use std::path::Path;

use anyhow::Result;

use crate::{
    cpu::{Cores, Task},
    machine,
    router::{Router, Trackers},
    script::{DATA, Load, OPEN},
    section,
    spread::Spread,
    table::{Table, grouped},
};

const COMMAND: &str = "cargo xtask bench forward";

/// Established flows that the data belongs to.
const FLOWS: [u64; 2] = [1, 100_000];

/// How often all take turns.
const ROUNDS: u64 = 5;

/// Segments of data each time: a second or less.
const SEGMENTS: u64 = 1_000_000;

/// New connections each time. All rounds together must fit into nf_conntrack's table as it is by default.
const NEW: u64 = 30_000;

/// And so many a second, so that most are not lost before the router.
const NEW_RATE: u64 = 200_000;

/// Numbers of flows that were not there before.
const UNUSED: u64 = 1 << 20;

/// What was measured of all, each time.
struct Rounds {
    what: String,
    /// Nanoseconds a packet and packets a second, of each of [`Trackers::ALL`].
    nanoseconds: [Vec<f64>; Trackers::ALL.len()],
    rates: [Vec<f64>; Trackers::ALL.len()],
}

/// Measures, prints the section, and writes it into docs/performance.md.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn forward() -> Result<()> {
    let machine = machine::describe();
    let cores = Cores::choose()?;
    Task::this_thread().pin(cores.generator)?;
    let mut routers = Vec::new();
    for trackers in Trackers::ALL {
        let mut router = Router::new(cores, trackers, &[])?;
        router.establish(0, FLOWS[1])?;
        routers.push(router);
    }
    let mut measured = Vec::new();
    for flows in FLOWS {
        let mut rounds = Rounds::new(format!("data, {} flow(s)", grouped(flows)));
        for round in 0..ROUNDS {
            let turns = round * SEGMENTS / flows;
            let load = Load { first: 0, flows, turns, segments: SEGMENTS, rate: None };
            rounds.add(&mut routers, DATA, load)?;
        }
        measured.push(rounds);
    }
    let mut rounds = Rounds::new("SYNs, each a new connection".to_owned());
    for round in 0..ROUNDS {
        let first = UNUSED + round * NEW;
        let load = Load { first, flows: NEW, turns: 0, segments: NEW, rate: Some(NEW_RATE) };
        rounds.add(&mut routers, OPEN, load)?;
    }
    measured.push(rounds);
    let text = text(&machine, &measured);
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    section::write(&page, "forward", COMMAND, &text)
}

impl Rounds {
    fn new(what: String) -> Self {
        Self { what, nanoseconds: Default::default(), rates: Default::default() }
    }

    /// The routers' turns.
    fn add(&mut self, routers: &mut [Router], step: [u64; 4], load: Load) -> Result<()> {
        for (at, router) in routers.iter_mut().enumerate() {
            let passed = router.forward(step, load)?;
            if passed.forwarded > 0.0 {
                self.nanoseconds[at].push(passed.busy / passed.forwarded * 1e9);
                self.rates[at].push(passed.forwarded / passed.took);
            }
        }
        Ok(())
    }

    /// What each takes more than nothing, in the same round.
    fn added(&self, at: usize) -> Option<Spread> {
        let pairs = self.nanoseconds[at].iter().zip(&self.nanoseconds[0]);
        Spread::of(pairs.map(|(with, without)| with - without).collect())
    }
}

fn text(machine: &str, measured: &[Rounds]) -> String {
    let mut table = Table::new(&[
        "Packets, on the router",
        "packets/s",
        "of nothing's",
        "ns a packet",
        "ns added",
    ]);
    for rounds in measured {
        let nothing = Spread::of(rounds.rates[0].clone()).map_or(f64::NAN, |rate| rate.median);
        for (at, trackers) in Trackers::ALL.iter().enumerate() {
            let rate = Spread::of(rounds.rates[at].clone());
            table.row([
                format!("{}: {}", rounds.what, trackers.name()),
                cell(rate),
                rate.map_or_else(String::new, |rate| {
                    format!("{:.0} %", rate.median / nothing * 100.0)
                }),
                cell(Spread::of(rounds.nanoseconds[at].clone())),
                if at == 0 { String::new() } else { cell(rounds.added(at)) },
            ]);
        }
    }
    format!(
        "## Forwarding

{machine}
Written by the command above.

A router's namespace forwards from one veth pair to another, with nothing on it, with an XDP program on both interfaces
that only passes packets on, with tracker on both (XDP where packets arrive, tcx where they leave), with one rule of nft
that asks nf_conntrack for each packet's state, and with tracker and nf_conntrack. Each has a router of its own, and all take turns, {ROUNDS} times; medians, in brackets the least and the most.

- Frames of 60 bytes with right checksums come from an XDP program on the clients' side as fast as it can send them,
  and are counted and dropped in XDP where they come out. What the router's queue of 256 has no room for is lost before
  the router. *Packets a second* is what came out, while one core did nothing but forward.
- *ns a packet* is CPU time of the kernel thread that receives for the router, which does all of the forwarding, over the
  packets that came out. *ns added* is that less nothing's in the same round.
- A veth copies what arrives into another buffer for any XDP program, which drivers of network cards have no need to:
  that is what *XDP that only passes* costs, and tracker's own cost is what it takes more than that.
- Data is six bytes, by turns on one flow or on 100,000, whose handshakes have passed before: at least 99 % of them are
  established for those who look, or this fails. Between any two of a flow two bytes are missing, or else the kernel
  would make one packet of many before nf_conntrack sees them, but after XDP has.
- A new connection is a SYN that nothing answers, {new} at {rate} a second. nf_conntrack makes an entry for each; tracker has
  65,536 half-open connections by default, and forgets the oldest then.
- nf_conntrack has its default sizes. It does not verify checksums, which a network card would have done.

{table}",
        new = grouped(NEW),
        rate = grouped(NEW_RATE),
        table = table.into_text()
    )
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "far below 2^53, and the sign is written apart"
)]
fn cell(spread: Option<Spread>) -> String {
    let number = |number: f64| {
        let sign = if number <= -0.5 { "-" } else { "" };
        format!("{sign}{}", grouped(number.abs().round() as u64))
    };
    spread.map_or_else(
        || "none passed".to_owned(),
        |Spread { median, least, most }| {
            format!("{} ({} to {})", number(median), number(least), number(most))
        },
    )
}
