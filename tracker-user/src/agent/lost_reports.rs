//! LOST: counts reports that found the ring buffer full or did not fit into the agent's output, and announces them.

use std::cell::RefCell;

use tracker_common::counters::Tally;

use crate::{
    agent::{
        condition::Condition, event_server::EventServer, output::Output, upkeep::publish_info,
    },
    client::agent::Agent,
    kernel::{instance::Instance, tables::Tables},
    model::{
        clock::Clock,
        error::Result,
        event::{Event, Stage},
    },
};

/// Reports that found the ring buffer full, which the kernel counts, and those that the agent's output did not take. They are announced
/// once a second.
pub(super) struct LostReports<'a> {
    pub(super) tables: Tables,
    /// Its `lost_told` is the number of those that were announced.
    pub(super) agent: &'a RefCell<Agent>,
    pub(super) instance: &'a Instance,
    pub(super) publishing: Condition,
    pub(super) output_told: u64,
    pub(super) exports_told: u64,
    pub(super) log_lines_told: u64,
}

impl LostReports<'_> {
    pub(super) fn report(&mut self, server: &EventServer, output: &Output) -> Result<()> {
        let now = self.tables.tally(Tally::ReportsLost)?;
        let told = self.agent.borrow().lost_told;
        if now > told {
            let event = Event::lost(now - told, Stage::Ring, &Clock::now());
            self.agent.borrow_mut().lost_told = now;
            output.write(&event, true)?;
            server.send(None, &event);
            output.exports.offer(&event);
            // For the next agent, should this one be killed.
            publish_info(&self.agent.borrow(), self.instance, &mut self.publishing);
        }
        self.report_exports(server, output)?;
        self.report_output(output)
    }

    /// Records that no receiver will have; each exporter says so to its own.
    fn report_exports(&mut self, server: &EventServer, output: &Output) -> Result<()> {
        let lost = output.exports.lost();
        if lost > self.exports_told {
            let event = Event::lost(lost - self.exports_told, Stage::Export, &Clock::now());
            self.exports_told = lost;
            output.write(&event, true)?;
            server.send(None, &event);
        }
        Ok(())
    }

    /// Listeners on the socket have lost none of these.
    fn report_output(&mut self, output: &Output) -> Result<()> {
        let lost = output.writers.reports_lost();
        if lost > self.output_told {
            let event = Event::lost(lost - self.output_told, Stage::Output, &Clock::now());
            if output.tell_lost(&event)? {
                self.output_told = lost;
            }
        }
        let lines = output.writers.log_lines_lost();
        if lines > self.log_lines_told && output.writers.err.has_room() {
            tracing::warn!("{} lines of this log were lost", lines - self.log_lines_told);
            self.log_lines_told = lines;
        }
        Ok(())
    }
}
