//! What the agent tells the kernel programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    event::Kind,
    key::{Address, FlowKey},
    packet::LinkLayer,
    violation::Rules,
};

/// Interfaces that one agent can attach to; each has its own counters.
pub const MAX_INTERFACES: u32 = 64;

/// What a program knows of the interface it is attached to: a constant of the loaded program, so that the kernel's
/// verifier removes what does not apply.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct InterfaceConfig {
    /// Which counters are its own, below [`MAX_INTERFACES`].
    pub slot: u32,
    /// The zone of its flows.
    pub zone: u16,
    /// 1 where frames start with the IP header.
    pub raw_ip: u16,
    /// 1 where packets come from a capture: time and length are those of [`Replayed`].
    pub replay: u16,
    /// 1 where XDP's program may run in the network stack (generic XDP): [`crate::segment::Segment::shared`].
    pub shared: u16,
    /// 1 where arriving packets may be dropped for the rules that they break ([`LiveConfig::dropped`]).
    pub drops: u16,
    /// Always 0.
    pub reserved: u16,
}

impl InterfaceConfig {
    /// What its frames start with.
    #[inline(always)]
    #[must_use]
    pub const fn link(&self) -> LinkLayer {
        if self.raw_ip == 0 { LinkLayer::Ethernet } else { LinkLayer::RawIp }
    }
}

/// The captured packet that a program is run on: the one entry of the `REPLAYED` map.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Replayed {
    /// When it was captured, nanoseconds of the capture's clock.
    pub now_ns: u64,
    /// Its bytes on the wire, of which a capture may hold the first few only.
    pub wire_len: u32,
    /// Always 0.
    pub reserved: u32,
}

/// What can change while programs run: the one entry of the `CONFIG` map.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct LiveConfig {
    /// Breaches of these rules are reported; those of others are counted.
    pub reported: Rules,
    /// Packets that break one of these are treated as `drop_mode` says, on interfaces with [`InterfaceConfig::drops`].
    pub dropped: Rules,
    /// Nanoseconds between two reports about one source, in the long run; 0 for no limit.
    pub source_interval_ns: u64,
    /// Nanoseconds of that which a source may save up: `source_interval_ns` times the reports it may cause at once.
    pub source_burst_ns: u64,
    /// Whose segments are reported, where [`crate::event::Kind::Segment`] is listened to.
    pub trace: TraceFilter,
    /// Bits of [`crate::event::Kind`] that somebody listens to.
    pub events: u32,
    /// 1 where every breach is reported, however often a flow repeats it.
    pub no_back_off: u32,
    /// [`crate::dropping::DropMode`].
    pub drop_mode: u32,
    /// Handshakes that begin within a second at one interface, on one CPU; where there are more, those that the SYN cache has no place for
    /// overwrite older ones, and get no record. 0 for no limit.
    pub shed_above: u32,
}

impl LiveConfig {
    /// Whether somebody wants to hear of every segment, and none may be predicted ([`crate::predict`]).
    #[inline(always)]
    #[must_use]
    pub const fn is_traced(&self) -> bool {
        self.events & Kind::Segment.bit() != 0
    }
}

/// Flows whose segments are reported: the coarse part of a filter, which keeps the others out of the ring buffer.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct TraceFilter {
    /// An address of either end, in the form of [`FlowKey::addresses`], masked.
    pub address: Address,
    /// Its mask; all zero for any address.
    pub mask: Address,
    /// A port of either end, in network byte order; 0 for any.
    pub port: [u8; 2],
    /// Always 0.
    pub reserved: [u8; 6],
}

impl TraceFilter {
    /// Whether the flow of `key` is one of them.
    #[inline(always)]
    #[must_use]
    pub fn matches(&self, key: &FlowKey) -> bool {
        let port = self.port == [0; 2] || key.ports[0] == self.port || key.ports[1] == self.port;
        port && (self.matches_address(&key.addresses[0]) || self.matches_address(&key.addresses[1]))
    }

    #[inline(always)]
    fn matches_address(&self, address: &Address) -> bool {
        let mut differ = 0;
        for ((byte, mask), wanted) in address.iter().zip(&self.mask).zip(&self.address) {
            differ |= (byte & mask) ^ wanted;
        }
        differ == 0
    }
}
