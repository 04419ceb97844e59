//! Programs that have disappeared from an interface that still exists: which ones, and attaching them again.

use std::{collections::BTreeSet, time::Instant};

use nix::net::if_::if_nametoindex;

use crate::{
    agent::interfaces::{
        Held, Interfaces,
        presence::{self, Missing},
        retry::Retry,
    },
    kernel::kernel_side::{Inherited, create_private},
    model::error::Result,
};

impl Interfaces<'_> {
    /// What should be attached now and is not, as the kernel says; what has changed of that is said.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    pub async fn missing(&mut self) -> Result<BTreeSet<Missing>> {
        let mut missing = BTreeSet::new();
        for Held { slot, attached, .. } in &self.attached {
            let interface = &slot.interface;
            let hooks = presence::missing(slot, attached).await;
            // What is said of one that has just gone, or was renamed, is no news.
            let index = if_nametoindex(interface.as_str()).unwrap_or_default();
            if attached.interface.ifindex == index {
                let hooks = hooks?.into_iter();
                missing.extend(hooks.map(|hook| Missing { interface: interface.clone(), hook }));
            }
        }
        // Those that could not be attached to again have none of their programs.
        for gone in self.gone.iter().filter(|gone| self.again.contains_key(&gone.ifindex)) {
            let hooks = [
                ("in", gone.ingress_hook().is_some()),
                ("out", true),
                ("handover", gone.handover.is_some()),
            ];
            for (hook, _) in hooks.into_iter().filter(|(_, was_there)| *was_there) {
                missing.insert(Missing { interface: gone.name.clone(), hook });
            }
        }
        for Missing { interface, hook } in missing.difference(&self.told) {
            tracing::error!(
                interface,
                hook,
                "the program there is gone, though nobody has asked the agent: packets are missed"
            );
        }
        let is_attached = |name: &str| self.attached.iter().any(|held| held.slot.interface == name);
        for Missing { interface, hook } in self.told.difference(&missing) {
            if is_attached(interface) {
                tracing::warn!(interface, hook, "there is a program again");
            }
        }
        self.told.clone_from(&missing);
        Ok(missing)
    }

    /// Attaches again what is missing, and what was to be attempted again. True where [`Interfaces::list`] is another one now.
    ///
    /// # Errors
    ///
    /// Where the pins are broken.
    pub async fn attach_again(&mut self, missing: &BTreeSet<Missing>) -> Result<bool> {
        let is_complete =
            |held: &Held| missing.iter().all(|one| one.interface != held.slot.interface);
        let (complete, incomplete) =
            std::mem::take(&mut self.attached).into_iter().partition(is_complete);
        self.attached = complete;
        let incomplete: Vec<_> = incomplete;
        let mut has_changed = !incomplete.is_empty();
        for held in incomplete {
            let (slot, index) = (held.slot.clone(), held.attached.interface.ifindex);
            match self.attach(&slot, false, &Inherited::default()).await {
                Ok(()) => tracing::warn!(interface = slot.interface, "attached again"),
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::error!(interface = slot.interface, "attaching to it again: {why}");
                    self.let_go(&held);
                    self.failed.insert(index, why);
                    self.again.insert(index, Retry::first());
                }
            }
        }
        has_changed |= self.retry_due().await?;
        if has_changed {
            self.tidy()?;
        }
        Ok(has_changed)
    }

    async fn retry_due(&mut self) -> Result<bool> {
        let now = Instant::now();
        let due: Vec<_> = self
            .again
            .iter()
            .filter(|(_, retry)| retry.at <= now)
            .map(|(index, _)| *index)
            .collect();
        if due.is_empty() {
            return Ok(false);
        }
        let mut has_changed = false;
        for link in self.changes.links().await?.iter().filter(|link| due.contains(&link.index)) {
            let is_attached = self.try_to_attach(link.index, &link.name, false).await;
            has_changed |= is_attached;
            if !is_attached && let Some(retry) = self.again.get_mut(&link.index) {
                *retry = retry.next();
            }
        }
        Ok(has_changed)
    }

    /// Directories of the slots, which somebody may have removed.
    ///
    /// # Errors
    ///
    /// Where one cannot be made.
    pub fn keep_slots(&self) -> Result<()> {
        for Held { slot, has_qdisc, .. } in &self.attached {
            create_private(&slot.path)?;
            if *has_qdisc {
                create_private(&slot.qdisc())?;
            }
        }
        Ok(())
    }
}
