//! Segments of many connections, by a script: what a router or an agent is measured with.

use aya_ebpf::{bindings::xdp_action, macros::map, maps::Array, programs::XdpContext};

use crate::flood::{checksum, now, put, words};

/// Every frame: Ethernet, IPv4 and TCP with 6 bytes of options, data or nothing.
const LENGTH: usize = 60;

/// The client of flow 0, its port, and the server of all.
const CLIENT: u32 = 0x0a01_0000;
const CLIENT_PORT: u16 = 1024;
const SERVER: u32 = 0x0a02_0001;
const SERVER_PORT: u16 = 80;

/// What is sent, and how much of it was. All members are words, so that the other side can write them as an array.
#[repr(C)]
struct Script {
    /// Nanoseconds between two segments; 0 is as fast as it goes.
    gap: u64,
    /// When the next one is due.
    next: u64,
    /// How many were made.
    made: u64,
    /// How many are to be.
    limit: u64,
    /// How many flows take turns; the first follows the last.
    flows: u64,
    /// The first one's number.
    first: u64,
    /// How many steps each flow takes in its turn.
    steps: u64,
    /// The Ethernet header, and the first two bytes of the IPv4 header.
    ethernet: [u64; 2],
    step: [Step; 8],
}

/// A segment of a flow.
#[repr(C)]
struct Step {
    /// TCP flags; bit 8 if the server sends it, bit 9 if it has options; bytes of data from bit 16 on.
    kind: u64,
    sequence: u64,
    acknowledgment: u64,
    /// What each further turn of the flow adds to the sequence number.
    grows: u64,
}

/// The only element is the only generator's.
#[map]
static SCRIPT: Array<Script> = Array::with_max_entries(1, 0);

/// Sends the next segment if it is due.
#[inline(always)]
pub(crate) fn segments(ctx: &XdpContext) -> u32 {
    let Some(script) = SCRIPT.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: nobody else has it while the program runs.
    let script = unsafe { &mut *script };
    let (made, steps, flows) = (script.made, script.steps, script.flows);
    if made >= script.limit {
        return xdp_action::XDP_DROP;
    }
    let (Some(turn), Some(at)) = (made.checked_div(steps), made.checked_rem(steps)) else {
        return xdp_action::XDP_DROP;
    };
    let (Some(round), Some(nth)) = (turn.checked_div(flows), turn.checked_rem(flows)) else {
        return xdp_action::XDP_DROP;
    };
    if script.gap > 0 {
        let now = now();
        if now < script.next {
            return xdp_action::XDP_DROP;
        }
        script.next = script.next.max(now - script.gap * 64) + script.gap;
    }
    let frame = ctx.data();
    if frame + LENGTH > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let step = &script.step[at as usize & 7];
    let flow = script.first + nth;
    put(frame, 0, script.ethernet[0]);
    put(frame, 8, script.ethernet[1]);
    write(frame, step, flow, round);
    script.made = made + 1;
    xdp_action::XDP_TX
}

/// Writes everything behind the first 16 bytes.
#[inline(always)]
fn write(frame: usize, step: &Step, flow: u64, round: u64) {
    let client = CLIENT | flow as u32 & 0xffff;
    let port = CLIENT_PORT + (flow >> 16) as u16;
    let from_server = step.kind & 0x100 != 0;
    let [source, destination] = if from_server { [SERVER, client] } else { [client, SERVER] };
    let [sport, dport] = if from_server { [SERVER_PORT, port] } else { [port, SERVER_PORT] };
    let has_options = step.kind & 0x200 != 0;
    let options = if has_options { 4 } else { 0 };
    let tcp_length = 20 + options + (step.kind >> 16) as u16;
    let length = 20 + tcp_length;
    let sequence = (step.sequence + round * step.grows) as u32;
    let acknowledgment = step.acknowledgment as u32;
    let offset = (20 + options) << 10 | step.kind as u16 & 0xff;
    // A no-operation, and a window scale of 14.
    let option: u32 = if has_options { 0x0103_030e } else { 0 };

    put(frame, 16, length.to_be());
    put(frame, 18, 0x4000_u32.to_be());
    put(frame, 22, 0x4006_u16.to_be());
    let ends = words(source) + words(destination);
    let header = 0x4500 + 0x4000 + 0x4006 + u64::from(length) + ends;
    put(frame, 24, checksum(header).to_be());
    put(frame, 26, source.to_be());
    put(frame, 30, destination.to_be());
    put(frame, 34, sport.to_be());
    put(frame, 36, dport.to_be());
    put(frame, 38, sequence.to_be());
    put(frame, 42, acknowledgment.to_be());
    put(frame, 46, offset.to_be());
    put(frame, 48, u16::MAX);
    let tcp = ends
        + 6
        + u64::from(tcp_length)
        + u64::from(sport)
        + u64::from(dport)
        + words(sequence)
        + words(acknowledgment)
        + u64::from(offset)
        + u64::from(u16::MAX)
        + words(option);
    put(frame, 50, checksum(tcp).to_be());
    put(frame, 52, 0_u16);
    put(frame, 54, option.to_be());
    put(frame, 58, 0_u16);
}
