//! The sequences.

use tracker_tests::segment::flag::{ACK, AE, CWR, ECE, FIN, PSH, RST, SYN, URG};

use crate::row::{
    Begin::{ClosedByC, ClosedByS, Open},
    NOTHING, Row, Step, c, s,
};

const OPEN: &str = "ESTABLISHED/ESTABLISHED";
const OVER: &str = "CLOSED/CLOSED";
const ASKED: &str = "SYN_SENT/LISTEN";
const ANSWERED: &str = "SYN_SENT/SYN_RECEIVED";
const WAITING: &str = "TIME_WAIT/CLOSED";

/// Every row.
pub(crate) fn rows() -> Vec<Row> {
    [
        opening(),
        wrong_answers(),
        odd_openings(),
        refusals(),
        closing(),
        time_wait(),
        resets(),
        flags(),
        windows(),
        ordinary(),
        syn_on_open(),
        partial(),
    ]
    .concat()
}

/// A handshake with these initial sequence numbers.
fn handshake(client: u32, server: u32) -> [Step; 3] {
    let (c1, s1) = (client.wrapping_add(1), server.wrapping_add(1));
    [
        c(SYN, client, 0).then(ASKED),
        s(SYN | ACK, server, c1).then(ANSWERED),
        c(ACK, c1, s1).then(OPEN),
    ]
}

/// A handshake in which both offer timestamps: C's stands at 1000, S's at 2000.
fn with_timestamps() -> [Step; 3] {
    [
        c(SYN, 1000, 0).timestamps(1000, 0).then(ASKED),
        s(SYN | ACK, 5000, 1001).timestamps(2000, 1000).then(ANSWERED),
        c(ACK, 1001, 5001).timestamps(1000, 2000).then(OPEN),
    ]
}

