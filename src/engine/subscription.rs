//! This file follows the log for one reader: the feed while it lasts, pages of the store where it does not.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::actors::feed::{Feed, Recent};
use crate::event::RecordedEvent;
use crate::store::{LogFilter, SharedStore, StoreError};
use crate::stream::GlobalPosition;

/// Follows the log for one reader.
pub(super) struct Subscription {
    feed: Arc<Feed>,
    store: SharedStore,
    reached: GlobalPosition,
    ready: VecDeque<Arc<RecordedEvent>>,
    failed: bool,
}

impl Subscription {
    pub(super) fn new(feed: Arc<Feed>, store: SharedStore, after: GlobalPosition) -> Self {
        Self { feed, store, reached: after, ready: VecDeque::new(), failed: false }
    }

    pub(super) async fn next(&mut self) -> Option<Result<Arc<RecordedEvent>, StoreError>> {
        while !self.failed {
            if let Some(event) = self.ready.pop_front() {
                self.reached = event.position;
                return Some(Ok(event));
            }
            if let Err(error) = self.pull().await {
                self.failed = true;
                return Some(Err(error));
            }
        }
        None
    }

    async fn pull(&mut self) -> Result<(), StoreError> {
        const PAGE: usize = 500;
        let mut head = self.feed.watch();
        head.mark_unchanged();
        match self.feed.after(self.reached) {
            Recent::Batches(batches) => {
                let reached = self.reached;
                let events = batches.iter().flat_map(|batch| batch.iter()).filter(|event| event.position > reached);
                self.ready.extend(events.take(PAGE).map(|event| Arc::new(event.clone())));
            }
            Recent::TooOld => {
                let page = self.store.read_log(self.reached, PAGE, &LogFilter::default()).await?;
                self.ready.extend(page.events.into_iter().map(Arc::new));
            }
            Recent::UpToDate if head.changed().await.is_err() => self.failed = true,
            Recent::UpToDate => {}
        }
        Ok(())
    }
}
