//! What a replay prints, in each form.

use std::io::{self, BufWriter, StdoutLock, Write};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;

use super::{flow::ReplayedFlow, summary::Summary};
use crate::model::{
    event::Event,
    format::{Format, Line},
};

/// Events, then flows, then the summary, written as they come: what happens in a capture need not fit into memory.
pub(super) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
    /// Whether somebody waits for the next event.
    is_live: bool,
    /// What stands on the terminal that is written to.
    progress: ProgressBar,
    /// What the JSON document is listing; `any` says whether the list has an element.
    part: Part,
    any: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Start,
    Events,
    Flows,
}

impl Output {
    pub(super) fn new(format: Format, is_live: bool, progress: ProgressBar) -> Self {
        let out = BufWriter::new(io::stdout().lock());
        Self { out, format, is_live, progress, part: Part::Start, any: false }
    }

    pub(super) fn event(&mut self, event: &Event) -> Result<()> {
        // The bar must not stand in the middle of a line.
        let progress = self.progress.clone();
        progress
            .suspend(|| {
                match self.format {
                    Format::Text => writeln!(self.out, "{event}")?,
                    Format::Json => self.element(Part::Events, event)?,
                    Format::Jsonl => self.line(event)?,
                }
                if self.is_live { self.out.flush() } else { Ok(()) }
            })
            .context("writing to stdout")
    }

    pub(super) fn flow(&mut self, flow: &ReplayedFlow) -> Result<()> {
        match self.format {
            Format::Text => writeln!(self.out, "{flow}"),
            Format::Json => self.element(Part::Flows, flow),
            Format::Jsonl => self.line(&Line::new(flow)),
        }
        .context("writing to stdout")
    }

    pub(super) fn finish(mut self, summary: &Summary, flows: Option<usize>) -> Result<()> {
        if self.format == Format::Json {
            self.document(summary).context("writing to stdout")?;
            return Ok(());
        }
        self.out.flush().context("writing to stdout")?;
        // Whoever does not read it does not want it.
        let _ = summary.write_text(&mut io::stderr(), flows);
        Ok(())
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        writeln!(self.out)
    }

    /// Writes one element of one of the document's lists, a line each.
    fn element(&mut self, part: Part, value: &impl Serialize) -> io::Result<()> {
        self.go_to(part)?;
        self.out.write_all(if self.any { b",\n" } else { b"\n" })?;
        self.any = true;
        Ok(serde_json::to_writer(&mut self.out, value)?)
    }

    /// Begins the lists up to that of `part`.
    fn go_to(&mut self, part: Part) -> io::Result<()> {
        if self.part == Part::Start {
            self.out.write_all(b"{\"v\":1,\n\"events\":[")?;
            self.part = Part::Events;
        }
        if part == Part::Flows && self.part == Part::Events {
            self.out.write_all(b"],\n\"flows\":[")?;
            self.part = Part::Flows;
            self.any = false;
        }
        Ok(())
    }

    /// Ends the document with the summary.
    fn document(&mut self, summary: &Summary) -> io::Result<()> {
        self.go_to(Part::Flows)?;
        self.out.write_all(b"]")?;
        let summary = serde_json::to_value(summary)?;
        for (name, value) in summary.as_object().into_iter().flatten() {
            write!(self.out, ",\n\"{name}\":{value}")?;
        }
        writeln!(self.out, "}}")?;
        self.out.flush()
    }
}
