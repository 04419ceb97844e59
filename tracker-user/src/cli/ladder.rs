//! Ladders: a connection drawn as the diagrams of RFC 9293 draw it, one segment a line between both ends' states.

mod draw;
mod entry;
mod numbers;
mod times;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tracker_common::{segment::Flags, state::State, violation::Rule};

use self::numbers::Numbers;
pub use self::{
    draw::{Header, Layout},
    entry::{Breach, End, Entry, Options, Segment},
    times::{TimeOptions, Times},
};
use crate::model::{
    event::{
        Event,
        parts::{SegmentView, States, ViolationView},
    },
    record::{Direction, Record},
};

/// One connection's diagram as far as it goes: what the next segment's line must know of those before it.
#[derive(Clone, Debug, Default)]
pub struct Ladder {
    /// The originator's and the responder's.
    numbers: [Option<Numbers>; 2],
    shown: Option<[State; 2]>,
    last: Option<(u64, SegmentId)>,
}

/// Tells a segment from another at the same nanosecond.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct SegmentId {
    from_reply: bool,
    seq: u32,
    flags: Flags,
}

impl Ladder {
    /// What `event` adds to the diagram of the connection that it is about; nothing where it is about none.
    ///
    /// # Errors
    ///
    /// Names that this version does not know.
    pub fn add(&mut self, event: &Event) -> Result<Vec<Entry>> {
        let Some(flow) = &event.flow else { return Ok(Vec::new()) };
        if let Some(end) = &event.end {
            return Ok(vec![Entry::End(Box::new(End {
                packet: event.packet,
                at_us: micros(event.time, flow),
                reason: end.reason.clone(),
                timeout_state: end.timeout_state.clone(),
                conn_state: flow.conn_state.to_string(),
            }))]);
        }
        let Some(segment) = &event.segment else {
            // What the sweep has found in the flow.
            let breach = event.violation.as_ref().map(|found| self.breach(None, found));
            return Ok(breach.transpose()?.map(Entry::Breach).into_iter().collect());
        };
        let mut entries = Vec::new();
        if let Some(around) = &event.states {
            entries.push(self.segment(event, flow, segment, &around.after)?);
        } else if let Some(violation) = &event.violation {
            // A header that no receiver would look at is no segment of the flow: only its breach tells of it.
            if self.last != Some((event.time_ns, SegmentId::new(segment))) {
                entries.push(self.segment(event, flow, segment, &violation.after)?);
            }
            entries.push(Entry::Breach(self.breach(Some(segment), violation)?));
        }
        Ok(entries)
    }

    /// The numbers that the originator's and the responder's are relative to.
    #[must_use]
    pub fn bases(&self) -> [Option<u32>; 2] {
        self.numbers.map(|numbers| numbers.map(|numbers| numbers.base()))
    }

    fn segment(
        &mut self,
        event: &Event,
        flow: &Record,
        segment: &SegmentView,
        after: &States,
    ) -> Result<Entry> {
        let id = SegmentId::new(segment);
        let SegmentId { from_reply, flags, .. } = id;
        let (mine, theirs) = (usize::from(from_reply), usize::from(!from_reply));
        let directions = [&flow.orig, &flow.reply];
        let acks = flags.has(Flags::ACK);
        for (end, direction) in directions.into_iter().enumerate() {
            // The base for an end that has shown no SYN: the first of its numbers that any segment shows.
            let heard = if end == mine {
                Some(segment.seq)
            } else {
                acks.then(|| segment.ack.wrapping_sub(u32::from(flags.has(Flags::SYN))))
            };
            follow(&mut self.numbers[end], direction, heard);
        }
        let relative = |end: usize, number: u32| {
            self.numbers[end].map_or_else(|| number.into(), |numbers| numbers.relative(number))
        };
        let after = states(after)?;
        let shown = self.shown.replace(after);
        self.last = Some((event.time_ns, id));
        let is_syn = flags.has(Flags::SYN);
        let options = is_syn && directions[mine].isn == Some(segment.seq);
        Ok(Entry::Segment(Segment {
            packet: event.packet,
            at_us: micros(event.time, flow),
            from_reply,
            flags,
            seq: relative(mine, segment.seq),
            isn: is_syn.then_some(segment.seq),
            ack: acks.then(|| relative(theirs, segment.ack)),
            payload: segment.payload,
            window: u32::from(segment.window) << if is_syn { 0 } else { scale(directions, mine) },
            options: options.then(|| Options::of(directions[mine])),
            states: [0, 1].map(|end| {
                let is_new = shown.is_none_or(|shown| shown[end] != after[end]);
                is_new.then_some(after[end])
            }),
        }))
    }

