//! Whether the kernel accepts the programs that an agent would load: they are loaded, and given up again.

use super::{Finding, Verdict};
use crate::{
    agent::trial_load::{Accepted, TrialLoad},
    kernel::{link_kind::LinkKind, object, protection::Prepared},
    model::{error::Result, failure::Failure},
};

/// A finding a group of programs that are loaded together, for the kinds of these interfaces; with what protects listeners,
/// which stops an agent only where it `protects`.
pub(super) fn findings(interfaces: &[String], protects: bool) -> Vec<Finding> {
    let trial = match TrialLoad::new(object::PLAIN) {
        Ok(trial) => trial,
        Err(error) => return vec![Finding::of("programs", Err(error))],
    };
    let mut report = Report::default();
    let kinds = kinds(interfaces);
    for kind in &kinds {
        report.add(observing(*kind), Verdict::Failure, trial.interface(*kind, None));
    }
    report.add("programs that sweep", Verdict::Failure, trial.sweep());
    let severity = if protects { Verdict::Failure } else { Verdict::Warning };
    for kind in kinds.into_iter().filter(|kind| *kind != LinkKind::Loopback) {
        let tried =
            Prepared::for_this_kernel().and_then(|prepared| trial.interface(kind, Some(prepared)));
        report.add(protecting(kind), severity, tried);
    }
    report.findings
}

/// The kinds of interfaces whose programs differ. Those of loopback are among those of Ethernet.
fn kinds(interfaces: &[String]) -> Vec<LinkKind> {
    let mut kinds: Vec<_> = interfaces.iter().filter_map(|name| LinkKind::of(name).ok()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        kinds.push(LinkKind::Ethernet);
    }
    if kinds.contains(&LinkKind::Ethernet) {
        kinds.retain(|kind| *kind != LinkKind::Loopback);
    }
    kinds
}

fn observing(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Ethernet => "programs for Ethernet",
        LinkKind::Loopback => "programs for loopback",
        LinkKind::RawIp => "programs for raw IP",
    }
}

fn protecting(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Ethernet | LinkKind::Loopback => "programs that protect, Ethernet",
        LinkKind::RawIp => "programs that protect, raw IP",
    }
}

#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    /// What to do about a refusal was said.
    is_advised: bool,
}

impl Report {
    fn add(&mut self, check: &'static str, severity: Verdict, tried: Result<Vec<Accepted>>) {
        let finding = match tried {
            Ok(programs) => {
                let message = format!("accepted: {}", list(&programs));
                Finding { programs, ..Finding::new(Verdict::Ok, check, message) }
            }
            Err(error) => {
                let message = match error.failure() {
                    // Once is enough.
                    Failure::Refused(refusal) if self.is_advised => refusal.reason(),
                    Failure::Refused(refusal) => {
                        self.is_advised = true;
                        refusal.to_string()
                    }
                    _ => format!("{error:#}"),
                };
                Finding::new(severity, check, message)
            }
        };
        self.findings.push(finding);
    }
}

/// Names and, with `-v`, how much the verifier had to follow.
fn list(programs: &[Accepted]) -> String {
    let is_verbose = tracing::enabled!(tracing::Level::DEBUG);
    let shown: Vec<_> = programs
        .iter()
        .map(|Accepted { name, verified_instructions }| match verified_instructions {
            Some(count) if is_verbose => format!("{name} ({count} instructions verified)"),
            _ => name.clone(),
        })
        .collect();
    shown.join(", ")
}
