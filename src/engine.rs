//! This file is the library's edge: build an engine over a store, execute commands, read models, follow the log.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::Stream;
use ractor::{Actor, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::actors::Runtime;
use crate::actors::admission::{Admission, Permit};
use crate::actors::answer::{Answer, Keep, Reply, Request, Ticket};
use crate::actors::dispatcher::Dispatcher;
use crate::actors::feed::{Feed, Recent};
use crate::actors::flights::Flights;
use crate::actors::journal::{BatchLimits, Journal, JournalStatus, chain};
use crate::actors::journal_actor::{JournalActor, JournalSlot};
use crate::actors::loader::Loader;
use crate::actors::projection::{Follower, Message as ProjectionMessage, ProjectionActor};
use crate::actors::snapshots::SnapshotSender;
use crate::actors::supervisor::{self, ChildSpec, ChildState, RestartPolicy, Supervisor};
use crate::aggregate::{Aggregate, AggregateId};
use crate::clock::{Clock, SharedClock, SystemClock};
use crate::event::{CommandId, Metadata, MetadataFields, RecordedEvent};
use crate::projections::table::{Digest, Table};
use crate::projections::{Projection, Sources};
use crate::store::{EventStore, LogFilter, Outcome, SharedStore, StoreError, TakeOver};
use crate::stream::{GlobalPosition, InvalidStreamId, StreamId, Version};

pub use crate::command::{ExecuteError, NotExecuted, Options, Receipt};
pub use crate::health::{Check, ProjectionState, ProjectionStatus};
pub use crate::limits::Limits;
pub use crate::projections::read_model::{AtLeast, ReadError, ReadModel, View};

/// A running engine; clones share it, and the last one dropped stops it as abruptly as a crash would. To finish what
/// is under way, call [`Engine::shutdown`].
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
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
    status: Arc<JournalStatus>,
    journal: JournalSlot,
    root: ActorRef<supervisor::Message>,
    stop: CancellationToken,
    draining: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        self.root.stop(None);
    }
}

/// Builds an [`Engine`].
pub struct EngineBuilder {
    store: SharedStore,
    clock: SharedClock,
    limits: Limits,
    take_over: TakeOver,
    aggregates: Vec<AddAggregate>,
    projections: Vec<AddProjection>,
}

/// Adds an aggregate, given how many kinds share the memory budget.
type WithRuntime = Box<dyn FnOnce(&Arc<Runtime>, usize, &mut Parts) + Send>;
type WithFoundation = Box<dyn FnOnce(&Foundation, &mut Parts) + Send>;

struct AddAggregate {
    category: &'static str,
    add: WithRuntime,
}

struct AddProjection {
    name: &'static str,
    view: &'static str,
    version: u32,
    add: WithFoundation,
}

/// What projections are built upon.
struct Foundation {
    store: SharedStore,
    feed: Arc<Feed>,
    limits: Limits,
    clock: SharedClock,
    status: Arc<JournalStatus>,
}

#[derive(Default)]
struct Parts {
    children: Vec<ChildSpec>,
    dispatchers: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    categories: Vec<Box<dyn AnyDispatcher>>,
    followers: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    projections: Vec<Arc<dyn AnyFollower>>,
}

/// A dispatcher of any kind of aggregate.
trait AnyDispatcher: Send + Sync {
    fn category(&self) -> &'static str;
    fn release(&self, stream: &StreamId) -> bool;
    fn resident(&self) -> usize;
}

impl<A: Aggregate> AnyDispatcher for Arc<Dispatcher<A>> {
    fn category(&self) -> &'static str {
        A::CATEGORY
    }

    fn release(&self, stream: &StreamId) -> bool {
        Dispatcher::release(self, stream)
    }

    fn resident(&self) -> usize {
        self.len()
    }
}

/// A follower of any projection.
trait AnyFollower: Send + Sync {
    fn status(&self) -> ProjectionStatus;
    fn digest(&self) -> (GlobalPosition, Digest);
    fn tell(&self, message: ProjectionMessage) -> bool;
}

impl<P: Projection> AnyFollower for Follower<P> {
    fn status(&self) -> ProjectionStatus {
        let table = self.shown.table();
        ProjectionStatus {
            name: P::NAME,
            view: P::TABLE.into(),
            version: P::VERSION,
            position: table.position(),
            checkpoint: GlobalPosition(self.checkpoint.load(Ordering::Acquire)),
            rows: table.len(),
            state: self.shown.state(),
        }
    }

