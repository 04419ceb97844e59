//! What of a connection nobody could see any more.

use tracker_common::{key::End, segment::Flags, seq::Seq};

use crate::{
    connection::{Connection, Frame},
    variant::Variant,
};

/// What is missing of a connection, with every copy of it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Loss {
    /// The SYN.
    Syn,
    /// The SYN,ACK.
    SynAck,
    /// All of one end's acknowledgments of the other's SYN, or all but those of its FIN or RST.
    Opening,
    /// One end's FIN.
    Fin,
    /// One end's RST.
    Rst,
    /// Every acknowledgment of one end's FIN.
    FinAck,
}

impl Loss {
    const ALL: [Self; 6] =
        [Self::Syn, Self::SynAck, Self::Opening, Self::Fin, Self::Rst, Self::FinAck];

    /// What a variant has lost.
    pub(crate) fn of(connection: &Connection, variant: Variant) -> Vec<Self> {
        let frames = &connection.frames;
        let order = variant.order(frames.len());
        let all: Vec<_> = frames.iter().collect();
        let left: Vec<_> = order.iter().map(|(n, _)| &frames[*n]).collect();
        Self::ALL.into_iter().filter(|loss| loss.has_happened(&all, &left)).collect()
    }

    fn has_happened(self, all: &[&Frame], left: &[&Frame]) -> bool {
        [End::LOW, End::HIGH].into_iter().any(|end| {
            let there = |frames: &[&Frame]| self.is_there(frames, end);
            there(all) && !there(left)
        })
    }

    /// Whether `end` has sent it, or is acknowledged.
    fn is_there(self, frames: &[&Frame], end: End) -> bool {
        let (syn, ack, fin) = (Flags::SYN, Flags::ACK, Flags::FIN);
        let by = |from: End| frames.iter().filter(move |frame| frame.packet.from == from);
        match self {
            Self::Syn => by(end).any(|frame| frame.has(syn) && !frame.has(ack)),
            Self::SynAck => by(end).any(|frame| frame.has(syn.with(ack))),
            Self::Opening => by(end).any(|frame| {
                frame.has(ack) && !frame.has(fin) && !frame.has(Flags::RST) && !frame.has(syn)
            }),
            Self::Fin => by(end).any(|frame| frame.has(fin)),
            Self::Rst => by(end).any(|frame| frame.has(Flags::RST)),
            Self::FinAck => {
                let ends: Vec<Seq> = by(end)
                    .filter(|frame| frame.has(fin))
                    .map(|frame| frame.packet.segment.end())
                    .collect();
                by(end.other()).any(|frame| {
                    let segment = &frame.packet.segment;
                    frame.has(ack) && ends.iter().any(|fin| !segment.ack.before(*fin))
                })
            }
        }
    }
}
