//! The pure functions on the host: the same code that the kernel runs, over tables made of ordinary memory.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ptr,
};

use proptest::prelude::*;
use tracker_common::{
    counters::{Fate, Hook, Tally},
    event::Kind,
    flow::{Facts, Flow, HalfOpen, fact},
    forget::Forget,
    key::{End, FlowKey},
    packet::{LinkLayer, Packet, Parsed, parse},
    segment::{Flags, Segment},
    seq::Seq,
    state::State,
    sweep::{Tables, states},
    track::{Inserted, Report, Surroundings, track},
    violation::{Marks, Rule},
};

/// Tables whose records stay where they are until the host is dropped, as the kernel's do while a program runs.
#[derive(Default)]
struct Host {
    confirmed: RefCell<HashMap<FlowKey, Box<Flow>>>,
    half_open: RefCell<HashMap<FlowKey, Box<HalfOpen>>>,
    deleted: RefCell<Vec<Box<dyn std::any::Any>>>,
    scratch: HalfOpen,
    breaches: Cell<u32>,
    kinds: RefCell<Vec<Kind>>,
}

impl Host {
    fn bury(&self, record: Option<Box<impl std::any::Any>>) {
        if let Some(record) = record {
            self.deleted.borrow_mut().push(record);
        }
    }

    /// The flow of `key`, wherever it is.
    fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.confirmed(key).or_else(|| self.half_open(key).map(|half_open| &half_open.flow))
    }
}

impl Tables for Host {
    fn confirmed(&self, key: &FlowKey) -> Option<&Flow> {
        // SAFETY: boxed, and kept until `self` is dropped.
        self.confirmed.borrow().get(key).map(|flow| unsafe { &*ptr::from_ref(&**flow) })
    }

    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen> {
        // SAFETY: as above.
        self.half_open.borrow().get(key).map(|flow| unsafe { &*ptr::from_ref(&**flow) })
    }

    fn delete_confirmed(&self, key: &FlowKey) {
        let record = self.confirmed.borrow_mut().remove(key);
        self.bury(record);
    }

    fn delete_half_open(&self, key: &FlowKey) {
        let record = self.half_open.borrow_mut().remove(key);
        self.bury(record);
    }
}

impl Forget for Host {}

impl Surroundings for Host {
    fn slot(&self) -> u32 {
        1
    }

    fn scratch(&self) -> Option<&HalfOpen> {
        Some(&self.scratch)
    }

    fn insert_half_open(&self, key: &FlowKey, flow: &HalfOpen, replace: bool) -> Inserted {
        if !replace && self.half_open.borrow().contains_key(key) {
            return Inserted::Exists;
        }
        let record = self.half_open.borrow_mut().insert(*key, Box::new(flow.clone()));
        self.bury(record);
        Inserted::Done
    }

    fn insert_confirmed(&self, key: &FlowKey, flow: &Flow, replace: bool) -> Inserted {
        if !replace && self.confirmed.borrow().contains_key(key) {
            return Inserted::Exists;
        }
        let record = self.confirmed.borrow_mut().insert(*key, Box::new(flow.clone()));
        self.bury(record);
        Inserted::Done
    }

    fn tally(&self, _: Tally) {}

    fn count_breach(&self, _: Rule, _: Hook) {
        self.breaches.set(self.breaches.get() + 1);
    }

    fn count_marks(&self, marks: Marks, _: Hook) {
        self.breaches.set(self.breaches.get() + marks.count());
    }

    fn report(&self, report: &Report<'_>) {
        let reported = Kind::ALL.into_iter().filter(|kind| report.kinds & kind.bit() != 0);
        self.kinds.borrow_mut().extend(reported);
    }
}

/// A segment near what would be right: small offsets from the ISNs, so that much of it is accepted.
#[derive(Clone, Copy, Debug)]
struct Step {
    from_client: bool,
    flags: u16,
    seq: u32,
    ack: u32,
    payload: u32,
    window: u16,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        3 => Just(0x002u16),
        3 => Just(0x012),
        12 => Just(0x010),
        4 => Just(0x018),
        4 => Just(0x011),
        2 => Just(0x014),
        1 => Just(0x004),
        1 => 0u16..512,
    ];
    let offset = prop_oneof![8 => 0u32..4, 4 => 0u32..300, 1 => any::<u32>()];
    (any::<bool>(), flags, offset.clone(), offset, prop_oneof![Just(0u32), 1u32..100], any::<u16>())
        .prop_map(|(from_client, flags, seq, ack, payload, window)| Step {
            from_client,
            flags,
            seq,
            ack,
            payload,
            window,
        })
}

