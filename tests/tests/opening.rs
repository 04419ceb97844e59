//! Behaviours H: opening. Segments are crafted, pass the kernel programs on a veth pair, and the states are what
//! `tracker flows -o jsonl` says.

use anyhow::Result;
use serde_json::Value;
use tracker_tests::{
    lab::{Bench, Connection},
    segment::flag::{ACK, FIN, PSH, RST, SYN},
};

/// MSS 1460, SACK permitted, timestamps, window scale 7: what Linux sends.
const LINUX_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

fn expected(event: &Value) -> (u64, u64, u64) {
    let number = |value: &Value| value.as_u64().expect("a number");
    let violation = &event["violation"];
    (
        number(&violation["expected"]["low"]),
        number(&violation["expected"]["high"]),
        number(&violation["actual"]),
    )
}

#[test]
fn h1_syn_then_syn_ack() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    assert_eq!(bench.states()?, "SYN_SENT/LISTEN");
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    let flow = bench.flow()?;
    assert_eq!((&flow["history"], &flow["seen"]), (&"Sh".into(), &"both".into()));
    bench.nothing_reported()
}

#[test]
fn h2_third_segment_establishes() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    let flow = bench.flow()?;
    assert_eq!((&flow["history"], &flow["tier"]), (&"ShA".into(), &"confirmed".into()));
    bench.nothing_reported()?;
    bench.events.wait_for("NEW")?;
    let established = bench.events.wait_for("ESTABLISHED")?;
    assert_eq!(established["flow"]["sport"], 40_000);
    Ok(())
}

#[test]
fn h2_outbound_and_ipv6() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::outbound(&bench).ipv6();
    tcp.handshake()?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    let flow = bench.flow()?;
    assert_eq!((&flow["family"], &flow["src"]), (&"ipv6".into(), &"2001:db8::1".into()));
    bench.nothing_reported()
}

#[test]
fn h3_third_segment_carries_data() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(100))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    assert_eq!(bench.flow()?["history"], "ShD");
    bench.nothing_reported()
}

#[test]
fn h4_first_data_completes_after_a_lost_third_segment() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    // The third segment and 200 bytes of data were lost as well.
    tcp.c_sends(&tcp.c(ACK | PSH, 1201, 5001).data(100))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    bench.nothing_reported()
}

#[test]
fn h5_data_in_syn_and_in_syn_ack() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0).data(10))?;
    assert_eq!(bench.states()?, "SYN_SENT/LISTEN");
    bench.events.violation("syn_with_data")?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1011).data(5))?;
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    bench.events.violation("synack_with_data")?;
    tcp.c_sends(&tcp.c(ACK, 1011, 5006))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    Ok(())
}

#[test]
fn h5_fast_open_may_carry_data() -> Result<()> {
    let bench = Bench::new()?;
    let cookie = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    // Acknowledged with its data, and without it.
    for (port, ack) in [(40_000, 1011), (40_001, 1001)] {
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&cookie).data(10))?;
        tcp.s_sends(&tcp.s(SYN | ACK, 5000, ack))?;
        tcp.c_sends(&tcp.c(ACK, 1011, 5001))?;
    }
    bench.settle()?;
    for flow in bench.agent.flows(&[])? {
        assert_eq!(
            (&flow["orig"]["state"], &flow["reply"]["state"]),
            (&"ESTABLISHED".into(), &"ESTABLISHED".into())
        );
    }
    bench.nothing_reported()
}

#[test]
fn h6_syn_ack_with_a_wrong_acknowledgment() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    for wrong in [1000, 1002, 51_001, 1001u32.wrapping_sub(50_000)] {
        tcp.s_sends(&tcp.s(SYN | ACK, 5000, wrong))?;
        assert_eq!(bench.states()?, "SYN_SENT/LISTEN", "after acknowledging {wrong}");
        let event = bench.events.violation("synack_bad_ack")?;
        assert_eq!(expected(&event), (1001, 1001, wrong.into()));
        assert_eq!(event["segment"]["direction"], "reply");
        assert_eq!(event["violation"]["before"], event["violation"]["after"]);
        // C refuses it, as RFC 9293 wants: no breach, and no end.
        tcp.c_sends(&tcp.c(RST, wrong, 0))?;
        assert_eq!(bench.states()?, "SYN_SENT/LISTEN", "after refusing {wrong}");
    }
    assert_eq!(bench.agent.violations()?, [("synack_bad_ack".to_owned(), 4)]);
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    Ok(())
}

