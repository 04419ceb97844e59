-- The table of exported records. docs/fleet.md explains the columns, and has more on every file of this directory.
--     clickhouse-client --multiquery < records.sql
-- ClickHouse 18.16 and later.

CREATE DATABASE IF NOT EXISTS tracker;

-- The key has everything that tells two records apart, so a record that comes twice replaces itself.
CREATE TABLE IF NOT EXISTS tracker.records (
    time DateTime, time_unix_ns UInt64, time_ns UInt64, about String,
    host String, agent String, boot_id String, id String, community_id String,
    family String, src String, dst String, sport UInt16, dport UInt16,
    orig_state String, orig_packets UInt64, orig_bytes UInt64, orig_stream_bytes UInt64, orig_isn Nullable(UInt32),
    reply_state String, reply_packets UInt64, reply_bytes UInt64, reply_stream_bytes UInt64, reply_isn Nullable(UInt32),
    history String, conn_state String, seen String, midstream UInt8, violations UInt32, broken_rules Array(String),
    interface String, zone UInt16, rtt_us Nullable(UInt32), created DateTime, duration_ns UInt64, end_reason String,
    rule String, action String, listener String, cookie_mode String, lost UInt64, stage String
) ENGINE = ReplacingMergeTree PARTITION BY toYYYYMMDD(time)
ORDER BY (agent, boot_id, id, about, time_ns, rule, src, sport, dst, dport);
