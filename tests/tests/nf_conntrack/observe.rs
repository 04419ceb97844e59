//! Sends a row through the router, and asks both trackers after each segment.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;
use tracker_common::violation::Severity;
use tracker_tests::{
    conntrack::{self, Counts, Entry},
    router::Router,
};

use crate::row::{NOTHING, Row, severity};

/// What both trackers said after a segment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `tracker`'s states, C's first.
    pub(crate) ours: String,
    /// What `tracker` has counted for the segment, by name.
    pub(crate) counted: Vec<String>,
    /// nf_conntrack's entry, with the timeout that it was given.
    pub(crate) theirs: Option<Entry>,
    /// nf_conntrack called the segment INVALID.
    pub(crate) invalid: bool,
    /// It came to the forward path: nf_conntrack has not dropped it.
    pub(crate) forwarded: bool,
}

/// What came of a row.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// nf_conntrack's entry before the row's own segments.
    pub(crate) begin: Option<Entry>,
    /// `tracker`'s states then.
    pub(crate) ours_at_begin: String,
    /// After each segment.
    pub(crate) steps: Vec<Seen>,
}

/// Asks both trackers.
#[derive(Debug)]
pub(crate) struct Observer<'a> {
    router: &'a Router,
    timeouts: BTreeSet<u64>,
}

impl<'a> Observer<'a> {
    pub(crate) fn new(router: &'a Router) -> Result<Self> {
        Ok(Self { router, timeouts: conntrack::timeouts(&router.namespace)? })
    }

    /// Sends the row with this number, on addresses of its own.
    pub(crate) fn row(&self, row: &Row, number: u16) -> Result<Outcome> {
        let ends = row.ends(number);
        let mut counts = conntrack::counts(&self.router.namespace)?;
        let begin = row.begin.steps();
        for step in &begin {
            self.router.send(step.side(), step.segment(ends))?;
        }
        let now = conntrack::counts(&self.router.namespace)?;
        let forwarded = counts.forwarded + u64::try_from(begin.len())?;
        let expected = Counts { forwarded, invalid: counts.invalid };
        anyhow::ensure!(
            now == expected,
            "nf_conntrack finds fault with an ordinary connection: {now:?}"
        );
        counts = now;
        let mut breaches = self.breaches()?;
        let mut outcome = Outcome {
            begin: self.theirs(row, number)?,
            ours_at_begin: self.ours(row, number)?,
            steps: Vec::new(),
        };
        for step in &row.steps {
            self.router.send(step.side(), step.segment(ends))?;
            let (counts_now, breaches_now) =
                (conntrack::counts(&self.router.namespace)?, self.breaches()?);
            let counted = breaches_now
                .iter()
                .filter(|(name, count)| breaches.get(*name) != Some(count))
                .map(|(name, _)| name.clone())
                .collect();
            outcome.steps.push(Seen {
                ours: self.ours(row, number)?,
                counted,
                theirs: self.theirs(row, number)?,
                invalid: counts_now.invalid > counts.invalid,
                forwarded: counts_now.forwarded > counts.forwarded,
            });
            (counts, breaches) = (counts_now, breaches_now);
        }
        Ok(outcome)
    }

    /// How often each rule was counted.
    fn breaches(&self) -> Result<BTreeMap<String, u64>> {
        let stats = self.router.agent.stats()?;
        let by_name = stats["violations"].as_object().context("violations")?;
        by_name
            .iter()
            .map(|(name, hooks)| {
                let count = |hook: &str| hooks[hook].as_u64().with_context(|| hook.to_owned());
                Ok((name.clone(), count("in")? + count("out")?))
            })
            .collect()
    }

    /// Returns C's state and S's: the newer connection's where two share their pair and the older is over.
    fn ours(&self, row: &Row, number: u16) -> Result<String> {
        let [client, server] = row.ends(number);
        let mut flows = self.router.agent.flows(&["--addr", &server.ip().to_string()])?;
        flows.sort_by_key(|flow| flow["created_ns"].as_u64());
        let states = |flow: &Value| -> Result<[String; 2]> {
            let state =
                |end: &str| flow[end]["state"].as_str().map(str::to_owned).context("a state");
            let from_client = flow["src"] == client.ip().to_string();
            let (c, s) = if from_client { ("orig", "reply") } else { ("reply", "orig") };
            Ok([state(c)?, state(s)?])
        };
        let mut shown: Option<[String; 2]> = None;
        for flow in &flows {
            let is_over = |states: &[String; 2]| {
                states.iter().all(|state| state == "CLOSED" || state == "TIME_WAIT")
            };
            if shown.as_ref().is_none_or(is_over) {
                shown = Some(states(flow)?);
            }
        }
        Ok(shown.map_or_else(|| NOTHING.to_owned(), |states| states.join("/")))
    }

    /// nf_conntrack's entry. What has run of its timeout since is put back.
    fn theirs(&self, row: &Row, number: u16) -> Result<Option<Entry>> {
        let ends = row.ends(number).map(|end| end.ip());
        let found = conntrack::entries(&self.router.namespace)?
            .into_iter()
            .find(|entry| ends.contains(&entry.source));
        Ok(found.map(|entry| {
            let given = self.timeouts.range(entry.seconds..).next().copied();
            Entry { seconds: given.unwrap_or(entry.seconds), ..entry }
        }))
    }
}

impl Seen {
    /// What was counted of what the row asks about, in its order, and what else is a breach.
    pub(crate) fn relevant(&self, expected: &[&str]) -> Vec<&str> {
        let place = |name: &str| expected.iter().position(|rule| *rule == name);
        let mut names: Vec<_> = self
            .counted
            .iter()
            .map(String::as_str)
            .filter(|name| severity(name) != Some(Severity::Information) || expected.contains(name))
            .collect();
        names.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
        names
    }
}

/// Where `tracker` and RFC 9293 differ, in words.
pub(crate) fn failures(row: &Row, outcome: &Outcome) -> Vec<String> {
    let mut failures = Vec::new();
    if outcome.ours_at_begin != row.begin.states() {
        failures.push(format!(
            "{}: {} after `{}`",
            row.title,
            outcome.ours_at_begin,
            row.begin.name()
        ));
    }
    for ((step, states), seen) in row.steps.iter().zip(row.states()).zip(&outcome.steps) {
        let (rules, counted) = (&step.rules, seen.relevant(&step.rules));
        if seen.ours != states || counted != *rules {
            failures.push(format!(
                "{} {}: after `{}` expected {states} {rules:?}, got {} {counted:?}",
                row.id,
                row.title,
                step.text(),
                seen.ours
            ));
        }
    }
    failures
}
