//! The exporter `ipfix`: messages of RFC 7011 with biflows of RFC 5103, over TCP or UDP.
//!
//! A record is encoded once, as a Set of its own ([`row`]), by the columns of [`template`]; [`message`] makes messages of Sets,
//! and [`session`] sends them.

mod address;
pub mod element;
mod message;
mod row;
mod session;
mod template;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use self::address::Address;
use self::{
    message::Exporter,
    session::{End, Recent, Session},
};
use crate::{
    export::{
        record::{About, ExportRecord, Origin},
        relay::{Receipt, Receiver, Refusal, Stop},
    },
    model::error::{Context, Result},
};

/// Where messages go, and what they say of their exporter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The collector.
    pub address: Address,
    /// Observation domain ID.
    pub domain: u32,
    /// The enterprise whose elements the own ones are; without, there are none.
    pub pen: Option<u32>,
    /// Time between two times templates are sent over UDP.
    pub templates: Duration,
}

/// A collector.
#[derive(Debug)]
pub struct Collector {
    settings: Settings,
    exporter: Exporter,
    /// Records that were lost since this process began, of those that were announced.
    lost: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    /// What the collector may not have read, though its kernel has acknowledged it.
    recent: Recent,
}

impl Collector {
    /// The collector of these settings, for the records of an agent.
    #[must_use]
    pub fn new(settings: Settings, origin: &Origin) -> Self {
        let exporter = Exporter {
            domain: settings.domain,
            pen: settings.pen,
            process: std::process::id(),
            host: origin.host.clone(),
            agent: origin.agent.clone(),
            boot_id: origin.boot_id.clone(),
        };
        Self { settings, exporter, lost: AtomicU64::new(0), state: Mutex::default() }
    }

    async fn transfer(&self, state: &mut State, rows: &[u8]) -> Result<u64> {
        let session = state.session.take();
        let end = match &session {
            Some(session) => session.end().await,
            None => None,
        };
        let session = match end {
            None => session,
            Some(End::Clean) => {
                state.recent.clear();
                None
            }
            Some(End::Broken(error)) => {
                tracing::info!("{NAME}: {error:#}; what was sent last is sent again");
                None
            }
        };
        let mut session = match session {
            Some(session) => session,
            None => {
                let mut session = Session::open(&self.settings.address).await?;
                let unread = state.recent.rows();
                if !unread.is_empty() {
                    self.send_over(&mut session, &unread).await?;
                }
                session
            }
        };
        let left_out = self.send_over(&mut session, rows).await?;
        if self.settings.address.is_tcp {
            state.recent.add(rows);
        }
        state.session = Some(session);
        Ok(left_out)
    }

    async fn send_over(&self, session: &mut Session, rows: &[u8]) -> Result<u64> {
        let lost = self.lost.load(Ordering::Relaxed);
        session.send(rows, &self.exporter, lost, self.settings.templates).await
    }
}

impl Receiver for Collector {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn has_form(&self, record: &ExportRecord) -> bool {
        row::has_form(record, self.exporter.pen.is_some())
    }

    fn encode(&self, record: &ExportRecord) -> Option<Vec<u8>> {
        let more = record.lost.filter(|_| record.about == About::Lost).unwrap_or(0);
        let lost = self.lost.fetch_add(more, Ordering::Relaxed) + more;
        row::of(record, self.exporter.pen.is_some(), self.exporter.process, lost)
    }

    fn split<'a>(&self, records: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = records;
        let lengths = row::sets(records).map(|set| match set {
            Ok((_, record)) => row::HEADER + record.len(),
            Err(rest) => rest.len(),
        });
        lengths
            .map(|length| {
                let (row, behind) = rest.split_at(length.min(rest.len()));
                rest = behind;
                row
            })
            .collect()
    }

    fn send(&self, records: &[u8], stop: &Stop) -> Result<Receipt, Refusal> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = stop
            .run(self.transfer(&mut state, records))
            .with_context(|| self.settings.address.to_string())?;
        let said =
            "breaches, or records that are not whole, have no form without --export-ipfix-pen";
        Ok(Receipt { rejected: left_out, said: said.to_owned() })
    }
}

/// How log lines begin.
const NAME: &str = "--export-ipfix";

#[cfg(test)]
mod tests;
