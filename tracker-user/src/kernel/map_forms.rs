//! Kinds and sizes of the maps that an agent pins and shares. Whoever reads a map lets the kernel write as much as the map says into
//! memory of the size that the reader says; so each map is compared with these before.

use std::path::Path;

use aya::maps::{MapData, MapType};
use tracker_common::{
    config::LiveConfig,
    cookie::Keys,
    counters::PacketCounters,
    flow::{Flow, HalfOpen},
    key::{Address, FlowKey},
    limit::Repeated,
    protect::{Accepted, Listener, ListenerState, OutcomeCounters, Place},
    route::Route,
    sweep::Removal,
    syn_cache::{CacheSet, CacheSettings, CachedAddresses},
};

use crate::{
    kernel::kernel_side::{directories, links::exists},
    model::error::{Context, Error, Result},
};

/// A map's name, kind, and sizes of key and value in bytes.
type Form = (&'static str, MapType, usize, usize);

const FORMS: [Form; 23] = [
    ("CONFIRMED", MapType::Hash, size_of::<FlowKey>(), size_of::<Flow>()),
    ("HALF_OPEN", MapType::LruHash, size_of::<FlowKey>(), size_of::<HalfOpen>()),
    ("SYN_CACHE", MapType::Array, INDEX, size_of::<CacheSet>()),
    ("SYN_CACHE_ADDRESSES", MapType::Array, INDEX, size_of::<CachedAddresses>()),
    ("SYN_CACHE_SETTINGS", MapType::Array, INDEX, size_of::<CacheSettings>()),
    ("REPEATED", MapType::LruHash, size_of::<Repeated>(), size_of::<u64>()),
    ("SOURCES", MapType::Array, INDEX, size_of::<u64>()),
    ("EVENTS", MapType::RingBuf, 0, 0),
    ("CONFIG", MapType::Array, INDEX, size_of::<LiveConfig>()),
    ("ATTACHED", MapType::Hash, INDEX, INDEX),
    ("PACKETS", MapType::PerCpuArray, INDEX, size_of::<PacketCounters>()),
    ("VIOLATIONS", MapType::PerCpuArray, INDEX, size_of::<u64>()),
    ("DROPS", MapType::PerCpuArray, INDEX, size_of::<u64>()),
    // The key's length in bits, and an address.
    ("DROP_EXEMPT", MapType::LpmTrie, size_of::<u32>() + size_of::<Address>(), size_of::<u32>()),
    ("TALLIES", MapType::PerCpuArray, INDEX, size_of::<u64>()),
    ("REMOVALS", MapType::Array, INDEX, size_of::<Removal>()),
    ("LISTENERS", MapType::Hash, size_of::<Place>(), size_of::<Listener>()),
    ("LISTENER_STATES", MapType::Array, INDEX, size_of::<ListenerState>()),
    ("COOKIES", MapType::PerCpuArray, INDEX, size_of::<OutcomeCounters>()),
    // The key's length in bits, and an address.
    ("ROUTES", MapType::LpmTrie, size_of::<u32>() + size_of::<Address>(), size_of::<Route>()),
    ("LEFT_TO_HOST", MapType::LpmTrie, size_of::<u32>() + size_of::<Address>(), size_of::<u64>()),
    ("KEYS", MapType::Array, INDEX, size_of::<Keys>()),
    ("ACCEPTED", MapType::LruHash, size_of::<FlowKey>(), size_of::<Accepted>()),
];

/// The size of an index.
const INDEX: usize = size_of::<u32>();

/// Opens a pinned map, whose name is that of its pin.
///
/// # Errors
///
/// Where it cannot be opened, or is not what the programs of this version have under that name.
pub fn open(pin: &Path) -> Result<MapData> {
    let name = pin.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let map = MapData::from_pin(pin).with_context(|| format!("opening the pinned map {name}"))?;
    check(name, map).with_context(|| pin.display().to_string())
}

/// Returns a map that is what the programs of this version have under that name.
///
/// # Errors
///
/// Where it is another one, or cannot be asked about.
pub fn check(name: &str, map: MapData) -> Result<MapData> {
    let Some((_, kind, key, value)) = FORMS.iter().find(|(known, ..)| *known == name) else {
        return Err(Error::text(format!("there is no map {name} in this version of tracker")));
    };
    let info = map.info().with_context(|| format!("asking about the map {name}"))?;
    let (has_key, has_value) = (info.key_size() as usize, info.value_size() as usize);
    if info.map_type().ok() != Some(*kind) || (has_key, has_value) != (*key, *value) {
        return Err(Error::text(format!(
            "this is not the map {name} of this version of tracker: its keys take {has_key} bytes and its values {has_value}, where {key} \
             and {value} are right, or it is of another kind"
        )));
    }
    Ok(map)
}

/// Checks every map that is pinned below a directory, where there is one.
///
/// # Errors
///
/// Where one is not what the programs of this version have under its name.
pub fn check_all(pins: &Path) -> Result<()> {
    let mut all = directories(pins)?;
    all.push(pins.to_owned());
    for directory in all {
        for (name, ..) in FORMS {
            let pin = directory.join(name);
            if exists(&pin)? {
                open(&pin)?;
            }
        }
    }
    Ok(())
}
