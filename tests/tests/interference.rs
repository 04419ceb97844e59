//! Interference against `ss`: real connections with options at random, over a cable that loses, delays, duplicates and
//! reorders segments, while a blind attacker forges more of them.
//!
//! The options: Fast Open, timestamps and SACK off, ECN, Multipath TCP, tiny buffers, `SO_LINGER` with 0, the same ports
//! again, SYN cookies always, listeners whose queue is full, `TCP_USER_TIMEOUT`. The attacker knows addresses and ports, and
//! draws its numbers at random; those that chance would put near the connection's are not sent (`Relay::forge`).
//!
//! The tracker must agree with `ss` about both ends of each connection, but for docs/limits.md, and may report no segment
//! that a host sent. `TRACKER_INTERFERENCE` is the number of connections, `TRACKER_INTERFERENCE_SEED` repeats a run, as
//! closely as clocks allow. With `TRACKER_INTERFERENCE_DROP` the agent drops what lawful traffic cannot be.

use std::env;

use anyhow::{Context, Result, ensure};
use tracker_tests::{
    lifecycles::{Laboratory, Plan},
    random::Random,
};

const EACH_ROUND: usize = 50;

#[test]
fn interference_changes_nothing() -> Result<()> {
    let connections = match env::var("TRACKER_INTERFERENCE") {
        Ok(text) => text.parse().with_context(|| format!("TRACKER_INTERFERENCE={text}"))?,
        Err(_) => 200,
    };
    let drops = env::var_os("TRACKER_INTERFERENCE_DROP").is_some();
    let seed = Random::seed("TRACKER_INTERFERENCE_SEED")?;
    println!("TRACKER_INTERFERENCE_SEED={seed}");
    let rounds = usize::div_ceil(connections, EACH_ROUND);
    let plan = Plan { seed, rounds, new_each_round: EACH_ROUND, interferes: true, drops };
    let mut lab = Laboratory::new(plan)?;
    lab.run()?;

    let (wrong, told) = lab.wrong()?;
    println!("{told}");
    lab.summarize()?;
    ensure!(wrong == 0, "{wrong} disagreements and reports of what a host sent");
    Ok(())
}
