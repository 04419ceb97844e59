//! `--drop`: packets that break chosen rules do not get through, and all others do. A router is between both ends, so that
//! nf_conntrack's rules see what passes: how many packets it forwards, and how many of them it would call INVALID.
//!
//! `TRACKER_DROP_TIMES` says how often each segment is sent to be compared with nf_conntrack; 50 by default.

use std::{collections::BTreeMap, env, fmt::Write, fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracker_tests::{
    agent::run_tracker,
    conntrack::counts,
    router::{Router, Side},
    segment::{
        Segment,
        flag::{ACK, FIN, PSH, RST, SYN, URG},
    },
};

/// A connection through the router, at 101 and 501.
struct Connection<'router> {
    router: &'router Router,
    client: SocketAddr,
    server: SocketAddr,
}

impl<'router> Connection<'router> {
    /// One of host `n` on either side, of which nothing was sent yet.
    fn new(router: &'router Router, n: u16) -> Self {
        let client = (Side::Left.host(n), 1000).into();
        Self { router, client, server: (Side::Right.host(n), 80).into() }
    }

    fn opened(router: &'router Router, n: u16) -> Result<Self> {
        let new = Self::new(router, n);
        new.syn()?;
        router.send(Side::Right, new.s(SYN | ACK, 500, 101))?;
        router.send(Side::Left, new.c(ACK, 101, 501))?;
        Ok(new)
    }

    fn syn(&self) -> Result<()> {
        self.router.send(Side::Left, self.c(SYN, 100, 0))
    }

    /// The client's.
    fn c(&self, flags: u16, seq: u32, ack: u32) -> Segment {
        Segment::new(self.client, self.server, flags, seq, ack)
    }

    /// The server's.
    fn s(&self, flags: u16, seq: u32, ack: u32) -> Segment {
        Segment::new(self.server, self.client, flags, seq, ack)
    }
}

/// What a connection has come to before the segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Before {
    Nothing,
    Syn,
    Open,
    /// The client has sent its FIN.
    Closing,
}

