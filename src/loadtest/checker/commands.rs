//! This file holds each command's answer against its events: exactly once, whole, where it was acknowledged and with
//! what it decides, or absent.

use std::ops::Range;

use uuid::Uuid;

use super::finding::{Finding, Findings, Sent};
use super::sequence::Sequence;
use super::{Contents, LoggedEvent, Tally};
use crate::event::CommandId;
use crate::loadtest::history::{EndingKind, History, PackedCommand};
use crate::stream::{GlobalPosition, Version};

/// The most events looked for behind a missing one: the engine's default limit for a command.
const MOST_EVENTS: u16 = 1_000;

/// The commands of a history and what the log had of each so far.
pub(super) struct Commands<'h> {
    history: &'h History,
    /// Places in the history, by command id.
    by_id: Vec<u32>,
    /// At the command's place in the history.
    found: Vec<Found>,
    /// The place of the last event's command, if it was one of ours, and what its events side by side say so far.
    last: Option<(usize, Contents)>,
}

/// What the log had of one command.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    first: GlobalPosition,
    last: GlobalPosition,
    /// The stream's version behind its last event.
    pub(super) version: u32,
    /// How many of its events there were.
    pub(super) events: u16,
    /// One defect makes one finding: what else is odd about the same command follows from it.
    pub(super) is_reported: bool,
}

impl<'h> Commands<'h> {
    /// Nothing found yet.
    pub(super) fn new(history: &'h History, findings: &mut Findings) -> Self {
        let packed = history.packed_commands();
        let count = u32::try_from(packed.len()).expect("four thousand million commands do not fit in memory");
        let mut by_id: Vec<u32> = (0..count).collect();
        by_id.sort_unstable_by_key(|place| (packed[*place as usize].command, *place));
        let mut commands = Self { history, found: vec![Found::default(); packed.len()], last: None, by_id };
        commands.report_repeated_ids(findings);
        commands
    }

    /// What was found of the command at this place.
    pub(super) fn found(&self, place: usize) -> &Found {
        &self.found[place]
    }

    /// Looks at an event; whether its command is one of the history's.
    pub(super) fn event(&mut self, event: &LoggedEvent, findings: &mut Findings) -> bool {
        let place = self.place_of(event.command);
        let previous = self.last.filter(|(previous, _)| Some(*previous) == place);
        if previous.is_none() {
            self.conclude(findings);
        }
        let said = previous.map_or(event.contents, |(_, said)| said.and(event.contents));
        self.last = place.map(|place| (place, said));
        let Some(place) = place else { return false };
        let packed = &self.history.packed_commands()[place];
        let found = self.found[place];
        let is_first = found.events == 0;
        self.found[place] = Found {
            first: if is_first { event.position } else { found.first },
            last: event.position,
            version: u32::try_from(event.version.0).unwrap_or(u32::MAX),
            events: found.events.saturating_add(1),
            is_reported: found.is_reported,
        };
        if !found.is_reported {
            let is_adjacent = is_first || previous.is_some();
            let amiss = self.amiss(place, packed, &found, is_adjacent, event);
            self.report(place, amiss, findings);
        }
        true
    }

    /// Behind the last event of a command: whether they said what it decides. Those of a command that is torn are told
    /// to be that.
    pub(super) fn conclude(&mut self, findings: &mut Findings) {
        let Some((place, said)) = self.last.take() else { return };
        let (packed, found) = (&self.history.packed_commands()[place], self.found[place]);
        let is_torn = packed.ending == EndingKind::Acknowledged && found.events < packed.acknowledged_events();
        if found.is_reported || is_torn || packed.contents.is_none_or(|decided| decided == said) {
            return;
        }
        let amiss = Finding::OtherContents { sent: self.sent(place), first: found.first, last: found.last };
        self.report(place, Some(amiss), findings);
    }

    /// Once the log was read: what should have been there, and what cannot be known to have been.
    pub(super) fn check_absent(&mut self, versions: &[Option<Sequence>], findings: &mut Findings) {
        for (place, packed) in self.history.packed_commands().iter().enumerate() {
            let found = self.found[place];
            let last = versions[packed.stream as usize].as_ref().map(|versions| Version(versions.last()));
            if !found.is_reported {
                let amiss = match packed.ending {
                    EndingKind::Acknowledged => self.lost_or_torn(place, packed, &found),
                    EndingKind::Unchanged => self.not_reached(place, packed, last),
                    EndingKind::Refused | EndingKind::NotExecuted | EndingKind::Unknown => None,
                };
                self.report(place, amiss, findings);
            }
        }
    }