    fn digest(&self) -> (GlobalPosition, Digest) {
        self.shown.table().read(|snapshot| (snapshot.position(), snapshot.digest()))
    }

    fn tell(&self, message: ProjectionMessage) -> bool {
        self.send(message)
    }
}

impl EngineBuilder {
    /// Runs aggregates of this kind.
    #[must_use]
    pub fn aggregate<A: Aggregate>(mut self) -> Self {
        let add = Box::new(|runtime: &Arc<Runtime>, kinds: usize, parts: &mut Parts| {
            let (dispatcher, shards) = Dispatcher::<A>::new(runtime, kinds);
            parts.children.extend(shards);
            parts.categories.push(Box::new(Arc::clone(&dispatcher)));
            parts.dispatchers.insert(TypeId::of::<A>(), Box::new(dispatcher));
        });
        self.aggregates.push(AddAggregate { category: A::CATEGORY, add });
        self
    }

    /// Runs this projection.
    #[must_use]
    pub fn projection<P: Projection>(mut self, projection: P) -> Self {
        let add = Box::new(move |on: &Foundation, parts: &mut Parts| {
            let store = Arc::clone(&on.store);
            let (clock, status) = (Arc::clone(&on.clock), Arc::clone(&on.status));
            let follower = Follower::new(projection, store, Arc::clone(&on.feed), on.limits.clone(), clock, status);
            parts.children.push(projection_child(&follower));
            parts.projections.push(Arc::clone(&follower) as Arc<dyn AnyFollower>);
            parts.followers.insert(TypeId::of::<P>(), Box::new(follower));
        });
        self.projections.push(AddProjection { name: P::NAME, view: P::TABLE, version: P::VERSION, add });
        self
    }

    /// Replaces the default limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Replaces the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How to deal with another writer of the same log.
    #[must_use]
    pub fn take_over(mut self, take_over: TakeOver) -> Self {
        self.take_over = take_over;
        self
    }

    /// Takes the log over and starts everything; returns once commands are accepted. Read models may still be
    /// catching up: see [`Engine::health`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(self) -> Result<Engine, StartError> {
        self.validate()?;
        let EngineBuilder { store, clock, limits, take_over, aggregates, projections } = self;
        let writer = store.open_writer(clock.random_id(), take_over).await?;
        info!(
            store = store.describe(),
            position = writer.head().position.0,
            epoch = writer.head().epoch.0,
            "log taken over"
        );
        let feed = Feed::new(writer.head().position, limits.max_feed_bytes);
        let status = Arc::new(JournalStatus::default());
        let stop = CancellationToken::new();
        // As many places as there are permits, so that a send never finds the channel full.
        let places = limits.max_commands + limits.max_internal_commands;
        let (journal_sender, appends) = tokio::sync::mpsc::channel(places);
        let batch_limits = BatchLimits { max_commands: limits.max_batch_commands, max_bytes: limits.max_batch_bytes };
        let journal = Journal::new(
            appends,
            Arc::clone(&store),
            writer,
            Arc::clone(&feed),
            Arc::clone(&clock),
            batch_limits,
            Arc::clone(&status),
            SnapshotSender::start(Arc::clone(&store)),
            stop.clone(),
        );
        let journal: JournalSlot = Arc::new(tokio::sync::Mutex::new(Some(journal)));
        let runtime = Arc::new(Runtime {
            limits: limits.clone(),
            feed: Arc::clone(&feed),
            journal: journal_sender,
            loader: Loader::start(Arc::clone(&store), limits.max_loads),
        });
        let mut parts = Parts { children: vec![journal_child(&journal)], ..Parts::default() };
        let kinds = aggregates.len();
        aggregates.into_iter().for_each(|aggregate| (aggregate.add)(&runtime, kinds, &mut parts));
        let foundation = Foundation {
            store: Arc::clone(&store),
            feed,
            limits: limits.clone(),
            clock: Arc::clone(&clock),
            status: Arc::clone(&status),
        };
        projections.into_iter().for_each(|projection| (projection.add)(&foundation, &mut parts));
        let children = std::mem::take(&mut parts.children);
        let arguments =
            supervisor::Arguments { children, policy: RestartPolicy::default(), status: Arc::clone(&status) };
        let (root, _) = Actor::spawn(None, Supervisor, arguments)
            .await
            .map_err(|error| StartError::Invalid(format!("the supervision tree does not start: {error}")))?;
        tokio::spawn(prune_outcomes(
            Arc::clone(&store),
            Arc::clone(&clock),
            limits.outcomes_retention_days,
            stop.clone(),
        ));
        Ok(Engine {
            inner: Arc::new(Inner {
                flights: Flights::new(Arc::clone(&store), limits.max_commands.saturating_mul(4)),
                admission: Admission::new(limits.max_commands, limits.max_command_bytes),
                internal_admission: Admission::new(limits.max_internal_commands, limits.max_command_bytes),
                store,
                clock,
                runtime,
                dispatchers: parts.dispatchers,
                categories: parts.categories,
                followers: parts.followers,
                projections: parts.projections,
                status,
                journal,
                root,
                stop,
                draining: AtomicBool::new(false),
            }),
        })
    }

    fn validate(&self) -> Result<(), StartError> {
        let invalid = |what: String| Err(StartError::Invalid(what));
        for (n, aggregate) in self.aggregates.iter().enumerate() {
            StreamId::new(aggregate.category, "key").validate()?;
            if self.aggregates[..n].iter().any(|other| other.category == aggregate.category) {
                return invalid(format!("two aggregates have the category {:?}", aggregate.category));
            }
        }
        for (n, projection) in self.projections.iter().enumerate() {
            for name in [projection.name, projection.view] {
                let shaped = name.starts_with(|c: char| c.is_ascii_lowercase())
                    && name.len() <= 40
                    && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                if !shaped || name.starts_with("essaim_") {
                    return invalid(format!(
                        "{name:?} cannot be the name of a projection or its table: [a-z][a-z0-9_]*, at most 40 bytes, not essaim_…"
                    ));
                }
            }
            if projection.version == 0 {
                return invalid(format!("projection {} has version 0; versions count from 1", projection.name));
            }
            if self.projections[..n].iter().any(|other| other.name == projection.name || other.view == projection.view)
            {
                return invalid(format!("two projections are called {:?} or share its table", projection.name));
            }
        }
        self.limits.validate().map_err(StartError::Invalid)
    }
}

