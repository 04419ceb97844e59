//! Two ends, and a cable between them with a tap: segments go from their sender to the tap, and from there to their receiver. On both
//! ways they may be lost, doubled, or overtaken.

use crate::endpoint::{Endpoint, RST, Segment};

/// A segment, and the end that sent it.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// 0 or 1.
    pub from: usize,
    /// What it says.
    pub segment: Segment,
}

/// Half of a cable: before the tap, or behind it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Half {
    /// From the sender to the tap.
    Before,
    /// From the tap to the receiver.
    Behind,
}

/// What is under way at most, in one direction and half.
const MOST: usize = 32;

/// The ends and the cable.
#[derive(Debug)]
pub struct Network {
    /// Both ends.
    pub ends: [Endpoint; 2],
    before: [Vec<Segment>; 2],
    behind: [Vec<Segment>; 2],
    /// Whether the cable has lost, doubled or reordered anything, or an end repeated something.
    pub is_wild: bool,
}

impl Network {
    /// These ends, and nothing under way.
    #[must_use]
    pub fn new(ends: [Endpoint; 2]) -> Self {
        Self { ends, before: Default::default(), behind: Default::default(), is_wild: false }
    }

    /// What the ends have sent goes on its way.
    pub fn collect(&mut self) {
        for (end, way) in self.ends.iter_mut().zip(&mut self.before) {
            way.extend(end.take());
        }
    }

    fn way(&mut self, from: usize, half: Half) -> &mut Vec<Segment> {
        match half {
            Half::Before => &mut self.before[from],
            Half::Behind => &mut self.behind[from],
        }
    }

    /// The first segment of this way goes on, or the one behind it; returns what passes the tap.
    pub fn forward(&mut self, from: usize, half: Half, overtakes: bool) -> Option<Sent> {
        let way = self.way(from, half);
        if way.is_empty() {
            return None;
        }
        let overtakes = overtakes && way.len() > 1;
        let segment = way.remove(usize::from(overtakes));
        self.is_wild |= overtakes;
        if half == Half::Behind {
            self.ends[1 - from].receive(&segment);
            self.collect();
            return None;
        }
        self.behind[from].push(segment);
        Some(Sent { from, segment })
    }

    /// The first segment of this way is lost, unless it is an RST: nothing would repeat it.
    pub fn lose(&mut self, from: usize, half: Half) {
        let way = self.way(from, half);
        if way.first().is_some_and(|segment| segment.flags & RST == 0) {
            way.remove(0);
            self.is_wild = true;
        }
    }

    /// The first segment of this way is doubled.
    pub fn double(&mut self, from: usize, half: Half) {
        let way = self.way(from, half);
        if let Some(first) = way.first().copied().filter(|_| way.len() < MOST) {
            way.insert(1, first);
            self.is_wild = true;
        }
    }

    /// An end repeats what was not acknowledged.
    pub fn retransmit(&mut self, end: usize) {
        self.is_wild = true;
        self.ends[end].retransmit();
    }

    /// Whether so much is under way that the ends do better to wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.before.iter().chain(&self.behind).any(|way| way.len() >= MOST)
    }

    /// Delivers everything, in order, and lets the ends repeat what was lost, until both know all of each other. Calls `seen` with
    /// each segment that passes the tap. Returns false where that does not come to an end.
    pub fn settle(&mut self, mut seen: impl FnMut(Sent)) -> bool {
        self.collect();
        for _ in 0..1000 {
            let mut is_idle = true;
            for half in [Half::Behind, Half::Before] {
                for from in [0, 1] {
                    is_idle &= self.way(from, half).is_empty();
                    if let Some(sent) = self.forward(from, half, false) {
                        seen(sent);
                    }
                }
            }
            if is_idle {
                if self.ends.iter().all(Endpoint::is_acknowledged) {
                    return true;
                }
                self.retransmit(0);
                self.retransmit(1);
                self.collect();
            }
        }
        false
    }
}
