//! Behaviours P: parsing.

use anyhow::{Context, Result};
use tracker_tests::{
    agent::{Agent, eventually},
    lab::{Bench, Connection, INTERFACE},
    namespace::Namespace,
    segment::{
        Segment,
        flag::{ACK, PSH, RST, SYN},
    },
    way_in::is_tcx,
    wire::Wire,
};

/// The one flow's opener has sent a SYN with sequence number 1000.
fn tracked(bench: &Bench, segment: &Segment) -> Result<()> {
    bench.arrive(&segment.frame())?;
    let flow = bench.flow()?;
    assert_eq!(flow["orig"]["isn"], 1000);
    bench.nothing_reported()
}

/// So many arriving packets had this fate.
fn fate(bench: &Bench, name: &str, count: u64) -> Result<()> {
    bench.settle()?;
    assert_eq!(bench.agent.packets(Some("in"), Some(name))?, count, "{name}");
    Ok(())
}

#[test]
fn p1_ipv4_options() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tracked(&bench, &tcp.c(SYN, 1000, 0).ip_options(&[1; 40]))
}

#[test]
fn p1_ipv6_extension_headers() -> Result<()> {
    // Each of eight bytes: hop-by-hop 0, routing 43, destination 60, mobility 135, HIP 139, shim6 140; then a fragment
    // header, and AH of 16.
    for (first, headers) in [
        (0, &[6, 0, 1, 4, 0, 0, 0, 0][..]),
        (43, &[6, 0, 0, 0, 0, 0, 0, 0]),
        (60, &[6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (135, &[6, 0, 0, 0, 0, 0, 0, 0]),
        (139, &[6, 0, 0, 0, 0, 0, 0, 0]),
        (140, &[6, 0, 0, 0, 0, 0, 0, 0]),
        (51, &[6, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
        (44, &[6, 0, 0, 0, 0, 0, 0, 1]),
        // One after the other.
        (
            0,
            &[
                43, 0, 1, 4, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 1, 6, 0, 1,
                4, 0, 0, 0, 0,
            ],
        ),
    ] {
        let bench = Bench::new()?;
        let tcp = Connection::inbound(&bench).ipv6();
        tracked(&bench, &tcp.c(SYN, 1000, 0).extensions(first, headers))?;
    }
    Ok(())
}

#[test]
fn p1_chains_that_end_elsewhere() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench).ipv6();
    let hop = [0, 0, 1, 4, 0, 0, 0, 0];
    let mut endless = hop.repeat(20);
    endless[19 * 8] = 6;
    bench.arrive(&tcp.c(SYN, 1000, 0).extensions(0, &endless).frame())?;
    fate(&bench, "too_many_extension_headers", 1)?;
    bench.arrive(&tcp.c(SYN, 1000, 0).extensions(50, &[0; 8]).frame())?;
    fate(&bench, "encrypted", 1)?;
    bench.arrive(&tcp.c(SYN, 1000, 0).extensions(0, &[17, 0, 1, 4, 0, 0, 0, 0]).frame())?;
    bench.arrive(&tcp.c(SYN, 1000, 0).extensions(59, &[0; 8]).frame())?;
    fate(&bench, "not_tcp", 2)?;
    let mut arp = tcp.c(SYN, 1000, 0).frame();
    arp[12..14].copy_from_slice(&[8, 6]);
    bench.arrive(&arp)?;
    fate(&bench, "not_ip", 1)?;
    assert!(bench.agent.flows(&[])?.is_empty());
    Ok(())
}

#[test]
fn p1_ipv6_addresses_that_no_packet_has() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    // An IPv4 connection's addresses, mapped into IPv6: an RST that would end it.
    let v6 = tcp.ipv6();
    let mapped = |address: [u8; 4]| [&[0; 10][..], &[0xff, 0xff], &address].concat();
    let with = |segment: &Segment, at: usize, address: &[u8]| {
        let mut frame = segment.frame();
        frame[at..at + 16].copy_from_slice(address);
        frame
    };
    let (source, destination) = (14 + 8, 14 + 24);
    let rst = v6.c(RST, 1001, 0);
    let v4 = tcp.c(RST, 1001, 0).frame();
    let address = |at: usize| mapped([v4[at], v4[at + 1], v4[at + 2], v4[at + 3]]);
    let mut both = with(&rst, source, &address(26));
    both[destination..destination + 16].copy_from_slice(&address(30));
    bench.arrive(&both)?;
    fate(&bench, "bad_ipv6_address", 1)?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    // Either side mapped, and a multicast source.
    bench.arrive(&with(&rst, source, &address(26)))?;
    bench.arrive(&with(&rst, destination, &address(30)))?;
    let all_nodes = [&[0xff, 0x02][..], &[0; 13], &[1]].concat();
    bench.arrive(&with(&v6.c(SYN, 1, 0), source, &all_nodes))?;
    fate(&bench, "bad_ipv6_address", 4)?;
    assert_eq!(bench.agent.flows(&[])?.len(), 1);
    // Addresses that only look like it: IPv4-compatible, translated (RFC 6145), and an interface's.
    for (n, near) in [
        [&[0; 12][..], &[192, 0, 2, 1]].concat(),
        [&[0; 8][..], &[0xff, 0xff, 0, 0, 192, 0, 2, 1]].concat(),
        [&[0xfe, 0x80][..], &[0; 8], &[0xff, 0xff, 192, 0, 2, 1]].concat(),
    ]
    .iter()
    .enumerate()
    {
        bench.arrive(&with(&v6.c(SYN, 1, 0), source, near))?;
        bench.settle()?;
        assert_eq!(bench.agent.flows(&[])?.len(), 2 + n);
    }
    fate(&bench, "bad_ipv6_address", 4)?;
    bench.nothing_reported()
}

#[test]
fn p2_vlan_tags() -> Result<()> {
    for tags in [&[(0x8100, 5)][..], &[(0x88a8, 7), (0x8100, 5)], &[(0x9100, 7), (0x8100, 5)]] {
        for ipv6 in [false, true] {
            let bench = Bench::new()?;
            let tcp = Connection::inbound(&bench);
            let tcp = if ipv6 { tcp.ipv6() } else { tcp };
            let mut syn = tcp.c(SYN, 1000, 0);
            for (ether_type, id) in tags {
                syn = syn.vlan(*ether_type, *id);
            }
            tracked(&bench, &syn)?;
        }
    }
    Ok(())
}

#[test]
fn p2_too_many_tags() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    let mut syn = tcp.c(SYN, 1000, 0).vlan(0x8100, 1).vlan(0x8100, 2).vlan(0x8100, 3);
    if is_tcx() {
        // The stack takes the first tag off before tcx sees a frame.
        syn = syn.vlan(0x8100, 4);
    }
    bench.arrive(&syn.frame())?;
    fate(&bench, "too_many_vlan_tags", 1)
}

