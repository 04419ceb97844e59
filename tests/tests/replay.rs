//! Captures replayed: every form of file gives the same flows, time is the capture's, what is broken is said, and
//! nothing is left behind.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tracker_common::{config::LiveConfig, event::Kind, sweep::Timeouts};
use tracker_tests::{
    agent::{eventually, run_tracker, tracker},
    pcap::{Form, Ng, Order, Packet, pcap},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
};
use tracker_user::{
    cli::{capture::Capture, replay::Engine},
    kernel::load::Sizes,
    model::flood_detection::FloodLimits,
};

const SECOND: u64 = 1_000_000_000;
/// When the captures here begin: in November 2023, at a second that other units of time can say too.
const START: u64 = 1_700_000_000 * SECOND;

/// A capture in a file of its own, removed when dropped.
struct File(PathBuf);

impl File {
    fn new(bytes: &[u8]) -> Result<Self> {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tracker-replay-{}-{}",
            std::process::id(),
            FILES.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes)?;
        Ok(Self(path))
    }

    fn name(&self) -> &str {
        self.0.to_str().expect("a path of UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What `tracker replay -o json OPTIONS` says of a capture.
fn replay(bytes: &[u8], options: &[&str]) -> Result<Value> {
    let file = File::new(bytes)?;
    let arguments = [&["replay", "-o", "json"], options, &[file.name()]].concat();
    let (stdout, stderr, status) = run_tracker(&arguments, None)?;
    ensure!(status.success() && stderr.is_empty(), "{status}: {stderr}");
    let document: Value = serde_json::from_str(&stdout).with_context(|| stdout.clone())?;
    let counted: u64 = counts(&document["packets"]).values().sum();
    assert_eq!(document["capture"]["packets"], counted, "every packet has one fate: {document}");
    assert_eq!(document["v"], 1);
    Ok(document)
}

/// What is not zero.
fn counts(of: &Value) -> HashMap<&str, u64> {
    let names = of.as_object().expect("an object").iter();
    let counts = names.map(|(name, count)| (name.as_str(), count.as_u64().expect("a count")));
    counts.filter(|(_, count)| *count > 0).collect()
}

fn list(of: &Value) -> Vec<&Value> {
    of.as_array().expect("an array").iter().collect()
}

/// Two ends that talk, and a capture of it.
struct Talk {
    client: SocketAddr,
    server: SocketAddr,
    packets: Vec<Packet>,
    now_ns: u64,
}

impl Talk {
    fn new(client: &str, server: &str) -> Self {
        let end = |text: &str| text.parse().expect("an address and a port");
        Self { client: end(client), server: end(server), packets: Vec::new(), now_ns: START }
    }

    fn v4() -> Self {
        Self::new("192.0.2.1:40000", "192.0.2.2:80")
    }

    /// What follows is so much later.
    fn later(mut self, ns: u64) -> Self {
        self.now_ns += ns;
        self
    }

    fn port(mut self, port: u16) -> Self {
        self.client.set_port(port);
        self
    }

    fn c(self, flags: u16, seq: u32, ack: u32, data: usize) -> Self {
        let segment = Segment::new(self.client, self.server, flags, seq, ack).data(data);
        self.frame(segment.frame())
    }

    fn s(self, flags: u16, seq: u32, ack: u32, data: usize) -> Self {
        let segment = Segment::new(self.server, self.client, flags, seq, ack).data(data);
        self.frame(segment.frame())
    }

    /// Each packet is 1/64 s after the one before: a number that every unit of time can say.
    fn frame(mut self, frame: Vec<u8>) -> Self {
        self.packets.push(Packet::new(self.now_ns, frame));
        self.now_ns += SECOND / 64;
        self
    }

    fn open(self, isn: u32) -> Self {
        self.c(SYN, isn, 0, 0).s(SYN | ACK, 5000, isn + 1, 0).c(ACK, isn + 1, 5001, 0)
    }

    /// The client closes, then the server.
    fn close(self, isn: u32) -> Self {
        self.c(FIN | ACK, isn + 1, 5001, 0).s(FIN | ACK, 5001, isn + 2, 0).c(ACK, isn + 2, 5002, 0)
    }

    fn file(&self) -> Vec<u8> {
        pcap(Order::Little, Form::Nanoseconds, 1, &self.packets)
    }
}

/// Two connections, one of each family: one that is closed, one that is reset.
fn two_families() -> Vec<Packet> {
    let v4 = Talk::v4()
        .open(1000)
        .c(PSH | ACK, 1001, 5001, 700)
        .s(ACK, 5001, 1701, 1300)
        .c(FIN | ACK, 1701, 6301, 0)
        .s(FIN | ACK, 6301, 1702, 0)
        .c(ACK, 1702, 6302, 0);
    let v6 = Talk::new("[2001:db8::1]:50000", "[2001:db8::2]:443")
        .later(SECOND / 128)
        .open(77)
        .c(PSH | ACK, 78, 5001, 1200)
        .s(RST | ACK, 5001, 1278, 0);
    let mut packets = [v4.packets, v6.packets].concat();
    packets.sort_by_key(|packet| packet.time_ns);
    packets
}

/// The flows of [`two_families`], written down by hand where they are not obvious.
fn assert_two_families(document: &Value, what: &str) {
    let flows = list(&document["flows"]);
    assert_eq!(flows.len(), 2, "{what}");
    let (v4, v6) = (flows[0], flows[1]);
    assert_eq!(
        (&v4["orig"]["state"], &v4["reply"]["state"]),
        (&json!("TIME_WAIT"), &json!("CLOSED"))
    );
    assert_eq!((&v6["orig"]["state"], &v6["reply"]["state"]), (&json!("CLOSED"), &json!("CLOSED")));
    assert_eq!((&v4["conn_state"], &v6["conn_state"]), (&json!("SF"), &json!("RSTR")), "{what}");
    assert_eq!((&v4["src"], &v6["src"]), (&json!("192.0.2.1"), &json!("2001:db8::1")), "{what}");
    // Bytes with the IP headers: 20 and 20 for IPv4, 40 and 20 for IPv6.
    assert_eq!(
        (&v4["orig"]["bytes"], &v4["reply"]["bytes"]),
        (&json!(5 * 40 + 700), &json!(3 * 40 + 1300))
    );
    assert_eq!(
        (&v6["orig"]["bytes"], &v6["reply"]["bytes"]),
        (&json!(3 * 60 + 1200), &json!(2 * 60))
    );
    assert_eq!(v4["created"], "2023-11-14T22:13:20Z", "{what}");
    assert_eq!(v6["created"], "2023-11-14T22:13:20.0078125Z", "{what}");
    // Eight and five packets, 1/64 s apart.
    assert_eq!(
        (&v4["duration_ns"], &v6["duration_ns"]),
        (&json!(7 * SECOND / 64), &json!(4 * SECOND / 64))
    );
    // 1/32 s from the SYN to the third segment.
    assert_eq!((&v4["rtt_us"], &v6["rtt_us"]), (&json!(31_250), &json!(31_250)), "{what}");
    assert_eq!(counts(&document["packets"]), HashMap::from([("tracked", 13)]), "{what}");
    assert_eq!(document["capture"]["first"], "2023-11-14T22:13:20Z", "{what}");
    assert_eq!(document["capture"]["last"], "2023-11-14T22:13:20.109375Z", "{what}");
    assert_eq!(document["capture"]["broken"], Value::Null, "{what}");
}

#[test]
fn every_form_of_pcap() -> Result<()> {
    let packets = two_families();
    let mut flows = Vec::new();
    for (order, form) in [
        (Order::Little, Form::Microseconds),
        (Order::Big, Form::Microseconds),
        (Order::Little, Form::Nanoseconds),
        (Order::Big, Form::Nanoseconds),
        (Order::Little, Form::Modified),
        (Order::Big, Form::Modified),
    ] {
        // Half a microsecond is lost where there are no nanoseconds.
        let packets: Vec<_> = packets
            .iter()
            .map(|packet| Packet { time_ns: packet.time_ns / 1000 * 1000, ..packet.clone() })
            .collect();
        let document = replay(&pcap(order, form, 1, &packets), &[])?;
        assert_eq!(document["capture"]["format"], "pcap");
        flows.push(document["flows"].clone());
    }
    assert!(flows.iter().all(|other| *other == flows[0]), "{flows:#?}");
    let document = replay(&pcap(Order::Big, Form::Nanoseconds, 1, &packets), &[])?;
    assert_two_families(&document, "nanoseconds");
    Ok(())
}

#[test]
fn every_form_of_pcapng() -> Result<()> {
    let packets = two_families();
    let per_second = |units: u64| move |ns: u64| ns / SECOND * units + ns % SECOND * units / SECOND;
    for order in Order::ALL {
        // Nanoseconds, 2^-20 s, and seconds and halves of them after an offset: option 9 and 14.
        let nanoseconds = [(2, &b"eth0"[..]), (9, &[9])];
        let offset = order.i64(1_600_000_000);
        let powers = [(14, &offset[..]), (9, &[0x80 | 20])];
        let negative = order.i64(-50);
        let late = [(9, &[8][..]), (14, &negative[..])];
        let mut file = Ng::new(order)
            .interface(1, 0, &nanoseconds)
            .interface(1, 262_144, &powers)
            // Blocks that hold no packet are passed by, known or not.
            .block(4, &[0; 8])
            .block(0xbad, &[1; 100_000]);
        for (n, packet) in packets.iter().enumerate() {
            file = if n % 3 == 0 {
                file.enhanced(0, packet.time_ns, packet)
            } else if n % 3 == 1 {
                let time = per_second(1 << 20)(packet.time_ns - 1_600_000_000 * SECOND);
                file.enhanced(1, time, packet)
            } else {
                file.obsolete(0, packet.time_ns, packet)
            };
            if n == 6 {
                // Another section, in the other byte order, whose first interface is another one.
                let other = if order == Order::Little { Order::Big } else { Order::Little };
                let offset = other.i64(1_600_000_000);
                file = file.section(other).interface(1, 0, &[(9, &[9])]);
                file = file.interface(1, 0, &[(9, &[0x80 | 20]), (14, &offset)]);
            }
        }
        let document = replay(&file.file(), &[])?;
        assert_eq!(document["capture"]["format"], "pcapng");
        assert_two_families(&document, &format!("{order:?}"));
        // The default is microseconds; an offset may lie before 1970.
        let first = &packets[0];
        let file = Ng::new(order)
            .interface(1, 0, &[])
            .interface(1, 0, &late)
            .enhanced(0, first.time_ns / 1000, first)
            .enhanced(1, (first.time_ns / SECOND + 51) * 100_000_000 + 25, first);
        let document = replay(&file.file(), &[])?;
        assert_eq!(document["capture"]["first"], "2023-11-14T22:13:20Z");
        assert_eq!(document["capture"]["last"], "2023-11-14T22:13:21.00000025Z");
        assert_eq!(document["flows"][0]["duration_ns"], SECOND + 250);
    }
    Ok(())
}

#[test]
fn simple_packets_have_no_time_and_may_be_snapped() -> Result<()> {
    let talk = Talk::v4().open(1).c(PSH | ACK, 2, 5001, 1001);
    // The first one gives the time; the last one is cut to the interface's snap length, and padded.
    let mut file =
        Ng::new(Order::Big).interface(1, 57, &[]).enhanced(0, START / 1000, &talk.packets[0]);
    for packet in &talk.packets[1..] {
        file = file.simple(&packet.clone().snapped(57));
    }
    let document = replay(&file.file(), &[])?;
    let flow = &document["flows"][0];
    assert_eq!((&flow["history"], &flow["orig"]["bytes"]), (&json!("ShAD"), &json!(3 * 40 + 1001)));
    assert_eq!(
        (&flow["created"], &flow["duration_ns"]),
        (&json!("2023-11-14T22:13:20Z"), &json!(0))
    );
    Ok(())
}

/// Returns a frame's payload behind `header`, a function of the payload's type.
fn on_link(packet: &Packet, header: impl Fn(u16) -> Vec<u8>) -> Packet {
    let (ethernet, payload) = packet.bytes.split_at(14);
    let mut bytes = header(u16::from_be_bytes([ethernet[12], ethernet[13]]));
    bytes.extend(payload);
    Packet::new(packet.time_ns, bytes)
}

/// The header of a link type for a payload of an Ethernet type.
type Header = Box<dyn Fn(u16) -> Vec<u8>>;

#[test]
fn every_link_type() -> Result<()> {
    let packets = two_families();
    let family = |ether_type: u16, v6: u32| if ether_type == 0x0800 { 2u32 } else { v6 };
    let ppp = |ether_type: u16| if ether_type == 0x0800 { 0x21u8 } else { 0x57 };
    let mut links: Vec<(u32, Header)> = vec![
        (1, Box::new(|ether_type| [&[0; 12][..], &ether_type.to_be_bytes()].concat())),
        // The upper bits of the number tell of a frame check sequence.
        (0x2400_0001, Box::new(|ether_type| [&[0; 12][..], &ether_type.to_be_bytes()].concat())),
        (101, Box::new(|_| Vec::new())),
        (12, Box::new(|_| Vec::new())),
        (14, Box::new(|_| Vec::new())),
        (0, Box::new(move |ether_type| family(ether_type, 10).to_le_bytes().to_vec())),
        (0, Box::new(move |ether_type| family(ether_type, 30).to_be_bytes().to_vec())),
        (108, Box::new(move |ether_type| family(ether_type, 24).to_be_bytes().to_vec())),
        (
            113,
            Box::new(|ether_type| {
                [&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0][..], &ether_type.to_be_bytes()]
                    .concat()
            }),
        ),
        (276, Box::new(|ether_type| [&ether_type.to_be_bytes()[..], &[0; 18]].concat())),
        (9, Box::new(move |ether_type| [&[0xff, 0x03, 0x00][..], &[ppp(ether_type)]].concat())),
        (9, Box::new(move |ether_type| vec![0x00, ppp(ether_type)])),
        // A protocol number in one byte.
        (9, Box::new(move |ether_type| vec![0xff, 0x03, ppp(ether_type)])),
        (9, Box::new(move |ether_type| vec![ppp(ether_type)])),
    ];
    // What these two say in their number instead, an interface of pcapng each.
    let by_version = {
        let mut file =
            Ng::new(Order::Little).interface(228, 0, &[(9, &[9])]).interface(229, 0, &[(9, &[9])]);
        for packet in &packets {
            let interface = u32::from(packet.bytes[12] != 8);
            file = file.enhanced(interface, packet.time_ns, &on_link(packet, |_| Vec::new()));
        }
        file.file()
    };
    assert_two_families(&replay(&by_version, &[])?, "228 and 229");
    for (link, header) in links.drain(..) {
        let packets: Vec<_> = packets.iter().map(|packet| on_link(packet, &header)).collect();
        let file = pcap(Order::Little, Form::Nanoseconds, link, &packets);
        assert_two_families(&replay(&file, &[])?, &format!("link type {link}"));
    }
    Ok(())
}

/// A frame's packet as NFLOG hands it over: after an attribute that says what it is and one that nobody knows, before one
/// more; their numbers are in the byte order of whoever has written the file.
fn on_nflog(packet: &Packet, order: Order, family: Option<u8>) -> Packet {
    let u16 = |value: u16| match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    };
    let attribute = |kind: u16, value: &[u8]| {
        let len = u16::try_from(value.len() + 4).expect("a short attribute");
        let mut bytes = [u16(len), u16(kind)].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let (ethernet, payload) = packet.bytes.split_at(14);
    let by_type = if ethernet[12] == 8 { 2 } else { 10 };
    let bytes = [
        vec![family.unwrap_or(by_type), 0, 0, 100],
        attribute(1, &[&ethernet[12..14], &[1, 0]].concat()),
        attribute(10, b"a prefix\0"),
        attribute(9, payload),
        attribute(11, &[0, 0, 0, 0]),
    ]
    .concat();
    Packet::new(packet.time_ns, bytes)
}

#[test]
fn nflog_in_both_byte_orders() -> Result<()> {
    let packets = two_families();
    for order in Order::ALL {
        // The family of a bridge's or an interface's packets does not name the protocol, but an attribute does.
        for family in [None, Some(7), Some(5)] {
            let packets: Vec<_> =
                packets.iter().map(|packet| on_nflog(packet, order, family)).collect();
            let file = pcap(order, Form::Nanoseconds, 239, &packets);
            assert_two_families(&replay(&file, &[])?, &format!("{order:?} {family:?}"));
            let ng = Ng::new(order).interface(239, 0, &[(9, &[9])]);
            let ng = packets.iter().fold(ng, |ng, packet| ng.enhanced(0, packet.time_ns, packet));
            assert_two_families(&replay(&ng.file(), &[])?, &format!("{order:?} {family:?}"));
        }
    }
    // The kernel was asked for the headers only: what is missing is part of the packet all the same.
    let short: Vec<_> = packets
        .iter()
        .map(|packet| {
            let headers = if packet.bytes[12] == 8 { 54 } else { 74 };
            on_nflog(&packet.clone().snapped(headers), Order::Little, None)
        })
        .collect();
    let file = pcap(Order::Little, Form::Nanoseconds, 239, &short);
    assert_two_families(&replay(&file, &[])?, "headers only");
    Ok(())
}

#[test]
fn vlan_tags_behind_a_cooked_header() -> Result<()> {
    let talk = Talk::v4();
    let tagged = Segment::new(talk.client, talk.server, SYN, 1, 0).vlan(0x88a8, 5).vlan(0x8100, 6);
    let packet = Packet::new(START, tagged.frame());
    let sll = on_link(&packet, |ether_type| {
        assert_eq!(ether_type, 0x88a8);
        [&[0; 14][..], &ether_type.to_be_bytes()].concat()
    });
    let document = replay(&pcap(Order::Little, Form::Microseconds, 113, &[sll]), &[])?;
    assert_eq!(document["flows"][0]["orig"]["state"], "SYN_SENT");
    Ok(())
}

#[test]
fn what_link_headers_cannot_say_is_counted() -> Result<()> {
    let first = &two_families()[0];
    let of = |link, bytes: &[u8]| -> Result<Value> {
        let packet = Packet { bytes: bytes.to_vec(), wire_len: 60, ..first.clone() };
        replay(&pcap(Order::Big, Form::Microseconds, link, &[packet]), &[])
    };
    for (link, bytes, fate) in [
        // Cut off inside the link header.
        (1, &[0; 13][..], "truncated_ethernet"),
        (1, &[], "truncated_ethernet"),
        (0, &[0, 0, 0], "truncated_ethernet"),
        (113, &[0; 15], "truncated_ethernet"),
        (276, &[8, 0], "truncated_ethernet"),
        (9, &[], "truncated_ethernet"),
        (9, &[0xff, 0x03], "truncated_ethernet"),
        (9, &[0xff, 0x03, 0], "truncated_ethernet"),
        (239, &[2, 0, 0], "truncated_ethernet"),
        (239, &[2, 0, 0, 0, 8, 0, 1], "truncated_ethernet"),
        // No packet among the attributes, and lengths that say nothing.
        (239, &[2, 0, 0, 0, 0, 8, 0, 1, 8, 0, 0, 0], "truncated_ethernet"),
        (239, &[2, 0, 0, 0, 0, 0, 0, 9, 0x45], "truncated_ethernet"),
        (239, &[2, 0, 0, 0, 0, 3, 0, 9, 0x45], "truncated_ethernet"),
        // And right behind it.
        (1, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0], "truncated_ip"),
        (0, &[0, 0, 0, 2], "truncated_ip"),
        (101, &[], "truncated_ip"),
        (9, &[0, 0x21], "truncated_ip"),
        (9, &[0x57], "truncated_ip"),
        (239, &[10, 0, 0, 0, 0, 4, 0, 9], "truncated_ip"),
        (239, &[10, 0, 0, 0, 1, 0, 0, 9, 0x60, 0, 0, 0], "truncated_ip"),
        // No IP.
        (101, &[0x50; 40], "not_ip"),
        (0, &[0, 0, 0, 7, 0x45], "not_ip"),
        (108, &[2, 0, 0, 0, 0x45], "not_ip"),
        (9, &[0xc0, 0x21, 1, 1, 0, 4], "not_ip"),
        (9, &[0xff, 0x03, 0x80, 0x21, 1, 1], "not_ip"),
        (239, &[7, 0, 0, 0, 0, 5, 0, 9, 0x45], "not_ip"),
        (228, &[0x65; 40], "bad_ip_header"),
    ] {
        let document = of(link, bytes)?;
        assert_eq!(counts(&document["packets"]), HashMap::from([(fate, 1)]), "{link} {bytes:?}");
    }
    Ok(())
}

