//! This file loads the rows of a synchroniser and saves them with its position.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::ActorProcessingErr;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

use super::book::Book;
use super::row::SubjectRow;
use super::{Message, Working};
use crate::actors::pages::is_in_the_log;
use crate::causes::with_causes;
use crate::event::ChainHash;
use crate::projections::{Row, Values};
use crate::store::{Cause, Checkpoint, CheckpointSave, StoreError};
use crate::stream::GlobalPosition;
use crate::synchroniser::Synchroniser;

/// Where saving stands.
pub(super) struct Saves {
    /// What the checkpoint row says.
    saved_at: Option<GlobalPosition>,
    under_way: Option<Saving>,
    replace_all: bool,
    last: Instant,
    /// Those whose change is in the rows and not yet in a save.
    pub(super) waiting: Vec<oneshot::Sender<bool>>,
}

struct Saving {
    subjects: Vec<String>,
    position: GlobalPosition,
    previous: Option<GlobalPosition>,
    waiting: Vec<oneshot::Sender<bool>>,
}

impl Default for Saves {
    fn default() -> Self {
        Self { saved_at: None, under_way: None, replace_all: false, last: Instant::now(), waiting: Vec::new() }
    }
}

impl Saves {
    pub(super) fn is_saving(&self) -> bool {
        self.under_way.is_some()
    }
}

impl<S: Synchroniser> Working<S> {
    /// Loads the rows and their checkpoint; false when the store does not answer, and a later wake-up tries again.
    pub(super) async fn load(&mut self) -> Result<bool, ActorProcessingErr> {
        self.wait_for_former_calls().await;
        match self.load_rows().await {
            Ok(()) => {
                self.is_loaded = true;
                Ok(true)
            }
            Err(error) if error.is_transient() => {
                warn!(synchroniser = S::NAME, error = %with_causes(&error), "the subjects cannot be loaded yet");
                self.wake_later();
                Ok(false)
            }
            Err(error) => Err(Box::new(error)),
        }
    }

    /// Calls of an incarnation before this one end by their deadlines; two for one subject must not meet.
    async fn wait_for_former_calls(&self) {
        let places = u32::try_from(self.worker.pace.parallel).unwrap_or(u32::MAX);
        // The semaphore is never closed; an error could only mean that there is nobody to wait for.
        drop(self.worker.places.acquire_many(places).await);
        self.worker.breaker().probe_learnt_nothing();
    }

    async fn load_rows(&mut self) -> Result<(), StoreError> {
        let store = Arc::clone(&self.worker.store);
        store.prepare_table(&self.spec).await?;
        let mut rows = Vec::new();
        let mut unreadable = None;
        let checkpoint = store
            .load_table(&self.spec, &mut |values| {
                match SubjectRow::read(&mut Values::new(SubjectRow::COLUMNS, values)) {
                    Ok(row) => rows.push(row),
                    Err(error) => unreadable = Some(error),
                }
                Ok(())
            })
            .await?;
        self.saves.saved_at = checkpoint.as_ref().map(|checkpoint| checkpoint.position);
        self.worker.checkpoint.store(self.saves.saved_at.unwrap_or_default().0, Ordering::Release);
        let usable = match (checkpoint, unreadable) {
            (None, _) => None,
            (Some(_), Some(error)) => {
                warn!(synchroniser = S::NAME, %error, "a stored row cannot be read; starting from the first event");
                None
            }
            (Some(checkpoint), None) if is_in_the_log(&*self.worker.store, &checkpoint).await? => Some(checkpoint),
            (Some(_), None) => {
                warn!(synchroniser = S::NAME, "the checkpoint is not of this log; starting from the first event");
                None
            }
        };
        self.saves.replace_all = usable.is_none();
        (self.position, self.chain_hash) = usable.map_or((GlobalPosition::START, ChainHash::START), |checkpoint| {
            (checkpoint.position, checkpoint.chain_hash)
        });
        let rows = if self.saves.replace_all { Vec::new() } else { rows };
        info!(synchroniser = S::NAME, rows = rows.len(), position = self.position.0, "subjects loaded");
        *self.worker.book() = Book::of(rows, self.worker.clock.now());
        Ok(())
    }

