//! The captures' directory, and its tables.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Where the captures are.
#[must_use]
pub fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/captures"))
}

fn read(name: &str) -> Result<String> {
    let path = directory().join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// One line of `index.tsv`.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Relative to [`directory`].
    pub path: String,
    /// Packets in the file.
    pub packets: u64,
    /// What it is good for.
    pub shows: String,
}

/// `index.tsv`.
///
/// # Errors
///
/// Where it cannot be read, or a column is missing.
pub fn captures() -> Result<Vec<Capture>> {
    table("index.tsv")?
        .into_iter()
        .map(|row| {
            Ok(Capture {
                path: column(&row, "path")?,
                packets: column(&row, "packets")?.parse()?,
                shows: column(&row, "what_it_shows")?.trim().to_owned(),
            })
        })
        .collect()
}

/// One line of `situations.tsv`.
#[derive(Clone, Debug)]
pub struct Situation {
    /// What occurs.
    pub name: String,
    /// In which capture.
    pub path: String,
    /// At which packets: the first twelve where there are more.
    pub packets: Vec<u64>,
}

/// `situations.tsv`.
///
/// # Errors
///
/// Where it cannot be read, or a list of packets is none.
pub fn situations() -> Result<Vec<Situation>> {
    table("situations.tsv")?
        .into_iter()
        .map(|row| {
            let list = column(&row, "first_packets")?;
            Ok(Situation {
                name: column(&row, "situation")?,
                path: column(&row, "path")?,
                packets: packet_numbers(&list).with_context(|| list.clone())?,
            })
        })
        .collect()
}

/// `[1, 2]`, or `[(1, 99)]` where a number belongs to each packet.
fn packet_numbers(list: &str) -> Result<Vec<u64>> {
    let list = list.trim_start_matches('[').trim_end_matches(']');
    if list.starts_with('(') {
        return list
            .split("),")
            .map(|pair| {
                let pair = pair.trim().trim_start_matches('(');
                Ok(pair.split(',').next().unwrap_or_default().parse()?)
            })
            .collect();
    }
    list.split(',').map(|number| Ok(number.trim().parse()?)).collect()
}

/// `ground-truth.jsonl`, one document a line.
///
/// # Errors
///
/// Where it cannot be read.
pub fn ground_truth() -> Result<Vec<Value>> {
    read("ground-truth.jsonl")?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn column(row: &BTreeMap<String, String>, name: &str) -> Result<String> {
    row.get(name).cloned().with_context(|| format!("no column {name}"))
}

/// Tab-separated values below a line of names.
fn table(name: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let text = read(name)?;
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().context("an empty table")?.split('\t').collect();
    lines
        .map(|line| {
            let values: Vec<_> = line.split('\t').collect();
            ensure!(values.len() == names.len(), "{name}: {line}");
            Ok(names.iter().zip(values).map(|(n, v)| ((*n).to_owned(), v.to_owned())).collect())
        })
        .collect()
}
