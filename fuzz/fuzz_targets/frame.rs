//! Frames of any kind, whole or cut.
//!
//! Promised: no frame makes the parser panic. It reads what a plain model reads, and where it reads nothing both have the same
//! reason. What a capture has cut off changes no number of a segment that is read. A host that tracks the frame counts it once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracker_common::{
    config::InterfaceConfig,
    counters::Hook,
    packet::{Packet, Parsed, parse},
    segment::{Flags, SynOptions},
    simulator::{Captured, Host},
};
use tracker_fuzz::{
    frame::{Tcp, read},
    input::Input,
    reached::reached,
};

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let kind = input.u8();
    let beyond = usize::from(input.u16()) << (kind >> 4 & 3);
    let bytes = input.rest();
    let wire_len = bytes.len() + if kind & 2 == 0 { 0 } else { beyond };
    let interface = InterfaceConfig { raw_ip: u16::from(kind & 1), ..InterfaceConfig::default() };
    let captured = |len: usize| Captured { bytes: &bytes[..len], wire_len };
    let parsed = |len: usize| {
        let mut parsed = Parsed::default();
        parse(&captured(len), interface.link(), 0, &mut parsed).map(|()| parsed.packet)
    };

    let whole = parsed(bytes.len());
    let model = read(bytes, wire_len, kind & 1 != 0);
    match (&whole, &model) {
        (Ok(packet), Ok(tcp)) => {
            compare(packet, tcp);
            reached(|| "a segment");
        }
        (Err(why), Err(expected)) => {
            assert_eq!(format!("{why:?}"), *expected);
            reached(|| *expected);
        }
        _ => panic!("{whole:?}, and the model reads {model:?}"),
    }
    if let (Ok(whole), cut @ Ok(_)) = (&whole, parsed(beyond % (bytes.len() + 1))) {
        let mut cut = cut.expect("it is Ok");
        reached(|| "a segment that is cut off");
        // Options and timestamps may be behind the cut.
        cut.segment.options = whole.segment.options;
        cut.segment.timestamp = whole.segment.timestamp;
        cut.segment.has_timestamp = whole.segment.has_timestamp;
        assert_eq!(cut, *whole);
    }

    let mut host = Host::default();
    let fate = host.frame(&captured(bytes.len()), interface, Hook::Ingress, 1_000_000_000);
    let counted = host.packets(0, Hook::Ingress);
    assert_eq!((counted[fate as usize], counted.iter().sum::<u64>()), (1, 1));
    let _ = parse(bytes, interface.link(), 0, &mut Parsed::default());
    // A length on the wire that is less than what was captured makes no sense, and no panic.
    let wrong = Captured { bytes, wire_len: beyond };
    let _ = parse(&wrong, interface.link(), 0, &mut Parsed::default());
});

fn compare(packet: &Packet, tcp: &Tcp) {
    let segment = &packet.segment;
    let (from, to) = (packet.from, packet.from.other());
    let end =
        |end: tracker_common::key::End| (packet.key.addresses[end.index()], packet.key.port(end));
    // An end that is its own peer may be either.
    assert_eq!((end(from), end(to)), (tcp.source, tcp.destination));
    assert_eq!(
        (segment.seq.0, segment.ack.0, segment.flags.0, segment.window, segment.urgent),
        (tcp.seq, tcp.ack, tcp.flags, tcp.window, tcp.urgent)
    );
    assert_eq!(
        (segment.payload as usize, segment.ip_len as usize, segment.fragment),
        (tcp.payload, tcp.ip_len, tcp.is_fragment)
    );
    let has_syn = segment.has(Flags::SYN);
    match &tcp.options {
        None if has_syn => assert_eq!(segment.options, SynOptions::UNKNOWN),
        Some(options) if has_syn => {
            let timestamps = tracker_fuzz::frame::options(options).timestamps;
            assert_eq!(segment.has_timestamp, timestamps.is_some());
            assert_eq!(segment.timestamp.0, timestamps.map_or(0, |[value, _]| value));
        }
        _ => assert_eq!(segment.options, SynOptions::default()),
    }
    if let Some([1, 1, 8, 10, a, b, c, d, ..]) = tcp.options.as_deref()
        && !has_syn
        && tcp.options.as_ref().is_some_and(|options| options.len() >= 12)
    {
        assert!(segment.has_timestamp);
        assert_eq!(segment.timestamp.0, u32::from_be_bytes([*a, *b, *c, *d]));
    }
}
