//! This file runs one projection: it pulls what is new, applies it to the hot table, and saves checkpoints.
//!
//! ```text
//! load rows and checkpoint → verify it against the log → pull (feed, or pages of the store) → apply → show
//!                                                          └ dirty rows: frozen between two events → saved aside
//! ```
//! It is the only one who changes its table. A wake-up is a hint: what counts is that positions are dense.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

use super::feed::{CommittedBatch, Feed, Recent};
use super::journal::JournalStatus;
use super::pages::{Pages, is_in_the_log};
use crate::aggregate::DecodeError;
use crate::causes::with_causes;
use crate::clock::SharedClock;
use crate::event::RecordedEvent;
use crate::health::ProjectionState;
use crate::limits::Limits;
use crate::projections::read_model::Shown;
use crate::projections::table::{Keys, Table};
use crate::projections::{Projection, Row, Sources, TableSpec, Values};
use crate::store::{Checkpoint, CheckpointSave, SharedStore, StoreError};
use crate::stream::GlobalPosition;

/// What a projection's actor is told.
pub(crate) enum Message {
    /// There may be more to pull.
    Wake,
    /// Time for a checkpoint, perhaps.
    Tick,
    /// How a save ended.
    Saved(Result<(), StoreError>),
    /// Build the rows anew from the first event; answered once they are shown and saved.
    Rebuild(oneshot::Sender<()>),
    /// Pull up to the head, save, and answer.
    Finish(oneshot::Sender<()>),
}

/// What a projection works with, and what others see of it; it outlives restarts.
pub(crate) struct Follower<P: Projection> {
    pub(crate) projection: Arc<P>,
    pub(crate) sources: Arc<Sources<P>>,
    pub(crate) store: SharedStore,
    pub(crate) feed: Arc<Feed>,
    pub(crate) shown: Arc<Shown<P>>,
    pub(crate) limits: Limits,
    pub(crate) clock: SharedClock,
    /// Tells the writer's epoch; a checkpoint of a fenced writer is refused.
    pub(crate) journal: Arc<JournalStatus>,
    pub(crate) checkpoint: AtomicU64,
    pub(crate) actor: Mutex<Option<ActorRef<Message>>>,
    woken: AtomicBool,
}

impl<P: Projection> Follower<P> {
    pub(crate) fn new(
        projection: P,
        store: SharedStore,
        feed: Arc<Feed>,
        limits: Limits,
        clock: SharedClock,
        journal: Arc<JournalStatus>,
    ) -> Arc<Self> {
        let follower = Arc::new(Self {
            projection: Arc::new(projection),
            sources: Arc::new(Sources::of()),
            store,
            feed: Arc::clone(&feed),
            shown: Arc::default(),
            limits,
            clock,
            journal,
            checkpoint: AtomicU64::new(0),
            actor: Mutex::new(None),
            woken: AtomicBool::new(false),
        });
        let woken = Arc::downgrade(&follower);
        feed.follow(move || {
            if let Some(follower) = woken.upgrade() {
                follower.wake();
            }
        });
        follower
    }

    /// Leaves a note that there is more; a second note before it was read is not sent.
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.send(Message::Wake);
        }
    }

    /// Tells the actor; returns whether there is one.
    pub(crate) fn send(&self, message: Message) -> bool {
        let actor = self.actor.lock().unwrap_or_else(PoisonError::into_inner);
        actor.as_ref().is_some_and(|actor| actor.send_message(message).is_ok())
    }
}

/// The stateless half.
pub(crate) struct ProjectionActor<P>(std::marker::PhantomData<fn() -> P>);

impl<P> Default for ProjectionActor<P> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<P: Projection> Actor for ProjectionActor<P> {
    type Msg = Message;
    type State = Following<P>;
    type Arguments = Arc<Follower<P>>;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        follower: Arc<Follower<P>>,
    ) -> Result<Following<P>, ActorProcessingErr> {
        follower.shown.set_state(ProjectionState::CatchingUp);
        *follower.actor.lock().unwrap_or_else(PoisonError::into_inner) = Some(myself.clone());
        myself.send_interval(follower.limits.checkpoint_every, || Message::Tick);
        follower.woken.store(true, Ordering::Release);
        myself.send_message(Message::Wake)?;
        Ok(Following::new(follower, myself))
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut Following<P>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Wake => state.pull().await?,
            Message::Tick => {
                state.pull().await?;
                state.save_if_due();
            }
            Message::Saved(result) => {
                state.saved(result).await?;
                state.pull().await?;
            }
            Message::Rebuild(reply) => {
                state.rebuild(reply);
                state.pull().await?;
            }
            Message::Finish(reply) => {
                state.finishing.push(reply);
                state.pull().await?;
                state.finish_if_done();
            }
        }
        Ok(())
    }
}

