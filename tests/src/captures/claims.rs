//! What somebody else says about a capture, one fact at a time.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{corpus, situations, statements};

/// What a claim is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// The capture as a whole.
    Capture,
    /// Its one connection.
    Only,
    /// The connection with these ends, the originator first; where there are several, the one of this number, from 0.
    Connection {
        /// `address:port` of the end that opened it.
        originator: String,
        /// `address:port` of the other.
        responder: String,
        /// Which of those with the same ends.
        nth: usize,
    },
    /// These packets, numbered from 1.
    Packets(Vec<u64>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capture => f.write_str("capture"),
            Self::Only => f.write_str("connection"),
            Self::Connection { originator, responder, nth: 0 } => {
                write!(f, "{originator} > {responder}")
            }
            Self::Connection { originator, responder, nth } => {
                write!(f, "{originator} > {responder} #{}", nth + 1)
            }
            Self::Packets(_) => f.write_str("packets"),
        }
    }
}

/// One fact.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The capture.
    pub path: String,
    /// Whoever says so leaves out packets with a wrong checksum.
    pub verify: bool,
    /// What it is about.
    pub subject: Subject,
    /// What of it.
    pub field: String,
    /// The known answer.
    pub theirs: String,
    /// Who says so.
    pub source: Source,
}

/// Who says something about captures.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// A line of Zeek's `conn.log`.
    ConnLog,
    /// A session of Arkime's.
    Session,
    /// What a test of Suricata, Zeek, Arkime or tcpdump expects, in words.
    Statement,
    /// The list of situations.
    Situation,
}

impl Source {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::ConnLog, Self::Session, Self::Statement, Self::Situation];

    /// For a heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::ConnLog => "Zeek's `conn.log`",
            Self::Session => "Arkime's sessions",
            Self::Statement => "What the suites' own tests expect",
            Self::Situation => "Situations at their packets",
        }
    }
}

/// Every claim about every capture.
///
/// # Errors
///
/// Where a table cannot be read, or says what is not understood.
pub fn all() -> Result<Vec<Claim>> {
    let truth = corpus::ground_truth()?;
    let mut claims = Vec::new();
    conn_logs(&truth, &mut claims)?;
    for session in truth.iter().filter(|row| row["system"] == "arkime session") {
        sessions(session, &mut claims)?;
    }
    statements::claims(&truth, &mut claims)?;
    situations::claims(&mut claims)?;
    Ok(claims)
}

/// Captures of one direction, of which Zeek cuts connections in two: it forgets one that nobody answers 5 s after its
/// SYN, and begins another with the next packet. The parts are put together again.
const CUT_BY_ZEEK: &str = "zeek/ssh/ssh.client-side-half-duplex.pcap";

const CONN_LOG: [&str; 7] =
    ["conn_state", "history", "orig_bytes", "resp_bytes", "orig_pkts", "resp_pkts", "duration"];

fn conn_logs(truth: &[Value], claims: &mut Vec<Claim>) -> Result<()> {
    let mut connections: BTreeMap<(String, Subject), Vec<&Value>> = BTreeMap::new();
    let mut lines: BTreeMap<String, (bool, usize)> = BTreeMap::new();
    for row in truth.iter().filter(|row| row["system"] == "zeek conn.log") {
        let path = text(&row["path"])?;
        let subject = if row["id.orig_h"].is_null() {
            Subject::Only
        } else {
            Subject::Connection {
                originator: end(&row["id.orig_h"], &row["id.orig_p"])?,
                responder: end(&row["id.resp_h"], &row["id.resp_p"])?,
                nth: 0,
            }
        };
        lines.entry(path.clone()).or_insert((verifies(row), 0)).1 += 1;
        connections.entry((path, subject)).or_default().push(row);
    }
    for (path, (verify, count)) in lines {
        claims.push(Claim {
            path,
            verify,
            subject: Subject::Capture,
            field: "connections".to_owned(),
            theirs: count.to_string(),
            source: Source::ConnLog,
        });
    }
    for ((path, subject), rows) in connections {
        let claim = |subject: &Subject, field: &str, theirs: String| Claim {
            path: path.clone(),
            verify: verifies(rows[0]),
            subject: subject.clone(),
            field: field.to_owned(),
            theirs,
            source: Source::ConnLog,
        };
        if path == CUT_BY_ZEEK && rows.len() > 1 {
            claims.push(claim(&subject, "connections", rows.len().to_string()));
            for (field, theirs) in put_together(&rows)? {
                claims.push(claim(&subject, field, theirs));
            }
            continue;
        }
        for (n, row) in rows.iter().enumerate() {
            let subject = match &subject {
                Subject::Connection { originator, responder, .. } => Subject::Connection {
                    originator: originator.clone(),
                    responder: responder.clone(),
                    nth: n,
                },
                other => other.clone(),
            };
            for field in CONN_LOG {
                claims.push(claim(&subject, field, conn_log_value(field, &text(&row[field])?)));
            }
        }
    }
    Ok(())
}

