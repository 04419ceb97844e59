//! Connections whose cookies were accepted, until their listener has them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A connection whose cookie was accepted: a value of the `ACCEPTED` map, which remembers so many of the last ones by
/// their flow's key.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Accepted {
    /// When, in nanoseconds since boot.
    pub at_ns: u64,
    /// When the listener was handed the connection, and by which CPU, as [`Accepted::handing`] has it; 0 where it was not yet.
    pub handed: u64,
    /// The place's [`super::Listener::index`].
    pub index: u32,
    /// The client's ISN.
    pub client_isn: u32,
    /// The cookie.
    pub cookie: u32,
    /// [`crate::cookie::Cookie::timestamp_offset`].
    pub timestamp_offset: u32,
    /// The client's maximum segment size in bytes.
    pub mss: u16,
    /// The client's window scale; 15 for none.
    pub client_scale: u8,
    /// The host's window scale.
    pub host_scale: u8,
    /// Bits of [`super::feature`] that were agreed on.
    pub features: u8,
    /// 1 where the host has it: nothing more is handed over.
    pub is_done: u8,
    /// Code of a [`super::Way`].
    pub way: u8,
    /// Always 0.
    pub reserved: u8,
}

/// How long a listener is given to make a socket of what it was handed, in nanoseconds: a batch of packets, and more.
const HANDING_NS: u64 = 10_000_000;

/// How long another CPU may take from accepting a connection to remembering it, in nanoseconds. It takes less than a microsecond, but a
/// hypervisor may have stopped that CPU: as long as the kernel's own locks wait for one (`RES_DEF_TIMEOUT` of
/// kernel/bpf/rqspinlock.c).
const OPENING_NS: u64 = 250_000_000;

/// The bits of [`Accepted::handed`] that have the CPU's number: Linux has 8,192 at most.
const CPU: u64 = 0xffff;

/// Where a connection is on its way to its listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handed {
    /// It was not handed over, or got lost.
    No,
    /// This CPU has handed it over. Its packets come to the listener in order: the next ones find its socket.
    Here,
    /// Another CPU has, and may not be done.
    Elsewhere,
}

impl Accepted {
    /// [`Accepted::handed`] of a connection that this CPU hands over now. One number, so that others read it whole.
    #[inline(always)]
    #[must_use]
    pub const fn handing(now_ns: u64, cpu: u32) -> u64 {
        (now_ns & !CPU) | (cpu as u64 & CPU)
    }

    /// Where it is on its way, for a packet on this CPU. Clocks of other CPUs may have been read later.
    #[inline(always)]
    #[must_use]
    pub const fn is_handed(&self, now_ns: u64, cpu: u32) -> Handed {
        let since = now_ns.wrapping_sub(self.handed & !CPU).cast_signed();
        if self.handed == 0 || since >= HANDING_NS.cast_signed() {
            Handed::No
        } else if self.handed & CPU == cpu as u64 & CPU {
            Handed::Here
        } else {
            Handed::Elsewhere
        }
    }

    /// Whether another CPU may have accepted it, and not have remembered its flow yet. That CPU's clock may have been read later.
    #[inline(always)]
    #[must_use]
    pub const fn is_opening(at_ns: u64, now_ns: u64) -> bool {
        now_ns.wrapping_sub(at_ns).cast_signed() < OPENING_NS.cast_signed()
    }
}

/// How many [`Accepted`] are remembered.
pub const MAX_ACCEPTED: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_on_its_way_is_another_cpu_s_or_this_one_s() {
        const NOW: u64 = 5_000_000_000;
        let accepted = Accepted { handed: Accepted::handing(NOW, 7), ..Accepted::default() };
        for (now_ns, cpu, expected) in [
            (NOW, 7, Handed::Here),
            (NOW + HANDING_NS - (CPU + 1), 7, Handed::Here),
            (NOW, 6, Handed::Elsewhere),
            // This CPU has read its clock before the other one.
            (NOW - 100_000, 6, Handed::Elsewhere),
            (NOW + HANDING_NS, 6, Handed::No),
            (NOW + HANDING_NS, 7, Handed::No),
        ] {
            assert_eq!(accepted.is_handed(now_ns, cpu), expected, "{now_ns} {cpu}");
        }
        assert_eq!(Accepted::default().is_handed(1, 0), Handed::No);
        assert!(Accepted::is_opening(NOW, NOW) && Accepted::is_opening(NOW, NOW - 1));
        assert!(!Accepted::is_opening(NOW, NOW + OPENING_NS));
    }
}
