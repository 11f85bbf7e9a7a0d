//! This file runs one process manager: it follows the log, fires deadlines, and sends commands until they are answered.
//!
//! ```text
//! load instances and position ─> pull events ──┐
//!        │                                     ├─> react: in memory ─> save: state, deadlines, commands, position
//!        └──────────────── due deadlines ──────┘                        │
//!                                  outcome durable <── commands sent <──┘  (those of a former life first)
//!
//! row    an instance as it stands in its table      book   all instances, who is due, what is ready to be sent
//! save   loads and saves
//! ```
//! Nothing leaves before the transaction that decided it, so a life that begins after a crash repeats decisions, under
//! the same ids, or finds them already made; it never makes other ones about what has had an effect.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::book::{Book, Cause, Counts, Key, Reacting};
use self::row::Command;
use self::save::Saves;
use super::feed::{Feed, Recent};
use super::journal::JournalStatus;
use super::pages::Pages;
use crate::causes::with_causes;
use crate::clock::SharedClock;
use crate::event::{ChainHash, CommandId, RecordedEvent};
use crate::health::{ProcessManagerStatus, ProjectionState};
use crate::limits::Limits;
use crate::process_manager::{Due, ProcessManager, Reactions};
use crate::store::{SharedStore, StoreError};
use crate::stream::GlobalPosition;

mod book;
pub(crate) mod row;
mod save;

/// What a process manager's actor is told.
pub(crate) enum Message {
    /// There may be something to do.
    Wake,
    /// Time for a checkpoint, perhaps.
    Tick,
    /// What the alarm was set for has come.
    Alarm,
    /// How a save ended.
    Saved(Result<(), StoreError>),
    /// How sending the first command of an instance ended.
    Landed(Key, CommandId, Sent),
    /// Send no more, wait for what is under way, save, and answer.
    Finish(oneshot::Sender<()>),
}

/// How sending a command ended.
#[derive(Debug)]
pub(crate) enum Sent {
    /// Its outcome is durable.
    Answered(&'static str),
    /// Not executed, or nobody knows: the same again, soon.
    NotYet(String),
    /// The same again later: somebody has to mend something first.
    Stuck(String),
}

/// Sends a command under its id, on behalf of a principal.
pub(crate) type Sender = Arc<dyn Fn(Command, String) -> BoxFuture<'static, Sent> + Send + Sync>;

/// What process managers are built upon.
pub(crate) struct Ground {
    pub(crate) store: SharedStore,
    pub(crate) feed: Arc<Feed>,
    pub(crate) limits: Limits,
    pub(crate) clock: SharedClock,
    /// Tells the writer's epoch; a save of a fenced writer is refused.
    pub(crate) journal: Arc<JournalStatus>,
    pub(crate) sender: Sender,
}

/// What a process manager works with, and what others see of it; it outlives restarts.
pub(crate) struct Runner<M: ProcessManager> {
    manager: M,
    reactions: Reactions<M>,
    on: Ground,
    /// One for each command that is open, whichever life of the actor sent it.
    places: Arc<Semaphore>,
    /// Held by a save until its transaction has ended, whichever life of the actor began it.
    saving: Arc<tokio::sync::Mutex<()>>,
    shown: Mutex<Seen>,
    checkpoint: AtomicU64,
    actor: Mutex<Option<ActorRef<Message>>>,
    woken: AtomicBool,
}

/// What others see.
#[derive(Debug, Clone)]
struct Seen {
    state: ProjectionState,
    position: GlobalPosition,
    instances: usize,
    counts: Counts,
    stuck: usize,
    next_deadline: Option<DateTime<Utc>>,
}

impl<M: ProcessManager> Runner<M> {
    pub(crate) fn new(manager: M, on: Ground) -> Arc<Self> {
        // Half of the share of internal commands, so that no manager takes all of it.
        let places = (on.limits.max_internal_commands / 2).max(1);
        let seen = Seen {
            state: ProjectionState::CatchingUp,
            position: GlobalPosition::START,
            instances: 0,
            counts: Counts::default(),
            stuck: 0,
            next_deadline: None,
        };
        let feed = Arc::clone(&on.feed);
        let runner = Arc::new(Self {
            manager,
            reactions: Reactions::of(),
            on,
            places: Arc::new(Semaphore::new(places)),
            saving: Arc::default(),
            shown: Mutex::new(seen),
            checkpoint: AtomicU64::new(0),
            actor: Mutex::new(None),
            woken: AtomicBool::new(false),
        });
        let woken = Arc::downgrade(&runner);
        feed.follow(move || {
            if let Some(runner) = woken.upgrade() {
                runner.wake();
            }
        });
        runner
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

    pub(crate) fn set_state(&self, state: ProjectionState) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).state = state;
    }

