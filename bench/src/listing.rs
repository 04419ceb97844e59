//! `cargo xtask bench listing`: what `tracker flows` takes where there are many flows.

use std::path::Path;

use anyhow::{Context, Result};
use tracker_tests::{
    crowd::{Crowd, usage},
    lab::Bench,
};

use crate::{
    machine, section,
    spread::Spread,
    table::{Table, grouped},
};

const COMMAND: &str = "cargo xtask bench listing";

const FLOWS: [u32; 2] = [10_000, 1_000_000];

/// How often each is run.
const ROUNDS: usize = 5;

/// What is typed after `tracker flows`.
const LISTINGS: [&str; 8] = [
    "",
    "-o conntrack",
    "-o json",
    "-o jsonl",
    "--columns src,sport,dst,dport,state,bytes",
    "--sport 1",
    "--sort bytes --last 10",
    "--sort bytes",
];

/// Measures, prints the section, and writes it into docs/performance.md.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn listing() -> Result<()> {
    let machine = machine::describe();
    let bench = Bench::with(&["--max-flows", "1048576"])?;
    let mut crowd = Crowd::begin(&bench)?;
    let columns = ["`tracker flows`", "flows", "s", "CPU, s", "CPU a flow, us", "resident, MiB"];
    let mut table = Table::new(&columns);
    for flows in FLOWS {
        crowd.grow(flows)?;
        for listing in LISTINGS {
            let (mut took, mut ran, mut resident) = (Vec::new(), Vec::new(), 0);
            for _ in 0..ROUNDS {
                let words: Vec<_> = listing.split_whitespace().collect();
                let usage = usage(&mut bench.agent.command(&[&["flows"], &*words].concat())?)?;
                took.push(usage.took.as_secs_f64());
                ran.push(usage.cpu.as_secs_f64());
                resident = resident.max(usage.resident_kib.div_ceil(1024));
            }
            let Spread { median, least, most } = Spread::of(took).context("no rounds")?;
            let cpu = Spread::of(ran).context("no rounds")?.median;
            let name = if listing.is_empty() { "(nothing)" } else { listing };
            table.row([
                format!("`{name}`").replace("`(nothing)`", "nothing else"),
                grouped(flows.into()),
                format!("{median:.2} ({least:.2} to {most:.2})"),
                format!("{cpu:.2}"),
                format!("{:.2}", cpu * 1e6 / f64::from(flows)),
                grouped(resident),
            ]);
        }
    }
    let text = format!(
        "## Listings

{machine}
Written by the command above.

`tracker flows` with further arguments, whose output is discarded, {ROUNDS} times each; medians, in brackets the least and the
most. A connection is opened by real packets, and its record copied under other keys until there are as many flows as the
table says. *CPU* is in user mode and in the kernel, which on a busy machine is less than the time from start to end. *Resident* is the most memory that the command had at once, of all rounds (`ru_maxrss`); the agent has no part in
a listing. No flow has port 1, so `--sport 1` reads all of them and prints none.

{table}",
        table = table.into_text()
    );
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    section::write(&page, "listing", COMMAND, &text)
}
