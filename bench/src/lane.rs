//! A cable with a flood on it, and what can be read off it at any time.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    cable::Cable,
    counters::received,
    cpu::{Cores, Task},
    generator::{Rate, flood_during},
    programs::Programs,
};

/// A cable and its programs.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The cable.
    pub(crate) cable: Cable,
    programs: Programs,
    cores: Cores,
}

impl Lane {
    /// A new cable, which drops what the flood is answered with.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn new(cores: Cores) -> Result<Self> {
        let cable = Cable::new(cores)?;
        let mut programs = Programs::load(&cable)?;
        let wire = &cable.wire;
        programs.attach("merge", &wire.namespace, &wire.to_clients)?;
        programs.attach("split", &wire.namespace, &wire.to_server)?;
        Ok(Self { cable, programs, cores })
    }

    /// The same with a server that drops everything as early as it can.
    ///
    /// # Errors
    ///
    /// As [`Lane::new`].
    pub(crate) fn that_drops(cores: Cores) -> Result<Self> {
        let mut lane = Self::new(cores)?;
        let server = &lane.cable.server;
        lane.programs.attach("drop_all", &server.namespace, &server.interface)?;
        Ok(lane)
    }

    /// Calls `work` during a flood.
    ///
    /// # Errors
    ///
    /// What `work` says, or that the flood cannot be sent.
    pub(crate) fn flooded<T>(
        &mut self,
        rate: Rate,
        work: impl FnOnce(View<'_>) -> Result<T>,
    ) -> Result<T> {
        let cable = &self.cable;
        flood_during(cable, &mut self.programs, self.cores, rate, |programs| {
            work(View { cable, programs })
        })
    }
}

/// What can be read while the flood goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'lane> {
    /// The cable.
    pub(crate) cable: &'lane Cable,
    programs: &'lane Programs,
}

impl View<'_> {
    /// Everything that is counted, as it is now. `helper` is a process that works for the server.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, or the helper has ended.
    pub(crate) fn look(self, helper: Option<Task>) -> Result<Look> {
        let server = &self.cable.server;
        let helper = helper.map_or(Ok(Duration::ZERO), Task::cpu_time)?;
        Ok(Look {
            at: Instant::now(),
            sent: self.programs.sent()?,
            received: received(&server.namespace, &server.interface)?,
            answers: self.programs.answers()?,
            receiving: server.receiver.cpu_time()?,
            helping: helper,
            waiting: server.receiver.waiting_time().unwrap_or_default(),
        })
    }
}

/// Everything that is counted, at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    at: Instant,
    sent: u64,
    received: u64,
    answers: u64,
    receiving: Duration,
    helping: Duration,
    waiting: Duration,
}

/// What has happened between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    /// SYNs that the generator has sent.
    pub(crate) sent: f64,
    /// Packets that the server's interface has received: the flood's and the real clients'.
    pub(crate) received: f64,
    /// SYN,ACKs that have come back to the flood's sources.
    pub(crate) answers: f64,
    /// How long the server's interface has received, in seconds, with everything that the kernel does for a packet.
    pub(crate) receiving: f64,
    /// How long the server's helper has run, in seconds.
    pub(crate) helping: f64,
    /// How long the receiver has been kept from its core by others, in seconds.
    pub(crate) waiting: f64,
}

impl Look {
    /// What has happened since an earlier look.
    #[allow(clippy::cast_precision_loss, reason = "counts of a minute are far below 2^53")]
    pub(crate) fn since(self, before: Self) -> Passed {
        let count = |before: u64, after: u64| after.saturating_sub(before) as f64;
        let time = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64();
        Passed {
            seconds: (self.at - before.at).as_secs_f64(),
            sent: count(before.sent, self.sent),
            received: count(before.received, self.received),
            answers: count(before.answers, self.answers),
            receiving: time(before.receiving, self.receiving),
            helping: time(before.helping, self.helping),
            waiting: time(before.waiting, self.waiting),
        }
    }
}