fn opening() -> Vec<Row> {
    const ESTABLISHING: &str = "RFC 9293 3.5";
    vec![
        Row::new("H1", "SYN and SYN,ACK", ESTABLISHING)
            .steps([c(SYN, 1000, 0).then(ASKED), s(SYN | ACK, 5000, 1001).then(ANSWERED)]),
        Row::new("H2", "three segments", ESTABLISHING).steps(handshake(1000, 5000)),
        Row::new("H3", "the third segment carries data", ESTABLISHING).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(PSH | ACK, 1001, 5001).data(100).then(OPEN),
        ]),
        Row::new(
            "H4",
            "the third segment and the first data are lost, later data opens",
            "RFC 9293 3.10.7.4",
        )
        .steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(PSH | ACK, 1201, 5001).data(100).then(OPEN),
        ]),
        Row::new("H5", "SYN with data and no Fast Open option", "stricter than RFC 9293 3.4")
            .steps([
                c(SYN, 1000, 0).data(10).breaks("syn_with_data").unjudged().then(ASKED),
                s(SYN | ACK, 5000, 1001).then(ANSWERED),
                c(PSH | ACK, 1001, 5001).data(10).then(OPEN),
            ]),
        Row::new("H5", "SYN,ACK with data and no Fast Open option", "stricter than RFC 9293 3.4")
            .steps([
                c(SYN, 1000, 0).then(ASKED),
                s(SYN | ACK, 5000, 1001)
                    .data(10)
                    .breaks("synack_with_data")
                    .unjudged()
                    .then(ANSWERED),
                c(ACK, 1001, 5011).then(OPEN),
            ]),
        Row::new(
            "H5",
            "Fast Open: the SYN's data is taken, and answered before the third segment",
            "RFC 7413 4.2",
        )
        .steps([
            c(SYN, 1000, 0).cookie().data(10).counts("fast_open_data").then(ASKED),
            s(SYN | ACK, 5000, 1011).then(ANSWERED),
            s(PSH | ACK, 5001, 1011).data(100),
            c(ACK, 1011, 5101).then(OPEN),
        ]),
        Row::new("H5", "Fast Open: the SYN's data is not taken, and sent again", "RFC 7413 4.2")
            .steps([
                c(SYN, 1000, 0).cookie().data(10).counts("fast_open_data").then(ASKED),
                s(SYN | ACK, 5000, 1001).then(ANSWERED),
                c(PSH | ACK, 1001, 5001).data(10).then(OPEN),
            ]),
        Row::new(
            "H5",
            "Fast Open: the SYN with data is lost behind the router, and sent again without",
            "RFC 7413 4.1.3",
        )
        .steps([
            c(SYN, 1000, 0).cookie().data(10).counts("fast_open_data").then(ASKED),
            c(SYN, 1000, 0),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(PSH | ACK, 1001, 5001).data(10).then(OPEN),
        ]),
        Row::new("H8", "SYN and SYN,ACK come again", "RFC 9293 3.8.1").steps([
            c(SYN, 1000, 0).then(ASKED),
            c(SYN, 1000, 0),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            s(SYN | ACK, 5000, 1001),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("H8", "SYN again with another number, which is answered", ESTABLISHING).steps([
            c(SYN, 1000, 0).then(ASKED),
            c(SYN, 77_000, 0),
            s(SYN | ACK, 5000, 77_001).then(ANSWERED),
            c(ACK, 77_001, 5001).then(OPEN),
        ]),
        Row::new("H8", "SYN again with another number, the first is answered", ESTABLISHING).steps(
            [
                c(SYN, 1000, 0).then(ASKED),
                c(SYN, 77_000, 0),
                s(SYN | ACK, 5000, 1001).then(ANSWERED),
                c(ACK, 1001, 5001).then(OPEN),
            ],
        ),
        Row::new("H8", "SYN with another number after the SYN,ACK", "RFC 5961 4.2").steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(SYN, 77_000, 0).breaks("syn_isn_change"),
            s(ACK, 5001, 1001),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("H8", "SYN,ACK again with another number", "RFC 9293 3.10.7.3").steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            s(SYN | ACK, 900_000, 1001).breaks("synack_isn_change"),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("F6", "ECE and CWR on SYN, ECE on SYN,ACK", "RFC 3168 6.1.1").steps([
            c(SYN | ECE | CWR, 1000, 0).then(ASKED),
            s(SYN | ACK | ECE, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("F6", "AE, ECE and CWR on SYN, AE on SYN,ACK", "RFC 9768 3.1.1").steps([
            c(SYN | AE | ECE | CWR, 1000, 0).then(ASKED),
            s(SYN | ACK | AE, 5000, 1001).then(ANSWERED),
            c(ACK | ECE, 1001, 5001).then(OPEN),
        ]),
    ]
}

fn wrong_answers() -> Vec<Row> {
    const SYN_SENT: &str = "RFC 9293 3.10.7.3";
    const SYN_RECEIVED: &str = "RFC 9293 3.10.7.4";
    vec![
        Row::new("H6", "SYN,ACK acknowledges 50,000 too low, C refuses it", SYN_SENT).steps([
            c(SYN, 100_000, 0).then(ASKED),
            s(SYN | ACK, 5000, 50_001).breaks("synack_bad_ack"),
            c(RST, 50_001, 0),
            s(SYN | ACK, 5000, 100_001).then(ANSWERED),
            c(ACK, 100_001, 5001).then(OPEN),
        ]),
        Row::new("H6", "SYN,ACK acknowledges one too low", SYN_SENT).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1000).breaks("synack_bad_ack"),
        ]),
        Row::new("H6", "SYN,ACK acknowledges one too high", SYN_SENT).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1002).breaks("synack_bad_ack"),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("H7", "the third segment acknowledges 10,001 too low, S refuses it", SYN_RECEIVED)
            .steps([
                c(SYN, 1000, 0).then(ASKED),
                s(SYN | ACK, 50_000, 1001).then(ANSWERED),
                c(ACK, 1001, 40_000).breaks("handshake_ack_bad_ack"),
                s(RST, 40_000, 0),
                c(ACK, 1001, 50_001).then(OPEN),
            ]),
        Row::new("H7", "the third segment acknowledges one too high", SYN_RECEIVED).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5002).breaks("handshake_ack_bad_ack"),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("H7", "the third segment lies beyond S's window", SYN_RECEIVED).steps([
            c(SYN, 100_000, 0).then(ASKED),
            s(SYN | ACK, 5000, 100_001).window(1000).then(ANSWERED),
            c(ACK, 101_002, 5001).breaks("handshake_ack_bad_seq"),
            c(ACK, 100_001, 5001).then(OPEN),
        ]),
        Row::new("H7", "the third segment lies below S's window", SYN_RECEIVED).steps([
            c(SYN, 100_000, 0).then(ASKED),
            s(SYN | ACK, 5000, 100_001).then(ANSWERED),
            c(ACK, 90_000, 5001).breaks("handshake_ack_bad_seq"),
        ]),
        Row::new("H7", "the third segment is wrong in both numbers", SYN_RECEIVED).steps([
            c(SYN, 100_000, 0).then(ASKED),
            s(SYN | ACK, 5000, 100_001).then(ANSWERED),
            c(ACK, 5, 5).breaks("handshake_bad_seq_ack"),
        ]),
        Row::new("H13", "data before the SYN,ACK, shown to be early by it", SYN_SENT).steps([
            c(SYN, 1000, 0).then(ASKED),
            // Until S shows itself, this is what half of a connection looks like (S9).
            c(PSH | ACK, 1001, 1234).data(10).unjudged().then(OPEN),
            s(SYN | ACK, 5000, 1001).breaks("data_before_established").unjudged().then(ANSWERED),
            c(PSH | ACK, 1001, 5001).data(10).then(OPEN),
        ]),
        Row::new("H13", "data and a FIN while S is in sight and has not sent its SYN", SYN_SENT)
            .steps([
                c(SYN, 1000, 0).then(ASKED),
                s(ACK, 9, 9).breaks("ack_wrong_dir").unjudged(),
                c(PSH | ACK, 1001, 1234).data(10).breaks("data_before_established"),
                // A breach still, but one that repeats a refused segment is not reported again.
                c(FIN | ACK, 1001, 1234).unjudged(),
            ]),
        Row::new(
            "H1",
            "ACK in answer to a SYN: S still has an old connection, C resets it",
            "RFC 9293 3.5.1, figure 9",
        )
        .steps([
            c(SYN, 1000, 0).then(ASKED),
            s(ACK, 300_000, 900_000).breaks("ack_wrong_dir").unjudged(),
            c(RST, 900_000, 0),
            c(SYN, 1000, 0),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("H19", "SYN,ACK from the client's side", SYN_SENT).steps([
            c(SYN, 1000, 0).then(ASKED),
            c(SYN | ACK, 1000, 5001).breaks("synack_wrong_dir"),
        ]),
        Row::new("H19", "SYN from S after its SYN,ACK", SYN_SENT).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            s(SYN, 9000, 0).breaks("syn_wrong_dir"),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
    ]
}

