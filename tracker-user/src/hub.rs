//! From the agent to its listeners: a unix socket on which each connection gets the events it asked for, a JSON record
//! a line.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::broadcast,
};
use tracker_common::event::Kind;

use crate::{clock::Clock, event::Event};

/// Events that a listener may be behind before it loses some.
const BACKLOG: usize = 65_536;

/// What a listener says first, in one line.
#[derive(Debug, Deserialize, Serialize)]
pub struct Request {
    /// Version of this form: 1.
    pub v: u32,
    /// The kinds of events that are wanted.
    pub events: Vec<String>,
}

#[derive(Clone)]
struct Line {
    kind: Option<Kind>,
    json: Bytes,
}

/// All listeners of an agent.
#[derive(Clone)]
pub struct Hub {
    sender: broadcast::Sender<Line>,
    wanted: Arc<Wanted>,
}

/// How many listeners want each kind, and who is told when that changes.
struct Wanted {
    counts: Mutex<[usize; Kind::ALL.len()]>,
    changed: Box<dyn Fn(u32) + Send + Sync>,
}

impl Wanted {
    fn change(&self, kinds: &[Kind], by: impl Fn(usize) -> usize) {
        let mut counts = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for kind in kinds {
            counts[*kind as usize] = by(counts[*kind as usize]);
        }
        let mask = Kind::ALL
            .iter()
            .filter(|kind| counts[**kind as usize] > 0)
            .fold(0, |mask, kind| mask | kind.bit());
        (self.changed)(mask);
    }
}

/// One listener's wish, taken back when dropped.
struct Wish {
    wanted: Arc<Wanted>,
    kinds: Vec<Kind>,
}

impl Drop for Wish {
    fn drop(&mut self) {
        self.wanted.change(&self.kinds, |count| count.saturating_sub(1));
    }
}

impl Hub {
    /// A hub whose owner wants `own` in any case; `changed` is called with the kinds that anybody wants, as a set of
    /// [`Kind::bit`]s, whenever they change.
    #[must_use]
    pub fn new(own: &[Kind], changed: impl Fn(u32) + Send + Sync + 'static) -> Self {
        let wanted = Arc::new(Wanted {
            counts: Mutex::new([0; Kind::ALL.len()]),
            changed: Box::new(changed),
        });
        wanted.change(own, |count| count + 1);
        Self { sender: broadcast::channel(BACKLOG).0, wanted }
    }

    /// Whether anybody listens on the socket.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Sends an event to whoever wants its kind; one without a kind (LOST) goes to all.
    pub fn send(&self, kind: Option<Kind>, event: &Event) {
        if !self.has_listeners() {
            return;
        }
        match to_line(event) {
            Ok(json) => {
                // No listener is no error.
                let _ = self.sender.send(Line { kind, json });
            }
            Err(error) => tracing::error!("an event cannot be written as JSON: {error}"),
        }
    }

    /// Listens on a socket that its owner and group may use, until dropped.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be made.
    pub async fn serve(self, path: &Path) -> Result<()> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        loop {
            let (stream, _) = listener.accept().await?;
            let hub = self.clone();
            tokio::spawn(async move {
                if let Err(error) = hub.attend(stream).await {
                    tracing::debug!("a listener left: {error:#}");
                }
            });
        }
    }

    async fn attend(&self, stream: UnixStream) -> Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut first = String::new();
        reader.read_line(&mut first).await?;
        let request: Request = serde_json::from_str(&first).context("reading its request")?;
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| request.events.iter().any(|name| name == kind.name()))
            .collect();
        let mut events = self.sender.subscribe();
        self.wanted.change(&kinds, |count| count + 1);
        let wish = Wish { wanted: Arc::clone(&self.wanted), kinds };
        // From here on nothing is missed; the listener may rely on it.
        writer.write_all(b"{\"v\":1,\"event\":\"LISTENING\"}\n").await?;
        let mut gone = String::new();
        loop {
            let json = tokio::select! {
                event = events.recv() => match event {
                    Ok(line) if line.kind.is_none_or(|kind| wish.kinds.contains(&kind)) => line.json,
                    Ok(_) => continue,
                    Err(broadcast::error::RecvError::Lagged(count)) => to_line(&Event::lost(count, &Clock::now()))?,
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                // The listener says nothing more; what ends this is that it goes.
                read = reader.read_line(&mut gone) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    gone.clear();
                    continue;
                }
            };
            writer.write_all(&json).await?;
        }
    }
}

fn to_line(event: &Event) -> serde_json::Result<Bytes> {
    let mut json = serde_json::to_vec(event)?;
    json.push(b'\n');
    Ok(json.into())
}
