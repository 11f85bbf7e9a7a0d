//! This file is the group-committing writer: whatever came while the last batch was in flight is the next batch.
//!
//! ```text
//! Append ─(bounded channel)→ accept by lineage → fold claims → number, stamp, chain → store.append
//!    ↑                                                             ├ committed: feed, then every answer
//!    └──────── returned to its aggregate, to be decided again ─────┴ fell: bisect, resolve, or hand back
//! ```
//! It is the only one who calls `append`, and there is one batch in flight. Its supervising actor only watches it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::answer::{Answer, Keep, Reply};
use super::feed::{CommittedBatch, Feed};
use super::snapshots::{PendingSnapshot, SnapshotSender};
use crate::aggregate::Claim;
use crate::clock::SharedClock;
use crate::command::NotExecuted;
use crate::event::{CommandId, Metadata, NewEvent, RecordedEvent};
use crate::store::{
    Batch, ClaimChanges, Epoch, Head, LogWriter, Outcome, SharedStore, StoreError, StoredOutcome, TakeOver,
};
use crate::stream::{GlobalPosition, StreamId, Version};

/// Ties the appends of one actor incarnation to each other: each is valid only if its predecessor committed.
pub(crate) struct Lineage {
    generation: u64,
    accepted: AtomicU64,
    cut: AtomicBool,
    committed: AtomicU64,
    owner: Box<dyn Fn(Append, Fault) + Send + Sync>,
}

impl Lineage {
    /// A lineage that begins with a load; `owner` gets back what falls.
    pub(crate) fn begin(generation: u64, owner: impl Fn(Append, Fault) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            generation,
            accepted: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            owner: Box::new(owner),
        })
    }

    /// The last append of this lineage that committed; they are numbered from 1.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }
}

/// All that one command appends, or the verdict of a command that appends nothing.
pub(crate) struct Append {
    pub(crate) lineage: Arc<Lineage>,
    /// Place in its lineage, from 1.
    pub(crate) number: u64,
    pub(crate) command_id: CommandId,
    pub(crate) stream: StreamId,
    /// The version it was decided upon.
    pub(crate) version: Version,
    pub(crate) events: Vec<NewEvent>,
    pub(crate) metadata: Metadata,
    pub(crate) claims: ClaimDelta,
    /// What the caller is told once this is durable; the journal fills in the position.
    pub(crate) verdict: Verdict,
    /// The state behind its last event, to be saved once that is durable.
    pub(crate) snapshot: Option<PendingSnapshot>,
    pub(crate) keep: Option<Keep>,
    pub(crate) reply: Reply,
}

/// What an append says when it commits.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// The outcome of the command.
    Outcome(Outcome),
    /// An answer that is never kept.
    Answer(Answer),
    /// The state behind it cannot be trusted: hand it back, once its predecessors are durable.
    Abort(String),
}

/// The claims that a command adds and drops.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClaimDelta {
    pub(crate) release: Vec<Claim>,
    pub(crate) take: Vec<Claim>,
}

/// Why an append came back.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// What it was decided upon fell; decide again.
    Cut,
    /// Another holds this claim.
    ClaimRefused(Claim),
    /// The store cannot keep one of its values.
    Invalid(String),
    /// It asked for this: see [`Verdict::Abort`].
    Aborted(String),
    /// It may be in the log.
    Unknown,
    /// It is not in the log, and this process no longer writes.
    Stopped(NotExecuted),
}

impl Append {
    fn weight(&self) -> usize {
        const FIXED: usize = 256;
        self.events.iter().map(|event| FIXED + event.json.len()).sum::<usize>() + FIXED
    }

    fn hand_back(self, fault: Fault) {
        self.lineage.cut.store(true, Ordering::Release);
        let lineage = Arc::clone(&self.lineage);
        (lineage.owner)(self, fault);
    }

    /// Answers; `last` is the last of its events, if it has any.
    fn commit(self, position: GlobalPosition, last: Option<&RecordedEvent>, snapshots: &SnapshotSender) {
        if let (Some(pending), Some(event)) = (self.snapshot, last) {
            snapshots.save(pending, event);
        }
        self.reply.send(match self.verdict {
            Verdict::Outcome(outcome) => Answer::Outcome(outcome.at(position)),
            Verdict::Answer(answer) => answer,
            Verdict::Abort(what) => Answer::Failed(what),
        });
    }
}

