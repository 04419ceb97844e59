//! Which flows come first.

use clap::ValueEnum;
use tracker_common::{
    flow::{Flow, fact},
    key::End,
    sweep::states,
};

use super::sampler::Rate;

/// What flows are sorted by, the greatest first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Key {
    /// Bytes per second of both ends
    #[default]
    Rate,
    /// Packets per second of both ends
    PacketRate,
    /// Bytes of both ends
    Bytes,
    /// Packets of both ends
    Packets,
    /// Number of violations
    Violations,
    /// Time of the first packet: the newest first
    Newest,
    /// Round trip of the handshake
    Rtt,
    /// State of the end that opened it, then of the other one, in the order in which a connection has them
    State,
}

impl Key {
    /// The next one, or the one before.
    pub(super) fn beside(self, forward: bool) -> Self {
        let all = Self::value_variants();
        let here = all.iter().position(|key| *key == self).unwrap_or_default();
        let step = if forward { 1 } else { all.len() - 1 };
        all[(here + step) % all.len()]
    }

    /// Its name, as the option has it.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The number that flows are compared by.
    pub(super) fn rank(self, flow: &Flow, rate: Option<Rate>) -> u64 {
        let halves = || [End::LOW, End::HIGH].map(|end| flow.half(end));
        match self {
            Self::Rate => rate.map_or(0, |rate| rate.bytes),
            Self::PacketRate => rate.map_or(0, |rate| rate.packets),
            Self::Bytes => halves().iter().map(|half| half.bytes.get()).sum(),
            Self::Packets => halves().iter().map(|half| half.packets.get()).sum(),
            Self::Violations => flow.violations.get().into(),
            Self::Newest => flow.created_ns(),
            Self::Rtt => {
                let is_known = flow.half(flow.originator()).facts().has(fact::SYN);
                if is_known { flow.handshake_us.get().into() } else { 0 }
            }
            Self::State => {
                let [orig, reply] = states(flow).map(|state| state as u64);
                orig << 8 | reply
            }
        }
    }
}
