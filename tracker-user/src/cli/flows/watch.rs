//! `tracker flows --watch` on a terminal: a page of them at a time.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::{Result, bail};
use jiff::Timestamp;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    style::{Modifier, Style},
    text::Line,
    widgets::Paragraph,
};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Options,
    columns::{self, Plain},
    listing::Pages,
    screen,
    source::Source,
};
use crate::{
    cli::{grid::Widths, terminal},
    kernel::instance::Instance,
    model::record::Record,
};

/// Whether keys can be read and a page be shown.
pub(super) fn is_possible() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Shows flows until `q`, SIGINT or SIGTERM.
///
/// # Errors
///
/// As [`Page::read`].
pub(super) async fn run(options: &Options, instance: &Instance, every: f64) -> Result<()> {
    // What is wrong from the beginning is said where it can be read afterwards.
    let page = Page::read(instance, options)?;
    terminal::on_screen(async |terminal| show(terminal, options, instance, (every, page)).await)
        .await
}

async fn show(
    mut terminal: DefaultTerminal,
    options: &Options,
    instance: &Instance,
    (every, mut page): (f64, Page<'_>),
) -> Result<()> {
    let mut keys = terminal::inputs();
    let mut tick = interval(Duration::from_secs_f64(every));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut drawn = Ok(());
        terminal.draw(|frame| {
            let area = frame.area();
            drawn = page.draw(options, every, area.width, area.height).map(|lines| {
                frame.render_widget(Paragraph::new(lines), area);
            });
        })?;
        drawn?;
        tokio::select! {
            input = keys.recv() => match input {
                None => bail!("the terminal is gone"),
                Some(Ok(Input::Key(key))) if key.kind != KeyEventKind::Release => {
                    if page.key(key) {
                        return Ok(());
                    }
                }
                Some(input) => {
                    input?;
                }
            },
            _ = tick.tick() => {
                let (first, rows) = (page.first, page.rows);
                page = Page { first, rows, ..Page::read(instance, options)? };
            }
        }
    }
}

struct Page<'a> {
    pages: Pages,
    layout: Layout<'a>,
    at: Timestamp,
    /// The first flow that is shown.
    first: usize,
    /// Flows that fit.
    rows: usize,
}

/// How flows are shown, from the one look at the tables to the next.
enum Layout<'a> {
    Grid(Widths),
    /// Columns of one's choice, which keep to the terminal's width; a line counts as a flow.
    Wrapped(Vec<Record>),
    /// The same of more flows.
    Plain(Plain<'a>),
}

impl<'a> Page<'a> {
    /// The first page of the flows that there are.
    ///
    /// # Errors
    ///
    /// Where no agent runs, or its maps cannot be read.
    fn read(instance: &Instance, options: &'a Options) -> Result<Self> {
        let pages = Pages::read(Source::open(instance, options)?, options)?;
        let layout = if options.columns.is_empty() {
            let mut widths = screen::widths();
            for record in pages.records(0) {
                screen::add(&mut widths, &record?);
            }
            Layout::Grid(widths)
        } else if pages.len() as u64 <= columns::MOST {
            Layout::Wrapped(pages.records(0).collect::<Result<_>>()?)
        } else {
            let mut table = Plain::new(&options.columns, Timestamp::now());
            for record in pages.records(0) {
                table.add(&record?);
            }
            Layout::Plain(table)
        };
        Ok(Self { pages, layout, at: Timestamp::now(), first: 0, rows: 1 })
    }

    /// Title, a page of flows, and where that is.
    fn draw(
        &mut self,
        options: &Options,
        every: f64,
        width: u16,
        height: u16,
    ) -> Result<Vec<Line<'static>>> {
        let free = |titles: usize| usize::from(height).saturating_sub(titles + 2);
        let (titles, shown, of) = match &self.layout {
            Layout::Grid(widths) => {
                let grid = screen::grid(widths.clone(), width.into());
                let titles = grid.titles();
                self.rows = (free(titles.len()) / grid.height()).max(1);
                self.first = self.first.min(self.pages.len().saturating_sub(self.rows));
                let records = self.pages.records(self.first).take(self.rows);
                let lines = records.map(|record| Ok(grid.lines(&record?)));
                (titles, lines.collect::<Result<Vec<_>>>()?.concat(), self.pages.len())
            }
            Layout::Wrapped(records) => {
                let table = columns::wrapped(records, &options.columns, Timestamp::now(), width);
                let (titles, lines) = columns::split(&table);
                self.rows = free(titles.len()).max(1);
                self.first = self.first.min(lines.len().saturating_sub(self.rows));
                let of = lines.len();
                let shown = lines.into_iter().skip(self.first).take(self.rows).collect();
                (titles, shown, of)
            }
            Layout::Plain(table) => {
                self.rows = free(1).max(1);
                self.first = self.first.min(self.pages.len().saturating_sub(self.rows));
                let lines = self.pages.records(self.first).take(self.rows).map(|record| {
                    let mut line = String::new();
                    table.line(&record?, &mut line);
                    Ok(line)
                });
                (vec![table.title()], lines.collect::<Result<_>>()?, self.pages.len())
            }
        };
        let last = (self.first + self.rows).min(of);
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let head = format!("every {every} s: flows at {:.0}", self.at);
        // More than are kept: the filter and the order say which these are.
        let left_out = self.pages.all.saturating_sub(self.pages.len() as u64);
        let of_all = if left_out > 0 { format!(" ({left_out} more)") } else { String::new() };
        let foot = if of > self.rows {
            let first = self.first + 1;
            format!("{first}-{last} of {of} flows{of_all}; space and b turn pages, q quits")
        } else {
            format!("{of} flows; q quits")
        };
        let mut lines = vec![Line::raw(head)];
        lines.extend(titles.into_iter().map(|title| Line::styled(title, bold)));
        lines.extend(shown.into_iter().map(Line::raw));
        lines.push(Line::raw(foot));
        Ok(lines)
    }

    /// Turns pages; whether this ends.
    fn key(&mut self, key: KeyEvent) -> bool {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return true,
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char(' ' | 'f') | KeyCode::PageDown => self.first += self.rows,
            KeyCode::Char('b') | KeyCode::PageUp => {
                self.first = self.first.saturating_sub(self.rows);
            }
            KeyCode::Char('j') | KeyCode::Down => self.first += 1,
            KeyCode::Char('k') | KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::Char('g') | KeyCode::Home => self.first = 0,
            KeyCode::Char('G') | KeyCode::End => self.first = self.pages.len(),
            _ => {}
        }
        false
    }
}
