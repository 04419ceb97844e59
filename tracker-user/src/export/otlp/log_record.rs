//! A record as a log record: its fields by their names in JSON, but for those that the semantic conventions name.

use std::{fmt::Write, net::SocketAddr};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
};
use serde_json::Value as Json;

use super::request::{attribute, field};
use crate::export::record::{About, ExportRecord};

/// The log record of a record, as the spool has it. `None` is not known to happen: a record has nothing that JSON has not.
pub(super) fn of(record: &ExportRecord) -> Option<Vec<u8>> {
    let Json::Object(fields) = serde_json::to_value(record).ok()? else { return None };
    let mut attributes = named(record);
    for (name, value) in fields {
        if !ELSEWHERE.contains(&name.as_str()) {
            flatten(format!("tracker.{name}"), value, &mut attributes);
        }
    }
    let time_unix_nano = u64::try_from(record.time.as_nanosecond()).unwrap_or(0);
    let (severity, severity_text) = match record.about {
        About::Violation => (SeverityNumber::Warn, "WARN"),
        About::Lost => (SeverityNumber::Error, "ERROR"),
        About::End | About::Update | About::Cookie => (SeverityNumber::Info, "INFO"),
    };
    Some(field(LogRecord {
        time_unix_nano,
        observed_time_unix_nano: time_unix_nano,
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(body(record))) }),
        attributes,
        event_name: event_name(record.about).to_owned(),
        ..LogRecord::default()
    }))
}

const fn event_name(about: About) -> &'static str {
    match about {
        About::End => "tracker.connection.end",
        About::Update => "tracker.connection.update",
        About::Violation => "tracker.violation",
        About::Cookie => "tracker.cookie",
        About::Lost => "tracker.lost",
    }
}

/// Attributes that the semantic conventions name.
fn named(record: &ExportRecord) -> Vec<KeyValue> {
    let text = |text: &str| Value::StringValue(text.to_owned());
    let mut all = vec![("event.name", text(event_name(record.about)))];
    if let Some([source, destination]) = ends(record) {
        all.extend([
            ("network.transport", text("tcp")),
            ("network.type", text(if source.is_ipv4() { "ipv4" } else { "ipv6" })),
            ("source.address", text(&source.ip().to_string())),
            ("source.port", Value::IntValue(source.port().into())),
            ("destination.address", text(&destination.ip().to_string())),
            ("destination.port", Value::IntValue(destination.port().into())),
        ]);
    }
    all.into_iter().map(|(key, value)| attribute(key.to_owned(), value)).collect()
}

/// Both ends, the opener first.
fn ends(record: &ExportRecord) -> Option<[SocketAddr; 2]> {
    let socket = SocketAddr::new;
    if let Some(it) = &record.flow {
        return Some([socket(it.src, it.sport), socket(it.dst, it.dport)]);
    }
    // If a segment belongs to no connection, this is all that is known.
    let it = record.segment.as_ref()?;
    Some([socket(it.src, it.sport), socket(it.dst, it.dport)])
}

/// What a person reads: `end 192.0.2.1:40000 > 192.0.2.2:80 SF fin`.
fn body(record: &ExportRecord) -> String {
    let mut text = match record.about {
        About::End => "end",
        About::Update => "update",
        About::Violation => "violation",
        About::Cookie => "cookie",
        About::Lost => "lost",
    }
    .to_owned();
    let mut add = |word: &dyn std::fmt::Display| {
        // Nothing that is written to a String fails.
        let _ = write!(text, " {word}");
    };
    if let Some(violation) = &record.violation {
        add(&violation.name);
    }
    if let Some([source, destination]) = ends(record) {
        add(&source);
        add(&">");
        add(&destination);
    }
    if let Some(flow) = &record.flow {
        add(&&*flow.conn_state);
    }
    if let Some(end) = &record.end {
        add(&end.reason);
    }
    if let Some(cookie) = &record.cookie {
        add(&cookie.mode);
        add(&cookie.listener);
    }
    if let Some(lost) = record.lost {
        add(&lost);
    }
    text
}

