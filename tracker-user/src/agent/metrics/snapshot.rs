//! What one scrape reads, and how it is written.

mod cookies;

use std::{collections::BTreeSet, fmt, sync::atomic::Ordering};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode},
    metrics::{MetricType, histogram::Histogram},
    registry::Registry,
};
use tracker_common::{
    config::MAX_INTERFACES,
    counters::{Fate, Hook, Tally},
    state::State,
    sweep::Tier,
    violation::Rule,
};

use super::{
    LastSweep, REASONS, Telemetry,
    census::{Census, FAMILIES},
    lock,
    programs::Run,
};
use crate::{
    agent::{
        exports::{Counts, Exports},
        interfaces::presence::Missing,
    },
    kernel::{attach::Interface, listeners::ListenerMaps, tables::Tables},
    model::error::Result,
};

/// A series' labels.
type Labels = Vec<(&'static str, String)>;

/// All series of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Counter(Vec<(Labels, u64)>),
    CounterOfSeconds(Vec<(Labels, f64)>),
    Gauge(Vec<(Labels, u64)>),
    Info(Labels),
    Histogram(Histogram),
}

impl Values {
    fn is_empty(&self) -> bool {
        match self {
            Self::Counter(series) | Self::Gauge(series) => series.is_empty(),
            Self::CounterOfSeconds(series) => series.is_empty(),
            Self::Info(_) | Self::Histogram(_) => false,
        }
    }
}

/// What one scrape has read.
#[derive(Debug, Default)]
struct Snapshot(Vec<Family>);

impl Telemetry {
    /// All metrics, as OpenMetrics writes them.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read.
    pub fn text(&self) -> Result<String> {
        let mut registry = Registry::with_prefix("tracker");
        registry.register_collector(Box::new(self.snapshot()?));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let tables = Tables::from_pins(&self.pins)?;
        let (interfaces, runs) = {
            let attached = lock(&self.attached);
            (attached.0.clone(), attached.1.runs())
        };
        let mut snapshot = Snapshot::default();
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        snapshot.add("build", "The agent's version", Values::Info(version));
        self.add_packets(&mut snapshot, &tables, &interfaces)?;
        self.add_flows(&mut snapshot, &tables)?;
        self.add_sweeps(&mut snapshot);
        snapshot.add_reports(&tables, self)?;
        snapshot.add_exports(&self.lost.by_exports);
        let cookies = ListenerMaps::from_pins(&self.pins)?;
        self.add_cookies(&mut snapshot, &tables, cookies.as_ref())?;
        snapshot.add_programs(&interfaces, &runs, &lock(&self.missing));
        Ok(snapshot)
    }

    fn add_flows(&self, snapshot: &mut Snapshot, tables: &Tables) -> Result<()> {
        let census = match &*lock(&self.last) {
            Some(LastSweep { census, .. }) => census.clone(),
            None => Census::default(),
        };
        let by_state = FAMILIES.iter().zip(census.flows).flat_map(|(family, counts)| {
            State::ALL.into_iter().map(move |state| {
                let labels =
                    vec![("state", state.name().to_owned()), ("family", (*family).to_owned())];
                (labels, counts[state as usize])
            })
        });
        snapshot.add(
            "flows",
            "Flows by the state of the end that decides on their timeout, at the last sweep",
            Values::Gauge(by_state.collect()),
        );
        snapshot.add(
            "flow_table_entries",
            "Flows in each table, at the last sweep",
            Values::Gauge(each(
                "table",
                [("confirmed", census.confirmed), ("half_open", census.half_open)],
            )),
        );
        snapshot.add(
            "flow_table_capacity",
            "Flows that each table can hold",
            Values::Gauge(each(
                "table",
                [
                    ("confirmed", tables.capacity(Tier::Confirmed)?.into()),
                    ("half_open", tables.capacity(Tier::HalfOpen)?.into()),
                ],
            )),
        );
        snapshot.add(
            "half_open_flows",
            "Flows whose handshake is not completed, at the last sweep",
            Values::Gauge(vec![(Vec::new(), census.unfinished)]),
        );
        snapshot.add(
            "table_insert_failures",
            "Flows that a table had no room or no memory for; their packets pass all the same",
            Values::Counter(each(
                "reason",
                [
                    ("table_full", tables.tally(Tally::TableFull)?),
                    ("no_memory", tables.tally(Tally::HalfOpenInsertFailed)?),
                ],
            )),
        );
        // The walk is a sweep old, the tallies are not; so it is right to the flows that came meanwhile, and never falls.
        let evicted = {
            let mut totals = lock(&self.totals);
            totals.evicted = totals.evicted.max(self.evicted_at_last_sweep());
            totals.evicted
        };
        snapshot.add(
            "table_evictions",
            "Half-open flows that were evicted for newer ones, at the last sweep",
            Values::Counter(vec![(Vec::new(), evicted)]),
        );
        snapshot.add(
            "table_shed",
            "Handshakes that newer ones overwrote in a flood; they are among those that were evicted",
            Values::Counter(vec![(Vec::new(), tables.tally(Tally::HalfOpenShed)?)]),
        );
        let mut closed: Vec<_> = REASONS
            .iter()
            .zip(lock(&self.totals).closed)
            .map(|(reason, count)| (reason.name(), count))
            .collect();
        closed.push(("reopened", tables.tally(Tally::FlowsReopened)?));
        closed.push(("deleted", tables.tally(Tally::FlowsDeleted)?));
        closed.push(("evicted", evicted));
        snapshot.add(
            "flows_closed",
            "Flows that are gone, by why",
            Values::Counter(each("reason", closed)),
        );
        Ok(())
    }

