//! The hash of cookies, and of the tables that strangers choose the keys of.

/// SipHash (Aumasson and Bernstein, 2012) of whole words, with so many rounds a word and at the end: no library of it compiles for
/// BPF without loops over bytes. SipHash-2-4 is tested against the reference's vectors.
pub(crate) struct SipHash<const WORD: usize, const END: usize>([u64; 4]);

impl<const WORD: usize, const END: usize> SipHash<WORD, END> {
    #[inline(always)]
    pub(crate) fn new(key: &[u64; 2]) -> Self {
        Self([
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    pub(crate) fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        for _ in 0..WORD {
            self.round();
        }
        self.0[0] ^= word;
    }

    /// The hash of what was absorbed, `len` bytes in all.
    #[inline(always)]
    pub(crate) fn finish(mut self, len: u64) -> u64 {
        self.absorb(len << 56);
        self.0[2] ^= 0xff;
        for _ in 0..END {
            self.round();
        }
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }

    #[inline(always)]
    fn round(&mut self) {
        let [v0, v1, v2, v3] = &mut self.0;
        *v0 = v0.wrapping_add(*v1);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v3);
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.wrapping_add(*v3);
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.wrapping_add(*v1);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v2 = v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of the reference implementation: the key 00 01 .. 0f, and the messages of 8 and 16 bytes 00 01 ...
    #[test]
    fn siphash_as_published() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let mut state = SipHash::<2, 4>::new(&key);
        state.absorb(key[0]);
        assert_eq!(state.finish(8), 0x93f5_f579_9a93_2462);
        let mut state = SipHash::<2, 4>::new(&key);
        state.absorb(key[0]);
        state.absorb(key[1]);
        assert_eq!(state.finish(16), 0x3f2a_cc7f_57c2_9bdb);
    }
}