/// `-` stands for nothing seen.
fn conn_log_value(field: &str, value: &str) -> String {
    match (field, value) {
        ("duration", "-") => "0.000000".to_owned(),
        ("orig_bytes" | "resp_bytes", "-") => "0".to_owned(),
        _ => value.to_owned(),
    }
}

/// Sums, the last state, and each letter once.
fn put_together(rows: &[&Value]) -> Result<Vec<(&'static str, String)>> {
    let mut whole = Vec::new();
    for field in ["orig_bytes", "resp_bytes", "orig_pkts", "resp_pkts"] {
        let mut sum = 0;
        for row in rows {
            sum += text(&row[field])?.parse::<u64>()?;
        }
        whole.push((field, sum.to_string()));
    }
    let mut history = String::new();
    for row in rows {
        for letter in text(&row["history"])?.chars() {
            if !history.contains(letter) {
                history.push(letter);
            }
        }
    }
    whole.push(("history", history));
    let last = rows.last().context("no line")?;
    whole.push(("conn_state", text(&last["conn_state"])?));
    Ok(whole)
}

/// Whether Zeek leaves out packets with a wrong checksum: it does unless run with `-C`.
fn verifies(row: &Value) -> bool {
    let commands = row["cmd"].as_array().into_iter().flatten();
    !commands.filter_map(Value::as_str).any(|command| command.split_whitespace().any(|w| w == "-C"))
}

const TCP_FLAGS: [&str; 9] =
    ["syn", "syn-ack", "ack", "psh", "fin", "rst", "urg", "srcZero", "dstZero"];

fn sessions(row: &Value, claims: &mut Vec<Claim>) -> Result<()> {
    let path = text(&row["path"])?;
    let (originator, responder) =
        (end(&row["src"], &row["sport"])?, end(&row["dst"], &row["dport"])?);
    let same = |claim: &&Claim| {
        claim.path == path
            && claim.field == "src_pkts"
            && matches!(&claim.subject, Subject::Connection { originator: o, responder: r, .. }
                if *o == originator && *r == responder)
    };
    let nth = claims.iter().filter(same).count();
    let subject = Subject::Connection { originator, responder, nth };
    let mut claim = |field: &str, theirs: String| {
        claims.push(Claim {
            path: path.clone(),
            verify: false,
            subject: subject.clone(),
            field: field.to_owned(),
            theirs,
            source: Source::Session,
        });
    };
    for field in ["src_pkts", "dst_pkts", "length_ms"] {
        claim(field, row[field].to_string());
    }
    for flag in TCP_FLAGS {
        claim(&format!("tcpflags.{flag}"), row["tcpflags"][flag].as_u64().unwrap_or(0).to_string());
    }
    for field in ["synValidated", "synAckValidated"] {
        claim(field, row[field].to_string());
    }
    let or_dash = |value: &Value| value.as_u64().map_or("-".to_owned(), |value| value.to_string());
    claim("initRTT", or_dash(&row["initRTT"]));
    claim("srcISNCnt", or_dash(&row["srcISNCnt"]));
    let tags = row["tags"].as_array().into_iter().flatten();
    claim("tags", tags.filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
    Ok(())
}

fn end(address: &Value, port: &Value) -> Result<String> {
    let address = text(address)?;
    let port = port.as_str().map_or_else(|| port.to_string(), ToOwned::to_owned);
    Ok(if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    })
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("no text: {value}"))?.to_owned())
}
