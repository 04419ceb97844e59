//! Which reports are delivered, in which order, and how often: once for the kernel programs and for what simulates them.

use crate::{
    config::LiveConfig,
    counters::Tally,
    event::{Event, Kind},
    limit::{self, Repeated, is_due},
    track::Report,
    violation::{Marks, Rule},
};

/// Reports that a step of tracking can make: of the flow that it ends, and of the one that it is about.
pub const MOST_REPORTS: usize = 2;

/// Marks at most that one segment can have.
pub const MOST_MARKS: u32 = 16;

/// Kinds of one report, in the order in which they are to be read.
const ORDER: [Kind; 7] = [
    Kind::Destroy,
    Kind::New,
    Kind::Segment,
    Kind::Violation,
    Kind::Established,
    Kind::Closing,
    Kind::Close,
];

/// A report that waits for its step's end.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Filed {
    /// All but the kind and the rule.
    pub event: Event,
    marks: u64,
    kinds: u32,
    /// Code of its own breach's rule.
    rule: u32,
}

impl Filed {
    /// Writes a report down, of a packet that an interface with this slot saw. The caller copies [`Report::flow`], if there
    /// is one: in the kernel, its bytes.
    #[inline(always)]
    pub fn write(&mut self, report: &Report<'_>, slot: u32) {
        self.kinds = report.kinds;
        self.marks = report.marks.0;
        self.rule = report.breach.rule as u32;
        let event = &mut self.event;
        let segment = &report.packet.segment;
        event.time_ns = report.now_ns;
        event.key = report.packet.key;
        event.from = report.packet.from.code();
        event.hook = report.hook as u8;
        event.before = [report.before[0] as u8, report.before[1] as u8];
        event.after = [report.after[0] as u8, report.after[1] as u8];
        event.slot = slot;
        event.seq = segment.seq.0;
        event.ack = segment.ack.0;
        event.payload = segment.payload;
        event.low = report.breach.low;
        event.high = report.breach.high;
        event.actual = report.breach.actual;
        event.flags = segment.flags.0;
        event.window = segment.window;
        event.has_flow = u32::from(report.flow.is_some());
        event.dropped = 0;
    }
}

/// What the delivery of one report needs: the report, counters, and somewhere to send to.
pub trait Delivery {
    /// What the agent asks for.
    fn config(&self) -> &LiveConfig;
    /// Calls `with` with the report; no other method is called meanwhile.
    fn filed<T>(&self, with: impl FnOnce(&mut Filed) -> T) -> T;
    /// Counts that the report is not sent.
    fn not_sent(&self, why: Tally);
    /// Counts a breach on a connection; returns how many there were, this one included.
    fn repeat(&self, repeated: Repeated) -> u64;
    /// Calls `take` with what bucket number `bucket` holds, and writes what that returns; false where it returns nothing.
    fn bucket(&self, bucket: u32, take: impl FnOnce(u64) -> Option<u64>) -> bool;
    /// Sends the report as one of a kind; `rule` is a code.
    fn send(&self, kind: Kind, rule: u32);
    /// [`may_report`], which the kernel makes a function of its own.
    #[inline(always)]
    fn may_report(&self, rule: u32) -> bool
    where
        Self: Sized,
    {
        may_report(self, rule)
    }
}

/// The kinds of events that somebody listens to, of those that a report makes: its own, and violations where its marks
/// are to be reported.
#[inline(always)]
#[must_use]
pub fn wanted(config: &LiveConfig, kinds: u32, marks: Marks) -> u32 {
    let marked = u32::from(marks.0 & config.reported.0[0] != 0);
    (kinds | (marked * Kind::Violation.bit())) & config.events
}

/// Sends what of a report is wanted.
#[inline(always)]
pub fn deliver<D: Delivery>(report: &D) {
    let config = report.config();
    let wanted = report.filed(|filed| wanted(config, filed.kinds, Marks(filed.marks)));
    for kind in ORDER {
        if wanted & kind.bit() == 0 {
            continue;
        }
        match kind {
            Kind::Violation => deliver_violations(report),
            Kind::Segment if !report.filed(|filed| config.trace.matches(&filed.event.key)) => {}
            _ => report.send(kind, 0),
        }
    }
}

/// Sends the breach and the marks that are to be reported.
#[inline(always)]
fn deliver_violations<D: Delivery>(report: &D) {
    let (kinds, marks, rule) = report.filed(|filed| (filed.kinds, filed.marks, filed.rule));
    if kinds & Kind::Violation.bit() != 0 {
        if report.may_report(rule) {
            report.send(Kind::Violation, rule);
        }
        // The numbers were the breach's.
        report.filed(|Filed { event, .. }| (event.low, event.high, event.actual) = (0, 0, 0));
    }
    let mut left = marks & report.config().reported.0[0];
    for _ in 0..MOST_MARKS {
        if left == 0 {
            break;
        }
        let rule = left.trailing_zeros();
        if report.may_report(rule) {
            report.send(Kind::Violation, rule);
        }
        left &= left - 1;
    }
}

/// Whether a breach is one of those that are reported, and neither its flow nor its source has had too many.
#[inline(always)]
pub fn may_report<D: Delivery>(report: &D, rule: u32) -> bool {
    let config = report.config();
    #[allow(clippy::cast_possible_truncation)] // a rule's code
    let code = rule as u8;
    if !config.reported.has_code(code) {
        return false;
    }
    let repeated = report.filed(|Filed { event, .. }| {
        let generation = event.flow.life().generation;
        (event.has_flow != 0).then_some(Repeated { key: event.key, generation, rule })
    });
    if let Some(repeated) = repeated {
        // Also where each is reported: others read there which connection has broken what.
        let count = report.repeat(repeated);
        if config.no_back_off == 0 && !is_due(count, Rule::factor(code)) {
            report.not_sent(Tally::ReportsBackedOff);
            return false;
        }
    }
    let (interval, burst) = (config.source_interval_ns, config.source_burst_ns);
    if interval == 0 {
        return true;
    }
    let (bucket, now_ns) = report.filed(|Filed { event, .. }| {
        (limit::bucket(&event.key.addresses[usize::from(event.from & 1)]), event.time_ns)
    });
    let take = |full_at| limit::take_token(full_at, now_ns, interval, burst);
    let may = report.bucket(bucket, take);
    if !may {
        report.not_sent(Tally::ReportsLimited);
    }
    may
}
