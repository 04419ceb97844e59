//! From entries to lines of text.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use tracker_common::state::State;

use super::{
    Breach, End, Entry, Ladder, Segment,
    times::{self, Times},
};
use crate::{cli::terminal, model::record::Record};

/// Columns that every terminal has. Where nobody says how many there are, a line that needs more takes them.
const PLAIN_WIDTH: usize = 80;

/// Columns that arrows are drawn out to at most: longer ones are no easier to follow.
const MOST_WIDTH: usize = 120;

/// Columns for the name of a state, of which SYN_RECEIVED is the longest.
const STATE_WIDTH: usize = 12;

/// Columns for what is said of a segment, whatever the width.
const LEAST_LABEL: usize = 20;

/// What an arrow takes beside its label.
const ARROW: usize = 6;

/// Columns for the first column, a packet's number or a connection's tag, unless more are needed.
const LEAST_FIRST: usize = 3;

/// A connection, as its diagram begins.
#[derive(Clone, Debug)]
pub struct Header {
    originator: SocketAddr,
    responder: SocketAddr,
    isns: [Isn; 2],
    wscales: [Option<u8>; 2],
    midstream: bool,
    zone: u16,
    created: Timestamp,
}

/// The number that an end's are relative to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Isn {
    /// The number of its SYN.
    Seen(u32),
    /// The number of the first segment that was seen, where its SYN's is not known.
    First(u32),
    Unknown,
}

impl Header {
    /// Returns the header of the connection that `record` is about, and `ladder` draws.
    #[must_use]
    pub fn new(record: &Record, ladder: &Ladder) -> Self {
        let [orig, reply] = ladder.bases();
        let isn = |isn: Option<u32>, base: Option<u32>| match (isn, base) {
            (Some(isn), _) => Isn::Seen(isn),
            (None, Some(base)) => Isn::First(base),
            (None, None) => Isn::Unknown,
        };
        Self {
            originator: (record.src, record.sport).into(),
            responder: (record.dst, record.dport).into(),
            isns: [isn(record.orig.isn, orig), isn(record.reply.isn, reply)],
            wscales: [record.orig.wscale, record.reply.wscale],
            midstream: record.midstream,
            zone: record.zone,
            created: record.created,
        }
    }
}

/// Where everything stands on a line.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    first: usize,
    time: usize,
    width: usize,
    most_width: usize,
    /// A label that is too long goes on below: otherwise, the line gets longer.
    wraps: bool,
    colour: bool,
    times: Times,
    /// When the line before was.
    before: Option<Timestamp>,
}

impl Layout {
    /// For stdout.
    #[must_use]
    pub fn for_stdout(times: Times) -> Self {
        let width = terminal::width();
        let most_width = width.map_or(MOST_WIDTH, |width| usize::from(width).min(MOST_WIDTH));
        Self {
            first: LEAST_FIRST,
            time: times.width(),
            width: if width.is_some() { most_width } else { PLAIN_WIDTH },
            most_width,
            wraps: width.is_some(),
            colour: terminal::colour(),
            times,
            before: None,
        }
    }

    /// For so many columns of a screen that has colours of its own.
    #[must_use]
    pub fn plain(width: u16) -> Self {
        let width = usize::from(width).min(MOST_WIDTH);
        Self {
            first: LEAST_FIRST,
            time: Times::Since.width(),
            width,
            most_width: width,
            wraps: true,
            colour: false,
            times: Times::Since,
            before: None,
        }
    }

    /// As wide as `entries` need it, where there is the room for it.
    #[must_use]
    pub fn fitting(mut self, entries: &[Entry], header: &Header) -> Self {
        let mut longest = 0;
        for entry in entries {
            let (packet, at_us) = match entry {
                Entry::Segment(segment) => {
                    let words = label(segment, header.isns[usize::from(segment.from_reply)]);
                    longest = longest.max(words.join(" ").len());
                    (segment.packet, segment.at_us)
                }
                Entry::End(end) => (end.packet, end.at_us),
                Entry::Breach(_) => continue,
            };
            let digits = packet.map_or(0, |packet| packet.to_string().len());
            self.first = self.first.max(digits);
            self.time = self.time.max(self.time_of(at_us, header).len());
        }
        let wanted = (self.beside() + ARROW + longest).max(PLAIN_WIDTH);
        self.width = wanted.min(self.most_width);
        self
    }

