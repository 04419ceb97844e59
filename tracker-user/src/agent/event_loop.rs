//! The agent's loop: reports of the kernel programs, clients, interfaces that change, SIGHUP, sweeps, and timers.
//!
//! `work` first sets up what the loop needs. The order matters: clients that find the agent's socket or its information
//! file find it ready.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{Map, MapData, RingBuf};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tracker_common::{
    config::LiveConfig,
    event::{Event as Raw, Kind},
};
use zerocopy::FromBytes;

use crate::{
    agent::{
        condition::Condition,
        event_server::EventServer,
        exports::Exports,
        interfaces::Interfaces,
        lost_reports::LostReports,
        metrics::{self, Lost, Telemetry, server::Endpoint},
        options::{Options, live_config},
        output::{Output, OutputTrouble, publish},
        protect::listener_manager::ListenerManager,
        reload::{Changed, Reload},
        service::{self, Watchdog},
        sweep_loop::{Orders, run_sweeps},
        update_loop::run_updates,
        upkeep::{CHECK_INTERVAL, Upkeep, note_interfaces, publish_info},
        warnings::Warnings,
        writer::{OnError, Writers},
    },
    client::agent::Agent,
    kernel::{
        instance::{Instance, claim::Claim},
        kernel_side::kept::KeptPins,
        map_forms,
        protection::Prepared,
        syn_cache,
        tables::Tables,
    },
    model::{
        error::{Error, Result},
        event::Event,
        record::View,
    },
};

/// What an agent begins its work with.
pub(super) struct Start<'a> {
    pub(super) options: &'a Options,
    pub(super) instance: &'a Instance,
    /// Lost reports that the previous agent has announced.
    pub(super) lost_told: u64,
    /// Whether all counters began with this agent.
    pub(super) is_first: bool,
    pub(super) prepared: Option<Prepared>,
    pub(super) metrics: Option<Endpoint>,
    pub(super) writers: &'a Writers,
    /// Held while maps may be made among the pins.
    pub(super) making: mpsc::Sender<()>,
    pub(super) exports: &'a Exports,
}

