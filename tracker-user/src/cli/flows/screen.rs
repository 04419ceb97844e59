//! Flows on a terminal.

use jiff::Timestamp;

use crate::{
    cli::grid::{Column, Content, Grid, Widths, duration, short, short_states},
    model::record::Record,
};

/// Columns in their order; the first ones are always there.
const COLUMNS: [Column<Record>; 12] = [
    column("PROTO", 0, false, proto),
    column("STATES", 0, false, short_states),
    Column { content: Content::Src, ..column("SRC", 0, false, nothing) },
    Column { content: Content::Dst, ..column("DST", 0, false, nothing) },
    column("BYTES", 1, true, |record| short(record.bytes())),
    column("PKTS", 4, true, |record| short(record.packets())),
    column("AGE", 2, true, |record| duration(record.age_s(Timestamp::now()))),
    column("LEFT", 3, true, |record| duration(record.timeout_s.into())),
    column("VIOL", 5, true, |record| short(record.violations.into())),
    column("RTT_US", 6, true, |record| {
        record.rtt_us.map_or_else(|| "-".to_owned(), |rtt| short(rtt.into()))
    }),
    column("IF", 7, false, |record| record.interface.clone()),
    column("HISTORY", 8, false, |record| record.history.clone()),
];

const fn column(
    title: &'static str,
    rank: u8,
    align_right: bool,
    text: fn(&Record) -> String,
) -> Column<Record> {
    Column { title, content: Content::Other(text), rank, align_right, least: 0 }
}

fn nothing(_: &Record) -> String {
    String::new()
}

fn proto(record: &Record) -> String {
    if record.family == "ipv6" { "tcp6" } else { "tcp" }.to_owned()
}

/// What no flow needs yet.
pub(super) fn widths() -> Widths {
    Widths::new(&COLUMNS)
}

/// Makes room for a flow.
pub(super) fn add(widths: &mut Widths, record: &Record) {
    widths.add(&COLUMNS, record);
}

/// The grid for flows that need so much, in so many columns.
pub(super) fn grid(widths: Widths, width: usize) -> Grid<'static, Record> {
    Grid::within(&COLUMNS, widths, width)
}
