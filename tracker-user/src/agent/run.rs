//! `tracker run`: the agent.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use aya::maps::{Map, MapData, RingBuf};
use nix::sys::signal::Signal;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracker_common::{
    config::LiveConfig,
    counters::{Hook, Tally},
    event::{Event as Raw, Kind},
    flow::Flow,
    key::FlowKey,
    state::State,
    sweep::{Removal, Timeouts},
    violation::Rule,
};
use zerocopy::FromBytes;

use crate::{
    agent::{ending::Ending, settings::Current},
    attach::{Attaching, EgressChoice, Sizes},
    broken::Broken,
    client::agent::Agent,
    clock::Clock,
    condition::{Condition, is_shortage},
    event::{Event, Stage},
    filter::Filter,
    hub::{Deletion, Hub},
    instance::{Claim, Instance},
    interfaces::{
        Interfaces,
        changes::Changes,
        presence::OnDetach,
        wanted::{Name, Wanted},
    },
    kernel::{protection::Prepared, way_in::WayIn},
    kernel_side::{
        self, Found,
        kept::{KeptPins, MapIds, ensure_pinned},
    },
    kfunc::{self, Patched},
    map_forms,
    metrics::{self, Lost, REASONS, Telemetry, address::MetricsAddress, server::Endpoint},
    model::format::Format,
    object, preflight, privileges,
    protect::{self, warden::Warden},
    reap::{Reaped, Reaper, SWEEP_INTERVAL, Sweep},
    record::{Record, View},
    reload::{Changed, Reload, Reread},
    reported::Reported,
    service::{self, Watchdog},
    survey::{Limits, Sources, Survey},
    tables::Tables,
    warnings::Warnings,
    writer::{self, Content, OnError, Writers},
};

/// Reports taken from the ring buffer before other things get their turn.
const BURST: usize = 4096;

/// Events of removed flows that wait to be told; whoever removes more waits, too. A table of millions may end at once.
const REMOVED: usize = 16_384;

/// Options of `tracker run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Configuration file: these flags by their long names, as in `protect = ["80,443"]`; the command line wins [default:
    /// /etc/tracker/tracker.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Interfaces to attach to, by name or pattern (`'veth*'`), also those that appear later; repeatable
    #[arg(
        short,
        long = "interface",
        required = true,
        value_delimiter = ',',
        value_name = "NAME[,NAME]"
    )]
    pub interfaces: Vec<Name>,
    /// Wait for missing interfaces instead of refusing to start
    #[arg(long)]
    pub wait_for_interfaces: bool,
    /// Leave the kernel side attached after SIGTERM or an error, for the next agent of this name
    #[arg(long)]
    pub keep_attached: bool,
    /// Where arriving packets are seen.
    #[command(flatten)]
    pub way_in: WayIn,
    /// Hook for leaving packets
    #[arg(long, value_enum, default_value_t)]
    pub egress: EgressChoice,
    /// If programs of the agent disappear from an existing interface; it looks every two seconds
    #[arg(long, value_enum, default_value_t)]
    pub on_detach: OnDetach,
    /// Zone of the interfaces' flows: equal addresses in different zones are different connections
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub zone: u16,
    /// Events to write
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "EVENT[,EVENT]",
        default_value = "violation"
    )]
    pub events: Vec<EventName>,
    /// Output format of events: `text` as log lines on stderr, `jsonl` on stdout
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// If stdout or stderr cannot be written: a closed pipe, a full disk. A stalled reader loses reports, and the agent counts them
    #[arg(long, value_enum, default_value_t)]
    pub on_output_error: OnError,
    /// Seconds between sweeps; longer if millions of flows would make that a load
    #[arg(long, default_value_t = SWEEP_INTERVAL.as_secs_f64(), value_parser = seconds, value_name = "SECONDS")]
    pub sweep_interval: f64,
    /// Report every violation, even if the same flow repeats it
    #[arg(long)]
    pub every: bool,
    /// Reports per second about one source, on average; 0 for no limit. All violations are counted
    #[arg(long, default_value_t = 10, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub report_rate: u32,
    /// Reports about one source in a burst
    #[arg(long, default_value_t = 100, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub report_burst: u32,
    /// Serve /metrics for Prometheus, /healthz and /readyz at an address, a port, or both [default without a value:
    /// 127.0.0.1:9469]
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = metrics::address::DEFAULT)]
    pub metrics: Option<MetricsAddress>,
    /// Log debug messages of the kernel programs, at a cost per packet
    #[arg(long)]
    pub kernel_log: bool,
    /// SYN cookies.
    #[command(flatten)]
    pub protect: protect::Options,
    /// Rules.
    #[command(flatten)]
    pub reported: Reported,
    /// Limits of floods and scans.
    #[command(flatten)]
    pub limits: Limits,
    /// Sizes.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Timeouts.
    #[command(flatten)]
    pub timeouts: TimeoutOptions,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.01..=3600.0).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0.01 to 3600".to_owned()),
    }
}

