//! What is measured of a contender.

use std::{thread, time::Duration};

use anyhow::Result;
use tracker_tests::namespace::Namespace;

use super::contender::{Contender, Running};
use crate::{
    clients::{Clients, Load},
    counters::{Counters, since},
    cpu::{Cores, Task},
    echo::Echo,
    generator::Rate,
    lane::{Lane, Passed},
    spread::{Spread, percentile},
};

/// What a flood needs to become steady.
const WARM_UP: Duration = Duration::from_millis(200);

/// How long the flood lasts whose cost is measured, each time.
const SLICE: Duration = Duration::from_millis(500);

/// How often that is repeated, by turns with the flood that is dropped.
const SLICES: usize = 7;

/// The rates that the cost is measured at, in SYNs a second: the first at which the receiver keeps up.
const COST_RATES: [u32; 4] = [200_000, 100_000, 50_000, 25_000];

/// The part of its core that a receiver may take that keeps up.
const BUSIEST: f64 = 0.85;

/// The part of a flood that it receives. Some is lost whenever something else runs on its core for long.
const LEAST_RECEIVED: f64 = 0.9;

/// The part of a flood that has to be answered for an answer to have a cost.
const LEAST_ANSWERED: f64 = 0.01;

/// Everything about a contender.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How real clients fare, at each rate.
    pub(crate) levels: Vec<Level>,
    /// What an answer costs, where the receiver keeps up at any rate.
    pub(crate) cost: Option<Cost>,
    /// What has been counted in the whole time.
    pub(crate) evidence: Counters,
}

/// How real clients fare at one rate.
#[derive(Debug)]
pub(crate) struct Level {
    /// The rate that was asked for.
    pub(crate) rate: Rate,
    /// What happened while the clients connected.
    pub(crate) passed: Passed,
    /// Connections.
    pub(crate) attempts: usize,
    /// Those whose byte came back in time.
    pub(crate) successes: usize,
    /// Median of the times until it was back, or `None` where that is beyond the timeout.
    pub(crate) median: Option<Duration>,
    /// The time that 99 % do not exceed, or `None` where that is beyond the timeout.
    pub(crate) slow: Option<Duration>,
    /// Half-open sockets of the server at the end.
    pub(crate) half_open: usize,
    /// For which part of the time the clients had to wait for their core.
    pub(crate) waited: Option<f64>,
}

/// What an answer costs.
#[derive(Debug)]
pub(crate) struct Cost {
    /// The rate that it was measured at.
    pub(crate) rate: u32,
    /// SYN,ACKs for each SYN.
    pub(crate) answered: f64,
    /// Nanoseconds of the receiver and of the contender's process for each SYN,ACK, beyond those of a dropped SYN. `None`
    /// where next to nothing is answered.
    pub(crate) per_answer: Option<Spread>,
    /// The same for each SYN.
    pub(crate) per_syn: Spread,
    /// Nanoseconds of the receiver for each SYN that is dropped.
    pub(crate) dropped: Spread,
    /// The part of the time for which others have kept the receiver that drops from its core.
    pub(crate) disturbed: Spread,
}

/// Sets a contender up, measures it, and removes it.
///
/// # Errors
///
/// Where it cannot be had, or something else fails than connections.
pub(crate) fn measure(
    contender: Contender,
    cores: Cores,
    dropping: &mut Lane,
    rates: &[Rate],
    length: Duration,
) -> Result<Outcome> {
    let mut lane = Lane::new(cores)?;
    let running = contender.start(&lane.cable)?;
    let _echo = Echo::start(&lane.cable)?;
    let before = running.counters(&lane.cable)?;
    let mut clients = Clients::new();
    let mut levels = Vec::new();
    for rate in rates {
        levels.push(level(&mut lane, &running, &mut clients, *rate, length)?);
    }
    let cost = cost(&mut lane, dropping, running.helper()?)?;
    let evidence = since(&before, &running.counters(&lane.cable)?);
    Ok(Outcome { levels, cost, evidence })
}

fn level(
    lane: &mut Lane,
    running: &Running,
    clients: &mut Clients,
    rate: Rate,
    length: Duration,
) -> Result<Level> {
    let helper = running.helper()?;
    lane.flooded(rate, |view| {
        thread::sleep(WARM_UP);
        let before = view.look(helper)?;
        let Load { mut times, waited } = clients.connect(view.cable, length)?;
        let passed = view.look(helper)?.since(before);
        // Those that failed took longer than any other.
        times.sort_by_key(|time| time.unwrap_or(Duration::MAX));
        Ok(Level {
            rate,
            passed,
            attempts: times.len(),
            successes: times.iter().flatten().count(),
            median: percentile(&times, 50).copied().flatten(),
            slow: percentile(&times, 99).copied().flatten(),
            half_open: half_open(&view.cable.server.namespace)?,
            waited,
        })
    })
}

/// How many half-open sockets `ss` shows.
fn half_open(namespace: &Namespace) -> Result<usize> {
    let sockets = namespace.run("ss", &["-H", "-t", "-n", "state", "syn-recv"])?;
    Ok(sockets.lines().count())
}

fn cost(lane: &mut Lane, dropping: &mut Lane, helper: Option<Task>) -> Result<Option<Cost>> {
    for rate in COST_RATES {
        let first = slice(lane, helper, rate)?;
        let keeps_up = first.receiving + first.helping < first.seconds * BUSIEST
            && first.received > first.sent * LEAST_RECEIVED;
        if keeps_up {
            return cost_at(lane, dropping, helper, rate);
        }
    }
    Ok(None)
}

fn cost_at(
    lane: &mut Lane,
    dropping: &mut Lane,
    helper: Option<Task>,
    rate: u32,
) -> Result<Option<Cost>> {
    let (mut per_answer, mut per_syn, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    let (mut dropped, mut disturbed) = (Vec::new(), Vec::new());
    for _ in 0..SLICES {
        let drop = slice(dropping, None, rate)?;
        let answer = slice(lane, helper, rate)?;
        if drop.received == 0.0 || answer.received == 0.0 {
            continue;
        }
        let base = drop.receiving / drop.received;
        let spent = answer.receiving + answer.helping - base * answer.received;
        dropped.push(base * 1e9);
        disturbed.push(drop.waiting / drop.seconds);
        per_syn.push(spent / answer.received * 1e9);
        answered.push(answer.answers / answer.received);
        if answer.answers > answer.received * LEAST_ANSWERED {
            per_answer.push(spent / answer.answers * 1e9);
        }
    }
    let spreads = (Spread::of(per_syn), Spread::of(dropped), Spread::of(answered));
    let (Some(per_syn), Some(dropped), Some(answered)) = spreads else { return Ok(None) };
    let (per_answer, Some(disturbed)) = (Spread::of(per_answer), Spread::of(disturbed)) else {
        return Ok(None);
    };
    Ok(Some(Cost { rate, answered: answered.median, per_answer, per_syn, dropped, disturbed }))
}

/// A short flood without real clients.
fn slice(lane: &mut Lane, helper: Option<Task>, rate: u32) -> Result<Passed> {
    lane.flooded(Rate::PerSecond(rate), |view| {
        thread::sleep(WARM_UP);
        let before = view.look(helper)?;
        thread::sleep(SLICE);
        Ok(view.look(helper)?.since(before))
    })
}
