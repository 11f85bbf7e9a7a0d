//! This file is the group-committing writer: whatever came while the last batch was in flight is the next batch.
//!
//! ```text
//! Append ─(bounded channel)→ accept by lineage → fold claims → number, stamp, chain → store.append
//!    ↑                                                             ├ committed: feed, then every answer
//!    └──────── returned to its aggregate, to be decided again ─────┴ fell: bisect, resolve, or hand back
//! ```
//! It is the only one who calls `append`, and there is one batch in flight. Its supervising actor only watches it.

mod append;
mod claims;
mod release;
mod status;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub(crate) use self::append::{Append, ClaimDelta, Fault, Lineage, Verdict};
pub(crate) use self::status::JournalStatus;

use self::append::{InFlight, Orphans};
use self::claims::{held_among, net_claims, refuse_claims, set_losers_aside};
use self::release::Release;
use super::feed::Feed;
use super::snapshots::SnapshotSender;
use crate::aggregate::Claim;
use crate::causes::with_causes;
use crate::clock::SharedClock;
use crate::command::NotExecuted;
use crate::event::RecordedEvent;
use crate::store::{Batch, Head, LogWriter, SharedStore, StoreError, TakeOver};
use crate::stream::{GlobalPosition, Version};

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
    orphans: Orphans,
    stop: CancellationToken,
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
            release: Release::new(feed, snapshots),
            orphans: Orphans::default(),
            stop,
        }
    }

    /// Works until stopped or fenced. Called again after a crash, it first makes sure of what is in the log.
    pub(crate) async fn run(&mut self) {
        if self.doubtful {
            // An append that the last run sent may still be on its way; behind a reclaim it is in the log or never.
            self.fenced |= self.reclaim().await.is_err();
            self.orphans.hand_back(&self.store).await;
        }
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
            let mut group = InFlight::new(std::mem::take(&mut waiting), &self.orphans);
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
        if let Attempt::Fenced(_) = self.attempt(&InFlight::new(Vec::new(), &self.orphans)).await {
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
        let rest = group.split_off(count);
        let batch = std::mem::replace(group, rest);
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
                    losers.hand_back(|fault| fault);
                    continue;
                }
                Attempt::Fenced(fault) => {
                    part.hand_all_back(&fault);
                    self.fenced = true;
                }
                Attempt::Refused(StoreError::ClaimsTaken { claims }) => {
                    let released = refuse_claims(&mut part, &claims);
                    parts.push(part);
                    // Whoever lost one of these claims has lost it to a durable holder, unless that one lets it go.
                    losers.hand_back(|fault| match fault {
                        Fault::ClaimRefused(claim) if claims.contains(&claim) && !released.contains(&claim) => {
                            Fault::ClaimRefused(claim)
                        }
                        _ => Fault::Cut,
                    });
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
                    let second = part.split_off(part.0.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
            }
            // The winners did not commit, so nothing is decided about the losers either.
            losers.hand_back(|_| Fault::Cut);
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
                    warn!(error = %with_causes(&error), "claims could not be looked up");
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
                    warn!(error = %with_causes(&error), "an append was not answered; making sure of what is in the log");
                    self.status.set_unavailable(true);
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
        if self.status.set_unavailable(false) {
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
                        warn!(error = %with_causes(&error), "the log went backwards and cannot be given another id yet")
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
                        Err(error) => {
                            warn!(error = %with_causes(&error), "the store went back and cannot be taken over yet")
                        }
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
                Err(error) => warn!(error = %with_causes(&error), retry_in = ?wait, "the store does not answer"),
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
            warn!(error = %with_causes(&error), "could not compare the log with what was known");
            true
        }
    }
}
