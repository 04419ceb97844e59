//! Behaviours T: closing.

use anyhow::{Result, ensure};
use tracker_tests::{
    lab::{Bench, Connection},
    segment::flag::{ACK, FIN, PSH, RST, SYN},
};

/// An established connection: C's next number is 1001, S's is 5001.
fn established<'a>(bench: &'a Bench) -> Result<Connection<'a>> {
    open(Connection::inbound(bench))
}

fn open(tcp: Connection<'_>) -> Result<Connection<'_>> {
    tcp.handshake()?;
    Ok(tcp)
}

#[test]
fn t1_four_segments() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    assert_eq!(bench.states()?, "FIN_WAIT_1/ESTABLISHED");
    tcp.s_sends(&tcp.s(ACK, 5001, 1002))?;
    assert_eq!(bench.states()?, "FIN_WAIT_2/CLOSE_WAIT");
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    assert_eq!(bench.states()?, "FIN_WAIT_2/LAST_ACK");
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    assert_eq!(bench.states()?, "TIME_WAIT/CLOSED");
    assert_eq!(bench.flow()?["history"], "ShAFaf");
    bench.nothing_reported()?;
    let closing = bench.events.wait_for("CLOSING")?;
    assert_eq!(closing["segment"]["flags"], "fin,ack");
    let close = bench.events.wait_for("CLOSE")?;
    assert_eq!(
        (&close["segment"]["ack"], &close["segment"]["flags"]),
        (&5002.into(), &"ack".into())
    );
    let [orig, reply] = ["orig", "reply"].map(|end| &close["flow"][end]["state"]);
    assert_eq!((orig, reply), (&"TIME_WAIT".into(), &"CLOSED".into()));
    Ok(())
}

/// A connection is over for both ends with one segment: a reset, a refusal, a client that gives up before it has an answer.
#[test]
fn an_rst_closes_both_ends_at_once() -> Result<()> {
    let bench = Bench::new()?;
    let reset = open(Connection::inbound(&bench).from_port(1000))?;
    reset.s_sends(&reset.s(RST, 5001, 0))?;
    let refused = Connection::inbound(&bench).from_port(2000);
    refused.c_sends(&refused.c(SYN, 1000, 0))?;
    refused.s_sends(&refused.s(RST | ACK, 0, 1001))?;
    let given_up = Connection::inbound(&bench).from_port(3000);
    given_up.c_sends(&given_up.c(SYN, 1000, 0))?;
    given_up.c_sends(&given_up.c(RST, 1001, 0))?;
    // Once each, whatever follows.
    given_up.c_sends(&given_up.c(RST, 1001, 0))?;
    for port in [1000, 2000, 3000] {
        let close = bench.events.wait_for("CLOSE")?;
        assert_eq!(close["flow"]["sport"], port);
        ensure!(close["segment"]["flags"].as_str().is_some_and(|flags| flags.contains("rst")));
    }
    bench.settle()?;
    ensure!(bench.events.take()?.iter().all(|event| event["event"] != "CLOSE"));
    Ok(())
}

#[test]
fn t2_three_segments() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    // The passive closer, never seen in CLOSE_WAIT.
    assert_eq!(bench.states()?, "FIN_WAIT_2/LAST_ACK");
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    assert_eq!(bench.states()?, "TIME_WAIT/CLOSED");
    bench.nothing_reported()
}

#[test]
fn t3_the_server_closes_first() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = established(&bench)?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/FIN_WAIT_1");
    tcp.c_sends(&tcp.c(ACK, 1001, 5002))?;
    assert_eq!(bench.states()?, "CLOSE_WAIT/FIN_WAIT_2");
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5002))?;
    assert_eq!(bench.states()?, "LAST_ACK/FIN_WAIT_2");
    tcp.s_sends(&tcp.s(ACK, 5002, 1002))?;
    assert_eq!(bench.states()?, "CLOSED/TIME_WAIT");
    bench.nothing_reported()
}

#[test]
fn t4_half_close_lives_as_long_as_data_flows() -> Result<()> {
    let bench = Bench::with(&["--timeout-fin-wait-2", "1", "--sweep-interval", "0.05"])?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1002))?;
    let created = bench.flow()?["created_ns"].as_u64();
    // Data flows for twice FIN_WAIT_2's timeout, by the flow's own clock.
    let mut next = 5001;
    let begin = std::time::Instant::now();
    while begin.elapsed().as_secs() < 2 {
        tcp.s_sends(&tcp.s(ACK | PSH, next, 1002).data(100))?;
        next += 100;
        tcp.c_sends(&tcp.c(ACK, 1002, next))?;
        let flow = bench.flow()?;
        assert_eq!(flow["created_ns"].as_u64(), created, "the timeout cut the connection");
        assert_eq!(bench.states()?, "FIN_WAIT_2/CLOSE_WAIT");
    }
    // Silence, and it goes, without TIME_WAIT (T8).
    let end = bench.events.wait_for("DESTROY")?;
    assert_eq!(end["end"]["timeout_state"], "FIN_WAIT_2");
    bench.nothing_reported()
}