/// Appends under way. If the journal dies with them they go back as unknown, so that no caller is left alone.
struct InFlight(Vec<Append>);

impl InFlight {
    /// Removes those for which `fault` gives a reason, together with all that were decided upon them.
    fn hand_back_where(&mut self, mut fault: impl FnMut(&Append) -> Option<Fault>) {
        for append in std::mem::take(&mut self.0) {
            let found = if append.lineage.is_cut() { Some(Fault::Cut) } else { fault(&append) };
            match found {
                Some(found) => append.hand_back(found),
                None => self.0.push(append),
            }
        }
    }

    fn hand_all_back(mut self, fault: &Fault) {
        self.0.drain(..).for_each(|append| append.hand_back(fault.clone()));
    }

    fn split_off_second_half(&mut self) -> InFlight {
        InFlight(self.0.split_off(self.0.len() / 2))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|append| append.hand_back(Fault::Unknown));
    }
}

const STOPPED: Fault = Fault::Stopped(NotExecuted::Fenced);

/// What bounds a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    pub(crate) max_commands: usize,
    pub(crate) max_bytes: usize,
}

/// How often an idle journal looks whether it still may write.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// The journal's sending half.
pub(crate) type JournalSender = mpsc::Sender<Append>;

/// The journal's state; it outlives a crash of its task.
pub(crate) struct Journal {
    appends: mpsc::Receiver<Append>,
    store: SharedStore,
    writer: Box<dyn LogWriter>,
    head: Head,
    /// Whether the writer must reclaim the log before it appends again.
    doubtful: bool,
    fenced: bool,
    feed: Arc<Feed>,
    clock: SharedClock,
    limits: BatchLimits,
    status: Arc<JournalStatus>,
    release: Release,
    stop: CancellationToken,
}

/// What others may know of the journal.
#[derive(Debug, Default)]
pub(crate) struct JournalStatus {
    unavailable: AtomicBool,
    epoch: AtomicU64,
    log_id: RwLock<Uuid>,
    gave_up: tokio::sync::watch::Sender<Option<String>>,
}

impl JournalStatus {
    /// Whether the store did not answer when last asked to append.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.unavailable.load(Ordering::Acquire)
    }

    /// The epoch this process writes under.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Which history positions are of; another one once the log went backwards.
    pub(crate) fn log_id(&self) -> Uuid {
        *self.log_id.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn resumed_at(&self, head: &Head) {
        self.epoch.store(head.epoch.0, Ordering::Release);
        *self.log_id.write().unwrap_or_else(PoisonError::into_inner) = head.log_id;
    }

    /// Why this process no longer writes, once it does not.
    pub(crate) fn gave_up(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.gave_up.subscribe()
    }

    /// Says that this process no longer writes. The first reason stays.
    pub(crate) fn give_up(&self, reason: String) {
        self.gave_up.send_if_modified(|given| {
            let first = given.is_none();
            given.get_or_insert(reason);
            first
        });
    }
}

/// Answers a batch that committed. The store need not wait meanwhile: it is sent the next batch first.
struct Release {
    feed: Arc<Feed>,
    snapshots: SnapshotSender,
    committed: Option<(InFlight, CommittedBatch)>,
}

impl Release {
    /// Answers this one at the next occasion, and whichever was to be answered before it at once.
    fn soon(&mut self, part: InFlight, events: CommittedBatch) {
        // At once: an aggregate that gets something handed back now must know what before it is durable, for nobody
        // tells it later.
        part.0.iter().for_each(|append| append.lineage.committed.store(append.number, Ordering::Release));
        self.now();
        self.committed = Some((part, events));
    }

    /// Lets `sent` begin before it answers.
    async fn while_waiting_for<T>(&mut self, mut sent: impl Future<Output = T> + Unpin) -> T {
        let begun = poll_fn(|context| Poll::Ready(Pin::new(&mut sent).poll(context))).await;
        if let Poll::Ready(result) = begun {
            return result;
        }
        self.now();
        sent.await
    }

    /// Publishes, then answers: whoever has an answer finds its events in the feed.
    fn now(&mut self) {
        let Some((mut part, events)) = self.committed.take() else { return };
        metrics::histogram!("essaim_journal_batch_commands").record(part.0.len() as f64);
        metrics::counter!("essaim_events_appended_total").increment(events.len() as u64);
        let base = events.first().map_or_else(|| self.feed.head().0, |event| event.position.0 - 1);
        self.feed.publish(Arc::clone(&events));
        let mut behind = 0;
        for append in part.0.drain(..) {
            behind += append.events.len();
            let last = if append.events.is_empty() { None } else { Some(&events[behind - 1]) };
            append.commit(GlobalPosition(base + behind as u64), last, &self.snapshots);
        }
    }
}

