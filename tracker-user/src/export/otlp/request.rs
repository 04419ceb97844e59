//! Requests and answers in protobuf. Log records are encoded once, when they are written to the spool, and only copied here.

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceResponse,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    resource,
};
use prost::{
    Message,
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
    },
};

use crate::export::record::Origin;

/// What is ahead of log records in every request: whose they are, and who made them.
pub(super) struct Resource {
    /// The first fields of a `ResourceLogs`.
    resource: Vec<u8>,
    /// The first fields of a `ScopeLogs`.
    scope: Vec<u8>,
}

impl Resource {
    /// That of an agent (semantic conventions `service` and `host`).
    pub(super) fn new(origin: &Origin) -> Self {
        let attributes = [
            ("service.name", "tracker".to_owned()),
            ("service.version", VERSION.to_owned()),
            // It is the same after a restart.
            ("service.instance.id", format!("{}/{}", origin.host, origin.agent)),
            ("host.name", origin.host.clone()),
        ];
        let attributes =
            attributes.map(|(key, value)| attribute(key.to_owned(), Value::StringValue(value)));
        let resource = ResourceLogs {
            resource: Some(resource::v1::Resource {
                attributes: attributes.into(),
                ..resource::v1::Resource::default()
            }),
            ..ResourceLogs::default()
        };
        let scope = ScopeLogs {
            scope: Some(InstrumentationScope {
                name: "tracker".to_owned(),
                version: VERSION.to_owned(),
                ..InstrumentationScope::default()
            }),
            ..ScopeLogs::default()
        };
        Self { resource: resource.encode_to_vec(), scope: scope.encode_to_vec() }
    }

    /// An `ExportLogsServiceRequest` with these records, which are fields of a `ScopeLogs` ([`field`]).
    pub(super) fn request(&self, records: &[u8]) -> Vec<u8> {
        // A message's end is where its length says, so this is built from the inside.
        let scope_logs = delimited(SCOPE_LOGS, &[&self.scope, records]);
        delimited(RESOURCE_LOGS, &[&self.resource, &scope_logs])
    }
}

/// A log record as a field of a `ScopeLogs`: fields that follow one another are all its records.
pub(super) fn field(record: LogRecord) -> Vec<u8> {
    ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }.encode_to_vec()
}

/// An attribute.
pub(super) fn attribute(key: String, value: Value) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// The log records of a spool, one by one; what is damaged stays together with all behind it.
pub(super) fn split(records: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut rest) = (Vec::new(), records);
    while !rest.is_empty() {
        let mut after = rest;
        let is_whole = match decode_key(&mut after) {
            Ok((tag, kind)) => skip_field(kind, tag, &mut after, DecodeContext::default()).is_ok(),
            Err(_) => false,
        };
        let length = if is_whole { rest.len() - after.len() } else { rest.len() };
        let (one, others) = rest.split_at(length);
        all.push(one);
        rest = others;
    }
    all
}

/// How many records a collector has dropped, and why; `None` where its answer says nothing, or is no protobuf.
pub(super) fn partial_success(body: &[u8]) -> Option<(u64, String)> {
    let partial = ExportLogsServiceResponse::decode(body).ok()?.partial_success?;
    let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
    Some((rejected, partial.error_message))
}

/// The message of a `google.rpc.Status`, which is its field 2.
pub(super) fn status_message(mut body: &[u8]) -> Option<String> {
    while !body.is_empty() {
        let (tag, kind) = decode_key(&mut body).ok()?;
        if (tag, kind) == (2, WireType::LengthDelimited) {
            let length = usize::try_from(decode_varint(&mut body).ok()?).ok()?;
            return Some(String::from_utf8_lossy(body.get(..length)?).into_owned());
        }
        skip_field(kind, tag, &mut body, DecodeContext::default()).ok()?;
    }
    None
}

/// A field that is a message, whose fields are in these parts.
fn delimited(tag: u32, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut field = Vec::with_capacity(length + 16);
    encode_key(tag, WireType::LengthDelimited, &mut field);
    encode_varint(length as u64, &mut field);
    parts.iter().for_each(|part| field.extend_from_slice(part));
    field
}

/// `ExportLogsServiceRequest.resource_logs`.
const RESOURCE_LOGS: u32 = 1;

/// `ResourceLogs.scope_logs`.
const SCOPE_LOGS: u32 = 2;

/// The agent's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;

    use super::*;
    use crate::export::record::tests::origin;

    fn record(number: u64) -> LogRecord {
        LogRecord { time_unix_nano: number, ..LogRecord::default() }
    }

    #[test]
    fn fields_of_records_make_a_request() {
        let spooled: Vec<u8> = (1..4).flat_map(|number| field(record(number))).collect();
        let request = Resource::new(&origin()).request(&spooled);
        let request = ExportLogsServiceRequest::decode(&request[..]).expect("a request");
        let [resource] = &request.resource_logs[..] else { panic!("{request:?}") };
        let [scope] = &resource.scope_logs[..] else { panic!("{request:?}") };
        assert_eq!(scope.log_records, (1..4).map(record).collect::<Vec<_>>());
        assert_eq!(scope.scope.as_ref().map(|scope| scope.name.as_str()), Some("tracker"));
        let attributes = resource.resource.as_ref().map(|it| it.attributes.clone());
        let keys: Vec<_> = attributes.into_iter().flatten().map(|it| it.key).collect();
        assert_eq!(keys, ["service.name", "service.version", "service.instance.id", "host.name"]);
    }

    #[test]
    fn records_are_divided_where_they_begin() {
        let all: Vec<_> = (1..300).map(|number| field(record(number))).collect();
        let spooled = all.concat();
        assert_eq!(split(&spooled), all);
        assert_eq!(split(b""), Vec::<&[u8]>::new());
        // A length that is none: everything from there on is one piece.
        let damaged = [&all[0][..], &[0x12, 0xff, 0xff, 0x03], &all[1]].concat();
        let pieces = split(&damaged);
        assert_eq!((pieces.len(), pieces.concat()), (2, damaged));
    }

    #[test]
    fn answers() {
        assert_eq!(partial_success(b""), None);
        assert_eq!(partial_success(b"\x0a\x02\x08\x07"), Some((7, String::new())));
        assert_eq!(partial_success(b"{}"), None);
        assert_eq!(status_message(b"\x08\x03\x12\x02no").as_deref(), Some("no"));
        assert_eq!(status_message(b"\x12\x09no"), None);
        assert_eq!(status_message(b"<html>"), None);
    }
}
