//! Both machines side by side.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Result, ensure};
use tracker_common::{
    config::LiveConfig,
    counters::{Fate, Hook, Tally},
    event::{Event, Kind},
    flow::{Flow, HalfOpen},
    key::FlowKey,
    simulator::Host,
    sweep::{Removal, Tables, Tier},
    violation::Rule,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    kernel::Kernel,
    step::{INTERFACES, Step, Wish},
};

pub(crate) const KEY_SIZE: usize = size_of::<FlowKey>();
pub(crate) const HALF_OPEN_SIZE: usize = size_of::<HalfOpen>();

/// Fewer than there are keys: some find the table full.
const MAX_FLOWS: u32 = 110;

/// Records by key.
pub(crate) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Everything that a machine has written down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) confirmed: Records,
    pub(crate) half_open: Records,
    /// By interface, hook and fate.
    pub(crate) packets: Vec<u64>,
    /// By rule and hook.
    pub(crate) breaches: Vec<u64>,
    pub(crate) tallies: Vec<u64>,
}

/// Where the machines differ.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) what: String,
    /// The flow that it is about, where it is about one.
    pub(crate) key: Option<FlowKey>,
}

/// The same rules on two machines.
pub(crate) struct Twice {
    host: Host,
    kernel: Kernel,
    kernel_events: Vec<Vec<u8>>,
    /// The kernel's counters at the start, which cannot be cleared.
    base: Books,
}

impl Twice {
    pub(crate) fn new() -> Result<Self> {
        let kernel = Kernel::load(MAX_FLOWS)?;
        let base = kernel.books()?;
        let mut twice = Self { host: fresh_host(), kernel, kernel_events: Vec::new(), base };
        twice.clear()?;
        Ok(twice)
    }

    /// Starts again, with everything reported.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.kernel.clear()?;
        self.kernel_events.clear();
        self.host = fresh_host();
        self.base = self.kernel.books()?;
        self.configure(Host::report_all())
    }

    fn configure(&mut self, config: LiveConfig) -> Result<()> {
        self.host.configure(config);
        self.kernel.configure(config)
    }

    /// Lets a thing happen to both.
    pub(crate) fn take(&mut self, step: &Step) -> Result<Option<Difference>> {
        match step {
            Step::Packet(shot) => {
                let interface = INTERFACES[shot.interface];
                self.host.frame(&shot.captured(), interface, shot.hook, shot.now_ns);
                self.kernel.run(shot)?;
                self.kernel.take_events(&mut self.kernel_events);
            }
            Step::Configure(config) => self.configure(*config)?,
            Step::Remove(wishes) => return self.remove(wishes),
            Step::Entomb(key, tier) => self.entomb(key, *tier)?,
            Step::Bury(key, tier) => {
                if is_tombstone(&self.host, key, *tier) {
                    self.kernel.delete(key, *tier)?;
                    match tier {
                        Tier::Confirmed => self.host.delete_confirmed(key),
                        Tier::HalfOpen => self.host.delete_half_open(key),
                    }
                }
            }
        }
        Ok(None)
    }

    fn remove(&mut self, wishes: &[Wish]) -> Result<Option<Difference>> {
        let mut batch: Vec<Removal> = wishes.iter().map(|wish| removal(&self.host, wish)).collect();
        let mut same = batch.clone();
        self.kernel.remove(&mut batch)?;
        for (wish, (kernel, host)) in wishes.iter().zip(batch.iter_mut().zip(&mut same)) {
            self.host.remove(host);
            if kernel.as_mut_bytes() != host.as_mut_bytes() {
                let what = format!("removal\n  kernel {kernel:?}\n  host   {host:?}");
                return Ok(Some(Difference { what, key: Some(wish.key) }));
            }
        }
        Ok(None)
    }

    fn entomb(&mut self, key: &FlowKey, tier: Tier) -> Result<()> {
        match tier {
            Tier::Confirmed => {
                if let Some(flow) = self.host.confirmed(key)
                    && flow.entomb(flow.life())
                {
                    self.kernel.overwrite_confirmed(key, &mut flow.clone())?;
                }
            }
            Tier::HalfOpen => {
                if let Some(half_open) = self.host.half_open(key)
                    && half_open.flow.entomb(half_open.flow.life())
                {
                    self.kernel.overwrite_half_open(key, &mut half_open.clone())?;
                }
            }
        }
        Ok(())
    }

    /// Compares everything that was reported since the last time, and everything that was written down.
    pub(crate) fn compare(&mut self) -> Result<Option<Difference>> {
        let kernel: Vec<_> = std::mem::take(&mut self.kernel_events);
        let host = self.host.take_events();
        if let Some(difference) = compare_events(&kernel, host)? {
            return Ok(Some(difference));
        }
        let kernel = self.kernel.books()?;
        let host = books(&self.host);
        for (name, kernel, host) in [
            ("confirmed", &kernel.confirmed, &host.confirmed),
            ("half-open", &kernel.half_open, &host.half_open),
        ] {
            if let Some(difference) = compare_records(name, kernel, host) {
                return Ok(Some(difference));
            }
        }
        let mut what = String::new();
        for (name, kernel, base, host, named) in [
            (
                "packets",
                &kernel.packets,
                &self.base.packets,
                &host.packets,
                &fate as &dyn Fn(usize) -> String,
            ),
            ("breaches", &kernel.breaches, &self.base.breaches, &host.breaches, &rule),
            ("tallies", &kernel.tallies, &self.base.tallies, &host.tallies, &tally),
        ] {
            for (n, (kernel, base)) in kernel.iter().zip(base).enumerate() {
                let kernel = kernel - base;
                if kernel != host[n] {
                    writeln!(what, "{name} {}: kernel {kernel}, host {}", named(n), host[n])?;
                }
            }
        }
        Ok((!what.is_empty()).then_some(Difference { what, key: None }))
    }

    /// Whether the kernel has cached handshakes, which the host does not.
    pub(crate) fn has_cached(&self) -> bool {
        self.kernel.has_cached()
    }

    /// The host, which has seen what the kernel has.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }
}

