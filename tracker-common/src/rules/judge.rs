//! What one segment means for one flow: which facts it adds, and which rule it breaks.
//!
//! A segment that its receiver would drop (RFC 9293 section 3.10.7) adds no facts, so a forged one changes no state.

mod advance;
mod gap;
mod opening;
mod reset;
mod situation;
mod syn;
mod syn_ack;
mod synchronized;

pub use self::{
    advance::{advance, agree},
    gap::keep,
    opening::continues_handshake,
    reset::{assassinates, close, outlived, reset, reset_signs, sign},
    situation::{IsnCandidates, Past, Situation},
    syn::{Reopening, acknowledges_syn, reopening, syn},
    syn_ack::{as_after_syn, syn_ack},
};
use self::{
    gap::{Gap, acknowledges_refused, goes_on_from_refused, repeats_refused},
    opening::opening,
    reset::after_reset,
    synchronized::synchronized,
};
use crate::{
    flow::Facts,
    forget::VerifierBarrier,
    history::Letter,
    segment::{Flags, Segment},
    seq::Seq,
    state::is_reset,
    violation::{Breach, Rule},
};

/// What [`judge`] found.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// The sender's facts, this segment included.
    pub facts: Facts,
    /// Where `agrees`, its peer's facts with what was refused of the peer before and this segment confirms.
    pub peer: Facts,
    /// Whether `peer` holds.
    pub agrees: bool,
    /// The peer's facts beyond its SYN were sent blindly, and are none ([`as_after_syn`]).
    pub takes_back: bool,
    /// What it broke.
    pub breach: Option<Breach>,
    /// The flow's timer starts again.
    pub renew: bool,
    /// What to write into the history, before the `f` of a first FIN.
    pub letter: Option<Letter>,
    /// The SYN or SYN,ACK is another than the one known: to be remembered.
    pub another_isn: bool,
}

/// What is to be made of a segment without SYN: the first part of judging it, from which [`close`], where it is an RST, or
/// [`advance`], [`agree`] and [`keep`] make the [`Verdict`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Ruling {
    /// What it broke; the numbers of a [`Breach`] follow, or zeros. Not one `Option`, which has no numbers where it is `None`: the kernel's
    /// verifier wants all of what is passed on through memory to be written.
    pub rule: Option<Rule>,
    /// As [`Breach::low`].
    pub low: Seq,
    /// As [`Breach::high`].
    pub high: Seq,
    /// As [`Breach::actual`].
    pub actual: Seq,
    /// Where it is to be kept as refused, its acknowledgment for that purpose.
    pub ack: Seq,
    /// Bits of [`take`]; 0 where it adds nothing.
    pub take: u8,
}

/// Bits of [`Ruling::take`].
pub mod take {
    /// The segment is acceptable.
    pub const ANY: u8 = 1;
    /// It completes the handshake.
    pub const COMPLETES: u8 = 2;
    /// Its acknowledgment is the first that is worth something.
    pub const FIRST_ACK: u8 = 4;
    /// Nothing was seen of what it acknowledges.
    pub const EARLY: u8 = 8;
    /// It is one of an open connection.
    pub const OPEN: u8 = 16;
    /// It is refused, and to be remembered until the peer says the same.
    pub const REFUSED: u8 = 32;
    /// It acknowledges a FIN of the peer's that was missed.
    pub const MISSED_FIN: u8 = 64;
    /// Only its letter, or the acknowledgment of an end that was reset, is worth something.
    pub const LITTLE: u8 = 128;
}

impl Ruling {
    const NOTHING: Self =
        Self { rule: None, low: Seq(0), high: Seq(0), actual: Seq(0), ack: Seq(0), take: 0 };

    #[inline(always)]
    const fn take(take: u8) -> Self {
        Self { take, ..Self::NOTHING }
    }

    #[inline(always)]
    const fn refuse(ack: Seq) -> Self {
        Self { ack, take: take::REFUSED, ..Self::NOTHING }
    }

    #[inline(always)]
    const fn breach(rule: Rule, low: Seq, high: Seq, actual: Seq) -> Self {
        Self { rule: Some(rule), low, high, actual, ..Self::NOTHING }
    }

    #[inline(always)]
    const fn and_breach(self, rule: Rule, low: Seq, high: Seq, actual: Seq) -> Self {
        Self { rule: Some(rule), low, high, actual, ..self }
    }

    /// What it broke.
    #[inline(always)]
    fn broken(&self) -> Option<Breach> {
        let (low, high, actual) = (self.low.0, self.high.0, self.actual.0);
        self.rule.map(|rule| Breach { rule, low, high, actual })
    }
}

impl Verdict {
    /// A segment that changes nothing.
    #[inline(always)]
    pub(crate) const fn nothing(me: &Facts) -> Self {
        Self {
            facts: *me,
            peer: *me,
            agrees: false,
            takes_back: false,
            breach: None,
            renew: false,
            letter: None,
            another_isn: false,
        }
    }

    #[inline(always)]
    const fn breach(me: &Facts, rule: Rule, low: Seq, high: Seq, actual: Seq) -> Self {
        let mut verdict = Self::nothing(me);
        verdict.breach = Some(Breach { rule, low: low.0, high: high.0, actual: actual.0 });
        verdict
    }
}

/// Judges `segment`, sent by the end that has sent `me` to the end that has sent `peer`. Whether a SYN on an open flow
/// opens a new connection is for [`crate::track`] to say.
#[inline(always)]
#[must_use]
pub fn judge(me: &Facts, peer: &Facts, situation: &Situation, segment: &Segment) -> Verdict {
    const NOTHING: &Remembers = &Remembers;
    if segment.has(Flags::RST) {
        let signs = reset_signs(NOTHING, me, peer, situation, segment);
        let ruling = reset(NOTHING, me, peer, situation, segment, signs);
        let mut verdict = Verdict::nothing(me);
        close(me, peer, segment, &ruling, &mut verdict);
        return verdict;
    }
    if segment.has(Flags::SYN) {
        return if segment.has(Flags::ACK) {
            syn_ack(NOTHING, me, peer, situation, segment)
        } else {
            syn(me, peer, situation, segment)
        };
    }
    let ruling = others(NOTHING, me, peer, situation, segment);
    let mut verdict = Verdict::nothing(me);
    if ruling.take & take::ANY != 0 {
        advance(NOTHING, me, peer, situation, segment, ruling.take, &mut verdict);
        agree(NOTHING, peer, situation, segment, &mut verdict);
    } else {
        keep(me, peer, segment, &ruling, &mut verdict);
    }
    verdict
}

/// Forgets nothing: there is no verifier.
struct Remembers;

impl VerifierBarrier for Remembers {}

/// The first part of [`judge`] for what has neither SYN nor RST.
#[inline(always)]
#[must_use]
pub fn others<F: VerifierBarrier>(
    f: &F,
    me: &Facts,
    peer: &Facts,
    situation: &Situation,
    segment: &Segment,
) -> Ruling {
    if is_reset(me, peer) {
        return after_reset(me, peer, situation, segment);
    }
    let gap = Gap {
        goes_on: f.forget(goes_on_from_refused(me, peer, segment)),
        confirms: f.forget(acknowledges_refused(peer, segment)),
        again: f.forget(repeats_refused(me, segment)),
    };
    if situation.open {
        synchronized(f, me, peer, situation, segment, gap)
    } else {
        opening(f, me, peer, situation, segment, gap)
    }
}