/// How one attempt to append ended.
enum Attempt {
    Committed(Arc<[RecordedEvent]>),
    Refused(StoreError),
    /// Another process writes; whether this very batch is in may be open.
    Fenced(Fault),
}

impl Journal {
    #[expect(clippy::too_many_arguments, reason = "called once, where the engine is put together")]
    pub(crate) fn new(
        appends: mpsc::Receiver<Append>,
        store: SharedStore,
        writer: Box<dyn LogWriter>,
        feed: Arc<Feed>,
        clock: SharedClock,
        limits: BatchLimits,
        status: Arc<JournalStatus>,
        snapshots: SnapshotSender,
        stop: CancellationToken,
    ) -> Self {
        let head = writer.head().clone();
        status.resumed_at(&head);
        Self {
            appends,
            store,
            writer,
            head,
            doubtful: false,
            fenced: false,
            feed: Arc::clone(&feed),
            clock,
            limits,
            status,
            release: Release { feed, snapshots, committed: None },
            stop,
        }
    }

    /// Works until stopped or fenced. Called again after a crash, it first makes sure of what is in the log.
    pub(crate) async fn run(&mut self) {
        let mut waiting = Vec::new();
        let stop = self.stop.clone();
        loop {
            // With the next batch at hand, the last one is answered while that one is under way.
            if self.appends.is_empty() {
                self.release.now();
            }
            let received = tokio::select! {
                biased;
                received = self.appends.recv_many(&mut waiting, self.limits.max_commands) => received,
                () = stop.cancelled() => 0,
                () = tokio::time::sleep(IDLE_CHECK) => {
                    self.look_at_the_fence().await;
                    continue;
                }
            };
            if received == 0 {
                return;
            }
            let mut group = InFlight(std::mem::take(&mut waiting));
            self.accept(&mut group);
            while let Some(next) = self.take_batch(&mut group) {
                self.commit(next).await;
            }
        }
    }

    /// An idle writer finds out too that it was fenced, or that the store went back.
    async fn look_at_the_fence(&mut self) {
        if self.fenced {
            return;
        }
        // An empty batch asks the fence and nothing else.
        if let Attempt::Fenced(_) = self.attempt(&InFlight(Vec::new())).await {
            self.fenced = true;
        }
    }

    /// Marks that the last run died: the state of the log is open until the writer has reclaimed it.
    pub(crate) fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Gives the log back. What still waits is handed back as not executed.
    pub(crate) async fn close(mut self, why: NotExecuted) {
        self.appends.close();
        while let Ok(append) = self.appends.try_recv() {
            append.hand_back(Fault::Stopped(why));
        }
        self.writer.release().await;
    }

    /// An append is valid only right behind its predecessor, in the log's present generation.
    fn accept(&self, group: &mut InFlight) {
        let generation = self.feed.generation();
        group.hand_back_where(|append| {
            let lineage = &append.lineage;
            if lineage.generation != generation || lineage.accepted.load(Ordering::Relaxed) + 1 != append.number {
                return Some(Fault::Cut);
            }
            lineage.accepted.store(append.number, Ordering::Relaxed);
            None
        });
    }

    fn take_batch(&self, group: &mut InFlight) -> Option<InFlight> {
        let mut bytes = 0;
        let fitting = group.0.iter().take_while(|append| {
            bytes += append.weight();
            bytes <= self.limits.max_bytes
        });
        let count = fitting.count().max(1).min(group.0.len());
        let rest = group.0.split_off(count);
        let batch = InFlight(std::mem::replace(&mut group.0, rest));
        (!batch.0.is_empty()).then_some(batch)
    }