/// A segment, and what becomes of it.
struct Kind {
    what: &'static str,
    before: Before,
    from: Side,
    segment: fn(&Connection<'_>) -> Segment,
    /// The rule that it is dropped for by `--drop invalid`, and whether it is when it comes again. Data, or an acknowledgment, that
    /// comes again may be right, because something was missed here: the receiver knows.
    rule: Option<(&'static str, Again)>,
    /// Whether nf_conntrack calls it INVALID.
    invalid: bool,
}

/// Whether a segment is dropped also when it comes again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Again {
    Dropped,
    Passes,
}

const fn kind(
    what: &'static str,
    before: Before,
    from: Side,
    segment: fn(&Connection<'_>) -> Segment,
    rule: Option<(&'static str, Again)>,
    invalid: bool,
) -> Kind {
    Kind { what, before, from, segment, rule, invalid }
}

/// Every segment that is sent, in the order of docs/dropping.md.
fn kinds() -> Vec<Kind> {
    use Before::{Closing, Nothing, Open, Syn};
    use Side::{Left, Right};
    let always = |rule| Some((rule, Again::Dropped));
    let once = |rule| Some((rule, Again::Passes));
    vec![
        kind(
            "data, again and again",
            Open,
            Left,
            |t| t.c(ACK | PSH, 101, 501).data(10),
            None,
            false,
        ),
        kind("a keepalive", Open, Left, |t| t.c(ACK, 100, 501), None, false),
        kind("no flag at all", Open, Left, |t| t.c(0, 101, 501), always("null_flags"), true),
        kind("FIN, PSH, URG", Open, Left, |t| t.c(FIN | PSH | URG, 101, 0), always("xmas"), true),
        kind("SYN, FIN", Open, Left, |t| t.c(SYN | FIN, 101, 0), always("syn_fin"), true),
        kind("SYN, RST", Open, Left, |t| t.c(SYN | RST, 101, 0), always("syn_rst"), true),
        kind("FIN, RST", Open, Left, |t| t.c(FIN | RST | ACK, 101, 501), always("fin_rst"), true),
        kind("FIN without ACK", Open, Left, |t| t.c(FIN, 101, 0), always("fin_without_ack"), true),
        kind(
            "port 0",
            Open,
            Left,
            |t| Segment::new((t.client.ip(), 0).into(), t.server, ACK, 101, 501),
            always("port_zero"),
            false,
        ),
        kind(
            "data beyond the window",
            Open,
            Left,
            |t| t.c(ACK | PSH, 300_101, 501).data(10),
            once("seq_out_of_window"),
            true,
        ),
        kind(
            "an acknowledgment of data never sent",
            Open,
            Left,
            |t| t.c(ACK, 101, 300_501),
            once("ack_unseen_data"),
            true,
        ),
        kind(
            "an RST beyond the window",
            Open,
            Left,
            |t| t.c(RST, 300_101, 0),
            always("rst_out_of_window"),
            true,
        ),
        kind(
            "a FIN beyond the window",
            Open,
            Left,
            |t| t.c(FIN | ACK, 300_101, 501),
            once("fin_out_of_window"),
            true,
        ),
        kind(
            "an RST that does not acknowledge the SYN",
            Syn,
            Right,
            |t| t.s(RST | ACK, 0, 9000),
            always("rst_bad_ack_syn_sent"),
            true,
        ),
        kind(
            "data behind the FIN",
            Closing,
            Left,
            |t| t.c(ACK | PSH, 102, 501).data(10),
            always("data_after_fin"),
            false,
        ),
        kind(
            "a SYN,ACK from the end that opened",
            Syn,
            Left,
            |t| t.c(SYN | ACK, 100, 501),
            None,
            true,
        ),
        kind("another SYN", Open, Left, |t| t.c(SYN, 70_000, 0), None, false),
        kind("an RST inside the window", Open, Left, |t| t.c(RST, 111, 0), None, false),
        kind(
            "data from long before",
            Open,
            Left,
            |t| t.c(ACK | PSH, 101_u32.wrapping_sub(300_000), 501).data(10),
            None,
            false,
        ),
        kind(
            "an acknowledgment from long before",
            Open,
            Left,
            |t| t.c(ACK, 101, 501_u32.wrapping_sub(300_000)),
            None,
            false,
        ),
        kind("an ACK of no connection", Nothing, Left, |t| t.c(ACK, 101, 501), None, false),
        kind("a SYN,ACK of no connection", Nothing, Left, |t| t.c(SYN | ACK, 101, 501), None, true),
        kind("an RST of no connection", Nothing, Left, |t| t.c(RST, 101, 0), None, true),
    ]
}

/// Brings the connection of host `n` to where the segment is sent.
fn prepared<'router>(router: &'router Router, kind: &Kind, n: u16) -> Result<Connection<'router>> {
    Ok(match kind.before {
        Before::Nothing => Connection::new(router, n),
        Before::Syn => {
            let new = Connection::new(router, n);
            new.syn()?;
            new
        }
        Before::Open => Connection::opened(router, n)?,
        Before::Closing => {
            let open = Connection::opened(router, n)?;
            router.send(Side::Left, open.c(FIN | ACK, 101, 501))?;
            router.send(Side::Right, open.s(ACK, 501, 102))?;
            open
        }
    })
}

fn dropped(router: &Router, outcome: &str) -> Result<BTreeMap<String, u64>> {
    let stats = router.agent.stats()?;
    let drops = stats["drops"].as_object().context("drops")?;
    let count = |value: &serde_json::Value| value[outcome].as_u64().unwrap_or_default();
    Ok(drops
        .iter()
        .map(|(rule, counts)| (rule.clone(), count(counts)))
        .filter(|(_, count)| *count > 0)
        .collect())
}

/// The one that drops, the one that only counts: for each kind of segment, what passes, what is counted and what is reported.
fn each_kind(options: &[&str], outcome: &str, passes: bool) -> Result<()> {
    let router = Router::new(&[options, &["--every", "--report-rate", "0"]].concat())?;
    let mut expected = BTreeMap::new();
    for (n, kind) in (1..).zip(kinds()) {
        let tcp = prepared(&router, &kind, n)?;
        let before = counts(&router.namespace)?.forwarded;
        router.send(kind.from, (kind.segment)(&tcp))?;
        let forwarded = counts(&router.namespace)?.forwarded - before;
        let wanted = u64::from(passes || kind.rule.is_none());
        ensure!(forwarded == wanted, "{}: {forwarded} packets passed", kind.what);
        let Some((rule, _)) = kind.rule else { continue };
        *expected.entry(rule.to_owned()).or_insert(0) += 1;
        let event = router.events.violation(rule).context(kind.what)?;
        ensure!(event["violation"]["action"] == outcome, "{}: {event}", kind.what);
    }
    assert_eq!(dropped(&router, outcome)?, expected);
    let fate = router.agent.packets(Some("in"), Some("dropped"))?;
    assert_eq!(fate, if passes { 0 } else { expected.values().sum() });
    // What was dropped has changed nothing: the connections go on.
    for (n, kind) in (1..).zip(kinds()).filter(|(_, kind)| kind.before == Before::Open) {
        let before = counts(&router.namespace)?.forwarded;
        let tcp = Connection::new(&router, n);
        router.send(Side::Left, tcp.c(ACK | PSH, 101, 501).data(10))?;
        let forwarded = counts(&router.namespace)?.forwarded - before;
        ensure!(forwarded == 1, "data after {}: {forwarded} packets passed", kind.what);
    }
    println!("{} kinds of segments, {} of them {outcome}", kinds().len(), expected.len());
    Ok(())
}

#[test]
fn what_breaks_a_rule_is_dropped_and_nothing_else() -> Result<()> {
    each_kind(&["--drop", "invalid"], "dropped", false)
}

#[test]
fn a_dry_run_drops_nothing_and_counts_the_same() -> Result<()> {
    each_kind(&["--drop", "invalid", "--drop-dry-run"], "would_drop", true)
}

/// Sends `SYN, FIN` of the connection of host `n`; whether it passes.
fn passes(router: &Router, n: u16) -> Result<bool> {
    let tcp = Connection::new(router, n);
    let before = counts(&router.namespace)?.forwarded;
    router.send(Side::Left, tcp.c(SYN | FIN, 100, 0))?;
    Ok(counts(&router.namespace)?.forwarded > before)
}

#[test]
fn what_is_exempt_and_what_is_on_other_interfaces_passes() -> Result<()> {
    // Host 0x0203 is 10.1.2.3.
    let router = Router::new(&["--drop", "syn_fin", "--drop-exempt", "10.1.2.0/24,2001:db8::/32"])?;
    ensure!(passes(&router, 0x0203)? && !passes(&router, 0x0303)?);
    drop(router);
    let router = Router::new(&["--drop", "syn_fin", "--drop-on", "r1"])?;
    ensure!(passes(&router, 1)?, "r0 drops nothing");
    let tcp = Connection::new(&router, 2);
    let before = counts(&router.namespace)?.forwarded;
    router.send(Side::Right, tcp.s(SYN | FIN, 100, 0))?;
    ensure!(counts(&router.namespace)?.forwarded == before, "r1 drops");
    // Only the rules that were named.
    let router = Router::new(&["--drop", "xmas"])?;
    ensure!(passes(&router, 1)?);
    // Without the option, none.
    let router = Router::new(&[])?;
    ensure!(passes(&router, 1)?);
    assert_eq!(dropped(&router, "dropped")?, BTreeMap::new());
    Ok(())
}

#[test]
fn a_reload_changes_what_is_dropped() -> Result<()> {
    let file = Temporary(env::temp_dir().join(format!("tracker-drop-{}.toml", std::process::id())));
    let path = file.0.to_str().context("a path of UTF-8")?;
    fs::write(&file.0, "drop = [\"syn_fin\"]\n")?;
    let router = Router::new(&["--config", path])?;
    let reload = |text: &str, said: &str| -> Result<()> {
        fs::write(&file.0, text)?;
        kill(Pid::from_raw(router.agent.pid().cast_signed()), Signal::SIGHUP)?;
        router.agent.wait_for_log(said).map(drop)
    };
    ensure!(!passes(&router, 1)?);
    reload("drop = [\"syn_fin\"]\ndrop-exempt = [\"10.1.0.0/16\"]\n", "setting=\"drop-exempt\"")?;
    ensure!(passes(&router, 2)?);
    reload("drop = [\"invalid\"]\n", "setting=\"drop\" value=[\"invalid\"]")?;
    ensure!(!passes(&router, 3)?);
    reload("drop = [\"invalid\"]\ndrop-dry-run = true\n", "setting=\"drop-dry-run\"")?;
    ensure!(passes(&router, 4)?);
    reload("", "setting=\"drop\" value=not set")?;
    ensure!(passes(&router, 5)?);
    assert_eq!(dropped(&router, "dropped")?, BTreeMap::from([("syn_fin".to_owned(), 2)]));
    assert_eq!(dropped(&router, "would_drop")?, BTreeMap::from([("syn_fin".to_owned(), 1)]));
    Ok(())
}

/// A file of a test's own.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn rules_that_lawful_traffic_breaks_are_refused() -> Result<()> {
    for (options, said) in [
        (&["--drop", "retransmission"][..], "nothing is wrong with it in itself"),
        (&["--drop", "syn_in_established"], "RFC 9293 section 3.5.1"),
        (&["--drop", "syn_fim"], "did you mean `syn_fin`?"),
        (&["--drop-exempt", "10.0.0.0/8"], "--drop <RULE[,RULE]>"),
    ] {
        let arguments = [&["run", "--interface", "lo"], options].concat();
        let (_, stderr, status) = run_tracker(&arguments, None)?;
        ensure!(status.code() == Some(2), "{options:?}: {status}: {stderr}");
        ensure!(stderr.contains(said), "{options:?}: {stderr}");
    }
    let elsewhere = ["run", "--interface", "lo", "--drop", "xmas", "--drop-on", "eth7"];
    let (_, stderr, status) = run_tracker(&elsewhere, None)?;
    ensure!(status.code() == Some(1) && stderr.contains("--drop-on eth7"), "{status}: {stderr}");
    Ok(())
}

