//! Several captures as one: packets in the order of their times, as mergecap has it.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Broken, Capture, Packet};
use crate::model::failure::Failure;

/// A file that is read.
pub struct Part {
    /// As it was named.
    pub name: String,
    /// It, as far as it was read.
    pub capture: Capture,
    /// Where it makes no sense any more.
    pub broken: Option<Broken>,
}

/// Captures that are read side by side.
///
/// The next packet is the earliest of those that come next in their files; of two at one moment, that of the file that was
/// named first. So packets of one file stay in their order, also where its times go back. A file that is broken ends
/// there, and the others go on.
pub struct Merged {
    parts: Vec<Part>,
    /// Times of the packets that come next, and whose they are.
    queue: BinaryHeap<Reverse<(i64, usize)>>,
    /// The file whose packet was returned last, and so has to be read on.
    last: Option<usize>,
}

impl Merged {
    /// Opens files; `-` is standard input.
    ///
    /// # Errors
    ///
    /// Where one cannot be opened, or standard input is named twice; the error names the file.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let is_stdin = |path: &&PathBuf| path.as_path() == Path::new("-");
        if files.iter().filter(is_stdin).count() > 1 {
            let said = "standard input (`-`) can be read once only";
            return Err(Failure::BadInput(said.to_owned()).into());
        }
        let open = |path: &PathBuf| -> Result<Part> {
            let name = path.display().to_string();
            let capture = Capture::open(path).with_context(|| name.clone())?;
            Ok(Part { name, capture, broken: None })
        };
        Ok(Self::new(files.iter().map(open).collect::<Result<_>>()?))
    }

    fn new(parts: Vec<Part>) -> Self {
        let mut merged = Self { parts, queue: BinaryHeap::new(), last: None };
        for index in 0..merged.parts.len() {
            merged.read_on(index);
        }
        merged
    }

    /// The files, in the order in which they were named.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Bytes read so far, of all files.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.parts.iter().map(|part| part.capture.position()).sum()
    }

    /// The next packet, and the index of its file. `None` when all files are at their ends, or where they are broken.
    #[allow(clippy::should_implement_trait)] // an iterator's items cannot borrow from it
    pub fn next(&mut self) -> Option<(usize, Packet<'_>)> {
        if let Some(last) = self.last.take() {
            self.read_on(last);
        }
        let Reverse((_, index)) = self.queue.pop()?;
        self.last = Some(index);
        Some((index, self.parts[index].capture.current()?))
    }

    /// Reads the next packet of a file.
    fn read_on(&mut self, index: usize) {
        let Part { capture, broken, .. } = &mut self.parts[index];
        if let Err(error) = capture.advance() {
            *broken = Some(error);
        } else if let Some(packet) = capture.current() {
            self.queue.push(Reverse((packet.timestamp_ns, index)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A capture of packets of one byte, its number in the file, at these seconds.
    fn part(name: &str, seconds: &[u32], tail: &[u8]) -> Part {
        let mut file = Vec::new();
        for number in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 0xffff, 1] {
            file.extend(number.to_le_bytes());
        }
        for (n, second) in (1..).zip(seconds) {
            for number in [*second, 0, 1, 1] {
                file.extend(number.to_le_bytes());
            }
            file.push(n);
        }
        file.extend(tail);
        let capture = Capture::new(Box::new(Cursor::new(file))).expect("a header");
        Part { name: name.to_owned(), capture, broken: None }
    }

    fn read(parts: Vec<Part>) -> (Vec<(usize, u64)>, Vec<Option<u64>>) {
        let mut merged = Merged::new(parts);
        let mut read = Vec::new();
        while let Some((index, packet)) = merged.next() {
            assert_eq!(u64::from(packet.frame[0]), packet.number);
            read.push((index, packet.number));
        }
        let broken = |part: &Part| part.broken.as_ref().map(|broken| broken.after_packet);
        (read, merged.parts().iter().map(broken).collect())
    }

    #[test]
    fn the_earliest_comes_first_and_of_two_the_one_named_first() {
        let (read, broken) = read(vec![
            part("a", &[2, 5, 5], &[]),
            part("b", &[], &[]),
            part("c", &[1, 2, 5, 9], &[]),
        ]);
        assert_eq!(read, [(2, 1), (0, 1), (2, 2), (0, 2), (0, 3), (2, 3), (2, 4)]);
        assert_eq!(broken, [None; 3]);
    }

    #[test]
    fn a_file_whose_times_go_back_keeps_its_order() {
        let (read, _) = read(vec![part("a", &[5, 1, 6], &[]), part("b", &[2, 3], &[])]);
        assert_eq!(read, [(1, 1), (1, 2), (0, 1), (0, 2), (0, 3)]);
    }

    #[test]
    fn a_broken_file_ends_and_the_others_go_on() {
        let (read, broken) = read(vec![part("a", &[1], &[0; 3]), part("b", &[0, 2], &[])]);
        assert_eq!(read, [(1, 1), (0, 1), (1, 2)]);
        assert_eq!(broken, [Some(1), None]);
    }
}
