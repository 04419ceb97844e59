//! What is on the screen, and what keys make of it.

use std::{collections::VecDeque, fmt::Write};

use jiff::Timestamp;
use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    widgets::TableState,
};
use tracker_common::event::Kind;

use super::{
    Options,
    detail::Detail,
    feed::Said,
    order::Key,
    sampler::{Id, Row, Sample, Wanted},
};
use crate::{
    client::request::EventRequest,
    model::{
        event::{Event, parts::CookieView},
        filter::{self, Filter},
        scope::Scope,
    },
};

/// Looks that plots go back to: more than the columns of any terminal.
const MOST_POINTS: usize = 1024;

/// Violations that are kept.
const MOST_VIOLATIONS: usize = 200;

/// What a key asks of those who feed the screen.
pub(super) enum Action {
    /// Nothing but another drawing.
    Nothing,
    /// That this ends.
    Quit,
    /// Another look at the flows, at once.
    Look,
    /// The segments of one connection.
    Follow(EventRequest),
    /// No segments any more.
    Leave,
}

/// What one look adds to the plots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Point {
    pub(super) flows: u64,
    pub(super) half_open: u64,
    pub(super) time_wait: u64,
    pub(super) violations: u64,
}

/// What the filter is being changed to.
#[derive(Clone, Debug, Default)]
pub(super) struct Prompt {
    pub(super) text: String,
    /// Why that is none.
    pub(super) error: Option<String>,
}

/// What takes the place of flows.
#[derive(Default)]
pub(super) enum Page {
    #[default]
    Flows,
    Detail(Box<Detail>),
    Help,
}

/// Everything that is shown.
pub(super) struct Model {
    pub(super) instance: String,
    pub(super) every: f64,
    pub(super) sample: Option<Sample>,
    pub(super) points: VecDeque<Point>,
    /// The newest last.
    pub(super) violations: VecDeque<Event>,
    /// How SYN cookies began or ended last.
    pub(super) cookie: Option<(Timestamp, CookieView)>,
    /// Reports that were lost.
    pub(super) lost: u64,
    /// What came while this was paused.
    held: VecDeque<Event>,
    pub(super) key: Key,
    pub(super) reverse: bool,
    filter: Filter,
    pub(super) filter_text: String,
    pub(super) prompt: Option<Prompt>,
    pub(super) page: Page,
    /// Which row is marked.
    pub(super) table: TableState,
    /// Flows that the screen has room for.
    pub(super) rows_shown: isize,
    selected: Option<Id>,
    is_paused: bool,
    /// Why the flows are not what they are now.
    pub(super) trouble: Option<String>,
    /// Why no events come.
    pub(super) deaf: Option<String>,
}

impl Model {
    pub(super) fn new(instance: &str, options: &Options, filter: Filter) -> Self {
        Self {
            instance: instance.to_owned(),
            every: options.every,
            sample: None,
            points: VecDeque::new(),
            violations: VecDeque::new(),
            cookie: None,
            lost: 0,
            held: VecDeque::new(),
            key: options.sort,
            reverse: options.reverse,
            filter_text: filter.to_string(),
            filter,
            prompt: None,
            page: Page::Flows,
            table: TableState::default(),
            rows_shown: 10,
            selected: None,
            is_paused: false,
            trouble: None,
            deaf: None,
        }
    }