fn odd_openings() -> Vec<Row> {
    const SIMULTANEOUS: &str = "RFC 9293 3.5, figure 7";
    let spoofed = |n: u32| c(SYN, 1_000_000 * n, 0);
    vec![
        Row::new("H9", "simultaneous open: SYN, SYN, SYN,ACK, SYN,ACK", SIMULTANEOUS).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN, 5000, 0).counts("simultaneous_open").then("SYN_SENT/SYN_SENT"),
            c(SYN | ACK, 1000, 5001).then("SYN_RECEIVED/SYN_SENT"),
            s(SYN | ACK, 5000, 1001).then(OPEN),
        ]),
        Row::new("H9", "simultaneous open: SYN, SYN, SYN,ACK, ACK", SIMULTANEOUS).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN, 5000, 0).counts("simultaneous_open").then("SYN_SENT/SYN_SENT"),
            c(SYN | ACK, 1000, 5001).then("SYN_RECEIVED/SYN_SENT"),
            s(ACK, 5001, 1001).then(OPEN),
        ]),
        Row::new("H18", "split handshake in five segments", "RFC 9293 3.10.7.3").steps([
            c(SYN, 1000, 0).then(ASKED),
            // An end in SYN_SENT drops an ACK without a SYN, so it says nothing.
            s(ACK, 5000, 1001),
            s(SYN, 5000, 0).counts("simultaneous_open").then("SYN_SENT/SYN_SENT"),
            c(SYN | ACK, 1000, 5001).then("SYN_RECEIVED/SYN_SENT"),
            s(ACK, 5001, 1001).then(OPEN),
        ]),
        Row::new("H16", "three spoofed SYNs, then the real one", "RFC 9293 3.10.7.3").steps([
            spoofed(1).then(ASKED),
            spoofed(2),
            spoofed(3),
            c(SYN, 1000, 0),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5001).then(OPEN),
            s(PSH | ACK, 5001, 1001).data(100),
        ]),
        Row::new("H16", "the real SYN, then three spoofed ones", "RFC 9293 3.10.7.3").steps([
            c(SYN, 1000, 0).then(ASKED),
            spoofed(1),
            spoofed(2),
            spoofed(3),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5001).then(OPEN),
            s(PSH | ACK, 5001, 1001).data(100),
        ]),
        Row::new("H16", "the real SYN in the middle of nine spoofed ones", "RFC 9293 3.10.7.3")
            .steps([spoofed(1).then(ASKED), spoofed(2), spoofed(3), spoofed(4), c(SYN, 1000, 0)])
            .steps([spoofed(5), spoofed(6), spoofed(7), spoofed(8)])
            .steps([
                spoofed(9).breaks("syn_flood_tuple").unjudged(),
                s(SYN | ACK, 5000, 1001).then(ANSWERED),
                c(ACK, 1001, 5001).then(OPEN),
                s(PSH | ACK, 5001, 1001).data(100),
            ]),
        Row::new("H17", "SYN,ACK seen before its SYN", "RFC 9293 3.5").steps([
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(SYN, 1000, 0),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("H17", "the handshake seen backwards", "RFC 9293 3.5").steps([
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5001).then(OPEN),
            c(SYN, 1000, 0),
            c(PSH | ACK, 1001, 5001).data(100),
        ]),
        Row::new("H17", "SYN,ACK that nobody asked for, C resets it", "RFC 9293 3.10.7.1").steps([
            s(SYN | ACK, 5000, 1001).unjudged().then(ANSWERED),
            c(RST, 1001, 0).breaks("synack_unsolicited").unjudged().then(OVER),
        ]),
    ]
}

fn refusals() -> Vec<Row> {
    const RESET: &str = "RFC 9293 3.10.7.3";
    vec![
        Row::new(
            "H10",
            "an old SYN is answered, C resets; then C's own SYN",
            "RFC 9293 3.5, figure 8",
        )
        .steps([
            c(SYN, 90, 0).then(ASKED),
            s(SYN | ACK, 5000, 91).then(ANSWERED),
            c(RST, 91, 0).counts("stale_syn").then(OVER),
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 7000, 1001).then(ANSWERED),
            c(ACK, 1001, 7001).then(OPEN),
        ]),
        Row::new("H11", "refused", "RFC 9293 3.10.7.1").steps([
            c(SYN, 1000, 0).then(ASKED),
            s(RST | ACK, 0, 1001).counts("refused").then(OVER),
        ]),
        Row::new("H11", "RST that acknowledges one too low", RESET).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(RST | ACK, 0, 1000).breaks("rst_bad_ack_syn_sent"),
        ]),
        Row::new("H11", "RST that acknowledges nothing; the connection goes on", RESET).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(RST, 0, 0).breaks("rst_bad_ack_syn_sent"),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("H11", "RST without ACK at the number that C's window would begin with", RESET)
            .steps([c(SYN, 1000, 0).then(ASKED), s(RST, 5001, 0).breaks("rst_bad_ack_syn_sent")]),
    ]
}

