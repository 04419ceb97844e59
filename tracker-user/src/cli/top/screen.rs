//! From the model to the screen. Everything is said in words and bars: colour only helps to find it.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, RenderDirection, Row as Cells, Sparkline, Table},
};

use super::{
    detail::Detail,
    model::{Model, Page, Point, in_brief},
    sampler::{MOST, Row, Sample},
};

/// Columns from which on there is room for more plots and more columns.
const WIDE: u16 = 120;

/// Rows from which on plots and violations get more of them.
const TALL: u16 = 40;

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) colour: bool,
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
    let listeners = model.sample.as_ref().map_or(0, |sample| sample.listeners.len());
    let cookies = u16::try_from(listeners).unwrap_or(u16::MAX).min(if is_tall { 8 } else { 2 });
    let [title, summary, cookies, page, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(cookies),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_title(frame, title, model, theme);
    if let Some(sample) = &model.sample {
        let lines = [flows_line(sample), traffic_line(sample, model.lost)];
        frame.render_widget(Paragraph::new(lines.map(Line::raw).to_vec()), summary);
        let lines: Vec<_> = cookie_lines(sample, usize::from(cookies.height)).collect();
        frame.render_widget(Paragraph::new(lines), cookies);
    }
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
        Page::Help => frame.render_widget(Paragraph::new(HELP), page),
    }
    draw_foot(frame, foot, model, theme);
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let mut spans = vec![Span::styled(format!("tracker top  {}", model.instance), BOLD)];
    if let Some(sample) = &model.sample {
        spans.push(Span::raw(format!("  {}", sample.interfaces.join(","))));
        let at = sample.at.to_string();
        let time = at.split_once('T').and_then(|(_, time)| time.get(..8)).unwrap_or(&at);
        spans.push(Span::raw(format!("  {time}Z")));
    }
    spans.push(Span::raw(format!("  every {} s", model.every)));
    if model.is_paused() {
        spans.push(Span::styled("  PAUSED", BOLD));
    }
    if let Some(trouble) = model.trouble.as_ref().or(model.deaf.as_ref()) {
        let style = theme.of(Color::Red).add_modifier(Modifier::BOLD);
        spans.push(Span::styled(format!("  {trouble}"), style));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn flows_line(sample: &Sample) -> String {
    let (confirmed, capacity) = sample.confirmed;
    let (half_open, most_half_open) = sample.half_open;
    format!(
        "flows {confirmed} of {capacity}  half-open {half_open} of {most_half_open}  \
         ESTABLISHED {}  TIME_WAIT {}",
        sample.established, sample.time_wait
    )
}

fn traffic_line(sample: &Sample, lost: u64) -> String {
    let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), short);
    let [arrived, left] = sample.packets;
    let mut text = format!(
        "new/s {}  packets/s in {} out {}  violations {}",
        rate(sample.opened),
        rate(arrived),
        rate(left),
        sample.violations.0
    );
    if let Some(more) = sample.violations.1.filter(|more| *more > 0) {
        text.push_str(&format!(" (+{more})"));
    }
    if lost > 0 {
        text.push_str(&format!("  reports lost {lost}"));
    }
    text
}

