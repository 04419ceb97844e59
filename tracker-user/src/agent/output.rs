//! The agent's own output: events as log lines on stderr or as JSON on stdout. A stream that fails is logged once.

use tracker_common::event::Kind;

use crate::{
    agent::{
        event_server::EventServer,
        exports::Exports,
        options::{EventName, Options},
        writer::{self, Content, OnError, Writers},
    },
    model::{error::Result, event::Event, format::Format},
};

/// What the agent itself writes.
pub(super) struct Output {
    pub(super) kinds: Vec<Kind>,
    format: Format,
    pub(super) on_error: OnError,
    pub(super) writers: Writers,
    pub(super) exports: Exports,
}

impl Output {
    pub(super) fn new(options: &Options, writers: &Writers, exports: &Exports) -> Self {
        Self {
            kinds: EventName::kinds(&options.events),
            format: options.output,
            on_error: options.on_output_error,
            writers: writers.clone(),
            exports: exports.clone(),
        }
    }

    pub(super) fn write(&self, event: &Event, warn: bool) -> Result<()> {
        match self.format {
            Format::Text if warn => tracing::warn!(target: writer::VIOLATION, "{event:#}"),
            Format::Text => tracing::info!(target: writer::EVENT, "{event:#}"),
            Format::Json | Format::Jsonl => self.write_json(Content::Report, event)?,
        }
        Ok(())
    }

    fn write_json(&self, content: Content, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.writers.out.write(content, line);
        Ok(())
    }

    /// Writes that reports were lost, which is no report itself; false where it would be lost, too.
    pub(super) fn tell_lost(&self, event: &Event) -> Result<bool> {
        let is_text = self.format == Format::Text;
        let writer = if is_text { &self.writers.err } else { &self.writers.out };
        if !writer.has_room() {
            return Ok(false);
        }
        if is_text {
            tracing::warn!("{event:#}");
        } else {
            self.write_json(Content::Log, event)?;
        }
        Ok(true)
    }
}

/// Says once that stdout cannot be written, and once that it can again. Where stderr cannot, nobody would hear it.
#[derive(Default)]
pub(super) struct OutputTrouble {
    is_told: bool,
}

impl OutputTrouble {
    pub(super) fn tell(&mut self, writers: &Writers) {
        match (writers.out.error(), self.is_told) {
            (Some(error), false) => {
                tracing::error!(
                    "stdout cannot be written: {error}. Tracking goes on, and what it does not take is counted as lost \
                     (`--on-output-error exit` ends the agent)"
                );
                self.is_told = true;
            }
            (None, true) => {
                tracing::info!("stdout can be written again");
                self.is_told = false;
            }
            _ => {}
        }
    }
}

pub(super) fn publish(
    server: &EventServer,
    output: &Output,
    kind: Kind,
    event: &Event,
) -> Result<()> {
    if output.kinds.contains(&kind) {
        output.write(event, kind == Kind::Violation)?;
    }
    output.exports.offer(event);
    server.send(Some(kind), event);
    Ok(())
}