#[test]
fn p2_a_tag_on_its_way_out() -> Result<()> {
    // On egress the kernel may hold the tag beside the packet; here it is in the frame.
    let bench = Bench::new()?;
    let tcp = Connection::outbound(&bench);
    bench.leave(&tcp.c(SYN, 1000, 0).vlan(0x8100, 5).frame())?;
    assert_eq!(bench.flow()?["orig"]["isn"], 1000);
    Ok(())
}

#[test]
fn p3_fragments() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    // 1000 bytes of data in two fragments, of which the first has 500; the second has no TCP header.
    tcp.c_sends(&tcp.c(PSH | ACK, 1001, 5001).data(500).first_fragment())?;
    let mut later = tcp.c(PSH | ACK, 1001, 5001).data(500).frame();
    later[14 + 6..14 + 8].copy_from_slice(&65u16.to_be_bytes());
    bench.arrive(&later)?;
    // S acknowledges what we could not see.
    tcp.s_sends(&tcp.s(ACK, 5001, 2001))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    fate(&bench, "later_fragment", 1)?;
    // A first fragment that ends inside the TCP header.
    let mut cut = tcp.c(PSH | ACK, 1001, 5001).first_fragment().frame();
    cut.truncate(14 + 20 + 8);
    cut[14 + 2..14 + 4].copy_from_slice(&28u16.to_be_bytes());
    bench.arrive(&cut)?;
    fate(&bench, "split_tcp_header", 1)?;
    bench.nothing_reported()
}

