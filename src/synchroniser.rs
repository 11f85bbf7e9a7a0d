//! This file is the contract of a synchroniser: how an outside system is brought in step with aggregates of the log.
//!
//! ```text
//! Subject's events ── is_intent ──> wanted version of the subject (one durable row)
//!        │                                  │ due, and nothing of this subject under way
//!        └── folded up to it ── Call ──> read_back?  bring  read_back? ── Outcome ──> command of Record
//! ```
//! The event is the intent, the call follows it, and its outcome is an event again, of an aggregate of its own. What
//! is sent is the full wanted state at a version and never a difference, so that repeating a call does no harm.
//! `actors/synchroniser.rs` runs what this file specifies.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::aggregate::Aggregate;
use crate::event::CommandId;
use crate::stream::{GlobalPosition, Version};

/// An outside system and how it follows from the log. A subject is one instance of [`Synchroniser::Subject`].
///
/// The calls are made at least once, in order for each subject, subjects side by side. The process may die at any
/// instant; so the outside must carry the subject's key and the version it was brought to, and a call must find by
/// itself what an earlier one left behind.
#[async_trait]
pub trait Synchroniser: Send + Sync + Sized + 'static {
    /// Name in logs, metrics, the checkpoint row and the table of subjects: `[a-z][a-z0-9_]*`, at most 40 bytes.
    const NAME: &'static str;
    /// Which function of the log the wanted versions are, from 1. A new one starts from the first event: everything is
    /// brought again.
    const VERSION: u32 = 1;

    /// Whose events are the intents, and whose state is wanted outside.
    type Subject: Aggregate;
    /// Whose events are the outcomes; its instances have the keys of the subjects.
    type Record: Aggregate;

    /// Whether this event changes what is wanted outside.
    fn is_intent(event: &<Self::Subject as Aggregate>::Event) -> bool;

    /// The command that records an outcome; none when it need not be recorded.
    fn record(outcome: &Outcome) -> Option<<Self::Record as Aggregate>::Command>;

    /// What an event of the record says, for a start whose rows are older than the log.
    fn recorded(event: &<Self::Record as Aggregate>::Event) -> Option<Recorded>;

    /// Makes the outside be as wanted, creating or removing what it takes.
    ///
    /// # Errors
    /// [`Failure`] says what is done next.
    async fn bring(&self, call: &Call<'_, Self::Subject>) -> Result<Brought, Failure>;

    /// Looks at the outside without changing it.
    ///
    /// # Errors
    /// [`Failure`]; one that is unknown or permanent only means that nothing was learnt.
    async fn read_back(&self, call: &Call<'_, Self::Subject>) -> Result<Seen, Failure>;

    /// What is outside and carries the key of a subject, a page at a time, beginning behind the first `skip` things
    /// there. A reconcile looks for those whose subject the log does not know. An outside that cannot be listed has
    /// none.
    ///
    /// # Errors
    /// [`Failure`]; whichever it is, only this page was not learnt.
    async fn survey(&self, skip: u32) -> Result<Survey, Failure> {
        let _ = skip;
        Ok(Survey::default())
    }

    /// Removes what a survey found, if it is still there and still carries this key.
    ///
    /// # Errors
    /// [`Failure`]; the next reconcile will find it again.
    async fn remove(&self, found: &Found) -> Result<(), Failure> {
        Err(Failure::Permanent { reason: format!("{} cannot be removed here", found.outside_id) })
    }
}

/// One page of what is outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Those that carry a key of ours.
    pub found: Vec<Found>,
    /// How many things to skip for the next page; none when this was the last.
    pub next: Option<u32>,
}

/// Something outside that carries a key of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The key it carries.
    pub subject: String,
    /// What the outside calls it.
    pub outside_id: String,
}

/// One call for one subject.
#[derive(Debug)]
pub struct Call<'a, S> {
    /// The subject's key.
    pub subject: &'a str,
    /// Its whole state at `version`.
    pub wanted: &'a S,
    /// The version of the subject's last intent.
    pub version: Version,
    /// How often this was tried before, plus one.
    pub attempt: u32,
    /// What the outside calls it, when an earlier call said so. A hint: it may be missing or gone.
    pub outside_id: Option<&'a str>,
}

