//! This file is the durable state of one subject: what is wanted, what is outside, and why it is not the same.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::projections::{Column, ColumnKind, Row, RowError, Value, Values};
use crate::stream::{GlobalPosition, Version};
use crate::synchroniser::{DeadLetter, Outcome, Progress, Recorded, Skip};

/// One subject.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SubjectRow {
    pub(crate) subject: String,
    /// Raised by intents only.
    pub(crate) wanted: Version,
    /// Position of the last intent.
    pub(crate) wanted_at: GlobalPosition,
    pub(crate) synced: Version,
    /// Since the last success, the last change of what is wanted, or the last release by an operator.
    pub(crate) attempts: u32,
    pub(crate) next_try: Option<DateTime<Utc>>,
    /// Whether a call of unknown outcome may still be on its way: only a look at the outside settles this subject.
    pub(crate) unsure: bool,
    pub(crate) last_failure: Option<String>,
    pub(crate) parked: Option<Parked>,
    /// What an operator does without, the last of it; kept for those who ask why.
    pub(crate) skipped: Option<Skipped>,
    /// How often an operator asked for another try.
    pub(crate) round: u32,
    pub(crate) outside_id: Option<String>,
    /// Position of the last outcome that is in this row; older ones in the log say nothing any more.
    pub(crate) outcome_at: GlobalPosition,
}

/// Why a subject is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) version: Version,
    pub(crate) reason: String,
    pub(crate) permanent: bool,
    pub(crate) since: DateTime<Utc>,
}

/// A failure that an operator does without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) failure: Parked,
    pub(crate) skip: Skip,
}

impl SubjectRow {
    pub(crate) fn new(subject: &str) -> Self {
        Self { subject: subject.to_owned(), ..Self::default() }
    }

    /// Whether something is to be done that nobody has set aside.
    pub(crate) fn is_pending(&self) -> bool {
        self.parked.is_none() && self.wanted > self.synced.max(self.skipped())
    }

    /// Up to this version an operator does without.
    fn skipped(&self) -> Version {
        self.skipped.as_ref().map_or(Version::EMPTY, |skipped| skipped.failure.version)
    }

    /// How far `version` is.
    pub(crate) fn progress(&self, version: Version) -> Progress {
        if self.synced >= version && self.synced > Version::EMPTY {
            return Progress::Synced(self.synced);
        }
        match self.dead_letter() {
            Some(letter) => Progress::Failed(letter),
            None if self.skipped() >= version => Progress::Skipped(self.skipped()),
            None => Progress::Pending,
        }
    }

    pub(crate) fn dead_letter(&self) -> Option<DeadLetter> {
        Some(self.letter(self.parked.as_ref()?, None))
    }

    /// The dead letter that an operator did without last.
    pub(crate) fn skipped_letter(&self) -> Option<DeadLetter> {
        let Skipped { failure, skip } = self.skipped.as_ref()?;
        Some(self.letter(failure, Some(skip.clone())))
    }

    fn letter(&self, failure: &Parked, skipped: Option<Skip>) -> DeadLetter {
        DeadLetter {
            subject: self.subject.clone(),
            version: failure.version,
            wanted: self.wanted,
            synced: self.synced,
            reason: failure.reason.clone(),
            permanent: failure.permanent,
            attempts: self.attempts,
            since: failure.since,
            skipped,
        }
    }

    /// An intent was recorded. A pause that the outside asked for still holds; the budget of attempts starts anew, for
    /// the change may be the very one that helps.
    pub(crate) fn want(&mut self, version: Version, position: GlobalPosition) {
        if version > self.wanted {
            self.wanted = version;
            self.wanted_at = position;
            if self.parked.is_none() {
                self.attempts = 0;
            }
        }
    }

