//! How a diagram's lines say when.

use clap::{ArgAction, ValueEnum};
use jiff::{SignedDuration, Timestamp};

/// Times before the lines of a diagram.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Times {
    /// Seconds since the connection's first packet
    #[default]
    Since,
    /// Time of day, UTC
    Day,
    /// Date and time of day, UTC
    Date,
    /// Seconds since 1970
    Epoch,
    /// Seconds since the line before
    Delta,
    /// No times
    None,
}

/// Options for times: by name, or as `tcpdump` has them.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct TimeOptions {
    /// Times of a diagram's lines
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    time: Times,
    /// The same as in `tcpdump`: -t none, -tt epoch, -ttt delta, -tttt date, -ttttt since
    #[arg(short = 't', action = ArgAction::Count, conflicts_with = "time")]
    t: u8,
}

impl TimeOptions {
    /// What they ask for.
    #[must_use]
    pub fn times(&self) -> Times {
        match self.t {
            0 => self.time,
            1 => Times::None,
            2 => Times::Epoch,
            3 => Times::Delta,
            4 => Times::Date,
            _ => Times::Since,
        }
    }
}

impl Times {
    /// Columns that they take at least.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Since | Self::Delta => 8,
            Self::Day => 15,
            Self::Date => 26,
            Self::Epoch => 17,
            Self::None => 0,
        }
    }

    /// So many microseconds after `created`; `before` is the line before.
    pub(super) fn text(self, created: Timestamp, at_us: i64, before: Option<Timestamp>) -> String {
        let at = moment(created, at_us);
        let seconds = |us: i64| {
            let sign = if us < 0 { "-" } else { "" };
            format!("{sign}{}.{:06}", us.unsigned_abs() / 1_000_000, us.unsigned_abs() % 1_000_000)
        };
        match self {
            Self::Since => seconds(at_us),
            Self::Epoch => seconds(at.as_microsecond()),
            Self::Delta => {
                seconds(before.map_or(0, |before| at.as_microsecond() - before.as_microsecond()))
            }
            Self::Date => format!("{at:.6}").replace('T', " ").trim_end_matches('Z').to_owned(),
            Self::Day => {
                let date = format!("{at:.6}");
                let day = date.split_once('T').map_or(date.as_str(), |(_, day)| day);
                day.trim_end_matches('Z').to_owned()
            }
            Self::None => String::new(),
        }
    }
}

/// So many microseconds after `created`.
pub(super) fn moment(created: Timestamp, at_us: i64) -> Timestamp {
    created.checked_add(SignedDuration::from_micros(at_us)).unwrap_or(created)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let created: Timestamp = "2026-11-20T16:36:00.938960Z".parse().expect("a time");
        let before = Some(moment(created, 65));
        for (times, expected) in [
            (Times::Since, "0.000093"),
            (Times::Day, "16:36:00.939053"),
            (Times::Date, "2026-11-20 16:36:00.939053"),
            (Times::Epoch, "1795192560.939053"),
            (Times::Delta, "0.000028"),
            (Times::None, ""),
        ] {
            let text = times.text(created, 93, before);
            assert_eq!(text, expected);
            assert_eq!(text.len(), times.width(), "{times:?}");
        }
        assert_eq!(Times::Since.text(created, -1, None), "-0.000001");
    }
}
