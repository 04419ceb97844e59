//! A record as the spool holds it: what a message is made of, with its length ahead.

use bytes::{Buf, BufMut};

use crate::export::record::ExportRecord;

/// A message of the topic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Row<'a> {
    /// Milliseconds since 1970.
    pub(super) time_ms: i64,
    /// The Community ID, where the record has one.
    pub(super) key: Option<&'a [u8]>,
    /// The record as a line of JSON, without the newline.
    pub(super) value: &'a [u8],
    /// All of it, as the spool has it.
    pub(super) bytes: &'a [u8],
}

/// A record's row. `None` where it is none, or is longer than any message.
pub(super) fn of(record: &ExportRecord) -> Option<Vec<u8>> {
    let mut line = record.to_line().ok()?;
    line.pop();
    let key = record.community_id.as_deref().unwrap_or_default();
    let mut row = Vec::with_capacity(HEADER + key.len() + line.len());
    row.put_u32(u32::try_from(HEADER - 4 + key.len() + line.len()).ok()?);
    row.put_i64(record.time.as_millisecond());
    row.put_u8(u8::try_from(key.len()).ok()?);
    row.put_slice(key.as_bytes());
    row.put_slice(&line);
    Some(row)
}

/// The rows of a spool, and what is behind the last whole one.
pub(super) fn rows(bytes: &[u8]) -> (Vec<Row<'_>>, &[u8]) {
    let (mut rows, mut rest) = (Vec::new(), bytes);
    while let Some((row, behind)) = first(rest) {
        rows.push(row);
        rest = behind;
    }
    (rows, rest)
}

fn first(bytes: &[u8]) -> Option<(Row<'_>, &[u8])> {
    let length = usize::try_from(bytes.first_chunk().map(|it| u32::from_be_bytes(*it))?).ok()?;
    let (row, behind) = bytes.split_at_checked(length.checked_add(4)?)?;
    let mut body = &row[4..];
    let time_ms = body.try_get_i64().ok()?;
    let length = usize::from(body.try_get_u8().ok()?);
    let (key, value) = body.split_at_checked(length)?;
    let key = (!key.is_empty()).then_some(key);
    Some((Row { time_ms, key, value, bytes: row }, behind))
}

/// Bytes ahead of the key: length of what follows, time, and length of the key.
const HEADER: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::record::tests::{ended, origin},
        model::{clock::Clock, event::Event, event::Stage},
    };

    #[test]
    fn a_row_has_key_time_and_line() {
        let end = origin().record(&ended(3)).expect("an end is sent");
        let clock = Clock::at(5, jiff::Timestamp::UNIX_EPOCH);
        let lost = Event::lost(3, Stage::Ring, &clock);
        let lost = origin().record(&lost).expect("it is sent");
        let mut bytes = of(&end).expect("a row");
        bytes.extend(of(&lost).expect("a row"));
        let (found, rest) = rows(&bytes);
        let line =
            |record: &ExportRecord| record.to_line().expect("JSON").trim_ascii_end().to_vec();
        assert_eq!((found.len(), rest), (2, &[][..]));
        assert_eq!(found[0].key, end.community_id.as_deref().map(str::as_bytes));
        assert_eq!(found[0].time_ms, end.time.as_millisecond());
        assert_eq!((found[0].value, found[1].value), (&line(&end)[..], &line(&lost)[..]));
        assert_eq!((found[1].key, found[1].time_ms), (None, 0));
        assert_eq!([found[0].bytes, found[1].bytes].concat(), bytes);
        // What is cut is no row.
        for cut in 1..bytes.len() {
            let (found, rest) = rows(&bytes[..cut]);
            assert!(
                found.len() < 2
                    && found.iter().map(|it| it.bytes.len()).sum::<usize>() + rest.len() == cut
            );
        }
        assert_eq!(rows(&[0, 0, 0, 3, 1, 2, 3, 4]).0, []);
        assert_eq!(rows(&[255; 20]).0, []);
    }
}
