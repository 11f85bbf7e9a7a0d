//! This file is what a run remembers of every command and read, for the checker to hold against the log.
//!
//! A run makes millions of entries, so each is packed: 56 bytes a command, 40 a read; streams, kinds and refusal codes
//! are kept once. Every worker fills a history of its own, without locks; they are joined with [`History::absorb`].
//! What all of them take together is bounded by a [`HistoryRoom`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::checker::Contents;
use crate::event::CommandId;
use crate::stream::{GlobalPosition, StreamId, Version};

/// One command as its caller saw it, over all retries under its id: it is recorded once, when nobody will ask again.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRecord {
    /// Its id; never used for another command of the run.
    pub command: CommandId,
    /// The aggregate it was for.
    pub stream: StreamId,
    /// What was asked, e.g. `authorize`. A run has at most 255 kinds.
    pub kind: &'static str,
    /// When it was first sent, since the run's start.
    pub begun: Duration,
    /// When its last answer came, since the run's start; of an unknown outcome: when the caller gave up.
    pub answered: Duration,
    /// How it ended.
    pub ending: Ending,
    /// What its events must say, if it has some and that was told.
    pub contents: Option<Contents>,
}

/// How a command ended, as far as its caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Success, with events.
    Acknowledged {
        /// The stream's version behind them.
        version: Version,
        /// The last event's position.
        position: GlobalPosition,
        /// How many events it appended, ≥ 1; at most 65,535.
        events: u16,
    },
    /// Success, without an event.
    Unchanged {
        /// The stream's version.
        version: Version,
        /// How far the log went.
        position: GlobalPosition,
    },
    /// A definite no that an identical command would get again: a business refusal, another version than expected.
    Refused {
        /// The code of the interface, e.g. `not_pending`. A run has at most 65,535 codes.
        code: String,
    },
    /// Certainly not executed: overloaded, deadline passed before deciding, no connection made.
    NotExecuted,
    /// It may or may not have been executed.
    Unknown,
}

/// One read of an aggregate's row that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// The aggregate whose row was read.
    pub stream: StreamId,
    /// What the answer had to include; [`GlobalPosition::START`] when nothing was asked for.
    pub token: GlobalPosition,
    /// When it was sent, since the run's start.
    pub begun: Duration,
    /// When it was answered, since the run's start.
    pub answered: Duration,
    /// The position it says it was answered at.
    pub answered_at: GlobalPosition,
    /// The version of the aggregate that the row shows; [`Version::EMPTY`] when there was no row.
    pub seen: Version,
}

/// A command, and what the checker keeps of it.
const COMMAND_BYTES: usize = size_of::<PackedCommand>() + 36;
/// A read, and its place in the order in which they are checked.
const READ_BYTES: usize = size_of::<PackedRead>() + 8;
/// A stream's name, which is a category and mostly a UUID, its places in a list and in a map, and its version as the
/// checker follows it.
const STREAM_BYTES: usize = 200;

/// How much memory the histories of one run may take together.
#[derive(Debug)]
pub struct HistoryRoom {
    /// None when nothing is remembered.
    megabytes: Option<u64>,
    taken_bytes: AtomicU64,
    full: CancellationToken,
}

impl HistoryRoom {
    /// So many MB (10^6 bytes).
    pub fn of(megabytes: u64) -> Self {
        Self { megabytes: Some(megabytes), taken_bytes: AtomicU64::new(0), full: CancellationToken::new() }
    }

    /// Nothing is to be remembered.
    pub fn none() -> Self {
        Self { megabytes: None, taken_bytes: AtomicU64::new(0), full: CancellationToken::new() }
    }

    /// Whether anything is to be remembered.
    pub fn is_wanted(&self) -> bool {
        self.megabytes.is_some()
    }

    /// Takes room. There is always some: what is answered after it became full must not be forgotten, or the checker
    /// would take it for somebody else's.
    pub fn take(&self, bytes: u64) {
        let taken = self.taken_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if self.megabytes.is_some_and(|megabytes| taken >= megabytes.saturating_mul(1_000_000)) {
            self.full.cancel();
        }
    }

