//! This file names everything that can be amiss between what callers were told, the log and the read models.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::CommandId;
use crate::loadtest::results;
use crate::stream::{GlobalPosition, StreamId, Version};

/// Findings kept of each kind; of the others only the number is known.
pub const KEPT_PER_KIND: u64 = 20;

/// A command, for a person to find it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub command: CommandId,
    /// What was asked.
    pub kind: &'static str,
    /// Of whom.
    pub stream: StreamId,
}

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the values in the sentence that `Display` makes of the finding")]
pub enum Finding {
    /// Acknowledged, and no event of it is in the log.
    Lost { sent: Sent, version: Version, position: GlobalPosition },
    /// Some of its events are in the log and some are missing.
    Torn { sent: Sent, acknowledged: Option<u16>, found: u16, position: GlobalPosition },
    /// Its events do not stand side by side.
    Scattered { sent: Sent, first: GlobalPosition, position: GlobalPosition },
    /// One of its events is in the log twice.
    Doubled { sent: Sent, first: GlobalPosition, again: GlobalPosition },
    /// Acknowledged with fewer events than the log has.
    TooManyEvents { sent: Sent, acknowledged: u16, position: GlobalPosition },
    /// Refused, and in the log.
    RefusedButPresent { sent: Sent, code: String, position: GlobalPosition },
    /// Answered as not executed, and in the log.
    NotExecutedButPresent { sent: Sent, position: GlobalPosition },
    /// Answered as changing nothing, and in the log.
    UnchangedButPresent { sent: Sent, position: GlobalPosition },
    /// Acknowledged at another position than the log has.
    WrongPosition { sent: Sent, acknowledged: GlobalPosition, found: GlobalPosition },
    /// Acknowledged at another version than the log has.
    WrongVersion { sent: Sent, acknowledged: Version, found: Version },
    /// Answered at a version that the stream never reached.
    VersionNotReached { sent: Sent, answered: Version, last: Version },
    /// In the log, and not with what it decides.
    OtherContents { sent: Sent, first: GlobalPosition, last: GlobalPosition },
    /// In the log on another stream than it was sent to.
    WrongStream { sent: Sent, found: StreamId, position: GlobalPosition },
    /// An event whose command nobody sent.
    Foreign { command: CommandId, stream: StreamId, position: GlobalPosition },
    /// An event that names a command that was sent, and whose id does not follow from it.
    Forged { sent: Sent, event_id: Uuid, position: GlobalPosition },
    /// Positions that no event has.
    HoleInPositions { first: GlobalPosition, last: GlobalPosition },
    /// A position that came again, or late.
    PositionsOutOfOrder { position: GlobalPosition, after: GlobalPosition },
    /// The log ends before its head.
    EndsBeforeHead { last: GlobalPosition, head: GlobalPosition },
    /// Versions that no event has.
    HoleInVersions { stream: StreamId, first: Version, last: Version },
    /// A version that came again, or late.
    VersionsOutOfOrder { stream: StreamId, version: Version, after: Version, position: GlobalPosition },
    /// An event recorded before its predecessor.
    TimeWentBack { position: GlobalPosition, recorded_at: DateTime<Utc>, previous: DateTime<Utc> },
    /// A command took effect before one that had been answered when it began.
    RealTimeOrder { earlier: Sent, earlier_version: Version, later: Sent, later_version: Version },
    /// A read was answered at a position below the one it had to include.
    StaleRead { stream: StreamId, token: GlobalPosition, answered_at: GlobalPosition },
    /// A read showed an older version than the log had at the position it was answered at.
    StaleRow { stream: StreamId, answered_at: GlobalPosition, seen: Version, expected: Version },
    /// A read showed a version that is not in the log.
    ReadAheadOfLog { stream: StreamId, answered_at: GlobalPosition, seen: Version, last: Version },
    /// A read was answered at a position that the log never reached.
    ReadBeyondHead { stream: StreamId, answered_at: GlobalPosition, head: GlobalPosition },
    /// A read model is not at the position it is compared at.
    ReadModelElsewhere { model: String, shown: GlobalPosition, expected: GlobalPosition },
    /// A row of a read model is not what the log makes of it.
    RowDiffers { model: String, key: String, column: String, shown: String, folded: String },
    /// A row that the log does not make.
    RowTooMany { model: String, key: String },
    /// A row that the log makes is missing.
    RowMissing { model: String, key: String },
    /// A read model whose digest is not that of the log's fold.
    DigestDiffers { model: String, position: GlobalPosition, shown: String, folded: String },
    /// The history itself is at fault: two commands were recorded under one id.
    RecordedTwice { sent: Sent },
}