#[test]
fn p4_broken_frames() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    let whole = tcp.c(SYN, 1000, 0).options(&[2, 4, 5, 0xb4]).frame();
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = whole.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let (ip, tcp_at) = (14, 34);
    // The IP header says more than the frame holds.
    bench.arrive(&with(ip + 2, &1500u16.to_be_bytes()))?;
    // Version 5, header length below 5, total length below the header's.
    bench.arrive(&with(ip, &[0x55]))?;
    bench.arrive(&with(ip, &[0x44]))?;
    bench.arrive(&with(ip + 2, &10u16.to_be_bytes()))?;
    fate(&bench, "bad_ip_header", 4)?;
    // The IP header says less than a TCP header.
    bench.arrive(&with(ip + 2, &39u16.to_be_bytes()))?;
    fate(&bench, "truncated_tcp", 1)?;
    // Data offset below 5, and past the end.
    bench.arrive(&with(tcp_at + 12, &[0x40]))?;
    bench.arrive(&with(tcp_at + 12, &[0xf0]))?;
    fate(&bench, "bad_tcp_header_length", 2)?;
    // Cut in the IP header.
    bench.arrive(&whole[..ip + 10])?;
    fate(&bench, "truncated_ip", 1)?;
    // Cut in a VLAN tag.
    let tagged = tcp.c(SYN, 1000, 0).vlan(0x8100, 1).frame();
    if is_tcx() {
        // The stack drops a frame that ends inside its first tag.
        let twice = tcp.c(SYN, 1000, 0).vlan(0x8100, 1).vlan(0x8100, 2).frame();
        bench.arrive(&twice[..20])?;
    } else {
        bench.arrive(&tagged[..16])?;
    }
    fate(&bench, "truncated_ethernet", 1)?;
    assert!(bench.agent.flows(&[])?.is_empty());
    // Options with a length of 0, and past the end: hosts take what stood before, and so do we.
    for (port, options) in
        [(40_001, [2, 4, 5, 0xb4, 8, 0, 1, 1]), (40_002, [2, 4, 5, 0xb4, 1, 1, 8, 10])]
    {
        let tcp = Connection::inbound(&bench).from_port(port);
        tcp.c_sends(&tcp.c(SYN, 1000, 0).options(&options))?;
        bench.settle()?;
        assert_eq!(bench.agent.flows(&["--sport", &port.to_string()])?[0]["orig"]["mss"], 1460);
    }
    assert_eq!(bench.agent.stats()?["violations"]["bad_option"]["in"], 2);
    Ok(())
}

#[test]
fn p4_every_cut_of_a_frame() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench).ipv6();
    let frame = tcp
        .c(SYN, 1000, 0)
        .vlan(0x88a8, 1)
        .vlan(0x8100, 2)
        .extensions(0, &[43, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0])
        .options(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7])
        .data(20)
        .frame();
    // The kernel sends nothing shorter than an Ethernet header, and drops what ends before the type behind the first tag before tcx
    // sees it (`skb_vlan_untag`).
    for len in if is_tcx() { 20 } else { 14 }..frame.len() {
        bench.arrive(&frame[..len])?;
    }
    bench.settle()?;
    assert_eq!(bench.agent.packets(None, Some("tracked"))?, 0);
    bench.arrive(&frame)?;
    assert_eq!(bench.flow()?["orig"]["mss"], 1460);
    Ok(())
}