    fn add_packets(
        &self,
        snapshot: &mut Snapshot,
        tables: &Tables,
        interfaces: &[Interface],
    ) -> Result<()> {
        let places = (0..MAX_INTERFACES).flat_map(|slot| Hook::ALL.map(|hook| (slot, hook)));
        let counts = places
            .map(|(slot, hook)| tables.packets(slot, hook))
            .collect::<Result<Vec<[u64; Fate::SLOTS]>>>()?;
        let mut packets = Vec::new();
        for Interface { name, slot, .. } in interfaces {
            for hook in Hook::ALL {
                let Some(counts) = counts.get(*slot as usize * 2 + hook as usize) else { continue };
                for fate in Fate::ALL {
                    let labels = vec![
                        ("interface", name.clone()),
                        ("hook", hook.name().to_owned()),
                        ("fate", fate.name().to_owned()),
                    ];
                    packets.push((labels, counts[*fate as usize]));
                }
            }
        }
        snapshot.add(
            "packets",
            "Packets by what became of them; those of an interface stay when it goes",
            Values::Counter(packets),
        );
        let unparsed = lock(&self.unparsed).sum(counts);
        let reasons = Fate::ALL.iter().filter(|fate| is_unparsed(**fate));
        let unparsed = reasons.map(|fate| (fate.name(), unparsed[*fate as usize]));
        snapshot.add(
            "unparsed_packets",
            "Packets of all interfaces that no TCP segment was found in, by why",
            Values::Counter(each("reason", unparsed)),
        );
        Ok(())
    }

    fn evicted_at_last_sweep(&self) -> u64 {
        lock(&self.last).as_ref().map_or(0, |last| last.census.evicted)
    }

    fn add_sweeps(&self, snapshot: &mut Snapshot) {
        let totals = *lock(&self.totals);
        snapshot.add(
            "sweep_flows",
            "What sweeps did with flows: read, removed, or kept because they changed meanwhile or their sockets are there",
            Values::Counter(each(
                "outcome",
                [
                    ("read", totals.read),
                    ("removed", totals.removed),
                    ("changed", totals.changed),
                    ("alive", totals.alive),
                ],
            )),
        );
        snapshot.add(
            "sweep_duration_seconds",
            "How long sweeps took",
            Values::Histogram(self.sweeps.clone()),
        );
        snapshot.add(
            "handshake_duration_seconds",
            "From the SYN to the segment that completed the handshake, counted by the sweep that follows",
            Values::Histogram(self.handshakes.clone()),
        );
    }
}

impl Snapshot {
    fn add(&mut self, name: &'static str, help: &'static str, values: Values) {
        self.0.push(Family { name, help, values });
    }

    fn add_reports(&mut self, tables: &Tables, telemetry: &Telemetry) -> Result<()> {
        let mut breaches = Vec::new();
        for rule in Rule::ALL {
            for hook in Hook::ALL {
                let labels =
                    vec![("name", rule.name().to_owned()), ("direction", hook.name().to_owned())];
                breaches.push((labels, tables.breaches(*rule, hook)?));
            }
        }
        self.add(
            "violations",
            "Breaches of each rule, of every severity",
            Values::Counter(breaches),
        );
        let mut drops = Vec::new();
        for rule in Rule::droppable() {
            let [counted, dropped] = tables.drops(rule)?;
            for (outcome, count) in [("would_drop", counted), ("dropped", dropped)] {
                let labels =
                    vec![("name", rule.name().to_owned()), ("outcome", outcome.to_owned())];
                drops.push((labels, count));
            }
        }
        self.add(
            "drops",
            "Packets that broke a rule of --drop: dropped, or with --drop-dry-run counted",
            Values::Counter(drops),
        );
        let listeners = telemetry.lost.by_listeners.load(Ordering::Relaxed);
        let output = telemetry.lost.by_output.reports_lost();
        self.add(
            "reports_lost",
            "Reports lost: the ring buffer was full, a listener on the socket was too slow, or stdout or stderr was not read",
            Values::Counter(each(
                "stage",
                [
                    ("ring", tables.tally(Tally::ReportsLost)?),
                    ("listener", listeners),
                    ("output", output),
                ],
            )),
        );
        self.add(
            "log_lines_lost",
            "Lines of the agent's log lost, events aside: stderr was not read, or could not be written",
            Values::Counter(vec![(Vec::new(), telemetry.lost.by_output.log_lines_lost())]),
        );
        self.add(
            "reports_withheld",
            "Violations not reported because their flow had them before, or their source too many",
            Values::Counter(each(
                "reason",
                [
                    ("backed_off", tables.tally(Tally::ReportsBackedOff)?),
                    ("limited", tables.tally(Tally::ReportsLimited)?),
                ],
            )),
        );
        Ok(())
    }

