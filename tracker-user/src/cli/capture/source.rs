//! A file's bytes, one record at a time.

use std::io::{self, BufReader, Read};

use super::Broken;

pub(super) struct Source {
    reader: BufReader<Box<dyn Read + Send>>,
    /// The record that is being read, as far as it was.
    buffer: Vec<u8>,
    /// Where the buffer's first byte stands in the file.
    offset: u64,
}

impl Source {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Self {
        Self { reader: BufReader::with_capacity(1 << 17, reader), buffer: Vec::new(), offset: 0 }
    }

    pub(super) fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    pub(super) fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Leaves the record behind: the next one begins where it ended.
    pub(super) fn begin(&mut self) {
        self.offset = self.position();
        self.buffer.clear();
    }

    /// Reads on until the buffer holds `len` bytes; it holds fewer only where the file ends.
    pub(super) fn fill(&mut self, len: usize) -> io::Result<()> {
        let missing = len.saturating_sub(self.buffer.len());
        self.reader.by_ref().take(missing as u64).read_to_end(&mut self.buffer)?;
        Ok(())
    }

    /// As [`Source::fill`], where a record that is cut off is an error. `what` says what the record is.
    pub(super) fn need(&mut self, len: usize, what: &str) -> Result<(), Broken> {
        self.fill(len).map_err(|error| self.broken(error.to_string()))?;
        if self.buffer.len() < len {
            return Err(self.broken(format!(
                "the file ends within {what}: {} of {len} bytes are there",
                self.buffer.len()
            )));
        }
        Ok(())
    }

    /// As [`Source::need`], and false where the file ends before the record begins.
    pub(super) fn begins(&mut self, len: usize, what: &str) -> Result<bool, Broken> {
        self.fill(1).map_err(|error| self.broken(error.to_string()))?;
        if self.buffer.is_empty() {
            return Ok(false);
        }
        self.need(len, what).map(|()| true)
    }

    /// Passes `len` bytes by; the record's first ones stay in the buffer, and its start is where it was.
    pub(super) fn skip(&mut self, len: u64) -> Result<u64, Broken> {
        let skipped = io::copy(&mut self.reader.by_ref().take(len), &mut io::sink())
            .map_err(|error| self.broken(error.to_string()))?;
        Ok(skipped)
    }

    /// Counts bytes that were skipped in the middle of a record.
    pub(super) fn add_skipped(&mut self, len: u64) {
        self.offset += len;
    }

    /// The 32-bit number at `at` of the record.
    pub(super) fn number(&self, at: usize, big_endian: bool) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.buffer[at..at + 4]);
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// The record is broken; the caller knows after which packet.
    pub(super) fn broken(&self, error: String) -> Broken {
        Broken { after_packet: 0, offset: self.offset, error }
    }
}
