//! What we say, in the words of those who say something else.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tracker_common::{
    violation::{Rule, Severity},
    vocabulary::{Name, Tool, entry},
};

use super::{
    Claim,
    claims::Subject,
    replay::{Connection, Replay, Seen},
    situations,
};

/// The answer for something that is not there.
pub const NONE: &str = "-";

/// The answer for any field of a connection that we do not have.
pub const NO_CONNECTION: &str = "no connection";

/// Our answer to `claim`.
///
/// # Errors
///
/// Where its field is unknown.
pub fn answer(replay: &Replay, claim: &Claim) -> Result<String> {
    let field = claim.field.as_str();
    let found = match &claim.subject {
        Subject::Capture => return of_capture(replay, field),
        Subject::Packets(packets) => return situations::answer(replay, field, packets),
        Subject::Only if field == "connections" => {
            return Ok(replay.connections.len().to_string());
        }
        Subject::Only => match replay.connections.as_slice() {
            [only] => Some(only),
            _ => None,
        },
        Subject::Connection { originator, responder, nth } => {
            let mut found = replay.connections.iter().filter(|connection| {
                let ends = ends(&connection.record);
                ends == [originator.clone(), responder.clone()]
                    || ends == [responder.clone(), originator.clone()]
            });
            if field == "connections" {
                return Ok(found.count().to_string());
            }
            let found = found.nth(*nth);
            if found.is_some_and(|connection| ends(&connection.record)[0] != *originator) {
                return Ok("opened by the other end".to_owned());
            }
            found
        }
    };
    found.map_or(Ok(NO_CONNECTION.to_owned()), |connection| of_connection(connection, field))
}

/// `address:port` of the originator and of the other end.
fn ends(record: &Value) -> [String; 2] {
    [("src", "sport"), ("dst", "dport")].map(|(address, port)| {
        let address = record[address].as_str().unwrap_or_default();
        let port = &record[port];
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    })
}

fn of_capture(replay: &Replay, field: &str) -> Result<String> {
    match field {
        "connections" => Ok(replay.connections.len().to_string()),
        "violations" => {
            let all = Rule::ALL.iter().filter(|rule| rule.severity() == Severity::Violation);
            Ok(all.map(|rule| replay.at(*rule).len()).sum::<usize>().to_string())
        }
        // It was replayed to its end.
        "survives" => Ok("yes".to_owned()),
        // No data is kept, so nothing is ever said of it.
        "different data" => Ok(NONE.to_owned()),
        _ => by_kind(replay, field),
    }
}

/// Fields of two words: a kind, and a name.
fn by_kind(replay: &Replay, field: &str) -> Result<String> {
    let (kind, name) = field.split_once(' ').with_context(|| format!("unknown field {field}"))?;
    match kind {
        "fate" => Ok(replay.packets().get(name).copied().unwrap_or_default().to_string()),
        "rule" => Ok(numbers(replay.at(Rule::from_name(name).with_context(|| name.to_owned())?))),
        "counted" => {
            Ok(replay.count(Rule::from_name(name).with_context(|| name.to_owned())?).to_string())
        }
        "sid" => Ok(numbers(&at_named(replay, Tool::Suricata, name))),
        "weird" => Ok(numbers(&at_named(replay, Tool::ZeekWeird, name))),
        "each" => {
            let values: BTreeSet<_> = replay
                .connections
                .iter()
                .map(|connection| of_connection(connection, name))
                .collect::<Result<_>>()?;
            Ok(values.into_iter().collect::<Vec<_>>().join(" "))
        }
        "all" => {
            let mut sum = 0;
            for connection in &replay.connections {
                sum += of_connection(connection, name)?.parse::<u64>()?;
            }
            Ok(sum.to_string())
        }
        "flags" => {
            Ok(replay.flags.get(&name.parse()?).map_or_else(|| NONE.to_owned(), Clone::clone))
        }
        _ => anyhow::bail!("unknown field {field}"),
    }
}

/// Packets at which the rules were reported that a tool knows by `name` or number.
fn at_named(replay: &Replay, tool: Tool, name: &str) -> Vec<u64> {
    let known = |rule: &&Rule| {
        let names: &[Name] = entry(**rule).names;
        names.iter().any(|n| n.0 == tool && (n.1 == name || n.2 == name))
    };
    let mut all: Vec<_> =
        Rule::ALL.iter().filter(known).flat_map(|rule| replay.at(*rule)).copied().collect();
    all.sort_unstable();
    all
}

