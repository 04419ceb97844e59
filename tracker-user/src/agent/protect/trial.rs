//! Whether protection works at a listener, by what the kernel programs count there.
//!
//! Some drivers cannot send what XDP answers, a firewall may drop segments of connections whose SYN it has not seen, and rules may
//! translate a listener's address. Nobody can list all of that beforehand, but it shows. Once one connection has come through,
//! protection is taken to work, so that whoever forges segments cannot end it.

use std::fmt;

use tracker_common::protect::Outcome;

use crate::model::event::parts::CookieReason;

/// Counts by [`Outcome`].
pub type Counts = [u64; Outcome::SLOTS];

/// For how long a listener where protection does harm is left to the host, before it is tried again: five minutes.
pub const PAUSE_NS: u64 = 300 * 1_000_000_000;

/// So many clients, or attempts, have to fail.
const ENOUGH: u64 = 3;

/// What is wrong where clients do not get through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Clients try again, and no cookie comes back: the answers get lost.
    AnswersLost,
    /// Accepted connections do not get from the interface to the listener.
    NotDelivered,
    /// The host resets them.
    ResetAtOnce,
}

impl Fault {
    /// What `now` shows, where protection was tried since `before`; `None` as long as nothing is wrong, or one connection has
    /// come through.
    #[must_use]
    pub fn between(before: &Counts, now: &Counts) -> Option<Self> {
        let since =
            |outcome: Outcome| now[outcome as usize].saturating_sub(before[outcome as usize]);
        if since(Outcome::Opened) > 0 {
            None
        } else if since(Outcome::Accepted) == 0 {
            (since(Outcome::Repeated) >= ENOUGH).then_some(Self::AnswersLost)
        } else if since(Outcome::HandedAgain) >= ENOUGH {
            Some(Self::NotDelivered)
        } else {
            (since(Outcome::ResetAtOnce) >= ENOUGH).then_some(Self::ResetAtOnce)
        }
    }

    /// As events name it.
    #[must_use]
    pub fn reason(self) -> CookieReason {
        match self {
            Self::AnswersLost => CookieReason::AnswersLost,
            Self::NotDelivered => CookieReason::NotDelivered,
            Self::ResetAtOnce => CookieReason::ResetAtOnce,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AnswersLost => {
                "clients repeat their SYNs, and not one cookie comes back. The answers get lost: the driver may not be able to send \
                 what XDP answers (`ethtool -S NAME` counts xdp_tx errors); try `--ingress tcx`"
            }
            Self::NotDelivered => {
                "connections are accepted, and not one gets to the listener. A firewall may drop segments of connections whose SYN \
                 it has not seen (`ct state invalid`, or `ct state new` without SYN, and net.netfilter.nf_conntrack_tcp_loose=0), or \
                 a rule translates the listener's address (DNAT)"
            }
            Self::ResetAtOnce => {
                "connections are accepted, and each is reset at once. A rule may translate the listener's address (DNAT, a \
                 published container port): protect the translated listener, on the interface in front of it"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(Outcome, u64)]) -> Counts {
        let mut counts = [0; Outcome::SLOTS];
        for (outcome, count) in of {
            counts[*outcome as usize] = *count;
        }
        counts
    }

    #[test]
    fn faults_show() {
        use Outcome::{Accepted, HandedAgain, Opened, Repeated, ResetAtOnce, Sent};
        let fault = |of: &[(Outcome, u64)]| Fault::between(&counts(&[]), &counts(of));
        assert_eq!(fault(&[(Sent, 1_000_000)]), None);
        assert_eq!(fault(&[(Sent, 9), (Repeated, 2)]), None);
        assert_eq!(fault(&[(Sent, 9), (Repeated, 3)]), Some(Fault::AnswersLost));
        // Some answers get lost anywhere.
        assert_eq!(fault(&[(Sent, 9), (Repeated, 3), (Accepted, 1)]), None);
        assert_eq!(fault(&[(Accepted, 1), (HandedAgain, 3)]), Some(Fault::NotDelivered));
        assert_eq!(fault(&[(Accepted, 3), (ResetAtOnce, 3)]), Some(Fault::ResetAtOnce));
        assert_eq!(fault(&[(Accepted, 9), (ResetAtOnce, 8), (HandedAgain, 8), (Opened, 1)]), None);
        // What was before the trial does not count.
        let before = counts(&[(Opened, 5), (Accepted, 5)]);
        let now = counts(&[(Opened, 5), (Accepted, 5), (Repeated, 3)]);
        assert_eq!(Fault::between(&before, &now), Some(Fault::AnswersLost));
    }
}