/// Adds a field; those of an object with its name before theirs.
fn flatten(name: String, value: Json, attributes: &mut Vec<KeyValue>) {
    let value = match value {
        // It is absent.
        Json::Null => return,
        // Its keys are the rules, which are no names of fields.
        Json::Object(rules) if name == "tracker.broken_rules" => {
            let values = rules.into_iter().map(|(rule, _)| Value::StringValue(rule));
            let values = values.map(|value| AnyValue { value: Some(value) }).collect();
            Value::ArrayValue(ArrayValue { values })
        }
        Json::Object(fields) => {
            for (part, value) in fields {
                flatten(format!("{name}.{part}"), value, attributes);
            }
            return;
        }
        Json::String(text) => Value::StringValue(text),
        Json::Bool(it) => Value::BoolValue(it),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::IntValue(number),
            // OTLP has no larger integers.
            None => Value::StringValue(number.to_string()),
        },
        // No field is a list.
        Json::Array(values) => Value::StringValue(Json::Array(values).to_string()),
    };
    attributes.push(attribute(name, value));
}

/// Fields that are elsewhere: in the log record, the resource, or by names of the semantic conventions.
const ELSEWHERE: [&str; 10] =
    ["about", "time", "host", "agent", "family", "protocol", "src", "dst", "sport", "dport"];

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use opentelemetry_proto::tonic::logs::v1::ScopeLogs;
    use prost::Message;

    use super::*;
    use crate::{
        export::record::tests::{ended, origin},
        model::clock::Clock,
    };

    fn decoded(record: &ExportRecord) -> LogRecord {
        let scope = ScopeLogs::decode(&of(record).expect("a log record")[..]).expect("a field");
        scope.log_records.into_iter().next().expect("a log record")
    }

    fn get<'a>(record: &'a LogRecord, key: &str) -> Option<&'a Value> {
        let found = record.attributes.iter().find(|attribute| attribute.key == key)?;
        found.value.as_ref()?.value.as_ref()
    }

    #[test]
    fn a_connection_that_ended() {
        let record = origin().record(&ended(3)).expect("an end is sent");
        let log = decoded(&record);
        let text = |text: &str| Value::StringValue(text.to_owned());
        assert_eq!(log.severity_number(), SeverityNumber::Info);
        assert_eq!(log.event_name, "tracker.connection.end");
        for (key, value) in [
            ("event.name", text("tracker.connection.end")),
            ("network.transport", text("tcp")),
            ("tracker.zone", Value::IntValue(3)),
            ("tracker.end.reason", text("fin")),
            ("tracker.midstream", Value::BoolValue(false)),
            ("tracker.orig.packets", Value::IntValue(0)),
            ("tracker.boot_id", text("b")),
        ] {
            assert_eq!(get(&log, key), Some(&value), "{key}");
        }
        assert_eq!(get(&log, "tracker.rtt_us"), None);
        let mut keys: Vec<_> = log.attributes.iter().map(|it| it.key.clone()).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count, "a key is there twice");
        assert!(keys.iter().all(|key| !key.ends_with(".src") && key != "tracker.host"));
    }

    #[test]
    fn what_is_of_no_connection() {
        let clock = Clock::at(5, Timestamp::from_second(7).expect("a time"));
        let log = decoded(&origin().lost(9, &clock));
        assert_eq!(log.severity_number(), SeverityNumber::Error);
        assert_eq!(log.time_unix_nano, 7_000_000_000);
        assert_eq!(get(&log, "tracker.lost"), Some(&Value::IntValue(9)));
        assert_eq!(get(&log, "source.address"), None);
        let body = log.body.and_then(|body| body.value);
        assert_eq!(body, Some(Value::StringValue("lost 9".to_owned())));
    }
}