    /// The commands by how they ended.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for (packed, found) in self.history.packed_commands().iter().zip(&self.found) {
            tally.commands += 1;
            match packed.ending {
                EndingKind::Acknowledged => tally.acknowledged += 1,
                EndingKind::Unknown => {
                    tally.unknown += 1;
                    tally.unknown_in_log += u64::from(found.events > 0);
                }
                EndingKind::Unchanged | EndingKind::Refused | EndingKind::NotExecuted => {}
            }
        }
        tally
    }

    /// The command at this place, for a person.
    pub(super) fn sent(&self, place: usize) -> Sent {
        let record = self.history.command_at(place);
        Sent { command: record.command, kind: record.kind, stream: record.stream }
    }

    /// What is wrong with this event of the command, of which `found` came before it.
    fn amiss(
        &self,
        place: usize,
        packed: &PackedCommand,
        found: &Found,
        is_adjacent: bool,
        event: &LoggedEvent,
    ) -> Option<Finding> {
        let position = event.position;
        if let Some(finding) = self.must_be_absent(place, packed, position) {
            return Some(finding);
        }
        if self.history.stream_number(&event.stream) != Some(packed.stream) {
            return Some(Finding::WrongStream { sent: self.sent(place), found: event.stream.clone(), position });
        }
        if event.event_id != packed.command.event_id(found.events.into()) {
            return Some(self.not_the_next(place, packed, found, event));
        }
        if !is_adjacent {
            return Some(Finding::Scattered { sent: self.sent(place), first: found.first, position });
        }
        let acknowledged = packed.acknowledged_events();
        if packed.ending == EndingKind::Acknowledged && found.events >= acknowledged {
            return Some(Finding::TooManyEvents { sent: self.sent(place), acknowledged, position });
        }
        // Only the last event stands where the acknowledgement says.
        if found.events + 1 == acknowledged { self.elsewhere(place, packed, event) } else { None }
    }

    fn must_be_absent(&self, place: usize, packed: &PackedCommand, position: GlobalPosition) -> Option<Finding> {
        let sent = || self.sent(place);
        match packed.ending {
            EndingKind::Acknowledged | EndingKind::Unknown => None,
            EndingKind::Refused => {
                let code = self.history.refusal_code(packed).to_owned();
                Some(Finding::RefusedButPresent { sent: sent(), code, position })
            }
            EndingKind::NotExecuted => Some(Finding::NotExecutedButPresent { sent: sent(), position }),
            EndingKind::Unchanged => Some(Finding::UnchangedButPresent { sent: sent(), position }),
        }
    }

    /// The event's id is not that of the command's next event: an earlier one's, a later one's, or none of its.
    fn not_the_next(&self, place: usize, packed: &PackedCommand, found: &Found, event: &LoggedEvent) -> Finding {
        let (sent, position) = (self.sent(place), event.position);
        let is_one_of = |numbers: Range<u16>| numbers.into_iter().any(|n| id_of(packed, n) == event.event_id);
        if is_one_of(0..found.events) {
            Finding::Doubled { sent, first: found.first, again: position }
        } else if is_one_of(found.events..found.events.saturating_add(MOST_EVENTS)) {
            let acknowledged = Some(packed.acknowledged_events()).filter(|events| *events > 0);
            Finding::Torn { sent, acknowledged, found: found.events, position }
        } else {
            Finding::Forged { sent, event_id: event.event_id, position }
        }
    }

    fn elsewhere(&self, place: usize, packed: &PackedCommand, event: &LoggedEvent) -> Option<Finding> {
        let sent = || self.sent(place);
        let (version, position) = (Version(packed.version.into()), GlobalPosition(packed.position));
        if event.version != version {
            return Some(Finding::WrongVersion { sent: sent(), acknowledged: version, found: event.version });
        }
        let is_there = event.position == position;
        (!is_there).then(|| Finding::WrongPosition { sent: sent(), acknowledged: position, found: event.position })
    }

    fn lost_or_torn(&self, place: usize, packed: &PackedCommand, found: &Found) -> Option<Finding> {
        let acknowledged = packed.acknowledged_events();
        if found.events == 0 {
            let (version, position) = (Version(packed.version.into()), GlobalPosition(packed.position));
            return Some(Finding::Lost { sent: self.sent(place), version, position });
        }
        let is_torn = found.events < acknowledged;
        is_torn.then(|| Finding::Torn {
            sent: self.sent(place),
            acknowledged: Some(acknowledged),
            found: found.events,
            position: found.last,
        })
    }

    fn not_reached(&self, place: usize, packed: &PackedCommand, last: Option<Version>) -> Option<Finding> {
        let answered = Version(packed.version.into());
        let last = last.filter(|last| *last < answered)?;
        Some(Finding::VersionNotReached { sent: self.sent(place), answered, last })
    }

    fn report(&mut self, place: usize, amiss: Option<Finding>, findings: &mut Findings) {
        if let Some(finding) = amiss {
            self.found[place].is_reported = true;
            findings.add(finding);
        }
    }

    /// Nothing can be said of a command that was recorded twice, but that.
    fn report_repeated_ids(&mut self, findings: &mut Findings) {
        let packed = self.history.packed_commands();
        for pair in self.by_id.windows(2) {
            let (first, again) = (pair[0] as usize, pair[1] as usize);
            if packed[first].command == packed[again].command {
                (self.found[first].is_reported, self.found[again].is_reported) = (true, true);
                findings.add(Finding::RecordedTwice { sent: self.sent(again) });
            }
        }
    }

    /// The first record with this id.
    fn place_of(&self, command: CommandId) -> Option<usize> {
        let packed = self.history.packed_commands();
        let at = self.by_id.partition_point(|place| packed[*place as usize].command < command);
        let place = *self.by_id.get(at)? as usize;
        (packed[place].command == command).then_some(place)
    }
}

fn id_of(packed: &PackedCommand, n: u16) -> Uuid {
    packed.command.event_id(n.into())
}
