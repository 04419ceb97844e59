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
    tracker_send(0, Kind::Cookie as u32, 0);
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

// These are global functions: the verifier checks each once, and not on every path to a call.

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_deliver() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 1 };
    for n in 0..MOST_REPORTS {
        // SAFETY: this CPU's own element.
        if n < unsafe { (*scratch).reports.count } as usize {
            #[allow(clippy::cast_possible_truncation)] // few
            tracker_deliver_one(n as u32);
        }
    }
    // SAFETY: as above.
    unsafe { (*scratch).reports.count = 0 };
    0
}

/// Sends what is wanted of the report at `n`, in the order in which it is to be read.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_deliver_one(n: u32) -> u32 {
    let Some(config) = maps::CONFIG.get_ptr(0) else { return 1 };
    // SAFETY: an array's element is never freed.
    let config = unsafe { &*config };
    let Some(filed) = filed(n) else { return 1 };
    let wanted = wanted(config, filed.kinds, Marks(filed.marks));
    for kind in
        [Kind::Destroy, Kind::New, Kind::Segment, Kind::Violation, Kind::Established, Kind::Closing]
    {
        if wanted & kind.bit() == 0 {
            continue;
        }
        match kind {
            Kind::Violation => violations(n, filed, config),
            Kind::Segment if !config.trace.matches(&filed.event.key) => {}
            _ => {
                tracker_send(n, kind as u32, 0);
            }
        }
    }
    0
}

/// The report at `n`.
#[inline(always)]
fn filed<'a>(n: u32) -> Option<&'a mut Filed> {
    let scratch = maps::SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element, and no caller keeps two of these.
    unsafe { &mut (*scratch).reports }.filed.get_mut(n as usize)
}

/// Sends the breach and the marks that are to be reported.
#[inline(always)]
fn violations(n: u32, filed: &mut Filed, config: &LiveConfig) {
    let own = filed.kinds & Kind::Violation.bit() != 0;
    if own && tracker_may_report(n, filed.rule) != 0 {
        tracker_send(n, Kind::Violation as u32, filed.rule);
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
        if tracker_may_report(n, rule) != 0 {
            tracker_send(n, Kind::Violation as u32, rule);
        }
        left &= left - 1;
    }
}

/// Whether a breach is one of those that are reported, and neither its flow nor its source has had too many.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_may_report(n: u32, rule: u32) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    let Some(config) = maps::CONFIG.get_ptr(0) else { return 0 };
    // SAFETY: an array's element is never freed.
    let config = unsafe { &*config };
    let Some(filed) = filed(n) else { return 0 };
    // SAFETY: this CPU's own element, another part of it.
    let repeated = unsafe { &mut (*scratch).repeated };
    u32::from(may_report(&filed.event, config, rule, repeated))
}

#[inline(always)]
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

/// Writes the report at `n` into the ring buffer, as one of that kind.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_send(n: u32, kind: u32, rule: u32) -> u32 {
    let Some(filed) = filed(n) else { return 1 };
    let event = &mut filed.event;
    #[allow(clippy::cast_possible_truncation)] // the codes of a kind and of a rule
    {
        (event.kind, event.rule) = (kind as u8, rule as u8);
    }
    // Who replays a capture looks after every packet.
    let how = if maps::interface().replay == 0 { 0 } else { u64::from(BPF_RB_NO_WAKEUP) };
    if maps::EVENTS.output::<Event>(&*event, how).is_err() {
        maps::tally(Tally::ReportsLost);
    }
    0
}