    /// Commits a batch, or those of it that can be; everyone in it is answered or handed back.
    async fn commit(&mut self, batch: InFlight) {
        // A stack of parts, first one on top: what is bisected stays in order.
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            if self.fenced {
                part.hand_all_back(&STOPPED);
                continue;
            }
            part.hand_back_where(|_| None);
            if part.0.is_empty() {
                continue;
            }
            let losers = set_losers_aside(&mut part);
            match self.attempt(&part).await {
                Attempt::Committed(events) => {
                    self.release.soon(part, events);
                    if !losers.is_empty() {
                        self.release.now();
                    }
                    losers.into_iter().for_each(|(append, fault)| append.hand_back(fault));
                    continue;
                }
                Attempt::Fenced(fault) => {
                    part.hand_all_back(&fault);
                    self.fenced = true;
                }
                Attempt::Refused(StoreError::ClaimsTaken { claims }) => {
                    refuse_claims(&mut part, &claims);
                    parts.push(part);
                    // Whoever lost one of these claims has lost it to a durable holder.
                    for (append, fault) in losers {
                        let lost = matches!(&fault, Fault::ClaimRefused(claim) if claims.contains(claim));
                        append.hand_back(if lost { fault } else { Fault::Cut });
                    }
                    continue;
                }
                Attempt::Refused(error) if part.0.len() == 1 => {
                    let fault = match error {
                        StoreError::Data { what } => Fault::Invalid(what),
                        other => {
                            warn!(%other, "an append was refused and will be decided again");
                            Fault::Cut
                        }
                    };
                    part.hand_all_back(&fault);
                }
                Attempt::Refused(error) => {
                    warn!(%error, commands = part.0.len(), "a batch was refused; looking for the command at fault");
                    let second = part.split_off_second_half();
                    parts.push(second);
                    parts.push(part);
                }
            }
            // The winners did not commit, so nothing is decided about the losers either.
            losers.into_iter().for_each(|(append, _)| append.hand_back(Fault::Cut));
        }
    }

    /// Brings a batch into the log, through lost connections and unknown outcomes, until there is a definite answer.
    async fn attempt(&mut self, part: &InFlight) -> Attempt {
        loop {
            if self.doubtful {
                if self.reclaim().await.is_err() {
                    return Attempt::Fenced(STOPPED);
                }
                if part.0.iter().any(|append| append.lineage.generation != self.feed.generation()) {
                    return Attempt::Refused(StoreError::Conflict { what: "the log went backwards".into() });
                }
            }
            let (batch, must_be_free) = self.number(part);
            match held_among(&self.store, &must_be_free).await {
                Ok(claims) if claims.is_empty() => {}
                Ok(claims) => return Attempt::Refused(StoreError::ClaimsTaken { claims }),
                Err(error) => {
                    warn!(error = %chain(&error), "claims could not be looked up");
                    self.doubtful = true;
                    continue;
                }
            }
            let bare = batch.events.is_empty() && batch.outcomes.is_empty() && batch.claims.is_empty();
            let sent = if bare {
                self.writer.check_fence(self.head.epoch, self.head.batch)
            } else {
                self.writer.append(&batch)
            };
            let result = self.release.while_waiting_for(sent).await;
            match result {
                Ok(()) => {
                    self.answered();
                    if !bare {
                        self.advance(&batch);
                    }
                    return Attempt::Committed(batch.events);
                }
                Err(StoreError::Fenced { mine, found }) => {
                    warn!(%mine, %found, "the head is not as this writer left it");
                    self.doubtful = true;
                }
                Err(error @ (StoreError::Unavailable { .. } | StoreError::Unknown { .. })) => {
                    warn!(error = %chain(&error), "an append was not answered; making sure of what is in the log");
                    self.status.unavailable.store(true, Ordering::Release);
                    self.doubtful = true;
                    if self.reclaim().await.is_err() {
                        return Attempt::Fenced(Fault::Unknown);
                    }
                    self.answered();
                    if !bare && self.head.batch == batch.id {
                        return Attempt::Committed(batch.events);
                    }
                }
                Err(refused) => return Attempt::Refused(refused),
            }
        }
    }

    /// Gives every event its place, time and hash. Also returns the claims that are taken and dropped again within
    /// the batch: nothing is written for them, yet they must be free.
    fn number(&self, part: &InFlight) -> (Batch, Vec<Claim>) {
        let recorded_at = self.clock.now().max(self.head.recorded_at);
        let (mut position, mut hash) = (self.head.position, self.head.chain_hash);
        let mut events = Vec::with_capacity(part.0.iter().map(|append| append.events.len()).sum());
        let mut outcomes = Vec::new();
        for append in &part.0 {
            let mut version = append.version;
            for event in &append.events {
                position = position.next();
                version = Version(version.0 + 1);
                let mut recorded = RecordedEvent {
                    position,
                    event_id: event.event_id,
                    stream: append.stream.clone(),
                    version,
                    event_type: event.event_type.clone(),
                    schema_version: event.schema_version,
                    json: event.json.clone(),
                    metadata: append.metadata.clone(),
                    recorded_at,
                    hash,
                    decoded: event.decoded.clone(),
                };
                hash = hash.extended_by(&recorded);
                recorded.hash = hash;
                events.push(recorded);
            }
            outcomes.extend(append.kept_outcome(position, recorded_at));
        }
        let (claims, must_be_free) = net_claims(&part.0);
        let batch = Batch {
            epoch: self.head.epoch,
            previous: self.head.batch,
            id: self.clock.random_id(),
            events: events.into(),
            claims,
            outcomes,
            recorded_at,
        };
        (batch, must_be_free)
    }

    fn advance(&mut self, batch: &Batch) {
        self.head.batch = batch.id;
        self.head.recorded_at = batch.recorded_at;
        if let Some(last) = batch.events.last() {
            self.head.position = last.position;
            self.head.chain_hash = last.hash;
        }
    }

    fn answered(&self) {
        if self.status.unavailable.swap(false, Ordering::AcqRel) {
            info!(position = %self.head.position, "the store answers again");
        }
    }

    /// Connects anew under a raised epoch, however long that takes, and compares what is there with what was known.
    async fn reclaim(&mut self) -> Result<(), ()> {
        self.release.now();
        let mut wait = Duration::from_millis(20);
        loop {
            match self.writer.reclaim().await {
                Ok(head) => match self.resume_at(head).await {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        warn!(error = %chain(&error), "the log went backwards and cannot be given another id yet")
                    }
                },
                Err(StoreError::Fenced { mine, found }) if found < mine => {
                    // No take-over lowers the epoch: the store was set back, to a time before this writer.
                    match self.store.open_writer(self.clock.random_id(), TakeOver::OnlyDead).await {
                        // The next reclaim is of this writer, and finds out what is left.
                        Ok(writer) => {
                            self.writer = writer;
                            continue;
                        }
                        Err(error) => warn!(error = %chain(&error), "the store went back and cannot be taken over yet"),
                    }
                }
                Err(StoreError::Fenced { mine, found }) => {
                    error!(%mine, %found, "another process has taken over the log");
                    self.status.give_up("another process has taken over the log".into());
                    return Err(());
                }
                Err(StoreError::WeakDurability { setting, found, wanted }) => {
                    error!(setting, found, wanted, "commits are no longer durable; waiting until they are");
                }
                Err(error) => warn!(error = %chain(&error), retry_in = ?wait, "the store does not answer"),
            }
            if self.stop.is_cancelled() {
                self.status.give_up("stopped while the store did not answer".into());
                return Err(());
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    /// Goes on from this head, which may be another than the known one.
    async fn resume_at(&mut self, mut head: Head) -> Result<(), StoreError> {
        let went_backwards = !continues(&self.store, &self.head, &head).await;
        if went_backwards {
            // Before anything is forgotten: when this fails, the next attempt finds the step back again.
            head = self.writer.renew(self.clock.random_id()).await?;
        }
        self.doubtful = false;
        self.status.resumed_at(&head);
        let known = std::mem::replace(&mut self.head, head);
        let found = self.head.position;
        if went_backwards {
            error!(
                known = known.position.0,
                found = found.0,
                log = %self.head.log_id,
                "the log went backwards; forgetting all that was built on what is gone"
            );
            metrics::counter!("essaim_log_went_backwards_total").increment(1);
            self.feed.went_backwards_to(&self.head);
        } else if found != self.feed.head() {
            self.feed.restart_at(found);
        }
        Ok(())
    }
}

impl Append {
    fn kept_outcome(
        &self,
        position: GlobalPosition,
        recorded_at: chrono::DateTime<chrono::Utc>,
    ) -> Option<StoredOutcome> {
        let (Some(keep), Verdict::Outcome(outcome)) = (self.keep, &self.verdict) else { return None };
        Some(StoredOutcome {
            command_id: self.command_id,
            fingerprint: keep.fingerprint,
            outcome: outcome.clone().at(position),
            recorded_at,
            internal: keep.internal,
        })
    }
}

/// Whether the log still holds what was known of it.
async fn continues(store: &SharedStore, known: &Head, found: &Head) -> bool {
    if found.position == known.position {
        return found.chain_hash == known.chain_hash;
    }
    if found.position < known.position {
        return false;
    }
    if known.position == GlobalPosition::START {
        return true;
    }
    let before = GlobalPosition(known.position.0 - 1);
    match store.read_log(before, 1, &crate::store::LogFilter::default()).await {
        Ok(page) => page.events.first().is_some_and(|event| event.hash == known.chain_hash),
        // The head was just read and is ahead; a second look that fails is no proof of a step backwards.
        Err(error) => {
            warn!(error = %chain(&error), "could not compare the log with what was known");
            true
        }
    }
}

/// Which of these claims are held; nobody but this journal changes them.
async fn held_among(store: &SharedStore, claims: &[Claim]) -> Result<Vec<Claim>, StoreError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let holders = store.claim_holders(claims).await?;
    Ok(holders.into_iter().map(|(claim, _)| claim).collect())
}

