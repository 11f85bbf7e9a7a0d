//! This file holds the instances of a process manager in memory: what is due, what is to be sent, what is not saved.
//!
//! A command goes through three stages, and only ever forwards:
//!
//! ```text
//! decided (in the row, not saved) ── saved ──> first of its instance: ready ──> open ── durable outcome ──> gone
//!                                                          └──── not yet: ready again after a pause ────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::row::{Command, Deadline, InstanceRow, Origin};
use crate::event::CommandId;
use crate::process_manager::{
    DeadlineChange, InstanceStates, MAX_DEADLINES_AN_INSTANCE, Misuse, Next, OutgoingCommand, Parts, Reaction,
};

/// Names an instance; shared by the indexes.
pub(crate) type Key = Arc<str>;

/// All instances.
pub(crate) struct Book<S> {
    manager: &'static str,
    instances: HashMap<Key, Instance<S>>,
    /// The earliest deadline of each instance that has one.
    by_deadline: BTreeSet<(DateTime<Utc>, Key)>,
    /// Instances that changed since they were last frozen.
    dirty: BTreeSet<Key>,
    /// Numbers of the commands that are not known to be saved, oldest first.
    unsaved: BTreeMap<u64, Key>,
    /// Instances whose first command may be sent.
    ready: VecDeque<Key>,
    last_number: u64,
    saved_to: u64,
    counts: Counts,
}

/// What there is, for limits and for those who look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) deadlines: usize,
    /// Commands without a durable outcome.
    pub(crate) commands: usize,
    pub(crate) command_bytes: usize,
}

struct Instance<S> {
    state: Option<S>,
    deadlines: Vec<Deadline>,
    commands: VecDeque<(u64, Command)>,
    /// How often the first command was tried in vain.
    attempts: u32,
}

impl<S> Default for Instance<S> {
    fn default() -> Self {
        Self { state: None, deadlines: Vec::new(), commands: VecDeque::new(), attempts: 0 }
    }
}

impl<S> Instance<S> {
    fn next_deadline(&self) -> Option<DateTime<Utc>> {
        self.deadlines.iter().map(|deadline| deadline.at).min()
    }

    fn is_over(&self) -> bool {
        self.state.is_none() && self.deadlines.is_empty() && self.commands.is_empty()
    }
}

/// What brought a reaction about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cause {
    /// Names the occasion: the event's id, or one derived from the deadline. The ids of commands derive from it.
    pub(crate) id: Uuid,
    pub(crate) event_id: Uuid,
    pub(crate) correlation_id: Uuid,
}

/// A deadline that has come, out of the book.
pub(crate) struct Fired {
    pub(crate) key: Key,
    pub(crate) name: String,
    pub(crate) at: DateTime<Utc>,
    pub(crate) cause: Cause,
}

/// Rows as they were at one instant.
pub(crate) struct Frozen {
    pub(crate) upserts: Vec<InstanceRow>,
    pub(crate) deletes: Vec<Key>,
    /// Commands up to this number are in the rows.
    pub(crate) commands_to: u64,
}

impl<S: Serialize + DeserializeOwned> Book<S> {
    pub(crate) fn empty(manager: &'static str) -> Self {
        Self {
            manager,
            instances: HashMap::new(),
            by_deadline: BTreeSet::new(),
            dirty: BTreeSet::new(),
            unsaved: BTreeMap::new(),
            ready: VecDeque::new(),
            last_number: 0,
            saved_to: 0,
            counts: Counts::default(),
        }
    }

    /// A book of saved rows; their commands are ready to be sent again.
    ///
    /// # Errors
    /// When a state is not what the manager's type says.
    pub(crate) fn of(manager: &'static str, rows: Vec<InstanceRow>) -> Result<Self, serde_json::Error> {
        let mut book = Self::empty(manager);
        for row in rows {
            let key = Key::from(row.key);
            let state = row.state.map(|json| serde_json::from_str(&json)).transpose()?;
            let commands = row.commands.into_iter().map(|command| {
                book.last_number += 1;
                book.counts.commands += 1;
                book.counts.command_bytes += command.weight();
                (book.last_number, command)
            });
            let instance = Instance { state, commands: commands.collect(), deadlines: row.deadlines, attempts: 0 };
            book.counts.deadlines += instance.deadlines.len();
            book.by_deadline.extend(instance.next_deadline().map(|at| (at, Arc::clone(&key))));
            if !instance.commands.is_empty() {
                book.ready.push_back(Arc::clone(&key));
            }
            book.instances.insert(key, instance);
        }
        book.saved_to = book.last_number;
        Ok(book)
    }

