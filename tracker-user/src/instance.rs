//! Where an agent leaves its maps and its socket, so that other commands find them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracker_common::LAYOUT_VERSION;

/// One agent by name: two of them can run on one host, each with its own interfaces.
#[derive(Clone, Debug, clap::Args)]
pub struct Instance {
    /// Name of the agent, where more than one runs on this host
    #[arg(long = "instance", global = true, default_value = "default", value_parser = name, value_name = "NAME")]
    name: String,
    /// The BPF filesystem that maps are pinned in; mounted if it is not
    #[arg(long, global = true, default_value = "/sys/fs/bpf", value_name = "DIR")]
    bpffs: PathBuf,
    /// Directory of sockets and locks
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

    /// The socket that its events come from.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(format!("{}.sock", self.name))
    }

    /// The file in which it says what it is attached to.
    #[must_use]
    pub fn info(&self) -> PathBuf {
        self.run_dir.join(format!("{}.json", self.name))
    }

    /// Makes sure that there is a BPF filesystem.
    ///
    /// # Errors
    ///
    /// Where it cannot be mounted.
    pub fn mount_bpffs(&self) -> Result<()> {
        let at = &self.bpffs;
        fs::create_dir_all(at).with_context(|| format!("creating {}", at.display()))?;
        if statfs(at)?.filesystem_type() != BPF_FS_MAGIC {
            mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>).with_context(
                || format!("mounting a BPF filesystem on {}: `mount -t bpf bpf DIR`", at.display()),
            )?;
        }
        Ok(())
    }

    /// Takes the name for this process, and clears away what a killed agent of that name has left.
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
        let path = self.run_dir.join(format!("{}.lock", self.name));
        let lock = loop {
            let lock = self.lock(&path)?;
            // The agent that held it may have removed it just before: then another one can have a lock on a new file.
            let is_current = fs::metadata(&path).is_ok_and(|current| {
                lock.metadata().is_ok_and(|locked| locked.ino() == current.ino())
            });
            if is_current {
                break lock;
            }
        };
        lock.set_len(0)?;
        io::Write::write_all(&mut &*lock, std::process::id().to_string().as_bytes())?;
        self.mount_bpffs()?;
        let pins = self.pins();
        remove_dir(&pins)?;
        fs::create_dir_all(&pins).with_context(|| format!("creating {}", pins.display()))?;
        fs::set_permissions(&pins, fs::Permissions::from_mode(0o700))?;
        let socket = self.socket();
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", socket.display()));
            }
            _ => {}
        }
        Ok(Claim { lock_path: path, pins, socket, info: self.info(), _lock: lock })
    }
}

impl Instance {
    fn lock(&self, path: &Path) -> Result<Flock<File>> {
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
                bail!(
                    "an agent named `{}` is running already (pid {}); stop it, or give this one another name with \
                     --instance",
                    self.name,
                    holder.trim()
                );
            }
            Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("removing {}", path.display())),
    }
}

/// The right to a name. Dropping it removes the maps' pins, the socket, the description and the lock.
#[derive(Debug)]
pub struct Claim {
    pins: PathBuf,
    socket: PathBuf,
    info: PathBuf,
    lock_path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = remove_dir(&self.pins) {
            tracing::warn!("{error:#}");
        }
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.info);
        let _ = fs::remove_file(&self.lock_path);
    }
}