#[test]
fn h7_third_segment_with_a_wrong_acknowledgment() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 50_000, 1001))?;
    for wrong in [50_000, 50_002, 40_000] {
        tcp.c_sends(&tcp.c(ACK, 1001, wrong))?;
        assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED", "after acknowledging {wrong}");
        let event = bench.events.violation("handshake_ack_bad_ack")?;
        assert_eq!(expected(&event), (50_001, 50_001, wrong.into()));
        assert_eq!(event["segment"]["direction"], "orig");
    }
    tcp.c_sends(&tcp.c(ACK, 1001, 50_001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    Ok(())
}

#[test]
fn h7_third_segment_outside_the_window() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 100_000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 100_001).window(1000))?;
    for wrong in [101_002u32, 99_999, 3_000_000_000] {
        tcp.c_sends(&tcp.c(ACK, wrong, 5001))?;
        assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED", "after {wrong}");
        let event = bench.events.violation("handshake_ack_bad_seq")?;
        assert_eq!(expected(&event), (100_001, 101_001, wrong.into()));
    }
    tcp.c_sends(&tcp.c(ACK, 5, 5))?;
    bench.events.violation("handshake_bad_seq_ack")?;
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    // The window's last number is inside: earlier segments may have been lost.
    tcp.c_sends(&tcp.c(ACK, 101_001, 5001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    Ok(())
}

#[test]
fn h8_syn_comes_again() -> Result<()> {
    let bench = Bench::new()?;
    // The SYN,ACK may answer the first ISN or the second.
    for (port, chosen) in [(40_000, 1000), (40_001, 77_000)] {
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
        tcp.c_sends(&tcp.c(SYN, 77_000, 0))?;
        tcp.s_sends(&tcp.s(SYN | ACK, 5000, chosen + 1))?;
        tcp.s_sends(&tcp.s(SYN | ACK, 5000, chosen + 1))?;
        tcp.c_sends(&tcp.c(ACK, chosen + 1, 5001))?;
        bench.settle()?;
        let flows = bench.agent.flows(&["--sport", &port.to_string()])?;
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0]["orig"]["state"], "ESTABLISHED");
        assert_eq!(flows[0]["orig"]["isn"], chosen);
    }
    bench.nothing_reported()
}

#[test]
fn h8_retransmissions_do_not_renew_the_timer() -> Result<()> {
    let bench = Bench::with(&["--timeout-syn-sent", "2", "--sweep-interval", "0.05"])?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    // SYNs go on for as long as the flow lives; only because they do not renew it does this loop end.
    let created = bench.flow()?["created_ns"].clone();
    let mut syns = 0u32;
    while bench.agent.flows(&[])?.iter().any(|flow| flow["created_ns"] == created) {
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
        syns += 1;
        assert!(syns < 100_000, "the retransmitted SYN kept its flow alive");
    }
    let end = bench.events.wait_for("DESTROY")?;
    assert_eq!(
        (&end["end"]["reason"], &end["end"]["timeout_state"]),
        (&"timeout".into(), &"SYN_SENT".into())
    );
    Ok(())
}

#[test]
fn h9_simultaneous_open() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN, 5000, 0))?;
    assert_eq!(bench.states()?, "SYN_SENT/SYN_SENT");
    tcp.c_sends(&tcp.c(SYN | ACK, 1000, 5001))?;
    assert_eq!(bench.states()?, "SYN_RECEIVED/SYN_SENT");
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    bench.nothing_reported()
}

#[test]
fn h9_simultaneous_open_ended_by_an_ack() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::outbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN, 5000, 0))?;
    tcp.c_sends(&tcp.c(SYN | ACK, 1000, 5001))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    bench.nothing_reported()
}