    pub(crate) fn len(&self) -> usize {
        self.instances.len()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Whether a command waits for a save.
    pub(crate) fn has_unsaved_commands(&self) -> bool {
        !self.unsaved.is_empty()
    }

    pub(crate) fn next_deadline(&self) -> Option<DateTime<Utc>> {
        self.by_deadline.first().map(|(at, _)| *at)
    }

    pub(crate) fn state(&self, key: &str) -> Option<&S> {
        self.instances.get(key).and_then(|instance| instance.state.as_ref())
    }

    /// Takes out the earliest deadline that came at or before `now`.
    pub(crate) fn fire(&mut self, now: DateTime<Utc>) -> Option<Fired> {
        let (at, key) = self.by_deadline.first().filter(|(at, _)| *at <= now)?.clone();
        let mut deadline = None;
        self.change(&key, |instance| {
            let index = instance.deadlines.iter().position(|deadline| deadline.at == at);
            deadline = index.map(|index| instance.deadlines.remove(index));
        });
        let Deadline { name, at, set_by, origin } = deadline.expect("the index names a deadline of the instance");
        let parts = [self.manager.as_bytes(), key.as_bytes(), name.as_bytes(), set_by.as_bytes()];
        let id = CommandId::from_parts("essaim deadline", &parts).0;
        let cause = Cause { id, event_id: origin.event_id, correlation_id: origin.correlation_id };
        Some(Fired { key, name, at, cause })
    }

    /// Carries a reaction out in memory; it is real once it is saved.
    ///
    /// # Errors
    /// [`Misuse`] when it cannot be carried out.
    pub(crate) fn take(&mut self, key: &str, reaction: Reaction<S>, cause: Cause) -> Result<(), Misuse> {
        let Parts { next, commands, deadlines } = reaction.checked()?;
        if matches!(next, Next::Same) && commands.is_empty() && deadlines.is_empty() {
            return Ok(());
        }
        let origin = Origin { event_id: cause.event_id, correlation_id: cause.correlation_id };
        let commands = self.numbered(commands, cause, origin);
        let key = self.instances.get_key_value(key).map_or_else(|| Key::from(key), |(known, _)| Arc::clone(known));
        let (first, last) = (self.last_number + 1 - commands.len() as u64, self.last_number);
        self.unsaved.extend((first..=last).map(|number| (number, Arc::clone(&key))));
        let mut set = 0;
        self.change(&key, |instance| {
            match next {
                Next::Same => {}
                Next::State(state) => instance.state = Some(state),
                Next::End => {
                    instance.state = None;
                    instance.deadlines.clear();
                }
            }
            deadlines.into_iter().for_each(|change| change_deadline(instance, change, cause.id, origin));
            instance.commands.extend(commands);
            set = instance.deadlines.len();
        });
        if set > MAX_DEADLINES_AN_INSTANCE {
            return Err(Misuse(format!("an instance has {set} deadlines, more than {MAX_DEADLINES_AN_INSTANCE}")));
        }
        Ok(())
    }

    fn numbered(&mut self, commands: Vec<OutgoingCommand>, cause: Cause, origin: Origin) -> Vec<(u64, Command)> {
        let named = commands.into_iter().enumerate().map(|(n, command)| {
            let n = (n as u64).to_be_bytes();
            let id = CommandId::from_parts("essaim process", &[self.manager.as_bytes(), cause.id.as_bytes(), &n]);
            let json = RawValue::from_string(command.json.into()).expect("serde_json wrote it");
            let command = Command::new(id, &command.stream, json, origin);
            self.last_number += 1;
            self.counts.commands += 1;
            self.counts.command_bytes += command.weight();
            (self.last_number, command)
        });
        named.collect()
    }

    /// Changes an instance and brings the indexes after it.
    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Instance<S>)) {
        let instance = self.instances.entry(Arc::clone(key)).or_default();
        let (next, deadlines) = (instance.next_deadline(), instance.deadlines.len());
        change(instance);
        if instance.next_deadline() != next {
            next.map(|at| self.by_deadline.remove(&(at, Arc::clone(key))));
            self.by_deadline.extend(instance.next_deadline().map(|at| (at, Arc::clone(key))));
        }
        self.counts.deadlines = self.counts.deadlines + instance.deadlines.len() - deadlines;
        if instance.is_over() {
            self.instances.remove(key);
        }
        self.dirty.insert(Arc::clone(key));
    }

    /// The rows that changed since the last time, as they are now. Those of a failed save come back by [`Book::thaw`].
    pub(crate) fn freeze(&mut self) -> Frozen {
        let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.dirty) {
            match self.instances.get(&key) {
                Some(instance) => upserts.push(row_of(&key, instance)),
                None => deletes.push(key),
            }
        }
        Frozen { upserts, deletes, commands_to: self.last_number }
    }

    /// These were not saved.
    pub(crate) fn thaw(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.dirty.extend(keys);
    }

    /// Commands up to this number are saved, and may be sent.
    pub(crate) fn saved(&mut self, commands_to: u64) {
        self.saved_to = self.saved_to.max(commands_to);
        let still_unsaved = self.unsaved.split_off(&(commands_to + 1));
        for (number, key) in std::mem::replace(&mut self.unsaved, still_unsaved) {
            let is_first =
                |instance: &Instance<S>| instance.commands.front().is_some_and(|(first, _)| *first == number);
            if self.instances.get(&key).is_some_and(is_first) {
                self.ready.push_back(key);
            }
        }
    }

    /// The next command to be sent.
    pub(crate) fn next_ready(&mut self) -> Option<(Key, Command)> {
        let key = self.ready.pop_front()?;
        let first = self.instances.get(&key).and_then(|instance| instance.commands.front());
        let (_, command) = first.expect("whoever is ready has a command");
        Some((key, command.clone()))
    }

    /// This command of the instance has a durable outcome; its next one follows.
    pub(crate) fn settle(&mut self, key: &Key, id: CommandId) {
        let Some(instance) = self.instances.get(key) else { return };
        let Some(weight) = instance.commands.front().filter(|(_, first)| first.id == id).map(|(_, c)| c.weight())
        else {
            return;
        };
        self.counts.commands -= 1;
        self.counts.command_bytes -= weight;
        let mut next = None;
        self.change(key, |instance| {
            instance.commands.pop_front();
            instance.attempts = 0;
            next = instance.commands.front().map(|(number, _)| *number);
        });
        if next.is_some_and(|number| number <= self.saved_to) {
            self.ready.push_back(Arc::clone(key));
        }
    }

    /// The first command of this instance was tried in vain; how often by now.
    pub(crate) fn failed(&mut self, key: &Key) -> u32 {
        let Some(instance) = self.instances.get_mut(key) else { return 0 };
        instance.attempts = instance.attempts.saturating_add(1);
        instance.attempts
    }

    /// The first command of this instance is to be tried again.
    pub(crate) fn again(&mut self, key: Key) {
        self.ready.push_back(key);
    }
}