#[test]
fn snapped_captures() -> Result<()> {
    let packets = two_families();
    let snapped = |snap| -> Result<Value> {
        let packets: Vec<_> = packets.iter().map(|packet| packet.clone().snapped(snap)).collect();
        replay(&pcap(Order::Little, Form::Nanoseconds, 1, &packets), &[])
    };
    // All headers are there: 14, 40, 20.
    assert_two_families(&snapped(74)?, "snapped to 74");
    // Within the TCP header of either family (14 + 20 + 20, 14 + 40 + 20), within the IP header, within Ethernet's.
    for (snap, expected) in [
        (53, HashMap::from([("truncated_tcp", 8), ("truncated_ip", 5)])),
        (73, HashMap::from([("tracked", 8), ("truncated_tcp", 5)])),
        (33, HashMap::from([("truncated_ip", 13)])),
        (13, HashMap::from([("truncated_ethernet", 13)])),
    ] {
        assert_eq!(counts(&snapped(snap)?["packets"]), expected, "{snap}");
    }
    Ok(())
}

#[test]
fn options_that_were_cut_off() -> Result<()> {
    // MSS 1460 and a window scale of 10; then SACK permitted, timestamps, NOP, scale, as Linux sends them.
    let short = [2, 4, 5, 0xb4, 1, 3, 3, 10];
    let long = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 10];
    for options in [&short[..], &long] {
        let talk = Talk::v4();
        let (client, server) = (talk.client, talk.server);
        let segment = |flags, seq, ack| Segment::new(client, server, flags, seq, ack);
        let back = |flags, seq, ack| Segment::new(server, client, flags, seq, ack);
        // 100 of a window is 102,400 bytes.
        let stamps = [1, 1, 8, 10, 0, 0, 0, 8, 0, 0, 0, 7];
        let talk = talk
            .frame(segment(SYN, 1000, 0).options(options).frame())
            .frame(back(SYN | ACK, 5000, 1001).options(options).frame())
            .frame(segment(ACK, 1001, 5001).options(&stamps).window(100).frame())
            .frame(back(PSH | ACK, 5001, 1001).options(&stamps).window(100).data(50_000).frame())
            .frame(back(PSH | ACK, 55_001, 1001).options(&stamps).window(100).data(50_000).frame())
            .frame(segment(ACK, 1001, 105_001).options(&stamps).window(100).frame())
            .frame(segment(FIN | ACK, 1001, 105_001).options(&stamps).window(100).frame())
            .frame(back(FIN | ACK, 105_001, 1002).options(&stamps).window(100).frame())
            .frame(segment(ACK, 1002, 105_002).options(&stamps).window(100).frame());
        // Within the options of the SYNs, of all segments, and right behind the TCP header.
        for snap in [14 + 40 + options.len(), 66, 60, 55, 54] {
            let packets: Vec<_> =
                talk.packets.iter().map(|packet| packet.clone().snapped(snap)).collect();
            let file = pcap(Order::Little, Form::Nanoseconds, 1, &packets);
            let document = replay(&file, &["--report", "violation,minor,information"])?;
            assert_eq!(counts(&document["packets"]), HashMap::from([("tracked", 9)]), "{snap}");
            assert_eq!(counts(&document["violations"]), HashMap::new(), "{snap}");
            let flow = &document["flows"][0];
            assert_eq!((&flow["conn_state"], &flow["history"]), (&json!("SF"), &json!("ShAdFf")));
            assert_eq!(flow["rtt_us"], 31_250);
            let is_whole = snap >= 54 + options.len();
            for end in ["orig", "reply"] {
                let read = (&flow[end]["mss"], &flow[end]["wscale"]);
                let known = (&json!(1460), &json!(10));
                assert_eq!(read, if is_whole { known } else { (&Value::Null, &Value::Null) });
            }
        }
    }
    Ok(())
}

