//! Variants that end otherwise than the whole connection, and why they must.

use crate::{
    connection::Connection,
    loss::Loss,
    variant::{Kind, Variant},
};

/// What may come of a loss.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) loss: Loss,
    pub(crate) why: &'static str,
    /// Each end that it may come to: both ends' states, and Zeek's word; several connections are joined by ` + `.
    pub(crate) ends: &'static [&'static str],
}

/// One variant of one connection.
#[derive(Debug)]
pub(crate) struct Single {
    pub(crate) capture: &'static str,
    pub(crate) kind: Kind,
    /// The connection's packet at which it begins, from 1.
    pub(crate) at: usize,
    pub(crate) end: &'static str,
    pub(crate) why: &'static str,
}

impl Single {
    pub(crate) fn is(&self, connection: &Connection, variant: Variant, end: &str) -> bool {
        (self.capture, self.kind, self.at, self.end)
            == (connection.capture.as_str(), variant.kind, variant.at + 1, end)
    }
}

/// What may come of losses.
pub(crate) const CLASSES: &[Class] = &[];

/// Variants that no class is about.
pub(crate) const SINGLES: &[Single] = &[];
