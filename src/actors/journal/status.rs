//! This file is what others may know of the journal.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use uuid::Uuid;

use crate::store::{Epoch, Head};

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

    /// Returns what was so until now.
    pub(super) fn set_unavailable(&self, unavailable: bool) -> bool {
        self.unavailable.swap(unavailable, Ordering::AcqRel)
    }

    pub(super) fn resumed_at(&self, head: &Head) {
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
