//! What the agent does for other commands, over a unix socket: it sends the events that one asks for, a JSON record a line;
//! lends its maps to be read ([`crate::client::lent`]); and has flows deleted, for root.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use bytes::Bytes;
use nix::unistd::Uid;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
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
    },
    client::{
        lent,
        request::{DeleteAnswer, DeleteRequest, DeleteResult, LendRequest, Request},
    },
    model::{
        clock::Clock,
        event::{Event, Stage},
        filter::{self, Filter},
        scope::Scope,
    },
};

/// Events that a listener may be behind before it loses some.
const BACKLOG: usize = 65_536;

/// Octets that are written to a listener at once, about.
const CHUNK: usize = 65_536;

/// Most bytes of a request.
const LONGEST_REQUEST: usize = 65_536;

/// How long a request may take to come, and the answer to one that is refused to go.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The version of requests and answers.
const VERSION: u64 = 1;

/// The number of the owner's wish, which is the first.
const OWN: u64 = 0;

/// What a connection says first, in one line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ask {
    Delete(DeleteRequest),
    Lend(LendRequest),
    Listen(Request),
}

/// Flows that are to be deleted, for whoever removes flows.
pub struct Deletion {
    /// Which.
    pub filter: Filter,
    /// How many there were.
    pub done: oneshot::Sender<Result<u64>>,
}

#[derive(Clone)]
struct Line {
    kind: Option<Kind>,
    /// Both ends of the flow, or of the segment where there is no flow.
    ends: Option<[SocketAddr; 2]>,
    json: Bytes,
}

/// All listeners of an agent.
#[derive(Clone)]
pub struct Hub {
    sender: broadcast::Sender<Line>,
    wanted: Arc<Wanted>,
    lost: Arc<AtomicU64>,
    pins: PathBuf,
    deletions: mpsc::Sender<Deletion>,
    admission: Admission,
}

/// What listeners want, and who is told when that changes.
struct Wanted {
    wishes: Mutex<Wishes>,
    changed: Box<dyn Fn(u32, TraceFilter) + Send + Sync>,
}

#[derive(Default)]
struct Wishes {
    next: u64,
    by_number: BTreeMap<u64, Wish>,
}

/// What one listener wants.
#[derive(Clone)]
struct Wish {
    kinds: Vec<Kind>,
    scope: Scope,
}

impl Wish {
    fn is_for(&self, line: &Line) -> bool {
        line.kind.is_none_or(|kind| self.kinds.contains(&kind))
            && line.ends.is_none_or(|ends| self.scope.contains(ends))
    }

    /// Adds a line, if it is wanted.
    fn add_to(&self, lines: &mut Vec<u8>, line: &Line) {
        if self.is_for(line) {
            lines.extend_from_slice(&line.json);
        }
    }
}

impl Wanted {
    fn change<T>(&self, by: impl FnOnce(&mut Wishes) -> T) -> T {
        let mut wishes = self.wishes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = by(&mut wishes);
        let (events, trace) = wishes.together();
        (self.changed)(events, trace);
        result
    }
}

impl Wishes {
    fn add(&mut self, wish: Wish) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_number.insert(number, wish);
        number
    }

    /// The kinds that anybody wants, as a set of [`Kind::bit`]s, and whose segments.
    fn together(&self) -> (u32, TraceFilter) {
        let wishes = || self.by_number.values();
        let events =
            wishes().flat_map(|wish| &wish.kinds).fold(0, |events, kind| events | kind.bit());
        let scope = wishes()
            .filter(|wish| wish.kinds.contains(&Kind::Segment))
            .map(|wish| wish.scope)
            .reduce(|one, other| one.union(&other));
        (events, scope.unwrap_or_default().trace_filter())
    }
}

/// One listener's place among the wishes, given up when dropped.
struct Place {
    wanted: Arc<Wanted>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.wanted.change(|wishes| wishes.by_number.remove(&self.number));
    }
}

