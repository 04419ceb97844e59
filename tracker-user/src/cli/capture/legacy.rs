//! pcap: a header, then records of one link type.

use pcap_parser::{
    PcapHeader, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

use super::{Broken, LARGEST_PACKET, Raw, source::Source};

/// Octets of the file's header.
const HEADER: usize = 24;

/// What a file begins with: microseconds, nanoseconds, and Kuznetzov's longer records, which exist in one byte order.
const MAGICS: [u32; 5] = [0xa1b2_c3d4, 0xd4c3_b2a1, 0xa1b2_3c4d, 0x4d3c_b2a1, 0xa1b2_cd34];

pub(super) fn is_legacy(magic: &[u8]) -> bool {
    magic.try_into().is_ok_and(|magic| MAGICS.contains(&u32::from_le_bytes(magic)))
}

pub(super) struct Legacy {
    header: PcapHeader,
    /// The link type of every packet.
    pub(super) link: u32,
}

impl Legacy {
    pub(super) fn open(source: &mut Source) -> Result<Self, Broken> {
        source.need(HEADER, "the header")?;
        let Ok((_, header)) = parse_pcap_header(source.buffer()) else {
            return Err(source.broken("the header cannot be read".to_owned()));
        };
        // The upper six bits say how long the frame check sequence is, if there is one.
        let link = header.network.0.cast_unsigned() & 0x03ff_ffff;
        Ok(Self { header, link })
    }

    pub(super) fn next(&mut self, source: &mut Source) -> Result<Option<Raw>, Broken> {
        let header_len = if self.header.is_modified_format() { 24 } else { 16 };
        source.begin();
        if !source.begins(header_len, "a packet's header")? {
            return Ok(None);
        }
        let captured = source.number(8, self.header.is_bigendian());
        if captured > LARGEST_PACKET {
            return Err(source.broken(format!(
                "a packet of {captured} captured octets, more than any capture holds ({LARGEST_PACKET})"
            )));
        }
        source.need(header_len + captured as usize, "a packet")?;
        let record = if self.header.is_modified_format() {
            parse_pcap_frame_modified(source.buffer())
        } else if self.header.is_bigendian() {
            parse_pcap_frame_be(source.buffer())
        } else {
            parse_pcap_frame(source.buffer())
        };
        let Ok((_, record)) = record else {
            return Err(source.broken("a packet that cannot be read".to_owned()));
        };
        let unit = if self.header.is_nanosecond_precision() { 1 } else { 1000 };
        let timestamp_ns =
            i64::from(record.ts_sec) * 1_000_000_000 + i64::from(record.ts_usec) * unit;
        let data = header_len..header_len + record.data.len();
        Ok(Some(Raw {
            link: self.link,
            timestamp_ns,
            wire_len: record.origlen.max(captured),
            data,
        }))
    }
}
