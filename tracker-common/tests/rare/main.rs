//! Rare orders of segments, which random connections on a cable that loses and delays have come to, and what a kernel said of
//! them.

mod interference;

use tracker_common::{
    counters::Hook,
    key::FlowKey,
    packet::Packet,
    segment::{Flags, Segment},
    seq::Seq,
    simulator::Host,
    sweep::states,
    violation::Rule,
};

const START_NS: u64 = 1_000_000_000_000;
/// Initial sequence numbers of the host and of its peer. Segments count from these.
const ISNS: [u32; 2] = [1000, 5000];

/// A segment: who sent it, its flags, its number, what it acknowledges, how much data it carries. One of the host's with the
/// flag `0` offers no window.
type Sent = (Sender, &'static str, u32, u32, u32);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sender {
    /// The host where the tracker is.
    Host,
    Peer,
}
use Sender::{Host as H, Peer as P};

fn packet((from, flags, seq, ack, payload): Sent) -> Packet {
    let me = from as usize;
    let ends = ((&[1; 16], [0x9c, 0x40]), (&[2; 16], [0, 80]));
    let (source, destination) = if from == H { ends } else { (ends.1, ends.0) };
    let (key, from) = FlowKey::new(source, destination, 0);
    let is_shut = flags.contains('0');
    let flags = flags.chars().fold(Flags(0), |flags, letter| {
        flags.with(match letter {
            'S' => Flags::SYN,
            'F' => Flags::FIN,
            'R' => Flags::RST,
            'P' => Flags::PSH,
            '.' => Flags::ACK,
            '0' => return flags,
            other => panic!("no flag is called {other}"),
        })
    });
    let ack = if flags.has(Flags::ACK) { ISNS[1 - me].wrapping_add(ack) } else { 0 };
    let segment = Segment {
        seq: Seq(ISNS[me].wrapping_add(seq)),
        ack: Seq(ack),
        payload,
        flags,
        window: if is_shut { 0 } else { 0xffff },
        ip_len: 40 + payload,
        ..Segment::default()
    };
    Packet { key, from, segment }
}

/// What has seen these.
fn host(sent: &[Sent]) -> Host {
    let mut host = Host::default();
    for (sent, n) in sent.iter().zip(1..) {
        let hook = if sent.0 == H { Hook::Egress } else { Hook::Ingress };
        host.packet(&packet(*sent), hook, START_NS + n * 1_000_000);
    }
    host
}

/// The host's state and its peer's after these, and the violations that were counted.
fn after(sent: &[Sent]) -> (String, Vec<&'static str>) {
    let host = host(sent);
    let [mine, theirs] = states(host.flow(&packet(sent[0]).key).expect("it was seen"));
    let broken = |rule: &&Rule| Hook::ALL.iter().any(|hook| host.breaches(**rule, *hook) > 0);
    let broken = Rule::ALL.iter().filter(|rule| rule.is_violation()).filter(broken);
    (format!("{mine}/{theirs}"), broken.map(|rule| rule.name()).collect())
}

/// How often these break a rule.
fn count(sent: &[Sent], rule: Rule) -> u64 {
    let host = host(sent);
    Hook::ALL.iter().map(|hook| host.breaches(rule, *hook)).sum()
}

fn assert_after(sent: &[Sent], states: &str) {
    assert_eq!(after(sent), (states.to_owned(), vec![]), "after {sent:?}");
}

/// The peer's FIN overtakes its SYN,ACK, so a host in SYN_SENT drops it. It was seen, and acknowledges no FIN: its copy, which
/// does, closes no second.
#[test]
fn a_fin_before_its_syn_ack_was_the_first() {
    for data in [0, 100] {
        let behind = 2 + data;
        let opening = [
            (H, "S", 0, 0, 0),
            (P, "F.", 1, 1, data),
            (P, "S.", 0, 1, 0),
            (H, ".", 1, 1, 0),
            (H, "F.", 1, 1, 0),
        ];
        let copy = [(P, "S", 0, 0, 0), (P, "F.", 1, 2, data), (H, ".", 2, behind, 0)];
        assert_after(&[&opening[..], &copy].concat(), "TIME_WAIT/TIME_WAIT");
        let acknowledged = [(H, ".", 2, 1, 0), (P, ".", behind, 2, 0)];
        assert_after(&[&opening[..], &acknowledged].concat(), "FIN_WAIT_2/CLOSING");
        assert_after(&[&opening[..], &acknowledged, &copy].concat(), "TIME_WAIT/TIME_WAIT");
    }
}