    /// Writes the line that a diagram begins with; `tag` is what the first column of its lines says of it.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn header(&self, out: &mut impl Write, header: &Header, tag: &str) -> io::Result<()> {
        let mut text = tag.to_owned();
        if !tag.is_empty() {
            text.push(' ');
        }
        let Header { originator, responder, isns, wscales, midstream, zone, created } = header;
        text.push_str(&format!("{originator} > {responder}"));
        text.push_str(&format!(" isn={}", pair(isns.map(Isn::text))));
        text.push_str(&format!(
            " wscale={}",
            pair(wscales.map(|wscale| wscale.map_or_else(|| "-".to_owned(), |it| it.to_string())))
        ));
        if *midstream {
            text.push_str(" midstream");
        }
        if *zone != 0 {
            text.push_str(&format!(" zone={zone}"));
        }
        text.push_str(&format!(" {created:.6}"));
        writeln!(out, "{}", self.paint(Style::new().bold(), &text))
    }

    /// Writes an entry of the diagram that `header` has begun.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn entry(
        &self,
        out: &mut impl Write,
        entry: &Entry,
        header: &Header,
        tag: &str,
    ) -> io::Result<()> {
        match entry {
            Entry::Segment(segment) => self.segment(out, segment, header, tag),
            Entry::Breach(breach) => {
                let text = format!("! {}", breach_text(breach));
                let red = AnsiColor::Red.on_default().bold();
                self.remark(out, (tag, ""), &self.paint(red, &text))
            }
            Entry::End(end) => {
                let packet = end.packet.map(|packet| packet.to_string());
                let first = packet.as_deref().unwrap_or(tag);
                self.remark(out, (first, &self.time_of(end.at_us, header)), &end_text(end))
            }
        }
    }

    /// Remembers when `entry` was, for the time of the next line.
    pub fn pass(&mut self, entry: &Entry, header: &Header) {
        if let Entry::Segment(Segment { at_us, .. }) = entry {
            self.before = Some(times::moment(header.created, *at_us));
        }
    }

    fn time_of(&self, at_us: i64, header: &Header) -> String {
        self.times.text(header.created, at_us, self.before)
    }

    /// Writes something about the whole connection below its segments.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn note(&self, out: &mut impl Write, text: &str, tag: &str) -> io::Result<()> {
        self.remark(out, (tag, ""), text)
    }

    fn segment(
        &self,
        out: &mut impl Write,
        segment: &Segment,
        header: &Header,
        tag: &str,
    ) -> io::Result<()> {
        let words = label(segment, header.isns[usize::from(segment.from_reply)]);
        let most = if self.wraps { self.middle() - ARROW } else { usize::MAX };
        let mut lines = filled(&words, most);
        let rest = lines.split_off(1);
        let middle = self.arrow(&lines.concat(), segment.from_reply);
        let packet = segment.packet.map(|packet| packet.to_string());
        let first = packet.as_deref().unwrap_or(tag);
        self.line(out, (first, &self.time_of(segment.at_us, header)), &middle, segment.states)?;
        for text in rest {
            self.line(out, (tag, ""), &format!("   {text}"), [None; 2])?;
        }
        Ok(())
    }

    fn arrow(&self, label: &str, to_the_left: bool) -> String {
        let dashes = "-".repeat(2 + self.middle().saturating_sub(ARROW + label.len()));
        if to_the_left {
            format!("<- {label} {dashes}")
        } else {
            // The head takes the place of the last dash.
            format!("-- {label} {}>", &dashes[1..])
        }
    }

    /// Columns between both states.
    fn middle(&self) -> usize {
        self.width.saturating_sub(self.beside()).max(LEAST_LABEL + ARROW)
    }

    /// Columns on both sides of that.
    fn beside(&self) -> usize {
        let time = if self.time > 0 { self.time + 1 } else { 0 };
        self.first + 1 + time + (STATE_WIDTH + 1) * 2
    }

    fn line(
        &self,
        out: &mut impl Write,
        before: (&str, &str),
        middle: &str,
        states: [Option<State>; 2],
    ) -> io::Result<()> {
        let [left, right] = states.map(|state| {
            state.map_or_else(String::new, |state| self.paint(style(state), state.name()))
        });
        let name = states[0].map_or("", State::name);
        let gap = " ".repeat(STATE_WIDTH - name.len());
        let line = format!("{}{left}{gap} {middle} {right}", self.before(before));
        writeln!(out, "{}", line.trim_end())
    }

    fn remark(&self, out: &mut impl Write, before: (&str, &str), text: &str) -> io::Result<()> {
        writeln!(out, "{}{text}", self.before(before))
    }

    fn before(&self, (first, time): (&str, &str)) -> String {
        if self.time == 0 {
            return format!("{first:>0$} ", self.first);
        }
        let time = self.paint(Style::new().dimmed(), &format!("{time:>0$}", self.time));
        format!("{first:>0$} {time} ", self.first)
    }

    fn paint(&self, style: Style, text: &str) -> String {
        let paints = self.colour && !text.trim().is_empty();
        if paints { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

impl Isn {
    fn text(self) -> String {
        match self {
            Self::Seen(isn) => isn.to_string(),
            Self::First(first) => format!("({first})"),
            Self::Unknown => "-".to_owned(),
        }
    }
}

fn pair([orig, reply]: [String; 2]) -> String {
    format!("{orig}/{reply}")
}

/// What is said of a segment, by words that are not torn apart.
fn label(segment: &Segment, isn: Isn) -> Vec<String> {
    let flags = segment.flags.to_string().to_ascii_uppercase();
    let mut words = vec![flags, format!("seq={}", segment.seq)];
    if let Some(own) = segment.isn.filter(|own| isn != Isn::Seen(*own) || segment.seq != 0) {
        words.push(format!("isn={own}"));
    }
    if let Some(ack) = segment.ack {
        words.push(format!("ack={ack}"));
    }
    if segment.payload > 0 {
        words.push(format!("len={}", segment.payload));
    }
    words.push(format!("win={}", segment.window));
    let Some(options) = segment.options else { return words };
    if let Some(mss) = options.mss {
        words.push(format!("mss={mss}"));
    }
    if let Some(wscale) = options.wscale {
        words.push(format!("wscale={wscale}"));
    }
    if options.sack {
        words.push("sack".to_owned());
    }
    if options.timestamps {
        words.push("ts".to_owned());
    }
    words
}

/// The words on as few lines of `most` columns as they need, at least one.
fn filled(words: &[String], most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}

fn breach_text(breach: &Breach) -> String {
    let name = breach.rule.name();
    match breach.numbers {
        None => name.to_owned(),
        Some((low, high, actual)) if low == high => {
            format!("{name} expected={low} actual={actual}")
        }
        Some((low, high, actual)) => format!("{name} expected={low}..{high} actual={actual}"),
    }
}

fn end_text(end: &End) -> String {
    let End { reason, conn_state, .. } = end;
    let timeout =
        end.timeout_state.as_ref().map_or_else(String::new, |it| format!(" timeout={it}"));
    format!("end reason={reason}{timeout} conn_state={conn_state}")
}

fn style(state: State) -> Style {
    match state {
        State::Closed | State::Listen => Style::new().dimmed(),
        State::SynSent | State::SynReceived => AnsiColor::Yellow.on_default(),
        State::Established => AnsiColor::Green.on_default(),
        State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck
        | State::TimeWait => AnsiColor::Cyan.on_default(),
    }
}
