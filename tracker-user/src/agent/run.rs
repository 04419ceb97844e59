//! An agent's start and end: it checks this host, attaches or takes over, and detaches or leaves what is there. In between
//! runs `event_loop`.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use crate::{
    agent::{
        ending::Ending,
        event_loop::{Start, work},
        exports::{self, Exports},
        interfaces::{Interfaces, changes::Changes, wanted::Wanted},
        metrics::{self, access::Access, address::MetricsAddress},
        options::Options,
        privileges, protect,
        reload::{Reload, Reread},
        service,
        settings::Current,
        writer::Writers,
    },
    client::agent::Agent,
    kernel::{
        attach::Attaching,
        instance::Instance,
        kernel_side::{self, Predecessor},
        kfunc::{self, Patched},
        object, preflight,
        protection::Prepared,
    },
    model::{error::Result, failure::Failure},
};

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
    let Fit { wanted, changes, names, prepared, access } = fit(&options).await?;
    if let Some(MetricsAddress::Unix(path)) = &options.metrics.at
        && *path == instance.socket()
    {
        let said = format!(
            "--metrics: {} is the agent's socket for commands; name another path",
            path.display()
        );
        return Err(Failure::BadInput(said).into());
    }
    let origin = exports::origin(&options.export, instance)?;
    let metrics = match &options.metrics.at {
        Some(at) => Some(metrics::server::bind(at, access).await?),
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
        object: patched.as_ref().map_or(object, Patched::bytes),
        instance,
        sizes: &options.sizes,
        zone: options.zone,
        ingress_options: options.ingress_options,
        egress: options.egress,
        protecting: prepared,
    };
    let inherited = kernel_side::inherit(instance, &options.sizes).await?;
    // Others are replaced, and this is new where they are.
    claim.keep()?;
    let is_taking_over = inherited.predecessor == Predecessor::Present;
    let predecessor = if is_taking_over { Agent::find(instance).ok() } else { None };
    let mut interfaces = Interfaces::new(attaching, wanted, changes, options.kernel_log);
    let (making, mut made) = mpsc::channel(1);
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
            let is_first = !is_taking_over && inherited.replaced.is_empty();
            match Exports::start(&options.export, origin) {
                Ok(exports) => {
                    let start = Start {
                        options: &options,
                        instance,
                        lost_told,
                        is_first,
                        prepared,
                        metrics,
                        writers,
                        making: making.clone(),
                        exports: &exports,
                    };
                    let outcome = tokio::select! {
                        result = work(start, &mut interfaces, &mut reload, &mut claim) => result,
                        signal = ending.asked() => {
                            leaves &= signal == Signal::SIGTERM;
                            Ok(())
                        }
                    };
                    exports.finish(LONGEST_FAREWELL);
                    outcome
                }
                Err(error) => Err(error),
            }
        }
    };
    drop(ending);
    service::stopping();
    // What sweeps may still be loading, on a thread of its own. Maps that it pins would stay behind, or in the way.
    drop(making);
    let _ = made.recv().await;
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

/// What an agent with these settings finds on this host.
struct Fit {
    wanted: Wanted,
    changes: Changes,
    names: Vec<String>,
    prepared: Option<Prepared>,
    access: Access,
}

/// Finds the interfaces, and what protection and metrics need.
async fn fit(options: &Options) -> Result<Fit> {
    let wanted = Wanted::new(&options.interfaces, options.wait_for_interfaces)
        .dropping_on(&options.dropping.drop_on);
    options.dropping.check(|name| wanted.has(name))?;
    let changes = Changes::subscribe()?;
    let names = wanted.at_start(&changes.links().await?)?;
    options.ingress_options.check(options.protect.is_wanted())?;
    let prepared = protect::prepare(&options.protect, &names).await?;
    let access = metrics::prepare(&options.metrics)?;
    exports::check(&options.export)?;
    Ok(Fit { wanted, changes, names, prepared, access })
}

/// Refuses settings that an agent could not start with on this host.
///
/// # Errors
///
/// An interface that is absent, a port that cannot be protected, a file for the metrics or for records that is wrong, with the
/// remedy.
pub async fn check_settings(options: &Options) -> Result<()> {
    fit(options).await.map(|_| ())
}

/// How long an agent that ends waits for records to be written.
const LONGEST_FAREWELL: Duration = Duration::from_secs(1);
