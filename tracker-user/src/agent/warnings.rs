//! What an agent says once when it begins and once when it is over: tables that are full, reports that are lost, floods.

use std::time::Instant;

use tracker_common::{counters::Tally, sweep::Tier};

use crate::{
    agent::condition::Condition,
    kernel::{load::Sizes, tables::Tables},
    model::{
        clock::Clock,
        error::Result,
        event::{Event, parts::ShedView},
    },
};

/// Looks at counters every second.
pub struct Warnings {
    sizes: Sizes,
    shed_above: u32,
    /// In the order of [`KINDS`].
    watched: Vec<Watched>,
}

struct Watched {
    kind: Kind,
    last: u64,
    condition: Condition,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    TableFull,
    NoMemory,
    Evicted,
    Shed,
    RingFull,
}

const KINDS: [Kind; 5] =
    [Kind::TableFull, Kind::NoMemory, Kind::Evicted, Kind::Shed, Kind::RingFull];

impl Kind {
    fn count(self, tables: &Tables) -> Result<u64> {
        match self {
            Self::TableFull => tables.tally(Tally::TableFull),
            Self::NoMemory => tables.tally(Tally::HalfOpenInsertFailed),
            Self::Evicted => tables.half_open_evicted(tables.capacity(Tier::HalfOpen)?.into()),
            Self::Shed => tables.tally(Tally::HalfOpenShed),
            Self::RingFull => tables.tally(Tally::ReportsLost),
        }
    }

    fn begins(self, sizes: &Sizes, shed_above: u32) -> String {
        match self {
            Self::TableFull => format!(
                "the table of confirmed flows is full: further ones stay among the half-open ones, where newer ones evict them. \
                 Raise --max-flows (now {}) or lower --timeout-established",
                sizes.max_flows
            ),
            Self::NoMemory => format!(
                "the kernel has no memory for further half-open flows: some connections are not seen. Lower --max-half-open (now \
                 {}), or give this host more memory",
                sizes.max_half_open
            ),
            Self::Evicted => format!(
                "half-open flows are evicted for newer ones, as in a flood of SYNs: confirmed ones are not. Raise --max-half-open \
                 (now {}), or protect listeners by --protect",
                sizes.max_half_open
            ),
            Self::Shed => format!(
                "SYNs come as in a flood: new handshakes overwrite older ones, and open connections are not touched. Raise \
                 --shed-above (now {shed_above} a second at one interface and CPU), or protect listeners by --protect"
            ),
            Self::RingFull => format!(
                "reports are lost, because the ring buffer is full: counters stay exact. Raise --ring-bytes (now {}), or ask for \
                 fewer events (--events, --report, --report-rate)",
                sizes.ring_bytes
            ),
        }
    }

    fn is_over(self) -> &'static str {
        match self {
            Self::TableFull => "the table of confirmed flows has room again",
            Self::NoMemory => "there is memory for half-open flows again",
            Self::Evicted => "no half-open flows are evicted any more",
            Self::Shed => "SYNs do not come as in a flood any more",
            Self::RingFull => "no reports are lost any more",
        }
    }
}

impl Warnings {
    /// Conditions of what is counted from now on, or from the start where the counters began with this agent: programs count
    /// while the agent is still starting.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(tables: &Tables, sizes: Sizes, shed_above: u32, is_first: bool) -> Result<Self> {
        let watched = KINDS.map(|kind| {
            let last = if is_first { 0 } else { kind.count(tables)? };
            Ok(Watched { kind, last, condition: Condition::default() })
        });
        Ok(Self { sizes, shed_above, watched: watched.into_iter().collect::<Result<_>>()? })
    }

    /// Goes by this limit of new handshakes from now on.
    pub fn set_shed_above(&mut self, shed_above: u32) {
        self.shed_above = shed_above;
    }

    /// Looks, and says what has begun or is over; returns what those are to hear who have subscribed to events.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn look(&mut self, tables: &Tables) -> Result<Vec<Event>> {
        let now = Instant::now();
        let above = self.shed_above;
        let mut events = Vec::new();
        let mut shed = |mode: &str, handshakes| {
            let shed = ShedView { mode: mode.to_owned(), handshakes, above };
            events.push(Event::shed(shed, &Clock::now()));
        };
        for Watched { kind, last, condition } in &mut self.watched {
            let count = kind.count(tables)?;
            if count > *last {
                if condition.seen(count - *last, now) {
                    tracing::warn!("{}", kind.begins(&self.sizes, above));
                    if matches!(kind, Kind::Shed) {
                        shed("on", count - *last);
                    }
                }
                *last = count;
            }
            if let Some(over) = condition.over(now) {
                let seconds = over.lasted.as_secs();
                tracing::info!(count = over.count, seconds, "{}", kind.is_over());
                if matches!(kind, Kind::Shed) {
                    shed("off", over.count);
                }
            }
        }
        Ok(events)
    }
}
