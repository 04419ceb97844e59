//! Who counts the packets of one end of a connection.

use crate::{config::MAX_INTERFACES, counters::Hook};

/// One hook of one interface, which counts what an end sends: the first that has seen it, until another one sees what it has
/// not. A packet may pass several: both interfaces of a router, a bridge and its port, macvlan and its parent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owner(pub(super) u32);

impl Owner {
    /// Nothing was seen of the end.
    pub const NONE: Self = Self(0);

    /// Bits that an owner takes.
    pub(super) const MASK: u32 = 0xff;

    /// Marks all but [`Owner::NONE`].
    const SOME: u32 = 0x80;

    /// `hook` of the interface with this slot, below [`MAX_INTERFACES`].
    #[inline(always)]
    #[must_use]
    pub const fn new(slot: u32, hook: Hook) -> Self {
        Self(Self::SOME | (slot & (MAX_INTERFACES - 1)) << 1 | hook as u32)
    }

    /// The one that [`Owner`] keeps in these bits.
    #[inline(always)]
    pub(crate) const fn of_bits(bits: u32) -> Self {
        Self(bits & Self::MASK)
    }

    /// Whether its packets leave.
    #[inline(always)]
    pub(crate) const fn is_leaving(self) -> bool {
        self.0 & Hook::Egress as u32 != 0
    }

    /// The interface's slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 >> 1 & (MAX_INTERFACES - 1)
    }

    /// Whether there is one.
    #[inline(always)]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether the two are the same.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        self.0 == other.0
    }
}

const _: () = assert!(MAX_INTERFACES <= 64, "a slot has six bits");
