//! A connection to a broker: TCP, TLS and SASL as the settings have it, then a request at a time.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use super::{
    Broker, Mechanism,
    message::{self, Kind, Metadata, Produced, Versions},
    scram::{First, Hash},
};
use crate::model::{
    error::{Context, Error, Result},
    failure::Failure,
};

/// What a connection is opened with.
pub(super) struct Access {
    pub(super) tls: Option<TlsConnector>,
    pub(super) user: Option<User>,
}

/// Who the agent is to brokers.
pub(super) struct User {
    pub(super) mechanism: Mechanism,
    pub(super) name: String,
    pub(super) password: Zeroizing<Vec<u8>>,
}

/// An open connection, which has no request under way. What fails in the middle of one must be dropped.
pub(super) struct Connection {
    stream: Stream,
    versions: Versions,
    /// The number of the next request.
    number: i32,
    /// The broker wants to be left alone until then.
    rests_until: Option<Instant>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn io(&mut self) -> &mut dyn Io {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Connection {
    /// Opens one.
    pub(super) async fn open(broker: &Broker, access: &Access) -> Result<Self> {
        let opening = timeout(LONGEST_CONNECT, Self::open_in_time(broker, access)).await;
        let late = || Error::text(format!("no connection within {} s", LONGEST_CONNECT.as_secs()));
        opening.unwrap_or_else(|_| Err(late())).with_context(|| broker.to_string())
    }

    async fn open_in_time(broker: &Broker, access: &Access) -> Result<Self> {
        let Broker { host, port } = broker;
        let stream = TcpStream::connect((&**host, *port)).await.context("connecting")?;
        stream.set_nodelay(true).context("connecting")?;
        let stream = match &access.tls {
            Some(tls) => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| Error::text(format!("`{host}` is no name of a server")))?;
                Stream::Tls(Box::new(tls.connect(name, stream).await.context("TLS")?))
            }
            None => Stream::Plain(stream),
        };
        let mut open = Self { stream, versions: Versions::default(), number: 0, rests_until: None };
        let answer = open.ask(Kind::ApiVersions, 0, &[]).await?;
        open.versions = Versions::read(&answer)?;
        if let Some(user) = &access.user {
            open.authenticate(user).await.with_context(|| format!("user {}", user.name))?;
        }
        Ok(open)
    }

    /// Whether the broker has closed it, or sent what nobody has asked for.
    pub(super) fn is_over(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let outcome = SockRef::from(self.stream.socket()).peek(&mut byte);
        !matches!(outcome, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Where the partitions of a topic are.
    pub(super) async fn metadata(&mut self, topic: &str) -> Result<Metadata> {
        let version = self.versions.of(Kind::Metadata, (4, 4))?;
        let answer = self.ask(Kind::Metadata, version, &message::metadata_request(topic)).await?;
        let metadata = Metadata::read(&answer, topic)?;
        self.rest(metadata.throttle_ms);
        Ok(metadata)
    }

    /// Appends batches to partitions that the broker leads, and returns what became of each.
    pub(super) async fn produce(
        &mut self,
        topic: &str,
        batches: &[(i32, Vec<u8>)],
    ) -> Result<Vec<Produced>> {
        let version = self.versions.of(Kind::Produce, (3, 8))?;
        let body = message::produce_request(topic, batches);
        let answer = self.ask(Kind::Produce, version, &body).await?;
        let (produced, throttle_ms) = message::read_produced(&answer, version)?;
        self.rest(throttle_ms);
        Ok(produced)
    }

    /// The broker has answered, and wants no other request for so long (KIP-219).
    fn rest(&mut self, throttle_ms: i32) {
        let rest = Duration::from_millis(u64::try_from(throttle_ms).unwrap_or(0));
        self.rests_until = (!rest.is_zero()).then(|| Instant::now() + rest.min(LONGEST_REST));
    }

    async fn authenticate(&mut self, user: &User) -> Result<()> {
        let User { mechanism, name, password } = user;
        let version = self.versions.of(Kind::SaslHandshake, (1, 1))?;
        let body = message::handshake_request(mechanism.name());
        message::read_handshake(&self.ask(Kind::SaslHandshake, version, &body).await?)?;
        let hash = match mechanism {
            Mechanism::Plain => {
                let mut step = Zeroizing::new(Vec::with_capacity(2 + name.len() + password.len()));
                for part in [name.as_bytes(), &password[..]] {
                    step.push(0);
                    step.extend_from_slice(part);
                }
                return self.step(&step).await.map(drop);
            }
            Mechanism::ScramSha256 => Hash::Sha256,
            Mechanism::ScramSha512 => Hash::Sha512,
        };
        let mut nonce = [0; 18];
        getrandom::fill(&mut nonce).map_err(|error| Error::from(Failure::foreign(error)))?;
        let first = First::new(hash, name, STANDARD.encode(nonce));
        let answer = self.step(first.message().as_bytes()).await?;
        let (last, expected) = first.answer(&answer, password)?;
        let answer = self.step(last.as_bytes()).await?;
        expected.check(&answer)
    }

    async fn step(&mut self, step: &[u8]) -> Result<Vec<u8>> {
        let version = self.versions.of(Kind::SaslAuthenticate, (0, 0))?;
        let body = Zeroizing::new(message::authenticate_request(step));
        message::read_authenticate(&self.ask(Kind::SaslAuthenticate, version, &body).await?)
    }

    /// Sends a request, and waits for its answer.
    async fn ask(&mut self, kind: Kind, version: i16, body: &[u8]) -> Result<Vec<u8>> {
        if let Some(until) = self.rests_until.take() {
            sleep_until(until).await;
        }
        let late = || Error::text(format!("no answer within {} s", LONGEST_REQUEST.as_secs()));
        timeout(LONGEST_REQUEST, self.exchange(kind, version, body))
            .await
            .map_err(|_| late())?
            .with_context(|| format!("asking for {kind:?}"))
    }

    async fn exchange(&mut self, kind: Kind, version: i16, body: &[u8]) -> Result<Vec<u8>> {
        let number = self.number;
        self.number = number.wrapping_add(1);
        let request = Zeroizing::new(message::request(kind, version, number, body));
        let stream = self.stream.io();
        stream.write_all(&request).await.map_err(ended)?;
        stream.flush().await.map_err(ended)?;
        let length = stream.read_i32().await.map_err(ended)?;
        let length = usize::try_from(length).ok().filter(|it| (4..=LONGEST_ANSWER).contains(it));
        let length = length.ok_or_else(|| Error::text("the broker's answer is none of Kafka's"))?;
        let answered = stream.read_i32().await.map_err(ended)?;
        if answered != number {
            return Err(Error::text("the broker answers another request"));
        }
        // Memory grows with what arrives, not with what is promised.
        let mut answer = Vec::new();
        let read = stream.take(length as u64 - 4).read_to_end(&mut answer).await.map_err(ended)?;
        if read < length - 4 {
            return Err(ended(ErrorKind::UnexpectedEof.into()));
        }
        Ok(answer)
    }
}

/// Brokers close connections for what they do not want, and say nothing.
fn ended(error: io::Error) -> Error {
    if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) {
        return Error::text(
            "the broker has closed the connection; it may want TLS, or a user, or none of them",
        );
    }
    error.into()
}

/// How long opening a connection may take, TLS and SASL included.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);

/// How long a request may take.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);

/// How long a broker can ask to be left alone.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Bytes of an answer at most.
const LONGEST_ANSWER: usize = 8 << 20;
