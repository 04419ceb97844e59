//! The flood's section of the page.

use std::time::Duration;

use anyhow::Error;

use super::{
    contender::Contender,
    measure::{Cost, Level, Outcome},
};
use crate::{
    cable::COALESCE_NS,
    clients::{RATE, TIMEOUT},
    generator::Rate,
    spread::Spread,
    table::{Table, grouped},
};

/// For which part of the time a receiver may be kept from its core without a word about it.
const DISTURBED: f64 = 0.05;

/// The section in Markdown.
pub(crate) fn section(
    machine: &str,
    length: Duration,
    results: &[(Contender, Result<Outcome, Error>)],
) -> String {
    let succeeded = || {
        results.iter().filter_map(|(contender, result)| Some((*contender, result.as_ref().ok()?)))
    };
    let mut text = format!("## SYN floods\n\n{}\n", method(machine, length));
    text.push_str("\n### What an answer costs, and who still gets through\n\n");
    text.push_str(&summary(
        results,
        succeeded().next().map_or(&[], |(_, outcome)| &outcome.levels),
    ));
    for (contender, result) in results {
        if let Err(error) = result {
            text.push_str(&format!("\n{} failed: {}\n", contender.name(), one_line(error)));
        }
    }
    text.push_str(&format!("\n{}\n", dropped(succeeded().map(|(_, outcome)| outcome))));
    text.push_str("\n### At each rate\n\n");
    let mut details = Table::new(&[
        "Contender",
        "SYNs/s wanted",
        "sent",
        "received",
        "SYN,ACKs",
        "receiver busy",
        "agent busy",
        "success",
        "median",
        "99 %",
        "half-open",
        "clients waited",
    ]);
    for (contender, outcome) in succeeded() {
        for level in &outcome.levels {
            details.row(detail(contender, level));
        }
    }
    text.push_str(&details.into_text());
    text.push_str("\n### What the contenders counted\n\n");
    for (contender, outcome) in succeeded() {
        let counts: Vec<_> = outcome
            .evidence
            .iter()
            .map(|(name, count)| format!("{name} {}", grouped(*count)))
            .collect();
        let counts = if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") };
        text.push_str(&format!("- {}: {counts}\n", contender.name()));
    }
    text
}

fn method(machine: &str, length: Duration) -> String {
    let (length, timeout, coalesce) = (length.as_secs(), TIMEOUT.as_secs(), COALESCE_NS / 1_000);
    format!(
        "{machine}.
Written by the command above; your figures will differ, and those of a machine that has other work to do are worse.

- Clients, wire and server have a network namespace each, joined by veth pairs. Every interface receives on a kernel
  thread of its own (threaded NAPI) and gathers packets for {coalesce} us, as network cards do; nothing is offloaded to
  them. The server, what receives for it and the real clients share one core; everything else has another.
- The flood is SYNs to port 80 with MSS, SACK, timestamps and window scale, right checksums, and random sources in
  198.18.0.0/15. An XDP program on the wire writes them and sends them by XDP_TX, run on live frames by
  `BPF_PROG_TEST_RUN`; answers to them are counted and dropped where they arrive. *Sent* is what left the wire, *received*
  what the server's interface took out of its queue of 256 packets: what does not fit is lost, as on a network card.
- The same program sends the clients' frames between the SYNs, 1 ms after they came: they find room in that queue
  exactly as often as the SYNs do.
- Meanwhile {RATE} real connections a second, for {length} s at each rate, from kernel sockets: connect, send a byte, get
  it back, close. One that has no byte after {timeout} s has failed. Times are from the first SYN until the byte is back,
  so a proxy's own handshake is in them; those that failed are in the percentiles as longer than all others.
- The cost is CPU time of the kernel thread that receives, which the scheduler knows to the nanosecond, and of the agent's
  process: everything that is done for a SYN up to its SYN,ACK at the other end's queue. From it is taken what the same
  flood costs a server that drops it in XDP, and the rest divided by the number of SYN,ACKs. There are no real clients
  meanwhile, and the rate is the highest of 200,000, 100,000, 50,000 and 25,000 that leaves the receiver idle for 15 %
  and of which it loses less than a tenth.
  Both floods take turns, half a second each; the cost is the median of seven pairs, in brackets the least and the most.
  Work of timers is not in it.
- `tcp_syncookies` is 1 where nothing else is said. The listener's backlog is 4096. SYNPROXY is set up as its manual has
  it, with SYNs untracked and `nf_conntrack_tcp_loose=0`."
    )
}