    /// An outcome stands in the log at `position`, recorded `by` this principal.
    pub(crate) fn recorded(&mut self, recorded: Recorded, position: GlobalPosition, at: DateTime<Utc>, by: &str) {
        if position <= self.outcome_at {
            return;
        }
        match recorded {
            Recorded::Linked { outside_id } => self.outside_id = Some(outside_id),
            Recorded::Synced(version) => self.synced(version, position),
            Recorded::Failed { version, reason, permanent } => {
                self.park(Parked { version, reason, permanent, since: at }, position);
            }
            Recorded::Skipped { version, reason } => {
                self.skip(version, Skip { by: by.to_owned(), reason, at }, position);
            }
        }
    }

    /// The outcome of a call is durable, its record at `position` (the start of the log when there is none).
    pub(crate) fn settle(&mut self, outcome: Outcome, position: GlobalPosition, at: DateTime<Utc>) {
        match outcome {
            Outcome::Synced { version, outside_id } => {
                self.outside_id = outside_id;
                self.synced(version, position);
            }
            Outcome::Failed { version, reason, permanent } => {
                self.attempts += 1;
                self.park(Parked { version, reason, permanent, since: at }, position);
            }
            Outcome::Skipped { .. } => {}
        }
    }

    fn synced(&mut self, version: Version, position: GlobalPosition) {
        self.outcome_at = self.outcome_at.max(position);
        self.synced = self.synced.max(version);
        self.parked = None;
        self.attempts = 0;
        self.next_try = None;
        self.unsure = false;
        self.last_failure = None;
    }

    fn park(&mut self, parked: Parked, position: GlobalPosition) {
        self.outcome_at = self.outcome_at.max(position);
        if parked.version <= self.synced.max(self.skipped()) {
            return;
        }
        self.last_failure = Some(parked.reason.clone());
        self.next_try = None;
        self.parked = Some(parked);
    }

    /// A call failed and is tried again after `pause`.
    pub(crate) fn postpone(&mut self, reason: &str, pause: Duration, now: DateTime<Utc>) {
        self.last_failure = Some(reason.to_owned());
        self.next_try = Some(now + chrono::Duration::from_std(pause).unwrap_or(chrono::Duration::MAX / 4));
    }

    /// An operator wants another try; false when this is no dead letter.
    pub(crate) fn retry(&mut self) -> bool {
        let was_parked = self.parked.take().is_some();
        if was_parked {
            self.attempts = 0;
            self.next_try = None;
            self.round += 1;
        }
        was_parked
    }

    /// An operator does without the version that failed, as the log says at `position`; what came later is worked off.
    /// False when that version is no dead letter, nor done without.
    pub(crate) fn skip(&mut self, version: Version, skip: Skip, position: GlobalPosition) -> bool {
        self.outcome_at = self.outcome_at.max(position);
        let Some(failure) = self.parked.take_if(|parked| parked.version == version) else {
            return self.skipped() == version;
        };
        self.skipped = Some(Skipped { failure, skip });
        self.attempts = 0;
        self.next_try = None;
        self.round += 1;
        true
    }

    /// The outside drifted: bring it again.
    pub(crate) fn unsettle(&mut self) {
        self.synced = Version::EMPTY;
        self.attempts = 0;
        self.next_try = None;
    }
}

impl Row for SubjectRow {
    type Key = String;

