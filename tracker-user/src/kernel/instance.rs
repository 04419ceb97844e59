//! Where an agent leaves its maps and its socket, so that other commands find them.

pub mod claim;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracker_common::LAYOUT_VERSION;

use crate::{
    kernel::{
        kernel_side::directories,
        trusted_paths::{self, Sharing},
    },
    model::{
        error::{Context, Error, Result},
        failure::Failure,
    },
};

/// One agent by name: two of them can run on one host, each with its own interfaces.
#[derive(Clone, Debug, clap::Args)]
pub struct Instance {
    /// Name of the agent, if more than one runs on this host
    #[arg(long = "instance", global = true, default_value = "default", value_parser = name, value_name = "NAME")]
    name: String,
    /// BPF filesystem for pinned maps; mounted if necessary
    #[arg(long, global = true, default_value = "/sys/fs/bpf", value_name = "DIR")]
    bpffs: PathBuf,
    /// Directory for sockets and locks
    #[arg(long, global = true, default_value = "/run/tracker", value_name = "DIR")]
    run_dir: PathBuf,
}

fn name(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if good {
        Ok(text.to_owned())
    } else {
        Err("letters, digits, `-` and `_`, 64 at most".to_owned())
    }
}

impl Instance {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of its pinned maps. The layout's version is part of it: maps whose records mean something else
    /// are never read.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.bpffs.join(format!("tracker/v{LAYOUT_VERSION}/{}", self.name))
    }

    /// Its own directories in the BPF filesystem, the outer ones first.
    #[must_use]
    pub fn directories(&self) -> [PathBuf; 3] {
        let all = self.bpffs.join("tracker");
        [all.clone(), all.join(format!("v{LAYOUT_VERSION}")), self.pins()]
    }

    /// Where pins of this version are put aside that an agent replaces, because it wants other tables.
    #[must_use]
    pub fn pins_aside(&self) -> PathBuf {
        self.bpffs.join(format!("tracker/replaced/{}", self.name))
    }

    /// The socket that its events come from.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(format!("{}.sock", self.name))
    }

    /// That no agent of this name is running; `why` says what shows it.
    #[must_use]
    pub fn not_running(&self, why: &str) -> Failure {
        Failure::NoAgent(format!(
            "no agent named `{}` is running{why}; start one with `tracker run --interface NAME`",
            self.name
        ))
    }

    /// What a connection to the socket that failed comes from, and what to do about it.
    #[must_use]
    pub fn refused(&self, error: io::Error) -> Error {
        let socket = self.socket();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                self.not_running("").into()
            }
            io::ErrorKind::PermissionDenied => Failure::NotPermitted(format!(
                "{} may be read by root and its group only: run this with sudo, or as a user of that group",
                socket.display()
            ))
            .into(),
            _ => Error::from(error).context(format!("connecting to {}", socket.display())),
        }
    }

    /// The file in which it says what it is attached to.
    #[must_use]
    pub fn info(&self) -> PathBuf {
        self.run_dir.join(format!("{}.json", self.name))
    }

    /// The BPF filesystem.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Whether the BPF filesystem is one.
    ///
    /// # Errors
    ///
    /// Where it cannot be asked.
    pub fn has_bpffs(&self) -> Result<bool> {
        let at = &self.bpffs;
        match statfs(at) {
            Ok(found) => Ok(found.filesystem_type() == BPF_FS_MAGIC),
            Err(nix::errno::Errno::ENOENT) => Ok(false),
            Err(error) => Err(error).with_context(|| at.display().to_string()),
        }
    }

    /// Makes sure that there is a BPF filesystem.
    ///
    /// # Errors
    ///
    /// Where it cannot be mounted.
    pub fn mount_bpffs(&self) -> Result<()> {
        let at = &self.bpffs;
        fs::create_dir_all(at).with_context(|| format!("creating {}", at.display()))?;
        trusted_paths::check(at, Sharing::Sticky)?;
        if !self.has_bpffs()? {
            let mut inside =
                fs::read_dir(at).with_context(|| format!("reading {}", at.display()))?;
            if inside.next().is_some() {
                return Err(Error::text(format!(
                    "{} holds something, which a BPF filesystem mounted there would hide; name an empty directory with --bpffs",
                    at.display()
                )));
            }
            mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>).with_context(
                || format!("mounting a BPF filesystem on {}: `mount -t bpf bpf DIR`", at.display()),
            )?;
        }
        Ok(())
    }

    /// The directories of pins of this name, of whatever version's layout.
    ///
    /// # Errors
    ///
    /// Where the BPF filesystem cannot be read.
    pub fn pins_of_all_versions(&self) -> Result<Vec<PathBuf>> {
        let all = self.all()?;
        Ok(all
            .into_iter()
            .filter(|(other, _)| other.name == self.name)
            .map(|(_, pins)| pins)
            .collect())
    }

    /// Every agent that has pins in the same BPF filesystem, with the directory of each.
    ///
    /// # Errors
    ///
    /// Where the BPF filesystem cannot be read.
    pub fn all(&self) -> Result<Vec<(Self, PathBuf)>> {
        let mut all = Vec::new();
        for version in directories(&self.bpffs.join("tracker"))? {
            for pins in directories(&version)? {
                if let Some(name) = pins.file_name().and_then(|name| name.to_str()) {
                    all.push((Self { name: name.to_owned(), ..self.clone() }, pins));
                }
            }
        }
        Ok(all)
    }
}
