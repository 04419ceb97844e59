//! Public captures with known answers: see `tracker_tests::captures`.

use std::collections::BTreeMap;

use anyhow::Result;
use tracker_tests::captures::{
    answers::answer, claims, corpus, explained::EXPLAINED, replay::replayed,
};

#[test]
fn every_difference_is_explained() -> Result<()> {
    let mut wrong = Vec::new();
    let mut met = vec![false; EXPLAINED.len()];
    let mut compared = BTreeMap::new();
    for claim in claims::all()? {
        let ours = answer(&*replayed(&claim.path, claim.verify)?, &claim)?;
        *compared.entry(claim.source).or_insert(0) += 1;
        if ours == claim.theirs {
            continue;
        }
        let subject = claim.subject.to_string();
        let known = EXPLAINED.iter().position(|known| {
            known.path == claim.path
                && known.subject == subject
                && known.field == claim.field
                && known.theirs == claim.theirs
                && known.ours == ours
        });
        match known {
            Some(n) => met[n] = true,
            None => wrong.push(format!(
                "{:?} | {} | {subject} | {} | {} | {ours}",
                claim.source, claim.path, claim.field, claim.theirs
            )),
        }
    }
    for (known, met) in EXPLAINED.iter().zip(met) {
        if !met {
            wrong.push(format!("does not occur any more: {known:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{compared:?} compared; {} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

#[test]
fn no_packet_is_lost() -> Result<()> {
    for capture in corpus::captures()? {
        let replay = replayed(&capture.path, false)?;
        let sum: u64 = replay.packets().values().sum();
        assert_eq!(sum, capture.packets, "{}", capture.path);
    }
    Ok(())
}
