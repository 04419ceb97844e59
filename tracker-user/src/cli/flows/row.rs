//! Flows that wait to be shown, as the tables have them: a fifth of the memory that their records would take.

use anyhow::{Context, Result};
use tracker_common::{flow::Flow, key::FlowKey, sweep::Tier};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a row on disk.
pub(super) const SIZE: usize = size_of::<FlowKey>() + size_of::<Flow>() + 1;

/// A flow and its table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) key: FlowKey,
    pub(super) flow: Flow,
    pub(super) tier: Tier,
}

impl Row {
    /// Its bytes, for a file. Only a record that nobody else has lets them be read.
    pub(super) fn bytes(&mut self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let (key, rest) = bytes.split_at_mut(size_of::<FlowKey>());
        key.copy_from_slice(self.key.as_bytes());
        let (flow, tier) = rest.split_at_mut(size_of::<Flow>());
        flow.copy_from_slice(self.flow.as_mut_bytes());
        tier[0] = u8::from(self.tier == Tier::HalfOpen);
        bytes
    }

    /// The row of these bytes.
    ///
    /// # Errors
    ///
    /// Where there are not as many.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let parts = FlowKey::read_from_prefix(bytes).ok();
        let (key, rest) = parts.context("a row that was cut off")?;
        let parts = Flow::read_from_prefix(rest).ok();
        let (flow, tier) = parts.context("a row that was cut off")?;
        let tier = if tier == [0] { Tier::Confirmed } else { Tier::HalfOpen };
        Ok(Self { key, flow, tier })
    }
}
