//! The shortest sequence that tells the two machines apart.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    step::Step,
    twice::{Difference, Twice},
};

/// Shortening stops after this; what is left is printed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The difference after these steps, from the beginning.
fn differs(twice: &mut Twice, steps: &[&Step]) -> Result<Option<Difference>> {
    twice.clear()?;
    for step in steps {
        if let Some(difference) = twice.take(step)? {
            return Ok(Some(difference));
        }
    }
    twice.compare()
}

/// How many steps it takes until there is a difference, and which, if they differ only after the last 10,000.
fn first_difference(twice: &mut Twice, steps: &[Step]) -> Result<Option<(usize, Difference)>> {
    twice.clear()?;
    let from = steps.len().saturating_sub(crate::BATCH);
    for (n, step) in steps.iter().enumerate() {
        let mut difference = twice.take(step)?;
        if difference.is_none() && (n >= from || n % crate::BATCH == crate::BATCH - 1) {
            difference = twice.compare()?;
        }
        if let Some(difference) = difference {
            return Ok(Some((n + 1, difference)));
        }
    }
    Ok(None)
}

/// Fails with the shortest sequence that can be found. `steps` end with a batch that led to `difference`.
pub(crate) fn explain(twice: &mut Twice, steps: &[Step], difference: &Difference) -> Result<()> {
    let Some((count, first)) = first_difference(twice, steps)? else {
        bail!("not seen again when repeated: {}", difference.what);
    };
    let all: Vec<&Step> = steps[..count].iter().collect();
    let key = first.key.or_else(|| match all.last() {
        Some(Step::Packet(shot)) => shot.packet().ok().map(|packet| packet.key),
        _ => None,
    });
    let mut kept: Vec<&Step> = match key {
        Some(key) => all.iter().copied().filter(|step| step.is_about(&key)).collect(),
        None => all.clone(),
    };
    if differs(twice, &kept)?.is_none() {
        kept = all;
    }
    shorten(twice, &mut kept)?;
    let what = differs(twice, &kept)?.map_or(first.what, |difference| difference.what);
    let mut text = format!("step {count}: {what}\n{} steps show it:\n", kept.len());
    for step in kept {
        writeln!(text, "  {step:?}")?;
    }
    bail!("{text}");
}

/// Leaves out whatever is not needed, in ever smaller pieces.
fn shorten(twice: &mut Twice, kept: &mut Vec<&Step>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut piece = kept.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < kept.len() {
            if Instant::now() > until {
                return Ok(());
            }
            let mut fewer = kept.clone();
            fewer.drain(at..(at + piece).min(fewer.len()));
            if differs(twice, &fewer)?.is_some() {
                *kept = fewer;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    Ok(())
}
