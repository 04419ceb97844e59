//! Zeek's `conn_state`: one word for how a connection went.

use crate::{
    flow::{Facts, Flow, fact, flow_flag},
    state::has_fin,
};

/// The word for `flow`, as Zeek's `conn.log` writes it.
#[must_use]
pub fn conn_state(flow: &Flow) -> &'static str {
    let originator = flow.half(flow.originator()).facts();
    let responder = flow.half(flow.originator().other()).facts();
    if flow.has(flow_flag::MIDSTREAM) {
        return "OTH";
    }
    // Likewise.
    let syn_ack = responder.has(fact::SYN) || responder.has(fact::ACKED_SYN);
    // Seen, or proven by the acknowledgment of its answer: as Zeek has it, only the SYN was missed.
    let syn = originator.has(fact::SYN) || originator.has(fact::ACKED_SYN);
    // Before an RST, what was missed may as well have been data.
    let is_reset = originator.has(fact::RST) || responder.has(fact::RST);
    let closed = |end: &Facts, peer: &Facts| {
        if is_reset { end.has(fact::FIN) } else { has_fin(end, peer) }
    };
    let fins = (closed(&originator, &responder), closed(&responder, &originator));
    if syn && syn_ack && fins == (true, true) {
        // Whatever RST follows.
        return "SF";
    }
    if originator.has(fact::RST) {
        return if !syn_ack { "RSTOS0" } else { "RSTO" };
    }
    if responder.has(fact::RST) {
        return match (syn, syn_ack) {
            (true, false) => "REJ",
            (true, true) => "RSTR",
            (false, _) => "RSTRH",
        };
    }
    if !syn {
        return if fins.1 { "SHR" } else { "OTH" };
    }
    if !syn_ack {
        return if fins.0 { "SH" } else { "S0" };
    }
    match fins {
        (true, true) => "SF",
        (true, false) => "S2",
        (false, true) => "S3",
        (false, false) => "S1",
    }
}
