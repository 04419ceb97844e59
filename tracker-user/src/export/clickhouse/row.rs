//! A record as a row: no objects within objects, and nothing that is absent.

use serde::Serialize;

use crate::{
    export::record::{About, ExportRecord},
    model::record::Direction,
};

/// The columns. Absent ones get their defaults.
#[derive(Debug, Default, Serialize)]
struct Row<'a> {
    /// Seconds since 1970, which every version of ClickHouse takes for a DateTime.
    time: i64,
    time_unix_ns: i128,
    time_ns: u64,
    about: Option<About>,
    host: &'a str,
    agent: &'a str,
    boot_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orig_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orig_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orig_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orig_stream_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orig_isn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_stream_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_isn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    midstream: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    broken_rules: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<u32>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie_mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'a str>,
}

/// The row of a record, as a line of JSON with the newline. `None` is not known to happen: a row has nothing that JSON has not.
pub(super) fn of(record: &ExportRecord) -> Option<Vec<u8>> {
    let mut row = Row {
        time: record.time.as_second(),
        time_unix_ns: record.time.as_nanosecond(),
        time_ns: record.time_ns,
        about: Some(record.about),
        host: &record.host,
        agent: &record.agent,
        boot_id: &record.boot_id,
        id: record.id.as_deref(),
        community_id: record.community_id.as_deref(),
        duration_ns: record.duration_ns,
        end_reason: record.end.as_ref().map(|end| end.reason.as_str()),
        rule: record.violation.as_ref().map(|violation| violation.name.as_str()),
        action: record.violation.as_ref().map(|violation| violation.action.as_str()),
        listener: record.cookie.as_ref().map(|cookie| cookie.listener.to_string()),
        cookie_mode: record.cookie.as_ref().map(|cookie| cookie.mode.as_str()),
        lost: record.lost,
        stage: record.stage.as_deref(),
        ..Row::default()
    };
    if let Some(segment) = &record.segment {
        // If it belongs to no connection, this is all that is known.
        row.src = Some(segment.src.to_string());
        row.dst = Some(segment.dst.to_string());
        (row.sport, row.dport) = (Some(segment.sport), Some(segment.dport));
    }
    if let Some(flow) = &record.flow {
        let Direction { state, packets, bytes, stream_bytes, isn, .. } = &flow.orig;
        (row.orig_state, row.orig_isn) = (Some(&**state), *isn);
        (row.orig_packets, row.orig_bytes) = (Some(*packets), Some(*bytes));
        row.orig_stream_bytes = *stream_bytes;
        let Direction { state, packets, bytes, stream_bytes, isn, .. } = &flow.reply;
        (row.reply_state, row.reply_isn) = (Some(&**state), *isn);
        (row.reply_packets, row.reply_bytes) = (Some(*packets), Some(*bytes));
        row.reply_stream_bytes = *stream_bytes;
        row.family = Some(&*flow.family);
        (row.src, row.dst) = (Some(flow.src.to_string()), Some(flow.dst.to_string()));
        (row.sport, row.dport) = (Some(flow.sport), Some(flow.dport));
        (row.history, row.conn_state) = (Some(&*flow.history), Some(&*flow.conn_state));
        (row.seen, row.midstream) = (Some(&*flow.seen), Some(flow.midstream.into()));
        row.violations = Some(flow.violations);
        row.broken_rules =
            flow.broken_rules.iter().flat_map(|rules| rules.keys()).map(String::as_str).collect();
        (row.interface, row.zone) = (Some(&*flow.interface), Some(flow.zone));
        (row.rtt_us, row.created) = (flow.rtt_us, Some(flow.created.as_second()));
    }
    let mut line = serde_json::to_vec(&row).ok()?;
    line.push(b'\n');
    Some(line)
}
