//! This file loads the instances of a process manager and saves them with its position.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::ActorProcessingErr;
use tokio::time::Instant;
use tracing::{info, warn};

use super::book::{Book, Key};
use super::row::InstanceRow;
use super::{Message, PAUSE, Running};
use crate::actors::pages::is_in_the_log;
use crate::causes::with_causes;
use crate::event::ChainHash;
use crate::process_manager::ProcessManager;
use crate::projections::{Row, RowKey, TableSpec, Values};
use crate::store::{Cause, Checkpoint, CheckpointSave, StoreError};
use crate::stream::GlobalPosition;

/// Where saving stands.
pub(super) struct Saves {
    /// What the checkpoint row says.
    saved_at: Option<GlobalPosition>,
    under_way: Option<Saving>,
    replace_all: bool,
    last: Instant,
    /// After a failed save the store is left in peace until then.
    not_before: Instant,
}

struct Saving {
    keys: Vec<Key>,
    commands_to: u64,
    position: GlobalPosition,
    previous: Option<GlobalPosition>,
}

impl Default for Saves {
    fn default() -> Self {
        let now = Instant::now();
        Self { saved_at: None, under_way: None, replace_all: false, last: now, not_before: now }
    }
}

impl Saves {
    pub(super) fn is_saving(&self) -> bool {
        self.under_way.is_some()
    }
}

fn table<M: ProcessManager>() -> TableSpec {
    TableSpec { projection: M::NAME.into(), view: M::NAME.into(), version: M::VERSION, columns: InstanceRow::COLUMNS }
}

impl<M: ProcessManager> Running<M> {
    /// Loads the instances and their checkpoint; false when the store does not answer, and a later wake-up tries again.
    pub(super) async fn load(&mut self) -> Result<bool, ActorProcessingErr> {
        // A save that a former life began ends first; what it saves must be seen here.
        drop(self.runner.saving.lock().await);
        match self.load_rows().await {
            Ok(book) => {
                self.book = Some(book);
                Ok(true)
            }
            Err(error) if error.is_transient() => {
                warn!(process_manager = M::NAME, error = %with_causes(&error), "the instances cannot be loaded yet");
                self.wake_later();
                Ok(false)
            }
            Err(error) => Err(Box::new(error)),
        }
    }

    async fn load_rows(&mut self) -> Result<Book<M::State>, StoreError> {
        let (store, table) = (Arc::clone(&self.runner.on.store), table::<M>());
        store.prepare_table(&table).await?;
        let mut rows = Vec::new();
        let mut unreadable = None;
        let checkpoint = store
            .load_table(&table, &mut |values| {
                match InstanceRow::read(&mut Values::new(InstanceRow::COLUMNS, values)) {
                    Ok(row) => rows.push(row),
                    Err(error) => unreadable = Some(error.to_string()),
                }
                Ok(())
            })
            .await?;
        self.saves.saved_at = checkpoint.as_ref().map(|checkpoint| checkpoint.position);
        self.runner.checkpoint.store(self.saves.saved_at.unwrap_or_default().0, Ordering::Release);
        let Some(checkpoint) = checkpoint else { return Ok(self.start_at_the_first_event()) };
        if !is_in_the_log(&*store, &checkpoint).await? {
            warn!(process_manager = M::NAME, "the checkpoint is not of this log; starting from the first event");
            return Ok(self.start_at_the_first_event());
        }
        // Sorted, so that equal rows are worked in equal order.
        rows.sort_by(|a: &InstanceRow, b| a.key.cmp(&b.key));
        let book = match unreadable {
            Some(error) => Err(error),
            None => Book::of(M::NAME, rows).map_err(|error| error.to_string()),
        };
        match book {
            Ok(book) => {
                (self.position, self.chain_hash) = (checkpoint.position, checkpoint.chain_hash);
                info!(
                    process_manager = M::NAME,
                    instances = book.len(),
                    position = self.position.0,
                    "instances loaded"
                );
                Ok(book)
            }
            Err(error) => {
                warn!(process_manager = M::NAME, error, "an instance cannot be read; starting from the first event");
                Ok(self.start_at_the_first_event())
            }
        }
    }

