//! Sequence numbers of one end, as they are read: counted from the first one, and not wrapping.

/// The numbers that one end has sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Numbers {
    base: u32,
    /// The highest one that is known to be right, which others are near to, and how far it is from the first.
    highest: u32,
    distance: i64,
}

impl Numbers {
    /// Counted from `base`.
    pub(super) const fn new(base: u32) -> Self {
        Self { base, highest: base, distance: 0 }
    }

    pub(super) const fn base(&self) -> u32 {
        self.base
    }

    /// Counted from `base`, where some `bytes` were sent up to `highest` while nobody watched.
    pub(super) fn late(base: u32, highest: u32, bytes: u64) -> Self {
        let bytes = bytes.cast_signed();
        // Only the lower 32 bits of the highest number are known: of all numbers that end with them, this takes the nearest.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // as on the wire
        let about = base.wrapping_add(bytes as u32);
        let distance = bytes + i64::from(highest.wrapping_sub(about).cast_signed());
        Self { base, highest, distance }
    }

    /// The receiver would take everything up to `number`. A connection of more than 4 GiB passes by its first number
    /// again; forged numbers must not be what tells how often.
    pub(super) fn reach(&mut self, number: u32) {
        let ahead = number.wrapping_sub(self.highest).cast_signed();
        if ahead > 0 {
            self.distance += i64::from(ahead);
            self.highest = number;
        }
    }

    /// How far `number` is from the first; negative where it lies before it.
    pub(super) fn relative(&self, number: u32) -> i64 {
        self.distance + i64::from(number.wrapping_sub(self.highest).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wrap_and_distances_do_not() {
        let mut numbers = Numbers::new(u32::MAX - 1);
        assert_eq!(numbers.relative(u32::MAX - 1), 0);
        assert_eq!(numbers.relative(3), 5);
        assert_eq!(numbers.relative(u32::MAX - 2), -1);
        numbers.reach(3);
        assert_eq!(
            (numbers.relative(3), numbers.relative(u32::MAX), numbers.base()),
            (5, 1, u32::MAX - 1)
        );
    }

    #[test]
    fn more_than_four_gib() {
        let mut numbers = Numbers::new(1000);
        let mut sent = 0;
        while sent < 10 << 30 {
            sent += 1 << 20;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // as on the wire
            let number = (1000 + sent) as u32;
            numbers.reach(number);
            assert_eq!(numbers.relative(number), sent);
            assert_eq!(numbers.relative(number.wrapping_sub(1448)), sent - 1448);
        }
    }

    #[test]
    fn forged_numbers_move_nothing() {
        let mut numbers = Numbers::new(1000);
        numbers.reach(2000);
        assert_eq!(numbers.relative(2000 + (1 << 30)), 1000 + (1 << 30));
        assert_eq!(numbers.relative(2001), 1001);
        // Nor does an older one that is reached again.
        numbers.reach(1500);
        assert_eq!(numbers.relative(2001), 1001);
    }

    #[test]
    fn a_connection_that_is_three_gib_old() {
        let numbers = Numbers::late(1000, 1000 + (3 << 30), 3 << 30);
        assert_eq!(numbers.relative(1000 + (3 << 30)), 3 << 30);
        // The SYN is no byte.
        let numbers = Numbers::late(u32::MAX, 100, (9 << 32) + 100);
        assert_eq!(
            (numbers.relative(100), numbers.relative(99)),
            ((9 << 32) + 101, (9 << 32) + 100)
        );
    }
}
