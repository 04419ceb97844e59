//! The interfaces of a running agent: those it was asked for, as they come, go, and are renamed.

pub mod changes;
mod log;
pub mod presence;
mod reattach;
mod retry;
pub mod wanted;
pub mod xdp_features;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use tokio::task::JoinHandle;
use tracker_common::config::InterfaceConfig;

use crate::{
    agent::{
        condition::is_shortage,
        ending::Ending,
        interfaces::{
            changes::{Change, Changes, Link, height},
            log::forward_log,
            presence::Missing,
            retry::Retry,
            wanted::Wanted,
        },
    },
    kernel::{
        attach::{Attached, Attaching, Interface},
        kernel_side::{
            self, Inherited, Predecessor, keep_attached,
            slots::{Slot, assign, slots},
        },
        listeners,
        load::load,
        tables::Tables,
    },
    model::error::{Context, Error, Result},
};

/// The interfaces of an agent.
pub struct Interfaces<'a> {
    attaching: Attaching<'a>,
    wanted: Wanted,
    changes: Changes,
    pins: PathBuf,
    with_log: bool,
    attached: Vec<Held>,
    /// Those that have gone, and kept their slots.
    gone: Vec<Interface>,
    /// Indexes of those that could not be attached to, and why; nothing is tried again until they change.
    failed: BTreeMap<u32, String>,
    /// Indexes of those whose programs were gone and could not be attached again, or for which something ran short.
    again: BTreeMap<u32, Retry>,
    /// What is missing, as it was said last.
    told: BTreeSet<Missing>,
}

/// What is attached to an interface.
struct Held {
    slot: Slot,
    attached: Attached,
    log: Option<JoinHandle<()>>,
    /// Whether the agent has added its clsact qdisc.
    has_qdisc: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.abort();
        }
    }
}

impl<'a> Interfaces<'a> {
    /// None yet. What `changes` tells from now on is not missed.
    #[must_use]
    pub fn new(attaching: Attaching<'a>, wanted: Wanted, changes: Changes, with_log: bool) -> Self {
        let pins = attaching.instance.pins();
        Self {
            attaching,
            wanted,
            changes,
            pins,
            with_log,
            attached: Vec::new(),
            gone: Vec::new(),
            failed: BTreeMap::new(),
            again: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    /// Attaches to these, and detaches what an agent before has left on others.
    ///
    /// # Errors
    ///
    /// What keeps it from an interface that was asked for by name, or from all of them; or that the agent is to end.
    pub async fn begin(
        &mut self,
        names: &[String],
        inherited: &Inherited,
        ending: &Ending,
    ) -> Result<()> {
        if inherited.predecessor == Predecessor::Present {
            for slot in slots(&self.pins)?.iter().filter(|slot| !names.contains(&slot.interface)) {
                let detached = kernel_side::release(slot).await?;
                if self.wanted.has(&slot.interface) {
                    self.gone.push(gone(slot, self.attaching.zone));
                } else if !detached.is_empty() {
                    tracing::info!(interface = slot.interface, "detached: it was not asked for");
                }
            }
        }
        let mut first_failure = None;
        let links = self.changes.links().await?;
        let assigned = assign(&self.pins, names)?;
        // The kernel attaches XDP to no interface below one that has it already.
        let mut slots: Vec<_> = assigned.slots.iter().zip(assigned.is_new).collect();
        slots.sort_by_cached_key(|(slot, _)| height(&links, &slot.interface));
        for (slot, is_new) in slots {
            let name = &slot.interface;
            let outcome = self.attach(slot, is_new, inherited).await;
            if ending.signal().is_some() {
                return Err(Error::text("the agent is to end"));
            }
            let Err(error) = outcome else { continue };
            if links.iter().any(|link| link.name == *name && self.wanted.insists_on(link)) {
                return Err(error);
            }
            tracing::warn!(interface = name, "not attached: {error:#}");
            first_failure.get_or_insert(error);
        }
        if self.attached.is_empty()
            && let Some(error) = first_failure
        {
            return Err(error);
        }
        if self.attached.is_empty() {
            // Others find the maps all the same.
            let Attaching { object, sizes, .. } = self.attaching;
            load(object, &self.pins, sizes, InterfaceConfig::default())?;
        }
        self.tidy()?;
        for other in &inherited.replaced {
            kernel_side::remove(other).await?;
            // Others may be there, of other names.
            let _ = other.parent().map(fs::remove_dir);
        }
        if inherited.predecessor == Predecessor::Present {
            if self.attaching.protecting.is_none() {
                listeners::forget_listeners(&self.pins)?;
            }
            tracing::info!(
                instance = self.attaching.instance.name(),
                "took over what the agent before has left: its flows and counters go on"
            );
        }
        Ok(())
    }

    /// Every interface that has a slot: those that are attached, then those that have gone.
    #[must_use]
    pub fn list(&self) -> Vec<Interface> {
        let attached = self.attached.iter().map(|held| &held.attached.interface);
        attached.chain(&self.gone).cloned().collect()
    }

    /// What is attached now.
    pub fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.attached.iter().map(|held| &held.attached)
    }

    /// Waits until interfaces have changed. Nothing is lost where that is given up.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub async fn changed(&mut self) -> Result<Change> {
        self.changes.next().await
    }

