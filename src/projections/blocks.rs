//! This file keeps things in order so that ranges of them are summed up, and any place among them is found, without
//! looking at each: entries stand in blocks, and every block knows how many it has and what they are together.
//!
//! ```text
//! block   3 entries, sum    4 entries, sum    2 entries, sum
//!         a b c             d e f g           h i             all in order
//! ```
//! Of n entries a sum or a place looks at n / 512 blocks and at two of them from inside: microseconds at a million.

use std::ops::RangeInclusive;

/// What entries are together; kept exact as they come and go.
pub(crate) trait Sum<V>: Default {
    /// One more entry.
    fn add(&mut self, value: &V);
    /// One entry less.
    fn subtract(&mut self, value: &V);
    /// All that the other one sums up, on top.
    fn join(&mut self, other: &Self);
}

/// Nothing is summed up.
impl<V> Sum<V> for () {
    fn add(&mut self, _: &V) {}
    fn subtract(&mut self, _: &V) {}
    fn join(&mut self, (): &Self) {}
}

/// Entries in the order of their keys, each key once.
#[derive(Debug)]
pub(crate) struct Blocks<K, V, S = ()> {
    /// None is empty. Those that deletions made small are not joined: there are never more than half-filled ones at
    /// the greatest number of entries there ever was.
    blocks: Vec<Block<K, V, S>>,
    len: usize,
}

#[derive(Debug)]
struct Block<K, V, S> {
    entries: Vec<(K, V)>,
    sum: S,
}

/// An insert moves half a block on average, a sum looks through two of them.
const MAX_ENTRIES: usize = 1_024;

impl<K, V, S> Default for Blocks<K, V, S> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0 }
    }
}

impl<K: Ord, V, S: Sum<V>> Blocks<K, V, S> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the entry, or replaces the one with its key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        self.len += 1;
        let at = self.block_of(&key);
        let Some(block) = self.blocks.get_mut(at) else { return self.append(key, value) };
        block.insert(key, value);
        if block.entries.len() > MAX_ENTRIES {
            let upper = block.split();
            self.blocks.insert(at + 1, upper);
        }
    }

    /// Behind all others; the last block is filled up rather than split, as most keys come in order.
    fn append(&mut self, key: K, value: V) {
        match self.blocks.last_mut() {
            Some(last) if last.entries.len() < MAX_ENTRIES => last.insert(key, value),
            _ => self.blocks.push(Block::of(vec![(key, value)])),
        }
    }

    /// Removes the entry with this key, if there is one.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.block_of(key);
        let value = self.blocks.get_mut(at)?.remove(key)?;
        self.len -= 1;
        if self.blocks[at].entries.is_empty() {
            self.blocks.remove(at);
        }
        Some(value)
    }

    /// What the entries of this range are together.
    pub(crate) fn sum(&self, range: &RangeInclusive<K>) -> S {
        let mut sum = S::default();
        for block in &self.blocks[self.block_of(range.start())..] {
            match block {
                block if block.first() > range.end() => break,
                block if block.first() >= range.start() && block.last() <= range.end() => sum.join(&block.sum),
                block => block.within(range).for_each(|(_, value)| sum.add(value)),
            }
        }
        sum
    }

    /// All entries before `before`, the last one first.
    pub(crate) fn descending(&self, before: Option<&K>) -> impl Iterator<Item = (&K, &V)> {
        let (whole, part) = match before {
            None => (self.blocks.len(), 0),
            Some(key) => {
                let at = self.block_of(key);
                (at, self.blocks.get(at).map_or(0, |block| block.entries.partition_point(|(other, _)| other < key)))
            }
        };
        let part = self.blocks.get(whole).map_or(&[][..], |block| &block.entries[..part]);
        let whole = self.blocks[..whole].iter().rev().flat_map(|block| block.entries.iter().rev());
        part.iter().rev().chain(whole).map(|(key, value)| (key, value))
    }

    /// All entries but the last `skip`, the last one of those first.
    pub(crate) fn descending_behind(&self, skip: usize) -> impl Iterator<Item = (&K, &V)> {
        let (mut skip, mut whole) = (skip, self.blocks.len());
        while whole > 0 && self.blocks[whole - 1].entries.len() <= skip {
            whole -= 1;
            skip -= self.blocks[whole].entries.len();
        }
        let entries = self.blocks[..whole].iter().rev().flat_map(|block| block.entries.iter().rev());
        entries.skip(skip).map(|(key, value)| (key, value))
    }

    /// The block that has the key, or would have it; one behind the last when all keys are lower.
    fn block_of(&self, key: &K) -> usize {
        self.blocks.partition_point(|block| block.last() < key)
    }
}

