//! Behaviours S: sequence numbers.

use anyhow::Result;
use tracker_tests::{
    lab::{Bench, Connection},
    segment::flag::{ACK, FIN, PSH, SYN},
};

#[test]
fn s1_every_comparison_wraps() -> Result<()> {
    let bench = Bench::new()?;
    let isns =
        [0, 1, u32::MAX, u32::MAX - 1, u32::MAX - 50, u32::MAX - 150, 0x7fff_ffff, 0x8000_0000];
    for (n, c) in (0u16..).zip(isns) {
        for (m, s) in (0u16..).zip(isns) {
            let tcp = Connection::inbound(&bench).from_port(1000 + n * 100 + m);
            let (c, s) = (|n| c.wrapping_add(n), |n| s.wrapping_add(n));
            tcp.c_sends(&tcp.c(SYN, c(0), 0))?;
            tcp.s_sends(&tcp.s(SYN | ACK, s(0), c(1)))?;
            tcp.c_sends(&tcp.c(ACK, c(1), s(1)))?;
            tcp.c_sends(&tcp.c(ACK | PSH, c(1), s(1)).data(100))?;
            tcp.s_sends(&tcp.s(ACK | PSH, s(1), c(101)).data(200))?;
            tcp.c_sends(&tcp.c(FIN | ACK, c(101), s(201)))?;
            tcp.s_sends(&tcp.s(FIN | ACK, s(201), c(102)))?;
            tcp.c_sends(&tcp.c(ACK, c(102), s(202)))?;
        }
    }
    bench.settle()?;
    let flows = bench.agent.flows(&[])?;
    assert_eq!(flows.len(), isns.len() * isns.len());
    for flow in flows {
        let states = (&flow["orig"]["state"], &flow["reply"]["state"]);
        assert_eq!(states, (&"TIME_WAIT".into(), &"CLOSED".into()), "{flow}");
        assert_eq!(flow["history"], "ShADdFf");
    }
    bench.nothing_reported()
}

#[test]
fn s1_more_than_four_gigabytes() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    let scale = [3, 3, 14, 1];
    tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&scale))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001).options(&scale))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1001))?;
    // Steps of 0.5 GB, each inside the window of 1 GB: every number comes round twice.
    let (mut next, step) = (1001u32, 1 << 29);
    for _ in 0..20 {
        next = next.wrapping_add(step);
        tcp.c_sends(&tcp.c(ACK | PSH, next, 5001).data(1))?;
        next = next.wrapping_add(1);
        tcp.s_sends(&tcp.s(ACK, 5001, next))?;
    }
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, next))?;
    tcp.c_sends(&tcp.c(FIN | ACK, next, 5002))?;
    tcp.s_sends(&tcp.s(ACK, 5002, next.wrapping_add(1)))?;
    assert_eq!(bench.states()?, "CLOSED/TIME_WAIT");
    bench.nothing_reported()
}

#[test]
fn s2_acknowledgment_of_data_never_sent() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1001, 5001).data(10))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1012))?;
    let event = bench.events.violation("ack_unseen_data")?;
    let violation = &event["violation"];
    assert_eq!(
        (&violation["expected"]["high"], &violation["actual"]),
        (&1011.into(), &1012.into())
    );
    assert_eq!(event["segment"]["direction"], "reply");
    assert_eq!(bench.flow()?["reply"]["ack"], 1001, "a forged acknowledgment became a fact");
    tcp.s_sends(&tcp.s(ACK, 5001, 1011))?;
    bench.settle()?;
    assert_eq!(bench.agent.violations()?.len(), 1);
    Ok(())
}

#[test]
fn s2_a_forged_acknowledgment_of_a_fin_closes_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    // S never sent a FIN; C acknowledges one.
    tcp.c_sends(&tcp.c(ACK, 1001, 5002))?;
    bench.events.violation("ack_unseen_data")?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/FIN_WAIT_1");
    Ok(())
}

