//! What was done and compared, and whether it was enough.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, Result, ensure};

use super::Laboratory;
use crate::{agent::eventually, namespace::Namespace, relay::Side};

impl Laboratory {
    /// Says what was done and compared, and checks that it was what it should be.
    ///
    /// # Errors
    ///
    /// Where it was not, or a packet was not seen.
    pub fn summarize(&self) -> Result<()> {
        let counts = self.relay.counts();
        let [from_host, from_peer] = counts.arrived;
        println!("seed {}: {} segments, {counts:?}", self.plan.seed, from_host + from_peer);
        let mut openings = BTreeMap::new();
        for life in &self.lives {
            *openings.entry(life.opening).or_insert(0) += 1;
        }
        let acts: usize = self.lives.iter().map(|life| life.done.len()).sum();
        println!("{} connections, {acts} acts on their sockets, {openings:?}", self.lives.len());
        let pairs: usize = self.compared.values().sum();
        println!("host/peer agreed on, {pairs} times, {} times with the far end:", self.far_ends);
        for (states, count) in &self.compared {
            println!("  {count:5} {states}");
        }
        println!("what nobody could know: {:?}", self.unknowable);
        let stats = self.agent.stats()?;
        let counted = stats["violations"].as_object().context("violations")?.iter();
        let counted = counted.map(|(name, hooks)| {
            (name, hooks["in"].as_u64().unwrap_or(0), hooks["out"].as_u64().unwrap_or(0))
        });
        let counted: Vec<_> = counted.filter(|(_, in_, out)| in_ + out > 0).collect();
        println!("rules, in and out: {counted:?}");
        println!("arriving packets dropped: {}", self.agent.packets(Some("in"), Some("dropped"))?);

        let share = counts.exposed / 100;
        for (what, count) in [
            ("dropped", counts.dropped),
            ("delayed", counts.delayed),
            ("duplicated", counts.duplicated),
            ("reordered", counts.reordered),
        ] {
            ensure!(count > share, "{count} {what}: less than there must be");
        }
        let scarce = if self.plan.interferes { 100 } else { 20 };
        for states in [
            "CLOSED/CLOSED",
            "CLOSED/TIME_WAIT",
            "TIME_WAIT/CLOSED",
            "TIME_WAIT/TIME_WAIT",
            "ESTABLISHED/ESTABLISHED",
            "CLOSE_WAIT/FIN_WAIT_2",
            "FIN_WAIT_2/CLOSE_WAIT",
        ] {
            let count = self.compared.get(states).copied().unwrap_or(0);
            ensure!(count >= self.lives.len() / scarce, "{states} was compared {count} times only");
        }
        ensure!(self.far_ends >= pairs * 8 / 10, "too few far ends heard what was last said");
        // Sockets that wait for a window go on probing meanwhile.
        eventually("the agent has seen what passed", || {
            let before = self.relay.counts();
            let seen = [self.agent_saw("in")?, self.agent_saw("out")?];
            let passed = [before.sent[Side::Host as usize], before.arrived[Side::Host as usize]];
            Ok(self.relay.counts() == before && seen == passed)
        })?;
        if self.plan.interferes { self.summarize_interference() } else { Ok(()) }
    }

    /// How many TCP segments the agent has seen at a hook.
    fn agent_saw(&self, hook: &str) -> Result<u64> {
        let mut seen = self.agent.packets(Some(hook), None)?;
        for other in ["not_ip", "not_tcp"] {
            seen -= self.agent.packets(Some(hook), Some(other))?;
        }
        Ok(seen)
    }

    fn summarize_interference(&self) -> Result<()> {
        let mut options: BTreeMap<_, usize> = BTreeMap::new();
        for life in &self.lives {
            for name in life.terms.names() {
                *options.entry(name).or_default() += 1;
            }
        }
        for (name, namespace) in [("host", &self.pair.host), ("peer", &self.pair.peer)] {
            // What the kernels themselves count of the rarer ones.
            let seen = kernel_counters(namespace)?;
            println!("the {name} counted {seen:?}");
            for counter in COUNTERS {
                *options.entry(counter).or_default() += seen.get(counter).copied().unwrap_or(0);
            }
        }
        println!("connections with options: {options:?}");
        println!("reports of forged segments: {:?}", self.forged);
        println!("reports of answers to unseen ones: {:?}", self.provoked);
        println!("reports of what forged SYNs brought about: {:?}", self.doubtful);
        let few: Vec<_> = options.iter().filter(|(_, count)| **count == 0).collect();
        // In a short run, chance may leave one out.
        let is_long = self.lives.len() >= 1000;
        ensure!(few.is_empty() || !is_long, "these options were never in use: {few:?}");
        let forged: u64 = self.relay.counts().forged.iter().sum();
        ensure!(forged >= self.lives.len() as u64, "only {forged} segments were forged");
        // Those to the host are seen. Some look like what may come late, or belong to no connection.
        let reported = self.forged.values().sum::<usize>() as u64;
        let to_host = self.relay.counts().forged[Side::Peer as usize];
        ensure!(reported >= to_host / 4, "{reported} forged segments were reported of {to_host}");
        Ok(())
    }

    /// What is wrong: disagreements, and reports that blame a host.
    ///
    /// # Errors
    ///
    /// Where a report cannot be read.
    pub fn wrong(&mut self) -> Result<(usize, String)> {
        let mut told = String::new();
        for (n, what) in &self.wrong {
            writeln!(told, "{what}{}", self.tell(&self.lives[*n]))?;
        }
        told += &self.blamed()?;
        Ok((self.wrong.len() + self.innocent.len(), told))
    }
}

/// What must have happened, by the names of the kernel's counters (`nstat`).
const COUNTERS: [&str; 8] = [
    "TcpExtListenOverflows",
    "TcpExtSyncookiesSent",
    "TcpExtSyncookiesRecv",
    "TcpExtTCPFastOpenActive",
    "TcpExtTCPFastOpenPassive",
    "TcpExtTCPAbortOnTimeout",
    "TcpExtTCPChallengeACK",
    "MPTcpExtMPCapableSYNACKRX",
];

fn kernel_counters(namespace: &Namespace) -> Result<BTreeMap<&'static str, usize>> {
    let text = namespace.run("nstat", &["-a", "-s", "-z"])?;
    let mut seen = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(count)) = (words.next(), words.next()) else { continue };
        if let Some(counter) = COUNTERS.into_iter().find(|counter| *counter == name) {
            seen.insert(counter, count.parse()?);
        }
    }
    Ok(seen)
}
