//! This file tells a small run: what was sent, what was answered, and the log that a right engine makes of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::CommandId;
use crate::loadtest::checker::{Checked, Checker, Contents, Finding, LoggedEvent, Others, Sent};
use crate::loadtest::history::{CommandRecord, Ending, History, ReadRecord};
use crate::stream::{GlobalPosition, StreamId, Version};

/// A run and its log. A test breaks either before it asks for the findings.
#[derive(Default, Clone)]
pub(super) struct Story {
    pub(super) commands: Vec<CommandRecord>,
    pub(super) reads: Vec<ReadRecord>,
    pub(super) log: Vec<LoggedEvent>,
}

/// The stream `till-<key>`.
pub(super) fn till(key: &str) -> StreamId {
    StreamId::new("till", key)
}

/// The command with this number.
pub(super) fn id(number: u128) -> CommandId {
    CommandId(Uuid::from_u128(number))
}

/// What the `n`-th event of command `number` says.
pub(super) fn says(number: u128, n: usize) -> Contents {
    Contents::of("Paid", &format!(r#"{{"cents":{}}}"#, number * 100 + n as u128))
}

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Recorded this many seconds after an arbitrary moment.
pub(super) fn recorded(second: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000_000 + i64::try_from(second).unwrap(), 0).unwrap()
}

impl Story {
    /// ```text
    /// ms     0    2    4      6    8                                   10        11         12    14
    /// till a v1        v2 v3  v4   refused                                                  v5
    /// till b      v1               not executed, nothing to change     v2 (unk.) - (unk.)
    /// pos.   1    2    3  4   5                                        6                    7
    /// ```
    /// Commands are numbered 1 to 9 in this order; after 14 ms three reads, of `a` at 5 and 7, of `b` at 6.
    pub(super) fn good() -> Self {
        let mut story = Self::default();
        story.acknowledged(1, "a", 1, 0);
        story.acknowledged(2, "b", 1, 2);
        story.acknowledged(3, "a", 2, 4);
        story.acknowledged(4, "a", 1, 6);
        story.ended(5, "a", 8, Ending::Refused { code: "till_closed".into() });
        story.ended(6, "b", 8, Ending::NotExecuted);
        story.ended(7, "b", 8, Ending::Unchanged { version: Version(1), position: GlobalPosition(5) });
        story.append(8, "b", 1);
        story.ended(8, "b", 10, Ending::Unknown);
        story.ended(9, "b", 11, Ending::Unknown);
        story.acknowledged(10, "a", 1, 12);
        story.read("a", 5, 5, 4);
        story.read("b", 2, 6, 2);
        story.read("a", 0, 7, 5);
        story
    }

    /// Command `number` on till `key`, sent at `at` ms, appends `events` events and is acknowledged a millisecond later.
    pub(super) fn acknowledged(&mut self, number: u128, key: &str, events: u16, at: u64) {
        let (version, position) = self.append(number, key, events);
        self.ended(number, key, at, Ending::Acknowledged { version, position, events });
    }

    /// Command `number` on till `key`, sent at `at` ms, ended so a millisecond later.
    pub(super) fn ended(&mut self, number: u128, key: &str, at: u64, ending: Ending) {
        let (command, stream, contents) = (id(number), till(key), self.contents(number, &ending));
        let (begun, answered) = (ms(at), ms(at + 1));
        self.commands.push(CommandRecord { command, stream, kind: "pay", begun, answered, ending, contents });
    }

    /// What a command that ended so decided: as many events as it was acknowledged with, or as the log has.
    pub(super) fn contents(&self, number: u128, ending: &Ending) -> Option<Contents> {
        let events = match ending {
            Ending::Acknowledged { events, .. } => usize::from(*events),
            Ending::Unknown => self.log.iter().filter(|event| event.command == id(number)).count(),
            _ => 0,
        };
        (0..events).map(|n| says(number, n)).reduce(Contents::and)
    }

    /// The log's next events are these of command `number` on till `key`; the last one's version and position.
    pub(super) fn append(&mut self, number: u128, key: &str, events: u16) -> (Version, GlobalPosition) {
        for n in 0..events {
            self.append_event(number, key, n.into());
        }
        let last = self.log.last().unwrap();
        (last.version, last.position)
    }

    /// The log's next event is the `n`-th of command `number`, on till `key`.
    pub(super) fn append_event(&mut self, number: u128, key: &str, n: usize) {
        let (stream, command, position) = (till(key), id(number), self.log.len() as u64 + 1);
        let version = Version(self.log.iter().filter(|event| event.stream == stream).count() as u64 + 1);
        let (event_id, recorded_at) = (command.event_id(n), recorded(position));
        self.log.push(LoggedEvent {
            position: GlobalPosition(position),
            event_id,
            stream,
            version,
            command,
            recorded_at,
            contents: says(number, n),
        });
    }

    /// A read of till `key` with this token.
    pub(super) fn read(&mut self, key: &str, token: u64, answered_at: u64, seen: u64) {
        self.reads.push(ReadRecord {
            stream: till(key),
            token: GlobalPosition(token),
            begun: ms(14),
            answered: ms(15),
            answered_at: GlobalPosition(answered_at),
            seen: Version(seen),
        });
    }

    /// The record of command `number`.
    pub(super) fn command(&mut self, number: u128) -> &mut CommandRecord {
        self.commands.iter_mut().find(|record| record.command == id(number)).unwrap()
    }

    /// Command `number` as findings name it.
    pub(super) fn sent(&self, number: u128) -> Sent {
        let record = self.commands.iter().find(|record| record.command == id(number)).unwrap();
        Sent { command: record.command, kind: record.kind, stream: record.stream.clone() }
    }

    /// What the checker says of a log that began empty and belongs to this run alone.
    pub(super) fn check(&self) -> Checked {
        let head = self.log.last().map_or(GlobalPosition::START, |event| event.position);
        self.check_from(GlobalPosition::START, head, Others::None)
    }

    /// What the checker says of the log between the two.
    pub(super) fn check_from(&self, start: GlobalPosition, head: GlobalPosition, others: Others) -> Checked {
        let history = self.history();
        let mut checker = Checker::new(&history, start, others);
        self.log.iter().for_each(|event| checker.event(event));
        checker.finish(head)
    }

    /// All findings, in the order they were made.
    pub(super) fn findings(&self) -> Vec<Finding> {
        self.check().findings.kept().to_vec()
    }

    /// As two workers recorded it, each every other entry.
    fn history(&self) -> History {
        let mut workers = [History::default(), History::default()];
        self.commands.iter().enumerate().for_each(|(n, record)| workers[n % 2].command(record.clone()));
        self.reads.iter().enumerate().for_each(|(n, record)| workers[n % 2].read(record.clone()));
        let [mut all, other] = workers;
        all.absorb(other);
        all
    }
}