    /// What the next look is for.
    pub(super) fn wanted(&self) -> Wanted {
        let flow = match &self.page {
            Page::Detail(detail) => Some(detail.row.id),
            _ => None,
        };
        Wanted { filter: self.filter.clone(), key: self.key, reverse: self.reverse, flow }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Takes over what a look has found.
    pub(super) fn take(&mut self, sample: anyhow::Result<Sample>) {
        if self.is_paused {
            return;
        }
        let sample = match sample {
            Ok(sample) => sample,
            Err(error) => {
                self.trouble = Some(format!("{error:#}"));
                return;
            }
        };
        self.trouble = None;
        if self.points.len() == MOST_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            flows: sample.flows(),
            half_open: sample.half_open,
            time_wait: sample.time_wait,
            violations: sample.violations.1.unwrap_or_default(),
        });
        // One that was under way when the page was opened has not looked for its flow.
        if let (Page::Detail(detail), Some((id, row))) = (&mut self.page, &sample.flow)
            && detail.row.id == *id
        {
            detail.take(row.clone());
        }
        self.sample = Some(sample);
        self.mark();
    }

    /// Marks the flow that was marked, wherever it is now; where it is gone, what is in its place.
    fn mark(&mut self) {
        let rows = self.rows();
        let here = self.selected.and_then(|id| rows.iter().position(|row| row.id == id));
        let place = here.or(self.table.selected()).unwrap_or_default();
        let place = (!rows.is_empty()).then(|| place.min(rows.len() - 1));
        // Until somebody marks one, the first is marked, whichever it is.
        if here.is_none() {
            self.selected = None;
        }
        self.table.select(place);
    }

    fn rows(&self) -> &[Row] {
        self.sample.as_ref().map_or(&[], |sample| &sample.rows)
    }

    /// Takes over what the agent says.
    pub(super) fn hear(&mut self, said: Said) {
        match said {
            Said::Connected => self.deaf = None,
            Said::Trouble(why) => self.deaf = Some(why),
            Said::Event(event) if self.is_paused => push(&mut self.held, *event),
            Said::Event(event) => self.happened(*event),
        }
    }

    fn happened(&mut self, event: Event) {
        if let Some(lost) = event.lost {
            self.lost += lost;
        } else if let Some(cookie) = event.cookie {
            self.cookie = Some((event.time, cookie));
        } else if event.violation.is_some() {
            push(&mut self.violations, event);
        }
    }

    /// Takes over what the agent says of the connection that is shown by itself.
    pub(super) fn follow(&mut self, said: Said) {
        if let Page::Detail(detail) = &mut self.page {
            detail.hear(said);
        }
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Action {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        if self.prompt.is_some() {
            return self.key_of_prompt(key.code, is_control);
        }
        match (&mut self.page, key.code) {
            (_, KeyCode::Char('q')) => Action::Quit,
            (_, KeyCode::Char('p' | ' ')) => {
                self.is_paused = !self.is_paused;
                if self.is_paused {
                    return Action::Nothing;
                }
                for event in std::mem::take(&mut self.held) {
                    self.happened(event);
                }
                Action::Look
            }
            (Page::Detail(_), KeyCode::Esc | KeyCode::Enter) => {
                self.page = Page::Flows;
                Action::Leave
            }
            (Page::Detail(detail), code) => {
                detail.key(code);
                Action::Nothing
            }
            (Page::Help, _) => {
                self.page = Page::Flows;
                Action::Nothing
            }
            (Page::Flows, code) => self.key_of_flows(code),
        }
    }

    fn key_of_flows(&mut self, code: KeyCode) -> Action {
        match code {
            KeyCode::Char('?' | 'h') => self.page = Page::Help,
            KeyCode::Char('/') => {
                let text = self.filter_text.clone();
                self.prompt = Some(Prompt { text, error: None });
            }
            KeyCode::Char(letter @ ('s' | 'S')) => {
                self.key = self.key.beside(letter == 's');
                return self.anew();
            }
            KeyCode::Char('r') => {
                self.reverse = !self.reverse;
                return self.anew();
            }
            KeyCode::Enter => return self.open(),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::PageUp => self.move_by(-self.rows_shown),
            KeyCode::PageDown => self.move_by(self.rows_shown),
            KeyCode::Home => self.move_by(isize::MIN),
            KeyCode::End => self.move_by(isize::MAX),
            _ => {}
        }
        Action::Nothing
    }

    fn key_of_prompt(&mut self, code: KeyCode, is_control: bool) -> Action {
        let Some(prompt) = &mut self.prompt else { return Action::Nothing };
        prompt.error = None;
        match code {
            KeyCode::Esc => self.prompt = None,
            KeyCode::Backspace => {
                prompt.text.pop();
            }
            KeyCode::Char('u') if is_control => prompt.text.clear(),
            KeyCode::Char(letter) if !is_control => prompt.text.push(letter),
            KeyCode::Enter => match filter::words(&prompt.text) {
                Ok(filter) => {
                    self.filter_text = filter.to_string();
                    self.filter = filter;
                    self.prompt = None;
                    return self.anew();
                }
                Err(error) => prompt.error = Some(error),
            },
            _ => {}
        }
        Action::Nothing
    }

    /// Other flows, or in another order, from the first one on.
    fn anew(&mut self) -> Action {
        self.selected = None;
        self.table = TableState::default();
        Action::Look
    }

    fn move_by(&mut self, rows: isize) {
        let last = self.rows().len().saturating_sub(1);
        let here = self.table.selected().unwrap_or_default();
        let place = here.saturating_add_signed(rows).min(last);
        self.selected = self.rows().get(place).map(|row| row.id);
        self.table.select(self.selected.map(|_| place));
    }

    /// Shows the marked flow by itself.
    fn open(&mut self) -> Action {
        let row = self.table.selected().and_then(|place| self.rows().get(place));
        let Some(row) = row.cloned() else { return Action::Nothing };
        self.selected = Some(row.id);
        let events = [Kind::Segment, Kind::Violation, Kind::Destroy];
        let request = EventRequest {
            v: 1,
            events: events.map(|kind| kind.name().to_owned()).to_vec(),
            trace: Some(Scope {
                address: row.record.src.to_string().parse().ok(),
                port: Some(row.record.sport),
            }),
        };
        self.page = Page::Detail(Box::new(Detail::new(row)));
        Action::Follow(request)
    }
}

fn push(to: &mut VecDeque<Event>, event: Event) {
    if to.len() == MOST_VIOLATIONS {
        to.pop_front();
    }
    to.push_back(event);
}

/// A breach in few words: what was broken, by which numbers, and who sent the segment.
pub(super) fn in_brief(event: &Event) -> String {
    let mut text = format!("{:.6}", event.time);
    // The time of the day is enough beside a clock.
    text = text.split_once('T').map_or(text.clone(), |(_, time)| time.to_owned());
    let Some(violation) = &event.violation else { return text };
    let _ = write!(text, " {}", violation.name);
    let ends = match (&event.segment, &event.flow) {
        (Some(segment), _) => Some(((segment.src, segment.sport), (segment.dst, segment.dport))),
        (None, Some(flow)) => Some(((flow.src, flow.sport), (flow.dst, flow.dport))),
        (None, None) => None,
    };
    if let Some((from, to)) = ends {
        let [from, to] = [from, to].map(std::net::SocketAddr::from);
        let _ = write!(text, " {from} > {to}");
    }
    if let Some(segment) = &event.segment {
        let _ = write!(text, " {}", segment.flags);
    }
    if let Some((expected, actual)) = violation.expected.as_ref().zip(violation.actual) {
        let _ = if expected.low == expected.high {
            write!(text, " expected={} actual={actual}", expected.low)
        } else {
            write!(text, " expected={}..{} actual={actual}", expected.low, expected.high)
        };
    }
    text
}
