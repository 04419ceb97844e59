//! Segments of any kind on two connections, near what would be right, with sweeps in between.
//!
//! Promised: no panic. Each packet is counted once, under one fate. There is no more than one flow a table and connection. And where a
//! connection's numbers and clocks begin means nothing: the same segments with other initial numbers have the same fates, states and
//! reports. But 0 itself is not a number like others: it stands for a timestamp that is not there (as in Linux), and for the number of an
//! RST that answers a SYN.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use tracker_common::{
    config::InterfaceConfig,
    counters::{Fate, Hook},
    key::FlowKey,
    packet::Packet,
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
    simulator::Host,
    state::State,
    sweep::{Outcome, Removal, Tables, Tier, states},
    violation::Rule,
};
use tracker_fuzz::{input::Input, reached::reached};

/// Where the numbers of a connection's ends begin, and their clocks.
type Origin = [(u32, u32); 2];

/// Steps of an input at most.
const MOST: usize = 64;

/// The connections' ends: the second one's opener is its high end.
const ENDS: [[([u8; 16], u16); 2]; 2] =
    [[([1; 16], 40_000), ([2; 16], 80)], [([3; 16], 50_000), ([2; 16], 81)]];

/// What was seen of a step.
#[derive(Debug, Eq, PartialEq)]
struct Seen {
    fate: Option<Fate>,
    outcome: Option<Outcome>,
    states: Option<[State; 2]>,
    reports: Vec<(u8, u8)>,
}

fn key(connection: usize, from: usize) -> (FlowKey, tracker_common::key::End) {
    let end = |n: usize| (&ENDS[connection][n].0, ENDS[connection][n].1.to_be_bytes());
    FlowKey::new(end(from), end(1 - from), 7)
}

/// A distance: nearly always small.
fn distance(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        near @ 0..=199 => u32::from(near % 8),
        below @ 200..=215 => u32::from(below - 199).wrapping_neg(),
        216..=239 => u32::from(input.u16()),
        _ => input.u32(),
    }
}

fn packet(input: &mut Input<'_>, what: u8, origin: Origin) -> Packet {
    const COMMON: [u16; 8] = [0x002, 0x012, 0x010, 0x018, 0x011, 0x014, 0x004, 0x010];
    let (from, connection) = (usize::from(what & 1), usize::from(what >> 1 & 1));
    let (key, end) = key(connection, from);
    let kind = input.u8();
    let flags = Flags(if kind & 0x80 == 0 {
        COMMON[usize::from(kind & 7)]
    } else {
        u16::from(input.u8()) | u16::from(kind & 1) << 8
    });
    let (seq, ack) = (distance(input), distance(input));
    let payload = if kind & 0x10 == 0 { 0 } else { u32::from(input.u8()) };
    let has_timestamp = kind & 0x20 != 0;
    let timestamp =
        if has_timestamp { Seq(origin[from].1.wrapping_add(distance(input))) } else { Seq(0) };
    let mut options = SynOptions::default();
    if flags.has(Flags::SYN) && kind & 0x40 != 0 {
        options = SynOptions {
            mss: input.u16(),
            window_scale: input.u8() % 15,
            present: input.u8() & !SynOptions::HAS_TIMESTAMPS,
            ..options
        };
    }
    if flags.has(Flags::SYN) && has_timestamp {
        options.present |= SynOptions::HAS_TIMESTAMPS;
        options.timestamp = timestamp;
    }
    let segment = Segment {
        seq: Seq(origin[from].0.wrapping_add(seq)),
        ack: if flags.has(Flags::ACK) { Seq(origin[1 - from].0.wrapping_add(ack)) } else { Seq(0) },
        payload,
        flags,
        window: input.u16(),
        options,
        timestamp,
        has_timestamp,
        ip_len: 60 + payload,
        fragment: kind & 0x08 != 0 && what & 0x80 != 0,
        ..Segment::default()
    };
    Packet { key, from: end, segment }
}

