//! The maps of protection, as the agent and the other commands use them.

use std::{collections::BTreeMap, io, net::SocketAddr, os::fd::AsFd, path::Path};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, lpm_trie::Key};
use tracker_common::{
    key::Address,
    protect::{Listener, ListenerState, Outcome, OutcomeCounters, Place},
    route::Route,
};
use zeroize::Zeroizing;

use crate::{
    kernel::{bpf, map_forms},
    model::{
        error::{Context, Error, Result},
        listener::{place, socket_address},
        network::Network,
    },
};

const LISTENERS: &str = "LISTENERS";

/// [`tracker_common::cookie::Keys`], as words.
pub type KeyWords = [u64; size_of::<tracker_common::cookie::Keys>() / 8];

type StateWords = [u64; size_of::<ListenerState>() / 8];
type CounterWords = [u64; size_of::<OutcomeCounters>() / 8];

/// Listeners, what the kernel programs know of them, and what they counted.
pub struct ListenerMaps {
    listeners: HashMap<MapData, [u8; size_of::<Place>()], [u64; size_of::<Listener>() / 8]>,
    states: Array<MapData, StateWords>,
    counters: PerCpuArray<MapData, CounterWords>,
}

/// Forgets every listener whose protection an agent before this one was asked for.
///
/// # Errors
///
/// What the kernel says.
pub fn forget_listeners(pins: &Path) -> Result<()> {
    let Some(mut maps) = ListenerMaps::from_pins(pins)? else { return Ok(()) };
    for place in maps.listeners()?.into_keys() {
        maps.remove(place)?;
    }
    Ok(())
}

fn open(pins: &Path, name: &str) -> Result<MapData> {
    map_forms::open(&pins.join(name))
}

impl ListenerMaps {
    /// Opens the maps that are pinned in a directory; `None` where the kernel programs there protect nothing.
    ///
    /// # Errors
    ///
    /// Where they are there and cannot be opened.
    pub fn from_pins(pins: &Path) -> Result<Option<Self>> {
        match std::fs::metadata(pins.join(LISTENERS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.with_context(|| format!("looking for the map {LISTENERS}"))?,
        };
        Self::from_maps(|name| open(pins, name)).map(Some)
    }

    /// Opens each map by its name with `open`.
    ///
    /// # Errors
    ///
    /// Where one cannot be opened, or is of another kind.
    pub fn from_maps(mut open: impl FnMut(&str) -> Result<MapData>) -> Result<Self> {
        let mut open = |name: &str| map_forms::check(name, open(name)?);
        Ok(Self {
            listeners: Map::HashMap(open(LISTENERS)?).try_into()?,
            states: Map::Array(open("LISTENER_STATES")?).try_into()?,
            counters: Map::PerCpuArray(open("COOKIES")?).try_into()?,
        })
    }

    /// Returns every place with the kernel programs' entry for it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn listeners(&self) -> Result<BTreeMap<SocketAddr, Listener>> {
        self.listeners
            .iter()
            .map(|entry| {
                let (place, listener) = entry.context("reading the listeners")?;
                let place: Place = zerocopy::transmute!(place);
                Ok((socket_address(&place), zerocopy::transmute!(listener)))
            })
            .collect()
    }

    /// Tells the kernel programs of a place.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set(&mut self, at: SocketAddr, listener: &Listener) -> Result<()> {
        let (place, listener): ([u8; size_of::<Place>()], [u64; size_of::<Listener>() / 8]) =
            (zerocopy::transmute!(place(at)), zerocopy::transmute!(*listener));
        self.listeners.insert(place, listener, 0).context("writing a listener")
    }

    /// Tells the kernel programs to leave a place alone.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove(&mut self, at: SocketAddr) -> Result<()> {
        let place: [u8; size_of::<Place>()] = zerocopy::transmute!(place(at));
        self.listeners.remove(&place).context("removing a listener")
    }

    /// What the kernel programs know of the listener with this index.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn state(&self, index: u32) -> Result<ListenerState> {
        let words = self.states.get(&index, 0).context("reading a listener's state")?;
        Ok(zerocopy::transmute!(words))
    }

    /// Makes the kernel programs forget what they know of the listener with this index: they ask again.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn forget_state(&mut self, index: u32) -> Result<()> {
        let nothing: StateWords = Default::default();
        self.states.set(index, nothing, 0).context("clearing a listener's state")
    }

    /// Outcomes at the listener with this index, by [`Outcome`], over all CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn outcomes(&self, index: u32) -> Result<[u64; Outcome::SLOTS]> {
        let mut sum = [0; Outcome::SLOTS];
        for words in self.counters.get(&index, 0).context("reading a listener's counters")?.iter() {
            // Counters come first; what follows them is of this CPU and second only.
            for (total, count) in sum.iter_mut().zip(words) {
                *total += count;
            }
        }
        Ok(sum)
    }

    /// Sets the counters of the listener with this index to zero.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn forget_outcomes(&mut self, index: u32) -> Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(path, error)| {
            Error::from(error).context(format!("counting CPUs in {path}"))
        })?;
        let zeroes = PerCpuValues::try_from(vec![[0; size_of::<OutcomeCounters>() / 8]; cpus])?;
        self.counters.set(index, zeroes, 0).context("clearing a listener's counters")
    }
}

