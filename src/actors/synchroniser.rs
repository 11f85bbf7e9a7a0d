//! This file runs one synchroniser: it follows the log, keeps one row a subject, and has the calls made that are due.
//!
//! ```text
//! load rows and checkpoint → follow the log: intents raise what is wanted, outcomes settle it
//!        └ caught up → due and leave of the breaker → call (a task of its own) → landing → row
//!                                                            rows ── frozen between two events ── saved aside
//!
//! row      the durable state of a subject        book     all rows, who is due, who is set aside
//! backoff  pauses between attempts               breaker  leave for calls, or for one probe
//! call     one subject worked off                follow   pulls events into rows
//! save     checkpoints                           reconcile  a slow pass that looks for drift
//! skip     an operator does without a version    survey     what is outside and belongs to nobody
//! ```
//! A kill at any instant is harmless: what was under way is pending again in the rows of the last checkpoint and the
//! log behind it, the outside knows its subjects, and outcomes are recorded under ids that repeat.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::backoff::Backoff;
use self::book::Book;
use self::breaker::{Breaker, Leave};
use self::call::{Ended, Job, Landing, Recorder};
use self::reconcile::Pass;
use self::save::Saves;
use super::feed::Feed;
use super::journal::JournalStatus;
use super::pages::Pages;
use crate::clock::SharedClock;
use crate::event::ChainHash;
use crate::health::ProjectionState;
use crate::limits::Limits;
use crate::projections::{Row, TableSpec};
use crate::store::{SharedStore, StoreError};
use crate::stream::{GlobalPosition, Version};
use crate::synchroniser::{Failure, Outcome, Pace, Skip, Synchroniser};

pub(crate) mod backoff;
pub(crate) mod book;
pub(crate) mod breaker;
pub(crate) mod call;
mod follow;
pub(crate) mod reconcile;
pub(crate) mod row;
mod save;
mod skip;
mod survey;

/// What a synchroniser's actor is told.
pub(crate) enum Message {
    /// There may be more to pull.
    Wake,
    /// Time for a checkpoint, perhaps.
    Tick,
    /// Somebody may be due.
    Due,
    /// A call has ended.
    Landed { subject: String, landing: Landing, was_probe: bool },
    /// How a save ended.
    Saved(Result<(), StoreError>),
    /// An operator changes a row; answered, once that is saved, with whether there was something to change.
    Change(Change, oneshot::Sender<bool>),
    /// Start no more calls, wait for those under way, save, and answer.
    Finish(oneshot::Sender<()>),
}

/// What an operator, or a reconcile, wants of one subject.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Try a dead letter again.
    Retry(String),
    /// Do without the version that failed, as is recorded in the log.
    Skip { subject: String, version: Version, skip: Skip, position: GlobalPosition },
    /// Bring again what was settled.
    Repair(String),
}

/// What a synchroniser works with, and what others see of it; it outlives restarts.
pub(crate) struct Worker<S: Synchroniser> {
    pub(crate) synchroniser: S,
    pub(crate) pace: Pace,
    pub(crate) store: SharedStore,
    pub(crate) feed: Arc<Feed>,
    pub(crate) limits: Limits,
    pub(crate) clock: SharedClock,
    /// Tells the writer's epoch; a checkpoint of a fenced writer is refused.
    pub(crate) journal: Arc<JournalStatus>,
    pub(crate) recorder: Recorder<S::Record>,
    pub(crate) position: AtomicU64,
    pub(crate) checkpoint: AtomicU64,
    /// Moves whenever a subject was settled or set aside.
    pub(crate) settled: watch::Sender<u64>,
    pub(crate) pass: Mutex<Pass>,
    state: Mutex<ProjectionState>,
    book: Mutex<Book>,
    breaker: Mutex<Breaker>,
    /// One for each call under way, whichever incarnation of the actor started it.
    places: Arc<Semaphore>,
    actor: Mutex<Option<ActorRef<Message>>>,
    woken: AtomicBool,
}

