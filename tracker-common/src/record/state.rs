//! Both ends' RFC 9293 states, derived from what each has sent.

use core::fmt;

use crate::flow::{Facts, fact};

/// The eleven states of RFC 9293 section 3.3.2.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
#[allow(missing_docs)] // RFC 9293's own names
pub enum State {
    Closed,
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Closed,
        Self::Listen,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::Closing,
        Self::LastAck,
        Self::TimeWait,
    ];

    /// RFC 9293's name with underscores, as in `SYN_SENT`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN_SENT",
            Self::SynReceived => "SYN_RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN_WAIT_1",
            Self::FinWait2 => "FIN_WAIT_2",
            Self::CloseWait => "CLOSE_WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
        }
    }

    /// The state with this discriminant.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether `end` has acknowledged its peer's SYN, seen or inferred: an end that was never seen has done so once its
/// peer goes on sending, and an acknowledgment of a SYN that passed before we looked is taken at its word.
#[inline(always)]
#[must_use]
pub const fn acked_syn(end: &Facts, peer: &Facts) -> bool {
    if end.has(fact::ACKED_SYN) {
        true
    } else if !end.seen() {
        peer.has(fact::MOVED_ON)
    } else if peer.has(fact::SYN) {
        end.has(fact::ACK) && end.ack.within(peer.isn.add(1), peer.end)
    } else {
        end.has(fact::ACK)
    }
}

/// Whether the handshake is complete: each end has acknowledged the other's SYN.
#[inline(always)]
#[must_use]
pub const fn is_open(a: &Facts, b: &Facts, midstream: bool) -> bool {
    midstream || (acked_syn(a, b) && acked_syn(b, a))
}

/// Whether an RST has closed `end`. An end that sends one has no socket any more; one that is sent one keeps what it has
/// where it refuses it, which shows when it goes on, or where it is in TIME_WAIT (RFC 1337).
#[inline(always)]
#[must_use]
pub const fn is_reset(end: &Facts, peer: &Facts) -> bool {
    let sent = end.has(fact::RST) && (end.has(fact::RST_EXACT) || !end.has(fact::OUTLIVED_RST));
    let taken = peer.has(fact::RST)
        && (peer.has(fact::RST_EXACT) || !end.has(fact::OUTLIVED_RST))
        && !is_in_time_wait(end, peer);
    sent || taken
}

/// Whether `end`, which has refused its peer's RST, has then sent its own: it has sent nothing since, and its peer has not gone
/// on.
#[inline(always)]
const fn has_given_up(end: &Facts, peer: &Facts) -> bool {
    end.has(fact::RST | fact::OUTLIVED_RST)
        && end.has_end()
        && end.end.0 == end.refused_end.0
        && !peer.has(fact::OUTLIVED_RST)
}

#[inline(always)]
const fn is_in_time_wait(end: &Facts, peer: &Facts) -> bool {
    end.has(fact::FIN)
        && peer.has(fact::FIN)
        && acked_fin(end, peer)
        && acked_fin(peer, end)
        && !closed_second(end, peer)
}

/// Whether the FIN of `end` was missed: its peer has closed and acknowledged all that was sent, and the last of it was never
/// seen. If it was data instead, `end` shows it by going on.
#[inline(always)]
const fn missed_fin(end: &Facts, peer: &Facts) -> bool {
    end.ends_with_gap() && peer.has(fact::FIN | fact::ACK) && peer.ack.0 == end.end.0
}

/// Whether `end` has sent a FIN, seen or missed.
#[inline(always)]
#[must_use]
pub const fn has_fin(end: &Facts, peer: &Facts) -> bool {
    end.has(fact::FIN) || missed_fin(end, peer)
}

/// Whether `end`'s first FIN acknowledged the peer's.
#[inline(always)]
const fn closed_second(end: &Facts, peer: &Facts) -> bool {
    if missed_fin(end, peer) {
        return !end.has(fact::CLOSED_FIRST) && !fin_shows_second(peer, end);
    }
    fin_shows_second(end, peer)
}

/// The same, by a FIN that was seen.
#[inline(always)]
const fn fin_shows_second(end: &Facts, peer: &Facts) -> bool {
    let second =
        end.has(fact::CLOSED_SECOND) || (end.has(fact::FIN_AHEAD) && acknowledges_fin(end, peer));
    second && !end.has(fact::CLOSED_FIRST)
}

/// Whether what `end` has acknowledged is its peer's FIN. Nothing follows a FIN, so its acknowledgment is one number.
#[inline(always)]
const fn acknowledges_fin(end: &Facts, peer: &Facts) -> bool {
    has_fin(peer, end) && end.has(fact::ACK) && end.ack.0 == peer.fin.add(1).0
}

/// Whether `end` has acknowledged its peer's FIN, at the latest by a FIN that was missed.
#[inline(always)]
const fn acked_fin(end: &Facts, peer: &Facts) -> bool {
    acknowledges_fin(end, peer) || (missed_fin(end, peer) && closed_second(end, peer))
}

/// The state of `end`.
///
/// It advances when `end` shows it; where RFC 9293 makes an end change state without sending anything (its FIN or SYN
/// acknowledged, an RST), the peer's segment is the evidence.
#[inline(always)]
#[must_use]
pub const fn state(end: &Facts, peer: &Facts, midstream: bool) -> State {
    if is_reset(end, peer) || has_given_up(end, peer) {
        return State::Closed;
    }
    if !has_fin(end, peer) {
        return if acked_fin(end, peer) {
            State::CloseWait
        } else if is_open(end, peer, midstream) {
            State::Established
        } else {
            opening(end, peer)
        };
    }
    let fin_acked = acked_fin(peer, end);
    if closed_second(end, peer) {
        return if fin_acked { State::Closed } else { State::LastAck };
    }
    match (acked_fin(end, peer), fin_acked) {
        (false, false) => State::FinWait1,
        (false, true) => State::FinWait2,
        (true, false) => State::Closing,
        (true, true) => State::TimeWait,
    }
}

#[inline(always)]
const fn opening(end: &Facts, peer: &Facts) -> State {
    if end.has(fact::SYN) {
        if end.has(fact::SYN_ACK) || acked_syn(end, peer) {
            State::SynReceived
        } else {
            State::SynSent
        }
    } else if peer.has(fact::SYN_ACK) {
        // A SYN,ACK answers a SYN, whether we saw it or not.
        State::SynSent
    } else {
        State::Listen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_discriminants_agree() {
        for state in State::ALL {
            assert_eq!(State::from_code(state as u8), Some(state));
        }
        assert_eq!(State::from_code(11), None);
    }
}
