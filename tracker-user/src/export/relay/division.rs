//! Finds the records that a receiver refuses, among those that it takes.
//!
//! A part that is refused is divided in halves, down to one record, which is held. Only when another record was taken after that
//! are those that are held sent again, and given up if they are refused again. So a receiver that refuses everything, because its
//! table is another one, loses nothing: also not when the table is put right.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Records that are sent at once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) records: Bytes,
    pub(super) count: u64,
    /// Each of them was refused, and another one taken since.
    is_suspect: bool,
}

/// What is to be done.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// To send this.
    Send(Part),
    /// To wait, and to try others.
    Wait,
    /// All is sent, or given up.
    Nothing,
}

/// What becomes of a part that is refused.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// Its halves are sent.
    Divided,
    /// It is one record, which waits for another one to be taken.
    Held {
        /// Whether many were refused, and none taken.
        pauses: bool,
    },
    /// It is one record, which is not sent again; so many were counted when it was written.
    GivenUp(u64),
}

/// Records on their way, and those that are refused.
#[derive(Debug, Default)]
pub(super) struct Division {
    /// The last one is sent next.
    pending: Vec<Part>,
    held: VecDeque<Part>,
    /// So many of them, the first ones, were refused before another record was taken.
    suspects: usize,
    /// Records that were refused since one was taken.
    in_a_row: u32,
    /// Whether anything but the whole was sent, or something taken.
    is_touched: bool,
    /// Whether any of these records was taken.
    has_accepted: bool,
    has_refused: bool,
    /// Why the last record was refused.
    pub(super) said: String,
}

impl Division {
    /// Further records to send.
    pub(super) fn add(&mut self, records: Vec<u8>, count: u64) {
        self.is_touched |= !self.held.is_empty() || !self.pending.is_empty();
        self.pending.push(Part { records: records.into(), count, is_suspect: false });
    }

    /// What is to be done now.
    pub(super) fn next(&mut self) -> Step {
        if let Some(part) = self.pending.pop() {
            return Step::Send(part);
        }
        if self.suspects > 0 {
            let suspects = self.held.drain(..self.suspects);
            let (mut records, mut count) = (BytesMut::new(), 0);
            for part in suspects {
                records.extend_from_slice(&part.records);
                count += part.count;
            }
            self.suspects = 0;
            return Step::Send(Part { records: records.freeze(), count, is_suspect: true });
        }
        if !self.held.is_empty() {
            return Step::Wait;
        }
        (self.is_touched, self.has_accepted) = (false, false);
        Step::Nothing
    }

    /// Whether everything is sent, or given up.
    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty() && self.held.is_empty()
    }

    /// Whether nothing of what is sent has arrived, nor was refused.
    pub(super) const fn is_whole(&self) -> bool {
        !self.is_touched
    }

    /// Records that are held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Records of what was sent last are refused, and the others taken.
    pub(super) const fn note_refused(&mut self) {
        self.has_refused = true;
    }

    /// Whether anything was refused since this was called last.
    pub(super) const fn take_has_refused(&mut self) -> bool {
        std::mem::replace(&mut self.has_refused, false)
    }

    /// What was sent last was taken.
    pub(super) fn accepted(&mut self) {
        (self.is_touched, self.has_accepted) = (true, true);
        self.in_a_row = 0;
        self.suspects = self.held.len();
    }

    /// What was sent last is to be sent again.
    pub(super) fn put_back(&mut self, part: Part) {
        self.pending.push(part);
    }

    /// What was sent last is refused; `split` returns the lengths of its records.
    pub(super) fn refused(
        &mut self,
        part: Part,
        split: impl FnOnce(&[u8]) -> Vec<usize>,
    ) -> Outcome {
        self.is_touched = true;
        self.has_refused = true;
        let lengths = split(&part.records);
        let half = lengths.len() / 2;
        if half > 0 {
            let at = lengths.iter().take(half).sum::<usize>().min(part.records.len());
            let count = part.count.min(half as u64);
            let is_suspect = part.is_suspect;
            let (first, second) = (part.records.slice(..at), part.records.slice(at..));
            let count_of_second = part.count - count;
            self.pending.push(Part { records: second, count: count_of_second, is_suspect });
            self.pending.push(Part { records: first, count, is_suspect });
            return Outcome::Divided;
        }
        if part.is_suspect {
            return Outcome::GivenUp(part.count);
        }
        self.held.push_back(part);
        self.in_a_row += 1;
        // Where others of these were taken, the rest is tried at once: it is one request for each, and no more.
        let pauses = self.in_a_row >= MOST_IN_A_ROW && !self.has_accepted;
        if pauses && !self.pending.is_empty() {
            // The largest part comes next: where many refused records are together, a good one is elsewhere.
            self.pending.rotate_left(1);
        }
        Outcome::Held { pauses }
    }

    /// Sends the record that was refused first again: perhaps it was not because of it.
    pub(super) fn try_one_again(&mut self) {
        self.pending.extend(self.held.pop_front());
    }
}