fn closing() -> Vec<Row> {
    const CLOSING: &str = "RFC 9293 3.6";
    const OTHERWISE: &str = "RFC 9293 3.10.7.4";
    vec![
        Row::new("T1", "four segments", CLOSING).after(Open).steps([
            c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
            s(ACK, 5001, 1002).then("FIN_WAIT_2/CLOSE_WAIT"),
            s(FIN | ACK, 5001, 1002).then("FIN_WAIT_2/LAST_ACK"),
            c(ACK, 1002, 5002).then(WAITING),
        ]),
        Row::new("T2", "three segments", CLOSING).after(Open).steps([
            c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
            s(FIN | ACK, 5001, 1002).then("FIN_WAIT_2/LAST_ACK"),
            c(ACK, 1002, 5002).then(WAITING),
        ]),
        Row::new("T3", "S closes first, in four segments", CLOSING).after(Open).steps([
            s(FIN | ACK, 5001, 1001).then("ESTABLISHED/FIN_WAIT_1"),
            c(ACK, 1001, 5002).then("CLOSE_WAIT/FIN_WAIT_2"),
            c(FIN | ACK, 1001, 5002).then("LAST_ACK/FIN_WAIT_2"),
            s(ACK, 5002, 1002).then("CLOSED/TIME_WAIT"),
        ]),
        Row::new("T3", "S closes first, in three segments", CLOSING).after(Open).steps([
            s(FIN | ACK, 5001, 1001).then("ESTABLISHED/FIN_WAIT_1"),
            c(FIN | ACK, 1001, 5002).then("LAST_ACK/FIN_WAIT_2"),
            s(ACK, 5002, 1002).then("CLOSED/TIME_WAIT"),
        ]),
        Row::new("T4", "half-close with data, then the close", "RFC 9293 3.6.1").after(Open).steps(
            [
                c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
                s(ACK, 5001, 1002).then("FIN_WAIT_2/CLOSE_WAIT"),
                s(PSH | ACK, 5001, 1002).data(1000).counts("half_close"),
                c(ACK, 1002, 6001),
                s(PSH | ACK, 6001, 1002).data(1000),
                c(ACK, 1002, 7001),
                s(FIN | ACK, 7001, 1002).then("FIN_WAIT_2/LAST_ACK"),
                c(ACK, 1002, 7002).then(WAITING),
            ],
        ),
        Row::new("T4", "half-close by S with data from C", "RFC 9293 3.6.1").after(Open).steps([
            s(FIN | ACK, 5001, 1001).then("ESTABLISHED/FIN_WAIT_1"),
            c(PSH | ACK, 1001, 5002).data(1000).counts("half_close").then("CLOSE_WAIT/FIN_WAIT_2"),
            s(ACK, 5002, 2001),
            c(PSH | ACK, 2001, 5002).data(1000),
            s(ACK, 5002, 3001),
        ]),
        Row::new("T5", "simultaneous close", "RFC 9293 3.6, figure 13").after(Open).steps([
            c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
            s(FIN | ACK, 5001, 1001).counts("simultaneous_close").then("FIN_WAIT_1/FIN_WAIT_1"),
            c(ACK, 1002, 5002).then("CLOSING/FIN_WAIT_2"),
            s(ACK, 5002, 1002).then("TIME_WAIT/TIME_WAIT"),
        ]),
        Row::new(
            "T5",
            "simultaneous close, acknowledged by FINs that come again",
            "RFC 9293 3.6, figure 13",
        )
        .after(Open)
        .steps([
            c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
            s(FIN | ACK, 5001, 1001).counts("simultaneous_close").then("FIN_WAIT_1/FIN_WAIT_1"),
            c(FIN | ACK, 1001, 5002).then("CLOSING/FIN_WAIT_2"),
            s(FIN | ACK, 5001, 1002).then("TIME_WAIT/TIME_WAIT"),
        ]),
        Row::new("T6", "the last ACK is lost behind the router, FIN and ACK again", CLOSING)
            .after(ClosedByC)
            .steps([s(FIN | ACK, 5001, 1002), c(ACK, 1002, 5002)]),
        Row::new("T6", "the last ACK is lost before the router, FIN and ACK again", CLOSING)
            .after(Open)
            .steps([
                c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
                s(ACK, 5001, 1002).then("FIN_WAIT_2/CLOSE_WAIT"),
                s(FIN | ACK, 5001, 1002).then("FIN_WAIT_2/LAST_ACK"),
                s(FIN | ACK, 5001, 1002),
                c(ACK, 1002, 5002).then(WAITING),
            ]),
        Row::new("T15", "data after FIN", "RFC 9293 3.10.7.4").after(Open).steps([
            c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
            c(PSH | ACK, 1002, 5001).data(10).breaks("data_after_fin"),
        ]),
        Row::new("T15", "a second FIN beyond the first", "RFC 9293 3.10.7.4").after(Open).steps([
            c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
            s(ACK, 5001, 1002).then("FIN_WAIT_2/CLOSE_WAIT"),
            c(FIN | ACK, 1002, 5001).breaks("data_after_fin"),
        ]),
        Row::new("T15", "new data from S after both have closed", "RFC 9293 3.10.7.4")
            .after(ClosedByC)
            .steps([s(PSH | ACK, 5002, 1002).data(10).breaks("data_after_fin")]),
        Row::new("T1", "FIN one beyond S's window", OTHERWISE).after(Open).steps([c(
            FIN | ACK,
            1001 + 65_536,
            5001,
        )
        .breaks("fin_out_of_window")]),
        Row::new("T1", "FIN far beyond S's window", OTHERWISE).after(Open).steps([c(
            FIN | ACK,
            1_000_000,
            5001,
        )
        .breaks("fin_out_of_window")]),
        Row::new("T1", "FIN that acknowledges data never sent", OTHERWISE).after(Open).steps([c(
            FIN | ACK,
            1001,
            6001,
        )
        .breaks("fin_bad_ack")]),
        Row::new("T1", "data never sent is acknowledged while the connection closes", OTHERWISE)
            .after(Open)
            .steps([
                c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
                s(ACK, 5001, 2000).breaks("close_bad_ack"),
                s(ACK, 5001, 1002).then("FIN_WAIT_2/CLOSE_WAIT"),
            ]),
        Row::new("T7", "data never sent is acknowledged in TIME_WAIT", OTHERWISE)
            .after(ClosedByC)
            .steps([s(ACK, 5002, 2000).breaks("close_bad_ack")]),
        Row::new("T2", "the last ACK acknowledges more than the FIN", OTHERWISE).after(Open).steps(
            [
                c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
                s(FIN | ACK, 5001, 1002).then("FIN_WAIT_2/LAST_ACK"),
                c(ACK, 1002, 5003).breaks("close_bad_ack"),
                c(ACK, 1002, 5002).then(WAITING),
            ],
        ),
    ]
}