/// Nanoseconds between two of `rate` reports a second; 0 for no limit.
fn interval_ns(rate: u32) -> u64 {
    1_000_000_000_u64.checked_div(rate.into()).unwrap_or_default()
}

/// The kinds of events by their names on the command line.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum EventName {
    /// First packet of a connection
    New,
    /// Both ends are ESTABLISHED
    Established,
    /// First FIN or RST
    Closing,
    /// End of a connection: closed, expired, or replaced by a newer one
    Destroy,
    /// Breach of a rule of the protocol
    Violation,
    /// Start or end of SYN cookies for a listener
    Cookie,
    /// Each segment: high volume
    Segment,
    /// All kinds except segments
    All,
}

impl EventName {
    /// The kinds that the names stand for.
    #[must_use]
    pub fn kinds(names: &[Self]) -> Vec<Kind> {
        Kind::ALL
            .into_iter()
            .filter(|kind| {
                names.iter().any(|name| match name {
                    Self::New => *kind == Kind::New,
                    Self::Established => *kind == Kind::Established,
                    Self::Closing => *kind == Kind::Closing,
                    Self::Destroy => *kind == Kind::Destroy,
                    Self::Violation => *kind == Kind::Violation,
                    Self::Cookie => *kind == Kind::Cookie,
                    Self::Segment => *kind == Kind::Segment,
                    Self::All => *kind != Kind::Segment,
                })
            })
            .collect()
    }
}

macro_rules! timeout_options {
    ($($field:ident: $state:ident, $default:literal, $doc:literal;)*) => {
        /// Seconds without a renewing segment after which a flow is removed. Of its ends' states the shorter counts.
        #[derive(Clone, Copy, Debug, clap::Args)]
        #[command(next_help_heading = "Timeouts, in seconds")]
        pub struct TimeoutOptions {
            $(
                #[doc = $doc]
                #[arg(long, default_value_t = $default, value_name = "SECONDS")]
                #[arg(value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
                pub $field: u32,
            )*
        }

        impl TimeoutOptions {
            /// As the rules want them.
            #[must_use]
            pub fn timeouts(&self) -> Timeouts {
                let mut timeouts = Timeouts::default();
                $(timeouts.seconds[State::$state as usize] = self.$field;)*
                timeouts
            }
        }
    };
}

timeout_options! {
    timeout_syn_sent: SynSent, 60, "SYN_SENT";
    timeout_syn_received: SynReceived, 60, "SYN_RECEIVED";
    timeout_established: Established, 7440, "ESTABLISHED";
    timeout_fin_wait_1: FinWait1, 60, "FIN_WAIT_1";
    timeout_fin_wait_2: FinWait2, 60, "FIN_WAIT_2";
    timeout_close_wait: CloseWait, 7440, "CLOSE_WAIT";
    timeout_closing: Closing, 60, "CLOSING";
    timeout_last_ack: LastAck, 60, "LAST_ACK";
    timeout_time_wait: TimeWait, 60, "TIME_WAIT, which is 2MSL";
    timeout_closed: Closed, 10, "CLOSED";
}