/// The same segments, each many times: what `--drop invalid` would drop, and what nf_conntrack calls INVALID.
#[test]
fn beside_nf_conntrack() -> Result<()> {
    let times: u32 = match env::var("TRACKER_DROP_TIMES") {
        Ok(text) => text.parse().context("TRACKER_DROP_TIMES")?,
        Err(_) => 50,
    };
    let router = Router::new(&["--drop", "invalid", "--drop-dry-run"])?;
    let mut table =
        String::from("\n| Segment | `--drop invalid` | `ct state invalid` |\n|---|---|---|\n");
    let mut wrong = Vec::new();
    for (n, kind) in (1..).zip(kinds()) {
        let tcp = prepared(&router, &kind, n)?;
        let (before, counted) = (counts(&router.namespace)?, dropped(&router, "would_drop")?);
        router.send_often(kind.from, (kind.segment)(&tcp), times)?;
        let (after, now) = (counts(&router.namespace)?, dropped(&router, "would_drop")?);
        let passed = after.forwarded - before.forwarded;
        ensure!(passed == u64::from(times), "{}: {passed} of {times} passed", kind.what);
        let sum = |drops: &BTreeMap<String, u64>| drops.values().sum::<u64>();
        let (ours, theirs) = (sum(&now) - sum(&counted), after.invalid - before.invalid);
        let wanted = match kind.rule {
            None => 0,
            Some((_, Again::Passes)) => 1,
            Some((_, Again::Dropped)) => u64::from(times),
        };
        if (ours, theirs) != (wanted, if kind.invalid { u64::from(times) } else { 0 }) {
            wrong.push(format!("{}: {ours} and {theirs} of {times}", kind.what));
        }
        let rule = kind.rule.map(|(rule, _)| format!(": `{rule}`")).unwrap_or_default();
        writeln!(table, "| {} | {ours}{rule} | {theirs} |", kind.what)?;
    }
    println!("{table}");
    ensure!(wrong.is_empty(), "not as docs/dropping.md has it:\n{}", wrong.join("\n"));
    Ok(())
}
