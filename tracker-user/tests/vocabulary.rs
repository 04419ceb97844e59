//! `tracker violations` and `tracker explain`: what users read about the rules, without root and without an agent.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use tracker_common::{
    violation::Rule,
    vocabulary::{Name, OUTSIDE, entry},
};
use tracker_user::cli::violations::{SeverityName, select, table};

fn tracker(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tracker")).args(arguments).output().expect("tracker starts")
}

fn printed(arguments: &[&str]) -> String {
    let output = tracker(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&printed(arguments)).expect("JSON")
}

/// Names that the field uses, one a kind of breach. Those that are no rule say why not.
const FIELD: &[&str] = &[
    "null_flags",
    "xmas",
    "syn_fin",
    "syn_rst",
    "fin_rst",
    "fin_without_ack",
    "syn_urg",
    "ack_field_without_ack",
    "port_zero",
    "bad_header_len",
    "bad_option",
    "wscale_range",
    "bad_checksum",
    "rst_with_data",
    "syn_multicast",
    "land",
    "syn_with_data",
    "synack_with_data",
    "syn_isn_change",
    "syn_flood_tuple",
    "syn_wrong_dir",
    "split_handshake",
    "simultaneous_open",
    "synack_unsolicited",
    "synack_bad_ack",
    "synack_wrong_dir",
    "synack_isn_change",
    "handshake_ack_bad_ack",
    "handshake_ack_bad_seq",
    "handshake_bad_seq_ack",
    "ack_wrong_dir",
    "data_before_established",
    "repeated_syn_no_ack",
    "syn_in_established",
    "synack_in_established",
    "refused",
    "rst_bad_ack_syn_sent",
    "half_open_timeout",
    "syn_flood",
    "port_scan",
    "cookie_bad",
    "midstream",
    "seq_out_of_window",
    "ack_unseen_data",
    "ack_old",
    "retransmission",
    "spurious_retransmission",
    "overlap_different_data",
    "paws_reject",
    "rst_out_of_window",
    "rst_inexact",
    "data_after_rst",
    "zero_window",
    "window_recision",
    "bad_window_update",
    "mac_change",
    "asymmetric",
    "fin_no_session",
    "rst_no_session",
    "fin_out_of_window",
    "fin_bad_ack",
    "close_bad_ack",
    "data_after_fin",
    "fin_storm",
    "rst_storm",
    "simultaneous_close",
    "half_close",
    "time_wait_reuse",
    "time_wait_assassination",
    "old_incarnation_synack",
    "idle_timeout",
    "table_full",
    "early_drop",
];

/// Names of [`FIELD`] that are no rule, and what there is instead.
const NO_RULE: &[(&str, &str)] = &[
    ("split_handshake", "another name of simultaneous_open"),
    ("overlap_different_data", "no data is kept"),
    ("mac_change", "a host sees its gateway's address for all peers"),
    ("idle_timeout", "the end of a flow, told by DESTROY"),
    ("table_full", "a counter"),
    ("early_drop", "a counter"),
];

#[test]
fn every_name_of_the_field_is_a_rule_or_says_why_not() {
    for name in FIELD {
        let reason = NO_RULE.iter().find(|(other, _)| other == name);
        assert_eq!(Rule::from_name(name).is_none(), reason.is_some(), "{name}");
        // Found, whatever it is.
        printed(&["explain", name]);
    }
    for (name, why) in NO_RULE {
        let outside = OUTSIDE.iter().any(|outside| outside.name == *name);
        assert!(outside || why.starts_with("another name of "), "{name}");
    }
    assert!(OUTSIDE.iter().all(|outside| NO_RULE.iter().any(|(name, _)| *name == outside.name)));
}

