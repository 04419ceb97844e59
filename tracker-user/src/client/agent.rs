//! What a running agent says about itself, for the commands that read its maps.

use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt, path::Path};

use serde::{Deserialize, Serialize};
use tracker_common::{state::State, sweep::Timeouts};

use crate::{
    kernel::{attach::Interface, instance::Instance},
    model::{
        clock::Clock,
        error::{Context, Result},
        record::View,
    },
};

/// An agent.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Agent {
    /// Version of this form: 1.
    pub v: u32,
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// What it is attached to.
    pub interfaces: Vec<Interface>,
    /// Seconds by state.
    pub timeouts: BTreeMap<String, u32>,
    /// How many of the reports that the kernel counts as lost, because the ring buffer was full, were announced.
    #[serde(default)]
    pub lost_told: u64,
}

impl Agent {
    /// This process, attached to `interfaces`.
    #[must_use]
    pub fn new(interfaces: Vec<Interface>, timeouts: &Timeouts) -> Self {
        Self {
            v: 1,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interfaces,
            timeouts: by_name(timeouts),
            lost_told: 0,
        }
    }

    /// It goes by these timeouts now.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) {
        self.timeouts = by_name(timeouts);
    }

    /// The interfaces that clients may come from: attached, and not loopback.
    #[must_use]
    pub fn client_interfaces(&self) -> Vec<Interface> {
        let attached = self.interfaces.iter().filter(|interface| interface.attached);
        attached.filter(|interface| interface.ingress_hook().is_some()).cloned().collect()
    }

    /// Tells other commands.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn publish(&self, to: &Path) -> Result<()> {
        let new = to.with_extension("json.new");
        // As the socket: whatever the umask of a service is.
        let readable = fs::Permissions::from_mode(0o640);
        fs::write(&new, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::set_permissions(&new, readable))
            .and_then(|()| fs::rename(&new, to))
            .with_context(|| format!("writing {}", to.display()))
    }

    /// What the agent of this name says.
    ///
    /// # Errors
    ///
    /// Where none is running, or it is of another version.
    pub fn find(instance: &Instance) -> Result<Self> {
        let path = instance.info();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(instance.not_running("").into());
            }
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| {
            format!("{} was written by another version of tracker", path.display())
        })
    }

    /// How its records are shown now.
    #[must_use]
    pub fn view(&self) -> View {
        let mut timeouts = Timeouts::default();
        for state in State::ALL {
            if let Some(seconds) = self.timeouts.get(state.name()) {
                timeouts.seconds[state as usize] = *seconds;
            }
        }
        let names = self
            .interfaces
            .iter()
            .map(|interface| (interface.slot, interface.name.clone()))
            .collect();
        View { clock: Clock::now(), timeouts, names }
    }
}

fn by_name(timeouts: &Timeouts) -> BTreeMap<String, u32> {
    let seconds = |state: &State| timeouts.seconds[*state as usize];
    State::ALL.iter().map(|state| (state.name().to_owned(), seconds(state))).collect()
}