pub(super) async fn work(
    start: Start<'_>,
    interfaces: &mut Interfaces<'_>,
    reload: &mut Reload,
    claim: &mut Claim,
) -> Result<()> {
    let Start {
        options,
        instance,
        lost_told,
        is_first,
        prepared,
        metrics,
        writers,
        making,
        exports,
    } = start;
    let (settings, sweep_settings) = watch::channel(options.clone());
    let pins = instance.pins();
    let timeouts = options.timeouts.timeouts();
    let agent = RefCell::new(Agent { lost_told, ..Agent::new(interfaces.list(), &timeouts) });
    let mut output = Output::new(options, writers, exports);

    let mut listener_manager = match &prepared {
        Some(prepared) => {
            let clients = agent.borrow().client_interfaces();
            Some(ListenerManager::new(&options.protect, prepared, &pins, clients)?)
        }
        None => None,
    };
    // Now that every program knows of it.
    syn_cache::enable(&pins)?;
    let config = Mutex::new(Tables::from_pins(&pins)?);
    // Before anything is dropped.
    options.dropping.exempt(&pins)?;
    options.dropping.say();
    let live = Arc::new(Mutex::new(live_config(options)));
    let told_live = Arc::clone(&live);
    let (deletion_requests, deletions) = mpsc::channel(1);
    let own = own_kinds(&output, listener_manager.is_some());
    let tell = move |events, trace| {
        let mut tables = config.lock().unwrap_or_else(PoisonError::into_inner);
        let live = *told_live.lock().unwrap_or_else(PoisonError::into_inner);
        let config = LiveConfig { events, trace, ..live };
        if let Err(error) = tables.configure(config) {
            tracing::error!("telling the kernel which events are wanted: {error:#}");
        }
    };
    let server = EventServer::new(&own, tell, pins.clone(), deletion_requests);
    let socket = instance.socket();
    let serving = server.clone().serve(&socket);
    tokio::pin!(serving);
    // The socket exists once the future was polled. The agent must not be announced before.
    tokio::select! {
        biased;
        result = &mut serving => return result,
        () = std::future::ready(()) => {}
    }
    agent.borrow().publish(&instance.info())?;
    for interface in agent.borrow().interfaces.iter().filter(|interface| interface.attached) {
        tracing::info!(
            interface = interface.name,
            ingress =
                interface.ingress_hook().unwrap_or("none: every packet of loopback passes egress"),
            egress = interface.egress,
            "attached"
        );
        if interface.ingress_hook().is_none() && !options.dropping.drop.is_empty() {
            tracing::warn!(interface = interface.name, "--drop drops nothing on loopback");
        }
    }

    if let Some(listener_manager) = &mut listener_manager {
        for event in listener_manager.begin().await? {
            publish(&server, &output, Kind::Cookie, &event)?;
        }
        tracing::info!(places = listener_manager.count(), "listeners are protected by SYN cookies");
    }

    let mut access = None;
    let telemetry = match metrics {
        Some(Endpoint { listener, access: of_metrics, since_ns }) => {
            let lost = Lost {
                by_listeners: server.lost(),
                by_output: writers.clone(),
                by_exports: exports.clone(),
            };
            let telemetry = Telemetry::new(pins.clone(), options.sweep_interval, since_ns, lost);
            let telemetry = Arc::new(telemetry);
            telemetry.attached(interfaces.list(), interfaces.attached())?;
            let (at, words) = (listener.at()?, of_metrics.words());
            metrics::server::start(listener, Arc::clone(&of_metrics), Arc::clone(&telemetry))?;
            tracing::info!(%at, "metrics are served {words}");
            for warning in of_metrics.warnings(&at) {
                tracing::warn!("metrics: {warning}");
            }
            access = Some(of_metrics);
            Some(telemetry)
        }
        None => None,
    };

    let kept = KeptPins::of(&pins)?;
    let (sweep_events, mut from_sweeps) = mpsc::channel(SWEEP_EVENTS);
    let watchdog = Watchdog::new(options.sweep_interval);
    let (taken_over, mut is_taken_over) = mpsc::channel(1);
    let sweeps = run_sweeps(
        Orders { settings: sweep_settings, taken_over, deletions, maps: kept.ids()?, making },
        &pins,
        &agent,
        &server,
        telemetry.as_deref(),
        &watchdog,
        sweep_events,
    );
    tokio::pin!(sweeps);
    let updates = run_updates(exports, &pins, &agent);
    tokio::pin!(updates);
    let ring = RingBuf::try_from(Map::RingBuf(map_forms::open(&pins.join("EVENTS"))?))?;
    // SAFETY: the ring owns its descriptor and keeps it open for as long as it lives.
    let mut events = unsafe { AsyncFd::register(ring) }?;
    let mut lost = LostReports {
        tables: Tables::from_pins(&pins)?,
        agent: &agent,
        instance,
        publishing: Condition::default(),
        output_told: 0,
        exports_told: 0,
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
    let mut warnings = Warnings::new(&lost.tables, options.sizes, options.shed_above, is_first)?;
    let mut check = interval(CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut publishing = Condition::default();
    service::ready();
    loop {
        tokio::select! {
            result = &mut serving => return result,
            result = &mut sweeps => return result,
            result = &mut updates => return result,
            ready = events.readable_mut() => {
                let mut ready = ready?;
                let (ring, view) = (ready.get_inner_mut(), agent.borrow().view());
                if drain(ring, &view, &server, &output, listener_manager.as_mut())? {
                    ready.clear_ready();
                }
                tokio::task::yield_now().await;
            }
            why = writers.failed(), if output.on_error == OnError::Exit => return Err(Error::text(why)),
            (current, changed) = reload.asked_for(), if reloaded.is_none() => {
                if let Some(listener_manager) = &mut listener_manager {
                    listener_manager.reload_keys();
                }
                if let Some(access) = &access {
                    access.reload();
                }
                if let Err(error) = exports.set(&current.export) {
                    tracing::error!("exporting records: {error:#}");
                }
                output = Output::new(&current, writers, exports);
                if let Err(error) = current.dropping.exempt(&pins) {
                    tracing::error!("--drop-exempt: {error:#}");
                }
                *live.lock().unwrap_or_else(PoisonError::into_inner) = live_config(&current);
                server.set_own(&own_kinds(&output, listener_manager.is_some()));
                upkeep.on_detach = current.on_detach;
                agent.borrow_mut().set_timeouts(&current.timeouts.timeouts());
                publish_info(&agent.borrow(), instance, &mut publishing);
                watchdog.swept_every(current.sweep_interval);
                if let Some(telemetry) = &telemetry {
                    telemetry.swept_every(current.sweep_interval);
                }
                // Its receiver lives as long as this future.
                warnings.set_shed_above(current.shed_above);
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
            Some((kind, event)) = from_sweeps.recv() => publish(&server, &output, kind, &event)?,
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
                    note_interfaces(interfaces, &agent, telemetry.as_deref(), listener_manager.as_mut());
                    publish_info(&agent.borrow(), instance, &mut publishing);
                    upkeep.update();
                }
            }
            _ = check.tick() => {
                if upkeep.look(claim, interfaces, telemetry.as_deref()).await? {
                    note_interfaces(interfaces, &agent, telemetry.as_deref(), listener_manager.as_mut());
                    publish_info(&agent.borrow(), instance, &mut publishing);
                    upkeep.update();
                }
                if publishing.lasts() || !instance.info().exists() {
                    publish_info(&agent.borrow(), instance, &mut publishing);
                }
            }
            _ = second.tick() => {
                trouble.tell(writers);
                lost.report(&server, &output)?;
                for event in warnings.look(&lost.tables)? {
                    output.write(&event, true)?;
                    server.send(None, &event);
                }
                if let Some(listener_manager) = &mut listener_manager {
                    for event in listener_manager.look().await {
                        publish(&server, &output, Kind::Cookie, &event)?;
                    }
                }
            }
            _ = tenth.tick(), if listener_manager.is_some() => {
                if let Some(listener_manager) = &mut listener_manager {
                    for event in listener_manager.poll()? {
                        publish(&server, &output, Kind::Cookie, &event)?;
                    }
                }
            }
        }
    }
}

/// The events that the agent wants for itself.
fn own_kinds(output: &Output, protects: bool) -> Vec<Kind> {
    let mut own = output.kinds.clone();
    if protects {
        // What the agent must know itself, to tell when they end.
        own.push(Kind::Cookie);
    }
    if output.exports.is_on() {
        own.extend([Kind::Violation, Kind::Destroy]);
    }
    own
}

/// Passes on what the ring buffer holds, up to a burst; true where it is empty.
fn drain(
    events: &mut RingBuf<MapData>,
    view: &View,
    server: &EventServer,
    output: &Output,
    mut listener_manager: Option<&mut ListenerManager>,
) -> Result<bool> {
    for _ in 0..BURST {
        // Held until it was passed on: what a killed agent had not, the next one does.
        let Some(item) = events.next() else { return Ok(true) };
        let Ok(raw) = Raw::read_from_bytes(&item) else {
            tracing::error!(
                bytes = item.len(),
                "a report of a length that this version does not know"
            );
            continue;
        };
        if let Some(listener_manager) = &mut listener_manager
            && raw.kind == Kind::Cookie as u8
        {
            for event in listener_manager.began(&raw, view) {
                publish(server, output, Kind::Cookie, &event)?;
            }
            continue;
        }
        match (Kind::from_code(raw.kind), Event::from_kernel(&raw, view)) {
            (Some(kind), Ok(event)) => publish(server, output, kind, &event)?,
            (_, Err(error)) => {
                tracing::error!("a report that this version does not know: {error:#}");
            }
            (None, Ok(_)) => {}
        }
    }
    Ok(false)
}

/// Reports taken from the ring buffer before other things get their turn.
const BURST: usize = 4096;

/// Events of removed flows that may wait for delivery; removing more blocks. A table of millions may expire at once.
const SWEEP_EVENTS: usize = 16_384;
