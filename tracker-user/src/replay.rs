//! `tracker replay`: a capture, pushed through the very kernel programs that watch interfaces.

mod breaches;
mod checksum;
mod clock;
mod connections;
mod engine;
pub(crate) mod flow;
mod ladders;
mod output;
pub(crate) mod summary;

use std::{
    collections::VecDeque,
    io::{BufWriter, IsTerminal, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tracker_common::{config::LiveConfig, event::Kind, violation::Rule};

use self::{breaches::Breaches, ladders::Ladders, output::Output};
pub use self::{
    engine::{Engine, INTERFACE},
    flow::ReplayedFlow,
    summary::{CaptureView, Summary},
};
use crate::{
    attach::Sizes,
    broken::rule,
    capture::{Broken, Capture, nothing_understood},
    cli::Format,
    event::Event,
    filter::Filter,
    preflight,
    reported::Reported,
    run::{EventName, TimeoutOptions},
    since::Since,
    survey::Limits,
};

/// A capture that takes longer than a moment, and so shows how far it is.
const LARGE: u64 = 8 << 20;

/// Options of `tracker replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Capture in pcap or pcapng format; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Events to show
    #[arg(
        short,
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "EVENT[,EVENT]",
        default_value = "violation"
    )]
    pub events: Vec<EventName>,
    /// Draw each connection: one line per segment between both ends' states, with every breach of the reported rules
    #[arg(long, conflicts_with_all = ["events", "no_flows", "output"])]
    pub ladder: bool,
    /// Omit the list of connections
    #[arg(long)]
    pub no_flows: bool,
    /// Output format: one line per event and connection, one JSON document, or one JSON record per line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Report every breach, even if the same connection repeats it
    #[arg(long)]
    pub every: bool,
    /// Skip and count packets with a wrong TCP checksum, as their receiver would. Not for captures from the sending host,
    /// whose network card computes checksums later
    #[arg(long)]
    pub verify_checksums: bool,
    /// Only the last N connections
    #[arg(long, value_name = "N", conflicts_with = "ladder")]
    pub last: Option<usize>,
    /// Rules.
    #[command(flatten)]
    pub reported: Reported,
    /// Events since a time (`2026-11-20T13:55:30Z`) or an age (`5m`), and connections whose first packet was captured since
    ///
    /// Earlier packets are replayed too, so that states are right
    #[arg(long, value_name = "TIME", help_heading = "Filters")]
    pub since: Option<Since>,
    /// Violations of these rules, and connections that broke one; `tracker violations` lists the rules
    ///
    /// The rules must be reported (`--report`)
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', value_parser = rule)]
    #[arg(help_heading = "Filters")]
    pub violation: Vec<Rule>,
    /// Which flows. An event without a flow passes only where nothing is asked for.
    #[command(flatten)]
    pub filter: Filter,
    /// Limits of floods and scans.
    #[command(flatten)]
    pub limits: Limits,
    /// Sizes.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Timeouts.
    #[command(flatten)]
    pub timeouts: TimeoutOptions,
}

impl Options {
    /// What is to be shown.
    fn kinds(&self) -> Vec<Kind> {
        if self.ladder {
            vec![Kind::Segment, Kind::Violation, Kind::Destroy]
        } else {
            EventName::kinds(&self.events)
        }
    }

    /// What the kernel programs are to report: every breach, because [`Breaches`] counts them.
    fn live_config(&self) -> LiveConfig {
        let shown = self.kinds().iter().fold(0, |bits, kind| bits | kind.bit());
        LiveConfig {
            reported: self.reported.rules(),
            events: shown | Kind::Violation.bit(),
            no_back_off: 1,
            ..LiveConfig::default()
        }
    }
}

