//! The exporter `otlp`: log records over OTLP/HTTP, in protobuf.
//!
//! [OTLP 1.x](https://opentelemetry.io/docs/specs/otlp/) says what answers mean. A record lies in the spool as it is sent.

mod headers;
mod log_record;
mod request;

use std::path::PathBuf;

use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use zeroize::Zeroizing;

use crate::{
    export::{
        http::{self, Address, Answer, Client, Compression, Service},
        record::{ExportRecord, Origin},
        relay::{Receipt, Receiver, Refusal, Stop},
    },
    model::error::{Context, Error, Result},
};

/// Where log records go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The collector.
    pub address: Address,
    /// A file with headers of requests, one `Name: value` a line.
    pub headers: Option<PathBuf>,
    /// Whether requests are compressed.
    pub compression: Compression,
    /// Certificates of authorities in PEM, which the collector's is checked by.
    pub authorities: PathBuf,
}

/// A collector that `--export-otlp` names.
pub const SERVICE: Service = Service {
    example: "https://collector.example:4318",
    port: 4318,
    tls_port: 4318,
    path: Some("/v1/logs"),
    secrets: "headers in a file have it, which --export-otlp-headers names",
    authorities: "--export-otlp-ca",
};

/// Returns the text of the file with headers as it is now; `None` where there is none.
pub type Headers = Box<dyn Fn() -> Result<Option<Zeroizing<Vec<u8>>>> + Send + Sync>;

/// A collector.
pub struct Collector {
    settings: Settings,
    headers: Headers,
    /// What is ahead of log records in every request.
    resource: request::Resource,
}

impl Collector {
    /// The collector of these settings, for the records of an agent.
    #[must_use]
    pub fn new(settings: Settings, headers: Headers, origin: &Origin) -> Self {
        Self { settings, headers, resource: request::Resource::new(origin) }
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = match (self.headers)()? {
            Some(text) => headers::parse(&text)
                .with_context(|| format!("the headers in {}", named(&self.settings)))?,
            None => HeaderMap::new(),
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
        Ok(headers)
    }
}

fn named(settings: &Settings) -> String {
    settings.headers.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

impl Receiver for Collector {
    fn name(&self) -> &'static str {
        "--export-otlp"
    }

    fn check(&self) -> Result<()> {
        self.headers()?;
        Client::new(&self.settings.address, &self.settings.authorities).map(drop)
    }

    fn encode(&self, record: &ExportRecord) -> Option<Vec<u8>> {
        log_record::of(record)
    }

    fn split<'a>(&self, records: &'a [u8]) -> Vec<&'a [u8]> {
        request::split(records)
    }

    fn send(&self, records: &[u8], stop: &Stop) -> Result<Receipt, Refusal> {
        let Settings { address, authorities, compression, .. } = &self.settings;
        let client = Client::new(address, authorities)?;
        let body = self.resource.request(records);
        let body = (&body[..], *compression);
        let answer = client.post(address.path(), self.headers()?, body, stop)?;
        verdict(&answer).map_err(|refusal| match refusal {
            Refusal::Later { error, after } => {
                Refusal::Later { error: error.context(address.to_string()), after }
            }
            Refusal::Content(error) => Refusal::Content(error.context(address.to_string())),
        })
    }
}

/// What an answer means (OTLP, "OTLP/HTTP Response").
fn verdict(answer: &Answer) -> Result<Receipt, Refusal> {
    let is_protobuf = answer.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == PROTOBUF);
    if answer.status.is_success() {
        let (rejected, said) = request::partial_success(&answer.body).unwrap_or_default();
        return Ok(Receipt { rejected, said: http::one_line(&said) });
    }
    let error = match request::status_message(&answer.body).filter(|_| is_protobuf) {
        Some(message) => Error::text(format!(
            "the server answers {}: {}",
            answer.status,
            http::one_line(&message)
        )),
        None => answer.error(),
    };
    if is_of_content(answer.status) {
        return Err(Refusal::Content(error));
    }
    Err(Refusal::Later { error, after: answer.retry_after() })
}

/// Whether a status may be because of the records. The specification forbids to send records again after these, and so none is that
/// alone is refused while others are taken. Redirections, a path that is not there, and missing rights are never because of them.
fn is_of_content(status: StatusCode) -> bool {
    match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::PAYMENT_REQUIRED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => false,
        status => status.is_client_error() || status.is_server_error(),
    }
}

/// The type of requests, and of answers.
const PROTOBUF: &str = "application/x-protobuf";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::header::RETRY_AFTER;

    use super::*;

    fn answer(status: u16, kind: &'static str, body: &'static [u8]) -> Answer {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static(kind)),
            (RETRY_AFTER, HeaderValue::from_static("3")),
        ];
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: headers.into_iter().collect(),
            body: body.into(),
        }
    }

    #[test]
    fn what_answers_mean() {
        assert_eq!(verdict(&answer(200, PROTOBUF, b"")).ok(), Some(Receipt::default()));
        assert_eq!(verdict(&answer(200, "application/json", b"{}")).ok(), Some(Receipt::default()));
        // partial_success { rejected_log_records: 2, error_message: "old" }
        let partial = verdict(&answer(200, PROTOBUF, b"\x0a\x07\x08\x02\x12\x03old")).ok();
        assert_eq!(partial, Some(Receipt { rejected: 2, said: "old".to_owned() }));
        for status in [429, 502, 503, 504, 401, 403, 404, 408, 307] {
            match verdict(&answer(status, "text/plain", b"why\nnot")) {
                Err(Refusal::Later { error, after }) => {
                    assert!(error.to_string().ends_with(": why"), "{error}");
                    assert_eq!(after, Some(Duration::from_secs(3)));
                }
                other => panic!("{status}: {other:?}"),
            }
        }
        for status in [400, 413, 415, 422, 500, 501] {
            // google.rpc.Status { message: "bad" }
            match verdict(&answer(status, PROTOBUF, b"\x12\x03bad")) {
                Err(Refusal::Content(error)) => {
                    assert!(error.to_string().ends_with(": bad"), "{error}");
                }
                other => panic!("{status}: {other:?}"),
            }
        }
    }
}