/// The same where its SYN comes between them: in a simultaneous open.
#[test]
fn a_fin_before_its_syn_was_the_first() {
    assert_after(
        &[
            (H, "S", 0, 0, 0),
            (P, "F.", 1, 1, 0),
            (P, "S", 0, 0, 0),
            (H, "S.", 0, 1, 0),
            (P, "S.", 0, 1, 0),
            (H, ".", 1, 1, 0),
            (H, "F.", 1, 1, 0),
            (P, "F.", 1, 2, 0),
            (H, ".", 2, 2, 0),
        ],
        "TIME_WAIT/TIME_WAIT",
    );
}

/// What overtakes the SYN,ACK of the next connection is none of the old one's, which is in TIME_WAIT.
#[test]
fn what_overtakes_the_next_syn_ack_breaks_no_rule_of_time_wait() {
    let old = [
        (H, "S", 0, 0, 0),
        (P, "S.", 0, 1, 0),
        (H, ".", 1, 1, 0),
        (P, "F.", 1, 1, 0),
        (H, "F.", 1, 2, 0),
        (P, ".", 2, 2, 0),
    ];
    let opening = [(H, "S", 70_000, 0, 0), (P, ".", 200_001, 70_001, 0)];
    let goes_on = [
        (P, "S.", 200_000, 70_001, 0),
        (H, ".", 70_001, 200_001, 0),
        (H, "P.", 70_001, 200_001, 100),
    ];
    assert_after(&[&old[..], &opening, &goes_on].concat(), "ESTABLISHED/ESTABLISHED");
    // A FIN there is dropped by its receiver, and was the first.
    let fin = [(P, "F.", 200_001, 70_001, 0)];
    let copy = [(P, "F.", 200_001, 70_101, 0), (H, ".", 70_101, 200_002, 0)];
    assert_after(&[&old[..], &opening, &fin, &goes_on, &copy].concat(), "CLOSE_WAIT/FIN_WAIT_2");
}

/// A FIN far from the SYN,ACK that then comes was of another connection, or forged. The close is an ordinary one.
#[test]
fn a_fin_that_its_syn_ack_does_not_lead_to_is_none() {
    for number in [900_000, 0x8000_0000, u32::MAX - 5] {
        let (states, _) = after(&[
            (H, "S", 0, 0, 0),
            (P, "F.", number, 1, 0),
            (P, "S.", 0, 1, 0),
            (H, ".", 1, 1, 0),
            (H, "F.", 1, 1, 0),
            (P, ".", 1, 2, 0),
            (P, "F.", 1, 2, 0),
            (H, ".", 2, 2, 0),
        ]);
        assert_eq!(states, "TIME_WAIT/CLOSED");
    }
}

/// Data that were under way when their sender reset come to the connection that a late copy of its SYN began. Their
/// acknowledgment is of the old one, and may look newer or older than the new one's.
#[test]
fn data_of_a_connection_that_was_reset_break_no_rule_of_the_next() {
    for elsewhere in [900_000, 0x8000_0000, u32::MAX - 900_000] {
        assert_after(
            &[
                (P, "S", 0, 0, 0),
                (H, "S.", elsewhere, 1, 0),
                (P, ".", 1, elsewhere + 1, 0),
                (P, "R", 1, 0, 0),
                (P, "S", 0, 0, 0),
                (H, "S.", 0, 1, 0),
                (P, "R", 1, 0, 0),
                (P, "P.", 1, elsewhere + 1, 1),
            ],
            "CLOSED/CLOSED",
        );
    }
}

/// A host that goes on sending after its RST is no network's doing.
#[test]
fn data_that_leave_after_an_rst_break_a_rule() {
    let (_, broken) = after(&[
        (H, "S", 0, 0, 0),
        (P, "S.", 0, 1, 0),
        (H, ".", 1, 1, 0),
        (H, "R", 1, 0, 0),
        (H, "P.", 1, 1, 10),
    ]);
    assert_eq!(broken, ["data_after_rst"]);
}

/// Both ends are in TIME_WAIT, and somebody sends an old SYN in the peer's name, then a SYN,ACK in the same name. The host
/// alone could answer that SYN.
#[test]
fn a_syn_ack_from_the_end_of_the_old_syn_opens_no_successor() {
    let closed = [
        (H, "S", 5, 0, 0),
        (P, "S.", 5, 6, 0),
        (H, ".", 6, 6, 0),
        (H, "F.", 6, 6, 0),
        (P, "F.", 6, 6, 0),
        (H, ".", 7, 7, 0),
        (P, ".", 7, 7, 0),
        (P, "S", 0, 0, 0),
        (H, ".", 7, 7, 0),
    ];
    let forged = [(P, "S.", 0x7000_0000, 0x6000_0000, 0), (H, ".", 7, 7, 0)];
    let (states, broken) = after(&[&closed[..], &forged].concat());
    assert_eq!(states, "TIME_WAIT/TIME_WAIT");
    assert_eq!(broken, ["synack_in_established", "syn_in_time_wait"]);
    let (states, _) = after(&[&closed[..], &[(H, "S.", 0x7000_0000, 1, 0)]].concat());
    assert_eq!(states, "SYN_RECEIVED/SYN_SENT", "the host has taken the old SYN");
}

