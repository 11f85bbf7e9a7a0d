//! This file tells the holes in a sequence of numbers from numbers that only came late.

use std::ops::RangeInclusive;

/// Numbers that should come one after the other.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    last: u64,
    /// What was passed over and has not come yet; nearly always empty.
    missing: Vec<RangeInclusive<u64>>,
}

/// How a number stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Higher than all before it. What it passed over, if anything, is [`Sequence::missing`] until it comes.
    Ahead,
    /// It came late, or again.
    Behind,
}

impl Sequence {
    /// Numbers are to follow upon this one.
    pub(super) fn after(last: u64) -> Self {
        Self { last, missing: Vec::new() }
    }

    /// The highest number so far.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// What was passed over and never came, rising.
    pub(super) fn missing(&self) -> &[RangeInclusive<u64>] {
        &self.missing
    }

    /// Takes the next number.
    pub(super) fn take(&mut self, number: u64) -> Step {
        if number <= self.last {
            self.fill(number);
            return Step::Behind;
        }
        if number > self.last + 1 {
            self.missing.push(self.last + 1..=number - 1);
        }
        self.last = number;
        Step::Ahead
    }

    fn fill(&mut self, number: u64) {
        let Some(place) = self.missing.iter().position(|range| range.contains(&number)) else { return };
        let (first, last) = self.missing.remove(place).into_inner();
        let rest = [first..=number.saturating_sub(1), number + 1..=last];
        let rest = rest.into_iter().filter(|range| !range.is_empty());
        self.missing.splice(place..place, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_over_is_missing_until_it_comes() {
        let mut sequence = Sequence::after(0);

        assert_eq!(sequence.take(1), Step::Ahead);
        assert_eq!(sequence.take(6), Step::Ahead);
        assert_eq!(sequence.missing(), [2..=5]);
        assert_eq!(sequence.take(4), Step::Behind);
        assert_eq!(sequence.missing(), [2..=3, 5..=5]);
        assert_eq!(sequence.take(5), Step::Behind);
        assert_eq!((sequence.missing(), sequence.last()), (&[2..=3][..], 6));
    }

    #[test]
    fn a_number_that_comes_again_is_behind_and_fills_nothing() {
        let mut sequence = Sequence::after(7);

        assert_eq!((sequence.take(8), sequence.take(8)), (Step::Ahead, Step::Behind));
        assert!(sequence.missing().is_empty());
    }
}
