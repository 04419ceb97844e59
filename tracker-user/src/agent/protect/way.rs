//! Whose cookies a listener's clients get, and whether any can be sent.

use std::fmt;

use tracker_common::protect::{Mode, Way};

/// Why a listener gets the kernel's own cookies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// This kernel cannot be handed connections.
    OldKernel,
    /// The listener speaks MPTCP.
    Mptcp,
    /// The kernel refused to take a connection over for it.
    Refused,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OldKernel => {
                "this kernel cannot be handed connections, which came with Linux 6.9"
            }
            Self::Mptcp => "the listener speaks MPTCP",
            Self::Refused => "the kernel refused to take a connection over for it",
        })
    }
}

/// Whose cookies a listener's clients get, and why not ours.
#[must_use]
pub fn way(can_hand_over: bool, is_mptcp: bool, is_refused: bool) -> (Way, Option<Why>) {
    let why = if !can_hand_over {
        Why::OldKernel
    } else if is_mptcp {
        Why::Mptcp
    } else if is_refused {
        Why::Refused
    } else {
        return (Way::Handover, None);
    };
    (Way::Kernel, Some(why))
}

/// The mode that can be kept to, where the kernel accepts cookies as `net.ipv4.tcp_syncookies` says; `Off` where a
/// connection that a cookie stands for would be refused.
#[must_use]
pub fn feasible(asked: Mode, way: Way, syncookies: u32) -> Mode {
    match (syncookies, way) {
        (0, _) => Mode::Off,
        (2, _) | (_, Way::Handover) => asked,
        (_, Way::Kernel) => Mode::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways() {
        assert_eq!(way(true, false, false), (Way::Handover, None));
        assert_eq!(way(false, false, false), (Way::Kernel, Some(Why::OldKernel)));
        assert_eq!(way(true, true, true), (Way::Kernel, Some(Why::Mptcp)));
        assert_eq!(way(true, false, true), (Way::Kernel, Some(Why::Refused)));
    }

    #[test]
    fn nothing_is_pretended() {
        for asked in [Mode::Auto, Mode::Always] {
            assert_eq!(feasible(asked, Way::Handover, 1), asked);
            assert_eq!(feasible(asked, Way::Handover, 2), asked);
            assert_eq!(feasible(asked, Way::Kernel, 2), asked);
            assert_eq!(feasible(asked, Way::Kernel, 1), Mode::Off);
            assert_eq!(feasible(asked, Way::Handover, 0), Mode::Off);
        }
    }
}
