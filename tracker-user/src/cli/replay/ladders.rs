//! Diagrams of a capture's connections: one after the other in the order in which they began, although their packets
//! come mixed.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    mem,
};

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use super::{connections::Id, flow::ReplayedFlow};
use crate::{
    cli::ladder::{Entry, Header, Ladder, Layout, Times},
    model::{
        event::{Event, parts::EndView},
        filter::Filter,
        record::Record,
        scope::Scope,
    },
};

/// Bytes that waiting lines take at most. Beyond that the oldest connection is drawn as far as it is known, and goes on
/// further down.
const MOST: usize = 128 << 20;

/// Bytes that a connection takes beside its lines, to the nearest power of two.
const CONNECTION: usize = 1024;

/// Diagrams that wait for their connections' ends.
pub(super) struct Ladders<W> {
    out: W,
    progress: ProgressBar,
    layout: Layout,
    filter: Filter,
    scope: Scope,
    waiting: BTreeMap<Id, Diagram>,
    /// Those that were drawn in part.
    begun: HashMap<Id, Ladder>,
    /// Bytes that `waiting` takes, and may take.
    size: usize,
    most: usize,
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
    /// How it ended, where no event says so, or how the capture leaves it.
    note: Option<String>,
    /// Its beginning was drawn.
    goes_on: bool,
}

impl Diagram {
    fn size(&self) -> usize {
        CONNECTION + self.entries.capacity() * size_of::<Entry>()
    }
}