#[test]
fn p5_one_flow_for_both_directions() -> Result<()> {
    let bench = Bench::new()?;
    // Ports and addresses in every order, and one address that talks to itself.
    let socket = |text: &str| text.parse().expect(text);
    for (n, (c, s)) in [
        ("10.0.0.1:2000", "10.0.0.2:1000"),
        ("10.0.0.2:1000", "10.0.0.1:3000"),
        ("10.0.0.3:50000", "10.0.0.3:80"),
        ("[::1]:50000", "[::1]:80"),
        ("[2001:db8::2]:1", "[2001:db8::1]:2"),
    ]
    .into_iter()
    .enumerate()
    {
        let (c, s) = (socket(c), socket(s));
        bench.arrive(&Segment::new(c, s, SYN, 1000, 0).frame())?;
        bench.leave(&Segment::new(s, c, SYN | ACK, 5000, 1001).frame())?;
        bench.arrive(&Segment::new(c, s, ACK, 1001, 5001).frame())?;
        bench.settle()?;
        let flows = bench.agent.flows(&["--state", "ESTABLISHED"])?;
        assert_eq!(flows.len(), n + 1, "{c} {s}");
        let flow = &flows[n];
        assert_eq!((&flow["sport"], &flow["orig"]["packets"]), (&c.port().into(), &2.into()));
    }
    bench.nothing_reported()
}

#[test]
fn p6_forwarded_packets_are_counted_once() -> Result<()> {
    // left -- router -- right, with both interfaces of the router attached.
    let (left, router, right) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    for (other, near, far, net) in [(&left, "left", "veth0", 1), (&right, "right", "veth0", 2)] {
        let path = other.path();
        router.run(
            "ip",
            &["link", "add", near, "type", "veth", "peer", "name", far, "netns", &path],
        )?;
        router.run("ip", &["addr", "add", &format!("10.1.{net}.1/24"), "dev", near])?;
        router.run("ip", &["link", "set", near, "up"])?;
        other.run("ip", &["addr", "add", &format!("10.1.{net}.2/24"), "dev", far])?;
        other.run("ip", &["link", "set", far, "up"])?;
        other.run("ip", &["route", "add", "default", "via", &format!("10.1.{net}.1")])?;
    }
    router.sysctl("net/ipv4/ip_forward", "1")?;
    let agent =
        Agent::start(&router, &["--interface", "left", "--interface", "right", "--xdp", "native"])?;
    let server = right.enter(|| Ok(std::net::TcpListener::bind("10.1.2.2:80")?))?;
    let client = left.enter(|| Ok(std::net::TcpStream::connect("10.1.2.2:80")?))?;
    let (accepted, _) = server.accept()?;
    drop((client, accepted));
    eventually("the connection is closed", || {
        let flows = agent.flows(&["--dport", "80"])?;
        Ok(flows.len() == 1
            && flows[0]["conn_state"] == "SF"
            && flows[0]["orig"]["state"] != "FIN_WAIT_2")
    })?;
    let flow = &agent.flows(&["--dport", "80"])?[0];
    // What left the client and the server is what was counted: once, and in the right direction.
    assert_eq!(
        (&flow["src"], &flow["seen"], &flow["interface"]),
        (&"10.1.1.2".into(), &"both".into(), &"left".into())
    );
    let sum = flow["orig"]["packets"].as_u64().unwrap_or(0)
        + flow["reply"]["packets"].as_u64().unwrap_or(0);
    assert_eq!(agent.packets(Some("in"), Some("tracked"))?, sum);
    assert_eq!(agent.packets(Some("out"), Some("tracked"))?, 0);
    // Each of them passed egress too, and was recognised there.
    assert!(agent.packets(Some("out"), Some("counted_on_arrival"))? >= sum);
    assert_eq!(agent.violations()?, []);
    Ok(())
}