/// Takes out whoever claims what another in the same batch has claimed before, and whoever asked to be aborted, with
/// all that was decided upon them. They are answered only when the winners are durable.
fn set_losers_aside(part: &mut InFlight) -> Vec<(Append, Fault)> {
    let is_plain = |append: &Append| append.claims.take.is_empty() && append.claims.release.is_empty();
    if part.0.iter().all(|append| is_plain(append) && !matches!(append.verdict, Verdict::Abort(_))) {
        return Vec::new();
    }
    let mut holders: HashMap<Claim, Option<StreamId>> = HashMap::new();
    let mut fallen: Vec<*const Lineage> = Vec::new();
    let mut losers = Vec::new();
    for append in std::mem::take(&mut part.0) {
        let lineage = Arc::as_ptr(&append.lineage);
        let taken = append.claims.take.iter().find(|claim| {
            !append.claims.release.contains(claim)
                && matches!(holders.get(*claim), Some(Some(holder)) if *holder != append.stream)
        });
        let fault = match (&append.verdict, taken) {
            _ if fallen.contains(&lineage) => Fault::Cut,
            (Verdict::Abort(what), _) => Fault::Aborted(what.clone()),
            (_, Some(claim)) => Fault::ClaimRefused(claim.clone()),
            _ => {
                append.claims.release.iter().for_each(|claim| drop(holders.insert(claim.clone(), None)));
                let taker = || Some(append.stream.clone());
                append.claims.take.iter().for_each(|claim| drop(holders.insert(claim.clone(), taker())));
                part.0.push(append);
                continue;
            }
        };
        fallen.push(lineage);
        losers.push((append, fault));
    }
    losers
}