/// What synchronisers are built upon.
pub(crate) struct Ground {
    pub(crate) store: SharedStore,
    pub(crate) feed: Arc<Feed>,
    pub(crate) limits: Limits,
    pub(crate) clock: SharedClock,
    pub(crate) journal: Arc<JournalStatus>,
}

impl<S: Synchroniser> Worker<S> {
    pub(crate) fn new(synchroniser: S, pace: Pace, ground: Ground, recorder: Recorder<S::Record>) -> Arc<Self> {
        let Ground { store, feed, limits, clock, journal } = ground;
        let worker = Arc::new(Self {
            synchroniser,
            store,
            feed: Arc::clone(&feed),
            limits,
            clock,
            journal,
            recorder,
            position: AtomicU64::new(0),
            checkpoint: AtomicU64::new(0),
            settled: watch::Sender::new(0),
            pass: Mutex::default(),
            state: Mutex::new(ProjectionState::CatchingUp),
            book: Mutex::default(),
            breaker: Mutex::new(Breaker::new(&pace)),
            places: Arc::new(Semaphore::new(pace.parallel)),
            actor: Mutex::new(None),
            woken: AtomicBool::new(false),
            pace,
        });
        let woken = Arc::downgrade(&worker);
        feed.follow(move || {
            if let Some(worker) = woken.upgrade() {
                worker.wake();
            }
        });
        worker
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

    pub(crate) fn state(&self) -> ProjectionState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_state(&self, state: ProjectionState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The rows; the guard must not live over an await.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The breaker; the guard must not live over an await.
    pub(crate) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for a subject.
    fn tell_settled(&self) {
        self.settled.send_modify(|count| *count += 1);
    }

    /// How many subjects wait, and how the outside does, for those who watch.
    fn measure(&self) {
        let (pending, dead_letters, under_way) = {
            let book = self.book();
            (book.pending(), book.dead_letters(), book.under_way())
        };
        let is_open = self.breaker().open_since().is_some();
        metrics::gauge!("essaim_synchroniser_pending", "synchroniser" => S::NAME).set(pending as f64);
        metrics::gauge!("essaim_synchroniser_dead_letters", "synchroniser" => S::NAME).set(dead_letters as f64);
        metrics::gauge!("essaim_synchroniser_calls_in_flight", "synchroniser" => S::NAME).set(under_way as f64);
        metrics::gauge!("essaim_synchroniser_breaker_open", "synchroniser" => S::NAME).set(if is_open {
            1.0
        } else {
            0.0
        });
    }
}

/// The stateless half.
pub(crate) struct SynchroniserActor<S>(std::marker::PhantomData<fn() -> S>);

impl<S> Default for SynchroniserActor<S> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<S: Synchroniser> Actor for SynchroniserActor<S> {
    type Msg = Message;
    type State = Working<S>;
    type Arguments = Arc<Worker<S>>;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        worker: Arc<Worker<S>>,
    ) -> Result<Working<S>, ActorProcessingErr> {
        worker.set_state(ProjectionState::CatchingUp);
        *worker.actor.lock().unwrap_or_else(PoisonError::into_inner) = Some(myself.clone());
        myself.send_interval(worker.limits.checkpoint_every, || Message::Tick);
        worker.woken.store(true, Ordering::Release);
        myself.send_message(Message::Wake)?;
        Ok(Working::new(worker, myself))
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut Working<S>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Wake => state.pull().await?,
            Message::Tick => {
                state.pull().await?;
                state.save_if_due();
                state.worker.measure();
            }
            Message::Due => state.alarm = None,
            Message::Landed { subject, landing, was_probe } => state.landed(&subject, landing, was_probe),
            Message::Saved(result) => {
                state.saved(result).await?;
                state.pull().await?;
            }
            Message::Change(change, reply) => state.change(&change, reply),
            Message::Finish(reply) => {
                state.finishing.push(reply);
                state.pull().await?;
            }
        }
        state.start_calls();
        state.finish_if_done();
        Ok(())
    }
}

