//! The flows that are asked for, with all that is known of each: an agent's, or those of files.

mod live;

use std::ops::ControlFlow;

use anyhow::Result;
use clap::error::ErrorKind;
use jiff::{SignedDuration, Timestamp};

use self::live::Live;
use super::{
    Column, Options,
    recorded::Recorded,
    row::{LiveRow, Row},
};
use crate::{
    cli::{choice::check_interfaces, refusal},
    kernel::instance::Instance,
    model::{filter::Filter, record::Record},
};

/// Where flows come from, and which of them are asked for. Times are those of the moment when it was opened.
pub(super) struct Source {
    origin: Origin,
    filter: Filter,
    /// Flows that began later are not asked for.
    until: Option<Timestamp>,
    since: Option<Timestamp>,
}

enum Origin {
    Live(Box<Live>),
    Recorded(Recorded),
}

/// A flow, and its record.
pub(super) struct Match<'a> {
    place: Place<'a>,
    /// Without owners, unless these are filtered by.
    pub(super) record: Record,
}

enum Place<'a> {
    Live(live::Place<'a>),
    Recorded(u64),
}

impl Match<'_> {
    /// The flow as it waits.
    pub(super) fn row(&self) -> Row {
        match &self.place {
            Place::Live((key, flow, tier)) => {
                Row::Live(LiveRow { key: **key, flow: (*flow).clone(), tier: *tier })
            }
            Place::Recorded(number) => Row::Recorded(*number),
        }
    }
}

impl Source {
    /// Opens the tables of an agent, or reads files.
    ///
    /// # Errors
    ///
    /// Where no agent runs, its maps or the files cannot be read, or what is asked for makes no sense.
    pub(super) fn open(instance: &Instance, options: &Options) -> Result<Self> {
        let filter = options.choice.filter_with(&options.broken.violation, "flows")?;
        let origin = if options.from.is_empty() {
            check_interfaces(&filter, instance, "flows")?;
            Origin::Live(Box::new(Live::open(instance, options, &filter)?))
        } else {
            if options.owner.is_any() || options.columns.iter().any(Column::asks_for_owners) {
                let said = "records do not have the processes of connections: leave filters and columns of them away";
                return Err(refusal("flows", ErrorKind::ArgumentConflict, said));
            }
            Origin::Recorded(Recorded::read(&options.from)?)
        };
        let now = Timestamp::now();
        let until = options.older_than.map(|age| {
            let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
            now.checked_sub(age).unwrap_or(Timestamp::MIN)
        });
        Ok(Self { origin, filter, until, since: options.since.map(|since| since.time(now)) })
    }

    /// Calls `visit` with each flow that is asked for, in the tables' or files' order, until that breaks.
    ///
    /// # Errors
    ///
    /// What `visit` or the kernel says, or where a record is wrong.
    pub(super) fn walk(
        &self,
        mut visit: impl FnMut(Match<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        match &self.origin {
            Origin::Live(live) => live.walk(|place| {
                let Some(record) = live.matching(place, |record| self.has(record))? else {
                    return Ok(ControlFlow::Continue(()));
                };
                visit(Match { place: Place::Live(place), record })
            }),
            Origin::Recorded(recorded) => {
                for number in 0..recorded.len() {
                    let record = recorded.record(number)?;
                    if self.has(&record)
                        && visit(Match { place: Place::Recorded(number), record })?.is_break()
                    {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// The record of a flow that waited.
    ///
    /// # Errors
    ///
    /// As [`Source::complete`], or where a file cannot be read again.
    pub(super) fn record(&self, row: &Row) -> Result<Record> {
        match (&self.origin, row) {
            (Origin::Live(live), Row::Live(row)) => {
                let mut record = live.record(&row.key, &row.flow, row.tier);
                live.complete(&mut record)?;
                Ok(record)
            }
            (Origin::Recorded(recorded), Row::Recorded(number)) => recorded.record(*number),
            _ => anyhow::bail!("a flow of another source"),
        }
    }

    /// Adds the owners of its ends to a record, where that is asked for.
    ///
    /// # Errors
    ///
    /// Where /proc cannot be read.
    pub(super) fn complete(&self, record: &mut Record) -> Result<()> {
        match &self.origin {
            Origin::Live(live) => live.complete(record),
            Origin::Recorded(_) => Ok(()),
        }
    }

    fn has(&self, record: &Record) -> bool {
        self.until.is_none_or(|until| record.created < until)
            && self.since.is_none_or(|since| record.created >= since)
            && self.filter.matches(record)
    }
}
