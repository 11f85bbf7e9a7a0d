//! This file lets operators and callers speak to synchronisers: how far a subject is, what was set aside, what drifted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::actors::synchroniser::{Change, Message, Worker};
use crate::aggregate::{Aggregate, with_decoded};
use crate::health::{Check, ProjectionState, SynchroniserStatus};
use crate::store::StoreError;
use crate::stream::{GlobalPosition, StreamId, Version};
use crate::synchroniser::{DeadLetter, Progress, Reconciliation, Synchroniser, WaitingChange};

/// A handle on one synchroniser of a running engine.
#[derive(Clone)]
pub struct SynchroniserHandle {
    worker: Arc<dyn AnyWorker>,
    stop: CancellationToken,
}

impl Engine {
    /// All synchronisers, in the order they were given to the builder.
    pub fn synchronisers(&self) -> Vec<SynchroniserHandle> {
        let handle = |worker: &Arc<dyn AnyWorker>| SynchroniserHandle {
            worker: Arc::clone(worker),
            stop: self.inner.stop.clone(),
        };
        self.inner.synchronisers.iter().map(handle).collect()
    }

    /// The synchroniser of this name, if there is one.
    pub fn synchroniser(&self, name: &str) -> Option<SynchroniserHandle> {
        self.synchronisers().into_iter().find(|handle| handle.status().name == name)
    }
}

impl SynchroniserHandle {
    /// How it is doing.
    pub fn status(&self) -> SynchroniserStatus {
        self.worker.status()
    }

    /// How far `version` of this subject is.
    pub fn progress(&self, subject: &str, version: Version) -> Progress {
        self.worker.progress(subject, version)
    }

    /// Waits until `version` of this subject is outside, set aside or skipped, at most this long; what it is then.
    pub async fn settled(&self, subject: &str, version: Version, within: Duration) -> Progress {
        self.until_settled(within, || self.progress(subject, version)).await
    }

    /// Waits until whatever stands in the log up to the receipt of a command to this subject is outside, set aside or
    /// skipped, at most this long; what it is then. The command need not have been an intent.
    pub async fn settled_behind(
        &self,
        subject: &str,
        receipt: (Version, GlobalPosition),
        within: Duration,
    ) -> Progress {
        let (version, position) = receipt;
        self.until_settled(within, || self.worker.progress_behind(subject, version, position)).await
    }

    async fn until_settled(&self, within: Duration, progress: impl Fn() -> Progress) -> Progress {
        let mut moved = self.worker.moved();
        let settled = async {
            loop {
                moved.mark_unchanged();
                let progress = progress();
                if progress != Progress::Pending || moved.changed().await.is_err() {
                    return progress;
                }
            }
        };
        match tokio::time::timeout(within, settled).await {
            Ok(progress) => progress,
            Err(_) => progress(),
        }
    }

    /// At most `limit` dead letters, those first whose last intent was recorded first; behind `after`, the position of
    /// the intent and the subject of the last one seen.
    pub fn dead_letters(
        &self,
        after: Option<(GlobalPosition, String)>,
        limit: usize,
    ) -> Vec<(GlobalPosition, DeadLetter)> {
        self.worker.dead_letters(after, limit)
    }

    /// The dead letter of this subject, the one that was skipped last when it has no other, and the intents from the
    /// one that failed on, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    pub async fn dead_letter(
        &self,
        subject: &str,
        limit: usize,
    ) -> Result<Option<(DeadLetter, Vec<WaitingChange>)>, StoreError> {
        self.worker.dead_letter(subject, limit).await
    }

    /// Tries a dead letter again, with a fresh budget; it and what waited behind it are brought as one full state.
    /// Durable when it returns. False when the subject is no dead letter; none when the synchroniser is not running.
    pub async fn retry(&self, subject: &str) -> Option<bool> {
        self.change(Change::Retry(subject.to_owned())).await
    }

    /// Does without the version that failed, because the operator `by` says so for this reason (≤ 500 characters are
    /// kept); what waited behind it is brought. That is recorded in the log, and durable when it returns. False when the
    /// subject is no dead letter; none when the synchroniser is not running, or the log takes nothing at present.
    pub async fn skip(&self, subject: &str, reason: &str, by: &str) -> Option<bool> {
        self.worker.skip(subject, reason, by).await
    }

    /// At most `limit` subjects of which an operator did without a version that failed, and who, and why; in the order
    /// of [`SynchroniserHandle::dead_letters`].
    pub fn skipped(&self, after: Option<(GlobalPosition, String)>, limit: usize) -> Vec<(GlobalPosition, DeadLetter)> {
        self.worker.skipped(after, limit)
    }

    async fn change(&self, change: Change) -> Option<bool> {
        let (reply, answer) = oneshot::channel();
        if self.worker.tell(Message::Change(change, reply)) { answer.await.ok() } else { None }
    }

    /// Begins to compare all settled subjects with the outside, and looks there for what belongs to no subject of the
    /// log. When `repairs`, those that drifted are brought again, and what the pass before reported to belong to nobody
    /// is removed. False when a pass is going on.
    pub fn reconcile(&self, repairs: bool) -> bool {
        Arc::clone(&self.worker).reconcile(repairs, self.stop.clone())
    }

    /// The pass that goes on, or the last one since the start.
    pub fn reconciliation(&self) -> Option<Reconciliation> {
        self.worker.reconciliation()
    }
}