#[test]
fn frames_of_any_size() -> Result<()> {
    // A frame that no network carries, as segmentation offload hands it over; its IP length is 0 where it does not fit.
    let talk = Talk::v4().open(1).c(PSH | ACK, 2, 5001, 60_000);
    let big = Segment::new(talk.client, talk.server, PSH | ACK, 60_002, 5001).data(65_000);
    let talk = talk.frame(big.frame()).c(ACK, 125_002, 5001, 0);
    let flow = &replay(&talk.file(), &[])?["flows"][0];
    assert_eq!(flow["orig"]["bytes"], 3 * 40 + 60_040 + 65_040);
    assert_eq!((&flow["orig"]["seq"], &flow["history"]), (&json!(125_002), &json!("ShAD")));
    // Headers that begin far inside the frame: three extension headers of 2 KiB each.
    let extension = |next: u8| {
        let mut header = vec![0; 2048];
        (header[0], header[1]) = (next, 255);
        header
    };
    let chain = [extension(60), extension(60), extension(6)].concat();
    let v6 = Talk::new("[2001:db8::1]:1", "[2001:db8::2]:2");
    let far = Segment::new(v6.client, v6.server, SYN, 1, 0).extensions(60, &chain).frame();
    let document = replay(&v6.frame(far).file(), &[])?;
    assert_eq!(counts(&document["packets"]), HashMap::from([("tracked", 1)]));
    Ok(())
}

fn event_names(document: &Value) -> Vec<String> {
    let name = |event: &Value| {
        let packet =
            event["packet"].as_u64().map_or_else(|| "-".to_owned(), |packet| packet.to_string());
        format!("{packet} {}", event["event"].as_str().expect("a name"))
    };
    list(&document["events"]).into_iter().map(name).collect()
}

#[test]
fn time_wait_is_over_by_the_capture_s_clock() -> Result<()> {
    let file = |gap: u64| Talk::v4().open(1000).close(1000).later(gap).open(500).file();
    let document = replay(&file(61 * SECOND), &["-e", "all"])?;
    let expected =
        ["1 NEW", "3 ESTABLISHED", "4 CLOSING", "6 CLOSE", "- DESTROY", "7 NEW", "9 ESTABLISHED"];
    assert_eq!(event_names(&document), expected);
    let flows = list(&document["flows"]);
    // The port is used again, by a lower number: that is a new connection, since the old one is gone.
    assert_eq!(flows.len(), 2);
    assert_eq!((&flows[0]["end"]["reason"], flows[1].get("end")), (&json!("fin"), None));
    assert_eq!((&flows[0]["orig"]["isn"], &flows[1]["orig"]["isn"]), (&json!(1000), &json!(500)));
    let destroy = &document["events"][4];
    assert_eq!(destroy["end"], json!({"reason": "fin", "duration_ns": 5 * SECOND / 64}));
    // The last packet is at 5/64 s; a record keeps that to a tick of 17 ms, and is never removed too early.
    let time: &str = destroy["time"].as_str().context("a time")?;
    assert!(("2023-11-14T22:14:20.06".."2023-11-14T22:14:20.11").contains(&time), "{time}");
    // 59 s are not enough: the same SYN is one of an old connection.
    let document = replay(&file(59 * SECOND), &["-e", "all"])?;
    assert!(!event_names(&document).contains(&"- DESTROY".to_owned()), "{document}");
    assert_eq!(list(&document["flows"])[0]["orig"]["isn"], 1000);
    // Another timeout.
    let document = replay(&file(59 * SECOND), &["-e", "destroy", "--timeout-time-wait", "58"])?;
    assert_eq!(event_names(&document), ["- DESTROY"]);
    Ok(())
}