    /// Resolves when it is full, with its size in MB.
    pub async fn full(&self) -> u64 {
        self.full.cancelled().await;
        self.megabytes.unwrap_or_default()
    }
}

/// Everything that one worker, or a whole run, remembers.
#[derive(Debug, Clone, Default)]
pub struct History {
    streams: Streams,
    kinds: Vec<&'static str>,
    codes: Vec<String>,
    commands: Vec<PackedCommand>,
    reads: Vec<PackedRead>,
}

/// Streams, each kept once under a number.
#[derive(Debug, Clone, Default)]
struct Streams {
    numbers: HashMap<StreamId, u32>,
    names: Vec<StreamId>,
}

/// A command as the checker sorts and scans it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedCommand {
    pub(super) command: CommandId,
    pub(super) begun_nanos: u64,
    pub(super) position: u64,
    pub(super) contents: Option<Contents>,
    took_micros: u32,
    pub(super) stream: u32,
    pub(super) version: u32,
    /// The number of events, or of the refusal's code.
    events_or_code: u16,
    kind: u8,
    pub(super) ending: EndingKind,
}

/// [`Ending`] without what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndingKind {
    Acknowledged,
    Unchanged,
    Refused,
    NotExecuted,
    Unknown,
}

/// A read as the checker sorts and scans it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedRead {
    pub(super) token: u64,
    begun_nanos: u64,
    pub(super) answered_at: u64,
    took_micros: u32,
    pub(super) stream: u32,
    pub(super) seen: u32,
}

impl PackedCommand {
    /// How many events were acknowledged; 0 for every other ending.
    pub(super) fn acknowledged_events(&self) -> u16 {
        if self.ending == EndingKind::Acknowledged { self.events_or_code } else { 0 }
    }

    /// When its answer was there, in nanoseconds, rounded up to a whole microsecond after its begin.
    pub(super) fn answered_nanos(&self) -> u64 {
        self.begun_nanos.saturating_add(u64::from(self.took_micros) * 1_000)
    }
}

impl History {
    /// Remembers a command.
    pub fn command(&mut self, record: CommandRecord) {
        let stream = self.streams.number(&record.stream);
        let kind = u8::try_from(number(&mut self.kinds, record.kind)).unwrap_or(u8::MAX);
        let (ending, version, position, events_or_code) = match record.ending {
            Ending::Acknowledged { version, position, events } => (EndingKind::Acknowledged, version, position, events),
            Ending::Unchanged { version, position } => (EndingKind::Unchanged, version, position, 0),
            Ending::Refused { code } => {
                let code = u16::try_from(number(&mut self.codes, code)).unwrap_or(u16::MAX);
                (EndingKind::Refused, Version::EMPTY, GlobalPosition::START, code)
            }
            Ending::NotExecuted => (EndingKind::NotExecuted, Version::EMPTY, GlobalPosition::START, 0),
            Ending::Unknown => (EndingKind::Unknown, Version::EMPTY, GlobalPosition::START, 0),
        };
        self.commands.push(PackedCommand {
            command: record.command,
            begun_nanos: nanos(record.begun),
            position: position.0,
            contents: record.contents,
            took_micros: took_micros(record.begun, record.answered),
            stream,
            version: u32::try_from(version.0).unwrap_or(u32::MAX),
            events_or_code,
            kind,
            ending,
        });
    }

    /// Remembers a read.
    pub fn read(&mut self, record: ReadRecord) {
        let stream = self.streams.number(&record.stream);
        self.reads.push(PackedRead {
            token: record.token.0,
            begun_nanos: nanos(record.begun),
            answered_at: record.answered_at.0,
            took_micros: took_micros(record.begun, record.answered),
            stream,
            seen: u32::try_from(record.seen.0).unwrap_or(u32::MAX),
        });
    }