#[test]
fn h11_refused() -> Result<()> {
    let bench = Bench::with(&["--timeout-closed", "1", "--sweep-interval", "0.05"])?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    // An RST that proves nothing changes nothing: a wrong acknowledgment, or none at all.
    for (flags, ack) in [(RST | ACK, 1000), (RST | ACK, 4_000_000_000), (RST, 0)] {
        tcp.s_sends(&tcp.s(flags, 0, ack))?;
        assert_eq!(bench.states()?, "SYN_SENT/LISTEN");
        let event = bench.events.violation("rst_bad_ack_syn_sent")?;
        assert_eq!(expected(&event), (1001, 1001, ack.into()));
    }
    tcp.s_sends(&tcp.s(RST | ACK, 0, 1001))?;
    bench.settle()?;
    let end = bench.events.wait_for("DESTROY")?;
    assert_eq!((&end["end"]["reason"], &end["flow"]["conn_state"]), (&"rst".into(), &"REJ".into()));
    assert_eq!(end["flow"]["orig"]["state"], "CLOSED");
    assert_eq!(bench.agent.stats()?["violations"]["refused"]["out"], 1);
    Ok(())
}

#[test]
fn h11_a_client_that_breaks_off_was_not_refused() -> Result<()> {
    // What a SYN scan looks like: the port is open, and the scanner resets.
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.c_sends(&tcp.c(RST, 1001, 0))?;
    assert_eq!(bench.states()?, "CLOSED/CLOSED");
    assert_eq!(bench.flow()?["conn_state"], "RSTO");
    assert_eq!(bench.agent.stats()?["violations"]["refused"]["in"], 0);
    bench.nothing_reported()
}

#[test]
fn h12_half_open_ages_out_and_evicts_nothing_established() -> Result<()> {
    let bench = Bench::with(&[
        "--max-half-open",
        "64",
        "--timeout-syn-received",
        "1",
        "--sweep-interval",
        "0.05",
    ])?;
    let living = Connection::inbound(&bench);
    living.handshake()?;
    // Far more handshakes than fit, none completed.
    for port in 1..=2000 {
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    }
    let unfinished = Connection::inbound(&bench).from_port(3000);
    unfinished.c_sends(&unfinished.c(SYN, 1000, 0))?;
    unfinished.s_sends(&unfinished.s(SYN | ACK, 5000, 1001))?;
    bench.settle()?;
    let end =
        bench.events.wait(|event| event["event"] == "DESTROY" && event["flow"]["sport"] == 3000)?;
    assert_eq!(
        (&end["end"]["reason"], &end["end"]["timeout_state"]),
        (&"timeout".into(), &"SYN_RECEIVED".into())
    );
    let established = bench.agent.flows(&["--state", "ESTABLISHED"])?;
    assert_eq!(established.len(), 1, "the flood took the established connection");
    // What the flood pushed out is counted: all but what is still there.
    let flows = &bench.agent.stats()?["flows"];
    let number = |name: &str| flows[name].as_u64().expect("a number");
    assert!(number("half_open_evicted") > 1000, "{flows}");
    assert!(number("half_open_evicted") + number("half_open") <= 2001, "{flows}");
    assert_eq!(bench.agent.stats()?["violations"]["half_open_timeout"]["in"], 1);
    Ok(())
}

#[test]
fn h13_data_before_the_syn_ack() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    // Sent blindly; the SYN,ACK that follows shows that C could not know what it acknowledged.
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 1234).data(10))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    let event = bench.events.violation("data_before_established")?;
    assert_eq!(expected(&event), (5001, 5001, 1234));
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    // S has shown itself, and not answered: what C sends now is known to be early at once.
    let fin = Connection::inbound(&bench).from_port(41_000);
    fin.c_sends(&fin.c(SYN, 1000, 0))?;
    fin.s_sends(&fin.s(ACK, 9, 9))?;
    fin.c_sends(&fin.c(ACK | FIN, 1001, 1234))?;
    let event = bench.events.wait(|event| {
        event["violation"]["name"] == "data_before_established"
            && event["segment"]["sport"] == 41_000
    })?;
    assert_eq!(event["violation"]["after"]["orig"], "SYN_SENT");
    Ok(())
}

