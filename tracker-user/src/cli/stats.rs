//! `tracker stats`: every counter.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracker_common::{
    counters::{Fate, Hook, Tally},
    protect::Outcome,
    sweep::{Tier, states},
    violation::Rule,
};

use crate::{
    cli::{exit_signals, refusal},
    client::agent::Agent,
    kernel::{attach::Interface, instance::Instance, listeners::ListenerMaps, tables::Tables},
    model::{
        clock::monotonic_ns,
        format::Format,
        listener::{is_on, mode_name, threshold, way_name},
    },
};

/// Options of `tracker stats`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Repeat every SECONDS until Ctrl-C [default without a value: 2]
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = crate::cli::flows::seconds)]
    pub watch: Option<f64>,
    /// Only counters that are not zero
    #[arg(short = 'z', long)]
    pub non_zero: bool,
}

/// Every counter of an agent.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Stats {
    v: u32,
    interfaces: Vec<InterfaceStats>,
    flows: Flows,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookies: Option<Cookies>,
    counters: BTreeMap<&'static str, u64>,
    violations: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Packets that broke a rule of `--drop`: dropped, or with `--drop-dry-run` counted.
    drops: BTreeMap<&'static str, Drops>,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
struct Drops {
    dropped: u64,
    would_drop: u64,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
struct InterfaceStats {
    #[serde(flatten)]
    interface: Interface,
    /// Packets by hook and fate.
    packets: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
}

#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
struct Flows {
    confirmed: u64,
    confirmed_capacity: u32,
    half_open: u64,
    half_open_capacity: u32,
    /// Flows that were evicted from the half-open table for newer ones.
    half_open_evicted: u64,
    /// Ends by state: every flow has two.
    ends: BTreeMap<&'static str, u64>,
}

/// SYN cookies, where listeners are protected by them.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Cookies {
    /// Each of them.
    pub listeners: Vec<ListenerStats>,
    /// Outcomes of all listeners.
    total: BTreeMap<&'static str, u64>,
}

/// A listener that is protected.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListenerStats {
    /// Its address and port.
    pub listener: SocketAddr,
    /// `off`, `auto` or `always`.
    pub mode: &'static str,
    /// Whether SYNs are answered with cookies now.
    pub on: bool,
    /// Whose cookies they are.
    pub way: &'static str,
    /// What the kernel programs found when they last asked.
    listening: bool,
    /// Half-open connections when the host was last asked.
    pub half_open: u32,
    backlog: u32,
    /// Half-open connections that trigger cookies.
    pub threshold: u32,
    outcomes: BTreeMap<&'static str, u64>,
}

impl Cookies {
    /// Those of an agent, where it protects listeners.
    ///
    /// # Errors
    ///
    /// Where its maps cannot be read.
    pub fn of(instance: &Instance) -> Result<Option<Self>> {
        // Maps of programs that protect nothing are empty.
        let maps = ListenerMaps::open(instance)?;
        let cookies = maps.map(|maps| Self::collect(&maps)).transpose()?;
        Ok(cookies.filter(|cookies| !cookies.listeners.is_empty()))
    }

    fn collect(maps: &ListenerMaps) -> Result<Self> {
        let mut cookies = Self::default();
        let now_ns = monotonic_ns();
        for (at, listener) in maps.listeners()? {
            let state = maps.state(listener.index)?;
            let counts = maps.outcomes(listener.index)?;
            let mut outcomes = BTreeMap::new();
            for outcome in Outcome::ALL {
                let count = counts[*outcome as usize];
                outcomes.insert(outcome.name(), count);
                *cookies.total.entry(outcome.name()).or_default() += count;
            }
            cookies.listeners.push(ListenerStats {
                listener: at,
                mode: mode_name(listener.mode)?,
                on: is_on(&listener, &state, now_ns),
                way: way_name(listener.way)?,
                listening: state.is_listening.get() != 0,
                half_open: state.half_open.get(),
                backlog: state.backlog.get(),
                threshold: threshold(&listener, &state),
                outcomes,
            });
        }
        Ok(cookies)
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        for ListenerStats {
            listener,
            mode,
            on,
            way,
            listening,
            half_open,
            backlog,
            threshold,
            outcomes,
        } in &self.listeners
        {
            writeln!(
                out,
                "cookies listener={listener} mode={mode} now={} way={way} listening={} half_open={half_open} \
                 threshold={threshold} backlog={backlog}",
                if *on { "on" } else { "off" },
                if *listening { "yes" } else { "no" },
            )?;
            for (outcome, count) in outcomes.iter().filter(|(_, count)| **count > 0) {
                writeln!(out, "  cookies outcome={outcome} {count}")?;
            }
        }
        for (outcome, count) in &self.total {
            writeln!(out, "cookies outcome={outcome} {count}")?;
        }
        Ok(())
    }
}

impl Stats {
    fn leave_out_zeros(&mut self) {
        self.counters.retain(|_, count| *count > 0);
        let fates = self.interfaces.iter_mut().flat_map(|interface| interface.packets.values_mut());
        fates.chain(self.violations.values_mut()).for_each(|all| all.retain(|_, count| *count > 0));
        self.violations.retain(|_, by_hook| !by_hook.is_empty());
        self.drops.retain(|_, drops| drops.dropped + drops.would_drop > 0);
        let Some(cookies) = &mut self.cookies else { return };
        cookies.total.retain(|_, count| *count > 0);
        cookies.listeners.iter_mut().for_each(|it| it.outcomes.retain(|_, count| *count > 0));
    }
}

