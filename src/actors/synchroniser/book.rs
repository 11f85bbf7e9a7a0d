//! This file keeps the rows of one synchroniser in memory: who is due next, who is under way, who was set aside, and
//! which rows changed since the last checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::backoff::LONGEST_WISH;
use super::row::SubjectRow;
use crate::stream::GlobalPosition;
use crate::synchroniser::DeadLetter;

/// The rows and what is kept in step with them.
#[derive(Default)]
pub(crate) struct Book {
    rows: BTreeMap<String, SubjectRow>,
    /// Pending and not under way, soonest first; of those due at one instant, the oldest intent first.
    due: BTreeSet<(Instant, GlobalPosition, String)>,
    due_at: HashMap<String, (Instant, GlobalPosition)>,
    under_way: HashSet<String>,
    /// In the order in which their intents were recorded.
    parked: BTreeSet<(GlobalPosition, String)>,
    /// In the same order.
    skipped: BTreeSet<(GlobalPosition, String)>,
    pending: usize,
    dirty: HashSet<String>,
}

impl Book {
    /// The rows as they were saved.
    pub(crate) fn of(rows: Vec<SubjectRow>, now: DateTime<Utc>) -> Self {
        let mut book = Self::default();
        for row in rows {
            let subject = row.subject.clone();
            book.enter(&row, now);
            book.rows.insert(subject, row);
        }
        book
    }

    /// Changes the row of this subject, which is made when there is none.
    pub(crate) fn change<T>(
        &mut self,
        subject: &str,
        now: DateTime<Utc>,
        change: impl FnOnce(&mut SubjectRow) -> T,
    ) -> T {
        let mut row = self.rows.remove(subject).unwrap_or_else(|| SubjectRow::new(subject));
        self.leave(&row);
        let result = change(&mut row);
        self.enter(&row, now);
        self.rows.insert(subject.to_owned(), row);
        self.dirty.insert(subject.to_owned());
        result
    }

    fn leave(&mut self, row: &SubjectRow) {
        self.pending -= usize::from(row.is_pending());
        self.parked.remove(&(row.wanted_at, row.subject.clone()));
        self.skipped.remove(&(row.wanted_at, row.subject.clone()));
        if let Some((at, position)) = self.due_at.remove(&row.subject) {
            self.due.remove(&(at, position, row.subject.clone()));
        }
    }

    fn enter(&mut self, row: &SubjectRow, now: DateTime<Utc>) {
        if row.parked.is_some() {
            self.parked.insert((row.wanted_at, row.subject.clone()));
        }
        if row.skipped.is_some() {
            self.skipped.insert((row.wanted_at, row.subject.clone()));
        }
        if row.is_pending() {
            self.pending += 1;
            if !self.under_way.contains(&row.subject) {
                self.schedule(row, now);
            }
        }
    }

    fn schedule(&mut self, row: &SubjectRow, now: DateTime<Utc>) {
        // A clock that was set back must not put off a subject for ever.
        let pause = row.next_try.and_then(|at| (at - now).to_std().ok()).unwrap_or_default().min(LONGEST_WISH);
        let at = Instant::now() + pause;
        self.due.insert((at, row.wanted_at, row.subject.clone()));
        self.due_at.insert(row.subject.clone(), (at, row.wanted_at));
    }

    /// When the next subject is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// The subject that is due the longest; from now on it is under way, until [`Book::land`].
    pub(crate) fn start_next(&mut self) -> Option<&SubjectRow> {
        let (at, ..) = self.due.first()?;
        if *at > Instant::now() {
            return None;
        }
        let (_, _, subject) = self.due.pop_first()?;
        self.due_at.remove(&subject);
        let row = self.rows.get(&subject)?;
        self.under_way.insert(subject);
        Some(row)
    }

    /// The call for this subject has ended; its row changes as the call says and it is due again when it is pending.
    pub(crate) fn land<T>(
        &mut self,
        subject: &str,
        now: DateTime<Utc>,
        change: impl FnOnce(&mut SubjectRow) -> T,
    ) -> T {
        self.under_way.remove(subject);
        self.change(subject, now, change)
    }

    /// Calls of an earlier process may still be on their way: only a look settles what is pending.
    pub(crate) fn doubt_all_pending(&mut self) {
        self.rows.values_mut().filter(|row| row.is_pending()).for_each(|row| row.unsure = true);
    }

    pub(crate) fn get(&self, subject: &str) -> Option<&SubjectRow> {
        self.rows.get(subject)
    }

    /// How many subjects there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many are not yet outside, without those set aside.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// How many are set aside.
    pub(crate) fn dead_letters(&self) -> usize {
        self.parked.len()
    }