/// Runs the agent with these settings until SIGINT or SIGTERM. On SIGHUP it calls `reread`, which returns them as the
/// configuration file has them then. Whatever becomes of what `writers` write, it goes on, unless it is asked to end.
///
/// # Errors
///
/// What keeps it from starting, or ends it. Nothing stays attached, but what was left before where this one could not take
/// it over, or everything where that is asked for.
pub async fn run(
    current: Current,
    instance: &Instance,
    reread: Reread,
    writers: &Writers,
) -> Result<()> {
    let Current { options, settings, .. } = current;
    preflight::check()?;
    preflight::raise_open_files()?;
    let Fit { wanted, changes, names, prepared } = fit(&options).await?;
    let metrics = match options.metrics {
        Some(at) => Some(metrics::server::bind(at).await?),
        None => None,
    };
    // Listen to signals before anything is claimed or attached, so that none leaves something behind.
    let mut reload = Reload::new(reread, settings)?;
    let ending = Ending::watch()?;
    let mut claim = instance.claim()?;

    let object = if options.kernel_log { object::WITH_LOG } else { object::PLAIN };
    let patched = prepared
        .and_then(|prepared| prepared.assign)
        .map(|assign| Patched::new(object, kfunc::ASSIGN_PLACEHOLDER, assign))
        .transpose()?;
    let attaching = Attaching {
        object: patched.as_ref().map_or(object, Patched::octets),
        instance,
        sizes: &options.sizes,
        zone: options.zone,
        way_in: options.way_in,
        egress: options.egress,
        protecting: prepared,
    };
    let inherited = kernel_side::inherit(instance, &options.sizes).await?;
    // Others are replaced, and this is new where they are.
    claim.keep()?;
    let is_taking_over = inherited.found == Found::Running;
    let predecessor = if is_taking_over { Agent::find(instance).ok() } else { None };
    let mut interfaces = Interfaces::new(attaching, wanted, changes, options.kernel_log);
    let mut leaves = false;
    let outcome = match interfaces.begin(&names, &inherited, &ending).await {
        Err(_) if ending.signal().is_some() => {
            leaves = is_taking_over && ending.signal() == Some(Signal::SIGTERM);
            Ok(())
        }
        Err(error) if is_taking_over || !inherited.replaced.is_empty() => {
            let error = error.context(format!(
                "what the agent before this one has left goes on, and this one cannot take it over (`tracker --instance {} \
                 detach` removes it)",
                instance.name()
            ));
            leaves = is_taking_over;
            Err(error)
        }
        Err(error) => Err(error),
        Ok(()) => {
            privileges::drop_others()?;
            let lost_told = predecessor.map_or(0, |agent| agent.lost_told);
            leaves = options.keep_attached;
            let start =
                Start { options: &options, instance, lost_told, prepared, metrics, writers };
            tokio::select! {
                result = work(start, &mut interfaces, &mut reload, &mut claim) => result,
                signal = ending.asked() => {
                    leaves &= signal == Signal::SIGTERM;
                    Ok(())
                }
            }
        }
    };
    drop(ending);
    service::stopping();
    if leaves || claim.is_displaced() {
        if outcome.is_ok() {
            tracing::info!(
                "ended; what is in the kernel stays at work for the next agent of this name (`tracker --instance {} \
                 detach` removes it)",
                instance.name()
            );
        }
        return outcome;
    }
    let removed = kernel_side::remove(&instance.pins()).await.and_then(|_| claim.remove_info());
    if outcome.is_ok() {
        removed?;
        tracing::info!("detached");
    } else if let Err(error) = removed {
        tracing::error!("removing what was attached: {error:#}");
    }
    outcome
}

/// What an agent begins its work with.
struct Start<'a> {
    options: &'a Options,
    instance: &'a Instance,
    /// Lost reports that the previous agent has announced.
    lost_told: u64,
    prepared: Option<Prepared>,
    metrics: Option<Endpoint>,
    writers: &'a Writers,
}

