//! What of an agent is in the kernel and outlives it: pinned maps, and in a directory for each interface what is attached
//! there. The next agent of that name takes it over; `tracker detach` removes it.

pub mod filters;
pub mod kept;
pub mod links;
pub mod slots;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aya::{
    maps::{HashMap, Map, MapData},
    programs::tc::TcAttachType,
};
use nix::net::if_::if_nametoindex;

use crate::{
    kernel::{
        instance::Instance,
        kernel_side::{
            filters::{filters, remove_qdisc},
            slots::{Mode, Purpose, Slot, slots},
        },
        load::Sizes,
        map_forms,
    },
    model::error::{Context, Result},
};

impl Purpose {
    /// Where it is attached.
    #[must_use]
    pub const fn hook(self) -> TcAttachType {
        match self {
            Self::Egress => TcAttachType::Egress,
            Self::Arrival | Self::Handover => TcAttachType::Ingress,
        }
    }

    /// The kernel program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Egress => "tracker_egress",
            Self::Arrival => "tracker_arrival",
            Self::Handover => "tracker_handover",
        }
    }
}

/// What a directory of pins holds when an agent comes to it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Predecessor {
    /// Nothing: this is where it begins.
    #[default]
    Absent,
    /// What an agent has left, and what goes on.
    Present,
}

/// What agents of the name have left.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    /// What goes on.
    pub predecessor: Predecessor,
    /// Directories of pins whose tables cannot be used. Programs are replaced by others as they are attached; the rest is
    /// removed then.
    pub replaced: Vec<PathBuf>,
}

/// Makes the pins of this instance ready for an agent: what was left there stays if its tables are of the wanted sizes, and
/// is replaced otherwise, as is what another version of this command has left under the same name.
///
/// # Errors
///
/// What the kernel or the filesystem says.
pub async fn inherit(instance: &Instance, sizes: &Sizes) -> Result<Inherited> {
    let pins = instance.pins();
    let aside = instance.pins_aside();
    let mut predecessor =
        if slots(&pins)?.is_empty() { Predecessor::Absent } else { Predecessor::Present };
    map_forms::check_all(&pins).context(
        "what an agent of this name has left cannot be taken over (`tracker detach` removes it)",
    )?;
    let differences = differences(&pins, sizes)?;
    if !differences.is_empty() {
        tracing::warn!(
            "the agent before has left tables of other sizes ({}): its flows and counters are dropped, and tracking begins \
             afresh",
            differences.join(", ")
        );
        // From one that could not do it either.
        remove(&aside).await?;
        if let Some(parent) = aside.parent() {
            create_private(parent)?;
        }
        fs::rename(&pins, &aside).with_context(|| format!("renaming {}", pins.display()))?;
        predecessor = Predecessor::Absent;
    }
    let mut replaced = instance.pins_of_all_versions()?;
    replaced.retain(|other| *other != pins);
    for other in replaced.iter().filter(|other| **other != aside) {
        tracing::warn!(
            pins = %other.display(),
            "another version of tracker has left programs and flows whose records this one cannot read: its programs are \
             replaced, its flows and counters are dropped, and tracking begins afresh"
        );
    }
    create_private(&pins)?;
    for directory in instance.directories() {
        // An agent of an older version has made it for everybody to read.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("making {} its owner's alone", directory.display()))?;
    }
    Ok(Inherited { predecessor, replaced })
}

/// Takes what is attached to the interface of `slot` from directories of pins that are replaced, so that other programs can
/// take its place. Returns the slot that it was taken from.
///
/// # Errors
///
/// What the filesystem says.
pub fn adopt(replaced: &[PathBuf], slot: &Slot) -> Result<Option<Slot>> {
    for pins in replaced {
        let there = slots(pins)?;
        if let Some(from) = there.into_iter().find(|from| from.interface == slot.interface) {
            move_attached(&from, slot)?;
            return Ok(Some(from));
        }
    }
    Ok(None)
}

/// Makes what is attached, as one slot's pins say, that of another slot: its programs go on until others replace them.
///
/// # Errors
///
/// What the filesystem says.
pub fn move_attached(from: &Slot, to: &Slot) -> Result<()> {
    let mut pins: Vec<_> = Mode::ALL.map(|mode| (from.xdp(mode), to.xdp(mode))).into();
    for purpose in Purpose::ALL {
        pins.push((from.tcx(purpose), to.tcx(purpose)));
        pins.push((from.filter(purpose), to.filter(purpose)));
        pins.push((from.next_filter(purpose), to.next_filter(purpose)));
    }
    pins.push((from.qdisc(), to.qdisc()));
    for (from, to) in pins {
        if links::exists(&from)? {
            fs::rename(&from, &to).with_context(|| format!("renaming {}", from.display()))?;
        }
    }
    Ok(())
}

/// Where tables that are pinned there have other sizes than these.
fn differences(pins: &Path, sizes: &Sizes) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for (map, option, wanted) in [
        ("CONFIRMED", "--max-flows", sizes.max_flows),
        ("HALF_OPEN", "--max-half-open", sizes.max_half_open),
        ("EVENTS", "--ring-bytes", sizes.ring_bytes),
    ] {
        let pin = pins.join(map);
        if !links::exists(&pin)? {
            continue;
        }
        let opening = || format!("opening the pinned map {map}");
        let has = MapData::from_pin(&pin).with_context(opening)?.info().with_context(opening)?;
        if has.max_entries() != wanted {
            differences.push(format!("{option} was {}, and is {wanted}", has.max_entries()));
        }
    }
    Ok(differences)
}

