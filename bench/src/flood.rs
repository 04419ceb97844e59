//! `cargo xtask bench flood`: real connections during floods of SYNs, with SYN cookies and without.

mod contender;
mod measure;
mod report;

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use self::{contender::Contender, measure::measure};
use crate::{
    clients,
    cpu::{Cores, Task},
    generator::Rate,
    lane::Lane,
    limits, machine, section,
};

const COMMAND: &str = "cargo xtask bench flood";

/// Real clients' load at each rate, in seconds.
const SECONDS: u32 = 3;

const RATES: [Rate; 5] = [
    Rate::None,
    Rate::PerSecond(50_000),
    Rate::PerSecond(200_000),
    Rate::PerSecond(1_000_000),
    Rate::FlatOut,
];

/// What the flood benchmark is restricted to. The page is written only without any of these.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Restrictions {
    /// Only this contender; may be given several times
    #[arg(long, value_enum)]
    contender: Vec<Contender>,
    /// Only this many SYNs a second; may be given several times
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    rate: Vec<u32>,
    /// Load of real clients at each rate, in seconds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    seconds: Option<u32>,
}

/// Measures every contender, prints the section, and writes it into docs/performance.md if nothing was left out. The
/// section names contenders that fail.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn flood(restrictions: &Restrictions) -> Result<()> {
    let Restrictions { contender, rate, seconds } = restrictions;
    let is_complete = contender.is_empty() && rate.is_empty() && seconds.is_none();
    let seconds = seconds.unwrap_or(SECONDS);
    let length = Duration::from_secs(seconds.into());
    let contenders =
        if contender.is_empty() { Contender::value_variants().to_vec() } else { contender.clone() };
    let rates = if rate.is_empty() {
        RATES.to_vec()
    } else {
        rate.iter().map(|rate| Rate::PerSecond(*rate)).collect()
    };
    let connections = u64::from(clients::RATE) * u64::from(seconds) * u64::try_from(rates.len())?;
    ensure!(
        connections <= clients::MOST.into(),
        "{connections} connections to a contender are more than there are ports: take fewer rates or seconds"
    );

    let machine = machine::describe();
    let cores = Cores::choose()?;
    limits::raise_open_files()?;
    Task::this_thread().pin(cores.server)?;
    let mut dropping = Lane::that_drops(cores)?;
    let mut results = Vec::new();
    for contender in contenders {
        eprint!("{} ... ", contender.name());
        std::io::stderr().flush()?;
        let result = measure(contender, cores, &mut dropping, &rates, length);
        eprintln!("{}", if result.is_ok() { "measured" } else { "failed" });
        results.push((contender, result));
    }
    let text = report::section(&machine, length, &results);
    println!("{text}");
    if is_complete {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
        section::write(&page, "flood", COMMAND, &text)?;
        eprintln!("Written to docs/performance.md.");
    }
    Ok(())
}
