//! Where a command has an agent's maps from: pins if it may open them, else the agent itself.

use std::{fs, io, path::PathBuf};

use crate::{
    client::map_sharing::SharedMaps,
    kernel::{
        flow_violations::FlowViolations, instance::Instance, listeners::ListenerMaps, syn_cache,
        tables::Tables,
    },
    model::error::Result,
};

/// Where a command has an agent's maps from.
pub enum Source {
    /// The directory that they are pinned in.
    Pins(PathBuf),
    /// The agent itself.
    Shared(SharedMaps),
}

impl Source {
    /// What there is of an agent for this user.
    ///
    /// # Errors
    ///
    /// Where there is nothing; the message says what to do.
    pub fn of(instance: &Instance) -> Result<Self> {
        let pins = instance.pins();
        match fs::metadata(pins.join("CONFIRMED")) {
            Ok(_) => Ok(Self::Pins(pins)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                SharedMaps::ask(instance).map(Self::Shared)
            }
            Err(_) => {
                let why = format!(" (nothing is pinned in {})", pins.display());
                Err(instance.not_running(&why).into())
            }
        }
    }
}

impl Tables {
    /// Opens the maps of an agent: for root those that are pinned, also of a killed agent; for others those that it shares.
    ///
    /// # Errors
    ///
    /// Where there are none, or this user may not have them; the message says what to do.
    pub fn open(instance: &Instance) -> Result<Self> {
        match Source::of(instance)? {
            Source::Pins(pins) => Self::from_pins(&pins),
            Source::Shared(mut shared) => {
                let has_cache = shared.has(syn_cache::SETS);
                Self::from_maps(has_cache, |name| shared.take(name))
            }
        }
    }
}

impl ListenerMaps {
    /// Opens the maps of an agent, as [`crate::kernel::tables::Tables::open`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open(instance: &Instance) -> Result<Option<Self>> {
        match Source::of(instance)? {
            Source::Pins(pins) => Self::from_pins(&pins),
            Source::Shared(mut shared) => Self::from_maps(|name| shared.take(name)).map(Some),
        }
    }
}

impl FlowViolations {
    /// What the programs of an agent remember.
    ///
    /// # Errors
    ///
    /// Where there is no agent, this user may not ask it, or its maps cannot be read.
    pub fn of(instance: &Instance) -> Result<Self> {
        match Source::of(instance)? {
            Source::Pins(pins) => Self::from_pins(&pins),
            Source::Shared(_) => Self::read(&SharedMaps::ask_for_repeated(instance)?),
        }
    }
}
