//! `tracker trace`: connections drawn as they go on, segment by segment.

use std::{
    collections::HashMap,
    io::{self, BufWriter, StdoutLock, Write},
    net::SocketAddr,
};

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use tracker_common::event::Kind;

use crate::{
    cli::{
        self,
        choice::{Choice, warn_of_interfaces},
        exit_signals,
        ladder::{Entry, Header, Ladder, Layout, TimeOptions, Times},
    },
    client::{
        listen::{CHUNK, Listener, say_listening},
        request::EventRequest,
    },
    kernel::instance::Instance,
    model::{event::Event, format::Format, record::Record, tcp_flags::TcpFlags},
};

/// Connections that are remembered at once. Most are forgotten when they end; unfinished ones that are evicted end
/// without a word.
const MOST_SHOWN: usize = 65_536;

/// Options of `tracker trace`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Output format: a diagram, or one JSON record per line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// End after this many segments
    #[arg(long, value_name = "N")]
    pub last: Option<u64>,
    /// Trace every connection; required without a filter
    #[arg(long)]
    pub all: bool,
    /// Segments with these TCP flags, or without those after `!`: `syn,!ack`
    #[arg(long, value_name = "FLAG[,!FLAG]", help_heading = "Filters")]
    pub tcp_flags: Option<TcpFlags>,
    /// When.
    #[command(flatten)]
    pub time: TimeOptions,
    /// Whose segments, one filter at least. The kernel reports the segments of one address (or prefix) and one port; what
    /// else is asked for is left out here.
    #[command(flatten)]
    pub choice: Choice,
}

/// Draws until SIGINT, SIGTERM, the agent's end, or the number of segments asked for.
///
/// # Errors
///
/// Where no agent runs, it ends, or stdout cannot be written.
pub async fn run(options: Options, instance: &Instance) -> Result<()> {
    if options.output == Format::Json {
        let said = "segments are a stream: use `-o jsonl`";
        return Err(cli::refusal("trace", ErrorKind::ArgumentConflict, said));
    }
    let filter = options.choice.filter("trace")?;
    if filter.asks_for_rules() {
        return Err(cli::refusal(
            "trace",
            ErrorKind::ArgumentConflict,
            "`violation` chooses flows and events; of segments it is not known before they have passed",
        ));
    }
    if filter.is_empty() && !options.all {
        return Err(cli::refusal(
            "trace",
            ErrorKind::MissingRequiredArgument,
            "say whose segments, as in `tracker trace --port 443` or `--addr 192.0.2.0/24`, or `--all`",
        ));
    }
    warn_of_interfaces(&filter, instance)?;
    let events = [Kind::Segment, Kind::Violation, Kind::Destroy].map(|kind| kind.name().to_owned());
    let trace = Some(filter.scope());
    let request = EventRequest { v: 1, events: events.to_vec(), trace };
    exit_signals::exit_on_signal()?;
    let Some(mut listener) = Listener::connect(instance, &request).await? else { return Ok(()) };
    say_listening();
    let mut screen = Screen::new(options.time.times());
    let mut segments = 0;
    while options.last.is_none_or(|last| segments < last) {
        if !listener.has_more() {
            screen.out.flush().context("writing to stdout")?;
        }
        let Some((event, line)) = listener.next().await? else { break };
        let meant = match &event.flow {
            Some(flow) => filter.matches(flow),
            None => event.lost.is_some() || filter.is_empty(),
        };
        let has_flags = options.tcp_flags.is_none_or(|flags| flags.matches(&event));
        if !meant || !has_flags {
            continue;
        }
        segments += match options.output {
            Format::Text => screen.show(&event)?,
            Format::Json | Format::Jsonl => {
                writeln!(screen.out, "{line}").context("writing to stdout")?;
                u64::from(event.states.is_some())
            }
        };
    }
    screen.out.flush().context("writing to stdout")
}

/// One connection: when it began, and who began it.
type Id = (u64, u16, SocketAddr, SocketAddr);

/// Diagrams of all connections, line by line as they come.
struct Screen {
    out: BufWriter<StdoutLock<'static>>,
    layout: Layout,
    shown: HashMap<Id, Shown>,
    /// The connection that the last line was about.
    current: Option<(Id, Header)>,
    tags: u64,
}

struct Shown {
    ladder: Ladder,
    tag: String,
}

impl Screen {
    fn new(times: Times) -> Self {
        Self {
            out: BufWriter::with_capacity(CHUNK, io::stdout().lock()),
            layout: Layout::for_stdout(times),
            shown: HashMap::new(),
            current: None,
            tags: 0,
        }
    }

    /// Draws what `event` adds; the number of segments in that.
    fn show(&mut self, event: &Event) -> Result<u64> {
        match &event.flow {
            Some(flow) => self.draw(event, flow),
            // Neither LOST nor a breach without a connection has a place in a diagram.
            None => writeln!(self.out, "{event}").map(|()| 0).context("writing to stdout"),
        }
    }

    fn draw(&mut self, event: &Event, flow: &Record) -> Result<u64> {
        let id = (
            flow.created_ns,
            flow.zone,
            SocketAddr::from((flow.src, flow.sport)),
            SocketAddr::from((flow.dst, flow.dport)),
        );
        if self.shown.len() >= MOST_SHOWN && !self.shown.contains_key(&id) {
            self.shown.clear();
        }
        let shown = self.shown.entry(id).or_insert_with(|| {
            self.tags += 1;
            Shown { ladder: Ladder::default(), tag: format!("[{}]", self.tags) }
        });
        let entries = shown.ladder.add(event).context("the agent is of another version")?;
        let Self { out, layout, current, .. } = self;
        let header = match current {
            Some((current, header)) if *current == id => header,
            _ => {
                let header = Header::new(flow, &shown.ladder);
                layout.header(out, &header, &shown.tag).context("writing to stdout")?;
                &current.insert((id, header)).1
            }
        };
        for entry in &entries {
            layout.entry(out, entry, header, &shown.tag).context("writing to stdout")?;
            layout.pass(entry, header);
        }
        if entries.iter().any(|entry| matches!(entry, Entry::End(_))) {
            self.shown.remove(&id);
        }
        let segments = entries.iter().filter(|entry| matches!(entry, Entry::Segment(_)));
        Ok(u64::try_from(segments.count())?)
    }
}
