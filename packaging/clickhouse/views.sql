-- Views of the table in records.sql. They hold no data: to change one, run this file again.
--     clickhouse-client --multiquery < views.sql

-- The last record of each connection on each agent. Records that came twice change nothing here.
-- Old servers drop a view only as a table.
DROP TABLE IF EXISTS tracker.connections;
CREATE VIEW tracker.connections AS
SELECT
    id,
    max(time) AS time,
    argMax(host, time_ns) AS host,
    argMax(agent, time_ns) AS agent,
    argMax(community_id, time_ns) AS community_id,
    argMax(family, time_ns) AS family,
    argMax(src, time_ns) AS src,
    argMax(dst, time_ns) AS dst,
    argMax(sport, time_ns) AS sport,
    argMax(dport, time_ns) AS dport,
    argMax(orig_state, time_ns) AS orig_state,
    argMax(orig_packets, time_ns) AS orig_packets,
    argMax(orig_bytes, time_ns) AS orig_bytes,
    argMax(orig_stream_bytes, time_ns) AS orig_stream_bytes,
    argMax(orig_isn, time_ns) AS orig_isn,
    argMax(reply_state, time_ns) AS reply_state,
    argMax(reply_packets, time_ns) AS reply_packets,
    argMax(reply_bytes, time_ns) AS reply_bytes,
    argMax(reply_stream_bytes, time_ns) AS reply_stream_bytes,
    argMax(reply_isn, time_ns) AS reply_isn,
    argMax(history, time_ns) AS history,
    argMax(conn_state, time_ns) AS conn_state,
    argMax(seen, time_ns) AS seen,
    argMax(midstream, time_ns) AS midstream,
    argMax(violations, time_ns) AS violations,
    argMax(broken_rules, time_ns) AS broken_rules,
    argMax(interface, time_ns) AS interface,
    argMax(zone, time_ns) AS zone,
    argMax(rtt_us, time_ns) AS rtt_us,
    argMax(created, time_ns) AS created,
    argMax(duration_ns, time_ns) AS duration_ns,
    argMax(end_reason, time_ns) AS end_reason,
    max(about = 'end') AS is_ended
FROM tracker.records
WHERE id != ''
GROUP BY id;

-- One row a connection, whoever saw it. Both initial sequence numbers name a connection on either side of a NAT. If an agent
-- saw one number only, Community ID and that number do. A connection picked up midstream has none: a row for each agent.
-- Arrays have an element for each flow: a router that translates has two.
DROP TABLE IF EXISTS tracker.joined;
CREATE VIEW tracker.joined AS
SELECT
    max(last) AS time,
    min(first) AS created,
    argMin(src, ends) AS src,
    argMin(dst, ends) AS dst,
    argMin(sport, ends) AS sport,
    argMin(dport, ends) AS dport,
    max(joined_by) AS joined_by,
    uniqExact(ends) > 1 AS is_translated,
    min(all_ended) AS is_ended,
    max(most_orig) AS orig_packets,
    max(most_reply) AS reply_packets,
    max(most_orig) - min(least_orig) AS orig_lost,
    max(most_reply) - min(least_reply) AS reply_lost,
    max(most_orig_bytes) AS orig_bytes,
    max(most_reply_bytes) AS reply_bytes,
    max(most_orig_stream) AS orig_stream_bytes,
    max(most_reply_stream) AS reply_stream_bytes,
    max(most_violations) AS violations,
    groupArrayArray(agents) AS agents,
    groupArrayArray(hosts) AS hosts,
    groupArrayArray(flows) AS flows,
    groupArrayArray(seens) AS seens,
    groupArrayArray(conn_states) AS conn_states,
    groupArrayArray(orig_packets_seen) AS orig_packets_seen,
    groupArrayArray(reply_packets_seen) AS reply_packets_seen,
    groupArrayArray(orig_bytes_seen) AS orig_bytes_seen,
    groupArrayArray(reply_bytes_seen) AS reply_bytes_seen
