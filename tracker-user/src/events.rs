//! `tracker events`: what happens, as it happens.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use tracker_common::violation::Rule;

use crate::{
    broken::rule,
    cli::Format,
    event::Event,
    filter::{Choice, Filter},
    hub::Request,
    instance::Instance,
    listen::{Listener, say_listening},
    run::EventName,
    tcp_flags::TcpFlags,
};

/// Options of `tracker events`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Events to show
    #[arg(
        short,
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "EVENT[,EVENT]",
        default_value = "all"
    )]
    pub events: Vec<EventName>,
    /// Form of the output: one line an event, or one JSON record a line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// End after this many events
    #[arg(long, value_name = "N")]
    pub last: Option<u64>,
    /// Violations of these rules only; `tracker violations` lists the rules
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', value_parser = rule)]
    pub violation: Vec<Rule>,
    /// Segments with these TCP flags only, and with `!` without them, as in `syn,!ack`
    #[arg(long, value_name = "FLAG[,!FLAG]", help_heading = "Filters")]
    pub tcp_flags: Option<TcpFlags>,
    /// Which flows. An event without a flow passes only where nothing is asked for.
    #[command(flatten)]
    pub choice: Choice,
}

/// Prints events until SIGINT, SIGTERM, the agent's end, or the number asked for.
///
/// # Errors
///
/// Where no agent runs, it ends, or stdout cannot be written.
pub async fn run(options: Options, instance: &Instance) -> Result<()> {
    if options.output == Format::Json {
        bail!("events are a stream: use `-o jsonl`");
    }
    let filter = options.choice.filter_with(&options.violation, "events");
    let events =
        EventName::kinds(&options.events).iter().map(|kind| kind.name().to_owned()).collect();
    let mut listener = Listener::connect(instance, &Request { v: 1, events, trace: None }).await?;
    say_listening();
    let mut shown = 0;
    while options.last.is_none_or(|last| shown < last) {
        let Some((event, line)) = listener.next().await? else { return Ok(()) };
        shown += u64::from(show(&options, &filter, &event, &line)?);
    }
    Ok(())
}

/// Prints an event, which came in `line`, if it is asked for.
fn show(options: &Options, filter: &Filter, event: &Event, line: &str) -> Result<bool> {
    let has_flags = options.tcp_flags.is_none_or(|flags| flags.matches(event));
    if !filter.matches_event(event) || !has_flags {
        return Ok(false);
    }
    let mut out = io::stdout().lock();
    match options.output {
        Format::Text => writeln!(out, "{event}"),
        Format::Json | Format::Jsonl => writeln!(out, "{line}"),
    }
    .and_then(|()| out.flush())
    .context("writing to stdout")?;
    Ok(true)
}