#[test]
fn a_port_that_is_used_again_at_once() -> Result<()> {
    // A higher number may begin a new connection in TIME_WAIT, whose handshake then replaces the old one.
    let talk = Talk::v4().open(1000).close(1000).later(SECOND).open(900_000);
    let document = replay(&talk.file(), &["-e", "destroy"])?;
    assert_eq!(event_names(&document), ["8 DESTROY"]);
    assert_eq!(
        document["events"][0]["end"],
        json!({"reason": "reopened", "duration_ns": 5 * SECOND / 64})
    );
    let flows = list(&document["flows"]);
    assert_eq!(flows.len(), 2);
    assert_eq!(flows[0]["end"]["reason"], "reopened");
    assert_eq!(
        (&flows[0]["duration_ns"], &flows[1]["duration_ns"]),
        (&json!(5 * SECOND / 64), &json!(2 * SECOND / 64))
    );
    assert_eq!(
        (flows[1].get("end"), &flows[1]["created"]),
        (None, &json!("2023-11-14T22:13:21.09375Z"))
    );
    Ok(())
}

#[test]
fn gaps_of_hours_and_of_years() -> Result<()> {
    let file = |gap| Talk::v4().open(1).later(gap).c(ACK, 2, 5001, 10).file();
    let ends = |document: &Value| -> Vec<Value> {
        list(&document["flows"]).iter().map(|flow| flow["end"]["timeout_state"].clone()).collect()
    };
    let two_hours = file(7200 * SECOND);
    assert_eq!(ends(&replay(&two_hours, &[])?), [Value::Null]);
    let shorter = replay(&two_hours, &["--timeout-established", "7190"])?;
    assert_eq!(ends(&shorter), [json!("ESTABLISHED"), Value::Null]);
    assert_eq!(shorter["flows"][1]["midstream"], true);
    assert_eq!(ends(&replay(&file(7441 * SECOND), &[])?), [json!("ESTABLISHED"), Value::Null]);
    // Ticks of a record wrap after 2.28 years: twice as long a gap must not look like none.
    let wraps = (1u64 << 56) * 2 + SECOND;
    assert_eq!(ends(&replay(&file(wraps), &[])?), [json!("ESTABLISHED"), Value::Null]);
    Ok(())
}

#[test]
fn flows_end_in_the_order_of_their_deadlines() -> Result<()> {
    let talk = Talk::v4();
    // Due at 60 (TIME_WAIT), 65 (SYN_SENT) and 30 s (reset), and not before 7440 s.
    let closed = Talk::v4().port(1001).open(1).close(1);
    let waiting = Talk::v4().port(1002).later(5 * SECOND).c(SYN, 1, 0, 0);
    let stays = Talk::v4().port(1003).later(6 * SECOND).open(1);
    let reset = Talk::v4().port(1004).later(20 * SECOND).open(1).c(RST, 2, 0, 0);
    let last = talk.port(1005).later(300 * SECOND).c(SYN, 1, 0, 0);
    let packets =
        [closed.packets, waiting.packets, stays.packets, reset.packets, last.packets].concat();
    let document =
        replay(&pcap(Order::Big, Form::Nanoseconds, 1, &packets), &["-e", "new,destroy"])?;
    let found: Vec<_> = list(&document["events"])
        .iter()
        .map(|event| {
            (event["event"].clone(), event["flow"]["sport"].clone(), event["end"]["reason"].clone())
        })
        .collect();
    let new = |port: u16| (json!("NEW"), json!(port), Value::Null);
    let gone = |port: u16, reason: &str| (json!("DESTROY"), json!(port), json!(reason));
    let expected = [
        new(1001),
        new(1002),
        new(1003),
        new(1004),
        gone(1004, "rst"),
        gone(1001, "fin"),
        gone(1002, "timeout"),
        new(1005),
    ];
    assert_eq!(found, expected);
    assert_eq!(document["violations"]["half_open_timeout"], 1);
    let ends: Vec<_> =
        list(&document["flows"]).iter().map(|flow| flow["end"]["reason"].clone()).collect();
    assert_eq!(ends, [json!("fin"), json!("timeout"), Value::Null, json!("rst"), Value::Null]);
    Ok(())
}

/// A capture of several talks.
fn together(talks: impl IntoIterator<Item = Talk>) -> Vec<u8> {
    let mut packets: Vec<_> = talks.into_iter().flat_map(|talk| talk.packets).collect();
    packets.sort_by_key(|packet| packet.time_ns);
    pcap(Order::Little, Form::Nanoseconds, 1, &packets)
}

/// What a sweep has found: rule, seconds since the capture's beginning, client's port, and the number seen.
type Found<'a> = (&'a str, u64, u64, Option<u64>);

/// A document's violations. None was caused by a packet, each was counted, and nothing else was.
fn found(document: &Value) -> Result<Vec<Found<'_>>> {
    let mut found = Vec::new();
    let mut times = Vec::new();
    for event in list(&document["events"]) {
        times.push(event["time_ns"].as_u64());
        if event["event"] != "VIOLATION" {
            continue;
        }
        let violation = &event["violation"];
        ensure!(event.get("packet").is_none() && event.get("segment").is_none(), "{event}");
        assert_eq!(
            (&event["interface"], &violation["action"]),
            (&json!("replay"), &json!("passed"))
        );
        // Its clock begins at a second.
        let at = event["time_ns"].as_u64().context("a time")? / SECOND - 1;
        found.push((
            violation["name"].as_str().context("a name")?,
            at,
            event["flow"]["sport"].as_u64().context("a port")?,
            violation["actual"].as_u64(),
        ));
    }
    ensure!(times.is_sorted(), "{times:?}");
    let mut counted = counts(&document["violations"]);
    for (name, ..) in &found {
        *counted.get_mut(name).with_context(|| format!("{name} is not counted"))? -= 1;
    }
    counted.retain(|name, count| {
        *count > 0 && ["half_open_timeout", "syn_flood", "port_scan"].contains(name)
    });
    ensure!(counted.is_empty(), "counted, but not told: {counted:?}");
    Ok(found)
}

#[test]
fn handshakes_that_are_not_completed_in_their_time() -> Result<()> {
    let talk = |port, at: u64| Talk::v4().port(port).later(at * SECOND);
    let unanswered = talk(1, 0).c(SYN, 1, 0, 0);
    let unacknowledged = talk(2, 10).c(SYN, 1, 0, 0).s(SYN | ACK, 5000, 2, 0);
    let opened = talk(3, 11).open(1);
    let refused = talk(4, 12).c(SYN, 1, 0, 0).s(RST | ACK, 0, 2, 0);
    // Each direction alone: the one that is seen has the third segment, or must not be asked for it.
    let one_way = talk(5, 13).c(SYN, 1, 0, 0).c(ACK, 2, 5001, 0);
    let other_way = talk(6, 14).s(SYN | ACK, 5000, 2, 0);
    let not_due = talk(7, 7470).c(SYN, 1, 0, 0);
    let last = talk(8, 7500).open(1);
    let talks = [unanswered, unacknowledged, opened, refused, one_way, other_way, not_due, last];
    let file = together(talks);
    let document = replay(&file, &["-e", "violation,destroy"])?;
    let expected = [("half_open_timeout", 60, 1, None), ("half_open_timeout", 70, 2, None)];
    assert_eq!(found(&document)?, expected);
    let events = list(&document["events"]);
    // Each is followed by its flow's end.
    let place = |port: u16| {
        let places = (0..events.len()).filter(|n| events[*n]["flow"]["sport"] == port);
        places.collect::<Vec<_>>()
    };
    for (port, reply) in [(1, "LISTEN"), (2, "SYN_RECEIVED")] {
        let [violation, destroy] = place(port)[..] else { panic!("{document}") };
        assert_eq!(destroy, violation + 1);
        let before = &events[violation]["violation"]["before"];
        assert_eq!(*before, json!({"orig": "SYN_SENT", "reply": reply}));
        assert_eq!(events[violation]["time_ns"], events[destroy]["time_ns"]);
        assert_eq!(events[destroy]["event"], "DESTROY");
        assert_eq!(events[violation]["flow"]["created"], events[destroy]["flow"]["created"]);
    }
    // Not asked for, it is counted.
    let document = replay(&file, &["--report", "xmas"])?;
    assert!(list(&document["events"]).is_empty());
    assert_eq!(document["violations"]["half_open_timeout"], 2);
    // With another timeout.
    let document = replay(&file, &["--timeout-syn-sent", "10", "--timeout-syn-received", "20"])?;
    let times: Vec<_> = found(&document)?.iter().map(|(_, at, port, _)| (*at, *port)).collect();
    assert_eq!(times, [(10, 1), (20, 2), (7480, 7)]);
    // In text, who it was.
    let file = File::new(&file)?;
    let (stdout, ..) = run_tracker(&["replay", "--no-flows", file.name()], None)?;
    let first = stdout.lines().next().unwrap_or_default();
    assert!(
        first.contains(
            " [VIOLATION] half_open_timeout tcp 6 0 SYN_SENT/LISTEN src=192.0.2.1 dst=192.0.2.2 sport=1 dport=80 "
        ),
        "{stdout}"
    );
    // In a diagram, before the end.
    let (stdout, ..) = run_tracker(&["replay", "--ladder", "--sport", "1", file.name()], None)?;
    let lines: Vec<_> = stdout.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 4, "{stdout}");
    assert_eq!(lines[2], "! half_open_timeout");
    assert!(lines[3].contains(" end reason=timeout "), "{stdout}");
    Ok(())
}

/// SYNs from ports `first` on to port 80, `count` in the second that begins `at` seconds after the start.
fn rush(first: u16, count: u16, at: u64) -> impl Iterator<Item = Talk> {
    (0..count).map(move |n| {
        let talk = Talk::v4().port(first + n).later(at * SECOND + u64::from(n) * SECOND / 1024);
        talk.c(SYN, 1, 0, 0)
    })
}

