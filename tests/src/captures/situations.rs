//! The list of situations, and what we say at their packets.

use anyhow::{Context, Result};
use tracker_common::violation::{Rule, Severity};

use super::{
    Claim,
    answers::numbers,
    claims::{Source, Subject},
    corpus,
    replay::Replay,
};

/// By what a situation is known here.
enum Evidence {
    /// Any of these rules is reported at the packet.
    Rules(&'static [Rule]),
    /// The packet belongs to no flow, and this rule, which is never reported, was counted.
    Counted(Rule),
    /// The packet belongs to a flow that was picked up in its middle.
    Midstream,
    /// Both ends are CLOSED after the packet.
    Closed,
    /// The packet begins a flow by a SYN,ACK: its history begins with `^h`.
    Flipped,
    /// The packet begins another flow on the ends of one that is over.
    Begins,
    /// The packet is tracked, and nothing is a violation: until more is seen, all may be well.
    Quiet,
}

fn evidence(situation: &str) -> Option<Evidence> {
    use Evidence::{Begins, Closed, Counted, Flipped, Midstream, Quiet, Rules};
    Some(match situation {
        "ack_orig_no_synack" => Quiet,
        "ack_unseen" => Rules(&[Rule::AckUnseenData, Rule::CloseBadAck, Rule::FinBadAck]),
        "ack_wrong_dir_syn_sent" => Rules(&[Rule::AckWrongDir]),
        "data_after_fin" => Rules(&[Rule::DataAfterFin]),
        "data_after_rst_same_side" => Rules(&[Rule::DataAfterRst]),
        "data_before_established_resp" => Rules(&[Rule::DataBeforeEstablished]),
        "fin_without_ack" => Rules(&[Rule::FinWithoutAck]),
        "hs_ack_bad_both" => Rules(&[Rule::HandshakeBadSeqAck]),
        "hs_ack_bad_seq" => Rules(&[Rule::HandshakeAckBadSeq]),
        "midstream" => Midstream,
        "refused" => Rules(&[Rule::Refused]),
        "retransmit" | "syn_retransmit" => Rules(&[Rule::Retransmission]),
        "rst_exact" => Closed,
        "rst_inexact_or_out" => Rules(&[Rule::RstInexact, Rule::RstOutOfWindow]),
        "rst_other" => Counted(Rule::RstNoSession),
        "rst_with_data" => Rules(&[Rule::RstWithData]),
        "simultaneous_close" => Rules(&[Rule::SimultaneousClose]),
        "syn_after_close" => Begins,
        "syn_crossing" => Rules(&[Rule::SimultaneousOpen]),
        "syn_in_established" => Rules(&[Rule::SynInEstablished]),
        "syn_with_data" => Rules(&[Rule::SynWithData, Rule::FastOpenData]),
        "synack_bad_ack" => Rules(&[Rule::SynAckBadAck]),
        "synack_in_established" => Rules(&[Rule::SynAckInEstablished, Rule::SynAckAnew]),
        "synack_unsolicited" => Flipped,
        "synack_with_data" => Rules(&[Rule::SynAckWithData]),
        _ => return None,
    })
}

/// One claim a situation and capture: the packets at which it occurs.
///
/// # Errors
///
/// Where the list cannot be read, or has a situation that is unknown here.
pub(super) fn claims(claims: &mut Vec<Claim>) -> Result<()> {
    for situation in corpus::situations()? {
        evidence(&situation.name).with_context(|| situation.name.clone())?;
        claims.push(Claim {
            path: situation.path,
            verify: false,
            subject: Subject::Packets(situation.packets.clone()),
            field: situation.name,
            theirs: numbers(&situation.packets),
            source: Source::Situation,
        });
    }
    Ok(())
}

/// Those of `packets` at which we see the situation too.
///
/// # Errors
///
/// Where it is unknown here.
pub(super) fn answer(replay: &Replay, situation: &str, packets: &[u64]) -> Result<String> {
    let evidence = evidence(situation).with_context(|| situation.to_owned())?;
    let seen = packets.iter().copied().filter(|packet| is_seen(replay, &evidence, *packet));
    Ok(numbers(&seen.collect::<Vec<_>>()))
}

fn is_seen(replay: &Replay, evidence: &Evidence, packet: u64) -> bool {
    let segment = replay.segment(packet);
    let reported: Vec<Rule> =
        Rule::ALL.iter().copied().filter(|rule| replay.at(*rule).contains(&packet)).collect();
    match *evidence {
        Evidence::Rules(rules) => rules.iter().any(|rule| reported.contains(rule)),
        Evidence::Counted(rule) => segment.is_none() && replay.count(rule) > 0,
        Evidence::Midstream => {
            segment.is_some_and(|(connection, _)| connection.record["midstream"] == true)
        }
        Evidence::Closed => {
            segment.is_some_and(|(_, seen)| seen.after.iter().all(|state| state == "CLOSED"))
        }
        Evidence::Flipped => segment.is_some_and(|(connection, seen)| {
            let history = connection.record["history"].as_str().unwrap_or_default();
            connection.segments.first() == Some(seen) && history.starts_with("^h")
        }),
        Evidence::Begins => segment.is_some_and(|(connection, seen)| {
            let ends = |record: &serde_json::Value| {
                ["src", "sport", "dst", "dport"].map(|end| record[end].clone())
            };
            let earlier = |other: &&super::replay::Connection| {
                ends(&other.record) == ends(&connection.record)
                    && other.segments.first().is_some_and(|first| first.packet < packet)
            };
            connection.segments.first() == Some(seen)
                && replay.connections.iter().any(|other| earlier(&other))
        }),
        Evidence::Quiet => {
            segment.is_some() && reported.iter().all(|rule| rule.severity() != Severity::Violation)
        }
    }
}
