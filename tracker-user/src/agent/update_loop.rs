//! Records of connections that go on, at an interval, while they are exported.

use std::{cell::RefCell, ops::ControlFlow, path::Path, time::Duration};

use tokio::time::{Instant, sleep_until};
use tracker_common::event::Reason;

use crate::{
    agent::{
        condition::Condition,
        exports::{Exports, Updates},
    },
    client::agent::Agent,
    kernel::{flow_violations::FlowViolations, tables::Tables},
    model::{
        error::Result,
        event::parts::EndView,
        record::{Record, View},
    },
};

/// Walks over the confirmed flows at every interval, on a thread of its own that may wait for exporters. A connection has its
/// first record when it is as old as the interval is long.
pub(super) async fn run_updates(
    exports: &Exports,
    pins: &Path,
    agent: &RefCell<Agent>,
) -> Result<()> {
    let mut trouble = Condition::default();
    let mut last = Instant::now();
    loop {
        // A reload may change the interval.
        sleep_until(Instant::now() + LOOK_INTERVAL).await;
        let Some(updates) = exports.updates() else {
            last = Instant::now();
            continue;
        };
        if last.elapsed() < updates.interval {
            continue;
        }
        last = Instant::now();
        let (view, pins) = (agent.borrow().view(), pins.to_owned());
        let walk = tokio::task::spawn_blocking(move || send(&updates, &pins, &view));
        let now = std::time::Instant::now();
        match walk.await? {
            Ok(()) => {
                trouble.end();
            }
            Err(error) if trouble.seen(1, now) => {
                tracing::error!(
                    "records of connections that go on: {error:#}; this is tried again"
                );
            }
            Err(_) => {}
        }
    }
}

/// Sends a record of each connection that is selected and old enough.
fn send(updates: &Updates, pins: &Path, view: &View) -> Result<()> {
    let until = std::time::Instant::now() + updates.interval;
    let oldest_ns = view
        .clock
        .monotonic_ns()
        .saturating_sub(u64::try_from(updates.interval.as_nanos()).unwrap_or(u64::MAX));
    let mut rules = None;
    let mut failure = None;
    Tables::from_pins(pins)?.each_flow_until(|key, flow, tier| {
        if flow.is_dead() || flow.created_ns() > oldest_ns {
            return ControlFlow::Continue(());
        }
        let mut record = Record::new(key, flow, Some(tier), view);
        if record.violations > 0 || updates.asks_for_rules() {
            let rules = match &rules {
                Some(rules) => rules,
                None => match FlowViolations::from_pins(pins) {
                    Ok(read) => rules.insert(read),
                    Err(error) => {
                        failure = Some(error);
                        return ControlFlow::Break(());
                    }
                },
            };
            rules.complete(key, flow, &mut record);
        }
        if updates.has(&record) {
            let duration_ns = EndView::new(flow, Reason::Timeout, None).duration_ns;
            updates.push(record, duration_ns, &view.clock, until);
        }
        ControlFlow::Continue(())
    })?;
    failure.map_or(Ok(()), Err)
}

/// Between two looks at whether it is time.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
