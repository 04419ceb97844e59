//! JSON Schemas of what the commands print, from the types that are printed.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Serialize;

use crate::{
    cli::{
        check, explain, failure_report, flows,
        replay::{flow::ReplayedFlow, summary::Summary},
        stats::Stats,
        violations,
    },
    client::request::DeleteAnswer,
    export::record::ExportRecord,
    model::{event::Event, format::Line, record::Record},
};

/// What `tracker replay -o json` prints. It is written piece by piece, because a capture need not fit into memory.
#[derive(Serialize, JsonSchema)]
struct Replay {
    /// Version of this form: 1.
    v: u32,
    /// What happened, in the capture's order.
    events: Vec<Event>,
    /// Its connections.
    flows: Vec<ReplayedFlow>,
    /// Counters.
    #[serde(flatten)]
    summary: Summary,
}

/// Writes them into a directory.
///
/// # Errors
///
/// Where one cannot be written.
pub fn write(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for (name, schema) in all() {
        let path = directory.join(format!("{name}.schema.json"));
        let mut text = serde_json::to_string_pretty(&schema)?;
        text.push('\n');
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Each by its name: a verb's document, or the line of one of its records.
fn all() -> [(&'static str, Schema); 15] {
    [
        ("flows", of::<flows::Document<Vec<Record>>>()),
        ("flows.line", of::<Line<Record>>()),
        ("events.line", of::<Event>()),
        ("export.line", of::<ExportRecord>()),
        ("stats", of::<Stats>()),
        ("delete", of::<DeleteAnswer>()),
        ("check", of::<check::Document<'_>>()),
        ("check.line", of::<Line<check::Finding>>()),
        ("violations", of::<violations::Document>()),
        ("violations.line", of::<Line<violations::RuleView>>()),
        ("explain", of::<explain::Document<'_>>()),
        ("explain.line", of::<Line<explain::Explanation>>()),
        ("error.line", of::<failure_report::Document>()),
        ("replay", of::<Replay>()),
        ("replay-flow.line", of::<Line<ReplayedFlow>>()),
    ]
}

fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}
