//! The SYN cache decides nothing: a host that caches handshakes and one that gives each a record have the same flows and the
//! same counts, whatever comes.

use proptest::prelude::*;
use tracker_common::{
    config::{InterfaceConfig, LiveConfig},
    counters::{Hook, Tally},
    event::Kind,
    flow::{HalfOpen, OtherOpenings},
    key::{Address, FlowKey, mapped},
    packet::Packet,
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
    simulator::Host,
    sweep::{Outcome, Removal, Tier},
    syn_cache::CacheSettings,
    violation::Rule,
};
use zerocopy::IntoBytes;

const START_NS: u64 = 1_000_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Packet(Shot),
    /// The agent removes a half-open flow, as it is (or was).
    Remove {
        connection: usize,
        is_stale: bool,
    },
    /// Somebody listens to these kinds of events from now on.
    Listen(u32),
}

/// A segment, by where its connection's handshake is.
#[derive(Clone, Debug)]
struct Shot {
    connection: usize,
    from_client: bool,
    flags: u16,
    seq: u32,
    ack: u32,
    payload: u32,
    window: u16,
    options: SynOptions,
    timestamp: Option<u32>,
    fragment: bool,
    further: u32,
    /// The interface's slot, and the hook.
    at: (u32, Hook),
    forwarded: bool,
    after_ns: u64,
    /// The length of its TCP header cannot be right.
    is_malformed: bool,
}

/// An address and a port.
type End = (Address, [u8; 2]);

/// Connections on which segments come: of both families, a client at the high and at the low end, and one in another zone.
fn ends(connection: usize) -> (End, End, u16) {
    let v6 = |last| {
        let mut address = [0x20; 16];
        address[15] = last;
        address
    };
    let (client, server) = ([0x9c, 0x40], [0, 80]);
    match connection {
        0 => ((mapped([192, 0, 2, 1]), client), (mapped([192, 0, 2, 9]), server), 0),
        1 => ((mapped([192, 0, 2, 9]), client), (mapped([192, 0, 2, 1]), server), 0),
        2 => ((v6(1), client), (v6(2), server), 0),
        3 => ((v6(2), client), (v6(1), server), 0),
        _ => ((mapped([192, 0, 2, 1]), client), (mapped([192, 0, 2, 9]), server), 7),
    }
}

fn options() -> impl Strategy<Value = SynOptions> {
    // Window scale, SACK and timestamps, or whatever there is.
    let present = prop_oneof![8 => 0u8..8, 1 => any::<u8>()];
    (any::<u16>(), 0u8..15, present, 0u32..3).prop_map(|(mss, scale, present, timestamp)| {
        SynOptions {
            mss,
            window_scale: if present & SynOptions::HAS_WINDOW_SCALE == 0 { 0 } else { scale },
            present,
            timestamp: Seq(if present & SynOptions::HAS_TIMESTAMPS == 0 { 0 } else { timestamp }),
            timestamp_echo: Seq(0),
        }
    })
}