/// Applies events to a table; moves to another thread and back when the projection turns out to be slow.
struct Fold<P: Projection> {
    projection: Arc<P>,
    sources: Arc<Sources<P>>,
    table: Arc<Table<P>>,
    dirty: Keys<P>,
}

/// How a slice ended.
enum Slice {
    /// All of it was applied.
    Done,
    /// Time ran out.
    Cut,
    /// The next event is not the one behind the last.
    Gap,
}

impl<P: Projection> Fold<P> {
    fn new(follower: &Follower<P>, table: Arc<Table<P>>) -> Self {
        Self {
            projection: Arc::clone(&follower.projection),
            sources: Arc::clone(&follower.sources),
            table,
            dirty: Keys::<P>::default(),
        }
    }

    fn apply<'a>(
        &mut self,
        events: impl Iterator<Item = &'a RecordedEvent>,
        until: Instant,
    ) -> Result<Slice, DecodeError> {
        for event in events {
            let reached = self.table.position();
            if event.position <= reached {
                continue;
            }
            if event.position != reached.next() {
                return Ok(Slice::Gap);
            }
            self.table.apply(&self.projection, &self.sources, event, &mut self.dirty)?;
            if Instant::now() >= until {
                return Ok(Slice::Cut);
            }
        }
        Ok(Slice::Done)
    }
}

/// A save that is under way.
struct Saving<P: Projection> {
    keys: Keys<P>,
    position: GlobalPosition,
    replaced_all: bool,
}

/// The state of a projection's actor.
pub(crate) struct Following<P: Projection> {
    follower: Arc<Follower<P>>,
    myself: ActorRef<Message>,
    spec: TableSpec,
    pages: Pages,
    /// None before the first load.
    fold: Option<Fold<P>>,
    /// What the checkpoint row says.
    saved_at: Option<GlobalPosition>,
    replace_all: bool,
    saving: Option<Saving<P>>,
    last_save: Instant,
    /// After a failed save the store is left in peace until then.
    save_after: Instant,
    generation: u64,
    ready_at: GlobalPosition,
    is_shown: bool,
    is_slow: bool,
    rebuilding: Vec<oneshot::Sender<()>>,
    finishing: Vec<oneshot::Sender<()>>,
}

/// How long events are applied before others get the thread.
const SLICE: Duration = Duration::from_millis(2);
/// A slice that takes this long is taken off the runtime's threads.
const SLOW_SLICE: Duration = Duration::from_millis(10);
/// Pause before the store is asked again.
const PAUSE: Duration = Duration::from_millis(200);

impl<P: Projection> Following<P> {
    fn new(follower: Arc<Follower<P>>, myself: ActorRef<Message>) -> Self {
        let generation = follower.feed.generation();
        let ready_at = follower.feed.head();
        Self {
            pages: Pages::of(Arc::clone(&follower.store)),
            follower,
            myself,
            spec: TableSpec::of::<P>(),
            fold: None,
            saved_at: None,
            replace_all: false,
            saving: None,
            last_save: Instant::now(),
            save_after: Instant::now(),
            generation,
            ready_at,
            is_shown: false,
            is_slow: false,
            rebuilding: Vec::new(),
            finishing: Vec::new(),
        }
    }

    /// Applies what is new, up to a slice of time; asks itself to go on when there is more.
    async fn pull(&mut self) -> Result<(), ActorProcessingErr> {
        self.follower.woken.store(false, Ordering::Release);
        if self.generation != self.follower.feed.generation() {
            return Err("the log went backwards; the rows are built anew".into());
        }
        if self.fold.is_none() && !self.load().await? {
            return Ok(());
        }
        if self.is_full() {
            return Ok(());
        }
        let more = self.pull_slice().await?;
        self.show();
        let is_awaited = self.replace_all && !self.rebuilding.is_empty();
        if is_awaited || self.dirty_rows() >= self.follower.limits.checkpoint_rows {
            self.save();
        }
        if more {
            self.follower.wake();
        } else {
            self.finish_if_done();
        }
        Ok(())
    }

    /// At its cap of unsaved rows this projection waits for the store; nobody else does.
    fn is_full(&self) -> bool {
        self.saving.is_some() && self.dirty_rows() >= self.follower.limits.checkpoint_rows * 4
    }

    fn dirty_rows(&self) -> usize {
        self.fold.as_ref().map_or(0, |fold| fold.dirty.len())
    }

