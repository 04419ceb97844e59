//! Where an agent leaves its maps and its socket, so that other commands find them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracker_common::LAYOUT_VERSION;

use crate::{
    kernel::{
        kernel_side::{
            create_private, directories,
            kept::{Identity, identity},
        },
        trusted_paths::{self, Sharing},
    },
    model::failure::Failure,
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
    pub fn refused(&self, error: io::Error) -> anyhow::Error {
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
        trusted_paths::check(at, Sharing::Sticky)?;
        if !self.has_bpffs()? {
            let mut inside =
                fs::read_dir(at).with_context(|| format!("reading {}", at.display()))?;
            ensure!(
                inside.next().is_none(),
                "{} holds something, which a BPF filesystem mounted there would hide; name an empty directory with --bpffs",
                at.display()
            );
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
        trusted_paths::check(&self.run_dir, Sharing::No)?;
        self.mount_bpffs()?;
        for directory in self.directories() {
            trusted_paths::check(&directory, Sharing::No)?;
        }
        let claim = self.claim_here(|pid| {
            format!(
                "an agent named `{}` is running already (pid {pid}); stop it, or give this one another name with \
                 --instance",
                self.name
            )
        })?;
        remove_file(&self.socket())?;
        Ok(claim)
    }

    /// As [`Instance::claim`], to remove what is there; `None` where no agent can have left anything.
    ///
    /// # Errors
    ///
    /// As [`Instance::claim`].
    pub fn claim_to_remove(&self) -> Result<Option<Claim>> {
        let refusal = |pid: &str| {
            format!(
                "an agent named `{}` is running (pid {pid}), and detaches by itself when it is stopped: `kill {pid}`",
                self.name
            )
        };
        match self.run_dir.try_exists() {
            Ok(false) => self.lock_pins(refusal).map(|_| None),
            _ => self.claim_here(refusal).map(Some),
        }
    }

    /// Locks the directories of pins of this name, which an agent that runs holds, whatever has become of its lock file.
    fn lock_pins(&self, refusal: impl Fn(&str) -> String) -> Result<Vec<Locked>> {
        if !self.has_bpffs()? {
            return Ok(Vec::new());
        }
        let all = self.pins_of_all_versions()?;
        let locked = all.iter().map(|pins| Locked::directory(pins, &refusal));
        locked.collect()
    }

    fn claim_here(&self, refusal: impl Fn(&str) -> String) -> Result<Claim> {
        // First, so that one that is refused has not touched the lock file of the agent that runs.
        let pins = self.lock_pins(&refusal)?;
        let (lock, was_killed) = self.lock_file(&refusal)?;
        Ok(Claim { instance: self.clone(), was_killed, lock, pins, is_displaced: false })
    }

    fn lock_path(&self) -> PathBuf {
        self.run_dir.join(format!("{}.lock", self.name))
    }

    /// Locks the lock file; also, whether somebody has left it.
    fn lock_file(&self, refusal: impl Fn(&str) -> String) -> Result<(Locked, bool)> {
        let path = self.lock_path();
        let locked = loop {
            let locked = Locked::file(&path, &refusal)?;
            // The agent that held it may have removed it just before: then another one can have a lock on a new file.
            if identity(&path)? == Some(locked.identity) {
                break locked;
            }
        };
        let was_killed = locked.file.metadata()?.len() > 0;
        locked.file.set_len(0)?;
        io::Write::write_all(&mut &*locked.file, std::process::id().to_string().as_bytes())?;
        Ok((locked, was_killed))
    }

    /// The process of the agent that has this name now.
    #[must_use]
    pub fn pid(&self) -> Option<String> {
        let path = self.lock_path();
        let by_file = File::open(&path).ok().and_then(|file| {
            match Flock::lock(file, FlockArg::LockSharedNonblock) {
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => fs::read_to_string(&path).ok(),
                _ => None,
            }
        });
        by_file.or_else(|| holder(identity(&self.pins()).ok()??))
    }
}

/// The process that has locked what is known by this device and inode, where it can be seen from here.
fn holder((device, inode): Identity) -> Option<String> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == wanted)?;
        (words.contains(&"FLOCK") && !words.contains(&"->"))
            .then(|| at.checked_sub(1).map(|before| words[before].to_owned()))?
    })
}

