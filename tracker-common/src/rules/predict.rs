//! The segments that nearly all are: data or an acknowledgment, on an open connection, as they were to be expected (the
//! kernel's header prediction, `tcp_rcv_established`, after Van Jacobson); and those of an orderly close.
//!
//! [`track_predicted`] decides nothing that [`crate::track`] would decide otherwise: it takes only segments of which that would
//! write exactly what is written here, and has nothing to count or report. A property test holds one against the other. It
//! leaves out what takes time: states, verdicts, reports.

use crate::{
    counters::Hook,
    flow::{Flow, fact, flow_flag},
    history::{Letter, Letters},
    packet::Packet,
    segment::Flags,
};

/// Flags that a predicted segment may have beside ACK.
const BESIDE: Flags = Flags::PSH.with(Flags::ECE).with(Flags::CWR).with(Flags::AE);

/// What both ends must have shown, beside the direction of the sender's.
const OF_BOTH: u32 = fact::SYN | fact::ACK | fact::EDGE;

/// The same in a flow that was picked up in its middle.
const OF_BOTH_MIDSTREAM: u32 = fact::MOVED_ON | fact::ACK;

/// What neither may have shown.
const OF_NEITHER: u32 = fact::FIN | fact::RST | fact::REFUSED;

/// The same in a flow that was picked up in its middle: windows are not known there, and so are not judged.
const OF_NEITHER_MIDSTREAM: u32 = OF_NEITHER | fact::SYN | fact::EDGE;

/// Writes the segment into the confirmed flow that has its key, if it was to be expected: what comes before
/// [`crate::track::in_order`], where nobody wants to hear of every segment. True where nothing is left to be done; if not,
/// nothing was written. `now_ns` is asked for the time only if it is needed; it may be old by a few milliseconds, because only
/// a flow's timer depends on it.
#[inline(always)]
#[must_use]
pub fn track_predicted(
    flow: &Flow,
    packet: &Packet,
    hook: Hook,
    now_ns: impl FnOnce() -> u64,
) -> bool {
    let segment = &packet.segment;
    if segment.flags.0 & !BESIDE.0 != Flags::ACK.0 || segment.fragment || segment.window == 0 {
        return false;
    }
    let has_data = segment.payload > 0;
    if !has_data && segment.has(Flags::PSH) {
        return false;
    }
    if !flow.has(flow_flag::ESTABLISHED) || flow.has_any(flow_flag::SUCCESSOR | flow_flag::OLD_SYN)
    {
        return false;
    }
    let midstream = flow.has(flow_flag::MIDSTREAM);
    let (of_both, of_neither) =
        if midstream { (OF_BOTH_MIDSTREAM, OF_NEITHER_MIDSTREAM) } else { (OF_BOTH, OF_NEITHER) };
    let (mine, theirs) = (flow.half(packet.from), flow.half(packet.from.other()));
    let (me, peer) = (mine.facts(), theirs.facts());
    let seen = match hook {
        Hook::Ingress => fact::SEEN_IN,
        Hook::Egress => fact::SEEN_OUT,
    };
    if !me.has(of_both | seen) || !peer.has(of_both) || (me.flags | peer.flags) & of_neither != 0 {
        return false;
    }
    let end = segment.end();
    // Nothing that was sent or acknowledged before, nothing beyond the window, nothing acknowledged that was not sent, and
    // no gap that may have been a FIN.
    let is_next = if has_data {
        end.after(me.end) && end.after(peer.ack)
    } else {
        !end.before(peer.ack) && !end.after(me.end)
    };
    if !is_next
        || (!midstream && segment.seq.after(peer.edge))
        || segment.ack.after(peer.end)
        || segment.ack.before(me.ack)
        // What was taken for an acknowledgment, in a flow that was picked up in its middle.
        || me.ack.after(peer.end)
    {
        return false;
    }
    let edge = segment.ack.add(u32::from(segment.window) << me.scale(&peer));
    if !midstream && edge.before(me.edge) {
        return false;
    }
    // A responder's first segment after its SYN,ACK says that its peer's SYN has arrived.
    if !midstream && !me.has(fact::ACKED_SYN) && !segment.ack.within(peer.isn.add(1), peer.end) {
        return false;
    }
    if segment.has_timestamp && (!me.has(fact::TS) || segment.timestamp.before(me.ts)) {
        return false;
    }
    // Where it is about to be removed, the rest of tracking finds it gone.
    if !flow.renew(now_ns()) {
        return false;
    }
    let mut facts = me;
    facts.end = me.end.latest(end);
    facts.ack = segment.ack;
    facts.edge = edge;
    if !midstream {
        facts.flags |= fact::MOVED_ON | fact::ACKED_SYN;
    } else if segment.ack == peer.end {
        facts.flags |= fact::SYNCED;
    }
    // RFC 7323 section 4.3.
    if segment.has_timestamp && !segment.seq.after(peer.ack) {
        facts.ts = segment.timestamp;
    }
    let (kind, letter) =
        if has_data { (fact::DATA, Letter::Data) } else { (fact::PURE_ACK, Letter::Ack) };
    if !me.has(kind) {
        facts.flags |= kind;
        flow.history.append(Letters::default().and(letter, packet.from));
    }
    mine.grow_on(segment, &me, &facts);
    mine.count(segment);
    true
}