#[test]
fn a_syn_flood_is_found_at_the_next_sweep() -> Result<()> {
    let replayed = |talks: Vec<Talk>| -> Result<Vec<(u64, u64, Option<u64>)>> {
        let document = replay(&together(talks), &["--syn-flood-limit", "20"])?;
        let floods = found(&document)?.into_iter().filter(|(name, ..)| *name == "syn_flood");
        Ok(floods.map(|(_, at, port, actual)| (at, port, actual)).collect())
    };
    let end = |at: u64| Talk::v4().port(60_000).later(at * SECOND).open(1);
    assert_eq!(replayed(rush(1, 19, 0).chain([end(5)]).collect())?, []);
    // Its event has the first of its flows.
    assert_eq!(replayed(rush(1, 20, 0).chain([end(5)]).collect())?, [(1, 1, Some(20))]);
    // Also where the capture ends before the sweep.
    assert_eq!(replayed(rush(1, 20, 0).collect())?, [(0, 1, Some(20))]);
    // Several seconds of it are one flood; connections to another port are none of it.
    let other = rush(500, 15, 0).map(|mut talk| {
        talk.packets = Talk::new("192.0.2.1:9", "192.0.2.2:81")
            .port(talk.client.port())
            .c(SYN, 1, 0, 0)
            .packets;
        talk
    });
    let long = (0..100).flat_map(|n| rush(1000 + n * 10, 10, n.into()));
    assert_eq!(replayed(long.chain(other).collect())?, [(2, 1000, Some(20))]);
    // Below half the limit it is over, and may begin again.
    let again =
        rush(1, 30, 0).chain(rush(2000, 9, 59)).chain(rush(3000, 20, 119)).chain([end(121)]);
    assert_eq!(replayed(again.collect())?, [(1, 1, Some(30)), (120, 3000, Some(20))]);
    let goes_on = rush(1, 30, 0).chain(rush(2000, 11, 59)).chain(rush(3000, 20, 118));
    assert_eq!(replayed(goes_on.collect())?, [(1, 1, Some(30))]);
    // The default limit.
    let many = |count| -> Result<Value> { replay(&together(rush(1, count, 0)), &[]) };
    assert_eq!(found(&many(1023)?)?, []);
    assert_eq!(found(&many(1024)?)?, [("syn_flood", 0, 1, Some(1024))]);
    Ok(())
}

