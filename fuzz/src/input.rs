//! An input, read piece by piece. Behind its end everything is 0, so that each input means something.

/// The part of an input that was not read yet.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of an input.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// So many bytes, in network byte order.
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (read, rest) = self.0.split_at(N.min(self.0.len()));
        bytes[..read.len()].copy_from_slice(read);
        self.0 = rest;
        bytes
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.bytes())
    }

    /// A bit.
    pub fn bit(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    /// Sixteen bytes: an address, or a key.
    pub fn address(&mut self) -> [u8; 16] {
        self.bytes()
    }
}
