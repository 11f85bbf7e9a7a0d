//! This file reads the log further back than the feed goes: page by page, the next one on its way while one is used.

use tokio_util::task::AbortOnDropHandle;

use super::feed::CommittedBatch;
use crate::event::RecordedEvent;
use crate::store::{Checkpoint, EventStore, LogFilter, LogPage, SharedStore, StoreError};
use crate::stream::GlobalPosition;

/// Pages of the log for one follower.
pub(crate) struct Pages {
    store: SharedStore,
    /// The page in use, kept until it is used up: a follower takes it in slices.
    page: Option<CommittedBatch>,
    ahead: Option<Ahead>,
}

/// A page that is on its way.
struct Ahead {
    after: GlobalPosition,
    reading: AbortOnDropHandle<Result<LogPage, StoreError>>,
}

/// Events in one page.
const PAGE_EVENTS: usize = 2_000;

impl Pages {
    pub(crate) fn of(store: SharedStore) -> Self {
        Self { store, page: None, ahead: None }
    }

    /// A page that holds the event behind `after`, and perhaps some before it; empty at the end of the log.
    ///
    /// # Errors
    /// Those of [`EventStore::read_log`]; the next call asks again.
    pub(crate) async fn after(&mut self, after: GlobalPosition) -> Result<CommittedBatch, StoreError> {
        if let Some(page) = self.page.as_ref().filter(|page| holds(page, after.next())) {
            return Ok(page.clone());
        }
        self.page = None;
        let page = match self.ahead.take().filter(|ahead| ahead.after == after) {
            Some(ahead) => ahead.reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?,
            None => self.store.read_log(after, PAGE_EVENTS, &LogFilter::default()).await?,
        };
        if let Some(last) = page.events.last().filter(|last| last.position < page.head) {
            self.read_ahead(last.position);
        }
        let page: CommittedBatch = page.events.into();
        self.page = Some(page.clone());
        Ok(page)
    }

    /// Lets go of what is kept: the feed has what comes next.
    pub(crate) fn clear(&mut self) {
        (self.page, self.ahead) = (None, None);
    }

    fn read_ahead(&mut self, after: GlobalPosition) {
        let store = self.store.clone();
        let reading = async move { store.read_log(after, PAGE_EVENTS, &LogFilter::default()).await };
        self.ahead = Some(Ahead { after, reading: AbortOnDropHandle::new(tokio::spawn(reading)) });
    }
}

fn holds(page: &[RecordedEvent], position: GlobalPosition) -> bool {
    let (first, last) = (page.first(), page.last());
    first.is_some_and(|first| first.position <= position) && last.is_some_and(|last| position <= last.position)
}

/// Whether the log holds the very event that the checkpoint was saved at.
///
/// # Errors
/// Those of [`EventStore::read_log`].
pub(crate) async fn is_in_the_log(store: &dyn EventStore, checkpoint: &Checkpoint) -> Result<bool, StoreError> {
    if checkpoint.position == GlobalPosition::START {
        return Ok(true);
    }
    let before = GlobalPosition(checkpoint.position.0 - 1);
    let page = store.read_log(before, 1, &LogFilter::default()).await?;
    Ok(page.events.first().is_some_and(|event| event.hash == checkpoint.chain_hash))
}
