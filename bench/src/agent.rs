//! `cargo xtask bench agent`: what the agent does beside the kernel programs, by how many flows there are.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use tracker_tests::{crowd::Crowd, lab::Bench};

use crate::{
    cpu::Task,
    machine, section,
    spread::Spread,
    table::{Table, grouped},
};

const COMMAND: &str = "cargo xtask bench agent";

const FLOWS: [u64; 3] = [10_000, 1_000_000, 4_000_000];

/// Sweeps that are measured with each number of flows.
const SWEEPS: usize = 9;

/// Measures, prints the section, and writes it into docs/performance.md.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn agent() -> Result<()> {
    let machine = machine::describe();
    let mut table = Table::new(&[
        "Flows",
        "a sweep, ms",
        "CPU of the agent a sweep, ms",
        "ns a flow",
        "resident, MiB",
    ]);
    measure(&mut table, &FLOWS, &[], "")?;
    measure(&mut table, &FLOWS[1..2], &["--metrics"], ", with `--metrics`")?;
    let text = format!(
        "## The agent

{machine}
Written by the command above.

Each second the agent has the kernel look at every confirmed flow, where it lies, and gets those whose time is over. A
connection is opened by real packets, and its record copied under other keys until there are as many flows as the table
says; all of them are idle, and none is due. *A sweep* is what the agent's log says of {SWEEPS} sweeps, medians, in brackets the least and the most;
*CPU* is what the whole process has used meanwhile, over their number. Another sweep begins a second after the last one
began, or later: sweeps take a tenth of a core at most, or half of one where the table is nearly full. With `--metrics`, flows are
counted by state as well, for which more of each is read, in every sweep.

{table}",
        table = table.into_text()
    );
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    section::write(&page, "agent", COMMAND, &text)
}

/// Adds the rows of an agent with these options.
fn measure(table: &mut Table, flows: &[u64], options: &[&str], note: &str) -> Result<()> {
    let bench = Bench::with(&[&["--max-flows", "4194304"], options].concat())?;
    let mut crowd = Crowd::begin(&bench)?;
    let process = Task::process(bench.agent.pid())?;
    for flows in flows.iter().copied() {
        crowd.grow(u32::try_from(flows)?)?;
        // The first may have begun before the last flow was there.
        while read(&sweep(&bench)?)? < flows {}
        let (mut took, ran) = (Vec::new(), process.cpu_time()?);
        for _ in 0..SWEEPS {
            let line = sweep(&bench)?;
            took.push(number(&line, "took_us=")? / 1000.0);
        }
        let ran = process.cpu_time()?.saturating_sub(ran).as_secs_f64() * 1000.0;
        #[allow(clippy::cast_precision_loss, reason = "a few")]
        let cpu = ran / SWEEPS as f64;
        let Spread { median, least, most } = Spread::of(took).context("no sweeps")?;
        #[allow(clippy::cast_precision_loss, reason = "some millions")]
        let each = cpu * 1e6 / flows as f64;
        table.row([
            format!("{}{note}", grouped(flows)),
            format!("{median:.1} ({least:.1} to {most:.1})"),
            format!("{cpu:.1}"),
            format!("{each:.0}"),
            format!("{}", resident(bench.agent.pid())?),
        ]);
    }
    Ok(())
}

/// What the agent says of its next sweep.
fn sweep(bench: &Bench) -> Result<String> {
    bench.agent.wait_for_log("took_us=")
}

fn read(line: &str) -> Result<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some millions")]
    Ok(number(line, "read=")? as u64)
}

fn number(line: &str, name: &str) -> Result<f64> {
    let text = line.split_once(name).with_context(|| line.to_owned())?.1;
    let text = text.split_whitespace().next().unwrap_or_default();
    text.parse().with_context(|| line.to_owned())
}

/// MiB of a process that are in memory.
fn resident(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kilo: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    ensure!(kilo > 0, "a process without memory");
    Ok(kilo / 1024)
}
