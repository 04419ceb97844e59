//! Reports: filed while a packet is tracked, delivered to the ring buffer afterwards, when the stack is free again.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use tracker_common::{
    config::LiveConfig,
    counters::Tally,
    event::{Event, Kind},
    limit::{self, Repeated, is_due},
    protect::Place,
    track::Report,
    violation::{Marks, Rule},
};

use crate::maps::{self, Scratch};

/// Marks at most that one segment can have.
pub(crate) const MOST_MARKS: u32 = 16;

/// Reports that a step of tracking can make: of the flow that it ends, and of the one that it is about.
const MOST_REPORTS: usize = 2;

/// What waits to be delivered.
#[repr(C)]
pub(crate) struct Reports {
    count: u32,
    filed: [Filed; MOST_REPORTS],
}

#[repr(C)]
struct Filed {
    /// All but the kind and the rule.
    event: Event,
    marks: u64,
    kinds: u32,
    /// Its own breach's.
    rule: u32,
}

/// The kinds of events that somebody listens to, of those that a report makes: its own, and violations where its marks
/// are to be reported.
#[inline(always)]
pub(crate) fn wanted(config: &LiveConfig, kinds: u32, marks: Marks) -> u32 {
    let marked = u32::from(marks.0 & config.reported.0[0] != 0);
    (kinds | (marked * Kind::Violation.bit())) & config.events
}

/// Writes a report down. Not inlined: it is called from several places.
#[inline(never)]
pub(crate) fn file(report: &Report<'_>, slot: u32, reports: &mut Reports) -> u32 {
    let Some(filed) = reports.filed.get_mut(reports.count as usize) else {
        maps::tally(Tally::ReportsLost);
        return 1;
    };
    reports.count += 1;
    filed.kinds = report.kinds;
    filed.marks = report.marks.0;
    filed.rule = report.breach.rule as u32;
    let event = &mut filed.event;
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
    event.reserved = 0;
    match report.flow {
        // SAFETY: two records, one of them ours alone.
        Some(flow) => unsafe { core::ptr::copy_nonoverlapping(flow, &raw mut event.flow, 1) },
        // SAFETY: any octets are a record.
        None => unsafe { core::ptr::write_bytes(&raw mut event.flow, 0, 1) },
    }
    0
}

/// Says that SYN cookies are sent for `place` from now on, where there are `half_open` connections of `limit`.
#[inline(never)]
pub(crate) fn announce_cookies(
    scratch: *mut Scratch,
    place: &Place,
    now_ns: u64,
    half_open: u32,
    limit: u32,
) {
    let Some(config) = maps::CONFIG.get_ptr(0) else { return };
    // SAFETY: an array's element is never freed.
    if unsafe { (*config).events } & Kind::Cookie.bit() == 0 {
        return;
    }
    // SAFETY: this CPU's own element, and nothing was filed yet.
    let event = unsafe { &mut (*scratch).reports.filed[0].event };
    // SAFETY: any octets are an event.
    unsafe { core::ptr::write_bytes(event, 0, 1) };
    event.time_ns = now_ns;
    event.key.addresses[0] = place.address;
    event.key.ports[0] = place.port;
    event.slot = maps::interface().slot;
    (event.actual, event.high) = (half_open, limit);
    send(event, Kind::Cookie, 0);
}

/// Sends what was filed, and forgets it.
#[inline(always)]
pub(crate) fn deliver(scratch: *mut Scratch) {
    // SAFETY: this CPU's own element.
    let count = unsafe { (*scratch).reports.count };
    if count != 0 {
        tracker_deliver();
    }
}

/// A global function: the verifier checks it once, not at every call.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_deliver() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 1 };
    let Some(config) = maps::CONFIG.get_ptr(0) else { return 1 };
    // SAFETY: an array's element is never freed.
    let config = unsafe { &*config };
    for n in 0..MOST_REPORTS {
        // SAFETY: this CPU's own element.
        let reports = unsafe { &mut (*scratch).reports };
        if n < reports.count as usize
            && let Some(filed) = reports.filed.get_mut(n)
        {
            // SAFETY: as above; another part of it.
            let repeated = unsafe { &mut (*scratch).repeated };
            deliver_one(filed, config, repeated);
        }
    }
    // SAFETY: as above.
    unsafe { (*scratch).reports.count = 0 };
    0
}