    const COLUMNS: &'static [Column] = &[
        Column::required("subject", ColumnKind::Text),
        Column::required("wanted_version", ColumnKind::BigInt),
        Column::required("wanted_position", ColumnKind::BigInt),
        Column::required("synced_version", ColumnKind::BigInt),
        Column::required("attempts", ColumnKind::BigInt),
        Column::nullable("next_try", ColumnKind::Timestamp),
        Column::required("unsure", ColumnKind::Boolean),
        Column::nullable("last_failure", ColumnKind::Text),
        Column::nullable("parked_version", ColumnKind::BigInt),
        Column::nullable("parked_reason", ColumnKind::Text),
        Column::nullable("parked_permanent", ColumnKind::Boolean),
        Column::nullable("parked_since", ColumnKind::Timestamp),
        Column::nullable("skipped_version", ColumnKind::BigInt),
        Column::nullable("skipped_failure", ColumnKind::Text),
        Column::nullable("skipped_permanent", ColumnKind::Boolean),
        Column::nullable("skipped_since", ColumnKind::Timestamp),
        Column::nullable("skipped_by", ColumnKind::Text),
        Column::nullable("skipped_at", ColumnKind::Timestamp),
        Column::nullable("skip_reason", ColumnKind::Text),
        Column::required("round", ColumnKind::BigInt),
        Column::nullable("outside_id", ColumnKind::Text),
        Column::required("outcome_position", ColumnKind::BigInt),
    ];

    fn key(&self) -> String {
        self.subject.clone()
    }

    fn write(&self) -> Vec<Value> {
        let [parked_version, parked_reason, parked_permanent, parked_since] = failure(self.parked.as_ref());
        let skipped = self.skipped.as_ref();
        let [skipped_version, skipped_failure, skipped_permanent, skipped_since] =
            failure(skipped.map(|skipped| &skipped.failure));
        let skip = skipped.map(|skipped| &skipped.skip);
        vec![
            Value::Text(self.subject.clone()),
            number(self.wanted.0),
            number(self.wanted_at.0),
            number(self.synced.0),
            number(self.attempts.into()),
            self.next_try.map_or(Value::Null, Value::Timestamp),
            Value::Boolean(self.unsure),
            text(self.last_failure.as_ref()),
            parked_version,
            parked_reason,
            parked_permanent,
            parked_since,
            skipped_version,
            skipped_failure,
            skipped_permanent,
            skipped_since,
            text(skip.map(|skip| &skip.by)),
            skip.map_or(Value::Null, |skip| Value::Timestamp(skip.at)),
            text(skip.map(|skip| &skip.reason)),
            number(self.round.into()),
            text(self.outside_id.as_ref()),
            number(self.outcome_at.0),
        ]
    }

    fn read(values: &mut Values) -> Result<Self, RowError> {
        Ok(Self {
            subject: values.take()?,
            wanted: Version(unsigned(values)?),
            wanted_at: GlobalPosition(unsigned(values)?),
            synced: Version(unsigned(values)?),
            attempts: small(values)?,
            next_try: values.take()?,
            unsure: values.take()?,
            last_failure: values.take()?,
            parked: parked(values)?,
            skipped: skipped(values)?,
            round: small(values)?,
            outside_id: values.take()?,
            outcome_at: GlobalPosition(unsigned(values)?),
        })
    }
}

/// A failure in its four columns.
fn failure(parked: Option<&Parked>) -> [Value; 4] {
    let Some(parked) = parked else { return [const { Value::Null }; 4] };
    [
        number(parked.version.0),
        text(Some(&parked.reason)),
        Value::Boolean(parked.permanent),
        Value::Timestamp(parked.since),
    ]
}

fn parked(values: &mut Values) -> Result<Option<Parked>, RowError> {
    let version: Option<i64> = values.take()?;
    let (reason, permanent, since): (Option<String>, Option<bool>, Option<DateTime<Utc>>) =
        (values.take()?, values.take()?, values.take()?);
    let (Some(version), Some(reason), Some(permanent), Some(since)) = (version, reason, permanent, since) else {
        return Ok(None);
    };
    Ok(Some(Parked { version: Version(version.unsigned_abs()), reason, permanent, since }))
}

fn skipped(values: &mut Values) -> Result<Option<Skipped>, RowError> {
    let failure = parked(values)?;
    let (by, at, reason): (Option<String>, Option<DateTime<Utc>>, Option<String>) =
        (values.take()?, values.take()?, values.take()?);
    let (Some(failure), Some(by), Some(at), Some(reason)) = (failure, by, at, reason) else { return Ok(None) };
    Ok(Some(Skipped { failure, skip: Skip { by, reason, at } }))
}

fn text(text: Option<&String>) -> Value {
    // U+0000 breaks text columns; an outside system may well answer with one.
    text.map_or(Value::Null, |text| Value::Text(text.replace('\0', " ")))
}