#[test]
fn a_port_scan_is_found_at_the_next_sweep() -> Result<()> {
    let scan = |ports: std::ops::Range<u16>, answer: fn(Talk) -> Talk| {
        ports.map(move |port| {
            let talk = Talk::new("192.0.2.1:40000", &format!("192.0.2.2:{port}"));
            answer(talk.later(u64::from(port) * SECOND / 64).c(SYN, 1, 0, 0))
        })
    };
    let silence = |talk| talk;
    let refusal = |talk: Talk| talk.s(RST | ACK, 0, 2, 0);
    let welcome = |talk: Talk| talk.s(SYN | ACK, 5000, 2, 0).c(ACK, 2, 5001, 0);
    let replayed = |talks: Vec<Talk>, options: &[&str]| -> Result<Vec<String>> {
        let document = replay(&together(talks), options)?;
        let found = found(&document)?.into_iter().map(|(name, at, _, actual)| {
            format!("{name} {at} {}", actual.map_or("-".to_owned(), |actual| actual.to_string()))
        });
        Ok(found.collect())
    };
    let twenty = ["--port-scan-limit", "20"];
    // By whatever half of it was refused; what was open does not count, however often.
    let half = || scan(1..11, silence).chain(scan(20..29, refusal)).chain(scan(100..120, welcome));
    assert_eq!(replayed(half().collect(), &twenty)?, Vec::<String>::new());
    let talks = half().chain(scan(40..41, refusal)).collect();
    assert_eq!(replayed(talks, &twenty)?, ["port_scan 1 20"]);
    // One port, however often, is no scan.
    assert_eq!(replayed(rush(1, 100, 0).collect(), &twenty)?, Vec::<String>::new());
    // The default limit, and none.
    let talks = || scan(1..101, silence).collect();
    assert_eq!(replayed(talks(), &[])?, ["port_scan 1 100"]);
    assert_eq!(replayed(talks(), &["--port-scan-limit", "0"])?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_flood_that_lasts_a_year_takes_no_longer() -> Result<()> {
    // To look every second would take hours.
    let end = Talk::v4().port(9).later(80 * 365 * 86_400 * SECOND).open(1);
    let file = together(rush(1000, 20, 0).chain([end]));
    let document = replay(&file, &["--syn-flood-limit", "20", "--timeout-syn-sent", "31536000"])?;
    let found = found(&document)?;
    assert_eq!((found.len(), found[0]), (21, ("syn_flood", 1, 1000, Some(20))));
    assert_eq!(found[20], ("half_open_timeout", 31_536_000, 1019, None));
    Ok(())
}

#[test]
fn clocks_that_go_back_or_stand_still() -> Result<()> {
    let mut talk = Talk::v4().open(1).close(1).port(2).open(7).close(7);
    // The second connection's SYN,ACK is stamped before its SYN, as two capturing queues do.
    talk.packets[7].time_ns = talk.packets[6].time_ns - 3000;
    let file = pcap(Order::Little, Form::Microseconds, 1, &talk.packets);
    let document = replay(&file, &["-e", "all"])?;
    let times: Vec<_> =
        list(&document["events"]).iter().map(|event| event["time_ns"].as_u64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    // The SYN,ACK is its first packet now.
    assert_eq!(document["flows"][1]["duration_ns"], 5 * SECOND / 64 + 3000);
    assert_eq!(document["flows"][1]["history"], "ShAFf");
    // All packets at one moment: connections on one key, reset and opened again, still are several.
    let mut talk =
        Talk::v4().open(1).c(RST, 2, 0, 0).open(70_000).c(RST, 70_001, 0, 0).open(900_000);
    for packet in &mut talk.packets {
        packet.time_ns = START;
    }
    let document = replay(&talk.file(), &[])?;
    let flows = list(&document["flows"]);
    let isns: Vec<_> = flows.iter().map(|flow| flow["orig"]["isn"].clone()).collect();
    assert_eq!(isns, [json!(1), json!(70_000), json!(900_000)]);
    assert!(
        flows
            .iter()
            .all(|flow| flow["created"] == "2023-11-14T22:13:20Z" && flow["duration_ns"] == 0)
    );
    Ok(())
}

#[test]
fn flows_that_were_evicted_are_shown() -> Result<()> {
    let packets: Vec<_> = (0..5000)
        .map(|n| {
            let frame = Talk::v4().port(n + 1).c(SYN, 1, 0, 0).packets.remove(0);
            Packet { time_ns: START + u64::from(n) * 1000, ..frame }
        })
        .collect();
    let file = pcap(Order::Little, Form::Nanoseconds, 1, &packets);
    let document = replay(&file, &["--max-half-open", "1024"])?;
    let flows = list(&document["flows"]);
    assert_eq!(flows.len(), 5000);
    assert!(flows.iter().all(|flow| flow["conn_state"] == "S0" && flow["orig"]["packets"] == 1));
    let ports: Vec<_> = flows.iter().map(|flow| flow["sport"].as_u64()).collect();
    assert!(ports.is_sorted(), "in the order of their creation");
    let evicted = flows.iter().filter(|flow| flow["end"]["reason"] == "evicted").count();
    // The kernel counts what goes in and out; here each connection was looked for.
    assert_eq!(document["evicted"], evicted);
    assert!((5000 - 1024..5000).contains(&evicted), "{evicted}");
    Ok(())
}

/// How a broken capture fails: exit code 1, this message, and what came before it.
fn assert_broken(bytes: &[u8], flows: usize, message: &str) -> Result<()> {
    let file = File::new(bytes)?;
    let (stdout, stderr, status) = run_tracker(&["replay", file.name()], None)?;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stdout.lines().count(), flows, "{stdout}");
    let said: Vec<_> = stderr.lines().filter(|line| line.starts_with("tracker: ")).collect();
    assert_eq!(said, [format!("tracker: {}: {message}", file.name())]);
    Ok(())
}

#[test]
fn files_that_are_no_captures() -> Result<()> {
    assert_broken(b"", 0, "it is empty: not a capture")?;
    assert_broken(
        b"PK\x03\x04....",
        0,
        "it is not a capture, neither pcap nor pcapng: it begins with 50 4b 03 04",
    )?;
    assert_broken(b"\n", 0, "it is not a capture, neither pcap nor pcapng: it begins with 0a")?;
    assert_broken(
        b"\x1f\x8b\x08\x00 and so on",
        0,
        "it is compressed by gzip: unpack it first, as in `gunzip -c FILE | tracker replay -`",
    )?;
    assert_broken(
        &pcap(Order::Big, Form::Microseconds, 147, &[]),
        0,
        "link type 147 is not understood; these are: 0 (null), 1 (ethernet), 9 (ppp), 12 (raw_ip), 14 (raw_ip), \
         101 (raw_ip), 108 (loop), 113 (linux_sll), 228 (ipv4), 229 (ipv6), 239 (nflog), 276 (linux_sll2)",
    )?;
    let (_, stderr, status) = run_tracker(&["replay", "/nonexistent.pcap"], None)?;
    assert_eq!(status.code(), Some(1));
    assert_eq!(
        stderr,
        "tracker: /nonexistent.pcap: opening it: No such file or directory (os error 2)\n"
    );
    let (_, stderr, status) = run_tracker(&["replay", "/"], None)?;
    assert_eq!((status.code(), stderr.as_str()), (Some(1), "tracker: /: it is a directory\n"));
    Ok(())
}

#[test]
fn pcap_files_that_break_off() -> Result<()> {
    let packets = two_families();
    let file = pcap(Order::Big, Form::Microseconds, 1, &packets);
    let broken = |cut: usize| &file[..file.len() - cut];
    assert_broken(
        &file[..10],
        0,
        "broken at offset 0, after packet 0: the file ends within the header: 10 of 24 bytes are there",
    )?;
    let last = file.len() - packets[12].bytes.len() - 16;
    assert_broken(
        broken(5),
        2,
        &format!(
            "broken at offset {last}, after packet 12: the file ends within a packet: 65 of 70 bytes are there"
        ),
    )?;
    assert_broken(
        broken(60),
        2,
        &format!(
            "broken at offset {last}, after packet 12: the file ends within a packet's header: 10 of 16 bytes are there"
        ),
    )?;
    // A length that says nonsense, in the second record.
    let second = 24 + 16 + packets[0].bytes.len();
    let mut absurd = file.clone();
    absurd[second + 8..second + 12].copy_from_slice(&[0xff, 0, 0, 1]);
    assert_broken(
        &absurd,
        1,
        &format!(
            "broken at offset {second}, after packet 1: a packet of 4278190081 captured bytes, more than any capture \
             holds (1048576)"
        ),
    )
}

#[test]
fn a_broken_capture_s_document_says_so() -> Result<()> {
    let file = pcap(Order::Little, Form::Nanoseconds, 1, &two_families());
    // The last packet is a bare segment of 54 bytes.
    let offset = file.len() - 54 - 16;
    let file = File::new(&file[..file.len() - 1])?;
    let (stdout, _, status) = run_tracker(&["replay", "-o", "json", file.name()], None)?;
    assert_eq!(status.code(), Some(1));
    let document: Value = serde_json::from_str(&stdout)?;
    assert_eq!(list(&document["flows"]).len(), 2);
    let error = "the file ends within a packet: 69 of 70 bytes are there";
    assert_eq!(
        document["capture"]["broken"],
        json!({"after_packet": 12, "offset": offset, "error": error})
    );
    assert_eq!(document["capture"]["packets"], 12);
    Ok(())
}

#[test]
fn pcapng_files_that_contradict_themselves() -> Result<()> {
    let syn = &Talk::v4().c(SYN, 1, 0, 0).packets[0];
    let ng = || Ng::new(Order::Little).interface(1, 0, &[]).enhanced(0, START / 1000, syn);
    let good = ng().file().len();
    let number = |value: u32| value.to_le_bytes();
    let at = |error: &str| format!("broken at offset {good}, after packet 1: {error}");
    let epb = |captured: u32, interface: u32| {
        [number(interface), number(0), number(0), number(captured), number(60), [0; 4]].concat()
    };
    for (file, error) in [
        (
            ng().raw(&[6, 0, 0, 0, 13, 0]),
            "the file ends within a block's header: 6 of 8 bytes are there",
        ),
        (
            ng().raw(&[6, 0, 0, 0, 13, 0, 0, 0]),
            "a block of 13 bytes; there are 12 at least, and always a multiple of 4",
        ),
        (
            ng().raw(&[6, 0, 0, 0, 8, 0, 0, 0]),
            "a block of 8 bytes; there are 12 at least, and always a multiple of 4",
        ),
        (
            ng().raw(&[6, 0, 0, 0, 0, 0, 0, 0xf0]),
            "a block of 4026531840 bytes, more than any packet takes (1179648)",
        ),
        (
            ng().raw(&[6, 0, 0, 0, 64, 0, 0, 0, 1, 2]),
            "the file ends within a block: 10 of 64 bytes are there",
        ),
        (
            ng().raw(&[5, 0, 0, 0, 0, 0, 0, 0xf0, 1, 2]),
            "the file ends within a block: 10 of 4026531840 bytes are there",
        ),
        (
            ng().raw(&[5, 0, 0, 0, 12, 0, 0, 0, 16, 0, 0, 0]),
            "a block that says 12 bytes at its start and 16 at its end",
        ),
        (
            ng().raw(&[6, 0, 0, 0, 32, 0, 0, 0]).raw(&[0; 20]).raw(&[36, 0, 0, 0]),
            "a block that says 32 bytes at its start and 36 at its end",
        ),
        (ng().block(6, &epb(5, 0)), "a block (type 6) whose lengths contradict each other"),
        (ng().block(2, &epb(5, 0)), "a packet of 5 captured bytes in a block that has room for 4"),
        (ng().block(6, &epb(u32::MAX, 0)), "a block (type 6) whose lengths contradict each other"),
        (ng().block(6, &epb(4, 3)), "a packet of interface 3; this section has 1"),
        (ng().block(6, &[0; 8]), "a block (type 6) whose lengths contradict each other"),
        (ng().section(Order::Big).simple(syn), ""),
        (
            ng().raw(&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 1, 2, 3, 4]),
            "a section in no byte order that there is (0x04030201)",
        ),
    ] {
        // After a section of its own a packet has no interface.
        let expected = if error.is_empty() {
            format!(
                "broken at offset {}, after packet 1: a packet of interface 0; this section has 0",
                good + 28
            )
        } else {
            at(error)
        };
        assert_broken(&file.file(), 1, &expected)?;
    }
    Ok(())
}

/// Whatever a file holds, reading it ends: with its last packet, or with an error that says where.
#[test]
fn damaged_files_are_read_without_a_panic() -> Result<()> {
    let ng = Ng::new(Order::Big).interface(113, 60, &[(9, &[6]), (2, b"any")]);
    let packets = two_families();
    let ng = packets.iter().fold(ng, |ng, packet| ng.enhanced(0, START, packet).simple(packet));
    let logged =
        |order| -> Vec<_> { packets.iter().map(|packet| on_nflog(packet, order, None)).collect() };
    let files = [
        ng.file(),
        pcap(Order::Little, Form::Modified, 276, &packets),
        pcap(Order::Big, Form::Modified, 9, &packets),
        pcap(Order::Little, Form::Microseconds, 239, &logged(Order::Little)),
        Ng::new(Order::Big).interface(239, 0, &[]).simple(&logged(Order::Big)[0]).file(),
        fs::read(captures().join("zeek/tcp/retransmit-timeout.pcapng"))?,
        fs::read(captures().join("zeek/tcp/timeout-with-pings.pcap"))?,
    ];
    let mut random = 1u64;
    let mut next = |below: usize| {
        // Knuth's MMIX generator: the same damage every time.
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("31 bits") % below
    };
    let (mut whole, mut broken) = (0, 0);
    for n in 0..20_000 {
        let mut file = files[n % files.len()].clone();
        for _ in 0..=next(4) {
            let at = next(file.len());
            file[at] = [0, 1, 0x7f, 0xff, u8::try_from(next(256))?][next(5)];
        }
        file.truncate(file.len() - next(file.len()) * usize::from(next(4) == 0));
        let Ok(mut capture) = Capture::new(Box::new(std::io::Cursor::new(file))) else { continue };
        loop {
            match capture.next() {
                Ok(Some(packet)) => assert!(packet.wire_len as usize >= packet.frame.len()),
                Ok(None) => break whole += 1,
                Err(error) => {
                    assert_eq!(error.after_packet, capture.packets());
                    assert!(error.offset <= capture.position());
                    break broken += 1;
                }
            }
        }
    }
    assert!(whole > 2000 && broken > 2000, "{whole} {broken}");
    Ok(())
}

#[test]
fn interfaces_of_other_link_types_are_counted() -> Result<()> {
    let syn = &Talk::v4().c(SYN, 1, 0, 0).packets[0];
    let two = Ng::new(Order::Little).interface(1, 0, &[]).interface(147, 0, &[]);
    let mixed = two.clone().enhanced(1, 1, syn).enhanced(0, START / 1000, syn).enhanced(1, 3, syn);
    let document = replay(&mixed.file(), &["-e", "new"])?;
    assert_eq!(
        document["capture"]["link_types"],
        json!([{"link_type": 1, "name": "ethernet", "packets": 1}, {"link_type": 147, "name": null, "packets": 2}])
    );
    assert_eq!(
        counts(&document["packets"]),
        HashMap::from([("tracked", 1), ("unknown_link_type", 2)])
    );
    // Numbers are those of the file.
    assert_eq!(event_names(&document), ["2 NEW"]);
    let file = File::new(&mixed.file())?;
    let (_, stderr, status) = run_tracker(&["replay", file.name()], None)?;
    assert!(
        status.success() && stderr.contains("link_type=147 (not understood, left out) 2"),
        "{stderr}"
    );
    // Nothing else is there.
    let only = two.enhanced(1, 1, syn).file();
    let file = File::new(&only)?;
    let (_, stderr, status) = run_tracker(&["replay", file.name()], None)?;
    assert_eq!(status.code(), Some(1));
    assert!(
        stderr.contains(": link type 147 is not understood; these are: 0 (null), "),
        "{stderr}"
    );
    Ok(())
}

#[test]
fn text_and_lines() -> Result<()> {
    let talk = Talk::v4()
        .open(1000)
        .c(SYN | FIN, 1, 0, 0)
        .close(1000)
        .later(61 * SECOND)
        .port(9)
        .c(SYN, 5, 0, 0);
    let file = File::new(&talk.file())?;
    let (stdout, stderr, status) = run_tracker(&["replay", "-e", "all", file.name()], None)?;
    assert!(status.success(), "{stderr}");
    let starts: Vec<_> =
        stdout.lines().map(|line| line.split(']').next().unwrap_or_default()).collect();
    assert_eq!(
        starts[..7],
        [
            "#1 2023-11-14T22:13:20.000000Z [NEW",
            "#3 2023-11-14T22:13:20.031250Z [ESTABLISHED",
            "#4 2023-11-14T22:13:20.046875Z [VIOLATION",
            "#5 2023-11-14T22:13:20.062500Z [CLOSING",
            "#7 2023-11-14T22:13:20.093750Z [CLOSE",
            starts[5],
            "#8 2023-11-14T22:14:21.109375Z [NEW",
        ]
    );
    assert!(
        starts[5].starts_with("2023-11-14T22:14:20.") && starts[5].ends_with(" [DESTROY"),
        "{stdout}"
    );
    let flows: Vec<_> = stdout.lines().skip(7).collect();
    assert_eq!(
        flows,
        [
            "tcp 6 0 TIME_WAIT/CLOSED src=192.0.2.1 dst=192.0.2.2 sport=40000 dport=80 packets=4 bytes=160 \
             src=192.0.2.2 dst=192.0.2.1 sport=80 dport=40000 packets=2 bytes=80 history=ShAQFf seen=both violations=1 \
             interface=replay rtt_us=31250 end=fin",
            "tcp 6 60 SYN_SENT/LISTEN src=192.0.2.1 dst=192.0.2.2 sport=9 dport=80 packets=1 bytes=40 src=192.0.2.2 \
             dst=192.0.2.1 sport=80 dport=9 packets=0 bytes=0 history=S seen=in violations=0 interface=replay",
        ]
    );
    for line in [
        "format=pcap packets=8",
        "packets fate=illegal 1",
        "packets fate=tracked 7",
        "violations name=syn_fin 1",
        "2 flows shown",
    ] {
        assert!(stderr.contains(line), "{stderr}");
    }
    // The same as records: events first, as `events` writes them, then flows.
    let lines = |options: &[&str]| -> Result<Vec<Value>> {
        let (stdout, _, status) =
            run_tracker(&[&["replay", "-o", "jsonl"], options, &[file.name()]].concat(), None)?;
        assert!(status.success());
        stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let all = lines(&["-e", "all"])?;
    assert!(all.iter().all(|line| line["v"] == 1));
    assert!(all[..7].iter().all(|line| line["event"].is_string()));
    assert!(all[7..].iter().all(|line| line["history"].is_string()) && all.len() == 9);
    let document = replay(&talk.file(), &["-e", "all"])?;
    assert_eq!(json!(all[..7]), document["events"]);
    // Filters, and one half without the other. Only violations are shown unless something else is asked for.
    assert_eq!(lines(&["--sport", "9"])?.len(), 1);
    assert_eq!(lines(&["--sport", "9", "--not"])?.len(), 2);
    assert_eq!(lines(&["--no-flows"])?.len(), 1);
    assert_eq!(lines(&["--no-flows", "-e", "destroy"])?[0]["event"], "DESTROY");
    Ok(())
}

#[test]
fn wrong_use() -> Result<()> {
    for arguments in [
        &["replay"][..],
        &["replay", "-o", "json"],
        &["replay", "--report", "no_such_rule", "a.pcap"],
        &["run", "--interface", "lo", "--report", "no_such_rule"],
    ] {
        let (stdout, stderr, status) = run_tracker(arguments, None)?;
        assert_eq!((status.code(), stdout.as_str()), (Some(2), ""), "{stderr}");
    }
    Ok(())
}

#[test]
fn several_files_are_one_capture() -> Result<()> {
    let packets = two_families();
    // Each packet in one of three files, of other forms, as they come; the second file is of another link type.
    let part =
        |n: usize| -> Vec<Packet> { packets.iter().skip(n).step_by(3).map(Clone::clone).collect() };
    let raw: Vec<_> = part(1).iter().map(|packet| on_link(packet, |_| Vec::new())).collect();
    let ng = Ng::new(Order::Little).interface(1, 0, &[(9, &[9])]);
    let ng = part(2).iter().fold(ng, |ng, packet| ng.enhanced(0, packet.time_ns, packet));
    let files = [
        File::new(&pcap(Order::Little, Form::Nanoseconds, 1, &part(0)))?,
        File::new(&pcap(Order::Big, Form::Nanoseconds, 101, &raw))?,
        File::new(&ng.file())?,
    ];
    let names: Vec<_> = files.iter().map(File::name).collect();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let names = order.map(|n| names[n]);
        let arguments = [&["replay", "-o", "json", "-e", "all"][..], &names].concat();
        let (stdout, stderr, status) = run_tracker(&arguments, None)?;
        ensure!(status.success() && stderr.is_empty(), "{status}: {stderr}");
        let document: Value = serde_json::from_str(&stdout)?;
        assert_two_families(&document, "three files");
        let capture = &document["capture"];
        assert_eq!((&capture["packets"], &capture["format"]), (&json!(13), &json!("mixed")));
        assert_eq!(capture["file"], names.join(", "));
        assert_eq!(
            capture["link_types"],
            json!([{"link_type": 1, "name": "ethernet", "packets": 9}, {"link_type": 101, "name": "raw_ip", "packets": 4}])
        );
        let each = list(&document["captures"]);
        let said: Vec<_> = each.iter().map(|file| (&file["file"], &file["packets"])).collect();
        let right = order.map(|n| (json!(files[n].name()), json!(part(n).len())));
        assert_eq!(said, right.iter().map(|(file, count)| (file, count)).collect::<Vec<_>>());
        // The first packet is the first of the first file, whatever place that has.
        let new = &document["events"][0];
        assert_eq!((&new["event"], &new["packet"]), (&json!("NEW"), &json!(1)));
        assert_eq!(new["file"], files[0].name());
    }
    // One file is as it was.
    let document = replay(&pcap(Order::Little, Form::Nanoseconds, 1, &packets), &["-e", "new"])?;
    assert_eq!(document.get("captures"), None);
    assert_eq!(document["events"][0].get("file"), None);
    // In words.
    let (stdout, stderr, _) = run_tracker(&[&["replay", "-e", "new"][..], &names].concat(), None)?;
    let first = format!("{}#1 2023-11-14T22:13:20.000000Z [NEW] ", names[0]);
    assert!(stdout.starts_with(&first), "{stdout}");
    for (name, rest) in [
        (names[0], "format=pcap packets=5 "),
        (names[1], "format=pcap packets=4 "),
        (names[2], "format=pcapng packets=4 "),
    ] {
        assert!(stderr.contains(&format!("capture {name} {rest}")), "{stderr}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_with_one_of_several_files() -> Result<()> {
    let whole = pcap(Order::Little, Form::Nanoseconds, 1, &two_families());
    let good = File::new(&whole)?;
    let bad = File::new(&whole[..whole.len() - 1])?;
    let unknown = Ng::new(Order::Little).interface(147, 0, &[]).simple(&two_families()[0]);
    let unknown = File::new(&unknown.file())?;
    let files = [bad.name(), good.name(), unknown.name()];
    let (stdout, stderr, status) = run_tracker(&[&["replay"][..], &files].concat(), None)?;
    assert_eq!(status.code(), Some(1));
    // The others were read.
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    let errors: Vec<_> = stderr.lines().filter(|line| line.starts_with("tracker: ")).collect();
    let [error] = errors[..] else { anyhow::bail!("{stderr}") };
    let starts = format!("tracker: {}: broken at offset ", bad.name());
    let then = format!("; {}: link type 147 is not understood; ", unknown.name());
    assert!(error.starts_with(&starts) && error.contains(&then), "{error}");
    // What cannot be read at all ends it before it begins.
    for (files, error) in [
        ([good.name(), "/nonexistent.pcap"], "/nonexistent.pcap: opening it: "),
        (["-", "-"], "standard input (`-`) can be read once only"),
    ] {
        let (stdout, stderr, status) = run_tracker(&[&["replay"][..], &files].concat(), None)?;
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""));
        assert!(stderr.starts_with(&format!("tracker: {error}")), "{stderr}");
    }
    Ok(())
}

#[test]
fn checksums_are_verified_where_asked_for() -> Result<()> {
    let reset = |talk: Talk, wrong: bool| {
        let mut frame = Segment::new(talk.client, talk.server, RST, 2, 0).frame();
        let last = frame.len() - 1;
        // The urgent pointer's last byte: it is in the checksum, and means nothing without URG.
        frame[last] ^= u8::from(wrong);
        talk.frame(frame)
    };
    for ends in [["192.0.2.1:1", "192.0.2.2:2"], ["[2001:db8::1]:1", "[2001:db8::2]:2"]] {
        let talk = || Talk::new(ends[0], ends[1]).open(1);
        let state = |talk: &Talk, options: &[&str]| -> Result<(Value, u64, u64)> {
            let document = replay(&talk.file(), options)?;
            let count = |of: &str| document[of]["bad_checksum"].as_u64().expect("a count");
            Ok((
                document["flows"][0]["orig"]["state"].clone(),
                count("packets"),
                count("violations"),
            ))
        };
        let verify = &["--verify-checksums"];
        assert_eq!(state(&reset(talk(), true), &[])?, (json!("CLOSED"), 0, 0));
        assert_eq!(state(&reset(talk(), true), verify)?, (json!("ESTABLISHED"), 1, 1));
        assert_eq!(state(&reset(talk(), false), verify)?, (json!("CLOSED"), 0, 0));
        // Nobody can tell of a packet that was cut off.
        let mut cut = reset(talk(), true);
        cut.packets[3].wire_len += 10;
        assert_eq!(state(&cut, verify)?, (json!("CLOSED"), 0, 0));
    }
    // Files whose names say what Zeek found in them.
    for (name, wrong) in
        [("ip4-tcp-bad-chksum", 1), ("ip4-tcp-good-chksum", 0), ("ip6-tcp-bad-chksum", 1)]
    {
        let bytes = fs::read(captures().join(format!("zeek/chksums/{name}.pcap")))?;
        let document = replay(&bytes, &["--verify-checksums"])?;
        assert_eq!(document["packets"]["bad_checksum"], wrong, "{name}");
    }
    Ok(())
}

/// The captures that others have made.
fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures")
}

