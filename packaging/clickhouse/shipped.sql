-- Lines of --export-file that another shipper brings become rows of the table in records.sql, the same as an agent's own.
--     clickhouse-client --multiquery < shipped.sql
-- A shipper inserts {"line": "..."} with a whole line, as it is: its JSON must not be written anew.

CREATE TABLE IF NOT EXISTS tracker.shipped (line String) ENGINE = Null;

-- Old servers drop a view only as a table.
DROP TABLE IF EXISTS tracker.shipped_to_records;
CREATE MATERIALIZED VIEW tracker.shipped_to_records TO tracker.records AS
WITH
    visitParamExtractString(line, 'time') AS time_text,
    visitParamExtractRaw(line, 'violation') AS violation_text,
    -- The connection's own fields come last: a name is found where it comes first.
    extract(line, '("family":.*)') AS flow,
    -- A breach may belong to no connection. Then its segment has the ends.
    if(extract(line, '("family":.*)') = '', visitParamExtractRaw(line, 'segment'), extract(line, '("family":.*)')) AS ends,
    visitParamExtractRaw(extract(line, '("family":.*)'), 'orig') AS orig,
    visitParamExtractRaw(extract(line, '("family":.*)'), 'reply') AS reply
SELECT
    parseDateTimeBestEffort(time_text) AS time,
    toUInt64(toUnixTimestamp(parseDateTimeBestEffort(time_text))) * 1000000000
        + toUInt64OrZero(substring(concat(extract(time_text, '\\.([0-9]+)'), '000000000'), 1, 9)) AS time_unix_ns,
    visitParamExtractUInt(line, 'time_ns') AS time_ns,
    visitParamExtractString(line, 'about') AS about,
    visitParamExtractString(line, 'host') AS host,
    visitParamExtractString(line, 'agent') AS agent,
    visitParamExtractString(line, 'boot_id') AS boot_id,
    visitParamExtractString(line, 'id') AS id,
    visitParamExtractString(line, 'community_id') AS community_id,
    visitParamExtractString(flow, 'family') AS family,
    visitParamExtractString(ends, 'src') AS src,
    visitParamExtractString(ends, 'dst') AS dst,
    toUInt16(visitParamExtractUInt(ends, 'sport')) AS sport,
    toUInt16(visitParamExtractUInt(ends, 'dport')) AS dport,
    visitParamExtractString(orig, 'state') AS orig_state,
    visitParamExtractUInt(orig, 'packets') AS orig_packets,
    visitParamExtractUInt(orig, 'bytes') AS orig_bytes,
    visitParamExtractUInt(orig, 'stream_bytes') AS orig_stream_bytes,
    toUInt32OrNull(visitParamExtractRaw(orig, 'isn')) AS orig_isn,
    visitParamExtractString(reply, 'state') AS reply_state,
    visitParamExtractUInt(reply, 'packets') AS reply_packets,
    visitParamExtractUInt(reply, 'bytes') AS reply_bytes,
    visitParamExtractUInt(reply, 'stream_bytes') AS reply_stream_bytes,
    toUInt32OrNull(visitParamExtractRaw(reply, 'isn')) AS reply_isn,
    visitParamExtractString(flow, 'history') AS history,
    visitParamExtractString(flow, 'conn_state') AS conn_state,
    visitParamExtractString(flow, 'seen') AS seen,
    toUInt8(visitParamExtractRaw(flow, 'midstream') = 'true') AS midstream,
    toUInt32(visitParamExtractUInt(flow, 'violations')) AS violations,
    extractAll(visitParamExtractRaw(flow, 'broken_rules'), '"([^"]+)":') AS broken_rules,
    visitParamExtractString(flow, 'interface') AS interface,
    toUInt16(visitParamExtractUInt(flow, 'zone')) AS zone,
    toUInt32OrNull(visitParamExtractRaw(flow, 'rtt_us')) AS rtt_us,
    if(flow = '', toDateTime(0),
        parseDateTimeBestEffort(if(flow = '', time_text, visitParamExtractString(flow, 'created')))) AS created,
    visitParamExtractUInt(line, 'duration_ns') AS duration_ns,
    visitParamExtractString(visitParamExtractRaw(line, 'end'), 'reason') AS end_reason,
    visitParamExtractString(violation_text, 'name') AS rule,
    visitParamExtractString(violation_text, 'action') AS action,
    visitParamExtractString(visitParamExtractRaw(line, 'cookie'), 'listener') AS listener,
    visitParamExtractString(visitParamExtractRaw(line, 'cookie'), 'mode') AS cookie_mode,
    visitParamExtractUInt(line, 'lost') AS lost,
    visitParamExtractString(line, 'stage') AS stage
FROM tracker.shipped;
