//! Flows as a table, by columns of one's choice.

use std::{
    fmt::{self, Write as _},
    io::Write,
};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use jiff::Timestamp;

use super::listing::Listing;
use crate::model::{owner::Owner, record::Record};

/// What a column shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Column {
    /// Address of the end that opened the connection
    Src,
    /// Its port
    Sport,
    /// Address of the other end
    Dst,
    /// Its port
    Dport,
    /// Both ends' states
    State,
    /// Seconds until it expires
    Left,
    /// Seconds since its first packet
    Age,
    /// Packets of both ends
    Packets,
    /// Bytes of both ends, IP headers included
    Bytes,
    /// Number of violations
    Violations,
    /// Rules that it broke, as far as the kernel remembers, and how often
    BrokenRules,
    /// Round trip of the handshake, in microseconds
    Rtt,
    /// Zeek's history
    History,
    /// Zeek's conn_state
    ConnState,
    /// Directions that were seen
    Seen,
    /// Interface that saw its first packet
    Interface,
    /// The interface's zone
    Zone,
    /// Both ends on the other side, where this host translates, as `--nat`
    Translated,
    /// Processes that have the socket, as `--processes`
    Process,
    /// User that made the socket
    User,
    /// Control group of the first process
    Cgroup,
    /// Container, by the first digits of its identifier
    Container,
    /// Pod of Kubernetes
    Pod,
}

impl Column {
    /// Appends what it shows of a flow.
    fn show(self, record: &Record, now: Timestamp, to: &mut String) -> fmt::Result {
        match self {
            Self::Src => write!(to, "{}", record.src),
            Self::Sport => write!(to, "{}", record.sport),
            Self::Dst => write!(to, "{}", record.dst),
            Self::Dport => write!(to, "{}", record.dport),
            Self::State => write!(to, "{}/{}", record.orig.state, record.reply.state),
            Self::Left => write!(to, "{}", record.timeout_s),
            Self::Age => {
                write!(to, "{}", record.age_s(now))
            }
            Self::Packets => write!(to, "{}", record.packets()),
            Self::Bytes => write!(to, "{}", record.bytes()),
            Self::Violations => write!(to, "{}", record.violations),
            Self::BrokenRules => or_none(record.broken_text(), to),
            Self::Rtt => or_none(record.rtt_us, to),
            Self::History => to.write_str(&record.history),
            Self::ConnState => to.write_str(&record.conn_state),
            Self::Seen => to.write_str(&record.seen),
            Self::Interface => to.write_str(&record.interface),
            Self::Zone => write!(to, "{}", record.zone),
            Self::Translated => or_none(record.translated, to),
            Self::Process => or_none(of_owners(record, Owner::process_text), to),
            Self::User => or_none(of_owners(record, |owner| Some(owner.user_text())), to),
            Self::Cgroup => or_none(of_owners(record, |owner| owner.cgroup.clone()), to),
            Self::Container => or_none(of_owners(record, Owner::container_text), to),
            Self::Pod => {
                let pod = |owner: &Owner| owner.pod.as_ref().map(ToString::to_string);
                or_none(of_owners(record, pod), to)
            }
        }
    }

    fn text(self, record: &Record, now: Timestamp) -> String {
        let mut text = String::new();
        // A string takes everything.
        let _ = self.show(record, now, &mut text);
        text
    }

    /// Whether it shows who has sockets.
    pub(super) const fn asks_for_owners(&self) -> bool {
        matches!(self, Self::Process | Self::User | Self::Cgroup | Self::Container | Self::Pod)
    }

    fn title(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| {
            value.get_name().to_ascii_uppercase().replace('-', "_")
        })
    }
}

fn or_none(value: Option<impl fmt::Display>, to: &mut String) -> fmt::Result {
    match value {
        Some(value) => write!(to, "{value}"),
        None => to.write_str("-"),
    }
}

/// What is said of the owners of a connection's ends: of both, where this host has both sockets.
fn of_owners(record: &Record, say: impl Fn(&Owner) -> Option<String>) -> Option<String> {
    let said: Vec<_> = record.owners().filter_map(say).collect();
    (!said.is_empty()).then(|| said.join(">"))
}

/// Columns between two columns.
const GAP: usize = 2;

/// Flows that are laid out together; lines of more are not wrapped.
pub(super) const MOST: u64 = 1 << 10;

/// Writes a listing as a table with a title a column, and returns how many flows there were. With a width it keeps to that; without one
/// a flow is a line.
pub(super) fn write(
    out: &mut impl Write,
    listing: &Listing,
    columns: &[Column],
    width: Option<u16>,
) -> Result<u64> {
    let now = Timestamp::now();
    if let (Some(width), Some(0..=MOST)) = (width, listing.len()) {
        let mut records = Vec::new();
        listing.each(&mut |record| {
            records.push(record.clone());
            Ok(())
        })?;
        writeln!(out, "{}", wrapped(&records, columns, now, width))?;
        return Ok(records.len() as u64);
    }
    let mut table = Plain::new(columns, now);
    listing.each(&mut |record| {
        table.add(record);
        Ok(())
    })?;
    writeln!(out, "{}", table.title())?;
    let (mut count, mut line) = (0, String::new());
    listing.each(&mut |record| {
        count += 1;
        table.line(record, &mut line);
        Ok(writeln!(out, "{line}")?)
    })?;
    Ok(count)
}

