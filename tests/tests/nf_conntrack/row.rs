//! A sequence of segments, and RFC 9293's answer to each.

use std::net::SocketAddr;

use tracker_common::violation::{Rule, Severity};
use tracker_tests::{
    router::Side,
    segment::{Segment, flag},
};

/// Both states of a pair that nobody knows a connection on.
pub(crate) const NOTHING: &str = "no connection";

/// Port of every client.
const CLIENT_PORT: u16 = 40_000;

/// A sequence of segments on a pair of addresses of its own.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The behaviour that it belongs to.
    pub(crate) id: &'static str,
    /// What it is about.
    pub(crate) title: &'static str,
    /// Where the answers come from.
    pub(crate) citation: &'static str,
    /// What has happened before.
    pub(crate) begin: Begin,
    /// What happens.
    pub(crate) steps: Vec<Step>,
    server_port: u16,
    land: bool,
}

/// What has happened on a pair before a row's own segments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Begin {
    /// Nothing.
    Nothing,
    /// The handshake: C's next number is then 1001, S's 5001.
    Open,
    /// Handshake, and a close by C in three segments.
    ClosedByC,
    /// Handshake, and a close by S in three segments.
    ClosedByS,
}

impl Begin {
    /// What it is called in the document.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Open => "open",
            Self::ClosedByC => "open, closed by C",
            Self::ClosedByS => "open, closed by S",
        }
    }

    /// The states after it.
    pub(crate) const fn states(self) -> &'static str {
        match self {
            Self::Nothing => NOTHING,
            Self::Open => "ESTABLISHED/ESTABLISHED",
            Self::ClosedByC => "TIME_WAIT/CLOSED",
            Self::ClosedByS => "CLOSED/TIME_WAIT",
        }
    }

    /// Its segments.
    pub(crate) fn steps(self) -> Vec<Step> {
        use flag::{ACK, FIN, SYN};
        let mut steps = vec![c(SYN, 1000, 0), s(SYN | ACK, 5000, 1001), c(ACK, 1001, 5001)];
        match self {
            Self::Nothing => steps.clear(),
            Self::Open => {}
            Self::ClosedByC => {
                steps.extend([
                    c(FIN | ACK, 1001, 5001),
                    s(FIN | ACK, 5001, 1002),
                    c(ACK, 1002, 5002),
                ]);
            }
            Self::ClosedByS => {
                steps.extend([
                    s(FIN | ACK, 5001, 1001),
                    c(FIN | ACK, 1001, 5002),
                    s(ACK, 5002, 1002),
                ]);
            }
        }
        steps
    }
}

impl Row {
    /// A sequence on a pair on which nothing has happened.
    pub(crate) fn new(id: &'static str, title: &'static str, citation: &'static str) -> Self {
        let (begin, steps) = (Begin::Nothing, Vec::new());
        Self { id, title, citation, begin, steps, server_port: 80, land: false }
    }

    /// After this.
    pub(crate) fn after(mut self, begin: Begin) -> Self {
        self.begin = begin;
        self
    }

    /// These segments.
    pub(crate) fn steps(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.steps.extend(steps);
        self
    }

    /// To this port of the server's.
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        self.server_port = port;
        self
    }

    /// From the server's address and port to themselves.
    pub(crate) fn land(mut self) -> Self {
        self.land = true;
        self
    }

    /// C's address and port, and S's, for the row with this number.
    pub(crate) fn ends(&self, number: u16) -> [SocketAddr; 2] {
        let server = SocketAddr::new(Side::Right.host(number), self.server_port);
        let client = SocketAddr::new(Side::Left.host(number), CLIENT_PORT);
        [if self.land { server } else { client }, server]
    }

    /// The states that RFC 9293 gives both ends after each step.
    pub(crate) fn states(&self) -> Vec<&'static str> {
        let mut now = self.begin.states();
        self.steps
            .iter()
            .map(|step| {
                now = step.states.unwrap_or(now);
                now
            })
            .collect()
    }

    /// The rules whose breach is to be reported.
    pub(crate) fn reported(&self) -> Vec<&'static str> {
        let mut rules: Vec<_> = self
            .steps
            .iter()
            .flat_map(|step| &step.rules)
            .copied()
            .filter(|name| severity(name) == Some(Severity::Violation))
            .collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

/// How breaches of the rule with this name are treated.
pub(crate) fn severity(name: &str) -> Option<Severity> {
    Rule::from_name(name).map(Rule::severity)
}

/// One segment, and the answer to it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    from: Side,
    flags: u16,
    seq: u32,
    ack: u32,
    window: u16,
    data: usize,
    options: Vec<u8>,
    remarks: Vec<String>,
    padded: bool,
    states: Option<&'static str>,
    unjudged: bool,
    /// The rules that it breaks, or that count it, whatever their severity.
    pub(crate) rules: Vec<&'static str>,
}

