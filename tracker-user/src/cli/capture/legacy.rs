//! pcap: a header, then records of one link type.

use super::{Broken, LARGEST_PACKET, Raw, source::Source};

/// Bytes of the file's header.
const HEADER: usize = 24;

/// What a file begins with, in its own byte order: microseconds, nanoseconds, and Kuznetzov's longer records.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const MODIFIED: u32 = 0xa1b2_cd34;

/// A form of the format, and whether its numbers are big-endian.
fn form(magic: &[u8]) -> Option<(u32, bool)> {
    let magic = u32::from_le_bytes(magic.try_into().ok()?);
    let forms = [MICROSECONDS, NANOSECONDS, MODIFIED];
    [(magic, false), (magic.swap_bytes(), true)].into_iter().find(|(form, _)| forms.contains(form))
}

pub(super) fn is_legacy(magic: &[u8]) -> bool {
    form(magic).is_some()
}

pub(super) struct Legacy {
    pub(super) is_big_endian: bool,
    /// Bytes of a record's header.
    header_len: usize,
    /// Nanoseconds of a timestamp's fraction.
    unit_ns: i64,
    /// The link type of every packet.
    pub(super) link: u32,
}

impl Legacy {
    pub(super) fn open(source: &mut Source) -> Result<Self, Broken> {
        source.need(HEADER, "the header")?;
        let Some((form, is_big_endian)) = form(&source.buffer()[..4]) else {
            return Err(source.broken("the header cannot be read".to_owned()));
        };
        Ok(Self {
            is_big_endian,
            header_len: if form == MODIFIED { 24 } else { 16 },
            unit_ns: if form == NANOSECONDS { 1 } else { 1000 },
            // The upper six bits say how long the frame check sequence is, if there is one.
            link: source.number(20, is_big_endian) & 0x03ff_ffff,
        })
    }

    pub(super) fn next(&mut self, source: &mut Source) -> Result<Option<Raw>, Broken> {
        source.begin();
        if !source.begins(self.header_len, "a packet's header")? {
            return Ok(None);
        }
        let captured = source.number(8, self.is_big_endian);
        if captured > LARGEST_PACKET {
            return Err(source.broken(format!(
                "a packet of {captured} captured bytes, more than any capture holds ({LARGEST_PACKET})"
            )));
        }
        let end = self.header_len + captured as usize;
        source.need(end, "a packet")?;
        let [seconds, fraction, _, wire_len] =
            [0, 4, 8, 12].map(|at| source.number(at, self.is_big_endian));
        Ok(Some(Raw {
            link: self.link,
            timestamp_ns: i64::from(seconds) * 1_000_000_000 + i64::from(fraction) * self.unit_ns,
            wire_len: wire_len.max(captured),
            data: self.header_len..end,
        }))
    }
}
