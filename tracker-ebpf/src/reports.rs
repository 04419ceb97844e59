//! Reports: filed while a packet is tracked, delivered to the ring buffer afterwards, when the stack is free again.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use tracker_common::{
    config::LiveConfig,
    counters::Tally,
    event::{Event, Kind},
    limit::Repeated,
    protect::Place,
    report::{self, Delivery, Filed, MOST_REPORTS},
    track::Report,
};

use crate::maps::{self, Scratch};

/// What waits to be delivered.
#[repr(C)]
pub(crate) struct Reports {
    count: u32,
    filed: [Filed; MOST_REPORTS],
}

/// Writes a report of a packet down, of which `dropped` says what becomes of it ([`Event::dropped`]). Not inlined: it is called from several places.
#[inline(never)]
pub(crate) fn file(report: &Report<'_>, slot: u32, dropped: u32, reports: &mut Reports) -> u32 {
    let Some(filed) = reports.filed.get_mut(reports.count as usize) else {
        maps::tally(Tally::ReportsLost);
        return 1;
    };
    reports.count += 1;
    filed.write(report, slot);
    let event = &mut filed.event;
    event.dropped = dropped;
    match report.flow {
        // SAFETY: two records, one of them ours alone.
        Some(flow) => unsafe { core::ptr::copy_nonoverlapping(flow, &raw mut event.flow, 1) },
        // SAFETY: any bytes are a record.
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
    // SAFETY: any bytes are an event.
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
    // SAFETY: this CPU's own element.
    unsafe { (*scratch).reports.count = 0 };
    0
}

/// [`report::deliver`] of the report at `n`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_deliver_one(n: u32) -> u32 {
    let Some(filed) = AtPlace::new(n) else { return 1 };
    report::deliver(&filed);
    0
}

/// [`report::may_report`] of the report at `n`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_may_report(n: u32, rule: u32) -> u32 {
    let Some(filed) = AtPlace::new(n) else { return 0 };
    u32::from(report::may_report(&filed, rule))
}

/// Writes the report at `n` into the ring buffer, as one of that kind.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_send(n: u32, kind: u32, rule: u32) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: this CPU's own element, and no caller keeps a reference to it meanwhile.
    let Some(Filed { event, .. }) = unsafe { &mut (*scratch).reports }.filed.get_mut(n as usize)
    else {
        return 1;
    };
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

/// The report at a place of [`Reports`].
struct AtPlace<'a> {
    n: u32,
    filed: *mut Filed,
    scratch: *mut Scratch,
    config: &'a LiveConfig,
}

impl AtPlace<'_> {
    #[inline(always)]
    fn new(n: u32) -> Option<Self> {
        let config = maps::CONFIG.get_ptr(0)?;
        let scratch = maps::SCRATCH.get_ptr_mut(0)?;
        // SAFETY: an array's element is never freed.
        let config = unsafe { &*config };
        // SAFETY: this CPU's own element.
        let filed = unsafe { &mut (*scratch).reports }.filed.get_mut(n as usize)?;
        Some(Self { n, filed, scratch, config })
    }
}

impl Delivery for AtPlace<'_> {
    #[inline(always)]
    fn config(&self) -> &LiveConfig {
        self.config
    }

    #[inline(always)]
    fn filed<T>(&self, with: impl FnOnce(&mut Filed) -> T) -> T {
        // SAFETY: this CPU's own element, and nothing else refers to it while this does.
        with(unsafe { &mut *self.filed })
    }

    #[inline(always)]
    fn not_sent(&self, why: Tally) {
        maps::tally(why);
    }

    #[inline(always)]
    fn repeat(&self, new: Repeated) -> u64 {
        // SAFETY: this CPU's own element; nothing else refers to this part of it.
        let repeated = unsafe { &mut (*self.scratch).repeated };
        *repeated = new;
        count(repeated)
    }

    #[inline(always)]
    fn bucket(&self, bucket: u32, take: impl FnOnce(u64) -> Option<u64>) -> bool {
        let Some(full_at) = maps::SOURCES.get_ptr_mut(bucket) else { return true };
        // SAFETY: an array's element is never freed. Where two CPUs take a token at once, one more report is sent.
        let full_at = unsafe { &mut *full_at };
        match take(*full_at) {
            Some(next) => {
                *full_at = next;
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn send(&self, kind: Kind, rule: u32) {
        tracker_send(self.n, kind as u32, rule);
    }

    #[inline(always)]
    fn may_report(&self, rule: u32) -> bool {
        tracker_may_report(self.n, rule) != 0
    }
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