    /// Takes over what another worker remembers.
    pub fn absorb(&mut self, other: History) {
        let streams: Vec<u32> = other.streams.names.iter().map(|name| self.streams.number(name)).collect();
        let kinds: Vec<usize> = other.kinds.into_iter().map(|kind| number(&mut self.kinds, kind)).collect();
        let codes: Vec<usize> = other.codes.into_iter().map(|code| number(&mut self.codes, code)).collect();
        self.commands.reserve(other.commands.len());
        for mut command in other.commands {
            command.stream = streams[command.stream as usize];
            command.kind = u8::try_from(kinds[usize::from(command.kind)]).unwrap_or(u8::MAX);
            if command.ending == EndingKind::Refused {
                let code = codes[usize::from(command.events_or_code)];
                command.events_or_code = u16::try_from(code).unwrap_or(u16::MAX);
            }
            self.commands.push(command);
        }
        self.reads
            .extend(other.reads.into_iter().map(|read| PackedRead { stream: streams[read.stream as usize], ..read }));
    }

    /// About how many bytes it takes, and will take while it is checked.
    pub fn bytes(&self) -> u64 {
        let (commands, reads) = (self.commands.len() * COMMAND_BYTES, self.reads.len() * READ_BYTES);
        (commands + reads + self.streams.names.len() * STREAM_BYTES) as u64
    }

    /// How many commands it remembers.
    pub fn command_count(&self) -> usize {
        self.commands.len()
    }

    /// How many reads it remembers.
    pub fn read_count(&self) -> usize {
        self.reads.len()
    }

    /// The commands, in the order they were recorded or absorbed.
    pub fn commands(&self) -> impl ExactSizeIterator<Item = CommandRecord> + '_ {
        self.commands.iter().map(|packed| self.unpack(packed))
    }

    /// The reads, in the order they were recorded or absorbed.
    pub fn reads(&self) -> impl ExactSizeIterator<Item = ReadRecord> + '_ {
        self.reads.iter().map(|packed| self.unpack_read(packed))
    }

    /// The commands as they are kept.
    pub(super) fn packed_commands(&self) -> &[PackedCommand] {
        &self.commands
    }

    /// The reads as they are kept.
    pub(super) fn packed_reads(&self) -> &[PackedRead] {
        &self.reads
    }

    /// The command at this place in [`History::packed_commands`].
    pub(super) fn command_at(&self, place: usize) -> CommandRecord {
        self.unpack(&self.commands[place])
    }

    /// The code of a refused command.
    pub(super) fn refusal_code(&self, packed: &PackedCommand) -> &str {
        match packed.ending {
            EndingKind::Refused => &self.codes[usize::from(packed.events_or_code)],
            _ => "",
        }
    }

    /// Every stream that a command or read named; packed entries refer to a place in this list.
    pub(super) fn streams(&self) -> &[StreamId] {
        &self.streams.names
    }

    /// The place of a stream in [`History::streams`].
    pub(super) fn stream_number(&self, stream: &StreamId) -> Option<u32> {
        self.streams.numbers.get(stream).copied()
    }

    fn unpack(&self, packed: &PackedCommand) -> CommandRecord {
        let (version, position) = (Version(packed.version.into()), GlobalPosition(packed.position));
        let begun = Duration::from_nanos(packed.begun_nanos);
        CommandRecord {
            command: packed.command,
            stream: self.streams.names[packed.stream as usize].clone(),
            kind: self.kinds[usize::from(packed.kind)],
            begun,
            answered: begun + Duration::from_micros(packed.took_micros.into()),
            ending: match packed.ending {
                EndingKind::Acknowledged => Ending::Acknowledged { version, position, events: packed.events_or_code },
                EndingKind::Unchanged => Ending::Unchanged { version, position },
                EndingKind::Refused => Ending::Refused { code: self.codes[usize::from(packed.events_or_code)].clone() },
                EndingKind::NotExecuted => Ending::NotExecuted,
                EndingKind::Unknown => Ending::Unknown,
            },
            contents: packed.contents,
        }
    }

    fn unpack_read(&self, packed: &PackedRead) -> ReadRecord {
        let begun = Duration::from_nanos(packed.begun_nanos);
        ReadRecord {
            stream: self.streams.names[packed.stream as usize].clone(),
            token: GlobalPosition(packed.token),
            begun,
            answered: begun + Duration::from_micros(packed.took_micros.into()),
            answered_at: GlobalPosition(packed.answered_at),
            seen: Version(packed.seen.into()),
        }
    }
}

