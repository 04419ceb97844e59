//! The HTTP server: `/metrics`, `/healthz` and `/readyz`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Incoming, header, header::HeaderValue,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    sync::Semaphore,
    time::timeout,
};

use super::{
    Telemetry,
    access::Access,
    address::MetricsAddress,
    handshakes::Handshakes,
    listener::{Client, Listener},
    places::Places,
};
use crate::model::{clock::monotonic_ns, error::Result};

/// Clients that are served at a time.
const CLIENTS: usize = 64;

/// How long one client is served, however slowly it reads or writes.
const LONGEST: Duration = Duration::from_secs(30);

/// How long a request may take to come.
const HEADER: Duration = Duration::from_secs(5);

/// What Prometheus knows as OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything else.
const TEXT: &str = "text/plain; charset=utf-8";

/// Where metrics will be served.
pub struct Endpoint {
    /// Clients wait here until they are served.
    pub listener: Listener,
    /// What clients need.
    pub access: Arc<Access>,
    /// When it began to listen, in nanoseconds since boot: before anything is attached, and so before all that is counted.
    pub since_ns: u64,
}

/// Listens.
///
/// # Errors
///
/// Where the address or the socket cannot be had.
pub async fn bind(at: &MetricsAddress, access: Access) -> Result<Endpoint> {
    let listener = Listener::bind(at).await?;
    Ok(Endpoint { listener, access: Arc::new(access), since_ns: monotonic_ns() })
}

/// Starts to serve, until the runtime ends. What goes wrong with one client concerns no other.
///
/// # Errors
///
/// Where TLS is wanted, and its thread cannot be started.
pub fn start(mut listener: Listener, access: Arc<Access>, telemetry: Arc<Telemetry>) -> Result<()> {
    let handshakes = if access.tls().is_some() { Some(Handshakes::start()?) } else { None };
    let server = Arc::new(Server {
        access,
        telemetry,
        scraping: Arc::new(Semaphore::new(1)),
        runtime: Handle::current(),
        places: Places::new(CLIENTS),
    });
    tokio::spawn(async move {
        loop {
            let (stream, client) = listener.accept().await;
            let server = Arc::clone(&server);
            match (&handshakes, server.access.tls()) {
                (Some(handshakes), Some(config)) => {
                    let serve = move |stream, client| server.serve(stream, client);
                    handshakes.begin(stream, client, config, serve);
                }
                (None, _) => server.serve(stream, client),
                // Never in the clear.
                (Some(_), None) => {}
            }
        }
    });
    Ok(())
}

/// What all connections share.
struct Server {
    access: Arc<Access>,
    telemetry: Arc<Telemetry>,
    /// Scrapes are done one at a time.
    scraping: Arc<Semaphore>,
    /// The agent's.
    runtime: Handle,
    places: Places,
}

impl Server {
    fn serve(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        client: Client,
    ) {
        let server = Arc::clone(&self);
        let task = self.runtime.spawn(async move {
            let service = service_fn(|request| server.answer(request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER)
                .max_buf_size(16 << 10)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(LONGEST, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => say_left(client, &error),
                Err(error) => say_left(client, &error),
            }
        });
        self.places.give(client.source(), task.abort_handle());
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into());
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(refusal);
        }
        let is_admitted = self.access.admits(request.headers());
        Ok(match request.uri().path() {
            "/metrics" if !is_admitted => unauthorized(request.headers()),
            "/metrics" => match self.scrape().await {
                Ok(text) => response(StatusCode::OK, OPENMETRICS, text),
                Err(error) => {
                    tracing::warn!("metrics cannot be read: {error:#}");
                    let said = format!("{error:#}\n");
                    response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, said)
                }
            },
            "/healthz" => response(StatusCode::OK, TEXT, "ok\n".into()),
            "/readyz" => match self.telemetry.readiness() {
                Ok(()) => response(StatusCode::OK, TEXT, "ready\n".into()),
                // Why not may name an interface.
                Err(why) => {
                    let why = if is_admitted { &why } else { "not ready" };
                    response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
                }
            },
            _ => response(
                StatusCode::NOT_FOUND,
                TEXT,
                "there are /metrics, /healthz and /readyz\n".into(),
            ),
        })
    }

    /// One at a time, on a thread of its own.
    async fn scrape(&self) -> Result<String> {
        let turn = Arc::clone(&self.scraping).acquire_owned().await?;
        let telemetry = Arc::clone(&self.telemetry);
        tokio::task::spawn_blocking(move || {
            // Also where its client has left meanwhile.
            let _turn = turn;
            telemetry.text()
        })
        .await?
    }
}

fn say_left(client: Client, why: &dyn std::error::Error) {
    tracing::debug!(%client, "a client of the metrics left: {why}");
}

/// The answer to a request without the token, or with another one (RFC 6750 section 3).
fn unauthorized(headers: &HeaderMap) -> Response<Full<Bytes>> {
    let challenge = if headers.contains_key(header::AUTHORIZATION) {
        "Bearer realm=\"tracker\", error=\"invalid_token\""
    } else {
        "Bearer realm=\"tracker\""
    };
    let said = "this needs the token of --metrics-token: `Authorization: Bearer TOKEN`\n";
    let mut refusal = response(StatusCode::UNAUTHORIZED, TEXT, said.into());
    let challenge = HeaderValue::from_static(challenge);
    refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    refusal
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
