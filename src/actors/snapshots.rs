//! This file saves snapshots beside the hot path: the newest of a stream counts, and one that is lost costs a longer
//! load and nothing else.

use tokio::sync::mpsc;
use tracing::warn;

use crate::causes::with_causes;
use crate::event::RecordedEvent;
use crate::store::{SharedStore, Snapshot};

/// An encoded state whose version is not known durable yet.
#[derive(Debug)]
pub(crate) struct PendingSnapshot {
    pub(crate) schema_version: u16,
    pub(crate) state: Vec<u8>,
}

/// Where durable snapshots go.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotSender(mpsc::Sender<Snapshot>);

/// Snapshots that wait to be saved; beyond that they are dropped, and the next one of the stream is taken later.
const MAX_WAITING: usize = 64;

impl SnapshotSender {
    /// Starts saving to `store`; ends when all senders are gone.
    pub(crate) fn start(store: SharedStore) -> Self {
        let (sender, mut waiting) = mpsc::channel::<Snapshot>(MAX_WAITING);
        tokio::spawn(async move {
            while let Some(snapshot) = waiting.recv().await {
                if let Err(error) = store.save_snapshot(&snapshot).await {
                    warn!(stream = %snapshot.stream, error = %with_causes(&error), "a snapshot was not saved");
                }
            }
        });
        Self(sender)
    }

    /// Saves the state behind `event`, which is durable.
    pub(crate) fn save(&self, pending: PendingSnapshot, event: &RecordedEvent) {
        let snapshot = Snapshot {
            stream: event.stream.clone(),
            version: event.version,
            position: event.position,
            chain_hash: event.hash,
            schema_version: pending.schema_version,
            state: pending.state,
        };
        // With the queue full the store is slow; a missing snapshot is the cheapest thing to go without.
        let _ = self.0.try_send(snapshot);
    }
}
