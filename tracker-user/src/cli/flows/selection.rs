//! The flows that come first or last in an order, of however many: no others are kept.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    order::{Place, inverted},
    row::Row,
};

/// Which end of the order is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    First,
    Last,
}

/// Flows of one end of an order.
#[derive(Debug)]
pub(super) struct Selection {
    end: End,
    most: usize,
    /// The one that is left out next on top. The numbers are those of the rows.
    places: BinaryHeap<Reverse<(Place, usize)>>,
    rows: Vec<Row>,
    seen: u64,
}

impl Selection {
    /// So many flows at most.
    pub(super) fn new(end: End, most: usize) -> Self {
        Self { end, most, places: BinaryHeap::new(), rows: Vec::new(), seen: 0 }
    }

    /// Takes a flow, or another one in its place, or leaves it out.
    pub(super) fn add(&mut self, place: Place, row: impl FnOnce() -> Row) {
        self.seen += 1;
        let place = if self.end == End::First { inverted(place) } else { place };
        if self.rows.len() < self.most {
            self.places.push(Reverse((place, self.rows.len())));
            self.rows.push(row());
        } else if let Some(mut out) = self.places.peek_mut()
            && place > out.0.0
        {
            let at = out.0.1;
            *out = Reverse((place, at));
            self.rows[at] = row();
        }
    }

    /// How many flows there were.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Those that were kept, in order.
    pub(super) fn into_rows(self) -> Rows {
        let mut places: Vec<_> = self.places.into_iter().map(|Reverse(place)| place).collect();
        places.sort_unstable();
        if self.end == End::First {
            places.reverse();
        }
        Rows { order: places.into_iter().map(|(_, at)| at).collect(), rows: self.rows }
    }
}

/// Flows in an order, in memory.
#[derive(Debug, Default)]
pub(super) struct Rows {
    order: Vec<usize>,
    rows: Vec<Row>,
}

impl Rows {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Each of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.order.iter().filter_map(|at| self.rows.get(*at))
    }
}

#[cfg(test)]
mod tests {
    use tracker_common::{flow::Flow, key::FlowKey, sweep::Tier};

    use super::*;
    use crate::cli::flows::row::LiveRow;

    #[test]
    fn those_of_either_end_of_a_whole_sort() {
        // 101 is prime: each number comes once.
        let numbers = || (0..101u16).map(|at| at * 37 % 101);
        for most in [0, 1, 2, 50, 100, 101, 200] {
            for end in [End::First, End::Last] {
                let mut selection = Selection::new(end, most);
                for number in numbers() {
                    let mut place = [0xff; size_of::<Place>()];
                    place[..2].copy_from_slice(&number.to_be_bytes());
                    let key = FlowKey { zone: number, ..FlowKey::default() };
                    let flow = Flow::default();
                    let row = LiveRow { key, flow, tier: Tier::Confirmed };
                    selection.add(place, || Row::Live(row));
                }
                assert_eq!(selection.seen(), 101);
                let rows = selection.into_rows();
                let zone = |row: &Row| match row {
                    Row::Live(row) => usize::from(row.key.zone),
                    Row::Recorded(_) => usize::MAX,
                };
                let found: Vec<_> = rows.iter().map(zone).collect();
                let kept = most.min(101);
                let expected = if end == End::First { 0..kept } else { 101 - kept..101 };
                assert_eq!(found, expected.collect::<Vec<_>>(), "{end:?} {most}");
                assert_eq!(rows.len(), kept);
            }
        }
    }
}