    /// At its cap of unsaved rows this synchroniser waits for the store; nobody else does.
    pub(super) fn is_full(&self) -> bool {
        self.saves.is_saving() && self.worker.book().dirty() >= self.worker.limits.checkpoint_rows * 4
    }

    /// Whether something is not saved yet.
    pub(super) fn is_behind(&self) -> bool {
        let is_moved = self.saves.saved_at.unwrap_or_default() < self.position;
        is_moved || self.saves.replace_all && self.position > GlobalPosition::START || self.worker.book().dirty() > 0
    }

    pub(super) fn save_if_due(&mut self) {
        if self.saves.last.elapsed() >= self.worker.limits.checkpoint_every {
            self.save();
        }
    }

    /// Freezes what changed, between two events, and saves it aside. Rows that are built from the first event are not
    /// saved before they have caught up: those in SQL would step back.
    pub(super) fn save(&mut self) {
        let is_ready = self.is_loaded && (self.is_live() || !self.saves.replace_all);
        if !is_ready || self.saves.is_saving() || !self.is_behind() {
            return;
        }
        self.saves.last = Instant::now();
        let rows = self.worker.book().freeze();
        let checkpoint = Checkpoint {
            projection: S::NAME.into(),
            version: S::VERSION,
            position: self.position,
            chain_hash: self.chain_hash,
            epoch: self.worker.journal.epoch(),
            saved_at: self.worker.clock.now(),
        };
        let (spec, previous, replace_all) = (self.spec.clone(), self.saves.saved_at, self.saves.replace_all);
        self.saves.under_way = Some(Saving {
            subjects: rows.iter().map(|row| row.subject.clone()).collect(),
            position: self.position,
            previous,
            waiting: std::mem::take(&mut self.saves.waiting),
        });
        let (store, myself) = (Arc::clone(&self.worker.store), self.myself.clone());
        // A task of its own: nothing that stops this actor may drop a transaction half way.
        tokio::spawn(async move {
            let upserts = rows.iter().map(Row::write).collect();
            let save = CheckpointSave { table: &spec, previous, checkpoint, upserts, deletes: Vec::new(), replace_all };
            let result = store.save_checkpoint(save).await;
            let _ = myself.send_message(Message::Saved(result));
        });
    }

    pub(super) async fn saved(&mut self, result: Result<(), StoreError>) -> Result<(), ActorProcessingErr> {
        let Some(saving) = self.saves.under_way.take() else { return Ok(()) };
        let result = match result {
            Err(StoreError::Unknown { source }) => self.look_whether_saved(&saving, source).await,
            known => known,
        };
        match result {
            Ok(()) => {
                self.saves.saved_at = Some(saving.position);
                self.saves.replace_all = false;
                self.worker.checkpoint.store(saving.position.0, Ordering::Release);
                for reply in saving.waiting {
                    // Whoever asked may have gone away.
                    let _ = reply.send(true);
                }
                if !self.saves.waiting.is_empty() {
                    self.save();
                }
                Ok(())
            }
            // Someone else saved; what the row says now must be looked at again.
            Err(error @ StoreError::Conflict { .. }) => Err(Box::new(error)),
            Err(error) => {
                warn!(synchroniser = S::NAME, error = %with_causes(&error), "a checkpoint was not saved; it is tried again");
                self.worker.book().thaw(saving.subjects);
                self.saves.waiting.extend(saving.waiting);
                if let StoreError::Data { .. } | StoreError::Schema { .. } = error {
                    return Err(Box::new(error));
                }
                Ok(())
            }
        }
    }

    /// A save that did not move the position cannot be told from one that was lost: it is simply made again, for rows
    /// are whole and not differences.
    async fn look_whether_saved(&self, saving: &Saving, source: Option<Cause>) -> Result<(), StoreError> {
        let row = self.worker.store.checkpoint(S::NAME, S::VERSION).await?;
        let has_moved = saving.previous != Some(saving.position);
        if has_moved && row.is_some_and(|row| row.position == saving.position) {
            Ok(())
        } else {
            Err(StoreError::Unavailable { what: "saving a checkpoint", source })
        }
    }
}