impl Finding {
    /// Its kind in one word, as it stands in the results.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::Torn { .. } => "torn",
            Self::Scattered { .. } => "scattered",
            Self::Doubled { .. } => "doubled",
            Self::TooManyEvents { .. } => "too_many_events",
            Self::RefusedButPresent { .. } => "refused_but_present",
            Self::NotExecutedButPresent { .. } => "not_executed_but_present",
            Self::UnchangedButPresent { .. } => "unchanged_but_present",
            Self::WrongPosition { .. } => "wrong_position",
            Self::WrongVersion { .. } => "wrong_version",
            Self::VersionNotReached { .. } => "version_not_reached",
            Self::OtherContents { .. } => "other_contents",
            Self::WrongStream { .. } => "wrong_stream",
            Self::Foreign { .. } => "foreign",
            Self::Forged { .. } => "forged",
            Self::HoleInPositions { .. } => "hole_in_positions",
            Self::PositionsOutOfOrder { .. } => "positions_out_of_order",
            Self::EndsBeforeHead { .. } => "ends_before_head",
            Self::HoleInVersions { .. } => "hole_in_versions",
            Self::VersionsOutOfOrder { .. } => "versions_out_of_order",
            Self::TimeWentBack { .. } => "time_went_back",
            Self::RealTimeOrder { .. } => "real_time_order",
            Self::StaleRead { .. } => "stale_read",
            Self::StaleRow { .. } => "stale_row",
            Self::ReadAheadOfLog { .. } => "read_ahead_of_log",
            Self::ReadBeyondHead { .. } => "read_beyond_head",
            Self::ReadModelElsewhere { .. } => "read_model_elsewhere",
            Self::RowDiffers { .. } => "row_differs",
            Self::RowTooMany { .. } => "row_too_many",
            Self::RowMissing { .. } => "row_missing",
            Self::DigestDiffers { .. } => "digest_differs",
            Self::RecordedTwice { .. } => "recorded_twice",
        }
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, kind, stream } = self;
        write!(f, "{kind} of {stream} (command {command})")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { sent, version, position } => {
                write!(f, "{sent} was acknowledged at version {version}, position {position}, and is not in the log")
            }
            Self::Torn { sent, acknowledged, found, position } => {
                write!(f, "only a part of {sent} is in the log: {found}")?;
                acknowledged.map_or(Ok(()), |all| write!(f, " of {all}"))?;
                write!(f, " events up to position {position}")
            }
            Self::Scattered { sent, first, position } => {
                write!(f, "{sent} begins at position {first} and goes on at {position}, behind events of others")
            }
            Self::Doubled { sent, first, again } => {
                write!(f, "{sent} is in the log twice: at position {first} and again at {again}")
            }
            Self::TooManyEvents { sent, acknowledged, position } => {
                write!(f, "{sent} was acknowledged with {acknowledged} events; the log has one more at {position}")
            }
            Self::RefusedButPresent { sent, code, position } => {
                write!(f, "{sent} was refused ({code}) and is in the log at position {position}")
            }
            Self::NotExecutedButPresent { sent, position } => {
                write!(f, "{sent} was answered as not executed and is in the log at position {position}")
            }
            Self::UnchangedButPresent { sent, position } => {
                write!(f, "{sent} was answered as changing nothing and is in the log at position {position}")
            }
            Self::WrongPosition { sent, acknowledged, found } => {
                write!(f, "{sent} was acknowledged at position {acknowledged}; in the log it ends at {found}")
            }
            Self::WrongVersion { sent, acknowledged, found } => {
                write!(f, "{sent} was acknowledged at version {acknowledged}; in the log it ends at version {found}")
            }
            Self::VersionNotReached { sent, answered, last } => {
                write!(f, "{sent} was answered at version {answered}; in the log the stream ends at version {last}")
            }
            Self::OtherContents { sent, first, last } if first == last => {
                write!(f, "{sent} is in the log at position {first}, where its event does not say what it decides")
            }
            Self::OtherContents { sent, first, last } => {
                write!(f, "{sent} is in the log at {first} to {last}, where its events do not say what it decides")
            }
            Self::WrongStream { sent, found, position } => {
                write!(f, "{sent} is in the log at position {position}, on stream {found}")
            }
            Self::Foreign { command, stream, position } => {
                write!(f, "the event at position {position} on {stream} is of command {command}, which nobody sent")
            }
            Self::Forged { sent, event_id, position } => {
                write!(
                    f,
                    "the event {event_id} at position {position} names {sent}, but its id does not follow from it"
                )
            }
            Self::HoleInPositions { first, last } if first == last => write!(f, "no event has position {first}"),
            Self::HoleInPositions { first, last } => write!(f, "no event has the positions {first} to {last}"),
            Self::PositionsOutOfOrder { position, after } => {
                write!(f, "the log gives position {position} behind position {after}")
            }
            Self::EndsBeforeHead { last, head } => {
                write!(f, "the head is at position {head}, the last event at {last}")
            }
            Self::HoleInVersions { stream, first, last } if first == last => {
                write!(f, "no event of {stream} has version {first}")
            }
            Self::HoleInVersions { stream, first, last } => {
                write!(f, "no event of {stream} has the versions {first} to {last}")
            }
            Self::VersionsOutOfOrder { stream, version, after, position } => {
                write!(f, "{stream} has version {version} at position {position}, behind version {after}")
            }
            Self::TimeWentBack { position, recorded_at, previous } => {
                write!(
                    f,
                    "the event at position {position} was recorded at {recorded_at:?}, its predecessor at {previous:?}"
                )
            }
            Self::RealTimeOrder { earlier, earlier_version, later, later_version } => write!(
                f,
                "{later} began after {earlier} had been answered at version {earlier_version}, and took effect before \
                 it, at version {later_version}"
            ),
            Self::StaleRead { stream, token, answered_at } => {
                write!(f, "a read of {stream} had to include position {token} and was answered at {answered_at}")
            }
            Self::StaleRow { stream, answered_at, seen, expected } => write!(
                f,
                "a read of {stream} answered at position {answered_at} showed version {seen}; the log was at version \
                 {expected} there"
            ),
            Self::ReadAheadOfLog { stream, answered_at, seen, last } => write!(
                f,
                "a read of {stream} answered at position {answered_at} showed version {seen}; the stream ends at \
                 version {last}"
            ),
            Self::ReadBeyondHead { stream, answered_at, head } => {
                write!(f, "a read of {stream} was answered at position {answered_at}; the log ends at {head}")
            }
            Self::ReadModelElsewhere { model, shown, expected } => {
                write!(f, "the read model {model} is at position {shown}, not at {expected}")
            }
            Self::RowDiffers { model, key, column, shown, folded } => {
                write!(f, "{model}, row {key}: {column} is {shown}; the log makes it {folded}")
            }
            Self::RowTooMany { model, key } => write!(f, "{model} has a row {key} that the log does not make"),
            Self::RowMissing { model, key } => write!(f, "{model} lacks the row {key} that the log makes"),
            Self::DigestDiffers { model, position, shown, folded } => {
                write!(f, "{model} at position {position} has digest {shown}; the log makes it {folded}")
            }
            Self::RecordedTwice { sent } => write!(f, "the run recorded {sent} twice: its own fault"),
        }
    }
}

/// What was found: how many of each kind, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    counts: BTreeMap<&'static str, u64>,
    kept: Vec<Finding>,
}

impl Findings {
    /// Adds one; beyond [`KEPT_PER_KIND`] of a kind it is only counted.
    pub fn add(&mut self, finding: Finding) {
        let count = self.counts.entry(finding.kind()).or_default();
        *count += 1;
        if *count <= KEPT_PER_KIND {
            self.kept.push(finding);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many there are of each kind.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// The first of each kind, in the order they were found.
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }

    /// Writes them into the results.
    pub fn add_to(&self, verification: &mut results::Verification) {
        for (kind, count) in &self.counts {
            *verification.counts.entry((*kind).to_owned()).or_default() += count;
        }
        let kept = self.kept.iter();
        let lines = kept.map(|found| results::Finding { kind: found.kind().to_owned(), sentence: found.to_string() });
        verification.findings.extend(lines);
    }
}
