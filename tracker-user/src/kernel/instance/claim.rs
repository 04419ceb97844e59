//! The right to an agent's name: locks on its lock file and on its directories of pins, which keep a second agent away.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use crate::{
    kernel::{
        instance::Instance,
        kernel_side::{
            create_private,
            kept::{Identity, identity},
        },
        trusted_paths::{self, Sharing},
    },
    model::{
        error::{Context, Result},
        failure::Failure,
    },
};

impl Instance {
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
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            // Whoever may read it may lock it, and so keep an agent from starting.
            .mode(0o640)
            .open(path);
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
        // An agent that was killed while it wrote it has left a part.
        remove_file(&self.instance.info().with_extension("json.new"))?;
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
                "the files of this agent were removed, and another agent named `{name}` (pid {pid}) has taken its place"
            )
        };
        let kept = self.keep_with(&refusal);
        if let Err(error) = &kept {
            self.is_displaced = matches!(error.failure(), Failure::InUse(_));
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
