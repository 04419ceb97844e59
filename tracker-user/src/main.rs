//! The command `tracker`.

use std::{
    env,
    io::{self, IsTerminal, Write},
    panic,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Parser;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};
use tracker_user::{
    check,
    cli::{Cli, Command},
    config::{
        self,
        file::{self, Completed},
        settings,
    },
    delete, detach, events, explain, flows, generate, guide, replay, run, stats, top, trace,
    violations,
    writer::{Content, Log, Writers},
};

/// How long an agent that ends waits for what it has said to be written.
const LONGEST_FAREWELL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match command_line() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tracker: {error:#}");
            return ExitCode::from(2);
        }
    };
    if matches!(cli.command, Command::Run(_)) {
        return run_agent(&cli);
    }
    log_to(io::stderr, cli.verbose);
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has enough of it, as in `tracker flows | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Not eprintln!, which panics where stderr is closed.
            let _ = writeln!(io::stderr(), "tracker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `tracker run`: nothing that it writes waits for whoever reads it.
fn run_agent(cli: &Cli) -> ExitCode {
    let writers = match Writers::start() {
        Ok(writers) => writers,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tracker: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    log_to(Log::new(&writers), cli.verbose);
    let to = writers.err.clone();
    panic::set_hook(Box::new(move |about| {
        to.write(Content::Log, format!("tracker: {about}\n").into_bytes());
    }));
    let outcome = agent(cli, &writers);
    if let Err(error) = &outcome {
        writers.err.write(Content::Log, format!("tracker: {error:#}\n").into_bytes());
    }
    writers.finish(LONGEST_FAREWELL);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn agent(cli: &Cli, writers: &Writers) -> Result<()> {
    let arguments: Vec<_> = env::args_os().collect();
    let current = settings::read(arguments.clone())?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(run::run(
        current,
        &cli.instance,
        Box::new(move || settings::read(arguments.clone())),
        writers,
    ));
    // A sweep that goes on ends with the process.
    runtime.shutdown_background();
    outcome
}

/// The command line and, for `tracker run`, the configuration file. Ends the process where they are wrong.
fn command_line() -> Result<Cli> {
    let Completed { arguments, file } = file::complete(env::args_os().collect())?;
    Ok(Cli::try_parse_from(arguments).unwrap_or_else(|error| {
        if let Some(file) = file.filter(|_| error.use_stderr()) {
            let _ = writeln!(io::stderr(), "tracker: with what {} says:", file.display());
        }
        error.exit()
    }))
}

fn execute(cli: Cli) -> Result<()> {
    let Cli { instance, command, .. } = cli;
    match command {
        Command::Flows(options) => runtime()?.block_on(flows::run(&options, &instance)),
        Command::Stats(options) => stats::run(&options, &instance),
        Command::Violations(options) => violations::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Generate(verb) => generate::run(&verb),
        Command::Guide => guide::run(),
        Command::Replay(options) => replay::run(&options),
        Command::Events(options) => runtime()?.block_on(events::run(options, &instance)),
        Command::Top(options) => runtime()?.block_on(top::run(options, &instance)),
        Command::Trace(options) => runtime()?.block_on(trace::run(options, &instance)),
        Command::Config(verb) => config::run(&verb),
        Command::Check(options) => runtime()?.block_on(check::run(&options, &instance)),
        Command::Delete(options) => runtime()?.block_on(delete::run(&options, &instance)),
        Command::Flush(options) => runtime()?.block_on(delete::flush(&options, &instance)),
        Command::Detach => runtime()?.block_on(detach::run(&instance)),
        Command::Run(_) => bail!("`tracker run` is begun elsewhere"),
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn log_to<W>(writer: W, verbose: u8)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let default = match verbose {
        0 => "info",
        1 => "info,tracker=debug,tracker_user=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("TRACKER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colour =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colour)
        // Whoever read our log is gone: that is no reason to end.
        .log_internal_errors(false)
        .init();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause
            .downcast_ref::<io::Error>()
            .map(io::Error::kind)
            // It does not give its cause away by itself.
            .or_else(|| cause.downcast_ref().and_then(serde_json::Error::io_error_kind));
        kind == Some(io::ErrorKind::BrokenPipe)
    })
}