fn time_wait() -> Vec<Row> {
    const REOPENING: &str = "RFC 1122 4.2.2.13";
    const TIMESTAMPS: &str = "RFC 6191 2";
    let closed_with_timestamps = || {
        let [first, second, third] = with_timestamps();
        [
            first,
            second,
            third,
            c(FIN | ACK, 1001, 5001).timestamps(1010, 2000).then("FIN_WAIT_1/ESTABLISHED"),
            s(FIN | ACK, 5001, 1002).timestamps(2010, 1010).then("FIN_WAIT_2/LAST_ACK"),
            c(ACK, 1002, 5002).timestamps(1020, 2010).then(WAITING),
        ]
    };
    vec![
        Row::new("T9", "SYN with a higher number in TIME_WAIT", REOPENING).after(ClosedByC).steps(
            [
                c(SYN, 200_000, 0).counts("time_wait_reuse").then(ASKED),
                s(SYN | ACK, 300_000, 200_001).then(ANSWERED),
                c(ACK, 200_001, 300_001).then(OPEN),
            ],
        ),
        Row::new("T9", "SYN with a higher number to the end in TIME_WAIT", REOPENING)
            .after(ClosedByS)
            .steps([
                c(SYN, 200_000, 0).counts("time_wait_reuse").then(ASKED),
                s(SYN | ACK, 300_000, 200_001).then(ANSWERED),
                c(ACK, 200_001, 300_001).then(OPEN),
            ]),
        Row::new("T9", "SYN with a higher number from S, which was the server", REOPENING)
            .after(ClosedByC)
            .steps([
                s(SYN, 300_000, 0).counts("time_wait_reuse").then("LISTEN/SYN_SENT"),
                c(SYN | ACK, 200_000, 300_001).then("SYN_RECEIVED/SYN_SENT"),
                s(ACK, 300_001, 200_001).then(OPEN),
            ]),
        Row::new("T9", "SYN with a lower number and a newer timestamp in TIME_WAIT", TIMESTAMPS)
            .steps(closed_with_timestamps())
            .steps([
                c(SYN, 500, 0).timestamps(9000, 0).counts("time_wait_reuse").then(ASKED),
                s(SYN | ACK, 70_000, 501).timestamps(2100, 9000).then(ANSWERED),
                c(ACK, 501, 70_001).timestamps(9000, 2100).then(OPEN),
            ]),
        Row::new("T10", "SYN with a lower number and an older timestamp in TIME_WAIT", TIMESTAMPS)
            .steps(closed_with_timestamps())
            .steps([c(SYN, 500, 0).timestamps(900, 0).breaks("syn_in_time_wait")]),
        Row::new("T9", "SYN of any number after an RST", "RFC 9293 3.5.3").after(Open).steps([
            c(RST, 1001, 0).then(OVER),
            c(SYN, 500, 0).then(ASKED),
            s(SYN | ACK, 3000, 501).then(ANSWERED),
            c(ACK, 501, 3001).then(OPEN),
        ]),
        Row::new(
            "T9",
            "the SYN,ACK to a new SYN acknowledges the SYN of before",
            "RFC 9293 3.10.7.3",
        )
        .after(ClosedByC)
        .steps([
            c(SYN, 200_000, 0).counts("time_wait_reuse").then(ASKED),
            s(SYN | ACK, 5000, 1001).breaks("old_incarnation_synack"),
            c(RST, 1001, 0),
            s(SYN | ACK, 300_000, 200_001).then(ANSWERED),
            c(ACK, 200_001, 300_001).then(OPEN),
        ]),
        Row::new("T10", "SYN with a lower number in TIME_WAIT", REOPENING)
            .after(ClosedByS)
            .steps([c(SYN, 900, 0).breaks("syn_in_time_wait"), s(ACK, 5002, 1002)]),
        Row::new("T10", "the same, and the RST that its answer provokes", "RFC 1337 3")
            .after(ClosedByS)
            .steps([
                c(SYN, 900, 0).breaks("syn_in_time_wait"),
                s(ACK, 5002, 1002),
                c(RST, 1002, 0).breaks("time_wait_assassination"),
            ]),
        Row::new("T10", "RST at the next number in TIME_WAIT", "RFC 1337 3")
            .after(ClosedByS)
            .steps([c(RST, 1002, 0).counts("rst_in_time_wait")]),
        Row::new("T10", "old data in TIME_WAIT, its answer, and the RST to that", "RFC 1337 2")
            .after(ClosedByC)
            .steps([
                s(PSH | ACK, 4001, 1001).data(100),
                c(ACK, 1002, 5002),
                s(RST, 5002, 0).counts("rst_in_time_wait"),
            ]),
    ]
}

fn resets() -> Vec<Row> {
    const RESET: &str = "RFC 5961 3.2";
    vec![
        Row::new("T11", "RST from C at the next number", RESET)
            .after(Open)
            .steps([c(RST, 1001, 0).then(OVER)]),
        Row::new("T11", "RST from S behind data that is not acknowledged yet", RESET)
            .after(Open)
            .steps([s(PSH | ACK, 5001, 1001).data(100), s(RST, 5101, 0).then(OVER)]),
        Row::new("T14", "RST,ACK at the next number", RESET).after(Open).steps([s(
            RST | ACK,
            5001,
            1001,
        )
        .then(OVER)]),
        Row::new(
            "T12",
            "RST in the window, not at the next number; S challenges it, and data goes on",
            RESET,
        )
        .after(Open)
        .steps([
            c(RST, 1500, 0).breaks("rst_inexact"),
            s(ACK, 5001, 1001),
            c(PSH | ACK, 1001, 5001).data(100),
            s(ACK, 5001, 1101),
        ]),
        Row::new("T12", "RST in the window, and nothing else", RESET)
            .after(Open)
            .steps([c(RST, 1500, 0).breaks("rst_inexact")]),
        Row::new("T12", "RST in the window, challenged, and sent at the next number", RESET)
            .after(Open)
            .steps([
                c(RST, 1500, 0).breaks("rst_inexact"),
                s(ACK, 5001, 1001),
                c(RST, 1001, 0).then(OVER),
            ]),
        Row::new(
            "T12",
            "RST in the window of an end in SYN_RECEIVED, then the third segment",
            RESET,
        )
        .steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(RST, 1500, 0).breaks("rst_inexact"),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("T13", "RST beyond the window of an end in SYN_RECEIVED", RESET).steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(RST, 900_000_000, 0).breaks("rst_out_of_window"),
        ]),
        Row::new("T11", "RST at the next number of an end whose window is closed", RESET)
            .after(Open)
            .steps([
                s(ACK, 5001, 1001).window(0).counts("zero_window"),
                c(RST, 1001, 0).then(OVER),
            ]),
        Row::new("T11", "RST from the end that still had data to send after a FIN", RESET)
            .after(Open)
            .steps([
                c(FIN | ACK, 1001, 5001).then("FIN_WAIT_1/ESTABLISHED"),
                s(PSH | ACK, 5001, 1002)
                    .data(100)
                    .counts("half_close")
                    .then("FIN_WAIT_2/CLOSE_WAIT"),
                c(RST, 1002, 0).then(OVER),
            ]),
        Row::new("T13", "RST far beyond the window", RESET).after(Open).steps([c(
            RST,
            2_000_000_000,
            0,
        )
        .breaks("rst_out_of_window")]),
        Row::new("T13", "RST just beyond the window", RESET).after(Open).steps([c(
            RST,
            1001 + 65_536,
            0,
        )
        .breaks("rst_out_of_window")]),
        Row::new(
            "T11",
            "new data from the end that has reset the connection, acknowledged",
            "RFC 9293 3.5.3",
        )
        .after(Open)
        .steps([
            c(RST, 1001, 0).then(OVER),
            c(PSH | ACK, 1001, 5001).data(100),
            s(ACK, 5001, 1101).breaks("data_after_rst"),
        ]),
    ]
}

