//! Frames of a segment: records with a header that says whether they are whole.

use std::{fs::File, os::unix::fs::FileExt};

use crate::model::error::{Error, Result};

/// Bytes of a header.
pub(super) const HEADER: usize = 24;

/// Bytes that a frame begins with.
const MARK: [u8; 4] = *b"TRK1";

/// Bytes of a frame's records at most. Longer ones are damage.
const LONGEST: u32 = 64 << 20;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Bytes of its records.
    pub(super) length: u32,
    /// The number of its first record.
    pub(super) first: u64,
    /// How many records it has.
    pub(super) count: u32,
    checksum: u32,
}

/// The frame of some records.
///
/// # Errors
///
/// Where they are too many, or too long.
pub(super) fn of(first: u64, records: &[Vec<u8>]) -> Result<Vec<u8>> {
    let payload = records.concat();
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| Error::text("too many bytes for one frame"))?;
    let count = u32::try_from(records.len())?;
    let checksum = checksum(length, first, count, &payload);
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&MARK);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&first.to_le_bytes());
    frame.extend_from_slice(&count.to_le_bytes());
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// The first whole frame at this offset or after it, and where it is. Only what is damaged is passed over.
///
/// # Errors
///
/// Where the file cannot be read.
pub(super) fn find(file: &File, mut offset: u64, length: u64) -> Result<Option<(u64, Header)>> {
    let mut chunk = Vec::new();
    while offset + HEADER as u64 <= length {
        if let Some(header) = header(file, offset, length)?
            && is_whole(file, offset, &header)?
        {
            return Ok(Some((offset, header)));
        }
        // The next mark.
        offset += 1;
        loop {
            let size = usize::try_from(length - offset).unwrap_or(usize::MAX).min(CHUNK);
            chunk.resize(size, 0);
            file.read_exact_at(&mut chunk, offset)?;
            match chunk.windows(MARK.len()).position(|bytes| bytes == MARK) {
                Some(at) => {
                    offset += at as u64;
                    break;
                }
                None if offset + size as u64 >= length => return Ok(None),
                None => offset += (size - MARK.len() + 1) as u64,
            }
        }
    }
    Ok(None)
}

/// The records of a whole frame.
///
/// # Errors
///
/// Where the file cannot be read.
pub(super) fn payload(file: &File, offset: u64, header: &Header) -> Result<Vec<u8>> {
    let mut payload = vec![0; header.length as usize];
    file.read_exact_at(&mut payload, offset + HEADER as u64)?;
    Ok(payload)
}

/// Bytes up to the end of the last whole frame, and the number after its last record; `first` where there is none.
///
/// # Errors
///
/// Where the file cannot be read.
pub(super) fn whole(file: &File, first: u64) -> Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let (mut end, mut next) = (0, first);
    while let Some((at, header)) = find(file, end, length)? {
        end = at + HEADER as u64 + u64::from(header.length);
        next = header.first + u64::from(header.count);
    }
    Ok((end, next))
}

fn header(file: &File, offset: u64, length: u64) -> Result<Option<Header>> {
    let mut bytes = [0; HEADER];
    file.read_exact_at(&mut bytes, offset)?;
    let word = |at: usize| bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes);
    let header = Header {
        length: word(4),
        first: bytes[8..].first_chunk().copied().map_or(0, u64::from_le_bytes),
        count: word(16),
        checksum: word(20),
    };
    let fits = offset + HEADER as u64 + u64::from(header.length) <= length;
    let is_one = bytes.starts_with(&MARK)
        && fits
        && header.length <= LONGEST
        && header.first.checked_add(header.count.into()).is_some();
    Ok(is_one.then_some(header))
}

fn is_whole(file: &File, offset: u64, header: &Header) -> Result<bool> {
    let payload = payload(file, offset, header)?;
    Ok(checksum(header.length, header.first, header.count, &payload) == header.checksum)
}

fn checksum(length: u32, first: u64, count: u32, payload: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&length.to_le_bytes());
    hash.update(&first.to_le_bytes());
    hash.update(&count.to_le_bytes());
    hash.update(payload);
    hash.finalize()
}

/// Bytes that are searched at once.
const CHUNK: usize = 65_536;
