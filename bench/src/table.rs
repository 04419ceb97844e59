//! Markdown tables.

/// A table with a header. Cells must not contain `|`.
#[derive(Debug)]
pub(crate) struct Table {
    columns: usize,
    text: String,
}

impl Table {
    /// An empty table. The first column is text, the others are aligned as numbers.
    pub(crate) fn new(header: &[&str]) -> Self {
        let mut table = Self { columns: header.len(), text: String::new() };
        table.row(header.iter().map(|&cell| cell.to_owned()));
        table.text.push_str("|---|");
        table.text.push_str(&"---:|".repeat(header.len().saturating_sub(1)));
        table.text.push('\n');
        table
    }

    /// Adds a row. Cells that are missing are empty; those beyond the header are left out.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells = cells.into_iter();
        self.text.push('|');
        for _ in 0..self.columns {
            self.text.push_str(&format!(" {} |", cells.next().unwrap_or_default()));
        }
        self.text.push('\n');
    }

    /// The table in Markdown, a line a row.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// A number with commas between groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The same, of the nearest whole number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some millions")]
pub(crate) fn whole(number: f64) -> String {
    grouped(number.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_as_many_cells_everywhere() {
        let mut table = Table::new(&["Who", "ns", "share"]);
        table.row(["a".to_owned(), "1".to_owned(), "2".to_owned(), "beyond".to_owned()]);
        table.row(["b".to_owned()]);
        assert_eq!(
            table.into_text(),
            "| Who | ns | share |\n|---|---:|---:|\n| a | 1 | 2 |\n| b |  |  |\n"
        );
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (50_000, "50,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}
