//! A terminal's screen as an SVG: text in a monospace font, and bars as rectangles, which no font tears apart.

use std::fmt::Write;

use vt100::{Cell, Color, Screen};

/// Size of a cell in pixels.
const CELL: (f64, f64) = (8.4, 18.0);

/// Height of the baseline above the lower edge of a cell, in pixels.
const DESCENT: f64 = 5.0;

/// Pixels around the screen.
const MARGIN: f64 = 12.0;

const BACKGROUND: &str = "#11151c";
const FOREGROUND: &str = "#d5dae3";

/// The sixteen colours of a terminal.
const PALETTE: [&str; 16] = [
    "#30363f", "#f0716b", "#7ac77f", "#e3b450", "#6ba4f0", "#c98be0", "#5cc4cf", "#d5dae3",
    "#7b8594", "#ff8f88", "#95dd99", "#f2c978", "#8cbcf8", "#dca6ef", "#7fdbe4", "#ffffff",
];

/// The screen as an SVG document that shows it with a description for screen readers.
#[must_use]
pub fn svg(screen: &Screen, description: &str) -> String {
    let (rows, columns) = screen.size();
    let width = f64::from(columns) * CELL.0 + 2.0 * MARGIN;
    let height = f64::from(rows) * CELL.1 + 2.0 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" role=\"img\">\n\
         <title>{}</title>\n\
         <rect width=\"{width:.1}\" height=\"{height:.1}\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"14\" \
         fill=\"{FOREGROUND}\" shape-rendering=\"crispEdges\">\n",
        escaped(description)
    );
    for row in 0..rows {
        let cells: Vec<_> = (0..columns).filter_map(|column| screen.cell(row, column)).collect();
        draw_row(&mut out, row, &cells);
    }
    out.push_str("</g>\n</svg>\n");
    out
}

/// How a cell looks, besides its letter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Look {
    foreground: &'static str,
    background: Option<&'static str>,
    bold: bool,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let (mut foreground, mut background) = (colour(cell.fgcolor()), colour(cell.bgcolor()));
        if cell.inverse() {
            (foreground, background) =
                (Some(background.unwrap_or(BACKGROUND)), Some(foreground.unwrap_or(FOREGROUND)));
        }
        Self { foreground: foreground.unwrap_or(FOREGROUND), background, bold: cell.bold() }
    }
}

fn colour(colour: Color) -> Option<&'static str> {
    match colour {
        // `tracker` uses the sixteen only; others keep the default.
        Color::Idx(index) => PALETTE.get(usize::from(index)).copied(),
        Color::Default | Color::Rgb(..) => None,
    }
}

fn draw_row(out: &mut String, row: u16, cells: &[&Cell]) {
    let top = MARGIN + f64::from(row) * CELL.1;
    let mut first = 0;
    while first < cells.len() {
        let look = Look::of(cells[first]);
        let count = cells[first..].iter().take_while(|cell| Look::of(cell) == look).count();
        if let Some(background) = look.background {
            rectangle(out, (first, count), (top, CELL.1), background);
        }
        draw_run(out, first, top, look, &cells[first..first + count]);
        first += count;
    }
}

/// Cells that look alike: bars, and words with single spaces between them. Wider gaps separate texts, so that no reader has
/// to preserve spaces.
fn draw_run(out: &mut String, first: usize, top: f64, look: Look, cells: &[&Cell]) {
    let letters: Vec<&str> = cells.iter().map(|cell| cell.contents()).collect();
    let is_text = |index: usize| {
        letters.get(index).is_some_and(|letter| !letter.trim().is_empty() && bar(letter).is_none())
    };
    let mut index = 0;
    while index < letters.len() {
        if let Some(eighths) = bar(letters[index]) {
            let height = CELL.1 * f64::from(eighths) / 8.0;
            rectangle(out, (first + index, 1), (top + CELL.1 - height, height), look.foreground);
        }
        if !is_text(index) {
            index += 1;
            continue;
        }
        let mut end = index + 1;
        while is_text(end) || (is_text(end + 1) && letters[end].trim().is_empty()) {
            end += 1;
        }
        let text: String = letters[index..end]
            .iter()
            .map(|letter| if letter.is_empty() { " " } else { *letter })
            .collect();
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" textLength=\"{:.1}\"{}{}>{}</text>",
            MARGIN + cells_wide(first + index),
            top + CELL.1 - DESCENT,
            cells_wide(end - index),
            if look.foreground == FOREGROUND {
                String::new()
            } else {
                format!(" fill=\"{}\"", look.foreground)
            },
            if look.bold { " font-weight=\"bold\"" } else { "" },
            escaped(&text)
        );
        index = end;
    }
}

/// Eighths of a cell's height that a block element fills from below (U+2581 to U+2588).
fn bar(letter: &str) -> Option<u8> {
    let letter = letter.chars().next()?;
    ('\u{2581}'..='\u{2588}').zip(1..).find_map(|(bar, eighths)| (bar == letter).then_some(eighths))
}

fn rectangle(
    out: &mut String,
    (column, count): (usize, usize),
    (top, height): (f64, f64),
    fill: &str,
) {
    let _ = writeln!(
        out,
        "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>",
        MARGIN + cells_wide(column),
        cells_wide(count)
    );
}

fn cells_wide(count: usize) -> f64 {
    // A screen has at most 65,535 columns.
    u16::try_from(count).map_or(0.0, |count| f64::from(count) * CELL.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(bytes: &[u8]) -> String {
        let mut parser = vt100::Parser::new(2, 12, 0);
        parser.process(bytes);
        svg(parser.screen(), "a < b")
    }

    #[test]
    fn words_keep_their_columns_and_colours() {
        let svg = drawn(b"one two  \x1b[1;32m<3>");
        assert!(svg.contains("<title>a &lt; b</title>"), "{svg}");
        assert!(
            svg.contains("<text x=\"12.0\" y=\"25.0\" textLength=\"58.8\">one two</text>"),
            "{svg}"
        );
        let green = format!(
            "<text x=\"87.6\" y=\"25.0\" textLength=\"25.2\" fill=\"{}\" font-weight=\"bold\">&lt;3&gt;</text>",
            PALETTE[2]
        );
        assert!(svg.contains(&green), "{svg}");
    }

    #[test]
    fn bars_and_reversed_cells_are_rectangles() {
        let svg = drawn("\u{2584}\u{2588}\x1b[7mx".as_bytes());
        for rectangle in [
            format!(
                "<rect x=\"12.0\" y=\"21.0\" width=\"8.4\" height=\"9.0\" fill=\"{FOREGROUND}\"/>"
            ),
            format!(
                "<rect x=\"20.4\" y=\"12.0\" width=\"8.4\" height=\"18.0\" fill=\"{FOREGROUND}\"/>"
            ),
            format!(
                "<rect x=\"28.8\" y=\"12.0\" width=\"8.4\" height=\"18.0\" fill=\"{FOREGROUND}\"/>"
            ),
        ] {
            assert!(svg.contains(&rectangle), "{rectangle}: {svg}");
        }
        assert!(svg.contains(&format!("fill=\"{BACKGROUND}\">x</text>")), "{svg}");
        assert!(!svg.contains('\u{2588}'), "{svg}");
    }
}
