//! From a name, ours or another tool's, to the rules that answer to it.

use tracker_common::{
    violation::Rule,
    vocabulary::{Name, OUTSIDE, Outside, Tool, entry},
};

/// The fewest letters of a log line that are looked for inside the known ones.
const SUBSTANTIAL: usize = 8;

/// How alike two names must be for one to be suggested for the other, from 0 to 1.
const ALIKE: f64 = 0.8;

/// Suggestions, at most.
const SUGGESTIONS: usize = 3;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum RuleMatch {
    /// A rule by its own name.
    Rule(Rule),
    /// What another tool calls these rules, with the names that fitted.
    Elsewhere(Vec<(Rule, Vec<Name>)>),
    /// Something that no rule is about.
    Outside(&'static Outside),
}

/// Looks up a rule's name, or another tool's with or without the prefixes that the tool shows it with, an id such as
/// `2210007`, `1:2210007:2` or `116:420`, or a line of nf_conntrack's log.
#[must_use]
pub fn find(text: &str) -> Option<RuleMatch> {
    let text = text.trim();
    let lower = text.to_lowercase();
    if let Some(rule) = Rule::from_name(&lower) {
        return Some(RuleMatch::Rule(rule));
    }
    let query = Query::new(&lower);
    let rules: Vec<_> = Rule::ALL
        .iter()
        .map(|rule| (*rule, query.among(entry(*rule).names)))
        .filter(|(_, names)| !names.is_empty())
        .collect();
    if !rules.is_empty() {
        return Some(RuleMatch::Elsewhere(rules));
    }
    OUTSIDE
        .iter()
        .find(|outside| outside.name == lower || !query.among(outside.names).is_empty())
        .map(RuleMatch::Outside)
}

/// The names that are most like one that is unknown, best first.
#[must_use]
pub fn nearest(text: &str) -> Vec<&'static str> {
    let query = Query::new(&text.trim().to_lowercase());
    let ours = Rule::ALL.iter().map(|rule| rule.name()).chain(OUTSIDE.iter().map(|it| it.name));
    let theirs = Rule::ALL.iter().flat_map(|rule| entry(*rule).names).map(|Name(_, name, _)| *name);
    let mut scored: Vec<(f64, &str)> = ours
        .chain(theirs)
        .map(|name| {
            let like = |spelling: &String| strsim::jaro_winkler(spelling, &name.to_lowercase());
            (query.spellings.iter().map(like).fold(0.0, f64::max), name)
        })
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    // Stable, so that among equals our own names come first.
    scored.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let mut names = Vec::new();
    for (_, name) in scored {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.truncate(SUGGESTIONS);
    names
}

/// What is looked for, in lower case.
struct Query {
    /// As given, and without each prefix that a tool may have put before it.
    spellings: Vec<String>,
    /// As an id.
    id: Option<String>,
    /// As a line of a log.
    line: String,
}

impl Query {
    fn new(lower: &str) -> Self {
        let bare = lower.strip_prefix("sid:").unwrap_or(lower).trim_end_matches(';').trim();
        let prefixes = [
            "stream-event:",
            "decode-event:",
            "stream.",
            "decoder.",
            "skb_drop_reason_",
            "tcpext",
            "tcp",
        ];
        let spellings = prefixes
            .iter()
            .filter_map(|prefix| bare.strip_prefix(prefix))
            .filter(|rest| !rest.is_empty())
            .chain([bare])
            .map(str::to_owned)
            .collect();
        Self { spellings, id: id(bare), line: without_bounds(lower) }
    }

    fn among(&self, names: &[Name]) -> Vec<Name> {
        names.iter().filter(|name| self.is(name)).copied().collect()
    }

    fn is(&self, Name(tool, name, id): &Name) -> bool {
        if !id.is_empty() && self.id.as_deref() == Some(id) {
            return true;
        }
        let name = name.to_lowercase();
        let short = name.strip_prefix("decoder.").unwrap_or(&name);
        if self.spellings.iter().any(|spelling| *spelling == name || *spelling == short) {
            return true;
        }
        *tool == Tool::Conntrack
            && (self.line.contains(&name)
                || (self.line.len() >= SUBSTANTIAL && name.contains(&self.line)))
    }
}

/// Suricata's `2210007` and `1:2210007:2` as the sid, Snort's `116:420:1` as generator and signature.
fn id(text: &str) -> Option<String> {
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
        return None;
    }
    let mut parts = text.split(':');
    match (parts.next()?, parts.next()) {
        ("1", Some(sid)) => Some(sid.to_owned()),
        (generator, Some(signature)) => Some(format!("{generator}:{signature}")),
        (sid, None) => Some(sid.to_owned()),
    }
}

/// A line without the numbers that vary from packet to packet.
fn without_bounds(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
        if !(is_number && words.last() == Some(&"bound")) {
            words.push(word);
        }
    }
    words.join(" ")
}