/// A client in SYN_SENT refuses an answer to another SYN than its own, and goes on (RFC 9293 section 3.10.7.3).
#[test]
fn an_rst_for_a_wrong_syn_ack_does_not_end_syn_sent() {
    let refused = [(H, "S", 0, 0, 0), (P, "S.", 700_000, 900_000, 0), (H, "R", 900_000, 0, 0)];
    let (states, _) = after(&refused);
    assert_eq!(states, "SYN_SENT/LISTEN");
    let answered = [(P, "S.", 0, 1, 0), (H, ".", 1, 1, 0)];
    let (states, _) = after(&[&refused[..], &answered].concat());
    assert_eq!(states, "ESTABLISHED/ESTABLISHED");
}

/// The passive closer is gone when an acknowledgment from before its FIN comes, and answers with an RST at that number.
#[test]
fn an_rst_for_what_came_late_leaves_time_wait() {
    assert_after(
        &[
            (P, "S", 0, 0, 0),
            (H, "S.", 0, 1, 0),
            (P, ".", 1, 1, 0),
            (P, "F.", 1, 1, 0),
            (H, "F.", 1, 2, 0),
            (P, ".", 2, 2, 0),
            (P, ".", 1, 1, 0),
            (H, "R", 1, 0, 0),
        ],
        "CLOSED/TIME_WAIT",
    );
}

/// A listener that waits for the third segment refuses a SYN,ACK in the client's name, which says nothing of its SYN.
#[test]
fn an_rst_for_a_syn_ack_to_a_listener_breaks_no_rule() {
    let (states, broken) = after(&[
        (P, "S", 0, 0, 0),
        (H, "S.", 0, 1, 0),
        (P, "S.", 0x7000_0000, 0x6000_0000, 0),
        (H, "R", 0x6000_0000, 0, 0),
    ]);
    assert_eq!(states, "SYN_RECEIVED/SYN_SENT");
    assert_eq!(broken, ["synack_wrong_dir"]);
}

/// A listener whose queue is full sends its SYN,ACK again, though the client has acknowledged it. A SYN that somebody sends in
/// the client's name meanwhile has nothing to do with that.
#[test]
fn a_syn_ack_that_comes_again_answers_the_syn_that_it_has_answered() {
    let (states, broken) = after(&[
        (P, "S", 0, 0, 0),
        (H, "S.", 0, 1, 0),
        (P, ".", 1, 1, 0),
        (P, "S", 0x7000_0000, 0, 0),
        (H, ".", 1, 1, 0),
        (H, "S.", 0, 1, 0),
    ]);
    assert_eq!(states, "ESTABLISHED/ESTABLISHED");
    assert_eq!(broken, ["syn_in_established"]);
}

/// A SYN that nobody has answered is no promise. Its sender, if it was one, answers the other end's SYN with another number.
#[test]
fn a_syn_ack_need_not_repeat_a_syn_that_was_not_answered() {
    let crossing = [(P, "S", 0x7000_0000, 0, 0), (H, "S", 0, 0, 0)];
    let opened = [(P, "S.", 0, 1, 0), (H, ".", 1, 1, 0)];
    assert_after(&[&crossing[..], &opened].concat(), "ESTABLISHED/ESTABLISHED");
    let answered = [(H, "S.", 0, 0x7000_0001, 0)];
    let (_, broken) = after(&[&crossing[..], &answered, &opened].concat());
    assert_eq!(broken, ["synack_isn_change"]);
}

/// TIME_WAIT takes an old SYN, and its end answers. The other end, which is closed, still refuses what it was sent before.
#[test]
fn an_rst_for_the_old_connection_breaks_no_rule_of_its_successor() {
    let (states, broken) = after(&[
        (P, "S", 5, 0, 0),
        (H, "S.", 5, 6, 0),
        (P, ".", 6, 6, 0),
        (H, "F.", 6, 6, 0),
        (P, "F.", 6, 7, 0),
        (H, ".", 7, 7, 0),
        (P, "S", 0, 0, 0),
        (H, "S.", 0x7000_0000, 1, 0),
        (P, "R", 7, 0, 0),
        (P, "R", 0x6000_0000, 0, 0),
    ]);
    assert_eq!(states, "SYN_RECEIVED/SYN_SENT");
    assert_eq!(broken, ["syn_in_time_wait"]);
}

