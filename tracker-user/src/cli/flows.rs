//! `tracker flows`: every connection, as the maps have it now.

mod columns;
mod form;
mod order;
mod screen;
mod watch;

pub use self::form::Form;

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    sync::Once,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    cli::{
        choice::{Choice, TcpOnly, check_interfaces},
        exit_signals,
        flows::{columns::Column, order::Key},
        refusal,
        since::{Since, duration},
        terminal,
    },
    client::agent::Agent,
    kernel::{
        conntrack::Translations, flow_violations::FlowViolations, instance::Instance,
        socket_owners, tables::Tables,
    },
    model::{
        clock::monotonic_ns,
        conntrack_line::ConntrackLine,
        filter::Filter,
        flow_violations::ViolationFilter,
        format::{Format, Line},
        owner::OwnerFilter,
        record::Record,
    },
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
    /// Sort key, ascending
    #[arg(short, long, value_enum, default_value_t)]
    pub sort: Key,
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

#[derive(Serialize, JsonSchema)]
pub(crate) struct Document<'a> {
    v: u32,
    flows: &'a [Record],
}

/// The flows of an agent that are asked for, in the order that is.
///
/// # Errors
///
/// Where no agent runs, or its maps cannot be read.
pub fn collect(instance: &Instance, options: &Options) -> Result<Vec<Record>> {
    let filter = options.choice.filter_with(&options.broken.violation, "flows")?;
    check_interfaces(&filter, instance, "flows")?;
    let tables = Tables::open(instance)?;
    let view = Agent::find(instance)?.view();
    let broken = broken(instance, options, &filter)?;
    let agent = instance.pid().map(|pid| pid.trim().to_owned());
    let translations = if options.nat || options.columns.contains(&Column::Translated) {
        Translations::around(agent.as_deref())?
    } else {
        Translations::default()
    };
    let older_than =
        options.older_than.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    let now_ns = monotonic_ns();
    let since = options.since.map(|since| since.time(Timestamp::now()));
    let mut records = Vec::new();
    tables.each_flow(|key, flow, tier| {
        if flow.is_dead() {
            return;
        }
        let is_old = |age_ns| now_ns.saturating_sub(flow.created_ns()) > age_ns;
        if !older_than.is_none_or(is_old) {
            return;
        }
        let mut record = Record::new(key, flow, Some(tier), &view);
        if since.is_some_and(|since| record.created < since) {
            return;
        }
        if let Some(broken) = &broken {
            broken.complete(key, flow, &mut record);
        }
        record.translated = translations.other_side(record.ends());
        if filter.matches(&record) {
            records.push(record);
        }
    })?;
    let asks_for_owners = options.processes
        || options.owner.is_any()
        || options.columns.iter().any(|column| column.asks_for_owners());
    if asks_for_owners {
        let sees_all = socket_owners::complete(&mut records, agent.as_deref())?;
        if !sees_all {
            note_unseen();
        }
        if options.owner.is_any() {
            records.retain(|record| record.owners().any(|owner| options.owner.matches(owner)));
        }
    }
    records.sort_by(|one, other| options.sort.compare(one, other));
    if options.reverse {
        records.reverse();
    }
    if let Some(last) = options.last {
        records.drain(..records.len().saturating_sub(last));
    }
    Ok(records)
}

/// Says once that not every process can be looked at.
fn note_unseen() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ = writeln!(
            io::stderr(),
            "processes of other users are not named: that takes root, or CAP_SYS_PTRACE"
        );
    });
}

/// Which rules flows have broken, where that is asked for or shown.
fn broken(
    instance: &Instance,
    options: &Options,
    filter: &Filter,
) -> Result<Option<FlowViolations>> {
    if filter.asks_for_rules() {
        return Ok(Some(FlowViolations::of(instance)?));
    }
    let shows =
        options.output.format() != Format::Text || options.columns.contains(&Column::BrokenRules);
    // An agent of an older version does not share it: then it is not known.
    Ok(if shows { FlowViolations::of(instance).ok() } else { None })
}

/// Prints the flows, once or again and again.
///
/// # Errors
///
/// As [`collect`], and where stdout cannot be written.
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
        let count = print(options, instance, "")?;
        if options.output.format() == Format::Text {
            let _ = writeln!(io::stderr(), "{count} flows shown");
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

/// Prints them once, and returns how many there are.
fn print(options: &Options, instance: &Instance, head: &str) -> Result<usize> {
    let records = collect(instance, options)?;
    let mut out = BufWriter::new(io::stdout().lock());
    out.write_all(head.as_bytes())?;
    match options.output.format() {
        Format::Text if !options.columns.is_empty() => {
            let table =
                columns::table(&records, &options.columns, monotonic_ns(), terminal::width());
            writeln!(out, "{table}")?;
        }
        Format::Text if options.output == Form::Conntrack => {
            records.iter().try_for_each(|record| writeln!(out, "{}", ConntrackLine(record)))?;
        }
        Format::Text => match terminal::width().filter(|_| options.output == Form::Text) {
            Some(width) => {
                let (titles, flows) = screen::table(&records, width.into());
                let lines = titles.iter().chain(flows.iter().flatten());
                lines.into_iter().try_for_each(|line| writeln!(out, "{line}"))?;
            }
            None => records.iter().try_for_each(|record| writeln!(out, "{record}"))?,
        },
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &Document { v: 1, flows: &records })?;
            writeln!(out)?;
        }
        Format::Jsonl => {
            for flow in &records {
                serde_json::to_writer(&mut out, &Line::new(flow))?;
                writeln!(out)?;
            }
        }
    }
    if options.watch.is_some() && options.output.format() == Format::Text {
        writeln!(out, "{} flows", records.len())?;
    }
    out.flush().context("writing to stdout")?;
    Ok(records.len())
}
