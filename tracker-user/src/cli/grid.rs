//! Flows on a screen: short states, whole addresses, and as many columns beside them as there is room for.

use std::net::SocketAddr;

use crate::model::record::Record;

/// Columns between two columns.
const GAP: usize = 1;

/// What stands before the second address of a flow that takes two lines.
const SECOND: &str = "> ";

/// One column of a grid.
pub(crate) struct Column<R> {
    pub(crate) title: &'static str,
    pub(crate) content: Content<R>,
    /// Those with a lower number are shown first where not all fit; those with 0 always are.
    pub(crate) rank: u8,
    pub(crate) align_right: bool,
    /// Columns that it takes at least, so that it does not jump as numbers grow.
    pub(crate) least: usize,
}

/// What a column shows of a row.
pub(crate) enum Content<R> {
    Src,
    Dst,
    Other(fn(&R) -> String),
}

/// How many columns the cells of each column need, the title's included.
#[derive(Clone, Debug)]
pub(crate) struct Widths(Vec<usize>);

impl Widths {
    /// What they need without rows.
    pub(crate) fn new<R>(all: &[Column<R>]) -> Self {
        Self(all.iter().map(|column| column.title.len().max(column.least)).collect())
    }

    /// Makes room for a row.
    pub(crate) fn add<R: AsRef<Record>>(&mut self, all: &[Column<R>], row: &R) {
        for (width, column) in self.0.iter_mut().zip(all) {
            *width = (*width).max(column.text(row).len());
        }
    }
}

/// How rows are shown: which columns, how wide, and whether a flow takes two lines because its addresses are long.
pub(crate) struct Grid<'a, R> {
    pub(crate) columns: Vec<(&'a Column<R>, usize)>,
    pub(crate) is_stacked: bool,
}

impl<'a, R: AsRef<Record>> Grid<'a, R> {
    /// The grid of these rows that fits into `width` columns.
    pub(crate) fn fit(all: &'a [Column<R>], rows: &[R], width: usize) -> Self {
        let mut needs = Widths::new(all);
        rows.iter().for_each(|row| needs.add(all, row));
        Self::within(all, needs, width)
    }

    /// The grid of rows that need so much, and that fits into `width` columns.
    pub(crate) fn within(all: &'a [Column<R>], needs: Widths, width: usize) -> Self {
        let Widths(mut needs) = needs;
        let end =
            |is_it: fn(&Content<R>) -> bool| all.iter().position(|column| is_it(&column.content));
        let src = end(|content| matches!(content, Content::Src));
        let dst = end(|content| matches!(content, Content::Dst));
        let mut is_shown: Vec<_> = all.iter().map(|column| column.rank == 0).collect();
        let taken = |is_shown: &[bool], needs: &[usize]| {
            let shown = is_shown.iter().zip(needs).filter(|(is_shown, _)| **is_shown);
            shown.map(|(_, need)| need + GAP).sum::<usize>().saturating_sub(GAP)
        };
        let is_stacked = taken(&is_shown, &needs) > width;
        if let (true, Some(src), Some(dst)) = (is_stacked, src, dst) {
            needs[src] = needs[src].max(needs[dst] + SECOND.len());
            is_shown[dst] = false;
        }
        let mut others: Vec<_> = (0..all.len()).filter(|index| all[*index].rank > 0).collect();
        others.sort_by_key(|index| all[*index].rank);
        for index in others {
            is_shown[index] = true;
            is_shown[index] = taken(&is_shown, &needs) <= width;
        }
        let columns = all.iter().zip(needs).zip(is_shown);
        let columns = columns.filter(|(_, is_shown)| *is_shown).map(|(column, _)| column).collect();
        Self { columns, is_stacked }
    }

    /// Lines that a flow takes.
    pub(crate) fn height(&self) -> usize {
        if self.is_stacked { 2 } else { 1 }
    }