    /// How many calls are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// At most `limit` dead letters behind the one of `after`, by the position of their last intent.
    pub(crate) fn dead_letters_after(
        &self,
        after: Option<(GlobalPosition, String)>,
        limit: usize,
    ) -> Vec<(GlobalPosition, DeadLetter)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let parked = self.parked.range((from, Bound::Unbounded)).take(limit);
        parked.filter_map(|(at, subject)| Some((*at, self.rows.get(subject)?.dead_letter()?))).collect()
    }

    /// The same of those that an operator did without.
    pub(crate) fn skipped_after(
        &self,
        after: Option<(GlobalPosition, String)>,
        limit: usize,
    ) -> Vec<(GlobalPosition, DeadLetter)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let skipped = self.skipped.range((from, Bound::Unbounded)).take(limit);
        skipped.filter_map(|(at, subject)| Some((*at, self.rows.get(subject)?.skipped_letter()?))).collect()
    }

    /// At most `limit` rows behind `after`, by subject.
    pub(crate) fn rows_after(&self, after: Option<&str>, limit: usize) -> Vec<SubjectRow> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range::<str, _>((from, Bound::Unbounded)).take(limit).map(|(_, row)| row.clone()).collect()
    }

    /// How many rows changed since the last [`Book::freeze`].
    pub(crate) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// The rows that changed, as they are now.
    pub(crate) fn freeze(&mut self) -> Vec<SubjectRow> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.iter().filter_map(|subject| self.rows.get(subject).cloned()).collect()
    }

    /// These were not saved after all.
    pub(crate) fn thaw(&mut self, subjects: impl IntoIterator<Item = String>) {
        self.dirty.extend(subjects);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stream::Version;
    use crate::synchroniser::Outcome;

    const NOW: DateTime<Utc> = DateTime::<Utc>::UNIX_EPOCH;

    fn want(book: &mut Book, subject: &str, position: u64) {
        book.change(subject, NOW, |row| row.want(Version(position), GlobalPosition(position)));
    }

    fn started(book: &mut Book) -> Option<String> {
        book.start_next().map(|row| row.subject.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_first_to_want_something_is_first_and_nobody_is_under_way_twice() {
        let mut book = Book::default();
        want(&mut book, "b", 1);
        want(&mut book, "a", 2);

        let first = started(&mut book);
        want(&mut book, "b", 3);

        assert_eq!(first.as_deref(), Some("b"));
        assert_eq!(started(&mut book).as_deref(), Some("a"));
        assert_eq!(started(&mut book), None, "a change of b waits for b's call");
        book.land("b", NOW, |row| {
            row.settle(Outcome::Synced { version: Version(1), outside_id: None }, GlobalPosition(4), NOW);
        });
        assert_eq!(started(&mut book).as_deref(), Some("b"));
        assert_eq!((book.pending(), book.under_way(), book.len()), (2, 2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_postponed_subject_is_due_when_its_pause_is_over() {
        let mut book = Book::default();
        want(&mut book, "a", 1);
        started(&mut book);

        book.land("a", NOW, |row| row.postpone("busy", Duration::from_secs(3), NOW));

        assert_eq!(started(&mut book), None);
        assert_eq!(book.next_due(), Some(Instant::now() + Duration::from_secs(3)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(started(&mut book).as_deref(), Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn dead_letters_are_listed_in_the_order_of_their_intents_page_by_page() {
        let mut book = Book::default();
        for (subject, position) in [("c", 1), ("a", 2), ("b", 3)] {
            want(&mut book, subject, position);
            let failed = Outcome::Failed { version: Version(position), reason: "no".into(), permanent: true };
            book.change(subject, NOW, |row| row.settle(failed, GlobalPosition(9), NOW));
        }

        let subjects = |letters: Vec<(GlobalPosition, DeadLetter)>| {
            letters.into_iter().map(|(_, letter)| letter.subject).collect::<Vec<_>>()
        };
        assert_eq!(subjects(book.dead_letters_after(None, 2)), ["c", "a"]);
        assert_eq!(subjects(book.dead_letters_after(Some((GlobalPosition(2), "a".into())), 2)), ["b"]);
        assert_eq!((book.pending(), book.dead_letters()), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_frozen_and_not_saved_is_dirty_again() {
        let mut book = Book::default();
        want(&mut book, "a", 1);

        let frozen = book.freeze();
        assert_eq!((frozen.len(), book.dirty()), (1, 0));
        book.thaw(frozen.into_iter().map(|row| row.subject));

        assert_eq!(book.dirty(), 1);
    }
}
