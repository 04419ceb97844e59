//! One connection, and what is known about it.

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    NOT_SERVED, SERVED, SIMULTANEOUS,
    script::{Act, Slot, Step, Who},
    terms::Terms,
};
use crate::random::Random;
use crate::relay::{Side, Trace};

/// How a connection is opened.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Opening {
    Ordinary,
    /// The client takes little at once, so that its window closes.
    SmallWindow,
    /// Both connect to each other, and the SYNs cross.
    Simultaneous,
    /// Between the addresses and ports of an older connection, which is over, but maybe in TIME_WAIT.
    Again,
    /// To a port where nobody listens.
    Refused,
    /// The client closes its socket without waiting for an answer, which says nothing to anybody.
    Abandoned,
    /// To a listener with a short queue, from which nobody accepts for a while.
    Crowded,
}

/// Why nobody can know the state of an end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Unknowable {
    /// Both close at once, and each FIN of the far end that does not acknowledge the host's is lost on its way to the
    /// interface: what is seen is a passive close. TIME_WAIT is taken for CLOSED.
    CrossingFinLost,
    /// An application closes while its FIN must wait behind unsent data. Its socket is in FIN_WAIT_1 at once; where the
    /// peer's FIN comes first, the own one acknowledges that when it is sent at last, as in a passive close. TIME_WAIT is
    /// taken for CLOSED.
    FinWaited,
    /// A client closes its socket in SYN_SENT, and no answer ever comes, which it would refuse. Linux says nothing.
    Abandoned,
    /// An application resets (SO_LINGER 0) in CLOSING or LAST_ACK. Linux says nothing (`tcp_need_reset()`), so the state
    /// stays until something comes that is answered with an RST: that of before the FIN, where this was lost on its way to
    /// the interface.
    ResetSilently,
    /// An application resets in CLOSING, while the acknowledgment of its FIN is on the way from the interface to the
    /// socket, or finds it gone. TIME_WAIT, which no RST ends (RFC 1337), is shown where nothing is left.
    ResetBeforeTimeWait,
    /// A socket gave up (`TCP_USER_TIMEOUT`), which no segment shows, or an RST that was lost.
    GaveUp,
    /// The listener answered with a SYN cookie and keeps nothing, and the third segment did not reach it.
    Cookie,
    /// A listener with SYN cookies takes a late acknowledgment for a third segment, and has the connection again that was
    /// over. It says nothing. If it closes again, a client in TIME_WAIT, which goes on acknowledging the first FIN, looks like one
    /// that has closed first.
    Revived,
    /// A listener took a forged SYN, whose request ends without a word; of its peer nobody has heard.
    Phantom,
    /// The peer, in SYN_SENT or TIME_WAIT, took a forged SYN that passed the interface never, and was refused.
    TookUnseenSyn,
    /// The accept queue was full when the third segment came: the listener ignores it.
    QueueFull,
    /// The other end, which had no socket any more, refused a segment that was forged in this end's name. Both seem closed.
    ForgedRefused,
    /// An end that is gone has sent RSTs, none at the number where its peer was: for old segments, or ahead of its own data.
    /// The peer goes on, and what would end it was lost.
    RefusedReset,
}

pub(super) struct Life {
    pub(super) opening: Opening,
    pub(super) client_on_host: bool,
    pub(super) client_address: SocketAddr,
    pub(super) server_address: SocketAddr,
    pub(super) client: Slot,
    pub(super) server: Slot,
    pub(super) script: VecDeque<Step>,
    /// What was done already.
    pub(super) done: Vec<Act>,
    /// Who closed while the FIN had to wait for what was sent before: the client, the server. Nobody hears of that
    /// close before the FIN is sent, and where the peer's comes first, it looks like an answer to that.
    pub(super) closed_unheard: [bool; 2],
    /// Who was reset while the last acknowledgment was due, about which Linux says nothing.
    pub(super) reset_unheard: [bool; 2],
    /// Its listener had another socket to accept after the server's was closed: a late acknowledgment has brought it back.
    pub(super) server_again: bool,
    /// When its client connected.
    pub(super) began: Instant,
    /// Its sockets' options.
    pub(super) terms: Terms,
    /// Whose socket gave up: the client's, the server's.
    pub(super) gave_up: [bool; 2],
    /// When it was last compared, both ends were closed, or one or both in TIME_WAIT.
    pub(super) was_over: bool,
    /// Something was wrong with it, and was written down.
    pub(super) is_wrong: bool,
    /// What passed, where a newer one has its addresses and ports.
    pub(super) replaced: Option<Trace>,
}