impl<W: Write> Ladders<W> {
    pub(super) fn new(out: W, filter: &Filter, times: Times, progress: ProgressBar) -> Self {
        Self {
            out,
            progress,
            layout: Layout::for_stdout(times),
            filter: filter.clone(),
            scope: filter.scope(),
            waiting: BTreeMap::new(),
            begun: HashMap::new(),
            size: 0,
            most: MOST,
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
        self.put(id, diagram)
    }

    /// A connection has ended. Most have said so by an event; those that were evicted have not.
    pub(super) fn ended(&mut self, flow: ReplayedFlow) -> Result<()> {
        let id = flow.record.created_ns;
        match self.conclude(flow) {
            Some(diagram) => self.put(id, diagram),
            None => Ok(()),
        }
    }

    /// Lets a diagram wait, and writes what no older one is in the way of.
    fn put(&mut self, id: Id, diagram: Diagram) -> Result<()> {
        self.size += diagram.size();
        self.waiting.insert(id, diagram);
        while self.size > self.most
            || self.waiting.values().next().is_some_and(|first| first.has_ended)
        {
            let Some((id, diagram)) = self.waiting.pop_first() else { break };
            self.size -= diagram.size();
            self.draw(&diagram)?;
            if !diagram.has_ended {
                self.begun.insert(id, diagram.ladder);
            }
        }
        Ok(())
    }

    /// The diagram of a connection that was not drawn to its end, with a last note where it needs one.
    fn conclude(&mut self, flow: ReplayedFlow) -> Option<Diagram> {
        let ReplayedFlow { record, end, .. } = flow;
        let id = record.created_ns;
        if !self.waiting.contains_key(&id) && !self.begun.contains_key(&id) {
            return None;
        }
        let mut diagram = self.take(id, &record);
        if !diagram.has_ended {
            diagram.note = Some(last_note(&record, end.as_ref()));
        }
        diagram.has_ended = true;
        diagram.record = record;
        Some(diagram)
    }

    /// Writes what is left, and how the capture's end leaves `flows`; says how many connections were drawn.
    pub(super) fn finish(
        &mut self,
        flows: impl IntoIterator<Item = ReplayedFlow>,
    ) -> Result<usize> {
        for flow in flows {
            let id = flow.record.created_ns;
            if let Some(diagram) = self.conclude(flow) {
                self.waiting.insert(id, diagram);
            }
        }
        for (_, diagram) in mem::take(&mut self.waiting) {
            self.draw(&diagram)?;
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
            note: None,
        }
    }

    fn draw(&mut self, diagram: &Diagram) -> Result<()> {
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
            let mut layout = layout.fitting(&diagram.entries, &header);
            layout.header(out, &header, if diagram.goes_on { "continued:" } else { "" })?;
            for entry in &diagram.entries {
                layout.entry(out, entry, &header, "")?;
                layout.pass(entry, &header);
            }
            if let Some(note) = &diagram.note {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn end(seq: u32) -> Value {
        json!({"state": "ESTABLISHED", "packets": 1, "bytes": 40, "isn": 0, "seq": seq, "ack": 1, "window": 1,
            "mss": null, "wscale": null, "sack": false, "timestamps": false})
    }

    fn flow(id: u64, seq: u32) -> Value {
        json!({"family": "ipv4", "protocol": "tcp", "src": "192.0.2.1", "dst": "192.0.2.2", "sport": id, "dport": 80,
            "orig": end(seq), "reply": end(1), "history": "ShA", "conn_state": "S1", "seen": "both",
            "midstream": false, "violations": 0, "interface": "replay", "zone": 0, "rtt_us": null,
            "created": "2026-01-01T00:00:00Z", "created_ns": id, "timeout_s": 1})
    }

    fn event(packet: u64, id: u64, rest: &Value) -> Event {
        let mut event = json!({"v": 1, "event": "", "time": "2026-01-01T00:00:00Z", "time_ns": packet,
            "packet": packet, "flow": flow(id, 1)});
        let fields = rest.as_object().expect("an object").clone();
        event.as_object_mut().expect("an object").extend(fields);
        serde_json::from_value(event).expect("an event")
    }

    fn segment(packet: u64, id: u64) -> Event {
        let states = json!({"orig": "ESTABLISHED", "reply": "ESTABLISHED"});
        let segment = json!({"hook": "in", "direction": "orig", "src": "192.0.2.1", "dst": "192.0.2.2", "sport": id,
            "dport": 80, "flags": "ack", "seq": 1, "ack": 1, "payload": 0, "window": 1});
        event(
            packet,
            id,
            &json!({"segment": segment, "states": {"before": states, "after": states}}),
        )
    }

    fn ended(packet: u64, id: u64) -> Event {
        event(packet, id, &json!({"end": {"reason": "fin", "duration_ns": 1}}))
    }

    /// What is written with room for so many connections of few lines: `ID:` for a header, numbers of packets, and what
    /// stands below.
    fn written(room: usize, events: Vec<Event>, last: &[u64]) -> String {
        let mut out = Vec::new();
        let filter = Filter::default();
        let mut ladders = Ladders::new(&mut out, &filter, Times::Since, ProgressBar::hidden());
        ladders.most = room * (CONNECTION + 4 * size_of::<Entry>());
        for event in events {
            ladders.event(event).expect("known names");
        }
        let flows = last.iter().map(|id| {
            let mut flow = flow(*id, 1);
            flow["duration_ns"] = 1.into();
            serde_json::from_value(flow).expect("a flow")
        });
        ladders.finish(flows).expect("a vector takes all");
        let text = String::from_utf8(out).expect("ASCII");
        let words = text.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["continued:", from, ..] => Some(format!("{}+:", &from["192.0.2.1:".len()..])),
                [from, ">", ..] => Some(format!("{}:", &from["192.0.2.1:".len()..])),
                ["capture", "ends", ..] => Some("open".to_owned()),
                [_, _, "end", ..] => Some("end".to_owned()),
                [packet, ..] => Some(packet.to_owned()),
                [] => None,
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn in_the_order_in_which_they_began() {
        let events = vec![
            segment(1, 1),
            segment(2, 2),
            ended(3, 2),
            segment(4, 1),
            segment(5, 3),
            ended(6, 1),
        ];
        assert_eq!(written(9, events, &[1, 2, 3]), "1: 1 4 end 2: 2 end 3: 5 open");
    }

    #[test]
    fn what_takes_too_much_room_is_drawn_and_goes_on() {
        let mut events = vec![segment(1, 1), segment(2, 2), ended(3, 2), segment(4, 3)];
        // The third is one too many: the oldest makes room, and is not in the way of the second any more.
        assert_eq!(written(2, events.clone(), &[1, 2, 3]), "1: 1 2: 2 end 1+: open 3: 4 open");
        events.extend([segment(5, 1), ended(6, 3), ended(7, 1)]);
        assert_eq!(written(2, events, &[1, 2, 3]), "1: 1 2: 2 end 1+: 5 end 3: 4 end");
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 128, "{}", size_of::<Entry>());
    }
}