/// The state of a synchroniser's actor.
pub(crate) struct Working<S: Synchroniser> {
    worker: Arc<Worker<S>>,
    myself: ActorRef<Message>,
    spec: TableSpec,
    pages: Pages,
    backoff: Backoff,
    is_loaded: bool,
    position: GlobalPosition,
    chain_hash: ChainHash,
    generation: u64,
    /// No call is made before the log was followed up to here: what stands in it may settle a subject.
    ready_at: GlobalPosition,
    saves: Saves,
    alarm: Option<(Instant, Alarm)>,
    finishing: Vec<oneshot::Sender<()>>,
}

/// A message to come.
type Alarm = JoinHandle<Result<(), ractor::MessagingErr<Message>>>;

/// Pause after a failure of our own side before a subject is tried again.
const HINDERED_PAUSE: Duration = Duration::from_secs(2);

impl<S: Synchroniser> Working<S> {
    fn new(worker: Arc<Worker<S>>, myself: ActorRef<Message>) -> Self {
        let (generation, ready_at) = (worker.feed.generation(), worker.feed.head());
        let backoff = Backoff::new(&worker.pace, worker.clock.random_id().as_u128());
        Self {
            pages: Pages::of(Arc::clone(&worker.store)),
            worker,
            myself,
            spec: TableSpec {
                projection: S::NAME.into(),
                view: S::NAME.into(),
                version: S::VERSION,
                columns: row::SubjectRow::COLUMNS,
            },
            backoff,
            is_loaded: false,
            position: GlobalPosition::START,
            chain_hash: ChainHash::START,
            generation,
            ready_at,
            saves: Saves::default(),
            alarm: None,
            finishing: Vec::new(),
        }
    }

    fn is_live(&self) -> bool {
        self.worker.state() == ProjectionState::Live
    }

    /// Starts what is due, as far as there are places and the breaker gives leave; else asks to be told when it is.
    fn start_calls(&mut self) {
        while self.is_live() && self.finishing.is_empty() {
            let leave = self.worker.breaker().leave();
            let is_probe = match leave {
                Leave::Free => false,
                Leave::Probe => true,
                Leave::Not(at) => return self.wake_at(at),
            };
            let (job, next_due) = {
                let mut book = self.worker.book();
                if book.under_way() >= self.worker.pace.parallel {
                    return;
                }
                (book.start_next().map(|row| Job::of(row, is_probe)), book.next_due())
            };
            let Some(job) = job else { return self.wake_at(next_due) };
            if is_probe {
                self.worker.breaker().probe_starts();
            }
            self.start(job);
        }
    }

    /// A call is a task of its own: nothing that stops this actor may drop it half way.
    fn start(&self, job: Job) {
        let (worker, myself) = (Arc::clone(&self.worker), self.myself.clone());
        let place = Arc::clone(&self.worker.places).try_acquire_owned();
        debug_assert!(place.is_ok(), "the book counts what is under way");
        tokio::spawn(async move {
            let landing = worker.work(&job).await;
            drop(place);
            let _ = myself.send_message(Message::Landed { subject: job.subject, landing, was_probe: job.is_probe });
        });
    }

    fn wake_at(&mut self, at: Option<Instant>) {
        let Some(at) = at else { return };
        match &self.alarm {
            Some((set, _)) if *set <= at => return,
            Some((_, alarm)) => alarm.abort(),
            None => {}
        }
        let pause = at.saturating_duration_since(Instant::now());
        self.alarm = Some((at, self.myself.send_after(pause, || Message::Due)));
    }

