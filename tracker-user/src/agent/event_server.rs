//! The agent's unix socket for other commands: it sends the events that a client subscribes to, one JSON record per line,
//! shares its maps ([`crate::client::map_sharing`]), and passes requests to delete flows on to the sweeps, for root.

pub mod client_request;
mod subscription;

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::unistd::Uid;
use tokio::{
    io::{AsyncWriteExt, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
        mpsc, oneshot,
    },
    time::timeout,
};
use tracker_common::{config::TraceFilter, event::Kind};

use crate::{
    agent::{
        admission::{Admission, Admitted},
        client_socket::ClientSocket,
        event_server::{
            client_request::{ClientRequest, LONGEST_WAIT, read_request, refuse, wait_for_close},
            subscription::{EventLine, SharedSubscriptions, Subscription, ends, to_line},
        },
    },
    client::{
        map_sharing,
        request::{DELETE_NEEDS_ROOT, DeleteAnswer, DeleteResult, EventRequest},
    },
    model::{
        clock::Clock,
        error::{Context, Error, Result},
        event::{Event, Stage},
        filter::{self, Filter},
    },
};

/// Events that a listener may be behind before it loses some.
const BACKLOG: usize = 65_536;

/// Bytes that are written to a listener at once, about.
const CHUNK: usize = 65_536;

/// What a client is answered for which there is no descriptor.
const TURNED_AWAY: &[u8] =
    b"{\"v\":1,\"error\":\"the agent has no descriptors left; try again later\"}\n";

/// A request to delete flows, for the loop of sweeps.
pub struct Deletion {
    /// Which.
    pub filter: Filter,
    /// How many there were.
    pub done: oneshot::Sender<Result<u64>>,
}

/// The socket of an agent, and all its clients.
#[derive(Clone)]
pub struct EventServer {
    sender: broadcast::Sender<EventLine>,
    subscriptions: Arc<SharedSubscriptions>,
    lost: Arc<AtomicU64>,
    pins: PathBuf,
    deletions: mpsc::Sender<Deletion>,
    admission: Admission,
}

impl EventServer {
    /// A server for an agent that subscribes to `own` itself. Whenever subscriptions change, `changed` is called with their
    /// union: the kinds, as a set of [`Kind::bit`]s, and whose segments. The server shares the maps in `pins`, and sends
    /// requests to delete flows to `deletions`.
    #[must_use]
    pub fn new(
        own: &[Kind],
        changed: impl Fn(u32, TraceFilter) + Send + Sync + 'static,
        pins: PathBuf,
        deletions: mpsc::Sender<Deletion>,
    ) -> Self {
        Self {
            sender: broadcast::channel(BACKLOG).0,
            subscriptions: SharedSubscriptions::new(own, changed),
            lost: Arc::default(),
            pins,
            deletions,
            admission: Admission::default(),
        }
    }

    /// Replaces the agent's own subscription, and calls `changed` whether that changes the union or not.
    pub fn set_own(&self, own: &[Kind]) {
        self.subscriptions.set_own(own);
    }