fn flags() -> Vec<Row> {
    const HEADER: &str = "RFC 9293 3.1";
    const OTHERWISE: &str = "RFC 9293 3.10.7.4";
    const FIRST: &str = "RFC 9293 3.10.7.2";
    vec![
        Row::new("F1", "SYN,FIN", FIRST).steps([c(SYN | FIN, 1000, 0).breaks("syn_fin")]),
        Row::new("F1", "SYN,FIN,PSH,RST", FIRST).steps([c(SYN | FIN | PSH | RST, 1000, 0)
            .breaks("syn_fin")
            .breaks("syn_rst")
            .breaks("fin_rst")]),
        Row::new("F1", "SYN,FIN on an open connection", OTHERWISE).after(Open).steps([c(
            SYN | FIN,
            1001,
            0,
        )
        .breaks("syn_fin")]),
        Row::new("F2", "SYN,RST", FIRST).steps([c(SYN | RST, 1000, 0).breaks("syn_rst")]),
        Row::new("F2", "SYN,RST,ACK on an open connection", OTHERWISE).after(Open).steps([c(
            SYN | RST | ACK,
            1001,
            5001,
        )
        .breaks("syn_rst")]),
        Row::new("F1", "FIN,RST at the next number of an open connection", OTHERWISE)
            .after(Open)
            .steps([c(FIN | RST, 1001, 0).breaks("fin_rst")]),
        Row::new("F3", "FIN without ACK", OTHERWISE)
            .after(Open)
            .steps([c(FIN, 1001, 0).breaks("fin_without_ack")]),
        Row::new("F4", "no flags", OTHERWISE)
            .after(Open)
            .steps([c(0, 1001, 0).breaks("null_flags")]),
        Row::new("F4", "FIN,PSH,URG", HEADER).steps([c(FIN | PSH | URG, 1000, 0).breaks("xmas")]),
        Row::new("F5", "data without ACK on an open connection", OTHERWISE).after(Open).steps([c(
            PSH, 1001, 0,
        )
        .data(10)
        .breaks("null_flags")]),
        Row::new("F7", "PSH without data, URG without a pointer", HEADER).after(Open).steps([
            c(PSH | ACK, 1001, 5001).counts("psh_without_data"),
            c(URG | ACK, 1001, 5001).data(10).counts("urg_without_pointer"),
        ]),
        Row::new("F8", "SYN to port 0", "RFC 6335 6: the port is reserved").at_port(0).steps([c(
            SYN, 1000, 0,
        )
        .breaks("port_zero")
        .unjudged()]),
        Row::new("F8", "SYN from an address and port to themselves", "stricter than RFC 9293")
            .land()
            .steps([c(SYN, 1000, 0).breaks("land").unjudged()]),
    ]
}

