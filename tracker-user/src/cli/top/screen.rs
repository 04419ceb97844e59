//! From the model to the screen. Everything is said in words and bars: colour only helps to find it.

use std::borrow::Cow;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    symbols,
    text::{Line, Span, Text},
    widgets::{Paragraph, RenderDirection, Row as Cells, Sparkline, Table},
};

use super::{
    detail::Detail,
    model::{Model, Page, Point, in_brief},
    sampler::{MOST, Row, Sample},
};
use crate::cli::{
    grid::{Column, Content, Grid, below, duration, short, short_state, short_states},
    terminal,
};

/// The least width, in columns, for more plots and more columns of a table.
const WIDE: u16 = 120;

/// The least height, in rows, for taller plots and more violations.
const TALL: u16 = 40;

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) colour: bool,
    pub(super) unicode: bool,
}

impl Theme {
    fn of(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn state(self, state: &str) -> Style {
        self.of(match state {
            "ESTABLISHED" => Color::Green,
            "SYN_SENT" | "SYN_RECEIVED" => Color::Yellow,
            "CLOSED" | "LISTEN" => Color::DarkGray,
            _ => Color::Cyan,
        })
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, theme: Theme) {
    let area = frame.area();
    let is_tall = area.height >= TALL;
    let head = head(model, theme, area.width, if is_tall { 8 } else { 2 });
    let foot = foot(model, theme, area.width);
    let rows =
        |lines: &[Line<'_>]| Constraint::Length(u16::try_from(lines.len()).unwrap_or(u16::MAX));
    let [top, page, bottom] =
        Layout::vertical([rows(&head), Constraint::Min(3), rows(&foot)]).areas(area);
    frame.render_widget(Paragraph::new(head), top);
    match &model.page {
        Page::Flows => {
            let (plots, violations) = if is_tall { (7, 10) } else { (4, 4) };
            let [plots, flows, violations] = Layout::vertical([
                Constraint::Length(plots),
                Constraint::Min(3),
                Constraint::Length(violations),
            ])
            .areas(page);
            draw_plots(frame, plots, model, theme);
            draw_flows(frame, flows, model, theme);
            draw_violations(frame, violations, model, theme);
        }
        Page::Detail(detail) => draw_detail(frame, page, detail, theme),
        Page::Help => frame.render_widget(Paragraph::new(help(area.width)), page),
    }
    frame.render_widget(Paragraph::new(foot), bottom);
}

/// What stands above everything: who is watched, totals, listeners, and what is wrong.
fn head(model: &Model, theme: Theme, width: u16, most_listeners: usize) -> Vec<Line<'static>> {
    let mut title = vec![format!("tracker top  {}", model.instance)];
    if let Some(sample) = &model.sample {
        title.push(sample.interfaces.join(", "));
        let at = sample.at.to_string();
        let time = at.split_once('T').and_then(|(_, time)| time.get(..8)).unwrap_or(&at);
        title.push(format!("{time}Z"));
    }
    title.push(format!("every {} s", model.every));
    if model.is_paused() {
        title.push("PAUSED".to_owned());
    }
    let mut lines = filled(&title, width, BOLD);
    if let Some(trouble) = model.trouble.as_ref().or(model.deaf.as_ref()) {
        let style = theme.of(Color::Red).add_modifier(Modifier::BOLD);
        lines.extend(wrapped(trouble, width).into_iter().map(|line| Line::styled(line, style)));
    }
    match &model.sample {
        Some(sample) => {
            lines.extend(filled(&totals(sample), width, Style::new()));
            lines.extend(filled(&traffic(sample, model.lost), width, Style::new()));
            lines.extend(cookie_lines(sample, most_listeners, width));
        }
        None => lines.extend([Line::raw(""), Line::raw("")]),
    }
    lines
}

fn totals(sample: &Sample) -> Vec<String> {
    vec![
        format!("flows {}", sample.flows()),
        format!("half-open {}", sample.half_open),
        format!("ESTABLISHED {}", sample.established),
        format!("TIME_WAIT {}", sample.time_wait),
        table("table", sample.confirmed),
        table("unconfirmed", sample.unconfirmed),
    ]
}

/// How full a table is: how many flows it holds is said only where it could matter.
fn table(name: &str, (flows, capacity): (u64, u32)) -> String {
    format!("{name} {}% full", flows * 100 / u64::from(capacity).max(1))
}

fn traffic(sample: &Sample, lost: u64) -> Vec<String> {
    let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), short);
    let [arrived, left] = sample.packets;
    let more = sample.violations.1.filter(|more| *more > 0);
    let more = more.map_or_else(String::new, |more| format!(" (+{more})"));
    let mut all = vec![
        format!("new/s {}", rate(sample.opened)),
        format!("packets/s in {} out {}", rate(arrived), rate(left)),
        format!("violations {}{more}", sample.violations.0),
    ];
    all.extend((lost > 0).then(|| format!("reports lost {lost}")));
    all
}