/// A call that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brought {
    /// What the outside calls the subject, if it is there.
    pub outside_id: Option<String>,
}

/// What a look at the outside showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It is as wanted, and carries this very version.
    InStep(Brought),
    /// It is not: names of what differs, without values; `missing` when nothing is there, `left over` when something
    /// is that should not be.
    Differs(Vec<String>),
}

/// How a call fails; one variant a reaction. Reasons are for operators: one line, bounded, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not done; tried again with growing pauses, not before `after` when the outside named a time, and set aside when
    /// the budget of attempts is used up.
    #[error("to be tried later: {reason}")]
    Later {
        /// What was answered.
        reason: String,
        /// What the outside asked for.
        after: Option<Duration>,
    },
    /// Perhaps done, and perhaps still to be: the subject stays pending until a look shows this version.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What became of the answer.
        reason: String,
    },
    /// Hopeless until somebody changes something: a dead letter.
    #[error("refused: {reason}")]
    Permanent {
        /// Why.
        reason: String,
    },
    /// Nobody's call can succeed at present: costs the subject no attempt, and counts for the breaker.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// What was tried.
        reason: String,
        /// What the outside asked for.
        after: Option<Duration>,
    },
}

impl Failure {
    /// Why, for operators.
    pub fn reason(&self) -> &str {
        match self {
            Self::Later { reason, .. }
            | Self::Unknown { reason }
            | Self::Permanent { reason }
            | Self::Unavailable { reason, .. } => reason,
        }
    }
}

/// What is to be recorded of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The outside is as wanted at this version.
    Synced {
        /// Which one.
        version: Version,
        /// What the outside calls it.
        outside_id: Option<String>,
    },
    /// It was set aside as a dead letter.
    Failed {
        /// The version that failed.
        version: Version,
        /// Why.
        reason: String,
        /// Whether it is hopeless; else its attempts were used up.
        permanent: bool,
    },
    /// An operator does without the version that failed; who, is in the metadata of the record's event.
    Skipped {
        /// Which one.
        version: Version,
        /// The operator's words.
        reason: String,
    },
}

impl Outcome {
    /// The version it is about.
    pub fn version(&self) -> Version {
        match self {
            Self::Synced { version, .. } | Self::Failed { version, .. } | Self::Skipped { version, .. } => *version,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Synced { .. } => "synced",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// The id of the command that records it, the same however often it is recorded. `round` counts how often an
    /// operator asked for another try; a failure of each is one of its own.
    pub fn effect_id(&self, synchroniser: &str, subject: &str, round: u32) -> CommandId {
        // An account that was made anew at the same version is another effect.
        let detail = match self {
            Self::Synced { outside_id, .. } => outside_id.clone().unwrap_or_default(),
            Self::Failed { .. } | Self::Skipped { .. } => round.to_string(),
        };
        let version = self.version().0.to_be_bytes();
        let parts = [synchroniser.as_bytes(), subject.as_bytes(), &version, self.kind().as_bytes(), detail.as_bytes()];
        CommandId::from_parts("essaim effect", &parts)
    }
}

/// What a recorded outcome says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// What the outside calls the subject.
    Linked {
        /// Its id there.
        outside_id: String,
    },
    /// This version is outside.
    Synced(Version),
    /// This version was set aside.
    Failed {
        /// Which one.
        version: Version,
        /// Why.
        reason: String,
        /// Whether it is hopeless.
        permanent: bool,
    },
    /// An operator does without this version.
    Skipped {
        /// Which one.
        version: Version,
        /// The operator's words.
        reason: String,
    },
}

/// How hard a synchroniser works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Subjects under way at once. Default 16.
    pub parallel: usize,
    /// A call that takes longer is of unknown outcome. Default 10 s.
    pub call_deadline: Duration,
    /// The longest pause before the second attempt; doubles with each, and is drawn from zero to that. Default 200 ms.
    pub first_pause: Duration,
    /// The longest pause of all. Default 60 s.
    pub longest_pause: Duration,
    /// Attempts before a subject is set aside; those that met an unavailable outside do not count. Default 100, which
    /// with these pauses is most of an hour.
    pub max_attempts: u32,
    /// The breaker opens when so many calls found the outside unavailable, or five times as many subjects failed
    /// otherwise, and none succeeded in between. Default 10.
    pub breaker_failures: usize,
    /// Pause between two probes while the breaker is open. Default 1 s.
    pub probe_every: Duration,
    /// Subjects a second that a reconcile looks at. Default 20.
    pub reconcile_per_second: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            parallel: 16,
            call_deadline: Duration::from_secs(10),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(60),
            max_attempts: 100,
            breaker_failures: 10,
            probe_every: Duration::from_secs(1),
            reconcile_per_second: 20,
        }
    }
}

