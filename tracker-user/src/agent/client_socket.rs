//! The socket that clients of the agent come to. Accepting them never ends, whatever the kernel says; and where somebody has removed
//! the socket, or its directory, another one takes its place.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::FutureExt;
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use crate::{
    agent::condition::{Condition, SHORTAGES},
    model::error::{Context, Result},
};

/// A socket that owner and group may use.
pub struct ClientSocket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of its name.
    identity: (u64, u64),
    /// Given up where there are no descriptors left, so that a client can be turned away.
    spare: Option<File>,
    check: Interval,
    shortage: Condition,
    unreachable: Condition,
    /// What a client is answered for which there is no descriptor.
    turned_away: &'static [u8],
}

impl ClientSocket {
    /// Listens at this path. `turned_away` is the answer to clients for which there is no descriptor.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be made.
    pub fn bind(path: &Path, turned_away: &'static [u8]) -> Result<Self> {
        let (listener, identity) = bind(path)?;
        let mut check = interval(CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            path: path.to_owned(),
            listener,
            identity,
            spare: spare(),
            check,
            shortage: Condition::default(),
            unreachable: Condition::default(),
            turned_away,
        })
    }

    /// Device and inode of its name.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The next client. Nothing is lost where waiting is given up.
    pub async fn accept(&mut self) -> UnixStream {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => return stream,
                    Err(error) => self.recover(&error).await,
                },
                _ = self.check.tick() => self.check(),
            }
        }
    }

    async fn recover(&mut self, error: &io::Error) {
        if !error.raw_os_error().is_some_and(|number| SHORTAGES.contains(&number)) {
            // A client that has left again, for instance.
            tracing::debug!("accepting a client of the socket: {error}");
            return sleep(BACK_OFF).await;
        }
        if self.shortage.seen(1, Instant::now()) {
            tracing::warn!(
                "accepting a client of the socket: {error}. Clients are turned away until that is over; tracking goes on (a \
                 higher limit of open files helps: `ulimit -n`, LimitNOFILE in the unit)"
            );
        }
        // Whoever waits need not wait until it is over.
        self.spare = None;
        while let Some(Ok((stream, _))) = self.listener.accept().now_or_never() {
            let _ = stream.try_write(self.turned_away);
        }
        self.spare = spare();
        sleep(BACK_OFF).await;
    }

    /// Whether clients find the socket; where it is gone, it is made anew.
    fn check(&mut self) {
        if self.spare.is_none() {
            self.spare = spare();
        }
        let now = Instant::now();
        if let Some(over) = self.shortage.over(now) {
            tracing::info!(times = over.count, "clients of the socket are accepted again");
        }
        let there = fs::symlink_metadata(&self.path).map(|about| (about.dev(), about.ino()));
        let why = match there {
            Ok(identity) if identity == self.identity => None,
            Ok(_) => Some("something else has its place".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.bind_again() {
                Ok(()) => {
                    tracing::warn!(socket = %self.path.display(), "it was removed, and is made anew");
                    None
                }
                Err(error) => Some(format!("it was removed, and cannot be made anew: {error:#}")),
            },
            Err(error) => Some(error.to_string()),
        };
        match why {
            Some(why) => {
                if self.unreachable.seen(1, now) {
                    tracing::error!(socket = %self.path.display(), "clients cannot find it: {why}");
                }
            }
            None => {
                if self.unreachable.end().is_some() {
                    tracing::info!(socket = %self.path.display(), "clients find it again");
                }
            }
        }
    }

    fn bind_again(&mut self) -> Result<()> {
        if let Some(directory) = self.path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        (self.listener, self.identity) = bind(&self.path)?;
        Ok(())
    }
}

fn bind(path: &Path) -> Result<(UnixListener, (u64, u64))> {
    let listener =
        UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    let about = fs::symlink_metadata(path)?;
    Ok((listener, (about.dev(), about.ino())))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Between two looks at the socket's name.
const CHECK: Duration = Duration::from_secs(2);

/// After an error, before the next client is accepted.
const BACK_OFF: Duration = Duration::from_millis(100);