    fn add_exports(&mut self, exports: &Exports) {
        let counts = exports.counts();
        let of = |count: fn(&Counts) -> u64| {
            each("exporter", counts.iter().map(|counts| (counts.exporter, count(counts))))
        };
        for (name, help, count) in [
            (
                "export_records",
                "Records that the receiver has",
                (|it| it.sent) as fn(&Counts) -> u64,
            ),
            ("export_bytes", "Bytes of these records", |it| it.sent_bytes),
            ("export_records_lost", "Records that the receiver will not have", |it| it.lost),
            (
                "export_records_rejected",
                "Lost records that the receiver refused for their content",
                |it| it.rejected,
            ),
            ("export_failures", "Attempts to send records that failed", |it| it.failures),
        ] {
            self.add(name, help, Values::Counter(of(count)));
        }
        for (name, help, count) in [
            (
                "export_records_waiting",
                "Records that wait in the agent's memory",
                (|it| it.waiting) as fn(&Counts) -> u64,
            ),
            ("export_spool_records", "Records that wait on disk", |it| it.spooled),
            ("export_spool_bytes", "Bytes of the spool", |it| it.spool_bytes),
        ] {
            self.add(name, help, Values::Gauge(of(count)));
        }
    }

    fn add_programs(
        &mut self,
        interfaces: &[Interface],
        runs: &[Run],
        missing: &BTreeSet<Missing>,
    ) {
        let is_missing = |interface: &Interface, hook: &str| {
            missing.iter().any(|one| one.interface == interface.name && one.hook == hook)
        };
        let mut attached = Vec::new();
        // One that has gone has none; one whose programs have, should have them.
        let should_be_attached =
            |interface: &&Interface| interface.attached || is_missing(interface, "out");
        for interface in interfaces.iter().filter(should_be_attached) {
            let mut add = |hook: &str, mode: &str| {
                let labels = vec![
                    ("interface", interface.name.clone()),
                    ("hook", hook.to_owned()),
                    ("mode", mode.to_owned()),
                ];
                attached.push((labels, u64::from(!is_missing(interface, hook))));
            };
            if let Some(mode) = interface.ingress_hook() {
                add("in", mode);
            }
            add("out", &interface.egress);
            if let Some(mode) = &interface.handover {
                add("handover", mode);
            }
        }
        self.add(
            "program_attached",
            "1 for each program that is attached, 0 for each that should be",
            Values::Gauge(attached),
        );
        let labels = |run: &Run| {
            vec![("interface", run.interface.clone()), ("program", run.program.clone())]
        };
        self.add(
            "program_run_seconds",
            "Time spent in each program, where sysctl kernel.bpf_stats_enabled is 1",
            Values::CounterOfSeconds(runs.iter().map(|run| (labels(run), run.seconds)).collect()),
        );
        self.add(
            "program_runs",
            "Runs of each program, where sysctl kernel.bpf_stats_enabled is 1",
            Values::Counter(runs.iter().map(|run| (labels(run), run.count)).collect()),
        );
    }
}

/// Whether no TCP segment was found in a packet.
fn is_unparsed(fate: Fate) -> bool {
    (Fate::TruncatedEthernet as u8..=Fate::BadTcpHeaderLength as u8).contains(&(fate as u8))
        || fate as u8 == Fate::BadIpv6Address as u8
}

/// A series for each value of one label.
fn each<'a>(
    label: &'static str,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) -> Vec<(Labels, u64)> {
    values.into_iter().map(|(value, count)| (vec![(label, value.to_owned())], count)).collect()
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A family without series is left out: not every reader takes one.
        for family in self.0.iter().filter(|family| !family.values.is_empty()) {
            family.encode(&mut encoder)?;
        }
        Ok(())
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match &self.values {
            Values::Counter(_) | Values::CounterOfSeconds(_) => MetricType::Counter,
            Values::Gauge(_) => MetricType::Gauge,
            Values::Info(_) => MetricType::Info,
            Values::Histogram(_) => MetricType::Histogram,
        };
        // Units are in the names alone: not every reader takes a unit for every type.
        let mut encoder = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        match &self.values {
            Values::Counter(series) => {
                for (labels, value) in series {
                    encoder
                        .encode_family(labels)?
                        .encode_counter::<NoLabelSet, u64, u64>(value, None)?;
                }
            }
            Values::CounterOfSeconds(series) => {
                for (labels, value) in series {
                    encoder
                        .encode_family(labels)?
                        .encode_counter::<NoLabelSet, f64, u64>(value, None)?;
                }
            }
            Values::Gauge(series) => {
                for (labels, value) in series {
                    encoder.encode_family(labels)?.encode_gauge(value)?;
                }
            }
            Values::Info(labels) => encoder.encode_info(labels)?,
            Values::Histogram(histogram) => histogram.encode(encoder)?,
        }
        Ok(())
    }
}