/// Writes a segment of an orderly close into the confirmed flow that has its key: a first FIN, in its place, that acknowledges
/// the peer's if that has closed, or the acknowledgment of the peer's FIN. As [`track_predicted`], where neither every segment is
/// listened to nor flows that begin to close, or are closed.
#[inline(always)]
#[must_use]
pub fn track_close(flow: &Flow, packet: &Packet, hook: Hook, now_ns: impl FnOnce() -> u64) -> bool {
    const OF_BOTH: u32 = self::OF_BOTH | fact::MOVED_ON;
    let segment = &packet.segment;
    let flags = segment.flags.0 & !BESIDE.0;
    let closes = flags == Flags::FIN.with(Flags::ACK).0;
    if (!closes && flags != Flags::ACK.0) || segment.fragment || segment.window == 0 {
        return false;
    }
    if segment.payload == 0 && segment.has(Flags::PSH) || segment.payload != 0 && !closes {
        return false;
    }
    if !flow.has(flow_flag::ESTABLISHED)
        || flow.has_any(flow_flag::MIDSTREAM | flow_flag::SUCCESSOR | flow_flag::OLD_SYN)
    {
        return false;
    }
    let (mine, theirs) = (flow.half(packet.from), flow.half(packet.from.other()));
    let (me, peer) = (mine.facts(), theirs.facts());
    let seen = match hook {
        Hook::Ingress => fact::SEEN_IN,
        Hook::Egress => fact::SEEN_OUT,
    };
    if !me.has(OF_BOTH | fact::ACKED_SYN | seen)
        || !peer.has(OF_BOTH)
        || (me.flags | peer.flags) & (fact::RST | fact::REFUSED | fact::FRAGMENTED) != 0
        || me.ends_with_gap()
        || peer.ends_with_gap()
    {
        return false;
    }
    // Where something came behind a FIN, it is not for here.
    let is_acked = segment.ack == peer.end && peer.end == peer.fin.add(1);
    let is_last = !me.has(fact::FIN) || me.end == me.fin.add(1);
    let is_in_place = segment.seq == me.end
        && !peer.ack.after(me.end)
        && !segment.seq.after(peer.edge)
        && !me.ack.after(segment.ack)
        && !segment.ack.after(peer.end);
    let is_expected = if closes {
        !me.has(fact::FIN) && (is_acked || !peer.has(fact::FIN))
    } else {
        peer.has(fact::FIN) && is_acked && segment.ack.after(me.ack)
    };
    if !is_in_place || !is_expected || !is_last {
        return false;
    }
    let edge = segment.ack.add(u32::from(segment.window) << me.scale(&peer));
    if edge.before(me.edge) {
        return false;
    }
    if segment.has_timestamp && (!me.has(fact::TS) || segment.timestamp.before(me.ts)) {
        return false;
    }
    if !flow.renew(now_ns()) {
        return false;
    }
    let mut facts = me;
    facts.end = segment.end();
    facts.ack = segment.ack;
    facts.edge = edge;
    if segment.has_timestamp && !segment.seq.after(peer.ack) {
        facts.ts = segment.timestamp;
    }
    let mut letters = Letters::default();
    if segment.payload > 0 && !me.has(fact::DATA) {
        facts.flags |= fact::DATA;
        letters = letters.and(Letter::Data, packet.from);
    }
    if closes {
        facts.fin = facts.end.sub(1);
        facts.flags = facts.flags & !fact::CLOSED_FIRST | fact::FIN;
        if peer.has(fact::FIN) {
            facts.flags |= fact::CLOSED_SECOND;
        }
        letters = letters.and(Letter::Fin, packet.from);
    } else {
        if me.has(fact::FIN) {
            facts.flags |= fact::CLOSED_FIRST;
        }
        if !me.has(fact::PURE_ACK) {
            facts.flags |= fact::PURE_ACK;
            letters = letters.and(Letter::Ack, packet.from);
        }
    }
    mine.grow_on(segment, &me, &facts);
    mine.count(segment);
    flow.history.append(letters);
    // Both FINs are acknowledged.
    let is_over = !closes && me.has(fact::FIN) && peer.ack == me.end;
    flow.mark(flow_flag::CLOSING | if is_over { flow_flag::CLOSED } else { 0 });
    true
}