    fn seen(&self) -> Seen {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn status(&self) -> ProcessManagerStatus {
        let Seen { state, position, instances, counts, stuck, next_deadline } = self.seen();
        ProcessManagerStatus {
            name: M::NAME,
            version: M::VERSION,
            position,
            checkpoint: GlobalPosition(self.checkpoint.load(Ordering::Acquire)),
            instances,
            deadlines: counts.deadlines,
            next_deadline,
            commands: counts.commands,
            stuck,
            state,
        }
    }
}

/// The stateless half.
pub(crate) struct ProcessManagerActor<M>(std::marker::PhantomData<fn() -> M>);

impl<M> Default for ProcessManagerActor<M> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<M: ProcessManager> Actor for ProcessManagerActor<M> {
    type Msg = Message;
    type State = Running<M>;
    type Arguments = Arc<Runner<M>>;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        runner: Arc<Runner<M>>,
    ) -> Result<Running<M>, ActorProcessingErr> {
        runner.set_state(ProjectionState::CatchingUp);
        *runner.actor.lock().unwrap_or_else(PoisonError::into_inner) = Some(myself.clone());
        myself.send_interval(runner.on.limits.checkpoint_every, || Message::Tick);
        runner.woken.store(true, Ordering::Release);
        myself.send_message(Message::Wake)?;
        Ok(Running::new(runner, myself))
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut Running<M>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Wake | Message::Alarm => {}
            Message::Tick => state.is_tick = true,
            Message::Saved(result) => state.saved(result).await?,
            Message::Landed(key, id, sent) => state.landed(key, id, sent),
            Message::Finish(reply) => state.finishing.push(reply),
        }
        state.go_on().await
    }
}

/// The state of a process manager's actor.
pub(crate) struct Running<M: ProcessManager> {
    runner: Arc<Runner<M>>,
    myself: ActorRef<Message>,
    pages: Pages,
    /// None before the first load.
    book: Option<Book<M::State>>,
    position: GlobalPosition,
    chain_hash: ChainHash,
    generation: u64,
    ready_at: GlobalPosition,
    saves: Saves,
    is_tick: bool,
    /// Deadlines that came until then fire once the log up to that position was reacted to.
    due: Option<(DateTime<Utc>, GlobalPosition)>,
    /// Commands that this life has sent and that have not landed.
    open: usize,
    /// Instances whose first command is tried again, and whether it is stuck; the number tells equal times apart.
    pauses: BTreeMap<(Instant, u64), (Key, bool)>,
    alarm: Option<(Instant, Alarm)>,
    finishing: Vec<oneshot::Sender<()>>,
}

/// One sleep.
type Alarm = JoinHandle<Result<(), MessagingErr<Message>>>;