    /// As [`Interfaces::follow`] where nobody knows what has changed.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn look_anew(&mut self) -> Result<bool> {
        self.follow(&Change { is_lossy: true, ..Change::default() }).await
    }

    /// Attaches to what has come, and lets go of what has gone. True where [`Interfaces::list`] is another one now.
    ///
    /// # Errors
    ///
    /// Where interfaces cannot be asked for, or the pins are broken. An interface that cannot be attached to is logged.
    pub async fn follow(&mut self, change: &Change) -> Result<bool> {
        let links = self.changes.links().await?;
        let mut has_changed = false;

        let is_there = |held: &Held| {
            let index = held.attached.interface.ifindex;
            !change.gone.contains(&index) && links.iter().any(|link| link.index == index)
        };
        let (there, vanished) = std::mem::take(&mut self.attached).into_iter().partition(is_there);
        self.attached = there;
        let vanished: Vec<_> = vanished;
        for held in vanished {
            has_changed = true;
            let slot = held.slot.clone();
            tracing::warn!(
                interface = slot.interface,
                "it has gone; its flows and counters stay, and it is attached to when it returns"
            );
            self.let_go(&held);
            kernel_side::release(&slot).await?;
        }

        for link in &links {
            let is_renamed = |held: &Held| {
                let interface = &held.attached.interface;
                interface.ifindex == link.index && interface.name != link.name
            };
            if let Some(at) = self.attached.iter().position(is_renamed) {
                has_changed = true;
                let held = self.attached.remove(at);
                self.rename(held, link).await?;
            }
        }

        for link in &links {
            let held = self.attached.iter().position(|held| held.slot.interface == link.name);
            if let (Some(at), true) = (held, change.is_lossy) {
                // It may be another one of the same name and index, to which nothing is attached; else this changes nothing.
                self.attached.remove(at);
            } else {
                let is_failed = self.failed.contains_key(&link.index);
                let is_new = !is_failed || change.touched.contains(&link.index);
                if held.is_some() || !self.wanted.has_link(link) || !is_new {
                    continue;
                }
            }
            has_changed |= self.try_to_attach(link.index, &link.name, held.is_some()).await;
        }
        self.failed.retain(|index, _| links.iter().any(|link| link.index == *index));
        self.again.retain(|index, _| links.iter().any(|link| link.index == *index));
        if has_changed {
            self.tidy()?;
        }
        Ok(has_changed)
    }

    /// Attaches, or says once why not; true if it is attached.
    async fn try_to_attach(&mut self, index: u32, name: &str, was_attached: bool) -> bool {
        let was_attached = was_attached || self.gone.iter().any(|gone| gone.ifindex == index);
        let mut names: Vec<_> =
            self.attached.iter().map(|held| held.slot.interface.clone()).collect();
        names.push(name.to_owned());
        match self.attach_further(&names).await {
            Ok(()) => {
                self.failed.remove(&index);
                self.again.remove(&index);
                if was_attached {
                    tracing::warn!(interface = name, "attached again");
                } else {
                    tracing::info!(interface = name, "attached: it has come");
                }
                true
            }
            Err(error) => {
                let why = format!("{error:#}");
                if self.failed.get(&index) != Some(&why) {
                    tracing::error!(interface = name, "it has come, but is not attached: {why}");
                    self.failed.insert(index, why);
                }
                if is_shortage(&error) {
                    let retry = self.again.get(&index).copied();
                    self.again.insert(index, retry.map_or_else(Retry::first, Retry::next));
                }
                false
            }
        }
    }

    /// An interface has another name now: if that one is asked for too, its programs are replaced in place by those that count
    /// for that name.
    async fn rename(&mut self, held: Held, link: &Link) -> Result<()> {
        let name = link.name.as_str();
        let (slot, index) = (held.slot.clone(), held.attached.interface.ifindex);
        tracing::warn!(interface = slot.interface, now = name, "it was renamed");
        // Who had that name has another one too, or gets it in a moment.
        if let Some(at) = self.attached.iter().position(|other| other.slot.interface == name) {
            let other = self.attached.remove(at);
            kernel_side::release(&other.slot).await?;
        }
        self.let_go(&held);
        if self.wanted.has_link(link) {
            let mut names: Vec<_> =
                self.attached.iter().map(|held| held.slot.interface.clone()).collect();
            names.extend([slot.interface.clone(), name.to_owned()]);
            if let Ok(assigned) = assign(&self.pins, &names)
                && let Some(to) = assigned.slots.last()
            {
                if assigned.is_new.last() == Some(&true) {
                    self.forget(to)?;
                }
                kernel_side::release(to).await?;
                kernel_side::move_attached(&slot, to)?;
                self.try_to_attach(index, name, false).await;
            }
        }
        // Where it did not come to that, it is without a program now.
        kernel_side::release(&slot).await.map(drop)
    }

    fn let_go(&mut self, held: &Held) {
        let interface = Interface { attached: false, ..held.attached.interface.clone() };
        self.gone.push(interface);
    }

    /// Attaches to the last of these; the others have their slots.
    async fn attach_further(&mut self, names: &[String]) -> Result<()> {
        let assigned = assign(&self.pins, names)?;
        let slot = assigned.slots.last().context("a name")?;
        let is_new = assigned.is_new.last() == Some(&true);
        self.attach(slot, is_new, &Inherited::default()).await
    }

    async fn attach(&mut self, slot: &Slot, is_new: bool, inherited: &Inherited) -> Result<()> {
        if is_new {
            self.forget(slot)?;
        }
        let adopted = kernel_side::adopt(&inherited.replaced, slot)?;
        match self.attaching.attach(slot, self.wanted.drops_on(&slot.interface)).await {
            Ok(mut attached) => {
                let log = if self.with_log { Some(forward_log(&mut attached)?) } else { None };
                self.gone.retain(|gone| gone.slot != slot.number);
                let has_qdisc = kernel_side::links::exists(&slot.qdisc())?;
                self.attached.push(Held { slot: slot.clone(), attached, log, has_qdisc });
                Ok(())
            }
            Err(error) => {
                if let Some(from) = adopted {
                    kernel_side::move_attached(slot, &from)?;
                }
                let was_running = inherited.predecessor == Predecessor::Present && !is_new;
                if !was_running && let Err(error) = kernel_side::release(slot).await {
                    tracing::error!(interface = slot.interface, "detaching: {error:#}");
                }
                Err(error)
            }
        }
    }

    /// A slot begins anew, for another interface.
    fn forget(&mut self, slot: &Slot) -> Result<()> {
        self.gone.retain(|gone| gone.slot != slot.number);
        // Where these are the first programs, there is nothing yet.
        if self.pins.join("PACKETS").exists() {
            Tables::from_pins(&self.pins)?.forget_packets(slot.number)?;
        }
        Ok(())
    }

    /// Packets that arrived on interfaces which are not attached any more count where they leave.
    fn tidy(&self) -> Result<()> {
        let indexes: Vec<_> =
            self.attached.iter().map(|held| held.attached.interface.ifindex).collect();
        keep_attached(&self.pins, &indexes)
    }
}

/// An interface that an agent before this one was attached to, and that is not there now.
fn gone(slot: &Slot, zone: u16) -> Interface {
    Interface {
        name: slot.interface.clone(),
        ifindex: 0,
        slot: slot.number,
        zone,
        attached: false,
        xdp: None,
        ingress: None,
        egress: "none".to_owned(),
        handover: None,
    }
}
