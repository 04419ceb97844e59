//! `tracker flows`: every connection, as the maps have it now.

mod columns;
mod form;
mod listing;
mod order;
mod output;
mod pretty;
mod recorded;
mod row;
mod screen;
mod selection;
mod sorter;
mod source;
mod watch;

pub use self::form::Form;
pub(crate) use self::output::Document;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use clap::error::ErrorKind;
use jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    cli::{
        choice::{Choice, TcpOnly},
        exit_signals,
        flows::{columns::Column, listing::Listing, order::Key, source::Source},
        refusal,
        since::{Since, duration},
    },
    kernel::instance::Instance,
    model::{flow_violations::ViolationFilter, format::Format, owner::OwnerFilter},
};

/// Options of `tracker flows`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
    /// Print a table with these columns, in this order
    #[arg(short, long, value_enum, value_delimiter = ',', value_name = "COLUMN[,COLUMN]")]
    pub columns: Vec<Column>,
    /// Sort key, ascending [default: created; more than 65,536 flows are listed as the tables have them]
    #[arg(short, long, value_enum)]
    pub sort: Option<Key>,
    /// Sort descending
    #[arg(short, long)]
    pub reverse: bool,
    /// Repeat every SECONDS until Ctrl-C [default without a value: 2]
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = seconds)]
    pub watch: Option<f64>,
    /// Name the ends on the other side of connections that this host translates, as nf_conntrack has them where the agent
    /// is; needs CAP_NET_ADMIN
    #[arg(long)]
    pub nat: bool,
    /// Name the processes that have the sockets of this host's ends, their user, control group, container and pod. Processes of other
    /// users are named to root (CAP_SYS_PTRACE) alone
    #[arg(short, long)]
    pub processes: bool,
    /// Only the last N lines, after sorting
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Read records from a file that `tracker run --export-file` wrote, `-` for stdin, instead of an agent's tables; repeatable. Shows
    /// each connection as its last record has it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "nat", "processes"])]
    pub from: Vec<PathBuf>,
    /// Flows older than this, by their first packet: `90s`, `2h 30m`
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Filters")]
    pub older_than: Option<Duration>,
    /// Flows since an age (`5m`) or a time (`2026-11-20T13:55:30Z`), by their first packet
    #[arg(long, value_name = "TIME", help_heading = "Filters")]
    pub since: Option<Since>,
    /// Which rules.
    #[command(flatten)]
    pub broken: ViolationFilter,
    /// Whose.
    #[command(flatten)]
    pub owner: OwnerFilter,
    /// Which flows.
    #[command(flatten)]
    pub choice: Choice,
    /// Nothing else.
    #[command(flatten)]
    pub tcp: TcpOnly,
}

/// Between two looks: seconds from 0.1 to 3600.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=3600.0).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0.1 to 3600".to_owned()),
    }
}

/// Prints the flows, once or again and again.
///
/// # Errors
///
/// Where no agent runs, its maps cannot be read, or stdout cannot be written.
pub async fn run(options: &Options, instance: &Instance) -> Result<()> {
    if options.output == Form::Conntrack && !options.columns.is_empty() {
        let said = "--columns is for tables, and `-o conntrack` is none: leave one of them away";
        return Err(refusal("flows", ErrorKind::ArgumentConflict, said));
    }
    if options.output.format() != Format::Text && !options.columns.is_empty() {
        let said = "--columns is for text; JSON has all fields";
        return Err(refusal("flows", ErrorKind::ArgumentConflict, said));
    }
    let Some(every) = options.watch else {
        let (count, is_unsorted) = print(options, instance, "")?;
        if options.output.format() == Format::Text {
            let how = if is_unsorted { ", not sorted: `--sort created` does" } else { "" };
            let _ = writeln!(io::stderr(), "{count} flows shown{how}");
        }
        return Ok(());
    };
    if options.output.format() == Format::Json {
        let said = "--watch is a stream, and one JSON document is none: `-o jsonl`";
        return Err(refusal("flows", ErrorKind::ArgumentConflict, said));
    }
    if options.output == Form::Text && watch::is_possible() {
        return watch::run(options, instance, every).await;
    }
    // From here on, so that none is missed while something is printed.
    exit_signals::exit_on_signal()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = interval(Duration::from_secs_f64(every));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_screen = io::stdout().is_terminal() && options.output.format() == Format::Text;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = interrupt.recv() => return Ok(()),
        }
        let head = match options.output.format() {
            Format::Text if is_screen => {
                // Home, and what was there is gone.
                format!("\x1b[H\x1b[2Jevery {every} s: flows at {:.0}\n\n", Timestamp::now())
            }
            Format::Text => format!("flows at {:.0}\n", Timestamp::now()),
            _ => String::new(),
        };
        print(options, instance, &head)?;
    }
}

/// Prints them once, and returns how many there are, and whether they are in the order of the tables.
fn print(options: &Options, instance: &Instance, head: &str) -> Result<(u64, bool)> {
    let listing = Listing::read(Source::open(instance, options)?, options)?;
    let count = output::write(&listing, options, head)?;
    Ok((count, listing.len().is_none()))
}
