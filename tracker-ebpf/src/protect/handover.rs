//! Accepted connections on their way to the listener.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_skc_to_tcp_sock},
};
use tracker_common::{
    cookie::timestamp_clock,
    forget::opaque,
    packet::Packet,
    protect::{Accepted, Handed, Outcome, feature},
    segment::Flags,
    seq::Seq,
};

use super::{
    Guarding,
    handshake::load_timestamps,
    protection,
    socket::{Socket, TCP_LISTEN, look_up, read_at},
};
use crate::maps::{self, Scratch};

/// `struct bpf_tcp_req_attrs` (include/net/tcp.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    rcv_tsval: u32,
    rcv_tsecr: u32,
    mss: u16,
    rcv_wscale: u8,
    snd_wscale: u8,
    ecn_ok: u8,
    wscale_ok: u8,
    sack_ok: u8,
    tstamp_ok: u8,
    usec_ts_ok: u8,
    reserved: [u8; 3],
}

/// The kernel's error number for what makes no sense.
const EINVAL: u32 = 22;

/// In the place of `bpf_sk_assign_tcp_reqsk`, until the agent writes the number that it has in this kernel here.
const ASSIGN: usize = 0x7fff_0001;

type Assign =
    unsafe extern "C" fn(*mut __sk_buff, *mut core::ffi::c_void, *mut Attributes, u64) -> i64;

/// What becomes of a segment on its way to the host's stack.
pub(crate) mod handed {
    /// It goes on.
    pub(crate) const ON: i32 = -1;
    /// It is dropped.
    pub(crate) const DROPPED: i32 = 2;
}

/// Hands the connection that the packet in [`Scratch`] belongs to over to its listener, if that is still to be done: one
/// of [`handed`].
#[inline(always)]
pub(crate) fn hand_over(ctx: *mut __sk_buff, scratch: *mut Scratch) -> i32 {
    // SAFETY: this CPU's own element; nothing below writes this part of it.
    let packet = unsafe { &(*scratch).parsed.packet };
    let segment = &packet.segment;
    let flags = segment.flags.only(Flags::SYN.with(Flags::ACK).with(Flags::RST));
    if flags != Flags::ACK {
        return handed::ON;
    }
    let Some(accepted) = maps::ACCEPTED.get_ptr_mut(&packet.key) else { return handed::ON };
    // SAFETY: the element stays allocated while the program runs. Where it is evicted and used for another connection
    // meanwhile, the segment does not begin that one, and is sent again.
    let accepted = unsafe { &mut *accepted };
    if accepted.is_done != 0 {
        return handed::ON;
    }
    // SAFETY: this CPU's own element; nothing else refers to this part of it.
    let guarding = unsafe { &mut (*scratch).guarding };
    let port = packet.key.port(packet.from);
    let Some(socket) = look_up(ctx.cast(), packet, &mut guarding.tuple, port) else {
        return handed::ON;
    };
    if socket.state() != TCP_LISTEN {
        accepted.is_done = 1;
        socket.release();
        count(accepted.index, Outcome::Opened);
        return handed::ON;
    }
    let was_handed = accepted.handed != 0;
    let (outcome, error) = assign(ctx, scratch, packet, accepted, &socket, guarding);
    socket.release();
    let Some(outcome) = outcome else { return handed::ON };
    count(accepted.index, outcome);
    if was_handed && outcome as u8 == Outcome::HandedOver as u8 {
        count(accepted.index, Outcome::HandedAgain);
    }
    if outcome as u8 == Outcome::HandoverFailed as u8
        && let Some(state) = maps::LISTENER_STATES.get_ptr(accepted.index)
    {
        // SAFETY: an array's element is never freed.
        unsafe { (*state).refused.set(error) };
    }
    if outcome as u8 == Outcome::TooEarly as u8 { handed::DROPPED } else { handed::ON }
}

/// Counts an outcome at the place with this index.
#[inline(always)]
fn count(index: u32, outcome: Outcome) {
    let Some(counters) = maps::COOKIES.get_ptr(index) else { return };
    // SAFETY: an array's element is never freed; this CPU alone writes it.
    let counters = unsafe { &*counters };
    let cell = &counters.counts[opaque(outcome as usize) & (Outcome::SLOTS - 1)];
    cell.set(cell.get() + 1);
}