#[test]
fn h14_options_are_read_from_syn_segments() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&LINUX_OPTIONS).window(1000))?;
    // Window scale 200 is taken for 14.
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001).options(&[3, 3, 200, 1]).window(1000))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001).options(&[2, 4, 1, 1]).window(1000))?;
    let flow = bench.flow()?;
    let (c, s) = (&flow["orig"], &flow["reply"]);
    assert_eq!(
        (&c["mss"], &c["wscale"], &c["sack"], &c["timestamps"]),
        (&1460.into(), &7.into(), &true.into(), &true.into())
    );
    assert_eq!((&s["mss"], &s["wscale"], &s["sack"]), (&Value::Null, &14.into(), &false.into()));
    // C's window is 1000 << 7 = 128,000 since both offered scaling: S may send up to there, and not beyond.
    tcp.s_sends(&tcp.s(ACK, 5001 + 128_000, 1001))?;
    bench.nothing_reported()?;
    tcp.s_sends(&tcp.s(ACK, 5001 + 128_001, 1001))?;
    bench.settle()?;
    assert_eq!(bench.agent.violations()?, [("seq_out_of_window".to_owned(), 1)]);
    Ok(())
}

#[test]
fn h14_scaling_needs_both_and_never_scales_a_syn() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    // The window of the SYN was offered, too.
    tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&LINUX_OPTIONS).window(1000))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001).window(1000))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001).window(1000))?;
    tcp.s_sends(&tcp.s(ACK, 5001 + 1001, 1001))?;
    let event = bench.events.violation("seq_out_of_window")?;
    assert_eq!(expected(&event), (5001, 6001, 6002));
    // Both offer it; the SYN,ACK's own window of 1000 is not scaled.
    let tcp = Connection::inbound(&bench).from_port(41_000);
    tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&LINUX_OPTIONS))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001).options(&LINUX_OPTIONS).window(1000))?;
    tcp.c_sends(&tcp.c(ACK, 2002, 5001))?;
    let event = bench.events.violation("handshake_ack_bad_seq")?;
    assert_eq!(expected(&event), (1001, 2001, 2002));
    Ok(())
}

#[test]
fn h15_syn_and_fin_count_one_an_ack_none() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    assert_eq!(bench.flow()?["orig"]["seq"], 1001);
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    assert_eq!(bench.flow()?["orig"]["seq"], 1001);
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(7))?;
    assert_eq!(bench.flow()?["orig"]["seq"], 1008);
    tcp.c_sends(&tcp.c(ACK | FIN, 1008, 5001))?;
    assert_eq!(bench.flow()?["orig"]["seq"], 1009);
    // 1009 acknowledges the FIN, 1008 does not.
    tcp.s_sends(&tcp.s(ACK, 5001, 1008))?;
    assert_eq!(bench.states()?, "FIN_WAIT_1/ESTABLISHED");
    tcp.s_sends(&tcp.s(ACK, 5001, 1009))?;
    assert_eq!(bench.states()?, "FIN_WAIT_2/CLOSE_WAIT");
    bench.nothing_reported()
}

#[test]
fn h17_syn_ack_before_its_syn() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    let flow = bench.flow()?;
    assert_eq!(
        (&flow["src"], &flow["sport"]),
        (&"192.0.2.1".into(), &40_000.into()),
        "C opened it"
    );
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    // The whole handshake backwards.
    let tcp = Connection::inbound(&bench).from_port(41_000);
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    bench.settle()?;
    let flow = &bench.agent.flows(&["--sport", "41000"])?[0];
    assert_eq!(
        (&flow["orig"]["state"], &flow["reply"]["state"]),
        (&"ESTABLISHED".into(), &"ESTABLISHED".into())
    );
    bench.nothing_reported()
}

/// How often a rule was broken, whatever its severity.
fn counted(bench: &Bench, rule: &str) -> Result<u64> {
    bench.settle()?;
    let stats = bench.agent.stats()?;
    let by_hook = &stats["violations"][rule];
    Ok(by_hook["in"].as_u64().expect("a count") + by_hook["out"].as_u64().expect("a count"))
}

#[test]
fn h10_a_stale_syn_is_refused() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.c_sends(&tcp.c(RST, 1001, 0))?;
    assert_eq!(bench.states()?, "CLOSED/CLOSED");
    assert_eq!(counted(&bench, "stale_syn")?, 1);
    bench.nothing_reported()
}