/// A table that is as wide as its longest cells, a flow a line.
pub(super) struct Plain<'a> {
    columns: &'a [Column],
    widths: Vec<usize>,
    now: Timestamp,
    cell: String,
}

impl<'a> Plain<'a> {
    /// A table without flows.
    pub(super) fn new(columns: &'a [Column], now: Timestamp) -> Self {
        let widths = columns.iter().map(|column| column.title().len()).collect();
        Self { columns, widths, now, cell: String::new() }
    }

    /// Makes room for a flow.
    pub(super) fn add(&mut self, record: &Record) {
        for (width, column) in self.widths.iter_mut().zip(self.columns) {
            self.cell.clear();
            let _ = column.show(record, self.now, &mut self.cell);
            *width = (*width).max(self.cell.chars().count());
        }
    }

    /// The titles.
    pub(super) fn title(&self) -> String {
        let mut line = String::new();
        self.fill(&mut line, |column, line| line.push_str(&column.title()));
        line
    }

    /// Makes `line` that of a flow.
    pub(super) fn line(&self, record: &Record, line: &mut String) {
        line.clear();
        self.fill(line, |column, line| {
            let _ = column.show(record, self.now, line);
        });
    }

    fn fill(&self, line: &mut String, show: impl Fn(Column, &mut String)) {
        for (column, width) in self.columns.iter().zip(&self.widths) {
            let start = line.len();
            show(*column, line);
            let shown = line[start..].chars().count();
            // As the table that keeps to a width has it, whose first column has no space before it.
            let more = usize::from(start == 0 && *column != Column::BrokenRules);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(shown) + GAP + more));
        }
        line.truncate(line.trim_end().len());
    }
}

/// A table's title, and its lines.
pub(super) fn split(table: &str) -> (Vec<String>, Vec<String>) {
    let mut lines = table.lines().map(str::to_owned);
    let titles = lines.next().into_iter().collect();
    (titles, lines.collect())
}

/// A table that keeps to a width.
pub(super) fn wrapped(
    records: &[Record],
    columns: &[Column],
    now: Timestamp,
    width: u16,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width);
    table.set_header(columns.iter().map(|column| column.title()));
    for record in records {
        table.add_row(columns.iter().map(|column| column.text(record, now)));
    }
    // Lists of rules go on at their commas, and nothing else is torn apart.
    for (place, column) in columns.iter().enumerate() {
        let Some(shown) = table.column_mut(place) else { continue };
        if *column == Column::BrokenRules {
            shown.set_delimiter(',');
            continue;
        }
        let cells = records.iter().map(|record| column.text(record, now).len());
        let longest = cells.chain([column.title().len()]).max().unwrap_or_default();
        // With the space on both sides.
        let least = u16::try_from(longest + 2).unwrap_or(u16::MAX);
        shown.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
    }
    if let Some(first) = table.column_mut(0) {
        // A line begins with its first word, for awk and for eyes.
        first.set_padding((0, 1));
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tracker_common::{flow::Flow, key::FlowKey, sweep::Timeouts};

    use super::*;
    use crate::model::{clock::Clock, record::View};

    /// What a program reads is what stands on a terminal that is wide enough.
    #[test]
    fn both_tables_are_the_same_where_there_is_room() {
        let mut records = Vec::new();
        for (src, interface) in [("10.9.0.2", "veth0"), ("2001:db8::1", "a"), ("::1", "eth0.4094")]
        {
            let timeouts = Timeouts::default();
            let view = View { clock: Clock::now(), timeouts, names: HashMap::new() };
            let mut record = Record::new(&FlowKey::default(), &Flow::default(), None, &view);
            record.src = src.parse().expect(src);
            record.interface = interface.to_owned();
            records.push(record);
        }
        for columns in [
            &[Column::Src, Column::Interface][..],
            &[Column::Interface, Column::BrokenRules, Column::Src, Column::Rtt],
            &[Column::Process],
        ] {
            for count in [0, 1, 3] {
                let mut plain = Plain::new(columns, Timestamp::UNIX_EPOCH);
                records[..count].iter().for_each(|record| plain.add(record));
                let (mut lines, mut line) = (vec![plain.title()], String::new());
                for record in &records[..count] {
                    plain.line(record, &mut line);
                    lines.push(line.clone());
                }
                assert_eq!(
                    lines.join("\n"),
                    wrapped(&records[..count], columns, Timestamp::UNIX_EPOCH, 500)
                );
            }
        }
    }
}
