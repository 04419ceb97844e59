//! The pins of an agent's maps, which it holds open: one that somebody removes is made anew with the same map, so that other commands,
//! and programs for interfaces that come, go on with what there is.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapInfo};

use crate::{
    kernel::kernel_side::{create_private, slots::slots},
    model::error::{Context, Error, Result},
};

/// Maps that no interface shares with another one.
const OF_A_SLOT: [&str; 2] = ["REPEATED", "SOURCES"];

/// Pins and what they are of.
#[derive(Debug)]
pub struct KeptPins {
    pins: PathBuf,
    maps: BTreeMap<PathBuf, Kept>,
}

#[derive(Debug)]
struct Kept {
    map: MapData,
    identity: Identity,
}

/// Device and inode of a name.
pub(crate) type Identity = (u64, u64);

/// What a name stands for; `None` where there is none.
///
/// # Errors
///
/// Where that cannot be seen.
pub(crate) fn identity(path: &Path) -> Result<Option<Identity>> {
    match fs::symlink_metadata(path) {
        Ok(about) => Ok(Some((about.dev(), about.ino()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("looking for {}", path.display())),
    }
}

/// Ids of maps that all interfaces share, by their pins.
pub type MapIds = BTreeMap<PathBuf, u32>;

/// Makes sure that the pins are those of these maps: what was loaded by them goes with the agent.
///
/// # Errors
///
/// Where one is not there, or of another map.
pub fn ensure_pinned(ids: &MapIds) -> Result<()> {
    for (pin, id) in ids {
        let is_it = MapInfo::from_pin(pin).is_ok_and(|info| info.id() == *id);
        if !is_it {
            return Err(Error::text(format!("{} is not of the agent's map now", pin.display())));
        }
    }
    Ok(())
}

impl KeptPins {
    /// Holds every map that is pinned below this directory.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be read, or a map not be opened.
    pub fn of(pins: &Path) -> Result<Self> {
        let mut kept = Self { pins: pins.to_owned(), maps: BTreeMap::new() };
        kept.update()?;
        Ok(kept)
    }

    /// Holds those that have come, and lets those go whose slots have been given to other interfaces.
    ///
    /// # Errors
    ///
    /// As [`KeptPins::of`].
    pub fn update(&mut self) -> Result<()> {
        let slots = slots(&self.pins)?;
        self.maps.retain(|path, _| {
            let directory = path.parent();
            directory == Some(&self.pins) || slots.iter().any(|slot| directory == Some(&slot.path))
        });
        let entries =
            fs::read_dir(&self.pins).with_context(|| format!("reading {}", self.pins.display()))?;
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                paths.push(entry.path());
            }
        }
        paths.extend(slots.iter().flat_map(|slot| OF_A_SLOT.map(|name| slot.map(name))));
        for path in paths {
            let Some(identity) = identity(&path)? else { continue };
            if self.maps.get(&path).is_none_or(|kept| kept.identity != identity) {
                let map = MapData::from_pin(&path)
                    .with_context(|| format!("opening {}", path.display()))?;
                self.maps.insert(path, Kept { map, identity });
            }
        }
        Ok(())
    }

    /// Ids of the maps, by their pins.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn ids(&self) -> Result<MapIds> {
        let shared = self.maps.iter().filter(|(path, _)| path.parent() == Some(&self.pins));
        shared.map(|(path, kept)| Ok((path.clone(), kept.map.info()?.id()))).collect()
    }

    /// Makes anew what is not there any more: how many there were.
    ///
    /// # Errors
    ///
    /// Where one cannot be made.
    pub fn restore(&mut self) -> Result<usize> {
        let mut restored = 0;
        for (path, kept) in &mut self.maps {
            let there = identity(path)?;
            if there == Some(kept.identity) {
                continue;
            }
            restored += 1;
            if there.is_some() {
                fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
            } else if let Some(directory) = path.parent() {
                create_private(directory)?;
            }
            kept.map.pin(path).with_context(|| format!("pinning {}", path.display()))?;
            kept.identity = identity(path)?.context("it was just pinned")?;
        }
        Ok(restored)
    }
}