fn change_deadline<S>(instance: &mut Instance<S>, change: DeadlineChange, set_by: Uuid, origin: Origin) {
    let (DeadlineChange::Set { name, .. } | DeadlineChange::Cancel { name }) = &change;
    instance.deadlines.retain(|deadline| deadline.name != *name);
    if let DeadlineChange::Set { name, at } = change {
        instance.deadlines.push(Deadline { name: name.into_owned(), at, set_by, origin });
    }
}

fn row_of<S: Serialize>(key: &Key, instance: &Instance<S>) -> InstanceRow {
    InstanceRow {
        key: key.to_string(),
        state: instance
            .state
            .as_ref()
            .map(|state| serde_json::to_string(state).expect("the state of a process manager can be written as JSON")),
        deadlines: instance.deadlines.clone(),
        commands: instance.commands.iter().map(|(_, command)| command.clone()).collect(),
    }
}

/// The book while one event is reacted to.
pub(crate) struct Reacting<'a, S> {
    pub(crate) book: &'a mut Book<S>,
    pub(crate) cause: Cause,
    pub(crate) misuse: Option<Misuse>,
}

impl<S: Serialize + DeserializeOwned> InstanceStates<S> for Reacting<'_, S> {
    fn state(&self, key: &str) -> Option<&S> {
        self.book.state(key)
    }

    fn take(&mut self, key: &str, reaction: Reaction<S>) {
        self.misuse = self.book.take(key, reaction, self.cause).err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::StreamId;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("within range")
    }

    fn cause(n: u128) -> Cause {
        Cause { id: Uuid::from_u128(n), event_id: Uuid::from_u128(n), correlation_id: Uuid::from_u128(n) }
    }

    fn sending(key: &str, count: u32) -> Reaction<u32> {
        use crate::domain::payment::{Payment, PaymentCommand};
        let id = crate::aggregate::AggregateId::<Payment>::new(key);
        (0..count).fold(Reaction::none(), |reaction, _| reaction.send(&id, PaymentCommand::Complete))
    }

    fn book() -> Book<u32> {
        Book::empty("clerk")
    }

    fn names(book: &mut Book<u32>, now: i64) -> Vec<(String, String)> {
        std::iter::from_fn(|| book.fire(at(now))).map(|fired| (fired.key.to_string(), fired.name)).collect()
    }

    #[test]
    fn deadlines_fire_in_the_order_of_their_time_and_not_before() {
        let mut book = book();
        book.take("b", Reaction::state(1).set_deadline("y", at(5)).set_deadline("x", at(9)), cause(1)).unwrap();
        book.take("a", Reaction::state(1).set_deadline("z", at(7)), cause(2)).unwrap();

        assert_eq!(book.next_deadline(), Some(at(5)));
        assert_eq!(names(&mut book, 4), []);
        let fired = names(&mut book, 8);

        assert_eq!(fired, [("b".into(), "y".into()), ("a".into(), "z".into())]);
        assert_eq!((book.next_deadline(), book.counts().deadlines), (Some(at(9)), 1));
    }

    #[test]
    fn a_deadline_that_was_cancelled_replaced_or_ended_does_not_fire_as_it_was() {
        let mut book = book();
        book.take("a", Reaction::state(1).set_deadline("x", at(5)).set_deadline("y", at(5)), cause(1)).unwrap();
        book.take("b", Reaction::state(1).set_deadline("x", at(5)), cause(2)).unwrap();

        book.take("a", Reaction::none().cancel_deadline("x").set_deadline("y", at(20)), cause(3)).unwrap();
        book.take("b", Reaction::end(), cause(4)).unwrap();

        assert_eq!(names(&mut book, 19), []);
        assert_eq!(names(&mut book, 20), [("a".into(), "y".into())]);
        assert_eq!((book.len(), book.counts().deadlines), (1, 0), "a goes on, b is gone");
    }

    #[test]
    fn commands_leave_only_once_saved_and_one_after_the_other_for_each_instance() {
        let mut book = book();
        book.take("a", sending("p", 2), cause(1)).unwrap();
        book.take("b", sending("q", 1), cause(2)).unwrap();
        assert!(book.next_ready().is_none() && book.has_unsaved_commands());

        let frozen = book.freeze();
        book.take("a", sending("r", 1), cause(3)).unwrap();
        book.saved(frozen.commands_to);

        let (key, first) = book.next_ready().expect("the first of a");
        assert_eq!((&*key, first.stream()), ("a", StreamId::new("payment", "p")));
        assert_eq!(&*book.next_ready().expect("the first of b").0, "b");
        assert!(book.next_ready().is_none(), "the second of a waits for the first");
        book.settle(&key, first.id);
        let (_, second) = book.next_ready().expect("the second of a");
        book.settle(&key, second.id);
        assert!(book.next_ready().is_none() && book.has_unsaved_commands(), "the third of a is not saved");
        assert_eq!(book.counts().commands, 2);
    }

    #[test]
    fn an_instance_with_nothing_left_is_deleted_and_one_that_was_never_kept_leaves_no_row() {
        let mut book = book();
        book.take("a", sending("p", 1), cause(1)).unwrap();
        book.take("nobody", Reaction::none(), cause(2)).unwrap();
        let frozen = book.freeze();
        assert_eq!((frozen.upserts.len(), frozen.deletes.len()), (1, 0));
        book.saved(frozen.commands_to);

        let (key, command) = book.next_ready().unwrap();
        book.settle(&key, command.id);
        book.settle(&key, command.id);

        let frozen = book.freeze();
        assert_eq!((frozen.upserts.len(), frozen.deletes), (0, vec![key]));
        assert_eq!((book.len(), book.counts()), (0, Counts::default()));
    }

    #[test]
    fn a_book_of_saved_rows_goes_on_where_it_was_under_the_same_ids() {
        let mut book = book();
        book.take("a", sending("p", 2).set_deadline("x", at(5)), cause(1)).unwrap();
        let frozen = book.freeze();
        let before: Vec<CommandId> = frozen.upserts[0].commands.iter().map(|command| command.id).collect();

        let mut again = Book::<u32>::of("clerk", frozen.upserts).unwrap();

        let (key, first) = again.next_ready().expect("what was saved is sent again");
        again.settle(&key, first.id);
        assert_eq!([first.id, again.next_ready().unwrap().1.id].as_slice(), before);
        let (fired, fired_again) = (book.fire(at(5)).unwrap(), again.fire(at(5)).unwrap());
        assert_eq!(fired.cause.id, fired_again.cause.id);
    }

    #[test]
    fn the_same_cause_names_the_same_commands_and_each_set_deadline_its_own() {
        let ids = |deadline_set_by| {
            let mut book = book();
            book.take("a", Reaction::state(1).set_deadline("x", at(5)), cause(deadline_set_by)).unwrap();
            let fired = book.fire(at(5)).unwrap();
            book.take("a", sending("p", 2), fired.cause).unwrap();
            let row = book.freeze().upserts.remove(0);
            row.commands.iter().map(|command| command.id).collect::<Vec<_>>()
        };

        assert_eq!(ids(1), ids(1));
        assert!(ids(1).iter().all(|id| !ids(2).contains(id)) && ids(1)[0] != ids(1)[1]);
    }
}
