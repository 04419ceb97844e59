//! The maps besides the tables of flows, and what is counted in them.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use tracker_common::{
    config::{InterfaceConfig, LiveConfig, MAX_INTERFACES, Replayed},
    cookie::Keys,
    counters::{Fate, Hook, PacketCounters, Tally},
    dropping::MAX_EXEMPT,
    flow::HalfOpen,
    forget::opaque,
    key::{Address, FlowKey},
    limit::{self, Repeated},
    packet::Parsed,
    protect::{
        Accepted, Answered, Listener, ListenerState, MAX_ACCEPTED, MAX_ANSWERED, MAX_LEFT_TO_HOST,
        MAX_LISTENERS, OutcomeCounters, Place,
    },
    route::{MAX_ROUTES, Route},
    segment::SynOptions,
    sweep::{self, Removal},
    syn_cache::NewRate,
    violation::Rule,
    walk::Walk,
};

use crate::{protect::Guarding, reports::Reports, verified_steps::PartsState};

/// The interface that this copy of the programs is attached to; set by the agent before loading.
#[unsafe(no_mangle)]
static INTERFACE: InterfaceConfig =
    InterfaceConfig { slot: 0, zone: 0, raw_ip: 0, replay: 0, shared: 0, drops: 0, reserved: 0 };

/// How often each connection broke each rule that is reported. Where a flood evicts an entry, a report comes again.
#[map]
pub(crate) static REPEATED: LruHashMap<Repeated, u64> =
    LruHashMap::with_max_entries(limit::MOST_REPEATED, 0);

/// Token buckets of the sources of violations ([`tracker_common::limit`]).
#[map]
pub(crate) static SOURCES: Array<u64> = Array::with_max_entries(limit::BUCKETS, 0);

/// The kernel's tick and the time when it was new to this CPU.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LastTick {
    pub(crate) tick: u64,
    pub(crate) now_ns: u64,
}

/// What would not fit on the stack of 512 bytes.
#[repr(C)]
pub(crate) struct Scratch {
    /// The packet that is being tracked.
    pub(crate) parsed: Parsed,
    /// Index of the interface by which a leaving packet came to this host; 0 where it began here.
    pub(crate) arrived_at: u32,
    /// Packets beside the first that this one stands for.
    pub(crate) further: u32,
    /// What the time was about.
    pub(crate) last_tick: LastTick,
    /// How fast handshakes begin.
    pub(crate) new_rate: NewRate,
    /// What becomes of the packet for the rules that it breaks: [`crate::dropping::mode`].
    pub(crate) dropped: u32,
    /// Bytes that a helper copies out of the packet.
    pub(crate) bytes: [u8; 64],
    /// What those say, where they are options of TCP.
    pub(crate) options: SynOptions,
    /// Where a new flow is built before it is inserted.
    pub(crate) flow: HalfOpen,
    /// What passes through here is an unknown number to the verifier.
    pub(crate) forgotten: [u64; 12],
    /// What is being asked of [`REPEATED`].
    pub(crate) repeated: Repeated,
    /// What one part of tracking tells the next.
    pub(crate) parts: PartsState,
    /// What is to be reported.
    pub(crate) reports: Reports,
    /// What SYN cookies are made of.
    pub(crate) guarding: Guarding,
    /// The listener, with what it offers by the route to this client.
    pub(crate) offering: Listener,
}

/// One a CPU: programs at these hooks do not interrupt each other.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Reports to the agent.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::pinned(4096, 0);

/// What the agent can change while the programs run.
#[map]
pub(crate) static CONFIG: Array<LiveConfig> = Array::pinned(1, 0);

/// The captured packet that `tracker_ingress` is run on, where [`InterfaceConfig::replay`] says so.
#[map]
pub(crate) static REPLAYED: Array<Replayed> = Array::with_max_entries(1, 0);

/// Indexes of the interfaces whose arriving packets are counted.
#[map]
pub(crate) static ATTACHED: HashMap<u32, u32> = HashMap::pinned(MAX_INTERFACES, 0);

/// Packets by fate, at slot * 2 + hook.
#[map]
pub(crate) static PACKETS: PerCpuArray<PacketCounters> = PerCpuArray::pinned(MAX_INTERFACES * 2, 0);

/// Breaches, at rule * 2 + hook.
#[map]
pub(crate) static VIOLATIONS: PerCpuArray<u64> = PerCpuArray::pinned(Rule::SLOTS * 2, 0);

/// Packets that broke a rule which packets are dropped for, at rule * 2, those that were dropped behind those that were not.
#[map]
pub(crate) static DROPS: PerCpuArray<u64> = PerCpuArray::pinned(Rule::SLOTS * 2, 0);

/// Networks whose packets are never dropped for the rules that they break. Filled by the agent.
#[map]
pub(crate) static DROP_EXEMPT: LpmTrie<Address, u32> = LpmTrie::pinned(MAX_EXEMPT, 0);

