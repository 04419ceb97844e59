//! One connection by itself: all that is known of it, and its segments as they pass.

use std::collections::VecDeque;

use ratatui::crossterm::event::KeyCode;

use super::{feed::Said, sampler::Row};
use crate::{
    cli::ladder::{Entry, Header, Ladder, Layout},
    model::{
        event::Event,
        record::{Direction, Record},
    },
};

/// Lines of the diagram that are kept, at least.
const MOST: usize = 2000;

/// One connection.
pub(super) struct Detail {
    /// As it was when it was last seen.
    pub(super) row: Row,
    pub(super) is_gone: bool,
    ladder: Ladder,
    entries: VecDeque<Entry>,
    /// Lines between the last one and the last one that is shown.
    pub(super) back: usize,
    /// Segments that were missed.
    pub(super) lost: u64,
    /// Why no segments come.
    pub(super) deaf: Option<String>,
}

impl Detail {
    pub(super) fn new(row: Row) -> Self {
        Self {
            row,
            is_gone: false,
            ladder: Ladder::default(),
            entries: VecDeque::new(),
            back: 0,
            lost: 0,
            deaf: None,
        }
    }

    /// What a look has found of it.
    pub(super) fn take(&mut self, row: Option<Row>) {
        // A walk may miss a flow that is changing tables: the next one finds it.
        self.is_gone = row.is_none();
        if let Some(row) = row {
            self.row = row;
        }
    }

    pub(super) fn hear(&mut self, said: Said) {
        match said {
            Said::Connected => self.deaf = None,
            Said::Trouble(why) => self.deaf = Some(why),
            Said::Event(event) => self.happened(&event),
        }
    }

    fn happened(&mut self, event: &Event) {
        self.lost += event.lost.unwrap_or_default();
        let Some(flow) = event.flow.as_ref().filter(|flow| is_same(flow, &self.row.record)) else {
            return;
        };
        // What this version cannot draw it leaves out: the agent is of another one.
        for entry in self.ladder.add(event).unwrap_or_default() {
            if self.entries.len() == MOST {
                self.entries.pop_front();
            }
            self.entries.push_back(entry);
            if self.back > 0 {
                self.back += 1;
            }
        }
        self.is_gone |= event.end.is_some();
        let broken_rules = self.row.record.broken_rules.take();
        self.row.record = Record { broken_rules, ..flow.clone() };
    }

    /// Scrolls through the diagram.
    pub(super) fn key(&mut self, code: KeyCode) {
        let back = match code {
            KeyCode::Up | KeyCode::Char('k') => self.back.saturating_add(1),
            KeyCode::Down | KeyCode::Char('j') => self.back.saturating_sub(1),
            KeyCode::PageUp | KeyCode::Char('b') => self.back.saturating_add(10),
            KeyCode::PageDown | KeyCode::Char('f') => self.back.saturating_sub(10),
            KeyCode::Home => usize::MAX,
            KeyCode::End => 0,
            _ => self.back,
        };
        self.back = back.min(self.entries.len().saturating_sub(1));
    }

    /// What the record says, a line for the connection, one for each end, and one for the rules that were broken.
    pub(super) fn facts(&self) -> Vec<String> {
        let Row { record, age_s, .. } = &self.row;
        let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let direction = |name: &str, it: &Direction| {
            format!(
                "{name:<6}{:<13}packets={} bytes={} window={} mss={} wscale={} sack={} ts={}",
                it.state,
                it.packets,
                it.bytes,
                it.window,
                known(it.mss.map(|mss| mss.to_string())),
                known(it.wscale.map(|wscale| wscale.to_string())),
                if it.sack { "yes" } else { "no" },
                if it.timestamps { "yes" } else { "no" },
            )
        };
        let ends = [(record.src, record.sport), (record.dst, record.dport)]
            .map(|end| std::net::SocketAddr::from(end).to_string());
        let facts = [
            format!(
                "{} > {}  interface={} zone={}",
                ends[0], ends[1], record.interface, record.zone
            ),
            format!(
                "history={} conn_state={} seen={} violations={} rtt_us={} age={age_s} left={}",
                record.history,
                record.conn_state,
                record.seen,
                record.violations,
                known(record.rtt_us.map(|rtt| rtt.to_string())),
                if self.is_gone { "gone".to_owned() } else { record.timeout_s.to_string() },
            ),
            direction("orig", &record.orig),
            direction("reply", &record.reply),
        ];
        let broken = record.broken_text().map(|rules| format!("broken {rules}"));
        facts.into_iter().chain(broken).collect()
    }

    /// The diagram as lines of `width` columns, those that fit into `height`.
    pub(super) fn lines(&self, width: u16, height: u16) -> Vec<String> {
        let layout = Layout::plain(width);
        let header = Header::new(&self.row.record, &self.ladder);
        let shown = self.entries.len() - self.back.min(self.entries.len());
        // Each is a line at least, so more than this many are never shown.
        let first = shown.saturating_sub(usize::from(height));
        let mut out = Vec::new();
        for entry in self.entries.range(first..shown) {
            // A Vec takes everything.
            let _ = layout.entry(&mut out, entry, &header, "");
        }
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(usize::from(height))..].to_vec()
    }
}

fn is_same(one: &Record, other: &Record) -> bool {
    let id = |it: &Record| (it.created_ns, it.zone, it.src, it.sport, it.dst, it.dport);
    id(one) == id(other)
}
