//! `tracker flows` where there are many flows: however many they are, it takes no more memory.

use anyhow::{Context, Result, ensure};
use tracker_tests::{
    crowd::{Crowd, usage},
    lab::Bench,
    terminal::Terminal,
};

const FEW: u32 = 1_000;
/// Several times as many as wait in memory.
const MANY: u32 = 200_000;

/// What may be taken with many flows more than with few. Flows that wait take 15 MiB of it; 200,000 records would take 200.
const MORE_KIB: u64 = 28 << 10;

/// What is typed after `tracker flows`.
const LISTINGS: [&str; 10] = [
    "",
    "-o conntrack",
    "-o json",
    "-o jsonl",
    "-c src,dst,process,bytes",
    "--processes",
    "--sort bytes --last 10",
    "--sort bytes",
    "--reverse --last 100000",
    "--not --sport 250",
];

#[test]
fn memory_does_not_grow_with_them() -> Result<()> {
    let bench = Bench::with(&["--max-flows", "262144"])?;
    let mut crowd = Crowd::begin(&bench)?;
    let measure = || {
        LISTINGS
            .iter()
            .map(|listing| {
                let words: Vec<_> = listing.split_whitespace().collect();
                let mut command = bench.agent.command(&[&["flows"], &*words].concat())?;
                Ok(usage(&mut command)?.resident_kib)
            })
            .collect::<Result<Vec<_>>>()
    };
    crowd.grow(FEW)?;
    let few = measure()?;
    crowd.grow(MANY)?;
    let many = measure()?;
    for (listing, (few, many)) in LISTINGS.iter().zip(few.iter().zip(&many)) {
        ensure!(
            *many < few + MORE_KIB,
            "`tracker flows {listing}` took {few} KiB of {FEW} flows, and {many} of {MANY}"
        );
    }
    all_are_there(&bench)?;
    the_first_ones_have_pages(&bench)
}

/// On a terminal, again and again.
fn the_first_ones_have_pages(bench: &Bench) -> Result<()> {
    for columns in [&[][..], &["-c", "bytes,src"]] {
        let arguments = [&["flows", "--watch", "1", "--sort", "bytes"], columns].concat();
        let mut terminal = Terminal::start(&bench.agent, (24, 120), true, &arguments)?;
        terminal.until("the first page", |screen| {
            screen.contains("of 65536 flows (134464 more); space and b turn pages")
        })?;
        terminal.press("G")?;
        terminal.until("the last page", |screen| screen.contains("-65536 of 65536 flows"))?;
        terminal.press("q")?;
        terminal.end()?;
    }
    Ok(())
}

/// Each flow is listed once, and in order where one is asked for.
fn all_are_there(bench: &Bench) -> Result<()> {
    let listed = |arguments: &str| -> Result<Vec<u64>> {
        let words: Vec<_> = arguments.split_whitespace().collect();
        let table = bench.agent.ask(&[&["flows", "-c", "bytes"], &*words].concat())?;
        let lines = table.lines().skip(1);
        lines.map(|line| line.trim().parse().with_context(|| line.to_owned())).collect()
    };
    let sorted = listed("--sort bytes")?;
    ensure!(sorted.len() == MANY as usize, "{} flows are sorted", sorted.len());
    ensure!(sorted.is_sorted_by(|one, other| one < other), "no two have the same bytes");
    let mut unsorted = listed("")?;
    ensure!(!unsorted.is_sorted());
    unsorted.sort_unstable();
    ensure!(unsorted == sorted, "not sorted, others come");
    let half = sorted.len() / 2;
    for (arguments, expected) in [
        ("--sort bytes --last 3", sorted[sorted.len() - 3..].to_vec()),
        ("--sort bytes --last 100000", sorted[half..].to_vec()),
        ("--sort bytes --reverse --last 3", sorted[..3].iter().rev().copied().collect()),
        ("--sort bytes --reverse", sorted.iter().rev().copied().collect()),
    ] {
        ensure!(listed(arguments)? == expected, "{arguments}");
    }
    let how = |arguments: &[&str]| -> Result<String> {
        let output = bench.agent.command(&[&["flows"], arguments].concat())?.output()?;
        Ok(String::from_utf8(output.stderr)?)
    };
    let said = how(&[])?;
    ensure!(said == "200000 flows shown, not sorted: `--sort created` does\n", "{said}");
    let said = how(&["--sort", "created"])?;
    ensure!(said == "200000 flows shown\n", "{said}");
    Ok(())
}
