//! The command `tracker`.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    panic,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Error, Result, bail};
use clap::Parser;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};
use tracker_user::{
    agent::{
        privileges, run,
        writer::{Content, Log, Writers},
    },
    cli::{
        Cli, Command, check,
        config::{
            self,
            file::{self, Completed},
            settings,
        },
        delete, detach, events, explain, failure_report, flows, generate, hint, keys, replay,
        stats, top, trace, violations, violations_page,
    },
    model::{error, format::Format},
};

/// How long an agent that ends waits for what it has said to be written.
const LONGEST_FAREWELL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().collect();
    let form = failure_report::form(&arguments);
    let cli = match command_line(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A configuration file is a part of the command line.
            let code = failure_report::say(&error, form);
            return ExitCode::from(if code == 0 { 0 } else { 2 });
        }
    };
    if matches!(cli.command, Command::Run(_)) {
        return run_agent(&cli, form);
    }
    log_to(io::stderr, cli.verbose);
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has enough of it, as in `tracker flows | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(failure_report::say(&error, form)),
    }
}

/// `tracker run`: nothing that it writes waits for whoever reads it.
fn run_agent(cli: &Cli, form: Format) -> ExitCode {
    let writers = match Writers::start() {
        Ok(writers) => writers,
        Err(error) => return ExitCode::from(failure_report::say(&error.into(), form)),
    };
    log_to(Log::new(&writers), cli.verbose);
    let to = writers.err.clone();
    panic::set_hook(Box::new(move |about| {
        to.write(Content::Log, format!("tracker: {about}\n").into_bytes());
    }));
    let outcome = agent(cli, &writers);
    if let Err(error) = &outcome {
        writers.err.write(Content::Log, failure_report::line(error, form).into_bytes());
    }
    writers.finish(LONGEST_FAREWELL);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn agent(cli: &Cli, writers: &Writers) -> Result<()> {
    privileges::hide_memory()?;
    let arguments: Vec<_> = env::args_os().collect();
    let current = settings::read(arguments.clone())?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(run::run(
        current,
        &cli.instance,
        Box::new(move || settings::read(arguments.clone()).map_err(error::Error::foreign)),
        writers,
    ));
    // A sweep that goes on ends with the process.
    runtime.shutdown_background();
    Ok(outcome?)
}

/// The command line and, for `tracker run`, the configuration file.
fn command_line(arguments: Vec<OsString>) -> Result<Cli> {
    let Completed { arguments, file } = file::complete(arguments)?;
    Cli::try_parse_from(&arguments).map_err(|mut error| {
        hint::add(&mut error, &arguments);
        match file {
            Some(file) if error.use_stderr() => {
                Error::from(error).context(format!("with what {} says", file.display()))
            }
            _ => error.into(),
        }
    })
}

fn execute(cli: Cli) -> Result<()> {
    let Cli { instance, command, .. } = cli;
    match command {
        Command::Flows(options) => runtime()?.block_on(flows::run(&options, &instance)),
        Command::Stats(options) => runtime()?.block_on(stats::run(&options, &instance)),
        Command::Violations(options) => violations::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Generate(verb) => generate::run(&verb),
        Command::Guide => violations_page::run(),
        Command::Replay(options) => replay::run(&options),
        Command::Events(options) => runtime()?.block_on(events::run(options, &instance)),
        Command::Top(options) => runtime()?.block_on(top::run(options, &instance)),
        Command::Trace(options) => runtime()?.block_on(trace::run(options, &instance)),
        Command::Config(verb) => runtime()?.block_on(config::run(&verb)),
        Command::Check(options) => runtime()?.block_on(check::run(&options, &instance)),
        Command::Delete(options) => runtime()?.block_on(delete::run(&options, &instance)),
        Command::Flush(options) => runtime()?.block_on(delete::flush(&options, &instance)),
        Command::Keys(verb) => keys::run(&verb),
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

fn is_broken_pipe(error: &Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause
            .downcast_ref::<io::Error>()
            .map(io::Error::kind)
            // It does not give its cause away by itself.
            .or_else(|| cause.downcast_ref().and_then(serde_json::Error::io_error_kind));
        let below = cause.downcast_ref().and_then(error::Error::os_code);
        kind == Some(io::ErrorKind::BrokenPipe) || below == Some(libc::EPIPE)
    })
}