/// Where the SYN,ACK of the next connection is lost, its data find the one before, which was reset (RFC 7413 lets them come so
/// early).
#[test]
fn data_of_the_next_connection_break_no_rule_of_one_that_was_reset() {
    for old in [100_000, 0x8000_0000, u32::MAX - 100_000] {
        assert_after(
            &[
                (H, "S", 5, 0, 0),
                (P, "S.", old, 6, 0),
                (H, ".", 6, old + 1, 0),
                (P, ".", old + 1, 6, 0),
                (P, "R", old + 1, 0, 0),
                (H, "S", 0x7000_0000, 0, 0),
                (P, ".", 1, 0x7000_0001, 1440),
            ],
            "CLOSED/CLOSED",
        );
    }
}

/// A client that is gone refuses the SYN,ACK. A SYN that somebody else has sent in its name meanwhile does not go on.
#[test]
fn a_forged_syn_does_not_outlive_the_refusal_of_a_syn_ack() {
    let opening = [(P, "S", 0, 0, 0), (H, "S.", 0, 1, 0), (P, "S", 0x7000_0000, 0, 0)];
    let refusal = [(P, "R", 1, 0, 0)];
    let (states, _) = after(&[&opening[..], &refusal].concat());
    assert_eq!(states, "CLOSED/CLOSED");
    // If the later SYN was real, and its answer was one with a cookie, the handshake goes on.
    let third = [(H, "S.", 900_000, 0x7000_0001, 0), (P, ".", 0x7000_0001, 900_001, 0)];
    let (states, _) = after(&[&opening[..], &refusal, &third].concat());
    assert_eq!(states, "ESTABLISHED/ESTABLISHED");
}

/// A late copy of a SYN with data, which a closed host answers once more. The client refuses that at the number that it
/// acknowledges, behind the data.
#[test]
fn the_answer_to_a_late_copy_of_a_syn_with_data_is_refused() {
    let (states, broken) = after(&[
        (P, "S", 0, 0, 5),
        (H, "S.", 0, 6, 0),
        (P, ".", 6, 1, 0),
        (P, "R.", 6, 1, 0),
        (P, "S", 0, 0, 5),
        (H, "S.", 700_000, 6, 0),
        (P, "R", 6, 0, 0),
    ]);
    assert_eq!(states, "CLOSED/CLOSED");
    assert_eq!(broken, ["syn_with_data"]);
}

/// A host without a socket for it answers what somebody sends in the peer's name, while a SYN,ACK waits that it has not asked
/// for.
#[test]
fn an_rst_for_what_follows_an_unasked_syn_ack_breaks_no_rule() {
    for ack in [0x6000_0000, 0xa000_0000] {
        let (_, broken) = after(&[
            (P, "S.", 0, 0x7000_0001, 0),
            (H, "S", 0, 0, 0),
            (P, "P.", 0x6000_0000, ack, 1000),
            (H, "R", ack, 0, 0),
        ]);
        assert!(!broken.contains(&"rst_out_of_window"), "{broken:?}");
    }
}

/// A copy of a SYN,ACK comes after the RST for the first, and after a SYN in its sender's name, which was refused.
#[test]
fn a_late_syn_ack_breaks_no_rule_of_what_was_refused_since() {
    assert_after(
        &[
            (H, "S", 0, 0, 0),
            (P, "S.", 0, 1, 0),
            (H, "R", 1, 0, 0),
            (P, "S", 0x7000_0000, 0, 0),
            (H, "R.", 0x6000_0000, 0x7000_0001, 0),
            (P, "S.", 0, 1, 0),
            (H, "R", 1, 0, 0),
        ],
        "CLOSED/CLOSED",
    );
}

/// A host without memory closes its window and drops data that were under way; so it drops an RST behind them (RFC 9293 section
/// 3.10.7.4). Where it has taken the data, the RST is in the window.
#[test]
fn an_rst_beyond_a_window_that_was_shut_ends_nothing() {
    let opening = [(P, "S", 0, 0, 0), (H, "S.", 0, 1, 0), (P, ".", 1, 1, 0)];
    let data = [(P, ".", 1, 1, 1000), (P, ".", 1001, 1, 1000)];
    let reset = [(P, "R.", 2001, 1, 0)];
    let shut = [(H, ".0", 1, 1001, 0)];
    assert_after(&[&opening[..], &data, &shut, &reset].concat(), "ESTABLISHED/ESTABLISHED");
    let open = [(H, ".", 1, 1001, 0)];
    assert_after(&[&opening[..], &data, &open, &reset].concat(), "CLOSED/CLOSED");
}