impl Hub {
    /// A hub whose owner wants `own` in any case; `changed` is called with the kinds that anybody wants, as a set of
    /// [`Kind::bit`]s, and whose segments, whenever that may have changed. It lends the maps in `pins`, and asks for `deletions`.
    #[must_use]
    pub fn new(
        own: &[Kind],
        changed: impl Fn(u32, TraceFilter) + Send + Sync + 'static,
        pins: PathBuf,
        deletions: mpsc::Sender<Deletion>,
    ) -> Self {
        let wanted = Arc::new(Wanted { wishes: Mutex::default(), changed: Box::new(changed) });
        wanted.change(|wishes| wishes.add(Wish { kinds: own.to_vec(), scope: Scope::default() }));
        let sender = broadcast::channel(BACKLOG).0;
        let admission = Admission::default();
        Self { sender, wanted, lost: Arc::default(), pins, deletions, admission }
    }

    /// Changes what the hub's owner wants, and tells who is told of wishes in any case.
    pub fn want(&self, own: &[Kind]) {
        self.wanted.change(|wishes| {
            wishes.by_number.insert(OWN, Wish { kinds: own.to_vec(), scope: Scope::default() })
        });
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
                let _ = self.sender.send(Line { kind, ends: ends(event), json });
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
        let mut socket = ClientSocket::bind(path)?;
        loop {
            let stream = socket.accept().await;
            let hub = self.clone();
            tokio::spawn(async move {
                if let Err(error) = hub.attend(stream).await {
                    tracing::debug!("a listener left: {error:#}");
                }
            });
        }
    }

