//! The command line.

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::{
    check, config, delete, events, explain, flows, generate, instance::Instance, replay, run,
    stats, top, trace, violations,
};

/// Knows what every TCP connection on an interface is doing: both ends' states, from inside the kernel.
#[derive(Debug, Parser)]
#[command(name = "tracker", version, arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    /// Which agent.
    #[command(flatten)]
    pub instance: Instance,
    /// Say more on stderr; twice for debug messages of libraries too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to interfaces, track their connections, report violations, until SIGINT or SIGTERM
    Run(Box<run::Options>),
    /// List connections, as `conntrack -L` and `ss` do
    Flows(flows::Options),
    /// Follow connections as they open, live and close, as `conntrack -E` does
    Events(events::Options),
    /// Draw connections as they go on, a segment a line between both ends' states
    Trace(trace::Options),
    /// Watch flows, rates, half-open connections and violations on the whole terminal
    Top(top::Options),
    /// Show every counter
    Stats(stats::Options),
    /// List the rules whose breaches are counted and reported
    Violations(violations::Options),
    /// Check a configuration file, or show every setting that an agent would have
    #[command(subcommand)]
    Config(config::Verb),
    /// Say what would stop or limit an agent here, and the fix; loads the kernel programs, and attaches nothing
    Check(check::Options),
    /// Forget flows before their time, as `conntrack -D` does: what they send next begins them anew, in their middle
    Delete(delete::Options),
    /// Forget every flow, as `conntrack -F` does
    Flush(delete::FlushOptions),
    /// Remove what an agent that was killed has left in the kernel, where no agent of its name is to take it over
    Detach,
    /// Say what a rule means, what causes it and what to look at next; other tools' names are understood
    Explain(explain::Options),
    /// Print docs/violations.md, for `cargo xtask docs`
    #[command(hide = true)]
    Guide,
    /// Write manual pages and completions, for `cargo xtask package`
    #[command(hide = true, subcommand)]
    Generate(generate::Verb),
    /// Push captures through the kernel programs, and show their connections and what happened to them
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