async fn work(
    start: Start<'_>,
    interfaces: &mut Interfaces<'_>,
    reload: &mut Reload,
    claim: &mut Claim,
) -> Result<()> {
    let Start { options, instance, lost_told, prepared, metrics, writers } = start;
    let (settings, reaper_settings) = watch::channel(options.clone());
    let pins = instance.pins();
    let timeouts = options.timeouts.timeouts();
    let agent = RefCell::new(Agent { lost_told, ..Agent::new(interfaces.list(), &timeouts) });
    let mut output = Output::new(options, writers);

    let mut warden = match &prepared {
        Some(prepared) => {
            let clients = agent.borrow().client_interfaces();
            Some(Warden::new(&options.protect, prepared, &pins, clients)?)
        }
        None => None,
    };
    let config = Mutex::new(Tables::from_pins(&pins)?);
    let live = Arc::new(Mutex::new(live_config(options)));
    let told_live = Arc::clone(&live);
    let (wish, deletions) = mpsc::channel(1);
    let own = own_kinds(&output, warden.is_some());
    let tell = move |events, trace| {
        let mut tables = config.lock().unwrap_or_else(PoisonError::into_inner);
        let live = *told_live.lock().unwrap_or_else(PoisonError::into_inner);
        let config = LiveConfig { events, trace, ..live };
        if let Err(error) = tables.configure(config) {
            tracing::error!("telling the kernel which events are wanted: {error:#}");
        }
    };
    let hub = Hub::new(&own, tell, pins.clone(), wish);
    let socket = instance.socket();
    let serving = hub.clone().serve(&socket);
    tokio::pin!(serving);
    // The socket exists once the future was polled; only then may others be told.
    tokio::select! {
        biased;
        result = &mut serving => return result,
        () = std::future::ready(()) => {}
    }
    agent.borrow().publish(&instance.info())?;
    for interface in agent.borrow().interfaces.iter().filter(|interface| interface.attached) {
        tracing::info!(
            interface = interface.name,
            ingress = interface.way_in().unwrap_or("none: every packet of loopback passes egress"),
            egress = interface.egress,
            "attached"
        );
    }

    if let Some(warden) = &mut warden {
        for event in warden.begin().await? {
            publish(&hub, &output, Kind::Cookie, &event)?;
        }
        tracing::info!(places = warden.count(), "listeners are protected by SYN cookies");
    }

    let telemetry = match metrics {
        Some(Endpoint { listener, since_ns }) => {
            let lost = Lost { by_listeners: hub.lost(), by_output: writers.clone() };
            let telemetry = Telemetry::new(pins.clone(), options.sweep_interval, since_ns, lost);
            let telemetry = Arc::new(telemetry);
            telemetry.attached(interfaces.list(), interfaces.attached())?;
            tracing::info!(at = %listener.local_addr()?, "metrics are served");
            // Aborted with the runtime.
            tokio::spawn(metrics::server::serve(listener, Arc::clone(&telemetry)));
            Some(telemetry)
        }
        None => None,
    };

    let kept = KeptPins::of(&pins)?;
    let (removed, mut reaped) = mpsc::channel(REMOVED);
    let watchdog = Watchdog::new(options.sweep_interval);
    let (taken_over, mut is_taken_over) = mpsc::channel(1);
    let reaper = reap_for_ever(
        Orders { settings: reaper_settings, taken_over, deletions, maps: kept.ids()? },
        &pins,
        &agent,
        &hub,
        telemetry.as_deref(),
        &watchdog,
        removed,
    );
    tokio::pin!(reaper);
    let ring = RingBuf::try_from(Map::RingBuf(map_forms::open(&pins.join("EVENTS"))?))?;
    // SAFETY: the ring owns its descriptor and keeps it open for as long as it lives.
    let mut events = unsafe { AsyncFd::register(ring) }?;
    let mut lost = LostReports {
        tables: Tables::from_pins(&pins)?,
        agent: &agent,
        instance,
        publishing: Condition::default(),
        output_told: 0,
        log_lines_told: 0,
    };
    let mut trouble = OutputTrouble::default();
    let mut reloaded: Option<Changed> = None;
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tenth = interval(Duration::from_millis(100));
    tenth.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut upkeep = Upkeep {
        instance,
        kept,
        on_detach: options.on_detach,
        trouble: Condition::default(),
        has_lost_sight: false,
        looked: Instant::now(),
    };
    let mut warnings = Warnings::new(&lost.tables, options.sizes)?;
    let mut check = interval(CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut publishing = Condition::default();
    service::ready();
    loop {
        tokio::select! {
            result = &mut serving => return result,
            result = &mut reaper => return result,
            ready = events.readable_mut() => {
                let mut ready = ready?;
                if drain(ready.get_inner_mut(), &agent.borrow().view(), &hub, &output, warden.as_mut())? {
                    ready.clear_ready();
                }
                tokio::task::yield_now().await;
            }
            why = writers.failed(), if output.on_error == OnError::Exit => bail!("{why}"),
            (current, changed) = reload.asked_for(), if reloaded.is_none() => {
                output = Output::new(&current, writers);
                *live.lock().unwrap_or_else(PoisonError::into_inner) = live_config(&current);
                hub.want(&own_kinds(&output, warden.is_some()));
                upkeep.on_detach = current.on_detach;
                agent.borrow_mut().set_timeouts(&current.timeouts.timeouts());
                publish_info(&agent.borrow(), instance, &mut publishing);
                watchdog.swept_every(current.sweep_interval);
                if let Some(telemetry) = &telemetry {
                    telemetry.swept_every(current.sweep_interval);
                }
                // Its receiver lives as long as this future.
                let _ = settings.send(current);
                reloaded = Some(changed);
            }
            Some(()) = is_taken_over.recv() => {
                // Whoever reads this finds the new values everywhere.
                if let Some(changed) = reloaded.take() {
                    changed.say();
                    service::ready();
                }
            }
            () = watchdog.due() => {}
            Some((kind, event)) = reaped.recv() => publish(&hub, &output, kind, &event)?,
            change = interfaces.changed() => {
                upkeep.prepare(claim)?;
                let has_changed = match change {
                    Ok(change) => interfaces.follow(&change).await,
                    Err(error) => Err(error),
                };
                let is_change = upkeep.followed(has_changed);
                if is_change || upkeep.is_time() {
                    check.reset_immediately();
                }
                if is_change {
                    note_interfaces(interfaces, &agent, telemetry.as_deref(), warden.as_mut());
                    publish_info(&agent.borrow(), instance, &mut publishing);
                    upkeep.update();
                }
            }
            _ = check.tick() => {
                if upkeep.look(claim, interfaces, telemetry.as_deref()).await? {
                    note_interfaces(interfaces, &agent, telemetry.as_deref(), warden.as_mut());
                    publish_info(&agent.borrow(), instance, &mut publishing);
                    upkeep.update();
                }
                if publishing.lasts() || !instance.info().exists() {
                    publish_info(&agent.borrow(), instance, &mut publishing);
                }
            }
            _ = second.tick() => {
                trouble.tell(writers);
                lost.report(&hub, &output)?;
                warnings.look(&lost.tables)?;
                if let Some(warden) = &mut warden {
                    for event in warden.look().await {
                        publish(&hub, &output, Kind::Cookie, &event)?;
                    }
                }
            }
            _ = tenth.tick(), if warden.is_some() => {
                if let Some(warden) = &mut warden {
                    for event in warden.poll()? {
                        publish(&hub, &output, Kind::Cookie, &event)?;
                    }
                }
            }
        }
    }
}

/// Between two looks at what the agent claims to have: its programs, pins, lock and files.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Keeps what the agent claims to have.
struct Upkeep<'a> {
    instance: &'a Instance,
    kept: KeptPins,
    on_detach: OnDetach,
    trouble: Condition,
    /// Whether a change of interfaces could not be followed, so that all of them must be looked at.
    has_lost_sight: bool,
    looked: Instant,
}

