//! Packets by the million for programs that are run by `BPF_PROG_TEST_RUN`, and what they are compared with.
//!
//! The kernel runs a program again and again on one packet. Here the program writes the next flow's packet first, over
//! whatever the run before has made of it, and then jumps to the program that is measured.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, xdp_action},
    helpers::generated::bpf_xdp_adjust_tail,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use tracker_common::{
    flow::{Flow, HalfOpen},
    key::{FlowKey, mapped},
};

use crate::{
    flood::now,
    frame::{opaque, read},
};

/// Bytes that are written of each packet, at most: all headers. Behind them is data, which nobody reads.
const WRITTEN: usize = 96;

/// What is written, and where it goes. The host has the same, word by word.
#[repr(C)]
struct Case {
    /// The packet's first bytes.
    template: [u64; WRITTEN / 8],
    /// Bytes of the frame.
    length: u32,
    /// 1 for IPv6.
    is_ipv6: u32,
    /// 1 where the server sends it, so that the flow's number is in the destination's address.
    from_server: u32,
    /// Number of the first flow, and how many there are. They take turns.
    first: u32,
    flows: u32,
    /// Sequence number and acknowledgment of the first turn, and by how much they grow from turn to turn.
    seq: u32,
    seq_step: u32,
    ack: u32,
    ack_step: u32,
    /// 1 where acknowledgment and echoed timestamp are [`TO_ANSWER`]'.
    answers: u32,
    /// Index of the program that is measured, in [`TARGETS`].
    target: u32,
    /// The flow that is next, and its turn.
    next: u32,
    turn: u32,
    reserved: u32,
}

#[map]
static CASE: Array<Case> = Array::with_max_entries(1, 0);

/// Acknowledgment and echoed timestamp of each flow, where they are its own.
#[map]
static TO_ANSWER: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// The programs that can be measured.
#[map]
static TARGETS: ProgramArray = ProgramArray::with_max_entries(8, 0);

/// What a record is compared with: the same key, a value of the same size, the same kind of map. The host sets the sizes.
#[map]
static LIMIT_FLOWS: HashMap<FlowKey, Plain<FLOW>> = HashMap::with_max_entries(1, 0);

/// The same, which takes memory as it needs it.
#[map]
static LIMIT_GROWING: HashMap<FlowKey, Plain<FLOW>> =
    HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map]
static LIMIT_HALF_OPEN: LruHashMap<FlowKey, Plain<HALF_OPEN>> = LruHashMap::with_max_entries(1, 0);

const FLOW: usize = size_of::<Flow>() / 8;
const HALF_OPEN: usize = size_of::<HalfOpen>() / 8;

/// Words.
#[repr(C)]
struct Plain<const N: usize>([u64; N]);

/// Where a value is built before it is inserted.
#[map]
static VALUE: PerCpuArray<Plain<HALF_OPEN>> = PerCpuArray::with_max_entries(1, 0);

