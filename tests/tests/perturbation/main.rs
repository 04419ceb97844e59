//! What a network does to packets, or a tracker misses of them, is no violation: every connection of the public captures
//! that is in order, with each packet left out, doubled, swapped with the next, and with runs of packets left out.

mod connection;
mod exceptions;
mod kernel;
mod loss;
mod variant;

use std::{
    collections::BTreeSet,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Result, ensure};
use tracker_common::segment::Flags;
use tracker_tests::captures::corpus;

use crate::{
    connection::{Connection, Outcome, of_capture, track},
    exceptions::{CLASSES, Class, SINGLES, Single},
    kernel::{File, Summary},
    loss::Loss,
    variant::Variant,
};

/// A connection that is in order, and what comes of it.
struct Orderly {
    connection: Connection,
    outcome: Outcome,
}

/// A variant that was reported more than once, or ended otherwise.
struct Offence {
    variant: Variant,
    outcome: Outcome,
}

fn whole(connection: &Connection) -> Outcome {
    track(connection.frames.iter().map(|frame| (frame, frame.timestamp_ns)))
}

/// One connection with a whole handshake, a whole close, and nothing reported.
fn is_orderly(connection: &Connection, outcome: &Outcome) -> bool {
    let [end] = &outcome.ends[..] else { return false };
    let has = |flags: Flags| connection.frames.iter().any(|frame| frame.has(flags));
    outcome.reports.is_empty()
        && matches!(end.conn_state, "SF" | "RSTO" | "RSTR")
        && !end.midstream
        && has(Flags::SYN)
        && has(Flags::SYN.with(Flags::ACK))
}

fn orderly() -> Result<Vec<Orderly>> {
    let mut all = Vec::new();
    for capture in corpus::captures()?.iter().filter(|capture| capture.packets > 5) {
        for connection in of_capture(&capture.path)? {
            let outcome = whole(&connection);
            if is_orderly(&connection, &outcome) {
                all.push(Orderly { connection, outcome });
            }
        }
    }
    Ok(all)
}

fn offences(orderly: &Orderly) -> (usize, Vec<Offence>) {
    let mut count = 0;
    let mut offences = Vec::new();
    for variant in Variant::all(&orderly.connection) {
        count += 1;
        let outcome = variant.outcome(&orderly.connection);
        if outcome.reports.len() > 1 || outcome.ends != orderly.outcome.ends {
            offences.push(Offence { variant, outcome });
        }
    }
    (count, offences)
}

/// Runs all variants, on all processors.
fn run(all: &[Orderly]) -> Vec<(usize, Vec<Offence>)> {
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut results: Vec<_> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some((n, one)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, all.get(n)?)))
            {
                done.push((n, offences(one)));
            }
            done
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    results.sort_unstable_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Which exceptions have occurred: of classes, how often each of their states and words.
struct Occurred {
    classes: BTreeSet<(usize, &'static str)>,
    singles: BTreeSet<usize>,
}

impl Occurred {
    /// Whether a variant may end so.
    fn excepts(
        &mut self,
        connection: &Connection,
        variant: Variant,
        [right, found]: [&Outcome; 2],
    ) -> bool {
        let end = found.end();
        let reports = found.reports.len();
        let is = |single: &Single| single.is(connection, variant, &end, reports);
        if let Some(single) = SINGLES.iter().position(is) {
            self.singles.insert(single);
            return true;
        }
        let losses = Loss::of(connection, variant);
        let mut may_be = |of: fn(&Class) -> &'static [&'static str], right: &str, found: &str| {
            let mut is_right = right == found;
            for (n, class) in
                CLASSES.iter().enumerate().filter(|(_, class)| losses.contains(&class.loss))
            {
                if let Some(known) =
                    of(class).iter().find(|known| **known == found && right != found)
                {
                    self.classes.insert((n, known));
                    is_right = true;
                }
            }
            is_right
        };
        let states = may_be(|class| class.states, &right.states(), &found.states());
        let words = may_be(|class| class.words, &right.words(), &found.words());
        states && words && reports <= 1
    }

    /// Exceptions of which there is no case.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (n, class) in CLASSES.iter().enumerate() {
            let all = class.states.iter().chain(class.words);
            let absent = all.filter(|known| !self.classes.contains(&(n, **known)));
            missing
                .extend(absent.map(|known| format!("{:?} ({}): {known:?}", class.loss, class.why)));
        }
        let singles = SINGLES.iter().enumerate().filter(|(n, _)| !self.singles.contains(n));
        missing.extend(singles.map(|(_, Single { capture, kind, at, end, why, .. })| {
            format!("{capture} | {kind} at {at} | {end} ({why})")
        }));
        missing
    }
}

#[test]
fn no_variant_is_reported_twice_or_ends_otherwise() -> Result<()> {
    let all = orderly()?;
    let results = run(&all);
    let mut occurred = Occurred { classes: BTreeSet::new(), singles: BTreeSet::new() };
    let mut wrong = Vec::new();
    let mut excepted = 0;
    for (Orderly { connection, outcome: right }, (_, offences)) in all.iter().zip(&results) {
        for Offence { variant, outcome } in offences {
            let end = outcome.end();
            let may_be = occurred.excepts(connection, *variant, [right, outcome]);
            if may_be {
                excepted += 1;
                continue;
            }
            let reports: Vec<_> = outcome.reports.iter().map(|rule| rule.name()).collect();
            wrong.push(format!(
                "{} | {} | {} at {} of {} | {} -> {end} | {reports:?} | {:?}",
                connection.capture,
                connection.name(),
                variant.kind,
                variant.at + 1,
                connection.frames.len(),
                right.end(),
                Loss::of(connection, *variant)
            ));
        }
    }
    let count: usize = results.iter().map(|(count, _)| count).sum();
    println!("{count} variants of {} connections, {excepted} excepted", all.len());
    wrong.extend(occurred.missing().iter().map(|missing| format!("does not occur: {missing}")));
    assert!(wrong.is_empty(), "of {count} variants:\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_kernel_programs_say_the_same() -> Result<()> {
    let all = orderly()?;
    let mut file = File::default();
    let mut expected = Vec::new();
    for Orderly { connection, .. } in &all {
        for variant in Variant::all(connection) {
            file.add(variant.packets(connection));
            let Outcome { ends, reports } = variant.outcome(connection);
            let summary = Summary::new(ends.iter().map(ToString::to_string), &reports);
            expected.push((connection, variant, summary));
        }
    }
    let found = file.replay()?;
    ensure!(found.len() == expected.len(), "{} of {}", found.len(), expected.len());
    let differ = found.iter().zip(&expected).filter(|(found, (.., summary))| *found != summary);
    let differ: Vec<_> = differ
        .map(|(found, (connection, Variant { kind, at }, summary))| {
            let (capture, ends) = (&connection.capture, connection.name());
            format!("{capture} | {ends} | {kind} at {} | {summary:?} | {found:?}", at + 1)
        })
        .collect();
    println!("{} variants through the kernel programs", found.len());
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    Ok(())
}
