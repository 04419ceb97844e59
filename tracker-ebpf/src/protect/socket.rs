//! The host's sockets, as helpers find them.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use tracker_common::{key::is_mapped, packet::Packet};

/// States of the kernel's sockets (include/net/tcp_states.h).
pub(super) const TCP_LISTEN: u32 = 10;

/// `BPF_F_CURRENT_NETNS`, as the helpers take it.
const CURRENT_NAMESPACE: u64 = u64::MAX;

/// A socket that is held.
pub(super) struct Socket(pub(super) *mut bpf_sock);

impl Socket {
    #[inline(always)]
    pub(super) fn state(&self) -> u32 {
        // SAFETY: a valid socket.
        let socket = unsafe { &*self.0 };
        // SAFETY: this member may be read.
        unsafe { core::ptr::read_volatile(&raw const socket.state) }
    }

    #[inline(always)]
    pub(super) fn release(self) {
        // SAFETY: held until now.
        unsafe { bpf_sk_release(self.0.cast()) };
    }
}

/// The host's socket for what the sender of `packet`, or another port of its address, sends.
#[inline(always)]
pub(super) fn look_up(
    ctx: *mut core::ffi::c_void,
    packet: &Packet,
    tuple: &mut [u32; 9],
    port: u16,
) -> Option<Socket> {
    let (client, host) = (packet.from.index(), packet.from.other().index());
    let addresses = &packet.key.addresses;
    let [high, low] = packet.key.ports[host];
    let ports = {
        let [a, b] = port.to_be_bytes();
        u32::from_ne_bytes([a, b, high, low])
    };
    let word = |end: usize, at: usize| {
        let address = &addresses[end];
        u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]])
    };
    let len = if is_mapped(&addresses[0]) {
        (tuple[0], tuple[1], tuple[2]) = (word(client, 12), word(host, 12), ports);
        12
    } else {
        for n in 0..4 {
            tuple[n] = word(client, n * 4);
            tuple[4 + n] = word(host, n * 4);
        }
        tuple[8] = ports;
        36
    };
    // SAFETY: a context, and a tuple of the length given.
    let socket =
        unsafe { bpf_skc_lookup_tcp(ctx, tuple.as_mut_ptr().cast(), len, CURRENT_NAMESPACE, 0) };
    (!socket.is_null()).then_some(Socket(socket))
}

/// A 32-bit member of one of the kernel's structures.
///
/// # Safety
///
/// `base` is a pointer that the verifier knows, and the agent has found the member at `at`.
#[inline(always)]
pub(super) unsafe fn read_at(base: usize, at: u32) -> u32 {
    // SAFETY: by the caller's word; the verifier checks it too.
    unsafe { core::ptr::read_volatile((base + at as usize) as *const u32) }
}
