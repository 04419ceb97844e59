//! `tracker` and nf_conntrack side by side: the same crafted segments pass one router that runs both. What RFC 9293
//! says of each is in `rows.rs`; `tracker` must say the same, and docs/conformance.md what nf_conntrack says.

mod document;
mod observe;
mod row;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
};

use anyhow::{Context, Result, bail, ensure};
use tracker_tests::{
    router::{Router, Side},
    segment::Segment,
};

use crate::{observe::Observer, row::Row};

#[test]
fn side_by_side() -> Result<()> {
    let rows = rows::rows();
    assert!(rows.len() >= 50, "{} rows", rows.len());
    let titles: BTreeSet<_> = rows.iter().map(|row| (row.id, row.title)).collect();
    assert_eq!(titles.len(), rows.len(), "two rows have the same title");

    // What is over stays to be looked at.
    let router = Router::new(&["--timeout-closed", "600"])?;
    let observer = Observer::new(&router)?;
    let (mut observed, mut failures) = (Vec::new(), Vec::new());
    for (number, row) in (1..).zip(rows) {
        let outcome =
            observer.row(&row, number).with_context(|| format!("{} {}", row.id, row.title))?;
        failures.extend(observe::failures(&row, &outcome));
        observed.push((row, outcome));
    }
    router.counted_once()?;
    failures.extend(wrongly_reported(&router, observed.iter().map(|(row, _)| row))?);

    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let section = document::section(&kernel, &observed);
    if env::var_os("UPDATE_DOCS").is_some() {
        document::record(&section)?;
    }
    let recorded = document::recorded()?;
    let recorded_on = document::kernel(&recorded).unwrap_or("unknown");
    ensure!(
        failures.is_empty(),
        "{} answers are not the RFC's:\n{}",
        failures.len(),
        failures.join("\n")
    );
    if recorded_on == kernel {
        return same(&recorded, &section);
    }
    println!(
        "nf_conntrack's answers are recorded on Linux {recorded_on}; this is {kernel}: only ours are compared"
    );
    same(&document::without_theirs(&recorded), &document::without_theirs(&section))
}

/// Violations are reported at least once for each row that expects them, and no others.
fn wrongly_reported<'a>(
    router: &Router,
    rows: impl Iterator<Item = &'a Row>,
) -> Result<Vec<String>> {
    const LAST: u16 = 1;
    let [last, server] = [Side::Left, Side::Right].map(|side| (side.host(u16::MAX), LAST).into());
    router.send(Side::Left, Segment::new(last, server, 0, 1, 0))?;
    let events = router.events.until(|event| event["segment"]["sport"] == LAST)?;
    let mut reported = BTreeMap::<_, BTreeSet<_>>::new();
    for event in events.iter().filter(|event| event["event"] == "VIOLATION") {
        let segment = &event["segment"];
        let name = event["violation"]["name"].as_str().context("a name")?;
        for end in ["src", "dst"] {
            reported.entry(segment[end].as_str().context("an address")?).or_default().insert(name);
        }
    }
    let mut wrong = Vec::new();
    for (number, row) in (1..).zip(rows) {
        let server = Side::Right.host(number).to_string();
        let names: Vec<_> = reported.get(server.as_str()).into_iter().flatten().copied().collect();
        if names != row.reported() {
            wrong.push(format!(
                "{} {}: expected reports {:?}, got {names:?}",
                row.id,
                row.title,
                row.reported()
            ));
        }
    }
    Ok(wrong)
}

/// The first line that differs, if one does.
fn same(recorded: &str, observed: &str) -> Result<()> {
    const REMEDY: &str =
        "docs/conformance.md is not what was observed; UPDATE_DOCS=1 writes it anew";
    let first = recorded.lines().zip(observed.lines()).find(|(a, b)| a != b);
    if let Some((recorded, observed)) = first {
        bail!("{REMEDY}\nrecorded: {recorded}\nobserved: {observed}");
    }
    ensure!(recorded.len() == observed.len(), "{REMEDY}: one is longer");
    Ok(())
}