#[test]
fn p6_packets_from_an_interface_that_is_not_attached() -> Result<()> {
    // A container behind the host: its packets leave by the attached interface, and are counted there.
    let (container, host, outside) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    for (other, near, net) in [(&container, "inside", 1), (&outside, "outside", 2)] {
        let path = other.path();
        host.run(
            "ip",
            &["link", "add", near, "type", "veth", "peer", "name", "veth0", "netns", &path],
        )?;
        host.run("ip", &["addr", "add", &format!("10.1.{net}.1/24"), "dev", near])?;
        host.run("ip", &["link", "set", near, "up"])?;
        other.run("ip", &["addr", "add", &format!("10.1.{net}.2/24"), "dev", "veth0"])?;
        other.run("ip", &["link", "set", "veth0", "up"])?;
        other.run("ip", &["route", "add", "default", "via", &format!("10.1.{net}.1")])?;
    }
    host.sysctl("net/ipv4/ip_forward", "1")?;
    let agent = Agent::start(&host, &["--interface", "outside", "--xdp", "native"])?;
    let server = outside.enter(|| Ok(std::net::TcpListener::bind("10.1.2.2:80")?))?;
    let client = container.enter(|| Ok(std::net::TcpStream::connect("10.1.2.2:80")?))?;
    let accepted = server.accept()?;
    eventually("the connection is established", || {
        Ok(agent.flows(&["--state", "ESTABLISHED", "--src", "10.1.1.2"])?.len() == 1)
    })?;
    let flow = &agent.flows(&["--dport", "80"])?[0];
    assert_eq!((&flow["orig"]["packets"], &flow["reply"]["packets"]), (&2.into(), &1.into()));
    drop((client, accepted));
    assert_eq!(agent.violations()?, []);
    Ok(())
}

#[test]
fn p6_loopback_packets_are_counted_once() -> Result<()> {
    let host = Namespace::new()?;
    let agent = Agent::start(&host, &["--interface", "lo"])?;
    let server = host.enter(|| Ok(std::net::TcpListener::bind("127.0.0.1:80")?))?;
    let client = host.enter(|| Ok(std::net::TcpStream::connect("127.0.0.1:80")?))?;
    let accepted = server.accept()?;
    eventually("the connection is established", || {
        Ok(agent.flows(&["--state", "ESTABLISHED"])?.len() == 1)
    })?;
    let flow = &agent.flows(&[])?[0];
    assert_eq!((&flow["orig"]["packets"], &flow["reply"]["packets"]), (&2.into(), &1.into()));
    assert_eq!(flow["dport"], 80);
    drop((client, accepted));
    assert_eq!(agent.violations()?, []);
    Ok(())
}

#[test]
fn p7_zones_keep_equal_addresses_apart() -> Result<()> {
    let bench = Bench::with(&["--zone", "7"])?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    assert_eq!(bench.flow()?["zone"], 7);
    Ok(())
}

#[test]
fn generic_xdp_and_clsact_see_the_same() -> Result<()> {
    let bench = Bench::with(&["--xdp", "generic", "--egress", "clsact"])?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    tcp.c_sends(&tcp.c(ACK | PSH, 1001, 5001).data(1000))?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    bench.nothing_reported()?;
    let Bench { agent, pair, .. } = bench;
    agent.stop(nix::sys::signal::Signal::SIGTERM)?;
    // The qdisc that the agent added is gone with it.
    assert!(!pair.host.run("tc", &["qdisc", "show", "dev", INTERFACE])?.contains("clsact"));
    Ok(())
}

#[test]
fn observing_changes_no_packet() -> Result<()> {
    // What arrives behind the agent is, byte by byte, what was sent: compared by a socket that receives everything.
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    let frames = [
        tcp.c(SYN, 1000, 0).options(&[2, 4, 5, 0xb4]).frame(),
        tcp.c(SYN | tracker_tests::segment::flag::FIN, 1000, 0).frame(),
        tcp.c(ACK, 9, 9).data(700).vlan(0x8100, 3).frame(),
        vec![0xab; 100],
    ];
    let behind = Wire::receiver(&bench.pair.host, INTERFACE)?;
    let beyond = Wire::receiver(&bench.pair.peer, INTERFACE)?;
    for frame in &frames {
        bench.arrive(frame)?;
        assert!(
            behind
                .receive()
                .with_context(|| format!("arriving {frame:02x?}"))?
                .ends_with(&frame[14 + 4..]),
            "an arriving frame was changed"
        );
        bench.leave(frame)?;
        assert!(
            beyond
                .receive()
                .with_context(|| format!("leaving {frame:02x?}"))?
                .ends_with(&frame[14 + 4..]),
            "a leaving frame was changed"
        );
    }
    bench.settle()
}
