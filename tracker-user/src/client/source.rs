//! Where a command has an agent's maps from: pins if it may open them, else the agent itself.

use std::{fs, io, path::PathBuf};

use anyhow::Result;

use crate::{
    client::lent::Lent,
    kernel::{broken::Broken, instance::Instance, listeners::ListenerMaps, tables::Tables},
};

/// Where a command has an agent's maps from.
pub enum Source {
    /// The directory that they are pinned in.
    Pins(PathBuf),
    /// The agent itself.
    Lent(Lent),
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
                Lent::ask(instance).map(Self::Lent)
            }
            Err(_) => {
                let why = format!(" (nothing is pinned in {})", pins.display());
                Err(instance.not_running(&why).into())
            }
        }
    }
}

impl Tables {
    /// Opens the maps of an agent: root those that are pinned, also where it was killed; others those that it lends them.
    ///
    /// # Errors
    ///
    /// Where there are none, or this user may not have them; the message says what to do.
    pub fn open(instance: &Instance) -> Result<Self> {
        match Source::of(instance)? {
            Source::Pins(pins) => Self::from_pins(&pins),
            Source::Lent(mut lent) => Self::from_maps(|name| lent.take(name)),
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
            Source::Lent(mut lent) => Self::from_maps(|name| lent.take(name)).map(Some),
        }
    }
}

impl Broken {
    /// What the programs of an agent remember.
    ///
    /// # Errors
    ///
    /// Where there is no agent, this user may not ask it, or its maps cannot be read.
    pub fn of(instance: &Instance) -> Result<Self> {
        match Source::of(instance)? {
            Source::Pins(pins) => Self::from_pins(&pins),
            Source::Lent(_) => Self::read(&Lent::ask_for_repeated(instance)?),
        }
    }
}
