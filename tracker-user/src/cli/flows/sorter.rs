//! Any number of flows in an order: a part of them is sorted in memory at a time, and all parts are merged from disk.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{BufWriter, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

use anyhow::{Context, Result};

use super::{
    order::Place,
    row::{self, Row},
};
use crate::cli::scratch;

/// Bytes of a flow on disk: its place, and its row.
const ENTRY: usize = size_of::<Place>() + row::SIZE;

/// Flows of a part that are read from disk at once.
const STEP: u64 = 256;

/// Flows that are being sorted.
#[derive(Debug)]
pub(super) struct Sorter {
    /// How many are kept in memory.
    most: usize,
    places: Vec<(Place, usize)>,
    rows: Vec<Row>,
    /// All others, in parts that are sorted each; a part's number counts flows.
    disk: Option<(File, Vec<Range<u64>>)>,
}

impl Sorter {
    /// Keeps so many flows in memory.
    pub(super) fn new(most: usize) -> Self {
        Self { most, places: Vec::new(), rows: Vec::new(), disk: None }
    }

    /// Takes a flow.
    ///
    /// # Errors
    ///
    /// Where it would have to be written to disk, and cannot be.
    pub(super) fn add(&mut self, place: Place, row: Row) -> Result<()> {
        if self.rows.len() == self.most {
            self.write_out(&scratch::directory())?;
        }
        self.places.push((place, self.rows.len()));
        self.rows.push(row);
        Ok(())
    }

    /// All of them, in order.
    ///
    /// # Errors
    ///
    /// As [`Sorter::add`].
    pub(super) fn into_sorted(mut self) -> Result<Sorted> {
        if self.disk.is_some() {
            self.write_out(&scratch::directory())?;
        }
        self.places.sort_unstable();
        let order = self.places.into_iter().map(|(_, at)| at).collect();
        Ok(Sorted { order, rows: self.rows, disk: self.disk })
    }

    /// Writes what is in memory to the end of the file.
    fn write_out(&mut self, directory: &Path) -> Result<()> {
        self.try_write_out(directory).with_context(|| {
            format!(
                "sorting more than {1} flows in {0} (TMPDIR names another directory; `--last N` of fewer needs no disk)",
                directory.display(),
                self.most
            )
        })
    }

    fn try_write_out(&mut self, directory: &Path) -> Result<()> {
        self.places.sort_unstable();
        let (file, parts) = match &mut self.disk {
            Some(disk) => disk,
            none => none.insert((scratch::file(directory)?, Vec::new())),
        };
        let mut out = BufWriter::with_capacity(1 << 16, &*file);
        for (place, at) in &self.places {
            out.write_all(place)?;
            out.write_all(&self.rows[*at].bytes())?;
        }
        out.flush()?;
        let start = parts.last().map_or(0, |part| part.end);
        parts.push(start..start + u64::try_from(self.rows.len())?);
        self.places.clear();
        self.rows.clear();
        Ok(())
    }
}

/// Flows in an order.
#[derive(Debug)]
pub(super) struct Sorted {
    order: Vec<usize>,
    rows: Vec<Row>,
    disk: Option<(File, Vec<Range<u64>>)>,
}

/// A part of the file, as far as it was read.
struct Part {
    left: Range<u64>,
    buffer: Vec<u8>,
    at: usize,
}