fn sweep(host: &mut Host, input: &mut Input<'_>, what: u8) -> Option<Outcome> {
    let (key, _) = key(usize::from(what >> 1 & 1), 0);
    let tier = if what & 1 == 0 { Tier::Confirmed } else { Tier::HalfOpen };
    let flow = match tier {
        Tier::Confirmed => host.confirmed(&key)?,
        Tier::HalfOpen => &host.half_open(&key)?.flow,
    };
    let how = input.u8();
    let mut removal = Removal {
        key,
        life: flow.life().to_word() ^ u64::from(how >> 7),
        tier: tier as u32,
        state: u32::from(how >> 1 & 7),
        unconditional: u32::from(how & 1),
        ..Removal::default()
    };
    Some(host.remove(&mut removal))
}

/// Whether a packet has a number that is 0 where that means something.
fn has_zero(Packet { segment, .. }: &Packet) -> bool {
    (segment.has(Flags::RST) && segment.seq.0 == 0)
        || (segment.has_timestamp && segment.timestamp.0 == 0)
}

/// What happens; `None` where a number is 0.
fn run(data: &[u8], origins: [Origin; 2]) -> Option<Vec<Seen>> {
    let mut input = Input::new(data);
    let mut host = Host::default();
    let (mut now_ns, mut packets) = (1_000_000_000_000, 0_u64);
    let mut all = Vec::new();
    let mut used = BTreeSet::new();
    let mut is_usual = true;
    while !input.is_over() && all.len() < MOST {
        let what = input.u8();
        let connection = usize::from(what >> 1 & 1);
        now_ns += match what >> 2 & 3 {
            0 | 1 => 1_000_000,
            2 => u64::from(input.u8()) * 1_000_000_000,
            _ => 0,
        };
        let (mut fate, mut outcome) = (None, None);
        if what >> 4 & 7 == 7 {
            outcome = sweep(&mut host, &mut input, what);
        } else {
            let packet = packet(&mut input, what, origins[connection]);
            let hook =
                if (what & 1 == 0) == (what >> 4 & 7 != 6) { Hook::Ingress } else { Hook::Egress };
            let slot = u32::from(what >> 4 & 7 == 5);
            host.set_interface(InterfaceConfig { slot, zone: 7, ..InterfaceConfig::default() });
            is_usual &= !has_zero(&packet);
            fate = Some(host.packet(&packet, hook, now_ns));
            packets += 1;
            used.insert(connection);
        }
        let (key, _) = key(connection, 0);
        let reports = host.take_events().iter().map(|event| (event.kind, event.rule)).collect();
        all.push(Seen { fate, outcome, states: host.flow(&key).map(states), reports });
    }
    let counted = [0, 1].iter().flat_map(|slot| Hook::ALL.map(|hook| host.packets(*slot, hook)));
    assert_eq!(counted.flatten().sum::<u64>(), packets);
    assert!(host.all_confirmed().len() <= used.len() && host.all_half_open().len() <= used.len());
    for rule in Rule::ALL {
        if Hook::ALL.iter().any(|hook| host.breaches(*rule, *hook) > 0) {
            reached(|| rule.name());
        }
    }
    is_usual.then_some(all)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    // Few segments on from these is 0, or 2^31, or neither.
    let mut origin = || {
        let any = input.u32();
        let half = (any & 1) << 31;
        match any >> 30 {
            0 => any << 2,
            1 => half.wrapping_add(any >> 1 & 0x1_ffff).wrapping_sub(0x1_0000),
            2 => half.wrapping_add(any >> 1 & 0xff).wrapping_sub(0xff),
            _ => half.wrapping_add(any >> 1 & 0xf).wrapping_sub(8),
        }
    };
    let one = [(); 2].map(|()| [(); 2].map(|()| (origin(), origin())));
    let other = [[(0x2800_0000, 0x2900_0000), (0x2a00_0000, 0x2b00_0000)]; 2];
    let steps = input.rest();
    let (Some(one), Some(other)) = (run(steps, one), run(steps, other)) else {
        reached(|| "a number that is 0");
        return;
    };
    for (n, (one, other)) in one.iter().zip(&other).enumerate() {
        assert_eq!(one, other, "step {n}");
        if let Some(states) = one.states {
            reached(|| format!("{}/{}", states[0], states[1]));
        }
        if let Some(outcome) = one.outcome {
            reached(|| format!("a sweep: {outcome:?}"));
        }
    }
});