/// Writes the next packet and runs the program that is measured.
#[inline(always)]
pub(crate) fn drive(ctx: &XdpContext) -> u32 {
    let Some(case) = CASE.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: one program runs at a time, and the host waits for it.
    let case = unsafe { &mut *case };
    let length = ctx.data_end() - ctx.data();
    if length != case.length as usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_xdp_adjust_tail(ctx.ctx, case.length as i32 - length as i32) };
    }
    let flow = case.first + case.next;
    let (mut seq, mut ack) =
        (case.seq + case.turn * case.seq_step, case.ack + case.turn * case.ack_step);
    let mut echo = None;
    if case.answers != 0 {
        let Some(answer) = TO_ANSWER.get_ptr(flow) else { return xdp_action::XDP_ABORTED };
        // SAFETY: an array's element is never freed.
        let [answered, echoed] = unsafe { *answer };
        (ack, echo) = (answered, Some(echoed));
    }
    seq = seq.to_be();
    ack = ack.to_be();
    case.next += 1;
    if case.next >= case.flows {
        case.next = 0;
        case.turn += 1;
    }
    for word in 0..WRITTEN / 8 {
        if !put(ctx, word * 8, case.template[word]) {
            put(ctx, word * 8, case.template[word] as u16);
            put(ctx, word * 8 + 2, (case.template[word] >> 16) as u16);
            put(ctx, word * 8 + 4, (case.template[word] >> 32) as u16);
            break;
        }
    }
    // The lower 24 bits of an address of 10.0.0.0/8, or of an IPv6 address that ends so.
    let address = (0x0a00_0000 | flow & 0xff_ffff).to_be();
    let written = if case.is_ipv6 != 0 {
        let at = if case.from_server != 0 { 50 } else { 34 };
        let echoed = echo.is_none_or(|echo| put(ctx, 82, echo.to_be()));
        write_address(ctx, at, address) && put(ctx, 58, seq) && put(ctx, 62, ack) && echoed
    } else {
        let at = if case.from_server != 0 { 30 } else { 26 };
        let echoed = echo.is_none_or(|echo| put(ctx, 62, echo.to_be()));
        write_address(ctx, at, address) && put(ctx, 38, seq) && put(ctx, 42, ack) && echoed
    };
    if !written {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the context is valid while the program runs. What comes back is that there is no such program.
    unsafe { TARGETS.tail_call(ctx, case.target) };
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn write_address(ctx: &XdpContext, at: usize, address: u32) -> bool {
    match at {
        26 => put(ctx, 26, address),
        30 => put(ctx, 30, address),
        34 => put(ctx, 34, address),
        _ => put(ctx, 50, address),
    }
}

/// Writes to the packet; false where it is too short.
#[inline(always)]
fn put<T>(ctx: &XdpContext, at: usize, value: T) -> bool {
    let start = opaque(ctx.data() + at);
    if start + size_of::<T>() > ctx.data_end() {
        return false;
    }
    // SAFETY: within the packet, as just compared.
    unsafe { (start as *mut T).write_unaligned(value) };
    true
}

/// The least that a tracker can do for a packet of a flow that it knows: read the headers, find the flow, and write 64
/// bytes of its record, among them the time where `clock` says so.
#[inline(always)]
pub(crate) fn look_up(ctx: &XdpContext, clock: bool) -> u32 {
    if let Some(key) = key(ctx)
        && let Some(record) = LIMIT_FLOWS.get_ptr_mut(&key)
    {
        // SAFETY: the element stays allocated while the program runs.
        let words = unsafe { &mut (*record).0 };
        let facts = read::<u64>(ctx, 38).unwrap_or_default();
        words[0] = if clock { now() } else { facts };
        words[1] += 1;
        words[2] += (ctx.data_end() - ctx.data()) as u64;
        for (n, word) in words.iter_mut().enumerate().take(8).skip(3) {
            *word = facts + n as u64;
        }
    }
    xdp_action::XDP_PASS
}

/// Where a record is inserted.
#[derive(Clone, Copy)]
pub(crate) enum Table {
    Hash,
    Growing,
    Lru,
}

/// The least that a tracker can do for a packet of a flow that it does not know: read the headers, and insert a record.
#[inline(always)]
pub(crate) fn insert(ctx: &XdpContext, into: Table) -> u32 {
    if let Some(key) = key(ctx)
        && let Some(value) = VALUE.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own element.
        let value = unsafe { &mut *value };
        value.0[0] = now();
        // SAFETY: at least as long as a flow's.
        let flow = unsafe { &*(&raw const *value).cast::<Plain<FLOW>>() };
        let _ = match into {
            Table::Hash => LIMIT_FLOWS.insert(&key, flow, u64::from(BPF_ANY)),
            Table::Growing => LIMIT_GROWING.insert(&key, flow, u64::from(BPF_ANY)),
            Table::Lru => LIMIT_HALF_OPEN.insert(&key, &*value, u64::from(BPF_ANY)),
        };
    }
    xdp_action::XDP_PASS
}

/// The key of a TCP packet over IPv4 or IPv6 without options and extension headers.
#[inline(always)]
fn key(ctx: &XdpContext) -> Option<FlowKey> {
    const TCP: u8 = 6;
    let ports = |at| read::<[[u8; 2]; 2]>(ctx, at);
    let (source, destination, [from, to]) = match read::<u16>(ctx, 12)?.to_be() {
        0x0800 if read::<u8>(ctx, 14)? == 0x45 && read::<u8>(ctx, 23)? == TCP => {
            (mapped(read(ctx, 26)?), mapped(read(ctx, 30)?), ports(34)?)
        }
        0x86dd if read::<u8>(ctx, 20)? == TCP => (read(ctx, 22)?, read(ctx, 38)?, ports(54)?),
        _ => return None,
    };
    Some(FlowKey::new((&source, from), (&destination, to), 0).0)
}
