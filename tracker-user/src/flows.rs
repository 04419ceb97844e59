//! `tracker flows`: every connection, as the maps have it now.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    agent::Agent, cli::Format, filter::Filter, instance::Instance, record::Record, tables::Tables,
};

/// Options of `tracker flows`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Form of the output: one line a flow, one JSON document, or one JSON record a line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Which flows.
    #[command(flatten)]
    pub filter: Filter,
}

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    #[serde(flatten)]
    flow: &'a Record,
}

#[derive(Serialize)]
struct Document<'a> {
    v: u32,
    flows: &'a [Record],
}

/// All flows of an agent that pass the filter, oldest first.
///
/// # Errors
///
/// Where no agent runs, or its maps cannot be read.
pub fn collect(instance: &Instance, filter: &Filter) -> Result<Vec<Record>> {
    let tables = Tables::open(instance)?;
    let view = Agent::find(instance)?.view();
    let mut records = Vec::new();
    tables.each_flow(|key, flow, tier| {
        if flow.is_dead() {
            return;
        }
        let record = Record::new(key, flow, Some(tier), &view);
        if filter.matches(&record) {
            records.push(record);
        }
    })?;
    records.sort_by_key(|record| (record.created_ns, record.sport));
    Ok(records)
}

/// Prints the flows.
///
/// # Errors
///
/// As [`collect`], and where stdout cannot be written.
pub fn run(options: &Options, instance: &Instance) -> Result<()> {
    let records = collect(instance, &options.filter)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match options.output {
        Format::Text => records.iter().try_for_each(|record| writeln!(out, "{record}"))?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &Document { v: 1, flows: &records })?;
            writeln!(out)?;
        }
        Format::Jsonl => {
            for flow in &records {
                serde_json::to_writer(&mut out, &Line { v: 1, flow })?;
                writeln!(out)?;
            }
        }
    }
    out.flush().context("writing to stdout")?;
    if options.output == Format::Text {
        let _ = writeln!(io::stderr(), "{} flows shown", records.len());
    }
    Ok(())
}