impl Upkeep<'_> {
    /// Whether interfaces have changed, as far as that could be followed.
    fn followed(&mut self, outcome: Result<bool>) -> bool {
        match outcome {
            Ok(has_changed) => has_changed,
            Err(error) => {
                tracing::error!("following interfaces: {error:#}; this is tried again");
                self.has_lost_sight = true;
                true
            }
        }
    }

    /// Whether it may look again: interfaces may change often.
    fn is_time(&self) -> bool {
        self.looked.elapsed() >= CHECK_INTERVAL / 8
    }

    /// Looks, and makes anew what was removed. True where interfaces were attached to.
    ///
    /// # Errors
    ///
    /// Where another agent has the name now.
    async fn look(
        &mut self,
        claim: &mut Claim,
        interfaces: &mut Interfaces<'_>,
        telemetry: Option<&Telemetry>,
    ) -> Result<bool> {
        self.looked = Instant::now();
        let outcome = self.keep(claim, interfaces, telemetry).await;
        if claim.is_displaced() {
            return outcome;
        }
        match outcome {
            Ok(has_changed) => {
                if self.trouble.end().is_some() {
                    tracing::info!(
                        "what the agent has in the kernel and in its directories is as it should be again"
                    );
                }
                Ok(has_changed)
            }
            Err(error) => {
                if self.trouble.seen(1, std::time::Instant::now()) {
                    tracing::error!(
                        "looking after what the agent has in the kernel and in its directories: {error:#}; this is tried again"
                    );
                }
                Ok(false)
            }
        }
    }

    /// Makes sure that programs which are loaded now get the agent's maps.
    ///
    /// # Errors
    ///
    /// Where another agent has the name now.
    fn prepare(&mut self, claim: &mut Claim) -> Result<()> {
        match self.keep_pins(claim) {
            Err(error) if claim.is_displaced() => Err(error),
            // What it is about is said when it is looked at next.
            _ => Ok(()),
        }
    }

    fn keep_pins(&mut self, claim: &mut Claim) -> Result<()> {
        for made in claim.keep()? {
            tracing::warn!(path = %made.display(), "it was removed, and is made anew");
        }
        let restored = self.kept.restore()?;
        if restored > 0 {
            tracing::warn!(
                pins = %self.instance.pins().display(),
                "{restored} pins of maps were removed, and are made anew"
            );
        }
        Ok(())
    }

    async fn keep(
        &mut self,
        claim: &mut Claim,
        interfaces: &mut Interfaces<'_>,
        telemetry: Option<&Telemetry>,
    ) -> Result<bool> {
        let kept = self.keep_pins(claim).and_then(|()| interfaces.keep_slots());
        if claim.is_displaced() {
            return kept.map(|()| false);
        }
        let missing = interfaces.missing().await?;
        if let Some(telemetry) = telemetry {
            telemetry.missing(missing.clone());
        }
        // Programs that are loaded without the agent's maps would count in others.
        kept?;
        let mut has_changed = false;
        if self.has_lost_sight {
            has_changed = interfaces.look_anew().await?;
            self.has_lost_sight = false;
        }
        if self.on_detach == OnDetach::Reattach {
            has_changed |= interfaces.attach_again(&missing).await?;
        }
        // Where somebody removed pins while programs were loaded, those programs count in maps of their own.
        if has_changed && self.kept.restore()? > 0 {
            tracing::warn!(
                "pins of maps were removed while programs were loaded: all interfaces are attached to again"
            );
            interfaces.look_anew().await?;
        }
        if has_changed && let Some(telemetry) = telemetry {
            telemetry.missing(interfaces.missing().await?);
        }
        Ok(has_changed)
    }

    /// Holds what has come with an interface.
    fn update(&mut self) {
        if let Err(error) = self.kept.update() {
            tracing::error!("holding the pins of maps: {error:#}");
        }
    }
}