/// A row for each contender, failed or not.
fn summary(results: &[(Contender, Result<Outcome, Error>)], levels: &[Level]) -> String {
    let mut header = vec![
        "Contender".to_owned(),
        "ns a SYN answered".to_owned(),
        "ns a SYN received".to_owned(),
        "at SYNs/s".to_owned(),
        "SYN,ACKs a SYN".to_owned(),
    ];
    header.extend(levels.iter().map(|level| match level.rate {
        Rate::None => "success, no flood".to_owned(),
        Rate::PerSecond(_) => format!("{}/s", level.rate),
        Rate::FlatOut => level.rate.to_string(),
    }));
    let mut table = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for (contender, result) in results {
        let mut row = vec![contender.name().to_owned()];
        match result {
            Err(_) => row.push("failed".to_owned()),
            Ok(outcome) => {
                row.extend(cost_cells(outcome.cost.as_ref()));
                row.extend(outcome.levels.iter().map(success));
            }
        }
        table.row(row);
    }
    table.into_text()
}

fn cost_cells(cost: Option<&Cost>) -> [String; 4] {
    let Some(cost) = cost else {
        return ["too slow to tell", "", "", ""].map(str::to_owned);
    };
    [
        cost.per_answer.map_or_else(|| "no answer".to_owned(), nanoseconds),
        nanoseconds(cost.per_syn),
        grouped(cost.rate.into()),
        format!("{:.3}", cost.answered),
    ]
}

/// What the flood costs that is dropped, and how far the figures can be trusted.
fn dropped<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> String {
    let costs: Vec<_> = outcomes.filter_map(|outcome| outcome.cost.as_ref()).collect();
    let medians = |of: fn(&Cost) -> f64| Spread::of(costs.iter().map(|cost| of(cost)).collect());
    let spreads = (medians(|cost| cost.dropped.median), medians(|cost| cost.disturbed.median));
    let (Some(dropped), Some(disturbed)) = spreads else {
        return "The cost was not measured.".to_owned();
    };
    let mut text = format!(
        "Dropping a SYN in XDP, which is not in these costs, takes {} ns with all that it takes to receive it (median of \
         the contenders' medians).",
        nanoseconds(dropped)
    );
    if disturbed.most > DISTURBED {
        text.push_str(&format!(
            "\n\n**The machine had other work to do**: it kept a receiver that only drops from its core for {:.0} % of the \
             time. Success is lower, and times are longer, than they would be.",
            disturbed.most * 100.0
        ));
    }
    text
}

fn detail(contender: Contender, level: &Level) -> Vec<String> {
    let passed = &level.passed;
    let rate = |count: f64| rounded(count / passed.seconds);
    let share = |time: f64| format!("{:.0} %", time / passed.seconds * 100.0);
    vec![
        contender.name().to_owned(),
        level.rate.to_string(),
        rate(passed.sent),
        rate(passed.received),
        rate(passed.answers),
        share(passed.receiving),
        share(passed.helping),
        success(level),
        milliseconds(level.median),
        milliseconds(level.slow),
        grouped(level.half_open.try_into().unwrap_or(u64::MAX)),
        level.waited.map_or_else(|| "unknown".to_owned(), |part| format!("{:.0} %", part * 100.0)),
    ]
}

#[allow(clippy::cast_precision_loss, reason = "counts of some thousands")]
fn success(level: &Level) -> String {
    if level.attempts == 0 {
        return "none tried".to_owned();
    }
    format!("{:.1} %", level.successes as f64 / level.attempts as f64 * 100.0)
}

fn milliseconds(time: Option<Duration>) -> String {
    match time {
        Some(time) => format!("{:.2} ms", time.as_secs_f64() * 1e3),
        None => format!("> {} s", TIMEOUT.as_secs()),
    }
}

fn nanoseconds(spread: Spread) -> String {
    format!("{} ({} to {})", rounded(spread.median), rounded(spread.least), rounded(spread.most))
}

/// A number without decimals. Differences of small costs may be below 0.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates and nanoseconds are far below 2^53, and the sign is written apart"
)]
fn rounded(number: f64) -> String {
    let sign = if number <= -0.5 { "-" } else { "" };
    format!("{sign}{}", grouped(number.abs().round() as u64))
}

/// The error and its causes, shortened: a command's usage is of no use to a table's reader.
fn one_line(error: &Error) -> String {
    let text = format!("{error:#}");
    let text = text.split("Usage:").next().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn numbers_are_written_for_readers() {
        assert_eq!(rounded(1_234.5), "1,235");
        assert_eq!(rounded(-12.4), "-12");
        assert_eq!(rounded(-0.4), "0");
        let spread = Spread { median: 2_900.4, least: -3.0, most: 1e6 };
        assert_eq!(nanoseconds(spread), "2,900 (-3 to 1,000,000)");
        assert_eq!(milliseconds(Some(Duration::from_micros(1_234))), "1.23 ms");
        assert_eq!(milliseconds(None), "> 3 s");
    }

    #[test]
    fn a_contender_that_failed_has_a_row_and_a_reason() {
        let error = anyhow!("the agent ended: error: unexpected argument\n\nUsage: tracker");
        let text =
            section("a machine", Duration::from_secs(1), &[(Contender::TrackerAuto, Err(error))]);
        assert!(text.contains("| tracker, `--syn-cookies auto` | failed |"), "{text}");
        assert!(text.contains("failed: the agent ended: error: unexpected argument\n"), "{text}");
    }
}