fn packet(step: Step, isns: [u32; 2], swap: bool) -> Packet {
    let (client, server) = ([1; 16], [2; 16]);
    let (client, server) = if swap { (server, client) } else { (client, server) };
    let ports = ([0x9c, 0x40], [0, 80]);
    let ends = ((&client, ports.0), (&server, ports.1));
    let (source, destination) = if step.from_client { ends } else { (ends.1, ends.0) };
    let (key, from) = FlowKey::new(source, destination, 0);
    let [mine, theirs] = if step.from_client { isns } else { [isns[1], isns[0]] };
    let segment = Segment {
        seq: Seq(mine.wrapping_add(step.seq)),
        ack: Seq(theirs.wrapping_add(step.ack)),
        payload: step.payload,
        flags: Flags(step.flags),
        window: step.window,
        ip_len: 40 + step.payload,
        ..Segment::default()
    };
    Packet { key, from, segment }
}

/// What is known after a step.
#[derive(Debug, PartialEq)]
struct After {
    /// States and packets of the client's and the server's end, where there is a flow.
    ends: Option<[(State, u64); 2]>,
    /// Breaches so far.
    breaches: u32,
    /// What became of the packet.
    fate: Fate,
}

fn run(steps: &[Step], isns: [u32; 2], swap: bool) -> Vec<After> {
    let host = Host::default();
    let mut now = 1_000_000_000_000;
    steps
        .iter()
        .map(|step| {
            now += 1000;
            let packet = packet(*step, isns, swap);
            let hook = if step.from_client { Hook::Ingress } else { Hook::Egress };
            let fate = track(&host, &packet, hook, now);
            let client = if step.from_client { packet.from } else { packet.from.other() };
            let ends = host.flow(&packet.key).map(|flow| {
                let states = states(flow);
                [client, client.other()]
                    .map(|end| (states[end.index()], flow.half(end).packets.get()))
            });
            After { ends, breaches: host.breaches.get(), fate }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn shifting_both_isns_changes_nothing(steps in prop::collection::vec(step(), 1..25), a: u32, b: u32) {
        prop_assert_eq!(run(&steps, [1000, 5000], false), run(&steps, [a, b], false));
    }

    #[test]
    fn swapping_the_addresses_mirrors_the_result(steps in prop::collection::vec(step(), 1..25)) {
        prop_assert_eq!(run(&steps, [1000, 5000], false), run(&steps, [1000, 5000], true));
    }

    #[test]
    fn facts_only_grow(steps in prop::collection::vec(step(), 1..25)) {
        let host = Host::default();
        let mut before: Option<(u64, [Facts; 2])> = None;
        for step in steps {
            let packet = packet(step, [1000, 5000], false);
            track(&host, &packet, Hook::Ingress, 1_000_000_000_000);
            let now = host.confirmed(&packet.key).map(|flow| {
                (flow.created_ns(), [End::LOW, End::HIGH].map(|end| flow.half(end).facts()))
            });
            if let (Some((born, old)), Some((still, new))) = (before, now)
                && born == still
                && host.kinds.borrow().iter().filter(|kind| **kind == Kind::Destroy).count() == 0
            {
                for (old, new) in old.iter().zip(&new) {
                    prop_assert_eq!(old.flags & !new.flags, 0, "a fact was lost");
                    prop_assert!(!old.has_end() || !new.end.before(old.end));
                    prop_assert!(!old.has(fact::ACK) || !new.ack.before(old.ack));
                    prop_assert!(!old.has(fact::FIN) || old.fin == new.fin);
                }
            }
            before = now;
        }
    }

    #[test]
    fn no_frame_makes_the_parser_panic(frame in prop::collection::vec(any::<u8>(), 0..200), raw: bool) {
        let link = if raw { LinkLayer::RawIp } else { LinkLayer::Ethernet };
        let _ = parse(&frame[..], link, 0, &mut Parsed::default());
    }

    #[test]
    fn a_frame_is_read_as_etherparse_wrote_it(
        source: [u8; 4],
        destination: [u8; 4],
        ports: (u16, u16),
        seq: u32,
        window: u16,
        payload in prop::collection::vec(any::<u8>(), 0..100),
        padding in 0usize..20,
    ) {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4(source, destination, 64)
            .tcp(ports.0, ports.1, seq, window)
            .ack(7)
            .write(&mut frame, &payload)
            .expect("it fits");
        frame.resize(frame.len() + padding, 0);
        let mut parsed = Parsed::default();
        prop_assert_eq!(parse(&frame[..], LinkLayer::Ethernet, 3, &mut parsed), Ok(()));
        let Packet { key, from, segment } = parsed.packet;
        prop_assert_eq!((key.port(from), key.port(from.other()), key.zone), (ports.0, ports.1, 3));
        prop_assert_eq!(&key.addresses[from.index()][12..], &source[..]);
        prop_assert_eq!((segment.seq, segment.ack, segment.window), (Seq(seq), Seq(7), window));
        prop_assert_eq!(segment.payload as usize, payload.len());
        prop_assert_eq!(segment.flags, Flags::ACK);
    }
}