FROM (
    SELECT
        if(both = 2, concat(toString(orig_number), '/', toString(reply_number)), name) AS connection,
        if(both = 2, 'isns', if(both = 1, 'community_id', '')) AS joined_by,
        *
    FROM (
        SELECT
            name,
            any(c_src) AS src,
            any(c_dst) AS dst,
            any(c_sport) AS sport,
            any(c_dport) AS dport,
            any(flow) AS ends,
            max(orig_isn) AS orig_number,
            max(reply_isn) AS reply_number,
            toUInt8(isNotNull(max(orig_isn))) + toUInt8(isNotNull(max(reply_isn))) AS both,
            max(time) AS last,
            min(created) AS first,
            min(is_ended) AS all_ended,
            max(orig_packets) AS most_orig,
            min(orig_packets) AS least_orig,
            max(reply_packets) AS most_reply,
            min(reply_packets) AS least_reply,
            max(orig_bytes) AS most_orig_bytes,
            max(reply_bytes) AS most_reply_bytes,
            max(orig_stream_bytes) AS most_orig_stream,
            max(reply_stream_bytes) AS most_reply_stream,
            max(violations) AS most_violations,
            groupArray(agent) AS agents,
            groupArray(host) AS hosts,
            groupArray(flow) AS flows,
            groupArray(seen) AS seens,
            groupArray(conn_state) AS conn_states,
            groupArray(orig_packets) AS orig_packets_seen,
            groupArray(reply_packets) AS reply_packets_seen,
            groupArray(orig_bytes) AS orig_bytes_seen,
            groupArray(reply_bytes) AS reply_bytes_seen
        FROM (
            SELECT
                multiIf(
                    isNotNull(orig_isn), concat(community_id, '>', toString(ifNull(orig_isn, 0))),
                    isNotNull(reply_isn), concat(community_id, '<', toString(ifNull(reply_isn, 0))),
                    id
                ) AS name,
                concat(src, ' ', toString(sport), ' ', dst, ' ', toString(dport)) AS flow,
                src AS c_src, dst AS c_dst, sport AS c_sport, dport AS c_dport,
                orig_isn, reply_isn, time, created, is_ended, orig_packets, reply_packets, orig_bytes, reply_bytes,
                orig_stream_bytes, reply_stream_bytes, violations, agent, host, seen, conn_state
            FROM tracker.connections
        )
        GROUP BY name
    )
)
GROUP BY connection;

-- Each breach once.
DROP TABLE IF EXISTS tracker.violations;
CREATE VIEW tracker.violations AS
SELECT time, host, agent, rule, action, src, sport, dst, dport, community_id, id, conn_state, history, interface
FROM tracker.records FINAL
WHERE about = 'violation';

-- Connections of which an agent saw one direction only: the other one takes another way, nobody answers, or a filter drops it.
DROP TABLE IF EXISTS tracker.one_sided;
CREATE VIEW tracker.one_sided AS
SELECT time, host, agent, src, sport, dst, dport, seen, conn_state, orig_packets, reply_packets, interface, community_id, id
FROM tracker.connections
WHERE seen != 'both';

-- Packets that were lost between those who saw them, by both ends and hour. Only connections that ended everywhere can be compared.
DROP TABLE IF EXISTS tracker.lossy_pairs;
CREATE VIEW tracker.lossy_pairs AS
SELECT
    toStartOfHour(time) AS hour, src, dst,
    count() AS connections,
    sum(orig_packets + reply_packets) AS packets,
    sum(orig_lost) AS lost_to_dst,
    sum(reply_lost) AS lost_to_src,
    100 * sum(orig_lost + reply_lost) / sum(orig_packets + reply_packets) AS lost_percent
FROM tracker.joined
WHERE is_ended AND joined_by != '' AND length(agents) > 1
GROUP BY hour, src, dst
HAVING sum(orig_lost + reply_lost) > 0;

-- Who sends how much to whom, by hour. A connection counts once, whoever saw it; one without numbers once for each agent.
DROP TABLE IF EXISTS tracker.top_talkers;
CREATE VIEW tracker.top_talkers AS
SELECT
    toStartOfHour(time) AS hour, src, dst, dport,
    count() AS connections,
    sum(orig_bytes) AS bytes_to_dst,
    sum(reply_bytes) AS bytes_to_src,
    sum(orig_bytes + reply_bytes) AS bytes
FROM tracker.joined
GROUP BY hour, src, dst, dport;

-- How long handshakes took, by observer, server and hour.
DROP TABLE IF EXISTS tracker.handshake_percentiles;
CREATE VIEW tracker.handshake_percentiles AS
SELECT
    toStartOfHour(time) AS hour, host, dst, dport,
    count() AS handshakes,
    quantileExact(0.5)(assumeNotNull(rtt_us)) AS p50_us,
    quantileExact(0.9)(assumeNotNull(rtt_us)) AS p90_us,
    quantileExact(0.99)(assumeNotNull(rtt_us)) AS p99_us
FROM tracker.connections
WHERE isNotNull(rtt_us)
GROUP BY hour, host, dst, dport;
