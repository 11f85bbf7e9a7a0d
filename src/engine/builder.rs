//! This file puts an engine together: what it runs, within which limits, and in which order it starts.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::Actor;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::parts::{AnyDispatcher, AnyFollower};
use super::process_managers::{AnyManager, EngineSlot, sender};
use super::synchronisers::AnyWorker;
use super::{Engine, Handle, Inner};
use crate::actors::Runtime;
use crate::actors::admission::Admission;
use crate::actors::dispatcher::Dispatcher;
use crate::actors::feed::Feed;
use crate::actors::flights::Flights;
use crate::actors::journal::{BatchLimits, Journal, JournalStatus};
use crate::actors::journal_actor::{JournalActor, JournalSlot};
use crate::actors::loader::Loader;
use crate::actors::process_manager::{Ground, ProcessManagerActor, Runner};
use crate::actors::projection::{Follower, ProjectionActor};
use crate::actors::snapshots::SnapshotSender;
use crate::actors::supervisor::{self, ChildSpec, ChildState, RestartPolicy, Supervisor};
use crate::actors::synchroniser::call::Recorder;
use crate::actors::synchroniser::{self, SynchroniserActor, Worker};
use crate::aggregate::{Aggregate, AggregateId};
use crate::causes::with_causes;
use crate::clock::{Clock, SharedClock, SystemClock};
use crate::command::{ExecuteError, NotExecuted, Options};
use crate::health::ProjectionState;
use crate::limits::Limits;
use crate::process_manager::ProcessManager;
use crate::projections::Projection;
use crate::store::{SharedStore, StoreError, TakeOver};
use crate::stream::{InvalidStreamId, StreamId};
use crate::synchroniser::{Pace, Synchroniser};

/// Builds an [`Engine`].
pub struct EngineBuilder {
    store: SharedStore,
    clock: SharedClock,
    limits: Limits,
    take_over: TakeOver,
    aggregates: Vec<AddAggregate>,
    projections: Vec<AddProjection>,
    synchronisers: Vec<AddSynchroniser>,
    process_managers: Vec<AddProcessManager>,
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

struct AddSynchroniser {
    name: &'static str,
    version: u32,
    /// The category of the aggregate that records outcomes.
    record: &'static str,
    pace: Pace,
    add: WithFoundation,
}

struct AddProcessManager {
    name: &'static str,
    version: u32,
    add: WithFoundation,
}

/// What projections, process managers and synchronisers are built upon.
struct Foundation {
    store: SharedStore,
    feed: Arc<Feed>,
    limits: Limits,
    clock: SharedClock,
    status: Arc<JournalStatus>,
    engine: EngineSlot,
}

#[derive(Default)]
struct Parts {
    children: Vec<ChildSpec>,
    dispatchers: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    categories: Vec<Box<dyn AnyDispatcher>>,
    followers: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    projections: Vec<Arc<dyn AnyFollower>>,
    synchronisers: Vec<Arc<dyn AnyWorker>>,
    process_managers: Vec<Arc<dyn AnyManager>>,
}

impl EngineBuilder {
    pub(super) fn over(store: SharedStore) -> Self {
        Self {
            store,
            clock: Arc::new(SystemClock),
            limits: Limits::default(),
            take_over: TakeOver::OnlyDead,
            aggregates: Vec::new(),
            projections: Vec::new(),
            synchronisers: Vec::new(),
            process_managers: Vec::new(),
        }
    }

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

    /// Brings an outside system in step with the log, at the default pace. The aggregate that records the outcomes must
    /// be among the engine's.
    #[must_use]
    pub fn synchroniser<S: Synchroniser>(self, synchroniser: S) -> Self {
        self.synchroniser_at(synchroniser, Pace::default())
    }

    /// Brings an outside system in step with the log, at this pace.
    #[must_use]
    pub fn synchroniser_at<S: Synchroniser>(mut self, synchroniser: S, pace: Pace) -> Self {
        let worked_at = pace.clone();
        let add = Box::new(move |on: &Foundation, parts: &mut Parts| {
            let ground = synchroniser::Ground {
                store: Arc::clone(&on.store),
                feed: Arc::clone(&on.feed),
                limits: on.limits.clone(),
                clock: Arc::clone(&on.clock),
                journal: Arc::clone(&on.status),
            };
            let worker = Worker::new(synchroniser, worked_at, ground, recorder(&on.engine));
            parts.children.push(synchroniser_child(&worker));
            parts.synchronisers.push(worker);
        });
        let record = S::Record::CATEGORY;
        self.synchronisers.push(AddSynchroniser { name: S::NAME, version: S::VERSION, record, pace, add });
        self
    }

