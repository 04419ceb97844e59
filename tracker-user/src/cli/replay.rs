//! `tracker replay`: captures, pushed through the very kernel programs that watch interfaces.

mod archive;
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
    fs,
    io::{BufWriter, IsTerminal, StdoutLock, stdout},
    iter, mem,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::error::ErrorKind;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tracker_common::{config::LiveConfig, event::Kind, violation::Rule};

use self::{
    archive::{Archive, Archived},
    breaches::Breaches,
    ladders::Ladders,
    output::Output,
};
pub use self::{
    engine::{Engine, INTERFACE},
    flow::ReplayedFlow,
    summary::{CaptureView, Summary},
};
use crate::{
    agent::options::{EventName, TimeoutOptions},
    cli::{
        capture::{Merged, Part, nothing_understood},
        choice,
        ladder::TimeOptions,
        refusal,
        since::Since,
        terminal,
    },
    kernel::{load::Sizes, preflight},
    model::{
        event::Event,
        failure::Failure,
        filter::{self, Filter},
        flood_detection::FloodLimits,
        flow_violations::rule,
        format::Format,
        report_selection::ReportSelection,
    },
};

/// A capture that takes longer than a moment, and so shows how far it is.
const LARGE: u64 = 8 << 20;

/// Options of `tracker replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Captures in pcap or pcapng format; `-` for standard input
    ///
    /// Several files are one capture. Their packets are merged by time, as mergecap does. With equal times, the file that is
    /// named first comes first
    ///
    /// The words of a filter may follow: `capture.pcap port 443 and host 10.0.0.1`
    #[arg(value_name = "FILE [WORD]", required_unless_present = "read")]
    pub files: Vec<PathBuf>,
    /// Another capture, as `tcpdump -r` has it
    #[arg(short, long, value_name = "FILE", num_args = 0..=1)]
    pub read: Vec<PathBuf>,
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
    /// When, in diagrams.
    #[command(flatten)]
    pub time: TimeOptions,
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
    pub reported: ReportSelection,
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
    pub filter: filter::FilterOptions,
    /// Limits of floods and scans.
    #[command(flatten)]
    pub limits: FloodLimits,
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

/// Replays captures, and prints what happened.
///
/// # Errors
///
/// Where a file is no capture or is broken (what came before that, and the other files, are printed first), the kernel
/// refuses, stdout cannot be written, or there is no room on disk for connections that have ended.
pub fn run(options: &Options) -> Result<()> {
    let (files, words) = files_and_words(options);
    let filter = choice::filter(&options.filter, &options.violation, &words, "replay")?;
    if files.is_empty() {
        let said = "which capture? As in `tracker replay capture.pcap port 443`";
        return Err(refusal("replay", ErrorKind::MissingRequiredArgument, said));
    }
    preflight::check_replay()?;
    let mut captures = Merged::open(&files)?;
    let Options { sizes, timeouts, limits, .. } = options;
    let mut engine = Engine::new(sizes, timeouts.timeouts(), options.live_config(), *limits)?;
    let progress = progress(&files);
    let mut shown = Shown::new(options, &files, filter, &progress);
    let mut summary = Summary::new(captures.parts().iter().map(|part| part.name.as_str()));
    while let Some(events) = next(&mut captures, &mut engine, options, &mut summary)? {
        shown.events(events)?;
        shown.ended(&mut engine)?;
        progress.set_position(captures.position());
    }
    shown.events(engine.finish()?)?;
    shown.ended(&mut engine)?;
    progress.finish_and_clear();
    summary.finish(captures.parts(), &engine)?;
    shown.finish(&engine, &summary)?;
    let errors: Vec<_> = captures.parts().iter().filter_map(error).collect();
    if !errors.is_empty() {
        return Err(Failure::BadInput(errors.join("; ")).into());
    }
    Ok(())
}

/// The captures, and the words of a filter after them: what is no file, and may begin a filter.
fn files_and_words(options: &Options) -> (Vec<PathBuf>, Vec<String>) {
    let begins = |file: &PathBuf| {
        let text = file.to_string_lossy();
        *text != *"-" && !file.exists() && filter::may_begin(&text)
    };
    let count = options.files.iter().position(begins).unwrap_or(options.files.len());
    let (files, words) = options.files.split_at(count);
    let words = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    (options.read.iter().chain(files).cloned().collect(), words)
}

/// What is wrong with a file, after it was read as far as it could be.
fn error(part: &Part) -> Option<String> {
    let Part { name, capture, broken } = part;
    if let Some(broken) = broken {
        return Some(format!("{name}: {broken}"));
    }
    let is_nothing_understood = capture.packets() > 0 && capture.skipped() == capture.packets();
    is_nothing_understood.then(|| {
        let links: Vec<_> = capture.links().collect();
        format!("{name}: {}", nothing_understood(&links))
    })
}

/// Replays the next packet; `None` at the captures' end.
fn next(
    captures: &mut Merged,
    engine: &mut Engine,
    options: &Options,
    summary: &mut Summary,
) -> Result<Option<Vec<Event>>> {
    let Some((index, packet)) = captures.next() else { return Ok(None) };
    summary.saw(index, packet.timestamp_ns);
    if options.verify_checksums && checksum::is_wrong(&packet) {
        summary.bad_checksums += 1;
        return Ok(Some(Vec::new()));
    }
    let mut events = engine.push(&packet)?;
    if captures.parts().len() > 1 {
        for event in events.iter_mut().filter(|event| event.packet.is_some()) {
            event.file = Some(captures.parts()[index].name.clone());
        }
    }
    Ok(Some(events))
}