/// What a rule says, in one sentence, without the ids of behaviours, which are for those who test it.
#[must_use]
pub fn summary(rule: Rule) -> String {
    let mut rest = rule.summary();
    let mut plain = String::with_capacity(rest.len());
    while let Some((before, inside, after)) = next_parenthesis(rest) {
        let kept: Vec<_> = inside.split(", ").filter(|part| !is_behaviour(part)).collect();
        if kept.is_empty() {
            plain.push_str(before.trim_end());
        } else {
            plain.push_str(before);
            plain.push('(');
            plain.push_str(&kept.join(", "));
            plain.push(')');
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}

fn next_parenthesis(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('(')?;
    let (inside, after) = rest.split_once(')')?;
    Some((before, inside, after))
}

fn is_behaviour(text: &str) -> bool {
    text.strip_prefix(['H', 'T', 'F', 'S', 'P', 'C']).is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<&'static str> {
        match find(text) {
            Some(RuleMatch::Rule(rule)) => vec![rule.name()],
            Some(RuleMatch::Elsewhere(rules)) => {
                rules.iter().map(|(rule, _)| rule.name()).collect()
            }
            Some(RuleMatch::Outside(outside)) => vec![outside.name],
            None => Vec::new(),
        }
    }

    #[test]
    fn names_are_found_as_tools_show_them() {
        for (text, expected) in [
            ("synack_bad_ack", &["synack_bad_ack"][..]),
            ("SYNACK_BAD_ACK ", &["synack_bad_ack"]),
            ("stream.3whs_right_seq_wrong_ack_evasion", &["handshake_ack_bad_ack"]),
            ("stream-event:3whs_right_seq_wrong_ack_evasion;", &["handshake_ack_bad_ack"]),
            ("3whs_synack_with_wrong_ack", &["synack_bad_ack", "old_incarnation_synack"]),
            ("2210007", &["synack_bad_ack", "old_incarnation_synack"]),
            ("1:2210007:2", &["synack_bad_ack", "old_incarnation_synack"]),
            ("sid:2210010;", &["handshake_bad_seq_ack"]),
            ("decode-event:tcp.hlen_too_small", &["bad_header_len"]),
            ("decoder.tcp.hlen_too_small", &["bad_header_len"]),
            ("bad_SYN_ack", &["synack_bad_ack", "old_incarnation_synack"]),
            ("116:420", &["syn_fin"]),
            ("116:420:1", &["syn_fin"]),
            ("REJ", &["refused"]),
            ("w", &["zero_window"]),
            ("SKB_DROP_REASON_TCP_RFC7323_PAWS", &["paws_reject"]),
            ("TcpExtTWRecycled", &["time_wait_reuse"]),
            ("TcpAttemptFails", &["refused"]),
            (
                "nf_ct_proto_6: packet (index 3) in dir 1 ignored, state SYN_SENT IN=eth0 OUT=",
                &["ack_wrong_dir"],
            ),
            ("tcp.analysis.reused_ports", &["time_wait_reuse"]),
            ("split_handshake", &["simultaneous_open"]),
            ("rexmit_inconsistency", &["overlap_different_data"]),
            ("table_full", &["table_full"]),
            ("nonsense", &[]),
            ("", &[]),
            (":", &[]),
            ("1:", &[]),
        ] {
            assert_eq!(rules(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_log_line_is_found_whatever_its_bound() {
        let found = rules(
            "nf_ct_proto_6: ACK is over upper bound 39803 (ACKed data not seen yet) IN= SRC=10.0.0.1",
        );
        assert!(
            found.contains(&"ack_unseen_data") && found.contains(&"synack_bad_ack"),
            "{found:?}"
        );
        assert!(!found.contains(&"seq_out_of_window"), "{found:?}");
    }

    #[test]
    fn every_name_of_others_is_found() {
        for rule in Rule::ALL {
            for Name(_, name, id) in entry(*rule).names {
                // A name that is a rule's own is that rule's, as with Suricata's fin_out_of_window.
                if Rule::from_name(&name.to_lowercase()).is_none() {
                    assert!(rules(name).contains(&rule.name()), "{name} does not lead to {rule:?}");
                }
                assert!(
                    id.is_empty() || rules(id).contains(&rule.name()),
                    "{id} does not lead to {rule:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_misspelt_is_suggested() {
        assert_eq!(nearest("syn_finn").first(), Some(&"syn_fin"));
        assert_eq!(
            nearest("stream.3whs_synack_with_wrong_akc").first(),
            Some(&"3whs_synack_with_wrong_ack")
        );
        assert!(nearest("synack-bad-ack").contains(&"synack_bad_ack"));
        assert!(nearest("0").is_empty());
        assert!(nearest("").is_empty());
    }

    #[test]
    fn summaries_are_for_people() {
        assert_eq!(
            summary(Rule::NullFlags),
            "None of SYN, ACK, FIN and RST is set, whatever PSH and URG say."
        );
        assert_eq!(
            summary(Rule::FastOpenData),
            "A SYN with data and a Fast Open option (RFC 7413)."
        );
        assert_eq!(
            summary(Rule::SimultaneousOpen),
            "A SYN that answers a SYN: simultaneous open or split handshake."
        );
        for rule in Rule::ALL {
            assert!(!summary(*rule).contains("()") && !summary(*rule).contains(" ."), "{rule:?}");
        }
    }
}
