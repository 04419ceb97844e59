//! The flows of a listing in their order, without all of them in memory.

use std::ops::ControlFlow;

use anyhow::Result;

use super::{
    Options,
    order::Order,
    row::Row,
    selection::{End, Rows, Selection},
    sorter::{Sorted, Sorter},
    source::Source,
};
use crate::model::record::Record;

/// Flows that wait in memory at most, about 240 bytes each.
pub(super) const MOST: usize = 1 << 16;

/// The flows of a listing.
pub(super) struct Listing {
    source: Source,
    order: Ordered,
}

enum Ordered {
    Rows(Rows),
    /// Without the first ones.
    Sorted(Sorted, u64),
    /// More than [`MOST`], and no order was asked for: as the tables have them.
    Unsorted,
}

impl Listing {
    /// Reads what an order needs.
    ///
    /// # Errors
    ///
    /// Where the tables cannot be read, or too little disk is left to sort.
    pub(super) fn read(source: Source, options: &Options) -> Result<Self> {
        let order = order(options);
        let ordered = match options.last {
            Some(last) if last <= MOST => {
                let mut selection = Selection::new(End::Last, last);
                select(&source, order, &mut selection)?;
                Ordered::Rows(selection.into_rows())
            }
            None if options.sort.is_none() && !options.reverse => {
                let mut selection = Selection::new(End::First, MOST);
                source.walk(|it| {
                    selection.add(order.place(&it.record, selection.seen()), || it.row());
                    Ok(if selection.seen() > MOST as u64 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    })
                })?;
                if selection.seen() > MOST as u64 {
                    Ordered::Unsorted
                } else {
                    Ordered::Rows(selection.into_rows())
                }
            }
            last => {
                let (mut sorter, mut count) = (Sorter::new(MOST), 0);
                source.walk(|it| {
                    sorter.add(order.place(&it.record, count), it.row())?;
                    count += 1;
                    Ok(ControlFlow::Continue(()))
                })?;
                let sorted = sorter.into_sorted()?;
                let last = last.map_or(u64::MAX, |last| last as u64);
                let skip = sorted.len().saturating_sub(last);
                Ordered::Sorted(sorted, skip)
            }
        };
        Ok(Self { source, order: ordered })
    }

    /// Calls `visit` with each flow, in order.
    ///
    /// # Errors
    ///
    /// What `visit` says, or where the flows cannot be read.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&Record) -> Result<()>) -> Result<()> {
        let show = |row: &Row, visit: &mut dyn FnMut(&Record) -> Result<()>| {
            visit(&self.source.record(row)?)
        };
        match &self.order {
            Ordered::Rows(rows) => rows.iter().try_for_each(|row| show(row, visit)),
            Ordered::Sorted(sorted, skip) => sorted.each(*skip, &mut |row| show(row, visit)),
            Ordered::Unsorted => self.source.walk(|mut it| {
                self.source.complete(&mut it.record)?;
                visit(&it.record)?;
                Ok(ControlFlow::Continue(()))
            }),
        }
    }

    /// How many flows there are; `None` where they are read only to be shown.
    pub(super) fn len(&self) -> Option<u64> {
        match &self.order {
            Ordered::Rows(rows) => Some(rows.len() as u64),
            Ordered::Sorted(sorted, skip) => Some(sorted.len() - skip),
            Ordered::Unsorted => None,
        }
    }
}

/// The first flows in an order, or the last ones, as far as they are kept in memory.
pub(super) struct Pages {
    source: Source,
    rows: Rows,
    /// How many there were to choose from.
    pub(super) all: u64,
}

impl Pages {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// Where the tables cannot be read.
    pub(super) fn read(source: Source, options: &Options) -> Result<Self> {
        let mut selection = match options.last {
            Some(last) => Selection::new(End::Last, last.min(MOST)),
            None => Selection::new(End::First, MOST),
        };
        select(&source, order(options), &mut selection)?;
        let all = options.last.map_or(u64::MAX, |last| last as u64).min(selection.seen());
        Ok(Self { source, rows: selection.into_rows(), all })
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Each record from the one with this number on.
    pub(super) fn records(&self, from: usize) -> impl Iterator<Item = Result<Record>> {
        self.rows.iter().skip(from).map(|row| self.source.record(row))
    }
}

fn order(options: &Options) -> Order {
    Order { key: options.sort.unwrap_or_default(), reverse: options.reverse }
}

fn select(source: &Source, order: Order, selection: &mut Selection) -> Result<()> {
    source.walk(|it| {
        selection.add(order.place(&it.record, selection.seen()), || it.row());
        Ok(ControlFlow::Continue(()))
    })
}