impl Pace {
    /// Whether one can work so.
    ///
    /// # Errors
    /// A sentence that names what cannot be zero.
    pub fn validate(&self) -> Result<(), String> {
        let zeros = [
            ("parallel", self.parallel == 0),
            ("call_deadline", self.call_deadline.is_zero()),
            ("first_pause", self.first_pause.is_zero()),
            ("max_attempts", self.max_attempts == 0),
            ("breaker_failures", self.breaker_failures == 0),
            ("probe_every", self.probe_every.is_zero()),
            ("reconcile_per_second", self.reconcile_per_second == 0),
        ];
        match zeros.iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(format!("{name} of a synchroniser is zero; it must be more")),
            None => Ok(()),
        }
    }
}

/// A subject that was set aside, with how much waits behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The subject's key.
    pub subject: String,
    /// The version that failed.
    pub version: Version,
    /// The last version that is wanted; more than `version` when later changes wait behind it.
    pub wanted: Version,
    /// The last version that is outside; 0 for none.
    pub synced: Version,
    /// Why.
    pub reason: String,
    /// Whether it is hopeless; else its attempts were used up.
    pub permanent: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// Since when it was set aside.
    pub since: DateTime<Utc>,
    /// Who does without this version, when somebody does; it is no dead letter any more then, and shown all the same.
    pub skipped: Option<Skip>,
}

/// An operator's decision to do without a version that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The operator's principal.
    pub by: String,
    /// The operator's words.
    pub reason: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// An intent that waits to be worked off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingChange {
    /// The subject's version behind it.
    pub version: Version,
    /// Its place in the log.
    pub position: GlobalPosition,
    /// The event's type.
    pub event_type: String,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// How far one subject is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The outside is as wanted at this version or a later one.
    Synced(Version),
    /// Not yet.
    Pending,
    /// It is a dead letter.
    Failed(DeadLetter),
    /// An operator skipped this version.
    Skipped(Version),
}

/// What a reconcile found, so far or at last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciliation {
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended; none while it goes on.
    pub finished_at: Option<DateTime<Utc>>,
    /// Whether what drifted is brought again.
    pub repairs: bool,
    /// Settled subjects that were looked at.
    pub checked: u64,
    /// Subjects that could not be looked at, or were changed meanwhile; the next pass will.
    pub passed_over: u64,
    /// Things outside that carry a key of ours; none when they were not listed to the end.
    pub surveyed: Option<u64>,
    /// How many are not as wanted, those outside that belong to no subject among them.
    pub drifted: u64,
    /// The first of them, at most [`Reconciliation::MAX_DRIFTS`].
    pub drifts: Vec<Drift>,
}

impl Reconciliation {
    /// How many drifts one report names.
    pub const MAX_DRIFTS: usize = 1_000;
}

/// A settled subject that is not as wanted outside, or something outside whose subject the log does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The subject's key, or the key that the thing outside carries.
    pub subject: String,
    /// The version that should be outside; 0 when the log does not know the subject.
    pub version: Version,
    /// Names of what differs; `unknown` alone when the log does not know the subject.
    pub differs: Vec<String>,
    /// What the outside calls it, when it is the thing there that is at fault.
    pub outside_id: Option<String>,
    /// Whether it was put up for another call, or removed.
    pub repaired: bool,
}

impl Drift {
    /// What differs when the log does not know the subject.
    pub const UNKNOWN: &'static str = "unknown";
}