/// How long events and deadlines are reacted to before others get the thread.
const SLICE: Duration = Duration::from_millis(2);
/// Pause before the store is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// Commands without an outcome, and their bytes, beyond which nothing is reacted to: the rest waits in the log and in
/// its deadlines.
const MAX_COMMANDS: (usize, usize) = (4_096, 16 << 20);
/// The alarm is never set further ahead than this, so that a wall clock that was set forward is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// The alarm may ring this much late.
const TOLERANCE: Duration = Duration::from_millis(1);
/// Pauses before a command is sent again: the first, and the longest of one that may go through by itself.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// The same of one that needs somebody's help.
const RETRY_STUCK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl<M: ProcessManager> Running<M> {
    fn new(runner: Arc<Runner<M>>, myself: ActorRef<Message>) -> Self {
        let (generation, ready_at) = (runner.on.feed.generation(), runner.on.feed.head());
        Self {
            pages: Pages::of(Arc::clone(&runner.on.store)),
            runner,
            myself,
            book: None,
            position: GlobalPosition::START,
            chain_hash: ChainHash::START,
            generation,
            ready_at,
            saves: Saves::default(),
            is_tick: false,
            due: None,
            open: 0,
            pauses: BTreeMap::new(),
            alarm: None,
            finishing: Vec::new(),
        }
    }

    /// Whatever can be done now, up to a slice of time; asks itself to go on when there is more.
    async fn go_on(&mut self) -> Result<(), ActorProcessingErr> {
        self.runner.woken.store(false, Ordering::Release);
        if self.generation != self.runner.on.feed.generation() {
            return Err("the log went backwards; the instances are read anew".into());
        }
        if self.book.is_none() && !self.finishing.is_empty() || self.book.is_none() && !self.load().await? {
            self.finish_if_done();
            return Ok(());
        }
        let is_finishing = !self.finishing.is_empty();
        let more = !is_finishing && (self.pull().await? | self.fire_due()?);
        self.save_if_wanted();
        if !is_finishing {
            self.send_ready();
        }
        self.show();
        self.finish_if_done();
        if more {
            self.runner.wake();
        } else {
            self.set_alarm();
        }
        Ok(())
    }

    fn book(&mut self) -> &mut Book<M::State> {
        self.book.as_mut().expect("loaded before anything is done")
    }

    /// Whether a reaction may be made; at its bounds this manager waits for the store and the engine, nobody else does.
    fn has_room(&mut self) -> bool {
        let unsaved_rows = self.runner.on.limits.checkpoint_rows * 4;
        let book = self.book();
        let counts = book.counts();
        counts.commands < MAX_COMMANDS.0 && counts.command_bytes < MAX_COMMANDS.1 && book.dirty() < unsaved_rows
    }

    /// Reacts to what is new; returns whether there is more.
    async fn pull(&mut self) -> Result<bool, ActorProcessingErr> {
        if !self.has_room() {
            return Ok(false);
        }
        let slice = match self.runner.on.feed.after(self.position) {
            Recent::UpToDate => return Ok(false),
            Recent::Batches(batches) => {
                self.pages.clear();
                self.react_to(batches.iter().flat_map(|batch| batch.iter()))?
            }
            Recent::TooOld => Slice::Gap,
        };
        if let Slice::Gap = slice {
            match self.pages.after(self.position).await {
                Ok(page) => {
                    self.react_to(page.iter())?;
                }
                Err(error) => {
                    warn!(process_manager = M::NAME, error = %with_causes(&error), "the log cannot be read");
                    self.wake_later();
                    return Ok(false);
                }
            }
        }
        Ok(self.has_room())
    }

    fn wake_later(&self) {
        self.myself.send_after(PAUSE, || Message::Wake);
    }

    fn react_to<'a>(&mut self, events: impl Iterator<Item = &'a RecordedEvent>) -> Result<Slice, ActorProcessingErr> {
        let until = Instant::now() + SLICE;
        for event in events {
            if event.position <= self.position {
                continue;
            }
            if event.position != self.position.next() {
                return Ok(Slice::Gap);
            }
            self.react(event)?;
            self.position = event.position;
            self.chain_hash = event.hash;
            if Instant::now() >= until || !self.has_room() {
                break;
            }
        }
        Ok(Slice::Done)
    }

    fn react(&mut self, event: &RecordedEvent) -> Result<(), ActorProcessingErr> {
        let runner = Arc::clone(&self.runner);
        let correlation_id = event.metadata.fields().correlation_id;
        let cause = Cause { id: event.event_id, event_id: event.event_id, correlation_id };
        let mut reacting = Reacting { book: self.book(), cause, misuse: None };
        runner.reactions.react(&runner.manager, event, &mut reacting)?;
        match reacting.misuse {
            Some(misuse) => Err(Box::new(misuse)),
            None => Ok(()),
        }
    }

    /// Fires what is due; returns whether there is more. What was in the log when it came due is reacted to first, so
    /// that no deadline fires that was cancelled before.
    fn fire_due(&mut self) -> Result<bool, ActorProcessingErr> {
        let head = self.runner.on.feed.head();
        if self.due.is_none() {
            let now = self.runner.on.clock.now();
            self.due = self.book().next_deadline().filter(|at| *at <= now).map(|_| (now, head));
        }
        let Some((now, head)) = self.due.filter(|(_, head)| self.position >= *head) else { return Ok(false) };
        let until = Instant::now() + SLICE;
        while self.has_room() {
            let Some(fired) = self.book().fire(now) else {
                self.due = None;
                return Ok(false);
            };
            let runner = Arc::clone(&self.runner);
            let due = Due { key: &fired.key, name: &fired.name, at: fired.at };
            debug!(process_manager = M::NAME, deadline = due.name, at = %due.at, "a deadline has come");
            let reaction = match self.book().state(&fired.key) {
                Some(state) => runner.manager.on_deadline(state, &due),
                None => runner.manager.on_deadline(&M::State::default(), &due),
            };
            self.book().take(&fired.key, reaction, fired.cause)?;
            metrics::counter!("essaim_process_manager_deadlines_fired_total", "manager" => M::NAME).increment(1);
            if Instant::now() >= until {
                return Ok(true);
            }
        }
        debug_assert!(head <= self.position, "looked at above");
        Ok(false)
    }

    fn send_ready(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.pauses.first_entry().filter(|entry| entry.key().0 <= now) {
            let (key, _) = entry.remove();
            self.book().again(key);
        }
        while let Ok(place) = Arc::clone(&self.runner.places).try_acquire_owned() {
            let Some((key, command)) = self.book().next_ready() else { return };
            self.open += 1;
            let id = command.id;
            let sending = (self.runner.on.sender)(command, self.runner.manager.principal());
            let myself = self.myself.clone();
            tokio::spawn(async move {
                let sent = sending.await;
                drop(place);
                // A life that is over has no use for it; the next one sends the command again.
                let _ = myself.send_message(Message::Landed(key, id, sent));
            });
        }
    }

    fn landed(&mut self, key: Key, id: CommandId, sent: Sent) {
        self.open -= 1;
        let (outcome, reason) = match sent {
            Sent::Answered(outcome) => {
                self.book().settle(&key, id);
                count::<M>(outcome);
                return;
            }
            Sent::NotYet(reason) => ("not_yet", reason),
            Sent::Stuck(reason) => ("stuck", reason),
        };
        count::<M>(outcome);
        let attempts = self.book().failed(&key);
        let is_stuck = outcome == "stuck";
        let pause = self.pause(attempts, if is_stuck { RETRY_STUCK } else { RETRY });
        if is_stuck {
            warn!(process_manager = M::NAME, command = %id.0, reason, attempts, ?pause, "a command does not go through");
        } else {
            debug!(process_manager = M::NAME, command = %id.0, reason, attempts, ?pause, "a command is sent again");
        }
        let number = self.pauses.last_key_value().map_or(0, |((_, number), _)| number + 1);
        self.pauses.insert((Instant::now() + pause, number), (key, is_stuck));
    }

    /// Doubles from the first to the longest; half of it is left to chance, so that not all come back at once.
    fn pause(&self, attempts: u32, (first, longest): (Duration, Duration)) -> Duration {
        let whole = first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(longest);
        let chance = self.runner.on.clock.random_id().as_bytes()[0];
        whole / 2 + whole.mul_f64(f64::from(chance) / 510.0)
    }

    /// One sleep until the next thing there is to do.
    fn set_alarm(&mut self) {
        let now = Instant::now();
        let wanted = if self.finishing.is_empty() { self.next_alarm(now) } else { None };
        if let Some((at, sleeping)) = self.alarm.take() {
            // One that rings early is set again; to set it anew at every event would cost more.
            if at > now && wanted.is_some_and(|wanted| at <= wanted + TOLERANCE) {
                self.alarm = Some((at, sleeping));
                return;
            }
            sleeping.abort();
        }
        self.alarm = wanted.map(|at| (at, self.myself.send_after(at - now, || Message::Alarm)));
    }

    fn next_alarm(&mut self, now: Instant) -> Option<Instant> {
        let deadline = self.book().next_deadline().map(|at| {
            let ahead = (at - self.runner.on.clock.now()).to_std().unwrap_or_default();
            now + ahead.min(LONGEST_SLEEP)
        });
        // One that is due already waits for room, or for the log, and either wakes this manager.
        let deadline = deadline.filter(|at| *at > now);
        let again = self.pauses.first_key_value().map(|((at, _), _)| *at);
        deadline.into_iter().chain(again).min()
    }

    fn show(&mut self) {
        let position = self.position;
        let head = self.runner.on.feed.head();
        let book = self.book();
        let (counts, instances, next_deadline) = (book.counts(), book.len(), book.next_deadline());
        {
            let mut seen = self.runner.shown.lock().unwrap_or_else(PoisonError::into_inner);
            if position >= self.ready_at && seen.state == ProjectionState::CatchingUp {
                info!(process_manager = M::NAME, position = position.0, "caught up");
                seen.state = ProjectionState::Live;
            }
            let stuck = self.pauses.values().filter(|(_, is_stuck)| *is_stuck).count();
            *seen = Seen { state: seen.state.clone(), position, instances, counts, stuck, next_deadline };
        }
        let gauge = |name: &'static str, value: u64| metrics::gauge!(name, "manager" => M::NAME).set(value as f64);
        gauge("essaim_process_manager_lag_events", head.0.saturating_sub(position.0));
        gauge("essaim_process_manager_deadlines", counts.deadlines as u64);
        gauge("essaim_process_manager_commands_open", counts.commands as u64);
    }

    /// Answers those who wait for the end once nothing is under way and everything is saved.
    fn finish_if_done(&mut self) {
        let is_done =
            self.open == 0 && !self.saves.is_saving() && self.book.as_ref().is_none_or(|book| book.dirty() == 0);
        if is_done {
            self.finishing.drain(..).for_each(|reply| {
                // Whoever gave up waiting needs no answer.
                let _ = reply.send(());
            });
        }
    }
}

/// How a slice of events ended.
enum Slice {
    /// All of it was reacted to, or time or room ran out.
    Done,
    /// The next event is not the one behind the last.
    Gap,
}

fn count<M: ProcessManager>(outcome: &'static str) {
    metrics::counter!("essaim_process_manager_commands_total", "manager" => M::NAME, "outcome" => outcome).increment(1);
}
