//! The rules of [`crate::judge`] on what a flow holds.

use crate::{
    flow::{Facts, Flow},
    forget::VerifierBarrier,
    judge::{
        Ruling, Situation, Verdict, advance, agree, close, keep, others, outlived, reset,
        reset_signs, syn, syn_ack, take,
    },
    packet::Packet,
    segment::Flags,
};

/// [`crate::judge::judge`] on what a flow holds.
#[inline(always)]
#[must_use]
pub fn judge_on<F: VerifierBarrier>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
) -> Verdict {
    if packet.segment.has(Flags::RST) {
        let signs = reset_signs_on(f, flow, packet, situation);
        let ruling = judge_reset_on(f, flow, packet, situation, signs);
        let mut verdict = Verdict::nothing(&Facts::default());
        close_on(flow, packet, &ruling, &mut verdict);
        return verdict;
    }
    if packet.segment.has(Flags::SYN) {
        return if packet.segment.has(Flags::ACK) {
            judge_syn_ack_on(f, flow, packet, situation)
        } else {
            judge_syn_on(flow, packet, situation)
        };
    }
    let ruling = judge_others_on(f, flow, packet, situation);
    let mut verdict = Verdict::nothing(&Facts::default());
    if ruling.take & take::ANY != 0 {
        advance_on(f, flow, packet, situation, ruling.take, &mut verdict);
        agree_on(f, flow, packet, situation, &mut verdict);
    } else {
        keep_on(flow, packet, situation, &ruling, &mut verdict);
    }
    verdict
}

/// The first part of judging a flow's segment that is for RST, which [`judge_reset_on`] and [`close_on`] follow.
#[inline(always)]
#[must_use]
pub fn reset_signs_on<F: VerifierBarrier>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
) -> u8 {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    reset_signs(f, &me, &peer, situation, &packet.segment)
}

/// The second part.
#[inline(always)]
#[must_use]
pub fn judge_reset_on<F: VerifierBarrier>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
    signs: u8,
) -> Ruling {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    reset(f, &me, &peer, situation, &packet.segment, signs)
}

/// The third part.
#[inline(always)]
pub fn close_on(flow: &Flow, packet: &Packet, ruling: &Ruling, verdict: &mut Verdict) {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    *verdict = Verdict::nothing(&me);
    close(&me, &peer, &packet.segment, ruling, verdict);
}

/// The part of judging a flow's segment that is for SYN without ACK.
#[inline(always)]
#[must_use]
pub fn judge_syn_on(flow: &Flow, packet: &Packet, situation: &Situation) -> Verdict {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    syn(&me, &peer, situation, &packet.segment)
}

/// The part of judging a flow's segment that is for SYN,ACK.
#[inline(always)]
#[must_use]
pub fn judge_syn_ack_on<F: VerifierBarrier>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
) -> Verdict {
    let (me, peer) = (flow.half(packet.from).facts(), flow.half(packet.from.other()).facts());
    syn_ack(f, &me, &peer, situation, &packet.segment)
}

/// The first part of judging a flow's segment that is for all others. Where it is acceptable, [`advance_on`] and [`agree_on`]
/// follow; else [`keep_on`].
#[inline(always)]
#[must_use]
pub fn judge_others_on<F: VerifierBarrier>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
) -> Ruling {
    let (me, peer) = facts_on(flow, packet, situation);
    others(f, &me, &peer, situation, &packet.segment)
}

/// The second part.
#[inline(always)]
pub fn advance_on<F: VerifierBarrier>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
    takes: u8,
    verdict: &mut Verdict,
) {
    let (me, peer) = facts_on(flow, packet, situation);
    *verdict = Verdict::nothing(&me);
    advance(f, &me, &peer, situation, &packet.segment, takes, verdict);
}

/// The third part.
#[inline(always)]
pub fn agree_on<F: VerifierBarrier>(
    f: &F,
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
    verdict: &mut Verdict,
) {
    let peer = flow.half(packet.from.other()).facts();
    agree(f, &peer, situation, &packet.segment, verdict);
}

/// What follows for a segment that is not acceptable.
#[inline(always)]
pub fn keep_on(
    flow: &Flow,
    packet: &Packet,
    situation: &Situation,
    ruling: &Ruling,
    verdict: &mut Verdict,
) {
    let (me, peer) = facts_on(flow, packet, situation);
    *verdict = Verdict::nothing(&me);
    keep(&me, &peer, &packet.segment, ruling, verdict);
}

/// The facts of the sender and of the receiver of a segment with neither SYN nor RST.
#[inline(always)]
fn facts_on(flow: &Flow, packet: &Packet, situation: &Situation) -> (Facts, Facts) {
    let peer = flow.half(packet.from.other()).facts();
    let mut me = flow.half(packet.from).facts();
    me.flags |= outlived(&me, &peer, situation, &packet.segment);
    (me, peer)
}