/// A closed host takes a late copy of the SYN for a new one, and answers. Its peer, in TIME_WAIT, acknowledges what it knows, so
/// the host refuses that; and goes on with the other connection.
#[test]
fn an_answer_to_a_late_copy_of_the_syn_breaks_no_rule_of_time_wait() {
    assert_after(
        &[
            (P, "S", 0, 0, 0),
            (H, "S.", 0, 1, 0),
            (P, ".", 1, 1, 0),
            (P, "F.", 1, 1, 0),
            (H, "F.", 1, 2, 0),
            (P, ".", 2, 2, 0),
            (P, "S", 0, 0, 0),
            (H, "S.", 318_233, 1, 0),
            (P, ".", 2, 2, 0),
            (H, "R", 2, 0, 0),
            (H, ".", 318_234, 1, 0),
        ],
        "CLOSED/TIME_WAIT",
    );
}

/// A host in SYN_SENT takes a forged SYN for a simultaneous open, and goes on from that. It refuses what its peer answers, which
/// resets it.
#[test]
fn a_host_that_took_a_forged_syn_refuses_the_answer_to_its_own() {
    let sent = [
        (H, "S", 0, 0, 0),
        (P, "S", 0, 0, 0),
        (H, "S.", 0, 1, 0),
        (P, "S.", 70_000, 1, 0),
        (H, ".", 1, 1, 0),
        (P, "R", 1, 0, 0),
    ];
    let (states, broken) = after(&sent[..5]);
    assert_eq!((states.as_str(), broken), ("SYN_RECEIVED/SYN_SENT", vec!["synack_isn_change"]));
    assert_eq!(after(&sent).0, "CLOSED/CLOSED");
    // If somebody else has spoken for the host, it shows that.
    let goes_on = [&sent[..4], &[(H, ".", 1, 70_001, 0), (P, "P.", 70_001, 1, 100)]].concat();
    assert_eq!(after(&goes_on).0, "ESTABLISHED/ESTABLISHED");
}

/// Behind an old SYN, an RST ends TIME_WAIT where it lies in the window. Another one answers something else.
#[test]
fn an_rst_outside_the_window_assassinates_nothing() {
    let closed = [
        (H, "S", 0, 0, 0),
        (P, "S.", 0, 1, 0),
        (H, ".", 1, 1, 0),
        (H, "F.", 1, 1, 0),
        (P, "F.", 1, 2, 0),
        (H, ".", 2, 2, 0),
        // Its number is an old one.
        (P, "S", 4_000_000_000, 0, 0),
        (H, ".", 2, 2, 0),
    ];
    let (states, broken) = after(&[&closed[..], &[(P, "R", 300_000_000, 0, 0)]].concat());
    assert_eq!((states.as_str(), broken), ("TIME_WAIT/CLOSED", vec!["syn_in_time_wait"]));
    // It counts as any other in TIME_WAIT.
    assert_eq!(
        count(&[&closed[..], &[(P, "R", 300_000_000, 0, 0)]].concat(), Rule::RstInTimeWait),
        1
    );
    let (_, broken) = after(&[&closed[..], &[(P, "R", 2, 0, 0)]].concat());
    assert_eq!(broken, ["syn_in_time_wait", "time_wait_assassination"]);
}

/// A host whose accept queue is full is in SYN_RECEIVED, and resets what acknowledges nonsense there: at that number. It goes on.
#[test]
fn an_rst_that_echoes_a_forged_acknowledgment_ends_nothing() {
    let opening = [(P, "S", 0, 0, 0), (H, "S.", 0, 1, 0), (P, ".", 1, 1, 0)];
    let forged = [(P, "F.", 2_000_000_000, 1_700_000_000, 0), (H, "R", 1_700_000_000, 0, 0)];
    let (states, broken) = after(&[&opening[..], &forged].concat());
    assert_eq!((states.as_str(), broken), ("ESTABLISHED/ESTABLISHED", vec!["fin_out_of_window"]));
    // Where little may have been missed, both ends agree.
    let missed = [(P, ".", 1, 3001, 0), (H, "R", 3001, 0, 0)];
    assert_eq!(after(&[&opening[..], &missed].concat()).0, "CLOSED/CLOSED");
}
