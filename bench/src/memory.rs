//! `cargo xtask bench memory`: what a flow takes of the kernel's memory.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use tracker_common::{
    flow::{Flow, HalfOpen},
    key::FlowKey,
};
use tracker_user::kernel::syn_cache;

use crate::{
    cpu::{Cores, Task},
    machine,
    router::{Router, Trackers},
    section,
    table::{Table, grouped},
};

const COMMAND: &str = "cargo xtask bench memory";

/// Flows that are there when it is measured.
const FLOWS: u64 = 100_000;

/// What a map takes, as the kernel says.
struct Map {
    bytes: u64,
    /// Elements that it can hold.
    capacity: u64,
}

/// Measures, prints the section, and writes it into docs/performance.md.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn memory() -> Result<()> {
    let machine = machine::describe();
    let cores = Cores::choose()?;
    Task::this_thread().pin(cores.generator)?;
    let [tracker, conntrack] = [
        Trackers { tracker: true, ..Trackers::NOTHING },
        Trackers { conntrack: true, ..Trackers::NOTHING },
    ];
    let mut router = Router::new(cores, tracker, &[])?;
    let pins = router.pins().context("an agent")?;
    let empty = Map::read(&pins.join("CONFIRMED"))?;
    router.establish(0, FLOWS)?;
    let full = Map::read(&pins.join("CONFIRMED"))?;
    let half_open = Map::read(&pins.join("HALF_OPEN"))?;
    let cached = Map::read(&pins.join(syn_cache::SETS))?;
    let addresses = Map::read(&pins.join(syn_cache::ADDRESSES))?;
    let flows = router.flows()?;
    drop(router);

    let before = slab("nf_conntrack")?;
    let mut router = Router::new(cores, conntrack, &[])?;
    router.establish(0, FLOWS)?;
    let entries = router.flows()?;
    let after = slab("nf_conntrack")?;
    drop(router);
    let buckets: u64 =
        fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_buckets")?.trim().parse()?;
    ensure!(flows > 0 && entries > 0, "no flows");

    let entry = after.saturating_sub(before) / entries;
    let mut table = Table::new(&["What", "bytes", "of what it is"]);
    let mut row = |what: &str, bytes: u64, how: String| {
        table.row([what.to_owned(), grouped(bytes), how]);
    };
    let (key, record) = (size_of::<FlowKey>(), size_of::<Flow>());
    row("tracker: key and record", (key + record) as u64, format!("{key} and {record}"));
    row(
        "tracker: a confirmed flow",
        full.bytes / full.capacity,
        format!(
            "{} for {} flows; {} with none there",
            grouped(full.bytes),
            grouped(full.capacity),
            grouped(empty.bytes)
        ),
    );
    row(
        "tracker: a half-open flow",
        half_open.bytes / half_open.capacity,
        format!(
            "{} for {} flows; key and record are {key} and {}",
            grouped(half_open.bytes),
            grouped(half_open.capacity),
            size_of::<HalfOpen>()
        ),
    );
    let bytes = cached.bytes + addresses.bytes;
    row(
        "tracker: a cached handshake",
        bytes / addresses.capacity,
        format!(
            "{} for {} handshakes; {} of it for IPv6 addresses",
            grouped(bytes),
            grouped(addresses.capacity),
            grouped(addresses.bytes)
        ),
    );
    row(
        "nf_conntrack: an entry more",
        entry,
        format!("slabs of /proc/slabinfo, {} entries", grouped(entries)),
    );
    row(
        "nf_conntrack: an entry and its buckets",
        entry + buckets * 8 / full.capacity,
        format!(
            "with as many entries as tracker's table holds; {} buckets of 8 bytes",
            grouped(buckets)
        ),
    );
    let text = format!(
        "## Memory

{machine}
Written by the command above.

Bytes of kernel memory with {flows} established flows, whose handshakes a router has forwarded. `memlock` in
/proc/PID/fdinfo is what the kernel counts for a map, buckets included. tracker's tables are taken from the start, so that
no packet waits for memory and none is refused for want of it: they take as much with no flow as with all. nf_conntrack takes
a slab when it needs one, which is counted with what is not used in it. A record has both ends' states, sequence numbers, windows, options, counters and history; an
entry of nf_conntrack has both tuples and the sequence numbers, and counters only where they are turned on (32 bytes more).

{table}",
        flows = grouped(FLOWS),
        table = table.into_text()
    );
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    section::write(&page, "memory", COMMAND, &text)
}

impl Map {
    fn read(pin: &PathBuf) -> Result<Self> {
        let map = MapData::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(path)?;
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.with_context(|| format!("no {name} in {text}"))?.trim();
            number.parse().with_context(|| number.to_owned())
        };
        Ok(Self { bytes: number("memlock")?, capacity: number("max_entries")? })
    }
}

/// Bytes of a cache's slabs.
fn slab(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/slabinfo").context("reading /proc/slabinfo")?;
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let Some(line) = line else { return Ok(0) };
    // name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables ... : slabdata <active_slabs> <num_slabs>
    let words: Vec<_> = line.split_whitespace().collect();
    let word =
        |at: usize| -> Result<u64> { Ok(words.get(at).with_context(|| line.to_owned())?.parse()?) };
    Ok(word(5)? * word(14)? * 4096)
}