fn windows() -> Vec<Row> {
    const ACCEPTABLE: &str = "RFC 9293 3.10.7.4";
    const SCALE: &str = "RFC 7323 2.2";
    const MAX: u32 = u32::MAX;
    vec![
        Row::new("S1", "every number wraps: open, data, close", "RFC 9293 3.4")
            .steps(handshake(MAX - 50, MAX))
            .steps([
                c(PSH | ACK, MAX - 49, 0).data(100),
                s(PSH | ACK, 0, 50).data(200),
                c(FIN | ACK, 50, 200).then("FIN_WAIT_1/ESTABLISHED"),
                s(FIN | ACK, 200, 51).then("FIN_WAIT_2/LAST_ACK"),
                c(ACK, 51, 201).then(WAITING),
            ]),
        Row::new(
            "S1",
            "the window wraps: its last number, one beyond, an RST in it and one beyond",
            "RFC 9293 3.4",
        )
        .steps(handshake(MAX - 1000, 5000))
        .steps([
            c(ACK, (MAX - 999).wrapping_add(65_535), 5001),
            c(PSH | ACK, (MAX - 999).wrapping_add(65_536), 5001)
                .data(1)
                .breaks("seq_out_of_window"),
            s(PSH | ACK, 5001, MAX - 999).data(10),
            s(RST, 6000, 0).breaks("rst_inexact"),
            c(RST, 70_000, 0).breaks("rst_out_of_window"),
        ]),
        Row::new("S1", "a handshake across the wrap, with a wrong acknowledgment", "RFC 9293 3.4")
            .steps([
                c(SYN, MAX, 0).then(ASKED),
                s(SYN | ACK, MAX, MAX).breaks("synack_bad_ack"),
                s(SYN | ACK, MAX, 0).then(ANSWERED),
                c(ACK, 0, MAX).breaks("handshake_ack_bad_ack"),
                c(ACK, 0, 0).then(OPEN),
            ]),
        Row::new("S2", "acknowledgment of data never sent", "RFC 5961 5.2").after(Open).steps([
            c(PSH | ACK, 1001, 5001).data(10),
            s(ACK, 5001, 1012).breaks("ack_unseen_data"),
            s(ACK, 5001, 1011),
        ]),
        Row::new(
            "S2",
            "acknowledgment of data that passed by another way, which C then goes on from",
            ACCEPTABLE,
        )
        .after(Open)
        .steps([
            s(ACK, 5001, 31_001).breaks("ack_unseen_data"),
            c(PSH | ACK, 31_001, 5001).data(100),
            s(ACK, 5001, 31_101),
        ]),
        Row::new("S2", "acknowledgment of a FIN never sent, then a real FIN", "RFC 5961 5.2")
            .after(Open)
            .steps([
                c(ACK, 1001, 5002).breaks("ack_unseen_data"),
                s(FIN | ACK, 5001, 1001).then("ESTABLISHED/FIN_WAIT_1"),
            ]),
        Row::new("S3", "data one beyond the window", ACCEPTABLE).after(Open).steps([c(
            PSH | ACK,
            1001 + 65_536,
            5001,
        )
        .data(10)
        .breaks("seq_out_of_window")]),
        Row::new("S3", "data far beyond the window", ACCEPTABLE).after(Open).steps([c(
            PSH | ACK,
            1_000_000,
            5001,
        )
        .data(10)
        .breaks("seq_out_of_window")]),
        Row::new("S3", "data that uses a window that has shrunk since", "RFC 9293 3.8.6")
            .after(Open)
            .steps([
                s(ACK, 5001, 1001).window(500).counts("window_recision"),
                c(PSH | ACK, 1001 + 60_000, 5001).data(10),
            ]),
        Row::new("S3", "both scale: the scaled window's last number, and one beyond", SCALE).steps(
            [
                c(SYN, 1000, 0).scale(7).window(1000).then(ASKED),
                s(SYN | ACK, 5000, 1001).scale(2).window(1000).then(ANSWERED),
                c(ACK, 1001, 5001).window(1000).then(OPEN),
                s(ACK, 5001 + 128_000, 1001),
                s(PSH | ACK, 5001 + 128_001, 1001).data(1).breaks("seq_out_of_window"),
            ],
        ),
        Row::new("H14", "one end only offers scaling: nothing is scaled", SCALE).steps([
            c(SYN, 1000, 0).scale(7).window(1000).then(ASKED),
            s(SYN | ACK, 5000, 1001).window(1000).then(ANSWERED),
            c(ACK, 1001, 5001).window(1000).then(OPEN),
            s(PSH | ACK, 5001 + 1001, 1001).data(1).breaks("seq_out_of_window"),
        ]),
        Row::new("H14", "a SYN,ACK's own window is never scaled", SCALE).steps([
            c(SYN, 1000, 0).scale(7).then(ASKED),
            s(SYN | ACK, 5000, 1001).scale(7).window(1000).then(ANSWERED),
            c(PSH | ACK, 1001 + 1001, 5001).data(1).breaks("handshake_ack_bad_seq"),
            c(ACK, 1001, 5001).then(OPEN),
        ]),
        Row::new("S7", "new data with an older timestamp", "RFC 7323 5.3")
            .steps(with_timestamps())
            .steps([
                c(PSH | ACK, 1001, 5001).data(10).timestamps(1100, 2000),
                s(ACK, 5001, 1011).timestamps(2100, 1100),
                c(PSH | ACK, 1011, 5001).data(10).timestamps(1050, 2000).breaks("paws_reject"),
                c(PSH | ACK, 1011, 5001).data(10).timestamps(1200, 2100),
            ]),
        Row::new("S7", "an RST with an older timestamp counts all the same", "RFC 7323 5.3")
            .steps(with_timestamps())
            .steps([
                c(PSH | ACK, 1001, 5001).data(10).timestamps(1100, 2000),
                s(ACK, 5001, 1011).timestamps(2100, 1100),
                c(RST | ACK, 1011, 5001).timestamps(1050, 2000).then(OVER),
            ]),
    ]
}

fn ordinary() -> Vec<Row> {
    vec![
        Row::new("S4", "keepalives without and with a byte, and their answers", "RFC 9293 3.8.4")
            .after(Open)
            .steps([
                c(PSH | ACK, 1001, 5001).data(100),
                s(ACK, 5001, 1101),
                c(ACK, 1100, 5001),
                s(ACK, 5001, 1101),
                c(ACK, 1100, 5001).data(1),
                s(ACK, 5001, 1101),
            ]),
        Row::new(
            "S4",
            "zero window, a probe of one byte, and the window's opening",
            "RFC 9293 3.8.6.1",
        )
        .after(Open)
        .steps([
            c(PSH | ACK, 1001, 5001).data(100),
            s(ACK, 5001, 1101).window(0).counts("zero_window"),
            c(ACK, 1101, 5001).data(1),
            s(ACK, 5001, 1101).window(0).counts("zero_window"),
            s(ACK, 5001, 1101),
            c(PSH | ACK, 1101, 5001).data(100),
        ]),
        Row::new("S4", "lost, reordered, duplicated and cut anew", "RFC 9293 3.10.7.4")
            .after(Open)
            .steps([
                c(ACK, 1101, 5001).data(100),
                s(ACK, 5001, 1001),
                c(ACK, 1001, 5001).data(100),
                c(ACK, 1001, 5001).data(100).counts("retransmission"),
                s(ACK, 5001, 1201),
                c(ACK, 1051, 5001).data(250),
                s(ACK, 5001, 1301),
                s(ACK, 5001, 1201).counts("ack_old"),
            ]),
        Row::new(
            "S4",
            "SYN and SYN,ACK arrive a second time on the open connection",
            "RFC 9293 3.10.7.4",
        )
        .after(Open)
        .steps([c(SYN, 1000, 0), s(SYN | ACK, 5000, 1001), c(ACK, 1001, 5001)]),
        Row::new("S4", "an old duplicate far below the window", "RFC 9293 3.10.7.4")
            .steps(handshake(1_000_000, 5000))
            .steps([
                c(PSH | ACK, 1_000_001, 5001).data(1000),
                s(ACK, 5001, 1_001_001),
                c(PSH | ACK, 1_000_001, 5001).data(1000),
                s(ACK, 5001, 1_001_001),
            ]),
        Row::new("S8", "the third segment in a padded frame is no data", "RFC 9293 3.1").steps([
            c(SYN, 1000, 0).then(ASKED),
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            c(ACK, 1001, 5001).padded().then(OPEN),
            c(PSH | ACK, 1001, 5001).data(10),
            s(ACK, 5001, 1011),
        ]),
    ]
}

