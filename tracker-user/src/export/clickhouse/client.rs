//! Requests to a ClickHouse server: HTTP/1.1, TLS where the address says so.

use std::{fmt, fs, path::Path, str::FromStr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Uri,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_ENCODING, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::Settings;
use crate::model::{
    error::{Context, Error, Result},
    failure::Failure,
};

/// A server's address: `https://clickhouse.example:8443`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    has_tls: bool,
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "as in https://clickhouse.example:8443";
        let uri: Uri = text.parse().map_err(|_| format!("`{text}` is no address, {example}"))?;
        let has_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => {
                return Err(format!(
                    "`{text}` begins with neither http:// nor https://, {example}"
                ));
            }
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(
                "an address has no user: --export-clickhouse-user and a password in a file"
                    .to_owned(),
            );
        }
        if uri.path_and_query().is_some_and(|path| !matches!(path.as_str(), "" | "/")) {
            return Err(format!("`{text}` has a path; only a host and a port, {example}"));
        }
        let host = uri.host().unwrap_or_default().to_owned();
        if host.is_empty() {
            return Err(format!("`{text}` has no host, {example}"));
        }
        let port = uri.port_u16().unwrap_or(if has_tls { 8443 } else { 8123 });
        Ok(Self { has_tls, host, port })
    }
}

impl Address {
    /// Without the brackets of an IPv6 address.
    fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether a password would pass a network in the clear.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let is_loopback = self.name().parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        !self.has_tls && !is_loopback && self.host != "localhost"
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.has_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// A table of a database, as in `tracker.records`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table(String);

impl Default for Table {
    fn default() -> Self {
        Self("tracker.records".to_owned())
    }
}

impl FromStr for Table {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        match text.split_once('.') {
            Some((database, table)) if is_name(database) && is_name(table) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(format!("`{text}` is no DATABASE.TABLE of letters, digits and `_`")),
        }
    }
}

/// Ends what is waited for.
#[derive(Debug)]
pub(super) struct Stop(watch::Sender<bool>, tokio::runtime::Runtime);

impl Stop {
    /// Not yet.
    ///
    /// # Errors
    ///
    /// Where there are no descriptors for it.
    pub(super) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("preparing connections")?;
        Ok(Self(watch::channel(false).0, runtime))
    }

    /// From now on nothing is waited for.
    pub(super) fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was set.
    pub(super) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for so long, or until it is set.
    pub(super) fn wait(&self, longest: Duration) {
        self.1.block_on(async {
            let mut stopped = self.0.subscribe();
            let _ = timeout(longest, stopped.wait_for(|is_set| *is_set)).await;
        });
    }

    /// Does something, unless it is set meanwhile.
    fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.1.block_on(async {
            let mut stopped = self.0.subscribe();
            tokio::select! {
                result = work => result,
                _ = stopped.wait_for(|is_set| *is_set) => Err(Error::text("the agent ends")),
            }
        })
    }
}

/// What requests need.
pub(super) struct Client<'a> {
    settings: &'a Settings,
    tls: Option<TlsConnector>,
    authorization: Option<HeaderValue>,
}

