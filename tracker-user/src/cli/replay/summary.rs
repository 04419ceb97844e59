//! What a replay amounted to.

use std::{
    collections::BTreeMap,
    io::{self, Write},
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
use crate::capture::{Broken, Capture, LinkCount};

/// Names of what becomes of packets beside the programs' fates.
const BAD_CHECKSUM: &str = "bad_checksum";
const UNKNOWN_LINK_TYPE: &str = "unknown_link_type";

/// A replay's counters.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// The file.
    pub capture: CaptureView,
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
    /// As it was named.
    pub file: String,
    /// `pcap` or `pcapng`.
    pub format: &'static str,
    /// Packets by link type.
    pub link_types: Vec<LinkCount>,
    /// Packets in the file.
    pub packets: u64,
    /// The earliest packet's time.
    pub first: Option<Timestamp>,
    /// The latest packet's time.
    pub last: Option<Timestamp>,
    /// Where the file makes no sense any more; what came before is what this is about.
    pub broken: Option<Broken>,
}

impl Summary {
    pub(super) fn new(file: &str) -> Self {
        Self {
            capture: CaptureView { file: file.to_owned(), ..CaptureView::default() },
            ..Self::default()
        }
    }

    /// Notes a packet's time.
    pub(super) fn saw(&mut self, timestamp_ns: i64) {
        let at = date(timestamp_ns);
        let CaptureView { first, last, .. } = &mut self.capture;
        *first = Some(first.map_or(at, |first| first.min(at)));
        *last = Some(last.map_or(at, |last| last.max(at)));
    }

    pub(super) fn finish(
        &mut self,
        capture: &Capture,
        engine: &Engine,
        broken: Option<Broken>,
    ) -> Result<()> {
        self.capture.format = capture.format();
        self.capture.link_types = capture.links().collect();
        self.capture.packets = capture.packets();
        self.capture.broken = broken;
        let packets = engine.packets()?;
        self.packets =
            Fate::ALL.iter().map(|fate| (fate.name(), packets[*fate as usize])).collect();
        self.packets.insert(BAD_CHECKSUM, self.bad_checksums);
        self.packets.insert(UNKNOWN_LINK_TYPE, capture.skipped());
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
        let CaptureView { file, format, link_types, packets, first, last, .. } = &self.capture;
        write!(out, "capture {file} format={format} packets={packets}")?;
        if let (Some(first), Some(last)) = (first, last) {
            write!(out, " first={first:.6} last={last:.6}")?;
        }
        writeln!(out)?;
        for LinkCount { link_type, name, packets } in link_types {
            let name = name.unwrap_or("not understood, left out");
            writeln!(out, "  link_type={link_type} ({name}) {packets}")?;
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