/// Hands back whoever needs one of these claims; the store says that others hold them.
fn refuse_claims(part: &mut InFlight, taken: &[Claim]) {
    let before = part.0.len();
    part.hand_back_where(|append| {
        append.claims.take.iter().find(|claim| taken.contains(claim)).map(|claim| Fault::ClaimRefused(claim.clone()))
    });
    if part.0.len() == before {
        // Nobody is at fault, which the store cannot mean; decide all of them again rather than turn in a circle.
        part.hand_back_where(|_| Some(Fault::Cut));
    }
}

/// Folds the claim operations, in order, to one net operation a claim; second, those that net to nothing.
fn net_claims(appends: &[Append]) -> (ClaimChanges, Vec<Claim>) {
    #[derive(Default)]
    struct Net {
        before: Option<StreamId>,
        after: Option<StreamId>,
        touched: bool,
    }
    let mut order = Vec::new();
    let mut nets: HashMap<&Claim, Net> = HashMap::new();
    for append in appends {
        let releases = append.claims.release.iter().map(|claim| (claim, false));
        let takes = append.claims.take.iter().map(|claim| (claim, true));
        for (claim, take) in releases.chain(takes) {
            let net = nets.entry(claim).or_insert_with(|| {
                order.push(claim);
                Net::default()
            });
            if !net.touched && !take {
                net.before = Some(append.stream.clone());
            }
            net.touched = true;
            net.after = take.then(|| append.stream.clone());
        }
    }
    let (mut changes, mut must_be_free) = (ClaimChanges::default(), Vec::new());
    for claim in order {
        let net = nets.remove(claim).expect("every claim in the order was folded");
        match (net.before, net.after) {
            (None, Some(to)) => changes.take.push((claim.clone(), to)),
            (Some(from), None) => changes.release.push((claim.clone(), from)),
            (Some(from), Some(to)) if from != to => changes.transfer.push((claim.clone(), from, to)),
            (None, None) => must_be_free.push(claim.clone()),
            (Some(_), Some(_)) => {}
        }
    }
    (changes, must_be_free)
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
