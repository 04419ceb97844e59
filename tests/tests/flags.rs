//! Behaviours F: flags.

use anyhow::Result;
use tracker_tests::{
    lab::{Bench, Connection},
    segment::{
        Segment,
        flag::{ACK, AE, CWR, ECE, FIN, PSH, RST, SYN, URG},
    },
};

/// Sends each flag combination without a flow and on an established one: exactly these rules are counted for it, it is
/// reported, and the established connection is as it was.
fn illegal(cases: &[(u16, &[&str])]) -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    let stranger = Connection::inbound(&bench).from_port(50_000);
    let mut expected = std::collections::BTreeMap::<String, u64>::new();
    for (flags, rules) in cases {
        tcp.c_sends(&tcp.c(*flags, 1001, 5001))?;
        stranger.c_sends(&stranger.c(*flags, 1, 1))?;
        for rule in *rules {
            *expected.entry((*rule).to_owned()).or_default() += 2;
            for port in [40_000, 50_000] {
                let event = bench.events.wait(|event| {
                    event["violation"]["name"] == *rule && event["segment"]["sport"] == port
                })?;
                let states = if port == 40_000 { "ESTABLISHED" } else { "CLOSED" };
                assert_eq!(event["violation"]["before"]["orig"], states, "{flags:#x}");
                assert_eq!(event["violation"]["after"]["orig"], states, "{flags:#x}");
            }
        }
    }
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    let counted: std::collections::BTreeMap<_, _> = bench.agent.violations()?.into_iter().collect();
    assert_eq!(counted, expected);
    assert_eq!(bench.agent.packets(None, Some("illegal"))?, 2 * cases.len() as u64);
    Ok(())
}

#[test]
fn f1_syn_and_fin() -> Result<()> {
    illegal(&[
        (SYN | FIN, &["syn_fin"]),
        (SYN | FIN | PSH, &["syn_fin"]),
        (SYN | FIN | RST, &["syn_fin", "syn_rst", "fin_rst"]),
        (SYN | FIN | RST | PSH, &["syn_fin", "syn_rst", "fin_rst"]),
        (SYN | FIN | ACK, &["syn_fin"]),
    ])
}

#[test]
fn f2_syn_and_rst() -> Result<()> {
    illegal(&[(SYN | RST, &["syn_rst"]), (SYN | RST | ACK, &["syn_rst"])])
}

#[test]
fn f3_fin_without_ack() -> Result<()> {
    illegal(&[
        (FIN, &["fin_without_ack"]),
        (FIN | PSH, &["fin_without_ack"]),
        (FIN | URG, &["fin_without_ack"]),
        (FIN | RST, &["fin_rst"]),
    ])
}

#[test]
fn f4_null_and_xmas() -> Result<()> {
    illegal(&[(0, &["null_flags"]), (FIN | PSH | URG, &["xmas"]), (ECE | CWR, &["null_flags"])])
}

#[test]
fn f5_no_ack_after_the_handshake() -> Result<()> {
    illegal(&[(PSH, &["null_flags"]), (URG, &["null_flags"]), (PSH | URG, &["null_flags"])])
}

#[test]
fn f6_ecn_and_accurate_ecn() -> Result<()> {
    let bench = Bench::new()?;
    for (port, bits) in [(40_000, ECE | CWR), (40_001, AE | ECE | CWR), (40_002, AE), (40_003, CWR)]
    {
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.c_sends(&tcp.c(SYN | bits, 1000, 0))?;
        tcp.s_sends(&tcp.s(SYN | ACK | bits, 5000, 1001))?;
        tcp.c_sends(&tcp.c(ACK | bits, 1001, 5001))?;
        bench.settle()?;
        let flow = &bench.agent.flows(&["--sport", &port.to_string()])?[0];
        assert_eq!(flow["reply"]["state"], "ESTABLISHED", "{bits:#x}");
    }
    bench.nothing_reported()
}

#[test]
fn legal_combinations_are_left_alone() -> Result<()> {
    // What Linux's conntrack accepts (net/netfilter/nf_conntrack_proto_tcp.c, tcp_valid_flags), with PSH, ECE and CWR
    // wherever they like.
    let bench = Bench::new()?;
    let mut port = 1000;
    for base in
        [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG]
    {
        for extra in [0, PSH, ECE, CWR, PSH | ECE | CWR] {
            port += 1;
            let tcp = Connection::inbound(&bench).from_port(port);
            tcp.c_sends(&tcp.c(base | extra, 1000, 1))?;
        }
    }
    bench.nothing_reported()?;
    assert_eq!(bench.agent.packets(None, Some("illegal"))?, 0);
    Ok(())
}

#[test]
fn f8_addresses_and_ports() -> Result<()> {
    let bench = Bench::new()?;
    let socket = |text: &str| text.parse().expect(text);
    for (source, destination, rule) in [
        ("192.0.2.1:0", "192.0.2.2:80", "port_zero"),
        ("192.0.2.1:4000", "192.0.2.2:0", "port_zero"),
        ("192.0.2.2:80", "192.0.2.2:80", "land"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80", "land"),
        ("192.0.2.1:4000", "224.0.0.1:80", "syn_multicast"),
        ("192.0.2.1:4000", "255.255.255.255:80", "syn_multicast"),
        ("[2001:db8::1]:4000", "[ff02::1]:80", "syn_multicast"),
    ] {
        bench.arrive(&Segment::new(socket(source), socket(destination), SYN, 1000, 0).frame())?;
        let event = bench.events.violation(rule)?;
        assert_eq!(event["segment"]["flags"], "syn");
    }
    bench.settle()?;
    assert!(bench.agent.flows(&[])?.is_empty());
    let counted = bench.agent.violations()?;
    assert_eq!(
        counted,
        [("land", 2), ("port_zero", 2), ("syn_multicast", 3)].map(|(n, c)| (n.to_owned(), c))
    );
    Ok(())
}

#[test]
fn f7_psh_without_data_and_urg_without_a_pointer_are_counted() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1001, 5001))?;
    tcp.c_sends(&tcp.c(URG | ACK, 1001, 5001).data(10))?;
    bench.settle()?;
    let stats = bench.agent.stats()?;
    assert_eq!(stats["violations"]["psh_without_data"]["in"], 1);
    assert_eq!(stats["violations"]["urg_without_pointer"]["in"], 1);
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    bench.nothing_reported()
}

#[test]
fn segments_are_chosen_by_their_flags() -> Result<()> {
    let bench = Bench::new()?;
    let ask = |flags| ["--all", "-o", "jsonl", "--last", "1", "--tcp-flags", flags];
    let mut first_fin = bench.agent.trace(&ask("fin,!rst"))?;
    let mut first_syn_ack = bench.agent.trace(&ask("SYN,ACK"))?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(PSH | ACK, 1001, 5001).data(10))?;
    tcp.c_sends(&tcp.c(FIN | ACK, 1011, 5001))?;
    for (trace, expected) in [(&mut first_fin, "fin,ack"), (&mut first_syn_ack, "syn,ack")] {
        let (lines, status) = trace.to_end()?;
        assert!(status.success() && lines.len() == 1, "{lines:?}");
        assert!(lines[0].contains(&format!("\"flags\":\"{expected}\"")), "{}", lines[0]);
    }
    let (_, said, status) =
        tracker_tests::agent::run_tracker(&["events", "--tcp-flags", "syn,!syn"], None)?;
    assert!(status.code() == Some(2) && said.contains("no segment has"), "{said}");
    Ok(())
}
