//! `cargo xtask bench events`: how many connections a second may open and close until events are lost.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tracker_tests::agent::{Agent, eventually};
use tracker_user::model::event::Event;

use crate::{
    cpu::{Cores, Task},
    machine,
    router::{Router, Trackers},
    section,
    table::{Table, grouped, whole},
};

const COMMAND: &str = "cargo xtask bench events";

/// Segments a second that are sent.
const RATES: [u64; 6] = [25_000, 50_000, 100_000, 200_000, 300_000, 400_000];

/// And for so long: reports that the ring buffer holds do not hide that somebody is too slow.
const LEAST: Duration = Duration::from_secs(5);

/// Events of each connection: NEW, ESTABLISHED and CLOSING. DESTROY comes a minute later.
const EVENTS: u64 = 3;

/// What was measured at one rate.
struct Row {
    opened: u64,
    took: f64,
    told: u64,
    lost: [u64; 2],
    /// Shares of a core: of the agent, and of the listener.
    busy: [f64; 2],
}

/// `tracker events`, whose lines are counted.
struct Listener {
    child: Child,
    lines: Arc<AtomicU64>,
    /// How many events it has missed, by its LOST lines.
    lost: Arc<AtomicU64>,
}

/// Measures, prints the section, and writes it into docs/performance.md.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn events() -> Result<()> {
    let machine = machine::describe();
    let cores = Cores::choose()?;
    Task::this_thread().pin(cores.generator)?;
    let tracker = Trackers { tracker: true, ..Trackers::NOTHING };
    let mut router = Router::new(cores, tracker, &["--max-flows", "2097152"])?;
    let mut first = 1 << 20;
    let mut table = Table::new(&[
        "connections/s",
        "events/s that a listener got",
        "reports lost",
        "lost to the listener",
        "agent busy",
        "listener busy",
    ]);
    let mut best = 0f64;
    for segments in RATES {
        let (flows, row) = measure(&mut router, cores, first, segments)?;
        first += flows;
        #[allow(clippy::cast_precision_loss, reason = "some millions")]
        let rate = |count: u64| count as f64 / row.took;
        if row.lost == [0, 0] {
            best = best.max(rate(row.opened));
        }
        table.row([
            whole(rate(row.opened)),
            whole(rate(row.told)),
            grouped(row.lost[0]),
            grouped(row.lost[1]),
            format!("{:.0} %", row.busy[0] * 100.0),
            format!("{:.0} %", row.busy[1] * 100.0),
        ]);
    }
    let text = format!(
        "## Events

{machine}
Written by the command above.

The router of *Forwarding*, with tracker on it. Connections open and close through it, for {seconds} s at each rate: six segments, from
kernel programs at both ends, in crowds of 20,000 that take each step together. `tracker events -e new,established,closing -o jsonl` listens, {EVENTS} events a connection; its output
is counted and dropped. *Connections* are those that tracker saw begin. A report is lost where the ring buffer (16 MiB) is full,
an event to a listener that is 65,536 behind; both are counted and reported. The two cores also send the segments and
forward them.

The highest rate at which all events arrived: {best} connections a second. What the router itself loses is not seen, and so not lost here.

{table}",
        seconds = LEAST.as_secs(),
        best = whole(best),
        table = table.into_text()
    );
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    section::write(&page, "events", COMMAND, &text)
}

fn measure(router: &mut Router, cores: Cores, first: u64, rate: u64) -> Result<(u64, Row)> {
    fn agent(router: &Router) -> Result<&Agent> {
        router.agent().context("tracker is on it")
    }
    let mut listener = Listener::start(agent(router)?)?;
    let tasks = [agent(router)?.pid(), listener.child.id()].map(Task::process);
    let [watched, listening] = tasks;
    let (watched, listening) = (watched?, listening?);
    // Wherever there is room.
    watched.pin(cores.server)?;
    listening.pin(cores.server)?;
    let counters = |router: &Router| -> Result<[u64; 2]> {
        let agent = agent(router)?;
        Ok([agent.counter("flows_by_syn")?, agent.counter("reports_lost")?])
    };
    let before = counters(router)?;
    let ran = [watched.cpu_time()?, listening.cpu_time()?];
    let (flows, took) = router.live_and_die(first, rate, LEAST)?;
    let took = took.as_secs_f64();
    // The last ones are under way.
    let mut last = u64::MAX;
    eventually("no more events come", || {
        thread::sleep(Duration::from_millis(500));
        let now = listener.lines.load(Ordering::Relaxed);
        Ok(std::mem::replace(&mut last, now) == now)
    })?;
    let busy =
        [watched.cpu_time()?.saturating_sub(ran[0]), listening.cpu_time()?.saturating_sub(ran[1])];
    let [opened, reports_lost] = counters(router)?;
    let (opened, reports_lost) = (opened - before[0], reports_lost - before[1]);
    let told = listener.stop()?;
    ensure!(told > 0, "no event came");
    let lost = [reports_lost, listener.lost.load(Ordering::Relaxed)];
    let busy = busy.map(|time| time.as_secs_f64() / took);
    Ok((flows, Row { opened, took, told, lost, busy }))
}

impl Listener {
    fn start(agent: &Agent) -> Result<Self> {
        let arguments = ["events", "-e", "new,established,closing", "-o", "jsonl"];
        let mut child = agent
            .command(&arguments)?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting tracker events")?;
        let [lines, lost] = [Arc::<AtomicU64>::default(), Arc::default()];
        let stdout = child.stdout.take().context("a pipe")?;
        let (counted, missed) = (Arc::clone(&lines), Arc::clone(&lost));
        thread::spawn(move || count(stdout, &counted, &missed));
        // From `listening` on it misses nothing.
        let mut said = [0; 9];
        child.stderr.take().context("a pipe")?.read_exact(&mut said)?;
        Ok(Self { child, lines, lost })
    }

    /// Ends it, and returns how many lines there were.
    fn stop(&mut self) -> Result<u64> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.lines.load(Ordering::Relaxed))
    }
}

fn count(from: ChildStdout, lines: &AtomicU64, lost: &AtomicU64) {
    let (mut from, mut line) = (BufReader::with_capacity(1 << 16, from), Vec::new());
    while let Ok(1..) = from.read_until(b'\n', &mut line) {
        if line.starts_with(b"{\"v\":1,\"event\":\"LOST\"") {
            let event: Result<Event, _> = serde_json::from_slice(&line);
            lost.fetch_add(event.ok().and_then(|event| event.lost).unwrap_or(1), Ordering::Relaxed);
        } else {
            lines.fetch_add(1, Ordering::Relaxed);
        }
        line.clear();
    }
}
