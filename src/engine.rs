//! This file is the library's edge: build an engine over a store, execute commands, read models, follow the log.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::Stream;
use ractor::ActorRef;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use self::parts::{AnyDispatcher, AnyFollower};
use self::process_managers::AnyManager;
use self::subscription::Subscription;
use self::synchronisers::AnyWorker;
use crate::actors::Runtime;
use crate::actors::admission::Admission;
use crate::actors::flights::Flights;
use crate::actors::journal::JournalStatus;
use crate::actors::journal_actor::JournalSlot;
use crate::actors::projection::{Follower, Message as ProjectionMessage};
use crate::actors::supervisor;
use crate::actors::synchroniser::Message as SynchroniserMessage;
use crate::causes::with_causes;
use crate::clock::SharedClock;
use crate::event::RecordedEvent;
use crate::projections::table::{Digest, Table};
use crate::projections::{Projection, Sources};
use crate::store::{EventStore, SharedStore, StoreError};
use crate::stream::{GlobalPosition, StreamId, Version};

mod builder;
mod execute;
mod parts;
mod process_managers;
mod subscription;
mod synchronisers;

pub use self::builder::{EngineBuilder, StartError};
pub use self::synchronisers::SynchroniserHandle;
pub use crate::command::{ExecuteError, NotExecuted, Options, Receipt};
pub use crate::health::{Check, ProcessManagerStatus, ProjectionState, ProjectionStatus, SynchroniserStatus};
pub use crate::limits::Limits;
pub use crate::projections::read_model::{AtLeast, ReadError, ReadModel, View};

/// A running engine; clones share it, and the last one dropped stops it as abruptly as a crash would. To finish what
/// is under way, call [`Engine::shutdown`].
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// None in the hands of the engine's own parts, which must not keep it running.
    #[expect(dead_code, reason = "it is there to be dropped")]
    handle: Option<Arc<Handle>>,
}

struct Inner {
    store: SharedStore,
    clock: SharedClock,
    runtime: Arc<Runtime>,
    admission: Arc<Admission>,
    internal_admission: Arc<Admission>,
    flights: Arc<Flights>,
    dispatchers: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    categories: Vec<Box<dyn AnyDispatcher>>,
    followers: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    projections: Vec<Arc<dyn AnyFollower>>,
    synchronisers: Vec<Arc<dyn AnyWorker>>,
    process_managers: Vec<Arc<dyn AnyManager>>,
    status: Arc<JournalStatus>,
    journal: JournalSlot,
    root: ActorRef<supervisor::Message>,
    stop: CancellationToken,
    /// Refuses new commands from outside.
    draining: AtomicBool,
    /// Refuses those of the engine's own parts too.
    sealed: AtomicBool,
    /// Nobody holds the engine any more: nobody waits for what is under way.
    abandoned: CancellationToken,
}

/// What users hold of an engine; dropping the last one stops it.
struct Handle {
    stop: CancellationToken,
    abandoned: CancellationToken,
    root: ActorRef<supervisor::Message>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
        self.abandoned.cancel();
        self.root.stop(None);
    }
}

/// Up to where a stream is folded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UpTo {
    /// This many events.
    Version(Version),
    /// Everything recorded at or before this time.
    Time(chrono::DateTime<chrono::Utc>),
}

impl Engine {
    /// An engine over this store.
    pub fn builder(store: impl EventStore) -> EngineBuilder {
        Self::builder_shared(Arc::new(store))
    }

    /// An engine over a store that others use too.
    pub fn builder_shared(store: SharedStore) -> EngineBuilder {
        EngineBuilder::over(store)
    }

    /// The read model of a projection.
    pub fn read_model<P: Projection>(&self) -> ReadModel<P> {
        ReadModel::new(
            self.follower::<P>().map(|follower| Arc::clone(&follower.shown)),
            self.inner.runtime.limits.read_wait,
        )
    }

    fn follower<P: Projection>(&self) -> Option<&Arc<Follower<P>>> {
        self.inner.followers.get(&TypeId::of::<P>()).and_then(|any| any.downcast_ref::<Arc<Follower<P>>>())
    }