fn fresh_host() -> Host {
    Host::new(MAX_FLOWS as usize, Host::report_all())
}

fn is_tombstone(host: &Host, key: &FlowKey, tier: Tier) -> bool {
    find(host, key, tier).is_some_and(Flow::is_dead)
}

fn find<'host>(host: &'host Host, key: &FlowKey, tier: Tier) -> Option<&'host Flow> {
    match tier {
        Tier::Confirmed => host.confirmed(key),
        Tier::HalfOpen => host.half_open(key).map(|half_open| &half_open.flow),
    }
}

fn removal(host: &Host, wish: &Wish) -> Removal {
    let life = find(host, &wish.key, wish.tier).map_or(0, |flow| flow.life().to_word());
    Removal {
        key: wish.key,
        life: life ^ u64::from(wish.stale),
        tier: wish.tier as u32,
        state: wish.state.into(),
        unconditional: wish.unconditional.into(),
        ..Removal::default()
    }
}

fn books(host: &Host) -> Books {
    let confirmed = host
        .all_confirmed()
        .into_iter()
        .map(|(key, mut flow)| (key.as_bytes().to_vec(), flow.as_mut_bytes().to_vec()));
    let half_open = host
        .all_half_open()
        .into_iter()
        .map(|(key, mut flow)| (key.as_bytes().to_vec(), flow.as_mut_bytes().to_vec()));
    let packets = INTERFACES
        .iter()
        .flat_map(|interface| Hook::ALL.map(|hook| host.packets(interface.slot, hook)));
    let breaches =
        Rule::ALL.iter().flat_map(|rule| Hook::ALL.map(|hook| host.breaches(*rule, hook)));
    Books {
        confirmed: confirmed.collect(),
        half_open: half_open.collect(),
        packets: packets.flatten().collect(),
        breaches: breaches.collect(),
        tallies: Tally::ALL.iter().map(|tally| host.tallied(*tally)).collect(),
    }
}