fn journal_child(journal: &JournalSlot) -> ChildSpec {
    let journal = Arc::clone(journal);
    let started = AtomicBool::new(false);
    ChildSpec {
        name: "journal".into(),
        start: Box::new(move |supervisor| {
            let arguments = (Arc::clone(&journal), started.swap(true, Ordering::AcqRel));
            Box::pin(async move {
                let (actor, _) = Actor::spawn_linked(None, JournalActor, arguments, supervisor).await?;
                Ok(actor.get_cell())
            })
        }),
        dispensable: false,
        observe: Box::new(|_| {}),
    }
}

fn projection_child<P: Projection>(follower: &Arc<Follower<P>>) -> ChildSpec {
    let starting = Arc::clone(follower);
    let observed = Arc::clone(follower);
    ChildSpec {
        name: P::NAME.into(),
        start: Box::new(move |supervisor| {
            let follower = Arc::clone(&starting);
            Box::pin(async move {
                let (actor, _) =
                    Actor::spawn_linked(None, ProjectionActor::<P>::default(), follower, supervisor).await?;
                Ok(actor.get_cell())
            })
        }),
        dispensable: true,
        observe: Box::new(move |state| match state {
            ChildState::Started => {}
            ChildState::Restarting(reason) => observed.shown.set_state(ProjectionState::Restarting(reason)),
            ChildState::Quarantined(reason) => observed.shown.set_state(ProjectionState::Quarantined(reason)),
        }),
    }
}

