//! A connection's packets with something done to them that a network, or whoever watches it, may do.

use std::fmt;

use crate::connection::{Connection, Frame, Outcome, track};

/// What was done.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// So many packets in a row are missing.
    LeftOut(usize),
    /// Two neighbours come in the other order.
    Swapped,
    /// A packet comes twice.
    Doubled,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut(count) => write!(f, "left out {count}"),
            Self::Swapped => f.write_str("swapped"),
            Self::Doubled => f.write_str("doubled"),
        }
    }
}

/// All kinds.
pub(crate) const KINDS: [Kind; 6] = [
    Kind::LeftOut(1),
    Kind::LeftOut(2),
    Kind::LeftOut(5),
    Kind::LeftOut(20),
    Kind::Swapped,
    Kind::Doubled,
];

/// What was done to a connection, and from which of its packets on, counted from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub(crate) kind: Kind,
    pub(crate) at: usize,
}

impl Variant {
    /// Every variant of a connection. One that leaves nothing is none.
    pub(crate) fn all(connection: &Connection) -> impl Iterator<Item = Self> {
        let count = connection.frames.len();
        KINDS.into_iter().flat_map(move |kind| {
            let places = match kind {
                Kind::LeftOut(run) => {
                    if run < count {
                        count - run + 1
                    } else {
                        0
                    }
                }
                Kind::Swapped => count - 1,
                Kind::Doubled => count,
            };
            (0..places).map(move |at| Self { kind, at })
        })
    }

    /// Which packets come, and the packet whose time each has.
    pub(crate) fn order(&self, count: usize) -> Vec<(usize, usize)> {
        let at = self.at;
        let whole = 0..count;
        match self.kind {
            Kind::LeftOut(run) => {
                whole.filter(|n| !(at..at + run).contains(n)).map(|n| (n, n)).collect()
            }
            Kind::Swapped => whole
                .map(|n| {
                    (
                        if n == at {
                            at + 1
                        } else if n == at + 1 {
                            at
                        } else {
                            n
                        },
                        n,
                    )
                })
                .collect(),
            Kind::Doubled => {
                whole.flat_map(|n| vec![(n, n); if n == at { 2 } else { 1 }]).collect()
            }
        }
    }

    /// Its packets, each with the time that it comes at.
    pub(crate) fn packets<'a>(
        &self,
        connection: &'a Connection,
    ) -> impl Iterator<Item = (&'a Frame, i64)> {
        let frames = &connection.frames;
        let order = self.order(frames.len()).into_iter();
        order.map(|(n, time)| (&frames[n], frames[time].timestamp_ns))
    }

    /// What comes of it.
    pub(crate) fn outcome(&self, connection: &Connection) -> Outcome {
        track(self.packets(connection))
    }
}
