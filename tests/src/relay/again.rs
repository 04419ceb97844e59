//! A server's end that closes a second time: SYN cookies have brought its socket back (docs/limits.md).

use super::{Act, NEAR, Passage, Side, Trace, is_before};
use crate::segment::flag;

impl Trace {
    /// Whether this side closed again after the connection was over: both FINs had arrived and were acknowledged, then came a FIN
    /// beyond its first.
    ///
    /// No socket sends anything beyond its FIN, so that one is another socket's.
    #[must_use]
    pub fn closes_again(&self, from: Side) -> bool {
        let came = || self.real().filter(|passage| passage.act != Act::Released);
        let fin = |side| came().find(|passage| is_fin_of(passage, side));
        let (Some(mine), Some(theirs)) = (fin(from), fin(from.other())) else { return false };
        let acknowledges = |passage: &&Passage, fin: &Passage| {
            passage.from != fin.from
                && passage.header.flags & (flag::ACK | flag::RST) == flag::ACK
                && passage.header.ack == fin.header.behind_fin()
        };
        let heard =
            came().find(|passage| acknowledges(passage, mine) && passage.act != Act::Dropped);
        let answered = came().find(|passage| acknowledges(passage, theirs));
        let (Some(heard), Some(answered)) = (heard, answered) else { return false };
        let over = heard.at.max(answered.at);
        let behind = mine.header.behind_fin();
        came().any(|passage| {
            let seq = passage.header.seq;
            is_fin_of(passage, from)
                && passage.at > over
                && !is_before(seq, behind)
                && seq.wrapping_sub(behind) < NEAR
        })
    }
}

fn is_fin_of(passage: &Passage, side: Side) -> bool {
    passage.from == side && passage.header.flags & (flag::FIN | flag::RST) == flag::FIN
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use super::{
        super::{Header, Side::Host as H, Side::Peer as P},
        *,
    };

    const F: u16 = flag::FIN | flag::ACK;

    /// A trace of segments without data: who sent each, its flags, its number, what it acknowledges.
    fn trace(segments: &[(Side, u16, u32, u32, Act)]) -> Trace {
        let ends = [80, 81].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let passages = segments.iter().zip(1..).map(|(&(from, flags, seq, ack, act), at)| {
            let (source, destination) = (ends[from as usize], ends[from.other() as usize]);
            let header = Header { source, destination, flags, seq, ack, window: 0, payload: 0 };
            Passage { at: Duration::from_millis(at), from, header, act }
        });
        Trace { passages: passages.collect(), ..Trace::default() }
    }

    #[test]
    fn who_closes_beyond_a_fin_closes_again() {
        let over = [
            (P, F, 3, 100, Act::Passed),
            (H, F, 100, 4, Act::Passed),
            (P, flag::ACK, 4, 101, Act::Passed),
        ];
        let with = |last: &[_]| trace(&[&over[..], last].concat()).closes_again(H);
        assert!(with(&[(H, F, 101, 4, Act::Passed)]));
        assert!(with(&[(H, F, 151, 4, Act::Dropped)]), "it has sent data before");
        assert!(!with(&[]));
        assert!(!with(&[(H, F, 100, 4, Act::Passed)]), "its FIN once more");
        assert!(!with(&[(H, F, 101, 4, Act::Forged)]), "nobody's");
        assert!(!with(&[(H, F, 70_000_101, 4, Act::Passed)]), "of another connection");
        assert!(!with(&[(H, flag::RST, 101, 0, Act::Passed)]));
        assert!(!with(&[(P, F, 4, 101, Act::Passed)]), "the other end's");
    }

    #[test]
    fn who_has_not_heard_the_end_does_not_close_again() {
        let again = (H, F, 101, 4, Act::Passed);
        let unheard = (P, flag::ACK, 4, 101, Act::Dropped);
        let closed = [(P, F, 3, 100, Act::Passed), (H, F, 100, 4, Act::Passed)];
        assert!(!trace(&[&closed[..], &[again]].concat()).closes_again(H));
        assert!(!trace(&[&closed[..], &[unheard, again]].concat()).closes_again(H));
        let open = [(H, F, 100, 3, Act::Passed), (P, flag::ACK, 3, 101, Act::Passed), again];
        assert!(!trace(&open).closes_again(H), "the other end is open");
    }
}
