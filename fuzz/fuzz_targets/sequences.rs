//! Two ends that follow RFC 9293, a cable that loses, doubles and reorders, and the tracker at a tap in its middle.
//!
//! Promised: once everything has arrived, the tracker shows both ends in the states that they are in. No segment of theirs breaks a
//! rule that is a violation. Each segment is counted once, under one fate. All of this whatever the cable does, but for two kinds of
//! connections: one that an RST ends, where segments from before the RST may pass the tap behind it; and one that both ends open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracker_common::{
    counters::{Fate, Hook},
    key::FlowKey,
    packet::Packet,
    segment::{Flags, Segment},
    seq::Seq,
    simulator::Host,
    state,
    sweep::states,
    violation::{Rule, Severity},
};
use tracker_fuzz::{
    endpoint::{Endpoint, RST, SYN, State},
    input::Input,
    network::{Half, Network, Sent},
    reached::reached,
};

/// The tracker at the tap.
struct Tap {
    host: Host,
    now_ns: u64,
    seen: u64,
    /// An RST has passed.
    was_reset: bool,
    /// A SYN of each end has passed.
    opened: [bool; 2],
    /// What was seen, for whoever reads why it failed.
    log: Vec<String>,
}

const ADDRESSES: [([u8; 16], u16); 2] = [([1; 16], 40_000), ([2; 16], 443)];

impl Tap {
    fn see(&mut self, Sent { from, segment }: Sent) {
        let end = |n: usize| (&ADDRESSES[n].0, ADDRESSES[n].1.to_be_bytes());
        let (key, end) = FlowKey::new(end(from), end(1 - from), 0);
        let packet = Packet {
            key,
            from: end,
            segment: Segment {
                seq: Seq(segment.seq),
                ack: Seq(segment.ack),
                payload: segment.len,
                flags: Flags(segment.flags.into()),
                window: segment.window,
                ip_len: 60 + segment.len,
                ..Segment::default()
            },
        };
        let hook = if from == 0 { Hook::Egress } else { Hook::Ingress };
        self.now_ns += 1_000_000;
        self.seen += 1;
        self.was_reset |= segment.flags & RST != 0;
        self.opened[from] |= segment.flags == SYN;
        let fate = self.host.packet(&packet, hook, self.now_ns);
        assert_eq!(fate, Fate::Tracked, "{segment:?}");
        let shown = self.states().map_or([""; 2], |states| states.map(state::State::name));
        self.log.push(format!("{from} {segment:?} {shown:?}"));
    }

    /// Panics where a rule was broken that is a violation.
    fn check_lawful(&self, is_wild: bool) {
        for rule in Rule::ALL {
            let count: u64 = Hook::ALL.iter().map(|hook| self.host.breaches(*rule, *hook)).sum();
            // Where both ends open, a SYN,ACK may overtake its SYN.
            let may_be_overtaken =
                is_wild && self.opened == [true; 2] && *rule == Rule::SynAckWrongDir;
            assert!(
                count == 0 || rule.severity() != Severity::Violation || may_be_overtaken,
                "lawful segments are {}:\n{}",
                rule.name(),
                self.log.join("\n")
            );
        }
    }

    fn states(&self) -> Option<[state::State; 2]> {
        let end = |n: usize| (&ADDRESSES[n].0, ADDRESSES[n].1.to_be_bytes());
        let (key, _) = FlowKey::new(end(0), end(1), 0);
        self.host.flow(&key).map(states)
    }
}

fn act(network: &mut Network, tap: &mut Tap, step: u8) {
    let end = usize::from(step & 1);
    let half = if step & 2 == 0 { Half::Before } else { Half::Behind };
    match step >> 2 {
        0..=23 => {
            if let Some(sent) = network.forward(end, half, false) {
                tap.see(sent);
            }
        }
        24 | 25 => {
            if let Some(sent) = network.forward(end, half, true) {
                tap.see(sent);
            }
        }
        26 => network.lose(end, half),
        27 => network.double(end, half),
        _ if network.is_full() => {}
        28..=31 => network.retransmit(end),
        32..=35 => network.ends[end].open(),
        36..=39 => network.ends[end].abort(),
        40..=45 => network.ends[end].close(),
        size => network.ends[end]
            .write(u32::from(size - 45) * if half == Half::Before { 1 } else { 97 }),
    }
    network.collect();
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let listens = input.u8();
    let [one, other] =
        [1, 2].map(|bit| Endpoint::new(listens & bit != 0, input.u32(), input.u16().max(1)));
    let mut network = Network::new([one, other]);
    let mut tap = Tap {
        host: Host::default(),
        now_ns: 1_000_000_000_000,
        seen: 0,
        was_reset: false,
        opened: [false; 2],
        log: Vec::new(),
    };
    for step in input.rest().iter().take(400) {
        act(&mut network, &mut tap, *step);
    }
    let settled = network.settle(|sent| tap.see(sent));
    assert!(settled, "the ends do not come to rest:\n{}", tap.log.join("\n"));

    let counted: u64 = Hook::ALL.iter().flat_map(|hook| tap.host.packets(0, *hook)).sum();
    assert_eq!(counted, tap.seen);
    let Some(shown) = tap.states() else {
        assert_eq!(tap.seen, 0);
        return;
    };
    let ends = [network.ends[0].state, network.ends[1].state];
    if network.is_wild && tap.was_reset {
        return;
    }
    tap.check_lawful(network.is_wild);
    reached(|| format!("{}/{}", ends[0].name(), ends[1].name()));
    // Where the first copy of a FIN is lost before the tap, a simultaneous close looks like one after the other.
    let may_be_orderly = network.is_wild && ends == [State::TimeWait; 2];
    for (shown, end) in shown.iter().zip(ends) {
        // A listener that an RST has sent back to LISTEN has nothing of this connection any more.
        let is_closed = end == State::Listen || (may_be_orderly && end == State::TimeWait);
        let is_it = shown.name() == end.name() || (is_closed && *shown == state::State::Closed);
        assert!(is_it, "{shown:?} is shown, and the ends are {ends:?}:\n{}", tap.log.join("\n"));
    }
});