/// The map of routes on which listeners offer something else.
pub struct RouteMap {
    routes: LpmTrie<MapData, Address, [u32; size_of::<Route>() / 4]>,
}

impl RouteMap {
    /// Opens the map that is pinned in a directory.
    ///
    /// # Errors
    ///
    /// Where it is not there, or cannot be opened.
    pub fn from_pins(pins: &Path) -> Result<Self> {
        Ok(Self { routes: Map::LpmTrie(open(pins, "ROUTES")?).try_into()? })
    }

    /// Every route, by its address and length in bits.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn routes(&self) -> Result<BTreeMap<Network, Route>> {
        self.routes
            .iter()
            .map(|entry| {
                let (key, route) = entry.context("reading the routes")?;
                Ok(((key.data(), u8::try_from(key.prefix_len())?), zerocopy::transmute!(route)))
            })
            .collect()
    }

    /// Tells the kernel programs of a route.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set(&mut self, (address, length): Network, route: &Route) -> Result<()> {
        let route: [u32; size_of::<Route>() / 4] = zerocopy::transmute!(*route);
        let key = Key::new(u32::from(length), address);
        self.routes.insert(&key, route, 0).context("writing a route")
    }

    /// Makes the kernel programs forget a route.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove(&mut self, (address, length): Network) -> Result<()> {
        let key = Key::new(u32::from(length), address);
        self.routes.remove(&key).context("removing a route")
    }
}

/// The map of networks from where SYNs are left to the host.
pub struct LeftToHostMap {
    networks: LpmTrie<MapData, Address, u64>,
}

impl LeftToHostMap {
    /// Opens the map that is pinned in a directory.
    ///
    /// # Errors
    ///
    /// Where it is not there, or cannot be opened.
    pub fn from_pins(pins: &Path) -> Result<Self> {
        Ok(Self { networks: Map::LpmTrie(open(pins, "LEFT_TO_HOST")?).try_into()? })
    }

    /// Every network, and by the bits of which slots its SYNs are left to the host.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn networks(&self) -> Result<BTreeMap<Network, u64>> {
        self.networks
            .iter()
            .map(|entry| {
                let (key, slots) = entry.context("reading whose SYNs are left to the host")?;
                Ok(((key.data(), u8::try_from(key.prefix_len())?), slots))
            })
            .collect()
    }

    /// Leaves SYNs from a network to the host where they arrive by the interfaces with these slots.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set(&mut self, (address, length): Network, slots: u64) -> Result<()> {
        let key = Key::new(u32::from(length), address);
        self.networks.insert(&key, slots, 0).context("leaving a network's SYNs to the host")
    }

    /// Forgets a network.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove(&mut self, (address, length): Network) -> Result<()> {
        let key = Key::new(u32::from(length), address);
        self.networks.remove(&key).context("forgetting whose SYNs were left to the host")
    }
}

/// Keys, in one place from the kernel's copy to their end: a value that is moved leaves a copy behind, and this one is not moved. It
/// is wiped when dropped.
pub type Keys = Box<Zeroizing<KeyWords>>;

/// The map of keys.
pub struct KeyMap {
    keys: MapData,
}

impl KeyMap {
    /// Opens the map that is pinned in a directory, and makes sure that nobody but its owner may.
    ///
    /// # Errors
    ///
    /// Where it is not there, or cannot be opened.
    pub fn from_pins(pins: &Path) -> Result<Self> {
        use std::{fs, os::unix::fs::PermissionsExt};
        const NAME: &str = "KEYS";
        let path = pins.join(NAME);
        let mode = fs::metadata(&path)
            .with_context(|| format!("looking for the map {NAME}"))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                .with_context(|| format!("making {} its owner's alone", path.display()))?;
        }
        Ok(Self { keys: open(pins, NAME)? })
    }

    /// The keys.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn get(&self) -> Result<Keys> {
        let mut keys: Keys = Box::new(Zeroizing::new(KeyWords::default()));
        let words: &mut KeyWords = &mut keys;
        // SAFETY: the map's form was compared when it was opened: its values are as long as these words.
        unsafe { bpf::lookup(self.keys.fd().as_fd(), &0, words) }
            .context("reading the cookies' keys")?;
        Ok(keys)
    }

    /// Overwrites the keys.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set(&mut self, keys: &Keys) -> Result<()> {
        let words: &KeyWords = keys;
        // SAFETY: the map's values are as long as these words, as its form says.
        unsafe { bpf::update(self.keys.fd().as_fd(), &0, words) }
            .context("writing the cookies' keys")
    }
}
