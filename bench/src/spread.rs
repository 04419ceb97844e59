//! Numbers that sum up others.

/// Median, smallest and largest of several measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The middle one.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) least: f64,
    /// The largest.
    pub(crate) most: f64,
}

impl Spread {
    /// That of so many numbers, or `None` where there are none.
    pub(crate) fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_by(f64::total_cmp);
        Some(Self {
            median: *percentile(&numbers, 50)?,
            least: *numbers.first()?,
            most: *numbers.last()?,
        })
    }
}

/// The smallest of the sorted values that at least so many percent do not exceed, or `None` where there are no values.
pub(crate) fn percentile<T>(sorted: &[T], percent: usize) -> Option<&T> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<_> = (1..=200).collect();
        for (percent, expected) in [(0, 1), (1, 2), (50, 100), (99, 198), (100, 200)] {
            assert_eq!(percentile(&values, percent), Some(&expected), "{percent}");
        }
        assert_eq!(percentile(&[7], 99), Some(&7));
        assert_eq!(percentile::<u8>(&[], 50), None);
    }

    #[test]
    fn order_does_not_matter_to_the_spread() {
        let spread = Spread::of(vec![3.0, -1.0, 2.0]);
        assert_eq!(spread, Some(Spread { median: 2.0, least: -1.0, most: 3.0 }));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