fn fate(n: usize) -> String {
    let (at, code) = (n / Fate::SLOTS, n % Fate::SLOTS);
    let name = Fate::ALL.get(code).map_or("?", |fate| fate.name());
    format!("{} {} {name}", INTERFACES[at / 2].slot, Hook::ALL[at % 2].name())
}

fn rule(n: usize) -> String {
    format!("{} {}", Rule::ALL[n / 2].name(), Hook::ALL[n % 2].name())
}

fn tally(n: usize) -> String {
    Tally::ALL[n].name().to_owned()
}

fn compare_events(kernel: &[Vec<u8>], host: Vec<Event>) -> Result<Option<Difference>> {
    let (mut count, of_host) = (0, host.len());
    for (kernel, mut host) in kernel.iter().zip(host) {
        count += 1;
        if kernel == host.as_mut_bytes() {
            continue;
        }
        ensure!(kernel.len() == size_of::<Event>(), "a report of {} bytes", kernel.len());
        let kernel = Event::read_from_bytes(kernel).ok();
        let what =
            format!("report\n  kernel {}\n  host   {}", said(kernel), said(Some(host.clone())));
        return Ok(Some(Difference { what, key: Some(host.key) }));
    }
    if kernel.len() == of_host {
        return Ok(None);
    }
    let what = format!("{count} equal reports, then: kernel {}, host {of_host}", kernel.len());
    let key = kernel.get(count).and_then(|event| Event::read_from_bytes(event).ok());
    Ok(Some(Difference { what, key: key.map(|event| event.key) }))
}

fn said(event: Option<Event>) -> String {
    let Some(event) = event else { return "nothing".to_owned() };
    let kind = Kind::from_code(event.kind).map_or("?", Kind::name);
    let is_violation = event.kind == Kind::Violation as u8;
    let rule = Rule::from_code(event.rule).filter(|_| is_violation).map_or("", Rule::name);
    format!("{kind} {rule} {event:?}")
}

fn compare_records(table: &str, kernel: &Records, host: &Records) -> Option<Difference> {
    let keys: std::collections::BTreeSet<_> = kernel.keys().chain(host.keys()).collect();
    for key in keys {
        let records = [kernel, host].map(|records| records.get(key));
        let same = match records {
            [Some(kernel), Some(host)] => meaning(kernel) == meaning(host),
            _ => false,
        };
        if same {
            continue;
        }
        let [kernel, host] =
            records.map(|record| record.map_or_else(|| "none".to_owned(), |r| shown(r)));
        let what = format!("{table} record\n  kernel {kernel}\n  host   {host}");
        return Some(Difference { what, key: FlowKey::read_from_bytes(key).ok() });
    }
    None
}

/// What counts of a record: a half-open one keeps SYNs of former flows where its counts say that there are none.
fn meaning(record: &[u8]) -> Vec<u8> {
    const OPENING: usize = 5 * 4;
    const OPENINGS: usize = 4 + 4 * OPENING;
    const _: () = assert!(
        HALF_OPEN_SIZE == size_of::<Flow>() + 2 * OPENINGS + 8,
        "a flow, for each end a count and 4 SYNs, the former ISN, and whether there is one"
    );
    let mut record = record.to_vec();
    if record.len() != HALF_OPEN_SIZE {
        return record;
    }
    let (_, rest) = record.split_at_mut(size_of::<Flow>());
    let (ends, previous) = rest.split_at_mut(2 * OPENINGS);
    for end in ends.chunks_exact_mut(OPENINGS) {
        let count = u32::from_ne_bytes([end[0], end[1], end[2], end[3]]).min(4) as usize;
        end[4 + OPENING * count..].fill(0);
    }
    if previous[4..] == [0; 4] {
        previous.fill(0);
    }
    record
}

fn shown(record: &[u8]) -> String {
    if record.len() == HALF_OPEN_SIZE {
        HalfOpen::read_from_bytes(record).map_or_else(|_| String::new(), |it| format!("{it:?}"))
    } else {
        Flow::read_from_bytes(record).map_or_else(|_| String::new(), |it| format!("{it:?}"))
    }
}
