//! An agent that protects its listeners, and is killed again and again.

use std::{sync::atomic::Ordering, thread};

use anyhow::{Context, Result};
use tracker_tests::{
    agent::Agent,
    counters::{no_less, stats_of},
    lab::INTERFACE,
};

use crate::{
    site::Site,
    span::Span,
    truth::{Begin, counters_are_exact, nothing_is_left},
};

const OPTIONS: [&str; 16] = [
    "--interface",
    INTERFACE,
    "--protect",
    "80",
    "--timeout-syn-sent",
    "2",
    "--timeout-syn-received",
    "2",
    "--timeout-time-wait",
    "2",
    "--timeout-closed",
    "2",
    "--max-half-open",
    "262144",
    "--events",
    "violation",
];

pub(crate) fn story(span: &Span) -> Result<String> {
    let site = Site::new()?;
    // A veth takes what XDP sends back only where its other end runs a program too.
    let far = Agent::start(&site.pair.peer, &["--interface", INTERFACE])?;
    let first = protecting(Agent::start(&site.pair.host, &OPTIONS)?)?;
    let begin = Begin::of(&site, &first)?;
    let mut kills = 0;
    let agent = thread::scope(|scope| -> Result<Agent> {
        let visits = scope.spawn(|| span.part(|| site.visit(span)));
        let flood = scope.spawn(|| span.part(|| site.flood(span)));
        let agent = span.part(|| {
            let mut agent = first;
            while span.goes_on() {
                site.goes_on(span)?;
                let before = agent.stats()?;
                let killed = agent.kill()?;
                site.goes_on(span)?;
                no_less(&before, &stats_of(&killed)?)?;
                agent = protecting(killed.restart(&site.pair.host, &OPTIONS)?)?;
                kills += 1;
            }
            Ok(agent)
        });
        for worker in [visits, flood] {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        agent
    })?;
    let made = site.made.load(Ordering::Relaxed);
    let counted = counters_are_exact(&site, &agent, &begin, made)?;
    let cookies = agent.stats()?["cookies"]["total"]["accepted"].as_u64().context("accepted")?;
    let name = agent.name().to_owned();
    agent.finish()?;
    drop(far);
    nothing_is_left(&name, &site.pair.host)?;
    Ok(format!(
        "killed: {kills} times, {made} connections ({cookies} by cookies), {} forged SYNs; {counted}",
        site.flooded.into_inner()
    ))
}

fn protecting(agent: Agent) -> Result<Agent> {
    agent.wait_for_log("listeners are protected")?;
    Ok(agent)
}
