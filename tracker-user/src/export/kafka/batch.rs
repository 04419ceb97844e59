//! A batch of messages in version 2 of Kafka's form (Apache Kafka, "Message Format", `RecordBatch`).

use std::io::Write;

use bytes::BufMut;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::row::Row;

/// What is done with the messages of a batch. All of these are Rust: zstd and Snappy are not here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Compression {
    /// LZ4 frames
    #[default]
    Lz4,
    /// Smaller, and takes more time (RFC 1952)
    Gzip,
    /// Send messages as they are
    None,
}

/// The batch of some rows, of one at least.
///
/// # Errors
///
/// None that is known of: it is written to memory.
pub(super) fn of(rows: &[Row<'_>], compression: Compression) -> std::io::Result<Vec<u8>> {
    let base_ms = rows.first().map_or(0, |row| row.time_ms);
    let mut messages = Vec::with_capacity(rows.iter().map(|row| row.bytes.len() + 32).sum());
    let mut message = Vec::with_capacity(2048);
    for (offset, row) in (0..).zip(rows) {
        message.clear();
        message.put_u8(0);
        varint(&mut message, row.time_ms.wrapping_sub(base_ms));
        varint(&mut message, offset);
        match row.key {
            Some(key) => sized(&mut message, key),
            None => varint(&mut message, -1),
        }
        sized(&mut message, row.value);
        // Headers.
        varint(&mut message, 0);
        sized(&mut messages, &message);
    }
    let (code, messages) = match compression {
        Compression::None => (0, messages),
        Compression::Gzip => {
            let room = Vec::with_capacity(messages.len() / 4);
            let mut encoder = GzEncoder::new(room, flate2::Compression::fast());
            encoder.write_all(&messages)?;
            (1, encoder.finish()?)
        }
        Compression::Lz4 => {
            // Kafka's own reader knows independent blocks only.
            let frame =
                FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
            let room = Vec::with_capacity(messages.len() / 4);
            let mut encoder = FrameEncoder::with_frame_info(frame, room);
            encoder.write_all(&messages)?;
            (3, encoder.finish()?)
        }
    };
    let count = i32::try_from(rows.len()).unwrap_or(i32::MAX);
    // What the checksum is of: everything behind it.
    let mut body = Vec::with_capacity(40 + messages.len());
    body.put_i16(code);
    body.put_i32(count - 1);
    body.put_i64(base_ms);
    body.put_i64(rows.iter().map(|row| row.time_ms).max().unwrap_or(0));
    // Neither a producer's number and epoch nor a sequence: it is not idempotent.
    body.put_i64(-1);
    body.put_i16(-1);
    body.put_i32(-1);
    body.put_i32(count);
    body.put_slice(&messages);
    let mut batch = Vec::with_capacity(HEADER + body.len());
    batch.put_i64(0);
    batch.put_i32(i32::try_from(HEADER - 12 + body.len()).unwrap_or(i32::MAX));
    batch.put_i32(-1);
    batch.put_u8(2);
    batch.put_u32(crc32c(&body));
    batch.put_slice(&body);
    Ok(batch)
}

/// Bytes with their length ahead.
fn sized(to: &mut Vec<u8>, bytes: &[u8]) {
    varint(to, i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    to.put_slice(bytes);
}

/// A number in zigzag form, 7 bits a byte, the low ones first.
fn varint(to: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest > 0x7f {
        to.put_u8(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    to.put_u8(rest.to_le_bytes()[0]);
}

/// The checksum of iSCSI (RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(u32::MAX, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at: u32 = 0;
    while at < 256 {
        let mut crc = at;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[at as usize] = crc;
        at += 1;
    }
    table
};

/// Bytes of a batch ahead of what its checksum is of.
const HEADER: usize = 21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[255; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (-64, &[127]),
            (64, &[128, 1]),
            (300, &[0xd8, 4]),
            (i64::MIN, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut found = Vec::new();
            varint(&mut found, number);
            assert_eq!(found, bytes, "{number}");
        }
    }

    #[test]
    fn a_batch_byte_by_byte() {
        let rows = [
            Row { time_ms: 1000, key: Some(b"k"), value: b"v", bytes: b"" },
            Row { time_ms: 999, key: None, value: b"", bytes: b"" },
        ];
        let batch = of(&rows, Compression::None).expect("memory");
        let messages = [&[16, 0, 0, 0, 2, b'k', 2, b'v', 0][..], &[12, 0, 1, 2, 1, 0, 0]].concat();
        let expected = [
            &[0; 8][..],
            &[0, 0, 0, 65],
            &[255; 4],
            &[2],
            &crc32c(&batch[21..]).to_be_bytes(),
            &[0, 0],
            &[0, 0, 0, 1],
            &1000_i64.to_be_bytes(),
            &1000_i64.to_be_bytes(),
            &[255; 8],
            &[255; 2],
            &[255; 4],
            &[0, 0, 0, 2],
            &messages,
        ];
        assert_eq!(batch, expected.concat());
        for (compression, code) in [(Compression::Gzip, 1), (Compression::Lz4, 3)] {
            let batch = of(&rows, compression).expect("memory");
            assert_eq!((batch[22], batch.len() > 61), (code, true));
        }
    }
}