/// Replays a capture, and prints what happened.
///
/// # Errors
///
/// Where the file is no capture or is broken (what came before that is printed first), the kernel refuses, or stdout
/// cannot be written.
pub fn run(options: &Options) -> Result<()> {
    preflight::check_replay()?;
    let name = options.file.display().to_string();
    let mut capture = Capture::open(&options.file).with_context(|| name.clone())?;
    let Options { sizes, timeouts, limits, .. } = options;
    let mut engine = Engine::new(sizes, timeouts.timeouts(), options.live_config(), *limits)?;
    let progress = progress(options);
    let is_terminal = stdout().is_terminal();
    let is_live = options.file == Path::new("-") || is_terminal;
    let in_the_way = if is_terminal { progress.clone() } else { ProgressBar::hidden() };
    let mut output = Output::new(options.output, is_live, in_the_way.clone());
    let filter = Filter { violation: options.violation.clone(), ..options.filter.clone() };
    let since = options.since.map(|since| since.time(Timestamp::now()));
    let is_since = |time: Timestamp| since.is_none_or(|since| time >= since);
    let mut ladders =
        options.ladder.then(|| Ladders::new(BufWriter::new(stdout().lock()), &filter, in_the_way));
    let mut summary = Summary::new(&name);
    let kinds = options.kinds();
    let mut breaches = Breaches::default();
    let mut show = |events: Vec<Event>| -> Result<()> {
        for mut event in events {
            let is_told = breaches.take(&event) || options.every;
            if let Some(ladders) = &mut ladders {
                let Some(flow) = event.flow.as_mut().filter(|flow| is_since(flow.created)) else {
                    continue;
                };
                breaches.complete(flow);
                ladders.event(event)?;
                continue;
            }
            let is_asked_for = event.violation.is_none() || kinds.contains(&Kind::Violation);
            if is_told && is_asked_for && is_since(event.time) && filter.matches_event(&event) {
                output.event(&event)?;
            }
        }
        Ok(())
    };
    let mut broken = None;
    loop {
        match next(&mut capture, &mut engine, options, &mut summary) {
            Ok(Some(events)) => show(events)?,
            Ok(None) => break,
            Err(error) => {
                broken = Some(error.downcast::<Broken>()?);
                break;
            }
        }
        progress.set_position(capture.position());
    }
    show(engine.finish()?)?;
    progress.finish_and_clear();
    summary.finish(&capture, &engine, broken.clone())?;
    let flows = engine.flows()?.map(|mut flow| {
        breaches.complete(&mut flow.record);
        flow
    });
    let mut flows = flows.filter(|flow| is_since(flow.record.created));
    let mut shown = 0;
    if let Some(mut ladders) = ladders {
        shown = ladders.finish(flows)?;
    } else if !options.no_flows {
        let mut meant = flows.by_ref().filter(|flow| filter.matches(&flow.record));
        let mut show = |flow: &ReplayedFlow| -> Result<()> {
            shown += 1;
            output.flow(flow)
        };
        match options.last {
            Some(last) => last_of(meant, last).iter().try_for_each(&mut show)?,
            None => meant.try_for_each(|flow| show(&flow))?,
        }
    }
    output.finish(&summary, (!options.no_flows).then_some(shown))?;
    if let Some(broken) = broken {
        return Err(broken).context(name);
    }
    let links: Vec<_> = capture.links().collect();
    if capture.packets() > 0 && capture.skipped() == capture.packets() {
        bail!("{name}: {}", nothing_understood(&links));
    }
    Ok(())
}

/// Replays the next packet; `None` at the capture's end.
fn next(
    capture: &mut Capture,
    engine: &mut Engine,
    options: &Options,
    summary: &mut Summary,
) -> Result<Option<Vec<Event>>> {
    let Some(packet) = capture.next()? else { return Ok(None) };
    summary.saw(packet.timestamp_ns);
    if options.verify_checksums && checksum::is_wrong(&packet) {
        summary.bad_checksums += 1;
        return Ok(Some(Vec::new()));
    }
    engine.push(&packet).map(Some)
}

/// The last `count` of these.
fn last_of<T>(all: impl Iterator<Item = T>, count: usize) -> VecDeque<T> {
    let mut last = VecDeque::new();
    for one in all {
        last.push_back(one);
        if last.len() > count {
            last.pop_front();
        }
    }
    last
}

/// A bar on stderr, for somebody who would otherwise wonder; hidden where nobody looks, or it is over in a moment.
fn progress(options: &Options) -> ProgressBar {
    let size = std::fs::metadata(&options.file).map_or(0, |metadata| metadata.len());
    if size < LARGE || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(size).with_style(style)
}
