//! When the agent tries again to attach to an interface.

use std::time::{Duration, Instant};

/// When an interface is attached to again, and how long after that the next time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// Not before this.
    pub(super) at: Instant,
    pause: Duration,
}

impl Retry {
    pub(super) fn first() -> Self {
        Self { at: Instant::now() + SHORTEST_PAUSE, pause: SHORTEST_PAUSE }
    }

    pub(super) fn next(self) -> Self {
        let pause = (self.pause * 2).min(LONGEST_PAUSE);
        Self { at: Instant::now() + pause, pause }
    }
}

/// Between two attempts at an interface, at first and at most: the verifier takes its time each time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