/// Records that are refused one after the other before there is a pause between any two.
const MOST_IN_A_ROW: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends letters, of which a receiver refuses some, until there is nothing to do but to wait. Returns what was taken, and
    /// what was given up.
    fn send(division: &mut Division, refuses: impl Fn(u8) -> bool) -> (String, u64, u32) {
        let (mut taken, mut lost, mut requests) = (Vec::new(), 0, 0);
        while let Step::Send(part) = division.next() {
            requests += 1;
            assert!(requests < 1000, "it does not end");
            if part.records.iter().any(|letter| refuses(*letter)) {
                let outcome = division.refused(part, |records| vec![1; records.len()]);
                if let Outcome::GivenUp(count) = outcome {
                    lost += count;
                }
            } else {
                assert_eq!(part.records.len() as u64, part.count);
                taken.extend_from_slice(&part.records);
                division.accepted();
            }
        }
        taken.sort_unstable();
        (String::from_utf8(taken).expect("letters"), lost, requests)
    }

    fn of(text: &str) -> Division {
        let mut division = Division::default();
        division.add(text.as_bytes().to_vec(), text.len() as u64);
        division
    }

    #[test]
    fn those_between_are_given_up_and_no_others() {
        let all = "abcdefghijklmnop";
        for bad in ["", "a", "h", "ah", "abc", "acegikm", "abcdefghijklmno"] {
            let mut division = of(all);
            let (taken, lost, _) = send(&mut division, |letter| bad.as_bytes().contains(&letter));
            let good: String = all.chars().filter(|letter| !bad.contains(*letter)).collect();
            assert_eq!((taken, lost), (good, bad.len() as u64), "{bad}");
            assert_eq!(division.next(), Step::Nothing);
        }
    }

    #[test]
    fn one_in_a_thousand_takes_few_requests() {
        let mut division = of(&format!("{}b{}", "a".repeat(700), "a".repeat(323)));
        let (taken, lost, requests) = send(&mut division, |letter| letter == b'b');
        assert_eq!((taken.len(), lost), (1023, 1));
        assert!(requests <= 22, "{requests}");
    }

    #[test]
    fn where_none_is_taken_none_is_given_up() {
        let mut division = of("abcdef");
        for _ in 0..5 {
            assert_eq!(send(&mut division, |_| true), (String::new(), 0, 11));
            assert_eq!(division.next(), Step::Wait);
            assert_eq!(division.held(), 6);
            division.try_one_again();
            let (taken, lost, requests) = send(&mut division, |_| true);
            assert_eq!((taken.as_str(), lost, requests), ("", 0, 1));
            division = of("abcdef");
        }
        send(&mut division, |_| true);
        // The table is put right: those that were refused before are taken now.
        division.try_one_again();
        assert_eq!(send(&mut division, |_| false), ("abcdef".to_owned(), 0, 2));
        assert_eq!(division.next(), Step::Nothing);
    }

    #[test]
    fn the_last_one_waits_for_another_to_be_taken() {
        let mut division = of("abcz");
        assert_eq!(send(&mut division, |letter| letter == b'z').0, "abc");
        assert_eq!((division.next(), division.held()), (Step::Wait, 1));
        division.try_one_again();
        assert_eq!(send(&mut division, |letter| letter == b'z'), (String::new(), 0, 1));
        division.add(b"de".to_vec(), 2);
        assert!(!division.is_whole());
        assert_eq!(send(&mut division, |letter| letter == b'z'), ("de".to_owned(), 1, 2));
        assert_eq!(division.next(), Step::Nothing);
        assert!(division.is_whole());
    }

    #[test]
    fn many_that_are_refused_make_it_pause() {
        let mut division = of(&"z".repeat(16));
        let mut pauses = Vec::new();
        while let Step::Send(part) = division.next() {
            if let Outcome::Held { pauses: it } = division.refused(part, |it| vec![1; it.len()]) {
                pauses.push(it);
            }
        }
        assert_eq!(pauses, [vec![false; 7], vec![true; 9]].concat());
    }

    #[test]
    fn many_that_are_refused_together_do_not_hold_up_the_others_for_long() {
        let mut division = of(&format!("{}{}", "z".repeat(200), "a".repeat(824)));
        let (mut pauses, mut taken, mut given_up) = (0, 0, 0);
        loop {
            match division.next() {
                Step::Send(part) if part.records.contains(&b'z') => {
                    match division.refused(part, |it| vec![1; it.len()]) {
                        Outcome::Held { pauses: it } => pauses += u32::from(it),
                        Outcome::GivenUp(count) => given_up += count,
                        Outcome::Divided => {}
                    }
                }
                Step::Send(part) => {
                    taken += part.count;
                    division.accepted();
                }
                Step::Wait => panic!("good ones were taken after all of them"),
                Step::Nothing => break,
            }
        }
        assert_eq!((pauses, taken, given_up), (1, 824, 200));
    }

    #[test]
    fn what_cannot_be_divided_is_one_record_and_counts_as_it_was_written() {
        let mut division = of("xxxx");
        division.add(b"a".to_vec(), 1);
        let mut given_up = 0;
        let mut steps = 0;
        while let Step::Send(part) = division.next() {
            steps += 1;
            match &part.records[..] {
                b"a" => division.accepted(),
                _ => match division.refused(part, |records| vec![records.len()]) {
                    Outcome::GivenUp(count) => given_up += count,
                    _ => division.add(b"a".to_vec(), 1),
                },
            }
        }
        assert_eq!((given_up, steps), (4, 4));
    }
}
