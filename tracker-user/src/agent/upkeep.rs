//! Upkeep: the agent compares its programs, pins, lock and files with what is there, and restores what is missing. It also
//! passes changes of interfaces on to other commands, metrics and protection.

use std::{cell::RefCell, time::Duration};

use tokio::time::Instant;

use crate::{
    agent::{
        condition::Condition,
        interfaces::{Interfaces, presence::OnDetach},
        metrics::Telemetry,
        protect::listener_manager::ListenerManager,
    },
    client::agent::Agent,
    kernel::{
        instance::{Instance, claim::Claim},
        kernel_side::kept::KeptPins,
    },
    model::error::Result,
};

/// Between two looks at what the agent claims to have: its programs, pins, lock and files.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Keeps what the agent claims to have.
pub(super) struct Upkeep<'a> {
    pub(super) instance: &'a Instance,
    pub(super) kept: KeptPins,
    pub(super) on_detach: OnDetach,
    pub(super) trouble: Condition,
    /// Whether a change of interfaces could not be followed, so that all of them must be looked at.
    pub(super) has_lost_sight: bool,
    pub(super) looked: Instant,
}

impl Upkeep<'_> {
    /// Whether interfaces have changed, as far as that could be followed.
    pub(super) fn followed(&mut self, outcome: Result<bool>) -> bool {
        match outcome {
            Ok(has_changed) => has_changed,
            Err(error) => {
                tracing::error!("following interfaces: {error:#}; this is tried again");
                self.has_lost_sight = true;
                true
            }
        }
    }

    /// Whether it may look again: interfaces may change often.
    pub(super) fn is_time(&self) -> bool {
        self.looked.elapsed() >= CHECK_INTERVAL / 8
    }

    /// Looks, and makes anew what was removed. True where interfaces were attached to.
    ///
    /// # Errors
    ///
    /// Where another agent has the name now.
    pub(super) async fn look(
        &mut self,
        claim: &mut Claim,
        interfaces: &mut Interfaces<'_>,
        telemetry: Option<&Telemetry>,
    ) -> Result<bool> {
        self.looked = Instant::now();
        let outcome = self.keep(claim, interfaces, telemetry).await;
        if claim.is_displaced() {
            return outcome;
        }
        match outcome {
            Ok(has_changed) => {
                if self.trouble.end().is_some() {
                    tracing::info!(
                        "what the agent has in the kernel and in its directories is as it should be again"
                    );
                }
                Ok(has_changed)
            }
            Err(error) => {
                if self.trouble.seen(1, std::time::Instant::now()) {
                    tracing::error!(
                        "looking after what the agent has in the kernel and in its directories: {error:#}; this is tried again"
                    );
                }
                Ok(false)
            }
        }
    }

    /// Makes sure that programs which are loaded now get the agent's maps.
    ///
    /// # Errors
    ///
    /// Where another agent has the name now.
    pub(super) fn prepare(&mut self, claim: &mut Claim) -> Result<()> {
        match self.keep_pins(claim) {
            Err(error) if claim.is_displaced() => Err(error),
            // What it is about is said when it is looked at next.
            _ => Ok(()),
        }
    }

    fn keep_pins(&mut self, claim: &mut Claim) -> Result<()> {
        for made in claim.keep()? {
            tracing::warn!(path = %made.display(), "it was removed, and is made anew");
        }
        let restored = self.kept.restore()?;
        if restored > 0 {
            tracing::warn!(
                pins = %self.instance.pins().display(),
                "{restored} pins of maps were removed, and are made anew"
            );
        }
        Ok(())
    }

    async fn keep(
        &mut self,
        claim: &mut Claim,
        interfaces: &mut Interfaces<'_>,
        telemetry: Option<&Telemetry>,
    ) -> Result<bool> {
        let kept = self.keep_pins(claim).and_then(|()| interfaces.keep_slots());
        if claim.is_displaced() {
            return kept.map(|()| false);
        }
        let missing = interfaces.missing().await?;
        if let Some(telemetry) = telemetry {
            telemetry.missing(missing.clone());
        }
        // Programs that are loaded without the agent's maps would count in others.
        kept?;
        let mut has_changed = false;
        if self.has_lost_sight {
            has_changed = interfaces.look_anew().await?;
            self.has_lost_sight = false;
        }
        if self.on_detach == OnDetach::Reattach {
            has_changed |= interfaces.attach_again(&missing).await?;
        }
        // Where somebody removed pins while programs were loaded, those programs count in maps of their own.
        if has_changed && self.kept.restore()? > 0 {
            tracing::warn!(
                "pins of maps were removed while programs were loaded: all interfaces are attached to again"
            );
            interfaces.look_anew().await?;
        }
        if has_changed && let Some(telemetry) = telemetry {
            telemetry.missing(interfaces.missing().await?);
        }
        Ok(has_changed)
    }

    /// Holds what has come with an interface.
    pub(super) fn update(&mut self) {
        if let Err(error) = self.kept.update() {
            tracing::error!("holding the pins of maps: {error:#}");
        }
    }
}

/// Others learn which interfaces there are now.
pub(super) fn note_interfaces(
    interfaces: &Interfaces<'_>,
    agent: &RefCell<Agent>,
    telemetry: Option<&Telemetry>,
    listener_manager: Option<&mut ListenerManager>,
) {
    agent.borrow_mut().interfaces = interfaces.list();
    if let Some(telemetry) = telemetry
        && let Err(error) = telemetry.attached(interfaces.list(), interfaces.attached())
    {
        tracing::error!("metrics of interfaces that have changed: {error:#}");
    }
    if let Some(listener_manager) = listener_manager {
        listener_manager.set_interfaces(agent.borrow().client_interfaces());
    }
}

/// Tells other commands. A directory that cannot be written stops nothing.
pub(super) fn publish_info(agent: &Agent, instance: &Instance, trouble: &mut Condition) {
    match agent.publish(&instance.info()) {
        Ok(()) => {
            if trouble.end().is_some() {
                tracing::info!("other commands find this agent again");
            }
        }
        Err(error) => {
            if trouble.seen(1, std::time::Instant::now()) {
                tracing::error!("telling other commands of this agent: {error:#}");
            }
        }
    }
}
