//! What the agent tells the kernel programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::packet::LinkLayer;

/// Interfaces that one agent can attach to; each has its own counters.
pub const MAX_INTERFACES: u32 = 64;

/// What a program knows of the interface it is attached to: a constant of the loaded program, so that the kernel's
/// verifier removes what does not apply.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct InterfaceConfig {
    /// The interface's index.
    pub ifindex: u32,
    /// Which counters are its own, below [`MAX_INTERFACES`].
    pub slot: u32,
    /// The zone of its flows.
    pub zone: u16,
    /// 1 where frames start with the IP header.
    pub raw_ip: u16,
}

impl InterfaceConfig {
    /// What its frames start with.
    #[inline(always)]
    #[must_use]
    pub const fn link(&self) -> LinkLayer {
        if self.raw_ip == 0 { LinkLayer::Ethernet } else { LinkLayer::RawIp }
    }
}

/// What can change while programs run: the one entry of the `CONFIG` map.
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct LiveConfig {
    /// Bits of [`crate::event::Kind`] that somebody listens to.
    pub events: u32,
}