#[test]
fn h16_the_answer_picks_the_isn_of_many() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    // More than are remembered, and the real one among them.
    for isn in (0..30).map(|n| 1000 + n * 100_000) {
        tcp.c_sends(&tcp.c(SYN, isn, 0))?;
    }
    bench.events.violation("syn_flood_tuple")?;
    assert_eq!(bench.states()?, "SYN_SENT/LISTEN");
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1_701_001))?;
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    tcp.c_sends(&tcp.c(ACK, 1_701_001, 5001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    assert_eq!(bench.flow()?["orig"]["isn"], 1_701_000);
    let broken: Vec<_> = bench.agent.violations()?.into_iter().map(|(name, _)| name).collect();
    assert_eq!(broken, ["syn_flood_tuple"]);
    Ok(())
}

#[test]
fn h17_what_is_as_late_as_a_copy_of_the_syn_is_no_part_of_its_handshake() -> Result<()> {
    // The first segment is of a connection that is confirmed, then of one that never was.
    for (port, confirmed) in [(40_000, true), (40_001, false)] {
        let bench = Bench::new()?;
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
        tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
        if confirmed {
            tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
            tcp.s_sends(&tcp.s(RST, 5001, 0))?;
        } else {
            tcp.c_sends(&tcp.c(RST, 1001, 0))?;
        }
        assert_eq!(bench.states()?, "CLOSED/CLOSED");
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
        if !confirmed {
            // Not yet answered.
            tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(10))?;
        }
        tcp.s_sends(&tcp.s(SYN | ACK, 600_000, 1001))?;
        // Data, a FIN and an RST of the old connection, and what they are answered with, one after the other and at once.
        tcp.c_sends(&tcp.c(ACK | PSH, 2001, 5001).data(100))?;
        tcp.s_sends(&tcp.s(RST, 5001, 0))?;
        tcp.c_sends(&tcp.c(ACK | FIN, 200_101, 5002))?;
        tcp.c_sends(&tcp.c(ACK, 2102, 5003))?;
        tcp.s_sends(&tcp.s(RST, 5002, 0))?;
        tcp.s_sends(&tcp.s(RST, 5003, 0))?;
        tcp.c_sends(&tcp.c(RST, 200_102, 0))?;
        assert_eq!(bench.agent.flows(&["--state", "syn-received"])?.len(), 1, "{confirmed}");
        assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED", "{confirmed}");
        bench.nothing_reported()?;
        // C does not want it.
        tcp.c_sends(&tcp.c(RST, 1001, 0))?;
        assert_eq!(bench.states()?, "CLOSED/CLOSED");
        bench.nothing_reported()?;
    }
    // A new SYN is not a copy: a wrong guess at the answer to it is reported.
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.s_sends(&tcp.s(RST, 5001, 0))?;
    tcp.c_sends(&tcp.c(SYN, 700_000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 600_000, 700_001))?;
    tcp.c_sends(&tcp.c(ACK, 700_001, 5001))?;
    bench.events.violation("handshake_ack_bad_ack")?;
    Ok(())
}

#[test]
fn h18_split_handshakes_of_four_and_of_five_segments() -> Result<()> {
    for five in [false, true] {
        let bench = Bench::new()?;
        let tcp = Connection::outbound(&bench);
        tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
        if five {
            tcp.s_sends(&tcp.s(ACK, 5000, 1001))?;
        }
        tcp.s_sends(&tcp.s(SYN, 5000, 0))?;
        tcp.c_sends(&tcp.c(SYN | ACK, 1000, 5001))?;
        tcp.s_sends(&tcp.s(ACK, 5001, 1001))?;
        assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED", "five: {five}");
        assert_eq!(counted(&bench, "simultaneous_open")?, 1);
        bench.nothing_reported()?;
    }
    Ok(())
}

#[test]
fn h19_syn_ack_and_syn_from_the_wrong_end() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.c_sends(&tcp.c(SYN | ACK, 1000, 5001))?;
    bench.events.violation("synack_wrong_dir")?;
    assert_eq!(bench.states()?, "SYN_SENT/LISTEN");
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.s_sends(&tcp.s(SYN, 6000, 0))?;
    bench.events.violation("syn_wrong_dir")?;
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    Ok(())
}
