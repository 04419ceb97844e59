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

use super::{Options, collect, columns, screen};
use crate::{
    cli::terminal,
    kernel::instance::Instance,
    model::{clock::monotonic_ns, record::Record},
};

/// Whether keys can be read and a page be shown.
pub(super) fn is_possible() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Shows flows until `q`, SIGINT or SIGTERM.
///
/// # Errors
///
/// As [`collect`].
pub(super) async fn run(options: &Options, instance: &Instance, every: f64) -> Result<()> {
    // What is wrong from the beginning is said where it can be read afterwards.
    let records = collect(instance, options)?;
    terminal::on_screen(async |terminal| show(terminal, options, instance, (every, records)).await)
        .await
}

async fn show(
    mut terminal: DefaultTerminal,
    options: &Options,
    instance: &Instance,
    (every, records): (f64, Vec<Record>),
) -> Result<()> {
    let mut keys = terminal::inputs();
    let mut tick = interval(Duration::from_secs_f64(every));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut page = Page { records, at: Timestamp::now(), first: 0, rows: 1 };
    loop {
        terminal.draw(|frame| {
            let area = frame.area();
            let lines = page.draw(options, every, area.width, area.height);
            frame.render_widget(Paragraph::new(lines), area);
        })?;
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
                page.records = collect(instance, options)?;
                page.at = Timestamp::now();
            }
        }
    }
}

struct Page {
    records: Vec<Record>,
    at: Timestamp,
    /// The first flow that is shown.
    first: usize,
    /// Flows that fit.
    rows: usize,
}

impl Page {
    /// Title, a page of flows, and where that is.
    fn draw(
        &mut self,
        options: &Options,
        every: f64,
        width: u16,
        height: u16,
    ) -> Vec<Line<'static>> {
        let (titles, flows) = if options.columns.is_empty() {
            screen::table(&self.records, width.into())
        } else {
            let table =
                columns::table(&self.records, &options.columns, monotonic_ns(), Some(width));
            columns::split(&table)
        };
        let each = flows.iter().map(Vec::len).max().unwrap_or(1).max(1);
        let free = usize::from(height).saturating_sub(titles.len() + 2);
        self.rows = (free / each).max(1);
        self.first = self.first.min(flows.len().saturating_sub(self.rows));
        let last = (self.first + self.rows).min(flows.len());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let head = format!("every {every} s: flows at {:.0}", self.at);
        let foot = if flows.len() > self.rows {
            let of = flows.len();
            format!("{}-{last} of {of} flows; space and b turn pages, q quits", self.first + 1)
        } else {
            format!("{} flows; q quits", flows.len())
        };
        let shown = flows[self.first..last].iter().flatten().cloned().map(Line::raw);
        let mut lines = vec![Line::raw(head)];
        lines.extend(titles.into_iter().map(|title| Line::styled(title, bold)));
        lines.extend(shown);
        lines.push(Line::raw(foot));
        lines
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
            KeyCode::Char('G') | KeyCode::End => self.first = self.records.len(),
            _ => {}
        }
        false
    }
}