/// A step of a handshake, mostly the right one.
fn shot() -> impl Strategy<Value = Shot> {
    // Flags, who sends them, and the numbers after the ISNs.
    let usual = prop_oneof![
        6 => Just((0x002u16, true, 0u32, 0u32)),
        6 => Just((0x012, false, 0, 1)),
        6 => Just((0x010, true, 1, 1)),
        2 => Just((0x018, true, 1, 1)),
        1 => Just((0x014, false, 0, 1)),
        1 => Just((0x004, true, 1, 0)),
        1 => Just((0x011, true, 1, 1)),
        1 => Just((0x010, false, 1, 1)),
        1 => Just((0x0c2, true, 0, 0)),
        1 => Just((0x052, false, 0, 1)),
        2 => (0u16..512, any::<bool>(), 0u32..3, 0u32..3),
    ];
    let numbers =
        (prop_oneof![12 => Just(0u32), 1 => 0u32..3], prop_oneof![12 => Just(0u32), 1 => 0u32..3]);
    let payload = prop_oneof![9 => Just(0u32), 1 => 1u32..100];
    let rest = (
        prop_oneof![20 => 1u16..u16::MAX, 1 => Just(0)],
        options(),
        prop::option::of(0u32..4),
        prop::bool::weighted(0.02),
        prop_oneof![30 => Just(0u32), 1 => 1u32..3],
    );
    let place = (
        prop_oneof![12 => Just(0u32), 1 => Just(1)],
        prop_oneof![6 => Just(None), 1 => Just(Some(Hook::Ingress)), 1 => Just(Some(Hook::Egress))],
        prop::bool::weighted(0.1),
        prop_oneof![3 => 0u64..100_000_000, 1 => 0u64..100 * SECOND_NS],
        prop::bool::weighted(0.05),
    );
    (0usize..5, usual, numbers, payload, rest, place).prop_map(
        |(connection, usual, numbers, payload, rest, place)| {
            let ((flags, from_client, seq, ack), (window, options, timestamp, fragment, further)) =
                (usual, rest);
            let (slot, hook, forwarded, after_ns, is_malformed) = place;
            // As at a client's interface.
            let hook = hook.unwrap_or(if from_client { Hook::Egress } else { Hook::Ingress });
            Shot {
                connection,
                from_client,
                flags,
                seq: seq.wrapping_add(numbers.0),
                ack: ack.wrapping_add(numbers.1),
                payload,
                window,
                options,
                timestamp,
                fragment,
                further,
                at: (slot, hook),
                forwarded,
                after_ns,
                is_malformed,
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = prop_oneof![
        4 => Just(0u32),
        1 => Just(Kind::Violation.bit()),
        1 => Just(Kind::New.bit()),
        1 => Just(Kind::Established.bit()),
        1 => Just(Kind::Segment.bit()),
    ];
    prop_oneof![
        40 => shot().prop_map(Step::Packet),
        1 => (0usize..5, any::<bool>()).prop_map(|(connection, is_stale)| Step::Remove { connection, is_stale }),
        1 => kinds.prop_map(Step::Listen),
    ]
}

fn key(connection: usize) -> FlowKey {
    let (client, server, zone) = ends(connection);
    FlowKey::new((&client.0, client.1), (&server.0, server.1), zone).0
}

fn packet(shot: &Shot, isns: [u32; 2]) -> Packet {
    let (client, server, zone) = ends(shot.connection);
    let (source, destination, mine, theirs) = if shot.from_client {
        (client, server, isns[0], isns[1])
    } else {
        (server, client, isns[1], isns[0])
    };
    let (key, from) = FlowKey::new((&source.0, source.1), (&destination.0, destination.1), zone);
    let flags = Flags(shot.flags);
    let is_syn = flags.has(Flags::SYN);
    let options = if is_syn { shot.options } else { SynOptions::default() };
    let timestamp = if is_syn {
        options.has(SynOptions::HAS_TIMESTAMPS).then_some(options.timestamp.0)
    } else {
        shot.timestamp
    };
    let ack = if flags.has(Flags::ACK) { theirs.wrapping_add(shot.ack) } else { shot.ack };
    let segment = Segment {
        seq: Seq(mine.wrapping_add(shot.seq)),
        ack: Seq(ack),
        payload: shot.payload,
        flags,
        window: shot.window,
        urgent: 0,
        options,
        timestamp: Seq(timestamp.unwrap_or(0)),
        has_timestamp: timestamp.is_some(),
        ip_len: 60 + shot.payload,
        fragment: shot.fragment,
        further: shot.further,
        shared: false,
        forwarded: shot.forwarded && shot.at.1 == Hook::Egress,
    };
    Packet { key, from, segment }
}

/// A record's key and its bytes.
fn records<V: IntoBytes + zerocopy::FromBytes>(all: Vec<(FlowKey, V)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records: Vec<_> = all
        .into_iter()
        .map(|(key, mut record)| (key.as_bytes().to_vec(), record.as_mut_bytes().to_vec()))
        .collect();
    records.sort_unstable();
    records
}

/// Half-open records without what stays from a flow before in bytes that mean nothing.
fn half_open(host: &Host) -> Vec<String> {
    let mut all: Vec<_> = host
        .all_half_open()
        .into_iter()
        .map(|(key, record)| {
            format!(
                "{key:?} {:?} {:?}",
                record.flow,
                record.others.each_ref().map(OtherOpenings::count)
            )
        })
        .collect();
    all.sort_unstable();
    all
}

fn counts(host: &Host) -> Vec<u64> {
    let mut counts = Vec::new();
    for slot in 0..2 {
        for hook in Hook::ALL {
            counts.extend(host.packets(slot, hook));
        }
    }
    for rule in Rule::ALL {
        counts.extend(Hook::ALL.map(|hook| host.breaches(*rule, hook)));
    }
    counts.extend(Tally::ALL.iter().map(|tally| host.tallied(*tally)));
    counts
}

fn removal(host: &Host, connection: usize, is_stale: bool) -> Removal {
    let key = key(connection);
    let flow = host.all_half_open().into_iter().find(|(other, _)| *other == key);
    let life = flow.map_or(0, |(_, half_open)| half_open.flow.life().to_word());
    Removal {
        key,
        life: life ^ u64::from(is_stale),
        tier: Tier::HalfOpen as u32,
        ..Removal::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn what_is_cached_is_what_would_have_been_recorded(
        steps in prop::collection::vec(step(), 1..40),
        isns: [u32; 2],
        max_flows in prop_oneof![4 => Just(usize::MAX), 1 => Just(1usize)],
    ) {
        let config = LiveConfig::default();
        let mut plain = Host::new(max_flows, config);
        let mut caching = Host::new(max_flows, config).with_syn_cache(4);
        let mut now_ns = START_NS;
        for step in &steps {
            match step {
                Step::Packet(shot) => {
                    now_ns += shot.after_ns;
                    let packet = packet(shot, isns);
                    let interface = InterfaceConfig { slot: shot.at.0, ..InterfaceConfig::default() };
                    let fates = [&mut plain, &mut caching].map(|host| {
                        host.set_interface(interface);
                        if shot.is_malformed {
                            host.bad_header(&packet, shot.at.1, now_ns, 16)
                        } else {
                            host.packet(&packet, shot.at.1, now_ns)
                        }
                    });
                    prop_assert_eq!(fates[0], fates[1]);
                }
                Step::Remove { connection, is_stale } => {
                    let [mut first, mut second] = [&plain, &caching].map(|host| removal(host, *connection, *is_stale));
                    let [first, second] = [&mut first, &mut second];
                    prop_assert_eq!(first.as_mut_bytes(), second.as_mut_bytes());
                    prop_assert_eq!(plain.remove(first), caching.remove(second));
                    prop_assert_eq!(first.as_mut_bytes(), second.as_mut_bytes());
                }
                Step::Listen(kinds) => {
                    for host in [&mut plain, &mut caching] {
                        host.configure(LiveConfig { events: *kinds, ..config });
                    }
                }
            }
            prop_assert_eq!(half_open(&plain), half_open(&caching));
            prop_assert_eq!(records(plain.all_confirmed()), records(caching.all_confirmed()));
        }
        prop_assert_eq!(counts(&plain), counts(&caching));
        let events = [&mut plain, &mut caching].map(|host| {
            host.take_events().iter().map(|event| format!("{event:?}")).collect::<Vec<_>>()
        });
        prop_assert_eq!(&events[0], &events[1]);
    }
}

fn syn(number: u32) -> Packet {
    let client = (mapped((0x0a00_0000 + number).to_be_bytes()), [0x9c, 0x40]);
    let server = (mapped([192, 0, 2, 9]), [0, 80]);
    let (key, from) = FlowKey::new((&client.0, client.1), (&server.0, server.1), 0);
    let segment = Segment {
        seq: Seq(number),
        flags: Flags::SYN,
        window: 1000,
        ip_len: 40,
        ..Segment::default()
    };
    Packet { key, from, segment }
}

#[test]
fn a_flood_overwrites_the_oldest_of_a_set_and_older_ones_stay() {
    let mut host = Host::new(1, LiveConfig::default()).with_syn_cache(1);
    for (n, at_ns) in (0..20).zip((START_NS..).step_by(20_000_000)) {
        host.packet(&syn(n), Hook::Ingress, at_ns);
    }
    let isns = |host: &Host| {
        let mut isns: Vec<u32> = host
            .all_half_open()
            .iter()
            .map(|(_, HalfOpen { flow, .. })| flow.half(flow.originator()).facts().isn.0)
            .collect();
        isns.sort_unstable();
        isns
    };
    // The last eight of 20 within 400 ms are there.
    assert_eq!(isns(&host), (12..20).collect::<Vec<_>>());
    // Two seconds later none of them is overwritten any more: what comes gets a record.
    host.packet(&syn(20), Hook::Ingress, START_NS + 3 * SECOND_NS);
    assert_eq!(isns(&host), (12..=20).collect::<Vec<_>>());
    // Each is removed by what it was judged by.
    for (key, half_open) in host.all_half_open() {
        let life = half_open.flow.life().to_word();
        let mut removal = Removal { key, life, tier: Tier::HalfOpen as u32, ..Removal::default() };
        assert_eq!(host.remove(&mut removal), Outcome::Removed);
    }
    assert!(host.all_half_open().is_empty());
}

#[test]
fn keys_are_spread_over_sets_as_by_chance() {
    const SETS: u32 = 1 << 17;
    const KEYS: u32 = SETS * 8;
    let settings =
        CacheSettings { key: [0x0123_4567_89ab_cdef, 42], last_set: u64::from(SETS) - 1 };
    let mut counts = vec![0u32; SETS as usize];
    let mut tags = std::collections::HashSet::new();
    for number in 0..KEYS {
        let place = settings.place(&syn(number).key).expect("the cache is used");
        counts[place.set as usize] += 1;
        tags.insert((place.set, place.tag));
        assert!(place.tag != 0 && place.tag < 1 << 40);
    }
    assert_eq!(tags.len(), KEYS as usize, "no two of a set have one tag");
    // Eight a set are expected. 0.4 % of 131,072 sets have more than 16 (Poisson), and none has more than 35 (1 in 10^7).
    let many = counts.iter().filter(|count| **count > 16).count();
    assert!((300..700).contains(&many), "{many} sets have more than 16");
    assert!(counts.iter().all(|count| *count < 35));
    assert_eq!(CacheSettings::default().place(&syn(1).key), None);
}
