//! Requests to servers: HTTP/1.1, TLS where the address says so.

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    client::conn::http1,
    header::{CONTENT_ENCODING, HOST, HeaderValue, RETRY_AFTER, USER_AGENT},
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
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    export::relay::Stop,
    model::{
        error::{Context, Error, Result},
        failure::Failure,
    },
};

/// What kind of server an option names.
#[derive(Debug, Eq, PartialEq)]
pub struct Service {
    /// An address, for error messages.
    pub example: &'static str,
    /// Port of `http://` without one.
    pub port: u16,
    /// Port of `https://` without one.
    pub tls_port: u16,
    /// Path of an address without one; `None` where an address has none.
    pub path: Option<&'static str>,
    /// Where a user and a secret belong, which an address has not.
    pub secrets: &'static str,
    /// The option that names authorities.
    pub authorities: &'static str,
}

/// What is done with bodies of requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Compression {
    /// Compress bodies (RFC 1952)
    #[default]
    Gzip,
    /// Send bodies as they are
    None,
}

/// A server's address: `https://clickhouse.example:8443`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    has_tls: bool,
    host: String,
    port: u16,
    path: String,
    service: &'static Service,
}

impl Address {
    /// The address that a text is.
    ///
    /// # Errors
    ///
    /// Where it is none. The message never repeats the text, which may have a secret.
    pub fn parse(text: &str, service: &'static Service) -> Result<Self, String> {
        let example = format!("as in {}", service.example);
        // Before anything else, and by itself: what is no URI may have a secret, too.
        if text.contains('@') {
            return Err(format!("an address has no user: {}", service.secrets));
        }
        let uri: Uri = text.parse().map_err(|_| format!("this is no address, {example}"))?;
        let has_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("it begins with neither http:// nor https://, {example}")),
        };
        if uri.query().is_some() || text.contains('#') {
            return Err(format!("an address has no query: {}", service.secrets));
        }
        let path = match (uri.path(), service.path) {
            ("" | "/", path) => path.unwrap_or_default(),
            (path, Some(_)) => path,
            (_, None) => {
                return Err(format!("an address has no path, only a host and a port, {example}"));
            }
        };
        let host = uri.host().unwrap_or_default().to_owned();
        if host.is_empty() {
            return Err(format!("it has no host, {example}"));
        }
        let port = uri.port_u16().unwrap_or(if has_tls { service.tls_port } else { service.port });
        Ok(Self { has_tls, host, port, path: path.to_owned(), service })
    }

    /// Its path, which begins with `/`; empty where addresses of this service have none.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Without the brackets of an IPv6 address.
    fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether a secret would pass a network in the clear.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let is_loopback = self.name().parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        !self.has_tls && !is_loopback && self.host != "localhost"
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.has_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

/// What a server answers.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, [`LONGEST_ANSWER`] bytes of it at most.
    pub body: Bytes,
}

impl Answer {
    /// What went wrong, where the status is no success: it, and the first line of the body, without control characters.
    #[must_use]
    pub fn error(&self) -> Error {
        let text = String::from_utf8_lossy(&self.body);
        Error::text(format!("the server answers {}: {}", self.status, one_line(&text)))
    }

    /// How long the server wants to be left alone (`Retry-After` in seconds, RFC 9110 section 10.2.3).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }
}

/// The first line of what a server says, its first 300 characters, without control characters.
#[must_use]
pub fn one_line(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().take(300).collect();
    line.replace(|c: char| c.is_control(), "?")
}

/// What requests to a server need.
pub struct Client<'a> {
    address: &'a Address,
    tls: Option<TlsConnector>,
}

impl<'a> Client<'a> {
    /// Reads the certificates of authorities, where there is TLS.
    ///
    /// # Errors
    ///
    /// Where they cannot be used.
    pub fn new(address: &'a Address, authorities: &Path) -> Result<Self> {
        let tls = address
            .has_tls
            .then(|| connector(authorities, address.service.authorities))
            .transpose()?;
        Ok(Self { address, tls })
    }

