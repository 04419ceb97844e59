//! What is known of a flow beside the facts when a segment comes.

use crate::{
    flow::{Facts, fact},
    state::{State, is_open, state},
};

/// What is known of a flow when a segment comes, beside the facts.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// State of the segment's sender.
    pub mine: State,
    /// State of its receiver.
    pub theirs: State,
    /// The handshake is complete.
    pub open: bool,
    /// The FIN of each end was seen.
    pub seen_fins: bool,
    /// The flow was picked up after its handshake.
    pub midstream: bool,
    /// A SYN of an old connection was seen in TIME_WAIT.
    pub old_syn: bool,
    /// The segment leaves this host, and its sender is here: it knows all that has arrived.
    pub leaves: bool,
    /// Other ISNs were used on its key shortly before.
    pub other_isns: bool,
    /// A newer SYN on its key waits among the half-open flows.
    pub has_successor: bool,
    /// What else is known beside the facts.
    pub offers: IsnCandidates,
}

/// What a half-open flow remembers of SYNs ([`crate::flow::HalfOpen`]), as one segment meets it, and what time has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct IsnCandidates {
    /// How many further SYNs the sender has sent.
    pub others: u32,
    /// The acknowledgment is one of another SYN of the receiver's ([`crate::flow::OtherOpenings`]).
    pub acks_other: bool,
    /// The acknowledgment minus one is the ISN of the connection before this one.
    pub acks_previous: bool,
    /// The flow began with the very SYN of the connection before this one: a late copy of it.
    pub repeats: bool,
    /// The segment is a SYN, or SYN,ACK, that is remembered.
    pub is_known: bool,
    /// The sender has sent a SYN with another ISN since the one that its half holds.
    pub has_newer: bool,
    /// It began so recently that segments of a connection before it may still be under way.
    pub is_young: bool,
    /// Nothing came for 24 days, so timestamps say nothing about age (RFC 7323 section 5.5).
    pub is_idle: bool,
}

/// What a flow notes of other connections on its key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past {
    /// A SYN of an old connection was seen in TIME_WAIT.
    pub old_syn: bool,
    /// Other ISNs were used shortly before.
    pub other_isns: bool,
    /// A newer SYN waits among the half-open flows.
    pub has_successor: bool,
}

impl Situation {
    /// The situation between an end that has sent `me` and one that has sent `peer`.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        me: &Facts,
        peer: &Facts,
        midstream: bool,
        marks: Past,
        leaves: bool,
        offers: IsnCandidates,
    ) -> Self {
        Self {
            mine: state(me, peer, midstream),
            theirs: state(peer, me, midstream),
            open: is_open(me, peer, midstream),
            seen_fins: me.has(fact::FIN) && peer.has(fact::FIN),
            midstream,
            old_syn: marks.old_syn,
            leaves,
            other_isns: marks.other_isns,
            has_successor: marks.has_successor,
            offers,
        }
    }

    /// Whether either end is in TIME_WAIT, as far as we know: a FIN may have been missed.
    #[inline(always)]
    #[must_use]
    pub const fn seems_in_time_wait(&self) -> bool {
        self.mine as u8 == State::TimeWait as u8 || self.theirs as u8 == State::TimeWait as u8
    }

    /// Whether either end is in TIME_WAIT, by FINs that were seen.
    #[inline(always)]
    #[must_use]
    pub const fn in_time_wait(&self) -> bool {
        self.seen_fins && self.seems_in_time_wait()
    }

    /// Whether both ends are CLOSED.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.mine as u8 == State::Closed as u8 && self.theirs as u8 == State::Closed as u8
    }
}