/// What happened to flows and reports, by [`Tally`].
#[map]
pub(crate) static TALLIES: PerCpuArray<u64> = PerCpuArray::pinned(Tally::SLOTS, 0);

/// The batch of flows to remove.
#[map]
pub(crate) static REMOVALS: Array<Removal> = Array::pinned(sweep::BATCH, 0);

/// The walk that is under way: each copy of the programs has its own.
#[map]
pub(crate) static WALK: Array<Walk> = Array::with_max_entries(1, 0);

/// Where SYN cookies protect whom. Filled by the agent.
#[map]
pub(crate) static LISTENERS: HashMap<Place, Listener> = HashMap::pinned(MAX_LISTENERS, 0);

/// What is known of them, at [`Listener::index`].
#[map]
pub(crate) static LISTENER_STATES: Array<ListenerState> = Array::pinned(MAX_LISTENERS, 0);

/// What became of their SYNs and cookies.
#[map]
pub(crate) static COOKIES: PerCpuArray<OutcomeCounters> = PerCpuArray::pinned(MAX_LISTENERS, 0);

/// Routes that change what listeners offer, by the clients' addresses. Filled by the agent.
#[map]
pub(crate) static ROUTES: LpmTrie<Address, Route> = LpmTrie::pinned(MAX_ROUTES, 0);

/// Where no SYN may come from, by which interfaces ([`MAX_LEFT_TO_HOST`]). Filled by the agent.
#[map]
pub(crate) static LEFT_TO_HOST: LpmTrie<Address, u64> = LpmTrie::pinned(MAX_LEFT_TO_HOST, 0);

/// Keys of cookies.
#[map]
pub(crate) static KEYS: Array<Keys> = Array::pinned(1, 0);

/// Connections that cookies have opened.
#[map]
pub(crate) static ACCEPTED: LruHashMap<FlowKey, Accepted> = LruHashMap::pinned(MAX_ACCEPTED, 0);

/// SYNs that were answered lately.
#[map]
pub(crate) static ANSWERED: Array<Answered> = Array::with_max_entries(MAX_ANSWERED, 0);

/// The interface that this copy of the programs is attached to.
#[inline(always)]
pub(crate) fn interface() -> InterfaceConfig {
    // SAFETY: a valid static; volatile, because the agent replaces its value before the program is loaded.
    unsafe { core::ptr::read_volatile(&raw const INTERFACE) }
}

/// The captured packet that is being replayed; `None` on a real interface.
#[inline(always)]
pub(crate) fn replayed() -> Option<Replayed> {
    if interface().replay == 0 {
        return None;
    }
    // SAFETY: an array's element is never freed, and its writer waits for this program.
    REPLAYED.get_ptr(0).map(|replayed| unsafe { *replayed })
}

/// [`LiveConfig::is_traced`].
#[inline(always)]
pub(crate) fn is_traced() -> bool {
    // SAFETY: an array's element is never freed. While the agent writes it, segments are reported a moment earlier or later.
    CONFIG.get_ptr(0).is_some_and(|config| unsafe { &*config }.is_traced())
}

/// Counts the packet in [`Scratch`], and those that it stands for.
#[inline(always)]
pub(crate) fn count_packet(hook: Hook, fate: u32, scratch: *const Scratch) {
    let Some(counters) = PACKETS.get_ptr(interface().slot * 2 + hook as u32) else { return };
    // SAFETY: an array's element is never freed; this CPU alone writes it.
    let counters = unsafe { &*counters };
    // The compiler knows that it is small and would take the mask away; the verifier does not.
    let cell = &counters.packets[opaque(fate as usize) & (Fate::SLOTS - 1)];
    // SAFETY: this CPU's own element.
    let further = unsafe { (*scratch).further };
    cell.set(cell.get() + 1 + u64::from(further));
}

/// Counts a breach.
#[inline(always)]
pub(crate) fn count_breach(rule: Rule, hook: Hook) {
    count_code(rule as u32, hook as u32);
}

/// Counts a breach of the rule with this code.
#[inline(always)]
pub(crate) fn count_code(code: u32, hook: u32) {
    increment(&VIOLATIONS, code * 2 + hook);
}

/// Counts something that happened to a flow or report.
#[inline(always)]
pub(crate) fn tally(tally: Tally) {
    tally_code(tally as u32);
}

/// Counts what has this code of [`Tally`].
#[inline(always)]
pub(crate) fn tally_code(code: u32) {
    increment(&TALLIES, code);
}

#[inline(always)]
fn increment(map: &PerCpuArray<u64>, index: u32) {
    if let Some(count) = map.get_ptr_mut(index) {
        // SAFETY: an array's element is never freed; this CPU alone writes it.
        unsafe { *count += 1 };
    }
}
