//! What a SYN,ACK offers by the route that it takes, as `tcp_openreq_init_rwin` and `tcp_select_initial_window` of Linux
//! (net/ipv4/tcp_minisocks.c, net/ipv4/tcp_output.c) decide it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::protect::{Listener, feature};

/// Bytes of the timestamps option with its padding.
const TIMESTAMPS: u32 = 12;
/// The largest window without scaling, in bytes.
const LARGEST_UNSCALED: u32 = 65_535;
/// The same for peers that take it for a signed number.
const LARGEST_SIGNED: u32 = 32_767;

/// A route's metrics, as far as they decide what is offered: a value of the `ROUTES` map.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Route {
    /// The largest window, in bytes (`RTAX_WINDOW`); 0 where it sets none.
    pub window: u32,
    /// The maximum segment size that the host announces, in bytes.
    pub mss: u16,
    /// Segments that the first window has room for (`RTAX_INITRWND`); 0 where it does not say.
    pub first_segments: u16,
    /// Bits of [`feature`] that the host agrees to on this route besides those of its settings.
    pub features: u8,
    /// Always 0.
    pub reserved: [u8; 3],
}

/// How many routes [`Route`] is kept for.
pub const MAX_ROUTES: u32 = 65_536;

/// Bits of the addresses in the `ROUTES` map. Those of IPv4 are mapped ones (RFC 4291 section 2.5.5.2).
pub const ADDRESS_BITS: u32 = 128;

impl Listener {
    /// What the host offers by `route`: the listener with other sizes and features.
    #[inline(always)]
    #[must_use]
    pub const fn on(&self, route: &Route) -> Self {
        let mss = route.mss as u32;
        let first_segments = route.first_segments as u32;
        let (mut space, mut scale) = (self.space, self.scale);
        if route.window != 0 {
            space = min(space, route.window);
            scale = smaller(scale, scale_of(route.window));
        }
        if !self.has(feature::WINDOW_SCALE) {
            scale = 0;
        }
        let most =
            if self.has(feature::SIGNED_WINDOWS) { LARGEST_SIGNED } else { LARGEST_UNSCALED };
        Self {
            mss: route.mss,
            window: first_window(space, mss.saturating_sub(TIMESTAMPS), first_segments, most),
            plain_window: first_window(space, mss, first_segments, most),
            scale,
            features: self.features | route.features,
            ..*self
        }
    }
}

/// A window of whole segments that carry so many bytes.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // `most` is at most 65,535
const fn first_window(space: u32, carried: u32, first_segments: u32, most: u32) -> u16 {
    let carried = if carried == 0 { 1 } else { carried };
    let whole = if space > carried { space - space % carried } else { space };
    let mut window = min(whole, most);
    if first_segments != 0 {
        window = min(window, first_segments * carried);
    }
    window as u16
}

/// The window scale (RFC 7323 section 2.3) with which a window of `bytes` can be said.
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation)] // at most 14
pub const fn scale_of(bytes: u32) -> u8 {
    let mut scale = 0_u32;
    while scale < 14 && bytes >> (scale + 16) != 0 {
        scale += 1;
    }
    scale as u8
}

const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

const fn smaller(a: u8, b: u8) -> u8 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        for (bytes, scale) in [
            (0, 0),
            (65_535, 0),
            (65_536, 1),
            (131_071, 1),
            (6_291_456, 7),
            (1 << 29, 14),
            (u32::MAX, 14),
        ] {
            assert_eq!(scale_of(bytes), scale, "{bytes}");
        }
    }
}
