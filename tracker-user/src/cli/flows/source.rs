//! The flows of an agent that are asked for, with all that is known of each.

use std::{
    cell::RefCell,
    io::{self, Write},
    ops::ControlFlow,
    sync::Once,
};

use anyhow::Result;
use jiff::Timestamp;
use tracker_common::{flow::Flow, key::FlowKey, sweep::Tier};

use super::{Column, Options, row::Row};
use crate::{
    cli::choice::check_interfaces,
    client::agent::Agent,
    kernel::{
        conntrack::Translations, flow_violations::FlowViolations, instance::Instance,
        socket_owners::Owners, tables::Tables,
    },
    model::{
        clock::monotonic_ns,
        filter::Filter,
        format::Format,
        owner::OwnerFilter,
        record::{Record, View},
    },
};

/// An agent's tables, and which of their flows are asked for. Times are those of the moment when it was opened.
pub(super) struct Source {
    tables: Tables,
    view: View,
    filter: Filter,
    owner: OwnerFilter,
    /// Flows that began later are not asked for.
    until_ns: Option<u64>,
    since: Option<Timestamp>,
    broken: Option<FlowViolations>,
    translations: Translations,
    /// Where they are asked for or shown.
    owners: Option<RefCell<Owners>>,
}

/// A flow of a table, and its record.
pub(super) struct Match<'a> {
    key: &'a FlowKey,
    flow: &'a Flow,
    tier: Tier,
    /// Without owners, unless these are filtered by.
    pub(super) record: Record,
}

impl Match<'_> {
    /// The flow as it waits.
    pub(super) fn row(&self) -> Row {
        Row { key: *self.key, flow: self.flow.clone(), tier: self.tier }
    }
}

impl Source {
    /// Opens the tables of an agent.
    ///
    /// # Errors
    ///
    /// Where no agent runs, its maps cannot be read, or what is asked for makes no sense.
    pub(super) fn open(instance: &Instance, options: &Options) -> Result<Self> {
        let filter = options.choice.filter_with(&options.broken.violation, "flows")?;
        check_interfaces(&filter, instance, "flows")?;
        let tables = Tables::open(instance)?;
        let view = Agent::find(instance)?.view();
        let broken = broken(instance, options, &filter)?;
        let agent = instance.pid().map(|pid| pid.trim().to_owned());
        let shows = |is_it: fn(&Column) -> bool| options.columns.iter().any(is_it);
        let translations = if options.nat || shows(|column| *column == Column::Translated) {
            Translations::around(agent.as_deref())?
        } else {
            Translations::default()
        };
        let asks_for_owners =
            options.processes || options.owner.is_any() || shows(|column| column.asks_for_owners());
        let owners = asks_for_owners.then(|| Owners::around(agent.as_deref())).transpose()?;
        let until_ns = options.older_than.map(|age| {
            let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            monotonic_ns().saturating_sub(age_ns)
        });
        Ok(Self {
            tables,
            view,
            filter,
            owner: options.owner.clone(),
            until_ns,
            since: options.since.map(|since| since.time(Timestamp::now())),
            broken,
            translations,
            owners: owners.map(RefCell::new),
        })
    }

    /// Calls `visit` with each flow that is asked for, in the tables' order, until that breaks.
    ///
    /// # Errors
    ///
    /// What `visit` or the kernel says.
    pub(super) fn walk(
        &self,
        mut visit: impl FnMut(Match<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut error = None;
        self.tables.each_flow_until(|key, flow, tier| {
            let found = self.matching(key, flow, tier);
            match found.and_then(|it| it.map_or(Ok(ControlFlow::Continue(())), &mut visit)) {
                Ok(flow) => flow,
                Err(said) => {
                    error = Some(said);
                    ControlFlow::Break(())
                }
            }
        })?;
        error.map_or(Ok(()), Err)
    }

    /// The record of a flow that waited.
    ///
    /// # Errors
    ///
    /// As [`Source::complete`].
    pub(super) fn record(&self, row: &Row) -> Result<Record> {
        let mut record = self.without_owners(&row.key, &row.flow, row.tier);
        self.complete(&mut record)?;
        Ok(record)
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

    fn matching<'a>(
        &self,
        key: &'a FlowKey,
        flow: &'a Flow,
        tier: Tier,
    ) -> Result<Option<Match<'a>>> {
        if flow.is_dead() || self.until_ns.is_some_and(|until_ns| flow.created_ns() >= until_ns) {
            return Ok(None);
        }
        let mut record = self.without_owners(key, flow, tier);
        if self.since.is_some_and(|since| record.created < since) || !self.filter.matches(&record) {
            return Ok(None);
        }
        if self.owner.is_any() {
            self.complete(&mut record)?;
            if !record.owners().any(|owner| self.owner.matches(owner)) {
                return Ok(None);
            }
        }
        Ok(Some(Match { key, flow, tier, record }))
    }

    fn without_owners(&self, key: &FlowKey, flow: &Flow, tier: Tier) -> Record {
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