/// A line a listener; where there are more than fit, those come first that send cookies.
fn cookie_lines(sample: &Sample, most: usize, width: u16) -> Vec<Line<'static>> {
    let mut listeners: Vec<_> = sample.listeners.iter().collect();
    listeners.sort_by_key(|listener| !listener.on);
    let lines = listeners.into_iter().take(most).flat_map(|listener| {
        let phrases = [
            format!("cookies {}", listener.listener),
            format!("mode={}", listener.mode),
            format!("now={}", if listener.on { "on" } else { "off" }),
            format!("half-open {} of {}", listener.half_open, listener.threshold),
            format!("way={}", listener.way),
        ];
        filled(&phrases, width, if listener.on { BOLD } else { Style::new() })
    });
    lines.collect()
}

/// Phrases on as few lines as they need; none is torn apart.
fn filled(phrases: &[String], width: u16, style: Style) -> Vec<Line<'static>> {
    let width = usize::from(width);
    let mut lines: Vec<String> = Vec::new();
    for phrase in phrases {
        match lines.last_mut() {
            Some(line) if line.len() + 2 + phrase.len() <= width => {
                line.push_str("  ");
                line.push_str(phrase);
            }
            _ => lines.extend(
                textwrap::wrap(phrase, terminal::wrapped(width)).into_iter().map(Cow::into_owned),
            ),
        }
    }
    lines.into_iter().map(|line| Line::styled(line, style)).collect()
}

/// Text in lines of `width` columns, all but the first a little further right.
fn wrapped(text: &str, width: u16) -> Vec<String> {
    let options = terminal::wrapped(width.into()).subsequent_indent("  ");
    textwrap::wrap(text, options).into_iter().map(Cow::into_owned).collect()
}

/// Draws a title over a line across the screen, on as many lines as it needs; returns what is below.
fn titled(frame: &mut Frame<'_>, area: Rect, title: &str, theme: Theme) -> Rect {
    let mut lines = wrapped(title, area.width);
    if let Some(last) = lines.last_mut() {
        let rest = usize::from(area.width).saturating_sub(last.len());
        last.push_str(&if theme.unicode { "\u{2500}" } else { "-" }.repeat(rest));
    }
    let height = Constraint::Length(u16::try_from(lines.len()).unwrap_or(u16::MAX));
    let [above, below] = Layout::vertical([height, Constraint::Min(0)]).areas(area);
    let lines: Vec<_> = lines.into_iter().map(|line| Line::styled(line, BOLD)).collect();
    frame.render_widget(Paragraph::new(lines), above);
    below
}