/// What is printed, and what waits to be.
struct Shown<'a> {
    options: &'a Options,
    filter: Filter,
    kinds: Vec<Kind>,
    since: Option<Timestamp>,
    output: Output,
    ladders: Option<Ladders<BufWriter<StdoutLock<'static>>>>,
    breaches: Breaches,
    archive: Archive,
}

impl<'a> Shown<'a> {
    fn new(
        options: &'a Options,
        files: &[PathBuf],
        filter: Filter,
        progress: &ProgressBar,
    ) -> Self {
        let is_terminal = stdout().is_terminal();
        let is_live = files.iter().any(|file| file == Path::new("-")) || is_terminal;
        let in_the_way = if is_terminal { progress.clone() } else { ProgressBar::hidden() };
        Self {
            options,
            kinds: options.kinds(),
            since: options.since.map(|since| since.time(Timestamp::now())),
            output: Output::new(options.output, is_live, in_the_way.clone()),
            ladders: options.ladder.then(|| {
                Ladders::new(
                    BufWriter::new(stdout().lock()),
                    &filter,
                    options.time.times(),
                    in_the_way,
                )
            }),
            filter,
            breaches: Breaches::default(),
            archive: Archive::default(),
        }
    }

    fn is_since(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since)
    }

    fn events(&mut self, events: Vec<Event>) -> Result<()> {
        for mut event in events {
            let is_told = self.breaches.take(&event) || self.options.every;
            if self.options.ladder {
                let since = self.since;
                let is_since = |time: Timestamp| since.is_none_or(|since| time >= since);
                let Some(flow) = event.flow.as_mut().filter(|flow| is_since(flow.created)) else {
                    continue;
                };
                self.breaches.complete(flow);
                if let Some(ladders) = &mut self.ladders {
                    ladders.event(event)?;
                }
                continue;
            }
            let is_asked_for = event.violation.is_none() || self.kinds.contains(&Kind::Violation);
            let is_shown = is_told && is_asked_for && self.is_since(event.time);
            if is_shown && self.filter.matches_event(&event) {
                self.output.event(&event)?;
            }
        }
        Ok(())
    }

    /// Takes over connections that have ended: nothing is said of them any more, but for how they ended.
    fn ended(&mut self, engine: &mut Engine) -> Result<()> {
        let all = engine.take_ended();
        if all.is_empty() {
            return Ok(());
        }
        let mut view = engine.view();
        for ended in all {
            let broken = self.breaches.forget(ended.id);
            if self.options.no_flows && !self.options.ladder {
                continue;
            }
            if self.options.ladder || !self.filter.is_empty() || self.since.is_some() {
                let mut flow = engine.ended(&ended, &mut view);
                breaches::write(&mut flow.record, &broken);
                if !self.is_since(flow.record.created) {
                    continue;
                }
                if let Some(ladders) = &mut self.ladders {
                    ladders.ended(flow)?;
                    continue;
                }
                if !self.filter.matches(&flow.record) {
                    continue;
                }
            }
            self.archive.add(Archived { ended, broken })?;
        }
        Ok(())
    }

    /// Prints connections, those that live among those that have ended, and the summary.
    fn finish(mut self, engine: &Engine, summary: &Summary) -> Result<()> {
        let breaches = mem::take(&mut self.breaches);
        let living = engine.flows()?.map(|mut flow| {
            breaches.complete(&mut flow.record);
            flow
        });
        let since = self.since;
        let living = living.filter(|flow| since.is_none_or(|since| flow.record.created >= since));
        let mut count = 0;
        if let Some(mut ladders) = self.ladders {
            count = ladders.finish(living)?;
        } else if !self.options.no_flows {
            let living = living.filter(|flow| self.filter.matches(&flow.record));
            let mut view = engine.view();
            let ended = self.archive.into_sorted().map(|archived| {
                let Archived { ended, broken } = archived?;
                let mut flow = engine.ended(&ended, &mut view);
                breaches::write(&mut flow.record, &broken);
                Ok(flow)
            });
            let flows = in_order(ended, living);
            let mut show = |flow: &ReplayedFlow| -> Result<()> {
                count += 1;
                self.output.flow(flow)
            };
            match self.options.last {
                Some(last) => last_of(flows, last)?.iter().try_for_each(&mut show)?,
                None => {
                    for flow in flows {
                        show(&flow?)?;
                    }
                }
            }
        }
        self.output.finish(summary, (!self.options.no_flows).then_some(count))
    }
}

/// Both in the order of their first packets, in which each is.
fn in_order(
    ended: impl Iterator<Item = Result<ReplayedFlow>>,
    living: impl Iterator<Item = ReplayedFlow>,
) -> impl Iterator<Item = Result<ReplayedFlow>> {
    let (mut ended, mut living) = (ended.peekable(), living.peekable());
    iter::from_fn(move || match (ended.peek(), living.peek()) {
        (Some(Ok(one)), Some(other)) if other.record.created_ns < one.record.created_ns => {
            living.next().map(Ok)
        }
        (Some(_), _) => ended.next(),
        (None, _) => living.next().map(Ok),
    })
}

/// The last `count` of these.
fn last_of<T>(all: impl Iterator<Item = Result<T>>, count: usize) -> Result<VecDeque<T>> {
    let mut last = VecDeque::new();
    for one in all {
        last.push_back(one?);
        if last.len() > count {
            last.pop_front();
        }
    }
    Ok(last)
}

/// A bar on stderr, for somebody who would otherwise wonder; hidden where nobody looks, or it is over in a moment.
fn progress(files: &[PathBuf]) -> ProgressBar {
    let len = |file: &PathBuf| fs::metadata(file).map_or(0, |metadata| metadata.len());
    let size = files.iter().map(len).sum();
    if size < LARGE || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = if terminal::unicode() { style } else { style.progress_chars("=> ") };
    ProgressBar::new(size).with_style(style)
}
