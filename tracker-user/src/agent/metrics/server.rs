//! The HTTP server: `/metrics`, `/healthz` and `/readyz`.

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle, time::timeout};

use super::{Telemetry, address::MetricsAddress};
use crate::model::clock::monotonic_ns;

/// Clients that are served at a time. A further one takes the place of the one that came first: so those that hang keep nobody
/// from `/readyz`.
const CLIENTS: usize = 64;

/// How long one client is served, however slowly it reads or writes.
const LONGEST: Duration = Duration::from_secs(30);

/// How long a request may take to come.
const HEADER: Duration = Duration::from_secs(5);

/// What Prometheus knows as OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where metrics will be served.
#[derive(Debug)]
pub struct Endpoint {
    /// Clients wait here until they are served.
    pub listener: TcpListener,
    /// When it began to listen, in nanoseconds since boot: before anything is attached, and so before all that is counted.
    pub since_ns: u64,
}

/// Listens.
///
/// # Errors
///
/// Where the address cannot be had.
pub async fn bind(MetricsAddress(at): MetricsAddress) -> Result<Endpoint> {
    let listener = TcpListener::bind(at).await.with_context(|| {
        format!("serving metrics on {at}; choose another address with `--metrics ADDRESS:PORT`")
    })?;
    Ok(Endpoint { listener, since_ns: monotonic_ns() })
}

/// Serves until dropped. What goes wrong with one client concerns no other.
pub async fn serve(listener: TcpListener, telemetry: Arc<Telemetry>) {
    let scraping = Arc::new(Semaphore::new(1));
    let mut served: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, for instance: it may get better, and must not spin.
                tracing::warn!("accepting a client of the metrics: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (telemetry, scraping) = (Arc::clone(&telemetry), Arc::clone(&scraping));
        served.retain(|one| !one.is_finished());
        if served.len() >= CLIENTS
            && let Some(first) = served.pop_front()
        {
            first.abort();
        }
        served.push_back(tokio::spawn(async move {
            let service = service_fn(|request| {
                answer(request, Arc::clone(&telemetry), Arc::clone(&scraping))
            });
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
        }));
    }
}

fn say_left(client: SocketAddr, why: &dyn std::error::Error) {
    tracing::debug!(%client, "a client of the metrics left: {why}");
}

async fn answer(
    request: Request<Incoming>,
    telemetry: Arc<Telemetry>,
    scraping: Arc<Semaphore>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into());
        refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    Ok(match request.uri().path() {
        "/metrics" => match scrape(telemetry, scraping).await {
            Ok(text) => response(StatusCode::OK, OPENMETRICS, text),
            Err(error) => {
                tracing::warn!("metrics cannot be read: {error:#}");
                let said = format!("{error:#}\n");
                response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, said)
            }
        },
        "/healthz" => response(StatusCode::OK, TEXT, "ok\n".into()),
        "/readyz" => match telemetry.readiness() {
            Ok(()) => response(StatusCode::OK, TEXT, "ready\n".into()),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        _ => response(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /metrics, /healthz and /readyz\n".into(),
        ),
    })
}

/// One at a time, on a thread of its own.
async fn scrape(telemetry: Arc<Telemetry>, scraping: Arc<Semaphore>) -> Result<String> {
    let turn = scraping.acquire_owned().await?;
    tokio::task::spawn_blocking(move || {
        // Also where its client has left meanwhile.
        let _turn = turn;
        telemetry.text()
    })
    .await?
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