fn draw_plots(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    type Plot = (&'static str, fn(&Point) -> u64, Color);
    let plots: [Plot; 4] = [
        ("half-open", |point| point.half_open, Color::Yellow),
        ("TIME_WAIT", |point| point.time_wait, Color::Cyan),
        ("flows", |point| point.flows, Color::Green),
        ("violations", |point| point.violations, Color::Red),
    ];
    let count = if area.width >= WIDE { 4 } else { 2 };
    let areas = Layout::horizontal(vec![Constraint::Fill(1); count]).spacing(1).split(area);
    for ((name, value, colour), area) in plots.into_iter().zip(areas.iter()) {
        let newest_first: Vec<u64> =
            model.points.iter().rev().take(usize::from(area.width)).map(value).collect();
        let now = newest_first.first().copied().unwrap_or_default();
        let most = newest_first.iter().copied().max().unwrap_or_default();
        let below = titled(frame, *area, &format!("{name} {now}, most {most}"), theme);
        let plot = Sparkline::default()
            .bar_set(if theme.unicode { symbols::bar::NINE_LEVELS } else { ASCII_BARS })
            .data(newest_first)
            .max(most.max(1))
            .direction(RenderDirection::RightToLeft)
            .style(theme.of(colour));
        frame.render_widget(plot, below);
    }
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, model: &mut Model, theme: Theme) {
    let sample = model.sample.as_ref();
    let rows = sample.map_or(&[][..], |sample| &sample.rows);
    let order = if model.reverse { "least" } else { "greatest" };
    let matched = sample.map_or(0, |sample| sample.matched);
    let mut title = format!("{matched} flows by {}, {order} first", model.key.name());
    if rows.len() == MOST && matched > rows.len() as u64 {
        title.push_str(&format!(", {MOST} shown"));
    }
    if !model.filter_text.is_empty() {
        title.push_str(&format!(": {}", model.filter_text));
    }
    let area = titled(frame, area, &title, theme);
    let grid = Grid::fit(&COLUMNS, rows, area.width.into());
    let height = u16::try_from(grid.height()).unwrap_or(1);
    let cell = |column: &Column<Row>, row: &Row| -> Text<'static> {
        match column.content {
            Content::Src if grid.is_stacked => {
                Text::from(vec![Line::raw(column.text(row)), Line::raw(below(&row.record))])
            }
            _ if column.title == "STATES" => {
                let [orig, reply] = row.record.states();
                Line::from(vec![
                    Span::styled(short_state(orig).to_owned(), theme.state(orig)),
                    Span::raw("/"),
                    Span::styled(short_state(reply).to_owned(), theme.state(reply)),
                ])
                .into()
            }
            _ if column.align_right => Line::raw(column.text(row)).right_aligned().into(),
            _ => Line::raw(column.text(row)).into(),
        }
    };
    let cells = rows.iter().map(|row| {
        let cells = grid.columns.iter().map(|(column, _)| cell(column, row));
        Cells::new(cells).height(height)
    });
    let titles = grid.columns.iter().map(|(column, _)| match column.content {
        Content::Src if grid.is_stacked => Text::from("SRC\n> DST"),
        _ if column.align_right => Line::raw(column.title).right_aligned().into(),
        _ => Text::from(column.title),
    });
    let widths = grid.columns.iter().map(|(_, width)| u16::try_from(*width).unwrap_or(u16::MAX));
    let header = Cells::new(titles).height(height).style(BOLD);
    let table = Table::new(cells, widths.map(Constraint::Length))
        .header(header)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    model.rows_shown = isize::try_from(area.height / height).unwrap_or(1).saturating_sub(1).max(1);
    frame.render_stateful_widget(table, area, &mut model.table);
}

fn draw_violations(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let mut title = "violations, the newest first".to_owned();
    if let Some((_, cookie)) = &model.cookie {
        title.push_str(&format!("; cookies {} for {}", cookie.mode, cookie.listener));
    }
    let area = titled(frame, area, &title, theme);
    let rows = usize::from(area.height);
    let mut lines: Vec<String> = Vec::new();
    for event in model.violations.iter().rev() {
        let next = wrapped(&in_brief(event), area.width);
        // One that does not fit whole waits for a higher screen, unless it would be the only one.
        if lines.len() + next.len() > rows && !lines.is_empty() {
            break;
        }
        lines.extend(next);
    }
    let style = if lines.is_empty() { Style::new() } else { theme.of(Color::Red) };
    if lines.is_empty() {
        lines.push("none since this began".to_owned());
    }
    let lines: Vec<_> = lines.into_iter().map(|line| Line::styled(line, style)).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_detail(frame: &mut Frame<'_>, area: Rect, detail: &Detail, theme: Theme) {
    let facts = detail.facts();
    let lines: Vec<_> =
        facts.iter().flat_map(|fact| wrapped(fact, area.width)).map(Line::raw).collect();
    let height = Constraint::Length(u16::try_from(lines.len()).unwrap_or(u16::MAX) + 1);
    let [facts, ladder] = Layout::vertical([height, Constraint::Min(2)]).areas(area);
    let facts = titled(frame, facts, "connection", theme);
    frame.render_widget(Paragraph::new(lines), facts);
    let mut title = "segments since this was opened".to_owned();
    if detail.lost > 0 {
        title.push_str(&format!(", {} reports lost", detail.lost));
    }
    if let Some(why) = &detail.deaf {
        title.push_str(&format!(": {why}"));
    }
    if detail.back > 0 {
        title.push_str(&format!(", {} more below", detail.back));
    }
    let ladder = titled(frame, ladder, &title, theme);
    let lines = detail.lines(ladder.width, ladder.height);
    let lines: Vec<_> = lines
        .into_iter()
        .map(|line| {
            let is_breach = line.trim_start().starts_with("! ");
            Line::styled(line, if is_breach { theme.of(Color::Red) } else { Style::new() })
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), ladder);
}

/// What stands below everything: keys, or the filter that is being typed and what is wrong with it.
fn foot(model: &Model, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let keys = match (&model.prompt, &model.page) {
        (Some(prompt), _) => {
            let mut spans = vec![Span::styled("filter: ", BOLD), Span::raw(prompt.text.clone())];
            spans.push(Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)));
            if prompt.error.is_none() && prompt.text.is_empty() {
                spans.push(Span::raw(" state established and dport 443,80, or nothing"));
            }
            let error = prompt.error.as_deref().map(|error| wrapped(error, width));
            let error = error.into_iter().flatten();
            let error = error.map(|line| Line::styled(line, theme.of(Color::Red)));
            return error.chain([Line::from(spans)]).collect();
        }
        (None, Page::Flows) => &[
            "q quit",
            "p pause",
            "s sort",
            "r reverse",
            "/ filter",
            "up/down mark",
            "enter detail",
            "? help",
        ][..],
        (None, Page::Detail(_)) => {
            &["esc back", "q quit", "p pause", "up/down scroll", "end newest"]
        }
        (None, Page::Help) => &["any key goes back", "q quit"],
    };
    filled(&keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>(), width, Style::new())
}

