//! `tracker events`: what happens, as it happens.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use tracker_common::violation::Rule;

use crate::{
    agent::options::EventName,
    cli::{
        self,
        choice::{Choice, TcpOnly, warn_of_interfaces},
        exit_signals,
    },
    client::{
        listen::{self, CHUNK, Listener, say_listening},
        request::EventRequest,
    },
    kernel::instance::Instance,
    model::{
        conntrack_line, filter::Filter, flow_violations::rule, format::Format, tcp_flags::TcpFlags,
    },
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
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
    /// End after this many events
    #[arg(long, value_name = "N")]
    pub last: Option<u64>,
    /// Only violations of these rules; `tracker violations` lists the rules
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', value_parser = rule)]
    pub violation: Vec<Rule>,
    /// Segments with these TCP flags, or without those after `!`: `syn,!ack`
    #[arg(long, value_name = "FLAG[,!FLAG]", help_heading = "Filters")]
    pub tcp_flags: Option<TcpFlags>,
    /// Which flows. An event without a flow passes only where nothing is asked for.
    #[command(flatten)]
    pub choice: Choice,
    /// Nothing else.
    #[command(flatten)]
    pub tcp: TcpOnly,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Form {
    /// One line per event
    Text,
    /// As `conntrack -E` prints it; events that it does not have are left out
    Conntrack,
    /// One JSON document, which a stream cannot be: refused
    #[value(hide = true)]
    Json,
    /// One JSON record per line
    Jsonl,
}

impl Form {
    /// As of commands that have no others.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::Text | Self::Conntrack => Format::Text,
            Self::Json => Format::Json,
            Self::Jsonl => Format::Jsonl,
        }
    }
}

/// Prints events until SIGINT, SIGTERM, the agent's end, or the number asked for.
///
/// # Errors
///
/// Where no agent runs, it ends, or stdout cannot be written.
pub async fn run(options: Options, instance: &Instance) -> Result<()> {
    if options.output == Form::Json {
        let said = "events are a stream: use `-o jsonl`";
        return Err(cli::refusal("events", ErrorKind::ArgumentConflict, said));
    }
    let filter = options.choice.filter_with(&options.violation, "events")?;
    warn_of_interfaces(&filter, instance)?;
    let events =
        EventName::kinds(&options.events).iter().map(|kind| kind.name().to_owned()).collect();
    let request = EventRequest { v: 1, events, trace: None };
    exit_signals::exit_on_signal()?;
    let Some(mut listener) = Listener::connect(instance, &request).await? else { return Ok(()) };
    say_listening();
    let mut out = BufWriter::with_capacity(CHUNK, io::stdout().lock());
    let mut shown = 0;
    while options.last.is_none_or(|last| shown < last) {
        // Nothing that is here waits for what is not.
        if !listener.has_more() {
            out.flush().context("writing to stdout")?;
        }
        let Some(line) = listener.line().await? else { break };
        if let Some(text) = shown_as(&options, &filter, line)? {
            writeln!(out, "{text}").context("writing to stdout")?;
            shown += 1;
        }
    }
    out.flush().context("writing to stdout")
}

/// How an event is shown, which came in `line`; `None` if it is not asked for.
fn shown_as(options: &Options, filter: &Filter, line: String) -> Result<Option<String>> {
    // Who takes all as they come need not wait until each was read.
    if options.output == Form::Jsonl && filter.is_empty() && options.tcp_flags.is_none() {
        return Ok(Some(line));
    }
    let event = listen::read(&line)?;
    let has_flags = options.tcp_flags.is_none_or(|flags| flags.matches(&event));
    let is_meant = filter.matches_event(&event) && has_flags;
    if !is_meant {
        return Ok(None);
    }
    Ok(match options.output {
        Form::Text => Some(event.to_string()),
        Form::Conntrack => conntrack_line::event_line(&event),
        Form::Json | Form::Jsonl => Some(line),
    })
}
