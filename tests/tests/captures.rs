//! Public captures with known answers, replayed: see `tracker_tests::captures`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::SocketAddr,
};

use anyhow::Result;
use tracker_common::violation::{Rule, Severity};
use tracker_tests::{
    captures::{
        Claim,
        answers::{NO_CONNECTION, answer},
        claims::{self, Source},
        classes::{CLASSES, VIOLATIONS},
        corpus,
        explained::EXPLAINED,
        page,
        replay::{Replay, replay_all, replay_bytes, replayed},
    },
    pcap::{Form, Order, Packet, pcap},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
};

/// Compares every claim with our answer, and returns how many there were, and every difference that is not explained as
/// well as every explanation of none.
fn compare() -> Result<(BTreeMap<Source, usize>, Vec<String>)> {
    let claims = claims::all()?;
    replay_all(&claims.iter().map(|claim| (claim.path.clone(), claim.verify)).collect());
    let mut wrong = Vec::new();
    let mut met = vec![false; EXPLAINED.len()];
    let mut absent = BTreeSet::new();
    let mut compared = BTreeMap::new();
    for claim in claims {
        let ours = answer(&*replayed(&claim.path, claim.verify)?, &claim)?;
        *compared.entry(claim.source).or_insert(0) += 1;
        if ours == claim.theirs {
            continue;
        }
        let subject = claim.subject.to_string();
        let claim = if ours == NO_CONNECTION {
            // One difference, not one a field.
            if !absent.insert((claim.path.clone(), subject.clone())) {
                continue;
            }
            Claim { field: "seen".to_owned(), theirs: "yes".to_owned(), ..claim }
        } else {
            claim
        };
        let known = EXPLAINED.iter().position(|known| {
            (known.path, known.subject, known.field) == (&claim.path, &subject, &claim.field)
                && (known.theirs, known.ours) == (&claim.theirs, &ours)
        });
        match known {
            Some(n) => met[n] = true,
            None => wrong.push(format!(
                "{:?} | {} | {subject} | {} | {} | {ours}",
                claim.source, claim.path, claim.field, claim.theirs
            )),
        }
    }
    let unmet = EXPLAINED.iter().zip(met).filter(|(_, met)| !met);
    wrong.extend(unmet.map(|(known, _)| format!("does not occur: {known:?}")));
    Ok((compared, wrong))
}

#[test]
fn every_difference_is_explained_and_told() -> Result<()> {
    let (compared, wrong) = compare()?;
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    let section = page::section(&corpus::captures()?, &compared);
    if env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        page::record(&section)?;
    }
    assert!(
        page::recorded()? == section,
        "docs/conformance.md is not what this test found: run it with UPDATE_DOCS=1"
    );
    Ok(())
}

#[test]
fn every_packet_has_one_fate() -> Result<()> {
    let captures = corpus::captures()?;
    replay_all(&captures.iter().map(|capture| (capture.path.clone(), false)).collect());
    for capture in captures {
        let replay = replayed(&capture.path, false)?;
        let packets: u64 = replay.packets().values().sum();
        assert_eq!(packets, capture.packets, "{}", capture.path);
        let credited: usize =
            replay.connections.iter().map(|connection| connection.segments.len()).sum();
        assert_eq!(credited as u64, replay.packets()["tracked"], "{}", capture.path);
    }
    Ok(())
}

#[test]
fn every_capture_has_a_class() -> Result<()> {
    let known: BTreeSet<_> = CLASSES.iter().map(|(path, _)| (*path).to_owned()).collect();
    let listed: BTreeSet<_> = corpus::captures()?.into_iter().map(|c| c.path).collect();
    assert_eq!(known, listed);
    assert_eq!(CLASSES.len(), listed.len());
    Ok(())
}

#[test]
fn ordinary_traffic_violates_nothing() -> Result<()> {
    for (path, _) in CLASSES.iter().filter(|(_, class)| !class.may_violate()) {
        let violations = violations(&*replayed(path, false)?);
        assert!(violations.is_empty(), "{path}: {violations:?}");
    }
    Ok(())
}