impl Streams {
    fn number(&mut self, stream: &StreamId) -> u32 {
        if let Some(number) = self.numbers.get(stream) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).expect("four thousand million streams do not fit in memory");
        self.names.push(stream.clone());
        self.numbers.insert(stream.clone(), number);
        number
    }
}

/// The place of `value` in a short list of distinct ones; it is added when missing.
fn number<T: PartialEq>(list: &mut Vec<T>, value: T) -> usize {
    list.iter().position(|listed| *listed == value).unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    })
}

fn nanos(since_start: Duration) -> u64 {
    u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX)
}

/// Rounded up, so that an answer never seems to have come before it did: two commands that overlapped by less than a
/// microsecond would else look ordered.
fn took_micros(begun: Duration, answered: Duration) -> u32 {
    let took_nanos = answered.saturating_sub(begun).as_nanos();
    u32::try_from(took_nanos.div_ceil(1_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn command(number: u128, key: &str, kind: &'static str, ending: Ending) -> CommandRecord {
        let (begun, answered) = (Duration::from_micros(5), Duration::from_micros(105));
        let (command, stream) = (CommandId(Uuid::from_u128(number)), StreamId::new("till", key));
        let contents = Some(Contents::of(kind, key));
        CommandRecord { command, stream, kind, begun, answered, ending, contents }
    }

    fn refused(code: &str) -> Ending {
        Ending::Refused { code: code.to_owned() }
    }

    #[test]
    fn what_two_workers_recorded_reads_the_same_once_joined() {
        let (position, version) = (GlobalPosition(u64::from(u32::MAX) + 9), Version(7));
        let mine = [
            command(1, "a", "open", Ending::Acknowledged { version, position, events: 3 }),
            command(2, "b", "pay", refused("closed")),
            command(3, "b", "pay", Ending::NotExecuted),
        ];
        let theirs = [
            command(4, "b", "pay", refused("empty")),
            command(5, "c", "open", refused("closed")),
            command(6, "a", "close", Ending::Unchanged { version, position }),
            command(7, "a", "close", Ending::Unknown),
        ];
        let read = ReadRecord {
            stream: StreamId::new("till", "c"),
            token: GlobalPosition(3),
            begun: Duration::from_secs(70),
            answered: Duration::from_secs(71),
            answered_at: GlobalPosition(4),
            seen: Version(2),
        };
        let (mut one, mut other) = (History::default(), History::default());
        mine.iter().for_each(|record| one.command(record.clone()));
        theirs.iter().for_each(|record| other.command(record.clone()));
        other.read(read.clone());

        one.absorb(other);

        assert_eq!(one.commands().collect::<Vec<_>>(), [&mine[..], &theirs].concat());
        assert_eq!(one.reads().collect::<Vec<_>>(), [read]);
        assert_eq!((one.command_count(), one.read_count()), (7, 1));
    }

    #[test]
    fn an_answer_is_never_remembered_as_earlier_than_it_came() {
        let mut history = History::default();
        let (begun, answered) = (Duration::from_nanos(1_001), Duration::from_nanos(2_002));
        history.command(CommandRecord { begun, answered, ..command(1, "a", "open", Ending::Unknown) });

        let remembered = history.commands().next().unwrap();

        // 1,001 ns later, rounded up to 2 µs.
        assert_eq!((remembered.begun, remembered.answered), (begun, Duration::from_nanos(3_001)));
    }

    #[test]
    fn entries_are_as_small_as_the_module_says() {
        assert_eq!((size_of::<PackedCommand>(), size_of::<PackedRead>()), (56, 40));
    }
}