fn syn_on_open() -> Vec<Row> {
    const CHALLENGE: &str = "RFC 5961 4.2";
    vec![
        Row::new("S5", "SYN on an open connection; S challenges it, and data goes on", CHALLENGE)
            .after(Open)
            .steps([
                c(SYN, 900_000, 0).breaks("syn_in_established"),
                s(ACK, 5001, 1001),
                c(PSH | ACK, 1001, 5001).data(10),
                s(ACK, 5001, 1011),
            ]),
        Row::new("S5", "SYN inside the window of an open connection", CHALLENGE)
            .after(Open)
            .steps([c(SYN, 1500, 0).breaks("syn_in_established"), s(ACK, 5001, 1001)]),
        Row::new(
            "S5",
            "C has restarted: SYN, challenge ACK, RST, and SYN again",
            "RFC 9293 3.5.1, figure 9",
        )
        .after(Open)
        .steps([
            c(SYN, 900_000, 0).breaks("syn_in_established"),
            s(ACK, 5001, 1001),
            c(RST, 1001, 0).then(ASKED),
            c(SYN, 900_000, 0),
            s(SYN | ACK, 70_000, 900_001).then(ANSWERED),
            c(ACK, 900_001, 70_001).then(OPEN),
        ]),
        Row::new(
            "S5",
            "both have restarted: SYN on a connection that is known here only",
            "RFC 9293 3.5.1",
        )
        .after(Open)
        .steps([
            c(SYN, 900_000, 0).breaks("syn_in_established"),
            s(SYN | ACK, 70_000, 900_001),
            c(ACK, 900_001, 70_001),
            s(PSH | ACK, 70_001, 900_001).data(100),
        ]),
        Row::new("S5", "SYN from S on an open connection", CHALLENGE)
            .after(Open)
            .steps([s(SYN, 900_000, 0).breaks("syn_in_established"), c(ACK, 1001, 5001)]),
        Row::new("S5", "SYN,ACK with another number on an open connection", CHALLENGE)
            .after(Open)
            .steps([
                s(SYN | ACK, 900_000, 1101).breaks("synack_in_established"),
                c(ACK, 1001, 5001),
            ]),
        Row::new("S5", "SYN answered anew on an open connection, then reset", "RFC 9293 3.5.1")
            .after(Open)
            .steps([
                s(SYN | ACK, 900_000, 1001).breaks("synack_anew"),
                c(ACK, 1001, 5001),
                s(RST, 5001, 0).then(OVER),
            ]),
    ]
}

fn partial() -> Vec<Row> {
    const INFERRED: &str = "RFC 9293 3.10.7.4";
    vec![
        Row::new("S6", "picked up in its middle, and closed", INFERRED).steps([
            c(PSH | ACK, 1_000_000, 9_000_000).data(100).window(10).counts("midstream").then(OPEN),
            s(PSH | ACK, 9_000_000, 1_000_100).data(1000),
            c(ACK, 1_000_100, 9_001_000).window(10),
            s(PSH | ACK, 9_101_000, 1_000_100).data(1000),
            c(FIN | ACK, 1_000_100, 9_102_000).then("FIN_WAIT_1/ESTABLISHED"),
            s(FIN | ACK, 9_102_000, 1_000_101).then("FIN_WAIT_2/LAST_ACK"),
            c(ACK, 1_000_101, 9_102_001).then(WAITING),
        ]),
        Row::new("S6", "picked up by a FIN", INFERRED).steps([
            c(FIN | ACK, 1001, 5001).counts("fin_no_session").then("FIN_WAIT_1/ESTABLISHED"),
            s(FIN | ACK, 5001, 1002).then("FIN_WAIT_2/LAST_ACK"),
            c(ACK, 1002, 5002).then(WAITING),
        ]),
        Row::new("S6", "an RST to nothing known", INFERRED)
            .steps([c(RST | ACK, 1001, 5001).counts("rst_no_session").unjudged().then(NOTHING)]),
        Row::new("S9", "one direction only: C's", INFERRED).steps([
            c(SYN, 1000, 0).then(ASKED),
            c(ACK, 1001, 5001).then(OPEN),
            c(PSH | ACK, 1001, 5001).data(100),
            c(ACK, 1101, 15_001),
            c(ACK, 1101, 250_000),
            c(FIN | ACK, 1101, 250_000).then("FIN_WAIT_1/ESTABLISHED"),
            c(ACK, 1102, 250_001),
        ]),
        Row::new("S9", "one direction only: C's, until S resets it", INFERRED).steps([
            c(SYN, 1000, 0).then(ASKED),
            c(ACK, 1001, 5001).then(OPEN),
            c(PSH | ACK, 1001, 5001).data(100),
            s(RST, 5001, 0).then(OVER),
        ]),
        Row::new("S9", "one direction only: S's", INFERRED).steps([
            s(SYN | ACK, 5000, 1001).then(ANSWERED),
            s(ACK, 5001, 1101).then(OPEN),
            s(PSH | ACK, 5001, 1101).data(1000),
            s(PSH | ACK, 6001, 50_000).data(1000),
            s(FIN | ACK, 7001, 50_001).then("ESTABLISHED/FIN_WAIT_1"),
            s(ACK, 7002, 50_001),
        ]),
    ]
}