    /// The titles, a line for each line of a flow.
    pub(crate) fn titles(&self) -> Vec<String> {
        let first = self.line(|column| column.title.to_owned());
        let second = self.second("DST");
        [Some(first), second].into_iter().flatten().collect()
    }

    /// A flow's lines.
    pub(crate) fn lines(&self, row: &R) -> Vec<String> {
        let first = self.line(|column| column.text(row));
        let second = self.second(&ends(row.as_ref())[1]);
        [Some(first), second].into_iter().flatten().collect()
    }

    /// The second line of a flow that takes two: the other end below the first.
    fn second(&self, text: &str) -> Option<String> {
        let before = self.columns.iter().position(|(it, _)| matches!(it.content, Content::Src))?;
        let indent: usize = self.columns[..before].iter().map(|(_, width)| width + GAP).sum();
        self.is_stacked.then(|| format!("{:indent$}{SECOND}{text}", ""))
    }

    fn line(&self, text: impl Fn(&Column<R>) -> String) -> String {
        let cells: Vec<_> = self
            .columns
            .iter()
            .map(|(column, width)| match column.align_right {
                true => format!("{:>width$}", text(column)),
                false => format!("{:<width$}", text(column)),
            })
            .collect();
        cells.join(" ").trim_end().to_owned()
    }
}

impl<R: AsRef<Record>> Column<R> {
    /// What it shows of a row.
    pub(crate) fn text(&self, row: &R) -> String {
        match self.content {
            Content::Src => ends(row.as_ref())[0].clone(),
            Content::Dst => ends(row.as_ref())[1].clone(),
            Content::Other(text) => text(row),
        }
    }
}

/// The second line of a cell with both ends.
pub(crate) fn below(record: &Record) -> String {
    format!("{SECOND}{}", ends(record)[1])
}

fn ends(record: &Record) -> [String; 2] {
    [(record.src, record.sport), (record.dst, record.dport)]
        .map(|end| SocketAddr::from(end).to_string())
}

impl AsRef<Self> for Record {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// A state in at most eight columns, as `ss` and `netstat` shorten them.
pub(crate) fn short_state(state: &str) -> &str {
    match state {
        "ESTABLISHED" => "ESTAB",
        "SYN_RECEIVED" => "SYN_RECV",
        "FIN_WAIT_1" => "FIN_W1",
        "FIN_WAIT_2" => "FIN_W2",
        "CLOSE_WAIT" => "CLOSE_W",
        "TIME_WAIT" => "TIME_W",
        other => other,
    }
}

/// Both ends' states, the opener's first.
pub(crate) fn short_states(record: &Record) -> String {
    record.states().map(short_state).join("/")
}

/// A number in at most five columns; powers of 1000.
pub(crate) fn short(number: u64) -> String {
    if number < 10_000 {
        return number.to_string();
    }
    let mut units = ['k', 'M', 'G', 'T', 'P', 'E'].into_iter();
    let (mut rest, mut unit) = (number, ' ');
    let mut tenths = 0;
    while rest >= 1000 {
        tenths = rest % 1000 / 100;
        rest /= 1000;
        unit = units.next().unwrap_or('?');
    }
    if rest < 100 { format!("{rest}.{tenths}{unit}") } else { format!("{rest}{unit}") }
}

/// Seconds in at most four columns.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..=99 => format!("{seconds}s"),
        100..=5_999 => format!("{}m", seconds / 60),
        6_000..=359_999 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_five_columns() {
        for (number, expected) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "10.0k"),
            (99_999, "99.9k"),
            (123_456, "123k"),
            (999_999, "999k"),
            (1_000_000, "1.0M"),
            (25_960_000_000, "25.9G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(short(number), expected);
        }
    }

    #[test]
    fn durations_keep_to_four_columns() {
        for (seconds, expected) in
            [(0, "0s"), (99, "99s"), (100, "1m"), (5_999, "99m"), (7440, "2h"), (864_000, "10d")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }
}