#[test]
fn every_capture_is_read_to_its_last_packet() -> Result<()> {
    let index =
        fs::read_to_string(captures().join("index.tsv")).context("the captures are missing")?;
    let rows: Vec<(&str, u64)> = index
        .lines()
        .skip(1)
        .map(|row| {
            let mut columns = row.split('\t');
            let path = columns.next().context("a path")?;
            Ok((path, columns.nth(2).context("packets")?.parse()?))
        })
        .collect::<Result<_>>()?;
    assert!(rows.len() >= 85, "{}", rows.len());
    let each = |(path, packets): &(&str, u64)| -> Result<()> {
        let document =
            replay(&fs::read(captures().join(path))?, &[]).with_context(|| (*path).to_owned())?;
        assert_eq!(document["capture"]["packets"], *packets, "{path}");
        assert_eq!(document["packets"]["unknown_link_type"], 0, "{path}");
        assert_eq!(document["reports_lost"], 0, "{path}");
        Ok(())
    };
    thread::scope(|scope| {
        let halves = rows
            .chunks(rows.len().div_ceil(2))
            .map(|rows| scope.spawn(|| rows.iter().try_for_each(each)));
        let halves: Vec<_> = halves.collect();
        halves
            .into_iter()
            .try_for_each(|half| half.join().map_err(|_| anyhow::anyhow!("a panic"))?)
    })
}