fn number(number: u64) -> Value {
    Value::BigInt(i64::try_from(number).unwrap_or(i64::MAX))
}

fn unsigned(values: &mut Values) -> Result<u64, RowError> {
    values.take::<i64>().map(i64::unsigned_abs)
}

fn small(values: &mut Values) -> Result<u32, RowError> {
    Ok(u32::try_from(unsigned(values)?).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime<Utc> = DateTime::<Utc>::UNIX_EPOCH;

    fn parked(version: u64) -> SubjectRow {
        let mut row = SubjectRow::new("ada");
        row.want(Version(version), GlobalPosition(10));
        let failed = Outcome::Failed { version: Version(version), reason: "no".into(), permanent: true };
        row.settle(failed, GlobalPosition(11), NOW);
        row
    }

    fn skip() -> Skip {
        Skip { by: "ann".into(), reason: "not needed".into(), at: NOW }
    }

    #[test]
    fn a_row_comes_back_from_its_columns_as_it_went() {
        let full = SubjectRow {
            next_try: Some(NOW),
            unsure: true,
            skipped: Some(Skipped { failure: parked(1).parked.unwrap(), skip: skip() }),
            round: 2,
            outside_id: Some("x".into()),
            ..parked(3)
        };
        for row in [full, SubjectRow::new("bob")] {
            let read = SubjectRow::read(&mut Values::new(SubjectRow::COLUMNS, row.write())).unwrap();

            assert_eq!(read, row);
        }
    }

    #[test]
    fn later_changes_wait_behind_a_dead_letter_until_it_is_retried_or_skipped() {
        let mut row = parked(1);
        row.want(Version(2), GlobalPosition(12));
        assert!(!row.is_pending(), "a later change must not overtake");

        let mut skipped = row.clone();
        assert!(skipped.skip(Version(1), skip(), GlobalPosition(13)));
        assert!(row.retry());

        assert!(skipped.is_pending() && row.is_pending());
        assert_eq!(skipped.progress(Version(1)), Progress::Skipped(Version(1)));
        assert_eq!(row.progress(Version(1)), Progress::Pending);
    }

    #[test]
    fn a_dead_letter_with_nothing_behind_it_is_done_with_once_skipped() {
        let mut row = parked(1);

        row.skip(Version(1), skip(), GlobalPosition(12));

        assert!(!row.is_pending() && row.dead_letter().is_none());
        let letter = row.skipped_letter().unwrap();
        assert_eq!((&*letter.reason, letter.skipped), ("no", Some(skip())), "and who asks later is told why");
    }

    #[test]
    fn a_skip_that_comes_twice_or_for_another_version_changes_nothing_more() {
        let mut row = parked(2);

        assert!(!row.skip(Version(1), skip(), GlobalPosition(12)), "another version is not this letter");
        assert!(row.dead_letter().is_some());
        assert!(row.skip(Version(2), skip(), GlobalPosition(13)));
        assert!(row.skip(Version(2), Skip { by: "ben".into(), ..skip() }, GlobalPosition(13)));

        assert_eq!((row.skipped_letter().unwrap().skipped, row.round), (Some(skip()), 1));
    }

    #[test]
    fn what_the_log_says_of_a_skip_makes_the_same_row_as_the_operators_call() {
        let (mut told, mut read) = (parked(1), parked(1));
        told.skip(Version(1), skip(), GlobalPosition(12));

        let recorded = Recorded::Skipped { version: Version(1), reason: "not needed".into() };
        read.recorded(recorded, GlobalPosition(12), NOW, "ann");

        assert_eq!(told, read);
    }

    #[test]
    fn an_outcome_that_is_older_than_the_row_does_not_set_a_released_subject_aside_again() {
        let mut row = parked(1);
        row.retry();

        let failed = Recorded::Failed { version: Version(1), reason: "no".into(), permanent: true };
        row.recorded(failed, GlobalPosition(11), NOW, "synchroniser");

        assert!(row.is_pending());
    }
}
