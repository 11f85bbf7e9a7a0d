//! This file reads the log further back than the feed goes: page by page, the next ones on their way while one is used.

use std::collections::VecDeque;

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
    /// In the order of the log.
    ahead: VecDeque<Ahead>,
}

/// A page that is on its way.
struct Ahead {
    after: GlobalPosition,
    reading: AbortOnDropHandle<Result<LogPage, StoreError>>,
}

/// Events in one page.
const PAGE_EVENTS: usize = 2_000;
/// Pages that are on their way at once: with one, the store rests while its answer is decoded.
const PAGES_AHEAD: usize = 2;

impl Pages {
    pub(crate) fn of(store: SharedStore) -> Self {
        Self { store, page: None, ahead: VecDeque::new() }
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
        if self.ahead.front().is_some_and(|ahead| ahead.after != after) {
            self.ahead.clear();
        }
        let page = match self.ahead.pop_front() {
            Some(ahead) => ahead.reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?,
            None => self.store.read_log(after, PAGE_EVENTS, &LogFilter::default()).await?,
        };
        let last = page.events.last().map_or(after, |last| last.position);
        self.read_ahead(last, page.head);
        let page: CommittedBatch = page.events.into();
        self.page = Some(page.clone());
        Ok(page)
    }

    /// Lets go of what is kept: the feed has what comes next.
    pub(crate) fn clear(&mut self) {
        self.page = None;
        self.ahead.clear();
    }

    /// Asks for the pages behind `last`, up to the head; positions are dense, so that it is known where each begins.
    fn read_ahead(&mut self, last: GlobalPosition, head: GlobalPosition) {
        while self.ahead.len() < PAGES_AHEAD {
            let after = GlobalPosition(last.0 + (self.ahead.len() * PAGE_EVENTS) as u64);
            if after >= head {
                break;
            }
            let store = self.store.clone();
            let reading = async move { store.read_log(after, PAGE_EVENTS, &LogFilter::default()).await };
            self.ahead.push_back(Ahead { after, reading: AbortOnDropHandle::new(tokio::spawn(reading)) });
        }
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