/// A worker of any synchroniser.
#[async_trait]
pub(super) trait AnyWorker: Send + Sync {
    fn status(&self) -> SynchroniserStatus;
    fn progress(&self, subject: &str, version: Version) -> Progress;
    fn progress_behind(&self, subject: &str, version: Version, position: GlobalPosition) -> Progress;
    fn moved(&self) -> watch::Receiver<u64>;
    fn dead_letters(&self, after: Option<(GlobalPosition, String)>, limit: usize) -> Vec<(GlobalPosition, DeadLetter)>;
    fn skipped(&self, after: Option<(GlobalPosition, String)>, limit: usize) -> Vec<(GlobalPosition, DeadLetter)>;
    async fn skip(&self, subject: &str, reason: &str, by: &str) -> Option<bool>;
    async fn dead_letter(
        &self,
        subject: &str,
        limit: usize,
    ) -> Result<Option<(DeadLetter, Vec<WaitingChange>)>, StoreError>;
    fn tell(&self, message: Message) -> bool;
    fn reconcile(self: Arc<Self>, repairs: bool, stop: CancellationToken) -> bool;
    fn reconciliation(&self) -> Option<Reconciliation>;
}

impl dyn AnyWorker {
    /// Its line among the checks. An outside that is away is told of, but makes nobody unready: commands and queries
    /// go on without it.
    pub(super) fn check(&self) -> Check {
        let status = self.status();
        let (ok, detail) = match &status.state {
            ProjectionState::Live => (true, working(&status)),
            ProjectionState::CatchingUp => (true, format!("catching up, at position {}", status.position)),
            ProjectionState::Restarting(reason) => (false, format!("restarting: {reason}")),
            ProjectionState::Quarantined(reason) => (false, format!("quarantined: {reason}")),
        };
        Check { name: format!("synchroniser:{}", status.name), ok, detail }
    }
}

fn working(status: &SynchroniserStatus) -> String {
    let outside = match status.unavailable_for {
        Some(since) => format!("the outside has been unavailable for {} s; ", since.as_secs()),
        None => String::new(),
    };
    format!("{outside}{} pending, {} dead letters", status.pending, status.dead_letters)
}

#[async_trait]
impl<S: Synchroniser> AnyWorker for Worker<S> {
    fn status(&self) -> SynchroniserStatus {
        let unavailable_for = self.breaker().open_since().map(|since| since.elapsed());
        let book = self.book();
        SynchroniserStatus {
            name: S::NAME,
            position: GlobalPosition(self.position.load(Ordering::Acquire)),
            checkpoint: GlobalPosition(self.checkpoint.load(Ordering::Acquire)),
            subjects: book.len(),
            pending: book.pending(),
            dead_letters: book.dead_letters(),
            calls_in_flight: book.under_way(),
            unavailable_for,
            state: self.state(),
        }
    }

    fn progress(&self, subject: &str, version: Version) -> Progress {
        self.book().get(subject).map_or(Progress::Pending, |row| row.progress(version))
    }

    fn progress_behind(&self, subject: &str, version: Version, position: GlobalPosition) -> Progress {
        if self.position.load(Ordering::Acquire) < position.0 {
            return Progress::Pending;
        }
        match self.book().get(subject) {
            Some(row) => row.progress(version.min(row.wanted)),
            // Followed beyond it, and nobody wants anything of it.
            None => Progress::Synced(Version::EMPTY),
        }
    }

    fn moved(&self) -> watch::Receiver<u64> {
        self.settled.subscribe()
    }

    fn dead_letters(&self, after: Option<(GlobalPosition, String)>, limit: usize) -> Vec<(GlobalPosition, DeadLetter)> {
        self.book().dead_letters_after(after, limit)
    }

    fn skipped(&self, after: Option<(GlobalPosition, String)>, limit: usize) -> Vec<(GlobalPosition, DeadLetter)> {
        self.book().skipped_after(after, limit)
    }

    async fn skip(&self, subject: &str, reason: &str, by: &str) -> Option<bool> {
        Worker::skip(self, subject, reason, by).await
    }

    async fn dead_letter(
        &self,
        subject: &str,
        limit: usize,
    ) -> Result<Option<(DeadLetter, Vec<WaitingChange>)>, StoreError> {
        const PAGE: usize = 512;
        let found = self.book().get(subject).and_then(|row| row.dead_letter().or_else(|| row.skipped_letter()));
        let Some(letter) = found else { return Ok(None) };
        let stream = StreamId::new(S::Subject::CATEGORY, subject);
        let mut reached = Version(letter.version.0.saturating_sub(1));
        let mut waiting = Vec::new();
        while reached < letter.wanted && waiting.len() < limit {
            let events = self.store.read_stream(&stream, reached, PAGE).await?;
            let Some(last) = events.last() else { break };
            reached = last.version;
            let intents = events.iter().filter(|event| {
                // One that this program does not understand is shown rather than hidden.
                event.version <= letter.wanted && with_decoded::<S::Subject, _>(event, S::is_intent).unwrap_or(true)
            });
            waiting.extend(intents.map(|event| WaitingChange {
                version: event.version,
                position: event.position,
                event_type: event.event_type.clone().into_owned(),
                recorded_at: event.recorded_at,
            }));
        }
        waiting.truncate(limit);
        Ok(Some((letter, waiting)))
    }

    fn tell(&self, message: Message) -> bool {
        self.send(message)
    }

    fn reconcile(self: Arc<Self>, repairs: bool, stop: CancellationToken) -> bool {
        Worker::reconcile(&self, repairs, stop)
    }

    fn reconciliation(&self) -> Option<Reconciliation> {
        Worker::reconciliation(self)
    }
}
