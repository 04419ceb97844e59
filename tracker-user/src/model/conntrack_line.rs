//! Flows and events as the tool `conntrack` prints them (conntrack-tools 1.4, with `nf_conntrack_acct=1`).

use std::fmt;

use tracker_common::event::Kind;

use super::{
    event::Event,
    record::{Direction, Record},
};

/// A flow as a line of `conntrack -L`.
#[derive(Clone, Copy, Debug)]
pub struct ConntrackLine<'a>(pub &'a Record);

impl fmt::Display for ConntrackLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        entry(f, record, true)?;
        f.write_str(" mark=0")?;
        if record.zone != 0 {
            write!(f, " zone={}", record.zone)?;
        }
        f.write_str(" use=1")
    }
}

/// An event as a line of `conntrack -E`; `None` of what that has no event for.
#[must_use]
pub fn event_line(event: &Event) -> Option<String> {
    struct Entry<'a>(&'a Record, bool);
    impl fmt::Display for Entry<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            entry(f, self.0, self.1)
        }
    }
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == event.event)?;
    let name = match kind {
        Kind::New => "[NEW]",
        Kind::Established | Kind::Closing | Kind::Close => "[UPDATE]",
        Kind::Destroy => "[DESTROY]",
        Kind::Violation | Kind::Segment | Kind::Cookie => return None,
    };
    let flow = event.flow.as_ref()?;
    // The kernel says how much there was at the end.
    Some(format!("{name:>9} {}", Entry(flow, kind == Kind::Destroy)))
}

/// What both have in common, with packets and bytes or without.
fn entry(f: &mut fmt::Formatter<'_>, record: &Record, with_counts: bool) -> fmt::Result {
    let Record { src, dst, sport, dport, orig, reply, .. } = record;
    write!(f, "{:<8} 6 {} {}", record.protocol, record.timeout_s, state(record.states()))?;
    write!(f, " src={src} dst={dst} sport={sport} dport={dport}")?;
    let counts = |f: &mut fmt::Formatter<'_>, end: &Direction| {
        if with_counts { write!(f, " packets={} bytes={}", end.packets, end.bytes) } else { Ok(()) }
    };
    counts(f, orig)?;
    if reply.packets == 0 {
        f.write_str(" [UNREPLIED]")?;
    }
    let answers = record.translated.unwrap_or_else(|| record.ends()).reversed();
    write!(
        f,
        " src={} dst={} sport={} dport={}",
        answers.src, answers.dst, answers.sport, answers.dport
    )?;
    counts(f, reply)?;
    if orig.ack.is_some() && reply.ack.is_some() {
        f.write_str(" [ASSURED]")?;
    }
    Ok(())
}

/// The one state that nf_conntrack has for what both ends are in.
fn state(states: [&str; 2]) -> &'static str {
    let either = |state| states.contains(&state);
    let both = |state| states == [state; 2];
    if either("TIME_WAIT") {
        "TIME_WAIT"
    } else if either("CLOSED") {
        "CLOSE"
    } else if both("SYN_SENT") {
        "SYN_SENT2"
    } else if either("SYN_RECEIVED") {
        "SYN_RECV"
    } else if either("SYN_SENT") {
        "SYN_SENT"
    } else if either("LAST_ACK") || either("CLOSING") {
        "LAST_ACK"
    } else if either("CLOSE_WAIT") || either("FIN_WAIT_2") {
        "CLOSE_WAIT"
    } else if either("FIN_WAIT_1") {
        "FIN_WAIT"
    } else if either("ESTABLISHED") {
        "ESTABLISHED"
    } else {
        "NONE"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_state_of_two() {
        for (orig, reply, theirs) in [
            ("SYN_SENT", "LISTEN", "SYN_SENT"),
            ("SYN_SENT", "SYN_SENT", "SYN_SENT2"),
            ("SYN_SENT", "SYN_RECEIVED", "SYN_RECV"),
            ("ESTABLISHED", "SYN_RECEIVED", "SYN_RECV"),
            ("ESTABLISHED", "ESTABLISHED", "ESTABLISHED"),
            ("FIN_WAIT_1", "ESTABLISHED", "FIN_WAIT"),
            ("ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT"),
            ("FIN_WAIT_2", "CLOSE_WAIT", "CLOSE_WAIT"),
            ("FIN_WAIT_1", "FIN_WAIT_1", "FIN_WAIT"),
            ("CLOSING", "CLOSING", "LAST_ACK"),
            ("FIN_WAIT_2", "LAST_ACK", "LAST_ACK"),
            ("TIME_WAIT", "CLOSED", "TIME_WAIT"),
            ("TIME_WAIT", "TIME_WAIT", "TIME_WAIT"),
            ("CLOSED", "CLOSED", "CLOSE"),
            ("CLOSED", "ESTABLISHED", "CLOSE"),
            ("LISTEN", "LISTEN", "NONE"),
        ] {
            assert_eq!(state([orig, reply]), theirs, "{orig}/{reply}");
        }
    }
}