const WINDOW: u16 = 65_535;

/// A segment of C's.
pub(crate) fn c(flags: u16, seq: u32, ack: u32) -> Step {
    let (options, remarks, rules) = (Vec::new(), Vec::new(), Vec::new());
    let (window, data, padded, states, unjudged) = (WINDOW, 0, false, None, false);
    Step {
        from: Side::Left,
        flags,
        seq,
        ack,
        window,
        data,
        options,
        remarks,
        padded,
        states,
        unjudged,
        rules,
    }
}

/// A segment of S's.
pub(crate) fn s(flags: u16, seq: u32, ack: u32) -> Step {
    Step { from: Side::Right, ..c(flags, seq, ack) }
}

impl Step {
    /// With so many bytes of data.
    pub(crate) fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    /// With this window field.
    pub(crate) fn window(mut self, window: u16) -> Self {
        self.window = window;
        self.remarks.push(format!("window {window}"));
        self
    }

    /// With the timestamps option.
    pub(crate) fn timestamps(mut self, value: u32, echo: u32) -> Self {
        self.options.extend([1, 1, 8, 10]);
        self.options.extend(value.to_be_bytes());
        self.options.extend(echo.to_be_bytes());
        self.remarks.push(format!("timestamp {value}"));
        self
    }

    /// With the window scale option.
    pub(crate) fn scale(mut self, shift: u8) -> Self {
        self.options.extend([1, 3, 3, shift]);
        self.remarks.push(format!("scale {shift}"));
        self
    }

    /// With a Fast Open cookie.
    pub(crate) fn cookie(mut self) -> Self {
        self.options.extend([1, 1, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
        self.remarks.push("Fast Open cookie".to_owned());
        self
    }

    /// In a frame with padding behind the packet.
    pub(crate) fn padded(mut self) -> Self {
        self.padded = true;
        self.remarks.push("padded frame".to_owned());
        self
    }

    /// After it, C's state and S's are these. Without a word, they are as they were.
    pub(crate) fn then(mut self, states: &'static str) -> Self {
        self.states = Some(states);
        self
    }

    /// It breaks this rule.
    pub(crate) fn breaks(mut self, rule: &'static str) -> Self {
        self.rules.push(rule);
        self
    }

    /// It breaks nothing, but is counted under this name.
    pub(crate) fn counts(self, rule: &'static str) -> Self {
        self.breaks(rule)
    }

    /// What nf_conntrack says of it is not called a difference: the rule is stricter than the RFC, or the segment is a
    /// breach only in the light of others.
    pub(crate) fn unjudged(mut self) -> Self {
        self.unjudged = true;
        self
    }

    /// Its sender's side of the router.
    pub(crate) const fn side(&self) -> Side {
        self.from
    }

    /// The segment between C and S.
    pub(crate) fn segment(&self, [client, server]: [SocketAddr; 2]) -> Segment {
        let (source, destination) =
            if self.from == Side::Left { (client, server) } else { (server, client) };
        let segment = Segment::new(source, destination, self.flags, self.seq, self.ack)
            .window(self.window)
            .data(self.data)
            .options(&self.options);
        if self.padded { segment.padded_to(60) } else { segment }
    }

    /// Its receiver would refuse it: it breaks a rule, be it one that is not reported unless asked for.
    pub(crate) fn is_breach(&self) -> bool {
        !self.unjudged && self.breaks_rules()
    }

    /// Its receiver would take it.
    pub(crate) fn is_lawful(&self) -> bool {
        !self.unjudged && !self.breaks_rules()
    }

    fn breaks_rules(&self) -> bool {
        self.rules.iter().any(|name| severity(name) != Some(Severity::Information))
    }

    /// As the document writes it.
    pub(crate) fn text(&self) -> String {
        const NAMES: [(u16, &str); 9] = [
            (flag::SYN, "SYN"),
            (flag::FIN, "FIN"),
            (flag::RST, "RST"),
            (flag::PSH, "PSH"),
            (flag::ACK, "ACK"),
            (flag::URG, "URG"),
            (flag::ECE, "ECE"),
            (flag::CWR, "CWR"),
            (flag::AE, "AE"),
        ];
        let names: Vec<_> =
            NAMES.iter().filter(|(bit, _)| self.flags & bit != 0).map(|(_, name)| *name).collect();
        let names = if names.is_empty() { "no flags".to_owned() } else { names.join(",") };
        let from = if self.from == Side::Left { "C" } else { "S" };
        let mut text = format!("{from} {names} {}", self.seq);
        if self.flags & flag::ACK != 0 {
            text.push_str(&format!("/{}", self.ack));
        }
        if self.data > 0 {
            text.push_str(&format!(" ({})", self.data));
        }
        for remark in &self.remarks {
            text.push_str(&format!(", {remark}"));
        }
        text
    }
}