/// A line a listener; where there are more than fit, those come first that send cookies.
fn cookie_lines(sample: &Sample, most: usize) -> impl Iterator<Item = Line<'static>> {
    let mut listeners: Vec<_> = sample.listeners.iter().collect();
    listeners.sort_by_key(|listener| !listener.on);
    listeners.into_iter().take(most).map(|listener| {
        let text = format!(
            "cookies {} mode={} now={} half-open {} of {} way={}",
            listener.listener,
            listener.mode,
            if listener.on { "on" } else { "off" },
            listener.half_open,
            listener.threshold,
            listener.way
        );
        Line::styled(text, if listener.on { BOLD } else { Style::new() })
    })
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
        let title = Span::styled(format!("{name} {now}, most {most}"), BOLD);
        let plot = Sparkline::default()
            .block(Block::new().borders(Borders::TOP).title(title))
            .data(newest_first)
            .max(most.max(1))
            .direction(RenderDirection::RightToLeft)
            .style(theme.of(colour));
        frame.render_widget(plot, *area);
    }
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, model: &mut Model, theme: Theme) {
    let is_wide = area.width >= WIDE;
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
    let ends = |row: &Row| {
        let record = &row.record;
        [(record.src, record.sport), (record.dst, record.dport)]
            .map(|end| std::net::SocketAddr::from(end).to_string())
    };
    // What takes two columns with IPv4 takes what it needs with IPv6 where there is room for it.
    let longest = rows.iter().flat_map(ends).map(|end| end.len()).max().unwrap_or_default();
    let most = if is_wide { 47 } else { 21 };
    let end_width = u16::try_from(longest.clamp(12, most)).unwrap_or(21);
    let mut head = vec!["SRC", "DST", "STATES", "B/S"];
    let mut widths = vec![
        Constraint::Length(end_width),
        Constraint::Length(end_width),
        Constraint::Length(25),
        Constraint::Length(6),
    ];
    if is_wide {
        head.extend([
            "PKT/S", "BYTES", "PACKETS", "LEFT", "AGE", "RTT_US", "VIOL", "HISTORY", "IF",
        ]);
        widths.extend([6, 6, 7, 5, 6, 7, 4, 12].map(Constraint::Length));
        widths.push(Constraint::Fill(1));
    }
    let cells = rows.iter().map(|row| {
        let record = &row.record;
        let [src, dst] = ends(row).map(|end| Line::raw(clipped(&end, usize::from(end_width))));
        let [orig, reply] = record.states();
        let states = Line::from(vec![
            Span::styled(orig.to_owned(), theme.state(orig)),
            Span::raw("/"),
            Span::styled(reply.to_owned(), theme.state(reply)),
        ]);
        let number = |number: Option<u64>| {
            Line::raw(number.map_or_else(|| "-".to_owned(), short)).right_aligned()
        };
        let mut cells = vec![src, dst, states, number(row.rate.map(|rate| rate.bytes))];
        if is_wide {
            cells.extend([
                number(row.rate.map(|rate| rate.packets)),
                number(Some(record.bytes())),
                number(Some(record.packets())),
                number(Some(record.timeout_s.into())),
                number(Some(row.age_s)),
                number(record.rtt_us.map(u64::from)),
                number(Some(record.violations.into())),
                Line::raw(record.history.clone()),
                Line::raw(record.interface.clone()),
            ]);
        }
        Cells::new(cells)
    });
    let table = Table::new(cells, widths)
        .header(Cells::new(head).style(BOLD))
        .block(Block::new().borders(Borders::TOP).title(Span::styled(title, BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut model.table);
}

fn draw_violations(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let rows = usize::from(area.height.saturating_sub(1));
    let mut lines: Vec<_> = model
        .violations
        .iter()
        .rev()
        .take(rows)
        .map(|event| Line::styled(in_brief(event), theme.of(Color::Red)))
        .collect();
    let mut title = "violations, the newest first".to_owned();
    if let Some((_, cookie)) = &model.cookie {
        title.push_str(&format!("; cookies {} for {}", cookie.mode, cookie.listener));
    }
    if lines.is_empty() {
        lines.push(Line::raw("none since this began"));
    }
    let title = Span::styled(title, BOLD);
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_detail(frame: &mut Frame<'_>, area: Rect, detail: &Detail, theme: Theme) {
    let lines: Vec<_> = detail.facts().into_iter().map(Line::raw).collect();
    let height = Constraint::Length(u16::try_from(lines.len()).unwrap_or(u16::MAX) + 1);
    let [facts, ladder] = Layout::vertical([height, Constraint::Min(2)]).areas(area);
    let block = Block::new().borders(Borders::TOP).title(Span::styled("connection", BOLD));
    frame.render_widget(Paragraph::new(lines).block(block), facts);
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
    let lines = detail.lines(ladder.width, ladder.height.saturating_sub(1));
    let lines: Vec<_> = lines
        .into_iter()
        .map(|line| {
            let is_breach = line.trim_start().starts_with("! ");
            Line::styled(line, if is_breach { theme.of(Color::Red) } else { Style::new() })
        })
        .collect();
    let block = Block::new().borders(Borders::TOP).title(Span::styled(title, BOLD));
    frame.render_widget(Paragraph::new(lines).block(block), ladder);
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let line = match (&model.prompt, &model.page) {
        (Some(prompt), _) => {
            let mut spans = vec![Span::styled("filter: ", BOLD), Span::raw(prompt.text.clone())];
            spans.push(Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)));
            if let Some(error) = &prompt.error {
                spans.push(Span::styled(format!(" {error}"), theme.of(Color::Red)));
            } else if prompt.text.is_empty() {
                spans.push(Span::raw(" state established dport 443 src 10.0.0.0/8, or nothing"));
            }
            Line::from(spans)
        }
        (None, Page::Flows) => Line::raw(
            "q quit  p pause  s sort  r reverse  / filter  up/down mark  enter detail  ? help",
        ),
        (None, Page::Detail(_)) => Line::raw("esc back  p pause  up/down scroll  end newest"),
        (None, Page::Help) => Line::raw("any key goes back"),
    };
    frame.render_widget(Paragraph::new(line), area);
}

const HELP: &str = "\
q, Ctrl-C        quit
p, space         pause, and continue
s, S             sort by the next or the previous key: rate, packet-rate, bytes,
                 packets, violations, newest, rtt, state
r                reverse the order
/                filter: state established dport 443 src 10.0.0.0/8 not;
                 Enter applies it, Esc cancels, an empty one shows all flows
up, down, k, j   select another flow; also PgUp, PgDn, Home, End
Enter            show the selected flow and draw its segments as they pass; Esc
                 goes back
?, h             this help

B/S, PKT/S       bytes and packets of both ends per second; - at first
LEFT, AGE        seconds until it expires, and since its first packet
VIOL             number of violations";

/// A number in at most five columns; powers of 1000.
fn short(number: u64) -> String {
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

/// Text in so many columns, the middle left out where it needs more: an address's ends tell the most.
fn clipped(text: &str, columns: usize) -> String {
    if text.len() <= columns {
        return text.to_owned();
    }
    let right = columns / 2;
    let left = columns - right - 1;
    // Addresses are ASCII.
    format!("{}~{}", &text[..left], &text[text.len() - right..])
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
    fn both_ends_of_an_address_stay() {
        let address = "[2001:db8:1:2:3:4:5:6]:50000";
        assert_eq!(clipped(address, 28), address);
        assert_eq!(clipped(address, 21), "[2001:db8:~5:6]:50000");
    }
}