#[test]
fn every_violation_is_accounted_for() -> Result<()> {
    let mut wrong = Vec::new();
    for (path, _) in CLASSES {
        let expected: BTreeMap<_, _> = VIOLATIONS
            .iter()
            .filter(|reported| reported.path == *path)
            .map(|reported| (reported.rule.name(), reported.packets.to_vec()))
            .collect();
        let found = violations(&*replayed(path, false)?);
        if found != expected {
            wrong.push(format!("{path}: {found:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Packets at which violations were reported; a handshake that is never completed stands at its first one.
fn violations(replay: &Replay) -> BTreeMap<&'static str, Vec<u64>> {
    Rule::ALL
        .iter()
        .filter(|rule| rule.severity() == Severity::Violation && !replay.at(**rule).is_empty())
        .map(|rule| (rule.name(), replay.at(*rule).to_vec()))
        .collect()
}

/// Segments of one connection, replayed a millisecond apart.
struct Script {
    client: SocketAddr,
    server: SocketAddr,
    frames: Vec<Vec<u8>>,
}

impl Script {
    fn new() -> Self {
        Self {
            client: SocketAddr::from(([192, 0, 2, 1], 40_000)),
            server: SocketAddr::from(([192, 0, 2, 2], 80)),
            frames: Vec::new(),
        }
    }

    fn c(&self, flags: u16, seq: u32, ack: u32) -> Segment {
        Segment::new(self.client, self.server, flags, seq, ack)
    }

    fn s(&self, flags: u16, seq: u32, ack: u32) -> Segment {
        Segment::new(self.server, self.client, flags, seq, ack)
    }

    /// Request, answer, and a close by the client, after a handshake: C's next number is 1001, S's is 5001.
    fn rest(&self) -> [Segment; 5] {
        [
            self.c(PSH | ACK, 1001, 5001).data(100),
            self.s(PSH | ACK, 5001, 1101).data(200),
            self.c(FIN | ACK, 1101, 5201),
            self.s(FIN | ACK, 5201, 1102),
            self.c(ACK, 1102, 5202),
        ]
    }

    fn add(&mut self, segments: impl IntoIterator<Item = Segment>) {
        self.frames.extend(segments.into_iter().map(|segment| segment.frame()));
    }

    fn replay(self) -> Result<Replay> {
        const START_NS: u64 = 1_700_000_000_000_000_000;
        let times = (START_NS..).step_by(1_000_000);
        let packets: Vec<_> =
            times.zip(self.frames).map(|(time_ns, frame)| Packet::new(time_ns, frame)).collect();
        replay_bytes(&pcap(Order::Little, Form::Nanoseconds, 1, &packets))
    }
}

/// The one connection's `conn_state` and `history`.
fn went(replay: &Replay) -> (&str, &str) {
    assert_eq!(replay.connections.len(), 1, "{}", replay.document["flows"]);
    let record = &replay.connections[0].record;
    (record["conn_state"].as_str().unwrap_or(""), record["history"].as_str().unwrap_or(""))
}

// Where the oracles disagree, this is what was decided.

#[test]
fn decided_a_syn_ack_before_its_syn_is_a_normal_connection() -> Result<()> {
    let mut script = Script::new();
    script.add([
        script.s(SYN | ACK, 5000, 1001),
        script.c(SYN, 1000, 0),
        script.c(ACK, 1001, 5001),
    ]);
    script.add(script.rest());
    let replay = script.replay()?;
    assert_eq!(went(&replay), ("SF", "^hSADdFf"));
    assert!(replay.reported.is_empty(), "{:?}", replay.reported);

    let replay = replayed("arkime/tcp-reassembly-synthetic.pcap", false)?;
    let late = replay.connections.iter().find(|connection| connection.record["sport"] == 40009);
    let late = &late.expect("the connection whose SYN was captured last").record;
    assert_eq!((&late["conn_state"], &late["violations"]), (&"SF".into(), &0.into()));
    Ok(())
}

#[test]
fn decided_an_rst_that_does_not_acknowledge_the_syn_is_ignored_and_reported() -> Result<()> {
    let mut script = Script::new();
    script.add([
        script.c(SYN, 1000, 0),
        script.s(RST | ACK, 0, 51_001),
        script.s(SYN | ACK, 5000, 1001),
        script.c(ACK, 1001, 5001),
    ]);
    script.add(script.rest());
    let replay = script.replay()?;
    assert_eq!(went(&replay), ("SF", "ShADdFf"));
    assert_eq!(violations(&replay), BTreeMap::from([("rst_bad_ack_syn_sent", vec![2])]));
    Ok(())
}

#[test]
fn decided_the_syn_ack_picks_the_real_one_of_many_syns() -> Result<()> {
    let mut script = Script::new();
    let forged = (1..6).map(|n| script.c(SYN, 1000 + n * 100_000, 0));
    let forged: Vec<_> = forged.collect();
    script.add(forged);
    script.add([
        script.c(SYN, 1000, 0),
        script.c(SYN, 77_000_000, 0),
        script.s(SYN | ACK, 5000, 1001),
        script.c(ACK, 1001, 5001),
    ]);
    script.add(script.rest());
    let replay = script.replay()?;
    assert_eq!(went(&replay).0, "SF");
    assert_eq!(replay.connections[0].record["orig"]["isn"], 1000);
    assert!(violations(&replay).is_empty(), "{:?}", replay.reported);
    Ok(())
}

#[test]
fn decided_one_direction_only_is_marked_and_violates_nothing() -> Result<()> {
    let replay = replayed("zeek/ssh/ssh.client-side-half-duplex.pcap", false)?;
    assert!(violations(&replay).is_empty(), "{:?}", replay.reported);
    // All but the one that was not over yet.
    assert_eq!(replay.count(Rule::Asymmetric), 19);
    for connection in &replay.connections {
        assert_eq!(connection.record["reply"]["packets"], 0);
    }
    Ok(())
}

#[test]
fn decided_one_flow_through_several_vlans() -> Result<()> {
    let mut script = Script::new();
    script.add(
        [script.c(SYN, 1000, 0), script.s(SYN | ACK, 5000, 1001), script.c(ACK, 1001, 5001)]
            .into_iter()
            .chain(script.rest())
            .zip([10, 20, 30].into_iter().cycle())
            .map(|(segment, id)| segment.vlan(0x8100, id)),
    );
    let replay = script.replay()?;
    assert_eq!(went(&replay), ("SF", "ShADdFf"));
    assert!(violations(&replay).is_empty(), "{:?}", replay.reported);
    Ok(())
}

#[test]
fn decided_checksums_are_verified_only_where_asked_for() -> Result<()> {
    let path = "zeek/auth_change_session_keys.pcap";
    let replay = replayed(path, false)?;
    assert_eq!(went(&replay).0, "S1");
    assert_eq!(replay.count(Rule::BadChecksum), 0);
    let replay = replayed(path, true)?;
    assert_eq!(went(&replay), ("S0", "SAD"));
    assert_eq!(replay.count(Rule::BadChecksum), replay.packets()["bad_checksum"]);
    assert_eq!(replay.packets()["bad_checksum"], 3);
    Ok(())
}

#[test]
fn decided_who_goes_on_after_an_exact_rst_is_reported_once() -> Result<()> {
    let mut script = Script::new();
    script.add([
        script.c(SYN, 1000, 0),
        script.s(SYN | ACK, 5000, 1001),
        script.c(ACK, 1001, 5001),
        script.c(PSH | ACK, 1001, 5001).data(100),
        script.s(ACK, 5001, 1101),
        script.s(RST | ACK, 5001, 1101),
        script.s(PSH | ACK, 5001, 1101).data(200),
        script.c(ACK, 1101, 5201),
    ]);
    let replay = script.replay()?;
    assert_eq!(went(&replay).0, "RSTR");
    assert_eq!(violations(&replay), BTreeMap::from([("data_after_rst", vec![8])]));
    assert!(
        replay.connections[0].segments[5].after.iter().all(|state| state == "CLOSED"),
        "{:?}",
        replay.connections[0].segments[5]
    );

    let replay =
        replayed("suricata-verify/bug-3286-03-windows-evasion/with_evasion_windows.pcap", false)?;
    assert_eq!(replay.at(Rule::DataAfterRst), [8, 9]);
    Ok(())
}