/// Outcomes older than the retention are removed now and then.
async fn prune_outcomes(store: SharedStore, clock: SharedClock, days: u32, stop: CancellationToken) {
    const EVERY: Duration = Duration::from_secs(3_600);
    loop {
        let before = clock.now() - chrono::Duration::days(i64::from(days));
        match store.prune_outcomes(before).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "expired outcomes removed"),
            Err(error) => warn!(error = %chain(&error), "expired outcomes were not removed"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The builder was given something that cannot be.
    #[error("{0}")]
    Invalid(String),
}

impl From<InvalidStreamId> for StartError {
    fn from(error: InvalidStreamId) -> Self {
        Self::Invalid(error.to_string())
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
        EngineBuilder {
            store,
            clock: Arc::new(SystemClock),
            limits: Limits::default(),
            take_over: TakeOver::OnlyDead,
            aggregates: Vec::new(),
            projections: Vec::new(),
        }
    }

    /// Executes a command under a fresh id, with the default deadline.
    ///
    /// # Errors
    /// See [`Engine::execute_with`].
    pub async fn execute<A: Aggregate>(
        &self,
        id: &AggregateId<A>,
        command: A::Command,
    ) -> Result<Receipt, ExecuteError<A::Rejection>> {
        self.execute_with(id, command, Options::default()).await
    }

    /// Executes a command; returns when its outcome is durable, or at its deadline.
    ///
    /// # Errors
    /// [`ExecuteError`] keeps *rejected*, *conflict*, *overloaded*, *not executed* and *unknown* apart.
    pub async fn execute_with<A: Aggregate>(
        &self,
        id: &AggregateId<A>,
        command: A::Command,
        options: Options,
    ) -> Result<Receipt, ExecuteError<A::Rejection>> {
        let (answer, replayed) = self.answer(id, command, options).await;
        let result = typed(answer, replayed, id.stream());
        metrics::counter!("essaim_commands_total", "aggregate" => A::CATEGORY, "outcome" => label(&result))
            .increment(1);
        result
    }

    async fn answer<A: Aggregate>(&self, id: &AggregateId<A>, command: A::Command, options: Options) -> (Answer, bool) {
        let inner = &self.inner;
        if let Err(error) = id.stream().validate() {
            return (Answer::Invalid(error.to_string()), false);
        }
        let Some(dispatcher) =
            inner.dispatchers.get(&TypeId::of::<A>()).and_then(|any| any.downcast_ref::<Arc<Dispatcher<A>>>())
        else {
            return (Answer::Invalid(format!("the engine was not built with the aggregate {}", A::CATEGORY)), false);
        };
        let encoded = match serde_json::to_vec(&command) {
            Ok(encoded) => encoded,
            Err(error) => return (Answer::Invalid(format!("the command cannot be written as JSON: {error}")), false),
        };
        let decide_by = Instant::now() + options.deadline.unwrap_or(inner.runtime.limits.command_deadline);
        let command_id =
            options.command_id.or(options.fresh_id).unwrap_or_else(|| CommandId(inner.clock.time_ordered_id()));
        let keep = options
            .command_id
            .map(|_| Keep { fingerprint: fingerprint(id.stream(), &encoded), internal: options.internal });
        let admission = if options.internal { &inner.internal_admission } else { &inner.admission };
        let metadata = match metadata(command_id, &options) {
            Ok(metadata) => metadata,
            Err(what) => return (Answer::Invalid(what), false),
        };
        let size = encoded.len() + metadata.as_json().len();
        let request =
            Box::new(Request { command, command_id, expected: options.expected, decide_by, metadata, keep, rounds: 0 });
        match keep {
            None => (self.run(dispatcher, id.stream(), request, admission, size).await, false),
            Some(keep) => self.run_once(dispatcher, id.stream(), request, admission, size, keep).await,
        }
    }

    async fn run<A: Aggregate>(
        &self,
        dispatcher: &Dispatcher<A>,
        stream: &StreamId,
        request: Box<Request<A>>,
        admission: &Arc<Admission>,
        size: usize,
    ) -> Answer {
        let permit = match self.admit(admission, size) {
            Ok(permit) => permit,
            Err(answer) => return answer,
        };
        let decide_by = request.decide_by;
        let (reply, ticket, answer) = Reply::new(permit);
        dispatcher.dispatch(stream, request, reply);
        match tokio::time::timeout_at(decide_by, answer).await {
            Ok(Ok(answer)) => answer,
            // Dropped unanswered: nobody can say any more.
            Ok(Err(_)) => Answer::Unknown,
            Err(_) => given_up(&ticket),
        }
    }

    /// Runs the command unless its outcome is known or it is under way already. It goes on when its caller does not.
    async fn run_once<A: Aggregate>(
        &self,
        dispatcher: &Arc<Dispatcher<A>>,
        stream: &StreamId,
        request: Box<Request<A>>,
        admission: &Arc<Admission>,
        size: usize,
        keep: Keep,
    ) -> (Answer, bool) {
        use crate::actors::flights::Joined;
        let decide_by = request.decide_by;
        let (mut reply, ticket, answer) = Reply::new(None);
        let (mut flight, is_attached) = match self.inner.flights.join(request.command_id, keep.fingerprint, &ticket) {
            Joined::OtherCommand => return (Answer::CommandIdReused, false),
            Joined::Full => return (Answer::Overloaded, false),
            Joined::Attached(flight) => (flight, true),
            Joined::First(flight, landing) => {
                let (engine, dispatcher, stream) = (self.clone(), Arc::clone(dispatcher), stream.clone());
                let admission = Arc::clone(admission);
                tokio::spawn(async move {
                    let verdict = match engine.inner.flights.kept(request.command_id).await {
                        Err(error) => {
                            warn!(error = %chain(&*error), "an outcome could not be looked up");
                            Answer::NotExecuted(NotExecuted::StoreUnavailable)
                        }
                        Ok(Some(kept)) if kept.fingerprint != keep.fingerprint => Answer::CommandIdReused,
                        Ok(Some(kept)) => Answer::Kept(kept.outcome),
                        Ok(None) => match engine.admit(&admission, size) {
                            Err(refused) => refused,
                            Ok(permit) => {
                                reply.carry(permit);
                                dispatcher.dispatch(&stream, request, reply);
                                answer.await.unwrap_or(Answer::Unknown)
                            }
                        },
                    };
                    landing.land(verdict);
                });
                (flight, false)
            }
        };
        let landed = tokio::time::timeout_at(decide_by, flight.answer.wait_for(Option::is_some)).await;
        let answer = match landed {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Answer::Unknown),
            Ok(Err(_)) => Answer::Unknown,
            Err(_) => given_up(&flight.ticket),
        };
        match answer {
            Answer::Kept(outcome) => (Answer::Outcome(outcome), true),
            answer => (answer, is_attached),
        }
    }

    fn admit(&self, admission: &Arc<Admission>, size: usize) -> Result<Option<Permit>, Answer> {
        if self.inner.draining.load(Ordering::Acquire) {
            return Err(Answer::NotExecuted(NotExecuted::Draining));
        }
        admission.admit(size).map(Some).ok_or(Answer::Overloaded)
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
                    .apply(projection, &sources, event, &mut std::collections::HashSet::new())
                    .map_err(|error| StoreError::Corrupt { what: chain(&error) })?;
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
        let subscription = Subscription {
            feed: Arc::clone(&self.inner.runtime.feed),
            store: Arc::clone(&self.inner.store),
            reached: after,
            ready: std::collections::VecDeque::new(),
            failed: false,
        };
        futures::stream::unfold(subscription, |mut subscription| async move {
            let next = subscription.next().await?;
            Some((next, subscription))
        })
    }

    /// The store underneath, for reading.
    pub fn store(&self) -> &SharedStore {
        &self.inner.store
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
            Ok(Err(error)) => Check { name: "store".into(), ok: false, detail: chain(&error) },
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
        [store, journal].into_iter().chain(projections).collect()
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
        let answered = tokio::time::timeout_at(until, self.all_answered()).await.is_ok();
        let saved = tokio::time::timeout_at(until, self.all_saved()).await.is_ok();
        inner.stop.cancel();
        let journal = tokio::time::timeout_at(until + GRACE, async { inner.journal.lock().await.take() }).await;
        if let Ok(Some(journal)) = journal {
            // A store that does not answer must not keep a process from ending.
            let _ = tokio::time::timeout(GRACE, journal.close(NotExecuted::Draining)).await;
        }
        let stopped = inner.root.stop_and_wait(None, Some(GRACE)).await.is_ok();
        info!(answered, saved, stopped, "engine stopped");
        answered && saved && stopped
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

/// Follows the log for one reader.
struct Subscription {
    feed: Arc<Feed>,
    store: SharedStore,
    reached: GlobalPosition,
    ready: std::collections::VecDeque<Arc<RecordedEvent>>,
    failed: bool,
}

impl Subscription {
    async fn next(&mut self) -> Option<Result<Arc<RecordedEvent>, StoreError>> {
        while !self.failed {
            if let Some(event) = self.ready.pop_front() {
                self.reached = event.position;
                return Some(Ok(event));
            }
            if let Err(error) = self.pull().await {
                self.failed = true;
                return Some(Err(error));
            }
        }
        None
    }

    async fn pull(&mut self) -> Result<(), StoreError> {
        const PAGE: usize = 500;
        let mut head = self.feed.watch();
        head.mark_unchanged();
        match self.feed.after(self.reached) {
            Recent::Batches(batches) => {
                let reached = self.reached;
                let events = batches.iter().flat_map(|batch| batch.iter()).filter(|event| event.position > reached);
                self.ready.extend(events.take(PAGE).map(|event| Arc::new(event.clone())));
            }
            Recent::TooOld => {
                let page = self.store.read_log(self.reached, PAGE, &LogFilter::default()).await?;
                self.ready.extend(page.events.into_iter().map(Arc::new));
            }
            Recent::UpToDate if head.changed().await.is_err() => self.failed = true,
            Recent::UpToDate => {}
        }
        Ok(())
    }
}

fn given_up(ticket: &Ticket) -> Answer {
    if ticket.give_up() { Answer::NotExecuted(NotExecuted::Deadline) } else { Answer::Unknown }
}

/// blake3 over the target and the command: what makes a command the same command.
fn fingerprint(stream: &StreamId, command: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [stream.category().as_bytes(), stream.key().as_bytes(), command] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn metadata(command_id: CommandId, options: &Options) -> Result<Metadata, String> {
    let metadata = Metadata::new(MetadataFields {
        command_id,
        correlation_id: options.correlation_id.unwrap_or(command_id.0),
        causation_id: options.causation_id.unwrap_or(command_id.0),
        principal: options.principal.clone().unwrap_or_else(|| "anonymous".into()),
        extra: options.extra.clone(),
    });
    if crate::actors::aggregate::holds_nul(metadata.as_json()) {
        return Err("the metadata hold U+0000, which no database can keep".into());
    }
    Ok(metadata)
}

fn typed<R>(answer: Answer, replayed: bool, stream: &StreamId) -> Result<Receipt, ExecuteError<R>>
where
    R: serde::de::DeserializeOwned + std::error::Error + 'static,
{
    /// What a client is told to wait before it tries again.
    const RETRY_AFTER: Duration = Duration::from_secs(1);
    Err(match answer {
        Answer::Outcome(Outcome::Committed { version, position })
        | Answer::Kept(Outcome::Committed { version, position }) => {
            return Ok(Receipt { version, position, changed: true, replayed });
        }
        Answer::Outcome(Outcome::Unchanged { version, position })
        | Answer::Kept(Outcome::Unchanged { version, position }) => {
            return Ok(Receipt { version, position, changed: false, replayed });
        }
        Answer::Outcome(Outcome::Rejected { version, position, rejection })
        | Answer::Kept(Outcome::Rejected { version, position, rejection }) => match serde_json::from_str(&rejection) {
            Ok(rejection) => ExecuteError::Rejected { rejection, version, position, replayed },
            Err(error) => ExecuteError::Failed { what: format!("a kept rejection cannot be read: {error}") },
        },
        Answer::Outcome(Outcome::ClaimRefused { version, position, claim })
        | Answer::Kept(Outcome::ClaimRefused { version, position, claim }) => {
            ExecuteError::ClaimRefused { claim, version, position, replayed }
        }
        Answer::VersionMismatch { expected, actual } => ExecuteError::VersionMismatch { expected, actual },
        Answer::Invalid(what) => ExecuteError::Invalid { what },
        Answer::Failed(what) => ExecuteError::Failed { what },
        Answer::Quarantined(reason) => ExecuteError::Quarantined { stream: stream.clone(), reason },
        Answer::NotExecuted(reason) => ExecuteError::NotExecuted { reason },
        Answer::Overloaded => ExecuteError::Overloaded { retry_after: RETRY_AFTER },
        Answer::Unknown => ExecuteError::Unknown,
        Answer::CommandIdReused => ExecuteError::CommandIdReused,
    })
}

fn label<R: std::error::Error>(result: &Result<Receipt, ExecuteError<R>>) -> &'static str {
    match result {
        Ok(receipt) if receipt.replayed => "replayed",
        Ok(receipt) if receipt.changed => "committed",
        Ok(_) => "unchanged",
        Err(ExecuteError::Rejected { .. }) => "rejected",
        Err(ExecuteError::ClaimRefused { .. }) => "claim_refused",
        Err(ExecuteError::VersionMismatch { .. }) => "version_mismatch",
        Err(ExecuteError::CommandIdReused) => "command_id_reused",
        Err(ExecuteError::Invalid { .. }) => "invalid",
        Err(ExecuteError::Overloaded { .. }) => "overloaded",
        Err(ExecuteError::NotExecuted { .. }) => "not_executed",
        Err(ExecuteError::Unknown) => "unknown",
        Err(ExecuteError::Quarantined { .. }) => "quarantined",
        Err(ExecuteError::Failed { .. }) => "failed",
    }
}
