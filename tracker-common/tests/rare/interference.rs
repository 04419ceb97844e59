//! What connections beside a blind attacker have come to (`tests/tests/interference.rs`).

use tracker_common::{counters::Hook, flow::flow_flag, sweep::Tables};

use super::{
    START_NS,
    Sender::{Host as H, Peer as P},
    after, assert_after, host, packet,
};

/// An end without a socket answers an acknowledgment that crossed its data with an RST at the number of that, which is old by then.
#[test]
fn who_refuses_an_rst_that_is_older_than_the_data_before_it_breaks_no_rule() {
    let (_, broken) = after(&[
        (H, "S", 0, 0, 0),
        (P, "S.", 0, 1, 0),
        (H, ".", 1, 1, 0),
        (P, "P.", 1, 1, 100),
        (H, ".", 1, 1, 0),
        (P, "R", 1, 0, 0),
        // This overtook nothing, but came after the RST.
        (P, "P.", 101, 1, 100),
        (H, ".", 1, 201, 0),
    ]);
    assert_eq!(broken, [""; 0]);
}

/// An end that has closed for good refuses data with an RST, at the old number that they acknowledge and without a window. The peer
/// drops that, and its own RST is at the edge of the window that was offered before.
#[test]
fn the_window_of_an_rst_is_none() {
    assert_after(
        &[
            (H, "S", 0, 0, 0),
            (P, "S.", 0, 1, 0),
            (H, ".", 1, 1, 0),
            (H, "P.", 1, 1, 1),
            (P, ".", 101, 2, 0),
            (H, "F.", 2, 1, 0),
            (P, ".", 101, 3, 0),
            (P, "P.", 1, 1, 100),
            (H, "R0", 1, 0, 0),
            (P, "R.", 101, 3, 0),
        ],
        "CLOSED/CLOSED",
    );
}

/// A client has left its port's old connection, of which the peer is in TIME_WAIT, and takes any SYN while it waits for the answer
/// to its own (RFC 9293 figure 7), also one that TIME_WAIT would not.
#[test]
fn a_syn_that_time_wait_refuses_is_taken_in_syn_sent() {
    let closed = [
        (H, "S", 5, 0, 0),
        (P, "S.", 50_000, 6, 0),
        (H, ".", 6, 50_001, 0),
        (P, "F.", 50_001, 6, 0),
        (H, "F.", 6, 50_002, 0),
        (P, ".", 50_002, 7, 0),
    ];
    assert_after(&closed, "CLOSED/TIME_WAIT");
    let again = [(H, "S", 100_000, 0, 0), (P, "S", 0, 0, 0)];
    // Shown until one of them is answered.
    assert_after(&[&closed[..], &again].concat(), "CLOSED/TIME_WAIT");
    let answered = [(H, "S.", 100_000, 1, 0), (H, "F.", 100_001, 1, 0)];
    assert_after(&[&closed[..], &again, &answered].concat(), "FIN_WAIT_1/SYN_SENT");
}

/// A SYN with data (Fast Open) is held up, and a copy without any opens the connection. It arrives when that is over, and the listener
/// answers it.
#[test]
fn an_answer_to_a_late_syn_with_data_breaks_no_rule() {
    assert_after(
        &[
            (P, "S", 0, 0, 0),
            (H, "S.", 0, 1, 0),
            (P, "P.", 1, 1, 5),
            (P, "F.", 6, 1, 0),
            (H, "F.", 1, 7, 0),
            (P, ".", 7, 2, 0),
            (P, "S", 0, 0, 5),
            (H, "S.", 90_000, 6, 0),
        ],
        "CLOSED/TIME_WAIT",
    );
}

/// The CPU of a host's SYN marks the old connection, then inserts the new one. What arrives between does not take the mark away.
#[test]
fn a_mark_stays_until_the_newer_connection_is_inserted() {
    let closed = [
        (H, "S", 5, 0, 0),
        (P, "S.", 5, 6, 0),
        (H, ".", 6, 6, 0),
        (P, "F.", 6, 6, 0),
        (H, "F.", 6, 7, 0),
        (P, ".", 7, 7, 0),
    ];
    let mut host = host(&closed);
    let late = packet((P, "S.", 0x7000_0000, 0x6000_0000, 0));
    host.confirmed(&late.key).expect("a flow").mark(flow_flag::SUCCESSOR);
    host.packet(&late, Hook::Ingress, START_NS + 1_000_000_000);
    assert!(host.confirmed(&late.key).is_some_and(|flow| flow.has(flow_flag::SUCCESSOR)));
}

/// Beside forged SYNs, a SYN with data (Fast Open) is answered with a SYN cookie, which is held up. A copy of the SYN without the data is
/// held up, too, until the connection is open.
#[test]
fn a_late_copy_of_a_syn_beside_forged_ones_begins_nothing() {
    const X: u32 = 0x5000_0000;
    const Y: u32 = 0x7000_0000;
    let opening = [
        (P, "S", X, 0, 0),
        (H, "S.", 0x1000, X + 1, 0),
        (P, "S", 0, 0, 5),
        (P, "R", X + 1, 0, 0),
        (P, "R", X + 1, 0, 0),
        (H, "S.", 0, 1, 0),
        (P, "F.", 0x9000_0000, 0x6000_0000, 0),
        (H, "R", 0x6000_0000, 0, 0),
        (P, "S", Y, 0, 0),
        (H, "S.", 0x2000_0000, Y + 1, 0),
        (P, "R", Y + 1, 0, 0),
        (P, "R", 0x2222_2222, 0, 0),
        (P, "P.", 1, 1, 5),
    ];
    let late = [(P, "S", 0, 0, 0), (H, ".", 1, 6, 0), (H, ".", 1, 6, 0)];
    // With and without what was forged after the answer.
    for from in [0, 6] {
        let some = [&opening[..6], &opening[6..][from..], &late].concat();
        assert_eq!(after(&some), ("ESTABLISHED/ESTABLISHED".to_owned(), vec!["syn_isn_change"]));
    }
}