impl Sorted {
    /// Calls `visit` with each flow, in order, but for the first `skip`.
    ///
    /// # Errors
    ///
    /// What `visit` says, or where the file cannot be read.
    pub(super) fn each(&self, skip: u64, visit: &mut dyn FnMut(&Row) -> Result<()>) -> Result<()> {
        let Some((file, parts)) = &self.disk else {
            let skip = usize::try_from(skip)?;
            return self.order.iter().skip(skip).try_for_each(|at| visit(&self.rows[*at]));
        };
        let mut parts: Vec<_> = parts
            .iter()
            .map(|part| Part { left: part.clone(), buffer: Vec::new(), at: 0 })
            .collect();
        let mut next = BinaryHeap::new();
        for (number, part) in parts.iter_mut().enumerate() {
            next.extend(part.place(file)?.map(|place| Reverse((place, number))));
        }
        let mut before = 0;
        while let Some(Reverse((_, number))) = next.pop() {
            let part = &mut parts[number];
            if before >= skip {
                visit(&part.row()?)?;
            }
            before += 1;
            part.at += ENTRY;
            next.extend(part.place(file)?.map(|place| Reverse((place, number))));
        }
        Ok(())
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        let on_disk = self.disk.as_ref().and_then(|(_, parts)| parts.last()).map_or(0, |it| it.end);
        on_disk + self.rows.len() as u64
    }
}

impl Part {
    /// The place of the next flow; `None` at the end.
    fn place(&mut self, file: &File) -> Result<Option<Place>> {
        if self.at == self.buffer.len() {
            let count = STEP.min(self.left.end - self.left.start);
            self.buffer.resize(usize::try_from(count)? * ENTRY, 0);
            file.read_exact_at(&mut self.buffer, self.left.start * ENTRY as u64)?;
            self.left.start += count;
            self.at = 0;
        }
        Ok(self.buffer[self.at..].first_chunk().copied())
    }

    fn row(&self) -> Result<Row> {
        Row::from_bytes(&self.buffer[self.at + size_of::<Place>()..self.at + ENTRY])
    }
}

#[cfg(test)]
mod tests {
    use std::env;

    use tracker_common::{flow::Flow, key::FlowKey, sweep::Tier};

    use super::*;
    use crate::cli::flows::row::LiveRow;

    fn row(number: u16) -> Row {
        if number.is_multiple_of(3) {
            return Row::Recorded(number.into());
        }
        let flow = Flow::default();
        flow.violations.set(number.into());
        let key = FlowKey { zone: number, ..FlowKey::default() };
        Row::Live(LiveRow {
            key,
            flow,
            tier: if number.is_multiple_of(2) { Tier::Confirmed } else { Tier::HalfOpen },
        })
    }

    fn place(number: u16) -> Place {
        let mut place = [0; size_of::<Place>()];
        place[..2].copy_from_slice(&number.to_be_bytes());
        place
    }

    #[test]
    fn on_disk_as_in_memory() -> Result<()> {
        // 1,009 is prime: each number comes once.
        let numbers = (0..1009).map(|at| at * 389 % 1009);
        for most in [1, 100, 1008, 1009, 2000] {
            let mut sorter = Sorter::new(most);
            for number in numbers.clone() {
                let number = u16::try_from(number)?;
                sorter.add(place(number), row(number))?;
            }
            let sorted = sorter.into_sorted()?;
            assert_eq!(sorted.len(), 1009);
            assert_eq!(sorted.disk.is_some(), most < 1009);
            // As often as one likes.
            for skip in [0, 1, 1000, 1009] {
                let mut found = Vec::new();
                sorted.each(skip, &mut |row| {
                    let number = match row {
                        Row::Live(LiveRow { key, flow, tier }) => {
                            assert_eq!(flow.violations.get(), u32::from(key.zone));
                            assert_eq!(*tier == Tier::Confirmed, key.zone.is_multiple_of(2));
                            assert!(!key.zone.is_multiple_of(3));
                            u64::from(key.zone)
                        }
                        Row::Recorded(number) => *number,
                    };
                    found.push(number);
                    Ok(())
                })?;
                assert_eq!(found, (skip..1009).collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    #[test]
    fn a_directory_that_takes_no_file_is_named() {
        let mut sorter = Sorter::new(1);
        let error = sorter.write_out(&env::temp_dir().join("none/such")).expect_err("no directory");
        let said = format!("{error:#}");
        assert!(said.contains("none/such") && said.contains("--last N"), "{said}");
    }
}
