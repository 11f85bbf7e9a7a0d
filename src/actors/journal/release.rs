//! This file answers a batch that committed, at the moment when that costs the store nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::super::feed::{CommittedBatch, Feed};
use super::super::snapshots::SnapshotSender;
use super::append::InFlight;
use crate::stream::GlobalPosition;

/// Answers a batch that committed. The store need not wait meanwhile: it is sent the next batch first.
pub(super) struct Release {
    feed: Arc<Feed>,
    snapshots: SnapshotSender,
    committed: Option<(InFlight, CommittedBatch)>,
}

impl Release {
    pub(super) fn new(feed: Arc<Feed>, snapshots: SnapshotSender) -> Self {
        Self { feed, snapshots, committed: None }
    }

    /// Answers this one at the next occasion, and whichever was to be answered before it at once.
    pub(super) fn soon(&mut self, part: InFlight, events: CommittedBatch) {
        // At once: an aggregate that gets something handed back now must know what before it is durable, for nobody
        // tells it later.
        part.0.iter().for_each(|append| append.lineage.committed.store(append.number, Ordering::Release));
        self.now();
        self.committed = Some((part, events));
    }

    /// Lets `sent` begin before it answers.
    pub(super) async fn while_waiting_for<T>(&mut self, mut sent: impl Future<Output = T> + Unpin) -> T {
        let begun = poll_fn(|context| Poll::Ready(Pin::new(&mut sent).poll(context))).await;
        if let Poll::Ready(result) = begun {
            return result;
        }
        self.now();
        sent.await
    }

    /// Publishes, then answers: whoever has an answer finds its events in the feed.
    pub(super) fn now(&mut self) {
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