/// Keys and words, and what they stand for.
const HELP: [(&str, &str); 12] = [
    ("q, Ctrl-C", "quit"),
    ("p, space", "pause, and continue"),
    (
        "s, S",
        "sort by the next or the previous key: rate, packet-rate, bytes, packets, violations, newest, rtt, state",
    ),
    ("r", "reverse the order"),
    (
        "/",
        "filter: state established and dport 443 and not src 10.0.0.0/8; Enter applies it, Esc cancels, an empty one \
         shows all flows",
    ),
    ("up, down, k, j", "select another flow; also PgUp, PgDn, Home, End"),
    ("Enter", "show the selected flow and draw its segments as they pass; Esc goes back"),
    ("?, h", "this help"),
    ("half-open", "connections whose handshake goes on"),
    ("table", "how full the tables are, of confirmed flows and of unconfirmed ones"),
    ("B/S, PKT/S", "bytes and packets of both ends per second; - at first"),
    ("LEFT, AGE", "time until it expires, and since its first packet; VIOL: number of violations"),
];

fn help(width: u16) -> Vec<Line<'static>> {
    const INDENT: &str = "                 ";
    let lines = HELP.iter().flat_map(|(keys, text)| {
        let first = format!("{keys:<0$}", INDENT.len());
        let options =
            terminal::wrapped(width.into()).initial_indent(&first).subsequent_indent(INDENT);
        textwrap::wrap(text, options)
            .into_iter()
            .map(|line| Line::raw(line.into_owned()))
            .collect::<Vec<_>>()
    });
    lines.collect()
}

/// Columns in their order; the first ones are always there.
const COLUMNS: [Column<Row>; 13] = [
    Column { content: Content::Src, ..column("SRC", 0, false, 12, nothing) },
    Column { content: Content::Dst, ..column("DST", 0, false, 12, nothing) },
    column("STATES", 0, false, 17, |row| short_states(&row.record)),
    column("B/S", 0, true, 5, |row| rate(row.rate.map(|rate| rate.bytes))),
    column("PKT/S", 1, true, 5, |row| rate(row.rate.map(|rate| rate.packets))),
    column("BYTES", 3, true, 5, |row| short(row.record.bytes())),
    column("PACKETS", 4, true, 5, |row| short(row.record.packets())),
    column("LEFT", 6, true, 4, |row| duration(row.record.timeout_s.into())),
    column("AGE", 5, true, 4, |row| duration(row.age_s)),
    column("RTT_US", 7, true, 5, |row| rate(row.record.rtt_us.map(u64::from))),
    column("VIOL", 2, true, 4, |row| short(row.record.violations.into())),
    column("HISTORY", 9, false, 12, |row| row.record.history.clone()),
    column("IF", 8, false, 6, |row| row.record.interface.clone()),
];

const fn column(
    title: &'static str,
    rank: u8,
    align_right: bool,
    least: usize,
    text: fn(&Row) -> String,
) -> Column<Row> {
    Column { title, content: Content::Other(text), rank, align_right, least }
}

fn nothing(_: &Row) -> String {
    String::new()
}

fn rate(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), short)
}

/// Bars of letters, for terminals that have no others.
const ASCII_BARS: symbols::bar::Set<'static> = symbols::bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "#",
    five_eighths: "+",
    half: "+",
    three_eighths: "-",
    one_quarter: "-",
    one_eighth: ".",
    empty: " ",
};