pub(super) fn numbers(numbers: &[u64]) -> String {
    if numbers.is_empty() {
        return NONE.to_owned();
    }
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn of_connection(connection: &Connection, field: &str) -> Result<String> {
    let Connection { record, segments } = connection;
    let (orig, reply) = (&record["orig"], &record["reply"]);
    // What an end sent that was never seen.
    let bytes = |end: &Value| end["stream_bytes"].as_u64().unwrap_or(0).to_string();
    Ok(match field {
        "conn_state" | "history" => record[field].as_str().unwrap_or(NONE).to_owned(),
        "orig_bytes" => bytes(orig),
        "resp_bytes" => bytes(reply),
        "orig_pkts" | "src_pkts" => orig["packets"].to_string(),
        "resp_pkts" | "dst_pkts" => reply["packets"].to_string(),
        "orig_ip_bytes" => orig["bytes"].to_string(),
        "resp_ip_bytes" => reply["bytes"].to_string(),
        "duration" => zeeks_duration(segments),
        "length_ms" => {
            let first: Timestamp = record["created"].as_str().unwrap_or_default().parse()?;
            let duration = record["duration_ns"].as_i64().unwrap_or_default();
            let last = first.checked_add(SignedDuration::from_nanos(duration))?;
            // Both moments are cut to milliseconds first.
            (last.as_millisecond() - first.as_millisecond()).to_string()
        }
        "initRTT" => {
            record["rtt_us"].as_u64().map_or(NONE.to_owned(), |us| (us / 2000).to_string())
        }
        "srcISNCnt" => {
            let history = record["history"].as_str().unwrap_or_default();
            match history.matches('S').count() {
                0 => NONE.to_owned(),
                count => count.to_string(),
            }
        }
        "synValidated" => (orig["isn"].is_u64() && reply["isn"].is_u64()).to_string(),
        "synAckValidated" => (reply["isn"].is_u64() && is_complete(segments)).to_string(),
        "tags" => tags(connection),
        "midstream" => record["midstream"].to_string(),
        "originator" => ends(record)[0].clone(),
        "responder" => ends(record)[1].clone(),
        "states" => format!(
            "{}/{}",
            orig["state"].as_str().unwrap_or(NONE),
            reply["state"].as_str().unwrap_or(NONE)
        ),
        "flow.state" => flow_state(connection).to_owned(),
        "orig_flags" => flags(segments, true),
        "resp_flags" => flags(segments, false),
        "segments before it was open" => {
            // Before the first there is nothing.
            let opening = |(n, seen): &(usize, &Seen)| {
                *n == 0 || !seen.before.iter().all(|state| is_synchronized(state))
            };
            segments.iter().enumerate().filter(opening).count().to_string()
        }
        "orig_options" => options(orig),
        "resp_options" => options(reply),
        _ => match field.strip_prefix("tcpflags.") {
            Some(flag) => tcp_flags(segments, flag)?.to_string(),
            None => anyhow::bail!("unknown field {field}"),
        },
    })
}

/// As Zeek measures: to the segment by which both ends have sent a FIN or an RST; to the last one where they have not.
fn zeeks_duration(segments: &[Seen]) -> String {
    let Some(first) = segments.first() else { return NONE.to_owned() };
    let mut closed = [false; 2];
    let mut last = first.time_ns;
    for seen in segments {
        if closed == [true; 2] {
            break;
        }
        last = seen.time_ns;
        closed[usize::from(!seen.from_originator)] |= seen.has("fin") || seen.has("rst");
    }
    let us = (last - first.time_ns + 500) / 1000;
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

fn is_synchronized(state: &str) -> bool {
    !matches!(state, "LISTEN" | "SYN_SENT" | "SYN_RECEIVED")
}

fn is_complete(segments: &[Seen]) -> bool {
    segments.iter().any(|seen| seen.after.iter().all(|state| state == "ESTABLISHED"))
}

/// Suricata's: `new`, `established`, or `closed`.
fn flow_state(connection: &Connection) -> &'static str {
    let states =
        ["orig", "reply"].map(|end| connection.record[end]["state"].as_str().unwrap_or_default());
    if states.iter().all(|state| matches!(*state, "CLOSED" | "TIME_WAIT")) {
        "closed"
    } else if states.iter().all(|state| is_synchronized(state)) {
        "established"
    } else {
        "new"
    }
}

/// All flags that an end has sent, as the number in the header.
fn flags(segments: &[Seen], from_originator: bool) -> String {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let mut all = 0_u8;
    for seen in segments.iter().filter(|seen| seen.from_originator == from_originator) {
        for (bit, name) in NAMES.iter().enumerate() {
            all |= u8::from(seen.has(name)) << bit;
        }
    }
    format!("{all:02x}")
}

/// Arkime's counters: a bare ACK is one without any other flag that counts; windows of zero by direction.
fn tcp_flags(segments: &[Seen], flag: &str) -> Result<usize> {
    let is = |seen: &&Seen| -> Option<bool> {
        Some(match flag {
            "syn" => seen.has("syn") && !seen.has("ack"),
            "syn-ack" => seen.has("syn") && seen.has("ack"),
            "ack" => {
                seen.has("ack") && !["syn", "fin", "rst", "psh"].iter().any(|flag| seen.has(flag))
            }
            "psh" | "fin" | "rst" | "urg" => seen.has(flag),
            "srcZero" => seen.window == 0 && !seen.has("rst") && seen.from_originator,
            "dstZero" => seen.window == 0 && !seen.has("rst") && !seen.from_originator,
            _ => return None,
        })
    };
    let counted: Option<Vec<bool>> = segments.iter().map(|seen| is(&seen)).collect();
    Ok(counted.with_context(|| flag.to_owned())?.into_iter().filter(|is| *is).count())
}

/// Returns `no-syn-ack`, the only one of Arkime's tags that we know of, for a SYN without a SYN,ACK; else nothing.
fn tags(connection: &Connection) -> String {
    let record = &connection.record;
    let no_syn_ack = record["orig"]["isn"].is_u64() && record["reply"]["isn"].is_null();
    if no_syn_ack { "no-syn-ack" } else { "" }.to_owned()
}

fn options(end: &Value) -> String {
    let mut options = Vec::new();
    if let Some(mss) = end["mss"].as_u64() {
        options.push(format!("mss={mss}"));
    }
    for name in ["sack", "timestamps"] {
        if end[name] == true {
            options.push(name.to_owned());
        }
    }
    if let Some(scale) = end["wscale"].as_u64() {
        options.push(format!("wscale={scale}"));
    }
    options.join(" ")
}