/// Where the leaving packet in [`Scratch`] is an RST: notes that it ends a connection that the host was handed, and never had.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tracker_note_reset() -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let packet = unsafe { &(*scratch).parsed.packet };
    if !packet.segment.has(Flags::RST) {
        return 0;
    }
    let Some(accepted) = maps::ACCEPTED.get_ptr_mut(&packet.key) else { return 0 };
    // SAFETY: as in `hand_over`.
    let accepted = unsafe { &mut *accepted };
    if accepted.is_done != 0 || accepted.handed == 0 {
        return 0;
    }
    accepted.is_done = 1;
    count(accepted.index, Outcome::ResetAtOnce);
    1
}

/// Hands the connection over, if this segment is one to do it with; no outcome where the listener has it on its way.
#[inline(always)]
fn assign(
    ctx: *mut __sk_buff,
    scratch: *mut Scratch,
    packet: &Packet,
    accepted: &mut Accepted,
    socket: &Socket,
    guarding: &mut Guarding,
) -> (Option<Outcome>, u32) {
    // SAFETY: a socket that is held.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.0.cast()) };
    if tcp.is_null() {
        return (Some(Outcome::HandoverFailed), EINVAL);
    }
    let protection = protection();
    // SAFETY: a member of the kernel's structure; the agent has found out where it is.
    let waiting = unsafe { read_at(tcp as usize, protection.waiting_at) };
    // SAFETY: a member of the kernel's structure; the agent has found out where it is.
    let backlog = unsafe { read_at(tcp as usize, protection.backlog_at) };
    // SAFETY: takes nothing.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let is_full = waiting > backlog;
    // SAFETY: takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if !is_full {
        match accepted.is_handed(now_ns, cpu) {
            Handed::No => {}
            // All packets of a batch come here before the first of them gets to the listener. The ones after that one find its
            // socket then. A second request for the same connection would be dropped, and its data with it.
            Handed::Here => return (None, 0),
            // The listener would answer it with an RST: it has no socket for it yet.
            Handed::Elsewhere => return (Some(Outcome::TooEarly), 0),
        }
    }
    let segment = &packet.segment;
    if segment.seq.0 != accepted.client_isn.wrapping_add(1)
        || segment.ack.0 != accepted.cookie.wrapping_add(1)
    {
        // The kernel would take the connection's numbers from this one.
        return (Some(Outcome::TooEarly), 0);
    }
    // A full queue makes the kernel drop it.
    accepted.handed = if is_full { 0 } else { Accepted::handing(now_ns, cpu) };
    let has = |bit| u8::from(accepted.features & bit != 0);
    let mut attributes = Attributes {
        mss: accepted.mss,
        ecn_ok: has(feature::ECN),
        sack_ok: has(feature::SACK),
        ..Attributes::default()
    };
    if accepted.features & feature::WINDOW_SCALE != 0 {
        attributes.wscale_ok = 1;
        attributes.rcv_wscale = accepted.host_scale;
        attributes.snd_wscale = accepted.client_scale;
    }
    if accepted.features & feature::TIMESTAMPS != 0 && load_timestamps(ctx, scratch, guarding) {
        attributes.tstamp_ok = 1;
        attributes.rcv_tsval = guarding.timestamp;
        // The kernel takes this for its clock's value now. With what is echoed in fact, the round trip would seem to have
        // taken no time, and BBR would send as if it had.
        let clock = Seq(timestamp_clock(now_ns).wrapping_add(accepted.timestamp_offset));
        let echo = Seq(guarding.timestamp_echo);
        // Another host may have answered, whose clock is ahead: the client drops what is older (RFC 7323 section 5.2).
        attributes.rcv_tsecr = clock.latest(echo).0;
    }
    // SAFETY: never called: the agent makes it a call of the kernel's function before loading.
    let assign: Assign = unsafe { core::mem::transmute(ASSIGN) };
    // SAFETY: a context, a listener that is held, and attributes of the length given.
    let error =
        unsafe { assign(ctx, tcp.cast(), &raw mut attributes, size_of::<Attributes>() as u64) };
    if error == 0 {
        return (Some(Outcome::HandedOver), 0);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an error number
    (Some(Outcome::HandoverFailed), -error as u32)
}