#[test]
fn s3_data_beyond_the_window() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1001).window(500))?;
    // What was once offered may be used: the window never moves back (RFC 9293 section 3.8.6).
    tcp.c_sends(&tcp.c(PSH | ACK, 1001 + 60_000, 5001).data(10))?;
    bench.nothing_reported()?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1001 + 65_536, 5001).data(10))?;
    let event = bench.events.violation("seq_out_of_window")?;
    assert_eq!(event["violation"]["expected"]["high"], 1001 + 65_535);
    assert_eq!(bench.flow()?["orig"]["seq"], 1001 + 60_010, "forged data became a fact");
    Ok(())
}

#[test]
fn s3_a_gap_in_what_we_see_heals() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    // C sends 200,000 bytes past us; S has acknowledged them and opened its window on the way.
    let missed = 1001 + 200_000;
    tcp.s_sends(&tcp.s(ACK, 5001, missed))?;
    bench.events.violation("ack_unseen_data")?;
    assert_eq!(bench.flow()?["reply"]["ack"], 1001);
    // C goes on from where S says it is: the two agree, so the gap was ours.
    tcp.c_sends(&tcp.c(PSH | ACK, missed, 5001).data(100))?;
    tcp.s_sends(&tcp.s(ACK, 5001, missed + 100))?;
    let flow = bench.flow()?;
    assert_eq!(
        (&flow["orig"]["seq"], &flow["reply"]["ack"]),
        (&(missed + 100).into(), &(missed + 100).into())
    );
    // The other way: a window update of S's passed us, and S acknowledges what C sent then.
    let beyond = missed + 100 + 65_536;
    tcp.c_sends(&tcp.c(PSH | ACK, beyond, 5001).data(100))?;
    bench.events.violation("seq_out_of_window")?;
    tcp.s_sends(&tcp.s(ACK, 5001, beyond + 100))?;
    tcp.c_sends(&tcp.c(PSH | ACK, beyond + 100, 5001).data(100))?;
    assert_eq!(bench.flow()?["orig"]["seq"], beyond + 200);
    bench.settle()?;
    let once = [("ack_unseen_data", 1), ("seq_out_of_window", 1)]
        .map(|(name, count)| (name.to_owned(), count));
    assert_eq!(bench.agent.violations()?, once);
    Ok(())
}

#[test]
fn s4_what_ordinary_networks_do() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1001, 5001).data(100))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1101))?;
    // Keepalive without and with one byte of garbage (RFC 9293 section 3.8.4), and its answer.
    tcp.c_sends(&tcp.c(ACK, 1100, 5001))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1101))?;
    tcp.c_sends(&tcp.c(ACK, 1100, 5001).data(1))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1101))?;
    // The window closes; a probe of one byte, refused; it opens again.
    tcp.s_sends(&tcp.s(ACK, 5001, 1101).window(0))?;
    tcp.c_sends(&tcp.c(ACK, 1101, 5001).data(1))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1101).window(0))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1101))?;
    // Out of order, duplicated, retransmitted in other pieces; acknowledged, and an old acknowledgment afterwards.
    tcp.c_sends(&tcp.c(ACK, 1301, 5001).data(100))?;
    tcp.c_sends(&tcp.c(ACK, 1101, 5001).data(100))?;
    tcp.c_sends(&tcp.c(ACK, 1101, 5001).data(100))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1201))?;
    tcp.c_sends(&tcp.c(ACK, 1151, 5001).data(250))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1401))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1201))?;
    // The SYN and the SYN,ACK arrive a second time.
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    let flow = bench.flow()?;
    assert_eq!((&flow["orig"]["seq"], &flow["reply"]["ack"]), (&1401.into(), &1401.into()));
    bench.nothing_reported()
}

