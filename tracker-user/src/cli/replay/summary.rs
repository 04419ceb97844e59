//! What a replay amounted to.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    slice,
};

use anyhow::Result;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tracker_common::{
    counters::{Fate, Tally},
    violation::Rule,
};

use super::{clock::date, engine::Engine};
use crate::cli::capture::{Broken, LinkCount, Part};

/// Names of what becomes of packets beside the programs' fates.
const BAD_CHECKSUM: &str = "bad_checksum";
const UNKNOWN_LINK_TYPE: &str = "unknown_link_type";

impl CaptureView {
    /// All together.
    fn of_all(views: &[Self]) -> Self {
        let mut links: BTreeMap<u32, LinkCount> = BTreeMap::new();
        for link in views.iter().flat_map(|view| &view.link_types) {
            let sum = links
                .entry(link.link_type)
                .or_insert_with(|| LinkCount { packets: 0, ..link.clone() });
            sum.packets += link.packets;
        }
        let names: Vec<_> = views.iter().map(|view| view.file.as_str()).collect();
        let format = views.first().map_or("", |view| view.format);
        let is_one_format = views.iter().all(|view| view.format == format);
        Self {
            file: names.join(", "),
            format: if is_one_format { format } else { "mixed" },
            link_types: links.into_values().collect(),
            packets: views.iter().map(|view| view.packets).sum(),
            first: views.iter().filter_map(|view| view.first).min(),
            last: views.iter().filter_map(|view| view.last).max(),
            broken: views.iter().find_map(|view| view.broken.clone()),
        }
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { file, format, link_types, packets, first, last, .. } = self;
        write!(out, "capture {file} format={format} packets={packets}")?;
        if let (Some(first), Some(last)) = (first, last) {
            write!(out, " first={first:.6} last={last:.6}")?;
        }
        writeln!(out)?;
        for LinkCount { link_type, name, packets } in link_types {
            let name = name.unwrap_or("not understood, left out");
            writeln!(out, "  link_type={link_type} ({name}) {packets}")?;
        }
        Ok(())
    }
}

/// A replay's counters.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// The file; all of them, where there are several.
    pub capture: CaptureView,
    /// Each of the files, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<CaptureView>,
    /// Packets by fate.
    pub packets: BTreeMap<&'static str, u64>,
    /// Breaches by rule.
    pub violations: BTreeMap<&'static str, u64>,
    /// Connections that newer unfinished ones pushed out of the half-open table.
    pub evicted: u64,
    /// Connections that found the table of confirmed ones full, and stayed where they may be evicted.
    pub table_full: u64,
    /// Reports that found the ring buffer full.
    pub reports_lost: u64,
    /// Packets that were left out because of their checksum.
    #[serde(skip)]
    pub(super) bad_checksums: u64,
}

/// A capture, as far as it was read.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct CaptureView {
    /// As it was named; of several, the names, separated by commas.
    pub file: String,
    /// `pcap` or `pcapng`; of several that are not all of one, `mixed`.
    pub format: &'static str,
    /// Packets by link type.
    pub link_types: Vec<LinkCount>,
    /// Packets that were read.
    pub packets: u64,
    /// The earliest packet's time.
    pub first: Option<Timestamp>,
    /// The latest packet's time.
    pub last: Option<Timestamp>,
    /// Where the file makes no sense any more; what came before is what this is about.
    pub broken: Option<Broken>,
}

impl Summary {
    pub(super) fn new<'a>(files: impl Iterator<Item = &'a str>) -> Self {
        let view = |file: &str| CaptureView { file: file.to_owned(), ..CaptureView::default() };
        Self { captures: files.map(view).collect(), ..Self::default() }
    }

    /// Notes a packet's time in the file of this index.
    pub(super) fn saw(&mut self, index: usize, timestamp_ns: i64) {
        let at = date(timestamp_ns);
        let CaptureView { first, last, .. } = &mut self.captures[index];
        *first = Some(first.map_or(at, |first| first.min(at)));
        *last = Some(last.map_or(at, |last| last.max(at)));
    }

    pub(super) fn finish(&mut self, parts: &[Part], engine: &Engine) -> Result<()> {
        for (view, Part { capture, broken, .. }) in self.captures.iter_mut().zip(parts) {
            view.format = capture.format();
            view.link_types = capture.links().collect();
            view.packets = capture.packets();
            view.broken.clone_from(broken);
        }
        self.capture = CaptureView::of_all(&self.captures);
        if self.captures.len() == 1 {
            self.captures.clear();
        }
        let packets = engine.packets()?;
        self.packets =
            Fate::ALL.iter().map(|fate| (fate.name(), packets[*fate as usize])).collect();
        self.packets.insert(BAD_CHECKSUM, self.bad_checksums);
        let skipped = parts.iter().map(|part| part.capture.skipped()).sum();
        self.packets.insert(UNKNOWN_LINK_TYPE, skipped);
        for rule in Rule::ALL {
            self.violations.insert(rule.name(), engine.breaches(*rule)?);
        }
        *self.violations.entry(Rule::BadChecksum.name()).or_default() += self.bad_checksums;
        self.evicted = engine.evicted()?;
        self.table_full = engine.tally(Tally::TableFull)?;
        self.reports_lost = engine.tally(Tally::ReportsLost)?;
        Ok(())
    }

    /// One fact a line, zeroes left out.
    pub(super) fn write_text(&self, out: &mut impl Write, flows: Option<usize>) -> io::Result<()> {
        let one = slice::from_ref(&self.capture);
        for view in if self.captures.is_empty() { one } else { &self.captures } {
            view.write_text(out)?;
        }
        for (fate, count) in self.packets.iter().filter(|(_, count)| **count > 0) {
            writeln!(out, "packets fate={fate} {count}")?;
        }
        for (name, count) in self.violations.iter().filter(|(_, count)| **count > 0) {
            writeln!(out, "violations name={name} {count}")?;
        }
        let short = [
            (self.evicted, "connections were evicted unfinished", "max-half-open"),
            (self.table_full, "connections found the table full", "max-flows"),
            (self.reports_lost, "reports were lost", "ring-bytes"),
        ];
        for (count, what, option) in short.into_iter().filter(|(count, ..)| *count > 0) {
            writeln!(out, "{count} {what}: give a larger --{option}")?;
        }
        match flows {
            Some(flows) => writeln!(out, "{flows} flows shown"),
            None => Ok(()),
        }
    }
}