#[test]
fn durations_are_zeek_s() -> Result<()> {
    let truth = fs::read_to_string(captures().join("ground-truth.jsonl"))
        .context("the captures are missing")?;
    let mut documents: HashMap<String, Value> = HashMap::new();
    let mut compared = 0;
    for line in truth.lines() {
        let row: Value = serde_json::from_str(line)?;
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        // Where both ends have closed, Zeek's duration leaves the last acknowledgment out; so its own words say.
        let history = text("history").to_lowercase();
        if text("system") != "zeek conn.log"
            || text("proto") != "tcp"
            || history.matches('f').count() > 1
        {
            continue;
        }
        let path = text("path");
        if !documents.contains_key(path) {
            documents.insert(path.to_owned(), replay(&fs::read(captures().join(path))?, &[])?);
        }
        let is_it = |flow: &&Value| {
            ["src", "dst"].map(|name| flow[name].as_str().unwrap_or_default())
                == [text("id.orig_h"), text("id.resp_h")]
                && ["sport", "dport"].map(|name| flow[name].to_string())
                    == [text("id.orig_p"), text("id.resp_p")]
                && ["orig", "reply"].map(|name| flow[name]["packets"].to_string())
                    == [text("orig_pkts"), text("resp_pkts")]
        };
        // Zeek ends one-sided connections earlier; what it splits has other numbers of packets.
        let Some(flow) = list(&documents[path]["flows"]).into_iter().find(is_it) else { continue };
        let seconds: f64 = text("duration").parse().unwrap_or(0.0);
        let ours = flow["duration_ns"].as_u64().context("a duration")?;
        #[allow(clippy::cast_precision_loss)] // microseconds are compared
        let difference = (ours as f64 / 1e9 - seconds).abs();
        assert!(difference < 1e-6, "{path} {}: {ours} ns, Zeek {seconds} s", flow["sport"]);
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
    Ok(())
}

#[test]
fn segments_with_both_ends_states() -> Result<()> {
    let talk = Talk::v4().open(1000).close(1000);
    let sizes = Sizes { max_flows: 16, max_half_open: 1024, ring_bytes: 4096 };
    let events = Kind::Segment.bit() | Kind::Established.bit();
    let config = LiveConfig { events, ..LiveConfig::default() };
    let limits = FloodLimits { syn_flood_limit: 0, port_scan_limit: 0 };
    let mut engine = Engine::new(&sizes, Timeouts::default(), config, limits)?;
    let mut capture = Capture::new(Box::new(std::io::Cursor::new(talk.file())))?;
    let mut lines = Vec::new();
    while let Some(packet) = capture.next()? {
        for event in engine.push(&packet)? {
            assert_eq!(event.packet, Some(packet.number));
            lines.push(event.to_string());
        }
    }
    let around: Vec<_> = lines
        .iter()
        .map(|line| {
            line.split_whitespace()
                .filter(|word| !word.starts_with("2023"))
                .take(6)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(
        around[1..],
        [
            "#2 [SEGMENT] before=SYN_SENT/LISTEN after=SYN_SENT/SYN_RECEIVED in=replay direction=reply",
            "#3 [SEGMENT] before=SYN_SENT/SYN_RECEIVED after=ESTABLISHED/ESTABLISHED in=replay direction=orig",
            "#3 [ESTABLISHED] tcp 6 7440 ESTABLISHED/ESTABLISHED",
            "#4 [SEGMENT] before=ESTABLISHED/ESTABLISHED after=FIN_WAIT_1/ESTABLISHED in=replay direction=orig",
            "#5 [SEGMENT] before=FIN_WAIT_1/ESTABLISHED after=FIN_WAIT_2/LAST_ACK in=replay direction=reply",
            "#6 [SEGMENT] before=FIN_WAIT_2/LAST_ACK after=TIME_WAIT/CLOSED in=replay direction=orig",
        ]
    );
    assert!(
        around[0].starts_with("#1 [SEGMENT] ") && around[0].contains(" after=SYN_SENT/LISTEN ")
    );
    assert_eq!(engine.flows()?.count(), 1);
    Ok(())
}

/// Maps of this size that are loaded anywhere on this host.
fn maps_of_size(entries: u32) -> usize {
    aya::maps::loaded_maps()
        .filter_map(Result::ok)
        .filter(|map| map.max_entries() == entries)
        .count()
}

/// `tracker replay -` with a table of a size that nobody else has, after the first packet was pushed through.
fn replay_that_waits(entries: u32) -> Result<(Child, BufReader<std::process::ChildStdout>)> {
    let mut child = Command::new(tracker()?)
        .args(["replay", "-e", "new", "--max-flows", &entries.to_string(), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(&Talk::v4().c(SYN, 1, 0, 0).file())?;
    let mut stdout = BufReader::new(child.stdout.take().context("a pipe")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    assert!(line.starts_with("#1 "), "{line}");
    child.stdin = Some(stdin);
    Ok((child, stdout))
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let entries = 4_000_037;
    let (mut child, mut stdout) = replay_that_waits(entries)?;
    assert_eq!(maps_of_size(entries), 1);
    // Its end of input is its end.
    drop(child.stdin.take());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    assert!(child.wait()?.success() && rest.contains("SYN_SENT/LISTEN"), "{rest}");
    // The kernel frees maps some time after the last descriptor is closed.
    eventually("its maps are gone", || Ok(maps_of_size(entries) == 0))?;
    let (mut child, _) = replay_that_waits(entries)?;
    assert_eq!(maps_of_size(entries), 1);
    child.kill()?;
    child.wait()?;
    eventually("a killed one's maps are gone", || Ok(maps_of_size(entries) == 0))
}

#[test]
fn no_bpf_filesystem_is_needed() -> Result<()> {
    let file = File::new(&Talk::v4().c(SYN, 1, 0, 0).file())?;
    let mut command = Command::new(tracker()?);
    command.args(["replay", file.name()]);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            use nix::{
                mount::{MsFlags, mount},
                sched::{CloneFlags, unshare},
            };
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )?;
            for at in ["/sys/fs/bpf", "/run"] {
                mount(Some("none"), at, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?;
            }
            Ok(())
        });
    }
    let output = command.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn not_root() -> Result<()> {
    // nobody's own copy of the command: the build directory may be root's alone.
    let directory =
        std::env::temp_dir().join(format!("tracker-replay-not-root-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let copy = directory.join("tracker");
    fs::copy(tracker()?, &copy)?;
    let output = Command::new(&copy).args(["replay", "a.pcap"]).uid(65_534).gid(65_534).output()?;
    fs::remove_dir_all(&directory)?;
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains("running the kernel programs on a capture needs root (missing: "),
        "{stderr}"
    );
    Ok(())
}

#[test]
fn a_reader_that_has_enough() -> Result<()> {
    let packets: Vec<_> =
        (0..20_000).map(|n| Talk::v4().port(n + 1).c(SYN, 1, 0, 0).packets.remove(0)).collect();
    let file = File::new(&pcap(Order::Little, Form::Nanoseconds, 1, &packets))?;
    for format in ["text", "json", "jsonl"] {
        let mut child = Command::new(tracker()?)
            .args(["replay", "-e", "new", "-o", format, file.name()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        stdout.read_line(&mut String::new())?;
        drop(stdout);
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8(output.stderr)?;
        assert!(output.status.success() && stderr.is_empty(), "{format}: {stderr}");
    }
    Ok(())
}