#[test]
fn s5_syn_on_an_established_connection() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    // A forged one: reported, and nothing else.
    tcp.c_sends(&tcp.c(SYN, 900_000, 0))?;
    let event = bench.events.violation("syn_in_established")?;
    assert_eq!(event["violation"]["after"]["orig"], "ESTABLISHED");
    // S challenges, C knows better: the connection lives on.
    tcp.s_sends(&tcp.s(ACK, 5001, 1001))?;
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(10))?;
    let established = bench.agent.flows(&["--state", "ESTABLISHED"])?;
    assert_eq!(established.len(), 1);
    Ok(())
}

#[test]
fn s5_challenge_and_reset_close() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    // C has forgotten the connection and opens a new one: S challenges, C resets the old one.
    tcp.c_sends(&tcp.c(SYN, 900_000, 0))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1001))?;
    tcp.c_sends(&tcp.c(tracker_tests::segment::flag::RST, 1001, 0))?;
    bench.settle()?;
    let closed = bench.agent.flows(&["--state", "CLOSED"])?;
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0]["orig"]["isn"], 1000);
    // Its SYN comes again, and now opens the new connection.
    tcp.c_sends(&tcp.c(SYN, 900_000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 70_000, 900_001))?;
    tcp.c_sends(&tcp.c(ACK, 900_001, 70_001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    assert_eq!(bench.flow()?["orig"]["isn"], 900_000);
    Ok(())
}

#[test]
fn s5_a_syn_ack_to_it_opens_a_new_connection() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(SYN, 900_000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 70_000, 900_001))?;
    tcp.c_sends(&tcp.c(ACK, 900_001, 70_001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    assert_eq!(bench.flow()?["orig"]["isn"], 900_000);
    let end = bench.events.wait_for("DESTROY")?;
    assert_eq!(end["end"]["reason"], "reopened");
    Ok(())
}

#[test]
fn s6_picked_up_in_its_middle() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    // S has sent more than we will ever see; C's window and its scale are unknown.
    tcp.c_sends(&tcp.c(ACK, 1_000_000, 9_000_000).window(10))?;
    let flow = bench.flow()?;
    assert_eq!(
        (&flow["midstream"], &flow["seen"], &flow["conn_state"]),
        (&true.into(), &"in".into(), &"OTH".into())
    );
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    tcp.s_sends(&tcp.s(ACK | PSH, 8_990_000, 1_000_000).data(1000))?;
    tcp.c_sends(&tcp.c(ACK, 1_000_000, 9_500_000).window(10))?;
    tcp.s_sends(&tcp.s(ACK | PSH, 9_600_000, 1_000_000).data(1000))?;
    assert_eq!(bench.flow()?["tier"], "confirmed");
    bench.nothing_reported()?;
    // In step: from here on an acknowledgment of data never sent is one.
    tcp.c_sends(&tcp.c(ACK, 1_000_000, 9_601_000))?;
    tcp.c_sends(&tcp.c(ACK, 1_000_000, 9_601_001))?;
    bench.events.violation("ack_unseen_data")?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1_000_000, 9_601_000))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 9_601_000, 1_000_001))?;
    tcp.c_sends(&tcp.c(ACK, 1_000_001, 9_601_001))?;
    assert_eq!(bench.states()?, "TIME_WAIT/CLOSED");
    Ok(())
}

#[test]
fn s8_padding_is_not_data() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    // 54 bytes, padded to Ethernet's 60.
    let mut padded = tcp.c(ACK, 1001, 5001).frame();
    padded.resize(60, 0);
    bench.arrive(&padded)?;
    let flow = bench.flow()?;
    assert_eq!((&flow["orig"]["seq"], &flow["orig"]["bytes"]), (&1001.into(), &80.into()));
    assert_eq!(flow["history"], "ShA");
    bench.nothing_reported()
}

#[test]
fn s8_a_length_of_zero_is_the_frames() -> Result<()> {
    let bench = Bench::new()?;
    for tcp in [Connection::inbound(&bench), Connection::inbound(&bench).ipv6()] {
        tcp.handshake()?;
        tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(1000).without_ip_length())?;
        tcp.s_sends(&tcp.s(ACK, 5001, 2001))?;
    }
    bench.settle()?;
    for flow in bench.agent.flows(&[])? {
        assert_eq!((&flow["orig"]["seq"], &flow["reply"]["ack"]), (&2001.into(), &2001.into()));
    }
    bench.nothing_reported()
}