    fn landed(&mut self, subject: &str, landing: Landing, was_probe: bool) {
        let Landing { ended, unsure, evidence } = landing;
        self.heed(subject, evidence, was_probe);
        let now = self.worker.clock.now();
        let mut book = self.worker.book();
        match ended {
            Ended::Settled(outcome, position) => {
                if let Outcome::Failed { reason, permanent, version } = &outcome {
                    warn!(synchroniser = S::NAME, version = version.0, permanent, reason, "a subject was set aside");
                }
                book.land(subject, now, |row| {
                    row.unsure = unsure;
                    row.settle(outcome, position, now);
                });
            }
            Ended::Failed(failure) => {
                debug!(synchroniser = S::NAME, %failure, "a call failed and is tried again");
                let backoff = self.backoff;
                book.land(subject, now, |row| {
                    row.unsure = unsure;
                    let after = match &failure {
                        Failure::Later { after, .. } | Failure::Unavailable { after, .. } => *after,
                        Failure::Unknown { .. } | Failure::Permanent { .. } => None,
                    };
                    let is_counted = !was_probe && !matches!(failure, Failure::Unavailable { .. });
                    row.attempts += u32::from(is_counted);
                    let pause = backoff.pause(subject, row.attempts.max(1), after);
                    row.postpone(&call::bounded(failure.reason()), pause, now);
                });
            }
            Ended::Hindered(reason) => {
                warn!(synchroniser = S::NAME, reason, "a subject cannot be worked off yet");
                book.land(subject, now, |row| {
                    row.unsure |= unsure;
                    row.postpone(&call::bounded(&reason), HINDERED_PAUSE, now);
                });
            }
        }
        drop(book);
        self.worker.tell_settled();
    }

    /// What the call tells of the outside.
    fn heed(&self, subject: &str, evidence: Option<Result<(), Failure>>, was_probe: bool) {
        let mut breaker = self.worker.breaker();
        let was_open = breaker.open_since().is_some();
        match evidence {
            Some(Ok(())) => breaker.answered(),
            Some(Err(failure)) if breaker.failed(subject, &failure, was_probe) => {
                warn!(synchroniser = S::NAME, %failure, "the outside is taken for unavailable; probing");
            }
            Some(Err(_)) => {}
            None if was_probe => breaker.probe_learnt_nothing(),
            None => {}
        }
        if was_open && breaker.open_since().is_none() {
            info!(synchroniser = S::NAME, "the outside answers again");
        }
    }

    fn change(&mut self, change: &Change, reply: oneshot::Sender<bool>) {
        if !self.is_loaded {
            // Dropped: the caller is told that nothing is known yet.
            return;
        }
        let now = self.worker.clock.now();
        let (Change::Retry(subject) | Change::Skip { subject, .. } | Change::Repair(subject)) = change;
        let mut book = self.worker.book();
        if book.get(subject).is_none() {
            // Whoever asked and went away misses nothing.
            let _ = reply.send(false);
            return;
        }
        let is_changed = book.change(subject, now, |row| match change {
            Change::Retry(_) => row.retry(),
            Change::Skip { version, skip, position, .. } => row.skip(*version, skip.clone(), *position),
            Change::Repair(_) if row.is_pending() || row.parked.is_some() => false,
            Change::Repair(_) => {
                row.unsettle();
                true
            }
        });
        drop(book);
        if is_changed {
            self.saves.waiting.push(reply);
            self.worker.tell_settled();
            self.save();
        } else {
            let _ = reply.send(false);
        }
    }

    /// Answers those who wait for the end once no call is under way and everything is followed and saved.
    fn finish_if_done(&mut self) {
        if self.finishing.is_empty() || self.saves.is_saving() || self.worker.book().under_way() > 0 {
            return;
        }
        let is_saved = self.is_loaded && self.position >= self.worker.feed.head() && !self.is_behind();
        if !is_saved {
            return self.save();
        }
        self.finishing.drain(..).for_each(|reply| {
            // Whoever waited may have given up.
            let _ = reply.send(());
        });
    }
}