    async fn pull_slice(&mut self) -> Result<bool, ActorProcessingErr> {
        let position = self.position();
        let slice = match self.follower.feed.after(position) {
            Recent::UpToDate => return Ok(false),
            Recent::Batches(batches) => {
                self.pages.clear();
                self.apply(batches).await?
            }
            Recent::TooOld => Slice::Gap,
        };
        if let Slice::Gap = slice {
            let position = self.position();
            match self.pages.after(position).await {
                Ok(page) => {
                    self.apply(vec![page]).await?;
                }
                Err(error) => {
                    warn!(projection = P::NAME, error = %with_causes(&error), "the log cannot be read");
                    self.wake_later();
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn wake_later(&self) {
        self.myself.send_after(PAUSE, || Message::Wake);
    }

    fn position(&self) -> GlobalPosition {
        self.fold.as_ref().map_or(GlobalPosition::START, |fold| fold.table.position())
    }

    async fn apply(&mut self, batches: Vec<CommittedBatch>) -> Result<Slice, ActorProcessingErr> {
        let mut fold = self.fold.take().expect("loaded before anything is pulled");
        let started = Instant::now();
        let slice = if self.is_slow {
            let applied = tokio::task::spawn_blocking(move || {
                let slice = fold.apply(batches.iter().flat_map(|batch| batch.iter()), started + SLICE);
                (fold, slice)
            });
            let (applied, slice) = applied.await?;
            fold = applied;
            slice
        } else {
            fold.apply(batches.iter().flat_map(|batch| batch.iter()), started + SLICE)
        };
        self.is_slow = started.elapsed() >= SLOW_SLICE;
        self.fold = Some(fold);
        Ok(slice?)
    }

    /// Loads the table and its checkpoint; false when the store does not answer, and a later wake-up tries again.
    async fn load(&mut self) -> Result<bool, ActorProcessingErr> {
        let result = self.load_rows().await;
        match result {
            Ok(fold) => {
                self.fold = Some(fold);
                Ok(true)
            }
            Err(error) if error.is_transient() => {
                warn!(projection = P::NAME, error = %with_causes(&error), "the read table cannot be loaded yet");
                self.wake_later();
                Ok(false)
            }
            Err(error) => Err(Box::new(error)),
        }
    }

    async fn load_rows(&mut self) -> Result<Fold<P>, StoreError> {
        let store = Arc::clone(&self.follower.store);
        store.prepare_table(&self.spec).await?;
        let mut rows: Vec<P::Row> = Vec::new();
        let mut unreadable = None;
        let checkpoint = store
            .load_table(&self.spec, &mut |values| {
                match P::Row::read(&mut Values::new(P::Row::COLUMNS, values)) {
                    Ok(row) => rows.push(row),
                    Err(error) => unreadable = Some(error),
                }
                Ok(())
            })
            .await?;
        self.saved_at = checkpoint.as_ref().map(|checkpoint| checkpoint.position);
        self.follower.checkpoint.store(self.saved_at.unwrap_or_default().0, Ordering::Release);
        let usable = match (checkpoint, unreadable) {
            (None, _) => None,
            (Some(_), Some(error)) => {
                warn!(projection = P::NAME, %error, "a stored row cannot be read; building the rows from the log");
                None
            }
            (Some(checkpoint), None) if is_in_the_log(&*store, &checkpoint).await? => Some(checkpoint),
            (Some(checkpoint), None) => {
                warn!(
                    projection = P::NAME,
                    position = checkpoint.position.0,
                    "the checkpoint is not of this log; building the rows anew"
                );
                None
            }
        };
        let table = match usable {
            Some(checkpoint) => Table::with_rows(rows, checkpoint.position, checkpoint.chain_hash),
            None => {
                self.replace_all = true;
                Table::default()
            }
        };
        info!(projection = P::NAME, rows = table.len(), position = table.position().0, "read table loaded");
        Ok(Fold::new(&self.follower, Arc::new(table)))
    }

    /// Shows the table once it has caught up with what was shown, and then tells how far it is.
    fn show(&mut self) {
        let Some(fold) = &self.fold else { return };
        let position = fold.table.position();
        let shown = &self.follower.shown;
        if self.is_shown {
            shown.moved();
        } else if position >= shown.table().position() || position >= self.follower.feed.head() {
            self.is_shown = true;
            shown.replace(Arc::clone(&fold.table));
        }
        if self.is_shown && position >= self.ready_at && shown.state() == ProjectionState::CatchingUp {
            info!(projection = P::NAME, position = position.0, "caught up");
            shown.set_state(ProjectionState::Live);
        }
        let lag = self.follower.feed.head().0.saturating_sub(position.0);
        metrics::gauge!("essaim_projection_lag_events", "projection" => P::NAME).set(lag as f64);
    }

    fn save_if_due(&mut self) {
        if self.last_save.elapsed() >= self.follower.limits.checkpoint_every {
            self.save();
        }
    }

    /// Freezes what changed, between two events, and saves it aside. A table that is not shown yet is not saved: the
    /// rows in SQL would step back.
    fn save(&mut self) {
        let Some(fold) = &mut self.fold else { return };
        let position = fold.table.position();
        let behind = self.saved_at.is_none_or(|saved| saved < position) || self.replace_all;
        let now = Instant::now();
        if self.saving.is_some() || !self.is_shown || !behind || now < self.save_after {
            return;
        }
        self.last_save = now;
        let keys = std::mem::take(&mut fold.dirty);
        let (mut rows, deletes) = fold.table.freeze(&keys);
        let chain_hash = fold.table.read(|snapshot| snapshot.chain_hash());
        let checkpoint = Checkpoint {
            projection: P::NAME.into(),
            version: P::VERSION,
            position,
            chain_hash,
            epoch: self.follower.journal.epoch(),
            saved_at: self.follower.clock.now(),
        };
        self.saving = Some(Saving { keys, position, replaced_all: self.replace_all });
        let (spec, previous, replace_all) = (self.spec.clone(), self.saved_at, self.replace_all);
        let (store, myself) = (Arc::clone(&self.follower.store), self.myself.clone());
        // A task of its own: nothing that stops this actor may drop a transaction half way.
        tokio::spawn(async move {
            // In the order of its index a store takes many rows in half the time.
            rows.sort_by_cached_key(|row| row.key());
            let upserts = rows.iter().map(|row| row.write()).collect();
            let save = CheckpointSave { table: &spec, previous, checkpoint, upserts, deletes, replace_all };
            let result = store.save_checkpoint(save).await;
            let _ = myself.send_message(Message::Saved(result));
        });
    }

    async fn saved(&mut self, result: Result<(), StoreError>) -> Result<(), ActorProcessingErr> {
        let Some(saving) = self.saving.take() else { return Ok(()) };
        let result = match result {
            Err(StoreError::Unknown { source }) => self.look_whether_saved(saving.position, source).await,
            known => known,
        };
        match result {
            Ok(()) => {
                self.saved_at = Some(saving.position);
                self.follower.checkpoint.store(saving.position.0, Ordering::Release);
                if saving.replaced_all {
                    self.replace_all = false;
                    self.rebuilding.drain(..).for_each(|reply| {
                        let _ = reply.send(());
                    });
                }
                self.finish_if_done();
                Ok(())
            }
            // Someone else saved; what the row says now must be looked at again.
            Err(error @ StoreError::Conflict { .. }) => Err(Box::new(error)),
            Err(error) => {
                warn!(projection = P::NAME, error = %with_causes(&error), "a checkpoint was not saved; it is tried again");
                if let Some(fold) = &mut self.fold {
                    fold.dirty.extend(saving.keys);
                }
                if let StoreError::Data { .. } | StoreError::Schema { .. } = error {
                    return Err(Box::new(error));
                }
                self.save_after = Instant::now() + PAUSE;
                self.myself.send_after(PAUSE, || Message::Tick);
                Ok(())
            }
        }
    }

    async fn look_whether_saved(
        &self,
        position: GlobalPosition,
        source: Option<crate::store::Cause>,
    ) -> Result<(), StoreError> {
        let row = self.follower.store.checkpoint(P::NAME, P::VERSION).await?;
        if row.is_some_and(|row| row.position == position) {
            Ok(())
        } else {
            Err(StoreError::Unavailable { what: "saving a checkpoint", source })
        }
    }

    fn rebuild(&mut self, reply: oneshot::Sender<()>) {
        info!(projection = P::NAME, "building the rows anew from the first event");
        self.fold = Some(Fold::new(&self.follower, Arc::new(Table::default())));
        self.is_shown = false;
        self.replace_all = true;
        self.rebuilding.push(reply);
    }

    /// Answers those who wait for the end once everything up to the head is applied and saved.
    fn finish_if_done(&mut self) {
        if self.finishing.is_empty() || self.saving.is_some() {
            return;
        }
        let position = self.position();
        if position < self.follower.feed.head()
            || self.saved_at.is_none_or(|saved| saved < position) && position > GlobalPosition::START
        {
            return self.save();
        }
        self.finishing.drain(..).for_each(|reply| {
            let _ = reply.send(());
        });
    }
}