    /// Runs this process manager. The aggregates that it sends commands to must be among the engine's; one that is
    /// not leaves its commands waiting, see [`Engine::process_managers`].
    #[must_use]
    pub fn process_manager<M: ProcessManager>(mut self, manager: M) -> Self {
        let add = Box::new(move |on: &Foundation, parts: &mut Parts| {
            let ground = Ground {
                store: Arc::clone(&on.store),
                feed: Arc::clone(&on.feed),
                limits: on.limits.clone(),
                clock: Arc::clone(&on.clock),
                journal: Arc::clone(&on.status),
                sender: sender(&on.engine),
            };
            let runner = Runner::new(manager, ground);
            parts.children.push(process_manager_child(&runner));
            parts.process_managers.push(runner);
        });
        self.process_managers.push(AddProcessManager { name: M::NAME, version: M::VERSION, add });
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
        let EngineBuilder { store, clock, limits, take_over, aggregates, projections, process_managers, synchronisers } =
            self;
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
            shard_key: clock.random_id(),
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
            engine: EngineSlot::default(),
        };
        projections.into_iter().for_each(|projection| (projection.add)(&foundation, &mut parts));
        synchronisers.into_iter().for_each(|synchroniser| (synchroniser.add)(&foundation, &mut parts));
        process_managers.into_iter().for_each(|manager| (manager.add)(&foundation, &mut parts));
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
        let abandoned = CancellationToken::new();
        let handle = Handle { stop: stop.clone(), abandoned: abandoned.clone(), root: root.clone() };
        let engine = Engine {
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
                synchronisers: parts.synchronisers,
                process_managers: parts.process_managers,
                status,
                journal,
                root,
                stop,
                draining: AtomicBool::new(false),
                sealed: AtomicBool::new(false),
                abandoned,
            }),
            handle: Some(Arc::new(handle)),
        };
        let is_first = foundation.engine.set(Arc::downgrade(&engine.inner)).is_ok();
        debug_assert!(is_first, "the slot is filled here alone");
        Ok(engine)
    }

    fn validate(&self) -> Result<(), StartError> {
        let invalid = |what: String| Err(StartError::Invalid(what));
        for (n, aggregate) in self.aggregates.iter().enumerate() {
            StreamId::new(aggregate.category, "key").validate()?;
            if self.aggregates[..n].iter().any(|other| other.category == aggregate.category) {
                return invalid(format!("two aggregates have the category {:?}", aggregate.category));
            }
        }
        let projections = self.projections.iter().map(|part| (part.name, part.view, part.version));
        let managers = self.process_managers.iter().map(|part| (part.name, part.name, part.version));
        let synchronisers = self.synchronisers.iter().map(|part| (part.name, part.name, part.version));
        let tables: Vec<_> = projections.chain(managers).chain(synchronisers).collect();
        for (n, (name, view, version)) in tables.iter().enumerate() {
            [name, view].into_iter().try_for_each(|name| validate_name(name))?;
            if *version == 0 {
                return invalid(format!("{name} has version 0; versions count from 1"));
            }
            if tables[..n].iter().any(|other| other.0 == *name || other.1 == *view) {
                return invalid(format!(
                    "two projections, process managers or synchronisers are called {name:?} or share its table"
                ));
            }
        }
        for synchroniser in &self.synchronisers {
            synchroniser.pace.validate().map_err(StartError::Invalid)?;
            if !self.aggregates.iter().any(|aggregate| aggregate.category == synchroniser.record) {
                return invalid(format!(
                    "the synchroniser {} records outcomes in {:?}, which is none of the engine's aggregates",
                    synchroniser.name, synchroniser.record
                ));
            }
        }
        self.limits.validate().map_err(StartError::Invalid)
    }
}

fn validate_name(name: &str) -> Result<(), StartError> {
    let is_shaped = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 40
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_shaped && !name.starts_with("essaim_") {
        return Ok(());
    }
    Err(StartError::Invalid(format!(
        "{name:?} cannot be the name of a projection, a process manager, a synchroniser or a table: [a-z][a-z0-9_]*, at most 40 bytes, not essaim_…"
    )))
}

/// Executes commands on the engine that will stand in this slot.
fn recorder<A: Aggregate>(slot: &EngineSlot) -> Recorder<A> {
    let slot = Arc::clone(slot);
    Arc::new(move |id: AggregateId<A>, command: A::Command, options: Options| {
        let engine = slot.get().and_then(Weak::upgrade).map(|inner| Engine { inner, handle: None });
        Box::pin(async move {
            match engine {
                Some(engine) => engine.execute_with(&id, command, options).await,
                None => Err(ExecuteError::NotExecuted { reason: NotExecuted::Restarting }),
            }
        })
    })
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

fn synchroniser_child<S: Synchroniser>(worker: &Arc<Worker<S>>) -> ChildSpec {
    let (starting, observed) = (Arc::clone(worker), Arc::clone(worker));
    ChildSpec {
        name: S::NAME.into(),
        start: Box::new(move |supervisor| {
            let worker = Arc::clone(&starting);
            Box::pin(async move {
                let (actor, _) =
                    Actor::spawn_linked(None, SynchroniserActor::<S>::default(), worker, supervisor).await?;
                Ok(actor.get_cell())
            })
        }),
        dispensable: true,
        observe: Box::new(move |state| match state {
            ChildState::Started => {}
            ChildState::Restarting(reason) => observed.set_state(ProjectionState::Restarting(reason)),
            ChildState::Quarantined(reason) => observed.set_state(ProjectionState::Quarantined(reason)),
        }),
    }
}

fn process_manager_child<M: ProcessManager>(runner: &Arc<Runner<M>>) -> ChildSpec {
    let (starting, observed) = (Arc::clone(runner), Arc::clone(runner));
    ChildSpec {
        name: M::NAME.into(),
        start: Box::new(move |supervisor| {
            let runner = Arc::clone(&starting);
            Box::pin(async move {
                let (actor, _) =
                    Actor::spawn_linked(None, ProcessManagerActor::<M>::default(), runner, supervisor).await?;
                Ok(actor.get_cell())
            })
        }),
        dispensable: true,
        observe: Box::new(move |state| match state {
            ChildState::Started => {}
            ChildState::Restarting(reason) => observed.set_state(ProjectionState::Restarting(reason)),
            ChildState::Quarantined(reason) => observed.set_state(ProjectionState::Quarantined(reason)),
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
            Err(error) => warn!(error = %with_causes(&error), "expired outcomes were not removed"),
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
