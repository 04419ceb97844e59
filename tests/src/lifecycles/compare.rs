//! What is compared once everything has come to rest.

use std::{
    fmt::Write,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    AT_REST, CROWDED, Laboratory, TIME_WAIT_IS_SAFE,
    life::{Life, Opening, Unknowable},
    script::{Slot, Who, read_all},
};
use crate::{
    agent::eventually,
    flows::{by_key, key, states},
    relay::{Origin, Side, Trace},
    ss::{self, Oracle},
};

/// By then everything has come to rest: a SYN,ACK that nobody answers is given up after 7 s, and a window's probes come at
/// longer and longer intervals.
const MUST_REST: Duration = Duration::from_secs(60);

impl Laboratory {
    /// Waits until both kernels have nothing left to say to each other, and returns what they say then.
    ///
    /// Unless the short queues are `served`, what connects to them need not come to rest.
    pub(super) fn rest(&mut self, served: bool) -> Result<(Oracle, Vec<Value>)> {
        let until = Instant::now() + MUST_REST;
        loop {
            self.accept(served)?;
            for life in &mut self.lives {
                for who in Who::BOTH {
                    life.look(who)?;
                    let slot = life.slot(who);
                    // Closed windows open, so that what is waiting for that can be sent.
                    if let Slot::Open(socket) = slot {
                        read_all(socket)?;
                    }
                }
            }
            let passed = self.relay.counts();
            let oracle = Oracle::ask(&self.pair)?;
            let must_rest = |socket: &&ss::Socket| {
                !is_at_rest(socket) && (served || !socket.is_at_port(CROWDED))
            };
            let restless: Vec<_> = oracle.sockets().filter(must_rest).collect();
            if restless.is_empty() && self.relay.idle()? >= AT_REST {
                let flows = self.agent.flows(&[])?;
                if self.relay.counts() == passed {
                    return Ok((oracle, flows));
                }
            }
            if Instant::now() > until {
                let lines: Vec<_> = restless.iter().map(|socket| socket.line.as_str()).collect();
                let of_restless = |life: &&Life| {
                    let (host, peer) = life.addresses();
                    [oracle.socket(true, host, peer), oracle.socket(false, peer, host)]
                        .iter()
                        .any(|socket| socket.is_some_and(|socket| !is_at_rest(socket)))
                };
                let lives: Vec<_> =
                    self.lives.iter().filter(of_restless).map(|life| self.tell(life)).collect();
                bail!(
                    "the connections did not come to rest; these are under way:\n{}\n{}",
                    lines.join("\n"),
                    lives.join("\n")
                );
            }
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Compares every connection with what the kernel says of it.
    pub(super) fn compare(&mut self, round: usize, oracle: &Oracle, flows: &[Value]) -> Result<()> {
        let mut flows = by_key(flows)?;
        let (mut pairs, mut far_ends, mut wrong) = (0, 0, 0);
        for (n, life) in self.lives.iter_mut().enumerate() {
            if life.replaced.is_some() {
                continue;
            }
            // What gave up before the oracle was asked says so by now.
            Who::BOTH.into_iter().try_for_each(|who| life.look(who))?;
            let (host, peer) = life.addresses();
            let found = flows.remove(&key(host, peer)).unwrap_or_default();
            let trace =
                self.relay.trace(host, peer).context("no segment of a connection passed")?;
            // What answers a forged segment does not renew TIME_WAIT.
            let is_old = self.plan.interferes && life.began.elapsed() > TIME_WAIT_IS_SAFE;
            if life.is_wrong || is_old || trace.idle() > TIME_WAIT_IS_SAFE {
                continue;
            }
            let sockets = [oracle.socket(true, host, peer), oracle.socket(false, peer, host)];
            let mut kernel = sockets.map(|socket| socket.map_or("CLOSED", |socket| &socket.state));
            let tracked = living(&found, host, &trace)?;
            let server = life.server_side() as usize;
            if life.is_listened() && (kernel[server], tracked[server]) == ("CLOSED", "LISTEN") {
                // The listener has heard nothing, or answered nothing.
                kernel[server] = "LISTEN";
            }
            if (tracked, kernel) == (["no flow"; 2], ["CLOSED"; 2]) {
                // No SYN has arrived.
                continue;
            }
            if life.opening == Opening::Abandoned
                && trace.delivered(life.server_side()) == 0
                && !self.plan.interferes
            {
                // Nobody knows that the client is gone.
                let shown =
                    if life.client_on_host { ["SYN_SENT", "LISTEN"] } else { ["no flow"; 2] };
                ensure!(tracked == shown, "an abandoned SYN is shown as {tracked:?}");
                *self.unknowable.entry(Unknowable::Abandoned).or_default() += 1;
                continue;
            }
            let heard = trace.is_heard();
            let mut is_right = [tracked[0] == kernel[0], tracked[1] == kernel[1] || !heard];
            if is_right != [true; 2] && life.is_server_revived(&trace, tracked, kernel) {
                // What follows is picked up midstream.
                life.is_wrong = true;
                is_right = [true; 2];
                *self.unknowable.entry(Unknowable::Revived).or_default() += 1;
            }
            for side in Side::BOTH {
                let end = side as usize;
                if !is_right[end]
                    && let Some(why) = life.unknowable(&trace, side, tracked, kernel)
                {
                    is_right[end] = true;
                    *self.unknowable.entry(why).or_default() += 1;
                }
            }
            let is_over = |state: &&str| ["CLOSED", "TIME_WAIT"].contains(state);
            // Where one is over without a word, a SYN that uses its port again does not look right.
            life.was_over = kernel.iter().chain(&tracked).all(is_over);
            pairs += 1;
            far_ends += usize::from(heard);
            if is_right == [true; 2] {
                let far = if heard { kernel[1] } else { "-" };
                *self.compared.entry(format!("{}/{far}", kernel[0])).or_default() += 1;
                continue;
            }
            wrong += 1;
            life.is_wrong = true;
            let (tracked, kernel) = (tracked.join("/"), kernel.join("/"));
            let mut told = format!("round {round}: tracker says {tracked}, ss says {kernel}\n");
            for flow in found {
                writeln!(told, "  {flow}")?;
            }
            for socket in sockets.iter().flatten() {
                writeln!(told, "  {}", socket.line)?;
            }
            self.wrong.push((n, told));
        }
        ensure!(flows.is_empty(), "flows that are none of ours: {flows:?}");
        self.far_ends += far_ends;
        println!(
            "round {round}: {pairs} connections compared, {far_ends} far ends, {wrong} disagreements"
        );
        Ok(())
    }

    /// Says what was done and compared, and checks that it was what it should be.
    /// What was done to a connection, and what passed.
    pub(super) fn tell(&self, life: &Life) -> String {
        let (host, peer) = life.addresses();
        let trace = life.replaced.clone().or_else(|| self.relay.trace(host, peer));
        let trace = trace.unwrap_or_default();
        format!("{life}: did {:?}\n{trace}", life.done)
    }

    /// Takes the reports that have come: which of them are of a segment that no attacker sent, and how many of those that
    /// one sent, by rule.
    ///
    /// # Errors
    ///
    /// Where fewer come than breaches were counted.
    pub(super) fn take_reports(&mut self) -> Result<()> {
        let counted: u64 = self.agent.violations()?.iter().map(|(_, count)| count).sum();
        eventually("each breach that was counted is reported", || {
            self.drain()?;
            Ok(self.reports >= counted)
        })
    }

    fn drain(&mut self) -> Result<()> {
        for event in self.events.take()? {
            ensure!(event["event"] != "LOST", "reports were lost: {event}");
            if event["event"] == "VIOLATION" {
                self.reports += 1;
                self.judge_report(event)?;
            }
        }
        Ok(())
    }

    fn judge_report(&mut self, event: Value) -> Result<()> {
        let name = event["violation"]["name"].as_str().context("a rule")?.to_owned();
        let Some(segment) = event.get("segment") else {
            if ["port_scan", "syn_flood"].contains(&name.as_str()) {
                // In a host's name, by forged SYNs.
                *self.forged.entry(name).or_default() += 1;
                return Ok(());
            }
            self.innocent.push(event);
            return Ok(());
        };
        let number = |field: &str| segment[field].as_u64().context("a number");
        let end = |address: &str, port: &str| -> Result<SocketAddr> {
            let address = segment[address].as_str().context("an address")?.parse()?;
            Ok(SocketAddr::new(address, u16::try_from(number(port)?)?))
        };
        let (source, destination) = (end("src", "sport")?, end("dst", "dport")?);
        let (seq, ack) = (u32::try_from(number("seq")?)?, u32::try_from(number("ack")?)?);
        let payload = usize::try_from(number("payload")?)?;
        let ends = key(source, destination);
        let lives = || {
            let between = |life: &&Life| key(life.client_address, life.server_address) == ends;
            self.lives.iter().filter(between)
        };
        // docs/limits.md, SYN cookies: such a server goes on after its FIN or an RST.
        let may_revive = lives().any(|life| life.may_revive() && life.server_address == source);
        let is_revived =
            may_revive && ["data_after_rst", "data_after_fin"].contains(&name.as_str());
        // docs/limits.md, a full accept queue: such an end is still in SYN_RECEIVED, and resets what does not fit.
        let is_crowded = lives().any(|life| life.is_crowded() && life.server_address == source);
        let replaced = lives().filter_map(|life| life.replaced.as_ref());
        let current = self.relay.trace(source, destination);
        let traces: Vec<_> = replaced.chain(&current).collect();
        // A connection may send what the one before it on its ports has sent.
        let is_after_forged = traces.iter().any(|trace| is_after_forged_syn(&name, &event, trace));
        let (origin, is_doubtful) = traces
            .into_iter()
            .find_map(|trace| {
                let origin = trace.origin(source, seq, ack, payload)?;
                let is_doubtful = is_revived
                    || is_after_forged
                    // docs/limits.md: only an end without a socket answers so, one that was gone without a word.
                    || name == "rst_out_of_window"
                        && origin == Origin::ProvokedSeen
                        && (trace.only_refuses_since(source, seq) || is_crowded || may_revive);
                Some((origin, is_doubtful))
            })
            .with_context(|| format!("nobody sent {segment}"))?;
        match origin {
            Origin::Attacker => *self.forged.entry(name).or_default() += 1,
            // Nobody at the interface can know what provoked it.
            Origin::ProvokedUnseen => *self.provoked.entry(name).or_default() += 1,
            // The rule is about the SYN,ACK that this RST answers.
            Origin::ProvokedSeen if name == "synack_unsolicited" => {
                *self.forged.entry(name).or_default() += 1;
            }
            _ if is_doubtful => *self.doubtful.entry(name).or_default() += 1,
            Origin::Host | Origin::ProvokedSeen => self.innocent.push(event),
        }
        Ok(())
    }

    /// Everything about the reports that blame a host.
    ///
    /// # Errors
    ///
    /// Where a report cannot be read.
    pub fn blamed(&mut self) -> Result<String> {
        self.drain()?;
        let mut told = String::new();
        for event in &self.innocent {
            writeln!(told, "{event}")?;
            for life in &self.lives {
                let ports = [&event["flow"]["sport"], &event["flow"]["dport"]];
                if ports.iter().any(|port| **port == life.client_address.port()) {
                    writeln!(told, "{}", self.tell(life))?;
                }
            }
        }
        Ok(told)
    }
}

/// Whether a rule says of hosts what a forged SYN has brought about (docs/limits.md): one that an end took for the beginning
/// of a connection, so that the segment contradicts its number, or the SYN of an old connection in TIME_WAIT.
fn is_after_forged_syn(name: &str, event: &Value, trace: &Trace) -> bool {
    let is_forged = |number: &Value, minus: u32| {
        let number = number.as_u64().and_then(|number| u32::try_from(number).ok());
        number.is_some_and(|number| trace.is_forged_syn(number.wrapping_sub(minus)))
    };
    let flow = &event["flow"];
    let numbers = [&event["segment"]["ack"], &event["violation"]["expected"]["low"]];
    // The flow is that of the forged SYN, or its answer is in the flow, the segment or what was expected of that.
    let is_about = ["orig", "reply"]
        .iter()
        .any(|end| is_forged(&flow[end]["isn"], 0) || is_forged(&flow[end]["ack"], 1))
        || numbers.iter().any(|number| is_forged(number, 0) || is_forged(number, 1));
    let is_taken = Side::BOTH.iter().any(|side| trace.has_taken_forged_syn(*side));
    match name {
        "time_wait_assassination" => trace.has_forged_syn(),
        // A listener answers a late copy of the real SYN, while a forged one waits.
        "old_incarnation_synack" => is_forged(&flow["orig"]["isn"], 0),
        "syn_isn_change"
        | "syn_wrong_dir"
        | "synack_isn_change"
        | "synack_bad_ack"
        | "synack_unsolicited"
        | "synack_wrong_dir"
        | "synack_in_established"
        | "ack_wrong_dir"
        | "ack_unseen_data"
        | "handshake_ack_bad_ack"
        | "handshake_ack_bad_seq"
        | "handshake_bad_seq_ack"
        | "rst_bad_ack_syn_sent"
        | "data_before_established" => is_taken && is_about,
        _ => false,
    }
}

/// The states of the flow on a key, the host's first. A late copy of a SYN may begin another flow beside one that is
/// over: of several, one at most may live.
///
/// A forged SYN may wait beside them for an answer that never comes.
fn living<'a>(flows: &[&'a Value], host: SocketAddr, trace: &Trace) -> Result<[&'a str; 2]> {
    let over = ["CLOSED"; 2];
    let is_forged = |flow: &&&Value| {
        let isn = flow["orig"]["isn"].as_u64().and_then(|isn| u32::try_from(isn).ok());
        isn.is_some_and(|isn| trace.is_forged_syn(isn)) && flow["reply"]["isn"].is_null()
    };
    let mut counting: Vec<_> = flows.iter().filter(|flow| !is_forged(flow)).collect();
    if counting.is_empty() {
        counting = flows.iter().collect();
    }
    // A forged SYN may have begun it.
    let is_of_host = |flow: &Value| {
        ["orig", "reply"].iter().any(|end| {
            let isn = flow[end]["isn"].as_u64().and_then(|isn| u32::try_from(isn).ok());
            isn.is_some_and(|isn| trace.has_sent_syn(Side::Host, isn))
        })
    };
    let is_newer = |flow: &Value| flow["tier"] == "half_open" && is_of_host(flow);
    let all = counting
        .iter()
        .map(|flow| Ok((flow["tier"] == "half_open", is_newer(flow), states(flow, host)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut living = all.iter().filter(|(_, _, states)| *states != over);
    Ok(match (living.next(), living.next()) {
        (Some(one), Some(other)) => {
            // docs/limits.md: TIME_WAIT stays until what follows it is open, and after a forged SYN, or where the host gives
            // up its own, that may stay away.
            let is_taken = Side::BOTH.iter().any(|side| trace.has_taken_forged_syn(*side));
            let newer = [one, other]
                .into_iter()
                .find(|(is_half_open, is_newer, _)| *is_newer || is_taken && *is_half_open);
            newer.map_or(["two flows"; 2], |(_, _, states)| *states)
        }
        (Some((_, _, one)), None) => *one,
        (None, _) if flows.is_empty() => ["no flow"; 2],
        (None, _) => over,
    })
}

/// Whether nothing about this socket changes by itself, as long as nothing is lost any more.
fn is_at_rest(socket: &ss::Socket) -> bool {
    let is_lasting = ["ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_2", "TIME_WAIT"];
    // What waits for a window that nobody opens any more waits for long.
    let waits_for_window = socket.line.contains("timer:(persist,") || is_ignored(socket);
    is_lasting.contains(&socket.state.as_str()) && socket.unacknowledged == 0 || waits_for_window
}

/// Whether nobody acknowledges what it says, though the cable is whole: a socket that a late acknowledgment has brought back
/// (`Unknowable::Revived`) faces TIME_WAIT, or a peer that is further on.
fn is_ignored(socket: &ss::Socket) -> bool {
    const OFTEN: u32 = 8;
    let timer = socket.line.split_once("timer:(on,").and_then(|(_, timer)| timer.split_once(')'));
    let again = timer.and_then(|(timer, _)| timer.rsplit_once(',')?.1.parse::<u32>().ok());
    again.is_some_and(|again| again >= OFTEN)
}
