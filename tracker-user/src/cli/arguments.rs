//! The command line.

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::{
    agent::options,
    cli::{
        check, config, delete, events, explain, flows, generate, keys, replay, stats, top, trace,
        violations,
    },
    kernel::instance::Instance,
};

/// Track every TCP connection of an interface in the kernel: both ends' states, and each breach of the protocol.
#[derive(Debug, Parser)]
#[command(name = "tracker", version, arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    /// Which agent.
    #[command(flatten)]
    pub instance: Instance,
    /// More log messages on stderr; twice includes debug messages of libraries
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to interfaces, track their connections and report violations, until SIGINT or SIGTERM
    Run(Box<options::Options>),
    /// List connections, as `conntrack -L` and `ss` do
    Flows(flows::Options),
    /// Follow connections as they open and close, as `conntrack -E` does
    Events(events::Options),
    /// Draw live connections: one line per segment between both ends' states
    Trace(trace::Options),
    /// Watch flows, rates, half-open connections and violations full-screen
    Top(top::Options),
    /// Show every counter
    Stats(stats::Options),
    /// List the rules of the protocol that segments can break
    Violations(violations::Options),
    /// Keys of SYN cookies that several hosts share: make a file of them, rotate them, check them
    #[command(subcommand)]
    Keys(keys::Verb),
    /// Check a configuration file, or show every setting
    #[command(subcommand)]
    Config(config::Verb),
    /// Preflight: what would stop or limit an agent here, and the fix; loads the kernel programs, attaches nothing
    Check(check::Options),
    /// Delete flows, as `conntrack -D` does; the next packet of a live connection creates its flow again, midstream
    Delete(delete::Options),
    /// Delete every flow, as `conntrack -F` does
    Flush(delete::FlushOptions),
    /// Remove what a killed agent left in the kernel, if no agent of its name takes it over
    Detach,
    /// Explain a rule, by its name or another tool's: meaning, causes, what to look at next
    Explain(explain::Options),
    /// Print docs/violations.md, for `cargo xtask docs`
    #[command(hide = true)]
    Guide,
    /// Write manual pages and completions, for `cargo xtask package`
    #[command(hide = true, subcommand)]
    Generate(generate::Verb),
    /// Run captures through the kernel programs, and show their connections, violations and counters
    Replay(replay::Options),
}

/// The error of a command line of `verb` that is wrong only as a whole, as clap says it: with its usage, and exit code 2.
#[must_use]
pub fn refusal(verb: &str, kind: ErrorKind, message: &str) -> anyhow::Error {
    let mut command = Cli::command();
    command.build();
    let error = match command.find_subcommand_mut(verb) {
        Some(verb) => verb.error(kind, message),
        None => command.error(kind, message),
    };
    error.into()
}