#[test]
fn t5_simultaneous_close() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1001))?;
    assert_eq!(bench.states()?, "FIN_WAIT_1/FIN_WAIT_1");
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    assert_eq!(bench.states()?, "CLOSING/FIN_WAIT_2");
    tcp.s_sends(&tcp.s(ACK, 5002, 1002))?;
    assert_eq!(bench.states()?, "TIME_WAIT/TIME_WAIT");
    bench.nothing_reported()
}

#[test]
fn t6_the_last_ack_is_lost() -> Result<()> {
    let bench = Bench::with(&["--timeout-time-wait", "2", "--sweep-interval", "0.05"])?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    assert_eq!(bench.states()?, "FIN_WAIT_2/LAST_ACK");
    // C's acknowledgment passed us and was lost behind us: S sends its FIN again, and 2MSL begins again.
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    assert_eq!(bench.states()?, "TIME_WAIT/CLOSED");
    let began = std::time::Instant::now();
    while bench.flow()?["timeout_s"].as_u64() >= Some(2) {
        assert!(began.elapsed().as_secs() < 30, "2MSL does not run down");
    }
    // An old duplicate ACK does not restart it; the FIN does.
    tcp.s_sends(&tcp.s(ACK, 5002, 1002))?;
    assert!(bench.flow()?["timeout_s"].as_u64() < Some(2), "a pure ACK restarted 2MSL");
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    assert_eq!(bench.flow()?["timeout_s"].as_u64(), Some(2), "the FIN did not restart 2MSL");
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    assert_eq!(bench.states()?, "TIME_WAIT/CLOSED");
    bench.nothing_reported()
}

#[test]
fn t7_removed_after_2msl() -> Result<()> {
    let bench = Bench::with(&["--timeout-time-wait", "1", "--sweep-interval", "0.05"])?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1001, 5001).data(100))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1101))?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1101, 5002))?;
    tcp.s_sends(&tcp.s(ACK, 5002, 1102))?;
    let end = bench.events.wait_for("DESTROY")?;
    assert_eq!((&end["end"]["reason"], &end["flow"]["conn_state"]), (&"fin".into(), &"SF".into()));
    let (orig, reply) = (&end["flow"]["orig"], &end["flow"]["reply"]);
    assert_eq!((&orig["packets"], &orig["bytes"]), (&4.into(), &(4 * 40 + 100).into()));
    assert_eq!((&reply["packets"], &reply["bytes"]), (&3.into(), &(3 * 40).into()));
    assert!(end["end"]["duration_ns"].is_u64());
    assert!(bench.agent.flows(&[])?.is_empty());
    bench.nothing_reported()
}

#[test]
fn t8_fin_wait_2_orphan() -> Result<()> {
    let bench = Bench::with(&["--timeout-fin-wait-2", "1", "--sweep-interval", "0.05"])?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(ACK, 5001, 1002))?;
    let end = bench.events.wait_for("DESTROY")?;
    assert_eq!(
        (&end["end"]["reason"], &end["end"]["timeout_state"]),
        (&"timeout".into(), &"FIN_WAIT_2".into())
    );
    assert_eq!(end["flow"]["conn_state"], "S2");
    bench.nothing_reported()
}

#[test]
fn t9_a_new_connection_after_time_wait() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1002))?;
    tcp.c_sends(&tcp.c(ACK, 1002, 5002))?;
    assert_eq!(bench.states()?, "TIME_WAIT/CLOSED");
    // A late copy of its own SYN changes nothing.
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    assert_eq!(bench.states()?, "TIME_WAIT/CLOSED");
    // A SYN beyond the old end begins a new connection, which takes the key when it is established.
    tcp.c_sends(&tcp.c(SYN, 200_000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 300_000, 200_001))?;
    tcp.c_sends(&tcp.c(ACK, 200_001, 300_001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    assert_eq!(bench.flow()?["orig"]["isn"], 200_000);
    let end = bench.events.wait_for("DESTROY")?;
    assert_eq!(
        (&end["end"]["reason"], &end["flow"]["orig"]["isn"]),
        (&"reopened".into(), &1000.into())
    );
    bench.nothing_reported()
}

#[test]
fn t11_exact_reset() -> Result<()> {
    let bench = Bench::new()?;
    for (port, client) in [(40_000, true), (40_001, false)] {
        let tcp = open(Connection::inbound(&bench).from_port(port))?;
        tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(50))?;
        tcp.s_sends(&tcp.s(ACK, 5001, 1051))?;
        if client {
            tcp.c_sends(&tcp.c(RST | ACK, 1051, 5001))?;
        } else {
            tcp.s_sends(&tcp.s(RST, 5001, 0))?;
        }
    }
    bench.settle()?;
    for flow in bench.agent.flows(&[])? {
        assert_eq!(
            (&flow["orig"]["state"], &flow["reply"]["state"]),
            (&"CLOSED".into(), &"CLOSED".into())
        );
    }
    bench.nothing_reported()
}