    /// Counts events that listeners were too slow for.
    #[must_use]
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Whether anybody listens on the socket.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Sends an event to whoever wants its kind and its flow; one without a kind (LOST) goes to all.
    pub fn send(&self, kind: Option<Kind>, event: &Event) {
        if !self.has_listeners() {
            return;
        }
        match to_line(event) {
            Ok(json) => {
                // No listener is no error.
                let _ = self.sender.send(EventLine { kind, ends: ends(event), json });
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
        let mut socket = ClientSocket::bind(path, TURNED_AWAY)?;
        loop {
            let stream = socket.accept().await;
            let server = self.clone();
            tokio::spawn(async move {
                if let Err(error) = server.serve_client(stream).await {
                    tracing::debug!("a listener left: {error:#}");
                }
            });
        }
    }

    async fn serve_client(&self, stream: UnixStream) -> Result<()> {
        // Whose socket it is may also say what is to be deleted, and so may root.
        let user = Uid::from_raw(stream.peer_cred()?.uid());
        let is_owner = user.is_root() || user == Uid::effective();
        let (reader, mut writer) = stream.into_split();
        let _place: Admitted = match self.admission.admit(user.as_raw(), is_owner) {
            Ok(place) => place,
            Err(why) => return refuse(&mut writer, why).await,
        };
        let mut reader = BufReader::new(reader);
        let asked = match timeout(LONGEST_WAIT, read_request(&mut reader)).await {
            Ok(Ok(Some(asked))) => asked,
            // It has left without a word.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return refuse(&mut writer, format!("{error:#}")).await,
            Err(_) => {
                let seconds = LONGEST_WAIT.as_secs();
                let why = format!("no request has come within {seconds} s");
                return refuse(&mut writer, why).await;
            }
        };
        match asked {
            ClientRequest::Events(request) => self.send_events(request, reader, writer).await,
            ClientRequest::Maps(request) => {
                writer.writable().await?;
                let stream = writer.as_ref();
                let share = || map_sharing::share(&self.pins, &request, stream.as_fd());
                if let Err(error) = stream.try_io(Interest::WRITABLE, share) {
                    return refuse(&mut writer, format!("sharing maps: {error}")).await;
                }
                // Until the client has taken them, they count as the agent's.
                wait_for_close(&mut reader).await
            }
            ClientRequest::Delete(request) => {
                let result = if is_owner {
                    self.delete(&request.delete).await
                } else {
                    Err(Error::text(DELETE_NEEDS_ROOT))
                };
                let result = match result {
                    Ok(count) => DeleteResult::Deleted(count),
                    Err(error) => DeleteResult::Error(format!("{error:#}")),
                };
                let mut line = serde_json::to_vec(&DeleteAnswer { v: 1, result })?;
                line.push(b'\n');
                Ok(writer.write_all(&line).await?)
            }
        }
    }

    async fn delete(&self, words: &str) -> Result<u64> {
        let filter = filter::words(words).map_err(Error::text)?;
        let (done, result) = oneshot::channel();
        self.deletions.send(Deletion { filter, done }).await.ok().context("the agent ends")?;
        result.await.context("the agent ends")?
    }

    async fn send_events(
        &self,
        request: EventRequest,
        mut reader: BufReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> Result<()> {
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| request.events.iter().any(|name| name == kind.name()))
            .collect();
        let mut events = self.sender.subscribe();
        let subscription = Subscription { kinds, scope: request.trace.unwrap_or_default() };
        let _guard = self.subscriptions.subscribe(subscription.clone());
        // From here on nothing is missed; the listener may rely on it.
        writer.write_all(b"{\"v\":1,\"event\":\"LISTENING\"}\n").await?;
        let mut leaving = std::pin::pin!(wait_for_close(&mut reader));
        let mut lines = Vec::with_capacity(2 * CHUNK);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(line) => subscription.add_to(&mut lines, &line),
                    Err(RecvError::Lagged(count)) => self.add_lost(count, &mut lines)?,
                    Err(RecvError::Closed) => return Ok(()),
                },
                // What ends this is that it goes.
                left = &mut leaving => return left,
            }
            // What else has come goes with it.
            while lines.len() < CHUNK {
                match events.try_recv() {
                    Ok(line) => subscription.add_to(&mut lines, &line),
                    Err(TryRecvError::Lagged(count)) => self.add_lost(count, &mut lines)?,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            writer.write_all(&lines).await?;
            lines.clear();
        }
    }

    /// Counts events that a listener was too slow for, and adds the line that tells it.
    fn add_lost(&self, count: u64, lines: &mut Vec<u8>) -> Result<()> {
        self.lost.fetch_add(count, Ordering::Relaxed);
        lines.extend_from_slice(&to_line(&Event::lost(count, Stage::Listener, &Clock::now()))?);
        Ok(())
    }
}
