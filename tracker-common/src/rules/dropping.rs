//! Which packets are dropped for the rules that they break, where that is asked for.

use crate::violation::{Marks, Rule, Rules, Severity};

/// What becomes of packets that break one of [`crate::config::LiveConfig::dropped`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u32)]
pub enum DropMode {
    /// They pass.
    #[default]
    Off = 0,
    /// They pass, and are counted: a trial.
    Count = 1,
    /// They are dropped, and counted.
    Drop = 2,
}

/// At most so many networks are exempt.
pub const MAX_EXEMPT: u32 = 1024;

/// In place of a rule's code.
pub const NO_RULE: u32 = u32::MAX;

/// The code of the rule in `rules` that a packet with these `marks` and this breach (the code of its rule, or [`NO_RULE`]) has
/// broken; [`NO_RULE`] where it has broken none of them.
#[inline(always)]
#[must_use]
pub const fn chosen(rules: &Rules, marks: Marks, breach: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation)] // the code of a rule
    if breach != NO_RULE && rules.has_code(breach as u8) {
        return breach;
    }
    let marks = marks.0 & rules.0[0];
    if marks == 0 { NO_RULE } else { marks.trailing_zeros() }
}

impl Rule {
    /// Why packets that break the rule cannot be dropped for it; `None` where they can: no lawful traffic breaks it, and no
    /// connection needs the receiver's answer.
    #[must_use]
    pub const fn kept_because(self) -> Option<&'static str> {
        Some(match self {
            Self::NullFlags
            | Self::Xmas
            | Self::SynFin
            | Self::SynRst
            | Self::FinRst
            | Self::FinWithoutAck
            | Self::PortZero
            | Self::Land
            | Self::SynMulticast
            | Self::BadHeaderLen
            | Self::RstBadAckSynSent
            | Self::SeqOutOfWindow
            | Self::AckUnseenData
            | Self::RstOutOfWindow
            | Self::FinOutOfWindow
            | Self::DataAfterFin => return None,
            Self::HalfOpenTimeout | Self::SynFlood | Self::PortScan => "no single packet breaks it",
            Self::CookieBad => "SYN cookies (--protect) drop these packets already",
            Self::SynWithData | Self::SynAckWithData => {
                "RFC 9293 section 3.4 allows data with a SYN"
            }
            Self::SynIsnChange
            | Self::SynFloodTuple
            | Self::SynWrongDir
            | Self::SynInEstablished
            | Self::SynInTimeWait => {
                "an end that was restarted opens its connection again like this, and the answer helps it (RFC 9293 section 3.5.1)"
            }
            Self::SynAckWrongDir => {
                "an end that was sent a forged SYN answers like this, and the RST to that ends the matter"
            }
            Self::DataAfterRst => {
                "the RST before it may have been forged, and the connection goes on"
            }
            Self::TimeWaitAssassination => {
                "the RST is the lawful answer of an end that knows nothing of the connection (RFC 1337)"
            }
            _ => match self.severity() {
                Severity::Violation => {
                    "an end that has forgotten a connection finds out by the answer (RFC 9293 section 3.5.1)"
                }
                Severity::Minor => "lawful traffic can look like this",
                Severity::Information => "nothing is wrong with it in itself",
            },
        })
    }
}

impl Rule {
    /// Those that packets can be dropped for.
    pub fn droppable() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|rule| rule.kept_because().is_none())
    }
}

impl Rules {
    /// Those that packets can be dropped for: `invalid` on the command line.
    #[must_use]
    pub fn droppable() -> Self {
        Rule::droppable().fold(Self::default(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(rule: Rule) -> u32 {
        rule as u32
    }

    #[test]
    fn what_is_chosen() {
        let rules = Rules::default().with(Rule::SynFin).with(Rule::SeqOutOfWindow);
        let (syn_fin, both) = (Marks::NONE.with(Rule::SynFin), Marks::NONE.with(Rule::SynRst));
        for (marks, breach, wanted) in [
            (Marks::NONE, NO_RULE, NO_RULE),
            (Marks::NONE, code(Rule::SeqOutOfWindow), code(Rule::SeqOutOfWindow)),
            (Marks::NONE, code(Rule::AckUnseenData), NO_RULE),
            (syn_fin, NO_RULE, code(Rule::SynFin)),
            (syn_fin, code(Rule::AckUnseenData), code(Rule::SynFin)),
            (both, NO_RULE, NO_RULE),
            (both.with(Rule::SynFin), NO_RULE, code(Rule::SynFin)),
        ] {
            assert_eq!(chosen(&rules, marks, breach), wanted, "{marks:?} {breach}");
        }
        assert_eq!(chosen(&Rules::default(), syn_fin, code(Rule::SynFin)), NO_RULE);
    }

    #[test]
    fn violations_alone_can_be_dropped() {
        let droppable = Rules::droppable();
        for rule in Rule::ALL.iter().filter(|rule| droppable.has(**rule)) {
            assert_eq!(rule.severity(), Severity::Violation, "{}", rule.name());
        }
        assert!(droppable.has(Rule::RstOutOfWindow) && !droppable.has(Rule::SynInEstablished));
    }
}