impl Life {
    pub(super) fn slot(&mut self, who: Who) -> &mut Slot {
        match who {
            Who::Client => &mut self.client,
            Who::Server => &mut self.server,
        }
    }

    /// The host's address, and the peer's.
    pub(super) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        if self.client_on_host {
            (self.client_address, self.server_address)
        } else {
            (self.server_address, self.client_address)
        }
    }

    pub(super) fn server_side(&self) -> Side {
        if self.client_on_host { Side::Peer } else { Side::Host }
    }

    /// Whether its addresses and ports may be used again: that its server listens, and nothing more will happen.
    pub(super) fn is_over(&self) -> bool {
        self.was_over
            && self.replaced.is_none()
            && !self.is_wrong
            && self.server_address.port() == SERVED
            && self.gave_up == [false; 2]
            && matches!((&self.client, &self.server), (Slot::Gone, Slot::Gone))
    }

    /// Why nobody could know that the end at this side is in another state than the tracker says, if so.
    pub(super) fn unknowable(
        &self,
        trace: &Trace,
        side: Side,
        tracked: [&str; 2],
        kernel: [&str; 2],
    ) -> Option<Unknowable> {
        let (this, other) = (side as usize, side.other() as usize);
        let others = [tracked[other], kernel[other]];
        let (tracked, kernel) = (tracked[this], kernel[this]);
        let end = self.at(side);
        let who = end as usize;
        let looks_passive = trace.closes_second(side);
        let is_server = end == Who::Server;
        match (tracked, kernel) {
            // docs/limits.md, `TCP_USER_TIMEOUT`.
            (
                "SYN_SENT" | "SYN_RECEIVED" | "ESTABLISHED" | "CLOSE_WAIT" | "FIN_WAIT_1"
                | "CLOSING" | "LAST_ACK",
                "CLOSED",
            ) if self.has_given_up(end, trace) => Some(Unknowable::GaveUp),
            // docs/limits.md, a full accept queue. Where the SYN was answered with a cookie, nothing is in the queue; else the
            // request is given up in the end.
            ("ESTABLISHED" | "CLOSE_WAIT", "SYN_RECEIVED") if is_server && self.is_unserved() => {
                Some(Unknowable::QueueFull)
            }
            ("SYN_RECEIVED" | "ESTABLISHED" | "CLOSE_WAIT", "CLOSED")
                if is_server && self.is_unserved() =>
            {
                Some(Unknowable::QueueFull)
            }
            // Not even a late copy of the SYN is answered.
            ("SYN_SENT", "CLOSED")
                if !is_server
                    && self.opening == Opening::Crowded
                    && (trace.has_reset(side) || trace.has_reset(side.other())) =>
            {
                Some(Unknowable::QueueFull)
            }
            // docs/limits.md, forged SYNs.
            ("SYN_SENT" | "SYN_RECEIVED", "CLOSED")
                if is_server && trace.has_taken_forged_syn(side.other()) =>
            {
                Some(Unknowable::Phantom)
            }
            ("SYN_SENT" | "SYN_RECEIVED", "CLOSED") if trace.has_taken_forged_syn(side) => {
                Some(if side == Side::Peer {
                    Unknowable::TookUnseenSyn
                } else {
                    Unknowable::Phantom
                })
            }
            ("ESTABLISHED", "CLOSED")
                if is_server
                    && trace.has_taken_forged_syn(side)
                    && matches!(self.slot_of(end), Slot::Nothing) =>
            {
                Some(Unknowable::Phantom)
            }
            // docs/limits.md, TIME_WAIT: the listener's queue was full, so it dropped the SYN that had ended this.
            ("TIME_WAIT", "CLOSED")
                if is_server
                    && self.opening == Opening::Crowded
                    && trace.has_ignored_forged_syn(side) =>
            {
                Some(Unknowable::QueueFull)
            }
            ("TIME_WAIT", "CLOSED") if side == Side::Peer && trace.has_taken_forged_syn(side) => {
                Some(Unknowable::TookUnseenSyn)
            }
            // docs/limits.md, forged SYNs of which it took another than the tracker.
            ("TIME_WAIT", "CLOSED")
                if trace.has_taken_forged_syn(side) && trace.has_competing_forged_syns(side) =>
            {
                Some(Unknowable::Phantom)
            }
            // docs/limits.md, SYN cookies of a kernel.
            ("FIN_WAIT_2", "TIME_WAIT")
                if !is_server && self.may_revive() && trace.closes_again(side.other()) =>
            {
                Some(Unknowable::Revived)
            }
            ("LAST_ACK", "FIN_WAIT_1")
                if is_server && self.may_revive() && trace.closes_again(side) =>
            {
                Some(Unknowable::Revived)
            }
            // docs/limits.md, RSTs that their receiver refuses.
            ("ESTABLISHED" | "FIN_WAIT_1" | "FIN_WAIT_2" | "CLOSE_WAIT", "CLOSED")
                if (others[1] != "CLOSED" || self.has_given_up(self.at(side.other()), trace))
                    && trace.has_refused_resets_only(side) =>
            {
                Some(Unknowable::RefusedReset)
            }
            // A server's end may be in TIME_WAIT while the client uses its port again.
            ("SYN_SENT", _)
                if side == Side::Peer
                    && (!is_server || kernel == "TIME_WAIT")
                    && trace.has_taken_forged_syn(Side::Host) =>
            {
                Some(Unknowable::Phantom)
            }
            // It answered the far end's TIME_WAIT with an RST, which ends that nowhere (RFC 1337).
            ("CLOSED", "TIME_WAIT")
                if side == Side::Peer
                    && trace.has_taken_forged_syn(Side::Host)
                    && trace.has_reset(Side::Host) =>
            {
                Some(Unknowable::Phantom)
            }
            // docs/limits.md, forged segments that a dead end refuses.
            ("CLOSED", _) if others[1] == "CLOSED" && trace.has_refused_forged(side.other()) => {
                Some(Unknowable::ForgedRefused)
            }
            // docs/limits.md, a FIN behind unsent data.
            ("ESTABLISHED", "FIN_WAIT_1") | ("CLOSE_WAIT", "LAST_ACK" | "CLOSING")
                if !trace.is_fin_delivered(side) && self.has_closed(end) =>
            {
                Some(Unknowable::FinWaited)
            }
            // docs/limits.md, SYN cookies of a kernel.
            ("SYN_RECEIVED", "CLOSED") if is_server && self.terms.has_cookies() => {
                Some(Unknowable::Cookie)
            }
            ("SYN_SENT", "CLOSED")
                if self.opening == Opening::Abandoned
                    && !is_server
                    // An RST for the answer to a forged SYN looks like one of SYN_SENT.
                    && (!trace.has_reset(side) || trace.has_taken_forged_syn(side.other())) =>
            {
                Some(Unknowable::Abandoned)
            }
            ("CLOSED", "TIME_WAIT") if looks_passive && self.closed_unheard[who] => {
                Some(Unknowable::FinWaited)
            }
            ("CLOSED", "TIME_WAIT")
                if looks_passive && side == Side::Peer && trace.is_crossing_fin_dropped(side) =>
            {
                Some(Unknowable::CrossingFinLost)
            }
            ("CLOSE_WAIT", "CLOSED")
                if self.reset_unheard[who]
                    && side == Side::Peer
                    && !trace.is_fin_delivered(side)
                    && !trace.has_reset(side) =>
            {
                Some(Unknowable::ResetSilently)
            }
            ("CLOSING" | "LAST_ACK", "CLOSED")
                if self.reset_unheard[who] && !trace.has_reset(side) =>
            {
                Some(Unknowable::ResetSilently)
            }
            ("TIME_WAIT", "CLOSED") if self.reset_unheard[who] || trace.has_reset(side) => {
                Some(Unknowable::ResetBeforeTimeWait)
            }
            // The acknowledgment of its FIN was lost behind the interface, so that the RST found it in CLOSING.
            ("TIME_WAIT", "CLOSED")
                if side == Side::Peer
                    && trace.has_reset(Side::Host)
                    && !trace.is_fin_acknowledged(side) =>
            {
                Some(Unknowable::ResetBeforeTimeWait)
            }
            _ => None,
        }
    }

    fn slot_of(&self, end: Who) -> &Slot {
        if end == Who::Client { &self.client } else { &self.server }
    }

    /// Whether the application at this end has closed for writing.
    fn has_closed(&self, end: Who) -> bool {
        self.done.iter().any(|act| {
            matches!(act, Act::HalfClose(who) | Act::Close(who) | Act::CloseUnread(who) if *who == end)
        })
    }

    /// Whether the socket at this end gave up: it said so, or was closed, had a time for that, and was not acknowledged.
    pub(super) fn has_given_up(&self, end: Who, trace: &Trace) -> bool {
        let options = self.terms.end(end);
        let side = if end == Who::Server { self.server_side() } else { self.server_side().other() };
        // A socket of Multipath TCP outlives its subflow, and says nothing of it.
        let says_nothing = match self.slot_of(end) {
            Slot::Gone => !options.multipath,
            Slot::Connecting(_) => options.multipath,
            // The one that was closed before this one came.
            Slot::Open(_) => end == Who::Server && self.server_again && !options.multipath,
            Slot::Nothing => false,
        };
        self.gave_up[end as usize]
            || says_nothing && options.user_timeout.is_some() && trace.is_left_waiting(side)
    }

    /// Whether a late acknowledgment has brought a server's socket back, and all else is as it should be.
    pub(super) fn is_server_revived(
        &self,
        trace: &Trace,
        tracked: [&str; 2],
        kernel: [&str; 2],
    ) -> bool {
        let server = self.server_side();
        let client = server.other();
        let (mine, theirs) = (server as usize, client as usize);
        // A socket that gave up may have answered a forged segment.
        let gave_up = self.has_given_up(Who::Server, trace);
        let was_over = trace.is_fin_delivered(server)
            || trace.has_reset(server)
            || trace.has_reset(client)
            || gave_up;
        let is_gone = match tracked[mine] {
            "CLOSED" => true,
            // It has left what it was in: by a forged SYN, by an RST that is none to its peer, or by coming back.
            "SYN_RECEIVED" => trace.has_taken_forged_syn(server),
            "TIME_WAIT" => {
                server == Side::Peer && trace.has_taken_forged_syn(server)
                    || trace.has_reset(server)
                    || trace.has_gone_back(server)
                    // Nor does a listener answer the SYN that has ended it, whose queue is full.
                    || self.opening == Opening::Crowded && trace.has_ignored_forged_syn(server)
            }
            _ => gave_up,
        };
        let is_client_right = tracked[theirs] == kernel[theirs]
            || tracked == ["CLOSED"; 2] && (gave_up || trace.has_reset(server))
            || client == Side::Peer
                && tracked[theirs] == "SYN_SENT"
                && trace.has_taken_forged_syn(server);
        self.may_revive() && was_over && is_gone && is_client_right && kernel[mine] != "CLOSED"
    }

    /// Whether a late acknowledgment may bring its server's socket back: its SYN,ACK was a cookie.
    pub(super) fn may_revive(&self) -> bool {
        self.terms.has_cookies()
            || self.terms.may_have_cookies() && self.opening == Opening::Crowded
    }

    /// Whether it had to wait in a short queue.
    pub(super) fn is_crowded(&self) -> bool {
        self.opening == Opening::Crowded
    }

    /// Whether nobody has accepted it from a short queue.
    fn is_unserved(&self) -> bool {
        self.opening == Opening::Crowded && matches!(self.server, Slot::Nothing)
    }

    /// Whether somebody listens where its client connects to.
    pub(super) fn is_listened(&self) -> bool {
        let port = self.server_address.port();
        port != NOT_SERVED && port < SIMULTANEOUS
    }

    /// When the cable is cut for it, so that a socket gives up.
    pub(super) fn when_to_cut(&self, random: &mut Random) -> Option<Duration> {
        let may_give_up = Who::BOTH.iter().any(|who| self.terms.end(*who).user_timeout.is_some());
        (may_give_up && random.percent(60)).then(|| Duration::from_micros(random.below(300_000)))
    }

    /// Finds out what has become of a socket.
    pub(super) fn look(&mut self, who: Who) -> Result<()> {
        let died_of = self.slot(who).look()?;
        self.gave_up[who as usize] |=
            died_of.is_some_and(|error| error.raw_os_error() == Some(libc::ETIMEDOUT));
        Ok(())
    }

    /// Who is at this side.
    pub(super) fn at(&self, side: Side) -> Who {
        if side == self.server_side() { Who::Server } else { Who::Client }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = if self.client_on_host { "host" } else { "peer" };
        let Self { opening, client_address, server_address, .. } = self;
        write!(
            f,
            "{opening:?} {client_address} > {server_address} (client on the {at}), host/peer; {:?}",
            self.terms
        )
    }
}
