//! A SYN without ACK: the first, another one, one on a connection that is open or over.

use super::{Verdict, advance::has_timestamp, situation::Situation};
use crate::{
    flow::{Facts, Opening, fact},
    history::Letter,
    segment::{Segment, SynOptions},
    seq::Seq,
    state::State,
    violation::{Breach, Rule},
};

/// TCP segments that offer so many ISNs on one pair of ends are a flood, not a host that tries again.
const TOO_MANY_ISNS: u32 = 10;

/// What a SYN means on a connection that is open or over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reopening {
    /// It belongs to this connection, or to an older one: nothing.
    Duplicate,
    /// It may begin a new connection on the same key (RFC 1122 section 4.2.2.13).
    Legal,
    /// Neither: the connection goes on, and its receiver answers with a challenge ACK (RFC 5961 section 4).
    Breach(Breach),
}

/// Judges a SYN without ACK on a connection that is open or over.
#[inline(always)]
#[must_use]
pub fn reopening(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Reopening {
    let own = if me.has(fact::SYN) {
        segment.seq == me.isn
    } else {
        // The handshake may have been seen backwards (H17).
        peer.has(fact::SYN_ACK) && segment.seq.before(peer.ack)
    };
    // Seen late, after the RST that ended the connection which it began.
    let late = !me.has(fact::SYN) && own && me.has_end() && segment.seq.add(1) == me.isn;
    if situation.is_over() && !late {
        Reopening::Legal
    } else if own {
        Reopening::Duplicate
    } else if situation.seems_in_time_wait() {
        // RFC 6191 section 2, as the kernel's tcp_timewait_state_process() does it: the clock decides where both have one and
        // it differs, else the number (RFC 1122 section 4.2.2.13).
        let has_clock = segment.has_timestamp && has_timestamp(me) && segment.timestamp != me.ts;
        let is_beyond = segment.seq.after(me.end);
        // Only who is in TIME_WAIT itself looks at the clock: a peer that is not knows nothing of it.
        let is_kept = situation.theirs as u8 == State::TimeWait as u8;
        let newer = if has_clock {
            segment.timestamp.after(me.ts) || (!is_kept && is_beyond)
        } else {
            is_beyond
        };
        if newer {
            Reopening::Legal
        } else {
            let low = me.end.add(1);
            Reopening::Breach(Breach {
                rule: Rule::SynInTimeWait,
                low: low.0,
                high: low.add(1 << 30).0,
                actual: segment.seq.0,
            })
        }
    } else {
        let expected = if me.has(fact::SYN) { me.isn.0 } else { me.end.0 };
        Reopening::Breach(Breach {
            rule: Rule::SynInEstablished,
            low: expected,
            high: expected,
            actual: segment.seq.0,
        })
    }
}

/// [`super::judge`] for a SYN without ACK. On an open flow it changes nothing.
#[inline(always)]
#[must_use]
pub fn syn(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    if situation.open {
        let breach = match reopening(me, peer, situation, segment) {
            Reopening::Breach(breach) => Some(breach),
            Reopening::Duplicate | Reopening::Legal => None,
        };
        return Verdict { breach, ..Verdict::nothing(me) };
    }
    if me.has(fact::SYN) {
        if segment.seq == me.isn {
            return syn_again(me, segment);
        }
        if me.has(fact::SYN_ACK) {
            // The SYN,ACK before it may have been forged.
            let breach = Verdict::breach(me, Rule::SynWrongDir, me.isn, me.isn, segment.seq);
            return Verdict { another_isn: true, ..breach };
        }
        if situation.offers.is_known {
            return Verdict::nothing(me);
        }
        // The same SYN sent anew with another ISN (H8), or one of many forged ones (H16): the handshake that completes
        // decides.
        let mut verdict = if situation.offers.others + 2 >= TOO_MANY_ISNS {
            Verdict::breach(me, Rule::SynFloodTuple, me.isn, me.isn, segment.seq)
        } else if peer.has(fact::SYN_ACK) {
            Verdict::breach(me, Rule::SynIsnChange, me.isn, me.isn, segment.seq)
        } else {
            Verdict::nothing(me)
        };
        verdict.another_isn = true;
        verdict.letter = Some(Letter::Syn);
        return verdict;
    }
    let mut verdict = first_syn(me, segment);
    if !me.has(fact::EDGE) {
        verdict.facts.edge = Seq(segment.window.into());
    }
    verdict.facts.flags |= fact::BARE_SYN;
    verdict.breach = data_in_syn(segment);
    // It is newer than the SYN,ACKs that were refused before.
    verdict.another_isn = situation.offers.others != 0;
    verdict
}

/// A SYN that comes again. What a copy offers beside, the one that is answered may have offered: where the answer offers it
/// too, it has.
#[inline(always)]
fn syn_again(me: &Facts, segment: &Segment) -> Verdict {
    let mut verdict = Verdict::nothing(me);
    if me.flags & (fact::SYN_ACK | fact::MOVED_ON) != 0 {
        return verdict;
    }
    verdict.facts.offer(&segment.options);
    verdict.facts.end = me.end.latest(segment.end());
    if !me.has(fact::EDGE) && u32::from(segment.window) > me.edge.0 {
        verdict.facts.edge = Seq(segment.window.into());
    }
    if segment.payload > 0 && !me.has(fact::SYN_DATA) {
        verdict.facts.flags |= fact::SYN_DATA;
        verdict.breach = data_in_syn(segment);
    }
    verdict
}

/// Data in a SYN, which it may have with Fast Open only (H5).
#[inline(always)]
fn data_in_syn(segment: &Segment) -> Option<Breach> {
    let forbidden = segment.payload > 0 && !segment.options.has(SynOptions::HAS_FAST_OPEN);
    forbidden.then_some(Breach {
        rule: Rule::SynWithData,
        low: 0,
        high: 0,
        actual: segment.payload,
    })
}

/// The facts of an end's first SYN or SYN,ACK.
#[inline(always)]
fn first_syn(me: &Facts, segment: &Segment) -> Verdict {
    let mut facts = *me;
    Opening::of(segment).add_to(&mut facts);
    Verdict { facts, renew: true, letter: Some(Letter::Syn), ..Verdict::nothing(me) }
}

/// Whether `ack` acknowledges the peer's SYN: its ISN plus one, and of its data, where it carried some, as much as was taken
/// (RFC 7413; RFC 9293 section 3.10.7.3: ISS < SEG.ACK =< SND.NXT).
#[inline(always)]
#[must_use]
pub const fn acknowledges_syn(peer: &Facts, ack: Seq) -> bool {
    let first = peer.isn.add(1);
    ack.0 == first.0 || (peer.has(fact::SYN_DATA) && ack.within(first, peer.end))
}
