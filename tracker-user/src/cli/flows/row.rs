//! Flows that wait to be shown, as the tables have them, or where a file has them: a fifth of the memory that their records
//! would take.

use anyhow::{Context, Result, bail};
use tracker_common::{flow::Flow, key::FlowKey, sweep::Tier};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a row on disk.
pub(super) const SIZE: usize = size_of::<FlowKey>() + size_of::<Flow>() + 1;

/// A flow.
#[derive(Clone, Debug)]
pub(super) enum Row {
    /// A flow of a table.
    Live(LiveRow),
    /// A connection of files, by its number there.
    Recorded(u64),
}

/// A flow and its table.
#[derive(Clone, Debug)]
pub(super) struct LiveRow {
    pub(super) key: FlowKey,
    pub(super) flow: Flow,
    pub(super) tier: Tier,
}

/// What the last byte of a row says of those before it.
const CONFIRMED: u8 = 0;
const HALF_OPEN: u8 = 1;
const RECORDED: u8 = 2;

impl Row {
    /// Its bytes, for a file. Only a record that nobody else has lets them be read.
    pub(super) fn bytes(&mut self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let (content, last) = bytes.split_at_mut(SIZE - 1);
        match self {
            Self::Live(LiveRow { key, flow, tier }) => {
                let (to_key, to_flow) = content.split_at_mut(size_of::<FlowKey>());
                to_key.copy_from_slice(key.as_bytes());
                to_flow.copy_from_slice(flow.as_mut_bytes());
                last[0] = if *tier == Tier::HalfOpen { HALF_OPEN } else { CONFIRMED };
            }
            Self::Recorded(number) => {
                content[..size_of::<u64>()].copy_from_slice(&number.to_ne_bytes());
                last[0] = RECORDED;
            }
        }
        bytes
    }

    /// The row of these bytes.
    ///
    /// # Errors
    ///
    /// Where there are not as many.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let tier = match bytes.last() {
            Some(&CONFIRMED) => Tier::Confirmed,
            Some(&HALF_OPEN) => Tier::HalfOpen,
            Some(&RECORDED) => {
                let number = bytes.first_chunk().context("a row that was cut off")?;
                return Ok(Self::Recorded(u64::from_ne_bytes(*number)));
            }
            _ => bail!("a row that was cut off"),
        };
        let parts = FlowKey::read_from_prefix(bytes).ok();
        let (key, rest) = parts.context("a row that was cut off")?;
        let parts = Flow::read_from_prefix(rest).ok();
        let (flow, _) = parts.context("a row that was cut off")?;
        Ok(Self::Live(LiveRow { key, flow, tier }))
    }
}
