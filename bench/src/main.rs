//! `cargo xtask bench`: measures tracker beside what people use instead, in network namespaces of its own.

mod cable;
mod clients;
mod counters;
mod cpu;
mod echo;
mod flood;
mod generator;
mod lane;
mod limits;
mod machine;
mod packet;
mod path;
mod programs;
mod section;
mod spread;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// A bulk transfer over a path of 50 ms, on connections that SYN cookies opened and on others
    Path,
}

fn main() -> ExitCode {
    let result = match Cli::parse().benchmark {
        // All of them.
        None => packet::packet()
            .and_then(|()| flood::flood(&Restrictions::default()))
            .and_then(|()| path::path()),
        Some(Benchmark::Packet) => packet::packet(),
        Some(Benchmark::Flood(restrictions)) => flood::flood(&restrictions),
        Some(Benchmark::Path) => path::path(),
    };
    if let Err(error) = result {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
