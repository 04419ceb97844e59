//! One machine, twice: the same million segments through `tracker-common` on the host and through the kernel programs,
//! and then the same records, counters and reports, byte by byte.
//!
//! What the programs do is one source, compiled by two compilers for two machines, and what is around it (maps, packet
//! memory, reports) is written twice. Half of the traffic is always the same, and everything must happen in it; the other
//! half is new each time. `TRACKER_TWICE_SEED` repeats it, `TRACKER_TWICE_SEGMENTS` makes it longer or shorter. Where both
//! differ, the shortest sequence that shows it is printed.

mod frame;
mod kernel;
mod shrink;
mod step;
mod traffic;
mod twice;

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use tracker_common::{
    counters::{Fate, Hook, Tally},
    simulator::Host,
};
use tracker_tests::random::Random;

use crate::{
    step::{INTERFACES, Step},
    traffic::{Traffic, breakable},
    twice::Twice,
};

/// Segments of each run: with the fixed seed, and with another one.
const SEGMENTS: u64 = 500_000;

/// What the traffic that is always the same is made of.
const SEED: u64 = 1;

/// Steps between two comparisons.
const BATCH: usize = 10_000;

fn number(name: &str) -> Result<Option<u64>> {
    match env::var(name) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{name}={text}"))?)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).with_context(|| name.to_owned()),
    }
}

fn seed() -> Result<u64> {
    if let Some(seed) = number("TRACKER_TWICE_SEED")? {
        return Ok(seed);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Random::new(u64::try_from(now.as_micros())?).next())
}

#[test]
fn one_machine_twice() -> Result<()> {
    let twice = run(SEED, SEGMENTS)?;
    everything_happened(twice.host())?;
    ensure!(twice.has_cached(), "no handshake was cached");
    let seed = seed()?;
    println!("TRACKER_TWICE_SEED={seed}");
    run(seed, number("TRACKER_TWICE_SEGMENTS")?.unwrap_or(SEGMENTS))?;
    Ok(())
}

/// Both machines, after this traffic.
fn run(seed: u64, segments: u64) -> Result<Twice> {
    let mut twice = Twice::new()?;
    let mut traffic = Traffic::new(seed);
    let (mut pushed, mut batches, mut took) = (0, 0, Duration::ZERO);
    while pushed < segments {
        let batch: Vec<Step> = traffic.by_ref().take(BATCH).collect();
        let start = Instant::now();
        let mut difference = None;
        for step in &batch {
            pushed += u64::from(matches!(step, Step::Packet(_)));
            difference = twice.take(step)?;
            if difference.is_some() {
                break;
            }
        }
        took += start.elapsed();
        if difference.is_none() {
            difference = twice.compare()?;
        }
        batches += 1;
        if let Some(difference) = difference {
            let prefix: Vec<Step> = Traffic::new(seed).take(batches * BATCH).collect();
            shrink::explain(&mut twice, &prefix, &difference)?;
        }
    }
    println!("{pushed} segments, {:.0} a second", pushed as f64 / took.as_secs_f64());
    Ok(twice)
}

/// Equal books say little if nothing is in them.
fn everything_happened(host: &Host) -> Result<()> {
    let mut missing = Vec::new();
    for rule in breakable() {
        if Hook::ALL.iter().all(|hook| host.breaches(rule, *hook) == 0) {
            missing.push(rule.name());
        }
    }
    // A forwarded packet, a table without memory, and what only a protecting program does.
    let fates = Fate::ALL.iter().filter(|fate| {
        !matches!(
            fate,
            Fate::CountedOnArrival
                | Fate::NotInserted
                | Fate::TruncatedEthernet
                | Fate::CookieSent
                | Fate::CookieRefused
        )
    });
    for fate in fates {
        let seen = |slot| Hook::ALL.map(|hook| host.packets(slot, hook)[*fate as usize]);
        if INTERFACES.iter().all(|interface| seen(interface.slot) == [0; 2]) {
            missing.push(fate.name());
        }
    }
    // A table without memory, a full ring buffer, and a SYN cache with too few places for a flood.
    let tallies = Tally::ALL.iter().filter(|tally| {
        !matches!(tally, Tally::HalfOpenInsertFailed | Tally::ReportsLost | Tally::HalfOpenShed)
    });
    missing.extend(tallies.filter(|tally| host.tallied(**tally) == 0).map(|tally| tally.name()));
    ensure!(missing.is_empty(), "none of the traffic led to: {}", missing.join(", "));
    Ok(())
}