#[test]
fn t12_t13_inexact_and_blind_resets_change_nothing() -> Result<()> {
    let bench = Bench::with(&["--report", "violation,minor"])?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(RST, 1500, 0))?;
    let event = bench.events.violation("rst_inexact")?;
    assert_eq!(event["violation"]["actual"], 1500);
    tcp.c_sends(&tcp.c(RST, 2_000_000_000, 0))?;
    bench.events.violation("rst_out_of_window")?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    Ok(())
}

#[test]
fn t14_reset_with_and_without_ack() -> Result<()> {
    let bench = Bench::new()?;
    for (port, flags, ack) in
        [(40_000, RST, 0), (40_001, RST | ACK, 5001), (40_002, RST | PSH | ACK, 5001)]
    {
        let tcp = open(Connection::outbound(&bench).from_port(port))?;
        tcp.c_sends(&tcp.c(flags, 1001, ack))?;
        bench.settle()?;
        let flow = &bench.agent.flows(&["--sport", &port.to_string()])?[0];
        assert_eq!(flow["orig"]["state"], "CLOSED", "{flags:#x}");
        assert_eq!(flow["conn_state"], "RSTO");
    }
    bench.nothing_reported()
}

#[test]
fn t11_a_lost_reset_shows_when_the_syn_is_answered_anew() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = open(Connection::outbound(&bench))?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1001))?;
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5002).data(100))?;
    assert_eq!(bench.states()?, "CLOSE_WAIT/FIN_WAIT_2");
    // S has answered with an RST, which was lost. Then it got a copy of the SYN, and listens.
    tcp.s_sends(&tcp.s(SYN | ACK, 600_000, 1001))?;
    tcp.c_sends(&tcp.c(ACK, 1101, 5002))?;
    assert_eq!(bench.states()?, "CLOSE_WAIT/FIN_WAIT_2");
    tcp.s_sends(&tcp.s(RST, 5002, 0))?;
    assert_eq!(bench.states()?, "CLOSED/CLOSED");
    tcp.s_sends(&tcp.s(SYN | ACK, 600_000, 1001))?;
    tcp.c_sends(&tcp.c(RST, 1001, 0))?;
    bench.nothing_reported()?;
    assert_eq!(bench.agent.stats()?["violations"]["synack_anew"]["in"], 1);
    // Whatever answers another SYN, or comes from the end that sent it, is forged.
    for (port, from_server, ack) in [(41_000, true, 1101), (41_001, false, 5001)] {
        let tcp = open(Connection::outbound(&bench).from_port(port))?;
        if from_server {
            tcp.s_sends(&tcp.s(SYN | ACK, 600_000, ack))?;
        } else {
            tcp.c_sends(&tcp.c(SYN | ACK, 600_000, ack))?;
        }
        bench.events.violation("synack_in_established")?;
    }
    Ok(())
}

#[test]
fn t12_an_end_that_has_refused_a_reset_may_send_one_itself() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = open(Connection::outbound(&bench))?;
    // S's FIN at 5001 is lost, and so is C's last segment beyond here: neither reset is exact.
    tcp.c_sends(&tcp.c(PSH | ACK, 1001, 5001).data(100))?;
    tcp.s_sends(&tcp.s(ACK, 5002, 1101))?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1101, 5001).data(50))?;
    tcp.s_sends(&tcp.s(RST | ACK, 5002, 1101))?;
    // The challenge ACK (RFC 5961 section 3.2), and then C has enough.
    tcp.c_sends(&tcp.c(ACK, 1151, 5001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/CLOSED");
    tcp.c_sends(&tcp.c(RST | ACK, 1151, 5001))?;
    assert_eq!(bench.states()?, "CLOSED/CLOSED");
    bench.nothing_reported()
}

#[test]
fn t15_data_after_fin() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = established(&bench)?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5001))?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1002, 5001).data(10))?;
    bench.events.violation("data_after_fin")?;
    assert_eq!(bench.states()?, "FIN_WAIT_1/ESTABLISHED");
    Ok(())
}

#[test]
fn t10_an_old_syn_and_the_reset_that_follows_leave_time_wait() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = established(&bench)?;
    tcp.s_sends(&tcp.s(FIN | ACK, 5001, 1001))?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1001, 5002))?;
    tcp.s_sends(&tcp.s(ACK, 5002, 1002))?;
    assert_eq!(bench.states()?, "CLOSED/TIME_WAIT");
    tcp.c_sends(&tcp.c(SYN, 900, 0))?;
    let event = bench.events.violation("syn_in_time_wait")?;
    assert_eq!(event["violation"]["expected"]["low"], 1003);
    assert_eq!(event["violation"]["actual"], 900);
    tcp.s_sends(&tcp.s(ACK, 5002, 1002))?;
    tcp.c_sends(&tcp.c(RST, 1002, 0))?;
    bench.events.violation("time_wait_assassination")?;
    assert_eq!(bench.states()?, "CLOSED/TIME_WAIT");
    Ok(())
}