#[inline(never)]
fn deliver_one(filed: &mut Filed, config: &LiveConfig, repeated: &mut Repeated) -> u32 {
    let wanted = wanted(config, filed.kinds, Marks(filed.marks));
    // In the order in which they are to be read.
    for kind in
        [Kind::Destroy, Kind::New, Kind::Segment, Kind::Violation, Kind::Established, Kind::Closing]
    {
        if wanted & kind.bit() == 0 {
            continue;
        }
        match kind {
            Kind::Violation => violations(filed, config, repeated),
            Kind::Segment if !config.trace.matches(&filed.event.key) => {}
            _ => send(&mut filed.event, kind, 0),
        }
    }
    0
}

/// Sends the breach and the marks that are to be reported.
#[inline(always)]
fn violations(filed: &mut Filed, config: &LiveConfig, repeated: &mut Repeated) {
    let own = filed.kinds & Kind::Violation.bit() != 0;
    if own && may_report(&filed.event, config, filed.rule, repeated) {
        send(&mut filed.event, Kind::Violation, filed.rule);
    }
    if own {
        // The numbers were the breach's.
        (filed.event.low, filed.event.high, filed.event.actual) = (0, 0, 0);
    }
    let mut left = filed.marks & config.reported.0[0];
    for _ in 0..MOST_MARKS {
        if left == 0 {
            break;
        }
        let rule = left.trailing_zeros();
        if may_report(&filed.event, config, rule, repeated) {
            send(&mut filed.event, Kind::Violation, rule);
        }
        left &= left - 1;
    }
}

/// Whether a breach is one of those that are reported, and neither its flow nor its source has had too many.
#[inline(never)]
fn may_report(event: &Event, config: &LiveConfig, rule: u32, repeated: &mut Repeated) -> bool {
    #[allow(clippy::cast_possible_truncation)] // a rule's code
    let code = rule as u8;
    if !config.reported.has_code(code) {
        return false;
    }
    if event.has_flow != 0 {
        *repeated = Repeated { key: event.key, generation: event.flow.life().generation, rule };
        // Also where each is reported: others read there which connection has broken what.
        let count = count(repeated);
        if config.no_back_off == 0 && !is_due(count, Rule::factor(code)) {
            maps::tally(Tally::ReportsBackedOff);
            return false;
        }
    }
    if config.source_interval_ns != 0 && !take_token(event, config) {
        maps::tally(Tally::ReportsLimited);
        return false;
    }
    true
}

/// How often this connection has broken this rule, this time included.
#[inline(always)]
fn count(repeated: &Repeated) -> u64 {
    if let Some(count) = maps::REPEATED.get_ptr_mut(repeated) {
        // SAFETY: stays allocated while the program runs. Where two CPUs count at once, one more report is sent.
        let count = unsafe { &mut *count };
        *count += 1;
        *count
    } else {
        let _ = maps::REPEATED.insert(repeated, 1, 0);
        1
    }
}

#[inline(always)]
fn take_token(event: &Event, config: &LiveConfig) -> bool {
    let source = &event.key.addresses[usize::from(event.from & 1)];
    let Some(full_at) = maps::SOURCES.get_ptr_mut(limit::bucket(source)) else { return true };
    // SAFETY: an array's element is never freed. Where two CPUs take a token at once, one more report is sent.
    let full_at = unsafe { &mut *full_at };
    let (interval, burst) = (config.source_interval_ns, config.source_burst_ns);
    match limit::take_token(*full_at, event.time_ns, interval, burst) {
        Some(next) => {
            *full_at = next;
            true
        }
        None => false,
    }
}

/// Writes a report of one kind into the ring buffer.
#[inline(always)]
fn send(event: &mut Event, kind: Kind, rule: u32) {
    event.kind = kind as u8;
    #[allow(clippy::cast_possible_truncation)] // a rule's code
    {
        event.rule = rule as u8;
    }
    // Who replays a capture looks after every packet.
    let how = if maps::interface().replay == 0 { 0 } else { u64::from(BPF_RB_NO_WAKEUP) };
    if maps::EVENTS.output::<Event>(&*event, how).is_err() {
        maps::tally(Tally::ReportsLost);
    }
}
