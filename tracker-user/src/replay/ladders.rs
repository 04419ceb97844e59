//! Diagrams of a capture's connections: one after the other in the order in which they began, although their packets
//! come mixed.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufWriter, StdoutLock, Write},
    mem,
};

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use super::{connections::Id, flow::ReplayedFlow};
use crate::{
    event::{EndView, Event},
    filter::Filter,
    ladder::{Entry, Header, Ladder, Layout},
    record::Record,
    scope::Scope,
};

/// Octets that waiting lines take at most. Beyond that the oldest connection is drawn as far as it is known, and goes on
/// further down.
const MOST: usize = 128 << 20;

/// Octets that a connection takes beside its lines, to the nearest power of two.
const CONNECTION: usize = 1024;

/// Diagrams that wait for their connections' ends.
pub(super) struct Ladders {
    out: BufWriter<StdoutLock<'static>>,
    progress: ProgressBar,
    layout: Layout,
    filter: Filter,
    scope: Scope,
    waiting: BTreeMap<Id, Diagram>,
    /// Those that were drawn in part.
    begun: HashMap<Id, Ladder>,
    /// Octets that `waiting` takes.
    size: usize,
    /// Connections drawn.
    drawn: usize,
    any: bool,
}

struct Diagram {
    ladder: Ladder,
    /// The connection after its last packet.
    record: Record,
    entries: Vec<Entry>,
    has_ended: bool,
    /// Its beginning was drawn.
    goes_on: bool,
}

impl Diagram {
    fn size(&self) -> usize {
        CONNECTION + self.entries.capacity() * size_of::<Entry>()
    }
}

impl Ladders {
    pub(super) fn new(filter: &Filter, progress: ProgressBar) -> Self {
        Self {
            out: BufWriter::new(io::stdout().lock()),
            progress,
            layout: Layout::for_stdout(),
            filter: filter.clone(),
            scope: filter.scope(),
            waiting: BTreeMap::new(),
            begun: HashMap::new(),
            size: 0,
            drawn: 0,
            any: false,
        }
    }

    /// Adds an event to its connection's diagram, and writes what no older one is in the way of.
    pub(super) fn event(&mut self, event: Event) -> Result<()> {
        let Some(record) = &event.flow else { return Ok(()) };
        let ends = [(record.src, record.sport).into(), (record.dst, record.dport).into()];
        if !self.scope.contains(ends) {
            return Ok(());
        }
        let id = record.created_ns;
        let mut diagram = self.take(id, record);
        diagram.entries.extend(diagram.ladder.add(&event)?);
        diagram.has_ended |= event.end.is_some();
        if let Some(record) = event.flow {
            diagram.record = record;
        }
        self.size += diagram.size();
        self.waiting.insert(id, diagram);
        while self.size > MOST || self.waiting.values().next().is_some_and(|first| first.has_ended)
        {
            let Some((id, diagram)) = self.waiting.pop_first() else { break };
            self.size -= diagram.size();
            self.draw(&diagram, None)?;
            if !diagram.has_ended {
                self.begun.insert(id, diagram.ladder);
            }
        }
        Ok(())
    }

    /// Writes what is left, and how the capture's end leaves it; says how many connections were drawn.
    pub(super) fn finish(mut self, flows: impl IntoIterator<Item = ReplayedFlow>) -> Result<usize> {
        for ReplayedFlow { record, end, .. } in flows {
            let id = record.created_ns;
            if self.waiting.contains_key(&id) || self.begun.contains_key(&id) {
                let mut diagram = self.take(id, &record);
                diagram.record = record;
                let note = (!diagram.has_ended).then(|| last_note(&diagram.record, end.as_ref()));
                self.draw(&diagram, note.as_deref())?;
            }
        }
        Ok(self.drawn)
    }

    /// Takes a connection's diagram out, or begins it.
    fn take(&mut self, id: Id, record: &Record) -> Diagram {
        if let Some(diagram) = self.waiting.remove(&id) {
            self.size -= diagram.size();
            return diagram;
        }
        let begun = self.begun.remove(&id);
        Diagram {
            goes_on: begun.is_some(),
            ladder: begun.unwrap_or_default(),
            record: record.clone(),
            entries: Vec::new(),
            has_ended: false,
        }
    }

    fn draw(&mut self, diagram: &Diagram, note: Option<&str>) -> Result<()> {
        if !self.filter.matches(&diagram.record) {
            return Ok(());
        }
        self.drawn += usize::from(!diagram.goes_on);
        let follows = mem::replace(&mut self.any, true);
        let Self { out, layout, progress, .. } = self;
        let write = || -> io::Result<()> {
            if follows {
                writeln!(out)?;
            }
            let header = Header::new(&diagram.record, &diagram.ladder);
            let layout = layout.fitting(&diagram.entries, &header);
            layout.header(out, &header, if diagram.goes_on { "continued:" } else { "" })?;
            for entry in &diagram.entries {
                layout.entry(out, entry, &header, "")?;
            }
            if let Some(note) = note {
                layout.note(out, note, "")?;
            }
            // Somebody may be waiting for it, and the bar must not stand in its middle.
            out.flush()
        };
        progress.suspend(write).context("writing to stdout")
    }
}

/// How a connection stands that has not ended by an event.
fn last_note(record: &Record, end: Option<&EndView>) -> String {
    let how = match end {
        Some(end) => format!("end reason={}", end.reason),
        None => "capture ends".to_owned(),
    };
    format!("{how} conn_state={}", record.conn_state)
}