    fn breach(&self, segment: Option<&SegmentView>, violation: &ViolationView) -> Result<Breach> {
        let rule = Rule::from_name(&violation.name)
            .with_context(|| format!("an unknown rule `{}`", violation.name))?;
        let from_reply = segment.is_some_and(|segment| SegmentId::new(segment).from_reply);
        let about = match space(rule) {
            Space::Sender => self.numbers[usize::from(from_reply)],
            Space::Receiver => self.numbers[usize::from(!from_reply)],
            Space::Other => None,
        };
        let relative = |number: u32| {
            about.map_or_else(|| number.into(), |numbers: Numbers| numbers.relative(number))
        };
        let numbers =
            violation.expected.as_ref().zip(violation.actual).map(|(expected, actual)| {
                (relative(expected.low), relative(expected.high), relative(actual))
            });
        Ok(Breach { rule, numbers })
    }
}

impl SegmentId {
    fn new(segment: &SegmentView) -> Self {
        let named = |name: &str| segment.flags.split(',').any(|flag| flag == name);
        let flags = Flags::NAMES
            .into_iter()
            .filter(|(_, name)| named(name))
            .fold(Flags::default(), |flags, (flag, _)| flags.with(flag));
        Self { from_reply: segment.direction == "reply", seq: segment.seq, flags }
    }
}

impl Options {
    fn of(direction: &Direction) -> Self {
        let Direction { mss, wscale, sack, timestamps, .. } = *direction;
        Self { mss, wscale, sack, timestamps }
    }
}

/// Takes over what a record says of an end's numbers.
fn follow(numbers: &mut Option<Numbers>, direction: &Direction, heard: Option<u32>) {
    let known = numbers.map(|numbers| numbers.base());
    // Which of several SYNs counts may be decided late.
    if let Some(base) = direction.isn.or(known).or(heard)
        && known != Some(base)
    {
        *numbers = Some(first_numbers(base, direction));
    }
    if let (Some(numbers), Some(highest)) = (numbers, direction.seq) {
        numbers.reach(highest);
    }
}

fn first_numbers(base: u32, direction: &Direction) -> Numbers {
    match (direction.seq, direction.stream_bytes) {
        // Packets that were seen vouch for the bytes.
        (Some(highest), Some(bytes)) if direction.isn.is_some() && bytes <= direction.bytes => {
            Numbers::late(base, highest, bytes)
        }
        _ => Numbers::new(base),
    }
}

/// Whose numbers a rule's are.
enum Space {
    /// Sequence numbers of the segment's sender.
    Sender,
    /// Those of its receiver, which it acknowledges.
    Receiver,
    /// Bytes, times, or how often.
    Other,
}

fn space(rule: Rule) -> Space {
    match rule {
        Rule::SynInTimeWait
        | Rule::SynInEstablished
        | Rule::SynWrongDir
        | Rule::SynFloodTuple
        | Rule::SynIsnChange
        | Rule::SynAckInEstablished
        | Rule::SynAckIsnChange
        | Rule::SynAckAnew
        | Rule::SynAckWrongDir
        | Rule::DataBeforeEstablished
        | Rule::HandshakeAckBadSeq
        | Rule::FinOutOfWindow
        | Rule::SeqOutOfWindow
        | Rule::DataAfterFin
        | Rule::DataAfterRst
        | Rule::TimeWaitAssassination
        | Rule::RstInexact
        | Rule::RstOutOfWindow => Space::Sender,
        Rule::SynAckBadAck
        | Rule::OldIncarnationSynAck
        | Rule::AckWrongDir
        | Rule::HandshakeAckBadAck
        | Rule::HandshakeBadSeqAck
        | Rule::FinBadAck
        | Rule::CloseBadAck
        | Rule::AckUnseenData
        | Rule::RstBadAckSynSent => Space::Receiver,
        _ => Space::Other,
    }
}

/// The scale of one end's windows: both must have offered one (RFC 7323 section 2.2).
fn scale(directions: [&Direction; 2], mine: usize) -> u8 {
    match directions.map(|direction| direction.wscale) {
        scales @ [Some(_), Some(_)] => scales[mine].unwrap_or_default().min(14),
        _ => 0,
    }
}

fn states(names: &States) -> Result<[State; 2]> {
    let state = |name: &str| {
        let known = State::ALL.into_iter().find(|state| state.name() == name);
        known.with_context(|| format!("an unknown state `{name}`"))
    };
    Ok([state(&names.orig)?, state(&names.reply)?])
}

fn micros(time: Timestamp, flow: &Record) -> i64 {
    let ns = time.as_nanosecond() - flow.created.as_nanosecond();
    i64::try_from(ns.div_euclid(1000)).unwrap_or(i64::MAX)
}