#[test]
fn every_rule_is_explained() {
    for rule in Rule::ALL {
        let text = printed(&["explain", rule.name()]);
        assert!(text.starts_with(&format!("{}: ", rule.name())), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        // Nothing is left out by wrapping.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in
            [entry(*rule).meaning, entry(*rule).causes, entry(*rule).next, entry(*rule).state]
        {
            assert!(words(&text).contains(part), "{}: {part}", rule.name());
        }
        for Name(_, name, id) in entry(*rule).names {
            assert!(words(&text).contains(name) && text.contains(id), "{}: {name}", rule.name());
        }
    }
}

#[test]
fn an_explanation() {
    insta::assert_snapshot!(printed(&["explain", "rst_inexact"]));
}

#[test]
fn a_table() {
    insta::assert_snapshot!(table(&select(&[SeverityName::Minor]), Some(80)));
}

#[test]
fn other_tools_names_lead_to_ours() {
    for (name, expected) in [
        ("stream.3whs_synack_with_wrong_ack", &["synack_bad_ack", "old_incarnation_synack"][..]),
        ("3whs_synack_with_wrong_ack", &["synack_bad_ack", "old_incarnation_synack"]),
        ("2210007", &["synack_bad_ack", "old_incarnation_synack"]),
        ("bad_SYN_ack", &["synack_bad_ack", "old_incarnation_synack"]),
        ("116:420", &["syn_fin"]),
        ("SEQ is under lower bound 12 (already ACKed data retransmitted)", &["retransmission"]),
    ] {
        let text = printed(&["explain", name]);
        let heading = text.split("\n\n").next().expect("a heading").replace('\n', " ");
        let listed = heading.rsplit_once(" is here: ").expect("the rules").1;
        assert_eq!(listed.split(", ").collect::<Vec<_>>(), expected, "{text}");

        let document = json(&["explain", name, "-o", "json"]);
        let rules = document["rules"].as_array().expect("rules");
        let names: Vec<_> = rules.iter().filter_map(|rule| rule["name"].as_str()).collect();
        assert_eq!(names, expected);
        assert!(rules.iter().all(|rule| !rule["found_by"].as_array().expect("names").is_empty()));
    }
}

#[test]
fn unknown_names_are_exit_code_1_with_suggestions() {
    for (name, expected) in [
        ("syn_fim", "syn_fin"),
        ("stream.3whs_synack_wrong_ack", "3whs_synack_with_wrong_ack"),
        ("", "tracker violations"),
        ("zzzzzz", "tracker violations"),
        ("\u{1f41f}", "tracker violations"),
    ] {
        let output = tracker(&["explain", name]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(output.stdout.is_empty());
        assert!(stderr.starts_with("tracker: ") && stderr.contains(expected), "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn what_is_no_rule_says_so_in_json_too() {
    let document = json(&["explain", "mac_change", "-o", "json"]);
    assert_eq!(document["rules"].as_array().map(Vec::len), Some(0));
    assert_eq!(document["outside"]["name"], "mac_change");
    assert_eq!(json(&["explain", "mac_change", "-o", "jsonl"]), document);
}

#[test]
fn the_list_is_the_same_in_every_form() {
    let document = json(&["violations", "-o", "json"]);
    assert_eq!(document["v"], 1);
    let listed = document["rules"].as_array().expect("rules");
    let lines: Vec<serde_json::Value> = printed(&["violations", "-o", "jsonl"])
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let text = printed(&["violations"]);
    let words: Vec<_> =
        text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let names = |records: &[serde_json::Value]| -> Vec<String> {
        records.iter().map(|record| record["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(listed), words);
    assert_eq!(names(&lines), words);
    let known: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(words.iter().copied().collect::<BTreeSet<_>>(), known);
    assert_eq!(words.len(), known.len());
}

#[test]
fn severities_can_be_chosen() {
    let text = printed(&["violations", "--severity", "minor,information"]);
    assert!(
        text.contains("rst_inexact") && text.contains("zero_window") && !text.contains("syn_fin ")
    );
    let output = tracker(&["violations", "--severity", "grave"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    for arguments in [&["violations", "-o", "json"][..], &["guide"], &["explain", "xmas"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tracker"))
            .args(arguments)
            .stdout(closed_pipe())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("tracker starts");
        assert!(child.wait().expect("it ends").success(), "{arguments:?}");
    }
}

/// A pipe that nobody reads from.
fn closed_pipe() -> std::io::PipeWriter {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer
}

#[test]
fn events_points_to_the_list() {
    let output = tracker(&["events", "--violation", "bad_SYN_ack"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("`synack_bad_ack`") && stderr.contains("`tracker violations`"),
        "{stderr}"
    );
}

#[test]
fn the_page_is_what_the_source_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/violations.md");
    let written = fs::read_to_string(&page).expect("docs/violations.md is there");
    assert!(
        written == tracker_user::cli::violations_page::page(),
        "docs/violations.md is not what the vocabulary says: run `cargo xtask docs`"
    );
}