impl<K: Ord, V, S: Sum<V>> Block<K, V, S> {
    fn of(entries: Vec<(K, V)>) -> Self {
        let mut sum = S::default();
        entries.iter().for_each(|(_, value)| sum.add(value));
        Self { entries, sum }
    }

    fn first(&self) -> &K {
        &self.entries.first().expect("no block is empty").0
    }

    fn last(&self) -> &K {
        &self.entries.last().expect("no block is empty").0
    }

    fn insert(&mut self, key: K, value: V) {
        self.sum.add(&value);
        let at = self.entries.partition_point(|(other, _)| *other < key);
        self.entries.insert(at, (key, value));
    }

    fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.entries.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        let (_, value) = self.entries.remove(at);
        self.sum.subtract(&value);
        Some(value)
    }

    fn split(&mut self) -> Self {
        let upper = Self::of(self.entries.split_off(self.entries.len() / 2));
        *self = Self::of(std::mem::take(&mut self.entries));
        upper
    }

    fn within(&self, range: &RangeInclusive<K>) -> impl Iterator<Item = &(K, V)> {
        let from = self.entries.partition_point(|(key, _)| key < range.start());
        self.entries[from..].iter().take_while(|(key, _)| key <= range.end())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Total(i64);

    impl Sum<i64> for Total {
        fn add(&mut self, value: &i64) {
            self.0 += value;
        }
        fn subtract(&mut self, value: &i64) {
            self.0 -= value;
        }
        fn join(&mut self, other: &Self) {
            self.0 += other.0;
        }
    }

    fn of(entries: impl IntoIterator<Item = (u32, i64)>) -> Blocks<u32, i64, Total> {
        let mut blocks = Blocks::default();
        entries.into_iter().for_each(|(key, value)| blocks.insert(key, value));
        blocks
    }

    #[test]
    fn entries_of_many_blocks_are_summed_between_both_ends_inclusive() {
        // Every value is its key, so that 10 to 4,999 are (10 + 4,999) * 4,990 / 2.
        let blocks = of((0..5_000).map(|key| (key, i64::from(key))));

        assert_eq!(blocks.sum(&(10..=4_999)), Total(12_497_455));
        assert_eq!(blocks.sum(&(7..=7)), Total(7));
        assert_eq!(blocks.sum(&(5_000..=9_000)), Total(0));
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
        let backwards = 9..=8;
        assert_eq!(blocks.sum(&backwards), Total(0));
    }

    #[test]
    fn keys_that_come_in_order_fill_their_blocks() {
        let blocks = of((0..4_096).map(|key| (key, 1)));

        assert_eq!(blocks.blocks.len(), 4_096 / MAX_ENTRIES);
    }

    /// What to put or take: many keys, so that blocks split, and some of them more than once.
    fn steps() -> impl Strategy<Value = Vec<(bool, u32, i64)>> {
        let dense = (0..6_000_u32).prop_map(|key| (true, key, i64::from(key % 7)));
        let random = (prop::bool::weighted(0.7), 0..6_000_u32, -5..5_i64);
        prop::collection::vec(prop_oneof![1 => dense, 1 => random], 0..4_000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn sums_and_places_are_those_of_a_plain_map(
            steps in steps(), from in 0..6_100_u32, to in 0..6_100_u32, skip in 0..4_000_usize
        ) {
            let (mut blocks, mut plain) = (of([]), BTreeMap::new());
            for (put, key, value) in steps {
                if put {
                    blocks.insert(key, value);
                    plain.insert(key, value);
                } else {
                    prop_assert_eq!(blocks.remove(&key), plain.remove(&key));
                }
            }

            let within = plain.iter().filter(|(key, _)| (from..=to).contains(*key)).map(|(_, value)| value);
            prop_assert_eq!(blocks.sum(&(from..=to)), Total(within.sum()));
            prop_assert_eq!(blocks.sum(&(0..=u32::MAX)), Total(plain.values().sum()));
            prop_assert_eq!((blocks.len(), blocks.is_empty()), (plain.len(), plain.is_empty()));
            prop_assert!(blocks.descending(None).eq(plain.iter().rev()));
            prop_assert!(blocks.descending(Some(&from)).eq(plain.range(..from).rev()));
            prop_assert!(blocks.descending_behind(skip).eq(plain.iter().rev().skip(skip)));
        }
    }
}
