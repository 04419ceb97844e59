//! Segments with neither SYN nor RST on an open connection.

use super::{
    Ruling,
    advance::has_timestamp,
    gap::{Gap, last_ack},
    situation::Situation,
    take,
};
use crate::{
    flow::{Facts, fact},
    forget::VerifierBarrier,
    segment::{Flags, Segment},
    seq::Seq,
    violation::Rule,
};

/// Bytes that hosts let be under way at most: Linux sends and receives 6 MiB by default (`tcp_rmem`, `tcp_wmem`).
const LARGEST_WINDOW: u32 = 1 << 24;

/// A segment with neither SYN nor RST on an open connection (RFC 9293 section 3.10.7.4).
#[inline(always)]
pub(super) fn synchronized<F: VerifierBarrier>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
    gap: Gap,
) -> Ruling {
    let midstream = situation.midstream;
    let end = segment.end();
    if peer.has(fact::ACK) {
        // The kernel's tcp_sequence(): a segment that ends before what its receiver last acknowledged is an old one (a
        // retransmission, a keepalive, a zero-window probe: S4), and its acknowledgment is not looked at either.
        let is_missed = me.ends_with_gap() && end == me.end;
        let old_fin =
            segment.has(Flags::FIN) && !me.has(fact::FIN) && end == peer.ack && !is_missed;
        if end.before(peer.ack) || old_fin {
            return Ruling::take(take::LITTLE);
        }
    }
    // In a flow picked up in its middle, the peer may have sent more than we saw, and what was acknowledged may be forged.
    let is_measured = !peer.has(fact::FRAGMENTED) && (!midstream || me.has(fact::SYNCED));
    if is_measured && me.has(fact::ACK) && segment.ack.before(me.ack.sub(LARGEST_WINDOW)) {
        // Sent blindly: nothing on its way acknowledges so little (RFC 5961 section 5).
        return Ruling::default();
    }
    // A subflow's window counts from what the whole connection has acknowledged (RFC 8684 section 3.3.1), which is out of
    // sight.
    let slack = if me.is_multipath(peer) { LARGEST_WINDOW } else { 0 };
    let beyond_window =
        peer.has(fact::ACK | fact::EDGE) && segment.seq.after(peer.edge.add(slack)) && !gap.goes_on;
    let beyond_sent = peer.has_end()
        && segment.ack.after(peer.end)
        // Nothing follows a FIN.
        && (peer.has(fact::FIN) || (is_measured && !gap.confirms));
    let (beyond_window, beyond_sent) = f.forget((beyond_window, beyond_sent));
    if beyond_window || beyond_sent {
        return refuse(f, me, peer, segment, beyond_window, beyond_sent, gap);
    }
    if me.has(fact::FIN) && end.after(me.fin.add(1)) {
        return Ruling::breach(Rule::DataAfterFin, me.fin, me.fin.add(1), end);
    }
    // Only what was never sent before can be judged by its age: a network may deliver a first copy after the second.
    if segment.has_timestamp
        && has_timestamp(me)
        && !situation.offers.is_idle
        // One tick is forgiven, as the kernel's tcp_paws_check() does.
        && segment.timestamp.before(me.ts.sub(1))
        && me.has_end()
        && end.after(me.end)
    {
        let high = me.ts.add(1 << 30);
        return Ruling::refuse(last_ack(me, segment)).and_breach(
            Rule::PawsReject,
            me.ts,
            high,
            segment.timestamp,
        );
    }
    Ruling::take(take::ANY | take::OPEN)
}

/// A segment on an open connection that lies beyond the window, or acknowledges what was never sent, as far as we saw.
///
/// Either it is forged, or we missed packets. What it says is kept until the peer says the same: a forger speaks for one end
/// only. What belongs to the same gap is no second breach.
#[inline(always)]
pub(super) fn refuse<F: VerifierBarrier>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    segment: &Segment,
    beyond_window: bool,
    beyond_sent: bool,
    gap: Gap,
) -> Ruling {
    let is_fin = segment.has(Flags::FIN);
    let (rule, low, high, actual) = if beyond_window {
        let rule = if is_fin { Rule::FinOutOfWindow } else { Rule::SeqOutOfWindow };
        (rule, peer.ack, peer.edge, segment.seq)
    } else {
        let low = if me.has(fact::ACK) { me.ack } else { peer.end };
        let rule = if is_fin {
            Rule::FinBadAck
        } else if (me.flags | peer.flags) & fact::FIN != 0 {
            Rule::CloseBadAck
        } else {
            Rule::AckUnseenData
        };
        (rule, low, peer.end, segment.ack)
    };
    let rule = (!gap.is_known()).then_some(rule);
    let (rule, low, high, actual) = f.forget((rule, low, high, actual));
    let breach = Ruling { rule, low, high, actual, ..Ruling::default() };
    if !beyond_window && acknowledges_missed_fin(me, peer, segment) {
        return Ruling { take: take::MISSED_FIN, ..breach };
    }
    let ack = if beyond_sent { segment.ack } else { last_ack(me, segment) };
    Ruling { ack, take: take::REFUSED, ..breach }
}

/// Whether the segment is the one with which an end that has closed acknowledges its peer's FIN, where we missed that: its next
/// number, and one more than was seen of the peer. Should it have been data, the peer will go on.
#[inline(always)]
fn acknowledges_missed_fin(me: &Facts, peer: &Facts, segment: &Segment) -> bool {
    me.has(fact::FIN)
        && !peer.has(fact::FIN)
        && !peer.has(fact::REFUSED)
        && peer.has(fact::ACK)
        && segment.payload == 0
        && !segment.has(Flags::FIN)
        && segment.seq == me.fin.add(1)
        && segment.ack == peer.end.add(1)
        && !(me.has(fact::ACK) && segment.ack.before(me.ack))
}

/// Where the window ends that an end has offered.
#[inline(always)]
pub(super) const fn window_end(peer: &Facts) -> Seq {
    if peer.has(fact::EDGE) { peer.edge } else { peer.ack }
}
