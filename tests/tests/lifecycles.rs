//! Random lifecycles against `ss`: two thousand connections of real sockets that open, talk, half-close, close and reset
//! in random order, over a cable that loses, delays, duplicates and reorders segments.
//!
//! All of it is legal TCP, so nothing may be reported, and nothing is dropped by an agent with `--drop invalid`. `TRACKER_RELAY_SEED` repeats a run, as closely as clocks allow.

use anyhow::{Result, ensure};
use tracker_tests::{
    lifecycles::{Laboratory, Plan},
    random::Random,
};

#[test]
fn random_lifecycles_end_where_ss_says() -> Result<()> {
    let seed = Random::seed("TRACKER_RELAY_SEED")?;
    println!("TRACKER_RELAY_SEED={seed}");
    let plan = Plan { seed, rounds: 10, new_each_round: 200, interferes: false, drops: true };
    let mut lab = Laboratory::new(plan)?;
    lab.run()?;

    lab.summarize()?;
    let (wrong, told) = lab.wrong()?;
    let violations = lab.agent.violations()?;
    println!("{told}{wrong} disagreements and reports, violations {violations:?}");
    ensure!(wrong == 0, "{wrong} disagreements and reports");
    ensure!(violations.is_empty(), "nothing was wrong, but reported were {violations:?}");
    let dropped = lab.agent.packets(Some("in"), Some("dropped"))?;
    ensure!(dropped == 0, "{dropped} packets of lawful traffic were dropped");
    Ok(())
}
