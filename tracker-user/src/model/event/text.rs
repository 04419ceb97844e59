//! An event as a line of text, as `conntrack -E` writes it where it has a word for it.

use std::fmt;

use crate::model::event::{
    Event,
    parts::{CookieView, ShedView, States, StatesView},
};

impl Event {
    /// The states around a segment, and the segment.
    fn fmt_around(
        &self,
        f: &mut fmt::Formatter<'_>,
        before: &States,
        after: &States,
    ) -> fmt::Result {
        write!(f, " before={}/{} after={}/{}", before.orig, before.reply, after.orig, after.reply)?;
        let Some(segment) = &self.segment else { return Ok(()) };
        write!(
            f,
            " {}={} direction={} flags={} seq={} ack={} len={} src={} dst={} sport={} dport={}",
            segment.hook,
            self.interface.as_deref().unwrap_or("?"),
            segment.direction,
            segment.flags,
            segment.seq,
            segment.ack,
            segment.payload,
            segment.src,
            segment.dst,
            segment.sport,
            segment.dport
        )
    }
}

impl fmt::Display for Event {
    /// One line, as `conntrack -E` writes it where it has a word for it, after the packet's number in a replay, which comes
    /// after its file's name where there are several; the
    /// alternate form leaves the time to the log that it is written into.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
        }
        if let Some(packet) = self.packet {
            write!(f, "#{packet} ")?;
        }
        if !f.alternate() {
            write!(f, "{:.6} ", self.time)?;
        }
        write!(f, "[{}]", self.event)?;
        if let Some(count) = self.lost {
            write!(f, " {count} reports were lost")?;
            if let Some(stage) = &self.stage {
                write!(f, " (stage={stage})")?;
            }
            return write!(f, "; counters are exact: see `tracker stats`");
        }
        if let Some(ShedView { mode, handshakes, above }) = &self.shed {
            return write!(f, " {mode} handshakes={handshakes} above={above}");
        }
        if let Some(cookie) = &self.cookie {
            let CookieView { listener, mode, reason, half_open, threshold, way } = cookie;
            write!(f, " {mode} listener={listener}")?;
            if let Some(reason) = reason {
                write!(f, " reason={}", reason.name())?;
            }
            write!(f, " half_open={half_open} threshold={threshold} way={way}")?;
            return match &self.interface {
                Some(interface) => write!(f, " in={interface}"),
                None => Ok(()),
            };
        }
        if let Some(violation) = &self.violation {
            write!(f, " {}", violation.name)?;
            if let (Some(expected), Some(actual)) = (&violation.expected, violation.actual) {
                if expected.low == expected.high {
                    write!(f, " expected={} actual={actual}", expected.low)?;
                } else {
                    write!(f, " expected={}..{} actual={actual}", expected.low, expected.high)?;
                }
            }
            if violation.action != "passed" {
                write!(f, " action={}", violation.action)?;
            }
            // What no segment shows was found in the flow, which has the states.
            if self.segment.is_some() {
                return self.fmt_around(f, &violation.before, &violation.after);
            }
        }
        if let Some(StatesView { before, after }) = &self.states {
            return self.fmt_around(f, before, after);
        }
        if let Some(end) = &self.end {
            write!(f, " reason={}", end.reason)?;
            if let Some(state) = &end.timeout_state {
                write!(f, " timeout={state}")?;
            }
            let conn_state = self.flow.as_ref().map_or("OTH", |flow| &*flow.conn_state);
            #[allow(clippy::cast_precision_loss)] // three digits are shown
            let seconds = end.duration_ns as f64 / 1e9;
            write!(f, " conn_state={conn_state} duration={seconds:.3}")?;
        }
        match &self.flow {
            Some(flow) => write!(f, " {flow}"),
            None => Ok(()),
        }
    }
}