/// Reads every counter.
///
/// # Errors
///
/// Where no agent runs, or its maps cannot be read.
pub fn collect(instance: &Instance) -> Result<Stats> {
    let tables = Tables::open(instance)?;
    let agent = Agent::find(instance)?;
    let mut interfaces = Vec::new();
    for interface in agent.interfaces {
        let mut packets = BTreeMap::new();
        for hook in Hook::ALL {
            let counts = tables.packets(interface.slot, hook)?;
            packets.insert(
                hook.name(),
                Fate::ALL.iter().map(|fate| (fate.name(), counts[*fate as usize])).collect(),
            );
        }
        interfaces.push(InterfaceStats { interface, packets });
    }
    let mut flows = Flows {
        confirmed_capacity: tables.capacity(Tier::Confirmed)?,
        half_open_capacity: tables.capacity(Tier::HalfOpen)?,
        ..Flows::default()
    };
    tables.each_flow(|_, flow, tier| {
        match tier {
            Tier::Confirmed => flows.confirmed += 1,
            Tier::HalfOpen => flows.half_open += 1,
        }
        for state in states(flow) {
            *flows.ends.entry(state.name()).or_default() += 1;
        }
    })?;
    flows.half_open_evicted = tables.half_open_evicted(flows.half_open)?;
    let cookies = Cookies::of(instance)?;
    let counters = Tally::ALL
        .iter()
        .map(|tally| Ok((tally.name(), tables.tally(*tally)?)))
        .collect::<Result<_>>()?;
    let mut violations = BTreeMap::new();
    for rule in Rule::ALL {
        let by_hook = Hook::ALL
            .iter()
            .map(|hook| Ok((hook.name(), tables.breaches(*rule, *hook)?)))
            .collect::<Result<_>>()?;
        violations.insert(rule.name(), by_hook);
    }
    let drops = Rule::droppable()
        .map(|rule| {
            let [would_drop, dropped] = tables.drops(rule)?;
            Ok((rule.name(), Drops { dropped, would_drop }))
        })
        .collect::<Result<_>>()?;
    Ok(Stats { v: 1, interfaces, flows, cookies, counters, violations, drops })
}

/// Prints the counters.
///
/// # Errors
///
/// As [`collect`], and where stdout cannot be written.
pub async fn run(options: &Options, instance: &Instance) -> Result<()> {
    let Some(every) = options.watch else { return print(options, instance, "") };
    if options.output == Format::Json {
        let said = "--watch is a stream, and one JSON document is none: `-o jsonl`";
        return Err(refusal("stats", ErrorKind::ArgumentConflict, said));
    }
    exit_signals::exit_on_signal()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = interval(Duration::from_secs_f64(every));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = interrupt.recv() => return Ok(()),
        }
        let head = match options.output {
            Format::Text if io::stdout().is_terminal() => {
                // Home, and what was there is gone.
                format!("\x1b[H\x1b[2Jevery {every} s: counters at {:.0}\n\n", Timestamp::now())
            }
            Format::Text => format!("counters at {:.0}\n", Timestamp::now()),
            _ => String::new(),
        };
        print(options, instance, &head)?;
    }
}

/// Prints them once.
fn print(options: &Options, instance: &Instance, head: &str) -> Result<()> {
    let mut stats = collect(instance)?;
    if options.non_zero {
        stats.leave_out_zeros();
    }
    let mut out = io::stdout().lock();
    out.write_all(head.as_bytes()).context("writing to stdout")?;
    match options.output {
        Format::Text => write_text(&mut out, &stats),
        Format::Json => serde_json::to_writer_pretty(&mut out, &stats)
            .map_err(Into::into)
            .and_then(|()| writeln!(out)),
        Format::Jsonl => {
            serde_json::to_writer(&mut out, &stats).map_err(Into::into).and_then(|()| writeln!(out))
        }
    }
    .context("writing to stdout")
}

/// One counter a line, zeroes left out where a line says nothing without them.
fn write_text(out: &mut impl Write, stats: &Stats) -> io::Result<()> {
    for InterfaceStats { interface, packets } in &stats.interfaces {
        let xdp = interface.xdp.as_deref().unwrap_or("none");
        write!(out, "interface={} xdp={xdp}", interface.name)?;
        if let Some(ingress) = &interface.ingress {
            write!(out, " ingress={ingress}")?;
        }
        write!(out, " egress={}", interface.egress)?;
        if !interface.attached {
            write!(out, " attached=no")?;
        }
        match &interface.handover {
            Some(handover) => writeln!(out, " handover={handover}")?,
            None => writeln!(out)?,
        }
        for (hook, fates) in packets {
            for (fate, count) in fates.iter().filter(|(_, count)| **count > 0) {
                writeln!(out, "  packets hook={hook} fate={fate} {count}")?;
            }
        }
    }
    let flows = &stats.flows;
    writeln!(out, "flows confirmed={} of {}", flows.confirmed, flows.confirmed_capacity)?;
    let Flows { half_open, half_open_capacity, half_open_evicted, .. } = flows;
    writeln!(
        out,
        "flows half_open={half_open} of {half_open_capacity}, evicted {half_open_evicted}"
    )?;
    for (state, count) in &flows.ends {
        writeln!(out, "  ends state={state} {count}")?;
    }
    if let Some(cookies) = &stats.cookies {
        cookies.write_text(out)?;
    }
    for (name, count) in &stats.counters {
        writeln!(out, "counter {name} {count}")?;
    }
    for (name, by_hook) in &stats.violations {
        for (hook, count) in by_hook.iter().filter(|(_, count)| **count > 0) {
            writeln!(out, "violations name={name} direction={hook} {count}")?;
        }
    }
    for (name, Drops { dropped, would_drop }) in &stats.drops {
        for (outcome, count) in [("dropped", dropped), ("would_drop", would_drop)] {
            if *count > 0 {
                writeln!(out, "drops name={name} outcome={outcome} {count}")?;
            }
        }
    }
    Ok(())
}
