//! A moment that the user names: by the calendar, or as so long ago.

use std::{str::FromStr, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// Since when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// Since then.
    Time(Timestamp),
}

/// A time that passes, as in `90s`, `2h 30m` or `1d`; a day has 24 hours.
///
/// # Errors
///
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        return Err(format!("`{text}` has no unit; did you mean `{text}s`?"));
    }
    let wrong = |_| format!("`{text}` is no duration; examples: 90s, 2h 30m, 1d, 2w");
    let of_span = |span: Span| span.to_duration(SpanRelativeTo::days_are_24_hours());
    let duration: SignedDuration =
        text.parse().or_else(|_| text.parse().and_then(of_span)).map_err(wrong)?;
    Duration::try_from(duration).map_err(|_| "a time that is not negative".to_owned())
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::Time(time));
        }
        duration(text).map(Self::Ago).map_err(|_| {
            format!(
                "`{text}` is neither how long ago, as in 90s or 2h 30m, nor a time with its zone, as in \
                 2026-11-20T13:55:30Z"
            )
        })
    }
}

impl Since {
    /// The moment, where it is `now`.
    #[must_use]
    pub fn time(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Time(time) => time,
            Self::Ago(ago) => SignedDuration::try_from(ago)
                .ok()
                .and_then(|ago| now.checked_sub(ago).ok())
                .unwrap_or(Timestamp::MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now: Timestamp = "2026-11-20T14:00:00Z".parse().expect("a time");
        for (text, expected) in [
            ("5m", "2026-11-20T13:55:00Z"),
            ("1h 30s", "2026-11-20T12:59:30Z"),
            ("0s", "2026-11-20T14:00:00Z"),
            ("1d 2h", "2026-11-19T12:00:00Z"),
            ("2w", "2026-11-06T14:00:00Z"),
            ("2026-11-20T13:55:30.5Z", "2026-11-20T13:55:30.5Z"),
            ("2026-11-20T15:00:00+02:00", "2026-11-20T13:00:00Z"),
        ] {
            let since: Since = text.parse().expect(text);
            assert_eq!(since.time(now).to_string(), expected, "{text}");
        }
        let long_ago: Since = "900000000h".parse().expect("a long time");
        assert_eq!(long_ago.time(now), Timestamp::MIN);
        for wrong in ["yesterday", "-5m", "2026-11-20", "2026-11-20T13:55:30", "5", ""] {
            let said = wrong.parse::<Since>().expect_err(wrong);
            assert!(said.contains("2h 30m"), "{said}");
        }
    }
}
