//! Calls of kernel functions that are no helpers.
//!
//! The loader cannot relocate them, so the kernel programs call a helper of a number that there is none of, and the call
//! is rewritten in the object's bytes before it is loaded.

use object::{Object, ObjectSection, SectionKind};
use zerocopy::IntoBytes;

use crate::model::error::{Context, Error, Result};

/// The function that hands a listener a connection that no cookie of the kernel's stands for (Linux 6.9).
pub const ASSIGN: &str = "bpf_sk_assign_tcp_reqsk";

/// The helper's number that stands for [`ASSIGN`].
pub const ASSIGN_PLACEHOLDER: i32 = 0x7fff_0001;

/// Bytes of an instruction (RFC 9669 section 3).
const INSTRUCTION: usize = 8;
/// BPF_JMP | BPF_CALL, immediate.
const CALL: u8 = 0x85;
/// In the source register's place: the immediate is the id of a kernel function (BPF_PSEUDO_KFUNC_CALL).
const KERNEL_FUNCTION: u8 = 2;

/// A copy of an object, aligned as its reader wants it.
#[derive(Clone, Debug)]
pub struct Patched {
    words: Vec<u64>,
    length: usize,
}

impl Patched {
    /// `object`, with every call of the placeholder helper a call of the kernel function with this id.
    ///
    /// # Errors
    ///
    /// Where it is no object, or calls no such helper.
    pub fn new(object: &[u8], placeholder: i32, function: u32) -> Result<Self> {
        let mut patched = Self::copy_of(object);
        let copy = patched.bytes_mut();
        let file = object::File::parse(object).context("the kernel programs are no object")?;
        let mut calls = 0;
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let Some((start, length)) = section.file_range() else { continue };
            let (start, length) = (usize::try_from(start)?, usize::try_from(length)?);
            let code = copy
                .get_mut(start..start + length)
                .context("a section of the kernel programs lies outside of them")?;
            calls += patch(code, placeholder, function);
        }
        if calls == 0 {
            return Err(Error::text(format!(
                "the kernel programs call no helper {placeholder:#x}"
            )));
        }
        Ok(patched)
    }

    /// A copy as it is.
    #[must_use]
    pub fn copy_of(object: &[u8]) -> Self {
        let words = vec![0_u64; object.len().div_ceil(size_of::<u64>())];
        let mut copy = Self { words, length: object.len() };
        copy.bytes_mut().copy_from_slice(object);
        copy
    }

    /// The object, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.words.as_mut_bytes()[..self.length]
    }

    /// The object.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.length]
    }
}

/// Rewrites the calls in a sequence of instructions, and returns how many there were.
fn patch(code: &mut [u8], placeholder: i32, function: u32) -> usize {
    let mut calls = 0;
    for instruction in code.chunks_exact_mut(INSTRUCTION) {
        // Both registers and the offset are zero in a call of a helper. The second half of a 16-byte load, which holds
        // any number, has no opcode.
        let [CALL, 0, 0, 0, immediate @ ..] = instruction else { continue };
        if *immediate == placeholder.to_le_bytes() {
            immediate.copy_from_slice(&function.to_le_bytes());
            instruction[1] = KERNEL_FUNCTION << 4;
            calls += 1;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACEHOLDER: [u8; 8] = [CALL, 0, 0, 0, 0x01, 0x00, 0xff, 0x7f];

    #[test]
    fn calls_of_the_placeholder_and_nothing_else() {
        let others: [[u8; 8]; 6] = [
            // Helper 1, and a function of the program's own.
            [CALL, 0, 0, 0, 1, 0, 0, 0],
            [CALL, 0x10, 0, 0, 0x01, 0x00, 0xff, 0x7f],
            // r1 = 0x7fff0001, in both forms.
            [0xb7, 1, 0, 0, 0x01, 0x00, 0xff, 0x7f],
            [0x18, 1, 0, 0, 0x85, 0x00, 0x00, 0x00],
            [0, 0, 0, 0, 0x01, 0x00, 0xff, 0x7f],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        let mut code = others.concat();
        assert_eq!(patch(&mut code, ASSIGN_PLACEHOLDER, 7), 0);
        assert_eq!(code, others.concat());

        let [a, b, c, d, e, f] = others;
        let mut code = [a, PLACEHOLDER, b, c, d, e, PLACEHOLDER, f].concat();
        assert_eq!(patch(&mut code, ASSIGN_PLACEHOLDER, 0x0001_8a2b), 2);
        let call = [CALL, 0x20, 0, 0, 0x2b, 0x8a, 0x01, 0x00];
        assert_eq!(code, [a, call, b, c, d, e, call, f].concat());
        // An end that is no whole instruction is left alone.
        let mut code = PLACEHOLDER[..7].to_vec();
        assert_eq!(patch(&mut code, ASSIGN_PLACEHOLDER, 7), 0);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let said = |object: &[u8], placeholder| {
            format!("{:#}", Patched::new(object, placeholder, 7).expect_err("refused"))
        };
        assert!(said(b"nothing", ASSIGN_PLACEHOLDER).contains("no object"));
        assert!(said(crate::kernel::object::PLAIN, 0x7fff_7fff).contains("no helper 0x7fff7fff"));
    }

    #[test]
    fn an_object_is_otherwise_the_same() {
        // The programs call helper 1, bpf_map_lookup_elem, many times.
        let patched = Patched::new(crate::kernel::object::PLAIN, 1, 0x55aa_55aa).expect("calls");
        let (before, after) = (crate::kernel::object::PLAIN, patched.bytes());
        assert_eq!(before.len(), after.len());
        let differ = before.chunks(8).zip(after.chunks(8)).filter(|(a, b)| a != b);
        let mut count = 0;
        for (a, b) in differ {
            assert_eq!(
                (a, b),
                (&[CALL, 0, 0, 0, 1, 0, 0, 0][..], &[CALL, 0x20, 0, 0, 0xaa, 0x55, 0xaa, 0x55][..])
            );
            count += 1;
        }
        assert!(count > 10, "{count}");
        assert_eq!(after.as_ptr() as usize % 8, 0);
    }
}