/// Detaches what is attached to an interface, and says what that was. Its slot stays its own.
///
/// # Errors
///
/// What the kernel says.
pub async fn release(slot: &Slot) -> Result<Vec<String>> {
    let mut detached = Vec::new();
    // XDP first: what it accepts must be handed over.
    for mode in Mode::ALL {
        if links::remove(&slot.xdp(mode))? {
            detached.push(format!("xdp ({})", mode.name()));
        }
    }
    for purpose in Purpose::ALL.into_iter().rev() {
        if links::remove(&slot.tcx(purpose))? {
            detached.push(format!("{} (tcx)", purpose.name()));
        }
        if release_filter(slot, purpose).await? {
            detached.push(format!("{} (clsact)", purpose.name()));
        }
    }
    release_qdisc(slot).await?;
    Ok(detached)
}

/// Removes the clsact filter for this purpose, if the agent has attached one.
///
/// # Errors
///
/// What the kernel says.
pub async fn release_filter(slot: &Slot, purpose: Purpose) -> Result<bool> {
    let ours = filter_programs(slot, purpose)?;
    if ours.is_empty() {
        return Ok(false);
    }
    let mut removed = false;
    let interface = slot.interface.as_str();
    if let Ok(ifindex) = if_nametoindex(interface) {
        for filter in filters(ifindex, purpose.hook()).await? {
            if ours.contains(&filter.program) {
                filter.remove(interface, purpose.hook())?;
                removed = true;
            }
        }
    } else {
        tracing::warn!(
            interface,
            "there is no such interface in this network namespace: if it is in another one, its filter stays there; \
             `tc filter` there removes it"
        );
    }
    for pin in [slot.filter(purpose), slot.next_filter(purpose)] {
        if links::exists(&pin)? {
            fs::remove_file(&pin).with_context(|| format!("removing {}", pin.display()))?;
        }
    }
    Ok(removed)
}

/// Ids of the programs that the agent has attached, or was about to attach, by a clsact filter for this purpose.
///
/// # Errors
///
/// What the kernel says.
pub fn filter_programs(slot: &Slot, purpose: Purpose) -> Result<Vec<u32>> {
    let pins = [slot.filter(purpose), slot.next_filter(purpose)];
    pins.iter().filter_map(|pin| links::program(pin).transpose()).collect()
}

/// Removes the clsact qdisc if the agent has added it, and nobody else has put a filter there.
async fn release_qdisc(slot: &Slot) -> Result<()> {
    let marker = slot.qdisc();
    if !links::exists(&marker)? {
        return Ok(());
    }
    if let Ok(ifindex) = if_nametoindex(slot.interface.as_str()) {
        let mut is_empty = true;
        for purpose in Purpose::ALL {
            is_empty &= filters(ifindex, purpose.hook()).await?.is_empty();
        }
        if is_empty && let Err(error) = remove_qdisc(ifindex).await {
            tracing::warn!(interface = slot.interface, "removing the clsact qdisc: {error:#}");
        }
    }
    fs::remove_dir(&marker).with_context(|| format!("removing {}", marker.display()))
}

/// Forgets the interfaces with other indexes than these, whose arriving packets were counted.
///
/// # Errors
///
/// What the kernel says.
pub fn keep_attached(pins: &Path, indexes: &[u32]) -> Result<()> {
    let map = map_forms::open(&pins.join("ATTACHED"))?;
    let mut attached: HashMap<_, u32, u32> = Map::HashMap(map).try_into()?;
    let known: Vec<_> = attached.keys().collect::<Result<_, _>>()?;
    for index in known.iter().filter(|index| !indexes.contains(index)) {
        attached.remove(index)?;
    }
    Ok(())
}

/// Removes everything that is pinned there, and what is attached with it: what that was, a line an interface.
///
/// # Errors
///
/// What the kernel or the filesystem says.
pub async fn remove(pins: &Path) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for slot in slots(pins)? {
        let detached = release(&slot).await?;
        if !detached.is_empty() {
            said.push(format!("{}: {}", slot.interface, detached.join(", ")));
        }
    }
    match fs::remove_dir_all(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.with_context(|| format!("removing {}", pins.display()))?,
    }
    Ok(said)
}

/// The agent whose XDP program is the one with this id, among those whose pins are beside those of `instance`.
///
/// # Errors
///
/// What the kernel or the filesystem says.
pub fn xdp_holder(instance: &Instance, program: u32) -> Result<Option<Instance>> {
    for (other, pins) in instance.all()? {
        for slot in slots(&pins)? {
            for mode in Mode::ALL {
                if links::open(&slot.xdp(mode))?.is_some_and(|(_, id)| id == program) {
                    return Ok(Some(other));
                }
            }
        }
    }
    Ok(None)
}

/// Ids of all programs in clsact filters of agents whose pins are beside those of `instance`.
///
/// # Errors
///
/// What the kernel or the filesystem says.
pub fn all_filter_programs(instance: &Instance) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for (_, pins) in instance.all()? {
        for slot in slots(&pins)? {
            for purpose in Purpose::ALL {
                ids.extend(filter_programs(&slot, purpose)?);
            }
        }
    }
    Ok(ids)
}

/// Makes a directory, and those above it that are missing, which nobody else may look into.
///
/// # Errors
///
/// What the filesystem says.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("creating {}", path.display()))
}

/// Directories below one; none where it is not there.
pub(crate) fn directories(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", path.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", path.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
