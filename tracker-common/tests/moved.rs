//! A flow that one CPU moves to the confirmed table while another has its half-open record: a step at a time, as no
//! kernel can be stopped.

use tracker_common::{
    counters::{Fate, Hook},
    flow::HalfOpen,
    key::FlowKey,
    packet::Packet,
    segment::{Flags, Segment},
    seq::Seq,
    simulator::Host,
    state::State,
    sweep::{Tables, states},
    track::{Place, prepare, settle, track_half_open},
};

const NOW_NS: u64 = 1_000_000_000_000;
const PUSH: Flags = Flags(8);

/// A segment of the client, or of the server.
fn packet(is_client: bool, flags: Flags, seq: u32, ack: u32, payload: u32) -> Packet {
    let (client, server) = ((&[1; 16], [0x9c, 0x40]), (&[2; 16], [0, 80]));
    let (source, destination) = if is_client { (client, server) } else { (server, client) };
    let (key, from) = FlowKey::new(source, destination, 0);
    let segment = Segment {
        flags,
        seq: Seq(seq),
        ack: Seq(ack),
        window: 1000,
        payload,
        ip_len: 40 + payload,
        shared: true,
        ..Segment::default()
    };
    Packet { key, from, segment }
}

fn client(flags: Flags, seq: u32, payload: u32) -> Packet {
    packet(true, flags, seq, 5001, payload)
}

/// A flow that waits for the acknowledgment that completes its handshake.
fn answered() -> Host {
    let mut host = Host::default();
    for packet in [
        packet(true, Flags::SYN, 1000, 0, 0),
        packet(false, Flags::SYN.with(Flags::ACK), 5000, 1001, 0),
    ] {
        assert_eq!(host.packet(&packet, Hook::Ingress, NOW_NS), Fate::Tracked);
    }
    host
}

/// The steps of one CPU that has looked its records up: no confirmed one, and this one.
fn goes_on(host: &Host, found: Option<&HalfOpen>, packet: &Packet) -> (Place, Option<Fate>) {
    let place = prepare(host, None, found, packet, Hook::Ingress, NOW_NS);
    let fate = track_half_open(host, found, packet, Hook::Ingress, NOW_NS, place);
    if fate == Some(Fate::Tracked) {
        settle(host, found, place, false, packet, Hook::Ingress, NOW_NS);
    }
    (place, fate)
}

/// What the confirmed table has of it: states, the client's packets and end, history.
fn confirmed(host: &Host, key: &FlowKey) -> ([State; 2], u64, u32, String) {
    let flow = Tables::confirmed(host, key).expect("it is confirmed");
    let opener = flow.originator();
    let half = flow.half(opener);
    let history = flow.history.display(opener).to_string();
    (states(flow), half.packets.get(), half.facts().end.0, history)
}

#[test]
fn what_is_written_after_the_copy_is_not_lost() {
    let host = answered();
    let ack = client(Flags::ACK, 1001, 0);
    let data = client(Flags::ACK.with(PUSH), 1001, 100);
    let found = Tables::half_open(&host, &ack.key);
    assert_eq!(goes_on(&host, found, &ack), (Place::Existing, Some(Fate::Tracked)));
    assert!(Tables::half_open(&host, &ack.key).is_none(), "it has moved");
    // The other CPU had found the record before.
    assert_eq!(goes_on(&host, found, &data), (Place::Existing, Some(Fate::Tracked)));
    let open = [State::Established; 2];
    assert_eq!(confirmed(&host, &ack.key), (open, 3, 1101, "ShAD".to_owned()));
}

#[test]
fn a_reset_after_the_copy_is_not_lost() {
    for flags in [Flags::RST, Flags::RST.with(Flags::ACK)] {
        let host = answered();
        let (ack, reset) = (client(Flags::ACK, 1001, 0), client(flags, 1001, 0));
        let found = Tables::half_open(&host, &ack.key);
        goes_on(&host, found, &ack);
        assert_eq!(goes_on(&host, found, &reset).1, Some(Fate::Tracked));
        let over = [State::Closed; 2];
        assert_eq!(confirmed(&host, &ack.key), (over, 3, 1001, "ShAR".to_owned()));
    }
}

#[test]
fn what_was_confirmed_between_two_lookups_is_found() {
    let host = answered();
    let ack = client(Flags::ACK, 1001, 0);
    goes_on(&host, Tables::half_open(&host, &ack.key), &ack);
    // The other CPU had asked the confirmed table before, and asks the half-open one now.
    let data = client(Flags::ACK.with(PUSH), 1001, 100);
    assert_eq!(goes_on(&host, None, &data), (Place::Moved, None));
    assert!(Tables::half_open(&host, &ack.key).is_none(), "no second flow begins");
}

#[test]
fn another_connection_is_left_alone() {
    let host = answered();
    let ack = client(Flags::ACK, 1001, 0);
    let found = Tables::half_open(&host, &ack.key).expect("a half-open flow");
    // Another one on the same key that began later, which has been confirmed.
    let other = HalfOpen::default();
    other.start(NOW_NS + 1_000_000, found.flow.originator(), 0);
    let before = format!("{:?}", other.flow);
    other.flow.join(&found.flow);
    assert_eq!(format!("{:?}", other.flow), before);
}