    async fn attend(&self, stream: UnixStream) -> Result<()> {
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
            Ask::Listen(request) => self.send_events(request, reader, writer).await,
            Ask::Lend(request) => {
                writer.writable().await?;
                let stream = writer.as_ref();
                let lend = || lent::lend(&self.pins, &request, stream.as_fd());
                if let Err(error) = stream.try_io(Interest::WRITABLE, lend) {
                    return refuse(&mut writer, format!("lending maps: {error}")).await;
                }
                // Until the client has taken them, they count as the agent's.
                let_leave(&mut reader).await
            }
            Ask::Delete(request) => {
                let result = if is_owner {
                    self.delete(&request.delete).await
                } else {
                    Err(anyhow!("deleting flows needs root: run this with sudo"))
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
        let filter = filter::words(words).map_err(Error::msg)?;
        let (done, result) = oneshot::channel();
        self.deletions.send(Deletion { filter, done }).await.ok().context("the agent ends")?;
        result.await.context("the agent ends")?
    }

    async fn send_events(
        &self,
        request: Request,
        mut reader: BufReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> Result<()> {
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| request.events.iter().any(|name| name == kind.name()))
            .collect();
        let mut events = self.sender.subscribe();
        let wish = Wish { kinds, scope: request.trace.unwrap_or_default() };
        let number = self.wanted.change(|wishes| wishes.add(wish.clone()));
        let _place = Place { wanted: Arc::clone(&self.wanted), number };
        // From here on nothing is missed; the listener may rely on it.
        writer.write_all(b"{\"v\":1,\"event\":\"LISTENING\"}\n").await?;
        let mut leaving = std::pin::pin!(let_leave(&mut reader));
        let mut lines = Vec::with_capacity(2 * CHUNK);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(line) => wish.add_to(&mut lines, &line),
                    Err(RecvError::Lagged(count)) => self.add_lost(count, &mut lines)?,
                    Err(RecvError::Closed) => return Ok(()),
                },
                // What ends this is that it goes.
                left = &mut leaving => return left,
            }
            // What else has come goes with it.
            while lines.len() < CHUNK {
                match events.try_recv() {
                    Ok(line) => wish.add_to(&mut lines, &line),
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

/// What a client asks for, in one line; `None` where it has left without a word.
async fn read_request(reader: &mut BufReader<OwnedReadHalf>) -> Result<Option<Ask>> {
    let mut line = Vec::new();
    let most = u64::try_from(LONGEST_REQUEST)?;
    reader.take(most).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    ensure!(
        line.ends_with(b"\n") || line.len() < LONGEST_REQUEST,
        "a request is one line of {LONGEST_REQUEST} octets at most"
    );
    let asked: Value = serde_json::from_slice(&line).context("a request is one line of JSON")?;
    match asked.get("v").and_then(Value::as_u64) {
        Some(VERSION) => {}
        other => bail!(
            "this agent (tracker {}) understands requests of version {VERSION}, and not {}",
            env!("CARGO_PKG_VERSION"),
            other.map_or_else(|| "one without a version".to_owned(), |v| format!("of version {v}"))
        ),
    }
    let asks = |name: &str| asked.get(name).is_some();
    ensure!(
        asks("events") || asks("delete") || asked.get("lend") == Some(&Value::Bool(true)),
        "this agent (tracker {}) knows no such request; there are `events`, `lend` and `delete`",
        env!("CARGO_PKG_VERSION")
    );
    Ok(Some(serde_json::from_value(asked).context("the request is not of a known form")?))
}

/// Tells a client why it gets nothing. One that does not read it is left.
async fn refuse(writer: &mut OwnedWriteHalf, why: String) -> Result<()> {
    let mut line = serde_json::to_vec(&DeleteAnswer { v: 1, result: DeleteResult::Error(why) })?;
    line.push(b'\n');
    Ok(timeout(LONGEST_WAIT, writer.write_all(&line)).await??)
}

/// Waits until a client leaves, which says nothing more.
async fn let_leave(reader: &mut BufReader<OwnedReadHalf>) -> Result<()> {
    let mut ignored = [0; 1024];
    let mut count = 0;
    loop {
        match reader.read(&mut ignored).await? {
            0 => return Ok(()),
            more => count += more,
        }
        ensure!(count <= LONGEST_REQUEST, "it says more than it is asked");
    }
}

fn ends(event: &Event) -> Option<[SocketAddr; 2]> {
    if let Some(flow) = &event.flow {
        return Some([(flow.src, flow.sport).into(), (flow.dst, flow.dport).into()]);
    }
    let segment = event.segment.as_ref()?;
    Some([(segment.src, segment.sport).into(), (segment.dst, segment.dport).into()])
}

fn to_line(event: &Event) -> serde_json::Result<Bytes> {
    let mut json = serde_json::to_vec(event)?;
    json.push(b'\n');
    Ok(json.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(kinds: &[Kind], port: Option<u16>) -> Wish {
        Wish { kinds: kinds.to_vec(), scope: Scope { address: None, port } }
    }

    fn port(trace: TraceFilter) -> u16 {
        u16::from_be_bytes(trace.port)
    }

    #[test]
    fn the_kernel_is_asked_for_what_anybody_wants() {
        const SEGMENT: u32 = Kind::Segment.bit();
        let mut wishes = Wishes::default();
        wishes.add(wish(&[Kind::New], None));
        assert_eq!(wishes.together(), (Kind::New.bit(), TraceFilter::default()));
        // Who does not trace widens nothing.
        let one = wishes.add(wish(&[Kind::Segment], Some(80)));
        let (events, trace) = wishes.together();
        assert_eq!((events, port(trace)), (Kind::New.bit() | SEGMENT, 80));
        let other = wishes.add(wish(&[Kind::Segment, Kind::Destroy], Some(443)));
        assert_eq!(wishes.together().1, TraceFilter::default());
        wishes.by_number.remove(&one);
        assert_eq!(port(wishes.together().1), 443);
        wishes.by_number.remove(&other);
        assert_eq!(wishes.together(), (Kind::New.bit(), TraceFilter::default()));
    }
}
