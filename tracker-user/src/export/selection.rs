//! Which records are sent.

use std::{fmt, num::NonZeroU32, str::FromStr};

use sha1::{Digest, Sha1};

use crate::{
    export::community_id::{bytes, ordered},
    model::{event::Event, filter::Filter, record::Record},
};

/// A kind of connections that are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Breaches of rules, and the connections that have any.
    Violations,
    /// Connections that did not end with both ends' FIN.
    Abnormal,
    /// Every connection when it ends.
    Ended,
    /// One connection in so many.
    Sample(NonZeroU32),
    /// Everything.
    All,
}

/// What is sent where nothing else is asked for: a hundredth, and whatever is out of the ordinary.
pub const DEFAULT: [Kind; 3] =
    [Kind::Violations, Kind::Abnormal, Kind::Sample(NonZeroU32::new(100).expect("it is not 0"))];

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "violations" => Ok(Self::Violations),
            "abnormal" => Ok(Self::Abnormal),
            "ended" => Ok(Self::Ended),
            "all" => Ok(Self::All),
            _ => match text.strip_prefix("sample:").map(str::parse) {
                Some(Ok(one_in)) => Ok(Self::Sample(one_in)),
                Some(Err(_)) => Err(format!(
                    "`{text}` needs a number from 1 to {}: `sample:100` is one connection in 100",
                    u32::MAX
                )),
                None => {
                    Err(format!("`{text}` is none of violations, abnormal, ended, sample:N, all"))
                }
            },
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violations => f.write_str("violations"),
            Self::Abnormal => f.write_str("abnormal"),
            Self::Ended => f.write_str("ended"),
            Self::Sample(one_in) => write!(f, "sample:{one_in}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// Which records are sent: those of a kind that is asked for, as far as a filter lets them pass.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selection {
    kinds: Vec<Kind>,
    filter: Filter,
}

impl Default for Selection {
    fn default() -> Self {
        Self { kinds: DEFAULT.to_vec(), filter: Filter::default() }
    }
}

impl Selection {
    /// Records of these kinds ([`DEFAULT`] where there is none) that pass the filter.
    #[must_use]
    pub fn new(kinds: &[Kind], filter: Filter) -> Self {
        let kinds = if kinds.is_empty() { &DEFAULT } else { kinds };
        Self { kinds: kinds.to_vec(), filter }
    }

    /// Whether an event becomes a record that is sent. SYN cookies and lost reports always do.
    #[must_use]
    pub fn has_event(&self, event: &Event) -> bool {
        match (event.event.as_str(), &event.flow) {
            ("COOKIE" | "LOST", _) => true,
            ("VIOLATION", _) => {
                self.has(|kind| matches!(kind, Kind::Violations | Kind::All))
                    && self.filter.matches_event(event)
            }
            ("DESTROY", Some(flow)) => {
                let reason = event.end.as_ref().map_or("", |end| end.reason.as_str());
                let is_chosen = self.has(|kind| match kind {
                    Kind::Violations => flow.violations > 0,
                    Kind::Abnormal => is_abnormal(flow, reason),
                    Kind::Ended | Kind::All => true,
                    Kind::Sample(one_in) => is_sampled(flow, one_in),
                });
                is_chosen && self.filter.matches(flow)
            }
            _ => false,
        }
    }

    /// Whether a connection that goes on has records meanwhile.
    #[must_use]
    pub fn has_update(&self, flow: &Record) -> bool {
        let is_chosen = self.has(|kind| match kind {
            Kind::Violations => flow.violations > 0,
            Kind::Abnormal | Kind::Ended => false,
            Kind::All => true,
            Kind::Sample(one_in) => is_sampled(flow, one_in),
        });
        is_chosen && self.filter.matches(flow)
    }

    /// Whether any connection that goes on has records meanwhile.
    #[must_use]
    pub fn has_updates(&self) -> bool {
        self.has(|kind| !matches!(kind, Kind::Abnormal | Kind::Ended))
    }

    /// Whether flows need the rules that they broke, because they are filtered by.
    #[must_use]
    pub fn asks_for_rules(&self) -> bool {
        self.filter.asks_for_rules()
    }

    fn has(&self, is_it: impl Fn(Kind) -> bool) -> bool {
        self.kinds.iter().any(|kind| is_it(*kind))
    }
}

/// Whether a connection did not end as connections do: with both ends' FIN, or by a FIN where its begin was not seen.
/// Whoever deletes a flow knows of it.
fn is_abnormal(flow: &Record, reason: &str) -> bool {
    flow.conn_state != "SF" && !(flow.midstream && reason == "fin") && reason != "deleted"
}

