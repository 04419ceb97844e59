//! What is said of words that no filter begins with: what they may have been, or what there is instead.

use tracker_common::{state::State, violation::Rule};

use super::{Ports, Prefix, expression::Expression, names, ports, tokens};
use crate::model::nearest::{hint, nearest};

/// Whether a filter may begin with this, be it mistyped; not where it looks like the name of a file.
pub(super) fn may_begin(text: &str) -> bool {
    let words = tokens::split(text);
    let Some(first) = words.first() else { return false };
    let lower = first.trim_start_matches("--").to_ascii_lowercase();
    let is_like = || !text.contains(['.', '/']) && nearest(&lower, MAIN).is_some();
    let others = || OPTIONS.iter().chain(&ELSEWHERE).any(|(name, _)| *name == lower);
    words.len() > 1
        || matches!(first.as_str(), "(" | "!")
        || NAMES.contains(&lower.as_str())
        || PROTOCOLS.contains(&lower.as_str())
        || others()
        || is_value(first).is_some()
        || is_like()
}

/// What is wrong with a word that begins no filter, and what may have been wanted.
pub(super) fn unknown(word: &str) -> String {
    let lower = word.trim_start_matches("--").to_ascii_lowercase();
    let bare = lower.split('[').next().unwrap_or_default();
    let instead = |all: &[(&str, &'static str)]| {
        all.iter().find(|(name, _)| *name == bare).map(|(_, instead)| *instead)
    };
    if PROTOCOLS.contains(&bare) {
        return only_tcp(word);
    }
    if lower.contains('[') && matches!(bare, "tcp" | "ip" | "ip6") {
        return format!(
            "`{word}` looks into packets; `events` and `trace` have `--tcp-flags syn,!ack`"
        );
    }
    if let Some(option) = instead(&OPTIONS) {
        return format!("`{word}` is an option, no word: `{option}`");
    }
    if let Some(instead) = instead(&ELSEWHERE) {
        return format!("`{word}` is no filter: {instead}");
    }
    if let Some(name) = is_value(word) {
        return format!("`{word}` is no filter; did you mean `{name} {word}`?");
    }
    // A mistyped state is as likely as a mistyped name.
    let states = State::ALL.iter().map(|state| state.name());
    let near = nearest(word, MAIN.into_iter().chain(states));
    if let Some(state) = near.filter(|near| !MAIN.contains(near)) {
        return format!("`{word}` is no filter; did you mean `state {state}`?");
    }
    let all = || format!("there are {}", MAIN.join(", "));
    format!("`{word}` is no filter{}", hint(&lower, MAIN, all))
}

/// That `or` beside `and` is read in two ways, and both of them.
pub(super) fn ambiguous(any: &[Expression], all: &[Expression]) -> String {
    let text = |all: &[Expression], by: &str| {
        let inner = |one: &Expression| match one {
            Expression::All(more) if !more.is_empty() => format!("( {one} )"),
            Expression::Any(_) => format!("( {one} )"),
            _ => one.to_string(),
        };
        all.iter().map(inner).collect::<Vec<_>>().join(by)
    };
    let before = text(any, " or ");
    format!(
        "`or` beside `and` needs parentheses: `( {before} or {} ) and {}`, or `{before} or ( {} )`",
        text(&all[..1], ""),
        text(&all[1..], " and "),
        text(all, " and ")
    )
}

/// What begins the filter that this is a value of.
pub(super) fn is_value(word: &str) -> Option<&'static str> {
    let is_rule = || Rule::from_name(&word.to_lowercase()).is_some();
    let is_number =
        word.trim_start_matches(':').starts_with(|letter: char| letter.is_ascii_digit());
    if word.parse::<Prefix>().is_ok() {
        Some("host")
    } else if is_number && word.parse::<Ports>().is_ok() {
        Some("port")
    } else if names::states(word).is_ok() {
        Some("state")
    } else if ports::is_service(word.trim_start_matches(':')) {
        Some("port")
    } else if is_rule() {
        Some("violation")
    } else {
        None
    }
}

/// That flows of another protocol are asked for.
pub(super) fn only_tcp(word: &str) -> String {
    format!("`{word}`: only TCP is tracked")
}

/// What a filter begins with.
pub(super) const NAMES: [&str; 31] = [
    "src",
    "dst",
    "addr",
    "host",
    "net",
    "sport",
    "dport",
    "port",
    "portrange",
    "state",
    "exclude",
    "family",
    "ip",
    "ip6",
    "inet",
    "inet6",
    "ipv4",
    "ipv6",
    "tcp",
    "proto",
    "interface",
    "dev",
    "min-bytes",
    "violation",
    "not",
    "and",
    "or",
    "saddr",
    "daddr",
    "orig-src",
    "orig-dst",
];

/// Those of them that are suggested.
pub(super) const MAIN: [&str; 15] = [
    "src",
    "dst",
    "host",
    "net",
    "sport",
    "dport",
    "port",
    "state",
    "family",
    "interface",
    "min-bytes",
    "violation",
    "and",
    "or",
    "not",
];

/// Other protocols, of which there are no flows.
const PROTOCOLS: [&str; 9] =
    ["udp", "icmp", "icmp6", "arp", "sctp", "dccp", "igmp", "udplite", "rarp"];

/// What is an option of some commands, and no word.
const OPTIONS: [(&str, &str); 7] = [
    ("older-than", "--older-than 1h"),
    ("since", "--since 5m"),
    ("last", "--last 10"),
    ("sort", "--sort bytes"),
    ("columns", "--columns src,dst"),
    ("tcp-flags", "--tcp-flags syn,!ack"),
    ("watch", "--watch"),
];

/// Words of other tools, and what there is instead.
const ELSEWHERE: [(&str, &str); 12] = [
    ("greater", "it asks for a packet's length; `min-bytes 10k` asks for a flow's bytes"),
    ("less", "it asks for a packet's length; `not min-bytes 10k` asks for a flow's bytes"),
    ("ether", "flows have no hardware addresses"),
    ("vlan", "flows of all VLANs are shown; agents tell them apart by `tracker run --zone`"),
    ("gateway", "flows have no gateways"),
    ("broadcast", "no TCP packet is a broadcast"),
    ("multicast", "no TCP packet is a multicast"),
    ("inbound", "flows have both directions; `dst ADDRESS` chooses who was called"),
    ("outbound", "flows have both directions; `src ADDRESS` chooses who called"),
    ("autobound", "flows have no sockets; `sport ge :32768` comes near it"),
    ("fwmark", "flows have no marks"),
    ("cgroup", "flows have no sockets"),
];