/// A file or directory that this process has locked.
#[derive(Debug)]
struct Locked {
    identity: Identity,
    file: Flock<File>,
}

impl Locked {
    /// Locks a file; where another process has, fails with what `refusal` makes of that one's number.
    fn file(path: &Path, refusal: impl Fn(&str) -> String) -> Result<Self> {
        let file = File::options().create(true).truncate(false).write(true).read(true).open(path);
        Self::new(path, file, |_| fs::read_to_string(path).ok(), refusal)
    }

    /// The same with a directory.
    fn directory(path: &Path, refusal: impl Fn(&str) -> String) -> Result<Self> {
        Self::new(path, File::open(path), holder, refusal)
    }

    fn new(
        path: &Path,
        file: io::Result<File>,
        holder: impl Fn(Identity) -> Option<String>,
        refusal: impl Fn(&str) -> String,
    ) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let about = file.metadata().with_context(|| path.display().to_string())?;
        let identity = (about.dev(), about.ino());
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { identity, file }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = holder(identity).unwrap_or_else(|| "unknown".to_owned());
                Err(Failure::InUse(refusal(holder.trim())).into())
            }
            Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
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
    instance: Instance,
    was_killed: bool,
    lock: Locked,
    /// Directories of pins.
    pins: Vec<Locked>,
    /// Whether another agent has the name now, and all that is found by it.
    is_displaced: bool,
}

impl Claim {
    /// Whether an agent that was killed has left files of its own, besides what is in the kernel.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.was_killed || self.instance.socket().exists() || self.instance.info().exists()
    }

    /// Removes the file in which the agent says what it is attached to.
    ///
    /// # Errors
    ///
    /// Where it cannot be removed.
    pub fn remove_info(&self) -> Result<()> {
        remove_file(&self.instance.info())
    }

    /// Whether another agent has taken the name, as it can if every trace of this one was removed.
    #[must_use]
    pub fn is_displaced(&self) -> bool {
        self.is_displaced
    }

    /// Makes sure that no other agent can take the name: locks the directory of pins, which is made anew where it was removed, and the
    /// lock file likewise. What had to be made anew is returned.
    ///
    /// # Errors
    ///
    /// Where another agent has the name now, so that [`Claim::is_displaced`], or something cannot be made.
    pub fn keep(&mut self) -> Result<Vec<PathBuf>> {
        let name = self.instance.name.clone();
        let refusal = |pid: &str| {
            format!(
                "what tells of this agent was removed, and another one named `{name}` (pid {pid}) has taken its place"
            )
        };
        let kept = self.keep_with(&refusal);
        if let Err(error) = &kept {
            self.is_displaced = matches!(error.downcast_ref(), Some(Failure::InUse(_)));
        }
        kept
    }

    fn keep_with(&mut self, refusal: &impl Fn(&str) -> String) -> Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        let pins = self.instance.pins();
        let there = identity(&pins)?;
        if there.is_none() {
            create_private(&pins)?;
            made.push(pins.clone());
        }
        if there.is_none_or(|there| self.pins.iter().all(|locked| locked.identity != there)) {
            self.pins.push(Locked::directory(&pins, refusal)?);
        }
        let lock = self.instance.lock_path();
        if identity(&lock)? != Some(self.lock.identity) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&self.instance.run_dir)
                .with_context(|| format!("creating {}", self.instance.run_dir.display()))?;
            (self.lock, _) = self.instance.lock_file(refusal)?;
            made.push(lock);
        }
        Ok(made)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_displaced {
            let _ = fs::remove_file(self.instance.socket());
            let _ = fs::remove_file(self.instance.lock_path());
        }
    }
}