/// Whether a connection is one of those that a sample of one in so many has: the first 64 bits of a hash of both initial
/// sequence numbers, or of the addresses and ports where one was not seen, modulo that. So every host that sees the
/// connection decides alike, whatever its clock, and the samples of larger numbers are within those that divide them.
fn is_sampled(flow: &Record, one_in: NonZeroU32) -> bool {
    let mut hash = Sha1::new();
    if let (Some(orig), Some(reply)) = (flow.orig.isn, flow.reply.isn) {
        // Which end is taken for the opener may differ.
        hash.update(orig.min(reply).to_be_bytes());
        hash.update(orig.max(reply).to_be_bytes());
    } else {
        for (address, port) in ordered(&flow.ends()) {
            hash.update(bytes(address));
            hash.update(port.to_be_bytes());
        }
    }
    let number = hash.finalize().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    number % u64::from(one_in.get()) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::record::tests::ended,
        model::{
            clock::Clock,
            event::{Stage, parts::EndView},
            filter::words,
        },
    };

    fn selection(text: &str, filter: &str) -> Selection {
        let kinds: Vec<_> = text.split(',').map(|kind| kind.parse().expect("a kind")).collect();
        Selection::new(&kinds, words(filter).expect("a filter"))
    }

    /// A connection that ended like this.
    fn end(conn_state: &'static str, reason: &str, isns: (u32, u32)) -> Event {
        let mut event = ended(0);
        if let Some(EndView { reason: of_end, .. }) = &mut event.end {
            reason.clone_into(of_end);
        }
        let flow = event.flow.as_mut().expect("a flow");
        flow.conn_state = conn_state.into();
        flow.midstream = conn_state == "OTH";
        (flow.orig.isn, flow.reply.isn) = (Some(isns.0), Some(isns.1));
        event
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for text in ["violations", "abnormal", "ended", "sample:7", "all"] {
            assert_eq!(text.parse::<Kind>().map(|kind| kind.to_string()).as_deref(), Ok(text));
        }
        for (text, said) in [
            ("sample:0", "a number from 1"),
            ("sample:", "a number from 1"),
            ("sample", "none of violations"),
            ("ALL", "none of violations"),
        ] {
            let error = text.parse::<Kind>().expect_err("it is none");
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn ends_by_kind() {
        let none = u32::MAX.to_string();
        for (kinds, conn_state, reason, violations, expected) in [
            ("violations", "SF", "fin", 0, false),
            ("violations", "SF", "fin", 1, true),
            ("abnormal", "SF", "fin", 1, false),
            ("abnormal", "RSTO", "rst", 0, true),
            ("abnormal", "S0", "timeout", 0, true),
            ("abnormal", "OTH", "fin", 0, false),
            ("abnormal", "OTH", "timeout", 0, true),
            ("abnormal", "S1", "deleted", 0, false),
            ("ended", "SF", "fin", 0, true),
            ("all", "SF", "fin", 0, true),
            ("sample:1", "SF", "fin", 0, true),
            (&format!("sample:{none}"), "SF", "fin", 0, false),
            (&format!("sample:{none},abnormal"), "REJ", "rst", 0, true),
        ] {
            let mut event = end(conn_state, reason, (1, 2));
            event.flow.as_mut().expect("a flow").violations = violations;
            let selection = selection(kinds, "");
            assert_eq!(selection.has_event(&event), expected, "{kinds} {conn_state} {reason}");
        }
        let selection = selection("all", "src 192.0.2.1");
        assert!(!selection.has_event(&end("SF", "fin", (1, 2))));
        let clock = Clock::at(1, jiff::Timestamp::UNIX_EPOCH);
        assert!(selection.has_event(&Event::lost(1, Stage::Ring, &clock)));
    }

    #[test]
    fn a_sample_is_as_large_as_it_says_and_the_same_from_both_ends() {
        const ALL: u32 = 20_000;
        let one_in = |n| NonZeroU32::new(n).expect("it is not 0");
        let flow = |isns| end("SF", "fin", isns).flow.expect("a flow");
        let (mut tenth, mut hundredth) = (0, 0);
        for isn in 0..ALL {
            let isns = (isn.wrapping_mul(2_654_435_761), isn);
            let flow = flow(isns);
            let is_in = |n| is_sampled(&flow, one_in(n));
            tenth += u32::from(is_in(10));
            hundredth += u32::from(is_in(100));
            assert!(!is_in(100) || is_in(10), "the smaller sample is within the larger");
            let mut seen_elsewhere = flow.clone();
            (seen_elsewhere.orig.isn, seen_elsewhere.reply.isn) = (flow.reply.isn, flow.orig.isn);
            seen_elsewhere.created_ns += 1;
            assert_eq!(is_sampled(&seen_elsewhere, one_in(10)), is_in(10));
        }
        // Five standard deviations: the numbers are always these.
        assert!(tenth.abs_diff(ALL / 10) < 212, "{tenth}");
        assert!(hundredth.abs_diff(ALL / 100) < 70, "{hundredth}");
        // SHA-1 of 00000001 00000002 begins with 594bafa4c0ec2ebd, which 41 divides, and no other number from 2 to 59.
        let of_one_and_two = flow((2, 1));
        let found: Vec<_> = (1..60).filter(|n| is_sampled(&of_one_and_two, one_in(*n))).collect();
        assert_eq!(found, [1, 41]);
    }

    #[test]
    fn without_both_numbers_the_ends_decide() {
        let mut flow = end("OTH", "timeout", (1, 2)).flow.expect("a flow");
        flow.orig.isn = None;
        let mut reversed = flow.clone();
        (reversed.sport, reversed.dport) = (80, 40_000);
        (flow.sport, flow.dport) = (40_000, 80);
        (reversed.orig.isn, reversed.reply.isn) = (Some(9), None);
        for n in 1..50 {
            let one_in = NonZeroU32::new(n).expect("it is not 0");
            assert_eq!(is_sampled(&flow, one_in), is_sampled(&reversed, one_in));
        }
    }

    #[test]
    fn updates_are_of_what_has_records_at_its_end() {
        let flow = |violations| {
            let mut flow = end("S1", "", (1, 2)).flow.expect("a flow");
            flow.violations = violations;
            flow
        };
        assert!(selection("all", "").has_update(&flow(0)));
        assert!(!selection("violations", "").has_update(&flow(0)));
        assert!(selection("violations", "").has_update(&flow(1)));
        assert!(selection("sample:1", "").has_update(&flow(0)));
        let ends = selection("ended,abnormal", "");
        assert!(!ends.has_update(&flow(1)) && !ends.has_updates());
        assert!(Selection::default().has_updates());
    }
}
