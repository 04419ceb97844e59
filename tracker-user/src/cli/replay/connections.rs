//! What a replay knows of its connections beyond what their records say: exact times, when each is due, and how it
//! ended.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, hash_map::Entry},
    mem,
};

use tracker_common::{event::Reason, flow::Flow, key::FlowKey, state::State, sweep::Timeouts};

use crate::{
    agent::sweeper::deadline_ns,
    model::flood_detection::{Subject, subjects},
};

/// One connection of a capture: the moment of its first packet on the kernel programs' clock, which no two share.
pub(super) type Id = u64;

/// When the first and the last packet of a connection were captured, nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Span {
    pub(super) first_ns: i64,
    pub(super) last_ns: i64,
}

impl Span {
    pub(super) fn duration_ns(self) -> u64 {
        self.last_ns.abs_diff(self.first_ns)
    }

    fn extend(&mut self, timestamp_ns: i64) {
        self.first_ns = self.first_ns.min(timestamp_ns);
        self.last_ns = self.last_ns.max(timestamp_ns);
    }
}

pub(super) struct Connection {
    pub(super) key: FlowKey,
    /// Its record after its last packet.
    pub(super) flow: Flow,
    pub(super) span: Span,
    /// When it is due, if nothing renews it.
    deadline_ns: u64,
    /// When it is looked at: its place in the queue. Not after `deadline_ns`.
    queued_ns: u64,
}

/// Why a connection's record is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gone {
    /// It ended.
    Ended(Reason, State),
    /// Newer unfinished ones pushed it out of the half-open table.
    Evicted,
}

pub(super) struct Ended {
    pub(super) id: Id,
    pub(super) key: FlowKey,
    /// Its record as it was last.
    pub(super) flow: Flow,
    pub(super) span: Span,
    pub(super) gone: Gone,
    /// When, on the kernel programs' clock.
    pub(super) at_ns: u64,
}

#[derive(Default)]
pub(super) struct Connections {
    live: HashMap<Id, Connection>,
    /// When each is looked at. One that was renewed meanwhile is queued again then, not with each of its packets; an
    /// entry that is not its connection's any more is passed over.
    queue: BinaryHeap<Reverse<(u64, Id)>>,
    ended: Vec<Ended>,
    /// How many of those that live speak against each subject of the flood detector.
    attempts: HashMap<Subject, u32>,
}

impl Connections {
    /// A packet captured at `timestamp_ns`, at `now_ns` of the kernel programs' clock, was credited to the connection;
    /// `flow` is its record now.
    pub(super) fn saw(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        timestamp_ns: i64,
        now_ns: u64,
        timeouts: &Timeouts,
    ) {
        let id = flow.created_ns();
        let deadline_ns = deadline_ns(flow, timeouts, now_ns);
        let span = Span { first_ns: timestamp_ns, last_ns: timestamp_ns };
        let connection = self.live.entry(id).or_insert_with(|| Connection {
            key: *key,
            flow: Flow::default(),
            span,
            deadline_ns,
            queued_ns: u64::MAX,
        });
        for subject in subjects(key, flow) {
            *self.attempts.entry(subject).or_default() += 1;
        }
        retract(&mut self.attempts, key, &connection.flow);
        connection.flow.clone_from(flow);
        connection.span.extend(timestamp_ns);
        connection.deadline_ns = deadline_ns;
        if deadline_ns < connection.queued_ns {
            connection.queued_ns = deadline_ns;
            self.queue.push(Reverse((deadline_ns, id)));
        }
    }

    pub(super) fn get(&self, id: Id) -> Option<&Connection> {
        self.live.get(&id)
    }

    /// The next connections that are due at `now_ns`, the earliest first, `most` of them at most.
    pub(super) fn due(&mut self, now_ns: u64, most: usize) -> Vec<(u64, Id)> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some(Reverse((queued_ns, id))) = self.queue.peek().copied()
            && queued_ns <= now_ns
        {
            self.queue.pop();
            let Some(connection) = self.live.get_mut(&id) else { continue };
            if connection.queued_ns != queued_ns {
                continue;
            }
            if connection.deadline_ns > queued_ns {
                connection.queued_ns = connection.deadline_ns;
                self.queue.push(Reverse((connection.deadline_ns, id)));
            } else {
                due.push((queued_ns, id));
            }
        }
        due
    }

    /// The connection's record is gone; it was `flow` at last.
    pub(super) fn end(&mut self, id: Id, flow: Option<Flow>, gone: Gone, at_ns: u64) {
        let Some(connection) = self.live.remove(&id) else { return };
        retract(&mut self.attempts, &connection.key, &connection.flow);
        let Connection { key, span, .. } = connection;
        let flow = flow.unwrap_or(connection.flow);
        self.ended.push(Ended { id, key, flow, span, gone, at_ns });
    }

    /// How many flows at most speak against each subject of the flood detector: those that newer ones pushed out of the table are
    /// not known.
    pub(super) fn attempts(&self) -> &HashMap<Subject, u32> {
        &self.attempts
    }

    /// Those whose record is gone, and that were not taken.
    pub(super) fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// Takes them.
    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        mem::take(&mut self.ended)
    }

    /// Those whose record is not known to be gone.
    pub(super) fn live(&self) -> impl Iterator<Item = (Id, &Connection)> {
        self.live.iter().map(|(id, connection)| (*id, connection))
    }
}

/// Takes back what a connection said while its record was `flow`.
fn retract(attempts: &mut HashMap<Subject, u32>, key: &FlowKey, flow: &Flow) {
    for subject in subjects(key, flow) {
        if let Entry::Occupied(mut count) = attempts.entry(subject) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tracker_common::key::End;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A record that a packet at `now_ns` has renewed.
    fn flow(created_ns: u64, now_ns: u64) -> Flow {
        let flow = Flow::default();
        flow.start(created_ns, End::LOW, 0);
        assert!(flow.renew(now_ns));
        flow
    }

    #[test]
    fn a_connection_is_queued_once_however_many_packets_renew_it() {
        let mut connections = Connections::default();
        let (key, timeouts) = (FlowKey::default(), Timeouts::default());
        let mut now_ns = SECOND;
        for _ in 0..10_000 {
            now_ns += SECOND / 10;
            for created_ns in [SECOND, 2 * SECOND] {
                let flow = flow(created_ns, now_ns);
                connections.saw(&key, &flow, 0, now_ns, &timeouts);
            }
            assert!(connections.due(now_ns, 100).is_empty());
            assert_eq!(connections.queue.len(), 2);
        }
        // One of them goes on.
        let later_ns = now_ns + SECOND;
        connections.saw(&key, &flow(SECOND, later_ns), 0, later_ns, &timeouts);
        let deadlines = [2 * SECOND, SECOND].map(|id| connections.live[&id].deadline_ns);
        assert!(connections.due(deadlines[0] - 1, 100).is_empty());
        assert_eq!(connections.due(deadlines[0], 100), [(deadlines[0], 2 * SECOND)]);
        assert!(connections.due(deadlines[1] - 1, 100).is_empty());
        assert_eq!(connections.due(deadlines[1], 100), [(deadlines[1], SECOND)]);
    }
}