    /// What was sent before has its outcome under the same ids.
    fn start_at_the_first_event(&mut self) -> Book<M::State> {
        self.saves.replace_all = true;
        (self.position, self.chain_hash) = (GlobalPosition::START, ChainHash::START);
        Book::empty(M::NAME)
    }

    /// Saves at once when a command waits for it, or somebody for the end; else now and then.
    pub(super) fn save_if_wanted(&mut self) {
        let is_tick = std::mem::take(&mut self.is_tick);
        let limits = &self.runner.on.limits;
        let is_time = is_tick && self.saves.last.elapsed() >= limits.checkpoint_every;
        let max_rows = limits.checkpoint_rows;
        let is_ending = !self.finishing.is_empty();
        let has_moved = self.saves.saved_at.unwrap_or_default() < self.position;
        let book = self.book();
        let wants = book.has_unsaved_commands() || book.dirty() >= max_rows;
        let has_changed = book.dirty() > 0 || has_moved;
        if wants || has_changed && (is_time || is_ending) {
            self.save();
        }
    }

    /// Freezes what changed, between two events, and saves it aside.
    fn save(&mut self) {
        if self.saves.is_saving() || Instant::now() < self.saves.not_before {
            return;
        }
        let Ok(under_way) = Arc::clone(&self.runner.saving).try_lock_owned() else { return };
        self.saves.last = Instant::now();
        let frozen = self.book().freeze();
        let checkpoint = Checkpoint {
            projection: M::NAME.into(),
            version: M::VERSION,
            position: self.position,
            chain_hash: self.chain_hash,
            epoch: self.runner.on.journal.epoch(),
            saved_at: self.runner.on.clock.now(),
        };
        let (previous, replace_all) = (self.saves.saved_at, self.saves.replace_all);
        let changed = frozen.upserts.iter().map(|row| Key::from(&*row.key));
        self.saves.under_way = Some(Saving {
            keys: changed.chain(frozen.deletes.iter().cloned()).collect(),
            commands_to: frozen.commands_to,
            position: self.position,
            previous,
        });
        let (store, myself) = (Arc::clone(&self.runner.on.store), self.myself.clone());
        // A task of its own: nothing that stops this actor may drop a transaction half way.
        tokio::spawn(async move {
            let upserts = frozen.upserts.iter().map(Row::write).collect();
            let deletes = frozen.deletes.iter().map(|key| key.to_string().to_value()).collect();
            let table = table::<M>();
            let save = CheckpointSave { table: &table, previous, checkpoint, upserts, deletes, replace_all };
            let result = store.save_checkpoint(save).await;
            drop(under_way);
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
                self.runner.checkpoint.store(saving.position.0, Ordering::Release);
                self.book().saved(saving.commands_to);
                Ok(())
            }
            // Values that no store takes, or another hand on the row: what is there must be looked at again.
            Err(error @ (StoreError::Conflict { .. } | StoreError::Data { .. } | StoreError::Schema { .. })) => {
                Err(Box::new(error))
            }
            Err(error) => {
                warn!(process_manager = M::NAME, error = %with_causes(&error), "a save failed; it is tried again");
                self.book().thaw(saving.keys);
                self.saves.not_before = Instant::now() + PAUSE;
                self.myself.send_after(PAUSE, || Message::Tick);
                Ok(())
            }
        }
    }

    /// A save that did not move the position cannot be told from one that was lost: it is simply made again, for rows
    /// are whole and not differences.
    async fn look_whether_saved(&self, saving: &Saving, source: Option<Cause>) -> Result<(), StoreError> {
        let row = self.runner.on.store.checkpoint(M::NAME, M::VERSION).await?;
        let has_moved = saving.previous != Some(saving.position);
        if has_moved && row.is_some_and(|row| row.position == saving.position) {
            Ok(())
        } else {
            Err(StoreError::Unavailable { what: "saving the instances", source })
        }
    }
}