/// Others learn which interfaces there are now.
fn note_interfaces(
    interfaces: &Interfaces<'_>,
    agent: &RefCell<Agent>,
    telemetry: Option<&Telemetry>,
    warden: Option<&mut Warden>,
) {
    agent.borrow_mut().interfaces = interfaces.list();
    if let Some(telemetry) = telemetry
        && let Err(error) = telemetry.attached(interfaces.list(), interfaces.attached())
    {
        tracing::error!("metrics of interfaces that have changed: {error:#}");
    }
    if let Some(warden) = warden {
        warden.set_interfaces(agent.borrow().client_interfaces());
    }
}

/// Tells other commands. A directory that cannot be written stops nothing.
fn publish_info(agent: &Agent, instance: &Instance, trouble: &mut Condition) {
    match agent.publish(&instance.info()) {
        Ok(()) => {
            if trouble.end().is_some() {
                tracing::info!("other commands are told of this agent again");
            }
        }
        Err(error) => {
            if trouble.seen(1, std::time::Instant::now()) {
                tracing::error!("telling other commands of this agent: {error:#}");
            }
        }
    }
}

/// What the kernel is told, besides which events are wanted.
fn live_config(options: &Options) -> LiveConfig {
    LiveConfig {
        reported: options.reported.rules(),
        source_interval_ns: interval_ns(options.report_rate),
        source_burst_ns: interval_ns(options.report_rate) * u64::from(options.report_burst),
        no_back_off: u32::from(options.every),
        ..LiveConfig::default()
    }
}

/// The events that the agent wants for itself.
fn own_kinds(output: &Output, protects: bool) -> Vec<Kind> {
    let mut own = output.kinds.clone();
    if protects && !own.contains(&Kind::Cookie) {
        // What the agent must know itself, to tell when they end.
        own.push(Kind::Cookie);
    }
    own
}

/// Passes on what the ring buffer holds, up to a burst; true where it is empty.
fn drain(
    events: &mut RingBuf<MapData>,
    view: &View,
    hub: &Hub,
    output: &Output,
    mut warden: Option<&mut Warden>,
) -> Result<bool> {
    for _ in 0..BURST {
        // Held until it was passed on: what a killed agent had not, the next one does.
        let Some(item) = events.next() else { return Ok(true) };
        let Ok(raw) = Raw::read_from_bytes(&item) else {
            tracing::error!(
                octets = item.len(),
                "a report of a length that this version does not know"
            );
            continue;
        };
        if let Some(warden) = &mut warden
            && raw.kind == Kind::Cookie as u8
        {
            for event in warden.began(&raw, view) {
                publish(hub, output, Kind::Cookie, &event)?;
            }
            continue;
        }
        match (Kind::from_code(raw.kind), Event::from_kernel(&raw, view)) {
            (Some(kind), Ok(event)) => publish(hub, output, kind, &event)?,
            (_, Err(error)) => {
                tracing::error!("a report that this version does not know: {error:#}");
            }
            (None, Ok(_)) => {}
        }
    }
    Ok(false)
}

/// What the agent itself writes.
struct Output {
    kinds: Vec<Kind>,
    format: Format,
    on_error: OnError,
    writers: Writers,
}

impl Output {
    fn new(options: &Options, writers: &Writers) -> Self {
        Self {
            kinds: EventName::kinds(&options.events),
            format: options.output,
            on_error: options.on_output_error,
            writers: writers.clone(),
        }
    }

    fn write(&self, event: &Event, warn: bool) -> Result<()> {
        match self.format {
            Format::Text if warn => tracing::warn!(target: writer::VIOLATION, "{event:#}"),
            Format::Text => tracing::info!(target: writer::EVENT, "{event:#}"),
            Format::Json | Format::Jsonl => self.write_json(Content::Report, event)?,
        }
        Ok(())
    }

    fn write_json(&self, content: Content, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.writers.out.write(content, line);
        Ok(())
    }

    /// Writes that reports were lost, which is no report itself; false where it would be lost, too.
    fn tell_lost(&self, event: &Event) -> Result<bool> {
        let is_text = self.format == Format::Text;
        let writer = if is_text { &self.writers.err } else { &self.writers.out };
        if !writer.has_room() {
            return Ok(false);
        }
        if is_text {
            tracing::warn!("{event:#}");
        } else {
            self.write_json(Content::Log, event)?;
        }
        Ok(true)
    }
}

/// Says once that stdout cannot be written, and once that it can again. Where stderr cannot, nobody would hear it.
#[derive(Default)]
struct OutputTrouble {
    is_told: bool,
}

impl OutputTrouble {
    fn tell(&mut self, writers: &Writers) {
        match (writers.out.error(), self.is_told) {
            (Some(error), false) => {
                tracing::error!(
                    "stdout cannot be written: {error}. Tracking goes on, and what it does not take is counted as lost \
                     (`--on-output-error exit` ends the agent)"
                );
                self.is_told = true;
            }
            (None, true) => {
                tracing::info!("stdout can be written again");
                self.is_told = false;
            }
            _ => {}
        }
    }
}

