//! A unix socket that metrics are served at: one that an agent has left is replaced, one that somebody listens at never.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};
use tokio::net::UnixStream;

use crate::{
    agent::client_socket::ClientSocket,
    kernel::{
        kernel_side::kept::identity,
        trusted_paths::{self, Sharing},
    },
    model::{
        error::{Context, Error, Result},
        failure::Failure,
    },
};

/// The socket of an agent, for its owner and group. Dropping it removes it.
pub struct MetricsSocket {
    path: PathBuf,
    /// Held until the socket's name is removed.
    _lock: SocketLock,
    socket: ClientSocket,
}

impl MetricsSocket {
    /// Listens at a path, in a directory that is made where there is none.
    ///
    /// # Errors
    ///
    /// Where somebody listens there, something else is there, or others could put another socket in its place.
    pub fn bind(path: &Path) -> Result<Self> {
        check(path)?;
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        let lock = SocketLock::take(path)?;
        remove_stale(path)?;
        let socket = ClientSocket::bind(path, TURNED_AWAY)?;
        Ok(Self { path: path.to_owned(), _lock: lock, socket })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next client. Nothing is lost where waiting is given up.
    pub async fn accept(&mut self) -> UnixStream {
        self.socket.accept().await
    }
}

impl Drop for MetricsSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == Some(self.socket.identity())) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Refuses a path in a directory that somebody else may change.
///
/// # Errors
///
/// Whose it is, and what to do about it.
pub fn check(path: &Path) -> Result<()> {
    trusted_paths::check(path.parent().unwrap_or(path), Sharing::No)
}

/// The right to a socket's name, by a lock that ends with this process. Dropping it removes the file.
struct SocketLock {
    path: PathBuf,
    _file: Flock<File>,
}

impl SocketLock {
    fn take(socket: &Path) -> Result<Self> {
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                // Nobody else may lock it.
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => return Err(in_use(socket)),
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            };
            // Whoever held it may have removed it just before: then another one can have a lock on a new file.
            let about = nix::sys::stat::fstat(&*file)?;
            if identity(&path)? == Some((about.st_dev, about.st_ino)) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a socket that nobody listens at.
fn remove_stale(path: &Path) -> Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(about) => about.file_type(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    if !kind.is_socket() {
        return Err(Error::text(format!(
            "{} is there and no socket: remove it, or name another path with `--metrics unix:PATH`",
            path.display()
        )));
    }
    // Not to wait: the queue of one that listens may be full.
    let probe = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
        }
        Err(Errno::ENOENT) => Ok(()),
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(in_use(path)),
        Err(error) => {
            Err(error).with_context(|| format!("asking who listens at {}", path.display()))
        }
    }
}

fn in_use(path: &Path) -> Error {
    Failure::InUse(format!(
        "somebody serves at unix:{} already; name another path with `--metrics unix:PATH`",
        path.display()
    ))
    .into()
}

/// What a client is answered for which there is no descriptor.
const TURNED_AWAY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