    /// Folds one stream with a projection, from the log: the rows as they were then. Empty when the stream had no
    /// event then, or has fewer events than the version asked for.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read or understood.
    pub async fn project_stream<P: Projection>(
        &self,
        projection: &P,
        stream: &StreamId,
        up_to: UpTo,
    ) -> Result<Vec<Arc<P::Row>>, StoreError> {
        const PAGE: usize = 512;
        let (table, sources) = (Table::<P>::default(), Sources::<P>::of());
        let mut reached = Version::EMPTY;
        'pages: loop {
            let events = self.inner.store.read_stream(stream, reached, PAGE).await?;
            for event in &events {
                let beyond = match up_to {
                    UpTo::Version(version) => event.version > version,
                    UpTo::Time(time) => event.recorded_at > time,
                };
                if beyond {
                    break 'pages;
                }
                table
                    .apply(projection, &sources, event, &mut HashSet::default())
                    .map_err(|error| StoreError::Corrupt { what: with_causes(&error) })?;
                reached = event.version;
            }
            if events.len() < PAGE {
                break;
            }
        }
        match up_to {
            UpTo::Version(version) if reached < version => Ok(Vec::new()),
            _ => Ok(table.read(|snapshot| snapshot.rows())),
        }
    }

    /// All events behind `after`, first those of the past, then those to come, in order and without gaps. After an
    /// error the stream ends.
    pub fn subscribe(
        &self,
        after: GlobalPosition,
    ) -> impl Stream<Item = Result<Arc<RecordedEvent>, StoreError>> + Send + use<> {
        let subscription =
            Subscription::new(Arc::clone(&self.inner.runtime.feed), Arc::clone(&self.inner.store), after);
        futures::stream::unfold(subscription, |mut subscription| async move {
            let next = subscription.next().await?;
            Some((next, subscription))
        })
    }

    /// The store underneath, for reading.
    pub fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    /// The epoch this engine writes under, for those who save rows of their own beside the log.
    pub fn epoch(&self) -> crate::store::Epoch {
        self.inner.status.epoch()
    }

    /// Position of the last durable event.
    pub fn head(&self) -> GlobalPosition {
        self.inner.runtime.feed.head()
    }

    /// One entry for each part; ready when all are ok.
    pub async fn health(&self) -> Vec<Check> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let inner = &self.inner;
        let store = match tokio::time::timeout(PATIENCE, inner.store.head()).await {
            Ok(Ok(head)) => Check { name: "store".into(), ok: true, detail: format!("at position {}", head.position) },
            Ok(Err(error)) => Check { name: "store".into(), ok: false, detail: with_causes(&error) },
            Err(_) => Check { name: "store".into(), ok: false, detail: format!("no answer within {PATIENCE:?}") },
        };
        let gave_up = inner.status.gave_up().borrow().clone();
        let journal = match gave_up {
            Some(reason) => Check { name: "journal".into(), ok: false, detail: reason },
            None if inner.draining.load(Ordering::Acquire) => {
                Check { name: "journal".into(), ok: false, detail: "draining".into() }
            }
            None if inner.status.is_unavailable() => {
                Check { name: "journal".into(), ok: false, detail: "the store does not answer appends".into() }
            }
            None => Check {
                name: "journal".into(),
                ok: true,
                detail: format!("{} commands in flight", inner.admission.in_flight()),
            },
        };
        let projections = inner.projections.iter().map(|projection| {
            let status = projection.status();
            let (ok, detail) = match status.state {
                ProjectionState::Live => (true, format!("at position {}", status.position)),
                ProjectionState::CatchingUp => {
                    (false, format!("catching up, at position {} of {}", status.position, self.head()))
                }
                ProjectionState::Restarting(reason) => (false, format!("restarting: {reason}")),
                ProjectionState::Quarantined(reason) => (false, format!("quarantined: {reason}")),
            };
            Check { name: format!("projection:{}", status.name), ok, detail }
        });
        let process_managers = inner.process_managers.iter().map(|manager| manager.check());
        let times = match inner.runtime.feed.generation() {
            0 => String::new(),
            times => format!(", went backwards {times} times since the start"),
        };
        let log = Check { name: "log".into(), ok: true, detail: format!("{}{times}", self.log_id()) };
        let synchronisers = inner.synchronisers.iter().map(|worker| worker.check());
        [store, journal, log].into_iter().chain(projections).chain(process_managers).chain(synchronisers).collect()
    }

    /// Which history positions are of. It stays for as long as the log is, over restarts and restored copies of it, and
    /// is another one once the log went backwards under a running engine: positions of the old one mean nothing then.
    pub fn log_id(&self) -> Uuid {
        self.inner.status.log_id()
    }

    /// How the projections are doing.
    pub fn projections(&self) -> Vec<ProjectionStatus> {
        self.inner.projections.iter().map(|projection| projection.status()).collect()
    }

    /// How many instances of each kind are in memory, by category.
    pub fn resident(&self) -> Vec<(&'static str, usize)> {
        self.inner.categories.iter().map(|dispatcher| (dispatcher.category(), dispatcher.resident())).collect()
    }

    /// Position and digest of a projection's hot rows; none when there is no such projection.
    pub async fn digest(&self, projection: &str) -> Option<(GlobalPosition, Digest)> {
        let follower = Arc::clone(self.projection(projection)?);
        // Sorting and hashing all rows is no work for the threads that serve commands.
        tokio::task::spawn_blocking(move || follower.digest()).await.ok()
    }

    fn projection(&self, name: &str) -> Option<&Arc<dyn AnyFollower>> {
        self.inner.projections.iter().find(|projection| projection.status().name == name)
    }

    /// Builds a projection's rows anew from the first event, beside the old ones, and then replaces those and the
    /// table. Returns false when there is no such projection, or it was stopped meanwhile.
    pub async fn rebuild(&self, projection: &str) -> bool {
        let Some(follower) = self.projection(projection) else { return false };
        let (reply, done) = oneshot::channel();
        follower.tell(ProjectionMessage::Rebuild(reply)) && done.await.is_ok()
    }

    /// Lets a quarantined part try again: a projection by name, an aggregate by `category-key`. False when there is none.
    pub async fn release(&self, name: &str) -> bool {
        let released = self.inner.categories.iter().any(|dispatcher| {
            let key = name.strip_prefix(dispatcher.category()).and_then(|rest| rest.strip_prefix('-'));
            key.is_some_and(|key| dispatcher.release(&StreamId::new(dispatcher.category(), key)))
        });
        if released {
            return true;
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.inner.root.send_message(supervisor::Message::Release(name.to_owned(), reply));
        sent.is_ok() && answer.await.unwrap_or(false)
    }

    /// Resolves when the engine has given up (fenced, or a part it cannot do without failed for good), with the reason.
    pub async fn failed(&self) -> String {
        let mut gave_up = self.inner.status.gave_up();
        let reason = gave_up.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "the engine stopped".into())
    }

    /// Refuses new commands, finishes those under way, saves checkpoints, gives the log back. True when all was done
    /// within `deadline`.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        let inner = &self.inner;
        let until = Instant::now() + deadline;
        inner.draining.store(true, Ordering::Release);
        // While commands of the engine's own parts are still taken: the outcomes of calls under way are among them.
        let settled = tokio::time::timeout_at(until, self.all_settled()).await.is_ok();
        // While commands of the engine's own parts are still taken: those under way are to have their outcome.
        let finished = tokio::time::timeout_at(until, self.process_managers_finished()).await.is_ok();
        inner.sealed.store(true, Ordering::Release);
        let answered = tokio::time::timeout_at(until, self.all_answered()).await.is_ok();
        let saved = tokio::time::timeout_at(until, self.all_saved()).await.is_ok();
        inner.stop.cancel();
        let journal = tokio::time::timeout_at(until + GRACE, async { inner.journal.lock().await.take() }).await;
        if let Ok(Some(journal)) = journal {
            // A store that does not answer must not keep a process from ending.
            let _ = tokio::time::timeout(GRACE, journal.close(NotExecuted::Draining)).await;
        }
        let stopped = inner.root.stop_and_wait(None, Some(GRACE)).await.is_ok();
        info!(settled, finished, answered, saved, stopped, "engine stopped");
        settled && finished && answered && saved && stopped
    }

    async fn all_settled(&self) {
        let finish = |worker: &Arc<dyn AnyWorker>| -> Option<oneshot::Receiver<()>> {
            if let ProjectionState::Quarantined(_) = worker.status().state {
                return None;
            }
            let (reply, done) = oneshot::channel();
            worker.tell(SynchroniserMessage::Finish(reply)).then_some(done)
        };
        let waiting: Vec<_> = self.inner.synchronisers.iter().filter_map(finish).collect();
        futures::future::join_all(waiting).await;
    }

    async fn all_answered(&self) {
        const LOOK_AGAIN: Duration = Duration::from_millis(2);
        while self.inner.admission.in_flight() + self.inner.internal_admission.in_flight() > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn all_saved(&self) {
        let finish = |follower: &Arc<dyn AnyFollower>| -> Option<oneshot::Receiver<()>> {
            // One that is set aside has nothing to wait for.
            if let ProjectionState::Quarantined(_) = follower.status().state {
                return None;
            }
            let (reply, done) = oneshot::channel();
            follower.tell(ProjectionMessage::Finish(reply)).then_some(done)
        };
        let waiting: Vec<_> = self.inner.projections.iter().filter_map(finish).collect();
        futures::future::join_all(waiting).await;
    }
}

/// What a shutdown takes at most beyond its deadline, for each of its last steps.
const GRACE: Duration = Duration::from_secs(2);