    /// Posts a body to a target, and waits for the answer, whatever its status is.
    ///
    /// # Errors
    ///
    /// Where there is none: whether the server has the body is unknown then.
    pub fn post(
        &self,
        target: &str,
        mut headers: HeaderMap,
        (body, compression): (&[u8], Compression),
        stop: &Stop,
    ) -> Result<Answer> {
        let body = match compression {
            Compression::Gzip => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                zipped(body).context("compressing records")?
            }
            Compression::None => body.to_vec(),
        };
        stop.run(async {
            let outcome =
                timeout(LONGEST_REQUEST, self.exchange(target, headers, body.into())).await;
            outcome.unwrap_or_else(|_| {
                Err(Error::text(format!("no answer within {} s", LONGEST_REQUEST.as_secs())))
            })
        })
        .with_context(|| self.address.to_string())
    }

    async fn exchange(&self, target: &str, headers: HeaderMap, body: Bytes) -> Result<Answer> {
        let Address { host, port, .. } = self.address;
        let name = self.address.name();
        let connecting = timeout(LONGEST_CONNECT, TcpStream::connect((name, *port))).await;
        let stream = connecting
            .map_err(|_| {
                Error::text(format!("no connection within {} s", LONGEST_CONNECT.as_secs()))
            })?
            .context("connecting")?;
        let mut request = Request::post(target)
            .body(Full::new(body))
            .map_err(|error| Error::from(Failure::foreign(error)))?;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(&format!("{host}:{port}"))
            .map_err(|error| Error::from(Failure::foreign(error)))?;
        let agent = HeaderValue::from_static(concat!("tracker/", env!("CARGO_PKG_VERSION")));
        for (header, value) in [(HOST, host), (USER_AGENT, agent)] {
            request.headers_mut().insert(header, value);
        }
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(name.to_owned())
                    .map_err(|_| Error::text(format!("`{name}` is no name of a server")))?;
                exchange(tls.connect(name, stream).await.context("TLS")?, request).await
            }
            None => exchange(stream, request).await,
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer> {
    let foreign = |error: hyper::Error| Error::from(Failure::foreign(error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(foreign)?;
    // It ends with the sender, or with this runtime.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(foreign).context("asking")?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
    let body = match body {
        Ok(body) => body.to_bytes(),
        // A server that fails later says so in the body's place.
        Err(error) if status.is_success() => return Err(Failure::foreign(error).into()),
        Err(_) => Bytes::new(),
    };
    Ok(Answer { status, headers, body })
}

fn zipped(records: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder =
        GzEncoder::new(Vec::with_capacity(records.len() / 4), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, records)?;
    encoder.finish()
}

/// Checks servers by these authorities, which an option names.
///
/// # Errors
///
/// Where they cannot be used.
pub fn connector(authorities: &Path, option: &str) -> Result<TlsConnector> {
    let named = || {
        format!(
            "the certificates of authorities in {} ({option} names another file)",
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
pub const LONGEST_ANSWER: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: Service = Service {
        example: "https://ch.example:8443",
        port: 8123,
        tls_port: 8443,
        path: None,
        secrets: "--user and --password",
        authorities: "--ca",
    };

    const WITH_PATH: Service = Service { path: Some("/v1/logs"), ..BARE };

    #[test]
    fn addresses() {
        for (text, service, shown) in [
            ("http://127.0.0.1", &BARE, "http://127.0.0.1:8123"),
            ("https://ch.example/", &BARE, "https://ch.example:8443"),
            ("https://[::1]:99", &BARE, "https://[::1]:99"),
            ("http://c", &WITH_PATH, "http://c:8123/v1/logs"),
            ("http://c:1/", &WITH_PATH, "http://c:1/v1/logs"),
            ("https://c/a/v1/logs", &WITH_PATH, "https://c:8443/a/v1/logs"),
        ] {
            let address = Address::parse(text, service).map(|address| address.to_string());
            assert_eq!(address.as_deref(), Ok(shown));
        }
        for (text, said) in [
            ("ch.example:8123", "neither http"),
            ("ftp://secret.example", "neither http"),
            ("https://u:secret@ch.example", "no user: --user and"),
            ("https//u:secret@ch.example", "no user"),
            ("https://u:sec ret@ch.example", "no user"),
            ("https://ch.example/secret", "no path"),
            ("https://ch.example/?query=secret", "no query"),
            ("https://ch.example?secret", "no query"),
            ("https://ch.example#secret", "no query"),
            ("https://", "no address"),
            ("a secret", "no address"),
        ] {
            let error = Address::parse(text, &BARE).expect_err(text);
            assert!(error.contains(said) && !error.contains("secret"), "{error}");
        }
        let is_open =
            |text: &str| Address::parse(text, &BARE).is_ok_and(|address| address.is_open());
        assert!(is_open("http://ch.example") && is_open("http://192.0.2.1"));
        for text in ["http://localhost", "http://[::1]:1", "https://ch.example"] {
            assert!(!is_open(text), "{text}");
        }
    }

    #[test]
    fn what_a_server_says_is_one_line() {
        let answer = Answer {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: [(RETRY_AFTER, HeaderValue::from_static("7"))].into_iter().collect(),
            body: Bytes::from_static(b"a\x1b[0m\nb"),
        };
        let said = "the server answers 429 Too Many Requests: a?[0m";
        assert_eq!(answer.error().to_string(), said);
        assert_eq!(answer.retry_after(), Some(Duration::from_secs(7)));
        // A date, which needs a clock that is right, is no wish.
        let headers = [(RETRY_AFTER, HeaderValue::from_static("Fri, 31 Dec 1999 23:59:59 GMT"))];
        let answer = Answer { headers: headers.into_iter().collect(), ..answer };
        assert_eq!(answer.retry_after(), None);
    }
}
