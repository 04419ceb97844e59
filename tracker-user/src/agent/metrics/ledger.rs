//! Sums of counters that begin anew when their place is given away.

/// A sum over places that never falls, as it is found each time it is read.
#[derive(Debug)]
pub struct Ledger<const N: usize> {
    /// What each place had when it was read last.
    last: Vec<[u64; N]>,
    /// What places had that were given away since.
    gone: [u64; N],
}

impl<const N: usize> Default for Ledger<N> {
    fn default() -> Self {
        Self { last: Vec::new(), gone: [0; N] }
    }
}

impl<const N: usize> Ledger<N> {
    /// The sum, where the places have these counters now. A counter that has fallen is one that began anew: what it had
    /// when it was read last is kept.
    pub fn sum(&mut self, places: Vec<[u64; N]>) -> [u64; N] {
        for (before, now) in self.last.iter().zip(&places) {
            for ((gone, before), now) in self.gone.iter_mut().zip(before).zip(now) {
                if now < before {
                    *gone += before;
                }
            }
        }
        self.last = places;
        let mut sum = self.gone;
        for place in &self.last {
            for (total, count) in sum.iter_mut().zip(place) {
                *total += count;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_anew_takes_nothing_away() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.sum(vec![[5, 1], [7, 0]]), [12, 1]);
        assert_eq!(ledger.sum(vec![[6, 1], [0, 2]]), [13, 3]);
        assert_eq!(ledger.sum(vec![[6, 1], [3, 2]]), [16, 3]);
        assert_eq!(ledger.sum(vec![[2, 0], [3, 2]]), [18, 3]);
    }
}
