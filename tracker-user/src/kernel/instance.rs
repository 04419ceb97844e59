//! Where an agent leaves its maps and its socket, so that other commands find them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracker_common::LAYOUT_VERSION;

use crate::kernel_side::directories;

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

    /// What a connection to the socket that failed comes from, and what to do about it.
    #[must_use]
    pub fn refused(&self, error: io::Error) -> anyhow::Error {
        let socket = self.socket();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
                "no agent named `{}` is running; start one with `tracker run --interface NAME`",
                self.name
            ),
            io::ErrorKind::PermissionDenied => anyhow!(
                "{} may be read by root and its group only: run this with sudo, or as a user of that group",
                socket.display()
            ),
            _ => anyhow::Error::new(error).context(format!("connecting to {}", socket.display())),
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
        if !self.has_bpffs()? {
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

    /// Takes the name for this process.
    ///
    /// # Errors
    ///
    /// Where an agent of that name runs, or the directories cannot be written.
    pub fn claim(&self) -> Result<Claim> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.run_dir)
            .with_context(|| format!("creating {}", self.run_dir.display()))?;
        let claim = self.claim_here(|pid| {
            format!(
                "an agent named `{}` is running already (pid {pid}); stop it, or give this one another name with \
                 --instance",
                self.name
            )
        })?;
        self.mount_bpffs()?;
        remove_file(&claim.socket)?;
        Ok(claim)
    }

    /// As [`Instance::claim`], to remove what is there; `None` where no agent can have left anything.
    ///
    /// # Errors
    ///
    /// As [`Instance::claim`].
    pub fn claim_to_remove(&self) -> Result<Option<Claim>> {
        match self.run_dir.try_exists() {
            Ok(false) => Ok(None),
            _ => {
                let refusal = |pid: &str| {
                    format!(
                        "an agent named `{}` is running (pid {pid}), and detaches by itself when it is stopped: `kill {pid}`",
                        self.name
                    )
                };
                self.claim_here(refusal).map(Some)
            }
        }
    }

    fn claim_here(&self, refusal: impl Fn(&str) -> String) -> Result<Claim> {
        let path = self.run_dir.join(format!("{}.lock", self.name));
        let lock = loop {
            let lock = lock(&path, &refusal)?;
            // The agent that held it may have removed it just before: then another one can have a lock on a new file.
            let is_current = fs::metadata(&path).is_ok_and(|current| {
                lock.metadata().is_ok_and(|locked| locked.ino() == current.ino())
            });
            if is_current {
                break lock;
            }
        };
        let was_killed = lock.metadata()?.len() > 0;
        lock.set_len(0)?;
        io::Write::write_all(&mut &*lock, std::process::id().to_string().as_bytes())?;
        Ok(Claim {
            lock_path: path,
            socket: self.socket(),
            info: self.info(),
            was_killed,
            _lock: lock,
        })
    }

    /// The process of the agent that has this name now.
    #[must_use]
    pub fn pid(&self) -> Option<String> {
        let path = self.run_dir.join(format!("{}.lock", self.name));
        let file = File::open(&path).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => fs::read_to_string(&path).ok(),
            _ => None,
        }
    }
}

/// Locks the file; where another process has, fails with what `refusal` makes of that one's number.
fn lock(path: &Path, refusal: impl Fn(&str) -> String) -> Result<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let holder = fs::read_to_string(path).unwrap_or_default();
            Err(anyhow!(refusal(holder.trim())))
        }
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("removing {}", path.display())),
    }
}

/// The right to a name. Dropping it removes the socket and the lock; what is in the kernel stays.
#[derive(Debug)]
pub struct Claim {
    socket: PathBuf,
    info: PathBuf,
    lock_path: PathBuf,
    was_killed: bool,
    _lock: Flock<File>,
}

impl Claim {
    /// Whether an agent that was killed has left files of its own, besides what is in the kernel.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.was_killed || self.socket.exists() || self.info.exists()
    }

    /// Removes the file in which the agent says what it is attached to.
    ///
    /// # Errors
    ///
    /// Where it cannot be removed.
    pub fn remove_info(&self) -> Result<()> {
        remove_file(&self.info)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.lock_path);
    }
}