fn publish(hub: &Hub, output: &Output, kind: Kind, event: &Event) -> Result<()> {
    if output.kinds.contains(&kind) {
        output.write(event, kind == Kind::Violation)?;
    }
    hub.send(Some(kind), event);
    Ok(())
}

/// Reports that found the ring buffer full, which the kernel counts, and those that the agent's output did not take. They are announced
/// once a second.
struct LostReports<'a> {
    tables: Tables,
    /// With the number of those that were told.
    agent: &'a RefCell<Agent>,
    instance: &'a Instance,
    publishing: Condition,
    output_told: u64,
    log_lines_told: u64,
}

impl LostReports<'_> {
    fn report(&mut self, hub: &Hub, output: &Output) -> Result<()> {
        let now = self.tables.tally(Tally::ReportsLost)?;
        let told = self.agent.borrow().lost_told;
        if now > told {
            let event = Event::lost(now - told, Stage::Ring, &Clock::now());
            self.agent.borrow_mut().lost_told = now;
            output.write(&event, true)?;
            hub.send(None, &event);
            // For the next agent, should this one be killed.
            publish_info(&self.agent.borrow(), self.instance, &mut self.publishing);
        }
        self.report_output(output)
    }

    /// Listeners on the socket have lost none of these.
    fn report_output(&mut self, output: &Output) -> Result<()> {
        let lost = output.writers.reports_lost();
        if lost > self.output_told {
            let event = Event::lost(lost - self.output_told, Stage::Output, &Clock::now());
            if output.tell_lost(&event)? {
                self.output_told = lost;
            }
        }
        let lines = output.writers.log_lines_lost();
        if lines > self.log_lines_told && output.writers.err.has_room() {
            tracing::warn!("{} lines of this log were lost", lines - self.log_lines_told);
            self.log_lines_told = lines;
        }
        Ok(())
    }
}

/// How often loading what sweeps is tried where nothing runs short.
const ATTEMPTS: u32 = 10;

/// What is asked of the sweeps while they go on.
struct Orders {
    settings: watch::Receiver<Options>,
    /// Notified when sweeps use new settings.
    taken_over: mpsc::Sender<()>,
    /// What is swept.
    maps: MapIds,
    deletions: mpsc::Receiver<Deletion>,
}

