//! The directory of each interface among an agent's pins. Its name ties the interface's name to the slot of its counters,
//! and what is in it is what is attached there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tracker_common::config::MAX_INTERFACES;

use crate::{
    kernel::kernel_side::create_private,
    model::error::{Context, Error, Result},
};

/// An interface's place among an agent's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Its number, below [`MAX_INTERFACES`].
    pub number: u32,
    /// The interface's name.
    pub interface: String,
    /// Its directory.
    pub path: PathBuf,
}

/// How XDP is attached, as the pin of its link says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// Its name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What a classifier is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Seeing what leaves.
    Egress,
    /// Seeing what arrives, where XDP does not.
    Arrival,
    /// Handing connections to listeners that XDP has accepted.
    Handover,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Egress, Self::Arrival, Self::Handover];

    /// Its name in pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Arrival => "ingress",
            Self::Handover => "handover",
        }
    }
}

impl Slot {
    /// The pin of the XDP link of this mode.
    #[must_use]
    pub fn xdp(&self, mode: Mode) -> PathBuf {
        self.path.join(format!("xdp-{}", mode.name()))
    }

    /// The pin of a tcx link.
    #[must_use]
    pub fn tcx(&self, purpose: Purpose) -> PathBuf {
        self.path.join(format!("{}-tcx", purpose.name()))
    }

    /// The pin of the program of a clsact filter.
    #[must_use]
    pub fn filter(&self, purpose: Purpose) -> PathBuf {
        self.path.join(format!("{}-clsact", purpose.name()))
    }

    /// The pin of the program that is taking the place of that one.
    #[must_use]
    pub fn next_filter(&self, purpose: Purpose) -> PathBuf {
        self.path.join(format!("{}-clsact-next", purpose.name()))
    }

    /// There where the agent has added the clsact qdisc.
    #[must_use]
    pub fn qdisc(&self) -> PathBuf {
        self.path.join("qdisc")
    }

    /// The pin of a map that no other interface shares.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn new(pins: &Path, number: u32, interface: &str) -> Self {
        let path = pins.join(format!("slot-{number}-{}", encode(interface)));
        Self { number, interface: interface.to_owned(), path }
    }

    fn parse(pins: &Path, name: &str) -> Option<Self> {
        let (number, interface) = name.strip_prefix("slot-")?.split_once('-')?;
        let number = number.parse().ok().filter(|number| *number < MAX_INTERFACES)?;
        Some(Self::new(pins, number, &decode(interface)?))
    }
}

/// The BPF filesystem keeps names with dots for itself.
fn encode(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    encoded
}

fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = encoded.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The slots in a directory of pins, by number; none where there is no such directory.
///
/// # Errors
///
/// Where it cannot be read.
pub fn slots(pins: &Path) -> Result<Vec<Slot>> {
    let entries = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", pins.display()))?,
    };
    let mut slots = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("reading {}", pins.display()))?.file_name();
        slots.extend(name.to_str().and_then(|name| Slot::parse(pins, name)));
    }
    slots.sort_by_key(|slot| slot.number);
    Ok(slots)
}

/// A slot for each of `interfaces`.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    /// In the order of the names.
    pub slots: Vec<Slot>,
    /// Those among them that no other interface may have had before.
    pub is_new: Vec<bool>,
}

/// Gives every interface its slot: the one that it had, or a free one. One that belongs to an interface which is not
/// among these stays free for that one, unless no other is left.
///
/// # Errors
///
/// Where there are too many, or a directory cannot be made.
pub fn assign(pins: &Path, interfaces: &[String]) -> Result<Assigned> {
    if interfaces.len() > MAX_INTERFACES as usize {
        return Err(Error::text(format!(
            "one agent attaches to {MAX_INTERFACES} interfaces at most; start another with --instance"
        )));
    }
    let mut known = slots(pins)?;
    let mut assigned = Assigned::default();
    for interface in interfaces {
        let before = known.iter().find(|slot| slot.interface == *interface).cloned();
        assigned.is_new.push(before.is_none());
        let slot = match before {
            Some(slot) => slot,
            None => {
                let is_free = |number: &u32| known.iter().all(|slot| slot.number != *number);
                let number = match (0..MAX_INTERFACES).find(is_free) {
                    Some(number) => number,
                    None => give_up(&mut known, interfaces)?,
                };
                let slot = Slot::new(pins, number, interface);
                create_private(&slot.path)?;
                known.push(slot.clone());
                slot
            }
        };
        assigned.slots.push(slot);
    }
    Ok(assigned)
}

/// Takes its slot from an interface that is not wanted, and returns the number. Nothing is attached there any more.
fn give_up(known: &mut Vec<Slot>, wanted: &[String]) -> Result<u32> {
    let at = known
        .iter()
        .position(|slot| !wanted.contains(&slot.interface))
        .context("every slot is taken")?;
    let slot = known.remove(at);
    fs::remove_dir_all(&slot.path).with_context(|| format!("removing {}", slot.path.display()))?;
    Ok(slot.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            fs::create_dir(&path).expect("a directory");
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn numbers(pins: &Path, interfaces: &[&str]) -> Vec<u32> {
        let assigned = assign(pins, &names(interfaces)).expect("slots");
        assigned.slots.iter().map(|slot| slot.number).collect()
    }

    #[test]
    fn names_survive_the_filesystem() {
        for name in ["eth0", "eth0.100", "br-lan", "wg%0", "a_b", "%", "ä", "..."] {
            let encoded = encode(name);
            assert!(!encoded.contains('.'), "{encoded}");
            assert_eq!(decode(&encoded).as_deref(), Some(name));
            let slot = Slot::new(Path::new("/pins"), 63, name);
            let directory = slot.path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert_eq!(Slot::parse(Path::new("/pins"), directory), Some(slot));
        }
        for other in ["CONFIRMED", "slot-", "slot-64-eth0", "slot-x-eth0", "slot-1-%", "slot-1-%zz"]
        {
            assert_eq!(Slot::parse(Path::new("/pins"), other), None, "{other}");
        }
    }

    #[test]
    fn an_interface_keeps_its_slot() {
        let pins = Directory::new("tracker-slots");
        assert_eq!(numbers(&pins.0, &["a", "b"]), [0, 1]);
        assert_eq!(numbers(&pins.0, &["b", "c", "a"]), [1, 2, 0]);
        assert_eq!(numbers(&pins.0, &["d"]), [3]);
        assert_eq!(numbers(&pins.0, &["c", "e"]), [2, 4]);
        let found = slots(&pins.0).expect("slots");
        let found: Vec<_> = found.iter().map(|slot| slot.interface.as_str()).collect();
        assert_eq!(found, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn slots_of_the_unwanted_are_given_away_last() {
        let pins = Directory::new("tracker-slots-full");
        let all: Vec<_> = (0..MAX_INTERFACES).map(|n| format!("i{n}")).collect();
        assert!(!assign(&pins.0, &all).expect("slots").is_new.contains(&false));
        let assigned = assign(&pins.0, &names(&["i7", "new", "i0"])).expect("slots");
        let numbers: Vec<_> = assigned.slots.iter().map(|slot| slot.number).collect();
        assert_eq!((numbers, assigned.is_new), (vec![7, 1, 0], vec![false, true, false]));
        let many: Vec<_> = (0..=MAX_INTERFACES).map(|n| format!("i{n}")).collect();
        assert!(assign(&pins.0, &many).is_err());
    }
}
