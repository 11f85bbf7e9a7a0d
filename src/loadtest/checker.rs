//! This file holds what callers were told against the log: a pure function of the history, the log's events and the
//! read models' rows.
//!
//! ```text
//! finding      everything that can be amiss
//! sequence     positions and versions without holes
//! commands     each acknowledged command exactly once, as acknowledged; refused ones absent
//! contents     events say what their command decides
//! order        a command that began after another's answer has the higher version
//! reads        no read older than the position it was answered at
//! read_models  rows equal to the fold of the log
//! ```
//! The log is streamed through; beside the history the checker keeps 36 bytes a command, 4 a read and 32 a stream.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::{CommandId, RecordedEvent};
use crate::loadtest::history::History;
use crate::loadtest::results;
use crate::stream::{GlobalPosition, StreamId, Version};

mod commands;
mod contents;
pub mod finding;
mod order;
pub mod read_models;
mod reads;
mod sequence;
#[cfg(test)]
mod tests;

pub use contents::Contents;
pub use finding::{Finding, Findings, Sent};

use commands::Commands;
use reads::Reads;
use sequence::{Sequence, Step};

/// An event as far as the checker looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Its place in the log.
    pub position: GlobalPosition,
    /// Its id.
    pub event_id: Uuid,
    /// Whose event it is.
    pub stream: StreamId,
    /// Its place in the stream.
    pub version: Version,
    /// The command that made it, as its metadata say.
    pub command: CommandId,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// What it says.
    pub contents: Contents,
}

impl From<&RecordedEvent> for LoggedEvent {
    fn from(event: &RecordedEvent) -> Self {
        Self {
            position: event.position,
            event_id: event.event_id,
            stream: event.stream.clone(),
            version: event.version,
            command: event.metadata.command_id,
            recorded_at: event.recorded_at,
            contents: Contents::of(&event.event_type, &event.json),
        }
    }
}

/// What else may be in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nothing: the run had the log to itself.
    None,
    /// Events of streams that no command or read of the run named.
    OnOtherStreams,
}

/// Holds a history against the log: give it every event behind the start, in the log's order, then [`Checker::finish`].
pub struct Checker<'h> {
    history: &'h History,
    others: Others,
    start: GlobalPosition,
    positions: Sequence,
    /// Where each stream of the history stands; none until its first event when the log was not empty at the start.
    versions: Vec<Option<Sequence>>,
    commands: Commands<'h>,
    reads: Reads<'h>,
    recorded_at: Option<DateTime<Utc>>,
    events: u64,
    findings: Findings,
}

impl<'h> Checker<'h> {
    /// A checker of a run that found the log at `start` when it began; 0 for an empty log.
    pub fn new(history: &'h History, start: GlobalPosition, others: Others) -> Self {
        let mut findings = Findings::default();
        let known = (start == GlobalPosition::START).then(|| Sequence::after(0));
        Self {
            history,
            others,
            start,
            positions: Sequence::after(start.0),
            versions: vec![known; history.streams().len()],
            commands: Commands::new(history, &mut findings),
            reads: Reads::new(history),
            recorded_at: None,
            events: 0,
            findings,
        }
    }

    /// Looks at the next event of the log.
    pub fn event(&mut self, event: &LoggedEvent) {
        self.events += 1;
        // A read at an earlier position saw nothing of this event.
        self.reads.answered_below(event.position, &self.versions, &mut self.findings);
        self.check_position(event);
        self.check_time(event);
        let stream = self.history.stream_number(&event.stream);
        if let Some(stream) = stream {
            self.check_version(stream, event);
        }
        let is_known = self.commands.event(event, &mut self.findings);
        if !is_known && (stream.is_some() || self.others == Others::None) {
            let (command, stream, position) = (event.command, event.stream.clone(), event.position);
            self.findings.add(Finding::Foreign { command, stream, position });
        }
    }

    /// The verdict, once the log was read up to `head`, its last position.
    pub fn finish(mut self, head: GlobalPosition) -> Checked {
        self.reads.answered_below(head.next(), &self.versions, &mut self.findings);
        self.reads.answered_beyond(head, &mut self.findings);
        self.reads.ahead_of_log(&self.versions, &mut self.findings);
        self.check_sequences(head);
        self.commands.conclude(&mut self.findings);
        self.commands.check_absent(&self.versions, &mut self.findings);
        order::check(self.history, &self.commands, &mut self.findings);
        Checked {
            tally: self.commands.tally(),
            reads: self.reads.count(),
            events: self.events,
            findings: self.findings,
        }
    }

    fn check_position(&mut self, event: &LoggedEvent) {
        let after = GlobalPosition(self.positions.last());
        if self.positions.take(event.position.0) == Step::Behind {
            self.findings.add(Finding::PositionsOutOfOrder { position: event.position, after });
        }
    }

    fn check_time(&mut self, event: &LoggedEvent) {
        if let Some(previous) = self.recorded_at.filter(|previous| *previous > event.recorded_at) {
            let (position, recorded_at) = (event.position, event.recorded_at);
            self.findings.add(Finding::TimeWentBack { position, recorded_at, previous });
        }
        self.recorded_at = self.recorded_at.max(Some(event.recorded_at));
    }

    fn check_version(&mut self, stream: u32, event: &LoggedEvent) {
        let before_this = event.version.0.saturating_sub(1);
        let versions = self.versions[stream as usize].get_or_insert_with(|| Sequence::after(before_this));
        let after = Version(versions.last());
        if versions.take(event.version.0) == Step::Behind {
            let (stream, version, position) = (event.stream.clone(), event.version, event.position);
            self.findings.add(Finding::VersionsOutOfOrder { stream, version, after, position });
        }
    }

    fn check_sequences(&mut self, head: GlobalPosition) {
        for range in self.positions.missing() {
            let (first, last) = (GlobalPosition(*range.start()), GlobalPosition(*range.end()));
            self.findings.add(Finding::HoleInPositions { first, last });
        }
        let last = GlobalPosition(self.positions.last());
        if last != head && self.start <= head {
            self.findings.add(Finding::EndsBeforeHead { last, head });
        }
        for (stream, versions) in self.history.streams().iter().zip(&self.versions) {
            for range in versions.iter().flat_map(Sequence::missing) {
                let (first, last) = (Version(*range.start()), Version(*range.end()));
                self.findings.add(Finding::HoleInVersions { stream: stream.clone(), first, last });
            }
        }
    }
}

/// What a checker looked at and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The commands.
    pub tally: Tally,
    /// How many reads were held against the log.
    pub reads: u64,
    /// How many events of the log were looked at.
    pub events: u64,
    /// What is amiss.
    pub findings: Findings,
}

/// Commands by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub commands: u64,
    /// Those acknowledged with events.
    pub acknowledged: u64,
    /// Those whose outcome their callers do not know.
    pub unknown: u64,
    /// Of the unknown ones, those with events in the log.
    pub unknown_in_log: u64,
}

impl Checked {
    /// As it stands in the results. Findings about read models are added with [`Findings::add_to`].
    pub fn to_results(&self) -> results::Verification {
        let mut verification = results::Verification {
            commands: self.tally.commands,
            acknowledged: self.tally.acknowledged,
            unknown: self.tally.unknown,
            unknown_in_log: self.tally.unknown_in_log,
            reads: self.reads,
            events: self.events,
            ..results::Verification::default()
        };
        self.findings.add_to(&mut verification);
        verification
    }
}