impl<'a> Client<'a> {
    /// Reads the certificates of authorities, where there is TLS.
    ///
    /// # Errors
    ///
    /// Where they, or the user's name or password, cannot be used.
    pub(super) fn new(
        settings: &'a Settings,
        password: Option<&Zeroizing<Vec<u8>>>,
    ) -> Result<Self> {
        let tls = settings.address.has_tls.then(|| connector(&settings.authorities)).transpose()?;
        let authorization = settings.user.as_deref().map(|user| {
            let mut plain = Zeroizing::new(format!("{user}:").into_bytes());
            plain.extend_from_slice(password.map_or(&[][..], |password| password));
            let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*plain)));
            let mut value = HeaderValue::from_str(&encoded)
                .map_err(|_| Error::text("the user's name or password cannot be sent"))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        Ok(Self { settings, tls, authorization: authorization.transpose()? })
    }

    /// Inserts rows; that they were, the server has said.
    ///
    /// # Errors
    ///
    /// Where it has not: whether it has the rows is unknown then.
    pub(super) fn insert(&self, rows: &[u8], stop: &Stop) -> Result<()> {
        let Settings { address, .. } = self.settings;
        let body = zipped(rows).context("compressing rows")?;
        stop.run(async {
            let outcome = timeout(LONGEST_REQUEST, self.post(body.into())).await;
            outcome.unwrap_or_else(|_| {
                Err(Error::text(format!("no answer within {} s", LONGEST_REQUEST.as_secs())))
            })
        })
        .with_context(|| address.to_string())
    }

    async fn post(&self, body: Bytes) -> Result<()> {
        let Address { host, port, .. } = &self.settings.address;
        let name = self.settings.address.name();
        let connecting = timeout(LONGEST_CONNECT, TcpStream::connect((name, *port))).await;
        let stream = connecting
            .map_err(|_| {
                Error::text(format!("no connection within {} s", LONGEST_CONNECT.as_secs()))
            })?
            .context("connecting")?;
        let request = self.request(host, *port, body)?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(name.to_owned())
                    .map_err(|_| Error::text(format!("`{name}` is no name of a server")))?;
                exchange(tls.connect(name, stream).await.context("TLS")?, request).await
            }
            None => exchange(stream, request).await,
        }
    }

    fn request(&self, host: &str, port: u16, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let target = format!(
            "/?query=INSERT%20INTO%20{}%20FORMAT%20JSONEachRow&input_format_skip_unknown_fields=1",
            self.settings.table.0
        );
        let mut request = Request::post(target)
            .header(HOST, format!("{host}:{port}"))
            .header(USER_AGENT, concat!("tracker/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_ENCODING, "gzip");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).map_err(|error| Failure::foreign(error).into())
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<()> {
    let foreign = |error: hyper::Error| Error::from(Failure::foreign(error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(foreign)?;
    // It ends with the sender, or with this runtime.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(foreign).context("asking")?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
    if status.is_success() {
        // A server that fails later says so in the body's place.
        return body.map(|_| ()).map_err(|error| Error::from(Failure::foreign(error)));
    }
    let text = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line: String = text.lines().next().unwrap_or_default().chars().take(300).collect();
    let line = line.replace(|c: char| c.is_control(), "?");
    Err(Error::text(format!("the server answers {status}: {line}")))
}

fn zipped(rows: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(rows.len() / 4), Compression::fast());
    std::io::Write::write_all(&mut encoder, rows)?;
    encoder.finish()
}

/// Checks servers by these authorities.
fn connector(authorities: &Path) -> Result<TlsConnector> {
    let named = || {
        format!(
            "the certificates of authorities in {} (--export-clickhouse-ca names another file)",
            authorities.display()
        )
    };
    let text = fs::read(authorities).with_context(named)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        // Some that systems have are too old for rustls.
        let certificate = certificate.map_err(|error| Error::from(Failure::foreign(error)));
        let _ = roots.add(certificate.with_context(named)?);
    }
    if roots.is_empty() {
        return Err(Error::text("there is none")).with_context(named);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::from(Failure::foreign(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// How long a connection may take.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);

/// How long all of a request may take.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);

/// Bytes of an answer that are read.
const LONGEST_ANSWER: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("http://127.0.0.1", "http://127.0.0.1:8123"),
            ("https://ch.example/", "https://ch.example:8443"),
            ("https://[::1]:99", "https://[::1]:99"),
        ] {
            let address = text.parse::<Address>().map(|address| address.to_string());
            assert_eq!(address.as_deref(), Ok(shown));
        }
        for (text, said) in [
            ("ch.example:8123", "neither http"),
            ("ftp://ch.example", "neither http"),
            ("https://u:secret@ch.example", "no user"),
            ("https://ch.example/?query=DROP", "has a path"),
            ("https://", "no address"),
            ("a b", "no address"),
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.contains(said) && !error.contains("secret"), "{error}");
        }
        let is_open = |text: &str| text.parse::<Address>().is_ok_and(|address| address.is_open());
        assert!(is_open("http://ch.example") && is_open("http://192.0.2.1"));
        for text in ["http://localhost", "http://[::1]:1", "https://ch.example"] {
            assert!(!is_open(text), "{text}");
        }
    }

    #[test]
    fn tables() {
        assert!("tracker.records".parse::<Table>().is_ok());
        for text in ["records", "a.b.c", "a.b c", "a.", "1.b", "a.b%20", "a.`b`"] {
            assert!(text.parse::<Table>().is_err(), "{text}");
        }
    }
}