#[test]
fn s8_frames_of_many_buffers() -> Result<()> {
    let bench = Bench::new()?;
    for namespace in [&bench.pair.host, &bench.pair.peer] {
        namespace.run("ip", &["link", "set", tracker_tests::lab::INTERFACE, "mtu", "60000"])?;
    }
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&[3, 3, 7, 1]))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001).options(&[3, 3, 7, 1]))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1001))?;
    for n in 0..10 {
        tcp.c_sends(&tcp.c(ACK | PSH, 1001 + n * 50_000, 5001).data(50_000))?;
    }
    tcp.s_sends(&tcp.s(ACK, 5001, 501_001))?;
    let flow = bench.flow()?;
    assert_eq!(flow["orig"]["seq"], 501_001);
    assert_eq!(flow["orig"]["bytes"], 44 + 40 + 10 * 50_040);
    bench.nothing_reported()
}

#[test]
fn s9_one_direction_only() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    // All that C says in a whole connection.
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(100))?;
    tcp.c_sends(&tcp.c(ACK, 1101, 250_000))?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1101, 250_000))?;
    tcp.c_sends(&tcp.c(ACK, 1102, 250_001))?;
    let flow = bench.flow()?;
    assert_eq!((&flow["seen"], &flow["history"]), (&"in".into(), &"SADF".into()));
    assert_eq!(flow["orig"]["state"], "FIN_WAIT_1");
    // S shows itself long after the handshake: what lies between is no round trip.
    tcp.s_sends(&tcp.s(ACK, 250_000, 1102))?;
    assert_eq!(bench.flow()?["rtt_us"], serde_json::Value::Null);
    // All that S says in another.
    let tcp = Connection::inbound(&bench).from_port(41_000);
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1101))?;
    tcp.s_sends(&tcp.s(ACK | PSH, 5001, 1101).data(1000))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 6001, 1102))?;
    tcp.s_sends(&tcp.s(ACK, 6002, 1102))?;
    bench.settle()?;
    let flow = &bench.agent.flows(&["--sport", "41000"])?[0];
    assert_eq!((&flow["seen"], &flow["history"]), (&"out".into(), &"^hadf".into()));
    assert_eq!(flow["src"], "192.0.2.1", "C opened it, though nobody saw its SYN");
    bench.nothing_reported()
}

/// NOP, NOP, and a timestamp.
fn timestamp(value: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &[0; 4]].concat()
}

#[test]
fn s7_new_data_with_an_older_timestamp() -> Result<()> {
    let bench = Bench::with(&["--report", "violation,minor"])?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&timestamp(1000)))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001).options(&timestamp(7)))?;
    tcp.c_sends(&tcp.c(ACK, 1001, 5001).options(&timestamp(1001)))?;
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(100).options(&timestamp(1002)))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1101).options(&timestamp(8)))?;
    tcp.c_sends(&tcp.c(ACK | PSH, 1101, 5001).data(100).options(&timestamp(900)))?;
    let event = bench.events.violation("paws_reject")?;
    assert_eq!(event["violation"]["expected"]["low"], 1002);
    assert_eq!(event["violation"]["actual"], 900);
    assert_eq!(bench.flow()?["orig"]["seq"], 1101, "it is not taken");
    // A retransmission with the timestamp of the first copy is none.
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(100).options(&timestamp(1000)))?;
    tcp.c_sends(&tcp.c(ACK | PSH, 1101, 5001).data(100).options(&timestamp(1003)))?;
    assert_eq!(bench.flow()?["orig"]["seq"], 1201);
    assert_eq!(bench.agent.stats()?["violations"]["paws_reject"]["in"], 1);
    bench.nothing_reported()
}
