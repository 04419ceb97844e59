//! The flows of an agent, with all that is known of each.

use std::{
    cell::RefCell,
    io::{self, Write},
    ops::ControlFlow,
    sync::Once,
};

use anyhow::Result;
use tracker_common::{flow::Flow, key::FlowKey, sweep::Tier};

use super::super::{Column, Options};
use crate::{
    client::agent::Agent,
    kernel::{
        conntrack::Translations, flow_violations::FlowViolations, instance::Instance,
        socket_owners::Owners, tables::Tables,
    },
    model::{
        filter::Filter,
        format::Format,
        owner::OwnerFilter,
        record::{Record, View},
    },
};

/// A flow of a table.
pub(super) type Place<'a> = (&'a FlowKey, &'a Flow, Tier);

/// An agent's tables.
pub(super) struct Live {
    tables: Tables,
    view: View,
    owner: OwnerFilter,
    broken: Option<FlowViolations>,
    translations: Translations,
    /// Where they are asked for or shown.
    owners: Option<RefCell<Owners>>,
}

impl Live {
    /// Opens them.
    ///
    /// # Errors
    ///
    /// Where no agent runs, or its maps cannot be read.
    pub(super) fn open(instance: &Instance, options: &Options, filter: &Filter) -> Result<Self> {
        let tables = Tables::open(instance)?;
        let view = Agent::find(instance)?.view();
        let broken = broken(instance, options, filter)?;
        let agent = instance.pid().map(|pid| pid.trim().to_owned());
        let shows = |is_it: fn(&Column) -> bool| options.columns.iter().any(is_it);
        let translations = if options.nat || shows(|column| *column == Column::Translated) {
            Translations::around(agent.as_deref())?
        } else {
            Translations::default()
        };
        let asks_for_owners =
            options.processes || options.owner.is_any() || shows(Column::asks_for_owners);
        let owners = asks_for_owners.then(|| Owners::around(agent.as_deref())).transpose()?;
        Ok(Self {
            tables,
            view,
            owner: options.owner.clone(),
            broken,
            translations,
            owners: owners.map(RefCell::new),
        })
    }

    /// Calls `visit` with each flow, in the tables' order, until that breaks.
    ///
    /// # Errors
    ///
    /// What `visit` or the kernel says.
    pub(super) fn walk(
        &self,
        mut visit: impl FnMut(Place<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut error = None;
        self.tables.each_flow_until(|key, flow, tier| {
            if flow.is_dead() {
                return ControlFlow::Continue(());
            }
            visit((key, flow, tier)).unwrap_or_else(|said| {
                error = Some(said);
                ControlFlow::Break(())
            })
        })?;
        error.map_or(Ok(()), Err)
    }

    /// The record of a flow, if `is_asked_for` says so and its owners are asked for.
    ///
    /// # Errors
    ///
    /// As [`Live::complete`].
    pub(super) fn matching(
        &self,
        (key, flow, tier): Place<'_>,
        is_asked_for: impl Fn(&Record) -> bool,
    ) -> Result<Option<Record>> {
        let mut record = self.record(key, flow, tier);
        if !is_asked_for(&record) {
            return Ok(None);
        }
        if self.owner.is_any() {
            self.complete(&mut record)?;
            if !record.owners().any(|owner| self.owner.matches(owner)) {
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    /// Adds the owners of its ends to a record, where that is asked for.
    ///
    /// # Errors
    ///
    /// Where /proc cannot be read.
    pub(super) fn complete(&self, record: &mut Record) -> Result<()> {
        if let Some(owners) = &self.owners {
            let mut owners = owners.borrow_mut();
            owners.complete(record)?;
            if owners.is_blind() {
                note_unseen();
            }
        }
        Ok(())
    }

    /// The record of a flow, without owners.
    pub(super) fn record(&self, key: &FlowKey, flow: &Flow, tier: Tier) -> Record {
        let mut record = Record::new(key, flow, Some(tier), &self.view);
        if let Some(broken) = &self.broken {
            broken.complete(key, flow, &mut record);
        }
        record.translated = self.translations.other_side(record.ends());
        record
    }
}

/// Says once that not every process can be looked at.
fn note_unseen() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ = writeln!(
            io::stderr(),
            "processes of other users are not named: that takes root, or CAP_SYS_PTRACE"
        );
    });
}

/// Which rules flows have broken, where that is asked for or shown.
fn broken(
    instance: &Instance,
    options: &Options,
    filter: &Filter,
) -> Result<Option<FlowViolations>> {
    if filter.asks_for_rules() {
        return Ok(Some(FlowViolations::of(instance)?));
    }
    let shows =
        options.output.format() != Format::Text || options.columns.contains(&Column::BrokenRules);
    // An agent of an older version does not share it: then it is not known.
    Ok(if shows { FlowViolations::of(instance).ok() } else { None })
}
