//! `cargo xtask bench`: measures tracker beside what people use instead, in network namespaces of its own.

mod agent;
mod cable;
mod clients;
mod connections;
mod counters;
mod cpu;
mod echo;
mod events;
mod flood;
mod forging;
mod forward;
mod generator;
mod lane;
mod limits;
mod listing;
mod machine;
mod memory;
mod packet;
mod path;
mod programs;
mod router;
mod script;
mod section;
mod spread;
mod table;

use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};
use clap::{CommandFactory, Parser, Subcommand};

use crate::flood::Restrictions;

/// Measures, prints tables, and writes them into docs/performance.md.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    benchmark: Option<Benchmark>,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Real connections during floods of SYNs, through the kernel, SYNPROXY and tracker
    Flood(Restrictions),
    /// Nanoseconds a packet, by kind, beside the least that a program could do
    Packet,
    /// How many of 2^27 acknowledgments that are made up open a connection
    Forging,
    /// A bulk transfer over a path of 50 ms, on connections that SYN cookies opened and on others
    Path,
    /// A router with tracker, with nf_conntrack, with both and with nothing
    Forward,
    /// Connections a second that a server takes, with tracker, with nf_conntrack, with both and with nothing
    Connections,
    /// What a flow takes of the kernel's memory, beside an entry of nf_conntrack
    Memory,
    /// Time and memory of the agent, with up to four million flows
    Agent,
    /// Time and memory of `tracker flows`, with a million flows
    Listing,
    /// Connections a second of which all events reach a listener
    Events,
}

fn main() -> ExitCode {
    let result = match Cli::parse().benchmark {
        None => all(),
        Some(Benchmark::Packet) => packet::packet(),
        Some(Benchmark::Flood(restrictions)) => flood::flood(&restrictions),
        Some(Benchmark::Forging) => forging::forging(),
        Some(Benchmark::Path) => path::path(),
        Some(Benchmark::Forward) => forward::forward(),
        Some(Benchmark::Connections) => connections::connections(),
        Some(Benchmark::Memory) => memory::memory(),
        Some(Benchmark::Agent) => agent::agent(),
        Some(Benchmark::Listing) => listing::listing(),
        Some(Benchmark::Events) => events::events(),
    };
    if let Err(error) = result {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Each benchmark in a process of its own: they pin themselves to cores, and leave memory behind.
fn all() -> Result<()> {
    let program = std::env::current_exe()?;
    let mut failed = Vec::new();
    for verb in Cli::command().get_subcommands().map(clap::Command::get_name) {
        if verb != "help" && !Command::new(&program).arg(verb).status()?.success() {
            failed.push(verb.to_owned());
        }
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
