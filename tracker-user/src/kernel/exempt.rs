//! The networks whose packets are never dropped for the rules that they break.

use std::{collections::BTreeSet, path::Path};

use aya::maps::{
    Map, MapData,
    lpm_trie::{Key, LpmTrie},
};
use tracker_common::key::Address;

use crate::{
    kernel::map_forms::open,
    model::{
        error::{Context, Result},
        network::Network,
    },
};

/// The map of these networks.
pub struct ExemptMap {
    networks: LpmTrie<MapData, Address, u32>,
}

impl ExemptMap {
    /// Opens the map that is pinned in a directory.
    ///
    /// # Errors
    ///
    /// Where it is not there, or cannot be opened.
    pub fn from_pins(pins: &Path) -> Result<Self> {
        Ok(Self { networks: Map::LpmTrie(open(&pins.join("DROP_EXEMPT"))?).try_into()? })
    }

    /// Every network.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn networks(&self) -> Result<BTreeSet<Network>> {
        self.networks
            .keys()
            .map(|key| {
                let key = key.context("reading the networks that are exempt")?;
                Ok((key.data(), u8::try_from(key.prefix_len())?))
            })
            .collect()
    }

    /// Exempts a network.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn add(&mut self, (address, length): Network) -> Result<()> {
        let key = Key::new(u32::from(length), address);
        self.networks.insert(&key, 1, 0).context("exempting a network")
    }

    /// Exempts it no more.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove(&mut self, (address, length): Network) -> Result<()> {
        let key = Key::new(u32::from(length), address);
        self.networks.remove(&key).context("removing a network that was exempt")
    }
}
