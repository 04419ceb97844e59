//! Flows by the thousand: one connection is opened by real packets, and its record copied under other keys.

use std::{
    mem,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use tracker_common::{flow::Flow, key::FlowKey};

use crate::{
    agent::pins,
    lab::{Bench, address},
    segment::{
        Segment,
        flag::{ACK, SYN},
    },
};

type Key = [u64; size_of::<FlowKey>() / 8];
type Record = [u64; size_of::<Flow>() / 8];

/// The flows of one agent.
#[derive(Debug)]
pub struct Crowd {
    map: HashMap<MapData, Key, Record>,
    key: FlowKey,
    record: Record,
    there: u32,
}

impl Crowd {
    /// Opens the connection that is copied. It must be the only one of this bench.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened, or its record not be read.
    pub fn begin(bench: &Bench) -> Result<Self> {
        let (client, server) = ((address::PEER[0], 1000).into(), (address::HOST[0], 80).into());
        bench.arrive(&Segment::new(client, server, SYN, 1, 0).frame())?;
        bench.leave(&Segment::new(server, client, SYN | ACK, 500, 2).frame())?;
        bench.arrive(&Segment::new(client, server, ACK, 2, 501).frame())?;
        bench.settle()?;
        let pin = pins(bench.agent.name()).join("CONFIRMED");
        let map = MapData::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))?;
        let map: HashMap<MapData, Key, Record> = Map::HashMap(map).try_into()?;
        let (key, record) = map.iter().next().context("the flow is confirmed")??;
        Ok(Self { map, key: zerocopy::transmute!(key), record, there: 1 })
    }

    /// Adds flows until there are so many. All are idle, and no two have the same addresses or bytes.
    ///
    /// # Errors
    ///
    /// What the kernel says, or where the numbers of addresses run out.
    pub fn grow(&mut self, flows: u32) -> Result<()> {
        ensure!(flows < 1 << 24, "10.0.0.0/8 is not larger");
        while self.there < flows {
            let mut key = self.key;
            key.addresses[1][13..].copy_from_slice(&self.there.to_be_bytes()[1..]);
            key.ports[1] = [250, 250];
            let mut record = self.record;
            // The sweep takes turns by when flows began.
            record[0] ^= u64::from(self.there & 0xff) << 32;
            let flow: Flow = zerocopy::transmute!(record);
            flow.halves[1].bytes.set(u64::from(self.there.reverse_bits()));
            let record: Record = zerocopy::transmute!(flow);
            let key: Key = zerocopy::transmute!(key);
            self.map.insert(key, record, 0)?;
            self.there += 1;
        }
        Ok(())
    }
}

/// What a command has taken.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// From its start to its end.
    pub took: Duration,
    /// CPU time in user mode and in the kernel.
    pub cpu: Duration,
    /// The most memory that it had at once, KiB. It is never less than what the calling process has had.
    pub resident_kib: u64,
}

/// Runs a command to its end. Its output is discarded.
///
/// # Errors
///
/// Where it cannot be started, or fails.
#[allow(clippy::zombie_processes, reason = "wait4 waits for it, which says what it has taken")]
pub fn usage(command: &mut Command) -> Result<Usage> {
    let began = Instant::now();
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let (mut status, pid) = (0, child.id().cast_signed());
    // SAFETY: all zeroes are a value of this type, which holds nothing but numbers.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes into these two, which live longer than the call.
    let ended = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    let took = began.elapsed();
    ensure!(ended == pid, "{command:?}: {}", std::io::Error::last_os_error());
    ensure!(status == 0, "{command:?} ended with {status:#x}");
    let time = |value: libc::timeval| -> Result<Duration> {
        let rest = Duration::from_micros(u64::try_from(value.tv_usec)?);
        Ok(Duration::from_secs(u64::try_from(value.tv_sec)?) + rest)
    };
    let cpu = time(usage.ru_utime)? + time(usage.ru_stime)?;
    Ok(Usage { took, cpu, resident_kib: u64::try_from(usage.ru_maxrss)? })
}
