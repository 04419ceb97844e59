//! What of a connection nobody could see any more.

use tracker_common::{key::End, segment::Flags};

use crate::{
    connection::{Connection, Frame},
    variant::{Kind, Variant},
};

/// What is missing of a connection, with every copy of it, or came too late.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Loss {
    /// The first packet is neither SYN nor SYN,ACK: the connection is picked up in its middle.
    Beginning,
    /// The SYN,ACK.
    SynAck,
    /// Everything by which one end shows that the connection is open to it.
    Opening,
    /// One end's FIN.
    Fin,
    /// The first copy of one end's FIN, which acknowledged less than the others.
    FirstFin,
    /// Every acknowledgment of one end's FIN.
    FinAck,
    /// One end's RST.
    Rst,
    /// The first RST, or it changed places with another packet.
    FirstRst,
    /// Two packets changed places that were so far apart that a timeout was over in between.
    Apart,
}

impl Loss {
    const ALL: [Self; 9] = [
        Self::Beginning,
        Self::SynAck,
        Self::Opening,
        Self::Fin,
        Self::FirstFin,
        Self::FinAck,
        Self::Rst,
        Self::FirstRst,
        Self::Apart,
    ];

    /// What a variant has lost.
    pub(crate) fn of(connection: &Connection, variant: Variant) -> Vec<Self> {
        let frames = &connection.frames;
        let all: Vec<_> = frames.iter().collect();
        let left: Vec<_> = variant.order(frames.len()).iter().map(|(n, _)| &frames[*n]).collect();
        let has_happened = |loss: &Self| match loss {
            Self::Beginning => !left[0].has(Flags::SYN),
            Self::FirstRst => is_first_rst_touched(frames, variant),
            Self::Apart => variant.kind == Kind::Swapped && are_apart(&frames[variant.at..]),
            _ => [End::LOW, End::HIGH]
                .into_iter()
                .any(|end| loss.is_there(&all, end) && !loss.is_there(&left, end)),
        };
        Self::ALL.into_iter().filter(has_happened).collect()
    }

    /// Whether `end` has sent it, or is acknowledged.
    fn is_there(self, frames: &[&Frame], end: End) -> bool {
        const OTHERS: Flags = Flags::SYN.with(Flags::FIN).with(Flags::RST);
        let by = |from: End| frames.iter().filter(move |frame| frame.packet.from == from);
        let sent = |flags: Flags| by(end).any(|frame| frame.has(flags));
        let fins = || by(end).filter(|frame| frame.has(Flags::FIN));
        match self {
            Self::SynAck => sent(Flags::SYN.with(Flags::ACK)),
            Self::Opening => by(end).any(|frame| {
                frame.has(Flags::ACK) && frame.packet.segment.flags.only(OTHERS) == Flags(0)
            }),
            Self::Fin => sent(Flags::FIN),
            Self::FirstFin => {
                let ack = |frame: &&&Frame| frame.packet.segment.ack;
                let first = fins().next().map(|frame| ack(&frame));
                first.is_some_and(|first| fins().any(|frame| ack(&frame).after(first)))
            }
            Self::FinAck => {
                let ends: Vec<_> = fins().map(|frame| frame.packet.segment.end()).collect();
                by(end.other()).any(|frame| {
                    let ack = frame.packet.segment.ack;
                    frame.has(Flags::ACK) && ends.iter().any(|fin| !ack.before(*fin))
                })
            }
            Self::Rst => sent(Flags::RST),
            Self::Beginning | Self::FirstRst | Self::Apart => true,
        }
    }
}

fn is_first_rst_touched(frames: &[Frame], variant: Variant) -> bool {
    let Some(first) = frames.iter().position(|frame| frame.has(Flags::RST)) else { return false };
    let count = match variant.kind {
        Kind::LeftOut(count) => count,
        Kind::Swapped => 2,
        Kind::Doubled => 0,
    };
    (variant.at..variant.at + count).contains(&first)
}

/// Whether the shortest timeout lies between the first two.
fn are_apart(frames: &[Frame]) -> bool {
    const SHORTEST_NS: i64 = 10_000_000_000;
    frames[1].timestamp_ns - frames[0].timestamp_ns > SHORTEST_NS
}
