//! TCP flags as a filter: which a segment has, and which it has not.

use std::str::FromStr;

use tracker_common::segment::Flags;

use crate::model::event::Event;

/// As in `syn,!ack`: every flag that is named is set, or with `!` is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpFlags {
    set: Flags,
    clear: Flags,
}

impl FromStr for TcpFlags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut flags = Self { set: Flags(0), clear: Flags(0) };
        for word in text.split(',') {
            let name = word.strip_prefix('!').unwrap_or(word);
            let known = Flags::NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
            let Some((flag, _)) = known else {
                let names = Flags::NAMES.map(|(_, name)| name).join(", ");
                return Err(format!(
                    "`{word}` is no flag; there are {names}, and each with ! before it"
                ));
            };
            let part = if name.len() < word.len() { &mut flags.clear } else { &mut flags.set };
            part.0 |= flag.0;
        }
        if flags.set.0 & flags.clear.0 != 0 {
            return Err("no segment has a flag that it has not".to_owned());
        }
        Ok(flags)
    }
}

impl TcpFlags {
    /// Whether the event tells of such a segment, or of lost ones.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let Some(segment) = &event.segment else { return event.lost.is_some() };
        let is_set = |name: &str| segment.flags.split(',').any(|set| set == name);
        Flags::NAMES.iter().all(|(flag, name)| {
            (!self.set.has(*flag) || is_set(name)) && !(self.clear.has(*flag) && is_set(name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_in_words() {
        let read = |text: &str| text.parse::<TcpFlags>();
        assert_eq!(read("syn,!ack"), Ok(TcpFlags { set: Flags::SYN, clear: Flags::ACK }));
        assert_eq!(read("RST"), Ok(TcpFlags { set: Flags::RST, clear: Flags(0) }));
        for (wrong, expected) in
            [("", "is no flag"), ("syn,!syn", "no segment"), ("synack", "is no flag")]
        {
            assert!(read(wrong).is_err_and(|error| error.contains(expected)), "{wrong}");
        }
    }
}