/// Sweeps the tables at every interval, on a thread of its own: reading a million flows takes a while.
async fn reap_for_ever(
    orders: Orders,
    pins: &Path,
    agent: &RefCell<Agent>,
    hub: &Hub,
    telemetry: Option<&Telemetry>,
    watchdog: &Watchdog,
    told: mpsc::Sender<(Kind, Event)>,
) -> Result<()> {
    let Orders { mut settings, taken_over, mut deletions, maps } = orders;
    let mut options = settings.borrow_and_update().clone();
    // The verifier takes a while, and events wait for nobody.
    let (at, sizes, timeouts) = (pins.to_owned(), options.sizes, options.timeouts.timeouts());
    let mut trouble = Condition::default();
    let mut attempts = 0;
    let mut reaper = loop {
        let (at, maps) = (at.clone(), maps.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let reaper = Reaper::new(&at, &sizes, timeouts)?;
            ensure_pinned(&maps)?;
            anyhow::Ok(reaper)
        });
        attempts += 1;
        match loading.await? {
            Ok(reaper) => break reaper,
            // The pins may be gone, and are made anew.
            Err(error) if is_shortage(&error) || attempts < ATTEMPTS => {
                if trouble.seen(1, std::time::Instant::now()) {
                    tracing::error!(
                        "loading what is needed for sweeping: {error:#}; this is tried again"
                    );
                }
                sleep_until(Instant::now() + SWEEP_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    };
    if let Some(telemetry) = telemetry {
        reaper.take_census(telemetry.since_ns());
    }
    let mut survey = Survey::new(options.limits);
    let mut sources = sources(&options);
    let mut tables = Tables::from_pins(pins)?;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            Ok(()) = settings.changed() => {
                options = settings.borrow_and_update().clone();
                reaper.set_timeouts(options.timeouts.timeouts());
                survey.set_limits(options.limits);
                sources = self::sources(&options);
                next = Instant::now();
                // Nobody asks again before this was taken.
                let _ = taken_over.try_send(());
                continue;
            }
            Some(Deletion { filter, done }) = deletions.recv() => {
                let view = agent.borrow().view();
                let at = pins.to_owned();
                let told = (wants_destroy(&options) || hub.has_listeners()).then(|| told.clone());
                let deleting = tokio::task::spawn_blocking(move || {
                    let result = delete(&reaper, &at, &filter, &view, |reaped| {
                        if let Some(told) = &told {
                            // The receiver goes only when the agent ends.
                            let _ = told.blocking_send((Kind::Destroy, reaped.event(&view)));
                        }
                    });
                    (reaper, result)
                });
                let result;
                (reaper, result) = deleting.await?;
                // Whoever asked may be gone.
                let _ = done.send(result);
                continue;
            }
        }
        let began = Instant::now();
        let reported = options.reported.rules();
        let view = agent.borrow().view();
        let (told_by_sweep, wanted) =
            (told.clone(), wants_destroy(&options) || hub.has_listeners());
        let sweeping = tokio::task::spawn_blocking(move || {
            let mut reasons = [0; REASONS.len()];
            let sweep = reaper.sweep(&mut survey, |reaped| {
                if let Some(place) = REASONS.iter().position(|reason| *reason == reaped.reason) {
                    reasons[place] += 1;
                }
                // The receiver goes only when the agent ends.
                if reported.has(Rule::HalfOpenTimeout)
                    && let Some(event) = reaped.half_open_timeout(&view)
                {
                    let Removal { key, flow, .. } = &reaped.removal;
                    let source = &key.addresses[flow.originator().index()];
                    if sources.pass(source, view.clock.monotonic_ns()) {
                        let _ = told_by_sweep.blocking_send((Kind::Violation, event));
                    }
                }
                if wanted {
                    let _ = told_by_sweep.blocking_send((Kind::Destroy, reaped.event(&view)));
                }
            });
            (reaper, survey, sources, reasons, sweep)
        });
        let (reasons, sweep);
        (reaper, survey, sources, reasons, sweep) = sweeping.await?;
        for finding in survey.findings() {
            if let Err(error) = tables.count_breach(finding.rule, Hook::Ingress) {
                tracing::error!("counting a breach: {error:#}");
            }
            if reported.has(finding.rule) {
                let event = finding.event(&agent.borrow().view());
                let _ = told.send((Kind::Violation, event)).await;
            }
        }
        let sweep = match sweep {
            Ok(sweep) => sweep,
            Err(error) => {
                // What runs short may come back. Whoever watches sees that no sweep ends.
                if trouble.seen(1, began.into_std()) {
                    tracing::error!(
                        "sweeping: {error:#}; this is tried again, and nothing expires meanwhile"
                    );
                }
                next = Instant::now() + SWEEP_INTERVAL;
                continue;
            }
        };
        if let Some(over) = trouble.over(Instant::now().into_std()) {
            tracing::info!(failures = over.count, "sweeping works again");
        }
        watchdog.swept();
        if let Some(telemetry) = telemetry {
            telemetry.swept(&sweep, &reasons);
        }
        let pause = sweep.pause(Duration::from_secs_f64(options.sweep_interval));
        next = began + sweep.took + pause;
        let Sweep { read, removed, changed, alive, took, .. } = sweep;
        tracing::debug!(read, removed, changed, alive, took_us = took.as_micros(), "sweep");
    }
}

/// Removes every flow that is meant, calling `visit` with each; returns how many there were.
fn delete(
    reaper: &Reaper,
    pins: &Path,
    filter: &Filter,
    view: &View,
    visit: impl FnMut(Reaped),
) -> Result<u64> {
    let asks = filter.asks_for_rules();
    let broken = asks.then(|| Broken::from_pins(pins)).transpose()?;
    let is_meant = |key: &FlowKey, flow: &Flow, tier| {
        let mut record = Record::new(key, flow, Some(tier), view);
        if let Some(broken) = &broken {
            broken.complete(key, flow, &mut record);
        }
        filter.matches(&record)
    };
    reaper.delete(is_meant, visit)
}

/// What an agent with these settings finds on this host.
struct Fit {
    wanted: Wanted,
    changes: Changes,
    names: Vec<String>,
    prepared: Option<Prepared>,
}

/// Finds the interfaces, and what protection needs.
async fn fit(options: &Options) -> Result<Fit> {
    let wanted = Wanted::new(&options.interfaces, options.wait_for_interfaces);
    let changes = Changes::subscribe()?;
    let names = wanted.at_start(&changes.links().await?)?;
    options.way_in.check(options.protect.is_wanted())?;
    let prepared = protect::prepare(&options.protect, &names).await?;
    Ok(Fit { wanted, changes, names, prepared })
}

/// Refuses settings that an agent could not start with on this host.
///
/// # Errors
///
/// An interface that is absent, or a port that cannot be protected, with the remedy.
pub async fn check_settings(options: &Options) -> Result<()> {
    fit(options).await.map(|_| ())
}

fn wants_destroy(options: &Options) -> bool {
    EventName::kinds(&options.events).contains(&Kind::Destroy)
}

fn sources(options: &Options) -> Sources {
    let interval_ns = interval_ns(options.report_rate);
    Sources::new(interval_ns, interval_ns * u64::from(options.report_burst))
}
